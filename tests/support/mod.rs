//! What the tests share: the host as a process, the simulated robot, and an HTTP client that shows bytes.

pub mod app;
pub mod bot;
pub mod guest;
pub mod held;
pub mod inbox_app;
pub mod plain;
pub mod receiving;
/// The PostgreSQL of the host's own tests, which use all of it.
#[cfg(unix)]
#[allow(dead_code, reason = "the tests here use a part of it")]
#[path = "../../host/src/queue/tests/server.rs"]
pub mod server;
pub mod witness;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dingtalk_binding::secret::Secret;
use dingtalk_host::sandbox::{Instances, Limits};
use dingtalk_host::simulator::conversation::Say;
use dingtalk_host::simulator::fault::{Fault, Times};
use dingtalk_host::simulator::outgoing::Said;
use dingtalk_host::simulator::robot::RobotConfig;
use dingtalk_host::simulator::{Config, Message, Simulator, Stats};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Nothing here takes long; what takes longer than this hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const SECRET: &str = "SECb90923e19e58b466481e9e7b7a5b4f108a4531abde590ad3967fb29f0eae5c68";
pub const TOKEN: &str = "c4n4ry0t0k3n0f0th30r0b0t";

/// The limits of a sandbox, with instances as the variable of the host's flag has them: the tests run with both.
pub fn limits() -> Limits {
    let lifetime = std::env::var("DINGTALK_INSTANCES").ok().map(|name| {
        let named = Instances::ALL.into_iter().find(|instances| instances.name() == name);
        named.expect("DINGTALK_INSTANCES is fresh or rewound")
    });
    Limits { lifetime: lifetime.unwrap_or_default(), ..Limits::default() }
}

/// A simulated robot that runs beside the test.
pub struct Robot {
    runtime: Runtime,
    simulator: Option<Simulator>,
}

impl Robot {
    /// A robot that wants signatures and has no rate limit.
    pub fn start() -> Self {
        Self::with(RobotConfig { secret: Some(Secret::new(SECRET)), ..Self::config() })
    }

    /// What `start` begins from: our token, no rate limit, no secret.
    pub fn config() -> RobotConfig {
        RobotConfig { access_token: Secret::new(TOKEN), rate_limit: 0, ..RobotConfig::default() }
    }

    pub fn with(robot: RobotConfig) -> Self {
        Self::from(Config { robot, ..Config::default() })
    }

    pub fn from(config: Config) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let simulator = runtime.block_on(Simulator::start(config)).unwrap();
        Self { runtime, simulator: Some(simulator) }
    }

    fn simulator(&self) -> &Simulator {
        self.simulator.as_ref().unwrap()
    }

    pub fn url(&self) -> String {
        self.simulator().url()
    }

    pub fn address(&self) -> SocketAddr {
        self.simulator().address()
    }

    pub fn messages(&self) -> Vec<Message> {
        self.simulator().messages()
    }

    pub fn stats(&self) -> Stats {
        self.simulator().stats()
    }

    pub fn fail(&self, fault: Fault, times: Times) {
        self.simulator().set_fault(fault, times);
    }

    pub fn recover(&self) {
        self.simulator().clear_fault();
    }

    /// Somebody says something; returns when its callback was answered or given up.
    pub fn say(&self, say: Say) -> Said {
        self.runtime.block_on(self.simulator().say(say)).unwrap()
    }

    pub fn set_callback_url(&self, url: &str) {
        self.simulator().set_callback_url(url).unwrap();
    }
}

impl Drop for Robot {
    fn drop(&mut self) {
        if let Some(simulator) = self.simulator.take() {
            self.runtime.block_on(simulator.stop());
        }
    }
}

/// A folder with component files.
pub struct Resources(TempDir);

impl Resources {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// One file with one binding of these properties.
    pub fn binding(name: &str, properties: &[(&str, &str)]) -> Self {
        Self::new().with(&format!("{name}.yaml"), &component(name, properties))
    }

    /// One binding of `robot`, signed.
    pub fn of(name: &str, robot: &Robot) -> Self {
        Self::binding(name, &[("id", name), ("url", &robot.url()), ("secret", SECRET)])
    }

    pub fn with(self, file: &str, text: &str) -> Self {
        self.write(file, text);
        self
    }

    pub fn write(&self, file: &str, text: &str) {
        std::fs::write(self.path().join(file), text).unwrap();
    }

