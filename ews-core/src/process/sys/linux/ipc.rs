//! Local connections: Unix sockets in a directory that only their owner may enter.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;

use tokio::net::{UnixListener, UnixStream};

/// One side of a connection.
pub(in crate::process) type Connection = UnixStream;

/// The side that a new shim gets, as it is handed over.
pub(in crate::process) type Theirs = OwnedFd;

/// Where a shim is asked.
pub(in crate::process) struct Listener(UnixListener);

impl Listener {
    /// Listens at a path; what a dead predecessor left there is taken away.
    pub(in crate::process) fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        UnixListener::bind(path).map(Self)
    }

    pub(in crate::process) async fn accept(&mut self) -> io::Result<Connection> {
        self.0.accept().await.map(|(connection, _)| connection)
    }
}

/// Connects to a shim.
pub(in crate::process) async fn connect(path: &Path) -> io::Result<Connection> {
    UnixStream::connect(path).await
}

/// A connection that exists before anybody listens: our end, and the one that a new shim gets as its standard input.
pub(in crate::process) fn pair() -> io::Result<(Connection, Theirs)> {
    let (ours, theirs) = StdStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

/// Takes away what a shim that is gone has left.
pub(in crate::process) fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
}
