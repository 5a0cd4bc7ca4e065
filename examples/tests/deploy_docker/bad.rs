//! Revisions that are bad: each is found, goes back, and cost no request.

use std::time::Duration;

use ews_core::{Incarnation, Instance, InstanceId};
use ews_deploy::{Batch, Canary, CanaryStep, FailureClass, Outcome};

use crate::images::Behaviour;
use crate::planned::errors;
use crate::stage::{REPLICAS, Stage, strategy, web};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_never_gets_well_goes_back_and_costs_no_request() {
    let versions = [("exits", Behaviour::Exits), ("unready", Behaviour::NeverReady)];
    let Some(stage) = Stage::new("bad", &versions).await else { return };
    let before = stage.instances().await;

    let (told, report) =
        stage.quiet("a revision ends at its start", stage.deploy(&stage.request("exits"))).await;
    assert_eq!((report.outcome, told.versions()), (Some(Outcome::RolledBack), vec!["v1"]), "{report:?}");
    assert_eq!(report.failures[0].class, FailureClass::Exited, "{report:?}");
    assert!(report.failures[0].log.iter().any(|line| line.contains("column_price")), "{report:?}");
    stage.whole("v1", REPLICAS).await;

    let hasty = strategy().with_deadlines(Duration::from_secs(4), Duration::from_secs(60));
    let request = stage.request("unready").with_strategy(hasty);
    let (told, report) = stage.quiet("a revision never gets ready", stage.deploy(&request)).await;
    assert_eq!((report.outcome, told.versions()), (Some(Outcome::RolledBack), vec!["v1"]), "{report:?}");
    assert_eq!(report.failures[0].class, FailureClass::Unhealthy, "{report:?}");
    stage.whole("v1", REPLICAS).await;
    assert_eq!(ids(&stage.instances().await), ids(&before), "the old ones were not touched");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_answers_badly_is_found_by_the_gateways_own_metrics() {
    let Some(stage) = Stage::new("sick", &[("sick", Behaviour::Sick)]).await else { return };
    let before = stage.instances().await;
    let steps = [
        CanaryStep::Replicas(Batch::Count(1)),
        CanaryStep::Weight(20),
        CanaryStep::Pause(Duration::from_secs(60)),
    ];
    let canary = Canary::new(steps).with_analysis(errors());
    let request = stage.request("sick").with_strategy(strategy().with_canary(canary));
    let (told, report) = stage.quiet("a canary is sick", stage.deploy(&request)).await;
    assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
    assert!(report.cause.contains("errors"), "{}", report.cause);
    let bad = told.answers.get("500 sick").copied().unwrap_or(0);
    assert!(bad > 0, "some saw it: {told:?}");
    // Two fifths of a fifth is 8 %, and only of the time in which it had traffic.
    assert!((bad as f64) < 0.16 * told.sent as f64, "{told:?}");
    stage.whole("v1", REPLICAS).await;
    assert_eq!(ids(&stage.instances().await), ids(&before), "the old ones were not touched");
    assert_eq!(stage.answers().await, ["v1"]);
    assert!(stage.deployer.rollback(&web(), None).await.is_err(), "a sick revision is none to go back to");
    stage.end().await;
}

fn ids(instances: &[Instance]) -> Vec<(InstanceId, Incarnation)> {
    instances.iter().map(|instance| (instance.id.clone(), instance.incarnation)).collect()
}
