//! What a component reads of what a server answers, and of one that does not.

use std::time::Instant;

use dingtalk_binding::answer::MAX_BODY;

use super::*;

/// Reads an answer's body in reads of `len` until it ends, and says what came and how it ended.
async fn read(driver: &mut Driver, response: ResourceAny, len: u64) -> (String, String) {
    let body = driver.make("incoming-response-consume", &[Val::Resource(response)]).await;
    let stream = driver.make("incoming-body-stream", &[Val::Resource(body)]).await;
    assert_eq!(driver.ask("incoming-response-consume", &[Val::Resource(response)]).await, "err");
    assert_eq!(driver.ask("incoming-body-stream", &[Val::Resource(body)]).await, "err");
    driver.drop(response).await.unwrap();
    let mut data = String::new();
    let end = loop {
        let read = [Val::Resource(stream), Val::U64(len)];
        let answer = driver.call("input-stream-blocking-read", &read).await.unwrap();
        let text = said(&answer);
        match text.strip_prefix("ok(").and_then(|text| text.strip_suffix(')')) {
            Some(part) => {
                assert!(!part.is_empty() && part.len() as u64 <= len, "{part}");
                data.push_str(part);
            }
            None => {
                if let Some(error) = thing(&answer) {
                    driver.drop(error).await.unwrap();
                }
                break text;
            }
        }
    };
    // After its end there is nothing more, of whatever kind it was.
    for len in [0, 1, u64::MAX] {
        let read = [Val::Resource(stream), Val::U64(len)];
        assert_eq!(driver.ask("input-stream-blocking-read", &read).await, "err(closed)");
    }
    driver.drop(stream).await.unwrap();
    driver.drop(body).await.unwrap();
    (data, end)
}

async fn answered(http: WasiHttp, robot: &Robot, len: u64) -> (String, String, String) {
    let mut driver = Driver::new(http, &egress(&robot.url())).await;
    let (future, answer) = exchange(&mut driver, robot.authority()).await;
    let response = thing(&answer).unwrap_or_else(|| panic!("{http:?} {}", said(&answer)));
    let status = driver.ask("incoming-response-status", &[Val::Resource(response)]).await;
    let (data, end) = read(&mut driver, response, len).await;
    driver.drop(future).await.unwrap();
    assert_eq!(driver.live_handles(), 0);
    (status, data, end)
}

