//! A PostgreSQL of our own: made in a temporary folder, reached by a socket in it, and ended with the process that uses it,
//! however that ends.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Makes a server that is not installed an error.
const REQUIRED: &str = "POSTGRES_REQUIRED";

/// Where Debian has it; elsewhere it is on the path.
const DEBIAN: &str = "/usr/lib/postgresql";

/// Runs the server until a line comes, or until whoever would write one has ended; then everything is removed.
const GUARD: &str = r#""$1/postgres" -D "$2/data" -k "$2" -c listen_addresses="$3" -p "$5" -c logging_collector=off \
    -c max_connections=400 -c shared_buffers=64MB -c unix_socket_permissions=0777 -c ssl="$4" >>"$2/log" 2>&1 &
server=$!
if read -r line; then kill -QUIT $server; wait $server; else kill -QUIT $server; wait $server; rm -rf "$2"; fi"#;

/// A server that runs.
pub(crate) struct Server {
    programs: PathBuf,
    dir: TempDir,
    user: Option<(u32, u32)>,
    guard: Option<(Child, ChildStdin)>,
    /// An address of loopback, or nothing.
    listen: String,
    port: u16,
    has_tls: bool,
}

impl Server {
    /// A new one; nothing where PostgreSQL is not installed.
    pub(crate) fn start() -> Option<Self> {
        let mut server = Self::make()?;
        server.run();
        Some(server)
    }

    /// As [`Self::start`], on a port of loopback too, with this certificate and key in PEM. The port is the other one.
    pub(crate) fn start_with_tls(certificate: &str, key: &str) -> Option<(Self, u16)> {
        let mut server = Self::make()?;
        // Another process may take it in between, so rarely that nobody minds.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        (server.listen, server.port, server.has_tls) = ("127.0.0.1".into(), port, true);
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let path = server.dir.path().join("data").join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            server.give(&path);
        }
        server.run();
        Some((server, port))
    }

    fn make() -> Option<Self> {
        let Some(programs) = programs() else {
            assert!(std::env::var_os(REQUIRED).is_none(), "{REQUIRED} is set, and PostgreSQL is not installed");
            eprintln!("skipped: PostgreSQL is not installed (Debian: apt-get install postgresql)");
            return None;
        };
        // Not in the build's folder: its user may not get there, and a socket's path has at most 107 bytes.
        let dir = tempfile::Builder::new().prefix("dingtalk-pg-").tempdir().unwrap();
        let server =
            Self { programs, dir, user: user(), guard: None, listen: String::new(), port: 5432, has_tls: false };
        fs::set_permissions(server.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        server.give(server.dir.path());
        let data = server.dir.path().join("data");
        let arguments = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "-D"];
        let made = server.command("initdb").args(arguments).arg(&data).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Some(server)
    }

    /// PostgreSQL does not run as root.
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(self.programs.join(Path::new(&program)));
        self.as_user(&mut command);
        command
    }

    fn as_user(&self, command: &mut Command) {
        command.current_dir(self.dir.path());
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
    }

    fn give(&self, path: &Path) {
        if let Some((user, group)) = self.user {
            chown(path, Some(user), Some(group)).unwrap();
        }
    }

    /// Starts it again.
    pub(crate) fn run(&mut self) {
        assert!(self.guard.is_none(), "it runs");
        let mut command = Command::new("/bin/sh");
        self.as_user(&mut command);
        let tls = if self.has_tls { "on" } else { "off" };
        command
            .args(["-c", GUARD, "guard"])
            .arg(&self.programs)
            .arg(self.dir.path())
            .arg(&self.listen)
            .arg(tls)
            .arg(self.port.to_string());
        // Its own group: an interrupt at the terminal must not end it before those who use it.
        let mut guard = command.process_group(0).stdin(Stdio::piped()).spawn().unwrap();
        let stdin = guard.stdin.take().unwrap();
        self.guard = Some((guard, stdin));
        let begun = Instant::now();
        while !self.is_ready() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_ready(&self) -> bool {
        let ready = self
            .command("pg_isready")
            .arg("-q")
            .arg("-h")
            .arg(self.dir.path())
            .arg("-p")
            .arg(self.port.to_string())
            .status();
        ready.unwrap().success()
    }

    /// Ends it as a crash would: nothing is written any more.
    pub(crate) fn crash(&mut self) {
        let (mut guard, mut stdin) = self.guard.take().unwrap();
        writeln!(stdin).unwrap();
        assert!(guard.wait().unwrap().success());
    }

    /// What it has said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// A URL of its database, with tables in this schema.
    pub(crate) fn url(&self, schema: &str) -> String {
        let socket = self.dir.path().display().to_string();
        format!("postgres://postgres@{}/postgres?options=-c%20search_path%3D{schema}", socket.replace('/', "%2F"))
    }

    /// Runs SQL as its superuser; what it prints.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.sql_in("postgres", sql)
    }

    pub(crate) fn sql_in(&self, database: &str, sql: &str) -> String {
        let psql = ["-U", "postgres", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, "-h"];
        let done = self.command("psql").args(psql).arg(self.dir.path()).arg(database).output().unwrap();
        assert!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((mut guard, stdin)) = self.guard.take() {
            drop(stdin);
            let _ = guard.wait();
        }
    }
}

fn programs() -> Option<PathBuf> {
    let mut debian: Vec<PathBuf> =
        fs::read_dir(DEBIAN).into_iter().flatten().flatten().map(|entry| entry.path().join("bin")).collect();
    debian.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = debian.into_iter().rev().chain(std::env::split_paths(&path));
    all.into_iter().find(|dir| ["postgres", "initdb", "psql", "pg_isready"].iter().all(|name| dir.join(name).exists()))
}

/// User and group to run it as, if this is root.
fn user() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").map_or(true, |own| std::os::unix::fs::MetadataExt::uid(&own) != 0) {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut numbers = line.split(':').skip(2);
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    };
    Some(find("postgres").or_else(|| find("nobody")).unwrap())
}
