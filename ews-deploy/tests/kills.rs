//! The controller is killed at every journal point of an update, of a rollback and of a removal; a successor ends them.
//!
//! "Every" means every commit of the controller to the store, once before it happens and once after: the loops go on until
//! one run passes with no kill.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, reason = "tests")]

mod rig;

use std::sync::Arc;
use std::time::Duration;

use ews_core::metrics::MetricQuery;
use ews_core::{Selector, ServiceSpec, Store};
use ews_deploy::{
    Analysis, BlueGreen, Canary, CanaryStep, Condition, MetricCheck, Outcome, RolloutId, RolloutReport,
};
use rig::*;

/// What came of a run.
struct Run {
    world: World,
    /// The end, as the last controller tells it; `None` where the request was never acknowledged.
    report: Option<RolloutReport>,
    killed: bool,
}

/// Updates a running v1 with a controller that is killed at commit `at`, and lets a successor end it.
async fn killed_at(
    at: u64,
    kill: Kill,
    spec: ServiceSpec,
    budget: usize,
    strategy: ews_deploy::Strategy,
    measured: Say,
) -> Run {
    let (world, first) = running().await;
    world.metrics.say("r2", measured);
    first.deployer.leave().await;
    drop(first);
    world.guard.watch(budget);

    let store = Arc::new(KillingStore::new(Arc::clone(&world.store) as Arc<dyn Store>, at, kill));
    let runtime = Arc::new(ews_core::testkit::fake::FakeRuntime::connect(&world.engine));
    // The first commits may be those of the start itself.
    let request = request(spec).with_strategy(strategy).with_key("the update");
    let second = tokio::select! {
        second = world.controller_on("second", Arc::clone(&store) as Arc<dyn Store>) => Some(second),
        () = store.killed() => None,
    };
    drop(runtime);
    let mut acknowledged = None;
    let mut killed = second.is_none();
    if let Some(second) = second {
        let work = async {
            let id = second.deployer.deploy(&request).await.unwrap();
            acknowledged = Some(id.clone());
            ended(&second, &id).await
        };
        tokio::select! {
            biased;
            () = store.killed() => killed = true,
            report = work => return Run { world, report: Some(report), killed: false },
        }
        second.kill();
    }

    let third = world.controller("third").await;
    // What was acknowledged is there without anybody asking again; what was not may be asked for again.
    let id = match acknowledged {
        Some(id) => id,
        None => {
            let id = third.deployer.deploy(&request).await.unwrap();
            assert_eq!(id.number, 2, "the same request is one rollout");
            id
        }
    };
    let report = ended(&third, &id).await;
    // The last work may go on a moment after the rollout has ended.
    settled(&world).await;
    Run { world, report: Some(report), killed }
}

async fn settled(world: &World) {
    let still = || async {
        let instances = world.instances().await;
        instances.len() == 3
            && instances.iter().all(|instance| instance.state.is_running())
            && world.serving().await.len() == 3
            && world.keys("deploy/acme/web/unit/").await == 0
    };
    eventually("the work has ended", still).await;
}

/// What metrics say of a new revision that does well.
const GOOD: Say = Say::Number(0.0);

/// Half of the traffic after a look at a tenth of it.
fn canary() -> ews_deploy::Strategy {
    let errors = MetricQuery::new("errors", Selector::everything());
    let check = MetricCheck::new("errors", errors, Condition::AtMost(1.0)).with_limits(0, 0, 0);
    let analysis = Analysis::new([check]).with_schedule(2, Duration::from_secs(5));
    let steps = [CanaryStep::Weight(10), CanaryStep::Analysis(analysis), CanaryStep::Weight(50)];
    strategy().with_canary(Canary::new(steps))
}

/// One at a time, the old one first.
fn stop_first() -> ews_deploy::Strategy {
    let one = ews_deploy::Batch::Count(1);
    strategy()
        .with_monitor(Duration::from_secs(5))
        .with_order(ews_deploy::Order::StopFirst)
        .with_batches(one, one)
}

async fn every_point(
    name: &str,
    spec: impl Fn() -> ServiceSpec,
    budget: usize,
    strategy: ews_deploy::Strategy,
    outcome: Outcome,
    version: &str,
    measured: Say,
) {
    let mut points = 0;
    for kill in [Kill::Before, Kill::After] {
        for at in 1.. {
            let run = Box::pin(killed_at(at, kill, spec(), budget, strategy.clone(), measured)).await;
            let report = run.report.unwrap();
            assert_eq!(report.outcome, Some(outcome), "{name}: killed {kill:?} commit {at}: {report:?}");
            if !run.killed {
                settled(&run.world).await;
            }
            run.world.assert_whole(3, version).await;
            assert!(run.world.guard.least() >= budget, "{name}: {kill:?} {at}");
            if !run.killed {
                break;
            }
            points += 1;
        }
    }
    // Each of three slots has at least create, start, gate, attach, drain, stop, remove, end: fewer points would mean that the
    // loop did not reach what it is about.
    println!("{name}: {points} kills");
    assert!(points > 20, "{points}");
}

