//! An application written by hand, which shares nothing with the code under test: it remembers every request
//! byte for byte, answers as it is told, and can go away and come back on its port.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::net::TcpSocket;

use super::witness::Received;
use super::{PATIENCE, pause};

/// What the application does with a request that it has read and remembered.
#[derive(Debug, Clone)]
pub enum Act {
    /// Status and body, as JSON.
    Answer(u16, String),
    /// These bytes, and then the end of the connection: half an answer, or no HTTP at all.
    Raw(Vec<u8>),
    /// A reset connection instead of an answer. The request must have a body.
    Reset,
}

impl Act {
    /// 200 with this body.
    pub fn ok(body: &str) -> Self {
        Self::Answer(200, body.to_owned())
    }
}

type Behaviour = Arc<dyn Fn(&Received) -> Act + Send + Sync>;

struct Shared {
    received: Mutex<Vec<Received>>,
    behaviour: Mutex<Behaviour>,
    options: Mutex<Behaviour>,
    health: Mutex<u16>,
    connections: Mutex<Vec<TcpStream>>,
}

pub struct App {
    address: SocketAddr,
    /// Bound and never listening: keeps the port while the application is away.
    _port: TcpSocket,
    shared: Arc<Shared>,
    running: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl App {
    /// One that runs, reads from every binding, is healthy, and answers every event with an empty 200.
    pub fn start() -> Self {
        let mut app = Self::away();
        app.restart();
        app
    }

    /// One that is not there yet, and has its port already.
    pub fn away() -> Self {
        let port = TcpSocket::new_v4().unwrap();
        port.set_reuseaddr(true).unwrap();
        port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let shared = Shared {
            received: Mutex::default(),
            behaviour: Mutex::new(Arc::new(|_| Act::ok(""))),
            options: Mutex::new(Arc::new(|_| Act::ok(""))),
            health: Mutex::new(200),
            connections: Mutex::default(),
        };
        Self { address: port.local_addr().unwrap(), _port: port, shared: Arc::new(shared), running: None }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For `--app-port`.
    pub fn port(&self) -> String {
        self.address.port().to_string()
    }

    /// Every event from now on is answered like this.
    pub fn answer(&self, act: Act) {
        self.answer_with(move |_| act.clone());
    }

    /// Every event from now on is answered as `behaviour` says, which may take its time.
    pub fn answer_with(&self, behaviour: impl Fn(&Received) -> Act + Send + Sync + 'static) {
        *self.shared.behaviour.lock().unwrap() = Arc::new(behaviour);
    }

    /// Answers `act` once the gate is open.
    pub fn answer_behind(&self, act: Act) -> Gate {
        let gate = Gate::default();
        let closed = gate.clone();
        self.answer_with(move |_| {
            closed.pass();
            act.clone()
        });
        gate
    }

    /// What OPTIONS is answered with, by its target.
    pub fn options(&self, status: impl Fn(&str) -> u16 + Send + Sync + 'static) {
        let options = move |request: &Received| Act::Answer(status(&request.target), String::new());
        *self.shared.options.lock().unwrap() = Arc::new(options);
    }

    /// What GET is answered with.
    pub fn health(&self, status: u16) {
        *self.shared.health.lock().unwrap() = status;
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// Every event so far.
    pub fn events(&self) -> Vec<Received> {
        self.requests().into_iter().filter(|request| request.method == "POST").collect()
    }

    /// The targets that were asked about.
    pub fn asked(&self) -> Vec<String> {
        let options = self.requests().into_iter().filter(|request| request.method == "OPTIONS");
        options.map(|request| request.target).collect()
    }

    /// Waits until there have been so many events, and gives the last of them.
    pub fn wait_for_events(&self, count: usize) -> Received {
        let start = Instant::now();
        while self.events().len() < count {
            assert!(start.elapsed() < PATIENCE, "{} events instead of {count}", self.events().len());
            pause();
        }
        self.events().swap_remove(count - 1)
    }

    /// Goes away: nobody listens any more, and no connection is left.
    pub fn stop(&mut self) {
        let Some((stopped, thread)) = self.running.take() else { return };
        stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        thread.join().unwrap();
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Comes back on its port.
    pub fn restart(&mut self) {
        assert!(self.running.is_none(), "it runs");
        let start = Instant::now();
        let listener = loop {
            match TcpListener::bind(self.address) {
                Ok(listener) => break listener,
                Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
            }
            pause();
        };
        let stopped = Arc::new(AtomicBool::new(false));
        let (stop, shared) = (Arc::clone(&stopped), Arc::clone(&self.shared));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                shared.connections.lock().unwrap().push(stream.try_clone().unwrap());
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        self.running = Some((stopped, thread));
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        while let Some(request) = read(&mut stream) {
            let behaviour = match request.method.as_str() {
                "OPTIONS" => Arc::clone(&self.options.lock().unwrap()),
                "GET" => {
                    let status = *self.health.lock().unwrap();
                    Arc::new(move |_: &Received| Act::Answer(status, String::new()))
                }
                _ => Arc::clone(&self.behaviour.lock().unwrap()),
            };
            self.received.lock().unwrap().push(request.clone());
            match behaviour(&request) {
                Act::Answer(status, body) => {
                    finish(&mut stream, &request);
                    let head = format!("HTTP/1.1 {status} Whatever\r\nContent-Type: application/json\r\n");
                    // An answer without a body must not announce one.
                    let length =
                        if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
                    if stream.write_all(format!("{head}{length}\r\n{body}").as_bytes()).is_err() {
                        return;
                    }
                }
                Act::Raw(bytes) => {
                    finish(&mut stream, &request);
                    let _ = stream.write_all(&bytes);
                    let _ = stream.shutdown(Shutdown::Both);
                    return;
                }
                // What is closed with a byte unread is reset. The clone that `stop` would use must not hold it.
                Act::Reset => {
                    let peer = stream.peer_addr().ok();
                    self.connections.lock().unwrap().retain(|known| known.peer_addr().ok() != peer);
                    return;
                }
            }
        }
    }
}

/// Reads one request, and leaves the last byte of its body where it is; `None` at the end of the connection.
fn read(stream: &mut TcpStream) -> Option<Received> {
    let mut raw = Vec::new();
    let mut byte = [0];
    while !raw.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        raw.push(byte[0]);
    }
    let head = String::from_utf8(raw).expect("a head in ASCII");
    let mut lines = head.trim_end_matches("\r\n").split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{line:?} is no header")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut request = Received { method, target, headers, body: Vec::new() };
    assert_eq!(request.header("transfer-encoding"), Vec::<&str>::new(), "the host knows an event's length");
    let length: usize = request.header("content-length").first().map_or(0, |length| length.parse().unwrap());
    if length > 0 {
        request.body = vec![0; length - 1];
        stream.read_exact(&mut request.body).ok()?;
        if stream.peek(&mut byte).ok()? == 0 {
            return None;
        }
        request.body.push(byte[0]);
    }
    Some(request)
}

/// Reads what [`read`] has left.
fn finish(stream: &mut TcpStream, request: &Received) {
    if !request.body.is_empty() {
        let _ = stream.read_exact(&mut [0]);
    }
}

/// Lets an application wait until the test says so.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    /// Waits until it is open.
    pub fn pass(&self) {
        let open = self.0.0.lock().unwrap();
        let (_open, timeout) = self.0.1.wait_timeout_while(open, PATIENCE, |open| !*open).unwrap();
        assert!(!timeout.timed_out(), "nobody opens the gate");
    }
}
