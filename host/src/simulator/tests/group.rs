//! A simulated group between a person and a receiver of callbacks that does what it is told.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use dingtalk_binding::signature;
use tokio::net::TcpListener;

use super::*;
use crate::simulator::outgoing::Attempt;

/// A published time with its signature: github.com/eryajf/chatgpt-dingtalk 3766c24, public/tools_test.go.
pub(super) const NOW: u64 = 1_684_493_546_276;

pub(super) const SECRET: &str = "client-secret-for-test";

pub(super) const SIGNATURE: &str = "nwBJQmaBLv9+5/sSS/66jcFc1/kGY5wo38L88LOGfRU=";

pub(super) const REPLY: &str = r#"{"msgtype":"text","text":{"content":"pong"}}"#;

/// What the receiver does with a request.
#[derive(Clone)]
pub(super) enum Act {
    Answer(u16, String),
    /// Never answers.
    Hang,
    /// Closes the connection.
    Leave,
}

pub(super) fn ok(body: &str) -> Act {
    Act::Answer(200, body.to_owned())
}

/// A request as it came.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) start: String,
    /// Names in lower case, in order.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }

    pub(super) fn one(&self, name: &str) -> &str {
        let [value] = self.all(name)[..] else { panic!("{name}: {:?}", self.headers) };
        value
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Whether it carries a signature that belongs to its timestamp.
    pub(super) fn verifies(&self) -> bool {
        signature::verify(SECRET, self.one("timestamp"), self.one("sign").as_bytes())
    }
}

/// A server that keeps what it gets and does what it is told, `empty` afterwards.
pub(super) struct Receiver {
    pub(super) url: String,
    pub(super) requests: Arc<Mutex<Vec<Request>>>,
    pub(super) acts: Arc<Mutex<VecDeque<Act>>>,
}

impl Receiver {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1.0/callback?team=a", listener.local_addr().unwrap());
        let (requests, acts) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(VecDeque::new())));
        let (kept, told) = (requests.clone(), acts.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(receive(stream, kept.clone(), told.clone()));
            }
        });
        Self { url, requests, acts }
    }

    pub(super) fn will(&self, acts: impl IntoIterator<Item = Act>) {
        self.acts.lock().unwrap().extend(acts);
    }

    /// The requests so far, which are then forgotten.
    pub(super) fn take(&self) -> Vec<Request> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    pub(super) fn take_one(&self) -> Request {
        let mut requests = self.take();
        assert_eq!(requests.len(), 1);
        requests.remove(0)
    }
}

async fn receive(mut stream: TcpStream, kept: Arc<Mutex<Vec<Request>>>, told: Arc<Mutex<VecDeque<Act>>>) {
    let mut data = Vec::new();
    let (head, body) = loop {
        if stream.read_buf(&mut data).await.unwrap_or(0) == 0 {
            return;
        }
        let Some(end) = data.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(data[..end].to_vec()).unwrap();
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if data.len() >= end + 4 + length.unwrap_or(0) {
            break (head, data[end + 4..].to_vec());
        }
    };
    let (start, headers) = head.split_once("\r\n").unwrap();
    let headers = headers.split("\r\n").map(|line| line.split_once(": ").unwrap());
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    kept.lock().unwrap().push(Request { start: start.to_owned(), headers, body });
    let act = told.lock().unwrap().pop_front().unwrap_or_else(|| ok(r#"{"msgtype":"empty"}"#));
    match act {
        Act::Answer(status, body) => {
            let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
        Act::Hang => drop(stream.read_u8().await),
        Act::Leave => {}
    }
}

/// A simulator whose clock stands still until it is moved, with what it showed.
pub(super) struct Group {
    pub(super) simulator: Simulator,
    pub(super) receiver: Receiver,
    pub(super) now: Arc<AtomicU64>,
    pub(super) shown: Arc<Mutex<Vec<String>>>,
}

impl Group {
    pub(super) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let receiver = Receiver::start().await;
        let now = Arc::new(AtomicU64::new(NOW));
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (clock, messages, people) = (now.clone(), shown.clone(), shown.clone());
        let mut config = Config {
            robot: RobotConfig { app_secret: Some(Secret::new(SECRET)), ..RobotConfig::default() },
            clock: Arc::new(move || clock.load(Ordering::Relaxed)),
            on_message: Some(Arc::new(move |message| messages.lock().unwrap().push(message.shown.clone()))),
            on_said: Some(Arc::new(move |said| people.lock().unwrap().push(said.to_owned()))),
            callback: CallbackConfig {
                url: Some(receiver.url.clone()),
                // Long where an answer comes, so that no busy machine makes a test fail.
                timeout: Duration::from_secs(60),
                retries: 3,
                retry_interval: Duration::from_millis(1),
            },
            ..Config::default()
        };
        change(&mut config);
        Self { simulator: Simulator::start(config).await.unwrap(), receiver, now, shown }
    }

    pub(super) async fn say(&self, say: Say) -> Said {
        self.simulator.say(say).await.unwrap()
    }

    pub(super) fn shown(&self) -> Vec<String> {
        std::mem::take(&mut self.shown.lock().unwrap())
    }
}

impl Group {
    pub(super) async fn control(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        request(method, &self.simulator, path, &body.to_string()).await
    }
}

pub(super) fn attempt(status: u16) -> Attempt {
    Attempt { status: Some(status), error: None }
}
