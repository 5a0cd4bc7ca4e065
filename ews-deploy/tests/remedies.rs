//! What is done about instances that are not well, by the rules of the service.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ews_core::event::Notice;
use ews_core::metrics::MetricQuery;
use ews_core::policy::{Explained, Policy, PolicyState};
use ews_core::{ErrorKind, Instance, InstanceState, NodeId, NodeState, Selector, ServiceSpec, Timestamp};
use ews_deploy::{
    Ailment, Batch, DeployEvent, EventKind, Outcome, Remedy, RemedyPolicy, RemedyRule, RemedySeen, Step,
    Treatment,
};
use rig::*;

const S: Duration = Duration::from_secs(1);

/// A world in which v1 runs under these remedies.
async fn under(policy: RemedyPolicy, spec: ServiceSpec) -> (World, Controller) {
    let world = World::new();
    let controller = world.controller("first").await;
    deployed(&controller, policy, spec).await;
    (world, controller)
}

async fn deployed(controller: &Controller, policy: RemedyPolicy, spec: ServiceSpec) {
    let id = controller.deployer.deploy(&request(spec).with_remedy(policy)).await.unwrap();
    assert_eq!(ended(controller, &id).await.outcome, Some(Outcome::Succeeded));
}

fn told(events: &mut ews_core::bus::Subscription<DeployEvent>) -> Vec<EventKind> {
    let mut told = Vec::new();
    while let Some(Notice::Event(event)) = events.try_next() {
        told.push(event.event.kind);
    }
    told
}

async fn at(world: &World, slot: u32) -> Vec<Instance> {
    world.instances().await.into_iter().filter(|instance| instance.key.slot == slot).collect()
}

