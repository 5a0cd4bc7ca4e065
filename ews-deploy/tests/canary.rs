//! What is done before anything is replaced: canaries by step, blue/green, analyses.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::time::Duration;

use ews_core::balancer::{AttributeMatch, AttributePlace, DomainName, Object};
use ews_core::metrics::MetricQuery;
use ews_core::spec::network::Port;
use ews_core::{ErrorKind, PortName, Scale, ScaleChange, ScaleTarget as _, Selector};
use ews_deploy::{
    Analysis, Batch, BlueGreen, Canary, CanaryStep, Condition, DeployRequest, MetricCheck, OnFailure,
    OnInconclusive, Outcome, Phase, RolloutId, RolloutReport, Strategy,
};
use rig::*;

/// Short, since every second of virtual time has its probes.
const WHILE: Duration = Duration::from_secs(10);

fn pause() -> CanaryStep {
    CanaryStep::Pause(10 * WHILE)
}

fn steps(steps: impl IntoIterator<Item = CanaryStep>) -> Strategy {
    strategy().with_canary(Canary::new(steps))
}

fn errors() -> MetricCheck {
    MetricCheck::new("errors", MetricQuery::new("errors", Selector::everything()), Condition::AtMost(1.0))
}

async fn begin(controller: &Controller, strategy: Strategy) -> RolloutId {
    controller.deployer.deploy(&request(spec("v2")).with_strategy(strategy)).await.unwrap()
}

async fn report(controller: &Controller, id: &RolloutId) -> RolloutReport {
    controller.deployer.rollout(id).await.unwrap()
}

/// Waits until the rollout is at this step, from 1, and has what it takes.
async fn at_step(world: &World, controller: &Controller, id: &RolloutId, number: usize) -> RolloutReport {
    let there = || async {
        let report = controller.deployer.rollout(id).await;
        report.is_ok_and(|report| report.step.is_some_and(|step| step.number == number))
    };
    eventually("the step", there).await;
    // The balancer follows at once.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(world.count("v1").await >= 1);
    report(controller, id).await
}

async fn paused(controller: &Controller, id: &RolloutId) -> RolloutReport {
    eventually("it waits", || async { controller.deployer.rollout(id).await.is_ok_and(|r| r.paused) }).await;
    report(controller, id).await
}

#[tokio::test(start_paused = true)]
async fn weights_are_shares_of_traffic_and_instances_stand_beside_the_old_ones() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    let before = world.instances().await;
    let strategy = steps([CanaryStep::Weight(10), pause(), CanaryStep::Weight(50), pause()]);
    let id = begin(&controller, strategy).await;
    let at = at_step(&world, &controller, &id, 2).await;
    assert_eq!((world.count("v1").await, world.count("v2").await), (3, 1), "10 % of three is one");
    assert_eq!(world.share("v2").await, 10);
    let step = at.step.unwrap();
    assert_eq!((step.weight, step.up, step.of, at.done), (10, 1, 4, (0, 3)));
    at_step(&world, &controller, &id, 4).await;
    assert_eq!((world.count("v1").await, world.count("v2").await), (3, 2));
    assert_eq!(world.share("v2").await, 50);
    let old: Vec<_> = world.instances().await.into_iter().filter(|i| before.contains(i)).collect();
    assert_eq!(old, before, "no old instance was touched");
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    world.assert_whole(3, "v2").await;
    assert_eq!(world.share("v2").await, 100);
    assert_eq!(world.guard.least(), 3);
}

