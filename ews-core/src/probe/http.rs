//! An HTTP check: one request on a connection of its own, and as little of the answer as needed.
//!
//! No redirect is followed, no name is resolved, nothing is kept. Headers are bounded by number and size; of the body a
//! little is read out of courtesy, so that an honest server does not find its connection reset while it writes, and the
//! verdict stands before.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body as _, Bytes, Frame, Incoming};
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Uri};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::check::{Outcome, io_reason};
use crate::spec::probe::HttpCheck;

/// The most header fields of an answer.
const MAX_HEADERS: usize = 100;
/// The most bytes of its head.
const MAX_HEAD: usize = 32 * 1024;
/// The most bytes of its body that are read (Kubernetes reads 10 KiB).
const MAX_BODY: usize = 10 * 1024;
/// How long the body is read at most.
const BODY_TIME: Duration = Duration::from_millis(250);

/// One request. The caller bounds it in time.
pub(super) async fn check(address: SocketAddr, check: &HttpCheck) -> Outcome {
    // What can't be asked for is not connected for.
    let request = match request(&address.to_string(), check) {
        Ok(request) => request,
        Err(fault) => return Outcome::fail(fault),
    };
    let stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) => return Outcome::fail(io_reason(&error)),
    };
    // A small request should not wait for a full packet; without it the try is only slower.
    let _ = stream.set_nodelay(true);
    ask(stream, request, check).await
}

/// One request over a connection that is there already, such as one within TLS. The `Host` is `authority`, unless the check
/// has one. The caller bounds it in time.
pub async fn http_over<S>(stream: S, authority: &str, check: &HttpCheck) -> Outcome
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    match request(authority, check) {
        Ok(request) => ask(stream, request, check).await,
        Err(fault) => Outcome::fail(fault),
    }
}

async fn ask<S>(stream: S, request: Request<NoBody>, check: &HttpCheck) -> Outcome
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let handshake = hyper::client::conn::http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo(stream))
        .await;
    let (mut sender, connection) = match handshake {
        Ok(parts) => parts,
        Err(error) => return Outcome::fail(reason(&error)),
    };
    let exchange = async {
        let response = match sender.send_request(request).await {
            Ok(response) => response,
            Err(error) => return Outcome::fail(reason(&error)),
        };
        let status = response.status().as_u16();
        let _ = tokio::time::timeout(BODY_TIME, courtesy(response.into_body())).await;
        let text = format!("status {status}");
        if check.status.contains(status) { Outcome::pass(text) } else { Outcome::fail(text) }
    };
    // The connection lives in this future: dropped with it, closed with it, no task of its own.
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    let mut over = false;
    std::future::poll_fn(|context| {
        if !over && let Poll::Ready(_ended) = connection.as_mut().poll(context) {
            // What it ended with reaches the exchange too.
            over = true;
        }
        exchange.as_mut().poll(context)
    })
    .await
}

fn request(authority: &str, check: &HttpCheck) -> Result<Request<NoBody>, &'static str> {
    let uri: Uri = check.path.parse().map_err(|_| "the probe's path is not accepted in a request")?;
    if !check.path.starts_with('/') {
        return Err("the probe's path does not start with `/`");
    }
    let host = check.host.clone().unwrap_or_else(|| authority.to_owned());
    let mut request = Request::new(NoBody);
    *request.method_mut() = Method::GET;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("ews-probe/", env!("CARGO_PKG_VERSION"))));
    for (name, value) in &check.headers {
        let name =
            HeaderName::try_from(name).map_err(|_| "the name of one of the probe's headers is wrong")?;
        let value =
            HeaderValue::try_from(value).map_err(|_| "the value of one of the probe's headers is wrong")?;
        headers.insert(name, value);
    }
    if check.host.is_some() || !headers.contains_key(HOST) {
        headers.insert(HOST, HeaderValue::try_from(host).map_err(|_| "the probe's host is wrong")?);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

/// Reads some of the body and forgets it.
async fn courtesy(body: Incoming) {
    let mut body = std::pin::pin!(body);
    let mut read = 0;
    while read < MAX_BODY {
        let frame = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await;
        match frame {
            Some(Ok(frame)) => read += frame.data_ref().map_or(1, Bytes::len).max(1),
            Some(Err(_)) | None => return,
        }
    }
}

/// What went wrong, without a byte of the peer's.
fn reason(error: &hyper::Error) -> std::borrow::Cow<'static, str> {
    if error.is_parse() {
        return "the answer is not HTTP/1, or its head is too large".into();
    }
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return io_reason(io);
        }
        source = inner.source();
    }
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return "the connection was closed before the answer".into();
    }
    "the answer could not be read".into()
}

/// A request's absent body.
struct NoBody;

impl hyper::body::Body for NoBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}

/// A tokio stream as hyper wants it. Reading goes through a small buffer, which spares unsafe code; a probe reads little.
struct TokioIo<S>(S);

impl<S: AsyncRead + Unpin> hyper::rt::Read for TokioIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut into: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut space = [0; 4096];
        let room = into.remaining().min(space.len());
        let Some(space) = space.get_mut(..room) else { return Poll::Ready(Ok(())) };
        let mut buffer = ReadBuf::new(space);
        ready!(Pin::new(&mut self.0).poll_read(context, &mut buffer))?;
        into.put_slice(buffer.filled());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> hyper::rt::Write for TokioIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
