//! What a component is answered, function by function and misuse by misuse: the same by this implementation and by
//! wasmtime-wasi-http, where nothing else is said.

mod answers;
mod any_order;
mod driver;
mod robot;

use std::collections::BTreeSet;
use std::time::Duration;

use wasmtime::component::{Resource, ResourceAny, Val};
use wit_component::DecodedWasm;
use wit_parser::{Resolve, WorldId, WorldItem};

use self::driver::{BOTH, Driver, bytes, case, egress, entries, none, said, some, text, thing};
use self::robot::Robot;
use super::Http;
use super::generated::wasi::http::types::{HostFields, HostOutgoingBody, HostOutgoingRequest, Method};
use super::generated::wasi::io::streams::HostOutputStream;
use crate::clock;
use crate::egress::Reach;
use crate::sandbox::state::WasiHttp;
use crate::sandbox::{Limits, Sandbox};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A request to the robot, whose fields are these.
async fn request(driver: &mut Driver, robot: &str, fields: &[(&str, &str)]) -> ResourceAny {
    let fields = driver.make("fields-from-list", &[entries(fields)]).await;
    let request = driver.make("outgoing-request-new", &[Val::Resource(fields)]).await;
    for (name, value) in [
        ("set-method", case("post", None)),
        ("set-scheme", some(case("HTTP", None))),
        ("set-authority", some(text(robot))),
        ("set-path-with-query", some(text("/x?y=z"))),
    ] {
        let name = format!("outgoing-request-{name}");
        assert_eq!(driver.ask(&name, &[Val::Resource(request), value]).await, "ok", "{name}");
    }
    request
}

/// Writes `parts` into the body of `request`, one by one.
async fn write(driver: &mut Driver, request: ResourceAny, parts: &[&str]) -> ResourceAny {
    let body = driver.make("outgoing-request-body", &[Val::Resource(request)]).await;
    let stream = driver.make("outgoing-body-write", &[Val::Resource(body)]).await;
    for part in parts {
        let written = driver.ask("output-stream-write", &[Val::Resource(stream), bytes(part.as_bytes())]).await;
        assert_eq!(written, "ok");
    }
    driver.drop(stream).await.unwrap();
    body
}

async fn handle(driver: &mut Driver, request: ResourceAny) -> ResourceAny {
    driver.make("handle", &[Val::Resource(request), none()]).await
}

/// Waits for an answer, and says what it is.
async fn wait(driver: &mut Driver, future: ResourceAny) -> Val {
    let pollable = driver.make("future-incoming-response-subscribe", &[Val::Resource(future)]).await;
    assert_eq!(driver.ask("pollable-block", &[Val::Resource(pollable)]).await, "Bool(true)");
    driver.drop(pollable).await.unwrap();
    driver.call("future-incoming-response-get", &[Val::Resource(future)]).await.unwrap()
}

/// Sends a usual message, and gives the answer's future and what `get` says.
async fn exchange(driver: &mut Driver, robot: &str) -> (ResourceAny, Val) {
    let request = request(driver, robot, &[("content-length", "2")]).await;
    let body = write(driver, request, &["Hi"]).await;
    let future = handle(driver, request).await;
    assert_eq!(driver.ask("outgoing-body-finish", &[Val::Resource(body), none()]).await, "ok");
    let answer = wait(driver, future).await;
    (future, answer)
}

/// The functions of WASI that a world imports, by interface, without those that the host implements for any component.
fn functions(resolve: &Resolve, world: WorldId) -> BTreeSet<(String, String)> {
    let mut functions = BTreeSet::new();
    for (key, item) in &resolve.worlds[world].imports {
        let WorldItem::Interface { id, .. } = item else { continue };
        let name = resolve.name_world_key(key);
        if name.starts_with("wasi:") && !name.starts_with("wasi:clocks/wall-clock") {
            functions.extend(resolve.interfaces[*id].functions.keys().map(|function| (name.clone(), function.clone())));
        }
    }
    functions
}

#[test]
fn our_component_imports_what_is_implemented_here_and_nothing_else() {
    let mut listed = Resolve::default();
    let package = listed.push_str("imports.wit", include_str!("../imports.wit")).unwrap();
    let world = listed.select_world(&[package], Some("imports")).unwrap();
    let DecodedWasm::Component(resolve, component) = wit_component::decode(dingtalk_component::COMPONENT).unwrap()
    else {
        panic!("it is no component");
    };
    assert_eq!(functions(&listed, world), functions(&resolve, component), "mend imports.wit, and what implements it");
    Sandbox::over(WasiHttp::Own, dingtalk_component::COMPONENT, Limits::default(), clock::system()).unwrap();
}

