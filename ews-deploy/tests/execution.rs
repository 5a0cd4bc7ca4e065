//! How requests meet, who is asked and told, what is done about failures, and what is kept of it all.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ews_core::event::Notice;
use ews_core::policy::{Explained, Policy, PolicyState};
use ews_core::testkit::fake::{Fault, FaultRule, Operation};
use ews_core::{Error, ErrorKind, Result, ScaleChange, ScaleTarget as _, Timestamp};
use ews_deploy::{
    AuditAction, Canary, CanaryStep, Concurrency, DeployRequest, EventKind, FailureClass, FailureRule,
    FailureSeen, Hook, OnFailure, Outcome, RolloutId, RolloutReport,
};
use rig::*;

fn asked(version: &str, concurrency: Concurrency) -> DeployRequest {
    request(spec(version)).with_concurrency(concurrency).with_key(version)
}

#[tokio::test(start_paused = true)]
async fn what_waits_has_its_turn_in_order_and_changes_nothing_before() {
    let (world, controller) = running().await;
    let deployer = &controller.deployer;
    let second = deployer.deploy(&asked("v2", Concurrency::Queue)).await.unwrap();
    let mut larger = spec("v3");
    larger.replicas = 4;
    let third = deployer.deploy(&request(larger).with_concurrency(Concurrency::Queue)).await.unwrap();
    let fourth = deployer.deploy(&asked("v4", Concurrency::Queue)).await.unwrap();
    assert_eq!((second.number, third.number, fourth.number), (2, 3, 4));
    assert_eq!(deployer.deploy(&asked("v4", Concurrency::Queue)).await.unwrap(), fourth, "by its key");
    assert_eq!(deployer.status(&web()).await.unwrap().desired, 3, "not before its turn");
    assert_eq!(ended(&controller, &second).await.outcome, Some(Outcome::Succeeded));
    // A controller that dies takes nothing of it along.
    controller.kill();
    let controller = world.controller("next").await;
    assert_eq!(ended(&controller, &third).await.outcome, Some(Outcome::Succeeded));
    assert_eq!(ended(&controller, &fourth).await.outcome, Some(Outcome::Succeeded));
    let reports = controller.deployer.history(&web()).await.unwrap();
    let mut times: Vec<_> = reports.iter().map(|report| (report.id.number, report.started_at)).collect();
    times.sort();
    assert!(times.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{times:?}");
    world.assert_whole(3, "v4").await;
}

#[tokio::test(start_paused = true)]
async fn only_so_many_wait_and_what_is_superseded_before_it_began_has_an_end() {
    let (world, controller) = running().await;
    let deployer = &controller.deployer;
    let mut waiting: Vec<RolloutId> = Vec::new();
    for number in 0..=DeployRequest::QUEUE {
        waiting.push(deployer.deploy(&asked(&format!("w{number}"), Concurrency::Queue)).await.unwrap());
    }
    let error = deployer.deploy(&asked("more", Concurrency::Queue)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfResources, "{error}");
    let last = deployer.deploy(&asked("last", Concurrency::Supersede)).await.unwrap();
    for id in &waiting {
        let report = ended(&controller, id).await;
        assert_eq!(report.outcome, Some(Outcome::Cancelled), "{report:?}");
        assert!(report.cause.contains("superseded by rollout 13"), "{}", report.cause);
    }
    assert_eq!(ended(&controller, &last).await.outcome, Some(Outcome::Succeeded));
    world.assert_whole(3, "last").await;
}

#[tokio::test(start_paused = true)]
async fn who_asked_for_what_and_what_came_of_it() {
    let (_world, controller) = running().await;
    let alice = controller.deployer.by("alice\n");
    let id = alice.deploy(&request(spec("v2")).with_reason("the new basket")).await.unwrap();
    alice.pause(&web()).await.unwrap();
    controller.deployer.by("bob").abort(&web()).await.unwrap();
    let report = ended(&controller, &id).await;
    assert_eq!((report.by.as_str(), report.reason.as_str()), ("alice", "the new basket"));
    controller.deployer.set(&web(), &ScaleChange::to(4, "busy")).await.unwrap();
    let told: Vec<_> = controller.deployer.audit(&web(), 5).await.unwrap();
    let told: Vec<_> = told.iter().map(|e| (e.by.as_str(), e.action.clone(), e.why.as_str())).collect();
    let outcome = Outcome::RolledBack;
    assert_eq!(
        told,
        [
            ("", AuditAction::Scale { from: 3, to: 4 }, "busy"),
            ("", AuditAction::Ended { rollout: 2, outcome }, "somebody aborted it"),
            ("bob", AuditAction::Abort(2), ""),
            ("alice", AuditAction::Pause(2), ""),
            ("alice", AuditAction::Deploy(2), "the new basket"),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_trail_is_bounded() {
    let (world, controller) = running().await;
    for round in 0..600_u32 {
        let change = ScaleChange::to(3 + round % 2, "again");
        controller.deployer.set(&web(), &change).await.unwrap();
    }
    let many = || async { world.keys("deploy/acme/web/audit/").await };
    let before = many().await;
    assert!(before >= 500, "{before}");
    for round in 0..600_u32 {
        controller.deployer.set(&web(), &ScaleChange::to(3 + round % 2, "again")).await.unwrap();
        if round % 50 == 0 {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    controller.deployer.set(&web(), &ScaleChange::to(5, "last")).await.unwrap();
    eventually("the oldest are gone", || async { many().await <= 1_001 }).await;
    assert_eq!(controller.deployer.audit(&web(), 1).await.unwrap()[0].why, "last");
}

/// Writes down what it is asked, and says what it is told to.
#[derive(Default)]
struct Asked {
    seen: Mutex<Vec<String>>,
    no: Mutex<Option<&'static str>>,
    broken: Mutex<u32>,
}

impl Asked {
    fn at(&self, joint: &'static str, rollout: &RolloutReport) -> Result<()> {
        self.seen.lock().unwrap().push(format!("{joint} {}", rollout.id.number));
        match *self.no.lock().unwrap() {
            Some(no) if no == joint => Err(Error::new(ErrorKind::Busy, "not today")),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Hook for Asked {
    fn name(&self) -> &str {
        "asked"
    }

    async fn before(&self, rollout: &RolloutReport) -> Result<()> {
        self.at("before", rollout)
    }

    async fn before_promotion(&self, rollout: &RolloutReport) -> Result<()> {
        self.at("promotion", rollout)
    }

    async fn after(&self, rollout: &RolloutReport) -> Result<()> {
        assert!(rollout.outcome.is_some());
        let mut broken = self.broken.lock().unwrap();
        if *broken > 0 {
            *broken -= 1;
            return Err(Error::new(ErrorKind::Unavailable, "not now"));
        }
        self.at("after", rollout)
    }
}

#[tokio::test(start_paused = true)]
async fn hooks_are_asked_before_and_told_after() {
    let world = World::new();
    let hook = Arc::new(Asked::default());
    let controller = world.controller_with("hooked", |parts| parts.with_hook(Arc::clone(&hook) as _)).await;
    let seen = || hook.seen.lock().unwrap().drain(..).collect::<Vec<_>>();
    assert_eq!(deploy(&controller, spec("v1")).await.outcome, Some(Outcome::Succeeded));
    let told = || async { hook.seen.lock().unwrap().iter().any(|seen| seen.starts_with("after")) };
    eventually("it is told", told).await;
    assert_eq!(seen(), ["before 1", "promotion 1", "after 1"]);

    let before = world.instances().await;
    *hook.no.lock().unwrap() = Some("before");
    *hook.broken.lock().unwrap() = 2;
    let report = deploy(&controller, spec("v2")).await;
    assert_eq!(
        (report.outcome, report.cause.as_str()),
        (Some(Outcome::Failed), "the hook `asked` says no: not today")
    );
    assert_eq!(world.instances().await, before, "nothing was touched");
    eventually("it is told in the end", told).await;
    assert_eq!(seen(), ["before 2", "after 2"]);

    // A canary stands before the second question, and goes where the answer is no.
    *hook.no.lock().unwrap() = Some("promotion");
    let canary = strategy().with_canary(Canary::new([CanaryStep::Weight(50)]));
    let id = controller.deployer.deploy(&request(spec("v3")).with_strategy(canary)).await.unwrap();
    let report = ended(&controller, &id).await;
    assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
    world.assert_whole(3, "v1").await;
    assert_eq!(world.instances().await, before);
    eventually("it is told", told).await;
    assert_eq!(seen(), ["before 3", "promotion 3", "after 3"]);

    // Who is killed before it told is told for by its successor.
    *hook.no.lock().unwrap() = None;
    *hook.broken.lock().unwrap() = 1;
    assert_eq!(deploy(&controller, spec("v4")).await.outcome, Some(Outcome::Succeeded));
    controller.kill();
    let _next = world.controller_with("next", |parts| parts.with_hook(Arc::clone(&hook) as _)).await;
    eventually("it is told", told).await;
    assert_eq!(seen().last().unwrap(), "after 4");
}

#[tokio::test(start_paused = true)]
async fn what_a_rule_tries_again_is_tried_again_and_no_more_often() {
    let refused = || FailureRule::new(OnFailure::Retry(2)).for_classes([FailureClass::Refused]);
    for (times, outcome) in [(2, Outcome::Succeeded), (3, Outcome::RolledBack)] {
        let (world, controller) = running().await;
        world.guard.watch(3);
        let fault = Fault::Fail(ErrorKind::ImageMissing);
        world.engine.faults().add(FaultRule::new(fault).on(Operation::Create).times(times));
        let strategy = strategy().with_rules([refused()]);
        let mut events = controller.deployer.events();
        let id = controller.deployer.deploy(&request(spec("v2")).with_strategy(strategy)).await.unwrap();
        let report = ended(&controller, &id).await;
        assert_eq!(report.outcome, Some(outcome), "{report:?}");
        assert_eq!(report.failures.len(), times as usize);
        assert!(report.failures.iter().all(|failure| failure.class == FailureClass::Refused), "{report:?}");
        let mut decided = Vec::new();
        while let Some(notice) = events.try_next() {
            if let Notice::Event(event) = notice
                && let EventKind::Decided { decision, explained } = event.event.kind
            {
                assert!(explained.starts_with("failure-rules/1: "), "{explained}");
                decided.push(decision);
            }
        }
        assert_eq!(decided.iter().filter(|d| **d == OnFailure::Retry(2)).count(), 2, "{decided:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_skipped_keeps_what_it_had_and_the_rollout_does_not_call_itself_a_success() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    let fault = Fault::Fail(ErrorKind::ImageMissing);
    world.engine.faults().add(FaultRule::new(fault).on(Operation::Create).times(1));
    let strategy = strategy().with_on_failure(OnFailure::Skip);
    let id = controller.deployer.deploy(&request(spec("v2")).with_strategy(strategy)).await.unwrap();
    let report = ended(&controller, &id).await;
    assert_eq!(
        (report.outcome, report.done, report.skipped),
        (Some(Outcome::Failed), (2, 3), 1),
        "{report:?}"
    );
    assert_eq!(report.cause, "1 of 3 slots keep what they had");
    assert_eq!((world.count("v1").await, world.count("v2").await), (1, 2));
    // What is added later is of the revision that is known to be good.
    controller.deployer.set(&web(), &ScaleChange::to(4, "more")).await.unwrap();
    eventually("a fourth", || async { world.serving().await.len() == 4 }).await;
    assert_eq!((world.count("v1").await, world.count("v2").await), (2, 2));
    assert_eq!(deploy(&controller, spec("v2")).await.outcome, Some(Outcome::Succeeded));
    world.assert_whole(4, "v2").await;
}

/// Freezes whatever happens.
struct Frozen;

impl Policy<FailureSeen, OnFailure> for Frozen {
    fn name(&self) -> &str {
        "frozen/1"
    }

    fn decide(
        &self,
        seen: &FailureSeen,
        state: &PolicyState,
        now: Timestamp,
    ) -> (Explained<OnFailure>, PolicyState) {
        let outcome = format!("freeze after {} of {}", seen.class, seen.service);
        (Explained::new("frozen/1", now, OnFailure::Freeze, outcome), state.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_in_rust_comes_before_the_rules() {
    let world = World::new();
    let controller = world.controller_with("ours", |parts| parts.with_failure_policy(Arc::new(Frozen))).await;
    assert_eq!(deploy(&controller, spec("v1")).await.outcome, Some(Outcome::Succeeded));
    let report = deploy(&controller, crashing("v2")).await;
    assert_eq!(report.outcome, Some(Outcome::Failed), "{report:?}");
    assert_eq!(report.failures[0].class, FailureClass::Exited);
    world.assert_whole(3, "v1").await;
}

#[tokio::test(start_paused = true)]
async fn how_far_it_is_grows_to_the_end_and_says_how_long_it_may_take() {
    let (_world, controller) = running().await;
    let steps = [CanaryStep::Weight(10), CanaryStep::Pause(Duration::from_secs(100))];
    let strategy = strategy().with_canary(Canary::new(steps));
    let id = controller.deployer.deploy(&request(spec("v2")).with_strategy(strategy)).await.unwrap();
    let mut last = 0;
    let mut lefts = Vec::new();
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let Ok(report) = controller.deployer.rollout(&id).await else { continue };
        assert!(report.progress.percent >= last, "{last} {report:?}");
        last = report.progress.percent;
        if report.outcome.is_some() {
            assert_eq!((report.progress.percent, report.progress.left), (100, None));
            break;
        }
        assert!(last < 100);
        lefts.push(report.progress.left.unwrap());
    }
    assert!(lefts.len() > 10 && lefts.first() > lefts.last(), "{lefts:?}");
}

/// A spec that runs this image, and where it comes from.
fn imaged(version: &str, digest: ews_core::Digest) -> ews_core::ServiceSpec {
    use ews_core::spec::source::{ImagePin, ImageSource, Source};
    let mut image = ImageSource::new(format!("shop/web:{version}").parse().unwrap());
    image.pin = Some(ImagePin::Manifest(digest));
    let mut spec = spec(version);
    spec.instance.source = Source::Image(image);
    spec
}

#[tokio::test(start_paused = true)]
async fn an_image_that_can_not_be_had_changes_nothing_not_even_on_the_way_back() {
    use ews_core::ImageStore;
    use ews_core::image::{EnsureOptions, PruneOptions};
    use ews_core::spec::platform::Platform;
    use ews_core::testkit::fake_images::ImageCall;
    use ews_core::testkit::{CallFault, FakeImages};
    let world = World::new();
    let images = FakeImages::new("n1".parse().unwrap(), Platform::host().unwrap());
    let offered = |version: &str| {
        let digest = ews_core::Digest::of(version.as_bytes());
        let mut image = ews_core::image::Image::new(digest, Platform::host().unwrap());
        image.manifests = vec![digest];
        images.offer(&format!("shop/web:{version}").parse().unwrap(), image);
        digest
    };
    let controller =
        world.controller_with("first", |parts| parts.with_images(Arc::new(images.clone()))).await;
    let first = offered("v1");
    assert_eq!(deploy(&controller, imaged("v1", first)).await.outcome, Some(Outcome::Succeeded));
    let before = world.instances().await;
    let report = deploy(&controller, imaged("v2", ews_core::Digest::of(b"nowhere"))).await;
    assert_eq!(report.outcome, Some(Outcome::Failed), "{report:?}");
    assert!(report.cause.contains("its image can't be had, and nothing was changed"), "{}", report.cause);
    assert_eq!(world.instances().await, before);

    // What fails for a while is asked for again.
    let third = offered("v3");
    images.inject(ImageCall::Pull, CallFault::Fail(ErrorKind::Unavailable));
    assert_eq!(deploy(&controller, imaged("v3", third)).await.outcome, Some(Outcome::Succeeded));
    assert_eq!(controller.deployer.images_in_use().await.unwrap().len(), 3);

    // Of what EWS made, only what no revision needs goes, and what the caller keeps stays too.
    let ours = |name: &str| {
        let mut image =
            ews_core::image::Image::new(ews_core::Digest::of(name.as_bytes()), Platform::host().unwrap());
        image.labels.insert("ews/owner".to_owned(), "acme".to_owned());
        image
    };
    for name in ["spare", "kept"] {
        let reference: ews_core::ImageRef = format!("shop/{name}:1").parse().unwrap();
        images.offer(&reference, ours(name));
        let source = ews_core::spec::source::ImageSource::new(reference);
        let mut pulled = ImageStore::ensure(&images, &source, &EnsureOptions::default()).await.unwrap();
        while futures_util::StreamExt::next(&mut pulled).await.is_some() {}
    }
    let mut options = PruneOptions::default();
    (options.keep, options.dry_run) = (vec![ours("kept").id], true);
    assert_eq!(controller.deployer.prune_images(&options).await.unwrap(), [ours("spare").id]);
    options.dry_run = false;
    assert_eq!(controller.deployer.prune_images(&options).await.unwrap(), [ours("spare").id]);
    assert!(controller.deployer.prune_images(&options).await.unwrap().is_empty());

    // The image of before is gone everywhere: a rollback to it is refused, and what runs runs on.
    controller.kill();
    let none = FakeImages::new("n1".parse().unwrap(), Platform::host().unwrap());
    let controller = world.controller_with("next", |parts| parts.with_images(Arc::new(none))).await;
    let before = world.instances().await;
    let id = controller.deployer.rollback(&web(), None).await.unwrap();
    let report = ended(&controller, &id).await;
    assert_eq!(report.outcome, Some(Outcome::Failed), "{report:?}");
    assert_eq!(world.instances().await, before);
}
