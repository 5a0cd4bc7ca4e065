//! Local connections: named pipes that only their owner and the system may open, from this machine.
//!
//! Where a Unix socket would be there is a file with the name of the pipe, in a directory of the root's owner. Each start has a
//! pipe of another name: a name stays taken for as long as anybody has a connection to it, which may be long after its shim has
//! ended, and one that could be known before could be had before by a stranger.
//!
//! A pipe is where connections are made one at a time: an instance of it waits for each, and the next one is made before that
//! is handed over, so that there is always one to connect to.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::windows::fs::OpenOptionsExt as _;
use std::os::windows::io::OwnedHandle;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::windows::named_pipe::{ClientOptions, NamedPipeClient, NamedPipeServer, ServerOptions};
use windows_sys::Win32::Foundation::{ERROR_NO_DATA, ERROR_PIPE_BUSY};
use windows_sys::Win32::Storage::FileSystem::FILE_FLAG_OVERLAPPED;

use super::raw;

/// How much a pipe holds in each direction that nobody has read yet.
const BUFFER: u32 = 64 << 10;

/// How often a pipe is tried again whose instances are all taken: one is free again at once.
const AGAIN: Duration = Duration::from_millis(5);

/// The longest name of a pipe that is read.
const LONGEST: u64 = 256;

/// The side that a new shim gets, as it is handed over.
pub(in crate::process) type Theirs = OwnedHandle;

/// One side of a connection.
#[derive(Debug)]
pub(in crate::process) enum Connection {
    /// The side that made the pipe.
    Server(NamedPipeServer),
    /// The side that opened it.
    Client(NamedPipeClient),
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Server(pipe) => Pin::new(pipe).poll_read(cx, buf),
            Self::Client(pipe) => Pin::new(pipe).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Server(pipe) => Pin::new(pipe).poll_write(cx, buf),
            Self::Client(pipe) => Pin::new(pipe).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Server(pipe) => Pin::new(pipe).poll_flush(cx),
            Self::Client(pipe) => Pin::new(pipe).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Server(pipe) => Pin::new(pipe).poll_shutdown(cx),
            Self::Client(pipe) => Pin::new(pipe).poll_shutdown(cx),
        }
    }
}

fn options() -> ServerOptions {
    let mut options = ServerOptions::new();
    options.reject_remote_clients(true).in_buffer_size(BUFFER).out_buffer_size(BUFFER);
    options
}

/// Where a shim is asked.
pub(in crate::process) struct Listener {
    name: OsString,
    /// The instance that waits for the next connection.
    next: NamedPipeServer,
}

impl Listener {
    /// Listens at a path; what a dead predecessor left there is replaced.
    pub(in crate::process) fn bind(path: &Path) -> io::Result<Self> {
        let name = new_name();
        let next = raw::private_pipe(options().first_pipe_instance(true), &name)?;
        // Who reads it sees the old one or the new one.
        let written = path.with_extension("new");
        fs::write(&written, name.as_encoded_bytes())?;
        fs::rename(&written, path)?;
        Ok(Self { name, next })
    }

    pub(in crate::process) async fn accept(&mut self) -> io::Result<Connection> {
        while let Err(error) = self.next.connect().await {
            // Who connected has closed already: the instance is made ready for another.
            self.next.disconnect()?;
            if !is(&error, ERROR_NO_DATA) {
                return Err(error);
            }
        }
        let next = raw::private_pipe(&options(), &self.name)?;
        Ok(Connection::Server(std::mem::replace(&mut self.next, next)))
    }
}

/// Connects to a shim. Where all instances of its pipe are taken, one is waited for; the caller says how long. A file that is
/// not there and a pipe that is not there are the same: nobody listens.
pub(in crate::process) async fn connect(path: &Path) -> io::Result<Connection> {
    let name = name_at(path)?;
    loop {
        match ClientOptions::new().open(&name) {
            Err(error) if is(&error, ERROR_PIPE_BUSY) => tokio::time::sleep(AGAIN).await,
            opened => return opened.map(Connection::Client),
        }
    }
}

