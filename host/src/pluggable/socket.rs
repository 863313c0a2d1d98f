//! The folder in which daprd looks for components, and this program's sockets in it: who may open them, whose they are,
//! and that none is left behind.
//!
//! daprd hangs at its start on a socket that nobody listens on, and takes whatever stands under a component's name for
//! the component: it is handed the robot's secrets. So a socket is put where nobody else listens, is removed before its
//! listener is closed, and only while it is still the one that was made here.

use std::fs::{self, DirBuilder, File, Metadata, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener as StdListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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
    // Two processes that find the same dead socket would each replace it, and one of them the other's.
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
        look(&path).await?;
        let bound = bind(&path, mode, (folder, &owner));
        let (listener, found) = bound.map_err(|error| failed(format!("cannot be listened on: {error}")))?;
        sockets.0.push(Socket { path: path.clone(), is: identity(&found) });
        listeners.push(listener);
    }
    Ok((sockets, listeners))
}

/// The folder, made for its owner alone if it is not there.
fn prepare(folder: &Path) -> Result<Metadata, SocketError> {
    let failed = |reason: String| SocketError::new(folder, reason);
    let advice = "choose another --components-sockets-folder";
    if let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(folder)
        // What is there and no folder is told below.
        && fs::symlink_metadata(folder).is_err()
    {
        return Err(failed(format!("the folder cannot be created: {error}; {advice}")));
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

/// Whether there is room: nothing, or a socket that nobody listens on.
async fn look(path: &Path) -> Result<(), SocketError> {
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
        Ok(false) => {
            tracing::info!(socket = %path.display(), "replaced: nobody listens on it any more");
            Ok(())
        }
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

/// Made in a folder that nobody else can enter, so that it has its mode and group before anybody can open it. Whatever is
/// dead is replaced in one step.
fn bind(path: &Path, mode: u32, folder: (&Path, &Metadata)) -> io::Result<(UnixListener, Metadata)> {
    let (folder, owner) = folder;
    // Short: the path has a limit. daprd leaves folders out.
    let private = tempfile::Builder::new().prefix(".").tempdir_in(folder)?;
    let new = private.path().join("s");
    let listener = StdListener::bind(&new)?;
    listener.set_nonblocking(true)?;
    fs::set_permissions(&new, Permissions::from_mode(mode))?;
    let found = fs::symlink_metadata(&new)?;
    if mode & 0o070 != 0 && found.gid() != owner.gid() {
        share(&new, path, &found, owner);
    }
    fs::rename(&new, path)?;
    Ok((UnixListener::from_std(listener)?, found))
}

/// Gives a socket to the folder's group: in Kubernetes, the group of a volume is what the containers of a pod share.
fn share(new: &Path, path: &Path, socket: &Metadata, folder: &Metadata) {
    if let Err(error) = std::os::unix::fs::lchown(new, None, Some(folder.gid())) {
        tracing::warn!(
            socket = %path.display(),
            %error,
            "the socket stays with group {} instead of the folder's, {}: daprd must be of that group, or of user {}; or \
             see --components-socket-mode",
            socket.gid(),
            folder.gid(),
            socket.uid()
        );
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::quiet::log;

    const NAMES: [&str; 2] = ["a.sock", "b.c.sock"];

    async fn error(folder: &Path) -> String {
        listen(folder, &NAMES, 0o660).await.unwrap_err().to_string()
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    /// A socket whose process is gone.
    fn dead(path: &Path) {
        drop(StdListener::bind(path).unwrap());
    }

    #[tokio::test]
    async fn a_folder_is_made_for_its_owner_and_sockets_are_removed_with_their_value() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("new/sockets");
        let (sockets, listeners) = listen(&folder, &NAMES, 0o640).await.unwrap();
        assert_eq!((mode(&folder), listeners.len()), (0o700, 2));
        for path in sockets.paths() {
            assert_eq!(mode(path), 0o640);
            UnixStream::connect(path).await.unwrap();
        }
        // daprd would look at whatever else there is.
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        drop(sockets);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_socket_that_nobody_listens_on_is_replaced_and_one_that_is_listened_on_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        dead(&dir.path().join(NAMES[1]));
        let (sockets, _listeners) = listen(dir.path(), &NAMES, 0o600).await.unwrap();
        let text = error(dir.path()).await;
        let expected = format!("{}: another process listens here; stop it", dir.path().join(NAMES[0]).display());
        assert!(text.starts_with(&expected), "{text}");
        for path in sockets.paths() {
            UnixStream::connect(path).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_listener_that_does_not_accept_is_one_too() {
        let dir = tempfile::tempdir().unwrap();
        let listener = rustix_listener(&dir.path().join(NAMES[0]));
        let _first = UnixStream::connect(dir.path().join(NAMES[0])).await;
        let _second = UnixStream::connect(dir.path().join(NAMES[0])).await;
        assert!(error(dir.path()).await.contains("another process listens here"));
        drop(listener);
    }

    /// With a queue of one.
    fn rustix_listener(path: &Path) -> tokio::net::UnixListener {
        let socket = tokio::net::UnixSocket::new_stream().unwrap();
        socket.bind(path).unwrap();
        socket.listen(0).unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_two_that_start_at_once_one_has_the_sockets() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..100 {
            dead(&dir.path().join(NAMES[0]));
            let start = || {
                let folder = dir.path().to_owned();
                tokio::spawn(async move { listen(&folder, &NAMES, 0o660).await })
            };
            let (one, other) = (start(), start());
            let (one, other) = (one.await.unwrap(), other.await.unwrap());
            assert_eq!(usize::from(one.is_ok()) + usize::from(other.is_ok()), 1);
            let (sockets, _listeners) = one.or(other).unwrap();
            for path in sockets.paths() {
                UnixStream::connect(path).await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_socket_is_not_touched_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, path) = (dir.path().join("secrets"), dir.path().join(NAMES[0]));
        fs::write(&file, "kept").unwrap();
        let is_none = "stands where the socket has to be, and is none; remove it";
        symlink(&file, &path).unwrap();
        assert!(error(dir.path()).await.contains(is_none));
        fs::remove_file(&path).unwrap();
        // To a socket, too.
        let _elsewhere = StdListener::bind(dir.path().join("x")).unwrap();
        symlink(dir.path().join("x"), &path).unwrap();
        assert!(error(dir.path()).await.contains(is_none));
        fs::remove_file(&path).unwrap();
        fs::rename(&file, &path).unwrap();
        assert!(error(dir.path()).await.contains(is_none));
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
        let link = dir.path().join("link");
        symlink(dir.path(), &link).unwrap();
        assert!(error(&link).await.contains("is a symbolic link, and may lead elsewhere tomorrow"));
        symlink(dir.path().join("nowhere"), dir.path().join("dangling")).unwrap();
        assert!(error(&dir.path().join("dangling")).await.contains("is a symbolic link"));
        assert!(error(&path).await.contains("is not a folder"), "{}", error(&path).await);
        assert!(error(&path.join("below")).await.contains("cannot be created"));
    }

    #[tokio::test]
    async fn a_path_that_no_socket_can_have_is_told_with_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("f".repeat(100));
        let text = error(&folder).await;
        let length = folder.join(NAMES[0]).as_os_str().len();
        assert!(text.contains(&format!("the path has {length} bytes, more than a Unix socket's can have")), "{text}");
    }

    #[tokio::test]
    async fn what_has_taken_a_sockets_place_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (sockets, _listeners) = listen(dir.path(), &NAMES, 0o660).await.unwrap();
        let path = dir.path().join(NAMES[0]);
        fs::remove_file(&path).unwrap();
        let _other = StdListener::bind(&path).unwrap();
        drop(sockets);
        assert!(path.exists() && !dir.path().join(NAMES[1]).exists());
    }

    #[tokio::test]
    async fn a_folder_that_everybody_can_write_to_is_warned_of_unless_it_is_roots() {
        let dir = tempfile::tempdir().unwrap();
        let is_root = rustix::process::geteuid().is_root();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        if is_root {
            // In Kubernetes, a volume is root's.
            let (lines, _guard) = log();
            listen(dir.path(), &NAMES, 0o660).await.unwrap();
            assert_eq!(lines.count("everybody"), 0, "{}", lines.text());
            std::os::unix::fs::chown(dir.path(), Some(12_345), None).unwrap();
        }
        let (lines, _guard) = log();
        listen(dir.path(), &NAMES, 0o660).await.unwrap();
        assert_eq!(lines.count("everybody on this machine can put another socket"), 1, "{}", lines.text());
    }

    #[tokio::test]
    async fn sockets_get_the_folders_group() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("!!! SKIPPED: only root can give a folder to any group");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(dir.path(), None, Some(54_321)).unwrap();
        let group = |mode| {
            let folder = dir.path().to_owned();
            async move {
                let (sockets, _listeners) = listen(&folder, &NAMES, mode).await.unwrap();
                let path = sockets.paths().next().unwrap().to_owned();
                fs::symlink_metadata(path).unwrap().gid()
            }
        };
        assert_eq!(group(0o660).await, 54_321);
        assert_ne!(group(0o600).await, 54_321);
    }
}
