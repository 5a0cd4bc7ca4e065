//! What data threads count, without a lock and without another thread's cache line.
//!
//! Each thread has counters of its own for each pool; it alone writes them, so that a plain load and store is enough. The
//! control thread adds them up when it takes a sample.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ews_core::Histogram;
use hyper::StatusCode;

use crate::gateway::guard::Refusal;
use crate::gateway::pool::PoolIdentity;

/// The classes of statuses, in the order of their first digit.
pub(crate) const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Why the gateway could not serve a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No domain or no route leads anywhere.
    NoRoute,
    /// The pool has no endpoint that may be used.
    NoEndpoint,
    /// No endpoint could be connected to.
    Connect,
    /// An endpoint took too long.
    Timeout,
    /// An endpoint broke off, or answered what is no HTTP.
    Upstream,
    /// The client went away, or sent a body that is none.
    Client,
    /// It was closed by force.
    Forced,
    /// The request asks for what is not there, such as an upgrade.
    Unsupported,
    /// The body is above the limit.
    TooLarge,
    /// The client is not welcome.
    Denied,
    /// Who was asked whether it may pass did not let it.
    Unauthorized,
    /// There were too many requests for a rate.
    Limited,
    /// There were too many requests at once, or none waited any longer.
    Overloaded,
    /// The site is in maintenance.
    Maintenance,
    /// The site asks clients for certificates, and the connection was made for another site.
    Misdirected,
    /// The site is dropped.
    Blackhole,
}

impl Failure {
    pub(crate) const ALL: [Self; 16] = [
        Self::NoRoute,
        Self::NoEndpoint,
        Self::Connect,
        Self::Timeout,
        Self::Upstream,
        Self::Client,
        Self::Forced,
        Self::Unsupported,
        Self::TooLarge,
        Self::Denied,
        Self::Unauthorized,
        Self::Limited,
        Self::Overloaded,
        Self::Maintenance,
        Self::Misdirected,
        Self::Blackhole,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::NoRoute => "no_route",
            Self::NoEndpoint => "no_endpoint",
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Upstream => "upstream",
            Self::Client => "client",
            Self::Forced => "forced",
            Self::Unsupported => "unsupported",
            Self::TooLarge => "too_large",
            Self::Denied => "denied",
            Self::Unauthorized => "unauthorized",
            Self::Limited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::Maintenance => "maintenance",
            Self::Misdirected => "misdirected",
            Self::Blackhole => "blackhole",
        }
    }
}

/// A counter that one thread writes.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    fn sub(&self, less: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(less), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Sixteen buckets for each power of two of nanoseconds, from 1 µs to 137 s: an error of at most 3.2 % either way.
const FIRST_POWER: u32 = 10;
const LAST_POWER: u32 = 37;
const STEPS: usize = 16;
const BUCKETS: usize = (LAST_POWER - FIRST_POWER) as usize * STEPS;

/// A distribution of times that one thread writes. Finding a bucket takes no floating point.
#[derive(Debug)]
struct Times(Box<[Count]>);

impl Default for Times {
    fn default() -> Self {
        Self((0..BUCKETS).map(|_| Count::default()).collect())
    }
}

impl Times {
    fn record(&self, nanos: u64) {
        let nanos = nanos.clamp(1 << FIRST_POWER, (1 << LAST_POWER) - 1);
        let power = nanos.ilog2();
        let step = (nanos >> (power - 4)) as usize & (STEPS - 1);
        if let Some(bucket) = self.0.get((power - FIRST_POWER) as usize * STEPS + step) {
            bucket.add(1);
        }
    }

    fn add_to(&self, histogram: &mut Histogram) {
        for (at, bucket) in self.0.iter().enumerate() {
            let count = bucket.get();
            if count > 0 {
                histogram.record_many(middle(at), count);
            }
        }
    }
}

/// The middle of a bucket, in seconds.
#[expect(clippy::cast_precision_loss, reason = "a few thousand at most")]
fn middle(at: usize) -> f64 {
    let (power, step) = (at / STEPS, at % STEPS);
    let low = (STEPS + step) as f64 + 0.5;
    low * f64::from(u32::try_from(power).unwrap_or(0) + FIRST_POWER - 4).exp2() / 1e9
}

