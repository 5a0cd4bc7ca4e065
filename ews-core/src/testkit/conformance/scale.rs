//! The suite of the [`ScaleTarget`] contract.
//!
//! The target records wishes; whether and when instances follow is its reconciler's business, so the suite looks at
//! `desired` and `version` and leaves `present` and `ready` alone.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::expect::{ensure, refused, run_cases, same};
use super::{CaseResult, Report, Stop};
use crate::capability::Capability;
use crate::error::ErrorKind;
use crate::id::{InstanceId, ServiceName};
use crate::scale::{Scale, ScaleChange, ScaleTarget};

/// Makes the target under test.
#[async_trait]
pub trait ScaleHarness: Send + Sync {
    /// The target under test.
    async fn target(&self) -> Result<Arc<dyn ScaleTarget>, Stop>;

    /// A service of the target that takes counts from 1 to 10, no less and no more, and has a count of 3 now.
    async fn service(&self) -> Result<ServiceName, Stop>;

    /// The instances of the service that can be chosen as victims.
    async fn instances(&self, service: &ServiceName) -> Result<Vec<InstanceId>, Stop> {
        let _ = service;
        Err(Stop::skip("the harness can't list instances"))
    }

    /// Makes the service refuse new counts.
    async fn make_busy(&self, service: &ServiceName) -> Result<(), Stop> {
        let _ = service;
        Err(Stop::skip("the harness can't make the service busy"))
    }

    /// What is under test, for the report.
    fn name(&self) -> String {
        "scale target".to_owned()
    }

    /// Whether this case is to run; for work on a single one. Default: yes.
    fn wants(&self, case: &str) -> bool {
        let _ = case;
        true
    }
}

/// Runs every case.
pub async fn run(harness: &dyn ScaleHarness) -> Report {
    let mut report = Report::new(format!("scale target ({})", harness.name()));
    let bench = async |_: u16| -> Result<Bench<'_>, Stop> {
        Ok(Bench { harness, target: harness.target().await?, service: harness.service().await? })
    };
    run_cases! { report, Duration::from_secs(60), harness, bench;
        1 cases::a_service_that_is_not_there;
        2 cases::a_count_is_recorded;
        3 cases::the_same_count_changes_nothing;
        4 cases::a_version_that_is_past_is_refused;
        5 cases::of_competing_changes_one_wins;
        6 cases::counts_outside_the_bounds_are_refused;
        7 cases::victims_go_first_or_are_refused;
        8 cases::a_stranger_is_no_victim;
        9 cases::a_busy_service_says_so;
        10 cases::a_dropped_future_still_sets;
    }
    report
}

/// What a case works with.
struct Bench<'a> {
    harness: &'a dyn ScaleHarness,
    target: Arc<dyn ScaleTarget>,
    service: ServiceName,
}

impl Bench<'_> {
    async fn current(&self) -> crate::Result<Scale> {
        self.target.current(&self.service).await
    }

    async fn set(&self, change: ScaleChange) -> crate::Result<Scale> {
        self.target.set(&self.service, &change).await
    }
}

fn to(count: u32) -> ScaleChange {
    ScaleChange::to(count, "conformance")
}

mod cases {
    use futures_util::FutureExt as _;

    use super::*;

    pub(super) async fn a_service_that_is_not_there(bench: Bench<'_>) -> CaseResult {
        let missing = ServiceName::new("conformance-none")?;
        refused("its count", bench.target.current(&missing).await, &[ErrorKind::NotFound])?;
        refused("setting it", bench.target.set(&missing, &to(2)).await, &[ErrorKind::NotFound])
    }

    pub(super) async fn a_count_is_recorded(bench: Bench<'_>) -> CaseResult {
        let mut last = bench.current().await?;
        same("the count at the start", &last.desired, &3)?;
        for count in [10, 1, 4] {
            let now = bench.set(to(count)).await?;
            same("the count that set returns", &now.desired, &count)?;
            ensure!(
                now.version > last.version,
                "version {} after {}: a new count raises it",
                now.version,
                last.version
            );
            let read = bench.current().await?;
            same("the count and version read", &(read.desired, read.version), &(now.desired, now.version))?;
            last = now;
        }
        Ok(())
    }

