//! A client and an endpoint that speak HTTP/2.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::rt::ReadBufCursor;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

pub(crate) type Body = BoxBody<Bytes, Infallible>;

pub(crate) fn empty() -> Body {
    http_body_util::Empty::new().boxed()
}

#[derive(Clone)]
struct Spawn;

impl<F> hyper::rt::Executor<F> for Spawn
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        tokio::spawn(future);
    }
}

/// tokio's sockets as hyper takes them.
struct Io<T>(T);

impl<T: AsyncRead + Unpin> hyper::rt::Read for Io<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut target: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let mut bytes = vec![0; target.remaining().min(16 * 1024)];
        let mut buffer = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut buffer))?;
        target.put_slice(buffer.filled());
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> hyper::rt::Write for Io<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

pub(crate) type Client = hyper::client::conn::http2::SendRequest<Body>;

/// A client without TLS, which knows that HTTP/2 is spoken.
pub(crate) async fn client(address: SocketAddr) -> Client {
    over(TcpStream::connect(address).await.unwrap()).await
}

async fn over<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: T) -> Client {
    let (client, connection) = hyper::client::conn::http2::handshake(Spawn, Io(stream)).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client
}

/// One request over this connection.
pub(crate) async fn get<T>(stream: T, uri: &str) -> (u16, Vec<u8>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = Request::get(uri).body(empty()).unwrap();
    let response = over(stream).await.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    (status, response.into_body().collect().await.unwrap().to_bytes().to_vec())
}

/// An endpoint that answers with what it was sent, and with trailers as gRPC has them.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl Endpoint {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, now_open) = (connections.clone(), open.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                now_open.fetch_add(1, Ordering::Relaxed);
                let builder = hyper::server::conn::http2::Builder::new(Spawn);
                let now_open = now_open.clone();
                tokio::spawn(async move {
                    let _ = builder.serve_connection(Io(stream), service_fn(answer)).await;
                    now_open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, connections, open }
    }

    /// How many connections it ever had.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// How many it has.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
    let te = request.headers().get("te").and_then(|te| te.to_str().ok()).unwrap_or_default().to_owned();
    let protocol = format!("{:?}", request.version());
    let body = request.into_body().collect().await?.to_bytes();
    let trailers: HeaderMap = [("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect();
    let frames = [Ok(Frame::data(body)), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed());
    for (name, value) in [("x-protocol", protocol), ("x-authority", authority), ("x-te", te)] {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    Ok(response)
}
