//! One client connection: its phases, its times, its end.
//!
//! hyper drives the protocol; the [guard](super::guard) stands before it, and this task around it. There is no timer per
//! request: a connection remembers since when it is in which [`Phase`], and its thread looks at all of them every 100 ms
//! and wakes the few that are over their time.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::net::TcpStream;

use super::forward;
use super::guard::Refusal;
use super::io::ClientIo;
use super::thread::Thread;

/// How long a connection that ends in the midst of a request is read on.
const LINGER: Duration = Duration::from_secs(1);

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The next request.
    Idle,
    /// The rest of a head.
    Head,
    /// The begin of a response; the request's body may still be coming.
    Response,
    /// The rest of a response's body.
    Body,
    /// The client's own end, after an answer that cut it off.
    Linger,
}

/// A client connection, known to all that works for it in its thread.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) thread: Rc<Thread>,
    /// The client's address as a header carries it.
    pub(crate) client: HeaderValue,
    waker: RefCell<Option<Waker>>,
    phase: Cell<Phase>,
    /// When the phase began, or made progress where that counts; in the thread's milliseconds.
    since: Cell<u64>,
    expired: Cell<bool>,
    /// Whether a part of the next head is here already.
    has_partial_head: Cell<bool>,
    /// Whether a request is not complete.
    is_within_request: Cell<bool>,
    /// Which head was refused, by its number.
    refused: Cell<Option<(u64, Refusal)>>,
    calls: Cell<u64>,
    /// What it has under way was closed by force.
    aborted: Cell<bool>,
}

impl Connection {
    pub(crate) fn new(thread: Rc<Thread>, peer: SocketAddr) -> Self {
        let client = HeaderValue::from_str(&peer.ip().to_canonical().to_string());
        let now = thread.now();
        Self {
            thread,
            client: client.unwrap_or_else(|_| HeaderValue::from_static("unknown")),
            waker: RefCell::new(None),
            phase: Cell::new(Phase::Idle),
            since: Cell::new(now),
            expired: Cell::new(false),
            has_partial_head: Cell::new(false),
            is_within_request: Cell::new(false),
            refused: Cell::new(None),
            calls: Cell::new(0),
            aborted: Cell::new(false),
        }
    }

    /// One more request is served; why it is refused, where it is.
    pub(crate) fn call(&self) -> Option<Refusal> {
        let number = self.calls.get() + 1;
        self.calls.set(number);
        self.enter(Phase::Response);
        self.refused.get().filter(|(refused, _)| *refused == number).map(|(_, refusal)| refusal)
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

    /// Whether this phase is over its time.
    pub(crate) fn is_expired(&self, phase: Phase) -> bool {
        self.expired.get() && self.phase.get() == phase
    }

    /// The thread's regular look.
    pub(crate) fn look(&self, now: u64) {
        let timeouts = &self.thread.shared.config.timeouts;
        let limit = match self.phase.get() {
            Phase::Idle => timeouts.idle,
            Phase::Head => timeouts.head,
            Phase::Response => timeouts.response,
            Phase::Body => timeouts.stall,
            Phase::Linger => LINGER,
        };
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        if now.saturating_sub(self.since.get()) >= limit {
            self.expired.set(true);
            self.wake();
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

    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted.get()
    }

    fn register(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        match &mut *known {
            Some(known) if known.will_wake(waker) => {}
            other => *other = Some(waker.clone()),
        }
    }

    /// Whether all there is to do is to drop it.
    fn is_over(&self) -> bool {
        match self.phase.get() {
            Phase::Idle | Phase::Body | Phase::Linger => self.expired.get() || self.aborted.get(),
            Phase::Head | Phase::Response => false,
        }
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve(connection: Rc<Connection>, stream: TcpStream) {
    let limits = connection.thread.shared.config.limits;
    let io = ClientIo::new(stream, connection.clone());
    let service = service_fn({
        let connection = connection.clone();
        move |request| forward::answer(connection.clone(), request)
    });
    let mut builder = http1::Builder::new();
    // Whole heads fit, since the guard hands over no other.
    builder.max_buf_size((limits.head_bytes + 1024).max(16 * 1024));
    let mut protocol = pin!(builder.serve_connection(io, service));
    let mut is_told = false;
    poll_fn(|cx| {
        connection.register(cx.waker());
        if connection.is_over() {
            return Poll::Ready(());
        }
        if connection.thread.is_draining() && !is_told {
            is_told = true;
            protocol.as_mut().graceful_shutdown();
        }
        match protocol.as_mut().poll(cx) {
            // What went wrong has been counted, or was the client's own end.
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending if connection.is_over() => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
}
