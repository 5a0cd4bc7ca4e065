//! Local connections: named pipes that only their owner and the system may open, from this machine.
//!
//! A pipe is where connections are made one at a time: an instance of it waits for each, and the next one is made before that
//! is handed over, so that there is always one to connect to.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io;
use std::os::windows::fs::OpenOptionsExt as _;
use std::os::windows::io::OwnedHandle;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::windows::named_pipe::{ClientOptions, NamedPipeClient, NamedPipeServer, ServerOptions};
use windows_sys::Win32::Foundation::{ERROR_ACCESS_DENIED, ERROR_NO_DATA, ERROR_PIPE_BUSY};
use windows_sys::Win32::Storage::FileSystem::FILE_FLAG_OVERLAPPED;

use super::raw;

/// How much a pipe holds in each direction that nobody has read yet.
const BUFFER: u32 = 64 << 10;

/// How often a pipe is tried again whose instances are all taken: one is free again at once.
const AGAIN: Duration = Duration::from_millis(5);

/// How often a name is tried that a dead predecessor still has: with a pause of [`AGAIN`], for two seconds.
const TRIES: u32 = 400;

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
    /// Listens at a name that nobody else has. It stays taken for as long as somebody has a connection to a dead predecessor,
    /// so it is tried for a while.
    pub(in crate::process) fn bind(path: &Path) -> io::Result<Self> {
        let name = path.as_os_str().to_owned();
        let mut tries = 0;
        loop {
            match raw::private_pipe(options().first_pipe_instance(true), &name) {
                Err(error) if is(&error, ERROR_ACCESS_DENIED) && tries < TRIES => {
                    tries += 1;
                    std::thread::sleep(AGAIN);
                }
                made => return made.map(|next| Self { name, next }),
            }
        }
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

/// Connects to a shim. Where all instances of its pipe are taken, one is waited for; the caller says how long.
pub(in crate::process) async fn connect(path: &Path) -> io::Result<Connection> {
    loop {
        match ClientOptions::new().open(path) {
            Err(error) if is(&error, ERROR_PIPE_BUSY) => tokio::time::sleep(AGAIN).await,
            opened => return opened.map(Connection::Client),
        }
    }
}

/// A connection that exists before anybody listens: our end, and the one that a new shim gets as its standard input.
pub(in crate::process) fn pair() -> io::Result<(Connection, OwnedHandle)> {
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
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!(r"\\.\pipe\ews-pair-{}-{number}", std::process::id());
    let ours = raw::private_pipe(server.first_pipe_instance(true).max_instances(1), OsStr::new(&name))?;
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

/// A pipe is gone with who made it.
pub(in crate::process) fn remove(_: &Path) {}