/// What one thread counts of one pool.
#[derive(Debug, Default)]
pub(crate) struct PoolCounts {
    classes: [ClassCounts; CLASSES.len()],
    failures: [Count; Failure::ALL.len()],
    active: Count,
}

#[derive(Debug, Default)]
struct ClassCounts {
    requests: Count,
    times: OnceLock<Times>,
}

impl PoolCounts {
    pub(crate) fn begin(&self) {
        self.active.add(1);
    }

    pub(crate) fn end(&self) {
        self.active.sub(1);
    }

    /// A request that was answered with this status after so many nanoseconds.
    pub(crate) fn answered(&self, status: StatusCode, nanos: u64) {
        let class = usize::from(status.as_u16() / 100).wrapping_sub(1);
        if let Some(class) = self.classes.get(class) {
            class.requests.add(1);
            class.times.get_or_init(Times::default).record(nanos);
        }
    }

    pub(crate) fn failed(&self, failure: Failure) {
        if let Some(count) = self.failures.get(failure as usize) {
            count.add(1);
        }
    }
}

/// What all threads together counted of one pool.
#[derive(Debug, Default)]
pub(crate) struct PoolTotals {
    pub(crate) requests: [u64; CLASSES.len()],
    pub(crate) times: [Option<Histogram>; CLASSES.len()],
    pub(crate) failures: [u64; Failure::ALL.len()],
    pub(crate) active: u64,
}

impl PoolTotals {
    fn add(&mut self, counts: &PoolCounts, with_times: bool) {
        for ((class, requests), times) in counts.classes.iter().zip(&mut self.requests).zip(&mut self.times) {
            *requests = requests.wrapping_add(class.requests.get());
            if with_times && let Some(recorded) = class.times.get() {
                recorded.add_to(times.get_or_insert_default());
            }
        }
        for (count, failures) in counts.failures.iter().zip(&mut self.failures) {
            *failures = failures.wrapping_add(count.get());
        }
        self.active = self.active.wrapping_add(counts.active.get());
    }
}

/// What one thread counts beside pools.
#[derive(Debug)]
pub(crate) struct ThreadCounts {
    refused: [Count; Refusal::ALL.len()],
}

impl ThreadCounts {
    pub(crate) fn refused(&self, refusal: Refusal) {
        if let Some(count) = self.refused.get(refusal as usize) {
            count.add(1);
        }
    }
}

/// A pool, or none, and what was counted of it.
pub(crate) type Totals = (Option<Arc<PoolIdentity>>, PoolTotals);

/// A pool, or none, and what a thread counts of it.
type CountedPool = (Option<Arc<PoolIdentity>>, Arc<PoolCounts>);

/// Where the counters of all threads are found.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    threads: Mutex<Vec<Arc<ThreadCounts>>>,
    pools: Mutex<Vec<CountedPool>>,
}

impl Registry {
    /// Counters for one more thread.
    pub(crate) fn thread(&self) -> Arc<ThreadCounts> {
        let counts = Arc::new(ThreadCounts { refused: std::array::from_fn(|_| Count::default()) });
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(counts.clone());
        counts
    }

