//! Who gets which share of a service's traffic.

use std::collections::{BTreeMap, BTreeSet};

use ews_core::RevisionId;
use ews_core::balancer::{AttributeMatch, DomainName, HashOn, Member};

/// What a leader wants of the shares beyond "each instance the same".
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Aim {
    /// The revisions that may have a share while one of them serves: those that slots shall run. Others are being cleared away,
    /// or were never promoted. Nothing said: all.
    pub(crate) entitled: Option<BTreeSet<RevisionId>>,
    pub(crate) canary: Option<CanaryAim>,
}

/// The share of a new revision.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CanaryAim {
    pub(crate) to: RevisionId,
    /// In hundredths.
    pub(crate) percent: u8,
    /// Whether it may be more, as more of its instances serve.
    pub(crate) at_least: bool,
    /// Requests that it gets beside; empty: none.
    pub(crate) matching: Vec<AttributeMatch>,
    pub(crate) split_by: Option<HashOn>,
    /// Domains that show it and nothing else.
    pub(crate) preview: Vec<DomainName>,
}

/// The share of each revision by how many of its instances take traffic. Where nobody who is entitled serves, whoever does
/// gets it: what is healthy and not yet judged answers better than nobody.
pub(crate) fn shares(active: &BTreeMap<RevisionId, u32>, aim: &Aim) -> BTreeMap<RevisionId, u32> {
    const MOST: u64 = Member::MAX_WEIGHT as u64;
    let serves = |revision: &RevisionId| active.get(revision).is_some_and(|count| *count > 0);
    let may = |revision: &RevisionId| {
        aim.entitled.as_ref().is_none_or(|entitled| entitled.contains(revision))
            || aim.canary.as_ref().is_some_and(|canary| canary.to == *revision)
    };
    let is_entitled = active.keys().any(|revision| serves(revision) && may(revision));
    let counted: BTreeMap<&RevisionId, u64> = active
        .iter()
        .map(|(revision, count)| {
            (revision, if may(revision) || !is_entitled { u64::from(*count) } else { 0 })
        })
        .collect();
    let canary = aim.canary.as_ref().filter(|canary| serves(&canary.to));
    let new = canary.and_then(|canary| counted.get(&canary.to).copied()).unwrap_or_default();
    let others: u64 = counted.values().sum::<u64>() - new;
    let percent = canary.filter(|_| others > 0).and_then(|canary| {
        let percent = u64::from(canary.percent.min(100));
        let by_count = new * 100 >= percent * (new + others);
        (!(canary.at_least && by_count)).then_some(percent)
    });
    let most = counted.values().copied().max().unwrap_or_default().max(1);
    let share = |revision: &RevisionId, count: u64| -> u64 {
        match percent {
            _ if count == 0 => 0,
            // More instances than a weight can say: all in proportion.
            None if most > MOST => (count * MOST / most).max(1),
            None => count,
            Some(percent) if canary.is_some_and(|canary| canary.to == *revision) => percent * 100,
            Some(100) => 0,
            Some(percent) => ((100 - percent) * 100 * count / others).max(1),
        }
    };
    counted
        .into_iter()
        .map(|(revision, count)| {
            (revision.clone(), u32::try_from(share(revision, count)).unwrap_or(Member::MAX_WEIGHT))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<const N: usize>(counts: [(&str, u32); N]) -> BTreeMap<RevisionId, u32> {
        counts.into_iter().map(|(name, count)| (name.parse().unwrap(), count)).collect()
    }

    fn canary(percent: u8, at_least: bool) -> Aim {
        let entitled = Some(BTreeSet::from(["old".parse().unwrap()]));
        let canary = CanaryAim {
            to: "new".parse().unwrap(),
            percent,
            at_least,
            matching: Vec::new(),
            split_by: None,
            preview: Vec::new(),
        };
        Aim { entitled, canary: Some(canary) }
    }

    #[test]
    fn a_canary_has_its_share_whatever_its_number() {
        let aim = canary(5, false);
        assert_eq!(shares(&of([("old", 9), ("new", 1)]), &aim), of([("old", 9500), ("new", 500)]));
        assert_eq!(shares(&of([("old", 9), ("new", 0)]), &aim), of([("old", 9), ("new", 0)]));
        assert_eq!(
            shares(&of([("old", 9), ("new", 9)]), &canary(0, false)),
            of([("old", 10_000), ("new", 0)])
        );
        assert_eq!(
            shares(&of([("old", 9), ("new", 9)]), &canary(100, false)),
            of([("old", 0), ("new", 10_000)])
        );
    }

    #[test]
    fn while_it_is_promoted_its_share_never_falls() {
        let aim = canary(50, true);
        assert_eq!(shares(&of([("old", 9), ("new", 2)]), &aim), of([("old", 5000), ("new", 5000)]));
        assert_eq!(shares(&of([("old", 3), ("new", 7)]), &aim), of([("old", 3), ("new", 7)]));
    }

    #[test]
    fn what_no_slot_shall_run_gets_nothing_while_another_serves() {
        let aim = Aim { canary: None, ..canary(0, false) };
        assert_eq!(shares(&of([("old", 3), ("gone", 3)]), &aim), of([("old", 3), ("gone", 0)]));
        assert_eq!(shares(&of([("old", 0), ("gone", 3)]), &aim), of([("old", 0), ("gone", 3)]));
    }

    #[test]
    fn nobody_who_could_serve_is_left_out_where_all_others_are_gone() {
        assert_eq!(shares(&of([("old", 0), ("new", 1)]), &canary(0, false)), of([("old", 0), ("new", 1)]));
    }

    #[test]
    fn more_instances_than_a_weight_can_say_keep_their_proportion() {
        let all = shares(&of([("a", 40_000), ("b", 10_000), ("c", 1)]), &Aim::default());
        assert_eq!(all, of([("a", 10_000), ("b", 2_500), ("c", 1)]));
        let three =
            shares(&of([("a", 2), ("b", 1), ("new", 1)]), &Aim { entitled: None, ..canary(10, false) });
        assert_eq!(three, of([("a", 6_000), ("b", 3_000), ("new", 1_000)]));
    }
}