#[tokio::test]
async fn a_message_is_sent_whole_and_its_answer_read_and_every_handle_given_back() {
    for http in BOTH {
        let robot = Robot::answering(&[OK]).await;
        let mut driver = Driver::new(http, &egress(&robot.url())).await;
        let (future, answer) = exchange(&mut driver, robot.authority()).await;
        assert_eq!(said(&answer), "some(ok(ok(handle)))", "{http:?}");
        let response = thing(&answer).unwrap();
        assert_eq!(driver.ask("incoming-response-status", &[Val::Resource(response)]).await, "200");
        let body = driver.make("incoming-response-consume", &[Val::Resource(response)]).await;
        let stream = driver.make("incoming-body-stream", &[Val::Resource(body)]).await;
        let read = [Val::Resource(stream), Val::U64(100)];
        assert_eq!(driver.ask("input-stream-blocking-read", &read).await, "ok(ok)");
        for handle in [stream, body, response, future] {
            driver.drop(handle).await.unwrap();
        }
        assert_eq!(driver.live_handles(), 0);
        let [message] = &robot.messages()[..] else { panic!("{:?}", robot.messages()) };
        let (head, body) = message.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /x?y=z HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("\r\ncontent-length: 2") && !head.contains("chunked"), "{head}");
        assert!(head.contains(&format!("host: {}", robot.authority())), "{head}");
        assert_eq!(body, "Hi");
    }
}

#[tokio::test]
async fn fields_are_as_wasi_wants_them() {
    let long = "x".repeat(130 << 10);
    for http in BOTH {
        for (fields, answer) in [
            (&[][..], "ok(handle)"),
            (&[("accept", "a"), ("Accept", "b"), ("x-empty", "")], "ok(handle)"),
            (&[("host", "x")], "err(forbidden)"),
            (&[("Connection", "close")], "err(forbidden)"),
            (&[("transfer-encoding", "chunked")], "err(forbidden)"),
            (&[("proxy-authorization", "x")], "err(forbidden)"),
            (&[("upgrade", "x")], "err(forbidden)"),
            (&[("keep-alive", "x")], "err(forbidden)"),
            (&[("bad name", "x")], "err(invalid-syntax)"),
            (&[("", "x")], "err(invalid-syntax)"),
            (&[("x", "a\r\nhost: b")], "err(invalid-syntax)"),
            (&[("content-length", "+5")], "err(invalid-syntax)"),
            (&[("content-length", "")], "err(invalid-syntax)"),
            (&[("content-length", "5"), ("Content-Length", "5")], "err(invalid-syntax)"),
            (&[("x", &*long)], "trap"),
        ] {
            let mut driver = Driver::new(http, &egress("http://127.0.0.1:1")).await;
            assert_eq!(driver.ask("fields-from-list", &[entries(fields)]).await, answer, "{http:?} {fields:?}");
        }
    }
}

#[tokio::test]
async fn a_request_takes_what_can_be_one() {
    for http in BOTH {
        let mut driver = Driver::new(http, &egress("http://127.0.0.1:1")).await;
        let request = request(&mut driver, "127.0.0.1:1", &[]).await;
        for (name, value, answer) in [
            ("set-method", case("other", Some(text("PURGE"))), "ok"),
            ("set-method", case("other", Some(text("NO WAY"))), "err"),
            ("set-method", case("other", Some(text(""))), "err"),
            ("set-path-with-query", none(), "ok"),
            ("set-path-with-query", some(text("?q")), "ok"),
            ("set-path-with-query", some(text("")), "ok"),
            ("set-path-with-query", some(text("http://elsewhere/")), "err"),
            ("set-path-with-query", some(text("x")), "err"),
            ("set-path-with-query", some(text("/a b")), "err"),
            ("set-path-with-query", some(text("*")), "err"),
            ("set-scheme", none(), "ok"),
            ("set-scheme", some(case("other", Some(text("ftp")))), "ok"),
            ("set-scheme", some(case("other", Some(text("1:")))), "err"),
            ("set-authority", none(), "ok"),
            ("set-authority", some(text("user@host:99")), "ok"),
            ("set-authority", some(text("a b")), "err"),
            ("set-authority", some(text("")), "err"),
        ] {
            let name = format!("outgoing-request-{name}");
            let asked = driver.ask(&name, &[Val::Resource(request), value.clone()]).await;
            assert_eq!(asked, answer, "{http:?} {name} {value:?}");
        }
        assert_eq!(driver.ask("outgoing-request-body", &[Val::Resource(request)]).await, "ok(handle)");
        assert_eq!(driver.ask("outgoing-request-body", &[Val::Resource(request)]).await, "err");
    }
}

