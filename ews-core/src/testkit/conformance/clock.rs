//! The suite of the [`Clock`] contract: what records and schedules may rely on.
//!
//! A clock may jump in both directions, so the cases let time pass by the harness's own means and ask only what holds
//! without a jump.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{CaseResult, Report, Stop, run_case};
use crate::clock::Clock;
use crate::time::Timestamp;

/// How the suite gets at a clock.
#[async_trait]
pub trait ClockHarness: Send + Sync {
    /// The clock under test.
    fn clock(&self) -> Arc<dyn Clock>;

    /// Lets this much time pass. Default: it sleeps on tokio's clock.
    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// How far the clock may be from the time that passed. Default 1 s: a virtual machine may be stopped in between.
    fn tolerance(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// How long a case may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// How much time a case lets pass: it can be told from none, and a suite on a real clock is not slow.
const STEP: Duration = Duration::from_millis(20);

/// Runs every case.
pub async fn run(name: &str, harness: &dyn ClockHarness) -> Report {
    let mut report = Report::new(format!("clock ({name})"));
    let outcomes = [
        run_case(Some(1), "it_tells_a_plausible_moment", DEADLINE, async { plausible(harness) }).await,
        run_case(Some(2), "time_that_passes_is_seen", DEADLINE, passes(harness)).await,
        run_case(Some(3), "it_does_not_go_back_by_itself", DEADLINE, async { keeps_order(harness) }).await,
        run_case(Some(4), "its_moments_can_be_written_and_read", DEADLINE, async { is_written(harness) })
            .await,
    ];
    report.outcomes.extend(outcomes);
    report
}

/// 2020-01-01T00:00:00Z: nothing that runs this was made before.
const YEAR_2020: Timestamp = Timestamp::from_micros(1_577_836_800_000_000);

fn plausible(harness: &dyn ClockHarness) -> CaseResult {
    let now = harness.clock().now();
    if now < YEAR_2020 || now == Timestamp::MAX {
        return Err(Stop::fail(format!("it says {now}; expected a moment after {YEAR_2020}")));
    }
    Ok(())
}

async fn passes(harness: &dyn ClockHarness) -> CaseResult {
    let clock = harness.clock();
    let before = clock.now();
    harness.pass(STEP).await;
    let seen = clock.now().since(before);
    if seen < STEP / 2 || seen > STEP.saturating_add(harness.tolerance()) {
        return Err(Stop::fail(format!("{STEP:?} passed and it saw {seen:?}")));
    }
    Ok(())
}

fn keeps_order(harness: &dyn ClockHarness) -> CaseResult {
    let clock = harness.clock();
    let mut last = clock.now();
    for _ in 0..10_000 {
        let now = clock.now();
        if now < last {
            return Err(Stop::fail(format!("it went from {last} back to {now}")));
        }
        last = now;
    }
    Ok(())
}

fn is_written(harness: &dyn ClockHarness) -> CaseResult {
    let now = harness.clock().now();
    let read: Timestamp = now.to_string().parse()?;
    if read != now {
        return Err(Stop::fail(format!("{now} read back as {read}")));
    }
    Ok(())
}
