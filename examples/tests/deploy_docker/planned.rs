//! What is planned costs no request: updates, blue/green, canaries by weight, restarts and going back.

use std::time::Duration;

use ews_core::Selector;
use ews_core::metrics::{Aggregate, Aggregation, Function, MetricQuery, Window};
use ews_deploy::{
    Analysis, BlueGreen, Canary, CanaryStep, Condition, MetricCheck, Missing, Outcome, RolloutId,
};

use crate::images::Behaviour;
use crate::load::CLIENTS;
use crate::stage::{REPLICAS, Stage, strategy, until, web};

/// At most a tenth of the gateway's answers are 5xx, measured by the gateway itself every second.
pub(crate) fn errors() -> Analysis {
    let requests = |matching| {
        MetricQuery::new("ews.route.requests", matching)
            .function(Function::Increase(Window(Duration::from_secs(2))))
            .aggregate(Aggregate::all(Aggregation::Sum))
    };
    let failed = Selector::equal("status_class", "5xx").unwrap();
    let check = MetricCheck::new("errors", requests(failed), Condition::AtMost(0.1))
        .with_per(requests(Selector::everything()))
        .with_missing(Missing::Zero)
        // The first measurement may come before there were twenty requests.
        .with_limits(0, 4, 10);
    Analysis::new([check]).with_schedule(3, Duration::from_secs(1))
}

/// Waits until a rollout waits for somebody at this step.
pub(crate) async fn waits(stage: &Stage, rollout: &RolloutId, step: usize) {
    until("the canary waits", async || {
        stage.deployer.rollout(rollout).await.is_ok_and(|report| {
            report.paused && report.step.is_some_and(|at| at.number == step && at.weight > 0)
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_planned_costs_no_request() {
    let versions = [("v2", Behaviour::Good), ("v3", Behaviour::Good), ("v4", Behaviour::Good)];
    let Some(stage) = Stage::new("planned", &versions).await else { return };
    let first = stage.deployer.revisions(&web()).await.unwrap()[0].id.clone();

    let (told, report) = stage.quiet("it is updated", stage.deploy(&stage.request("v2"))).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    assert!(told.versions().contains(&"v1") && told.versions().contains(&"v2"), "{told:?}");
    stage.whole("v2", REPLICAS).await;
    assert_eq!(stage.answers().await, ["v2"]);

    let blue_green = BlueGreen::default().with_approval().with_retire(Duration::from_secs(1));
    let request = stage.request("v3").with_strategy(strategy().with_blue_green(blue_green));
    let work = async {
        let rollout = stage.deployer.deploy(&request).await.unwrap();
        until("all stand beside all", async || stage.instances().await.len() == 2 * REPLICAS as usize).await;
        until("it waits for somebody", async || {
            stage.deployer.rollout(&rollout).await.is_ok_and(|report| report.paused)
        })
        .await;
        assert_eq!(stage.answers().await, ["v2"], "nobody gets the new ones before the switch");
        stage.deployer.resume(&web()).await.unwrap();
        stage.ended(&rollout).await
    };
    let (_, report) = stage.quiet("blue gives way to green", work).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    stage.whole("v3", REPLICAS).await;
    assert_eq!(stage.answers().await, ["v3"]);

    let steps = [CanaryStep::Weight(25), CanaryStep::Approval, CanaryStep::Analysis(errors())];
    let canary = Canary::new(steps).with_analysis(errors());
    let request = stage.request("v4").with_strategy(strategy().with_canary(canary));
    let work = async {
        let rollout = stage.deployer.deploy(&request).await.unwrap();
        waits(&stage, &rollout, 2).await;
        until("the canary serves", async || stage.answers().await.len() == 2).await;
        let (told, ()) = stage.quiet("a quarter goes to the canary", stage.load.more(1500)).await;
        // A quarter of some 1,400: the deviation is below 0.012, so that these bounds are more than eight of them away.
        let share = told.share("v4");
        assert!((0.15..0.35).contains(&share), "{share} of {told:?}");
        stage.deployer.resume(&web()).await.unwrap();
        stage.ended(&rollout).await
    };
    let (_, report) = stage.quiet("a canary is promoted", work).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    stage.whole("v4", REPLICAS).await;
    assert_eq!(stage.answers().await, ["v4"]);

    let before: Vec<_> = stage.instances().await.into_iter().map(|instance| instance.id).collect();
    let work = async {
        let rollout = stage.deployer.restart(&web(), &strategy()).await.unwrap();
        stage.ended(&rollout).await
    };
    let (told, report) = stage.quiet("every instance is made anew", work).await;
    assert_eq!((report.outcome, told.versions()), (Some(Outcome::Succeeded), vec!["v4"]), "{report:?}");
    stage.whole("v4", REPLICAS).await;
    assert!(stage.instances().await.iter().all(|instance| !before.contains(&instance.id)));

    let work = async {
        let rollout = stage.deployer.rollback(&web(), Some(&first)).await.unwrap();
        stage.ended(&rollout).await
    };
    let (_, report) = stage.quiet("it goes back to the first revision", work).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    stage.whole("v1", REPLICAS).await;
    assert_eq!(stage.answers().await, ["v1"]);

    // That the load can count a failure: nobody planned this.
    let containers = stage.instances().await;
    let work = async {
        for instance in &containers {
            stage.docker(&["kill", instance.id.as_str()]);
        }
        stage.load.more(CLIENTS).await;
    };
    let (told, ()) = stage.counted("every container is killed", work).await;
    assert!(told.failed > 0, "{told:?}");
    stage.whole("v1", REPLICAS).await;
    stage.end().await;
}
