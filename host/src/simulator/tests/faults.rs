//! Failures on request, byte for byte: what a client sees of each, and whether the group sees the message.

use std::time::Instant;

use dingtalk_binding::answer::{self, Answer};
use dingtalk_binding::error::{AnswerError, InvokeCause, RejectionClass};

use super::*;

#[tokio::test]
async fn a_fault_lasts_as_long_as_ordered() {
    let simulator = start().await;
    let order = async |order: &str| request("PUT", &simulator, "/fault", order).await;
    assert_eq!(order(r#"{"fault":"status=503","times":2}"#).await.0, 204);
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(send(&simulator).await.0);
    }
    assert_eq!(statuses, [503, 503, 200]);
    assert_eq!(order(r#"{"fault":"status=500","times":"always"}"#).await.0, 204);
    assert_eq!((send(&simulator).await.0, send(&simulator).await.0), (500, 500));
    assert_eq!(order(r#"{"fault":null}"#).await.0, 204);
    assert_eq!(send(&simulator).await.0, 200);
    assert_eq!(order(r#"{"fault":"html"}"#).await.0, 204);
    assert!(send(&simulator).await.2.starts_with('<'));
    assert_eq!(send(&simulator).await.2, OK);
    simulator.set_fault(Fault::Empty, Times::Always);
    simulator.clear_fault();
    assert_eq!(send(&simulator).await.2, OK);
    for (wrong, reason) in [
        ("", "write for example"),
        (r#"{"fault":"flood"}"#, "there are delay=DURATION"),
        (r#"{"fault":"html","times":0}"#, "a number from 1"),
        (r#"{"fault":"html","time":1}"#, "unknown field"),
    ] {
        let (status, answer) = order(wrong).await;
        assert_eq!(status, 400, "{wrong}");
        assert!(answer["error"].as_str().unwrap().contains(reason), "{answer}");
    }
    assert_eq!(simulator.stats().faults, 5);
}

/// Answers in front of the robot: the group sees nothing.
#[tokio::test]
async fn answers_that_are_no_results() {
    let simulator = start().await;
    for (fault, expected) in [
        (Fault::Html, AnswerError::Html),
        (Fault::Throttled, AnswerError::Throttled(300_000)),
        (Fault::Status(500), AnswerError::Status(500)),
        (Fault::Status(204), AnswerError::Status(204)),
        (Fault::Redirect("https://elsewhere/".into()), AnswerError::Status(307)),
        (Fault::Oversized, AnswerError::Oversized(65_536)),
        (Fault::Empty, AnswerError::Malformed("it is empty".into())),
        (Fault::MissingErrcode, AnswerError::MissingErrcode),
    ] {
        simulator.set_fault(fault.clone(), Times::ONCE);
        let (status, head, body) = send(&simulator).await;
        let answer = Answer { status, body: body.into_bytes(), complete: true };
        assert_eq!(answer::classify(&answer, str::to_owned), Err(InvokeCause::UnexpectedAnswer(expected)), "{fault}");
        match fault {
            Fault::Html => assert!(head.contains("content-type: text/html")),
            Fault::Redirect(_) => assert!(head.contains("location: https://elsewhere/")),
            _ => {}
        }
    }
    assert!(simulator.messages().is_empty());
    assert_eq!(simulator.stats().accepted, 0);
}

#[tokio::test]
async fn refusals_on_request() {
    let simulator = start().await;
    simulator.set_fault("rejected=-1:系统繁忙".parse().unwrap(), Times::ONCE);
    let (status, _, body) = send(&simulator).await;
    assert_eq!((status, body.as_str()), (200, r#"{"errcode":-1,"errmsg":"系统繁忙"}"#));
    let answer = Answer { status, body: body.into_bytes(), complete: true };
    match answer::classify(&answer, str::to_owned) {
        Err(InvokeCause::Rejected(rejection)) => assert_eq!(rejection.class, RejectionClass::Busy),
        other => panic!("{other:?}"),
    }
    simulator.set_fault(Fault::Echo, Times::ONCE);
    let (_, _, body) = split(&raw(&simulator, &post(&format!("{SEND}&timestamp=1&sign=a%2Bb"), TEXT)).await.unwrap());
    let body: Value = serde_json::from_str(&body).unwrap();
    let expected = format!("不合法的参数 http://robot.test{SEND}&timestamp=1&sign=a%2Bb {TEXT}");
    assert_eq!(body, json!({"errcode": 40_035, "errmsg": expected}));
    assert!(simulator.messages().is_empty());
}

/// Faults behind the robot: the group sees the message, and whoever repeats it by `msgUuid` does no harm.
#[tokio::test]
async fn lost_answers_do_not_lose_the_message() {
    let simulator = start().await;
    let once = r#"{"msgtype":"text","text":{"content":"once"},"msgUuid":"u"}"#;

    simulator.set_fault(Fault::Reset, Times::ONCE);
    let error = raw(&simulator, &post(SEND, once)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(simulator.messages().len(), 1);

    simulator.set_fault(Fault::HalfBody, Times::ONCE);
    let (status, head, body) = split(&raw(&simulator, &post(SEND, once)).await.unwrap());
    assert!(head.contains(&format!("content-length: {}", OK.len())), "{head}");
    assert_eq!((status, body.as_str()), (200, &OK[..OK.len() / 2]));

    simulator.set_fault(Fault::StringErrcode, Times::ONCE);
    let (_, _, body) = split(&raw(&simulator, &post(SEND, once)).await.unwrap());
    assert_eq!(body, r#"{"errcode":"0","errmsg":"ok"}"#);
    assert_eq!((simulator.messages().len(), simulator.stats().repeated), (1, 2));

    simulator.set_fault(Fault::HalfBody, Times::ONCE);
    let (_, _, body) = send(&simulator).await;
    assert_eq!((body.as_str(), simulator.messages().len()), (&OK[..OK.len() / 2], 2));

    // What the robot refuses is lost in the same way, and not shown.
    simulator.set_fault(Fault::Reset, Times::ONCE);
    assert!(raw(&simulator, &post(SEND, "{}")).await.is_err());
    simulator.set_fault(Fault::StringErrcode, Times::ONCE);
    let (_, _, body) = split(&raw(&simulator, &post(SEND, "{}")).await.unwrap());
    assert_eq!(body, r#"{"errcode":"40035","errmsg":"缺少参数 msgtype"}"#);
    assert_eq!(simulator.messages().len(), 2);
}

#[tokio::test]
async fn a_delayed_answer_comes_after_the_message() {
    let simulator = start().await;
    simulator.set_fault(Fault::Delay(Duration::from_millis(50)), Times::ONCE);
    let sent = Instant::now();
    assert_eq!(send(&simulator).await.2, OK);
    assert!(sent.elapsed() >= Duration::from_millis(50));
    assert_eq!(simulator.messages().len(), 1);
    // Whoever does not wait has sent it all the same.
    simulator.set_fault(Fault::Delay(Duration::from_secs(60)), Times::ONCE);
    let mut impatient = TcpStream::connect(simulator.address()).await.unwrap();
    impatient.write_all(post(SEND, TEXT).as_bytes()).await.unwrap();
    until(|| simulator.messages().len() == 2).await;
}

#[tokio::test]
async fn a_hanging_request_has_no_answer_and_ends_with_the_simulator() {
    let simulator = start().await;
    simulator.set_fault(Fault::Hang, Times::ONCE);
    let mut stream = TcpStream::connect(simulator.address()).await.unwrap();
    stream.write_all(post(SEND, TEXT).as_bytes()).await.unwrap();
    until(|| simulator.stats().faults == 1).await;
    let waiting = tokio::time::timeout(Duration::from_millis(20), stream.read_u8()).await;
    assert!(waiting.is_err() && simulator.messages().is_empty());
    simulator.stop().await;
    assert!(stream.read_u8().await.is_err());
}

#[tokio::test]
async fn a_client_that_leaves_a_hanging_request_frees_its_connection() {
    let simulator = start().await;
    let idle = Arc::strong_count(&simulator.shared);
    simulator.set_fault(Fault::Hang, Times::ONCE);
    let mut stream = TcpStream::connect(simulator.address()).await.unwrap();
    stream.write_all(post(SEND, TEXT).as_bytes()).await.unwrap();
    until(|| simulator.stats().faults == 1).await;
    assert!(Arc::strong_count(&simulator.shared) > idle);
    drop(stream);
    until(|| Arc::strong_count(&simulator.shared) == idle).await;
}
