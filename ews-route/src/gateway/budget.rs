//! How many requests may be sent a second time: a share of all, and a small floor.
//!
//! When a service is in trouble, every request that is repeated makes it worse. So each request pays in a share of a
//! repetition, each repetition costs a whole one, and what is saved up is bounded.

use std::cell::Cell;

/// Per second, whatever the traffic.
const FLOOR: u64 = 10;
/// What can be saved up.
const MOST: u64 = 100;
/// Parts of one repetition.
const UNIT: u64 = 100;

/// The budget of one thread.
#[derive(Debug)]
pub(crate) struct Budget {
    saved: Cell<u64>,
    share: u64,
}

impl Budget {
    /// With this share, in percent.
    pub(crate) fn new(percent: u32) -> Self {
        Self { saved: Cell::new(FLOOR * UNIT), share: u64::from(percent) }
    }

    /// A request was made.
    pub(crate) fn deposit(&self) {
        self.save(self.share);
    }

    /// So many milliseconds have passed.
    pub(crate) fn pass(&self, millis: u64) {
        self.save(FLOOR * UNIT * millis.min(1_000) / 1_000);
    }

    /// Whether one may be made again.
    pub(crate) fn withdraw(&self) -> bool {
        match self.saved.get().checked_sub(UNIT) {
            Some(rest) => {
                self.saved.set(rest);
                true
            }
            None => false,
        }
    }

    fn save(&self, more: u64) {
        self.saved.set((self.saved.get() + more).min(MOST * UNIT));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_the_requests_and_ten_per_second() {
        let budget = Budget::new(20);
        let take = |budget: &Budget| (0..1_000).take_while(|_| budget.withdraw()).count();
        assert_eq!(take(&budget), 10);
        (0..50).for_each(|_| budget.deposit());
        assert_eq!(take(&budget), 10);
        budget.pass(500);
        assert_eq!(take(&budget), 5);
        (0..100_000).for_each(|_| budget.deposit());
        assert_eq!(take(&budget), 100);
    }
}