    pub(super) async fn the_same_count_changes_nothing(bench: Bench<'_>) -> CaseResult {
        let before = bench.set(to(5)).await?;
        let again = bench.set(to(5).if_version(before.version)).await?;
        same("count and version", &(again.desired, again.version), &(before.desired, before.version))
    }

    pub(super) async fn a_version_that_is_past_is_refused(bench: Bench<'_>) -> CaseResult {
        let old = bench.current().await?.version;
        let new = bench.set(to(5).if_version(old)).await?;
        refused("a past version", bench.set(to(6).if_version(old)).await, &[ErrorKind::Stale])?;
        refused(
            "a version to come",
            bench.set(to(6).if_version(new.version + 1)).await,
            &[ErrorKind::Stale],
        )?;
        same("the count", &bench.current().await?.desired, &5)
    }

    pub(super) async fn of_competing_changes_one_wins(bench: Bench<'_>) -> CaseResult {
        for _ in 0..5 {
            let before = bench.current().await?;
            let counts = (1..=10).filter(|count| *count != before.desired);
            let changes = counts.map(|count| bench.set(to(count).if_version(before.version)));
            let results = futures_util::future::join_all(changes).await;
            same("changes that won", &results.iter().filter(|result| result.is_ok()).count(), &1)?;
            for result in results.into_iter().filter(Result::is_err) {
                refused("a change that lost", result, &[ErrorKind::Stale])?;
            }
        }
        Ok(())
    }

    pub(super) async fn counts_outside_the_bounds_are_refused(bench: Bench<'_>) -> CaseResult {
        let before = bench.current().await?;
        for count in [0, 11, u32::MAX] {
            refused(&format!("a count of {count}"), bench.set(to(count)).await, &[ErrorKind::Invalid])?;
        }
        let after = bench.current().await?;
        same("count and version", &(after.desired, after.version), &(before.desired, before.version))
    }

    pub(super) async fn victims_go_first_or_are_refused(bench: Bench<'_>) -> CaseResult {
        let instances = bench.harness.instances(&bench.service).await?;
        let Some(victim) = instances.first().cloned() else {
            return Err(Stop::fail("the service has no instance"));
        };
        let change = ScaleChange { victims: vec![victim.clone()], ..to(2) };
        if !bench.target.capabilities().has(Capability::ChooseVictims) {
            refused("a victim without the capability", bench.set(change).await, &[ErrorKind::Unsupported])?;
            return same("the count", &bench.current().await?.desired, &3);
        }
        bench.set(change).await?;
        let ends = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            let left = bench.harness.instances(&bench.service).await?;
            if left.len() == 2 {
                ensure!(!left.contains(&victim), "{victim} was chosen and another went: {left:?}");
                return Ok(());
            }
            ensure!(tokio::time::Instant::now() < ends, "no instance went within 30 s: {left:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(super) async fn a_stranger_is_no_victim(bench: Bench<'_>) -> CaseResult {
        let change = ScaleChange { victims: vec![InstanceId::new("conformance-stranger")?], ..to(2) };
        let wanted = if bench.target.capabilities().has(Capability::ChooseVictims) {
            ErrorKind::Invalid
        } else {
            ErrorKind::Unsupported
        };
        refused("a victim of nobody's", bench.set(change).await, &[wanted])?;
        same("the count", &bench.current().await?.desired, &3)
    }

    pub(super) async fn a_busy_service_says_so(bench: Bench<'_>) -> CaseResult {
        bench.harness.make_busy(&bench.service).await?;
        refused("a new count", bench.set(to(5)).await, &[ErrorKind::Busy])?;
        same("the count", &bench.current().await?.desired, &3)
    }

    pub(super) async fn a_dropped_future_still_sets(bench: Bench<'_>) -> CaseResult {
        {
            let change = to(7);
            let mut wait = bench.target.set(&bench.service, &change);
            let _ = (&mut wait).now_or_never();
        }
        let ends = tokio::time::Instant::now() + Duration::from_secs(10);
        while bench.current().await?.desired != 7 {
            ensure!(tokio::time::Instant::now() < ends, "the count was not set although the call had begun");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}
