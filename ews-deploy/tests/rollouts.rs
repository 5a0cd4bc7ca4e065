//! Rollouts from their beginning to each of their ends.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::sync::Arc;
use std::time::Duration;

use ews_core::event::Notice;
use ews_core::layer::{Around, Call, Layered};
use ews_core::spec::source::{ArtifactSource, ImagePin, ImageSource, Source};
use ews_core::store::{MemoryStore, Store};
use ews_core::testkit::fake::{FakeConfig, FakeEngine, FakeRuntime};
use ews_core::{Digest, ErrorKind, PortName, ServiceName, ServiceSpec};
use ews_deploy::{
    Batch, Concurrency, DeployConfig, DeployParts, DeployRequest, Deployer, EventKind, OnFailure, Outcome,
    Phase,
};
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

#[tokio::test(start_paused = true)]
async fn a_first_deployment_that_fails_leaves_nothing_running() {
    let world = World::new();
    let controller = world.controller("first").await;
    let report = deploy(&controller, crashing("v1")).await;
    assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
    assert_eq!((world.engine.objects(), world.engine.orphans()), (0, 0));
    // The next one fills the service as if there had been nothing.
    assert_eq!(deploy(&controller, spec("v2")).await.outcome, Some(Outcome::Succeeded));
    world.assert_whole(3, "v2").await;
}

#[tokio::test(start_paused = true)]
async fn a_program_that_is_not_there_is_the_revisions_fault() {
    let (world, controller) = running().await;
    let mut missing = spec("v2");
    missing.instance.command = vec!["/no/such/program".to_owned()];
    let report = deploy(&controller, missing).await;
    assert_eq!(report.outcome, Some(Outcome::RolledBack));
    assert!(report.failures[0].reason.contains("no such file"), "{}", report.failures[0]);
    world.assert_whole(3, "v1").await;
}

#[tokio::test(start_paused = true)]
async fn the_same_again_can_be_aborted_and_that_ends() {
    let (world, controller) = running().await;
    let before = world.instances().await;
    let id = controller.deployer.deploy(&request(spec("v1"))).await.unwrap();
    controller.deployer.abort(&web()).await.unwrap();
    assert!(ended(&controller, &id).await.outcome.is_some());
    world.assert_whole(3, "v1").await;
    assert_eq!(world.instances().await, before);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_fails_for_a_while_costs_time_and_nothing_else() {
    use ews_core::testkit::fake::{Fault, FaultRule, Operation};
    let (world, controller) = running().await;
    world.guard.watch(3);
    for operation in
        [Operation::Create, Operation::Start, Operation::Stop, Operation::Remove, Operation::List]
    {
        let fail = FaultRule::new(Fault::Fail(ErrorKind::Unavailable)).on(operation).times(2);
        world.engine.faults().add(fail);
        let applied = FaultRule::new(Fault::FailApplied(ErrorKind::Timeout)).on(operation).after(2).times(1);
        world.engine.faults().add(applied);
    }
    let report = deploy(&controller, spec("v2")).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    world.assert_whole(3, "v2").await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_stays_away_ends_the_rollout_by_its_progress_deadline() {
    use ews_core::testkit::fake::{Fault, FaultRule, Operation};
    let (world, controller) = running().await;
    world.engine.faults().add(FaultRule::new(Fault::Fail(ErrorKind::Unavailable)).on(Operation::Create));
    let report = deploy(&controller, spec("v2")).await;
    assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
    assert!(report.cause.contains("no instance got healthy within 120s"), "{}", report.cause);
    world.engine.faults().clear();
    world.assert_whole(3, "v1").await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_rollout_waits_and_goes_on_when_it_is_told_to() {
    let (world, controller) = running().await;
    let spaced = strategy().with_interval(Duration::from_secs(60));
    let id = controller.deployer.deploy(&request(spec("v2")).with_strategy(spaced)).await.unwrap();
    let done = || async { controller.deployer.rollout(&id).await.map_or(0, |report| report.done.0) };
    eventually("one slot is new", || async { done().await == 1 }).await;
    controller.deployer.pause(&web()).await.unwrap();
    // Far beyond the progress deadline: time while paused does not count.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let report = controller.deployer.rollout(&id).await.unwrap();
    assert_eq!((report.done.0, report.paused, report.outcome), (1, true, None), "{report:?}");
    // Supervision goes on meanwhile.
    let old = world.instances().await.into_iter().find(|i| i.labels.get("version") == Some("v1")).unwrap();
    world.engine.exit(&old.id, 3);
    let again = || async {
        let now = world.instances().await;
        now.iter().any(|i| i.id == old.id && i.incarnation > old.incarnation && i.state.is_running())
    };
    eventually("what died in the pause runs again", again).await;
    controller.deployer.resume(&web()).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    world.assert_whole(3, "v2").await;
}

#[tokio::test(start_paused = true)]
async fn an_abort_brings_back_what_was_replaced_already() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    let spaced = strategy().with_interval(Duration::from_secs(60));
    let id = controller.deployer.deploy(&request(spec("v2")).with_strategy(spaced)).await.unwrap();
    let half = || async { controller.deployer.rollout(&id).await.is_ok_and(|report| report.done.0 == 1) };
    eventually("one slot is new", half).await;
    controller.deployer.abort(&web()).await.unwrap();
    let report = ended(&controller, &id).await;
    assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
    assert!(report.cause.contains("aborted"), "{}", report.cause);
    world.assert_whole(3, "v1").await;
}

#[tokio::test(start_paused = true)]
async fn a_cancel_leaves_what_is_new_and_undoes_what_was_half_done() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    let id = controller.deployer.deploy(&request(spec("v2"))).await.unwrap();
    let half = || async { controller.deployer.rollout(&id).await.is_ok_and(|report| report.done.0 == 1) };
    eventually("one slot is new", half).await;
    controller.deployer.cancel(&web()).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Cancelled));
    let mixed = || async { world.instances().await.len() == 3 && world.serving().await.len() == 3 };
    eventually("three instances are left", mixed).await;
    let versions: Vec<_> = world.versions().await.into_values().collect();
    assert_eq!(versions, ["v2", "v1", "v1"]);
    // And the next rollout starts from there.
    assert_eq!(deploy(&controller, spec("v3")).await.outcome, Some(Outcome::Succeeded));
    world.assert_whole(3, "v3").await;
}

