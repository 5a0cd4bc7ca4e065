//! Run-once jobs of the new revision, before and after a rollout.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, reason = "tests")]

mod rig;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ews_core::event::Notice;
use ews_core::event::RuntimeEvent;
use ews_core::testkit::fake::FakeRuntime;
use ews_core::{ErrorKind, EventStream, InstanceState, Runtime as _, Selector, Store};
use ews_deploy::{DeployRequest, EventKind, JobReports, OnFailure, Outcome, RolloutJob, Step, Strategy};
use futures_util::{FutureExt as _, StreamExt as _};
use rig::*;

fn job(words: &[&str]) -> Option<RolloutJob> {
    Some(RolloutJob::new(["fake"].iter().chain(words).copied()))
}

fn jobs(before: Option<RolloutJob>, after: Option<RolloutJob>) -> Strategy {
    strategy().with_jobs(before, after)
}

async fn deployed(controller: &Controller, strategy: Strategy) -> ews_deploy::RolloutReport {
    let id = controller.deployer.deploy(&request(spec("v2")).with_strategy(strategy)).await.unwrap();
    ended(controller, &id).await
}

#[tokio::test(start_paused = true)]
async fn they_run_before_anything_and_after_all() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    let mut events = controller.deployer.events();
    let strategy = jobs(job(&["print", "migrated"]), job(&["print", "tidied"]));
    let report = deployed(&controller, strategy).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    let JobReports { before, after, .. } = report.jobs;
    assert_eq!(
        (before.unwrap().log, after.unwrap().log),
        (vec!["migrated".to_owned()], vec!["tidied".to_owned()])
    );
    let mut told = Vec::new();
    while let Some(Notice::Event(event)) = events.try_next() {
        match event.event.kind {
            EventKind::JobEnded { when, .. } => told.push(when),
            EventKind::Step { step: Step::Create, .. } => told.push("create".to_owned()),
            _ => {}
        }
    }
    assert_eq!(told, ["before", "create", "create", "create", "after"]);
    world.assert_whole(3, "v2").await;
    assert_eq!(world.keys("deploy/acme/web/job/").await, 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_before_changes_nothing_and_one_after_takes_all_back() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    let before = world.instances().await;
    let report = deployed(&controller, jobs(job(&["exit", "3"]), None)).await;
    assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
    assert!(
        report.cause.contains("the job before the rollout failed: its program ended: exit code 3"),
        "{}",
        report.cause
    );
    let job_report = report.jobs.before.unwrap();
    assert_eq!(
        (job_report.exit.unwrap().code, job_report.log),
        (Some(3), vec!["out".to_owned(), "err".to_owned()])
    );
    world.assert_whole(3, "v1").await;
    assert_eq!(world.instances().await, before);

    let report = deployed(&controller, jobs(None, job(&["exit", "4"]))).await;
    assert_eq!(
        (report.outcome, report.jobs.after.unwrap().succeeded),
        (Some(Outcome::RolledBack), Some(false))
    );
    world.assert_whole(3, "v1").await;
    assert_eq!(world.guard.least(), 3);
}

#[tokio::test(start_paused = true)]
async fn it_is_tried_again_as_it_may_be_and_when_somebody_resumes() {
    let (world, controller) = running().await;
    let often = RolloutJob::new(["fake", "exit", "1"]).with_limits(Duration::from_secs(60), 2);
    let report = deployed(&controller, jobs(Some(often), None)).await;
    assert_eq!(report.jobs.before.unwrap().attempt, 3);

    let strategy = jobs(job(&["exit", "1"]), None).with_on_failure(OnFailure::Pause);
    let id = controller.deployer.deploy(&request(spec("v2")).with_strategy(strategy)).await.unwrap();
    let mut events = controller.deployer.events();
    let mut failed = 0;
    while failed < 3 {
        let Some(Notice::Event(event)) = events.next().await else { unreachable!("few events") };
        if let EventKind::JobEnded { report, .. } = event.event.kind {
            assert_eq!(report.succeeded, Some(false));
            failed += 1;
            let waits = || async { controller.deployer.rollout(&id).await.is_ok_and(|r| r.paused) };
            eventually("it waits", waits).await;
            if failed < 3 {
                controller.deployer.resume(&web()).await.unwrap();
            }
        }
    }
    controller.deployer.abort(&web()).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::RolledBack));
    world.assert_whole(3, "v1").await;
}