    pub fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

/// A component document. The robots of the tests have no rate limit unless they are told to, and so their bindings; and what a
/// robot does not take is tried once, unless a test is about that.
pub fn component(name: &str, properties: &[(&str, &str)]) -> String {
    let mut yaml = format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: {name}\nspec:\n  type: \
         bindings.dingtalk.webhook\n  version: v1\n  metadata:\n"
    );
    let own = |wanted: &str| properties.iter().any(|(name, _)| *name == wanted);
    let defaults = [("rateLimit", "0"), ("retries", "0")];
    for (name, value) in properties.iter().chain(defaults.iter().filter(|(name, _)| !own(name))) {
        // JSON's strings are YAML's.
        yaml.push_str(&format!("  - name: {name}\n    value: {}\n", serde_json::json!(value)));
    }
    yaml
}

/// The command with an environment that does not depend on the machine's.
pub fn command(arguments: &[&str]) -> Command {
    // Only the host's own tests have its program, and only they run it.
    let mut command = Command::new(option_env!("CARGO_BIN_EXE_dingtalk-host").unwrap_or_default());
    command.args(arguments).stdin(Stdio::null());
    for variable in [
        "APP_API_TOKEN",
        "APP_ID",
        "DINGTALK_STORE",
        "CLICOLOR_FORCE",
        "DAPR_API_TOKEN",
        "DAPR_COMPONENTS_SOCKETS_FOLDER",
        "DAPR_COMPONENT_SOCKETS_FOLDER",
        "DAPR_COMPONENT_SOCKET_FOLDER",
        "DAPR_ENV_KEYS",
        "DAPR_HTTP_PORT",
        "DAPR_LOG_LEVEL",
        "NAMESPACE",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_RESOURCE_ATTRIBUTES",
        "OTEL_SERVICE_NAME",
        "POD_NAME",
        "ROBOT_SECRET",
        "ROBOT_URL",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "no_proxy",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    ] {
        command.env_remove(variable);
    }
    // Hosts of several tests run at once.
    command.env("DAPR_GRPC_PORT", "0");
    command
}

/// Runs the command to its end.
pub fn run(arguments: &[&str]) -> Output {
    finish(command(arguments), b"")
}

