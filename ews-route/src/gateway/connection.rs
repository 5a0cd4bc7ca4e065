//! One client connection: its phases, its times, its end.
//!
//! hyper drives the protocol; the [guard](super::guard) stands before it, and this task around it. There is no timer per
//! request: a connection remembers since when it is in which [`Phase`], and its thread looks at all of them every 100 ms
//! and wakes the few that are over their time.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use ews_core::id::CertificateId;
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::net::TcpStream;

use super::forward;
use super::guard::Refusal;
use super::io::ClientIo;
use super::listen::Kind;
use super::pace::{Coming, Taking};
use super::policy::Present;
use super::proxy_protocol;
use super::stream::Stream;
use super::tcp;
use super::thread::Thread;
use super::tunnel::Tunnel;

/// How long a connection that ends in the midst of a request is read on.
const LINGER: Duration = Duration::from_secs(1);

/// How long a connection may wait for its first request though the gateway ends, in milliseconds: one that was just accepted
/// has a client that was not told anything else.
const FIRST: u64 = 3_000;

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The end of what comes before the first request: the PROXY protocol, the handshake of TLS.
    Handshake,
    /// The next request.
    Idle,
    /// The rest of a head.
    Head,
    /// The begin of a response; the request's body may still be coming.
    Response,
    /// The rest of a response's body.
    Body,
    /// Whatever moves after an upgrade.
    Tunnel,
    /// The client's own end, after an answer that cut it off.
    Linger,
}

/// A client connection, known to all that works for it in its thread.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) thread: Rc<Thread>,
    /// Whom it speaks for: its peer, until that has announced somebody else.
    client: OnceCell<Announced>,
    peer: SocketAddr,
    /// How it is spoken to: `http` or `https`.
    pub(crate) scheme: &'static str,
    /// The certificate that it was secured with.
    pub(crate) certificate: OnceCell<CertificateId>,
    /// Of a stream: the connection that it is on.
    parent: Option<Rc<Connection>>,
    /// How many streams are on it.
    streams: Cell<u32>,
    waker: RefCell<Option<Waker>>,
    phase: Cell<Phase>,
    /// When the phase began, or made progress where that counts; in the thread's milliseconds.
    since: Cell<u64>,
    expired: Cell<bool>,
    /// How long the begin of this response may take, where that is not the gateway's own limit; in milliseconds.
    patience: Cell<Option<u64>>,
    /// Whether a part of the next head is here already.
    has_partial_head: Cell<bool>,
    /// Whether a request is not complete.
    is_within_request: Cell<bool>,
    /// How its body comes.
    coming: Coming,
    /// How answers are taken.
    taking: Taking,
    /// Which head was refused, by its number.
    refused: Cell<Option<(u64, Refusal)>>,
    calls: Cell<u64>,
    /// What it has under way was closed by force.
    aborted: Cell<bool>,
    /// It ends without another byte. Apart from `aborted`, whose requests were counted by who closed them.
    is_dropped: Cell<bool>,
    /// It is reset, so that what it was sent and did not read is not kept for it either.
    is_reset: Cell<bool>,
    /// An endpoint's side of an upgrade that is just being answered.
    tunnel: RefCell<Option<Tunnel>>,
}

/// Whom a connection speaks for.
#[derive(Debug, Clone)]
struct Announced {
    address: IpAddr,
    port: u16,
    /// The same as a header carries it.
    text: HeaderValue,
    /// Whether what it says of others in headers is believed.
    is_believed: bool,
}

impl Connection {
    pub(crate) fn new(thread: Rc<Thread>, peer: SocketAddr, kind: Kind) -> Self {
        let scheme = match kind {
            Kind::Plain => "http",
            Kind::Tls => "https",
            Kind::Tcp(_) => "tcp",
        };
        Self::with(thread, peer, scheme)
    }

    fn with(thread: Rc<Thread>, peer: SocketAddr, scheme: &'static str) -> Self {
        let now = thread.now();
        Self {
            thread,
            client: OnceCell::new(),
            peer,
            scheme,
            certificate: OnceCell::new(),
            parent: None,
            streams: Cell::new(0),
            waker: RefCell::new(None),
            phase: Cell::new(Phase::Idle),
            since: Cell::new(now),
            expired: Cell::new(false),
            patience: Cell::new(None),
            has_partial_head: Cell::new(false),
            is_within_request: Cell::new(false),
            coming: Coming::default(),
            taking: Taking::default(),
            refused: Cell::new(None),
            calls: Cell::new(0),
            aborted: Cell::new(false),
            is_dropped: Cell::new(false),
            is_reset: Cell::new(false),
            tunnel: RefCell::new(None),
        }
    }

    fn announced(&self) -> &Announced {
        self.client.get_or_init(|| self.announcement(self.peer))
    }

