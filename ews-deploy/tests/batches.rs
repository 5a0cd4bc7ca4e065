//! Between batches and after the last one: approval, failures that are taken, and watching what was healthy.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::time::Duration;

use ews_core::event::Notice;
use ews_core::spec::probe::{Check, HttpCheck, Probe};
use ews_core::{Instance, InstanceState};
use ews_deploy::{Approval, Batch, EventKind, OnFailure, Outcome, RolloutId, Strategy};
use rig::*;

const MONITOR: Duration = Duration::from_secs(20);

async fn begin(controller: &Controller, strategy: Strategy) -> RolloutId {
    controller.deployer.deploy(&request(spec("v2")).with_strategy(strategy)).await.unwrap()
}

/// An instance of the version that runs.
async fn of(world: &World, version: &str) -> Option<Instance> {
    let is_one = |instance: &Instance| {
        instance.labels.get("version") == Some(version) && instance.state == InstanceState::Running
    };
    world.instances().await.into_iter().find(is_one)
}

async fn approved_and_controllers(approval: Approval, restarts: bool) -> usize {
    let (world, mut controller) = running().await;
    world.guard.watch(3);
    // 1, 1, 1.
    let strategy = strategy().with_batches(Batch::Count(1), Batch::Count(1)).with_approval(approval);
    let id = begin(&controller, strategy.clone()).await;
    let mut waits = 0;
    loop {
        let waiting = || async {
            let report = controller.deployer.rollout(&id).await;
            report.is_ok_and(|report| report.paused || report.outcome.is_some())
        };
        eventually("it waits or has ended", waiting).await;
        let report = controller.deployer.rollout(&id).await.unwrap();
        if report.outcome.is_some() {
            assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
            break;
        }
        waits += 1;
        let batch = waits + 1;
        assert_eq!(report.cause, format!("batch {batch} of 3 waits for approval"));
        assert_eq!(report.done, (waits, 3));
        // It waits for ever, and longer than any deadline; whoever leads.
        tokio::time::sleep(strategy.progress_deadline * 3).await;
        if restarts {
            controller.kill();
            controller = world.controller("next").await;
            tokio::time::sleep(strategy.progress_deadline).await;
        }
        assert_eq!(controller.deployer.rollout(&id).await.unwrap().done, (waits, 3));
        controller.deployer.resume(&web()).await.unwrap();
        let goes_on =
            || async { controller.deployer.rollout(&id).await.is_ok_and(|report| report.done.0 > waits) };
        eventually("the next batch", goes_on).await;
    }
    world.assert_whole(3, "v2").await;
    assert_eq!(world.guard.least(), 3);
    waits
}

#[tokio::test(start_paused = true)]
async fn a_batch_waits_for_approval_however_long_and_whoever_leads() {
    assert_eq!(approved_and_controllers(Approval::EveryBatch, false).await, 2);
    assert_eq!(approved_and_controllers(Approval::EveryBatch, true).await, 2);
    assert_eq!(approved_and_controllers(Approval::FirstBatch, false).await, 1);
    assert_eq!(approved_and_controllers(Approval::Automatic, false).await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_approval_can_be_aborted_and_its_rollback_asks_nobody() {
    let (world, controller) = running().await;
    let mut events = controller.deployer.events();
    let id = begin(&controller, strategy().with_approval(Approval::EveryBatch)).await;
    eventually("it waits", || async {
        controller.deployer.rollout(&id).await.is_ok_and(|report| report.paused)
    })
    .await;
    controller.deployer.abort(&web()).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::RolledBack));
    world.assert_whole(3, "v1").await;
    let mut asked = Vec::new();
    while let Some(Notice::Event(event)) = events.try_next() {
        if let EventKind::AwaitingApproval { batch, of } = event.event.kind {
            asked.push((batch, of));
        }
    }
    assert_eq!(asked, [(2, 2)]);
    // And a rollback by hand.
    deploy(&controller, spec("v3")).await;
    let id = controller.deployer.rollback(&web(), None).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    world.assert_whole(3, "v1").await;
}

#[tokio::test(start_paused = true)]
async fn one_that_ends_while_it_is_watched_turns_the_rollout_round() {
    let (world, controller) = running().await;
    let id = begin(&controller, strategy().with_monitor(MONITOR)).await;
    let done = || async { controller.deployer.rollout(&id).await.is_ok_and(|report| report.done == (3, 3)) };
    eventually("all are healthy", done).await;
    tokio::time::sleep(MONITOR / 2).await;
    let victim = of(&world, "v2").await.unwrap();
    world.engine.exit(&victim.id, 9);
    let report = ended(&controller, &id).await;
    assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
    let failure = &report.failures[0];
    assert_eq!(failure.reason, "its program ended within 20s of being healthy");
    assert_eq!(
        (failure.instance.as_ref(), failure.exit.as_ref().and_then(|exit| exit.code)),
        (Some(&victim.id), Some(9))
    );
    world.assert_whole(3, "v1").await;
}

