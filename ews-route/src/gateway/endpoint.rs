//! What a gateway knows of an endpoint, shared by its threads.
//!
//! It is found by pool and key, not by place in a list, so that it outlives every change of its pool: counters, latency and
//! ejection stay until the endpoint is removed and idle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use ews_core::balancer::{EndpointView, MemberState};
use ews_core::endpoint::{EndpointAddress, EndpointKey};
use ews_core::id::PoolId;

use super::names::{Named, Remote};

/// The longest ejection.
const MAX_EJECTION: Duration = Duration::from_secs(30);
/// The longest ejection for errors, in milliseconds (Envoy's `max_ejection_time`).
const MAX_OUTLIER: u64 = 300_000;
/// How long a peak of latency is remembered, in milliseconds (Finagle's and linkerd's default is 10 s).
const DECAY: u64 = 10_000;

/// What an endpoint's checks say.
#[derive(Debug, Clone, Copy)]
enum Checked {
    /// There are none.
    Nobody,
    Well,
    /// From here on it gets nothing.
    Waiting,
    Unwell,
}

/// An endpoint's state. Its counters are read by everybody and written by every thread.
#[derive(Debug)]
pub(crate) struct EndpointState {
    /// Tells it from all others that this gateway ever knew.
    pub(crate) uid: u64,
    pub(crate) pool: PoolId,
    pub(crate) key: EndpointKey,
    pub(crate) address: EndpointAddress,
    /// What its name stands for, where it has one.
    pub(crate) named: Option<Arc<Named>>,
    /// What was applied last; what threads act by is in their snapshots.
    state: AtomicU8,
    weight: AtomicU32,
    removed: AtomicBool,
    in_flight: AtomicU64,
    requests: AtomicU64,
    errors: AtomicU64,
    forced: AtomicU64,
    /// Whether its counters were sampled before.
    sampled: AtomicBool,
    /// Failed attempts to connect since the last that succeeded.
    failures: AtomicU32,
    /// Errors in a row.
    bad: AtomicU32,
    /// How often it was ejected for them, since it was well for long.
    ejections: AtomicU32,
    /// When it was first thought of for a request, in the gateway's milliseconds; 0: never.
    first: AtomicU64,
    /// Until when it is ejected, in the gateway's milliseconds.
    ejected: AtomicU64,
    /// What its checks say; see [`Checked`].
    checked: AtomicU8,
    /// Peak EWMA of latency in microseconds, and when it was updated.
    latency: AtomicU64,
    latency_at: AtomicU64,
}

impl EndpointState {
    pub(crate) fn new(
        uid: u64,
        pool: PoolId,
        key: EndpointKey,
        address: EndpointAddress,
        named: Option<Arc<Named>>,
    ) -> Self {
        Self {
            uid,
            pool,
            key,
            address,
            named,
            state: AtomicU8::new(0),
            weight: AtomicU32::new(0),
            removed: AtomicBool::new(false),
            in_flight: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            forced: AtomicU64::new(0),
            sampled: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            bad: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            first: AtomicU64::new(0),
            ejected: AtomicU64::new(0),
            checked: AtomicU8::new(Checked::Nobody as u8),
            latency: AtomicU64::new(0),
            latency_at: AtomicU64::new(0),
        }
    }

    /// What the newest change says of it; `None`: it is removed.
    pub(crate) fn set(&self, member: Option<(MemberState, u32)>) {
        let (state, weight) = member.unwrap_or((MemberState::Draining, self.weight.load(Ordering::Relaxed)));
        self.removed.store(member.is_none(), Ordering::Relaxed);
        self.weight.store(weight, Ordering::Relaxed);
        let state = match state {
            MemberState::Active => 0,
            MemberState::Draining => 1,
            _ => 2,
        };
        self.state.store(state, Ordering::Release);
    }

