//! A balancer driver of one's own: nginx, which is told its routes by a configuration file and a reload.
//!
//! It is what a team writes that has a balancer already. The checks of the contract are not written anew: a
//! [`Table`] holds the objects, refuses what is wrong and knows replays. What is left to a driver is here:
//!
//! | File | What |
//! |---|---|
//! | this one | the contract: check, write down, commit; one task brings nginx up to date |
//! | `journal` | what was applied, on disk before anybody is told so |
//! | `render` | a table as a configuration: pure, and the only place that knows nginx's words |
//! | `nginx` | the program: test, start, reload, and which configuration its workers serve |
//! | `harness` | how the conformance suite reaches it |
//!
//! **Ok is a promise, not a fact.** [`apply`](Balancer::apply) returns when the change is on disk. Reloads follow, one for all
//! changes that came meanwhile, and [`observe`](Balancer::observe) says which generation is served: the one that the workers who
//! accept connections were started with, as nginx itself answers it.
//!
//! **When things fail.** Where nginx refuses a configuration or does not answer, it goes on with the last one, the generation
//! stays, [`NginxBalancer::trouble`] says why, and it is tried again. When this process dies, nginx serves on; whoever opens the
//! same directory next finds it and what was applied.
//!
//! **What it can't do** it does not declare: nginx counts no requests under way for each endpoint, so drains are waited
//! for and not proven; a worker that has requests under way when it is replaced finishes them, for at most
//! [`NginxConfig::shutdown`].

#[cfg(feature = "suites")]
mod harness;
mod journal;
mod nginx;
mod render;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ews_core::balancer::{
    Applied, BalancerEvent, Change, EndpointView, GatewayView, Limits, Object, ObjectKind, ObjectQuery,
    ObserveQuery, Outcome, Stored, Table,
};
use ews_core::event::{Gap, Notice};
use ews_core::{Balancer, Capability, CapabilitySet, Error, ErrorKind, GatewayId, Result, detach};
use futures_util::stream::BoxStream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

#[cfg(feature = "suites")]
pub use harness::Harness;
use journal::Journal;
use nginx::Nginx;

/// How many events wait for a slow watcher; what is missed beyond shows as a gap.
const EVENT_QUEUE: usize = 1_024;
/// The least time between two reloads, since each leaves a set of old workers until their requests end.
const PACE: Duration = Duration::from_millis(200);
/// The pause after nginx could not be brought up to date.
const RETRY: Duration = Duration::from_secs(2);

/// Where nginx is and where it listens.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NginxConfig {
    /// The driver's own directory: configuration, journal, sockets. nginx's workers must be able to enter it.
    pub root: PathBuf,
    /// Where HTTP is listened for. It can't change while nginx runs.
    pub listen: SocketAddr,
    /// The program. Default `/usr/sbin/nginx`, where Debian has it.
    pub program: PathBuf,
    /// How many workers, at least 1. Default 2.
    pub workers: u32,
    /// How long old workers may finish what they have, before it is cut. Default 5 min.
    pub shutdown: Duration,
}

impl NginxConfig {
    /// With everything of its own below this directory, listening there.
    pub fn new(root: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        let program = PathBuf::from("/usr/sbin/nginx");
        Self { root: root.into(), listen, program, workers: 2, shutdown: Duration::from_secs(300) }
    }
}

/// nginx as a [`Balancer`]. See the [module](self). Dropping it leaves nginx serving.
pub struct NginxBalancer {
    inner: Arc<Inner>,
    keeper: JoinHandle<()>,
}

struct Inner {
    config: NginxConfig,
    nginx: Nginx,
    id: GatewayId,
    state: tokio::sync::Mutex<State>,
    /// What nginx serves; `None` until it has been brought up to date once.
    served: Mutex<Option<Arc<Table>>>,
    trouble: Mutex<Option<String>>,
    /// The generation that nginx should serve.
    wanted: watch::Sender<u64>,
    events: broadcast::Sender<Notice<BalancerEvent>>,
}

struct State {
    table: Table,
    /// `None` once it was closed.
    journal: Option<Journal>,
}

/// What nginx does for this driver. What is not named here is refused by the table.
fn capabilities() -> CapabilitySet {
    [Capability::RouteHost, Capability::RoutePath, Capability::Weights].into_iter().collect()
}

impl NginxBalancer {
    /// Opens the directory, and starts nginx or finds it running; returns once it serves what was applied.
    ///
    /// # Errors
    /// `Busy` where another process has the directory open; `Corrupt` for a journal that can't be read; `Invalid` for a
    /// configuration without workers; `Unavailable` where nginx does not come up, with what it said.
    pub async fn open(config: NginxConfig) -> Result<Self> {
        if config.workers == 0 {
            return Err(Error::invalid("nginx without workers; accepted: at least 1"));
        }
        let (journal, table) = Journal::open(&config.root, capabilities(), Limits::default())?;
        let inner = Arc::new(Inner {
            nginx: Nginx::new(&config),
            config,
            id: GatewayId::new("nginx")?,
            wanted: watch::Sender::new(table.generation()),
            state: tokio::sync::Mutex::new(State { table, journal: Some(journal) }),
            served: Mutex::default(),
            trouble: Mutex::default(),
            events: broadcast::Sender::new(EVENT_QUEUE),
        });
        inner.bring_up_to_date().await?;
        let keeper = tokio::spawn(Arc::clone(&inner).keep_up_to_date());
        Ok(Self { inner, keeper })
    }

