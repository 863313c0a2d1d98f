//! The application over real sockets: what it receives, byte for byte, and what becomes of each of its answers.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dingtalk_binding::secret::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::*;
use crate::event::Undelivered;

const TOKEN: &str = "T0KEN-of-the-application";

/// The answer to an event, and to the question whether anybody reads, of an application that has nothing to say.
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// A test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// One request as it came.
#[derive(Debug, Clone)]
struct Received {
    /// Method and target.
    line: String,
    /// As it was written, without the request line.
    head: String,
    body: Vec<u8>,
}

impl Received {
    /// The values of a header, its name as it was written.
    fn header(&self, name: &str) -> Vec<&str> {
        let lines = self.head.split("\r\n").filter_map(|line| line.split_once(": "));
        lines.filter(|(found, _)| *found == name).map(|(_, value)| value).collect()
    }
}

/// What a test's application does with a request: writes this; keeps the connection if the text is not the end of
/// it; writes nothing and waits.
enum Reply {
    Keep(String),
    Close(String),
    Hang,
}

type Behaviour = Arc<dyn Fn(&Received) -> Reply + Send + Sync>;

/// A server by hand, which shares nothing with the client.
struct Server {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    /// Connections that have been accepted.
    connections: Arc<AtomicU64>,
    behaviour: Arc<Mutex<Behaviour>>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(behaviour: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), behaviour).await
    }

    async fn at(address: SocketAddr, behaviour: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let received: Arc<Mutex<Vec<Received>>> = Arc::default();
        let connections: Arc<AtomicU64> = Arc::default();
        let behaviour: Arc<Mutex<Behaviour>> = Arc::new(Mutex::new(Arc::new(behaviour)));
        let (all, count, current) = (Arc::clone(&received), Arc::clone(&connections), Arc::clone(&behaviour));
        let task = tokio::spawn(async move {
            // Dropped with the task, so that a stopped server has no connections left.
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                serving.spawn(serve(stream, Arc::clone(&all), Arc::clone(&current)));
            }
        });
        Self { address, received, connections, behaviour, task }
    }

    /// Answers events with `answer`, and everything else with success.
    async fn answering(answer: &'static str) -> Self {
        Self::start(move |request| Reply::Keep(if request.line.starts_with("POST") { answer } else { OK }.to_owned()))
            .await
    }

    fn behave(&self, behaviour: impl Fn(&Received) -> Reply + Send + Sync + 'static) {
        *self.behaviour.lock().unwrap() = Arc::new(behaviour);
    }

    fn lines(&self) -> Vec<String> {
        self.received.lock().unwrap().iter().map(|request| request.line.clone()).collect()
    }

    fn count(&self, line: &str) -> usize {
        self.lines().iter().filter(|found| *found == line).count()
    }

    fn only(&self, line: &str) -> Received {
        let received = self.received.lock().unwrap();
        let mut found = received.iter().filter(|request| request.line == line);
        let only = found.next().unwrap().clone();
        assert!(found.next().is_none(), "more than one {line}");
        only
    }

    async fn stop(self) -> SocketAddr {
        self.task.abort();
        let _ = self.task.await;
        self.address
    }
}

async fn serve(mut stream: TcpStream, received: Arc<Mutex<Vec<Received>>>, behaviour: Arc<Mutex<Behaviour>>) {
    while let Some(request) = receive(&mut stream).await {
        let behaviour = Arc::clone(&behaviour.lock().unwrap());
        received.lock().unwrap().push(request.clone());
        match behaviour(&request) {
            Reply::Keep(answer) => stream.write_all(answer.as_bytes()).await.unwrap_or_default(),
            Reply::Close(answer) => return stream.write_all(answer.as_bytes()).await.unwrap_or_default(),
            Reply::Hang => std::future::pending().await,
        }
    }
}

async fn receive(stream: &mut TcpStream) -> Option<Received> {
    let mut raw = Vec::new();
    let end = loop {
        if let Some(end) = raw.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut raw).await.ok()? == 0 {
            return None;
        }
    };
    let body = raw.split_off(end + 4);
    let head = String::from_utf8(raw).unwrap();
    let (line, head) = head.trim_end().split_once("\r\n").unwrap();
    let line = line.strip_suffix(" HTTP/1.1").unwrap().to_owned();
    let mut received = Received { line, head: head.to_owned(), body };
    let length = received.header("Content-Length").first().map_or(0, |length| length.parse().unwrap());
    while received.body.len() < length {
        if stream.read_buf(&mut received.body).await.ok()? == 0 {
            return None;
        }
    }
    assert_eq!(received.body.len(), length);
    Some(received)
}