#[tokio::test(start_paused = true)]
async fn on_failure_pause_waits_for_a_resume_that_tries_again() {
    let (world, controller) = running().await;
    let pausing = strategy().with_on_failure(OnFailure::Pause);
    let id = controller.deployer.deploy(&request(sick("v2")).with_strategy(pausing)).await.unwrap();
    let paused = || async { controller.deployer.rollout(&id).await.is_ok_and(|report| report.paused) };
    eventually("it has paused", paused).await;
    eventually("the failed one was undone", || async { world.engine.objects() == 3 }).await;
    let failures = controller.deployer.rollout(&id).await.unwrap().failures.len();
    controller.deployer.resume(&web()).await.unwrap();
    let more = || async {
        controller.deployer.rollout(&id).await.is_ok_and(|r| r.failures.len() > failures && r.paused)
    };
    eventually("it has tried again and paused again", more).await;
    controller.deployer.abort(&web()).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::RolledBack));
    eventually("all is as before", || async { world.engine.objects() == 3 }).await;
    world.assert_whole(3, "v1").await;
}

#[tokio::test(start_paused = true)]
async fn on_failure_freeze_ends_where_it_stands() {
    let (world, controller) = running().await;
    let freezing = strategy().with_on_failure(OnFailure::Freeze);
    let id = controller.deployer.deploy(&request(sick("v2")).with_strategy(freezing)).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Failed));
    eventually("the failed one was undone", || async { world.engine.objects() == 3 }).await;
    world.assert_whole(3, "v1").await;
}

#[tokio::test(start_paused = true)]
async fn a_manual_rollback_goes_to_the_stable_one_before() {
    let (world, controller) = running().await;
    assert_eq!(deploy(&controller, spec("v2")).await.outcome, Some(Outcome::Succeeded));
    deploy(&controller, sick("v3")).await;
    world.guard.watch(3);
    let id = controller.deployer.rollback(&web(), None).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    // v3 never was stable.
    world.assert_whole(3, "v1").await;
    let revisions = controller.deployer.revisions(&web()).await.unwrap();
    let id = controller.deployer.rollback(&web(), Some(&revisions[1].id)).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    world.assert_whole(3, "v2").await;
    let none = controller.deployer.rollback(&web(), Some(&"r99".parse().unwrap())).await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_second_rollout_is_refused_or_supersedes() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    let slow = strategy().with_interval(Duration::from_secs(100));
    let first = controller.deployer.deploy(&request(spec("v2")).with_strategy(slow)).await.unwrap();
    let refused = controller.deployer.deploy(&request(spec("v3"))).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy);
    assert!(refused.message().contains("rollout 2"), "{refused}");
    let half = || async { controller.deployer.rollout(&first).await.is_ok_and(|report| report.done.0 == 1) };
    eventually("one slot is new", half).await;
    let over = request(spec("v3")).with_concurrency(Concurrency::Supersede);
    let second = controller.deployer.deploy(&over).await.unwrap();
    assert_eq!(ended(&controller, &second).await.outcome, Some(Outcome::Succeeded));
    let first = ended(&controller, &first).await;
    assert_eq!(first.outcome, Some(Outcome::Cancelled));
    assert!(first.cause.contains("superseded by rollout 3"), "{}", first.cause);
    world.assert_whole(3, "v3").await;
}