/// Not asked of the other implementation, which has no such limits.
#[tokio::test]
async fn what_a_call_may_hand_over_has_an_end() {
    let mut http = Http::new(egress("http://127.0.0.1:1").exit(Reach::Robot), 64);
    let fields = http.from_list(Vec::new()).unwrap().unwrap();
    let request = HostOutgoingRequest::new(&mut http, fields).unwrap();
    let request = || Resource::new_borrow(request.rep());
    assert!(http.set_method(request(), Method::Other("X".repeat(33))).unwrap().is_err());
    assert!(http.set_authority(request(), Some("a".repeat(301))).unwrap().is_err());
    assert!(http.set_authority(request(), Some("a".repeat(300))).unwrap().is_ok());
    // Each fails at its first entry, and costs the host all of them.
    let many = || vec![("not a name".to_owned(), Vec::new()); 1_000];
    let calls = (0..1_000).take_while(|_| http.from_list(many()).is_ok_and(|fields| fields.is_err())).count();
    assert!((200..300).contains(&calls), "{calls}");
    assert!(http.set_path_with_query(request(), Some("/".repeat(300_000))).is_err());
}

#[tokio::test]
async fn a_request_that_cannot_be_sent_is_refused_at_once() {
    let only = |name: &'static str, value: Val| vec![(name, value)];
    for http in BOTH {
        for (changes, fields, answer) in [
            (only("set-authority", none()), &[][..], "err(HTTP-request-URI-invalid)"),
            (only("set-path-with-query", none()), &[], "err(HTTP-protocol-error)"),
            (only("set-scheme", some(case("other", Some(text("ftp"))))), &[], "err(HTTP-protocol-error)"),
            (only("set-scheme", some(case("other", Some(text("http"))))), &[], "ok(handle)"),
            (vec![], &[("content-length", "2")], "err(HTTP-request-body-size(some(0)))"),
            (vec![], &[("content-length", "0")], "ok(handle)"),
        ] {
            let mut driver = Driver::new(http, &egress("http://127.0.0.1:1")).await;
            let request = request(&mut driver, "127.0.0.1:1", fields).await;
            for (name, value) in changes {
                let set = driver.ask(&format!("outgoing-request-{name}"), &[Val::Resource(request), value]).await;
                assert_eq!(set, "ok");
            }
            let asked = driver.ask("handle", &[Val::Resource(request), none()]).await;
            assert_eq!(asked, answer, "{http:?} {fields:?}");
        }
    }
}

#[tokio::test]
async fn no_other_destination_is_reached_and_the_component_reads_so() {
    for http in BOTH {
        let (robot, other) = (Robot::answering(&[OK]).await, Robot::answering(&[OK]).await);
        let egress = egress(&robot.url());
        let mut driver = Driver::new(http, &egress).await;
        let (_, answer) = exchange(&mut driver, other.authority()).await;
        assert_eq!((said(&answer).as_str(), egress.refused()), ("some(ok(err(HTTP-request-denied)))", 1), "{http:?}");
        assert!(other.messages().is_empty());
    }
}

