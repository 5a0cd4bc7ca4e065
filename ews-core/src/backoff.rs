//! Back-off: how long to wait before the next try.
//!
//! The delays are an iterator without a clock and with injected randomness, so that a test or a replay sees the same ones.
//! They grow exponentially up to a ceiling and are jittered, because clients that failed together would otherwise come back
//! together. The two kinds of jitter are those of Marc Brooker, *Exponential Backoff And Jitter* (AWS Architecture Blog,
//! 2015), whose measurements favour [`Jitter::Full`].
//!
//! It never ends by itself: whoever retries bounds the attempts and the time. What ran well for
//! [`reset_after`](BackoffConfig::reset_after) starts anew from the first delay ([`Backoff::ran_for`]).

use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::time::duration;

/// How delays grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BackoffConfig {
    /// The first delay before jitter. Above zero. Default 100 ms: about what a peer needs to forget a burst.
    #[serde(with = "duration")]
    pub base: Duration,
    /// The longest delay. From `base` to [`BackoffConfig::MAX`]. Default 30 s.
    #[serde(with = "duration")]
    pub max: Duration,
    /// How delays are spread. Default: full.
    pub jitter: Jitter,
    /// After how long a healthy time the delays start anew. Above zero. Default 5 minutes; choose it well above `max`, or
    /// what fails each time after `max` never backs off.
    #[serde(with = "duration")]
    pub reset_after: Duration,
}

/// How delays are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Jitter {
    /// None: `base · 2ⁿ`, at most `max`. For a single client, such as the restarts of one instance.
    None,
    /// Anything from zero to `base · 2ⁿ`, at most `max`. The least work for a peer that many wait for.
    #[default]
    Full,
    /// Anything from `base` to three times the delay before, at most `max`. Never below `base`.
    Decorrelated,
}

impl BackoffConfig {
    /// The longest accepted delay: a day.
    pub const MAX: Duration = Duration::from_secs(24 * 3600);

    /// Delays from `base` to `max`, everything else at its default.
    ///
    /// # Errors
    /// Those of [`check`](Self::check).
    pub fn new(base: Duration, max: Duration) -> Result<Self> {
        let config = Self { base, max, ..Self::default() };
        config.check()?;
        Ok(config)
    }

    /// With this jitter.
    #[must_use]
    pub fn with_jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// Starting anew after so long a healthy time.
    #[must_use]
    pub fn with_reset_after(mut self, reset_after: Duration) -> Self {
        self.reset_after = reset_after;
        self
    }

    /// Refuses delays that would be no back-off.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a `base` or a `reset_after` of zero, or a `max` below `base` or
    /// above [`Self::MAX`].
    pub fn check(&self) -> Result<()> {
        for (name, time) in [("base", self.base), ("reset_after", self.reset_after)] {
            if time.is_zero() {
                return Err(Error::invalid(format!("`{name}` of a back-off is zero; accepted: above zero")));
            }
        }
        if self.max < self.base || self.max > Self::MAX {
            return Err(Error::invalid(format!(
                "`max` of a back-off is {:?}; accepted: from `base` ({:?}) to {:?}",
                self.max,
                self.base,
                Self::MAX
            )));
        }
        Ok(())
    }
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(100),
            max: Duration::from_secs(30),
            jitter: Jitter::Full,
            reset_after: Duration::from_secs(300),
        }
    }
}

/// A source of random numbers that need to be spread, not secret.
pub trait Random: Send {
    /// The next 64 bits.
    fn next_u64(&mut self) -> u64;
}

impl<F: FnMut() -> u64 + Send> Random for F {
    fn next_u64(&mut self) -> u64 {
        self()
    }
}