#[tokio::test]
async fn an_answer_is_read_however_it_is_framed_and_however_much_is_read_at_once() {
    let head = "HTTP/1.1 200 OK\r\n";
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
    let chunks: Vec<_> = "a long answer".chars().map(|letter| format!("1\r\n{letter}\r\n")).collect();
    let many: Vec<String> = [chunked].into_iter().chain(chunks).chain(["0\r\n\r\n".to_owned()]).collect();
    let length = format!("{head}Content-Length: 13\r\n\r\n");
    let whole = vec![format!("{length}a long answer")];
    let slow: Vec<String> = [length].into_iter().chain("a long answer".chars().map(String::from)).collect();
    let closed = vec![format!("{head}Connection: close\r\n\r\n"), "a long".into(), " answer".into()];
    for http in BOTH {
        for len in [1, 5, 13, 100, u64::MAX] {
            for (pieces, closes) in [(&many, false), (&whole, false), (&slow, false), (&closed, true)] {
                let robot = if closes { Robot::closing(pieces).await } else { Robot::answering(pieces).await };
                let answer = answered(http, &robot, len).await;
                assert_eq!(answer, ("200".into(), "a long answer".into(), "err(closed)".into()), "{http:?} {len}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_without_a_body_ends_at_once() {
    for http in BOTH {
        for (status, answer) in [
            ("204", "HTTP/1.1 204 No Content\r\n\r\n"),
            ("200", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            ("302", "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"),
            ("500", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"),
        ] {
            let robot = Robot::answering(&[answer]).await;
            let answer = answered(http, &robot, 10).await;
            assert_eq!(answer, (status.into(), String::new(), "err(closed)".into()), "{http:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_what_came_of_it_and_then_an_error() {
    for http in BOTH {
        for (answer, came) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\na long", "a long"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n", ""),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\na long\r\n", "a long"),
        ] {
            let robot = Robot::closing(&[answer]).await;
            let answer = answered(http, &robot, 3).await;
            let end = "err(last-operation-failed(handle))";
            assert_eq!(answer, ("200".into(), came.into(), end.into()), "{http:?}");
        }
    }
}

#[tokio::test]
async fn of_an_answer_no_more_is_held_than_one_byte_too_many() {
    let length = MAX_BODY + 100_000;
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length));
    for http in BOTH {
        let robot = Robot::answering(&[&answer]).await;
        let (_, data, end) = answered(http, &robot, 8 << 10).await;
        assert_eq!((data.len(), end.as_str()), (MAX_BODY + 1, "err(closed)"), "{http:?}");
    }
}

#[tokio::test]
async fn what_is_no_answer_is_told_apart() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(200 << 10));
    for http in BOTH {
        for (answer, error) in [
            ("", "connection-terminated"),
            ("HTTP/1.1 200", "connection-terminated"),
            ("SSH-2.0-OpenSSH_9.6\r\n", "HTTP-protocol-error"),
            (&long, "HTTP-protocol-error"),
        ] {
            let robot = Robot::closing(&[answer]).await;
            let mut driver = Driver::new(http, &egress(&robot.url())).await;
            let (_, answer) = exchange(&mut driver, robot.authority()).await;
            assert_eq!(said(&answer), format!("some(ok(err({error})))"), "{http:?}");
        }
        let gone = { std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap() }.to_string();
        let mut driver = Driver::new(http, &egress(&format!("http://{gone}/"))).await;
        let (_, answer) = exchange(&mut driver, &gone).await;
        assert_eq!(said(&answer), "some(ok(err(connection-refused)))", "{http:?}");
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_in_time_is_none() {
    for http in BOTH {
        for pieces in [&[][..], &["HTTP/1.1 200 OK\r\n"], &["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal"]] {
            let robot = Robot::answering(pieces).await;
            let mut driver = Driver::new(http, &egress(&robot.url())).await;
            let options = driver.make("request-options-new", &[]).await;
            for (limit, duration) in [("connect", None), ("first-byte", Some(50_000_000)), ("between-bytes", Some(1))] {
                let duration = Val::Option(duration.map(|duration| Box::new(Val::U64(duration))));
                let name = format!("request-options-set-{limit}-timeout");
                assert_eq!(driver.ask(&name, &[Val::Resource(options), duration]).await, "ok", "{name}");
            }
            let request = request(&mut driver, robot.authority(), &[]).await;
            let body = write(&mut driver, request, &["Hi"]).await;
            let future = driver.make("handle", &[Val::Resource(request), some(Val::Resource(options))]).await;
            assert_eq!(driver.ask("outgoing-body-finish", &[Val::Resource(body), none()]).await, "ok");
            let start = Instant::now();
            let answer = said(&wait(&mut driver, future).await);
            assert_eq!(answer, "some(ok(err(HTTP-response-timeout)))", "{http:?} {pieces:?}");
            assert!(start.elapsed() < Duration::from_secs(20), "it was the default's time");
        }
    }
}

#[tokio::test]
async fn an_answer_is_there_once_it_was_waited_for_and_taken_once() {
    for http in BOTH {
        let robot = Robot::answering(&[OK]).await;
        let mut driver = Driver::new(http, &egress(&robot.url())).await;
        let request = request(&mut driver, robot.authority(), &[]).await;
        let future = handle(&mut driver, request).await;
        let get = [Val::Resource(future)];
        assert_eq!(driver.ask("future-incoming-response-get", &get).await, "none", "{http:?}");
        let pollables = [
            driver.make("future-incoming-response-subscribe", &get).await,
            driver.make("future-incoming-response-subscribe", &get).await,
        ];
        for _ in 0..2 {
            for pollable in pollables {
                assert_eq!(driver.ask("pollable-block", &[Val::Resource(pollable)]).await, "Bool(true)");
            }
        }
        let answer = driver.call("future-incoming-response-get", &get).await.unwrap();
        assert_eq!(said(&answer), "some(ok(ok(handle)))", "{http:?}");
        assert_eq!(driver.ask("future-incoming-response-get", &get).await, "some(err)", "{http:?}");
        assert_eq!(driver.ask("pollable-block", &[Val::Resource(pollables[0])]).await, "Bool(true)");
        for handle in [pollables[0], pollables[1], future, thing(&answer).unwrap()] {
            driver.drop(handle).await.unwrap();
        }
        assert_eq!(driver.live_handles(), 0);
    }
}

/// One that is not read to its end must not be what the next call reads.
#[tokio::test]
async fn an_answer_that_is_not_wanted_leaves_nothing_to_the_next_call() {
    for http in BOTH {
        let robot = Robot::answering(&[OK]).await;
        let egress = egress(&robot.url());
        for _ in 0..5 {
            let mut driver = Driver::new(http, &egress).await;
            let (future, answer) = exchange(&mut driver, robot.authority()).await;
            driver.drop(thing(&answer).unwrap()).await.unwrap();
            driver.drop(future).await.unwrap();
            assert_eq!(driver.live_handles(), 0);
            let (_, answer) = exchange(&mut driver, robot.authority()).await;
            let read = read(&mut driver, thing(&answer).unwrap(), 10).await;
            assert_eq!(read, ("ok".into(), "err(closed)".into()), "{http:?}");
        }
        assert_eq!(robot.messages().len(), 10);
    }
}
