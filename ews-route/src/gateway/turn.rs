//! Takes turns by weight, exactly: of as many turns as the weights add up to, each gets as many as its weight.
//!
//! The weights, divided by what they have in common, are laid end to end. A counter walks over them in strides near the
//! golden ratio of their sum and prime to it, so that it visits every place once per round and a heavy one is never served
//! in a lump. Equal weights make a stride of one: plain turns. No state but the counter, which threads share.

use std::sync::atomic::{AtomicU64, Ordering};

/// Whose turn it is.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Where each weight ends.
    ends: Vec<u64>,
    sum: u64,
    stride: u64,
    count: AtomicU64,
}

impl Turn {
    pub(crate) fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        let weights: Vec<u64> = weights.into_iter().map(u64::from).collect();
        let divisor = weights.iter().copied().fold(0, gcd).max(1);
        let ends: Vec<u64> = weights
            .iter()
            .scan(0_u64, |sum, weight| {
                *sum += weight / divisor;
                Some(*sum)
            })
            .collect();
        let sum = ends.last().copied().unwrap_or(0);
        let is_equal = weights.iter().all(|weight| weight / divisor == 1);
        let golden = sum.saturating_mul(618) / 1000;
        let stride = if is_equal {
            1
        } else {
            (golden.max(1)..=sum).find(|stride| gcd(*stride, sum) == 1).unwrap_or(1)
        };
        Self { ends, sum, stride, count: AtomicU64::new(0) }
    }

    /// The index whose turn it is; `None` where nobody has a weight.
    pub(crate) fn next(&self) -> Option<usize> {
        if self.ends.len() == 1 && self.sum > 0 {
            return Some(0);
        }
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        self.at((count % self.sum.max(1)).wrapping_mul(self.stride))
    }

    /// The index for a hash: as long as the weights add up to the same, one that grows at the end keeps what it had.
    pub(crate) fn of(&self, hash: u64) -> Option<usize> {
        let place = (u128::from(hash) * u128::from(self.sum)) >> 64;
        self.at(u64::try_from(place).unwrap_or(0))
    }

    /// The index at this place, taken modulo the sum of the weights.
    pub(crate) fn at(&self, place: u64) -> Option<usize> {
        let place = place.checked_rem(self.sum)?;
        Some(self.ends.partition_point(|end| *end <= place))
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_weights_are_plain_turns_and_none_is_nobody() {
        let turn = Turn::new([100, 100, 100]);
        let seen: Vec<_> = (0..6).filter_map(|_| turn.next()).collect();
        assert_eq!(seen, [0, 1, 2, 0, 1, 2]);
        assert_eq!(Turn::new([0, 0]).next(), None);
        assert_eq!(Turn::new([]).next(), None);
        assert_eq!(Turn::new([0, 5]).next(), Some(1));
    }

    #[test]
    fn a_heavy_one_is_not_served_in_a_lump() {
        let turn = Turn::new([90, 10]);
        let seen: Vec<_> = (0..100).filter_map(|_| turn.next()).collect();
        let longest = seen.split(|index| *index == 1).map(<[usize]>::len).max();
        assert!(longest < Some(20), "{seen:?}");
    }

    proptest! {
        #[test]
        fn a_round_gives_each_its_weight(weights in proptest::collection::vec(0_u32..50, 1..10)) {
            let turn = Turn::new(weights.iter().copied());
            let mut counts = vec![0; weights.len()];
            for _ in 0..turn.sum {
                counts[turn.next().unwrap()] += 1;
            }
            let divisor = weights.iter().copied().fold(0, |a, b| u32::try_from(gcd(a.into(), b.into())).unwrap()).max(1);
            let wanted: Vec<u32> = weights.iter().map(|weight| weight / divisor).collect();
            prop_assert_eq!(counts, wanted);
        }
    }
}
