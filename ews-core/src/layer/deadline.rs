//! Bounds every call in time.

use std::future::Future;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::layer::{Around, Call, Pace};
use crate::time::duration;

/// How long calls may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct DeadlineConfig {
    /// For what an engine answers at once, plus what the caller allowed on top, such as the grace of a stop. From
    /// [`DeadlineConfig::MIN`] to `long`. Default 30 s: above every engine's own pauses that were measured (Docker's slowest
    /// ordinary call is 2 s, its kill waits 10 s), below what a person waits for.
    #[serde(with = "duration")]
    pub short: Duration,
    /// For what an engine works on: the creation of an instance, a removal that kills first, an image made from an instance,
    /// a stop whose grace only the engine knows. From `short` to `transfer`. Default 5 minutes: a Windows engine's kill alone
    /// may take 75 s. Choose it above the longest grace of any spec, or say the grace with each stop.
    #[serde(with = "duration")]
    pub long: Duration,
    /// For what lasts as long as its stream: archives and blobs on their way to the driver. From `long` to
    /// [`DeadlineConfig::MAX`]. Default 1 hour: 10 GB at 25 Mbit/s.
    #[serde(with = "duration")]
    pub transfer: Duration,
}

impl DeadlineConfig {
    /// The shortest accepted time.
    pub const MIN: Duration = Duration::from_millis(1);
    /// The longest accepted time: a day.
    pub const MAX: Duration = Duration::from_secs(24 * 3600);

    /// With this time for what is answered at once.
    #[must_use]
    pub fn with_short(mut self, short: Duration) -> Self {
        self.short = short;
        self
    }

    /// With this time for what an engine works on.
    #[must_use]
    pub fn with_long(mut self, long: Duration) -> Self {
        self.long = long;
        self
    }

    /// With this time for what lasts as long as its stream.
    #[must_use]
    pub fn with_transfer(mut self, transfer: Duration) -> Self {
        self.transfer = transfer;
        self
    }
}

impl Default for DeadlineConfig {
    fn default() -> Self {
        Self {
            short: Duration::from_secs(30),
            long: Duration::from_secs(5 * 60),
            transfer: Duration::from_secs(3600),
        }
    }
}

/// `Timeout` for a call that takes too long.
///
/// A peer that accepts a connection and then says nothing hangs its caller for ever; a driver's own timeouts rarely cover
/// every phase. This layer bounds the whole call whatever the driver does. When the time is over the driver's future is
/// dropped, which by the contracts abandons the wait and not the operation: a mutating call comes back with `maybe_applied`,
/// and whoever called looks before going on.
///
/// Calls that wait for something without a bound, such as the end of a program, are left alone: their caller bounds them.
/// A stream is bounded until it opens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Deadline {
    config: DeadlineConfig,
}

impl Deadline {
    /// Bounds calls by these times.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where `short`, `long` and `transfer` are not in this order, or not from [`DeadlineConfig::MIN`]
    /// to [`DeadlineConfig::MAX`].
    pub fn new(config: DeadlineConfig) -> Result<Self> {
        let DeadlineConfig { short, long, transfer } = config;
        if short < DeadlineConfig::MIN || long < short || transfer < long || transfer > DeadlineConfig::MAX {
            return Err(Error::invalid(format!(
                "deadlines of {short:?} (short), {long:?} (long) and {transfer:?} (transfer); accepted: {:?} to {:?}, in \
                 this order",
                DeadlineConfig::MIN,
                DeadlineConfig::MAX
            )));
        }
        Ok(Self { config })
    }

    /// How long this call may take; `None`: as long as it takes.
    pub fn allows(&self, call: &Call<'_>) -> Option<Duration> {
        match call.pace {
            Pace::Short => Some(self.config.short.saturating_add(call.extra)),
            Pace::Long => Some(self.config.long.saturating_add(call.extra)),
            Pace::Transfer => Some(self.config.transfer.saturating_add(call.extra)),
            Pace::Unbounded => None,
        }
    }
}

impl Around for Deadline {
    async fn around<T, F, Fut>(&self, call: Call<'_>, operation: F) -> Result<T>
    where
        T: Send,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T>> + Send,
    {
        let Some(limit) = self.allows(&call) else { return operation().await };
        match tokio::time::timeout(limit, operation()).await {
            Ok(result) => result,
            Err(_) => {
                let error = Error::new(ErrorKind::Timeout, format!("no answer within {limit:?}"))
                    .with_operation(call.operation);
                Err(if call.kind.is_mutating() { error.with_maybe_applied() } else { error })
            }
        }
    }
}
