//! What a pool's requests are counted under, for as long as something counts.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Weak};

use ews_core::Labels;
use ews_core::id::PoolId;

/// What a pool's requests are counted under. A pool that gets other labels is another one.
#[derive(Debug)]
pub(crate) struct PoolIdentity {
    pub(crate) uid: u64,
    pub(crate) id: PoolId,
    pub(crate) labels: Labels,
    /// How many requests wait for an endpoint.
    pub(crate) held: AtomicU32,
    /// Whether an endpoint may be ejected.
    pub(crate) has_ejected: AtomicBool,
}

impl PoolIdentity {
    pub(crate) fn new(uid: u64, id: PoolId, labels: Labels) -> Self {
        Self { uid, id, labels, held: AtomicU32::new(0), has_ejected: AtomicBool::new(false) }
    }
}

/// How many former pools are kept before those that nothing counts any more are looked for.
const FIRST_SWEEP: usize = 64;

/// The identities of all pools.
///
/// Series are told apart by labels, so that of one id and labels there may be one identity at a time: two that are counted at
/// once, such as a pool that has its former labels again while a connection from then still goes on, would take turns in
/// one series, and each turn would look like a counter that began anew.
#[derive(Debug)]
pub(crate) struct Identities {
    now: BTreeMap<PoolId, Arc<PoolIdentity>>,
    /// Those before, which requests under way or counters that were not sampled yet may keep.
    former: HashMap<PoolId, Vec<Weak<PoolIdentity>>>,
    sweep_at: usize,
}

impl Identities {
    pub(crate) fn new() -> Self {
        Self { now: BTreeMap::new(), former: HashMap::new(), sweep_at: FIRST_SWEEP }
    }

    pub(crate) fn get(&self, id: &PoolId) -> Option<&Arc<PoolIdentity>> {
        self.now.get(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<PoolIdentity>> {
        self.now.values()
    }

    /// What a pool with these labels is counted under from now on; a new one gets this uid.
    pub(crate) fn of(&mut self, id: &PoolId, labels: &Labels, uid: u64) -> Arc<PoolIdentity> {
        if let Some(known) = self.now.get(id).filter(|known| known.labels == *labels) {
            return known.clone();
        }
        let former = self.former.get(id).into_iter().flatten().filter_map(Weak::upgrade);
        let again = former.into_iter().find(|former| former.labels == *labels);
        let identity = again.unwrap_or_else(|| Arc::new(PoolIdentity::new(uid, id.clone(), labels.clone())));
        self.remove(id);
        self.now.insert(id.clone(), identity.clone());
        identity
    }

    /// The pool is gone, or is another one.
    pub(crate) fn remove(&mut self, id: &PoolId) {
        let Some(before) = self.now.remove(id) else { return };
        let former = self.former.entry(id.clone()).or_default();
        former
            .retain(|known| known.strong_count() > 0 && !std::ptr::eq(known.as_ptr(), Arc::as_ptr(&before)));
        former.push(Arc::downgrade(&before));
        if self.former.len() >= self.sweep_at {
            self.former.retain(|_, all| all.iter().any(|known| known.strong_count() > 0));
            self.sweep_at = self.former.len() * 2 + FIRST_SWEEP;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(revision: &str) -> Labels {
        Labels::new([("revision", revision)]).unwrap()
    }

    #[test]
    fn one_that_is_counted_yet_is_found_again_by_its_labels() {
        let mut identities = Identities::new();
        let id = PoolId::new("p").unwrap();
        let first = identities.of(&id, &labels("r1"), 1);
        assert_eq!(identities.of(&id, &labels("r1"), 2).uid, 1);
        assert_eq!(identities.of(&id, &labels("r2"), 3).uid, 3);
        assert_eq!(identities.of(&id, &labels("r1"), 4).uid, 1, "something has it yet");
        identities.remove(&id);
        assert!(identities.get(&id).is_none());
        assert_eq!(identities.of(&id, &labels("r1"), 5).uid, 1);
        assert_eq!(identities.of(&id, &labels("r2"), 6).uid, 6, "nothing had that any more");
        drop(first);
        assert_eq!(identities.of(&id, &labels("r1"), 7).uid, 7);
    }

    #[test]
    fn what_nothing_counts_is_forgotten() {
        let mut identities = Identities::new();
        for number in 0..10_000 {
            let id = PoolId::new(format!("p{number}")).unwrap();
            for (uid, revision) in ["r1", "r2", "r3"].into_iter().enumerate() {
                identities.of(&id, &labels(revision), uid as u64);
            }
            identities.remove(&id);
        }
        assert!(identities.former.len() <= 2 * FIRST_SWEEP, "{}", identities.former.len());
        assert!(identities.former.values().all(|all| all.len() == 1));
    }
}
