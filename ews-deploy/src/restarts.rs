//! When a slot whose instance was lost may be filled again: back-off, and giving up for a while.
//!
//! The pause doubles with each restart within the window and is the spec's own (`restart.delay`, `max_delay`). After `attempts`
//! restarts within `window` supervision gives up for the time of another window, tells so, and then begins anew. What it
//! remembers lives in memory: a controller that was restarted begins with the first pause.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ews_core::spec::lifecycle::Restart;
use tokio::time::Instant;

/// The most restarts of a slot that are remembered, whatever the spec's `attempts`.
const REMEMBERED: usize = 1_000;

/// What is known of each slot that was lost.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    spots: BTreeMap<(u32, bool), Lost>,
}

#[derive(Debug, Default)]
struct Lost {
    times: VecDeque<Instant>,
    until: Option<Instant>,
}

/// Whether a slot may be filled.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum May {
    /// Yes.
    Now,
    /// Not before this; the first time that it is asked, with what it is waited for.
    Later(Instant, Option<Told>),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Pause(Duration),
    GivenUp(u32),
}

impl Restarts {
    /// The slot was found lost: whether it may be filled now. Filling it is counted.
    pub(crate) fn lost(&mut self, spot: (u32, bool), now: Instant, restart: &Restart) -> May {
        let lost = self.spots.entry(spot).or_default();
        match lost.until {
            Some(until) if until <= now => {
                lost.until = None;
                lost.times.push_back(now);
                if lost.times.len() > REMEMBERED {
                    lost.times.pop_front();
                }
                May::Now
            }
            Some(until) => May::Later(until, None),
            None => {
                lost.times.retain(|time| now.duration_since(*time) < restart.window);
                let count = u32::try_from(lost.times.len()).unwrap_or(u32::MAX);
                let (pause, told) = if count >= restart.attempts {
                    lost.times.clear();
                    (restart.window, Told::GivenUp(count))
                } else {
                    let pause =
                        restart.delay.saturating_mul(2_u32.saturating_pow(count)).min(restart.max_delay);
                    (pause, Told::Pause(pause))
                };
                let until = now + pause;
                lost.until = Some(until);
                May::Later(until, Some(told))
            }
        }
    }

    /// Whether a slot that is lost is not waiting for its back-off.
    pub(crate) fn is_due(&self, spot: (u32, bool), now: Instant) -> bool {
        self.spots.get(&spot).and_then(|lost| lost.until).is_none_or(|until| until <= now)
    }

    /// How often the slot was filled again within the window.
    pub(crate) fn count(&self, spot: (u32, bool), now: Instant, restart: &Restart) -> u32 {
        let times = self.spots.get(&spot).map(|lost| &lost.times);
        let within = |times: &VecDeque<Instant>| {
            times.iter().filter(|time| now.duration_since(**time) < restart.window).count()
        };
        u32::try_from(times.map_or(0, within)).unwrap_or(u32::MAX)
    }

    /// The slot is whole; its history fades by itself.
    pub(crate) fn forget(&mut self, slot: u32) {
        self.spots.remove(&(slot, false));
        self.spots.remove(&(slot, true));
    }

    /// When the next slot may be filled.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.spots.values().filter_map(|lost| lost.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_and_after_the_attempts_it_gives_up_for_a_window() {
        let mut restart = Restart::default();
        restart.attempts = 3;
        let (mut restarts, start) = (Restarts::default(), Instant::now());
        let mut now = start;
        for pause in [1, 2, 4] {
            let pause = Duration::from_secs(pause);
            assert_eq!(
                restarts.lost((0, false), now, &restart),
                May::Later(now + pause, Some(Told::Pause(pause)))
            );
            assert!(matches!(restarts.lost((0, false), now, &restart), May::Later(_, None)), "told once");
            now += pause;
            assert_eq!(restarts.lost((0, false), now, &restart), May::Now);
        }
        assert_eq!(
            restarts.lost((0, false), now, &restart),
            May::Later(now + restart.window, Some(Told::GivenUp(3)))
        );
        assert_eq!(restarts.next(), Some(now + restart.window));
        now += restart.window;
        assert_eq!(restarts.lost((0, false), now, &restart), May::Now);
        assert!(
            matches!(restarts.lost((1, false), now, &restart), May::Later(_, Some(Told::Pause(_)))),
            "each slot has its own"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn restarts_long_ago_do_not_count() {
        let restart = Restart::default();
        let mut restarts = Restarts::default();
        let mut now = Instant::now();
        for _ in 0..20 {
            let May::Later(until, Some(Told::Pause(pause))) = restarts.lost((0, false), now, &restart) else {
                panic!("it gave up")
            };
            assert_eq!(pause, restart.delay);
            assert_eq!(restarts.lost((0, false), until, &restart), May::Now);
            now = until + restart.window;
        }
    }
}
