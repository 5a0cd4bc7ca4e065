//! Taking two sides in turn, and the numbers that come of it.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// The times of two sides that took turns.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// What is measured, one time for each round.
    pub ours: Vec<Duration>,
    /// What it is held against.
    pub theirs: Vec<Duration>,
}

impl Pair {
    /// The median of the rounds' ratios, ours to theirs.
    pub fn ratio(&self) -> f64 {
        let ratios = self
            .ours
            .iter()
            .zip(&self.theirs)
            .map(|(ours, theirs)| ours.as_secs_f64() / theirs.as_secs_f64());
        median(ratios)
    }

    /// The median time of our side.
    pub fn ours(&self) -> Duration {
        Duration::from_secs_f64(median(self.ours.iter().map(Duration::as_secs_f64)))
    }

    /// The median time of the other side.
    pub fn theirs(&self) -> Duration {
        Duration::from_secs_f64(median(self.theirs.iter().map(Duration::as_secs_f64)))
    }
}

/// The middle of the values; the mean of the two in the middle for an even number, and 0 for none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => at(odd / 2),
        even => f64::midpoint(at(even / 2 - 1), at(even / 2)),
    }
}

/// Times both sides in every round, each first in every other one, after one round that does not count.
pub fn interleave<A, B>(rounds: usize, mut ours: impl FnMut() -> A, mut theirs: impl FnMut() -> B) -> Pair {
    let mut pair = Pair { ours: Vec::new(), theirs: Vec::new() };
    for round in 0..=rounds {
        let (mine, other) = if round % 2 == 0 {
            let mine = time(&mut ours);
            (mine, time(&mut theirs))
        } else {
            let other = time(&mut theirs);
            (time(&mut ours), other)
        };
        if round > 0 {
            pair.ours.push(mine);
            pair.theirs.push(other);
        }
    }
    pair
}

fn time<T>(work: &mut impl FnMut() -> T) -> Duration {
    let start = Instant::now();
    black_box(work());
    start.elapsed()
}

/// The memory of this process that is in use, in bytes; `None` where the system does not say.
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_an_outlier() {
        assert_eq!(median([]), 0.0);
        assert_eq!(median([3.0, 1.0, 100.0]), 3.0);
        assert_eq!(median([1.0, 2.0, 4.0, 100.0]), 3.0);
    }

    #[test]
    fn both_sides_have_as_many_turns_and_the_first_does_not_count() {
        let (mut ours, mut theirs) = (0, 0);
        let pair = interleave(5, || ours += 1, || theirs += 1);
        assert_eq!((ours, theirs, pair.ours.len(), pair.theirs.len()), (6, 6, 5, 5));
    }
}
