//! What the service manager of the machine is told: that the host serves, and that it ends.
//!
//! This is the protocol of systemd's `sd_notify(3)`: a datagram to the socket that `NOTIFY_SOCKET` names, a path or, after `@`, an
//! abstract name. Where the variable is not set nobody asks, and nothing is sent.

use std::io::{Error, ErrorKind, Result};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

/// Whoever started the host, where it wants to know.
#[derive(Debug, Default)]
pub(crate) struct Starter {
    socket: Option<(UnixDatagram, SocketAddr)>,
}

impl Starter {
    /// The one that the environment names.
    pub(crate) fn of_environment() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        match connect(name.as_bytes()) {
            Ok(socket) => Self { socket: Some(socket) },
            Err(error) => {
                tracing::warn!(%error, "NOTIFY_SOCKET can't be used; whoever started the host is told nothing");
                Self::default()
            }
        }
    }

    /// The host serves; `status` is for people.
    pub(crate) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}\n"));
    }

    /// The host ends.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=ending; instances run on\n");
    }

    fn tell(&self, text: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(text.as_bytes(), address)
        {
            tracing::warn!(%error, "whoever started the host can't be told how it stands");
        }
    }
}

fn connect(name: &[u8]) -> Result<(UnixDatagram, SocketAddr)> {
    let address = match name {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(Path::new(std::ffi::OsStr::from_bytes(name)))?,
        _ => {
            return Err(Error::new(ErrorKind::InvalidInput, "neither an absolute path nor an abstract name"));
        }
    };
    let socket = UnixDatagram::unbound()?;
    // Nobody waits for one who does not read.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}