fn config(address: SocketAddr) -> RemoteConfig {
    RemoteConfig { token: Some(Secret::new(TOKEN)), ..RemoteConfig::new(address.port()) }
}

/// An application whose binding `team` says `input`: it is not asked.
fn unasked(server: &Server) -> RemoteApp {
    RemoteApp::start(config(server.address), vec![Subscription::new("team", None, Direction::Input)]).unwrap()
}

/// A binding whose file says nothing.
fn asked() -> Vec<Subscription> {
    vec![Subscription::new("team", None, Direction::Unstated)]
}

/// A clock that stands until it is moved.
#[derive(Clone)]
struct Hand(Instant, Arc<AtomicU64>);

impl Hand {
    fn new() -> Self {
        Self(Instant::now(), Arc::default())
    }

    fn now(&self) -> Arc<dyn Fn() -> Instant + Send + Sync> {
        let Self(start, passed) = self.clone();
        Arc::new(move || start + Duration::from_millis(passed.load(Ordering::SeqCst)))
    }

    fn pass(&self, time: Duration) {
        self.1.fetch_add(time.as_millis().try_into().unwrap(), Ordering::SeqCst);
    }
}

fn event(data: &'static [u8]) -> Event {
    Event { binding: "team".into(), data: Bytes::from_static(data), metadata: Vec::new(), trace: Vec::new() }
}

/// Waits for something that another task brings about.
async fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let waiting = async {
        while !happened() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "never: {what}");
}

/// An address where nobody listens.
async fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn text(error: &Undelivered) -> String {
    let text = format!("{error} {error:?}");
    assert!(!text.contains(TOKEN), "{text}");
    error.to_string()
}

/// The error of one delivery to an application that does `behaviour` with it.
async fn failure(timeout: Duration, behaviour: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> String {
    let server = Server::start(behaviour).await;
    let config = RemoteConfig { timeout, ..config(server.address) };
    let app = RemoteApp::start(config, vec![Subscription::new("team", None, Direction::Input)]).unwrap();
    let error = app.deliver(&event(b"{}")).await.unwrap_err();
    assert!(matches!(error, Undelivered::Unreachable(_)), "{error}");
    let text = text(&error);
    assert!(text.contains(&server.address.to_string()), "{text}");
    text
}

#[tokio::test]
async fn an_event_arrives_as_daprd_sends_it() {
    let server = Server::answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nthere").await;
    let route = Subscription::new("team", Some("hooks/../in/"), Direction::Input);
    let app = RemoteApp::start(config(server.address), vec![route]).unwrap();
    let data = b"{ \"n\": 1.00,\r\n\t\"text\": \"\xe4\xbd\xa0 \\u4f60\" }\n\xff\0";
    let metadata = [("msgId", "m1+/="), ("senderNick", "张"), ("connection", "close"), ("Dapr-Api-Token", "x")];
    let event = Event {
        metadata: metadata.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        trace: vec![("traceparent".into(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into())],
        ..event(data)
    };
    assert_eq!(app.deliver(&event).await, Ok(Some(Bytes::from_static(b"there"))));

    let received = server.only("POST /in");
    assert_eq!(received.body, data);
    assert_eq!(received.header("Content-Type"), ["application/json"]);
    assert_eq!(received.header("Content-Length"), [data.len().to_string()]);
    assert_eq!(received.header("Host"), [server.address.to_string()]);
    assert_eq!(received.header("Dapr-Api-Token"), [TOKEN]);
    assert_eq!(received.header("Msgid"), ["m1+/="]);
    assert_eq!(received.header("Sendernick"), ["%E5%BC%A0"]);
    assert_eq!(received.header("Traceparent"), ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]);
    assert_eq!(received.head.split("\r\n").count(), 7, "{}", received.head);
}

#[tokio::test]
async fn without_a_token_there_is_no_header_and_without_a_trace_a_new_one() {
    let server = Server::answering(OK).await;
    for token in [None, Some(Secret::new(""))] {
        let config = RemoteConfig { token, ..config(server.address) };
        let app = RemoteApp::start(config, vec![Subscription::new("team", None, Direction::Input)]).unwrap();
        assert_eq!(app.deliver(&event(b"")).await, Ok(None));
    }
    let received = server.received.lock().unwrap().clone();
    for request in &received {
        assert_eq!((request.line.as_str(), request.body.len()), ("POST /team", 0));
        assert_eq!(request.header("Dapr-Api-Token"), [""; 0]);
        assert_eq!(request.header("Content-Length"), ["0"]);
    }
    assert_ne!(received[0].header("Traceparent"), received[1].header("Traceparent"));
}

#[tokio::test]
async fn any_2xx_takes_the_event() {
    for (answer, expected) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", None),
        ("HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}", Some("{}")),
        ("HTTP/1.1 299 Fine\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", Some("abc")),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1", Some("1")),
    ] {
        let server = Server::answering(answer).await;
        assert_eq!(unasked(&server).deliver(&event(b"{}")).await, Ok(expected.map(Bytes::from)), "{answer}");
    }
}

