//! A data thread: its listeners, its connections, its copy of everything.
//!
//! Each is a single-threaded runtime with local tasks; nothing on the way of a request is shared with another thread but
//! the counters of endpoints. A new snapshot is handed over by a channel: the thread takes it between two polls, closes
//! what must be closed, and then says that it serves that generation. So when every thread has said so, no request can be
//! sent by an older one.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use ews_core::balancer::MemberState;
use ews_core::{Clock as _, SystemClock};
use hyper::HeaderMap;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use super::budget::Budget;
use super::client::Trust;
use super::config::GatewayConfig;
use super::connection::{self, Connection, Place};
use super::endpoint::EndpointState;
use super::guard::Refusal;
use super::listen::{Kind, Source};
use super::policy::{Presence, RateTable};
use super::pool::{PoolIdentity, PoolView};
use super::sharded::Quick;
use super::snapshot::Snapshot;
use super::upstream::LocalEndpoint;
use crate::access::{End, Entry, Lines, Written};
use crate::metrics::recorder::{PoolCounts, Registry, ThreadCounts};

/// How often a thread looks at the time.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// How much is read from a socket at once.
const SCRATCH: usize = 32 * 1024;
/// How much memory small copies share.
const COPIES: usize = 4096;
/// How many maps are kept for headers, and of how many headers at most.
const KEPT_MAPS: usize = 32;
const KEPT_HEADERS: usize = 64;
/// The pause after a failed accept, such as one for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all threads of a gateway have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: GatewayConfig,
    pub(crate) started: Instant,
    /// The same as the time of day: from then on, what is counted has grown from zero.
    pub(crate) started_at: ews_core::Timestamp,
    pub(crate) registry: Registry,
    /// The generation that each thread serves.
    pub(crate) served: Vec<AtomicU64>,
    /// How many connections each thread has.
    pub(crate) connections: Vec<AtomicUsize>,
    #[cfg(feature = "tls")]
    pub(crate) certificates: super::tls::Certificates,
    /// Whose word is taken for who asks.
    pub(crate) trust: Trust,
    /// How many connections clients have, where that is bounded.
    pub(crate) presence: Option<Arc<Presence>>,
    /// What clients have used up of their rates.
    pub(crate) rates: RateTable,
    /// Where lines of the access log go.
    pub(crate) access: Option<Written>,
    /// Something happened that the control thread should look at.
    pub(crate) notice: Notify,
}

impl Shared {
    /// The gateway's milliseconds.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The same in nanoseconds, for rates.
    pub(crate) fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX)
    }

    /// The generation that every thread serves. One that has ended serves any: nothing is sent by an older one.
    pub(crate) fn served(&self) -> u64 {
        self.served.iter().map(|served| served.load(Ordering::Acquire)).min().unwrap_or(0)
    }
}

/// How the gateway ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Ending {
    /// Not yet.
    #[default]
    Runs,
    /// No new connections; what is under way is finished.
    Drains,
    /// At once.
    Now,
}

/// One data thread.
#[derive(Debug)]
pub(crate) struct Thread {
    index: usize,
    pub(crate) shared: Arc<Shared>,
    now: Cell<u64>,
    random: Cell<u64>,
    snapshot: RefCell<Rc<Snapshot>>,
    endpoints: RefCell<HashMap<u64, Rc<LocalEndpoint>, Quick>>,
    pools: RefCell<HashMap<u64, CountedPool, Quick>>,
    /// What goes to no pool.
    pub(crate) own: Arc<PoolCounts>,
    pub(crate) counts: Arc<ThreadCounts>,
    pub(crate) budget: Budget,
    pub(crate) scratch: RefCell<Box<[u8]>>,
    /// What the next large part of a body is read into.
    pub(crate) spare: RefCell<BytesMut>,
    /// What the next request's head is written into.
    pub(crate) heads: RefCell<Vec<u8>>,
    /// What small things are copied into that live for a moment.
    copies: RefCell<BytesMut>,
    /// Maps of requests that were answered, for the headers of answers.
    maps: RefCell<Vec<HeaderMap>>,
    access: Option<RefCell<Lines>>,
    connections: RefCell<Connections>,
    /// A connection ended.
    freed: Notify,
    /// Another snapshot was taken.
    pub(crate) changed: Notify,
    is_draining: Cell<bool>,
}

/// A pool, and what this thread counts of it.
type CountedPool = (Arc<PoolIdentity>, Arc<PoolCounts>);

#[derive(Debug, Default)]
struct Connections {
    places: Vec<Option<Rc<Connection>>>,
    free: Vec<usize>,
}

/// What a thread is told.
pub(crate) struct Orders {
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(crate) ending: watch::Receiver<Ending>,
}