    fn announcement(&self, client: SocketAddr) -> Announced {
        let address = client.ip().to_canonical();
        let text = HeaderValue::from_str(&address.to_string());
        Announced {
            address,
            port: client.port(),
            text: text.unwrap_or_else(|_| HeaderValue::from_static("unknown")),
            is_believed: self.thread.shared.trust.believes(address),
        }
    }

    /// The client's address.
    pub(crate) fn address(&self) -> IpAddr {
        self.announced().address
    }

    /// The client's address and port.
    pub(crate) fn source(&self) -> SocketAddr {
        SocketAddr::new(self.announced().address, self.announced().port)
    }

    /// The same as a header carries it.
    pub(crate) fn client(&self) -> &HeaderValue {
        &self.announced().text
    }

    /// Whether what it says of others in headers is believed.
    pub(crate) fn is_believed(&self) -> bool {
        self.announced().is_believed
    }

    /// One more request is served; why it is refused, where it is.
    pub(crate) fn call(&self) -> Option<Refusal> {
        let number = self.calls.get() + 1;
        self.calls.set(number);
        self.patience.set(None);
        self.enter(Phase::Response);
        self.refused.get().filter(|(refused, _)| *refused == number).map(|(_, refusal)| refusal)
    }

    /// How long the begin of this response may take, in milliseconds.
    pub(crate) fn set_patience(&self, millis: u64) {
        self.patience.set(Some(millis));
    }

    pub(crate) fn enter(&self, phase: Phase) {
        let phase = match phase {
            Phase::Idle if self.has_partial_head.get() => Phase::Head,
            other => other,
        };
        self.phase.set(phase);
        self.since.set(self.thread.now());
        self.expired.set(false);
    }

    /// Bytes moved, in whichever direction. A head gets no more time by that, or a slow one would have all of it.
    pub(crate) fn progress(&self) {
        if !matches!(self.phase.get(), Phase::Head | Phase::Linger) {
            self.since.set(self.thread.now());
        }
    }

    /// More of what a client sends is asked for and not there yet.
    pub(crate) fn waits(&self) {
        if self.is_paced() {
            self.coming.waits(self.thread.now());
        }
    }

    /// So much of it came.
    pub(crate) fn came(&self, bytes: usize) {
        self.coming.came(bytes);
    }

    /// Of a stream: whether its body is to come at some pace.
    pub(crate) fn set_paced(&self, is_paced: bool) {
        self.is_within_request.set(is_paced);
    }

    /// Whether it is a stream.
    pub(crate) fn is_stream(&self) -> bool {
        self.parent.is_some()
    }

    /// Whether a body is to come now. Over HTTP/2 the two sides may talk for as long as they like once there is an answer.
    fn is_paced(&self) -> bool {
        self.is_within_request.get()
            && match self.phase.get() {
                Phase::Response => true,
                Phase::Body => !self.is_stream(),
                _ => false,
            }
    }

    /// The client takes nothing more for now, with so much in between.
    pub(crate) fn blocked(&self, between: impl FnOnce() -> u64) {
        self.taking.blocked(self.thread.now(), between);
    }

    /// It takes so much.
    pub(crate) fn took(&self, bytes: usize) {
        self.taking.took(self.thread.now(), self.thread.shared.config.limits.response_rate, bytes);
    }

    /// Whether the client sends or reads too slowly.
    fn is_slow(&self, now: u64) -> Option<Refusal> {
        let limits = &self.thread.shared.config.limits;
        if !self.is_within_request.get() || (self.is_stream() && !self.is_paced()) {
            self.coming.reset();
        } else if self.coming.is_slow(now, limits.body_rate) {
            return Some(Refusal::SlowBody);
        }
        let is_slow = self.phase.get() != Phase::Tunnel && self.taking.is_slow(now, limits.response_rate);
        is_slow.then_some(Refusal::SlowRead)
    }

    /// What the guard saw last.
    pub(crate) fn guarded(&self, is_within_head: bool, is_within_request: bool) {
        self.has_partial_head.set(is_within_head);
        self.is_within_request.set(is_within_request);
        if is_within_head && self.phase.get() == Phase::Idle {
            self.enter(Phase::Head);
        }
    }

    /// Whether the client is cut off in what it sends: it must be read on for a while, or a reset may take the answer from
    /// it (RFC 9112, section 9.6).
    pub(crate) fn is_cut(&self) -> bool {
        self.is_within_request.get() || self.refused.get().is_some()
    }

    pub(crate) fn refuse(&self, number: u64, refusal: Refusal) {
        self.refused.set(Some((number, refusal)));
        self.thread.counts.refused(refusal);
    }

    /// Whether its first request is still to come, and may.
    fn is_new(&self) -> bool {
        self.calls.get() == 0 && self.thread.now().saturating_sub(self.since.get()) < FIRST
    }