#[tokio::test]
async fn an_application_that_asks_to_be_left_alone_is_heard() {
    let answer = "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n";
    let server = Server::answering(answer).await;
    let error = unasked(&server).deliver(&event(b"{}")).await.unwrap_err();
    let retry_after = Some(Duration::from_secs(7));
    assert_eq!(error, Undelivered::Refused { status: 503, body: String::new(), retry_after });
    assert_eq!(error.scope(), crate::event::Scope::Application { retry_after });
}

#[tokio::test]
async fn any_other_status_refuses_it() {
    for (answer, status, body) in [
        ("HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\na\nb\0", 500, "a b "),
        ("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", 400, ""),
        ("HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", 302, ""),
        ("HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", 307, ""),
    ] {
        let server = Server::answering(answer).await;
        let error = unasked(&server).deliver(&event(b"{}")).await.unwrap_err();
        assert_eq!(error, Undelivered::Refused { status, body: body.into(), retry_after: None });
        // Redirects are not followed either.
        assert_eq!(server.lines(), ["POST /team"]);
    }
}

#[tokio::test]
async fn a_refusal_is_cut_and_does_not_show_the_token() {
    let server = Server::start(|_| {
        let body = format!("{TOKEN} is wrong {}", "长".repeat(2_000));
        Reply::Keep(format!("HTTP/1.1 401 No\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    })
    .await;
    let error = unasked(&server).deliver(&event(b"{}")).await.unwrap_err();
    assert!(text(&error).ends_with("长…"), "{error}");
    let Undelivered::Refused { status: 401, body, .. } = error else { panic!("{error}") };
    assert!(body.starts_with("[redacted] is wrong 长"), "{body}");
    let shown = TOKEN.chars().count() - "[redacted]".len();
    assert_eq!(body.chars().count(), 513 - shown);
}

#[tokio::test]
async fn a_refusal_that_repeats_the_message_does_not_show_its_session() {
    let data =
        br#"{"msgId":"m1","session\u0057ebhook":"https:\/\/oapi.dingtalk.com\/robot\/sendBySession?session=S3SS10N"}"#;
    let echo = String::from_utf8_lossy(data).into_owned();
    let server =
        Server::start(move |_| Reply::Keep(format!("HTTP/1.1 422 No\r\nContent-Length: {}\r\n\r\n{echo}", echo.len())))
            .await;
    let error = unasked(&server).deliver(&event(data)).await.unwrap_err().to_string();
    assert!(error.contains("m1") && error.contains("[redacted]") && !error.contains("S3SS10N"), "{error}");
}

#[tokio::test]
async fn a_refusal_stays_one_whatever_becomes_of_its_body() {
    let long = format!("HTTP/1.1 503 No\r\nContent-Length: 2000000\r\n\r\n{}", "x".repeat(2_000_000));
    // The beginning of the token, which nothing could recognise.
    let half = format!("HTTP/1.1 503 No\r\nContent-Length: 100\r\n\r\n{}", &TOKEN[..12]);
    for (keep, answer, expected) in
        [(true, long, "(longer than 1 MiB)"), (false, half.clone(), "(it did not"), (true, half, "(it did not")]
    {
        let server =
            Server::start(move |_| if keep { Reply::Keep(answer.clone()) } else { Reply::Close(answer.clone()) }).await;
        let config = RemoteConfig { timeout: Duration::from_millis(500), ..config(server.address) };
        let app = RemoteApp::start(config, vec![Subscription::new("team", None, Direction::Input)]).unwrap();
        let error = app.deliver(&event(b"{}")).await.unwrap_err();
        assert!(
            matches!(&error, Undelivered::Refused { status: 503, body, .. } if body.starts_with(expected)),
            "{error}"
        );
    }
}

#[tokio::test]
async fn what_is_no_answer_is_told_apart() {
    let patient = PATIENCE;
    let error = failure(Duration::from_millis(50), |_| Reply::Hang).await;
    assert!(error.contains("has not answered within 50ms") && error.contains("--app-timeout"), "{error}");
    let half_head = |_: &Received| Reply::Close("HTTP/1.1 200 OK\r\nContent-".into());
    for behaviour in [half_head as fn(&Received) -> Reply, |_| Reply::Close(String::new())] {
        let error = failure(patient, behaviour).await;
        assert!(error.contains("closed the connection before it answered"), "{error}");
    }
    let error = failure(patient, |_| Reply::Close("SSH-2.0-OpenSSH_9.9\r\n\r\n".into())).await;
    assert!(error.contains("is not HTTP/1.1"), "{error}");
    let error = failure(patient, |_| Reply::Close("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234".into())).await;
    assert!(error.contains("broke off in its body"), "{error}");
    let half_body = |_: &Received| Reply::Keep("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234".into());
    let error = failure(Duration::from_millis(50), half_body).await;
    assert!(error.contains("has not answered within 50ms"), "{error}");
}

#[tokio::test]
async fn an_answer_of_a_mebibyte_is_read_and_no_more() {
    let answer = |length: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length));
    let error = failure(PATIENCE, move |_| Reply::Keep(answer((1 << 20) + 1))).await;
    assert!(error.contains("is longer than 1 MiB"), "{error}");
    let endless = || format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(2 << 20));
    let error = failure(PATIENCE, move |_| Reply::Keep(endless())).await;
    assert!(error.contains("is longer than 1 MiB"), "{error}");
    let server = Server::start(move |_| Reply::Keep(answer(1 << 20))).await;
    assert_eq!(unasked(&server).deliver(&event(b"{}")).await.unwrap().unwrap().len(), 1 << 20);
}

#[tokio::test]
async fn addresses_where_nobody_is() {
    let address = free().await;
    let app = RemoteApp::start(config(address), vec![Subscription::new("team", None, Direction::Input)]).unwrap();
    let error = text(&app.deliver(&event(b"{}")).await.unwrap_err());
    let port = address.port();
    let expected = format!(
        "error invoking app: 127.0.0.1:{port} refuses connections; is the application listening on --app-port {port}?"
    );
    assert_eq!(error, expected);

    let config = RemoteConfig { address: "no-such-host.invalid".into(), ..config(address) };
    let app = RemoteApp::start(config, vec![Subscription::new("team", None, Direction::Input)]).unwrap();
    let error = text(&app.deliver(&event(b"{}")).await.unwrap_err());
    assert!(
        error.contains("no connection to no-such-host.invalid") && error.contains("--app-channel-address"),
        "{error}"
    );
}

#[tokio::test]
async fn a_bad_configuration_is_refused_without_showing_the_token() {
    let token = Some(Secret::new(format!("{TOKEN}\n")));
    let error = RemoteApp::start(RemoteConfig { token, ..RemoteConfig::new(1) }, Vec::new()).err().unwrap();
    assert!(error.to_string().contains("--app-token"), "{error}");
    assert!(!format!("{error} {error:?}").contains(TOKEN));
    let address = "http://app".to_owned();
    let error = RemoteApp::start(RemoteConfig { address, ..RemoteConfig::new(1) }, Vec::new()).err().unwrap();
    assert!(error.to_string().contains("--app-channel-address"), "{error}");
}

#[tokio::test]
async fn connections_are_kept() {
    let server = Server::answering(OK).await;
    let app = unasked(&server);
    for _ in 0..50 {
        assert_eq!(app.deliver(&event(b"{}")).await, Ok(None));
    }
    // One, unless the next event is faster than the connection's way back into the pool.
    assert!(server.connections.load(Ordering::SeqCst) < 25);
}

#[tokio::test]
async fn daprds_question_decides() {
    for (status, reads) in
        [(200, true), (204, true), (405, true), (404, false), (401, false), (500, false), (301, false)]
    {
        let server = Server::start(move |request| {
            let answer = format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n");
            Reply::Keep(if request.line.starts_with("OPTIONS") { answer } else { OK.into() })
        })
        .await;
        let app = RemoteApp::start(config(server.address), asked()).unwrap();
        assert_eq!(app.reads("team").await.is_ok(), reads, "{status}");
        let result = app.deliver(&event(b"{}")).await;
        assert_eq!(result.is_ok(), reads, "{status}");
        if let Err(error) = result {
            assert!(text(&error).contains(&format!("OPTIONS /team with {status}")), "{error}");
        }
        let question = server.only("OPTIONS /team");
        assert_eq!(question.header("Content-Type"), ["application/json"]);
        assert_eq!(question.header("Dapr-Api-Token"), [TOKEN]);
        assert_eq!(server.count("POST /team"), usize::from(reads));
    }
}

#[tokio::test]
async fn nobody_is_asked_where_the_file_decides() {
    let server = Server::start(|request| {
        Reply::Keep(if request.line.starts_with("OPTIONS") { "HTTP/1.1 404 No\r\n\r\n" } else { OK }.into())
    })
    .await;
    let subscriptions =
        vec![Subscription::new("team", None, Direction::Both), Subscription::new("alerts", None, Direction::Output)];
    let app = RemoteApp::start(config(server.address), subscriptions).unwrap();
    assert_eq!(app.deliver(&event(b"{}")).await, Ok(None));
    for binding in ["alerts", "unknown"] {
        let error = app.deliver(&Event { binding: binding.into(), ..event(b"{}") }).await.unwrap_err();
        assert!(matches!(&error, Undelivered::NotSubscribed { binding: named, .. } if named == binding), "{error}");
    }
    assert_eq!(server.lines(), ["POST /team"]);
}

#[tokio::test]
async fn bindings_come_change_and_go_while_it_runs() {
    let server = Server::start(|_| Reply::Keep(OK.into())).await;
    let app = RemoteApp::start(config(server.address), Vec::new()).unwrap();
    let refused = async || {
        let error = app.deliver(&event(b"{}")).await.unwrap_err();
        assert!(matches!(error, Undelivered::NotSubscribed { .. }), "{error}");
    };
    refused().await;
    app.subscribe(Subscription::new("team", Some("/old"), Direction::Unstated));
    until("it is asked", || server.count("OPTIONS /old") == 1).await;
    app.subscribe(Subscription::new("team", Some("/new"), Direction::Input));
    assert_eq!(app.deliver(&event(b"{}")).await, Ok(None));
    app.unsubscribe("team");
    refused().await;
    assert_eq!(server.lines(), ["OPTIONS /old", "POST /new"]);
    assert!(app.asking.lock().unwrap().is_empty(), "somebody still asks for what is gone");
}

#[tokio::test]
async fn a_no_holds_for_five_seconds() {
    let server = Server::start(|_| Reply::Keep("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n".into())).await;
    let hand = Hand::new();
    let app = RemoteApp::start_at(config(server.address), asked(), hand.now()).unwrap();
    assert!(app.reads("team").await.is_err());
    server.behave(|_| Reply::Keep(OK.into()));
    hand.pass(Duration::from_millis(4_999));
    assert!(app.deliver(&event(b"{}")).await.is_err());
    assert_eq!(server.lines(), ["OPTIONS /team"]);
    // A newer version has been started in its place.
    hand.pass(Duration::from_millis(1));
    assert_eq!(app.deliver(&event(b"{}")).await, Ok(None));
    assert_eq!(server.lines(), ["OPTIONS /team", "OPTIONS /team", "POST /team"]);
}

#[tokio::test]
async fn an_application_that_starts_later_is_found_without_an_event() {
    let address = free().await;
    let app = RemoteApp::start(config(address), asked()).unwrap();
    let error = app.deliver(&event(b"{}")).await.unwrap_err();
    assert!(matches!(error, Undelivered::NoConnection(_)), "{error}");
    let server = Server::at(address, |_| Reply::Keep(OK.into())).await;
    until("it is asked", || server.count("OPTIONS /team") == 1).await;
    assert_eq!(app.deliver(&event(b"{}")).await, Ok(None));
    assert_eq!(server.lines(), ["OPTIONS /team", "POST /team"]);
}

#[tokio::test]
async fn a_restarted_application_is_asked_again() {
    let server = Server::answering(OK).await;
    let app = RemoteApp::start(config(server.address), asked()).unwrap();
    assert_eq!(app.deliver(&event(b"{}")).await, Ok(None));
    let address = server.stop().await;
    // The pool may notice the closed connection before or after the first attempt.
    for _ in 0..2 {
        let error = app.deliver(&event(b"{}")).await.unwrap_err();
        assert!(matches!(error, Undelivered::NoConnection(_) | Undelivered::Unreachable(_)), "{error}");
    }
    let server = Server::at(address, |_| Reply::Keep(OK.into())).await;
    assert_eq!(app.deliver(&event(b"{}")).await, Ok(None));
    assert_eq!(server.lines(), ["OPTIONS /team", "POST /team"]);
}

#[tokio::test]
async fn a_slow_question_is_no_answer() {
    let server = Server::start(|_| Reply::Hang).await;
    let config = RemoteConfig { probe_timeout: Duration::from_millis(30), ..config(server.address) };
    let app = RemoteApp::start(config, asked()).unwrap();
    let error = text(&app.reads("team").await.unwrap_err());
    assert!(error.contains("within 30ms") && error.contains("--app-binding-options-timeout"), "{error}");
    server.behave(|_| Reply::Keep(OK.into()));
    assert_eq!(app.deliver(&event(b"{}")).await, Ok(None));
}

#[tokio::test]
async fn only_a_healthy_application_gets_events() {
    let healthy = |yes: bool| {
        move |request: &Received| {
            let no = request.line == "GET /up?deep=1" && !yes;
            Reply::Keep(if no { "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n" } else { OK }.to_owned())
        }
    };
    let server = Server::start(healthy(false)).await;
    let health = HealthConfig {
        path: "up?deep=1".into(),
        interval: Duration::from_millis(50),
        timeout: Duration::from_millis(50),
        threshold: 3,
    };
    let app = RemoteApp::start(RemoteConfig { health: Some(health), ..config(server.address) }, asked()).unwrap();
    assert_eq!(app.deliver(&event(b"{}")).await, Err(Undelivered::Unhealthy));
    until("it is checked", || server.count("GET /up?deep=1") >= 5).await;
    assert_eq!(app.reads("team").await, Err(Undelivered::Unhealthy));
    assert_eq!(server.count("OPTIONS /team") + server.count("POST /team"), 0);

    server.behave(healthy(true));
    until("it is asked", || server.count("OPTIONS /team") == 1).await;
    assert_eq!(app.deliver(&event(b"{}")).await, Ok(None));

    server.behave(healthy(false));
    let unhealthy = async {
        while app.reads("team").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, unhealthy).await.unwrap();
    assert_eq!(app.deliver(&event(b"{}")).await, Err(Undelivered::Unhealthy));
    assert_eq!(server.count("POST /team"), 1);

    server.behave(healthy(true));
    // It may be another version: it is asked again.
    until("it is asked again", || server.count("OPTIONS /team") == 2).await;
    assert_eq!(app.deliver(&event(b"{}")).await, Ok(None));
}

#[tokio::test]
async fn nothing_goes_on_after_the_end() {
    let server = Server::answering(OK).await;
    let health = HealthConfig {
        interval: Duration::from_millis(5),
        timeout: Duration::from_millis(5),
        ..HealthConfig::default()
    };
    let app = RemoteApp::start(RemoteConfig { health: Some(health), ..config(server.address) }, asked()).unwrap();
    until("it is checked", || server.count("GET /healthz") >= 2).await;
    drop(app);
    // What was on its way when it ended.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let checks = server.count("GET /healthz");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.count("GET /healthz"), checks);
}