#[tokio::test(start_paused = true)]
async fn a_kill_at_any_point_of_an_update_start_first() {
    every_point("update, start-first", || spec("v2"), 3, strategy(), Outcome::Succeeded, "v2", GOOD).await;
}

#[tokio::test(start_paused = true)]
async fn a_kill_at_any_point_of_an_update_stop_first() {
    every_point("update, stop-first", || spec("v2"), 2, stop_first(), Outcome::Succeeded, "v2", GOOD).await;
}

#[tokio::test(start_paused = true)]
async fn a_kill_at_any_point_of_a_rollback_start_first() {
    every_point("rollback, start-first", || sick("v2"), 3, strategy(), Outcome::RolledBack, "v1", GOOD).await;
}

#[tokio::test(start_paused = true)]
async fn a_kill_at_any_point_of_a_rollback_stop_first() {
    every_point("rollback, stop-first", || sick("v2"), 2, stop_first(), Outcome::RolledBack, "v1", GOOD)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_kill_at_any_point_of_a_canary() {
    every_point("canary", || spec("v2"), 3, canary(), Outcome::Succeeded, "v2", GOOD).await;
}

#[tokio::test(start_paused = true)]
async fn a_kill_at_any_point_of_a_canary_that_does_badly() {
    let bad = Say::Number(2.0);
    every_point("bad canary", || spec("v2"), 3, canary(), Outcome::RolledBack, "v1", bad).await;
}

#[tokio::test(start_paused = true)]
async fn a_kill_at_any_point_of_blue_green() {
    let blue_green = strategy().with_blue_green(BlueGreen::default().with_retire(Duration::from_secs(5)));
    every_point("blue/green", || spec("v2"), 3, blue_green, Outcome::Succeeded, "v2", GOOD).await;
}

/// Two of three are new when the third fails, so the rollback has real instances to bring back.
#[tokio::test(start_paused = true)]
async fn a_kill_at_any_point_of_an_aborted_update() {
    let mut points = 0;
    for kill in [Kill::Before, Kill::After] {
        for at in 1.. {
            let (world, first) = running().await;
            let request =
                request(spec("v2")).with_strategy(strategy().with_interval(Duration::from_secs(20)));
            let id = first.deployer.deploy(&request).await.unwrap();
            eventually("one slot is new", || async {
                world.versions_seen().await.iter().any(|version| version == "v2")
                    && first.deployer.rollout(&id).await.is_ok_and(|report| report.done.0 == 1)
            })
            .await;
            first.deployer.abort(&web()).await.unwrap();
            first.deployer.leave().await;
            drop(first);
            world.guard.watch(3);
            let store = Arc::new(KillingStore::new(Arc::clone(&world.store) as Arc<dyn Store>, at, kill));
            let second = world.controller_on("second", Arc::clone(&store) as Arc<dyn Store>).await;
            let killed = tokio::select! {
                biased;
                () = store.killed() => true,
                report = ended(&second, &id) => {
                    assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
                    false
                }
            };
            let last = if killed {
                second.kill();
                world.controller("third").await
            } else {
                second
            };
            let id = RolloutId { ..id };
            let report = ended(&last, &id).await;
            assert_eq!(report.outcome, Some(Outcome::RolledBack), "{kill:?} {at}: {report:?}");
            settled(&world).await;
            world.assert_whole(3, "v1").await;
            assert!(world.guard.least() >= 3, "{kill:?} {at}");
            if !killed {
                break;
            }
            points += 1;
        }
    }
    println!("aborted update: {points} kills");
    assert!(points > 10, "{points}");
}

#[tokio::test(start_paused = true)]
async fn a_kill_at_any_point_of_a_removal_leaves_nothing() {
    for kill in [Kill::Before, Kill::After] {
        for at in 1.. {
            let (world, first) = running().await;
            first.deployer.remove(&web()).await.unwrap();
            first.deployer.leave().await;
            drop(first);
            let store = Arc::new(KillingStore::new(Arc::clone(&world.store) as Arc<dyn Store>, at, kill));
            let second = world.controller_on("second", Arc::clone(&store) as Arc<dyn Store>).await;
            let web = web();
            let killed = tokio::select! {
                biased;
                () = store.killed() => true,
                gone = second.deployer.wait_removed(&web) => {
                    gone.unwrap();
                    false
                }
            };
            let last = if killed {
                second.kill();
                world.controller("third").await
            } else {
                second
            };
            let gone =
                tokio::time::timeout(Duration::from_secs(3600), last.deployer.wait_removed(&web)).await;
            gone.unwrap_or_else(|_| panic!("{kill:?} {at}: it is never gone")).unwrap();
            assert_eq!(world.engine.objects(), 0, "{kill:?} {at}");
            assert!(world.serving().await.is_empty());
            last.deployer.leave().await;
            // The lock of one that was killed goes with its lease.
            eventually("no record is left", || async { world.keys("deploy/").await == 0 }).await;
            assert!(world.objects().await.is_empty(), "{kill:?} {at}: nothing is left at the balancer");
            if !killed {
                break;
            }
        }
    }
}