    /// Whether this phase is over its time.
    pub(crate) fn is_expired(&self, phase: Phase) -> bool {
        self.expired.get() && self.phase.get() == phase
    }

    /// The thread's regular look.
    pub(crate) fn look(&self, now: u64) {
        let timeouts = &self.thread.shared.config.timeouts;
        if let Some(refusal) = self.is_slow(now) {
            self.thread.counts.refused(refusal);
            let of_stream = self.parent.as_deref().unwrap_or(self);
            of_stream.is_reset.set(refusal == Refusal::SlowRead);
            self.cut();
            return;
        }
        if self.streams.get() > 0 {
            // Each stream has a time of its own.
            self.since.set(now);
            return;
        }
        let limit = match self.phase.get() {
            Phase::Handshake => timeouts.handshake,
            Phase::Idle => timeouts.idle,
            Phase::Head => timeouts.head,
            Phase::Response => timeouts.response,
            Phase::Body => timeouts.stall,
            Phase::Tunnel => timeouts.tunnel,
            Phase::Linger => LINGER,
        };
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let limit = match (self.phase.get(), self.patience.get()) {
            (Phase::Response, Some(patience)) => patience,
            _ => limit,
        };
        let age = now.saturating_sub(self.since.get());
        if self.thread.is_draining() && self.calls.get() == 0 && age >= FIRST {
            self.wake();
        }
        if age >= limit {
            self.expired.set(true);
            self.wake();
        }
        // A stream whose window is closed is not even asked whether it goes on: then its connection is dead.
        if let Some(parent) = self.parent.as_ref().filter(|_| age >= limit.saturating_mul(2)) {
            parent.abort();
        }
    }

    /// Lets the connection's task look at what was decided about it.
    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// What it has under way is closed by force.
    pub(crate) fn abort(&self) {
        self.aborted.set(true);
        self.wake();
    }

    /// It ends without another byte.
    pub(crate) fn cut(&self) {
        self.is_dropped.set(true);
        self.wake();
        if let Some(parent) = &self.parent {
            parent.cut();
        }
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.is_dropped.get()
    }

    pub(crate) fn is_reset(&self) -> bool {
        self.is_reset.get()
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted.get()
    }

    /// An endpoint has agreed to an upgrade: once the client has its answer, bytes move.
    pub(crate) fn upgrade(&self, tunnel: Tunnel) {
        *self.tunnel.borrow_mut() = Some(tunnel);
    }

    pub(crate) fn register(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        match &mut *known {
            Some(known) if known.will_wake(waker) => {}
            other => *other = Some(waker.clone()),
        }
    }

    /// Whether all there is to do is to drop it.
    pub(crate) fn is_over(&self) -> bool {
        if self.is_dropped.get() {
            return true;
        }
        match self.phase.get() {
            Phase::Handshake | Phase::Idle | Phase::Body | Phase::Tunnel | Phase::Linger => {
                self.expired.get() || self.aborted.get()
            }
            Phase::Head | Phase::Response => false,
        }
    }
}

/// A connection's place among those that its thread looks at, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    connection: Rc<Connection>,
    at: usize,
}

impl Place {
    pub(crate) fn new(connection: Rc<Connection>) -> Self {
        let at = connection.thread.place(&connection);
        Self { connection, at }
    }

    /// A place for one stream of a connection.
    #[cfg(feature = "http2")]
    pub(crate) fn of_stream(parent: &Rc<Connection>) -> Self {
        parent.streams.set(parent.streams.get() + 1);
        let thread = parent.thread.clone();
        let mut stream = Connection::with(thread, parent.peer, parent.scheme);
        stream.client = parent.client.clone();
        stream.certificate = parent.certificate.clone();
        stream.parent = Some(parent.clone());
        Self::new(Rc::new(stream))
    }

    pub(crate) fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connection.thread.leave(self.at);
        if let Some(parent) = &self.connection.parent {
            parent.streams.set(parent.streams.get().saturating_sub(1));
        }
    }
}

