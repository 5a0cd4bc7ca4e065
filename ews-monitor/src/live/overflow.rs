//! The one series that stands for all that found no room.
//!
//! It remembers the last value of each series that it folds, by a hash of its labels, so that a counter's fold grows by exactly
//! what they grow. How many it remembers is bounded too: what is beyond that is dropped.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use ews_core::Timestamp;
use ews_core::metrics::MetricKind;
use ews_core::metrics::eval::Sample;

use super::column::Column;

#[derive(Debug)]
pub(crate) struct Overflow {
    hasher: RandomState,
    last: HashMap<u64, Sample<f64>>,
    total: f64,
    pub(crate) column: Column<f64>,
}

impl Overflow {
    pub(crate) fn new() -> Self {
        Self { hasher: RandomState::new(), last: HashMap::new(), total: 0.0, column: Column::new() }
    }

    /// Takes in a sample of a series without room; false where it was dropped.
    pub(crate) fn fold(&mut self, kind: MetricKind, key: &str, sample: Sample<f64>, most: usize) -> bool {
        let hash = self.hasher.hash_one(key);
        let before = self.last.get(&hash).copied();
        let full = before.is_none() && self.last.len() >= most;
        if full || !sample.value.is_finite() || before.is_some_and(|before| before.at >= sample.at) {
            return false;
        }
        self.total += match (kind, before) {
            (MetricKind::Gauge, before) => sample.value - before.map_or(0.0, |before| before.value),
            // What it had before it was first seen is no growth.
            (_, None) => 0.0,
            (_, Some(before)) if sample.value >= before.value => sample.value - before.value,
            (_, Some(_)) => sample.value,
        };
        self.last.insert(hash, sample);
        // The folded ones are measured at moments of their own; the fold goes forward only.
        let at = self.column.last().map_or(sample.at, |last| last.at.max(sample.at));
        self.column.push(Sample::new(at, self.total));
        true
    }

    /// Forgets series that say nothing any more.
    pub(crate) fn forget_before(&mut self, kind: MetricKind, at: Timestamp) {
        let total = &mut self.total;
        self.last.retain(|_, last| {
            let stays = last.at >= at;
            if !stays && kind == MetricKind::Gauge {
                *total -= last.value;
            }
            stays
        });
    }
}
