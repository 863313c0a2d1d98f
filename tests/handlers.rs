//! An application that is a component: run by the host itself, beside the binding, and whatever it does, the message is
//! not lost and the host goes on.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use dingtalk_host::simulator::conversation::Say;
use serde_json::json;

use crate::support::receiving::{EMPTY, assert_answer, assert_later, callback, post, signed, talkative, text, until};
use crate::support::witness::{Answer, Witness};
use crate::support::{Host, Resources, Robot, SECRET, bot, command, component, finish, guest, run, stderr};

/// The host with a handler, and the robot of its binding `team`. The host ends first.
struct Setup {
    host: Host,
    robot: Robot,
    folder: tempfile::TempDir,
}

fn start(handler: &[u8]) -> Setup {
    start_with(handler, &[])
}

fn start_with(handler: &[u8], arguments: &[&str]) -> Setup {
    let (robot, folder) = (talkative(), tempfile::tempdir().unwrap());
    let host = serve(&robot, folder.path(), handler, arguments);
    Setup { host, robot, folder }
}

fn serve(robot: &Robot, folder: &Path, handler: &[u8], arguments: &[&str]) -> Host {
    let file = folder.join("app.wasm");
    std::fs::write(&file, handler).unwrap();
    let url = robot.url();
    let sessions = format!("http://{}", robot.address());
    let properties = [("id", "id-of-team"), ("secret", SECRET), ("url", &url), ("sessionWebhookHosts", &sessions)];
    let resources = Resources::binding("team", &properties);
    let timeout = if arguments.contains(&"--callback-timeout") { vec![] } else { vec!["--callback-timeout", "60s"] };
    let arguments = [&["--handler", file.to_str().unwrap()], &timeout[..], arguments].concat();
    let host = Host::serve_with(&resources, &arguments, &[]);
    robot.set_callback_url(&host.callback_url("team"));
    host
}

fn body(body: &str) -> Vec<u8> {
    guest::component(&[], "", body)
}

/// What "get" gives for `data`, as a text.
fn get(host: &Host, data: &str) -> String {
    let reply = host.post("team", &json!({"operation": "get", "data": data}).to_string());
    assert_eq!(reply.status, 200, "{reply:?} {}", host.log());
    reply.body
}

