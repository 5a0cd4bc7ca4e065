//! The gateway: an HTTP data plane on hyper, one single-threaded runtime per core.
//!
//! # A request's way
//! ```text
//! socket ─▶ guard ─▶ hyper ─▶ route ─▶ pick ─▶ upstream connection ─▶ answer ─▶ hyper ─▶ socket
//!           raw      parse    host,    P2C     kept per thread        streamed, counted
//!           bytes             path             and endpoint           when it has ended
//! ```
//! Everything on it happens in one thread without a lock. What is shared are snapshots, which never change, and the counters
//! of endpoints.
//!
//! # A change's way
//! Checked against the table, made durable, committed; then the next [`snapshot`] is handed to every thread. A thread that
//! takes it closes what must be closed and says which generation it serves. The gateway serves a generation when all
//! threads do: this is what makes a drain's zero a proof.
//!
//! # Reading order
//! [`guard`], [`connection`], [`forward`], [`route`], [`policy`], [`pool`], [`upstream`], [`http1`], [`names`], [`tunnel`], [`snapshot`], [`thread`]; then what
//! features add: `tls`, `http2`.

pub(crate) mod affinity;
mod auth;
pub(crate) mod blackhole;
pub(crate) mod body;
pub(crate) mod budget;
mod checks;
pub(crate) mod client;
mod config;
pub(crate) mod connection;
mod control;
pub(crate) mod endpoint;
pub(crate) mod exchange;
pub(crate) mod forward;
#[cfg(fuzzing)]
pub mod fuzzing;
pub(crate) mod guard;
pub(crate) mod headers;
pub(crate) mod http1;
#[cfg(feature = "http2")]
pub(crate) mod http2;
pub(crate) mod io;
pub(crate) mod listen;
pub(crate) mod names;
pub(crate) mod networks;
pub(crate) mod pace;
pub(crate) mod policy;
pub(crate) mod pool;
mod proxy_protocol;
pub(crate) mod respond;
pub(crate) mod route;
pub(crate) mod sharded;
pub(crate) mod snapshot;
mod start;
pub(crate) mod stream;
mod tcp;
pub(crate) mod thread;
#[cfg(feature = "tls")]
pub(crate) mod tls;
pub(crate) mod trace;
pub(crate) mod tunnel;
pub(crate) mod turn;
pub(crate) mod upstream;
#[cfg(feature = "http2")]
pub(crate) mod upstream_http2;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ews_core::Result;
use ews_core::balancer::{BalancerEvent, Prepared, Table};
use ews_core::event::Notice;
use ews_core::id::GatewayId;
use tokio::sync::{broadcast, watch};

pub use config::{
    Accept, ForwardedBy, Forwarding, GatewayConfig, NamesConfig, RequestLimits, SampleConfig, TcpListen,
    Timeouts, UpstreamConfig,
};
pub use names::{Resolver, SystemResolver};
pub use start::GatewayBuilder;

use crate::journal::Journal;
use crate::metrics::series::SeriesStore;
use endpoint::EndpointState;
use pool::PoolIdentity;
use snapshot::{Routing, Snapshot};
use thread::{Ending, Shared};

/// A gateway in this process. Clones are the same gateway; when the last one is dropped, it ends at once.
///
/// It installs no signal handler and no global of any kind, and runs on threads of its own.
///
/// ```
/// use std::time::Duration;
/// use ews_route::{Gateway, GatewayConfig};
///
/// # async fn embedded() -> ews_core::Result<()> {
/// let config = GatewayConfig::default().with_listen(["127.0.0.1:0".parse().expect("an address")]);
/// let gateway = Gateway::start(config).await?;
/// println!("listening at {:?}", gateway.addresses());
/// gateway.shutdown(Duration::from_secs(10)).await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Gateway {
    core: Arc<Core>,
    end: Arc<End>,
}

/// What it is and where it listens. What it was told may be a million domains, and headers that are nobody's business.
impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("id", &self.core.id)
            .field("addresses", &self.core.addresses)
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}

/// Ends the threads when nobody holds the gateway any more.
#[derive(Debug)]
struct End(watch::Sender<Ending>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.send_replace(Ending::Now);
    }
}

/// What the gateway's parts have in common.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) id: GatewayId,
    pub(crate) shared: Arc<Shared>,
    pub(crate) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(crate) events: broadcast::Sender<Notice<BalancerEvent>>,
    journal: Mutex<Option<Arc<Journal>>>,
    /// What is known of those before and after.
    #[cfg(all(unix, feature = "handover"))]
    pub(crate) relay: crate::handover::Relay,
    pub(crate) series: SeriesStore,
    /// Held by the change that is under way. What is in it was being made durable, and nobody knows yet whether it is.
    pub(crate) turn: tokio::sync::Mutex<Option<Prepared>>,
    state: Mutex<State>,
    addresses: Vec<SocketAddr>,
    ended: watch::Receiver<usize>,
}