/// Sebastiano Vigna's SplitMix64 (2015; Steele, Lea and Flood, OOPSLA 2014): one addition and a mix, good enough to spread
/// delays, of no use for secrets.
#[derive(Debug, Clone)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// The sequence of this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A sequence that differs from process to process and from call to call.
    pub fn from_entropy() -> Self {
        // Every `RandomState` carries keys from the operating system's randomness; hashing nothing gives them back mixed.
        Self(std::hash::RandomState::new().build_hasher().finish())
    }
}

impl Random for SplitMix64 {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Anything from `low` to `high`, both included, in whole nanoseconds, by Lemire's multiplication without the rejection: its
/// bias does not matter for delays.
pub(crate) fn between(random: &mut impl Random, low: Duration, high: Duration) -> Duration {
    let span = high.saturating_sub(low).as_nanos();
    let drawn = (u128::from(random.next_u64()).saturating_mul(span.saturating_add(1))) >> 64;
    low.saturating_add(Duration::from_nanos(u64::try_from(drawn).unwrap_or(u64::MAX)))
}

/// The delays, one after the other. See the [module](self).
///
/// ```
/// use std::time::Duration;
/// use ews_core::backoff::{Backoff, BackoffConfig, Jitter, SplitMix64};
///
/// let config = BackoffConfig::new(Duration::from_millis(100), Duration::from_secs(1))?.with_jitter(Jitter::None);
/// let delays: Vec<_> = Backoff::new(config, SplitMix64::new(7))?.take(5).map(|d| d.as_millis()).collect();
/// assert_eq!(delays, [100, 200, 400, 800, 1000]);
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Backoff<R = SplitMix64> {
    config: BackoffConfig,
    random: R,
    attempt: u32,
    previous: Duration,
}

impl<R: Random> Backoff<R> {
    /// Delays by this configuration.
    ///
    /// # Errors
    /// Those of [`BackoffConfig::check`].
    pub fn new(config: BackoffConfig, random: R) -> Result<Self> {
        config.check()?;
        Ok(Self::of_checked(config, random))
    }

    /// The same delays' beginning with another sequence of random numbers; the configuration was checked before.
    pub(crate) fn reseeded<S: Random>(&self, random: S) -> Backoff<S> {
        Backoff::of_checked(self.config, random)
    }

    /// For a configuration that is known to pass [`BackoffConfig::check`].
    pub(crate) fn of_checked(config: BackoffConfig, random: R) -> Self {
        Self { config, random, attempt: 0, previous: config.base }
    }

    /// The delay before the next try.
    pub fn next_delay(&mut self) -> Duration {
        let BackoffConfig { base, max, jitter, .. } = self.config;
        // Above 2³¹ any base of a millisecond or more has long reached the ceiling of a day; a smaller one stays there.
        let ceiling = base.saturating_mul(1_u32 << self.attempt.min(31)).min(max);
        self.attempt = self.attempt.saturating_add(1);
        match jitter {
            Jitter::None => ceiling,
            Jitter::Full => between(&mut self.random, Duration::ZERO, ceiling),
            Jitter::Decorrelated => {
                let high = self.previous.saturating_mul(3).min(max);
                self.previous = between(&mut self.random, base, high);
                self.previous
            }
        }
    }

    /// How many delays were given since the start or the last reset.
    pub fn attempts(&self) -> u32 {
        self.attempt
    }

    /// What was tried has run for so long before it failed: after [`reset_after`](BackoffConfig::reset_after) the delays
    /// start anew.
    pub fn ran_for(&mut self, healthy: Duration) {
        if healthy >= self.config.reset_after {
            self.reset();
        }
    }

    /// Starts anew.
    pub fn reset(&mut self) {
        self.attempt = 0;
        self.previous = self.config.base;
    }
}

impl<R: Random> Iterator for Backoff<R> {
    type Item = Duration;

