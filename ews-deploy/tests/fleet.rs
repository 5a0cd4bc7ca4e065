//! Restarts as rollouts, and acting on many by their labels.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::collections::BTreeMap;
use std::time::Duration;

use ews_core::runtime::ExecSpec;
use ews_core::{
    ErrorKind, InstanceId, LabelOverlay, Labels, Scale, ScaleChange, Selector, ServiceName, ServiceSpec,
};
use ews_deploy::{Approval, Canary, CanaryStep, DeployRequest, Hotfix, Outcome};
use futures_util::StreamExt as _;
use rig::*;

async fn ids(world: &World) -> Vec<InstanceId> {
    world.instances().await.into_iter().map(|instance| instance.id).collect()
}

#[tokio::test(start_paused = true)]
async fn a_restart_makes_every_instance_anew_and_capacity_never_falls() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    let before = ids(&world).await;
    let id = controller.deployer.restart(&web(), &strategy()).await.unwrap();
    let report = ended(&controller, &id).await;
    assert_eq!((report.outcome, report.done), (Some(Outcome::Succeeded), (3, 3)), "{report:?}");
    world.assert_whole(3, "v1").await;
    assert!(ids(&world).await.iter().all(|id| !before.contains(id)));
    assert_eq!(world.guard.least(), 3);
    let canary = strategy().with_canary(Canary::new([CanaryStep::Weight(1)]));
    assert_eq!(controller.deployer.restart(&web(), &canary).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_with_another_controller_and_can_be_ended() {
    let (world, controller) = running().await;
    let before = ids(&world).await;
    let asks = strategy().with_approval(Approval::FirstBatch);
    let id = controller.deployer.restart(&web(), &asks).await.unwrap();
    eventually("it waits", || async { controller.deployer.rollout(&id).await.is_ok_and(|r| r.paused) }).await;
    controller.kill();
    let controller = world.controller("next").await;
    controller.deployer.abort(&web()).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Cancelled));
    world.assert_whole(3, "v1").await;
    let kept = ids(&world).await.iter().filter(|id| before.contains(id)).count();
    assert_eq!(kept, 2, "the first one was made anew, and nothing else happened");
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_fails_ends_there_and_what_served_serves() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    // Whatever is started from now on does not get ready.
    let before = world.instances().await;
    let id = controller.deployer.restart(&web(), &strategy()).await.unwrap();
    for generation in 0..2 {
        let _ = generation;
        let fresh = || async { world.instances().await.iter().any(|i| i.key.generation == 1) };
        eventually("a new one", fresh).await;
        for instance in world.instances().await.iter().filter(|i| i.key.generation == 1) {
            world.checks.fail_readiness(&instance.id);
        }
    }
    let report = ended(&controller, &id).await;
    assert_eq!(report.outcome, Some(Outcome::Failed), "{report:?}");
    world.assert_whole(3, "v1").await;
    assert_eq!(world.instances().await, before, "what was to come is gone");
}

fn api(replicas: u32) -> ServiceSpec {
    let mut spec = spec("v1");
    spec.name = ServiceName::new("api").unwrap();
    spec.replicas = replicas;
    spec
}

async fn two_services() -> (World, Controller) {
    let (world, controller) = running().await;
    let id = controller.deployer.deploy(&DeployRequest::new(api(2)).with_strategy(strategy())).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    (world, controller)
}

