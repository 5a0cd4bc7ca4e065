//! Tries again what is safe to try again.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backoff::{Backoff, BackoffConfig, Random as _, SplitMix64};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::layer::{Around, Call, CallKind};
use crate::time::duration;

/// How often and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RetryConfig {
    /// How often the driver is asked at most, the first time included. 1 to [`RetryConfig::MAX_ATTEMPTS`]. Default 4: with
    /// the default back-off they outlast a blink of the peer, not an outage, which is the engines' business.
    pub attempts: u32,
    /// No new attempt begins later than this after the first began. Above zero. Default 30 s, which is also the default of
    /// the short deadline: what fails fast is repeated, a call that hung for its whole time is not, so that an engine that
    /// hangs is known after one deadline and not after several. Where a hang shall be repeated, shorten the deadline.
    #[serde(with = "duration")]
    pub total: Duration,
    /// The pauses between. Default: 100 ms to 5 s with full jitter.
    pub backoff: BackoffConfig,
}

impl RetryConfig {
    /// The most attempts that are accepted.
    pub const MAX_ATTEMPTS: u32 = 100;

    /// With so many attempts.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// With this bound on the time.
    #[must_use]
    pub fn with_total(mut self, total: Duration) -> Self {
        self.total = total;
        self
    }

    /// With these pauses.
    #[must_use]
    pub fn with_backoff(mut self, backoff: BackoffConfig) -> Self {
        self.backoff = backoff;
        self
    }
}

impl Default for RetryConfig {
    fn default() -> Self {
        let backoff = BackoffConfig { max: Duration::from_secs(5), ..BackoffConfig::default() };
        Self { attempts: 4, total: Duration::from_secs(30), backoff }
    }
}

/// Tries again what is safe to try again.
///
/// | Error says | `Read` | `Idempotent` | `Once`, `Wait` |
/// |---|---|---|---|
/// | [`Retry::Safe`] | again | again | never |
/// | [`Retry::AfterInspect`] | again | again: the contract makes the second one harmless | never |
/// | [`Retry::Never`] | never | never | never |
///
/// Except [`ErrorKind::Busy`]: the object is in a state that forbids the call, which it may stay in for ever (a running
/// instance that is removed without force) or leave only when the load of our own goes down
/// ([`ConcurrencyLimit`](crate::layer::ConcurrencyLimit)). Whoever waits for such a state knows for how long.
///
/// A wait that broke off is not repeated, since which start it meant is known only to its caller; a stream that broke off is
/// not reopened, and one that is an argument is never replayed.
///
/// Attempts and time are both bounded. The last error comes back with the number of attempts, as soon as the next pause would
/// reach beyond the total; a call under way is not cut short, so put [`Deadline`](crate::layer::Deadline) behind this layer:
/// retry(timeout(call)). Retries multiply where several layers of a system each retry: keep this the only one.
#[derive(Debug)]
pub struct RetryLayer {
    config: RetryConfig,
    backoff: Backoff,
    /// Each call's jitter starts elsewhere.
    seed: AtomicU64,
}

impl RetryLayer {
    /// Retries in these bounds.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for no attempts, too many, or no time; those of [`BackoffConfig::check`].
    pub fn new(config: RetryConfig) -> Result<Self> {
        Self::with_seed(config, SplitMix64::from_entropy().next_u64())
    }

    /// The same with jitter that repeats from run to run, for tests and simulations.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn with_seed(config: RetryConfig, seed: u64) -> Result<Self> {
        if !(1..=RetryConfig::MAX_ATTEMPTS).contains(&config.attempts) || config.total.is_zero() {
            return Err(Error::invalid(format!(
                "{} attempts within {:?}; accepted: 1 to {} attempts within more than no time",
                config.attempts,
                config.total,
                RetryConfig::MAX_ATTEMPTS
            )));
        }
        let backoff = Backoff::new(config.backoff, SplitMix64::new(seed))?;
        Ok(Self { config, backoff, seed: AtomicU64::new(seed) })
    }

    /// Whether a call of this kind may be made again after this error.
    pub fn repeats(kind: CallKind, error: &Error) -> bool {
        if error.kind() == ErrorKind::Busy {
            return false;
        }
        match (kind, error.retry()) {
            (CallKind::Once | CallKind::Wait, _) | (_, Retry::Never) => false,
            (CallKind::Read | CallKind::Idempotent, Retry::Safe | Retry::AfterInspect) => true,
        }
    }
}

impl Default for RetryLayer {
    fn default() -> Self {
        let config = RetryConfig::default();
        let seed = SplitMix64::from_entropy().next_u64();
        let random = SplitMix64::new(seed);
        Self { config, backoff: Backoff::of_checked(config.backoff, random), seed: AtomicU64::new(seed) }
    }
}

impl Around for RetryLayer {
    async fn around<T, F, Fut>(&self, call: Call<'_>, operation: F) -> Result<T>
    where
        T: Send,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T>> + Send,
    {
        let started = tokio::time::Instant::now();
        let mut backoff = None;
        let mut attempt = 1;
        // What an earlier attempt may have done stays true whatever the last one says.
        let mut maybe_applied = false;
        loop {
            let error = match operation().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            maybe_applied |= error.maybe_applied();
            let error =
                if maybe_applied && !error.maybe_applied() { error.with_maybe_applied() } else { error };
            if attempt >= self.config.attempts || !Self::repeats(call.kind, &error) {
                return Err(told(error, attempt));
            }
            let pause = backoff
                .get_or_insert_with(|| {
                    let seed = self.seed.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
                    self.backoff.reseeded(SplitMix64::new(seed))
                })
                .next_delay();
            if started.elapsed().saturating_add(pause) > self.config.total {
                return Err(told(error, attempt));
            }
            tracing::debug!(
                operation = call.operation,
                attempt,
                kind = error.kind().as_str(),
                pause_ms = pause.as_millis() as u64,
                "will try again"
            );
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }
}

fn told(error: Error, attempts: u32) -> Error {
    if attempts > 1 { error.with_context("attempts", attempts) } else { error }
}
