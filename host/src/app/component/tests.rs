//! What becomes of a message whose handler does harm, and what a file must be.

use std::time::Instant;

use super::load::prepare;
use super::*;
use crate::quiet;
use crate::sandbox::Processor;

#[path = "../../../../tests/support/guest.rs"]
mod guest;

/// Nothing here takes so long.
const NEVER: Duration = Duration::from_secs(600);

fn app(component: &[u8]) -> ComponentApp {
    let processor = Processor::new(2);
    let reads = |id: &str| Reads { messages: true, dead_letters: false, id: id.to_owned(), share: processor.tenant() };
    ComponentApp {
        name: "app.wasm".into(),
        handler: prepare(component).unwrap(),
        bindings: RwLock::new(
            [("team".to_owned(), reads("id-of-team")), ("other".to_owned(), reads("id-of-other"))].into(),
        ),
        limits: Limits { memory: 8 << 20, fuel: 50_000_000 },
        timeout: NEVER,
        egress: Egress::to_hosts("--handler", &[], &Proxies::none(), &Policy::default()).unwrap(),
        slots: Slots::new(AT_ONCE),
        quiet: Quiet::default(),
    }
}

fn event(data: &str) -> Event {
    let metadata = vec![("text".to_owned(), "ping".to_owned())];
    Event { binding: "team".into(), data: data.to_owned().into(), metadata, trace: Vec::new() }
}

/// What the application does with a message of these bytes.
async fn answer(component: &[u8], data: &str) -> Result<Answer, Undelivered> {
    app(component).deliver(&event(data)).await
}

fn body(body: &str) -> Vec<u8> {
    guest::component(&[], "", body)
}

/// The reason for which a handler was stopped.
async fn stopped(component: &[u8]) -> String {
    let app = app(component);
    let mut last = String::new();
    // Whatever one message did, the next one finds the same.
    for _ in 0..2 {
        let error = app.deliver(&event("x")).await.unwrap_err();
        assert!(matches!(error, Undelivered::Unreachable(_)) && !error.is_final(), "{error:?}");
        last = error.to_string();
    }
    let (start, reason) = last.split_at_checked("error invoking app: --handler app.wasm: it ".len()).unwrap();
    assert_eq!(start, "error invoking app: --handler app.wasm: it ");
    reason.to_owned()
}

#[tokio::test]
async fn a_message_is_handled_and_answered() {
    let long = "x".repeat(200_000);
    for data in ["ping", "{\"text\": \"你\"}", &long] {
        assert_eq!(answer(&body(guest::ECHO), data).await, Ok(Some(Bytes::from(data.to_owned()))));
    }
    assert_eq!(answer(&body(guest::ECHO), "").await, Ok(None), "as of an application whose body is empty");
    assert_eq!(answer(&body(guest::NOTHING), "ping").await, Ok(None));
}

#[tokio::test]
async fn the_handler_knows_whose_message_it_is_and_what_the_binding_says_of_it() {
    let app = app(&body("(call $some (local.get 0) (local.get 1))"));
    assert_eq!(app.deliver(&event("x")).await, Ok(Some(Bytes::from("id-of-team"))));
    let other = Event { binding: "other".into(), ..event("x") };
    assert_eq!(app.deliver(&other).await, Ok(Some(Bytes::from("id-of-other"))));
    // How many items, and the name of the last.
    let items = "(call $some (i32.load (i32.add (local.get 4) (i32.const 16))) (i32.load (i32.add (local.get 4) (i32.const 20))))";
    let trace = vec![("traceparent".to_owned(), "00-1-2-01".to_owned())];
    let traced = Event { trace, ..event("x") };
    assert_eq!(self::app(&body(items)).deliver(&traced).await, Ok(Some(Bytes::from("traceparent"))));
}