#[tokio::test(start_paused = true)]
async fn one_that_keeps_ending_is_made_anew_and_somebody_is_told() {
    let rule = RemedyRule::new(Remedy::Replace).for_ailments([Ailment::Ended]).from_restarts(1).with_alert();
    let (world, controller) = under(RemedyPolicy::default().with_rules([rule]), spec("v1")).await;
    let mut events = controller.deployer.events();
    let first = at(&world, 0).await.remove(0);
    world.engine.exit(&first.id, 1);
    let again = || async { at(&world, 0).await[0].incarnation > first.incarnation };
    eventually("the first time it is started again", again).await;
    world.assert_whole(3, "v1").await;
    assert_eq!(at(&world, 0).await[0].id, first.id);
    world.engine.exit(&first.id, 1);
    eventually("it is another one", || async { at(&world, 0).await.iter().all(|i| i.id != first.id) }).await;
    world.assert_whole(3, "v1").await;
    assert_eq!(at(&world, 0).await[0].key.generation, first.key.generation + 1);
    let alerts = told(&mut events).into_iter().filter(|kind| {
        matches!(kind, EventKind::Treated { slot: 0, ailment: Ailment::Ended, remedy: Remedy::Replace, alert: true, explained }
            if explained.contains("rule 1") && explained.contains("restarts = 1"))
    });
    assert_eq!(alerts.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_ready_is_left_alone_unless_a_rule_says_otherwise() {
    let rule = RemedyRule::new(Remedy::Restart).for_ailments([Ailment::NotReady]).after(60 * S);
    for (policy, restarted) in
        [(RemedyPolicy::default(), false), (RemedyPolicy::default().with_rules([rule]), true)]
    {
        let (world, _controller) = under(policy, spec("v1")).await;
        let ill = at(&world, 1).await.remove(0);
        world.checks.fail_readiness(&ill.id);
        eventually("it gets no traffic", || async { world.serving().await.len() == 2 }).await;
        tokio::time::sleep(50 * S).await;
        assert_eq!(at(&world, 1).await[0].incarnation, ill.incarnation);
        tokio::time::sleep(20 * S).await;
        assert_eq!(at(&world, 1).await[0].incarnation > ill.incarnation, restarted);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_ejected_is_left_for_whoever_looks() {
    let rule = RemedyRule::new(Remedy::Eject).for_ailments([Ailment::NotLive]).with_alert();
    let mut spec = spec("v1");
    let mut liveness = spec.instance.probes.readiness.clone().unwrap();
    liveness.check = ews_core::spec::probe::Check::Http(ews_core::spec::probe::HttpCheck::new("/live"));
    spec.instance.probes.liveness = Some(liveness);
    let (world, _controller) = under(RemedyPolicy::default().with_rules([rule]), spec).await;
    let ill = at(&world, 2).await.remove(0);
    world.checks.fail_liveness(&ill.id);
    eventually("it gets no traffic", || async { world.serving().await.len() == 2 }).await;
    tokio::time::sleep(600 * S).await;
    assert_eq!(at(&world, 2).await, std::slice::from_ref(&ill), "it runs on");
    world.checks.clear();
    eventually("it serves again when it is well", || async { world.serving().await.len() == 3 }).await;
    assert_eq!(at(&world, 2).await[0].incarnation, ill.incarnation);
}

#[tokio::test(start_paused = true)]
async fn what_ran_on_a_node_that_is_lost_is_moved_after_a_while_and_goes_when_it_is_back() {
    let world = World::new();
    let controller = world.controller("first").await;
    deployed(&controller, RemedyPolicy::default().with_fencing(60 * S), spec("v1")).await;
    let before = world.instances().await;
    let node: NodeId = before[0].node.clone();
    let lost: BTreeSet<u32> = before.iter().filter(|i| i.node == node).map(|i| i.key.slot).collect();
    assert!(!lost.is_empty() && lost.len() < 3, "{before:?}");
    let since = Timestamp::EPOCH;
    world.engine.set_node_state(&node, NodeState::Unknown { since });
    tokio::time::sleep(50 * S).await;
    assert_eq!(world.instances().await.len(), 3, "not before its time");
    let moved = || async {
        let running = world.instances().await.into_iter().filter(|i| i.state == InstanceState::Running);
        running.map(|i| i.key.slot).collect::<BTreeSet<_>>().len() == 3
    };
    eventually("each slot has one that can be asked", moved).await;
    // It serves, and the lost ones do not.
    let gone: Vec<String> = before.iter().filter(|i| i.node == node).map(|i| i.id.to_string()).collect();
    let right = || async {
        let serving = world.serving().await;
        serving.len() == 3 && gone.iter().all(|id| !serving.contains(id))
    };
    eventually("three serve, and none that is lost", right).await;
    world.engine.set_node_state(&node, NodeState::Ready);
    world.assert_whole(3, "v1").await;
    assert!(
        world.instances().await.iter().filter(|i| lost.contains(&i.key.slot)).all(|i| i.key.generation == 1)
    );
}

#[tokio::test(start_paused = true)]
async fn one_of_which_there_may_be_only_one_is_never_moved_by_itself() {
    let world = World::new();
    let controller = world.controller("first").await;
    let mut single = spec("v1");
    single.replicas = 1;
    let volume = ews_core::spec::storage::MountKind::Volume("data".parse().unwrap());
    single.instance.mounts = vec![ews_core::spec::storage::Mount::new("/data", volume)];
    deployed(&controller, RemedyPolicy::default().with_fencing(60 * S), single).await;
    let node = world.instances().await[0].node.clone();
    world.engine.set_node_state(&node, NodeState::Unknown { since: Timestamp::EPOCH });
    tokio::time::sleep(600 * S).await;
    assert_eq!(world.instances().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn when_all_fall_ill_at_once_only_some_are_treated_at_once() {
    let mut many = spec("v1");
    many.replicas = 12;
    let (world, controller) = under(RemedyPolicy::default().with_brake(Batch::Percent(25)), many).await;
    let mut events = controller.deployer.events();
    for instance in world.instances().await {
        world.engine.exit(&instance.id, 1);
    }
    let again = || async {
        let instances = world.instances().await;
        instances.iter().all(|instance| instance.incarnation.0 == 2) && world.serving().await.len() == 12
    };
    eventually("all are back", again).await;
    let (mut treated, mut most, mut braked) = (BTreeSet::new(), 0, 0);
    for kind in told(&mut events) {
        match kind {
            EventKind::Step { slot, step: Step::Start, .. } => {
                treated.insert(slot);
            }
            EventKind::Filled { slot, .. } => {
                treated.remove(&slot);
            }
            EventKind::Braked { at_once, .. } => {
                assert_eq!(at_once, 3);
                braked += 1;
            }
            _ => {}
        }
        most = most.max(treated.len());
    }
    assert_eq!((most, braked >= 1), (3, true), "{braked}");
}

#[tokio::test(start_paused = true)]
async fn scaling_out_is_not_what_the_brake_is_for() {
    use ews_core::{ScaleChange, ScaleTarget as _};
    let policy = RemedyPolicy::default().with_brake(Batch::Count(1));
    let (world, controller) = under(policy, spec("v1")).await;
    let mut events = controller.deployer.events();
    controller.deployer.set(&web(), &ScaleChange::to(12, "more")).await.unwrap();
    world.assert_whole(12, "v1").await;
    assert!(!told(&mut events).iter().any(|kind| matches!(kind, EventKind::Braked { .. })));
}

#[tokio::test(start_paused = true)]
async fn while_the_error_budget_is_used_up_other_rules_hold() {
    let query = MetricQuery::new("budget", Selector::equal("service", "web").unwrap());
    let rule = RemedyRule::new(Remedy::Hold).for_ailments([Ailment::Ended]).budget_below(0.1).with_alert();
    let policy = RemedyPolicy::default().with_rules([rule]).with_error_budget(query);
    let (world, _controller) = under(policy, spec("v1")).await;
    world.metrics.say_of_all(Say::Number(0.05));
    tokio::time::sleep(130 * S).await;
    let victim = at(&world, 0).await.remove(0);
    world.engine.exit(&victim.id, 1);
    tokio::time::sleep(60 * S).await;
    assert!(at(&world, 0).await[0].state.is_ended(), "it is held");
    // What is not known moves nothing: the rule does not apply.
    world.metrics.say_of_all(Say::Nothing);
    world.assert_whole(3, "v1").await;
}

/// Replaces whatever is not well.
struct Anew;

impl Policy<RemedySeen, Treatment> for Anew {
    fn name(&self) -> &str {
        "anew/1"
    }

    fn decide(
        &self,
        seen: &RemedySeen,
        state: &PolicyState,
        now: Timestamp,
    ) -> (Explained<Treatment>, PolicyState) {
        let treatment = Treatment::new(Remedy::Replace);
        (Explained::new("anew/1", now, treatment, seen.reason.clone()), state.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_in_rust_comes_before_the_rules() {
    let world = World::new();
    let controller = world.controller_with("ours", |parts| parts.with_remedy_policy(Arc::new(Anew))).await;
    assert_eq!(deploy(&controller, spec("v1")).await.outcome, Some(Outcome::Succeeded));
    let victim = at(&world, 0).await.remove(0);
    world.engine.exit(&victim.id, 1);
    eventually("it is another one", || async { at(&world, 0).await.iter().all(|i| i.id != victim.id) }).await;
    world.assert_whole(3, "v1").await;
}

#[tokio::test(start_paused = true)]
async fn remedies_that_can_not_work_are_refused() {
    let world = World::new();
    let controller = world.controller("first").await;
    let policy = RemedyPolicy::default().with_brake(Batch::Count(0));
    let error = controller.deployer.deploy(&request(spec("v1")).with_remedy(policy)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}
