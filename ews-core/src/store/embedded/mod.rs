//! The embedded stores' common part: everything but the place where rows live.
//!
//! ```text
//! commit ─▶ queue ─▶ one writer at a time ─▶ Applier (pure) ─▶ Backend (durable) ─▶ Hub ─▶ watches
//! get, list ────────────────────────────────────────────────▶ Backend (a snapshot) + History
//! ```
//!
//! - [`apply`] decides what a transaction does; [`rows`] and [`codec`] say what is kept, and how.
//! - [`writer`] puts the transactions that wait together into one durable commit, each with a revision of its own.
//! - [`watch`] and [`history`] hold the recent past in bounded memory, [`lease`] the deadlines.
//! - [`list`] reads pages as of one revision; [`backup`] writes and reads the portable stream; [`file`] makes files that
//!   appear whole.

pub(crate) mod apply;
pub(crate) mod backup;
pub(crate) mod codec;
mod config;
pub(crate) mod file;
mod history;
mod lease;
mod list;
pub(crate) mod rows;
mod watch;
mod writer;

use std::ops::{Bound, ControlFlow};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_util::StreamExt as _;
use futures_util::future::select;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

use self::apply::Ledger;
pub use self::config::EmbeddedConfig;
use self::history::History;
use self::lease::LeaseClocks;
use self::rows::{Backend, Rows, Table};
use self::watch::{Hub, LogReader, Step, Watcher};
use self::writer::{Answer, Queue, Work};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{
    Key, Lease, LeaseId, ListPage, ListRequest, Prefix, Record, StoreLimits, StoreRevision, Transaction,
    WatchStream,
};

/// How many watchers read the log at the same time; the others wait their turn, so that threads stay for the writer.
const LOG_READERS: usize = 4;

/// A store whose rows live in `B`. Dropping it ends its watches; what was queued is still committed.
pub(crate) struct Embedded<B: Backend> {
    inner: Arc<Inner<B>>,
}

pub(crate) struct Inner<B: Backend> {
    backend: B,
    config: EmbeddedConfig,
    hub: Hub,
    history: Mutex<History>,
    leases: Mutex<LeaseClocks>,
    /// Where the durable state stands. Only the writer changes it.
    ledger: Mutex<Ledger>,
    queue: Queue,
    log_readers: Semaphore,
    /// Ends leases when their time comes.
    sweeper: Mutex<Option<JoinHandle<()>>>,
    /// Tells the sweeper that a lease began.
    lease_began: Arc<Notify>,
}

/// Every lock here guards a structure that is usable after any step, so a panic elsewhere is no reason to refuse it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B: Backend> Embedded<B> {
    /// A store over rows that are in the current format. Leases that lived when the rows were last in use begin anew.
    ///
    /// It reads the whole change log, so that a damaged one is found here; call it where waiting is allowed.
    pub(crate) fn new(backend: B, config: EmbeddedConfig) -> Result<Self> {
        let mut state = None;
        let now = Instant::now();
        backend.read(&mut |rows| {
            let ledger = Ledger::load(rows)?;
            state = Some((ledger, load_leases(rows, now)?));
            Ok(())
        })?;
        let (ledger, leases) = state.ok_or_else(|| Error::internal("the store's rows were not read"))?;
        let inner = Inner {
            hub: Hub::new(&config, ledger.revision, ledger.compacted()),
            history: Mutex::new(History::new(config.log_entries, config.history_bytes)),
            leases: Mutex::new(leases),
            ledger: Mutex::new(ledger),
            queue: Queue::new(config.queue_bytes),
            log_readers: Semaphore::new(LOG_READERS),
            sweeper: Mutex::new(None),
            lease_began: Arc::new(Notify::new()),
            backend,
            config,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn inner(&self) -> &Arc<Inner<B>> {
        &self.inner
    }

    #[cfg(feature = "redb")]
    /// Starts the task that ends leases, if there are any; on a tokio runtime only.
    pub(crate) fn start_sweeper(&self) {
        Inner::sweep_later(&self.inner);
    }

    pub(crate) fn limits(&self) -> StoreLimits {
        self.inner.config.limits
    }

    pub(crate) fn revision(&self) -> StoreRevision {
        StoreRevision(self.inner.hub.revision())
    }

    pub(crate) async fn get(&self, key: &Key) -> Result<Option<Record>> {
        let key = key.clone();
        let found = Inner::read(&self.inner, move |_, rows| apply::record(rows, &key)).await;
        found.map_err(|error| error.with_operation("store.get"))
    }

    pub(crate) async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let request = request.clone();
        let page = Inner::read(&self.inner, move |inner, rows| inner.list(rows, &request)).await;
        page.map_err(|error| error.with_operation("store.list"))
    }

    pub(crate) async fn commit(&self, transaction: &Transaction) -> Result<StoreRevision> {
        // Checked here as well, so that what is never accepted does not enter the queue.
        transaction.check(&self.inner.config.limits).map_err(|error| error.with_operation("store.commit"))?;
        let bytes = transaction_bytes(transaction);
        match Inner::submit(&self.inner, Work::Commit(transaction.clone()), bytes).await {
            Ok(Answer::Revision(revision)) => Ok(StoreRevision(revision)),
            Ok(_) => Err(Error::internal("a commit was answered with something else")),
            Err(error) => Err(error.with_operation("store.commit")),
        }
    }

    pub(crate) async fn watch(&self, prefix: &Prefix, after: StoreRevision) -> Result<WatchStream> {
        if after > self.revision() {
            // A read may have shown its caller what is durable and not published yet.
            let durable = Inner::read(&self.inner, |_, rows| apply::revision(rows)).await;
            self.inner.hub.durable(durable.map_err(|error| error.with_operation("store.watch"))?);
        }
        let watcher = Watcher::new(self.inner.clone(), prefix.clone(), after.0)
            .map_err(|error| error.with_operation("store.watch"))?;
        Ok(watcher.boxed())
    }

    pub(crate) async fn grant(&self, ttl: Duration) -> Result<Lease> {
        let (shortest, longest) = self.inner.config.limits.lease;
        if ttl < shortest || ttl > longest {
            let show = humantime::format_duration;
            return Err(Error::invalid(format!(
                "a lease of {}; accepted: from {} to {}",
                show(ttl),
                show(shortest),
                show(longest)
            ))
            .with_operation("store.grant"));
        }
        match Inner::submit(&self.inner, Work::Grant(ttl), 0).await {
            Ok(Answer::Lease(id)) => {
                Inner::sweep_later(&self.inner);
                Ok(Lease::new(id, ttl))
            }
            Ok(_) => Err(Error::internal("a grant was answered with something else")),
            Err(error) => Err(error.with_operation("store.grant")),
        }
    }

    pub(crate) fn renew(&self, lease: LeaseId) -> Result<()> {
        if lock(&self.inner.leases).renew(lease, Instant::now()) {
            return Ok(());
        }
        Err(Error::not_found("lease", format_args!("{} (it ended or never was)", lease.0))
            .with_operation("store.renew"))
    }

    pub(crate) async fn revoke(&self, lease: LeaseId) -> Result<()> {
        let answer = Inner::submit(&self.inner, Work::Revoke(lease), 0).await;
        answer.map(drop).map_err(|error| error.with_operation("store.revoke"))
    }
}

