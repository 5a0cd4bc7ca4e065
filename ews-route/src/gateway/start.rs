//! Starts a gateway: what it remembers, its sockets, its threads.

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ews_core::balancer::{Change, ObjectKind, ObjectRef, Table};
use ews_core::id::GatewayId;
use ews_core::store::{EmbeddedConfig, Store, StoreLimits};
use ews_core::{Clock as _, Error, ErrorKind, Result, SystemClock};
use tokio::sync::{Notify, broadcast, watch};

use super::client::Trust;
use super::config::{Accept, GatewayConfig};
use super::listen::{self, Bound, Kind};
use super::names::{Resolver, SystemResolver};
use super::policy::{Presence, RateTable};
use super::snapshot::{self, Routing};
use super::thread::{self, Ending, Orders, Shared, Thread};
use super::{Core, End, Gateway, State, control};
use crate::access::{self, AccessLog};
use crate::balancer::{EVENT_QUEUE, capabilities};
#[cfg(all(unix, feature = "handover"))]
use crate::handover::Predecessor;
use crate::journal::Journal;
use crate::metrics::recorder::Registry;
use crate::metrics::series::SeriesStore;

/// How long the threads may take to begin.
const START: Duration = Duration::from_secs(30);

/// A gateway that is still to be started, with what its configuration can't hold.
///
/// ```
/// use std::sync::Arc;
/// use ews_core::store::MemoryStore;
/// use ews_route::{Gateway, GatewayConfig};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> ews_core::Result<()> {
/// let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
/// let store = Arc::new(MemoryStore::new()); // Or a `RedbStore`, opened with `GatewayBuilder::store_config`.
/// let builder = Gateway::builder(GatewayConfig::default()).with_listener(listener).with_store(store);
/// let gateway = builder.start().await?;
/// assert_eq!(gateway.addresses().len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a gateway is started by `start`"]
pub struct GatewayBuilder {
    config: GatewayConfig,
    listeners: Vec<(TcpListener, Kind)>,
    store: Option<StoreOf>,
    access: Option<AccessLog>,
    resolver: Option<ResolverOf>,
    #[cfg(feature = "tls")]
    secrets: Option<SecretsOf>,
    #[cfg(all(unix, feature = "handover"))]
    predecessor: Option<Predecessor>,
}

#[cfg(feature = "tls")]
struct SecretsOf(Arc<dyn ews_core::Secrets>);

#[cfg(feature = "tls")]
impl std::fmt::Debug for SecretsOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a source of secrets")
    }
}

struct ResolverOf(Arc<dyn Resolver>);

impl std::fmt::Debug for ResolverOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a resolver")
    }
}

struct StoreOf(Arc<dyn Store>);

impl std::fmt::Debug for StoreOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a store")
    }
}

impl GatewayBuilder {
    pub(super) fn new(config: GatewayConfig) -> Self {
        Self {
            config,
            listeners: Vec::new(),
            store: None,
            access: None,
            resolver: None,
            #[cfg(feature = "tls")]
            secrets: None,
            #[cfg(all(unix, feature = "handover"))]
            predecessor: None,
        }
    }

    /// Takes over a listener that is bound already, beside the addresses of the configuration. All threads share it.
    pub fn with_listener(mut self, listener: TcpListener) -> Self {
        self.listeners.push((listener, Kind::Plain));
        self
    }

    /// The same for a listener where TLS is spoken.
    #[cfg(feature = "tls")]
    pub fn with_tls_listener(mut self, listener: TcpListener) -> Self {
        self.listeners.push((listener, Kind::Tls));
        self
    }

    /// Resolves the references of certificates there, when a handshake first asks for one.
    #[cfg(feature = "tls")]
    pub fn with_secrets(mut self, secrets: Arc<dyn ews_core::Secrets>) -> Self {
        self.secrets = Some(SecretsOf(secrets));
        self
    }

    /// Writes a line there for each request when it has ended.
    pub fn with_access_log(mut self, log: AccessLog) -> Self {
        self.access = Some(log);
        self
    }

    /// Takes over from this gateway: its listening sockets where the configuration names their addresses, and what was applied
    /// where there is no store. A store must be the one that the predecessor has closed. See [`handover`](crate::handover).
    #[cfg(all(unix, feature = "handover"))]
    pub fn with_predecessor(mut self, predecessor: Predecessor) -> Self {
        self.predecessor = Some(predecessor);
        self
    }

