//! A robot that answers as it is told to, piece by piece, and keeps what it was sent.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

pub(super) struct Robot {
    authority: String,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    messages: Mutex<Vec<String>>,
    /// A request has come, and a connection has been closed by whoever made it.
    asked: Notify,
    deserted: Notify,
}

/// What it does after a request.
#[derive(Clone)]
struct Answer {
    pieces: Vec<Vec<u8>>,
    closes: bool,
}

impl Robot {
    /// Answers each request with these pieces, one at a time, and keeps the connection.
    pub(super) async fn answering<P: AsRef<[u8]>>(pieces: &[P]) -> Self {
        Self::start(pieces, false).await
    }

    /// The same, after which it closes the connection.
    pub(super) async fn closing<P: AsRef<[u8]>>(pieces: &[P]) -> Self {
        Self::start(pieces, true).await
    }

    /// Never answers.
    pub(super) async fn silent() -> Self {
        Self::answering::<&str>(&[]).await
    }

    async fn start<P: AsRef<[u8]>>(pieces: &[P], closes: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let answer = Answer { pieces: pieces.iter().map(|piece| piece.as_ref().to_vec()).collect(), closes };
        let seen = Arc::<Seen>::default();
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(stream, answer.clone(), Arc::clone(&shared)));
            }
        });
        Self { authority, seen }
    }

    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/x", self.authority)
    }

    pub(super) fn messages(&self) -> Vec<String> {
        self.seen.messages.lock().unwrap().clone()
    }

    /// Returns once a request has come.
    pub(super) async fn asked(&self) {
        self.seen.asked.notified().await;
    }

    /// Returns once whoever asked has closed the connection, or where nobody ever asked.
    pub(super) async fn deserted(&self) {
        if !self.messages().is_empty() {
            self.seen.deserted.notified().await;
        }
    }
}

async fn serve(mut stream: TcpStream, answer: Answer, seen: Arc<Seen>) {
    while let Some(message) = message(&mut stream).await {
        seen.messages.lock().unwrap().push(message);
        seen.asked.notify_one();
        for piece in &answer.pieces {
            if stream.write_all(piece).await.is_err() {
                break;
            }
            // Whoever reads sees each of them on its own.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
        if answer.closes {
            return;
        }
    }
    seen.deserted.notify_one();
}

/// One request with its body, or nothing once the other end is closed.
async fn message(stream: &mut TcpStream) -> Option<String> {
    let mut message = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&message);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return Some(text.into_owned());
            }
        }
        if stream.read_buf(&mut message).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}