impl<B: Backend> Drop for Embedded<B> {
    fn drop(&mut self) {
        self.inner.hub.close();
        if let Some(sweeper) = lock(&self.inner.sweeper).take() {
            sweeper.abort();
        }
    }
}

/// About what a transaction takes while it waits.
fn transaction_bytes(transaction: &Transaction) -> usize {
    let writes = transaction.writes.iter().map(|write| match write {
        crate::store::Write::Put { key, value, .. } => key.as_str().len() + value.len(),
        crate::store::Write::Delete { key } => key.as_str().len(),
    });
    writes.sum::<usize>() + 64 * (transaction.writes.len() + transaction.conditions.len())
}

fn load_leases(rows: &mut dyn Rows, now: Instant) -> Result<LeaseClocks> {
    let mut leases = LeaseClocks::default();
    rows.scan(Table::Leases, Bound::Unbounded, &mut |key, row| {
        let (lease, record) = codec::read_lease_key(key)?;
        if record.is_empty() {
            leases.start(lease, codec::LeaseRow::read(row)?.ttl, now);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(leases)
}

impl<B: Backend> Inner<B> {
    #[cfg(feature = "redb")]
    pub(crate) fn backend(&self) -> &B {
        &self.backend
    }

    #[cfg(feature = "redb")]
    /// Waits until nothing is queued or being written.
    pub(crate) async fn drained(&self) {
        self.queue.drained().await;
    }

    /// Reads the latest state, on a thread that may wait for it.
    async fn read<T: Send + 'static>(
        this: &Arc<Self>,
        work: impl FnOnce(&Self, &mut dyn Rows) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if !B::BLOCKS {
            return this.read_now(work);
        }
        let inner = this.clone();
        spawn_blocking(move || inner.read_now(work)).await.map_err(|error| {
            Error::new(ErrorKind::Cancelled, "the runtime that read the store is shutting down")
                .with_source(error)
        })?
    }

    fn read_now<T>(&self, work: impl FnOnce(&Self, &mut dyn Rows) -> Result<T>) -> Result<T> {
        let (mut work, mut answer) = (Some(work), None);
        self.backend.read(&mut |rows| {
            if let Some(work) = work.take() {
                answer = Some(work(self, rows)?);
            }
            Ok(())
        })?;
        answer.ok_or_else(|| Error::internal("the store's rows were not read"))
    }

    /// Makes sure that a task will end the leases, wherever the last one ran.
    fn sweep_later(this: &Arc<Self>) {
        if lock(&this.leases).len() == 0 {
            return;
        }
        let mut sweeper = lock(&this.sweeper);
        if sweeper.as_ref().is_none_or(JoinHandle::is_finished) {
            // The task holds the store weakly, so that it does not keep a dropped one open.
            *sweeper = Some(tokio::spawn(sweep(Arc::downgrade(this), this.lease_began.clone())));
        }
        this.lease_began.notify_one();
    }
}

/// Ends each lease when its time comes. A commit that fails is tried again after a second.
async fn sweep<B: Backend>(store: Weak<Inner<B>>, lease_began: Arc<Notify>) {
    loop {
        let Some(next) = store.upgrade().map(|inner| lock(&inner.leases).next()) else { return };
        match next {
            None => lease_began.notified().await,
            Some(deadline) if deadline > Instant::now() => {
                let (time, began) = (pin!(tokio::time::sleep_until(deadline)), pin!(lease_began.notified()));
                select(time, began).await;
            }
            Some(_) => {
                let Some(inner) = store.upgrade() else { return };
                let swept = Inner::submit(&inner, Work::Sweep, 0).await;
                drop(inner);
                if let Err(error) = swept {
                    tracing::warn!(%error, "leases that ran out could not be ended; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

impl<B: Backend> LogReader for Inner<B> {
    fn hub(&self) -> &Hub {
        &self.hub
    }

    fn step(self: Arc<Self>, prefix: Prefix, from: u64) -> BoxFuture<'static, Result<Step>> {
        Box::pin(async move {
            let _turn = self.log_readers.acquire().await;
            Self::read(&self, move |_, rows| watch::read_step(rows, &prefix, from)).await
        })
    }
}
