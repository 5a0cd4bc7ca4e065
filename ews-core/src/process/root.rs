//! The root directory of a runtime: its layout, its lock, and who may look into it.
//!
//! ```text
//! root/                 0711
//!   lock                locked by the controller that has it
//!   format              the number of this layout
//!   ports               where allotting goes on
//!   s/                  0700, the shims' sockets; on Windows files that name their pipes
//!   instances/          0711
//!     ews_…/            an instance, 0711
//!       instance.json run.json end.json run.lock shim.log
//!       work/           0700, the program's own; its files, its `tmp`
//!       log/            0700, what it has written
//!     .new-…  .gone-…   half made, half removed; swept when the root is opened
//! ```
//! A program that runs as another user must be able to reach its work directory, so the directories above may be passed
//! through, and not be read, by everybody.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::record::{FORMAT, at};
use crate::error::{Error, ErrorKind, Result, io_error};
use crate::id::InstanceId;
use crate::spec::source::Digest;

/// The longest path that a Unix socket can have, without the byte that ends it.
#[cfg(unix)]
const SOCKET_PATH: usize = 107;

/// How often a locked root is tried again.
const AGAIN: Duration = Duration::from_millis(20);

/// The root directory, locked.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    /// What tells this root from others of the machine, in names outside it.
    tag: String,
    /// Held for as long as this value lives.
    _lock: File,
}

impl Root {
    /// Makes and locks it; waits for a predecessor for so long.
    pub(super) async fn open(path: &Path, patience: Duration) -> Result<Self> {
        let made = {
            let path = path.to_owned();
            blocking(move || make(&path)).await?
        };
        let until = tokio::time::Instant::now() + patience;
        loop {
            let lock = made.join("lock");
            if let Some(lock) = blocking(move || try_lock(&lock)).await? {
                let root = Self {
                    tag: Digest::of(made.to_string_lossy().as_bytes()).short(),
                    path: made,
                    _lock: lock,
                };
                let checked = root.path.clone();
                blocking(move || check_format(&checked)).await?;
                root.check_socket_path()?;
                return Ok(root);
            }
            if tokio::time::Instant::now() >= until {
                let error = Error::new(
                    ErrorKind::Busy,
                    "another process runtime has this directory; end it first, or use another directory",
                );
                return Err(at(error, path));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn instances(&self) -> PathBuf {
        self.path.join("instances")
    }

    pub(super) fn instance(&self, id: &InstanceId) -> InstancePaths {
        InstancePaths { socket: self.socket(id), directory: self.instances().join(id.as_str()) }
    }

    /// A name in the folder of instances that no instance has.
    pub(super) fn hidden(&self, what: &str, id: &InstanceId) -> PathBuf {
        self.instances().join(format!(".{what}-{id}"))
    }

    pub(super) fn ports(&self) -> PathBuf {
        self.path.join("ports")
    }

    fn socket(&self, id: &InstanceId) -> PathBuf {
        self.path.join("s").join(Digest::of(id.as_str().as_bytes()).short())
    }

    /// A root too deep for sockets is found out now, not at the first start.
    fn check_socket_path(&self) -> Result<()> {
        #[cfg(unix)]
        {
            let length = self.socket(&InstanceId::new("x")?).as_os_str().len();
            if length > SOCKET_PATH {
                let most = self.path.as_os_str().len() + SOCKET_PATH - length;
                let error = Error::invalid(format!(
                    "the path is too long for the sockets below it; accepted: at most {most} bytes"
                ));
                return Err(at(error, &self.path));
            }
        }
        Ok(())
    }
}

/// Where the parts of an instance are.
#[derive(Debug, Clone)]
pub(super) struct InstancePaths {
    pub(super) directory: PathBuf,
    pub(super) socket: PathBuf,
}

impl InstancePaths {
    pub(super) fn record(&self) -> PathBuf {
        self.directory.join("instance.json")
    }

    pub(super) fn run(&self) -> PathBuf {
        self.directory.join("run.json")
    }

    pub(super) fn end(&self) -> PathBuf {
        self.directory.join("end.json")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.directory.join("run.lock")
    }

    pub(super) fn work(&self) -> PathBuf {
        self.directory.join("work")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    pub(super) fn shim_log(&self) -> PathBuf {
        self.directory.join("shim.log")
    }
}

/// Runs what waits for the disk where it may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    done(tokio::task::spawn_blocking(work).await)
}

/// What such work has come to.
pub(super) fn done<T>(work: Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    work.map_err(|error| Error::internal("a thread of the process runtime failed").with_source(error))?
}

/// The lock on a file, `None` where another has it. It is let go when the last handle to the open file is closed, and may so be
/// handed to a child with the file.
#[cfg(unix)]
pub(super) fn try_lock(path: &Path) -> Result<Option<File>> {
    let wrong = |error| at(io_error("a lock file could not be opened", error), path);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    use std::os::unix::fs::OpenOptionsExt as _;
    options.mode(0o600);
    let file = options.open(path).map_err(wrong)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(wrong(error)),
    }
}

/// The lock on a file, `None` where another has it. It is let go when the last handle to the open file is closed, and may so be
/// handed to a child with the file: to have it open is to have it locked, since nobody else may open it meanwhile. What the
/// system calls a lock belongs to one process there, and between a controller that lets it go and a shim that takes it, the
/// shim would look dead.
#[cfg(windows)]
pub(super) fn try_lock(path: &Path) -> Result<Option<File>> {
    use std::os::windows::fs::OpenOptionsExt as _;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).share_mode(0);
    match options.open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.raw_os_error() == Some(SHARING_VIOLATION) => Ok(None),
        Err(error) => Err(at(io_error("a lock file could not be opened", error), path)),
    }
}

