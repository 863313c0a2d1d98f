//! The folder in which daprd looks for components, and this program's sockets in it: who may open them, whose they are,
//! and that none is left behind.
//!
//! daprd hangs at its start on a socket that nobody listens on, and takes whatever stands under a component's name for
//! the component: it is handed the robot's secrets. So a socket is put where nobody else listens, is removed before its
//! listener is closed, and only while it is still the one that was made here.

use std::fs::{self, DirBuilder, File, Metadata, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{SocketAddr, UnixListener as StdListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use tokio::net::{UnixListener, UnixStream};

/// Where daprd looks if nothing else is said.
pub const DEFAULT_FOLDER: &str = "/tmp/dapr-components-sockets";

/// Another process of this program looks after its sockets in the same folder, which takes no time.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct SocketError {
    path: PathBuf,
    reason: String,
}

impl SocketError {
    fn new(path: &Path, reason: impl Into<String>) -> Self {
        Self { path: path.to_owned(), reason: reason.into() }
    }
}

/// Sockets that are listened on. Those that are still ours are removed with the value.
#[derive(Debug, Default)]
pub(super) struct Sockets(Vec<Socket>);

#[derive(Debug)]
struct Socket {
    path: PathBuf,
    /// Device and inode: what stands there later may be somebody else's.
    is: (u64, u64),
}

impl Sockets {
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|socket| socket.path.as_path())
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for Socket { path, is } in &self.0 {
            if fs::symlink_metadata(path).is_ok_and(|found| identity(&found) == *is)
                && let Err(error) = fs::remove_file(path)
            {
                tracing::warn!(socket = %path.display(), %error, "the socket cannot be removed; daprd may hang on it");
            }
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Listens on a socket for each of `names` in `folder`, which is made if it is not there. `mode` says who may open them,
/// beside the folder's own mode.
pub(super) async fn listen(
    folder: &Path,
    names: &[&str],
    mode: u32,
) -> Result<(Sockets, Vec<UnixListener>), SocketError> {
    let owner = prepare(folder)?;
    // Two processes that find the same dead socket would each remove it, and one of them the other's.
    let _lock = lock(folder).await?;
    let (mut sockets, mut listeners) = (Sockets::default(), Vec::new());
    for name in names {
        let path = folder.join(name);
        let failed = |reason: String| SocketError::new(&path, reason);
        SocketAddr::from_pathname(&path).map_err(|_| {
            let length = path.as_os_str().len();
            failed(format!(
                "the path has {length} bytes, more than a Unix socket's can have (107 on Linux); choose a shorter \
                 --components-sockets-folder"
            ))
        })?;
        clear(&path).await?;
        let listener = bind(&path, mode).map_err(|error| failed(format!("cannot be listened on: {error}")))?;
        let found = fs::symlink_metadata(&path).map_err(|error| failed(format!("is gone already: {error}")))?;
        sockets.0.push(Socket { path: path.clone(), is: identity(&found) });
        if mode & 0o070 != 0 && found.gid() != owner.gid() {
            share(&path, &found, &owner);
        }
        listeners.push(listener);
    }
    Ok((sockets, listeners))
}

/// The folder, made for its owner alone if it is not there.
fn prepare(folder: &Path) -> Result<Metadata, SocketError> {
    let failed = |reason: String| SocketError::new(folder, reason);
    let advice = "choose another --components-sockets-folder";
    if let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(folder) {
        // A link that leads nowhere exists, and does not.
        let is_link = fs::symlink_metadata(folder).is_ok_and(|found| found.is_symlink());
        if !is_link {
            return Err(failed(format!("the folder cannot be created: {error}; {advice}")));
        }
    }
    let found = fs::symlink_metadata(folder).map_err(|error| failed(format!("cannot be looked at: {error}")))?;
    if found.is_symlink() {
        return Err(failed("is a symbolic link, and may lead elsewhere tomorrow; name the folder itself".into()));
    }
    if !found.is_dir() {
        return Err(failed(format!("is not a folder; {advice}")));
    }
    let user = rustix::process::geteuid().as_raw();
    let is_foreign = found.uid() != user && found.uid() != 0;
    if is_foreign && folder == Path::new(DEFAULT_FOLDER) {
        // Everybody can make it, and whoever has can put another socket in the place of ours.
        return Err(failed(format!(
            "belongs to user {}, who could take the sockets' place and be given every secret; remove it, or name a folder \
             of this user with --components-sockets-folder",
            found.uid()
        )));
    }
    if found.mode() & 0o1002 == 0o002 && found.uid() != 0 {
        tracing::warn!(
            folder = %folder.display(),
            "everybody on this machine can put another socket in the place of ours; take the right to write from others"
        );
    }
    Ok(found)
}

async fn lock(folder: &Path) -> Result<File, SocketError> {
    let failed = |reason: String| SocketError::new(folder, reason);
    let file = File::open(folder).map_err(|error| failed(format!("cannot be opened: {error}")))?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_PATIENCE => tokio::time::sleep(LOCK_PAUSE).await,
            Err(TryLockError::WouldBlock) => return Err(failed("another process holds its lock; stop it".into())),
            Err(TryLockError::Error(error)) => return Err(failed(format!("cannot be locked: {error}"))),
        }
    }
}

/// Makes room: removes a socket that nobody listens on.
async fn clear(path: &Path) -> Result<(), SocketError> {
    let failed = |reason: String| Err(SocketError::new(path, reason));
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return failed(format!("cannot be looked at: {error}")),
    };
    if !found.file_type().is_socket() {
        return failed("stands where the socket has to be, and is none; remove it".into());
    }
    match is_listened_on(path).await {
        Ok(true) => failed(
            "another process listens here; stop it, or choose another --components-sockets-folder for one of them"
                .into(),
        ),
        Ok(false) => match fs::remove_file(path) {
            Ok(()) => {
                tracing::info!(socket = %path.display(), "removed: nobody listens on it any more");
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => failed(format!("nobody listens on it any more, and it cannot be removed: {error}")),
        },
        Err(error) => failed(format!("it cannot be found out whether somebody listens on it: {error}; remove it")),
    }
}

/// Whether somebody does. A full queue is somebody's, and is not waited for.
async fn is_listened_on(path: &Path) -> io::Result<bool> {
    match UnixStream::connect(path).await {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock => Ok(true),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Ok(false),
            _ => Err(error),
        },
    }
}

/// With `mode` from its first moment. The mask is the process's: what another thread makes in between is closed to more
/// people than it need be.
fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let mask = rustix::process::umask(Mode::from_raw_mode(!mode & 0o777));
    let listener = StdListener::bind(path);
    rustix::process::umask(mask);
    let listener = listener?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Gives a socket to the folder's group: in Kubernetes, the group of a volume is what the containers of a pod share.
fn share(path: &Path, socket: &Metadata, folder: &Metadata) {
    if let Err(error) = std::os::unix::fs::lchown(path, None, Some(folder.gid())) {
        tracing::warn!(
            socket = %path.display(),
            %error,
            "the socket stays with group {} instead of the folder's, {}: daprd must be of that group, or of user {}; or see \
             --components-socket-mode",
            socket.gid(), folder.gid(), socket.uid()
        );
    }
}
