//! How far a count may move now, after what it has moved already.
//!
//! As in HPA: a period's limit counts from what the count was at the period's start, found by taking the changes within it back.

use std::time::Duration;

use ews_core::Timestamp;
use serde::{Deserialize, Serialize};

use crate::policy::{Amount, Direction, RateLimit, Select};

/// A change that took place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) at: Timestamp,
    /// By how much; negative on the way in.
    pub(crate) by: i64,
}

/// The largest count that scale-out may reach now.
pub(crate) fn most(rules: &Direction, current: u32, changes: &[Change], now: Timestamp) -> u32 {
    let limit = |limit: &RateLimit| {
        let start = start_of(limit.period, current, changes, now);
        let most = match limit.amount {
            Amount::Instances(count) => start + i64::from(count),
            Amount::Percent(percent) => start.saturating_add(share(start, percent)),
        };
        u32::try_from(most.max(0)).unwrap_or(u32::MAX).max(current)
    };
    match rules.select {
        Select::Disabled => current,
        Select::Most => rules.limits.iter().map(limit).max().unwrap_or(u32::MAX),
        Select::Least => rules.limits.iter().map(limit).min().unwrap_or(u32::MAX),
    }
}

/// The smallest count that scale-in may reach now.
pub(crate) fn least(rules: &Direction, current: u32, changes: &[Change], now: Timestamp) -> u32 {
    let limit = |limit: &RateLimit| {
        let start = start_of(limit.period, current, changes, now);
        let least = match limit.amount {
            Amount::Instances(count) => start - i64::from(count),
            Amount::Percent(percent) => start.saturating_sub(share(start, percent)),
        };
        u32::try_from(least.max(0)).unwrap_or(u32::MAX).min(current)
    };
    match rules.select {
        Select::Disabled => current,
        Select::Most => rules.limits.iter().map(limit).min().unwrap_or(0),
        Select::Least => rules.limits.iter().map(limit).max().unwrap_or(0),
    }
}

/// What the count was at the start of the period that ends now.
fn start_of(period: Duration, current: u32, changes: &[Change], now: Timestamp) -> i64 {
    let within = changes.iter().filter(|change| now.since(change.at) < period);
    i64::from(current) - within.map(|change| change.by).sum::<i64>()
}

/// This share of a count, rounded up; one at least, or a small service could never move.
fn share(count: i64, percent: u32) -> i64 {
    (count.max(0).saturating_mul(i64::from(percent)).saturating_add(99) / 100).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    #[test]
    fn hpas_defaults_double_or_add_four_per_quarter_minute() {
        let rules = Direction::scale_out();
        assert_eq!(most(&rules, 1, &[], at(100)), 5);
        assert_eq!(most(&rules, 10, &[], at(100)), 20);
        // It went from 10 to 16 ten seconds ago: the period began at 10.
        let changes = [Change { at: at(90), by: 6 }];
        assert_eq!(most(&rules, 16, &changes, at(100)), 20);
        assert_eq!(most(&rules, 16, &changes, at(105)), 32);
        assert_eq!(least(&Direction::scale_in(), 16, &[], at(100)), 0);
    }

    #[test]
    fn a_share_moves_one_at_least_and_the_smaller_limit_can_be_chosen() {
        let minute = Duration::from_secs(60);
        let slow = Direction::scale_in().with_limits([RateLimit::percent(10, minute)]);
        assert_eq!(least(&slow, 3, &[], at(100)), 2);
        assert_eq!(least(&slow, 3, &[Change { at: at(50), by: -1 }], at(100)), 3);
        assert_eq!(least(&slow, 100, &[], at(100)), 90);
        let both =
            slow.clone().with_limits([RateLimit::percent(10, minute), RateLimit::instances(2, minute)]);
        assert_eq!(least(&both, 100, &[], at(100)), 90);
        assert_eq!(least(&Direction { select: Select::Least, ..both.clone() }, 100, &[], at(100)), 98);
        assert_eq!(least(&both.disabled(), 100, &[], at(100)), 100);
        assert_eq!(most(&Direction::scale_out().with_limits([]), 3, &[], at(100)), u32::MAX);
        assert_eq!(most(&Direction::scale_out().disabled(), 3, &[], at(100)), 3);
    }
}
