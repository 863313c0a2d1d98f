//! A trap, a loop, a greedy or a waiting component ends one call and nothing else, and a component that wants
//! more than the world allows does not even load.

use std::path::Path;
use std::time::Duration;

use dingtalk_binding::error::Outcome;
use dingtalk_binding::settings::Settings;
use dingtalk_component::COMPONENT;
use dingtalk_host::clock;
use dingtalk_host::egress::{Egress, Proxies};
use dingtalk_host::sandbox::{CallError, Callback, Instances, Limits, Overload, Request, Sandbox, Tenant};
use dingtalk_host::simulator::fault::{Fault, Times};
use serde_json::json;
use tokio::runtime::Runtime;
use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{LiftLowerAbi, ManglingAndAbi, Resolve};

use crate::support::app::{Act, App};
use crate::support::held::Held;
use crate::support::{Host, Resources, Robot, SECRET, component, forget_peak, peak};

/// A component that exports what our world does, imports `imports` and does `body` in every function, the
/// allocation function included.
fn hostile(imports: &str, body: &str) -> Vec<u8> {
    exporting(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit"), imports, body)
}

/// The same, whose contract is in this folder.
fn exporting(wit: &Path, imports: &str, body: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    for package in [wit.to_owned(), wit.join("component")] {
        resolve.push_dir(package).unwrap();
    }
    let text = format!(
        "package test:hostile@0.1.0; world hostile {{ {imports} export dingtalk:binding/call@0.2.0; export \
         dingtalk:binding/init@0.2.0; export dingtalk:binding/invoke@0.2.0; export dingtalk:binding/read@0.2.0; }}"
    );
    let package = resolve.push_str("hostile.wit", &text).unwrap();
    let world = resolve.select_world(&[package], Some("hostile")).unwrap();
    let dummy = dummy_module(&resolve, world, ManglingAndAbi::Legacy(LiftLowerAbi::Sync));
    let text = wasmprinter::print_bytes(dummy).unwrap();
    assert!(text.contains("unreachable"), "the dummy does something else:\n{text}");
    let text = text.replace("unreachable", body);
    let (rest, _) = text.trim_end().rsplit_once(')').unwrap();
    let mut module = wat::parse_str(format!("{rest} (func $deeper (call $deeper)))")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).unwrap();
    ComponentEncoder::default().validate(true).module(&module).unwrap().encode().unwrap()
}

const TRAP: &str = "unreachable";
const LOOP: &str = "(loop $again (br $again)) unreachable";
const GRAB: &str = "(loop $more (drop (memory.grow (i32.const 1))) (br $more)) unreachable";
const RECURSE: &str = "(call $deeper) unreachable";

fn properties(url: &str) -> Vec<(String, String)> {
    [("id", "x"), ("url", url), ("secret", SECRET)].map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

fn tenant(sandbox: &Sandbox, url: &str, timeout: Duration) -> Tenant {
    let properties = properties(url);
    let settings = Settings::parse(properties.iter().map(|(name, value)| (name.as_str(), value.as_str()))).unwrap();
    let egress = Egress::new("x", &settings, &Proxies::none()).unwrap();
    sandbox.tenant(properties, egress, timeout)
}

fn create() -> Request {
    Request { operation: "create".into(), data: br#"{"message":"Hi"}"#.to_vec(), metadata: Vec::new() }
}

fn runtime() -> Runtime {
    // One thread: a call that does not let others run would be seen.
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// What a hostile component ends with, and what the same host says to the next one.
fn stopped(body: &str, limits: Limits) -> String {
    let [fresh, rewound] = Instances::ALL.map(|lifetime| stopped_in(body, Limits { lifetime, ..limits.clone() }));
    assert_eq!(fresh, rewound);
    fresh
}

fn stopped_in(body: &str, limits: Limits) -> String {
    let sandbox = Sandbox::new(&hostile("", body), limits, clock::system()).unwrap();
    let tenant = tenant(&sandbox, "http://127.0.0.1:1/", Duration::from_millis(200));
    runtime().block_on(async {
        let mut last = String::new();
        // Twice as often as there are slots: an ended call must give its slot and its memory back.
        for _ in 0..4 {
            match sandbox.invoke(&tenant, create(), None).await {
                // It never asked to send.
                Err(CallError::Stopped { reason, outcome: Outcome::NotSent }) => last = reason,
                other => panic!("{other:?}"),
            }
        }
        last
    })
}

fn two() -> Limits {
    Limits { instances: 2, grace: Duration::ZERO, ..Limits::default() }
}

#[test]
fn a_trap_ends_the_call() {
    assert!(stopped(TRAP, two()).contains("aborted"));
}

/// Also an export that no call of this host needs.
#[test]
fn a_component_with_another_contract_is_refused_by_its_first_call() {
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
    let other = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(&wit).unwrap().map(Result::unwrap) {
        if file.path().extension().is_some_and(|extension| extension == "wit") {
            std::fs::copy(file.path(), other.path().join(file.file_name())).unwrap();
        }
    }
    std::os::unix::fs::symlink(wit.join("component"), other.path().join("component")).unwrap();
    let read = std::fs::read_to_string(wit.join("read.wit")).unwrap();
    std::fs::write(other.path().join("read.wit"), read.replace("close: func()", "close: func(now: bool)")).unwrap();
    let sandbox = Sandbox::new(&exporting(other.path(), "", TRAP), two(), clock::system()).unwrap();
    let tenant = tenant(&sandbox, "http://127.0.0.1:1/", Duration::from_secs(60));
    match runtime().block_on(sandbox.operations(&tenant)) {
        // It never came to its trap.
        Err(CallError::Stopped { reason, .. }) => {
            assert!(reason.starts_with("the host ended it: ") && reason.contains("tuple"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_callback_whose_component_traps_has_no_answer_that_could_acknowledge_it() {
    for lifetime in Instances::ALL {
        let sandbox = Sandbox::new(&hostile("", TRAP), Limits { lifetime, ..two() }, clock::system()).unwrap();
        let tenant = tenant(&sandbox, "http://127.0.0.1:1/", Duration::from_millis(200));
        let callback = || Callback { headers: Vec::new(), body: Vec::new(), arrived: sandbox.arrival() };
        let receive = || sandbox.receive(&tenant, callback(), None, Duration::from_millis(200));
        for _ in 0..4 {
            let stopped = runtime().block_on(receive());
            assert!(matches!(stopped, Err(CallError::Stopped { outcome: Outcome::NotSent, .. })), "{stopped:?}");
        }
    }
}

#[test]
fn a_loop_ends_at_the_limit_of_instructions() {
    let limits = Limits { fuel: 10_000_000, grace: Duration::from_secs(30), ..two() };
    assert!(stopped(LOOP, limits).contains("more instructions"));
}

#[test]
fn a_loop_within_that_limit_ends_with_the_time_and_lets_others_run() {
    let limits = Limits { fuel: u64::MAX, ..two() };
    assert!(stopped(LOOP, limits).contains("did not end within 200 ms"));
}

#[test]
fn greed_for_memory_ends_at_the_limit_of_memory() {
    let limits = Limits { grace: Duration::from_secs(30), ..two() };
    assert!(stopped(GRAB, limits).contains("memory"));
}

#[test]
fn endless_recursion_ends_at_the_limit_of_the_stack() {
    let limits = Limits { grace: Duration::from_secs(30), ..two() };
    assert!(stopped(RECURSE, limits).contains("more stack"));
}

#[test]
fn a_component_that_imports_more_than_the_world_does_not_load() {
    for lifetime in Instances::ALL {
        for import in [
            "wasi:cli/environment@0.2.12",
            "wasi:clocks/monotonic-clock@0.2.12",
            "wasi:filesystem/preopens@0.2.12",
            "wasi:random/random@0.2.12",
            "wasi:sockets/tcp-create-socket@0.2.12",
        ] {
            let component = hostile(&format!("import {import};"), TRAP);
            let error = Sandbox::new(&component, Limits { lifetime, ..two() }, clock::system())
                .err()
                .expect(import)
                .to_string();
            let package = import.split('/').next().unwrap();
            assert!(error.contains(package), "{import}: {error}");
        }
        Sandbox::new(
            &hostile("import wasi:http/outgoing-handler@0.2.12;", TRAP),
            Limits { lifetime, ..two() },
            clock::system(),
        )
        .err()
        .expect("the whole of wasi:http needs the monotonic clock, which our component does not");
        Sandbox::new(
            &hostile("import wasi:clocks/wall-clock@0.2.12;", TRAP),
            Limits { lifetime, ..two() },
            clock::system(),
        )
        .unwrap();
    }
}

#[test]
fn a_binding_that_waits_takes_no_slot_from_another_one() {
    for lifetime in Instances::ALL {
        let slow = Robot::start();
        slow.fail(Fault::Hang, Times::Always);
        let quick = Robot::start();
        let queue = Duration::from_millis(100);
        let limits = Limits {
            instances: 3,
            instances_per_binding: 1,
            queue,
            grace: Duration::ZERO,
            lifetime,
            ..Limits::default()
        };
        let sandbox = Sandbox::new(COMPONENT, limits, clock::system()).unwrap();
        // The binding's own time is longer than the call's: the host must end the call.
        let waiting = tenant(&sandbox, &slow.url(), Duration::from_millis(500));
        let other = tenant(&sandbox, &quick.url(), Duration::from_secs(30));
        runtime().block_on(async {
            let (first, second, third) = tokio::join!(
                sandbox.invoke(&waiting, create(), None),
                sandbox.invoke(&waiting, create(), None),
                sandbox.invoke(&other, create(), None),
            );
            assert!(matches!(first, Err(CallError::Stopped { outcome: Outcome::Unknown, .. })), "{first:?}");
            assert!(matches!(second, Err(CallError::Overloaded(Overload::Binding { running: 1, .. }))), "{second:?}");
            third.unwrap();
            // The slot of the call that was ended is free again.
            slow.recover();
            sandbox.invoke(&waiting, create(), None).await.unwrap();
        });
        assert_eq!(quick.messages().len(), 1);
    }
}

#[test]
fn a_hundred_calls_at_once_share_ten_slots() {
    for lifetime in Instances::ALL {
        let robot = Robot::start();
        let limits = Limits { instances: 10, instances_per_binding: 10, lifetime, ..Limits::default() };
        let sandbox = Sandbox::new(COMPONENT, limits, clock::system()).unwrap();
        let tenant = tenant(&sandbox, &robot.url(), Duration::from_secs(30));
        runtime().block_on(async {
            let mut calls: Vec<_> = (0..100).map(|_| Box::pin(sandbox.invoke(&tenant, create(), None))).collect();
            let mut answered = 0;
            std::future::poll_fn(|context| {
                calls.retain_mut(|call| match call.as_mut().poll(context) {
                    std::task::Poll::Ready(answer) => {
                        answer.unwrap();
                        answered += 1;
                        false
                    }
                    std::task::Poll::Pending => true,
                });
                if calls.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            })
            .await;
            assert_eq!(answered, 100);
        });
        assert_eq!(robot.messages().len(), 100);
        assert!(robot.stats().connections <= 10, "{}", robot.stats().connections);
    }
}

#[test]
fn robots_that_hang_with_all_the_calls_they_may_make_stop_no_other_binding_and_no_callback() {
    for lifetime in Instances::ALL {
        let slow = Robot::start();
        slow.fail(Fault::Hang, Times::Always);
        let quick = Robot::start();
        // Longer than the test may take: whoever had to wait would fail.
        let limits = Limits { lifetime, queue: Duration::from_millis(100), ..Limits::default() };
        let sandbox = Sandbox::new(COMPONENT, limits, clock::system()).unwrap();
        let hanging: Vec<_> = (0..4).map(|_| tenant(&sandbox, &slow.url(), Duration::from_secs(600))).collect();
        let other = tenant(&sandbox, &quick.url(), Duration::from_secs(30));
        runtime().block_on(async {
            let calls = hanging.iter().flat_map(|tenant| (0..64).map(move |_| tenant));
            let mut calls: Vec<_> = calls.map(|tenant| Box::pin(sandbox.invoke(tenant, create(), None))).collect();
            let mut refused = Vec::new();
            let work = async {
                // 100 ms are over: who hangs has all that it gets.
                tokio::time::sleep(Duration::from_millis(500)).await;
                sandbox.invoke(&other, create(), None).await.unwrap();
                for tenant in hanging.iter().chain([&other]) {
                    let unsigned = Callback { headers: Vec::new(), body: Vec::new(), arrived: sandbox.arrival() };
                    let unsigned = sandbox.receive(tenant, unsigned, None, Duration::from_secs(30)).await;
                    assert!(matches!(unsigned, Err(CallError::Binding(_))), "{unsigned:?}");
                }
            };
            let mut work = Box::pin(work);
            std::future::poll_fn(|context| {
                calls.retain_mut(|call| match call.as_mut().poll(context) {
                    std::task::Poll::Ready(answer) => {
                        refused.push(answer.unwrap_err().to_string());
                        false
                    }
                    std::task::Poll::Pending => true,
                });
                work.as_mut().poll(context)
            })
            .await;
            assert!(calls.len() <= 192, "{} calls of four bindings hang", calls.len());
            let text = format!("dingtalk webhook error: the host runs {} calls of all bindings", calls.len());
            assert!(refused.iter().all(|refused| refused.starts_with(&text)), "{refused:?}");
        });
        assert_eq!(quick.messages().len(), 1);
    }
}

/// An application that has a large answer sent on to many robots which hang, as often as it is asked.
#[cfg(target_os = "linux")]
#[test]
fn answers_that_are_sent_on_to_robots_that_hang_cost_no_more_than_their_share() {
    let held = Held::start();
    let names: Vec<String> = (0..16).map(|number| format!("r{number}")).collect();
    let mut resources = Resources::new();
    for name in ["team", "other"].into_iter().chain(names.iter().map(String::as_str)) {
        let properties = [("id", name), ("url", &held.url()), ("timeout", "30s")];
        resources = resources.with(&format!("{name}.yaml"), &component(name, &properties));
    }
    let app = App::start();
    let content = "x".repeat(700_000);
    let answer = json!({"to": names, "concurrency": "parallel",
        "data": {"msgtype": "text", "text": {"content": content}}});
    app.answer(Act::ok(&answer.to_string()));
    let host = Host::serve_with(&resources, &["--app-port", &app.port()], &[]);
    assert_eq!(host.post("team", r#"{"operation":"get"}"#).status, 200, "{}", host.log());
    held.receive();
    forget_peak(host.pid());
    let before = peak(host.pid());
    std::thread::scope(|scope| {
        for binding in ["team", "other"] {
            for _ in 0..4 {
                let host = &host;
                scope.spawn(move || {
                    for _ in 0..8 {
                        assert_eq!(host.post(binding, r#"{"operation":"get"}"#).status, 200);
                    }
                });
            }
        }
    });
    // What can begin has begun.
    std::thread::sleep(Duration::from_secs(3));
    let cost = peak(host.pid()).saturating_sub(before);
    println!("{cost} MiB");
    // Of 32 answers: their data once (22 MiB), what calls of two bindings are sending six times (48 MiB), and of eight
    // at a time what "get" itself holds (34 MiB).
    assert!(cost <= 150, "{cost} MiB");
}
