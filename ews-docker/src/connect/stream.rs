//! One connection to an engine, whatever it runs over.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hyper::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::EngineAddress;

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection to an engine. Boxed: an engine's calls are no hot path, and one type keeps the clients simple.
pub(crate) struct EngineStream(Box<dyn Duplex>);

impl EngineStream {
    fn new(stream: impl Duplex + 'static) -> Self {
        Self(Box::new(stream))
    }
}

impl AsyncRead for EngineStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for EngineStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

// The pool of hyper-util asks this of what the connector makes.
impl Connection for EngineStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// Makes connections to one engine.
#[derive(Clone)]
pub(crate) struct Connector {
    address: Arc<EngineAddress>,
    #[cfg(feature = "tls")]
    tls: Option<super::tls::Dialler>,
}

impl Connector {
    /// Reads the certificates, where there are any.
    pub(crate) fn new(address: EngineAddress) -> ews_core::Result<Self> {
        #[cfg(feature = "tls")]
        let tls = match &address {
            EngineAddress::Tls { host, tls, .. } => Some(super::tls::Dialler::new(host, tls)?),
            _ => None,
        };
        #[cfg(not(feature = "tls"))]
        if matches!(address, EngineAddress::Tls { .. }) {
            return Err(ews_core::Error::new(
                ews_core::ErrorKind::Unsupported,
                "this address needs TLS, and ews-docker was built without its feature `tls`",
            )
            .with_context("engine", &address));
        }
        Ok(Self {
            address: Arc::new(address),
            #[cfg(feature = "tls")]
            tls,
        })
    }

    /// A new connection.
    pub(crate) async fn connect(&self) -> io::Result<EngineStream> {
        match &*self.address {
            #[cfg(unix)]
            EngineAddress::Unix(path) => Ok(EngineStream::new(tokio::net::UnixStream::connect(path).await?)),
            #[cfg(not(unix))]
            EngineAddress::Unix(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "no Unix sockets here")),
            #[cfg(windows)]
            EngineAddress::NamedPipe(path) => Ok(EngineStream::new(open_pipe(path).await?)),
            #[cfg(not(windows))]
            EngineAddress::NamedPipe(_) => {
                Err(io::Error::new(io::ErrorKind::Unsupported, "no named pipes here"))
            }
            EngineAddress::Tcp { host, port } => Ok(EngineStream::new(open_tcp(host, *port).await?)),
            #[cfg(feature = "tls")]
            EngineAddress::Tls { host, port, .. } => {
                let dialler =
                    self.tls.as_ref().ok_or_else(|| io::Error::other("no certificates were read"))?;
                let stream = open_tcp(host, *port).await?;
                Ok(EngineStream::new(dialler.handshake(stream).await?))
            }
            #[cfg(not(feature = "tls"))]
            EngineAddress::Tls { .. } => Err(io::Error::new(io::ErrorKind::Unsupported, "built without TLS")),
        }
    }
}

async fn open_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    // Without it small requests wait for Nagle: a list call of 6 ms takes 45 ms over TLS.
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(windows)]
async fn open_pipe(path: &str) -> io::Result<tokio::net::windows::named_pipe::NamedPipeClient> {
    const PIPE_BUSY: i32 = 231;
    let mut tries = 0;
    loop {
        match tokio::net::windows::named_pipe::ClientOptions::new().open(path) {
            Err(error) if error.raw_os_error() == Some(PIPE_BUSY) && tries < 100 => tries += 1,
            opened => return opened,
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<EngineStream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<EngineStream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        async move { connector.connect().await.map(TokioIo::new) }.boxed()
    }
}
