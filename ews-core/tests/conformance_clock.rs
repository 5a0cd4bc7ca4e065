//! The suite of clocks on the system's clock and on the virtual one, and proof that its cases can fail.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ews_core::testkit::VirtualClock;
use ews_core::testkit::conformance::Verdict;
use ews_core::testkit::conformance::clock::{ClockHarness, run};
use ews_core::{Clock, SystemClock, Timestamp};

struct Of(Arc<dyn Clock>);

impl ClockHarness for Of {
    fn clock(&self) -> Arc<dyn Clock> {
        self.0.clone()
    }
}

/// The machine may be busy for as long as it likes, so that only too little time can fail.
struct System;

impl ClockHarness for System {
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(SystemClock)
    }

    fn tolerance(&self) -> Duration {
        Duration::MAX
    }
}

#[tokio::test]
async fn the_systems_clock_passes() {
    run("system", &System).await.assert_passed(&[]);
}

#[tokio::test(start_paused = true)]
async fn the_virtual_clock_passes() {
    run("virtual", &Of(Arc::new(VirtualClock::default()))).await.assert_passed(&[]);
}

/// A clock that is wrong in one way.
enum Wrong {
    AtTheEpoch,
    Stands,
    GoesBack(AtomicU64),
}

impl Clock for Wrong {
    fn now(&self) -> Timestamp {
        const MOMENT: u64 = 1_800_000_000_000_000;
        match self {
            Self::AtTheEpoch => Timestamp::EPOCH,
            Self::Stands => Timestamp::from_micros(MOMENT),
            Self::GoesBack(calls) => Timestamp::from_micros(MOMENT - calls.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_wrong_clock_is_caught_by_its_case() {
    // That moments can be written and read is a matter of `Timestamp`, so no clock can break the fourth case.
    for (wrong, case) in [
        (Wrong::AtTheEpoch, "it_tells_a_plausible_moment"),
        (Wrong::Stands, "time_that_passes_is_seen"),
        (Wrong::GoesBack(AtomicU64::new(0)), "it_does_not_go_back_by_itself"),
    ] {
        let report = run("wrong", &Of(Arc::new(wrong))).await;
        let outcome = report.outcomes.iter().find(|outcome| outcome.name == case).unwrap();
        assert!(matches!(outcome.verdict, Verdict::Failed(_)), "{case}: {report}");
    }
}