#[tokio::test]
async fn a_failure_that_is_returned_arrives_with_its_reason_and_without_the_session() {
    let session = r#"{"sessionWebhook":"https://oapi.dingtalk.com/robot/sendBySession?session=S3SS10N"}"#;
    let failed = answer(&body(guest::FAIL), session).await.unwrap_err();
    let text = failed.to_string();
    assert!(matches!(failed, Undelivered::Failed(_)) && !failed.is_final(), "{failed:?}");
    assert!(text.starts_with("the application has not taken the message: {") && !text.contains("S3SS10N"), "{text}");
    let not_reading = answer(&body(guest::NOT_READING), "x").await.unwrap_err();
    assert!(matches!(&not_reading, Undelivered::NotSubscribed { binding, .. } if binding == "team"), "{not_reading:?}");
    assert_eq!(answer(&body(guest::REUSED), "x").await, Err(Undelivered::Reused));
    let unknown = Event { binding: "else".into(), ..event("x") };
    let unknown = app(&body(guest::ECHO)).deliver(&unknown).await.unwrap_err();
    assert!(matches!(unknown, Undelivered::NotSubscribed { .. }), "{unknown:?}");
}

#[tokio::test]
async fn every_limit_has_its_own_reason_and_says_what_to_do() {
    assert_eq!(
        stopped(&body(guest::TRAP)).await,
        "broke off (a panic, an exception that nobody caught, or no memory); let it return a failure"
    );
    let reason = stopped(&body(guest::LOOP)).await;
    assert_eq!(reason, "used more than 50000000 instructions, or does not end; let it compute less");
    let reason = stopped(&body(guest::GRAB)).await;
    assert_eq!(reason, "wanted more than 8 MiB of memory; let it need less, or raise --handler-memory");
    for (memory, shown) in [(192 << 10, "192 KiB"), (1_536 << 10, "1536 KiB"), (200_001, "200001 bytes")] {
        let small = ComponentApp { limits: Limits { memory, fuel: 50_000_000 }, ..app(&body(guest::GRAB)) };
        let error = small.deliver(&event("x")).await.unwrap_err().to_string();
        assert!(error.contains(&format!("more than {shown} of memory")), "{error}");
    }
    assert!(stopped(&body(guest::RECURSE)).await.contains("more stack"));
    assert_eq!(stopped(&guest::exiting()).await, "ended itself with status 1; let it return a failure");
}

#[tokio::test]
async fn all_memories_of_a_component_count_together() {
    // Of 8 MiB, each of 90 memories takes one at its start.
    let memories = "(memory 16)".repeat(90);
    let many = guest::component(&[], &memories, guest::ECHO);
    assert!(stopped(&many).await.contains("more than 8 MiB"), "90 memories");
    let table = guest::component(&[], "(table 2000000 funcref)", guest::ECHO);
    assert!(stopped(&table).await.contains("more than 8 MiB"), "a table of 2,000,000 entries");
}

#[tokio::test]
async fn an_answer_may_be_so_long_and_no_longer() {
    let length =
        async |bytes: u32| answer(&body(&guest::answer_of(bytes)), "x").await.map(|answer| answer.unwrap().len());
    assert_eq!(length(1 << 20).await, Ok(1 << 20));
    let error = length((1 << 20) + 1).await.unwrap_err().to_string();
    assert!(error.ends_with("its answer is longer than 1 MiB; let it answer with less"), "{error}");
    // What it has, and what it only says that it has.
    for bytes in ["4000000", "1073741824", "4294967295"] {
        let error = stopped(&body(&format!("(call $some (i32.const 0) (i32.const {bytes}))"))).await;
        assert!(error.contains("an answer may have 1 MiB") || error.contains("broke off"), "{bytes}: {error}");
    }
    let error = stopped(&body(&guest::answer_of(4_000_000))).await;
    assert!(error.contains("an answer may have 1 MiB"), "{error}");
}

