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
pub(crate) struct EngineStream {
    inner: Box<dyn Duplex>,
    /// What is written once the other side no longer reads.
    unheard: Unheard,
    /// Where a refusal that is read in place of an answer is kept.
    #[cfg(feature = "tls")]
    refusal: Option<super::tls::Refusal>,
}

/// What becomes of what an engine does not read any more.
///
/// An engine that has heard enough of a long request answers, and hangs up. Whoever ends with the failed write never reads the answer; so
/// in calls such a write counts as done, and the connection ends with what is read: the answer, or its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unheard {
    /// It is an error.
    Fails,
    /// It is dropped, once that has happened.
    Dropped,
    /// It is being dropped.
    Dropping,
}

impl EngineStream {
    fn new(stream: impl Duplex + 'static) -> Self {
        Self {
            inner: Box::new(stream),
            unheard: Unheard::Fails,
            #[cfg(feature = "tls")]
            refusal: None,
        }
    }

    /// The same for calls, whose answer counts and not whether all of the request was read.
    fn for_calls(mut self) -> Self {
        self.unheard = Unheard::Dropped;
        self
    }

    /// A write's outcome, where one of this length was tried.
    fn written(&mut self, outcome: Poll<io::Result<usize>>, length: usize) -> Poll<io::Result<usize>> {
        match outcome {
            Poll::Ready(Err(error)) if self.unheard == Unheard::Dropped && is_unheard(&error) => {
                self.unheard = Unheard::Dropping;
                Poll::Ready(Ok(length))
            }
            outcome => outcome,
        }
    }
}

fn is_unheard(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionReset | ConnectionAborted)
}

impl AsyncRead for EngineStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        #[cfg(feature = "tls")]
        if let (Poll::Ready(Err(error)), Some(refusal)) = (&read, &self.refusal) {
            refusal.note(error);
        }
        read
    }
}

impl AsyncWrite for EngineStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.unheard == Unheard::Dropping {
            return Poll::Ready(Ok(buf.len()));
        }
        let outcome = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.written(outcome, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum();
        if self.unheard == Unheard::Dropping {
            return Poll::Ready(Ok(length));
        }
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.written(outcome, length)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unheard == Unheard::Dropping {
            return Poll::Ready(Ok(()));
        }
        let outcome = Pin::new(&mut self.inner).poll_flush(cx).map_ok(|()| 0);
        self.written(outcome, 0).map_ok(drop)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unheard == Unheard::Dropping {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_shutdown(cx)
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
    #[cfg(feature = "tls")]
    refusal: super::tls::Refusal,
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
            #[cfg(feature = "tls")]
            refusal: super::tls::Refusal::default(),
        })
    }

    /// What the engine said of us in place of an answer, where it has; asked once.
    pub(crate) fn refusal(&self) -> Option<ews_core::Error> {
        #[cfg(feature = "tls")]
        return self.refusal.take();
        #[cfg(not(feature = "tls"))]
        None
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
                let mut stream = EngineStream::new(dialler.handshake(stream).await?);
                stream.refusal = Some(self.refusal.clone());
                Ok(stream)
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
        async move { Ok(TokioIo::new(connector.connect().await?.for_calls())) }.boxed()
    }
}