impl Thread {
    pub(crate) fn new(index: usize, shared: Arc<Shared>, first: &Snapshot) -> Self {
        let (counts, own) = (shared.registry.thread(), shared.registry.pool(None));
        let access = shared.access.clone().map(|log| RefCell::new(Lines::new(log)));
        let budget = Budget::new(shared.config.upstream.retry_percent);
        // The seed only has to differ from thread to thread and from start to start.
        let seed = std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), index);
        Self {
            index,
            now: Cell::new(shared.now()),
            shared,
            random: Cell::new(seed | 1),
            snapshot: RefCell::new(Rc::new(first.clone())),
            endpoints: RefCell::default(),
            pools: RefCell::default(),
            own,
            counts,
            budget,
            access,
            scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
            spare: RefCell::default(),
            heads: RefCell::default(),
            copies: RefCell::default(),
            maps: RefCell::default(),
            connections: RefCell::default(),
            freed: Notify::new(),
            changed: Notify::new(),
            is_draining: Cell::new(false),
        }
    }

    /// The time of the last tick, in the gateway's milliseconds.
    pub(crate) fn now(&self) -> u64 {
        self.now.get()
    }

    /// Xorshift: for choices, not for secrets.
    pub(crate) fn random(&self) -> u64 {
        let mut state = self.random.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.random.set(state);
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.get()
    }

    pub(crate) fn snapshot(&self) -> Rc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// A copy, of which parts can be had. Small ones share their memory with others for as long as one of these lives, so that
    /// not each asks the system for some; a client that doesn't read keeps a page that way at most.
    pub(crate) fn shared_copy(&self, bytes: &[u8]) -> Bytes {
        if bytes.len() > COPIES / 4 {
            return Bytes::copy_from_slice(bytes);
        }
        let mut copies = self.copies.borrow_mut();
        if copies.capacity() < bytes.len() {
            *copies = BytesMut::with_capacity(COPIES);
        }
        copies.extend_from_slice(bytes);
        copies.split().freeze()
    }

    /// A map for the headers of an answer. hyper takes the same one for its connection's next request.
    pub(crate) fn header_map(&self) -> HeaderMap {
        self.maps.borrow_mut().pop().unwrap_or_default()
    }

    /// A map that nobody needs any more.
    pub(crate) fn recycle(&self, mut map: HeaderMap) {
        let mut maps = self.maps.borrow_mut();
        if maps.len() < KEPT_MAPS && map.capacity() <= KEPT_HEADERS {
            map.clear();
            maps.push(map);
        }
    }

    /// What this thread has of an endpoint.
    pub(crate) fn endpoint(&self, state: &Arc<EndpointState>) -> Rc<LocalEndpoint> {
        if let Some(known) = self.endpoints.borrow().get(&state.uid) {
            return known.clone();
        }
        let local = Rc::new(LocalEndpoint::new(state.clone()));
        self.endpoints.borrow_mut().insert(state.uid, local.clone());
        local
    }

    /// What this thread counts of a pool.
    pub(crate) fn pool_counts(&self, pool: &PoolView) -> Arc<PoolCounts> {
        let uid = pool.identity.uid;
        if let Some((_, known)) = self.pools.borrow().get(&uid) {
            return known.clone();
        }
        let identity = &pool.identity;
        let counts = self.shared.registry.pool(Some(identity.clone()));
        self.pools.borrow_mut().insert(uid, (identity.clone(), counts.clone()));
        counts
    }

    /// Serves by this snapshot from now on.
    fn take(&self, snapshot: &Snapshot) {
        let generation = snapshot.generation;
        let is_dropped =
            self.snapshot.borrow().blackholes.sources_version != snapshot.blackholes.sources_version;
        // A few pointers; requests then share them without touching a counter of other threads.
        *self.snapshot.borrow_mut() = Rc::new(snapshot.clone());
        if is_dropped {
            for connection in self.connections.borrow().places.iter().flatten() {
                if snapshot.blackholes.drops(connection.address(), || SystemClock.now()) {
                    connection.cut();
                }
            }
        }
        let locals: Vec<Rc<LocalEndpoint>> = self.endpoints.borrow().values().cloned().collect();
        for local in locals {
            match local.state.state() {
                MemberState::Active => {
                    local.close_gone(self.now());
                    continue;
                }
                MemberState::Draining => local.close_idle(),
                MemberState::Closed => {
                    local.close_idle();
                    local.force();
                }
                _ => {}
            }
            if local.state.is_removed() && local.is_unused() {
                self.endpoints.borrow_mut().remove(&local.state.uid);
            }
        }
        let current = self.snapshot();
        self.pools.borrow_mut().retain(|uid, (identity, counts)| {
            // Shared with the registry, and with each exchange under way.
            Arc::strong_count(counts) > 2
                || current.pool(&identity.id).is_some_and(|pool| pool.identity.uid == *uid)
        });
        if let Some(served) = self.shared.served.get(self.index) {
            served.store(generation, Ordering::Release);
        }
        self.shared.notice.notify_one();
        self.changed.notify_waiters();
    }

    /// Whether requests are written to an access log.
    pub(crate) fn logs(&self) -> bool {
        self.access.is_some()
    }

    /// Writes a line of the access log.
    pub(crate) fn log(&self, entry: &Entry, end: &End<'_>) {
        if let Some(lines) = &self.access {
            let mut lines = lines.borrow_mut();
            let format = lines.format();
            lines.add(|into| entry.write(format, end, into));
        }
    }

    /// The regular look at the time.
    fn tick(&self) {
        if let Some(lines) = &self.access {
            lines.borrow_mut().hand_over();
        }
        let before = self.now.get();
        let now = self.shared.now();
        self.now.set(now);
        self.budget.pass(now.saturating_sub(before));
        // One that is over its time is woken, never ended here, so the list is not changed meanwhile.
        for connection in self.connections.borrow().places.iter().flatten() {
            connection.look(now);
        }
        // Idle limits are seconds; once in each is often enough.
        if before / 1_000 == now / 1_000 {
            return;
        }
        let limit = u64::try_from(self.shared.config.upstream.idle.as_millis()).unwrap_or(u64::MAX);
        let locals: Vec<Rc<LocalEndpoint>> = self.endpoints.borrow().values().cloned().collect();
        for local in locals {
            local.sweep(now, limit);
        }
    }

    /// A place among the connections that are looked at.
    pub(crate) fn place(&self, connection: &Rc<Connection>) -> usize {
        let mut connections = self.connections.borrow_mut();
        let place = match connections.free.pop() {
            Some(place) => place,
            None => {
                connections.places.push(None);
                connections.places.len() - 1
            }
        };
        if let Some(free) = connections.places.get_mut(place) {
            *free = Some(connection.clone());
        }
        place
    }

    /// The connection of this place has ended.
    pub(crate) fn leave(&self, place: usize) {
        let mut connections = self.connections.borrow_mut();
        let ended = connections.places.get_mut(place).and_then(Option::take);
        connections.free.push(place);
        drop(connections);
        drop(ended);
    }

    /// Whether what this client sends is dropped; then it is counted.
    pub(crate) fn drops(&self, client: std::net::IpAddr) -> bool {
        let drops = self.snapshot.borrow().blackholes.drops(client, || SystemClock.now());
        if drops {
            self.counts.refused(Refusal::Blackhole);
        }
        drops
    }

    fn add(self: &Rc<Self>, stream: TcpStream, peer: std::net::SocketAddr, kind: Kind) {
        if self.drops(peer.ip()) {
            return;
        }
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let place = Place::new(Rc::new(Connection::new(self.clone(), peer, kind)));
        self.count(|count| count.fetch_add(1, Ordering::Relaxed));
        let thread = self.clone();
        tokio::task::spawn_local(async move {
            connection::serve(place.connection().clone(), stream, kind).await;
            drop(place);
            thread.count(|count| count.fetch_sub(1, Ordering::Relaxed));
            thread.freed.notify_one();
        });
    }

    fn count(&self, change: impl FnOnce(&AtomicUsize) -> usize) {
        self.shared.connections.get(self.index).map(change);
    }

    pub(crate) fn open_connections(&self) -> usize {
        self.shared.connections.get(self.index).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    async fn accept(self: Rc<Self>, mut source: Source) {
        loop {
            while self.open_connections() >= self.shared.config.limits.connections {
                self.freed.notified().await;
            }
            match source.next().await {
                Ok(Some((stream, peer))) => self.add(stream, peer, source.kind),
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// The thread's life.
pub(crate) async fn run(thread: Rc<Thread>, sources: Vec<Source>, orders: Orders) {
    live(&thread, sources, orders).await;
    if let Some(served) = thread.shared.served.get(thread.index) {
        served.store(u64::MAX, Ordering::Release);
    }
    thread.shared.notice.notify_one();
}

async fn live(thread: &Rc<Thread>, sources: Vec<Source>, mut orders: Orders) {
    let first = orders.snapshots.borrow_and_update().clone();
    thread.take(&first);
    let mut accepting = Vec::new();
    let mut taking = tokio::task::JoinSet::new();
    for source in sources {
        // What was accepted elsewhere for this thread is taken, also where it comes while the gateway ends.
        if source.ends() {
            taking.spawn_local(thread.clone().accept(source));
        } else {
            accepting.push(tokio::task::spawn_local(thread.clone().accept(source)));
        }
    }
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            changed = orders.snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
                let snapshot = orders.snapshots.borrow_and_update().clone();
                thread.take(&snapshot);
            }
            changed = orders.ending.changed() => {
                if changed.is_err() || *orders.ending.borrow_and_update() == Ending::Now {
                    return;
                }
                thread.is_draining.set(true);
                accepting.iter().for_each(tokio::task::JoinHandle::abort);
                for local in thread.endpoints.borrow().values() {
                    local.close_idle();
                }
                for connection in thread.connections.borrow().places.iter().flatten() {
                    connection.wake();
                }
            }
            _ = ticks.tick() => thread.tick(),
            () = thread.freed.notified(), if thread.is_draining() => {}
            _ = taking.join_next(), if !taking.is_empty() => {}
        }
        if thread.is_draining() && taking.is_empty() && thread.open_connections() == 0 {
            return;
        }
    }
}