#[tokio::test]
async fn a_body_that_is_not_what_its_length_says_is_not_sent() {
    for http in BOTH {
        let robot = Robot::answering(&[OK]).await;
        for (written, at_writing, at_finish) in
            [("H", "ok", 1_u64), ("", "ok", 0), ("Hi!", "err(last-operation-failed(handle))", 3)]
        {
            let mut driver = Driver::new(http, &egress(&robot.url())).await;
            let request = request(&mut driver, robot.authority(), &[("content-length", "2")]).await;
            let body = driver.make("outgoing-request-body", &[Val::Resource(request)]).await;
            let stream = driver.make("outgoing-body-write", &[Val::Resource(body)]).await;
            let answer =
                driver.call("output-stream-write", &[Val::Resource(stream), bytes(written.as_bytes())]).await.unwrap();
            assert_eq!(said(&answer), at_writing, "{http:?} {written}");
            let size = format!("HTTP-request-body-size(some({at_finish}))");
            if let Some(error) = thing(&answer) {
                let code = driver.ask("http-error-code", &[Val::Resource(error)]).await;
                assert_eq!(code, format!("some({size})"), "{http:?}");
                driver.drop(error).await.unwrap();
            }
            driver.drop(stream).await.unwrap();
            let future = handle(&mut driver, request).await;
            let finished = driver.ask("outgoing-body-finish", &[Val::Resource(body), none()]).await;
            assert_eq!(finished, format!("err({size})"), "{http:?} {written}");
            let answer = said(&wait(&mut driver, future).await);
            assert_eq!(answer, "some(ok(err(HTTP-request-body-size(none))))", "{http:?} {written}");
            driver.drop(future).await.unwrap();
            assert_eq!(driver.live_handles(), 0);
        }
        assert!(robot.messages().is_empty(), "{http:?}");
    }
}

#[tokio::test]
async fn a_body_that_is_given_up_is_not_sent() {
    for http in BOTH {
        for before in [true, false] {
            let robot = Robot::answering(&[OK]).await;
            let mut driver = Driver::new(http, &egress(&robot.url())).await;
            let request = request(&mut driver, robot.authority(), &[]).await;
            let body = write(&mut driver, request, &["Hi"]).await;
            let future = if before {
                driver.drop(body).await.unwrap();
                handle(&mut driver, request).await
            } else {
                let future = handle(&mut driver, request).await;
                driver.drop(body).await.unwrap();
                future
            };
            let answer = said(&wait(&mut driver, future).await);
            assert_eq!(answer, "some(ok(err(HTTP-request-body-size(none))))", "{http:?} {before}");
            assert!(robot.messages().is_empty(), "{http:?} {before}");
        }
    }
}

#[tokio::test]
async fn nothing_of_a_body_is_sent_before_it_is_finished() {
    for http in BOTH {
        let robot = Robot::answering(&[OK]).await;
        let mut driver = Driver::new(http, &egress(&robot.url())).await;
        let request = request(&mut driver, robot.authority(), &[]).await;
        let body = write(&mut driver, request, &["H", "i"]).await;
        let future = handle(&mut driver, request).await;
        let pollable = driver.make("future-incoming-response-subscribe", &[Val::Resource(future)]).await;
        // Whoever waits now waits for himself, until the time of his call is up.
        let block = [Val::Resource(pollable)];
        let waiting = Box::pin(driver.call("pollable-block", &block));
        assert!(tokio::time::timeout(Duration::from_millis(100), waiting).await.is_err(), "{http:?}");
        assert!(robot.messages().is_empty(), "{http:?}");
        drop((driver, body));
    }
}

#[tokio::test]
async fn with_its_call_or_its_future_a_request_ends() {
    for http in BOTH {
        for by_handle in [true, false] {
            let robot = Robot::silent().await;
            let mut driver = Driver::new(http, &egress(&robot.url())).await;
            let request = request(&mut driver, robot.authority(), &[]).await;
            let body = write(&mut driver, request, &["Hi"]).await;
            let future = handle(&mut driver, request).await;
            assert_eq!(driver.ask("outgoing-body-finish", &[Val::Resource(body), none()]).await, "ok");
            if by_handle {
                driver.drop(future).await.unwrap();
            } else {
                let pollable = driver.make("future-incoming-response-subscribe", &[Val::Resource(future)]).await;
                let block = [Val::Resource(pollable)];
                let waiting = Box::pin(driver.call("pollable-block", &block));
                tokio::select! {
                    answer = waiting => panic!("{answer:?}"),
                    () = robot.asked() => {}
                }
            }
            drop(driver);
            robot.deserted().await;
        }
    }
}