#[tokio::test(start_paused = true)]
async fn instances_can_be_other_than_the_weight_and_a_smaller_weight_takes_some_away() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    let all = CanaryStep::Replicas(Batch::Percent(100));
    let one = CanaryStep::Replicas(Batch::Count(1));
    let id = begin(&controller, steps([all, pause(), CanaryStep::Weight(5), pause(), one, pause()])).await;
    at_step(&world, &controller, &id, 2).await;
    assert_eq!((world.count("v2").await, world.share("v2").await), (3, 0), "three that get nothing");
    at_step(&world, &controller, &id, 4).await;
    assert_eq!((world.count("v2").await, world.share("v2").await), (3, 5));
    at_step(&world, &controller, &id, 6).await;
    eventually("two of three are gone", || async { world.count("v2").await == 1 }).await;
    assert_eq!(world.share("v2").await, 5);
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    world.assert_whole(3, "v2").await;
    assert_eq!(world.guard.least(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_bad_canary_goes_and_the_old_ones_were_not_touched() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    let before = world.instances().await;
    for (number, bad) in (2..).zip([sick("v2"), crashing("v2")]) {
        let strategy = steps([CanaryStep::Weight(10), pause()]);
        let id = controller.deployer.deploy(&request(bad).with_strategy(strategy)).await.unwrap();
        let report = ended(&controller, &id).await;
        assert_eq!((id.number, report.outcome), (number, Some(Outcome::RolledBack)), "{report:?}");
        world.assert_whole(3, "v1").await;
        assert_eq!(world.instances().await, before);
        assert_eq!(world.share("v1").await, 100);
    }
}

#[tokio::test(start_paused = true)]
async fn approval_waits_however_long_and_whoever_leads_and_abort_sends_everybody_back_at_once() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    let before = world.instances().await;
    let strategy =
        steps([CanaryStep::Weight(50), CanaryStep::Approval, CanaryStep::Weight(60), CanaryStep::Approval]);
    let id = begin(&controller, strategy.clone()).await;
    let waits = paused(&controller, &id).await;
    assert_eq!(waits.cause, "step 2 of 4 waits for approval");
    tokio::time::sleep(3 * strategy.progress_deadline).await;
    controller.kill();
    let controller = world.controller("next").await;
    tokio::time::sleep(3 * strategy.progress_deadline).await;
    assert_eq!((world.count("v2").await, world.share("v2").await), (2, 50));
    controller.deployer.resume(&web()).await.unwrap();
    eventually("the next", || async { report(&controller, &id).await.cause.contains("step 4") }).await;
    assert_eq!(world.share("v2").await, 60);
    controller.deployer.abort(&web()).await.unwrap();
    eventually("it turned", || async { world.share("v2").await == 0 }).await;
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::RolledBack));
    world.assert_whole(3, "v1").await;
    assert_eq!(world.instances().await, before, "the same instances, started once");
    assert_eq!(world.guard.least(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_canary_is_no_more_though_nobody_judged_it() {
    let (world, controller) = running().await;
    let before = world.instances().await;
    let all = CanaryStep::Replicas(Batch::Percent(100));
    let id = begin(&controller, steps([all, CanaryStep::Approval])).await;
    paused(&controller, &id).await;
    assert_eq!(world.count("v2").await, 3);
    controller.deployer.cancel(&web()).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Cancelled));
    // While it is cleared away it gets nothing, though it serves.
    for _ in 0..200 {
        assert_eq!(world.share("v2").await, 0);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.assert_whole(3, "v1").await;
    assert_eq!(world.instances().await, before);
}

#[tokio::test(start_paused = true)]
async fn requests_that_match_get_the_new_one() {
    let (world, controller) = running().await;
    let beta = AttributeMatch::new(AttributePlace::Header, "x-beta").with_value("1");
    let matching = CanaryStep::Match(vec![beta.clone()]);
    let id = begin(
        &controller,
        steps([matching, pause(), CanaryStep::Match(Vec::new()), CanaryStep::Weight(20), pause()]),
    )
    .await;
    at_step(&world, &controller, &id, 2).await;
    assert_eq!((world.count("v2").await, world.share("v2").await), (1, 0));
    let rules = world.rules("web").await;
    assert_eq!((rules.len(), rules[1].contains_key("v2")), (2, true), "{rules:?}");
    let objects = world.objects().await;
    let attributes = objects.iter().find_map(|object| match object {
        Object::RouteSet(set) => Some(set.rules[1].attributes.clone()),
        _ => None,
    });
    assert_eq!(attributes, Some(vec![beta]));
    at_step(&world, &controller, &id, 5).await;
    assert_eq!((world.rules("web").await.len(), world.share("v2").await), (1, 20));
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
}

#[tokio::test(start_paused = true)]
async fn blue_green_shows_the_new_one_switches_once_and_goes_back_by_one_switch() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    let before = world.instances().await;
    let preview = DomainName::new("preview.web.test").unwrap();
    let blue_green = BlueGreen::default().with_preview([preview]).with_approval().with_retire(10 * WHILE);
    let strategy = strategy().with_blue_green(blue_green);
    let id = begin(&controller, strategy.clone()).await;
    paused(&controller, &id).await;
    assert_eq!((world.count("v2").await, world.share("v2").await), (3, 0));
    assert_eq!(world.rules("web.preview").await.len(), 1);
    assert!(
        world
            .objects()
            .await
            .iter()
            .any(|o| matches!(o, Object::Domain(d) if d.name.as_str() == "preview.web.test"))
    );
    controller.deployer.resume(&web()).await.unwrap();
    eventually("the switch", || async { world.share("v2").await == 100 }).await;
    let gone = || async { world.rules("web.preview").await.is_empty() };
    eventually("nobody needs the preview", gone).await;
    tokio::time::sleep(9 * WHILE).await;
    assert_eq!(world.count("v1").await, 3, "they stay for a while");
    controller.deployer.abort(&web()).await.unwrap();
    eventually("back", || async { world.share("v1").await == 100 }).await;
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::RolledBack));
    world.assert_whole(3, "v1").await;
    assert_eq!(world.instances().await, before, "going back started nothing");

    let id = begin(&controller, strategy).await;
    paused(&controller, &id).await;
    controller.deployer.resume(&web()).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    world.assert_whole(3, "v2").await;
    assert_eq!(world.guard.least(), 3);
    let domains = world.objects().await.into_iter().filter(|o| matches!(o, Object::Domain(_))).count();
    assert_eq!(domains, 1, "nothing is left of the preview");
}