#[tokio::test(start_paused = true)]
async fn a_key_makes_a_request_repeatable_and_a_stale_plan_is_refused() {
    let (world, controller) = running().await;
    let keyed = request(spec("v2")).with_key("webhook-7");
    let first = controller.deployer.deploy(&keyed).await.unwrap();
    assert_eq!(controller.deployer.deploy(&keyed).await.unwrap(), first);
    ended(&controller, &first).await;
    assert_eq!(controller.deployer.deploy(&keyed).await.unwrap(), first, "later too");

    let next = request(spec("v3"));
    let plan = controller.deployer.plan(&next).await.unwrap();
    assert_eq!(plan.units().count(), 3);
    assert_eq!(controller.deployer.plan(&next).await.unwrap(), plan, "looking changes nothing");
    deploy(&controller, spec("v4")).await;
    let stale = controller.deployer.deploy(&next.clone().expecting(&plan)).await.unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::Stale);
    let plan = controller.deployer.plan(&next).await.unwrap();
    let id = controller.deployer.deploy(&next.expecting(&plan)).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    world.assert_whole(3, "v3").await;
}

#[tokio::test(start_paused = true)]
async fn requests_that_can_not_work_are_refused_with_the_field() {
    let (_world, controller) = running().await;
    let mut long = spec("v2");
    long.instance.stop.grace = Duration::from_secs(600);
    let mut traffic = request(spec("v2"));
    traffic.traffic.as_mut().unwrap().port = PortName::new("admin").unwrap();
    let mut taken = request(spec("v2"));
    taken.spec.name = ServiceName::new("other").unwrap();
    let image = ImageSource::new("shop/web:1".parse().unwrap());
    let unpinned = ServiceSpec::new(web(), Source::Image(image));
    let mut impatient = request(spec("v2"));
    impatient.strategy.progress_deadline = Duration::from_secs(1);
    for (request, kind, words) in [
        (request(long), ErrorKind::Invalid, "stop grace of 600s"),
        (traffic, ErrorKind::Invalid, "`admin`, which the service does not have; accepted: http"),
        (taken, ErrorKind::AlreadyExists, "`web.test` is served by the routes `web`"),
        (DeployRequest::new(unpinned), ErrorKind::Invalid, "shop/web:1` is not pinned"),
        (impatient, ErrorKind::Invalid, "`progress_deadline`"),
        (
            request(spec("v2")).with_bounds(std::ops::RangeInclusive::new(5, 2)),
            ErrorKind::Invalid,
            "bounds of 5 to 2",
        ),
        (
            request(spec("v2")).with_bounds(5..=9),
            ErrorKind::Invalid,
            "3 instances; accepted by the service's bounds",
        ),
    ] {
        let error = controller.deployer.deploy(&request).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let none = ServiceName::new("none").unwrap();
    assert_eq!(controller.deployer.pause(&none).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(controller.deployer.abort(&web()).await.unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(controller.deployer.services().await.unwrap(), [web()]);
}

#[tokio::test(start_paused = true)]
async fn history_is_kept_within_its_bound_and_never_what_is_in_use() {
    let (world, controller) = running().await;
    for round in 2..30 {
        let version =
            if round % 2 == 0 { spec(&format!("v{round}")) } else { crashing(&format!("v{round}")) };
        deploy(&controller, version).await;
    }
    world.assert_whole(3, "v28").await;
    assert_eq!(controller.deployer.history(&web()).await.unwrap().len(), 10);
    let revisions = controller.deployer.revisions(&web()).await.unwrap().len();
    assert!(revisions <= 20, "{revisions}");
    let id = controller.deployer.rollback(&web(), None).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    world.assert_whole(3, "v26").await;
}

#[tokio::test(start_paused = true)]
async fn progress_is_told_in_order() {
    let (_world, controller) = running().await;
    let mut events = controller.deployer.events();
    let id = controller.deployer.deploy(&request(sick("v2"))).await.unwrap();
    ended(&controller, &id).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut told = Vec::new();
    while let Some(Notice::Event(numbered)) = events.try_next() {
        let event = numbered.event;
        match event.kind {
            EventKind::RolloutStarted { slots, .. } => told.push(format!("started {slots}")),
            EventKind::BatchStarted { slots, .. } => told.push(format!("batch {slots:?}")),
            EventKind::Step { step, slot, .. } => told.push(format!("{step} {slot}")),
            EventKind::UnitFailed(failure) => told.push(format!("failed {}", failure.slot)),
            EventKind::RollingBack { .. } => told.push("back".to_owned()),
            EventKind::Ended { outcome, .. } => told.push(outcome.to_string()),
            _ => {}
        }
    }
    let expected = [
        "started 3",
        "batch [0]",
        "create 0",
        "start 0",
        "gate 0",
        "failed 0",
        "back",
        "stop 0",
        "remove 0",
        "rolled back",
    ];
    assert_eq!(told, expected);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_removed_and_deployed_anew_at_once_is_led() {
    let (world, controller) = running().await;
    for round in 0..20 {
        controller.deployer.remove(&web()).await.unwrap();
        controller.deployer.wait_removed(&web()).await.unwrap();
        let report = deploy(&controller, spec(&format!("v{round}"))).await;
        assert_eq!((report.outcome, report.id.number), (Some(Outcome::Succeeded), 1));
    }
    world.assert_whole(3, "v19").await;
}

#[tokio::test(start_paused = true)]
async fn a_pinned_image_is_deployed_like_an_artifact_and_one_that_is_missing_is_rolled_back() {
    let (world, controller) = running().await;
    let of_image = |name: &str, version: &str| {
        let mut image = ImageSource::new(name.parse().unwrap());
        image.pin = Some(ImagePin::Manifest(Digest::of(version.as_bytes())));
        let mut spec = spec(version);
        spec.instance.source = Source::Image(image);
        spec
    };
    world.guard.watch(3);
    let report = deploy(&controller, of_image("shop/web:2", "v2")).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    world.assert_whole(3, "v2").await;
    let report = deploy(&controller, of_image("missing.invalid/shop/web:3", "v3")).await;
    assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
    assert!(report.failures[0].reason.contains("image_missing"), "{}", report.failures[0]);
    world.assert_whole(3, "v2").await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_rollout_that_is_aborted_goes_back_without_a_resume() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    let spaced = strategy().with_interval(Duration::from_secs(60));
    let id = controller.deployer.deploy(&request(spec("v2")).with_strategy(spaced)).await.unwrap();
    let half = || async { controller.deployer.rollout(&id).await.is_ok_and(|report| report.done.0 == 1) };
    eventually("one slot is new", half).await;
    controller.deployer.pause(&web()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    controller.deployer.abort(&web()).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::RolledBack));
    world.assert_whole(3, "v1").await;
}

#[tokio::test(start_paused = true)]
async fn several_that_fail_at_once_are_one_reason_to_go_back() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    let at_once = strategy().with_batches(Batch::Count(3), Batch::Count(3));
    let mut missing = spec("v2");
    missing.instance.command = vec!["/no/such/program".to_owned()];
    let id = controller.deployer.deploy(&request(missing).with_strategy(at_once)).await.unwrap();
    let report = ended(&controller, &id).await;
    assert_eq!((report.outcome, report.failures.len()), (Some(Outcome::RolledBack), 3), "{report:?}");
    world.assert_whole(3, "v1").await;
}

/// Takes a while over each write.
struct SlowWrites;

impl Around for SlowWrites {
    async fn around<T, F, Fut>(&self, call: Call<'_>, operation: F) -> ews_core::Result<T>
    where
        T: Send,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = ews_core::Result<T>> + Send,
    {
        if call.kind.is_mutating() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        operation().await
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_rollout_may_be_asked_for_as_soon_as_the_one_before_has_ended() {
    // What has ended is let go of in a write of its own.
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let runtime = FakeRuntime::connect(&FakeEngine::new(FakeConfig::default()));
    let parts = DeployParts::new(Arc::new(runtime), Arc::new(Layered::new(store, SlowWrites)));
    let deployer = Deployer::start(parts, DeployConfig::new("acme".parse().unwrap())).await.unwrap();
    for path in ["/srv/v1", "/srv/v2", "/srv/v3"] {
        let spec = ServiceSpec::new(web(), Source::Artifact(ArtifactSource::new(path)));
        let id = deployer.deploy(&DeployRequest::new(spec)).await.unwrap();
        assert_eq!(deployer.wait(&id).await.unwrap().outcome, Some(Outcome::Succeeded));
    }
    deployer.leave().await;
}
