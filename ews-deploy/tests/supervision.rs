//! What dies is brought back, what hangs over is put right, and nobody acts twice.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::time::Duration;

use ews_core::event::Notice;
use ews_core::runtime::RemoveOptions;
use ews_core::spec::probe::{Check, HttpCheck, Probe};
use ews_core::{InstanceState, Labels, Runtime as _};
use ews_deploy::{EventKind, Outcome};
use rig::*;

#[tokio::test(start_paused = true)]
async fn an_instance_that_dies_leaves_traffic_and_comes_back_as_the_next_incarnation() {
    let (world, controller) = running().await;
    let victim = world.instances().await[1].clone();
    world.engine.exit(&victim.id, 1);
    let gone = || async { !world.serving().await.contains(&victim.id.to_string()) };
    eventually("it takes no traffic", gone).await;
    world.assert_whole(3, "v1").await;
    let now = world.instances().await[1].clone();
    assert_eq!((now.id, now.incarnation.0), (victim.id, victim.incarnation.0 + 1));
    drop(controller);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_removed_behind_our_back_is_created_anew() {
    let (world, controller) = running().await;
    let victim = world.instances().await[2].clone();
    controller.runtime.remove(&victim.id, &RemoveOptions::force()).await.unwrap();
    eventually("it is missed", || async { world.engine.objects() == 2 }).await;
    world.assert_whole(3, "v1").await;
}

#[tokio::test(start_paused = true)]
async fn one_that_dies_again_and_again_is_given_up_for_a_while_and_the_others_serve() {
    let (world, controller) = running().await;
    let mut events = controller.deployer.events();
    let victim = world.instances().await[0].id.clone();
    let mut given_up = 0;
    let mut pauses = 0;
    for _ in 0..200_000 {
        let state = controller.runtime.get(&victim).await.unwrap().state;
        if state == InstanceState::Running {
            world.engine.exit(&victim, 1);
        }
        while let Some(Notice::Event(event)) = events.try_next() {
            match event.event.kind {
                EventKind::GivenUp { restarts, .. } => {
                    assert_eq!(restarts, 5);
                    given_up += 1;
                }
                EventKind::InstanceLost { reason, .. } if reason.contains("started again in") => pauses += 1,
                _ => {}
            }
        }
        if given_up == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The restart after giving up is the first of the next five.
    assert_eq!((given_up, pauses), (2, 9));
    assert_eq!(world.serving().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_whose_liveness_fails_is_restarted() {
    let world = World::new();
    let controller = world.controller("first").await;
    let mut spec = spec("v1");
    let mut liveness = Probe::new(Check::Http(HttpCheck::new("/live")));
    liveness.interval = Duration::from_secs(1);
    spec.instance.probes.liveness = Some(liveness);
    assert_eq!(deploy(&controller, spec).await.outcome, Some(Outcome::Succeeded));
    let victim = world.instances().await[0].clone();
    world.checks.fail_liveness(&victim.id);
    let restarted = || async {
        let now = controller.runtime.get(&victim.id).await.unwrap();
        now.incarnation > victim.incarnation && now.state == InstanceState::Running
    };
    eventually("it was restarted", restarted).await;
    world.checks.clear();
    world.assert_whole(3, "v1").await;
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_ready_rests_from_traffic_and_comes_back_without_a_restart() {
    let (world, _controller) = running().await;
    let victim = world.instances().await[0].clone();
    world.checks.fail_readiness(&victim.id);
    let name = victim.id.to_string();
    eventually("it rests", || async { !world.serving().await.contains(&name) }).await;
    assert_eq!(world.serving().await.len(), 2);
    world.checks.clear();
    eventually("it serves again", || async { world.serving().await.contains(&name) }).await;
    assert_eq!(world.instances().await[0], victim, "nobody restarted it");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_can_not_be_asked_is_no_reason_to_do_anything() {
    let (world, controller) = running().await;
    let before = world.instances().await;
    let mut events = controller.deployer.events();
    world.engine.sever();
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(world.serving().await.len(), 3, "silence is not an end");
    world.engine.restore();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.instances().await, before);
    while let Some(Notice::Event(event)) = events.try_next() {
        assert!(!matches!(event.event.kind, EventKind::InstanceLost { .. }), "{event:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn other_owners_instances_are_never_touched() {
    use ews_core::RuntimeExt as _;
    let (world, controller) = running().await;
    let key = ews_core::InstanceKey {
        owner: "stranger".parse().unwrap(),
        service: web(),
        revision: "r1".parse().unwrap(),
        slot: 7,
        generation: 0,
    };
    let mut foreign = spec("theirs").instance;
    foreign.labels = Labels::new([("version", "theirs")]).unwrap();
    let theirs = controller.runtime.launch(&foreign, &key, &Default::default()).await.unwrap();
    deploy(&controller, spec("v2")).await;
    controller.deployer.remove(&web()).await.unwrap();
    controller.deployer.wait_removed(&web()).await.unwrap();
    assert_eq!(world.instances().await, [controller.runtime.get(&theirs.id).await.unwrap()]);
    assert_eq!(controller.runtime.get(&theirs.id).await.unwrap().incarnation, theirs.incarnation);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_lost_everything_is_told_again() {
    use ews_core::Balancer as _;
    use ews_core::balancer::{Change, Op};
    let (world, _controller) = running().await;
    // Whoever else has access removes an endpoint and spoils the routes.
    let endpoint = world.objects().await.into_iter().map(|object| object.reference());
    let endpoint =
        endpoint.into_iter().find(|reference| reference.to_string().starts_with("endpoint/")).unwrap();
    let change = Change::new("somebody".parse().unwrap(), [Op::Delete(endpoint)]);
    world.balancer.apply(&change).await.unwrap();
    assert_eq!(world.serving().await.len(), 2);
    world.assert_whole(3, "v1").await;
}

#[tokio::test(start_paused = true)]
async fn a_second_controller_stands_by_and_takes_over_when_the_first_is_silent() {
    let (world, first) = running().await;
    let second = world.controller("second").await;
    // Both may be asked; one acts.
    let id = second.deployer.deploy(&request(spec("v2"))).await.unwrap();
    assert_eq!(ended(&second, &id).await.outcome, Some(Outcome::Succeeded));
    world.assert_whole(3, "v2").await;
    let mut events = second.deployer.events();
    let id = second.deployer.deploy(&request(spec("v3"))).await.unwrap();
    eventually("it has begun", || async { second.deployer.rollout(&id).await.is_ok() }).await;
    first.kill();
    assert_eq!(ended(&second, &id).await.outcome, Some(Outcome::Succeeded));
    world.assert_whole(3, "v3").await;
    let mut led = false;
    while let Some(Notice::Event(event)) = events.try_next() {
        led |= matches!(event.event.kind, EventKind::Leading);
    }
    assert!(led);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_was_frozen_beyond_its_lease_changes_nothing_any_more() {
    use ews_core::testkit::fake::{Fault, FaultRule, Operation};
    let (world, first) = running().await;
    // The first one's next start hangs at the engine; meanwhile it loses its store, and another takes over.
    world.engine.faults().add(FaultRule::new(Fault::Hang).on(Operation::Start).times(1));
    let id = first.deployer.deploy(&request(spec("v2"))).await.unwrap();
    let started = || async { world.engine.count(Operation::Start) > 3 };
    eventually("the start hangs", started).await;
    let lease = world.lease_of_leader().await;
    ews_core::Store::revoke(&*world.store, lease).await.unwrap();
    let second = world.controller("second").await;
    assert_eq!(ended(&second, &id).await.outcome, Some(Outcome::Succeeded));
    world.engine.faults().release();
    tokio::time::sleep(Duration::from_secs(120)).await;
    world.assert_whole(3, "v2").await;
}

/// A probe that wants two passes, behind one of the start: both say "not ready" to whoever knows nothing.
fn slow_to_believe() -> ews_core::ServiceSpec {
    let mut spec = spec("v1");
    let probe = spec.instance.probes.readiness.as_mut().unwrap();
    (probe.success, probe.interval) = (2, Duration::from_secs(5));
    let mut startup = Probe::new(Check::Http(HttpCheck::new("/")));
    startup.interval = Duration::from_secs(1);
    spec.instance.probes.startup = Some(startup);
    spec
}

#[tokio::test(start_paused = true)]
async fn what_served_serves_on_under_a_successor_however_many_passes_its_probe_wants() {
    let world = World::new();
    let controller = world.controller("first").await;
    assert_eq!(deploy(&controller, slow_to_believe()).await.outcome, Some(Outcome::Succeeded));
    controller.kill();
    let controller = world.controller("first").await;
    let mut known = false;
    for _ in 0..3_000 {
        assert_eq!(world.serving().await.len(), 3, "nothing has failed");
        let status = controller.deployer.status(&web()).await.unwrap();
        assert_eq!(status.ready + status.unknown, 3, "nobody has seen that one is not ready: {status:?}");
        known |= status.unknown == 0;
        assert!(!known || status.unknown == 0, "what is known is not forgotten: {status:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(known, "nobody looked");
    // What fails from now on is found out as ever.
    let victim = world.instances().await[0].id.clone();
    world.checks.fail_readiness(&victim);
    let rests = || async { !world.serving().await.contains(&victim.to_string()) };
    eventually("it takes no traffic", rests).await;
    assert_eq!(controller.deployer.status(&web()).await.unwrap().ready, 2);
    drop(controller);
}
