//! The controller is killed at every journal point of a release that succeeds, of one that goes back, and of one with a job; a
//! successor ends them.
//!
//! "Every" means every commit of the controller to the store, of the release's leader and of its members', once before it happens and
//! once after: the loops go on until one run passes with no kill.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, reason = "tests")]

mod release_rig;
mod rig;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ews_core::event::{Notice, RuntimeEvent};
use ews_core::testkit::fake::FakeRuntime;
use ews_core::{EventStream, InstanceState, Runtime as _, Selector, Store};
use ews_deploy::Outcome;
use ews_deploy::release::{MemberCondition, MemberStage, ReleaseReport, ReleaseRequest, ReleaseSpec};
use futures_util::{FutureExt as _, StreamExt as _};
use release_rig::*;
use rig::*;

const S: Duration = Duration::from_secs(1);

struct Run {
    world: World,
    report: ReleaseReport,
    killed: bool,
    /// How often the job's program was started.
    starts: usize,
}

/// Two services of one instance, the second after the first.
fn pair(version: &str) -> ReleaseSpec {
    let mut spec = release([
        service("db", version),
        service("api", version).after(name("db"), MemberCondition::Healthy),
    ]);
    for member in &mut spec.members {
        member.service.replicas = 1;
    }
    spec
}

/// Releases over a running v1 with a controller that is killed at commit `at`, and lets a successor end it.
async fn killed_at(at: u64, kill: Kill, spec: ReleaseSpec) -> Run {
    let world = World::new();
    let first = world.controller("first").await;
    assert_eq!(released(&first, pair("v1")).await.outcome, Some(Outcome::Succeeded));
    first.deployer.leave().await;
    drop(first);
    let watcher = FakeRuntime::connect(&world.engine);
    let mut events = watcher.events(&Selector::equal("ews/service", "migrate").unwrap()).await.unwrap();

    let store = Arc::new(KillingStore::new(Arc::clone(&world.store) as Arc<dyn Store>, at, kill));
    let request = ReleaseRequest::new(spec).with_key("the release");
    // The first commits may be those of the start itself.
    let second = tokio::select! {
        second = world.controller_on("second", Arc::clone(&store) as Arc<dyn Store>) => Some(second),
        () = store.killed() => None,
    };
    let mut acknowledged = None;
    if let Some(second) = second {
        let work = async {
            let id = second.deployer.release(&request).await.unwrap();
            acknowledged = Some(id.clone());
            ended_release(&second.deployer, &id).await
        };
        let report = tokio::select! {
            biased;
            () = store.killed() => None,
            report = work => Some(report),
        };
        match report {
            Some(report) => {
                settled(&world).await;
                let starts = starts(&mut events);
                second.deployer.leave().await;
                return Run { world, report, killed: false, starts };
            }
            None => second.kill(),
        }
    }
    let third = world.controller("third").await;
    // What was acknowledged is there without anybody asking again; what was not may be asked for again.
    let id = match acknowledged {
        Some(id) => id,
        None => {
            let id = third.deployer.release(&request).await.unwrap();
            assert_eq!(id.number, 2, "the same request is one release");
            id
        }
    };
    let report = ended_release(&third.deployer, &id).await;
    settled(&world).await;
    let starts = starts(&mut events);
    third.deployer.leave().await;
    Run { world, report, killed: true, starts }
}

/// The last work on slots may go on a moment after the release has ended.
async fn settled(world: &World) {
    let still = || async {
        let mut left = 0;
        for member in ["db", "api", "extra"] {
            left += world.keys(&format!("deploy/acme/{member}/unit/")).await;
        }
        let instances = world.instances().await;
        left == 0 && instances.iter().all(|instance| instance.state == InstanceState::Running)
    };
    eventually("the work has ended", still).await;
}

/// The starts of the job's program that were seen.
fn starts(events: &mut EventStream) -> usize {
    let mut seen = BTreeSet::new();
    while let Some(Some(notice)) = events.next().now_or_never() {
        match notice {
            Notice::Event(RuntimeEvent::Instance {
                id, incarnation, state: InstanceState::Running, ..
            }) => {
                seen.insert((id, incarnation));
            }
            Notice::Gap(gap) => unreachable!("{gap:?}: the count would say nothing"),
            Notice::Event(_) => {}
        }
    }
    seen.len()
}

