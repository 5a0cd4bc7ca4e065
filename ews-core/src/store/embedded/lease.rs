//! When leases end: a pure table of deadlines on tokio's monotonic clock.
//!
//! A lease whose deadline passed is *due*: it can't be renewed any more, and the next transaction ends it before anything
//! else happens, so that nothing commits under a lease that ran out, whether the sweep came by or not.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::store::LeaseId;

#[derive(Debug, Clone, Copy)]
struct Clock {
    ttl: Duration,
    deadline: Instant,
    /// Its end is being committed; a renewal comes too late, whatever the clock said when it was sent.
    ending: bool,
}

/// The deadlines of the live leases.
#[derive(Debug, Default)]
pub(crate) struct LeaseClocks {
    clocks: BTreeMap<LeaseId, Clock>,
    /// No deadline is before this one. A renewal leaves it as it is, so that it may be early and is never late; that
    /// spares each transaction a walk over all leases.
    earliest: Option<Instant>,
}

impl LeaseClocks {
    pub(crate) fn len(&self) -> usize {
        self.clocks.len()
    }

    /// Starts a lease's time to live.
    pub(crate) fn start(&mut self, lease: LeaseId, ttl: Duration, now: Instant) {
        let deadline = now + ttl;
        self.clocks.insert(lease, Clock { ttl, deadline, ending: false });
        self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
    }

    /// Starts the time to live anew and says whether it could: not for a lease that is unknown, due or ending.
    pub(crate) fn renew(&mut self, lease: LeaseId, now: Instant) -> bool {
        match self.clocks.get_mut(&lease) {
            Some(clock) if !clock.ending && clock.deadline > now => {
                clock.deadline = now + clock.ttl;
                true
            }
            _ => false,
        }
    }

    /// The leases that are due, in the order of their deadlines; from here on they are ending.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<LeaseId> {
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return Vec::new();
        }
        let mut due = Vec::new();
        self.earliest = None;
        for (lease, clock) in &mut self.clocks {
            if clock.ending || clock.deadline <= now {
                clock.ending = true;
                due.push((clock.deadline, *lease));
            } else {
                self.earliest = Some(self.earliest.map_or(clock.deadline, |first| first.min(clock.deadline)));
            }
        }
        due.sort_unstable();
        due.into_iter().map(|(_, lease)| lease).collect()
    }

    /// The end of these leases was committed.
    pub(crate) fn ended(&mut self, leases: &[LeaseId]) {
        for lease in leases {
            self.clocks.remove(lease);
        }
    }

    /// The end of due leases could not be committed: they stay due.
    pub(crate) fn not_ended(&mut self, now: Instant) {
        if self.clocks.values().any(|clock| clock.ending) {
            self.earliest = Some(now);
        }
    }

    /// Takes over which leases there are from the rows, after it was in doubt. Those that are known keep their deadlines, so
    /// that one that ran out meanwhile stays so.
    pub(crate) fn reconcile(&mut self, found: Self, now: Instant) {
        self.clocks.retain(|lease, _| found.clocks.contains_key(lease));
        for (lease, clock) in found.clocks {
            self.clocks.entry(lease).or_insert(clock);
        }
        // Early, so that whatever is due is found.
        self.earliest = (!self.clocks.is_empty()).then_some(now);
    }

    /// When [`take_due`](Self::take_due) should be asked next; it may find nothing yet.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.earliest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_ends_at_its_deadline_and_no_renewal_brings_it_back() {
        let start = Instant::now();
        let mut clocks = LeaseClocks::default();
        clocks.start(LeaseId(1), 2 * SECOND, start);
        clocks.start(LeaseId(2), 3 * SECOND, start);
        assert_eq!(clocks.take_due(start + SECOND), []);
        assert!(clocks.renew(LeaseId(1), start + SECOND));
        assert_eq!(clocks.take_due(start + 2 * SECOND), []);
        assert!(!clocks.renew(LeaseId(1), start + 3 * SECOND), "due, though not swept");
        assert_eq!(clocks.take_due(start + 3 * SECOND), [LeaseId(1), LeaseId(2)]);
        assert!(!clocks.renew(LeaseId(1), start), "ending");
        clocks.not_ended(start + 3 * SECOND);
        assert_eq!(clocks.take_due(start + 3 * SECOND), [LeaseId(1), LeaseId(2)]);
        let mut found = LeaseClocks::default();
        found.start(LeaseId(2), 3 * SECOND, start + 4 * SECOND);
        found.start(LeaseId(3), 3 * SECOND, start + 4 * SECOND);
        clocks.reconcile(found, start + 4 * SECOND);
        assert!(!clocks.renew(LeaseId(2), start + 4 * SECOND), "it ran out before, and stays so");
        assert_eq!(clocks.take_due(start + 4 * SECOND), [LeaseId(2)]);
        assert!(clocks.renew(LeaseId(3), start + 5 * SECOND), "nobody knew it, so that it begins now");
        clocks.ended(&[LeaseId(2), LeaseId(3)]);
        assert_eq!(clocks.take_due(start + 100 * SECOND), []);
        assert_eq!((clocks.len(), clocks.next()), (0, None));
    }
}
