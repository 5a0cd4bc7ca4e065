//! The samples of one series, in order of time and in one piece of memory.

use ews_core::Timestamp;
use ews_core::metrics::eval::Sample;

/// Samples that are pushed at the end and forgotten at the front. What was forgotten is moved out of the way once it is half of
/// all, so that each sample is moved at most about once.
#[derive(Debug)]
pub(crate) struct Column<T> {
    samples: Vec<Sample<T>>,
    start: usize,
}

/// Where a sample went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placed {
    Last,
    Between,
    InPlaceOfAnother,
}

impl<T> Column<T> {
    pub(crate) const fn new() -> Self {
        Self { samples: Vec::new(), start: 0 }
    }

    pub(crate) fn as_slice(&self) -> &[Sample<T>] {
        self.samples.get(self.start..).unwrap_or_default()
    }

    pub(crate) fn len(&self) -> usize {
        self.samples.len() - self.start
    }

    pub(crate) fn last(&self) -> Option<&Sample<T>> {
        self.as_slice().last()
    }

    pub(crate) fn push(&mut self, sample: Sample<T>) -> Placed {
        if self.last().is_none_or(|last| last.at < sample.at) {
            self.samples.push(sample);
            return Placed::Last;
        }
        match self.as_slice().binary_search_by_key(&sample.at, |known| known.at) {
            Ok(at) => {
                if let Some(known) = self.samples.get_mut(self.start + at) {
                    *known = sample;
                }
                Placed::InPlaceOfAnother
            }
            Err(at) => {
                self.samples.insert(self.start + at, sample);
                Placed::Between
            }
        }
    }

    /// Forgets the oldest so many.
    pub(crate) fn forget(&mut self, count: usize) {
        self.start += count.min(self.len());
        if self.start * 2 > self.samples.len() && self.start >= 16 || self.len() == 0 {
            self.samples.drain(..self.start);
            self.start = 0;
        }
    }

    /// How many are older than this.
    pub(crate) fn before(&self, at: Timestamp) -> usize {
        // Mostly none is, and looking at the first one says so.
        if self.as_slice().first().is_none_or(|first| first.at >= at) {
            return 0;
        }
        self.as_slice().partition_point(|sample| sample.at < at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a map from moments to values, which is what a column means.
        #[test]
        fn a_column_is_a_map_that_forgets_its_oldest(
            steps in prop::collection::vec((0_u64..50, prop::option::weighted(0.3, 0_usize..8)), 0..200),
        ) {
            let (mut column, mut map) = (Column::new(), std::collections::BTreeMap::new());
            for (value, (at, forget)) in steps.into_iter().enumerate() {
                let placed = column.push(Sample::new(Timestamp::from_micros(at), value));
                let later = map.keys().next_back().is_none_or(|last| *last < at);
                let there = map.insert(at, value).is_some();
                let wanted = if there { Placed::InPlaceOfAnother } else if later { Placed::Last } else { Placed::Between };
                prop_assert_eq!(placed, wanted);
                if let Some(count) = forget {
                    column.forget(count);
                    for _ in 0..count {
                        map.pop_first();
                    }
                }
                let all: Vec<_> = column.as_slice().iter().map(|sample| (sample.at.as_micros(), sample.value)).collect();
                prop_assert_eq!(all, map.iter().map(|(at, value)| (*at, *value)).collect::<Vec<_>>());
                let old = Timestamp::from_micros(25);
                prop_assert_eq!(column.before(old), map.range(..25).count());
            }
        }
    }
}