    pub(crate) fn state(&self) -> MemberState {
        match self.state.load(Ordering::Acquire) {
            0 => MemberState::Active,
            1 => MemberState::Draining,
            _ => MemberState::Closed,
        }
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    /// Something begins.
    pub(crate) fn begin(&self) {
        // A thread acknowledges a generation with a release, after the last request that it began before: whoever reads the
        // acknowledgement sees them all counted.
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Something ended. True where nothing is under way any more.
    pub(crate) fn end(&self, failed: bool) -> bool {
        if failed {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        self.in_flight.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Whether its counters are sampled for the first time.
    pub(crate) fn is_first_sample(&self) -> bool {
        !self.sampled.swap(true, Ordering::Relaxed)
    }

    /// So much was closed by force.
    pub(crate) fn force(&self, count: u64) {
        self.forced.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Acquire)
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// It could not be connected to: it gets nothing for a while.
    pub(crate) fn unreachable(&self, now: u64, first: Duration) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(16);
        let pause = first.saturating_mul(1 << failures).min(MAX_EJECTION);
        let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.ejected.store(now.saturating_add(pause.max(1)), Ordering::Relaxed);
    }

    /// It answered as it should.
    pub(crate) fn did_well(&self, now: u64) {
        if self.bad.load(Ordering::Relaxed) != 0 {
            self.bad.store(0, Ordering::Relaxed);
        }
        // Well for as long as the longest ejection: what was is forgotten.
        if self.ejections.load(Ordering::Relaxed) != 0
            && now.saturating_sub(self.ejected.load(Ordering::Relaxed)) > MAX_OUTLIER
        {
            self.ejections.store(0, Ordering::Relaxed);
        }
    }

    /// It failed once more: how often in a row.
    pub(crate) fn did_badly(&self) -> u32 {
        self.bad.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// It fails too often: it gets nothing for a while.
    pub(crate) fn eject(&self, now: u64, first: Duration) {
        let before = self.ejections.fetch_add(1, Ordering::Relaxed).min(16);
        let first = u64::try_from(first.as_millis()).unwrap_or(u64::MAX).max(1);
        let pause = first.saturating_mul(1 << before).min(MAX_OUTLIER.max(first));
        self.bad.store(0, Ordering::Relaxed);
        self.ejected.store(now.saturating_add(pause), Ordering::Relaxed);
    }

    /// What share of its weight it gets, in thousandths, where new ones get theirs over so many milliseconds.
    pub(crate) fn warmth(&self, now: u64, window: u64) -> u64 {
        const LEAST: u64 = 100;
        let first = match self.first.compare_exchange(0, now.max(1), Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => now,
            Err(first) => first,
        };
        let age = now.saturating_sub(first).min(window);
        (age.saturating_mul(1_000) / window.max(1)).max(LEAST)
    }

    /// It was connected to, or answered.
    pub(crate) fn reached(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.ejected.store(0, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_ejected(&self, now: u64) -> bool {
        let until = self.ejected.load(Ordering::Relaxed);
        until != 0 && now < until
    }

    /// Its checks begin, or there are none. What is known of it stays as long as they go on.
    pub(crate) fn set_asked(&self, is_asked: bool) {
        let waiting = Checked::Waiting as u8;
        if is_asked {
            let nobody = Checked::Nobody as u8;
            let _ = self.checked.compare_exchange(nobody, waiting, Ordering::Relaxed, Ordering::Relaxed);
        } else {
            self.checked.store(Checked::Nobody as u8, Ordering::Relaxed);
        }
    }

    /// Its checks have an opinion.
    pub(crate) fn set_well(&self, is_well: bool) {
        let found = if is_well { Checked::Well } else { Checked::Unwell };
        self.checked.store(found as u8, Ordering::Relaxed);
    }

    /// Its checks found it well at the gateway before this one.
    #[cfg(all(unix, feature = "handover"))]
    pub(crate) fn set_well_before(&self) {
        let (waiting, well) = (Checked::Waiting as u8, Checked::Well as u8);
        let _ = self.checked.compare_exchange(waiting, well, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether its checks find it well.
    #[cfg(all(unix, feature = "handover"))]
    pub(crate) fn is_well(&self) -> bool {
        self.checked.load(Ordering::Relaxed) == Checked::Well as u8
    }

    /// Whether it has still to pass its first check.
    pub(crate) fn is_waiting(&self) -> bool {
        self.checked.load(Ordering::Relaxed) == Checked::Waiting as u8
    }

    /// Whether there is an address to connect to.
    pub(crate) fn is_known(&self) -> bool {
        self.named.as_ref().is_none_or(|named| named.is_known())
    }

    /// Whether it still is where this connection leads.
    pub(crate) fn is_at(&self, remote: Option<&Remote>) -> bool {
        match (&self.named, remote) {
            (Some(named), Some(remote)) => remote.is_current(named),
            _ => true,
        }
    }

    /// Whether it gets nothing: for errors of its own, by its checks, or because nobody knows where it is.
    pub(crate) fn is_out(&self, now: u64) -> bool {
        !self.is_known()
            || self.checked.load(Ordering::Relaxed) >= Checked::Waiting as u8
            || self.is_ejected(now)
    }

    /// An answer began after so many microseconds. A peak counts at once and fades (linkerd's peak EWMA). Threads may
    /// overwrite each other's update: it is an estimate.
    pub(crate) fn took(&self, micros: u64, now: u64) {
        let old = self.faded(now);
        let new = if micros >= old { micros } else { old - (old - micros) / 8 };
        self.latency.store(new.max(1), Ordering::Relaxed);
        self.latency_at.store(now, Ordering::Relaxed);
    }

    fn faded(&self, now: u64) -> u64 {
        let age = now.saturating_sub(self.latency_at.load(Ordering::Relaxed));
        let latency = self.latency.load(Ordering::Relaxed);
        // Linear within the decay time: no exponential is needed to choose between two.
        latency.saturating_sub(latency.saturating_mul(age.min(DECAY)) / DECAY)
    }

    /// What one more request here would cost, by latency and requests under way.
    pub(crate) fn cost(&self, now: u64) -> u64 {
        self.faded(now).max(1).saturating_mul(self.in_flight.load(Ordering::Relaxed).saturating_add(1))
    }

    pub(crate) fn view(&self, now: u64) -> EndpointView {
        let mut view = EndpointView::new(
            self.pool.clone(),
            self.key.clone(),
            self.state(),
            self.weight.load(Ordering::Relaxed),
        );
        view.in_flight = Some(self.in_flight());
        view.requests = Some(self.requests());
        view.errors = Some(self.errors());
        view.forced = Some(self.forced.load(Ordering::Relaxed));
        view.healthy = Some(!self.is_out(now));
        view
    }
}

#[cfg(test)]
mod tests {
    use ews_core::id::{InstanceId, PortName};
    use ews_core::instance::Incarnation;

    use super::*;

    fn endpoint() -> EndpointState {
        let key = EndpointKey {
            instance: InstanceId::new("a").unwrap(),
            incarnation: Incarnation(1),
            port: PortName::new("http").unwrap(),
        };
        EndpointState::new(1, PoolId::new("p").unwrap(), key, "127.0.0.1:1".parse().unwrap(), None)
    }

    #[test]
    fn ejection_doubles_and_ends_with_the_first_success() {
        let endpoint = endpoint();
        let first = Duration::from_secs(1);
        endpoint.unreachable(1_000, first);
        assert!(endpoint.is_ejected(1_999) && !endpoint.is_ejected(2_000));
        endpoint.unreachable(2_000, first);
        assert!(endpoint.is_ejected(3_999) && !endpoint.is_ejected(4_000));
        for _ in 0..20 {
            endpoint.unreachable(10_000, first);
        }
        assert!(endpoint.is_ejected(39_999) && !endpoint.is_ejected(40_000));
        endpoint.reached();
        assert!(!endpoint.is_ejected(10_001));
        endpoint.unreachable(10_001, first);
        assert!(!endpoint.is_ejected(11_001));
    }

    #[test]
    fn a_peak_of_latency_counts_at_once_and_fades() {
        let endpoint = endpoint();
        endpoint.took(100, 0);
        endpoint.took(8_100, 0);
        assert_eq!(endpoint.cost(0), 8_100);
        endpoint.took(100, 0);
        assert_eq!(endpoint.cost(0), 7_100);
        assert_eq!(endpoint.cost(DECAY), 1);
        endpoint.begin();
        assert_eq!(endpoint.cost(0), 14_200);
    }
}