#[tokio::test]
async fn what_others_live_in_cannot_be_given_away_before_them() {
    for http in BOTH {
        for (name, way) in [("stream", 0), ("stream at finish", 1), ("pollable", 2), ("pollable of a stream", 3)] {
            let mut driver = Driver::new(http, &egress("http://127.0.0.1:1")).await;
            let request = request(&mut driver, "127.0.0.1:1", &[]).await;
            let body = driver.make("outgoing-request-body", &[Val::Resource(request)]).await;
            let stream = driver.make("outgoing-body-write", &[Val::Resource(body)]).await;
            assert_eq!(driver.ask("outgoing-body-write", &[Val::Resource(body)]).await, "err");
            let ends = match way {
                0 => driver.drop(body).await.is_err(),
                1 => driver.ask("outgoing-body-finish", &[Val::Resource(body), none()]).await == "trap",
                2 => {
                    let future = handle(&mut driver, request).await;
                    driver.make("future-incoming-response-subscribe", &[Val::Resource(future)]).await;
                    driver.drop(future).await.is_err()
                }
                _ => {
                    driver.make("output-stream-subscribe", &[Val::Resource(stream)]).await;
                    driver.drop(stream).await.is_err()
                }
            };
            assert!(ends, "{http:?} {name}");
        }
    }
}

#[tokio::test]
async fn a_stream_whose_request_is_gone_is_closed() {
    for http in BOTH {
        let mut driver = Driver::new(http, &egress("http://127.0.0.1:1")).await;
        let request = request(&mut driver, "127.0.0.1:1", &[]).await;
        let body = driver.make("outgoing-request-body", &[Val::Resource(request)]).await;
        let stream = driver.make("outgoing-body-write", &[Val::Resource(body)]).await;
        assert_eq!(driver.ask("output-stream-check-write", &[Val::Resource(stream)]).await, "ok(1048576)");
        driver.drop(request).await.unwrap();
        assert_eq!(driver.ask("output-stream-check-write", &[Val::Resource(stream)]).await, "err(closed)", "{http:?}");
        let write = [Val::Resource(stream), bytes(b"Hi")];
        assert_eq!(driver.ask("output-stream-write", &write).await, "err(closed)", "{http:?}");
        let pollable = driver.make("output-stream-subscribe", &[Val::Resource(stream)]).await;
        assert_eq!(driver.ask("pollable-block", &[Val::Resource(pollable)]).await, "Bool(true)");
    }
}

#[tokio::test]
async fn more_than_is_permitted_at_once_ends_the_call() {
    for http in BOTH {
        let mut driver = Driver::new(http, &egress("http://127.0.0.1:1")).await;
        let request = request(&mut driver, "127.0.0.1:1", &[]).await;
        let body = driver.make("outgoing-request-body", &[Val::Resource(request)]).await;
        let stream = driver.make("outgoing-body-write", &[Val::Resource(body)]).await;
        let contents = bytes(&vec![b'x'; (1 << 20) + 1]);
        assert_eq!(driver.ask("output-stream-write", &[Val::Resource(stream), contents]).await, "trap", "{http:?}");
    }
}

#[tokio::test]
async fn handles_are_bounded() {
    for http in BOTH {
        let mut driver = Driver::new(http, &egress("http://127.0.0.1:1")).await;
        for _ in 0..Limits::default().handles {
            driver.make("request-options-new", &[]).await;
        }
        assert_eq!(driver.ask("request-options-new", &[]).await, "trap", "{http:?}");
    }
}

/// All bodies of a call together have as much room as one message may.
#[test]
fn bodies_hold_no_more_than_one_request_may() {
    let mut http = Http::new(egress("http://127.0.0.1:1").exit(Reach::Robot), 64);
    let mut kept = |mebibytes: usize| {
        let fields = HostFields::from_list(&mut http, Vec::new()).unwrap().unwrap();
        let request = HostOutgoingRequest::new(&mut http, fields).unwrap();
        let body = HostOutgoingRequest::body(&mut http, request).unwrap().unwrap();
        let stream = HostOutgoingBody::write(&mut http, Resource::new_borrow(body.rep())).unwrap().unwrap();
        for _ in 0..mebibytes {
            let stream = Resource::new_borrow(stream.rep());
            HostOutputStream::write(&mut http, stream, vec![b'x'; 1 << 20]).unwrap().unwrap();
        }
        http.handles.get(&body).unwrap().data.len() >> 20
    };
    assert_eq!([9, 8, 1].map(&mut kept), [9, 0, 0], "7 MiB went into the second, and are not given back");
}