#[test]
fn the_bot_in_rust_answers_in_the_group() {
    let Setup { host, robot, .. } = start(bot::component());
    for (said, expected) in [("ping", "pong"), ("你好 \"x\"", "你好 \"x\"")] {
        let said = robot.say(Say::text(said));
        assert!(said.shown.as_deref().is_some_and(|shown| shown.contains(expected)), "{said:?} {}", host.log());
        assert_eq!(said.attempts.len(), 1);
    }
    assert_eq!(robot.messages().len(), 2);
    // What has no text is taken, and not answered.
    assert_answer(&callback(&host, r#"{"msgtype":"picture","msgId":"p"}"#), EMPTY);
    let reply = host.post("team", r#"{"operation":"get","data":1,"metadata":{"text":"ping"}}"#);
    assert_eq!(reply.json(), json!({"msgtype": "text", "text": {"content": "pong"}}));
    let log = host.log();
    assert!(log.contains("compiling the handler") && log.contains("the handler is compiled"), "{log}");
}

#[test]
fn a_message_reaches_the_handler_byte_for_byte_and_once() {
    let Setup { host, .. } = start(&body(guest::ECHO));
    let message = " {\"msgtype\" :\"text\", \"text\":{\"content\":\"po\\u006eg 1.0e2 你\"}, \"msgId\":\"m\"}\n";
    let headers = signed(SECRET);
    for _ in 0..2 {
        assert_answer(&post(host.address(), "team", &headers, message.as_bytes()), message);
    }
    assert_eq!(get(&host, "any thing"), "\"any thing\"");
    // A handler that counts, by a request for each message.
    let (address, requests) = api(Arc::default());
    let hosts = format!("http://{address}");
    let Setup { host, .. } = start_with(&guest::calling_at(&address), &["--handler-allowed-hosts", &hosts]);
    for _ in 0..2 {
        assert_answer(&post(host.address(), "team", &headers, message.as_bytes()), EMPTY);
    }
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[test]
fn an_answer_can_be_for_other_bindings() {
    let (robot, other, folder) = (talkative(), Robot::start(), tempfile::tempdir().unwrap());
    let file = folder.path().join("app.wasm");
    std::fs::write(&file, body(guest::ECHO)).unwrap();
    let resources = Resources::of("team", &robot)
        .with("other.yaml", &component("other", &[("id", "other"), ("url", &other.url()), ("secret", SECRET)]));
    let host = Host::serve_with(&resources, &["--handler", file.to_str().unwrap()], &[]);
    let data = json!({"to": ["other"], "data": {"msgtype": "text", "text": {"content": "sent on"}}});
    let reply = host.post("team", &json!({"operation": "get", "data": data}).to_string());
    assert_eq!(reply.status, 200, "{reply:?}");
    until("the message", || other.messages().len() == 1);
}

#[test]
fn whatever_a_handler_does_dingtalk_sends_again_and_the_host_goes_on() {
    // Enough for the start, which it limits too, on a busy machine; too short for 10,000,000,000 instructions.
    let timeout = ["--app-timeout", "3s"];
    let failing: [(&str, Vec<u8>, &[&str], &str); 9] = [
        ("traps", body(guest::TRAP), &[], "it broke off"),
        ("loops", body(guest::LOOP), &timeout, "raise --app-timeout"),
        (
            "allocates",
            body(guest::GRAB),
            &[],
            "more than 128 MiB of memory; let it need less, or raise --handler-memory",
        ),
        ("has less memory", body(guest::GRAB), &["--handler-memory", "1Mi"], "more than 1 MiB of memory"),
        ("recurses", body(guest::RECURSE), &[], "more stack"),
        ("writes without end", guest::printing(u32::MAX), &timeout, "raise --app-timeout"),
        ("answers without end", body(&guest::answer_of(100 << 20)), &[], "an answer may have 1 MiB"),
        ("sleeps", guest::sleeping(), &timeout, "raise --app-timeout"),
        ("fails", body(guest::FAIL), &[], "the application has not taken the message"),
    ];
    for (name, handler, arguments, reason) in failing {
        let Setup { host, robot, folder } = start_with(&handler, arguments);
        for id in ["one", "two"] {
            assert_later(&callback(&host, &text(id)));
        }
        host.wait_for_log(reason);
        let log = host.log();
        let file = folder.path().join("app.wasm").display().to_string();
        assert!(name == "fails" || log.contains(&format!("--handler {file}: ")), "{name}: {log}");
        assert!(log.len() < 64 << 10, "{name}: a log of {} bytes", log.len());
        // The other direction has nothing to do with it.
        assert_eq!(host.invoke("team", "create", r#"{"message":"Hi"}"#).status, 200, "{name}");
        assert_eq!(robot.messages().len(), 1, "{name}");
    }
}

#[test]
fn a_handler_that_does_not_want_a_message_or_knows_another_one_says_so() {
    let Setup { host, .. } = start(&body(guest::NOT_READING));
    let reply = host.post("team", r#"{"operation":"get"}"#);
    assert!(reply.status == 500 && reply.body.contains("not-reading"), "{reply:?}");
    assert_later(&callback(&host, &text("m")));
    let Setup { host, .. } = start(&body(guest::REUSED));
    let reply = callback(&host, &text("m"));
    assert_eq!(reply.status, 403, "{reply:?}");
}

#[test]
fn what_a_handler_could_not_take_waits_in_the_inbox_for_a_better_one() {
    let (robot, folder) = (talkative(), tempfile::tempdir().unwrap());
    let inbox = folder.path().join("inbox").display().to_string();
    let arguments = ["--inbox", &inbox, "--callback-timeout", "1s"];
    let host = serve(&robot, folder.path(), &body(guest::TRAP), &arguments);
    let said = robot.say(Say::text("ping"));
    assert_eq!((said.attempts.len(), said.attempts[0].status), (1, Some(200)), "acknowledged: it is on disk");
    host.wait_for_log("it broke off");
    host.end();
    let listed = run(&["inbox", "list", "--inbox", &inbox, "--state", "pending", "--output", "json"]);
    assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), 1, "{listed:?}");
    assert_eq!(robot.messages().len(), 0);

    let host = serve(&robot, folder.path(), bot::component(), &arguments);
    until("the late reply", || robot.messages().len() == 1);
    assert!(format!("{:?}", robot.messages()).contains("pong"), "{:?}", robot.messages());
    host.end();
}

/// Answers each request with a body of so many bytes, and counts them.
fn api(bytes: Arc<AtomicUsize>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, count) = (listener.local_addr().unwrap().to_string(), Arc::new(AtomicUsize::new(0)));
    let requests = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut line = String::new();
            while stream.read_line(&mut line).unwrap() > 2 {
                line.clear();
            }
            requests.fetch_add(1, Ordering::SeqCst);
            let body = "x".repeat(bytes.load(Ordering::SeqCst));
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            // Who has read enough goes.
            let _ = stream.get_mut().write_all((head + &body).as_bytes());
        }
    });
    (address, count)
}

#[test]
fn a_handler_reaches_the_hosts_that_were_allowed_and_no_other() {
    let bytes = Arc::new(AtomicUsize::new(2));
    let ((allowed, requests), (refused, none)) = (api(Arc::clone(&bytes)), api(Arc::default()));
    let hosts = format!("a.example, http://{allowed}");
    let Setup { host, .. } = start_with(&guest::calling(1), &["--handler-allowed-hosts", &hosts]);
    let asked = |host: &Host, authority: &str| get(host, authority);
    assert_eq!(asked(&host, &allowed), "200");
    // 15: HTTP-request-denied. By another name, or at another port, it is another host.
    let port = allowed.split(':').next_back().unwrap();
    for authority in [&*refused, "127.0.0.1", &format!("localhost:{port}"), "oapi.dingtalk.com"] {
        assert_eq!(asked(&host, authority), "915", "{authority}");
    }
    host.wait_for_log("egress refused");
    bytes.store(1 << 20, Ordering::SeqCst);
    assert_eq!(asked(&host, &allowed), "200");
    // 28: HTTP-response-body-size. A part must not be taken for the whole.
    bytes.store((1 << 20) + 1, Ordering::SeqCst);
    assert_eq!(asked(&host, &allowed), "928");
    let Setup { host, .. } = start(&guest::calling(1));
    assert_eq!(asked(&host, &allowed), "915");
    assert_eq!((requests.load(Ordering::SeqCst), none.load(Ordering::SeqCst)), (3, 0));
}

#[test]
fn a_file_that_is_no_application_stops_the_start_before_a_port_is_open() {
    let robot = Robot::start();
    let resources = Resources::of("team", &robot);
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(name), bytes).unwrap();
        folder.path().join(name)
    };
    let files: [(PathBuf, &str); 7] = [
        (folder.path().join("missing.wasm"), "cannot be read"),
        (folder.path().to_owned(), "is a directory, not a regular file"),
        (write("text.wasm", b"hello"), "is no WebAssembly"),
        (write("module.wasm", b"\0asm\x01\0\0\0"), "is a core module and no component"),
        (write("torn.wasm", &body(guest::ECHO)[..400]), "cannot be compiled"),
        (write("binding.wasm", dingtalk_component::COMPONENT), "does not export dingtalk:binding/handler@0.2.0"),
        (
            write("start.wasm", &guest::component(&[], "(func $start unreachable) (start $start)", guest::ECHO)),
            "does not start: it broke off",
        ),
    ];
    for (file, reason) in files {
        let path = resources.path().to_str().unwrap();
        let output =
            run(&["serve", "--resources-path", path, "--dapr-http-port", "0", "--handler", file.to_str().unwrap()]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(&format!("error: --handler {}: {reason}", file.display())), "{text}");
        assert!(!text.contains("HTTP API is listening"), "{text}");
    }
    // A pipe that nobody writes into.
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let path = resources.path().to_str().unwrap();
    let serve =
        command(&["serve", "--resources-path", path, "--dapr-http-port", "0", "--handler", pipe.to_str().unwrap()]);
    assert!(stderr(&finish(serve, b"")).contains("is a named pipe, not a regular file"));
}

#[test]
fn messages_at_once_are_handled_beside_each_other() {
    // As many as one binding may have. The API answers nobody before all of them have asked.
    const AT_ONCE: usize = 16;
    let all = Barrier::new(AT_ONCE);
    let api = Witness::answering(move |_| {
        all.wait();
        Answer::Close(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec())
    });
    let address = api.address().to_string();
    let hosts = format!("http://{address}");
    let Setup { host, .. } = start_with(&guest::calling_at(&address), &["--handler-allowed-hosts", &hosts]);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| assert_eq!(get(&host, "any thing"), "200"));
        }
    });
    assert_eq!(api.received().len(), AT_ONCE);
}
