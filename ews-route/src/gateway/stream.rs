//! A socket, with TLS around it or without.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes from and to a client or an endpoint.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::TlsStream<TcpStream>>),
}

impl Stream {
    /// This end's address.
    pub(crate) fn local_address(&self) -> Result<std::net::SocketAddr> {
        self.socket().local_addr()
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Lets its end be a reset, with which all that was not read yet is gone.
    pub(crate) fn set_zero_linger(&self) -> Result<()> {
        socket2::SockRef::from(self.socket()).set_linger(Some(std::time::Duration::ZERO))
    }

    /// Whether nothing has come and it is open, as the system knows it now. What was told by events before may be older.
    pub(crate) fn is_quiet(&self) -> bool {
        let looked = socket2::SockRef::from(self.socket()).peek(&mut [std::mem::MaybeUninit::uninit()]);
        looked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Ends both directions, for whoever else has it too.
    pub(crate) fn shut(&self) -> Result<()> {
        socket2::SockRef::from(self.socket()).shutdown(std::net::Shutdown::Both)
    }

    /// How many bytes may lie between a write and the other side's read: the socket's own buffer, and what TLS keeps.
    pub(crate) fn between(&self) -> u64 {
        #[cfg(feature = "tls")]
        const OF_TLS: usize = 64 * 1024;
        let own = match self {
            Self::Plain(_) => 0,
            #[cfg(feature = "tls")]
            Self::Tls(_) => OF_TLS,
        };
        let buffer = socket2::SockRef::from(self.socket()).send_buffer_size();
        // Linux' largest by default, where it can't be asked for.
        (buffer.unwrap_or(4 << 20) + own) as u64
    }
}

/// The same call on whichever it is.
macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Plain($stream) => $call,
            #[cfg(feature = "tls")]
            Self::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(cx, pieces))
    }
}