    /// A thread's counters for a pool, or for what goes to none.
    pub(crate) fn pool(&self, identity: Option<Arc<PoolIdentity>>) -> Arc<PoolCounts> {
        let counts = Arc::new(PoolCounts::default());
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).push((identity, counts.clone()));
        counts
    }

    /// How often each reason was refused.
    pub(crate) fn refused(&self) -> [u64; Refusal::ALL.len()] {
        let mut sums = [0; Refusal::ALL.len()];
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            for (sum, count) in sums.iter_mut().zip(&thread.refused) {
                *sum += count.get();
            }
        }
        sums
    }

    /// What was counted of every pool, by uid; 0 is what goes to none. Pools that nobody else has any more are in it for the
    /// last time, with all that any thread ever counted: a sum that lost a part on its way would look like a counter that began anew.
    pub(crate) fn totals(&self, with_times: bool) -> HashMap<u64, Totals> {
        let mut totals: HashMap<u64, Totals> = HashMap::new();
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let mut places: HashMap<u64, usize> = HashMap::new();
        for (identity, _) in pools.iter() {
            *places.entry(uid(identity.as_ref())).or_default() += 1;
        }
        let is_gone = |(identity, counts): &CountedPool| match identity {
            Some(identity) => places.get(&identity.uid) == Some(&Arc::strong_count(identity)),
            None => Arc::strong_count(counts) == 1,
        };
        // Before anything is added up: who lets go later may have counted meanwhile.
        let gone: Vec<bool> = pools.iter().map(is_gone).collect();
        // Pairs with the release of whoever let go last: what they counted before that is seen.
        fence(Ordering::Acquire);
        for (identity, counts) in pools.iter() {
            let entry = totals.entry(uid(identity.as_ref()));
            let (_, total) = entry.or_insert_with(|| (identity.clone(), PoolTotals::default()));
            total.add(counts, with_times);
        }
        let mut gone = gone.into_iter();
        pools.retain(|_| !gone.next().unwrap_or(false));
        totals
    }
}

/// What a pool is found by; 0 is none.
fn uid(identity: Option<&Arc<PoolIdentity>>) -> u64 {
    identity.map_or(0, |identity| identity.uid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_time_is_found_again_within_four_percent(nanos in 1_024_u64..130_000_000_000) {
            let times = Times::default();
            times.record(nanos);
            let at = times.0.iter().position(|bucket| bucket.get() == 1).unwrap();
            #[expect(clippy::cast_precision_loss, reason = "a test")]
            let ratio = middle(at) * 1e9 / nanos as f64;
            prop_assert!((ratio - 1.0).abs() < 0.04, "{ratio}");
        }
    }

    #[test]
    fn threads_add_up_and_reasons_keep_their_places() {
        let registry = Registry::default();
        let (one, two) = (registry.pool(None), registry.pool(None));
        one.begin();
        one.answered(StatusCode::OK, 1_000_000);
        two.answered(StatusCode::NOT_FOUND, 1_000_000);
        two.answered(StatusCode::OK, 3_000_000);
        for failure in Failure::ALL {
            two.failed(failure);
        }
        let totals = registry.totals(true);
        let (_, totals) = &totals[&0];
        assert_eq!(totals.requests, [0, 2, 0, 1, 0]);
        assert_eq!((totals.active, totals.failures), (1, [1; Failure::ALL.len()]));
        assert_eq!(totals.times[1].as_ref().unwrap().count(), 2);
        let thread = registry.thread();
        for refusal in Refusal::ALL {
            thread.refused(refusal);
        }
        assert_eq!(registry.refused(), [1; Refusal::ALL.len()]);
    }

    #[test]
    fn what_no_thread_holds_is_counted_once_more_and_forgotten() {
        let registry = Registry::default();
        registry.pool(None).answered(StatusCode::OK, 1);
        assert_eq!(registry.totals(false)[&0].1.requests[1], 1);
        assert!(registry.totals(false).is_empty());
    }

    #[test]
    fn what_one_thread_lets_go_counts_as_long_as_another_has_the_pool() {
        let registry = Registry::default();
        let identity = Arc::new(PoolIdentity::new(7, "p".parse().unwrap(), ews_core::Labels::default()));
        let (one, two) = (registry.pool(Some(identity.clone())), registry.pool(Some(identity.clone())));
        let requests = || registry.totals(false).get(&7).map(|(_, totals)| totals.requests[1]);
        one.answered(StatusCode::OK, 1);
        two.answered(StatusCode::OK, 1);
        drop(one);
        assert_eq!((requests(), requests()), (Some(2), Some(2)));
        drop(two);
        assert_eq!((requests(), requests()), (Some(2), Some(2)), "a request may come to it yet");
        let late = registry.pool(Some(identity.clone()));
        late.answered(StatusCode::OK, 1);
        drop((late, identity));
        assert_eq!((requests(), requests()), (Some(3), None));
    }
}