/// What was applied, and what follows from it.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) table: Table,
    pub(crate) routing: Routing,
}

impl Core {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was applied is kept there; nowhere for a gateway without a store.
    pub(crate) fn journal(&self) -> Option<Arc<Journal>> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets go of the store.
    #[cfg(all(unix, feature = "handover"))]
    pub(crate) fn release(&self) {
        if let Some(journal) = self.journal.lock().unwrap_or_else(PoisonError::into_inner).take() {
            *self.relay.paused.lock().unwrap_or_else(PoisonError::into_inner) = Some(journal.pause());
        }
    }

    /// Whether the store was let go.
    #[cfg(all(unix, feature = "handover"))]
    pub(crate) fn is_released(&self) -> bool {
        self.relay.paused.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Goes on with the store, which was opened again.
    #[cfg(all(unix, feature = "handover"))]
    pub(crate) fn restore(&self, store: Arc<dyn ews_core::Store>) {
        if let Some(paused) = self.relay.paused.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let journal = Arc::new(Journal::resume(store, paused));
            *self.journal.lock().unwrap_or_else(PoisonError::into_inner) = Some(journal);
        }
    }

    /// Counts what was cut by force elsewhere, of endpoints that are still known.
    #[cfg(all(unix, feature = "handover"))]
    pub(crate) fn adopt<'a>(&self, views: impl IntoIterator<Item = &'a ews_core::balancer::EndpointView>) {
        let state = self.state();
        for view in views {
            let known = state.routing.endpoints().get(&(view.pool.clone(), view.endpoint.clone()));
            if let (Some(known), Some(forced)) = (known.and_then(|known| known.last()), view.forced) {
                known.force(forced);
            }
        }
    }

    /// The generation that is served: by every thread that has not ended.
    pub(crate) fn served(&self) -> u64 {
        let served = self.shared.served();
        served.min(self.state().table.generation())
    }

    /// The endpoints that are well by their checks.
    #[cfg(all(unix, feature = "handover"))]
    pub(crate) fn well(&self) -> Vec<(ews_core::id::PoolId, ews_core::EndpointKey)> {
        let state = self.state();
        let known = state.routing.endpoints().iter();
        let well = known.filter(|(_, known)| known.last().is_some_and(|endpoint| endpoint.is_well()));
        well.map(|(place, _)| place.clone()).collect()
    }

    /// Every pool.
    pub(crate) fn pools_now(&self) -> Vec<Arc<PoolIdentity>> {
        self.state().routing.pools().cloned().collect()
    }

    /// Every endpoint that is there or busy, with its pool as it is counted.
    pub(crate) fn endpoints_now(&self) -> Vec<(Arc<PoolIdentity>, Arc<EndpointState>)> {
        let state = self.state();
        let of = |((pool, _), known): (&_, &Vec<Arc<EndpointState>>)| {
            let identity = state.routing.pool(pool)?;
            Some((identity.clone(), known.last()?.clone()))
        };
        state.routing.endpoints().iter().filter_map(of).collect()
    }
}

impl Gateway {
    /// Starts a gateway that remembers nothing beyond its own life. For one that does, and for listeners that are bound
    /// already, see [`builder`](Self::builder).
    ///
    /// # Errors
    /// `Invalid` for a wrong configuration; `PortInUse`, `Unauthorized` or `Unavailable` where an address can't be bound.
    pub async fn start(config: GatewayConfig) -> Result<Self> {
        Self::builder(config).start().await
    }

    /// A gateway that is still to be started.
    pub fn builder(config: GatewayConfig) -> GatewayBuilder {
        GatewayBuilder::new(config)
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Its name.
    pub fn id(&self) -> &GatewayId {
        &self.core.id
    }

    /// Where it listens, in the order of the configuration and then of the listeners that were given.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.core.addresses
    }

    /// How many client connections are open.
    pub fn connections(&self) -> usize {
        self.core.shared.connections.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Ends: no new connections, what is under way is finished, at most for `deadline`; then the rest is closed. Returns how
    /// many connections were closed so.
    pub async fn shutdown(&self, deadline: Duration) -> usize {
        let threads = self.core.shared.served.len();
        #[cfg(all(unix, feature = "handover"))]
        self.core.relay.close();
        let mut ended = self.core.ended.clone();
        self.end.0.send_replace(Ending::Drains);
        let all = ended.wait_for(|ended| *ended >= threads);
        if tokio::time::timeout(deadline, all).await.is_ok() {
            return 0;
        }
        let left = self.connections();
        self.end.0.send_replace(Ending::Now);
        // Threads that end at once do so between two polls.
        let _ = tokio::time::timeout(Duration::from_secs(5), ended.wait_for(|ended| *ended >= threads)).await;
        left
    }

    /// Runs until `shutdown` is done, then ends as [`shutdown`](Self::shutdown) does.
    pub async fn run_until(&self, shutdown: impl Future<Output = ()>, deadline: Duration) -> usize {
        shutdown.await;
        self.shutdown(deadline).await
    }
}