/// `ERROR_SHARING_VIOLATION`: somebody has the file open in a way that this one can't be opened beside.
#[cfg(windows)]
const SHARING_VIOLATION: i32 = 32;

/// Makes a directory with these permission bits, whatever the umask; one that is there is left as it is.
pub(super) fn directory(path: &Path, mode: u32) -> io::Result<()> {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "there are no permission bits to set"))]
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, mode);
    match builder.create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        made => made?,
    }
    // A umask, an access list or a group that is inherited may have changed them, which is rare, and a look costs less than a
    // change.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        if path.symlink_metadata()?.permissions().mode() & 0o7777 != mode {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
    }
    let _ = mode;
    Ok(())
}

fn make(path: &Path) -> Result<PathBuf> {
    let wrong = |error| at(io_error("the runtime's directory could not be made", error), path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(wrong)?;
    }
    directory(path, 0o711).map_err(wrong)?;
    // Without links, so that one directory has one lock, one tag and one length.
    let path = plain(path.canonicalize().map_err(wrong)?);
    check_owner(&path)?;
    directory(&path.join("instances"), 0o711).map_err(wrong)?;
    directory(&path.join("s"), 0o700).map_err(wrong)?;
    Ok(path)
}

/// The form `\\?\C:\…` that the system gives is one that many programs can't have as their current directory.
#[cfg(windows)]
fn plain(path: PathBuf) -> PathBuf {
    let drive = path
        .to_str()
        .and_then(|text| text.strip_prefix(r"\\?\"))
        .filter(|rest| matches!(rest.as_bytes(), [letter, b':', b'\\', ..] if letter.is_ascii_alphabetic()));
    drive.map(PathBuf::from).unwrap_or(path)
}

#[cfg(not(windows))]
fn plain(path: PathBuf) -> PathBuf {
    path
}

/// Takes a locked directory away under another name. The lock is held until it is gone: no shim lives, and none is made.
#[cfg(not(windows))]
pub(super) fn take_away(place: &Path, gone: &Path, lock: File) -> io::Result<()> {
    fs::rename(place, gone)?;
    drop(lock);
    Ok(())
}

/// Takes a locked directory away under another name. No directory is renamed while something in it is open, so the lock is let
/// go before: it has told that no shim lives, and only who has the instance's turn makes one. What a process had open that has
/// just ended may be closed a moment later.
#[cfg(windows)]
pub(super) fn take_away(place: &Path, gone: &Path, lock: File) -> io::Result<()> {
    const TRIES: u32 = 100;
    drop(lock);
    let mut tries = 0;
    loop {
        match fs::rename(place, gone) {
            Err(error)
                if tries < TRIES
                    && (error.kind() == io::ErrorKind::PermissionDenied
                        || error.raw_os_error() == Some(SHARING_VIOLATION)) =>
            {
                tries += 1;
                std::thread::sleep(AGAIN);
            }
            renamed => return renamed,
        }
    }
}

/// Whoever may write here may run programs as this user.
#[cfg(unix)]
fn check_owner(path: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = path
        .metadata()
        .map_err(|error| at(io_error("the runtime's directory can't be read", error), path))?;
    let own = metadata.uid() == rustix::process::geteuid().as_raw();
    if own && metadata.mode() & 0o022 == 0 {
        return Ok(());
    }
    let error = Error::new(
        ErrorKind::Unauthorized,
        format!(
            "the runtime's directory belongs to user {} with mode {:04o}; accepted: one of this user's that nobody else may \
             write to",
            metadata.uid(),
            metadata.mode() & 0o7777
        ),
    );
    Err(at(error, path))
}

/// Elsewhere the folder's access list is what protects it.
#[cfg(not(unix))]
fn check_owner(_: &Path) -> Result<()> {
    Ok(())
}

fn check_format(root: &Path) -> Result<()> {
    let path = root.join("format");
    match super::record::read::<u32>(&path)? {
        None => super::record::write(&path, &FORMAT, super::record::Durable::Synced),
        Some(FORMAT) => Ok(()),
        Some(other) => {
            let error = Error::new(
                ErrorKind::Corrupt,
                format!("the runtime's directory is of format {other}; this version reads {FORMAT}"),
            );
            Err(at(error, &path))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// So a shim has its lock from the moment that it exists, and never looks dead while it starts.
    #[test]
    fn a_lock_goes_to_a_child_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.lock");
        let lock = try_lock(&path).unwrap().unwrap();
        assert!(try_lock(&path).unwrap().is_none());
        let mut command = if cfg!(windows) { Command::new("cmd") } else { Command::new("sh") };
        command.arg(if cfg!(windows) { "/c" } else { "-c" });
        command.arg(if cfg!(windows) { "pause" } else { "read line" });
        let mut child = command.stdin(Stdio::piped()).stdout(lock).spawn().unwrap();
        drop(command);
        assert!(try_lock(&path).unwrap().is_none(), "the child has it, and this process no more");
        child.kill().unwrap();
        child.wait().unwrap();
        // What another test has forked meanwhile has it too, until it runs its own program.
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while try_lock(&path).unwrap().is_none() {
            assert!(std::time::Instant::now() < until, "the child is dead, and its lock is still held");
            std::thread::sleep(AGAIN);
        }
    }
}