#[tokio::test]
async fn one_that_waits_ends_with_its_time() {
    let app = ComponentApp { timeout: Duration::from_millis(50), ..app(&guest::sleeping()) };
    let error = app.deliver(&event("x")).await.unwrap_err().to_string();
    assert!(
        error.ends_with("it has not answered within 50ms; let it answer sooner, or raise --app-timeout"),
        "{error}"
    );
}

#[tokio::test]
async fn one_that_computes_lets_others_run() {
    let app = ComponentApp { limits: Limits { memory: 8 << 20, fuel: u64::MAX }, ..app(&body(guest::LOOP)) };
    // One thread: without turns, the time would never be looked at.
    let app = ComponentApp { timeout: Duration::from_millis(50), ..app };
    let error = app.deliver(&event("x")).await.unwrap_err().to_string();
    assert!(error.contains("within 50ms"), "{error}");
}

#[tokio::test]
async fn what_is_written_is_logged_to_its_limit_and_costs_nobody_an_answer() {
    let (log, _guard) = quiet::log();
    let app = ComponentApp { limits: Limits { memory: 8 << 20, fuel: u64::MAX }, ..app(&guest::printing(64 << 10)) };
    assert_eq!(app.deliver(&event("x")).await, Ok(None));
    // Lines of 1 KiB, of which each counts 128 bytes more.
    assert_eq!(log.count("written by the handler"), 7);
    assert_eq!(log.count("the handler wrote more than is logged of one message"), 1);
    assert!(log.text().len() < 20 << 10);
}

#[tokio::test]
async fn nothing_of_the_machine_is_there() {
    assert_eq!(answer(&guest::looking_around(), "x").await, Ok(Some(Bytes::from("0000"))));
}

#[tokio::test]
async fn requests_to_hosts_that_nobody_allowed_are_denied() {
    // 15: HTTP-request-denied.
    for host in ["127.0.0.1:1", "oapi.dingtalk.com", "169.254.169.254"] {
        assert_eq!(answer(&guest::calling(1), &format!("\"{host}\"")).await, Ok(Some(Bytes::from("915"))), "{host}");
    }
}

#[tokio::test]
async fn one_message_may_send_so_many_requests() {
    let origin = dingtalk_binding::session::parse_hosts("http://127.0.0.1:1").unwrap();
    let egress = || Egress::to_hosts("--handler", &origin, &Proxies::none(), &Policy::default()).unwrap();
    let last = async |times| {
        let app = ComponentApp { egress: egress(), ..app(&guest::calling(times)) };
        app.deliver(&event("\"127.0.0.1:1\"")).await
    };
    // 6: connection-refused.
    assert_eq!(last(16).await, Ok(Some(Bytes::from("906"))));
    assert_eq!(last(17).await, Ok(Some(Bytes::from("915"))));
}

#[tokio::test]
async fn a_binding_that_hangs_leaves_slots_to_another() {
    let app = Arc::new(app(&guest::sleeping()));
    let mut hanging: Vec<_> = (0..AT_ONCE.each)
        .map(|_| {
            let app = Arc::clone(&app);
            tokio::spawn(async move { app.deliver(&event("x")).await })
        })
        .collect();
    let share = app.bindings.read().unwrap()["team"].share.id();
    let start = Instant::now();
    while app.slots.try_take(share).is_ok() {
        assert!(start.elapsed() < NEVER);
        tokio::task::yield_now().await;
    }
    let impatient = app.slots.take(share, Duration::ZERO).await.err().unwrap();
    let error = app.overloaded(impatient).to_string();
    assert!(error.contains("16 calls of this binding are running"), "{error}");
    assert!(app.slots.try_take(app.bindings.read().unwrap()["other"].share.id()).is_ok());
    for task in hanging.drain(..) {
        task.abort();
        assert!(task.await.is_err());
    }
    assert!(app.slots.try_take(share).is_ok(), "who goes gives the slot back");
}

