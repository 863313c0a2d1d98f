//! Both ends of the way through the inbox, written by hand: DingTalk, which signs with another implementation than
//! the one under test, and an application, which can go away and come back under the same port.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::witness::{Received, now, sign};
use super::{PATIENCE, Reply, parse};

/// What DingTalk signs callbacks with.
pub const APP_SECRET: &str = "an-app-secret-of-the-tests";

/// What a callback is answered when there is nothing to say.
pub const EMPTY: &str = r#"{"msgtype":"empty"}"#;

/// A message as DingTalk sends it.
pub fn message(msg_id: &str, conversation: &str) -> Value {
    json!({
        "msgtype": "text",
        "text": {"content": format!("text of {msg_id}")},
        "msgId": msg_id,
        "conversationId": conversation,
        "conversationType": "2",
        "senderId": "$:1",
        "createAt": 1_684_493_546_276_u64,
    })
}

/// Posts `message` to the binding `team`, signed for this moment.
#[track_caller]
pub fn post(host: SocketAddr, message: &Value) -> Reply {
    try_post(host, message).unwrap_or_else(|| panic!("no answer to {message}"))
}

/// As [`post`]; `None` if no whole answer came, as from a host that was killed.
pub fn try_post(host: SocketAddr, message: &Value) -> Option<Reply> {
    let (body, timestamp) = (message.to_string(), now());
    let sign = sign(APP_SECRET, timestamp);
    let head = format!(
        "POST /v1.0/bindings/team/callback HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: \
         application/json; charset=utf-8\r\ntimestamp: {timestamp}\r\nsign: {sign}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(host).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).ok()?;
    let mut raw = Vec::new();
    // Also what came before the connection broke may be a whole answer.
    let _ = stream.read_to_end(&mut raw);
    if !raw.windows(4).any(|window| window == b"\r\n\r\n") {
        return None;
    }
    let reply = parse(&raw);
    let length: usize = reply.header("content-length")?.parse().ok()?;
    (reply.body.len() == length).then_some(reply)
}

/// An event as the application got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub msg_id: String,
    pub conversation: String,
    pub at: Instant,
}

/// What the application does with one.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: String,
    /// More headers, each with its line end.
    pub headers: &'static str,
    /// Before it answers.
    pub pause: Duration,
}

impl Answer {
    pub fn status(status: u16) -> Self {
        Self { status, body: String::new(), headers: "", pause: Duration::ZERO }
    }

    /// A reply for the conversation.
    pub fn reply(text: &str) -> Self {
        Self { body: reply(text), ..Self::status(200) }
    }

    pub fn after(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }
}

/// A reply as the application writes it.
pub fn reply(text: &str) -> String {
    json!({"msgtype": "text", "text": {"content": text}}).to_string()
}

type Rule = Arc<dyn Fn(&Delivery) -> Answer + Send + Sync>;

struct State {
    rule: Mutex<Rule>,
    /// With the status that each was answered.
    deliveries: Mutex<Vec<(Delivery, u16)>>,
}

/// The application. Remembers what it was given, in order.
pub struct App {
    port: u16,
    state: Arc<State>,
    running: Mutex<Option<Running>>,
}

struct Running {
    stopped: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    accepting: JoinHandle<()>,
}

impl App {
    /// One that is not there yet, but has a port.
    pub fn absent() -> Self {
        let state = State { rule: Mutex::new(Arc::new(|_| Answer::status(200))), deliveries: Mutex::default() };
        Self { port: free_port(), state: Arc::new(state), running: Mutex::default() }
    }

    /// One that takes everything.
    pub fn start() -> Self {
        let app = Self::absent();
        app.up();
        app
    }

    /// One that does as `rule` says.
    pub fn answering(rule: impl Fn(&Delivery) -> Answer + Send + Sync + 'static) -> Self {
        let app = Self::start();
        app.answers(rule);
        app
    }

    /// From now on it does as `rule` says.
    pub fn answers(&self, rule: impl Fn(&Delivery) -> Answer + Send + Sync + 'static) {
        *lock(&self.state.rule) = Arc::new(rule);
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Begins to listen.
    pub fn up(&self) {
        let listener = listen(self.port);
        let (stopped, connections) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stop, all, state) = (Arc::clone(&stopped), Arc::clone(&connections), Arc::clone(&self.state));
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                stream.set_nodelay(true).unwrap();
                lock(&all).push(stream.try_clone().unwrap());
                let state = Arc::clone(&state);
                std::thread::spawn(move || state.serve(stream));
            }
        });
        *lock(&self.running) = Some(Running { stopped, connections, accepting });
    }

    /// Goes away: nobody listens, and every connection is closed.
    pub fn down(&self) {
        let Some(Running { stopped, connections, accepting }) = lock(&self.running).take() else { return };
        stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        accepting.join().unwrap();
        for connection in lock(&connections).drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Every event that it was given, taken or not.
    pub fn given(&self) -> Vec<Delivery> {
        lock(&self.state.deliveries).iter().map(|(delivery, _)| delivery.clone()).collect()
    }

    /// Those that it took.
    pub fn taken(&self) -> Vec<Delivery> {
        let deliveries = lock(&self.state.deliveries);
        deliveries.iter().filter(|(_, status)| *status < 300).map(|(delivery, _)| delivery.clone()).collect()
    }

    /// Their identifiers.
    pub fn taken_ids(&self) -> Vec<String> {
        self.taken().into_iter().map(|delivery| delivery.msg_id).collect()
    }

    /// Identifiers of those that it took of a conversation, each where it came first.
    pub fn first_of(&self, conversation: &str) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let of = self.taken().into_iter().filter(|delivery| delivery.conversation == conversation);
        of.map(|delivery| delivery.msg_id).filter(|msg_id| seen.insert(msg_id.clone())).collect()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.down();
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) {
        while let Some(request) = Received::read(&mut stream) {
            let answer = match request.method.as_str() {
                // The question whether the application reads from the binding.
                "OPTIONS" => Answer::status(200),
                _ => self.take(&request),
            };
            std::thread::sleep(answer.pause);
            let Answer { status, body, headers, .. } = answer;
            let length = body.len();
            let text = format!(
                "HTTP/1.1 {status} Answer\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{headers}\r\n\
                 {body}"
            );
            if stream.write_all(text.as_bytes()).is_err() {
                break;
            }
        }
        let _ = stream.shutdown(Shutdown::Both);
    }

    /// An application acts before it answers: what it was given counts from this moment.
    fn take(&self, request: &Received) -> Answer {
        let event: Value = serde_json::from_slice(&request.body).unwrap();
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let delivery = Delivery { msg_id: text("msgId"), conversation: text("conversationId"), at: Instant::now() };
        let rule = Arc::clone(&lock(&self.rule));
        let answer = rule(&delivery);
        lock(&self.deliveries).push((delivery, answer.status));
        answer
    }
}

/// A rule that panics has failed its test already.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A port that nobody else is given while the application is away: below those that systems hand out.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..10_000 {
        let count = u32::from(NEXT.fetch_add(1, Ordering::SeqCst));
        let port = u16::try_from(12_000 + (std::process::id() * 64 + count) % 20_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// The port's last connections may not have ended yet.
fn listen(port: u16) -> TcpListener {
    let start = Instant::now();
    loop {
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => return listener,
            Err(error) => assert!(start.elapsed() < PATIENCE, "port {port}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