fn analysed(answer: OnInconclusive) -> Strategy {
    let analysis = Analysis::new([errors()]).with_schedule(5, WHILE).with_on_inconclusive(answer);
    steps([CanaryStep::Weight(20), CanaryStep::Analysis(analysis)])
}

#[tokio::test(start_paused = true)]
async fn an_analysis_that_passes_lets_the_rollout_go_on_whoever_leads() {
    let (world, mut controller) = running().await;
    world.metrics.say("r2", Say::Number(1.0));
    let id = begin(&controller, analysed(OnInconclusive::Pause)).await;
    for measured in 1..=4 {
        let there = || async {
            let report = controller.deployer.rollout(&id).await;
            report.is_ok_and(|report| report.step.is_some_and(|step| step.measured == measured))
        };
        eventually("another measurement", there).await;
        controller.kill();
        controller = world.controller(&format!("after {measured}")).await;
    }
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    assert_eq!(world.metrics.asked(), 5, "none is taken twice");
    world.assert_whole(3, "v2").await;
}

#[tokio::test(start_paused = true)]
async fn an_analysis_that_fails_sends_everybody_back() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    world.metrics.say("r2", Say::Number(1.1));
    let id = begin(&controller, analysed(OnInconclusive::Pause)).await;
    let report = ended(&controller, &id).await;
    assert_eq!((report.outcome, report.phase), (Some(Outcome::RolledBack), Phase::RollingBack), "{report:?}");
    assert_eq!(report.cause, "the analysis failed: errors: 1.1; good is at most 1");
    assert_eq!(world.metrics.asked(), 2, "one failure is taken");
    world.assert_whole(3, "v1").await;
    assert_eq!(world.guard.least(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_known_passes_nothing_and_somebody_decides() {
    for (say, cause, asked) in [
        (Say::Nothing, "the analysis is inconclusive: errors: it is missing", 1),
        (Say::Away, "the analysis is error: errors: it can't be measured: the metrics are away", 5),
    ] {
        let (world, controller) = running().await;
        world.metrics.say("r2", say);
        let id = begin(&controller, analysed(OnInconclusive::Pause)).await;
        assert_eq!(paused(&controller, &id).await.cause, cause);
        assert_eq!(world.metrics.asked(), asked);
        tokio::time::sleep(20 * WHILE).await;
        assert_eq!(
            (world.share("v2").await, world.metrics.asked()),
            (20, asked),
            "nothing happens by itself"
        );
        controller.deployer.resume(&web()).await.unwrap();
        assert_eq!(
            ended(&controller, &id).await.outcome,
            Some(Outcome::Succeeded),
            "somebody said it is good"
        );

        let (world, controller) = running().await;
        world.metrics.say("r2", say);
        let id = begin(&controller, analysed(OnInconclusive::Fail)).await;
        assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::RolledBack));
        world.assert_whole(3, "v1").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_pauses_is_measured_anew_when_somebody_resumes() {
    let (world, controller) = running().await;
    world.metrics.say("r2", Say::Number(5.0));
    let strategy = analysed(OnInconclusive::Pause).with_on_failure(OnFailure::Pause);
    let id = begin(&controller, strategy).await;
    assert!(paused(&controller, &id).await.cause.contains("the analysis failed"));
    world.metrics.say("r2", Say::Number(0.0));
    controller.deployer.resume(&web()).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    assert_eq!(world.metrics.asked(), 2 + 5);
}

#[tokio::test(start_paused = true)]
async fn the_new_one_is_measured_against_the_old_one() {
    for (new, outcome) in [(1.9, Outcome::Succeeded), (2.1, Outcome::RolledBack)] {
        let (world, controller) = running().await;
        world.metrics.say("r1", Say::Number(1.0));
        world.metrics.say("r2", Say::Number(new));
        let mut check = errors();
        check.pass = Condition::AtMostBaseline { times: 2.0, plus: 0.0 };
        let analysis = Analysis::new([check]);
        let id = begin(&controller, steps([CanaryStep::Weight(20), CanaryStep::Analysis(analysis)])).await;
        assert_eq!(ended(&controller, &id).await.outcome, Some(outcome), "{new}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_measured_all_along_ends_a_pause() {
    let (world, controller) = running().await;
    world.metrics.say("r2", Say::Number(0.0));
    let analysis = Analysis::new([errors()]).with_schedule(2, WHILE);
    let canary = Canary::new([CanaryStep::Weight(20), CanaryStep::Pause(20 * WHILE)]).with_analysis(analysis);
    let id = begin(&controller, strategy().with_canary(canary)).await;
    tokio::time::sleep(12 * WHILE).await;
    assert!(report(&controller, &id).await.outcome.is_none());
    assert!(world.metrics.asked() > 8, "beyond its count");
    world.metrics.say("r2", Say::Number(7.0));
    let report = ended(&controller, &id).await;
    assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
    assert!(report.step.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_canary_that_dies_is_started_again_and_so_is_an_old_one_while_it_waits() {
    let (world, controller) = running().await;
    let id = begin(&controller, steps([CanaryStep::Weight(50), CanaryStep::Approval])).await;
    paused(&controller, &id).await;
    for version in ["v2", "v1"] {
        let instances = world.instances().await;
        let victim = instances.iter().find(|i| i.labels.get("version") == Some(version)).unwrap();
        world.engine.exit(&victim.id, 9);
        let again = || async {
            let instances = world.instances().await;
            let found = instances.iter().find(|i| i.id == victim.id);
            found.is_some_and(|i| i.state.is_running() && i.incarnation > victim.incarnation)
                && world.serving().await.len() == 5
        };
        eventually(&format!("{version} is back"), again).await;
    }
    assert_eq!((world.count("v1").await, world.count("v2").await), (3, 2), "and nothing else was touched");
    assert_eq!(world.share("v2").await, 50);
    assert!(report(&controller, &id).await.failures.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_canary_that_dies_while_it_is_watched_has_failed() {
    let (world, controller) = running().await;
    let strategy = steps([CanaryStep::Weight(10), CanaryStep::Approval]).with_monitor(WHILE);
    let id = begin(&controller, strategy).await;
    paused(&controller, &id).await;
    let instances = world.instances().await;
    let canary = instances.iter().find(|i| i.labels.get("version") == Some("v2")).unwrap();
    world.engine.exit(&canary.id, 9);
    let report = ended(&controller, &id).await;
    assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
    assert!(report.failures[0].reason.contains("its program ended within"), "{report:?}");
    world.assert_whole(3, "v1").await;
}

async fn scale(controller: &Controller, to: u32) -> Scale {
    controller.deployer.set(&web(), &ScaleChange::to(to, "test")).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn scaling_in_the_middle_of_a_canary_keeps_its_weight() {
    let (world, controller) = running().await;
    let id = begin(&controller, steps([CanaryStep::Weight(50), CanaryStep::Approval, pause()])).await;
    paused(&controller, &id).await;
    scale(&controller, 6).await;
    eventually("six old ones", || async { world.count("v1").await == 6 }).await;
    controller.deployer.resume(&web()).await.unwrap();
    eventually("three new ones", || async { world.count("v2").await == 3 }).await;
    eventually("still half", || async { world.share("v2").await == 50 }).await;
    scale(&controller, 2).await;
    eventually("two old ones", || async { world.count("v1").await == 2 && world.count("v2").await == 1 })
        .await;
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    world.assert_whole(2, "v2").await;
}

#[tokio::test(start_paused = true)]
async fn a_later_rollout_takes_the_place_of_a_canary() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    let id = begin(&controller, steps([CanaryStep::Weight(50), CanaryStep::Approval])).await;
    paused(&controller, &id).await;
    let strategy = steps([CanaryStep::Weight(30), CanaryStep::Pause(WHILE)]);
    let next =
        request(spec("v3")).with_strategy(strategy).with_concurrency(ews_deploy::Concurrency::Supersede);
    let next = controller.deployer.deploy(&next).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Cancelled));
    assert_eq!(ended(&controller, &next).await.outcome, Some(Outcome::Succeeded));
    world.assert_whole(3, "v3").await;
    assert_eq!(world.guard.least(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_first_deployment_and_a_rollback_make_no_steps() {
    let world = World::new();
    let controller = world.controller("first").await;
    let careful = steps([CanaryStep::Weight(10), CanaryStep::Approval]);
    let first = request(spec("v1")).with_strategy(careful.clone());
    assert!(controller.deployer.plan(&first).await.unwrap().steps.is_empty());
    let id = controller.deployer.deploy(&first).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    let plan = controller.deployer.plan(&request(spec("v2")).with_strategy(careful.clone())).await.unwrap();
    assert!(plan.to_string().contains("step 1: weight 10%\nstep 2: approval\nbatch 1:"), "{plan}");
    let id = begin(&controller, careful).await;
    paused(&controller, &id).await;
    controller.deployer.resume(&web()).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    let id = controller.deployer.rollback(&web(), None).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    world.assert_whole(3, "v1").await;
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_is_refused_before_anything_happens() {
    let (_world, controller) = running().await;
    let refused = async |request: DeployRequest, word: &str| {
        let error = controller.deployer.deploy(&request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(word), "{error} lacks {word}");
        assert_eq!(controller.deployer.plan(&request).await.unwrap_err().kind(), ErrorKind::Invalid);
    };
    let canary = steps([CanaryStep::Weight(10)]);
    let mut fixed = spec("v2");
    fixed.instance.ports = vec![Port::new(PortName::new("http").unwrap(), Some(8080))];
    refused(
        request(fixed).with_strategy(canary.clone().with_order(ews_deploy::Order::StopFirst)),
        "beside old",
    )
    .await;
    for (strategy, word) in [
        (steps([]), "0 steps"),
        (steps([CanaryStep::Weight(101)]), "weight of 101"),
        (steps([CanaryStep::Pause(Duration::ZERO)]), "step 1"),
        (steps([CanaryStep::Analysis(Analysis::new([errors()]))]), "before the first analysis"),
        (steps([CanaryStep::Weight(1), CanaryStep::Analysis(Analysis::new([]))]), "checks"),
        (canary.with_blue_green(BlueGreen::default()), "one of the two"),
    ] {
        refused(request(spec("v2")).with_strategy(strategy), word).await;
    }
}

#[test]
fn a_canary_is_a_document() {
    let text = r#"{"canary": {"steps": [
        {"weight": 5}, {"pause": "10m"}, {"match": [{"place": "header", "name": "x-beta", "value": null}]},
        "approval", {"replicas": "50%"}]}}"#;
    let strategy: Strategy = serde_json::from_str(text).unwrap();
    strategy.check().unwrap();
    let back = serde_json::to_string(&strategy).unwrap();
    assert_eq!(serde_json::from_str::<Strategy>(&back).unwrap(), strategy);
    assert!(serde_json::from_str::<Strategy>(r#"{"canary": {"steps": [{"wait": 5}]}}"#).is_err());
}
