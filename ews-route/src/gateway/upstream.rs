//! Connections to endpoints, kept by each thread for itself, and what each thread has under way there.
//!
//! hyper's own pool (in hyper-util) has one lock for all and knows no drain. Here a thread keeps its idle connections per
//! endpoint, the youngest on top. When an endpoint gets no more traffic they are closed at once; when it is closed, what is
//! under way is cut off and counted as forced, once and exactly.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use ews_core::balancer::MemberState;
#[cfg(feature = "http2")]
use ews_core::balancer::PoolProtocol;
use tokio::net::TcpStream;

use super::connection::Connection;
use super::endpoint::EndpointState;
use super::http1::Http1;
#[cfg(feature = "http2")]
use super::io::UpstreamIo;
use super::names::Remote;
use super::pool::PoolView;
use super::stream::Stream;
use super::thread::Thread;

/// A connection to an endpoint as requests are given to it.
#[derive(Debug)]
pub(crate) enum Sender {
    /// One request at a time.
    Http1(Http1),
    /// One more stream of a connection that has others.
    #[cfg(feature = "http2")]
    Http2(super::upstream_http2::Stream),
}

/// How many idle connections are looked at for one that can be used.
const LOOKS: usize = 8;

/// What one thread has of one endpoint.
#[derive(Debug)]
pub(crate) struct LocalEndpoint {
    pub(crate) state: Arc<EndpointState>,
    idle: RefCell<VecDeque<Idle>>,
    #[cfg(feature = "http2")]
    pub(super) http2: super::upstream_http2::Connections,
    under_way: RefCell<UnderWay>,
}

#[derive(Debug)]
struct Idle {
    connection: Http1,
    since: u64,
}

/// The connections that have a request here, in places that are used again.
#[derive(Debug, Default)]
struct UnderWay {
    places: Vec<Option<Rc<Connection>>>,
    free: Vec<usize>,
}

impl LocalEndpoint {
    pub(crate) fn new(state: Arc<EndpointState>) -> Self {
        Self {
            state,
            idle: RefCell::default(),
            #[cfg(feature = "http2")]
            http2: super::upstream_http2::Connections::default(),
            under_way: RefCell::default(),
        }
    }

    /// Begins a request here. It counts until the lease is dropped.
    pub(crate) fn lease(self: &Rc<Self>, connection: &Rc<Connection>) -> Lease {
        self.state.begin();
        let mut under_way = self.under_way.borrow_mut();
        let place = match under_way.free.pop() {
            Some(place) => place,
            None => {
                under_way.places.push(None);
                under_way.places.len() - 1
            }
        };
        if let Some(free) = under_way.places.get_mut(place) {
            *free = Some(connection.clone());
        }
        Lease { local: self.clone(), place, connection: connection.clone(), failed: Cell::new(false) }
    }

    /// A connection that can be used at once, for a request that may be sent twice or must not be.
    pub(crate) fn checkout(&self, pool: &PoolView, replayable: bool) -> Option<Sender> {
        let flavour = pool.flavour();
        match pool.protocol {
            #[cfg(feature = "http2")]
            PoolProtocol::H2c => self.http2.stream(flavour, &self.state).map(Sender::Http2),
            _ => self.idle(flavour, replayable).map(Sender::Http1),
        }
    }