#[tokio::test(start_paused = true)]
async fn what_matches_is_chosen_and_nothing_is_never_everything() {
    let (_world, controller) = two_services().await;
    let deployer = &controller.deployer;
    let fleet = deployer.fleet(&Selector::equal("version", "v1").unwrap()).await.unwrap();
    assert_eq!((fleet.len(), fleet.services().count()), (5, 2));
    let error = deployer.fleet(&Selector::everything()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let error = deployer.fleet(&Selector::equal("version", "v9").unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[tokio::test(start_paused = true)]
async fn labels_that_are_laid_over_choose_too() {
    let (_world, controller) = two_services().await;
    let deployer = &controller.deployer;
    let slot = Selector::equal("ews/slot", "1").unwrap();
    let ones = deployer.fleet(&slot).await.unwrap();
    assert_eq!(ones.len(), 2);
    let north = LabelOverlay::new(Labels::new([("zone", "north")]).unwrap(), ["healthy"]).unwrap();
    ones.relabel(&north).await.unwrap();
    let found = deployer.fleet(&Selector::equal("zone", "north").unwrap()).await.unwrap();
    assert_eq!(found.len(), 2);
    assert!(found.instances().all(|instance| instance.labels.get("healthy").is_none()));
    let south = LabelOverlay::new(Labels::new([("zone", "south")]).unwrap(), [""; 0]).unwrap();
    found.relabel(&south).await.unwrap();
    let south = deployer.fleet(&Selector::equal("zone", "south").unwrap()).await.unwrap();
    assert!(south.instances().all(|instance| instance.labels.get("healthy").is_none()), "both hold");
    let reserved = Labels::new([("ews/slot", "7")]);
    assert!(reserved.is_err() || LabelOverlay::new(reserved.unwrap(), [""; 0]).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_command_runs_in_all_and_what_each_said_is_gathered() {
    let (world, controller) = two_services().await;
    let fleet = controller.deployer.fleet(&Selector::equal("version", "v1").unwrap()).await.unwrap();
    let dead = world.instances().await[0].id.clone();
    world.engine.exit(&dead, 1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answers: BTreeMap<_, _> =
        fleet.exec(ExecSpec::new(["fake", "print", "hello"]), Duration::from_secs(5)).collect().await;
    assert_eq!(answers.len(), 5);
    for (id, answer) in &answers {
        match answer {
            Ok(ran) => assert_eq!(
                (ran.output.as_slice(), ran.status.is_success(), ran.cut),
                (&b"hello\n"[..], true, false)
            ),
            Err(error) => assert_eq!((id, error.kind()), (&dead, ErrorKind::Busy), "{error}"),
        }
    }
    assert_eq!(answers.values().filter(|answer| answer.is_err()).count(), 1);
    let flood = fleet
        .exec(ExecSpec::new(["fake", "flood", "300000"]), Duration::from_secs(60))
        .collect::<Vec<_>>()
        .await;
    assert!(
        flood
            .iter()
            .filter_map(|(_, ran)| ran.as_ref().ok())
            .all(|ran| ran.cut && ran.output.len() <= 64 << 10)
    );
    let slow = fleet.exec(ExecSpec::new(["fake", "sleep"]), Duration::from_secs(5)).collect::<Vec<_>>().await;
    assert!(slow.iter().all(|(_, ran)| ran.is_err()));
}

#[tokio::test(start_paused = true)]
async fn restarts_hotfixes_and_counts_go_to_every_service_that_was_chosen() {
    let (world, controller) = two_services().await;
    let deployer = &controller.deployer;
    let before = world.instances().await;
    let ones = deployer.fleet(&Selector::equal("ews/slot", "1").unwrap()).await.unwrap();
    for (service, rollout) in ones.restart(&strategy()).await {
        let rollout = rollout.unwrap();
        assert_eq!(
            (&rollout.service, ended(&controller, &rollout).await.outcome),
            (&service, Some(Outcome::Succeeded))
        );
    }
    eventually("five", || async { world.instances().await.len() == 5 }).await;
    let after = world.instances().await;
    let changed: Vec<u32> = before.iter().filter(|i| !after.contains(i)).map(|i| i.key.slot).collect();
    assert_eq!(changed, [1, 1], "only what was chosen");

    let all = deployer.fleet(&Selector::equal("version", "v1").unwrap()).await.unwrap();
    let fix = |service: &ServiceName| {
        Hotfix::new(service.clone()).with_file("/etc/motd", "fixed").with_strategy(strategy())
    };
    let rollouts = all.hotfix(fix).await;
    assert_eq!(rollouts.len(), 2);
    for (_, rollout) in rollouts {
        assert_eq!(ended(&controller, &rollout.unwrap()).await.outcome, Some(Outcome::Succeeded));
    }
    let counts: Vec<(ServiceName, Result<Scale, _>)> = all.scale(|_| ScaleChange::to(1, "night")).await;
    assert!(counts.iter().all(|(_, scale)| scale.as_ref().is_ok_and(|scale| scale.desired == 1)));
    eventually("one of each", || async { world.instances().await.len() == 2 }).await;
}
