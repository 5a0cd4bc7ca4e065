//! The deployer as a scale target.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, reason = "tests")]

mod rig;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ews_core::testkit::conformance::{Stop, scale};
use ews_core::{InstanceId, ScaleChange, ScaleTarget, ServiceName};
use ews_deploy::Outcome;
use rig::*;

/// Each case gets a world of its own, kept alive by its deployer.
#[async_trait]
impl scale::ScaleHarness for Scaled {
    async fn target(&self) -> Result<Arc<dyn ScaleTarget>, Stop> {
        let _ = self.controller.deployer.remove(&web()).await;
        let _ = self.controller.deployer.wait_removed(&web()).await;
        let id = self.controller.deployer.deploy(&request(spec("v1")).with_bounds(1..=10)).await?;
        self.controller.deployer.wait(&id).await?;
        Ok(Arc::new(self.controller.deployer.clone()))
    }

    async fn service(&self) -> Result<ServiceName, Stop> {
        Ok(web())
    }

    async fn instances(&self, _service: &ServiceName) -> Result<Vec<InstanceId>, Stop> {
        Ok(self.world.instances().await.into_iter().map(|instance| instance.id).collect())
    }

    async fn make_busy(&self, service: &ServiceName) -> Result<(), Stop> {
        Ok(self.controller.deployer.remove(service).await?)
    }

    fn name(&self) -> String {
        "deployer".to_owned()
    }
}

struct Scaled {
    world: World,
    controller: Controller,
}

#[tokio::test(start_paused = true)]
async fn the_deployer_conforms() {
    let (world, controller) = running().await;
    let report = scale::run(&Scaled { world, controller }).await;
    println!("{report}");
    report.assert_passed(&[]);
}

async fn set(controller: &Controller, change: ScaleChange) {
    controller.deployer.set(&web(), &change).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn it_grows_and_shrinks_and_what_goes_is_drained_first() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    set(&controller, ScaleChange::to(7, "load")).await;
    world.assert_whole(7, "v1").await;
    set(&controller, ScaleChange::to(3, "no load")).await;
    world.assert_whole(3, "v1").await;
    let now = controller.deployer.current(&web()).await.unwrap();
    assert_eq!((now.desired, now.present, now.ready, now.rolling_out), (3, 3, 3, false));
}

#[tokio::test(start_paused = true)]
async fn named_victims_go_first_and_the_others_are_not_touched() {
    let (world, controller) = running().await;
    let before = world.instances().await;
    let mut change = ScaleChange::to(2, "this one is on a bad node");
    change.victims = vec![before[0].id.clone()];
    set(&controller, change).await;
    eventually("two are left", || async { world.engine.objects() == 2 }).await;
    assert_eq!(world.instances().await, before[1..]);
}

#[tokio::test(start_paused = true)]
async fn scaling_in_the_middle_of_a_rollout_is_taken_up() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    let slow = strategy().with_interval(Duration::from_secs(60));
    let id = controller.deployer.deploy(&request(spec("v2")).with_strategy(slow)).await.unwrap();
    let half = || async { controller.deployer.rollout(&id).await.is_ok_and(|report| report.done.0 == 1) };
    eventually("one slot is new", half).await;
    set(&controller, ScaleChange::to(6, "load")).await;
    let grown = || async { world.serving().await.len() == 6 };
    eventually("it grows though the rollout is under way", grown).await;
    assert!(controller.deployer.rollout(&id).await.unwrap().outcome.is_none());
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    world.assert_whole(6, "v2").await;

    let id = controller.deployer.deploy(&request(spec("v3"))).await.unwrap();
    world.guard.watch(0);
    set(&controller, ScaleChange::to(2, "no load")).await;
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    eventually("two are left", || async { world.engine.objects() == 2 }).await;
    assert!(world.versions().await.into_values().all(|version| version == "v3"));
}

#[tokio::test(start_paused = true)]
async fn a_count_survives_a_deployment_and_a_changed_spec_changes_it() {
    let (world, controller) = running().await;
    set(&controller, ScaleChange::to(5, "load")).await;
    world.assert_whole(5, "v1").await;
    deploy(&controller, spec("v2")).await;
    world.assert_whole(5, "v2").await;
    let mut more = spec("v3");
    more.replicas = 4;
    deploy(&controller, more).await;
    world.assert_whole(4, "v3").await;
}

#[tokio::test(start_paused = true)]
async fn to_nothing_and_back() {
    let (world, controller) = running().await;
    set(&controller, ScaleChange::to(0, "night")).await;
    eventually("nothing runs", || async { world.engine.objects() == 0 && world.serving().await.is_empty() })
        .await;
    set(&controller, ScaleChange::to(2, "morning")).await;
    world.assert_whole(2, "v1").await;
}
