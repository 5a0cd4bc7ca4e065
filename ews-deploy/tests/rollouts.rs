//! Rollouts from their beginning to each of their ends.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod rig;

use ews_deploy::{Outcome, Phase};
use rig::*;

#[tokio::test(start_paused = true)]
async fn a_first_deployment_fills_every_slot_and_serves() {
    let (world, controller) = running().await;
    world.assert_whole(3, "v1").await;
    let status = controller.deployer.status(&web()).await.unwrap();
    assert_eq!((status.desired, status.rollout.is_none(), status.instances.len()), (3, true, 3));
}

#[tokio::test(start_paused = true)]
async fn an_update_replaces_every_slot_and_capacity_never_falls() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    let report = deploy(&controller, spec("v2")).await;
    assert_eq!((report.outcome, report.done), (Some(Outcome::Succeeded), (3, 3)), "{report:?}");
    world.assert_whole(3, "v2").await;
    assert_eq!(world.guard.least(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_never_gets_ready_is_rolled_back_and_the_old_ones_were_not_touched() {
    let (world, controller) = running().await;
    let before = world.instances().await;
    world.guard.watch(3);
    let report = deploy(&controller, sick("v2")).await;
    assert_eq!((report.outcome, report.phase), (Some(Outcome::RolledBack), Phase::RollingBack), "{report:?}");
    assert!(report.failures[0].reason.contains("not ready within 30s"), "{}", report.failures[0]);
    assert!(report.failures[0].reason.contains("status 503"), "{}", report.failures[0]);
    world.assert_whole(3, "v1").await;
    assert_eq!(world.instances().await, before, "the same instances, started once");
}

#[tokio::test(start_paused = true)]
async fn a_version_that_crashes_fails_at_once_with_its_last_words() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    let started = tokio::time::Instant::now();
    let report = deploy(&controller, crashing("v2")).await;
    assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
    let failure = &report.failures[0];
    assert_eq!(failure.exit.as_ref().and_then(|exit| exit.code), Some(7), "{failure:?}");
    assert_eq!(failure.log, ["out", "err"]);
    assert!(started.elapsed() < strategy().healthy_deadline, "it did not wait for the deadline");
    world.assert_whole(3, "v1").await;
}
