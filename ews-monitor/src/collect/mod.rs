//! Collectors: what feeds the live store, each at its interval.
//!
//! A [`Collector`] measures once and records what it found; what it did not find it leaves out, so that missing stays missing.
//! [`Collection`] runs collectors: never the same one twice at a time, each call with an end, failures counted and told, none of
//! them the end of the loop. It is one future and spawns nothing.

mod relay;
mod runtime;

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ews_core::{Error, ErrorKind, Result};
use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

pub use relay::Relay;
pub use runtime::RuntimeCollector;

use crate::live::LiveStore;

/// Measures something.
#[async_trait]
pub trait Collector: Send + Sync + 'static {
    /// Its name, for logs and status.
    fn name(&self) -> &str;

    /// Measures once. What can't be measured now is left out; an error says that nothing could be. Dropping the future abandons
    /// the measurement.
    ///
    /// # Errors
    /// Whatever the source gives.
    async fn collect(&self, into: &LiveStore) -> Result<()>;
}

/// Collectors and the store that they feed.
///
/// ```no_run
/// use std::sync::Arc;
/// use std::time::Duration;
/// use ews_core::{Metrics, Runtime, Selector};
/// use ews_monitor::{Collection, LiveConfig, LiveStore, Relay, RuntimeCollector};
///
/// async fn watch(runtime: Arc<dyn Runtime>, gateway: Arc<dyn Metrics>) -> ews_core::Result<()> {
///     let store = LiveStore::new(LiveConfig::default())?;
///     let every = Duration::from_secs(10);
///     let collection = Collection::new(store.clone())
///         .with(RuntimeCollector::new(runtime, Selector::equal("ews/owner", "prod")?), every)?
///         .with(Relay::new("gateway", gateway, ["http.server.request.duration"])?, every)?;
///     collection.run(std::future::pending()).await;
///     Ok(())
/// }
/// ```
pub struct Collection {
    store: LiveStore,
    collectors: Vec<Running>,
}

struct Running {
    collector: Box<dyn Collector>,
    interval: Duration,
    status: Mutex<CollectorStatus>,
}

/// How a collector is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CollectorStatus {
    /// Its name.
    pub name: String,
    /// How often it measured.
    pub collected: u64,
    /// How often it could not.
    pub failures: u64,
    /// What went wrong last, unless something went well since.
    pub last_error: Option<String>,
}

impl Collection {
    /// The most collectors of one value.
    pub const MAX_COLLECTORS: usize = 1_000;

    /// Feeds this store; no collectors yet.
    pub fn new(store: LiveStore) -> Self {
        Self { store, collectors: Vec::new() }
    }

    /// Measures with this one so often: above zero, at most the store's retention. 10 s suits most. One measurement may take as long as
    /// the interval.
    ///
    /// # Errors
    /// `Invalid` for another interval, `OutOfResources` for more than [`Self::MAX_COLLECTORS`].
    pub fn with(mut self, collector: impl Collector, interval: Duration) -> Result<Self> {
        let retention = self.store.config().retention;
        if interval.is_zero() || interval > retention {
            return Err(Error::invalid(format!(
                "`interval` is {interval:?}; accepted: above zero, at most the store's retention ({retention:?})"
            ))
            .with_context("collector", collector.name()));
        }
        if self.collectors.len() == Self::MAX_COLLECTORS {
            let message = format!("more than {0} collectors; accepted: at most {0}", Self::MAX_COLLECTORS);
            return Err(
                Error::new(ErrorKind::OutOfResources, message).with_context("collector", collector.name())
            );
        }
        let status = CollectorStatus { name: collector.name().to_owned(), ..CollectorStatus::default() };
        self.collectors.push(Running {
            collector: Box::new(collector),
            interval,
            status: Mutex::new(status),
        });
        Ok(self)
    }

    /// Measures with each at its interval until `stop` is ready. Dropping the future stops it too.
    pub async fn run(&self, stop: impl Future<Output = ()> + Send) {
        let count = u32::try_from(self.collectors.len()).unwrap_or(u32::MAX).max(1);
        let loops = (0..).zip(&self.collectors).map(|(index, running)| {
            let phase = running.interval * index / count;
            Box::pin(async move {
                let mut ticks = interval_at(Instant::now() + phase, running.interval);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    running.collect(&self.store).await;
                }
            })
        });
        let all = async {
            join_all(loops).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = stop => {}
            () = all => {}
        }
    }

    /// Measures with each once, now.
    pub async fn collect(&self) {
        join_all(self.collectors.iter().map(|running| running.collect(&self.store))).await;
    }

    /// How the collectors are doing, in the order they were added.
    pub fn status(&self) -> Vec<CollectorStatus> {
        let status =
            |running: &Running| running.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.collectors.iter().map(status).collect()
    }
}

impl Running {
    async fn collect(&self, store: &LiveStore) {
        // A collection that takes longer than its interval is no use: the next one would be late.
        let limit = self.interval;
        let result = match timeout(limit, self.collector.collect(store)).await {
            Ok(result) => result,
            Err(_) => {
                Err(Error::new(ErrorKind::Timeout, format!("it took longer than its interval of {limit:?}")))
            }
        };
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => {
                status.collected += 1;
                status.last_error = None;
            }
            Err(error) => {
                tracing::warn!(collector = self.collector.name(), %error, "nothing was collected");
                status.failures += 1;
                status.last_error = Some(error.to_string());
            }
        }
    }
}

impl std::fmt::Debug for Collection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collection").field("collectors", &self.status()).finish_non_exhaustive()
    }
}