    fn idle(&self, flavour: u64, replayable: bool) -> Option<Http1> {
        let mut idle = self.idle.borrow_mut();
        for _ in 0..LOOKS {
            let Idle { connection, .. } = idle.pop_back()?;
            let is_fit = connection.flavour == flavour && self.state.is_at(connection.remote.as_ref());
            // An endpoint may have closed it since the last look at events; a request that is lost by that can't be sent again.
            let is_open = |one: &Http1| if replayable { one.is_open() } else { one.is_surely_open() };
            if is_fit && is_open(&connection) {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection whose response has ended.
    pub(crate) fn checkin(&self, sender: Sender, thread: &Thread) {
        // Of the others the connection has more, and goes on without it.
        #[cfg(feature = "http2")]
        let Sender::Http1(connection) = sender else { return };
        #[cfg(not(feature = "http2"))]
        let Sender::Http1(connection) = sender;
        if self.state.state() != MemberState::Active || thread.is_draining() {
            return;
        }
        if !self.state.is_at(connection.remote.as_ref()) {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let most = thread.shared.config.upstream.idle_connections;
        while idle.len() >= most {
            // With a bound of none, the new one itself goes.
            if idle.pop_front().is_none() {
                return;
            }
        }
        idle.push_back(Idle { connection, since: thread.now() });
    }

    /// Closes what was idle for too long, is closed already, or leads to where the endpoint is no more.
    pub(crate) fn sweep(&self, now: u64, limit: u64) {
        self.idle.borrow_mut().retain(|idle| {
            now.saturating_sub(idle.since) < limit
                && self.state.is_at(idle.connection.remote.as_ref())
                && idle.connection.is_open()
        });
        #[cfg(feature = "http2")]
        self.http2.sweep(now, limit, &self.state);
    }

    /// Closes what is idle and leads to where the endpoint is no more.
    pub(crate) fn close_gone(&self, now: u64) {
        if self.state.named.is_some() {
            self.sweep(now, u64::MAX);
        }
    }

    /// Closes all that is idle.
    pub(crate) fn close_idle(&self) {
        self.idle.borrow_mut().clear();
        #[cfg(feature = "http2")]
        self.http2.close();
    }

    /// Cuts off all that is under way.
    pub(crate) fn force(&self) {
        let under_way = std::mem::take(&mut *self.under_way.borrow_mut());
        for connection in under_way.places.into_iter().flatten() {
            connection.abort();
            self.state.force(1);
            self.state.end(true);
        }
    }

    #[cfg(feature = "http2")]
    fn has_no_streams(&self) -> bool {
        self.http2.is_empty()
    }

    #[cfg(not(feature = "http2"))]
    #[expect(clippy::unused_self, reason = "there are none")]
    fn has_no_streams(&self) -> bool {
        true
    }

    /// Whether this thread has nothing of it any more.
    pub(crate) fn is_unused(&self) -> bool {
        self.idle.borrow().is_empty()
            && self.has_no_streams()
            && self.under_way.borrow().places.iter().all(Option::is_none)
    }
}

/// A request under way at an endpoint.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) local: Rc<LocalEndpoint>,
    place: usize,
    connection: Rc<Connection>,
    failed: Cell<bool>,
}

impl Lease {
    /// Counts as an error when it ends.
    pub(crate) fn fail(&self) {
        self.failed.set(true);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Who was cut off has been counted already.
        if self.connection.is_aborted() {
            return;
        }
        let mut under_way = self.local.under_way.borrow_mut();
        let taken = under_way.places.get_mut(self.place).and_then(Option::take);
        under_way.free.push(self.place);
        drop(under_way);
        drop(taken);
        let state = &self.local.state;
        if state.end(self.failed.get()) && state.state() != MemberState::Active {
            self.connection.thread.shared.notice.notify_one();
        }
    }
}

/// Opens a socket to an endpoint; of several addresses to the first that can be connected to.
pub(crate) async fn open(thread: &Thread, state: &EndpointState) -> io::Result<TcpStream> {
    let limit = thread.shared.config.timeouts.connect;
    let connect = async |address| {
        tokio::time::timeout(limit, TcpStream::connect::<SocketAddr>(address))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    };
    let stream = match (&state.named, state.address.socket()) {
        (None, Some(address)) => connect(address).await?,
        (named, _) => {
            let tries = named.as_ref().map(|named| named.tries(thread.now())).unwrap_or_default();
            let mut opened = Err(io::Error::new(io::ErrorKind::NotFound, "nobody knows its address"));
            for one in tries {
                opened = connect(one.address).await;
                if opened.is_ok() {
                    one.reached();
                    break;
                }
                one.failed(thread.now());
            }
            opened?
        }
    };
    // A head and a small body are one write; without this a larger one would wait for an acknowledgement.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Puts TLS around it, where the pool wants that.
pub(crate) async fn secure(
    thread: &Thread,
    state: &EndpointState,
    pool: &PoolView,
    stream: TcpStream,
) -> io::Result<Stream> {
    #[cfg(feature = "tls")]
    if let Some(tls) = &pool.tls {
        let secured = super::tls::connect(&thread.shared, tls, &state.address, stream).await?;
        return Ok(Stream::Tls(Box::new(secured)));
    }
    #[cfg(not(feature = "tls"))]
    {
        let _ = (thread, state, pool);
        // So that there is something to wait for, as there is with TLS.
        std::future::ready(()).await;
    }
    Ok(Stream::Plain(stream))
}

/// Opens a connection to an endpoint.
pub(crate) async fn connect(
    thread: &Rc<Thread>,
    local: &LocalEndpoint,
    pool: &PoolView,
) -> io::Result<Sender> {
    let stream = open(thread, &local.state).await?;
    let remote = match &local.state.named {
        Some(_) => Some(Remote::new(stream.peer_addr()?)),
        None => None,
    };
    let stream = secure(thread, &local.state, pool, stream).await?;
    let flavour = pool.flavour();
    #[cfg(feature = "http2")]
    if pool.protocol == PoolProtocol::H2c {
        let io = UpstreamIo::new(stream, thread.clone());
        return local.http2.open(io, &local.state, thread, flavour, remote).await.map(Sender::Http2);
    }
    Ok(Sender::Http1(Http1::new(stream, flavour, remote)))
}
