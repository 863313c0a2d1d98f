//! A robot that answers when the test says so: what "in flight" means is then no matter of timing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};

use super::PATIENCE;

/// Receives one message and holds it.
pub struct Held {
    address: SocketAddr,
    received: Receiver<TcpStream>,
}

/// A message that waits for its answer.
pub struct Waiting(TcpStream);

impl Held {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (receive, received) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if read_request(&stream).is_some() && receive.send(stream).is_err() {
                    break;
                }
            }
        });
        Self { address, received }
    }

    pub fn url(&self) -> String {
        format!("http://{}/robot/send?access_token=held", self.address)
    }

    /// The next message, once it has arrived whole.
    pub fn receive(&self) -> Waiting {
        Waiting(self.received.recv_timeout(PATIENCE).expect("a message arrives"))
    }
}

impl Waiting {
    /// Lets the sender know of its success.
    pub fn accept(mut self) {
        let body = r#"{"errcode":0,"errmsg":"ok"}"#;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
        write!(self.0, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
    }
}

fn read_request(stream: &TcpStream) -> Option<()> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut stream = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end().to_ascii_lowercase().split_once(':') {
            Some(("content-length", value)) => length = value.trim().parse().ok()?,
            Some(("transfer-encoding", _)) => panic!("the component knows a message's length"),
            None if line.trim().is_empty() => break,
            _ => {}
        }
    }
    stream.read_exact(&mut vec![0; length]).ok()
}