/// Waits for something before the first request; `None` once the connection is over.
pub(crate) async fn alive<F: Future>(connection: &Connection, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    poll_fn(|cx| {
        connection.register(cx.waker());
        if connection.is_over() {
            return Poll::Ready(None);
        }
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

/// Its place among the connections of its client, where these are bounded.
fn present(connection: &Connection) -> Result<Option<Present>, ()> {
    match &connection.thread.shared.presence {
        Some(presence) if !connection.is_believed() => {
            presence.join(connection.address()).map(Some).ok_or(())
        }
        _ => Ok(None),
    }
}

/// Whether its client may begin one more handshake of TLS.
#[cfg(feature = "tls")]
fn may_shake_hands(connection: &Connection) -> bool {
    let shared = &connection.thread.shared;
    let Some(most) = shared.config.limits.handshakes_per_client else { return true };
    let now = shared.nanos(std::time::Instant::now());
    connection.is_believed() || shared.rates.lets_shake_hands(connection.address(), most, now)
}

/// Serves a connection to its end.
pub(crate) async fn serve(connection: Rc<Connection>, mut stream: TcpStream, kind: Kind) {
    if connection.thread.shared.trust.announces(connection.peer.ip()) {
        connection.enter(Phase::Handshake);
        // What only some connections do is in a box, so that the others need no room for it.
        let announced = Box::pin(proxy_protocol::read(&mut stream));
        let Some(Ok(client)) = alive(&connection, announced).await else {
            connection.thread.counts.refused(Refusal::ProxyProtocol);
            return;
        };
        if let Some(client) = client {
            let _ = connection.client.set(connection.announcement(client));
            if connection.thread.drops(connection.address()) {
                return;
            }
        }
        connection.enter(Phase::Idle);
    }
    let Ok(_present) = present(&connection) else {
        connection.thread.counts.refused(Refusal::Crowded);
        return;
    };
    let of_tcp = match kind {
        Kind::Tcp(at) => connection.thread.shared.config.listen_tcp.get(at),
        Kind::Plain | Kind::Tls => None,
    };
    let has_tls = kind == Kind::Tls || of_tcp.is_some_and(|listener| listener.tls);
    let (stream, is_http2) = match has_tls {
        false => (Stream::Plain(stream), false),
        #[cfg(feature = "tls")]
        true => {
            if !may_shake_hands(&connection) {
                connection.thread.counts.refused(Refusal::Crowded);
                return;
            }
            connection.enter(Phase::Handshake);
            let secured = alive(&connection, Box::pin(super::tls::accept(&connection, stream))).await;
            let Some(Ok(secured)) = secured else {
                connection.thread.counts.refused(Refusal::Handshake);
                return;
            };
            connection.enter(Phase::Idle);
            let _ = connection.certificate.set(secured.certificate);
            (Stream::Tls(secured.stream), secured.is_http2)
        }
        #[cfg(not(feature = "tls"))]
        true => return,
    };
    if let Some(listener) = of_tcp {
        return Box::pin(tcp::serve(&connection, stream, listener.host.as_str())).await;
    }
    #[cfg(feature = "http2")]
    {
        let mut io = ClientIo::new(stream, connection.clone());
        if !is_http2 {
            match alive(&connection, poll_fn(|cx| io.poll_preface(cx))).await {
                Some(Ok(true)) => {}
                Some(Ok(false)) => return serve_http1(connection, io).await,
                Some(Err(_)) | None => return,
            }
        }
        io.pass_all();
        Box::pin(super::http2::serve(&connection, io)).await;
    }
    #[cfg(not(feature = "http2"))]
    {
        let _ = is_http2;
        serve_http1(connection.clone(), ClientIo::new(stream, connection)).await;
    }
}

async fn serve_http1(connection: Rc<Connection>, io: ClientIo) {
    let limits = connection.thread.shared.config.limits;
    let service = service_fn({
        let connection = connection.clone();
        move |request| forward::answer(connection.clone(), request)
    });
    let mut builder = http1::Builder::new();
    // Whole heads fit, since the guard hands over no other.
    builder.max_buf_size((limits.head_bytes + 1024).max(16 * 1024));
    let mut protocol = builder.serve_connection(io, service);
    let mut is_told = false;
    let is_whole = poll_fn(|cx| {
        connection.register(cx.waker());
        if connection.is_over() {
            if connection.is_reset() {
                // The socket is within, and learns of it when it is asked for anything.
                let _ = Pin::new(&mut protocol).poll(cx);
            }
            return Poll::Ready(false);
        }
        loop {
            if connection.thread.is_draining() && !is_told && !connection.is_new() {
                is_told = true;
                Pin::new(&mut protocol).graceful_shutdown();
            }
            return match Pin::new(&mut protocol).poll(cx) {
                // What went wrong has been counted, or was the client's own end.
                Poll::Ready(ended) => Poll::Ready(ended.is_ok()),
                Poll::Pending if connection.is_over() => Poll::Ready(false),
                // Its first request has come.
                Poll::Pending if connection.thread.is_draining() && !is_told && !connection.is_new() => {
                    continue;
                }
                Poll::Pending => Poll::Pending,
            };
        }
    })
    .await;
    let tunnel = connection.tunnel.take();
    let Some(tunnel) = tunnel.filter(|_| is_whole) else { return };
    let parts = protocol.into_parts();
    // Who sent a second request after one for an upgrade meant it for somebody else.
    if !parts.io.is_refused() {
        connection.enter(Phase::Tunnel);
        Box::pin(tunnel.run(&connection, parts.io, parts.read_buf)).await;
    }
}