    /// Why nginx does not serve what was applied; `None` where it does, or soon will.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.inner.trouble).clone()
    }

    /// Lets go of the directory for a successor. nginx serves on.
    pub async fn close(&self) {
        self.keeper.abort();
        self.inner.state.lock().await.journal = None;
    }

    /// Lets go of the directory and ends nginx at once.
    ///
    /// # Errors
    /// `Unavailable` where it can't be told to end.
    pub async fn stop(&self) -> Result<()> {
        self.close().await;
        self.inner.nginx.stop().await
    }
}

impl Drop for NginxBalancer {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Inner {
    async fn apply(&self, change: &Change) -> Result<Applied> {
        // One change at a time: what was checked here is committed before the next one is looked at.
        let mut state = self.state.lock().await;
        let State { table, journal } = &mut *state;
        let Some(journal) = journal else {
            return Err(Error::new(ErrorKind::Unavailable, "this balancer was closed"));
        };
        let prepared = match table.prepare(change)? {
            Outcome::Replay(applied) => return Ok(applied),
            Outcome::New(prepared) => prepared,
        };
        prepared.touched().filter_map(|(_, object)| object).try_for_each(render::check)?;
        journal.append(prepared.applied().generation, change).await?;
        let applied = table.commit(prepared)?;
        journal.shorten_if_long(table);
        drop(state);
        self.send(BalancerEvent::Applied { change: change.id.clone(), generation: applied.generation });
        self.wanted.send_replace(applied.generation);
        Ok(applied)
    }

    async fn keep_up_to_date(self: Arc<Self>) {
        let mut wanted = self.wanted.subscribe();
        loop {
            let pause = if self.bring_up_to_date().await.is_ok() { PACE } else { RETRY };
            sleep(pause).await;
            if pause == PACE && wanted.changed().await.is_err() {
                return;
            }
        }
    }

    async fn bring_up_to_date(&self) -> Result<()> {
        let table = {
            let state = self.state.lock().await;
            if lock(&self.served).as_ref().map(|served| served.generation()) == Some(state.table.generation())
            {
                return Ok(());
            }
            state.table.clone()
        };
        let generation = table.generation();
        let served = self.nginx.serve(&render::config(&table, &self.config), generation).await;
        *lock(&self.trouble) = served.as_ref().err().map(ToString::to_string);
        served?;
        *lock(&self.served) = Some(Arc::new(table));
        self.send(BalancerEvent::Serving { gateway: self.id.clone(), generation });
        Ok(())
    }

    fn send(&self, event: BalancerEvent) {
        // Nobody listening is no fault.
        let _ = self.events.send(Notice::Event(event));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What nginx knows of the endpoints that are asked for: where they stand, and no counts.
fn views(table: &Table, query: &ObserveQuery) -> Vec<EndpointView> {
    let every = table.stored(ObjectKind::Endpoint, None);
    let members: Vec<_> = match &query.pool {
        Some(pool) => table.members(pool).cloned().collect(),
        None => every
            .filter_map(|stored| match stored.into_owned().object {
                Object::Endpoint(member) => Some(member),
                _ => None,
            })
            .collect(),
    };
    let wanted = members
        .into_iter()
        .filter(|member| query.endpoints.is_empty() || query.endpoints.contains(&member.endpoint.key));
    wanted
        .map(|member| EndpointView::new(member.pool, member.endpoint.key, member.state, member.weight))
        .collect()
}

#[async_trait]
impl Balancer for NginxBalancer {
    fn capabilities(&self) -> CapabilitySet {
        capabilities()
    }

    async fn apply(&self, change: &Change) -> Result<Applied> {
        // In a task of its own, so that a caller who loses interest does not leave half of it.
        let (inner, change) = (Arc::clone(&self.inner), change.clone());
        let named = change.id.clone();
        let applied = detach(async move { inner.apply(&change).await }).await;
        applied.map_err(|error| error.with_operation("balancer.apply").with_context("change", named))
    }

    async fn objects(&self, query: &ObjectQuery) -> Result<Vec<Stored>> {
        self.inner.state.lock().await.table.objects(query)
    }

    async fn observe(&self, query: &ObserveQuery) -> Result<Vec<GatewayView>> {
        let answers = self.inner.nginx.generation().await.is_some();
        let served = lock(&self.inner.served).clone().filter(|_| answers);
        let endpoints = served.as_ref().map(|table| views(table, query)).unwrap_or_default();
        let generation = served.map(|table| table.generation());
        Ok(vec![GatewayView::new(self.inner.id.clone(), generation, endpoints)])
    }

    async fn watch(&self) -> Result<BoxStream<'static, Notice<BalancerEvent>>> {
        let receiver = self.inner.events.subscribe();
        Ok(Box::pin(futures_util::stream::unfold(receiver, |mut receiver| async move {
            match receiver.recv().await {
                Ok(notice) => Some((notice, receiver)),
                Err(RecvError::Lagged(_)) => Some((Notice::Gap(Gap::Lagged), receiver)),
                Err(RecvError::Closed) => None,
            }
        })))
    }
}