#[tokio::test]
async fn handlers_that_are_stopped_are_one_line_in_the_log() {
    let (log, _guard) = quiet::log();
    let app = app(&body(guest::TRAP));
    for _ in 0..20 {
        app.deliver(&event("x")).await.unwrap_err();
    }
    assert_eq!(log.count("the handler was stopped"), 1);
}

#[test]
fn a_file_that_is_no_application_is_told_apart_from_one_of_another_world() {
    let error = |bytes: &[u8]| prepare(bytes).err().map(|reason| reason.to_string()).unwrap_or_default();
    for bytes in [&b""[..], b"\0as", b"hello, world", b"(component)"] {
        assert_eq!(error(bytes), "is no WebAssembly; name a component of world dingtalk:binding/handler-app");
    }
    assert!(error(b"\0asm\x01\0\0\0").starts_with("is a core module and no component"));
    assert!(error(b"\0asm\x0d\0\x01").starts_with("cannot be compiled: "), "cut off");
    assert!(error(b"\0asm\x0d\0\x01\0garbage").starts_with("cannot be compiled: "));
    let nothing = error(b"\0asm\x0d\0\x01\0");
    assert!(nothing.starts_with("does not export dingtalk:binding/handler@0.2.0, but nothing; build it"), "{nothing}");
    let binding = error(dingtalk_component::COMPONENT);
    assert!(
        binding.contains(" but dingtalk:binding/") && binding.contains("dingtalk:binding/invoke@0.2.0, "),
        "{binding}"
    );
    // It exports what it must, and wants what is not there.
    let greedy = guest::encode(
        "import dingtalk:binding/init@0.2.0; export dingtalk:binding/handler@0.2.0;",
        r#"(module
          (import "dingtalk:binding/init@0.2.0" "init" (func (param i32 i32 i32)))
          (memory (export "memory") 1)
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
          (func (export "dingtalk:binding/handler@0.2.0#handle") (param i32 i32 i32 i32 i32 i32) (result i32) unreachable))"#,
    );
    let greedy = error(&greedy);
    assert!(greedy.starts_with("does not fit: ") && greedy.contains("dingtalk:binding/init@0.2.0"), "{greedy}");
    assert!(error(&body(guest::ECHO)).is_empty());
}

#[test]
fn of_a_file_no_more_is_read_than_an_application_can_have() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.wasm");
    // Without a byte on the disk.
    std::fs::File::create(&path).unwrap().set_len((256 << 20) + 1).unwrap();
    let refused = load::compile(&path).err().unwrap().to_string();
    assert!(refused.starts_with("is larger than 256 MiB; ") && refused.contains("handler-app"), "{refused}");
}

#[tokio::test]
async fn a_function_of_another_type_is_found_at_the_start() {
    // The interface's name, and another function of that name.
    let other = wat::parse_str(
        r#"(component
          (core module $m (func (export "handle") (result i32) (i32.const 0)))
          (core instance $i (instantiate $m))
          (func $f (result u32) (canon lift (core func $i "handle")))
          (instance $handler (export "handle" (func $f)))
          (export "dingtalk:binding/handler@0.2.0" (instance $handler)))"#,
    );
    let other = other.unwrap();
    let app = ComponentApp { handler: prepare(&other).unwrap(), ..app(&body(guest::ECHO)) };
    let reason = app.start_once(&Processor::new(1).tenant()).await.unwrap_err();
    assert!(
        reason.starts_with("its functions are not those of wit/handler.wit") && reason.contains("type"),
        "{reason}"
    );
}

#[tokio::test]
async fn one_that_breaks_off_while_it_starts_is_found_then() {
    let component = guest::component(&[], "(func $start unreachable) (start $start)", guest::ECHO);
    let app = app(&component);
    let reason = app.start_once(&Processor::new(1).tenant()).await.unwrap_err();
    assert!(reason.starts_with("it broke off"), "{reason}");
}
