//! The largest or smallest proposal of the last so long.
//!
//! What a later proposal outdoes decides no window any more, since every window that holds the earlier one holds the later one
//! too; so what is kept is strictly ordered, exact for windows of every length, and short.

use std::time::Duration;

use ews_core::Timestamp;
use serde::{Deserialize, Serialize};

/// The most proposals that are kept; beyond it the two oldest become one, which holds for longer than it should rather than
/// shorter.
const MOST: usize = 1_024;

/// A proposal and its moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proposed {
    at: Timestamp,
    count: u32,
}

/// Which proposals outdo others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extreme {
    Largest,
    Smallest,
}

impl Extreme {
    fn outdoes(self, new: u32, old: u32) -> bool {
        match self {
            Self::Largest => new >= old,
            Self::Smallest => new <= old,
        }
    }
}

/// Adds a proposal and gives the extreme one of the last `window`, the new one included.
pub(crate) fn extreme_of(
    kept: &mut Vec<Proposed>,
    extreme: Extreme,
    count: u32,
    now: Timestamp,
    window: Duration,
    longest: Duration,
) -> u32 {
    for proposed in kept.iter_mut() {
        // After a step back of the clock they count as made now: their window gets longer, never shorter.
        proposed.at = proposed.at.min(now);
    }
    kept.retain(|old| now.since(old.at) < longest && !extreme.outdoes(count, old.count));
    kept.push(Proposed { at: now, count });
    while kept.len() > MOST {
        let oldest = kept.remove(0);
        if let Some(next) = kept.first_mut() {
            next.count = oldest.count;
        }
    }
    let first = kept.iter().find(|old| now.since(old.at) < window);
    first.map_or(count, |first| first.count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: u64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    proptest! {
        /// Against the words: of all proposals that are younger than the window, the largest or the smallest.
        #[test]
        fn what_is_kept_is_exact_for_every_window(
            counts in prop::collection::vec((0_u32..20, 1_u64..40), 1..200), window in 0_u64..300,
        ) {
            for extreme in [Extreme::Largest, Extreme::Smallest] {
                let (mut kept, mut all, mut now) = (Vec::new(), Vec::new(), 0);
                for (count, pause) in &counts {
                    now += pause;
                    all.push((now, *count));
                    let window = Duration::from_secs(window);
                    let found = extreme_of(&mut kept, extreme, *count, at(now), window, Duration::from_secs(300));
                    let young = all.iter().filter(|(then, _)| *then == now || at(now).since(at(*then)) < window);
                    let counts = young.map(|(_, count)| *count);
                    let wanted = if extreme == Extreme::Largest { counts.max() } else { counts.min() };
                    prop_assert_eq!(Some(found), wanted);
                }
                prop_assert!(kept.len() <= 20);
            }
        }

        #[test]
        fn a_clock_that_goes_back_only_lengthens(back in 1_u64..1_000) {
            let mut kept = Vec::new();
            let window = Duration::from_secs(300);
            extreme_of(&mut kept, Extreme::Largest, 9, at(2_000), window, window);
            let found = extreme_of(&mut kept, Extreme::Largest, 3, at(2_000 - back), window, window);
            prop_assert_eq!(found, 9);
            let found = extreme_of(&mut kept, Extreme::Largest, 3, at(2_299 - back), window, window);
            prop_assert_eq!(found, 9);
            let found = extreme_of(&mut kept, Extreme::Largest, 3, at(2_300 - back), window, window);
            prop_assert_eq!(found, 3);
        }
    }

    #[test]
    fn more_than_is_kept_never_forgets_the_extreme() {
        let mut kept = Vec::new();
        let day = Duration::from_secs(86_400);
        for step in 0..5_000_u32 {
            let found = extreme_of(&mut kept, Extreme::Largest, 10_000 - step, at(u64::from(step)), day, day);
            assert_eq!(found, 10_000);
        }
        assert!(kept.len() <= MOST);
    }
}
