//! What really travels: servers written by hand, which share nothing with the code under test.

use std::fmt::Display;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use ring::hmac;

use super::PATIENCE;

/// DingTalk's success.
pub const OK: &str = r#"{"errcode":0,"errmsg":"ok"}"#;

/// One request as it came.
#[derive(Debug, Clone, Default)]
pub struct Received {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Received {
    /// Every value of a header, name in any case.
    pub fn header(&self, name: &str) -> Vec<&str> {
        let found = self.headers.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str()).collect()
    }

    /// Reads one request; `None` at the end of the connection.
    pub fn read(stream: &mut TcpStream) -> Option<Self> {
        let mut raw = Vec::new();
        let mut chunk = vec![0; 64 * 1024];
        let head_end = loop {
            if let Some(end) = raw.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            match stream.read(&mut chunk).ok()? {
                0 => return None,
                read => raw.extend_from_slice(&chunk[..read]),
            }
        };
        let head = String::from_utf8_lossy(&raw[..head_end]).into_owned();
        let mut lines = head.split("\r\n");
        let mut first = lines.next()?.split(' ');
        let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let mut received = Self { method, target, headers, body: raw.split_off(head_end + 4) };
        let length: usize = received.header("content-length").first().map_or(0, |length| length.parse().unwrap());
        while received.body.len() < length {
            match stream.read(&mut chunk).ok()? {
                0 => return None,
                read => received.body.extend_from_slice(&chunk[..read]),
            }
        }
        Some(received)
    }
}

/// What a witness does after it has read a request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Writes this and reads the next request.
    Keep(Vec<u8>),
    /// Writes this and closes the connection.
    Close(Vec<u8>),
}

impl Answer {
    /// A complete answer.
    pub fn ok(body: &str) -> Self {
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        Self::Keep(format!("{head}{body}").into_bytes())
    }
}

/// A server that remembers every request.
pub struct Witness {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    stopped: Arc<AtomicBool>,
}

impl Witness {
    /// One that accepts every message.
    pub fn start() -> Self {
        Self::answering(|_| Answer::ok(OK))
    }

    /// One that answers as `answer` says.
    pub fn answering(answer: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let (all, answer) = (Arc::clone(&received), Arc::new(answer));
        let serve = move |mut stream: TcpStream| {
            while let Some(request) = Received::read(&mut stream) {
                let answer = answer(&request);
                all.lock().unwrap().push(request);
                let (Answer::Keep(bytes) | Answer::Close(bytes)) = &answer;
                if stream.write_all(bytes).is_err() || matches!(answer, Answer::Close(_)) {
                    break;
                }
            }
            let _ = stream.shutdown(Shutdown::Both);
        };
        let (address, stopped) = accept(serve);
        Self { address, received, stopped }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A webhook here, with this path and query.
    pub fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        stop(&self.stopped, self.address);
    }
}

/// Stands in front of another server, passes every byte on, and keeps those that the client sends.
pub struct Tap {
    address: SocketAddr,
    sent: Arc<Mutex<Vec<u8>>>,
    stopped: Arc<AtomicBool>,
}

impl Tap {
    pub fn before(server: SocketAddr) -> Self {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let copy = Arc::clone(&sent);
        let relay = move |client: TcpStream| {
            let server = TcpStream::connect(server).unwrap();
            let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            let answers = std::thread::spawn(move || pass(from, to, |_| ()));
            pass(client, server, |bytes| copy.lock().unwrap().extend_from_slice(bytes));
            let _ = answers.join();
        };
        let (address, stopped) = accept(relay);
        Self { address, sent, stopped }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every byte that the client has sent.
    pub fn sent(&self) -> Vec<u8> {
        self.sent.lock().unwrap().clone()
    }

    /// The targets of all requests.
    pub fn targets(&self) -> Vec<String> {
        let sent = String::from_utf8_lossy(&self.sent.lock().unwrap()).into_owned();
        let lines = sent.split("\r\n").filter_map(|line| line.strip_suffix(" HTTP/1.1"));
        // After a body without a line break, the next request's line begins in the middle of one.
        lines.filter_map(|line| line.split_once("POST ").map(|(_, target)| target.to_owned())).collect()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        stop(&self.stopped, self.address);
    }
}

/// Copies until one side ends, and then ends both.
fn pass(mut from: TcpStream, mut to: TcpStream, see: impl Fn(&[u8])) {
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut chunk) {
        see(&chunk[..read]);
        if to.write_all(&chunk[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Serves each connection on a thread of its own.
fn accept(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stopped = Arc::new(AtomicBool::new(false));
    let (stop, serve) = (Arc::clone(&stopped), Arc::new(serve));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_nodelay(true).unwrap();
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    (address, stopped)
}

fn stop(stopped: &AtomicBool, address: SocketAddr) {
    stopped.store(true, Ordering::SeqCst);
    // Wakes the thread that accepts.
    let _ = TcpStream::connect(address);
}

/// Standard base64 with padding, written here so that no mistake is shared.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, at| bits << 8 | u32::from(chunk.get(at).copied().unwrap_or_default()));
        for at in 0..4 {
            let digit = char::from(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize]);
            text.push(if at <= chunk.len() { digit } else { '=' });
        }
    }
    text
}

/// Now, in milliseconds since the Unix epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

/// DingTalk's signature by another implementation.
pub fn sign(secret: &str, timestamp: impl Display) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    base64(hmac::sign(&key, format!("{timestamp}\n{secret}").as_bytes()).as_ref())
}

#[test]
fn base64_as_in_rfc_4648() {
    for (bytes, text) in
        [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("~~?", "fn4/")]
    {
        assert_eq!(base64(bytes.as_bytes()), text);
    }
}
