//! A wall clock for tests: it follows tokio's clock, which a test may pause, and jumps when it is told to.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Clock;
use crate::time::Timestamp;

/// Wall time that starts at a chosen moment and goes on with `tokio::time`.
///
/// ```
/// use std::time::Duration;
/// use ews_core::{Clock, testkit::VirtualClock};
///
/// let clock = VirtualClock::default();
/// let before = clock.now();
/// clock.jump_back(Duration::from_secs(60));
/// assert!(clock.now() < before);
/// ```
#[derive(Debug)]
pub struct VirtualClock {
    // The moment that the clock showed at that instant.
    anchor: Mutex<(Timestamp, Instant)>,
}

impl VirtualClock {
    /// A clock that shows `base` now.
    pub fn new(base: Timestamp) -> Self {
        Self { anchor: Mutex::new((base, Instant::now())) }
    }

    /// Steps forward, as when an operator corrects a clock that was slow.
    pub fn jump_forward(&self, by: Duration) {
        self.adjust(|base| base + by);
    }

    /// Steps back, as when an operator corrects a clock that was fast.
    pub fn jump_back(&self, by: Duration) {
        self.adjust(|base| base - by);
    }

    fn adjust(&self, change: impl FnOnce(Timestamp) -> Timestamp) {
        let mut anchor = self.anchor.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = anchor.0 + anchor.1.elapsed();
        *anchor = (change(now), Instant::now());
    }
}

impl Default for VirtualClock {
    /// Starts at 2026-01-01T00:00:00Z, so that two runs record equal times.
    fn default() -> Self {
        Self::new(Timestamp::from_micros(1_767_225_600_000_000))
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        let anchor = self.anchor.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        anchor.0 + anchor.1.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_follows_tokios_clock_and_jumps_by_hand() {
        let clock = VirtualClock::default();
        assert_eq!(clock.now().to_string(), "2026-01-01T00:00:00.000000Z");
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(clock.now().to_string(), "2026-01-01T00:00:05.000000Z");
        clock.jump_back(Duration::from_secs(3));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(clock.now().to_string(), "2026-01-01T00:00:03.000000Z");
        clock.jump_forward(Duration::from_secs(60));
        assert_eq!(clock.now().to_string(), "2026-01-01T00:01:03.000000Z");
    }
}