/// The name that a file holds; what is no pipe of ours would be opened as whatever it is.
fn name_at(path: &Path) -> io::Result<String> {
    let mut name = String::new();
    File::open(path)?.take(LONGEST).read_to_string(&mut name)?;
    let ours = name
        .strip_prefix(PREFIX)
        .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
    if ours { Ok(name) } else { Err(io::Error::new(io::ErrorKind::InvalidData, "this is no name of a pipe")) }
}

/// How the names of this runtime's pipes begin.
const PREFIX: &str = r"\\.\pipe\ews-";

/// A name that no pipe has had: of a process, at a moment, by a number.
fn new_name() -> OsString {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let moment = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    format!("{PREFIX}{}-{moment:x}-{number}", std::process::id()).into()
}

/// A connection that exists before anybody listens: our end, and the one that a new shim gets as its standard input.
pub(in crate::process) fn pair() -> io::Result<(Connection, Theirs)> {
    let mut waiting = OpenOptions::new();
    waiting.read(true).write(true).custom_flags(FILE_FLAG_OVERLAPPED);
    let (ours, theirs) = connected(&mut options(), &waiting)?;
    Ok((Connection::Server(ours), theirs))
}

/// A pipe out of which we read what a program writes to the other end.
pub(super) fn output() -> io::Result<(NamedPipeServer, OwnedHandle)> {
    connected(options().access_outbound(false), OpenOptions::new().write(true))
}

/// A pipe into which we write what a program reads from the other end.
pub(super) fn input() -> io::Result<(NamedPipeServer, OwnedHandle)> {
    connected(options().access_inbound(false), OpenOptions::new().read(true))
}

/// Both ends of a new pipe that has no other.
fn connected(server: &mut ServerOptions, client: &OpenOptions) -> io::Result<(NamedPipeServer, OwnedHandle)> {
    let name = new_name();
    let ours = raw::private_pipe(server.first_pipe_instance(true).max_instances(1), &name)?;
    let theirs = client.open(&name)?;
    // The other end is there already, so this only takes note of it.
    match ours.connect().now_or_never() {
        Some(noted) => noted?,
        None => return Err(io::Error::other("a pipe with both ends does not say that it is connected")),
    }
    Ok((ours, theirs.into()))
}

fn is(error: &io::Error, code: u32) -> bool {
    error.raw_os_error() == Some(code.cast_signed())
}

/// Takes away what a shim that is gone has left; its pipe is gone with it.
pub(in crate::process) fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_pipe_is_found_by_its_file_and_nobody_listens_once_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let missing = connect(&path).await.unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let mut listener = Listener::bind(&path).unwrap();
        for word in [b"one", b"two"] {
            let mut theirs = connect(&path).await.unwrap();
            let mut ours = listener.accept().await.unwrap();
            theirs.write_all(word).await.unwrap();
            drop(theirs);
            let mut read = Vec::new();
            ours.read_to_end(&mut read).await.unwrap();
            assert_eq!(read, word, "what was written before the end comes before it");
        }
        // One that still has a connection keeps its successor from nothing.
        let kept = connect(&path).await.unwrap();
        drop(listener);
        let mut listener = Listener::bind(&path).unwrap();
        let (theirs, ours) = tokio::join!(connect(&path), listener.accept());
        drop((theirs.unwrap(), ours.unwrap(), kept, listener));
        assert_eq!(
            connect(&path).await.unwrap_err().kind(),
            io::ErrorKind::NotFound,
            "its file is there yet"
        );
        remove(&path);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn only_pipes_of_ours_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        for name in ["", r"C:\secret", r"\\.\pipe\other", r"\\.\pipe\ews-1\..\x", &"x".repeat(1000)] {
            fs::write(&path, name).unwrap();
            assert_eq!(connect(&path).await.unwrap_err().kind(), io::ErrorKind::InvalidData, "{name}");
        }
    }

    #[tokio::test]
    async fn a_pair_carries_both_ways() {
        let (mut ours, theirs) = pair().unwrap();
        let mut theirs = Connection::Client(raw::adopt_pipe(theirs).unwrap());
        ours.write_all(b"there").await.unwrap();
        theirs.write_all(b"back").await.unwrap();
        let mut read = [0; 5];
        theirs.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"there");
        let mut read = [0; 4];
        ours.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"back");
    }
}
