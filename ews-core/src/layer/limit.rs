//! Bounds how many calls a driver has under way, and how many wait for their turn.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::{Error, ErrorKind, Result};
use crate::layer::{Around, Call, CallKind};
use crate::time::duration;

/// How many calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LimitConfig {
    /// Calls under way at once. From 1. Default 64: a Docker engine gains nothing above a few dozen.
    pub concurrent: usize,
    /// Calls that wait for their turn. May be 0. Default 1,024.
    pub queue: usize,
    /// How long a call waits for its turn. Default 30 s.
    #[serde(with = "duration")]
    pub patience: Duration,
    /// Calls of [`CallKind::Wait`] under way at once; none of them queues. From 1. Default 16,384.
    pub waits: usize,
}

impl LimitConfig {
    /// The largest accepted value of each count.
    pub const MAX: usize = 1 << 20;

    /// With so many calls under way at once.
    #[must_use]
    pub fn with_concurrent(mut self, concurrent: usize) -> Self {
        self.concurrent = concurrent;
        self
    }

    /// With so many calls that wait for their turn.
    #[must_use]
    pub fn with_queue(mut self, queue: usize) -> Self {
        self.queue = queue;
        self
    }

    /// Waiting at most so long for a turn.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// With so many unbounded waits.
    #[must_use]
    pub fn with_waits(mut self, waits: usize) -> Self {
        self.waits = waits;
        self
    }
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self { concurrent: 64, queue: 1_024, patience: Duration::from_secs(30), waits: 16_384 }
    }
}

/// Bounds how many calls are under way.
///
/// An engine that is asked by a thousand tasks at once answers none of them in time. Beyond
/// [`concurrent`](LimitConfig::concurrent) calls the next ones queue in order; beyond [`queue`](LimitConfig::queue) waiting
/// ones, or after [`patience`](LimitConfig::patience), a call is refused with `Busy`, and certainly not applied.
///
/// Calls that wait for something without a bound ([`CallKind::Wait`]) are counted apart and never queue: a thousand waits for
/// the ends of programs neither block a start nor starve behind one. A permit covers the opening of a stream, not its life.
/// A dropped call gives back its permit or its place in the queue at once.
#[derive(Debug)]
pub struct ConcurrencyLimit {
    config: LimitConfig,
    turns: Semaphore,
    waits: Semaphore,
    queued: AtomicUsize,
}

impl ConcurrencyLimit {
    /// These bounds.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for `concurrent` or `waits` of zero, or a count above [`LimitConfig::MAX`].
    pub fn new(config: LimitConfig) -> Result<Self> {
        let LimitConfig { concurrent, queue, waits, .. } = config;
        let accepted = 1..=LimitConfig::MAX;
        if !accepted.contains(&concurrent) || !accepted.contains(&waits) || queue > LimitConfig::MAX {
            return Err(Error::invalid(format!(
                "limits of {concurrent} calls, {queue} in the queue and {waits} waits; accepted: 1 to {} each, 0 for the \
                 queue",
                LimitConfig::MAX
            )));
        }
        Ok(Self::of_checked(config))
    }

    fn of_checked(config: LimitConfig) -> Self {
        Self {
            config,
            turns: Semaphore::new(config.concurrent),
            waits: Semaphore::new(config.waits),
            queued: AtomicUsize::new(0),
        }
    }

    async fn turn(&self, operation: &'static str) -> Result<SemaphorePermit<'_>> {
        // A permit that is given back goes to the first in the queue, so this can't overtake anybody.
        if let Ok(permit) = self.turns.try_acquire() {
            return Ok(permit);
        }
        let Some(_place) = Place::take(&self.queued, self.config.queue) else {
            return Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "{} calls to this driver are under way and {} wait already; try again later or raise the limit",
                    self.config.concurrent, self.config.queue
                ),
            )
            .with_operation(operation));
        };
        match tokio::time::timeout(self.config.patience, self.turns.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(Error::internal("the limit was closed").with_operation(operation)),
            Err(_) => Err(Error::new(
                ErrorKind::Busy,
                format!("no turn within {:?}: the calls before it take too long", self.config.patience),
            )
            .with_operation(operation)),
        }
    }

    fn wait(&self, operation: &'static str) -> Result<SemaphorePermit<'_>> {
        self.waits.try_acquire().map_err(|_| {
            Error::new(
                ErrorKind::Busy,
                format!(
                    "{} waits are under way at this driver already; try again later or raise the limit",
                    self.config.waits
                ),
            )
            .with_operation(operation)
        })
    }
}

impl Default for ConcurrencyLimit {
    fn default() -> Self {
        Self::of_checked(LimitConfig::default())
    }
}

/// A place in the queue, given back when dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(queued: &'a AtomicUsize, most: usize) -> Option<Self> {
        let step = |now: usize| (now < most).then_some(now + 1);
        queued.fetch_update(Ordering::AcqRel, Ordering::Acquire, step).ok().map(|_| Self(queued))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Around for ConcurrencyLimit {
    async fn around<T, F, Fut>(&self, call: Call<'_>, operation: F) -> Result<T>
    where
        T: Send,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T>> + Send,
    {
        let _permit = match call.kind {
            CallKind::Wait => self.wait(call.operation)?,
            _ => self.turn(call.operation).await?,
        };
        operation().await
    }
}