async fn every_point(
    what: &str,
    spec: impl Fn() -> ReleaseSpec,
    least: u32,
    holds: impl AsyncFn(&Run, &str),
) {
    let mut points = 0;
    for kill in [Kill::Before, Kill::After] {
        for at in 1.. {
            let run = killed_at(at, kill, spec()).await;
            let place = format!("{what}: killed {kill:?} commit {at}: {:?}", run.report);
            holds(&run, &place).await;
            if !run.killed {
                break;
            }
            points += 1;
        }
    }
    println!("{what}: {points} kills");
    assert!(points > least, "{points}: the loop did not reach what it is about");
}

async fn exactly(run: &Run, expected: &[(&str, &str)], place: &str) {
    let found = versions(&run.world).await;
    let expected =
        expected.iter().map(|(service, version)| ((*service).to_owned(), vec![(*version).to_owned()]));
    assert_eq!(found, expected.collect(), "{place}");
    assert_eq!(run.world.engine.objects(), found.len(), "nothing is left at the engine: {place}");
    assert_eq!(run.world.engine.orphans(), 0, "{place}");
}

#[tokio::test(start_paused = true)]
async fn a_kill_at_any_point_of_a_release_that_succeeds() {
    let spec = || {
        let mut extra = service("extra", "v2").after(name("api"), MemberCondition::Promoted);
        extra.service.replicas = 1;
        pair("v2").with_member(extra)
    };
    every_point("success", spec, 60, async |run, place| {
        assert_eq!(run.report.outcome, Some(Outcome::Succeeded), "{place}");
        exactly(run, &[("api", "v2"), ("db", "v2"), ("extra", "v2")], place).await;
        assert_eq!(run.world.keys("discover/acme/shop/").await, 3, "{place}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_kill_at_any_point_of_a_release_that_goes_back() {
    let spec = || {
        let mut extra = service("extra", "v2");
        extra.service.replicas = 1;
        let mut spec = pair("v2").with_member(extra);
        spec.members[1] = ailing("api", "v2")
            .after(name("db"), MemberCondition::Healthy)
            .after(name("extra"), MemberCondition::Healthy);
        spec.members[1].service.replicas = 1;
        spec
    };
    every_point("rollback", spec, 60, async |run, place| {
        assert_eq!(run.report.outcome, Some(Outcome::RolledBack), "{place}");
        exactly(run, &[("api", "v1"), ("db", "v1")], place).await;
        assert_eq!(run.world.keys("discover/acme/shop/").await, 2, "{place}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_kill_at_any_point_of_a_release_with_a_job_never_runs_it_twice() {
    let spec = || {
        let mut spec = pair("v2");
        spec.members[1].after.clear();
        let migrate =
            job("migrate", &["exit", "0", "after", "3s"]).after(name("db"), MemberCondition::Healthy);
        spec.members[1] = spec.members[1].clone().after(name("migrate"), MemberCondition::Completed);
        spec.with_member(migrate)
    };
    every_point("job", spec, 50, async |run, place| {
        assert_eq!(run.report.outcome, Some(Outcome::Succeeded), "{place}");
        assert_eq!(run.starts, 1, "{place}");
        assert_eq!(run.report.member(&name("migrate")).unwrap().stage, MemberStage::Succeeded);
        exactly(run, &[("api", "v2"), ("db", "v2")], place).await;
    })
    .await;
}

/// Kills while a job that fails is run, is tried again and goes back with the release.
#[tokio::test(start_paused = true)]
async fn a_kill_at_any_point_of_a_release_whose_job_fails() {
    let spec = || {
        let mut retried = ews_core::spec::lifecycle::Job::default();
        retried.retries = 1;
        let migrate = job_with("migrate", &["exit", "3", "after", "1s"], retried);
        let mut spec = pair("v2").with_keep_failed(5 * S);
        spec.members[1] = migrate.after(name("db"), MemberCondition::Healthy);
        spec
    };
    every_point("failing job", spec, 40, async |run, place| {
        assert_eq!(run.report.outcome, Some(Outcome::RolledBack), "{place}");
        assert_eq!(run.starts, 2, "{place}");
        eventually("what was kept is gone", || async { run.world.engine.objects() == 2 || run.killed }).await;
        assert_eq!(versions(&run.world).await.len(), 2, "{place}");
    })
    .await;
}