    /// Finds out there what names of endpoints stand for. Default: as the [system](SystemResolver) does.
    pub fn with_resolver(mut self, resolver: Arc<dyn Resolver>) -> Self {
        self.resolver = Some(ResolverOf(resolver));
        self
    }

    /// Remembers there what is applied, under `gateway/<name>/`: a record for each object. The gateway starts with what is
    /// there; a store belongs to one gateway of a name at a time.
    ///
    /// A change costs one transaction where the store takes as many writes in one as the change touches objects, and one
    /// more; see [`store_config`](Self::store_config).
    pub fn with_store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(StoreOf(store));
        self
    }

    /// What an embedded store that holds nothing but a gateway's state is best bounded by: transactions that take the largest
    /// [`Change`](ews_core::balancer::Change) of objects of usual size, and little history, since nobody watches it.
    pub fn store_config() -> EmbeddedConfig {
        let limits = StoreLimits::default().with_operations(Change::MAX_OPS + 1);
        EmbeddedConfig::default()
            .with_limits(limits)
            .with_log_entries(1_000)
            .with_log_bytes(8 << 20)
            .with_tail_bytes(1 << 20)
            .with_history_bytes(1 << 20)
    }

    /// Starts it. It takes connections once it knows again what was applied before, and serves that.
    ///
    /// # Errors
    /// `Invalid` for a wrong configuration; `PortInUse`, `Unauthorized` or `Unavailable` where an address can't be bound;
    /// those of the store, and `Corrupt` for what it holds; `Stale` where a predecessor has closed another store; what a
    /// predecessor refuses with that does not wait any more.
    pub async fn start(self) -> Result<Gateway> {
        let Self {
            config,
            listeners,
            store,
            access,
            resolver,
            #[cfg(feature = "tls")]
            secrets,
            #[cfg(all(unix, feature = "handover"))]
            mut predecessor,
        } = self;
        config.check().map_err(|error| error.with_operation("gateway.start"))?;
        let id = GatewayId::new(&config.name)?;
        let journal = store.map(|StoreOf(store)| Journal::new(store, &id));
        let limits = GatewayConfig::table_limits();
        let table = match &journal {
            Some(journal) => journal.replay(capabilities(), limits, SystemClock.now()).await?,
            None => Table::new(capabilities(), limits),
        };
        #[cfg(all(unix, feature = "handover"))]
        let (table, well, named) = match &mut predecessor {
            None => (table, Vec::new(), Vec::new()),
            Some(predecessor) => {
                let stored = journal.as_ref().map(|_| &table);
                let told = predecessor.tell(stored, capabilities(), limits).await?;
                (told.table.unwrap_or(table), told.well, told.named)
            }
        };
        let mut routing = Routing::new();
        // Domains are the table's own; whatever else there is becomes what requests are routed by.
        let kinds = ObjectKind::ALL.iter().copied().filter(|kind| *kind != ObjectKind::Domain);
        let stored = || kinds.clone().flat_map(|kind| table.stored(kind, None));
        // A gateway that was built with less than its predecessor can't serve what that one was told.
        stored()
            .try_for_each(|stored| snapshot::check(&stored.object))
            .map_err(|error| error.with_operation("gateway.start"))?;
        let all: Vec<ObjectRef> = stored().map(|stored| stored.object.reference()).collect();
        let snapshot = Arc::new(routing.update(&table, &all));
        let generation = table.generation();
        #[cfg(all(unix, feature = "handover"))]
        for place in &well {
            if let Some(endpoint) = routing.endpoints().get(place).and_then(|known| known.last()) {
                endpoint.set_well_before();
            }
        }
        #[cfg(all(unix, feature = "handover"))]
        for (address, found) in &named {
            routing.names_mut().learn(address, found);
        }

        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = config.threads.unwrap_or_else(cores).min(GatewayConfig::MAX_THREADS);
        let deals = !cfg!(target_os = "linux") || config.accept == Accept::Deal;
        let plain = config.listen.iter().map(|address| (*address, Kind::Plain));
        let addresses = plain.chain(config.listen_tls.iter().map(|address| (*address, Kind::Tls)));
        let of_tcp = config.listen_tcp.iter().enumerate();
        let addresses = addresses.chain(of_tcp.map(|(at, listener)| (listener.address, Kind::Tcp(at))));
        #[cfg(all(unix, feature = "handover"))]
        let inherited = |address| predecessor.as_mut().map(|before| before.take(address)).unwrap_or_default();
        #[cfg(not(all(unix, feature = "handover")))]
        let inherited = |_| Vec::new();
        let bound = listen::bind(addresses, inherited, listeners, threads, deals).map_err(refused)?;
        let Bound { sources, dealers, addresses, kept } = bound;
        #[cfg(not(all(unix, feature = "handover")))]
        drop(kept);

        #[cfg(feature = "tls")]
        let (certificates, loads) = {
            let secrets = secrets.map(|SecretsOf(secrets)| secrets);
            super::tls::Certificates::new(config.limits.certificates, secrets)?
        };
        let access = match access.map(access::open) {
            None => None,
            Some((written, writer)) => {
                spawn("ews-route-access".to_owned(), move || writer.run())?;
                Some(written)
            }
        };
        let shared = Arc::new(Shared {
            access,
            #[cfg(feature = "tls")]
            certificates,
            started: Instant::now(),
            started_at: SystemClock.now(),
            registry: Registry::default(),
            served: (0..threads).map(|_| AtomicU64::new(0)).collect(),
            connections: (0..threads).map(|_| AtomicUsize::new(0)).collect(),
            trust: Trust::new(&config.forwarding),
            presence: config.limits.connections_per_client.map(|most| Arc::new(Presence::new(most))),
            rates: RateTable::default(),
            notice: Notify::new(),
            config: config.clone(),
        });
        let (snapshots, of_snapshots) = watch::channel(snapshot);
        let (ending, of_ending) = watch::channel(Ending::Runs);
        let (ended, of_ended) = watch::channel(0_usize);
        let ended = Arc::new(ended);
        for (index, sources) in sources.into_iter().enumerate() {
            let orders = Orders { snapshots: of_snapshots.clone(), ending: of_ending.clone() };
            let (shared, ended) = (shared.clone(), ended.clone());
            spawn(format!("ews-route-{index}"), move || {
                local(async move {
                    let first = orders.snapshots.borrow().clone();
                    thread::run(Rc::new(Thread::new(index, shared, &first)), sources, orders).await;
                });
                ended.send_modify(|ended| *ended += 1);
            })?;
        }
        let core = Arc::new(Core {
            id,
            series: SeriesStore::new(config.metrics, crate::metrics::infos()),
            shared,
            snapshots,
            events: broadcast::channel(EVENT_QUEUE).0,
            journal: Mutex::new(journal.map(Arc::new)),
            #[cfg(all(unix, feature = "handover"))]
            relay: crate::handover::Relay::new(kept),
            turn: tokio::sync::Mutex::new(None),
            state: Mutex::new(State { table, routing }),
            addresses,
            ended: of_ended,
        });
        let resolver = resolver.map_or_else(|| Arc::new(SystemResolver::default()) as _, |ResolverOf(of)| of);
        let weak = Arc::downgrade(&core);
        spawn("ews-route-control".to_owned(), move || {
            local(async move {
                #[cfg(feature = "tls")]
                tokio::task::spawn_local(loads.run());
                control::run(weak, dealers, resolver, of_ending).await;
            });
        })?;
        let gateway = Gateway { core, end: Arc::new(End(ending)) };
        serving(&gateway.core.shared, generation).await?;
        #[cfg(all(unix, feature = "handover"))]
        if let Some(predecessor) = predecessor {
            predecessor.succeed(&gateway.core).await?;
        }
        Ok(gateway)
    }
}

/// Waits until every thread serves what was applied before.
async fn serving(shared: &Shared, generation: u64) -> Result<()> {
    let begun = Instant::now();
    while shared.served() < generation {
        if begun.elapsed() > START {
            return Err(Error::internal("a data thread did not start").with_operation("gateway.start"));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new().name(name).spawn(work).map(drop).map_err(|error| {
        Error::new(ErrorKind::OutOfResources, "a thread could not be started").with_source(error)
    })
}

/// Runs a future and the local tasks that it starts; those that are left end with it.
fn local(future: impl Future<Output = ()>) {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            tokio::task::LocalSet::new().block_on(&runtime, future);
            // A question to the system's resolver can't be taken back, and must not hold the thread's end up.
            runtime.shutdown_background();
        }
        Err(error) => tracing::error!(%error, "a thread's runtime could not be made"),
    }
}

fn refused(error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::AddrInUse => ErrorKind::PortInUse,
        std::io::ErrorKind::PermissionDenied => ErrorKind::Unauthorized,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("an address can't be listened at: {error}"))
        .with_operation("gateway.start")
        .with_source(error)
}
