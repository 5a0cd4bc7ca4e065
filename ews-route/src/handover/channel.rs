//! A Unix socket that carries messages and open sockets.
//!
//! A message is its length, four bytes, and JSON. Sockets follow the message that announces them: so many at a time go with
//! one byte.

use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use ews_core::{Error, ErrorKind, Result};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;

/// The longest message. An object is a few megabytes at most.
const MAX: usize = 64 << 20;
/// How many sockets go at once; Linux takes 253.
const AT_ONCE: usize = 64;

/// One side's.
#[derive(Debug)]
pub(super) struct Channel(pub(super) UnixStream);

impl Channel {
    /// Where both ends are of one user, or the other one is root's.
    pub(super) fn new(stream: UnixStream) -> Result<Self> {
        let other = stream.peer_cred().map_err(broken)?.uid();
        let own = rustix::process::geteuid().as_raw();
        if other != own && other != 0 {
            return Err(Error::new(
                ErrorKind::Unauthorized,
                format!("the other side of the socket is user {other}; accepted: user {own}, or root"),
            ));
        }
        Ok(Self(stream))
    }

    pub(super) async fn send(&mut self, message: &impl Serialize) -> Result<()> {
        write(&mut self.0, message).await
    }

    pub(super) async fn receive<T: DeserializeOwned>(&mut self) -> Result<T> {
        read(&mut self.0).await?.ok_or_else(gone)
    }

    pub(super) async fn send_sockets(&self, sockets: &[TcpListener]) -> Result<()> {
        for some in sockets.chunks(AT_ONCE) {
            let descriptors: Vec<BorrowedFd<'_>> = some.iter().map(std::os::fd::AsFd::as_fd).collect();
            let send = || {
                let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
                let mut control = SendAncillaryBuffer::new(&mut room);
                if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                    return Err(io::ErrorKind::OutOfMemory.into());
                }
                Ok(sendmsg(self.0.as_fd(), &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?)
            };
            self.0.async_io(Interest::WRITABLE, send).await.map_err(broken)?;
        }
        Ok(())
    }

    pub(super) async fn receive_sockets(&self, count: usize) -> Result<Vec<TcpListener>> {
        let mut sockets: Vec<TcpListener> = Vec::new();
        while sockets.len() < count {
            let receive = || {
                let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
                let mut control = RecvAncillaryBuffer::new(&mut room);
                let mut byte = [0];
                let flags = RecvFlags::CMSG_CLOEXEC;
                let got = recvmsg(self.0.as_fd(), &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
                let mut found: Vec<OwnedFd> = Vec::new();
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                        found.extend(descriptors);
                    }
                }
                Ok((got.bytes, found))
            };
            let (bytes, found) = self.0.async_io(Interest::READABLE, receive).await.map_err(broken)?;
            if bytes == 0 {
                return Err(gone());
            }
            if found.is_empty() || sockets.len() + found.len() > count {
                return Err(confused("other sockets came than were announced"));
            }
            sockets.extend(found.into_iter().map(TcpListener::from));
        }
        Ok(sockets)
    }
}

/// Writes one message.
pub(super) async fn write(to: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec(message)
        .map_err(|error| Error::internal("a message can't be written as JSON").with_source(error))?;
    let length = u32::try_from(text.len()).ok().filter(|_| text.len() <= MAX);
    let length = length.ok_or_else(|| Error::internal("a message is too long for a hand-over"))?;
    to.write_all(&length.to_be_bytes()).await.map_err(broken)?;
    to.write_all(&text).await.map_err(broken)
}

/// Reads one message; `None` where the other side has ended before it.
pub(super) async fn read<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read.map_err(broken)?,
    };
    let length = usize::try_from(u32::from_be_bytes(length)).ok().filter(|length| *length <= MAX);
    let length = length.ok_or_else(|| confused("a message is longer than 64 MiB"))?;
    let mut text = Vec::new();
    // It grows with what comes, not with what was promised.
    let bound = u64::try_from(length).unwrap_or(u64::MAX);
    from.take(bound).read_to_end(&mut text).await.map_err(broken)?;
    if text.len() < length {
        return Err(gone());
    }
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| confused("a message of the hand-over can't be read").with_source(error))
}

/// The other side ended in the middle.
pub(super) fn gone() -> Error {
    Error::new(ErrorKind::Unavailable, "the other side of the hand-over has gone")
}

pub(super) fn confused(what: &'static str) -> Error {
    Error::new(ErrorKind::Decode, what)
}

fn broken(error: io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "the hand-over's socket failed").with_source(error)
}