    /// Never `None`.
    fn next(&mut self) -> Option<Duration> {
        Some(self.next_delay())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(jitter: Jitter) -> BackoffConfig {
        BackoffConfig::new(Duration::from_millis(100), Duration::from_secs(10)).unwrap().with_jitter(jitter)
    }

    #[test]
    fn the_extremes_of_the_random_source_give_the_bounds_of_the_formulas() {
        let lowest: Vec<_> = Backoff::new(config(Jitter::Full), || 0).unwrap().take(3).collect();
        assert_eq!(lowest, [Duration::ZERO; 3]);
        let highest: Vec<_> =
            Backoff::new(config(Jitter::Full), || u64::MAX).unwrap().take(8).map(|d| d.as_millis()).collect();
        assert_eq!(highest, [100, 200, 400, 800, 1600, 3200, 6400, 10_000]);
        let lowest: Vec<_> = Backoff::new(config(Jitter::Decorrelated), || 0).unwrap().take(3).collect();
        assert_eq!(lowest, [Duration::from_millis(100); 3]);
        let highest: Vec<_> = Backoff::new(config(Jitter::Decorrelated), || u64::MAX)
            .unwrap()
            .take(5)
            .map(|d| d.as_millis())
            .collect();
        assert_eq!(highest, [300, 900, 2700, 8100, 10_000]);
    }

    #[test]
    fn full_jitter_is_spread_over_the_whole_range() {
        // Tenths of the range, 10,000 draws at the ceiling: each tenth gets 1,000 ± 5 standard deviations.
        let mut tenths = [0_u32; 10];
        let mut backoff = Backoff::new(config(Jitter::Full), SplitMix64::new(1)).unwrap();
        for delay in backoff.by_ref().skip(10).take(10_000) {
            tenths[(delay.as_millis() / 1000).min(9) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (850..1150).contains(count)), "{tenths:?}");
    }

    #[test]
    fn only_a_healthy_time_starts_anew() {
        let mut backoff = Backoff::new(config(Jitter::None), SplitMix64::new(1)).unwrap();
        let _ = backoff.by_ref().take(4).count();
        backoff.ran_for(Duration::from_secs(299));
        assert_eq!(backoff.next_delay(), Duration::from_millis(1600));
        backoff.ran_for(Duration::from_secs(300));
        assert_eq!(backoff.next_delay(), Duration::from_millis(100));
    }

    #[test]
    fn what_is_no_back_off_is_refused() {
        for (base, max) in [(0, 10), (20, 10), (10, 90_000_000)] {
            let refused = BackoffConfig::new(Duration::from_millis(base), Duration::from_millis(max));
            assert!(refused.is_err(), "{base} {max}");
        }
        assert!(Backoff::new(config(Jitter::Full).with_reset_after(Duration::ZERO), || 0).is_err());
        assert!(serde_json::from_str::<BackoffConfig>(r#"{"base":"1s","maximum":"2s"}"#).is_err());
    }

    #[test]
    fn two_seeds_differ_and_one_repeats() {
        let delays = |seed| {
            Backoff::new(config(Jitter::Full), SplitMix64::new(seed)).unwrap().take(5).collect::<Vec<_>>()
        };
        assert_eq!(delays(3), delays(3));
        assert_ne!(delays(3), delays(4));
        assert_ne!(SplitMix64::from_entropy().next_u64(), SplitMix64::from_entropy().next_u64());
    }

    proptest! {
        #[test]
        fn no_delay_leaves_its_bounds(
            base in 1_u64..1_000_000_000_000, factor in 1_u64..1_000_000, seed: u64, which in 0..3,
        ) {
            let base = Duration::from_nanos(base);
            let max = base.saturating_mul(factor as u32).min(BackoffConfig::MAX);
            let jitter = [Jitter::None, Jitter::Full, Jitter::Decorrelated][which as usize];
            let config = BackoffConfig::new(base, max).unwrap().with_jitter(jitter);
            for delay in Backoff::new(config, SplitMix64::new(seed)).unwrap().take(70) {
                prop_assert!(delay <= max);
                prop_assert!(jitter == Jitter::Full || delay >= base);
            }
        }
    }
}
