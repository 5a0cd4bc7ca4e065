//! HTTP/2 to endpoints: many requests at once on few connections.
//!
//! Each thread has connections of its own. A request takes the first that has room; where none has, one more is opened, so
//! that neither one connection's congestion nor its bound of streams holds everything up.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use hyper::client::conn::http2;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Request, Response, Uri, header};

use super::body::RequestBody;
use super::endpoint::EndpointState;
use super::http1::{Reached, Reply, Unanswered};
use super::http2::Local;
use super::io::UpstreamIo;
use super::names::Remote;
use super::thread::Thread;

/// The most requests at once on one connection (the least that RFC 9113, section 6.5.2 asks a server to allow).
const STREAMS: u32 = 100;
/// What an endpoint may send ahead, on one stream and on all together.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// What is kept of a request that an endpoint does not take.
const SEND_BUFFER: usize = 64 * 1024;

/// A thread's connections to one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Connections(RefCell<Vec<Connection>>);

#[derive(Debug)]
struct Connection {
    sender: http2::SendRequest<RequestBody>,
    streams: Rc<Streams>,
    /// How it was made: zero without TLS.
    flavour: u64,
    /// Where it leads, where its endpoint is known by name.
    remote: Option<Remote>,
}

#[derive(Debug, Default)]
struct Streams {
    count: Cell<u32>,
    /// When the last one ended, in the thread's milliseconds.
    idle_since: Cell<u64>,
}

/// Room for one request.
#[derive(Debug)]
pub(crate) struct Stream {
    sender: http2::SendRequest<RequestBody>,
    streams: Rc<Streams>,
    is_secure: bool,
}

impl Connections {
    /// Room on a connection that is open.
    pub(super) fn stream(&self, flavour: u64, state: &EndpointState) -> Option<Stream> {
        let connections = self.0.borrow();
        let mut free = connections.iter().filter(|one| {
            one.flavour == flavour
                && state.is_at(one.remote.as_ref())
                && one.streams.count.get() < STREAMS
                && one.sender.is_ready()
        });
        free.next().map(Connection::stream)
    }

    /// Opens one more connection, and takes room on it.
    pub(super) async fn open(
        &self,
        io: UpstreamIo,
        state: &EndpointState,
        thread: &Thread,
        flavour: u64,
        remote: Option<Remote>,
    ) -> io::Result<Stream> {
        let mut builder = http2::Builder::new(Local);
        builder
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER);
        let (sender, connection) = builder.handshake(io).await.map_err(io::Error::other)?;
        tokio::task::spawn_local(async move {
            // How it ends is told to whoever has a request on it.
            let _ = connection.await;
        });
        let streams = Rc::new(Streams::default());
        streams.idle_since.set(thread.now());
        let connection = Connection { sender, streams, flavour, remote };
        let stream = connection.stream();
        let mut connections = self.0.borrow_mut();
        // Those of before a change take no more requests, and end with their last ones.
        connections.retain(|one| {
            !one.sender.is_closed() && one.flavour == flavour && state.is_at(one.remote.as_ref())
        });
        connections.push(connection);
        Ok(stream)
    }

    /// Closes what was idle for too long, or is closed already. One that leads to where the endpoint is no more takes no more
    /// requests, and ends with its last one.
    pub(super) fn sweep(&self, now: u64, limit: u64, state: &EndpointState) {
        self.0.borrow_mut().retain(|one| {
            if one.streams.count.get() > 0 {
                one.streams.idle_since.set(now);
            }
            !one.sender.is_closed()
                && state.is_at(one.remote.as_ref())
                && now.saturating_sub(one.streams.idle_since.get()) < limit
        });
    }

    /// Takes no more requests; a connection ends with its last one.
    pub(super) fn close(&self) {
        let connections = std::mem::take(&mut *self.0.borrow_mut());
        drop(connections);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

impl Connection {
    fn stream(&self) -> Stream {
        self.streams.count.set(self.streams.count.get() + 1);
        Stream { sender: self.sender.clone(), streams: self.streams.clone(), is_secure: self.flavour != 0 }
    }
}

impl Stream {
    /// Sends a request and waits for the begin of its answer.
    pub(super) async fn send(
        mut self,
        mut request: Box<Request<RequestBody>>,
        has_another: bool,
    ) -> Result<Response<Reply>, Unanswered> {
        // A copy of the head costs as much as reading it did, so it is made only where somebody else could get it.
        let spare = (has_another && request.body().is_empty()).then(|| head_of(&request));
        // The authority takes the place of `Host`.
        let host = request.headers().get(header::HOST);
        let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
        if let Some(authority) = authority {
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            parts.scheme = Some(if self.is_secure { Scheme::HTTPS } else { Scheme::HTTP });
            parts.authority = Some(authority);
            parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
            *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
            request.headers_mut().remove(header::HOST);
        }
        match self.sender.try_send_request(*request).await {
            Ok(response) => Ok(response.map(|body| Reply::Http2 { body, _stream: self })),
            Err(mut error) => Err(match error.take_message() {
                Some(request) => Unanswered { request: Some(Box::new(request)), reached: Reached::Nobody },
                None => Unanswered { request: spare, reached: Reached::Something },
            }),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.streams.count.set(self.streams.count.get().saturating_sub(1));
    }
}

/// The same request once more, without a body.
fn head_of(request: &Request<RequestBody>) -> Box<Request<RequestBody>> {
    let mut copy = Box::new(Request::new(RequestBody::Empty));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}