/// Runs `command` to its end with `input` on standard input. One that does not end is killed and fails the
/// test: a host that starts although it should not would otherwise run forever.
pub fn finish(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (input, stdout, stderr) = (input.to_owned(), child.stdout.take().unwrap(), child.stderr.take().unwrap());
    // A command that fails early leaves its input unread.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let (stdout, stderr) = (read_all(stdout), read_all(stderr));
    let Some(status) = wait(&mut child) else {
        child.kill().unwrap();
        child.wait().unwrap();
        panic!("{command:?} does not end:\n{}", String::from_utf8_lossy(&stderr.join().unwrap()));
    };
    writer.join().unwrap();
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// Waits for the end of a process, but not forever.
pub fn wait(child: &mut Child) -> Option<ExitStatus> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// Between two looks at something that is waited for.
pub fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

/// Sends a signal, by its name without "SIG".
pub fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn read_all(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// `dingtalk-host serve` as a process; ends with the value.
pub struct Host {
    child: Child,
    address: SocketAddr,
    log: Arc<Mutex<String>>,
    output: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Host {
    pub fn serve(resources: &Resources) -> Self {
        Self::serve_with(resources, &[], &[])
    }

    /// With more arguments and environment variables. Logs at debug level, so that every test sees whatever
    /// the host could say.
    pub fn serve_with(resources: &Resources, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let path = resources.path().to_str().unwrap();
        let mut command = command(&["serve", "--resources-path", path, "--dapr-http-port", "0"]);
        command.args(["--log-level", "debug"]).args(arguments).envs(environment.iter().copied());
        Self::spawn(command)
    }

    /// From a command that becomes one.
    pub fn spawn(command: Command) -> Self {
        Self::when(command, listening)
    }

    /// From `dingtalk-host pluggable`, which listens on sockets: it has no address.
    pub fn pluggable(command: Command) -> Self {
        Self::when(command, |line| {
            let is_last = line.contains("listening for daprd") && line.contains("alicloud");
            is_last.then(|| SocketAddr::from(([0, 0, 0, 0], 0)))
        })
    }

    /// Once a line of the log tells the address.
    fn when(mut command: Command, listening: impl Fn(&str) -> Option<SocketAddr> + Send + 'static) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (found, address) = mpsc::channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let copy = Arc::clone(&log);
        let errors = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(address) = listening(&line) {
                    let _ = found.send(address);
                }
                copy.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let output = Arc::new(Mutex::new(String::new()));
        let copies = [Arc::clone(&log), Arc::clone(&output)];
        let printed = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                for copy in &copies {
                    copy.lock().unwrap().push_str(&format!("{line}\n"));
                }
            }
        });
        match address.recv_timeout(PATIENCE) {
            Ok(address) => Self { child, address, log, output, readers: vec![errors, printed] },
            Err(_) => {
                let _ = child.kill();
                panic!("the host does not listen:\n{}", log.lock().unwrap());
            }
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything logged so far, and standard output.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Standard output so far.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// The address of --callback-port.
    pub fn callback_address(&self) -> SocketAddr {
        self.address_in_log("listening for callbacks")
    }

    /// The address of the gRPC API.
    pub fn grpc_address(&self) -> SocketAddr {
        self.address_in_log("gRPC API is listening")
    }

    fn address_in_log(&self, message: &str) -> SocketAddr {
        self.wait_for_log(message);
        let log = self.log();
        // The reader writes whole lines.
        let line = log.lines().find(|line| line.contains(message)).unwrap();
        line.split_once("address=").unwrap().1.trim().parse().unwrap()
    }

    /// Where DingTalk points for `binding`.
    pub fn callback_url(&self, binding: &str) -> String {
        format!("http://{}/v1.0/bindings/{binding}/callback", self.address)
    }

    /// Waits until the log contains `text`.
    pub fn wait_for_log(&self, text: &str) {
        let start = Instant::now();
        while !self.log().contains(text) {
            assert!(start.elapsed() < PATIENCE, "{text:?} is not in the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Calls `operation` of `binding` with `data`, which is JSON.
    pub fn invoke(&self, binding: &str, operation: &str, data: &str) -> Reply {
        self.post(binding, &format!(r#"{{"operation":"{operation}","data":{data}}}"#))
    }

    /// Posts `body` to `binding`.
    pub fn post(&self, binding: &str, body: &str) -> Reply {
        send(self.address, "POST", &format!("/v1.0/bindings/{binding}"), &[], body.as_bytes())
    }

    /// Asks the process to end as a service manager would.
    pub fn terminate(&self) {
        signal(&self.child, "TERM");
    }

    /// Asks the process to read its files again.
    pub fn hang_up(&self) {
        signal(&self.child, "HUP");
    }

    /// Asks the process to end as a terminal would.
    pub fn interrupt(&self) {
        signal(&self.child, "INT");
    }

    /// Ends the process as a service manager would; everything that it wrote, to the last line.
    pub fn end(mut self) -> String {
        self.terminate();
        assert!(wait(&mut self.child).is_some(), "the host does not end:\n{}", self.log());
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        self.log()
    }

    /// Waits for the end.
    pub fn wait(mut self) -> ExitStatus {
        wait(&mut self.child).unwrap_or_else(|| panic!("the host does not end:\n{}", self.log()))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in the log line that tells it, be it text or JSON.
pub fn listening(line: &str) -> Option<SocketAddr> {
    const MESSAGE: &str = "HTTP API is listening";
    if let Ok(line) = serde_json::from_str::<serde_json::Value>(line) {
        return (line["message"] == MESSAGE).then(|| line["address"].as_str().unwrap().parse().unwrap());
    }
    let (_, address) = line.split_once(MESSAGE)?.1.split_once("address=")?;
    Some(address.trim().parse().unwrap())
}

/// An answer as it came.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Names as written by the server.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    /// The value of a header, name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Response metadata.
    pub fn metadata(&self, name: &str) -> Option<&str> {
        self.header(&format!("metadata.{name}"))
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A connection that stays open from one request to the next.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    /// Writes `bytes`, which need not be a whole request.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Reads one answer, to the end of its body and no further.
    pub fn read(&mut self) -> Reply {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert_ne!(self.0.read_until(b'\n', &mut head).unwrap(), 0, "{:?}", String::from_utf8_lossy(&head));
        }
        let mut reply = parse(&head);
        let length = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        reply.body = String::from_utf8(body).unwrap();
        reply
    }
}

/// Sends one request on a connection of its own.
pub fn send(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes()).unwrap();
    // A server may refuse before it has read everything; its answer is what counts.
    let _ = stream.write_all(body);
    let mut raw = Vec::new();
    let _ = stream.read_to_end(&mut raw);
    parse(&raw)
}

fn parse(raw: &[u8]) -> Reply {
    let end = raw.windows(4).position(|window| window == b"\r\n\r\n").expect("a complete head");
    let head = String::from_utf8(raw[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .map(|line| line.split_once(": ").unwrap_or_else(|| line.split_once(':').unwrap()))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Reply { status, headers, body: String::from_utf8(raw[end + 4..].to_vec()).unwrap() }
}

/// What the process has had in memory at most, in MiB, since [`forget_peak`].
pub fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

pub fn forget_peak(pid: u32) {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}