#[tokio::test(start_paused = true)]
async fn one_that_never_ends_is_stopped_by_its_deadline_or_by_whoever_aborts() {
    let (world, controller) = running().await;
    let slow = RolloutJob::new(["fake", "sleep"]).with_limits(Duration::from_secs(600), 0);
    let report = deployed(&controller, jobs(Some(slow.clone()), None)).await;
    assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
    assert!(report.cause.contains("it had not ended within 600s"), "{}", report.cause);

    for abort in [true, false] {
        let strategy = jobs(Some(slow.clone()), None);
        let id = controller.deployer.deploy(&request(spec("v2")).with_strategy(strategy)).await.unwrap();
        eventually("it runs", || async { world.engine.objects() == 4 }).await;
        if abort {
            controller.deployer.abort(&web()).await.unwrap();
        } else {
            controller.deployer.cancel(&web()).await.unwrap();
        }
        let outcome = if abort { Outcome::RolledBack } else { Outcome::Cancelled };
        assert_eq!(ended(&controller, &id).await.outcome, Some(outcome));
        world.assert_whole(3, "v1").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rollback_runs_none_and_a_first_deployment_does() {
    let world = World::new();
    let controller = world.controller("first").await;
    let with = |version: &str| {
        let strategy = jobs(job(&["print", "x"]), None);
        request(spec(version)).with_strategy(strategy)
    };
    for version in ["v1", "v2"] {
        let id = controller.deployer.deploy(&with(version)).await.unwrap();
        assert!(ended(&controller, &id).await.jobs.before.is_some());
    }
    let id = controller.deployer.rollback(&web(), None).await.unwrap();
    let report = ended(&controller, &id).await;
    assert_eq!((report.outcome, report.jobs), (Some(Outcome::Succeeded), JobReports::default()));
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_is_refused() {
    let (_world, controller) = running().await;
    let refused = async |request: DeployRequest| {
        assert_eq!(controller.deployer.deploy(&request).await.unwrap_err().kind(), ErrorKind::Invalid);
    };
    refused(request(spec("v2")).with_strategy(jobs(Some(RolloutJob::new([""; 0])), None))).await;
    let never = RolloutJob::new(["x"]).with_limits(Duration::ZERO, 0);
    refused(request(spec("v2")).with_strategy(jobs(Some(never), None))).await;
    let mut named = spec("v1");
    named.name = "web-ews-job".parse().unwrap();
    refused(DeployRequest::new(named)).await;
}

/// The starts of programs that were seen.
fn starts(events: &mut EventStream) -> usize {
    let mut seen = BTreeSet::new();
    while let Some(Some(notice)) = events.next().now_or_never() {
        match notice {
            Notice::Event(RuntimeEvent::Instance {
                id, incarnation, state: InstanceState::Running, ..
            }) => {
                seen.insert((id, incarnation));
            }
            Notice::Gap(gap) => unreachable!("{gap:?}: the count would say nothing"),
            Notice::Event(_) => {}
        }
    }
    seen.len()
}

/// A job that succeeds is started once, however often its controller dies.
#[tokio::test(start_paused = true)]
async fn a_kill_at_any_point_starts_no_job_twice() {
    let mut points = 0;
    for kill in [Kill::Before, Kill::After] {
        for at in 1.. {
            let (world, first) = running().await;
            first.deployer.leave().await;
            drop(first);
            world.guard.watch(3);
            let watcher = FakeRuntime::connect(&world.engine);
            let jobs_only = Selector::equal("ews/service", "web-ews-job").unwrap();
            let mut seen = watcher.events(&jobs_only).await.unwrap();
            let store = Arc::new(KillingStore::new(Arc::clone(&world.store) as Arc<dyn Store>, at, kill));
            let strategy = jobs(job(&["exit", "0", "after", "2s"]), job(&["exit", "0", "after", "2s"]));
            let request = request(spec("v2")).with_strategy(strategy).with_key("it");
            let second = tokio::select! {
                biased;
                () = store.killed() => None,
                second = world.controller_on("second", Arc::clone(&store) as Arc<dyn Store>) => Some(second),
            };
            let mut killed = second.is_none();
            if let Some(second) = second {
                let work = async {
                    let id = second.deployer.deploy(&request).await.unwrap();
                    ended(&second, &id).await
                };
                tokio::select! {
                    biased;
                    () = store.killed() => killed = true,
                    _ = work => {}
                }
                second.kill();
            }
            let third = world.controller("third").await;
            let id = third.deployer.deploy(&request).await.unwrap();
            let report = ended(&third, &id).await;
            assert_eq!(report.outcome, Some(Outcome::Succeeded), "{kill:?} {at}: {report:?}");
            world.assert_whole(3, "v2").await;
            assert_eq!(starts(&mut seen), 2, "{kill:?} {at}");
            assert_eq!(world.keys("deploy/acme/web/job/").await, 0);
            if !killed {
                break;
            }
            points += 1;
        }
    }
    println!("jobs: {points} kills");
    assert!(points > 20, "{points}");
}