#[tokio::test(start_paused = true)]
async fn a_rollout_ends_when_the_last_one_was_watched_and_later_ends_are_no_failures_of_it() {
    let (world, controller) = running().await;
    let started = tokio::time::Instant::now();
    let id = begin(&controller, strategy().with_monitor(MONITOR)).await;
    let done = || async { controller.deployer.rollout(&id).await.is_ok_and(|report| report.done == (3, 3)) };
    eventually("all are healthy", done).await;
    let healthy = tokio::time::Instant::now();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    assert!(healthy.elapsed() >= MONITOR - Duration::from_secs(1), "{:?}", healthy - started);
    let victim = of(&world, "v2").await.unwrap();
    world.engine.exit(&victim.id, 9);
    world.assert_whole(3, "v2").await;
    assert_eq!(controller.deployer.history(&web()).await.unwrap()[0].outcome, Some(Outcome::Succeeded));
}

#[tokio::test(start_paused = true)]
async fn what_ran_before_is_not_watched() {
    let (world, controller) = running().await;
    let begun = tokio::time::Instant::now();
    let again = request(spec("v1")).with_strategy(strategy().with_monitor(MONITOR));
    let id = controller.deployer.deploy(&again).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    assert!(begun.elapsed() < MONITOR, "{:?}", begun.elapsed());
    world.assert_whole(3, "v1").await;
}

#[tokio::test(start_paused = true)]
async fn one_that_stops_living_while_it_is_watched_is_a_failure_too() {
    let (world, controller) = running().await;
    let strategy = strategy().with_monitor(MONITOR).with_on_failure(OnFailure::Freeze);
    let mut spec = spec("v2");
    spec.instance.probes.liveness = Some(Probe::new(Check::Http(HttpCheck::new("/live"))));
    let id = controller.deployer.deploy(&request(spec).with_strategy(strategy)).await.unwrap();
    let done = || async { controller.deployer.rollout(&id).await.is_ok_and(|report| report.done == (3, 3)) };
    eventually("all are healthy", done).await;
    world.checks.fail_liveness(&of(&world, "v2").await.unwrap().id);
    let report = ended(&controller, &id).await;
    assert_eq!(report.outcome, Some(Outcome::Failed), "{report:?}");
    assert_eq!(report.failures[0].reason, "its liveness probe failed within 35s of being healthy");
    world.checks.clear();
    world.assert_whole(3, "v2").await;
}

#[tokio::test(start_paused = true)]
async fn so_many_failures_are_taken_and_not_one_more() {
    for (kills, outcome) in [(2, Outcome::Succeeded), (3, Outcome::RolledBack)] {
        let (world, controller) = running().await;
        let strategy = strategy().with_monitor(MONITOR).with_max_failures(Batch::Count(2));
        let id = begin(&controller, strategy).await;
        for kill in 1..=kills {
            let victim = loop {
                // One that was healthy already; one in front of its gate fails for another reason.
                let report = controller.deployer.rollout(&id).await.ok();
                if report.is_some_and(|report| report.done.0 > 0 && report.failures.len() == kill - 1)
                    && let Some(victim) = of(&world, "v2").await
                {
                    break victim;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            };
            world.engine.exit(&victim.id, 1);
            let noted = || async {
                controller.deployer.rollout(&id).await.is_ok_and(|report| report.failures.len() == kill)
            };
            eventually("it is noted", noted).await;
        }
        let report = ended(&controller, &id).await;
        assert_eq!((report.outcome, report.failures.len()), (Some(outcome), kills), "{report:?}");
        let version = if outcome == Outcome::Succeeded { "v2" } else { "v1" };
        world.assert_whole(3, version).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_that_never_gets_healthy_is_given_up_after_the_failures_that_are_taken() {
    let (world, controller) = running().await;
    let before = world.instances().await;
    let strategy = strategy().with_max_failures(Batch::Count(2));
    let request = request(crashing("v2")).with_strategy(strategy);
    let id = controller.deployer.deploy(&request).await.unwrap();
    let report = ended(&controller, &id).await;
    assert_eq!((report.outcome, report.failures.len()), (Some(Outcome::RolledBack), 3), "{report:?}");
    world.assert_whole(3, "v1").await;
    assert_eq!(world.instances().await, before, "the old ones were not touched");
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_dies_while_it_watches_is_followed_by_one_that_does() {
    let (world, controller) = running().await;
    let id = begin(&controller, strategy().with_monitor(MONITOR)).await;
    let done = || async { controller.deployer.rollout(&id).await.is_ok_and(|report| report.done == (3, 3)) };
    eventually("all are healthy", done).await;
    controller.kill();
    let controller = world.controller("next").await;
    tokio::time::sleep(MONITOR / 2).await;
    assert_eq!(controller.deployer.rollout(&id).await.unwrap().outcome, None);
    let victim = of(&world, "v2").await.unwrap();
    world.engine.exit(&victim.id, 9);
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::RolledBack));
    world.assert_whole(3, "v1").await;
}
