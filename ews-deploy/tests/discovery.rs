//! Members of a release find each other: what an instance is told when it is created, and how its file follows what changes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod release_rig;
mod rig;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use ews_core::testkit::fake::{Fault, FaultRule, Operation};
use ews_core::testkit::tar;
use ews_core::{ErrorKind, Instance, InstanceState, Runtime as _, ScaleChange, ScaleTarget as _};
use ews_deploy::release::{Discovery, MemberCondition, ReleaseSpec};
use ews_deploy::{DeployRequest, Outcome};
use futures_util::StreamExt as _;
use release_rig::*;
use rig::*;

/// A database and an API behind it.
fn pair(version: &str) -> ReleaseSpec {
    release([service("db", version), service("api", version).after(name("db"), MemberCondition::Healthy)])
}

async fn of(world: &World, service: &str) -> Vec<Instance> {
    let mut instances = world.instances().await;
    instances.retain(|instance| instance.key.service.as_str() == service);
    instances
}

/// The addresses of a member in an instance's file; `None` where there is no file.
async fn listed(controller: &Controller, instance: &Instance, member: &str) -> Option<BTreeSet<SocketAddr>> {
    let mut stream = controller.runtime.get_archive(&instance.id, "/ews/peers.json").await.ok()?;
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend(piece.unwrap());
    }
    let file = tar::read(&bytes).unwrap().remove(0);
    let value: serde_json::Value = serde_json::from_slice(&file.content).unwrap();
    assert_eq!(value["release"], "shop");
    let endpoints = value["members"][member]["endpoints"].as_array().cloned().unwrap_or_default();
    Some(endpoints.iter().map(|endpoint| endpoint["address"].as_str().unwrap().parse().unwrap()).collect())
}

/// Where a service's running instances are reached.
async fn addresses(world: &World, service: &str) -> BTreeSet<SocketAddr> {
    let running = of(world, service).await.into_iter().filter(|i| i.state == InstanceState::Running);
    running.flat_map(|instance| instance.endpoints).map(|endpoint| endpoint.address).collect()
}

/// Waits until every instance of the API is told of exactly the database's instances, of which there are so many.
async fn follows(world: &World, controller: &Controller, count: usize) {
    let same = || async {
        let there = addresses(world, "db").await;
        let mut all = there.len() == count;
        for instance in of(world, "api").await {
            all &= listed(controller, &instance, "db").await.as_ref() == Some(&there);
        }
        all && of(world, "api").await.len() == 2
    };
    eventually("every file says what there is", same).await;
}

/// Looks again and again while `work` goes on: whoever is told of is reached.
async fn all_reached<T>(world: &World, controller: &Controller, work: impl Future<Output = T>) -> T {
    let looking = async {
        loop {
            for instance in of(world, "api").await {
                for address in listed(controller, &instance, "db").await.unwrap_or_default() {
                    let answers = world.engine.dial(address);
                    assert!(answers.is_ok(), "{} is told of {address}: {answers:?}", instance.id);
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        done = work => done,
        never = looking => never,
    }
}

async fn started() -> (World, Controller) {
    let world = World::new();
    let controller = world.controller("first").await;
    let report = released(&controller, pair("v1")).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    (world, controller)
}

#[tokio::test(start_paused = true)]
async fn a_file_follows_a_scale_and_who_goes_is_taken_out_before_it_stops() {
    let (world, controller) = started().await;
    follows(&world, &controller, 2).await;
    for count in [6, 1] {
        let work = async {
            controller.deployer.set(&name("db"), &ScaleChange::to(count, "a test")).await.unwrap();
            follows(&world, &controller, count as usize).await;
        };
        all_reached(&world, &controller, work).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_follows_a_rollout_and_is_never_told_of_what_did_not_pass_its_gate() {
    let (world, controller) = started().await;
    let before = addresses(&world, "db").await;
    let mut sick = ailing("db", "v2").service;
    sick.instance.stop.grace = Duration::from_secs(1);
    for (spec, outcome) in [(sick, Outcome::RolledBack), (service("db", "v2").service, Outcome::Succeeded)] {
        let work = async {
            let request = DeployRequest::new(spec).with_strategy(quick());
            let id = controller.deployer.deploy(&request).await.unwrap();
            let mut told = BTreeSet::new();
            let report = loop {
                tokio::select! {
                    report = ended(&controller, &id) => break report,
                    () = tokio::time::sleep(Duration::from_millis(100)) => {
                        for instance in of(&world, "api").await {
                            told.extend(listed(&controller, &instance, "db").await.unwrap_or_default());
                        }
                    }
                }
            };
            assert_eq!(report.outcome, Some(outcome), "{report:?}");
            follows(&world, &controller, 2).await;
            told
        };
        let told = Box::pin(all_reached(&world, &controller, work)).await;
        if outcome == Outcome::RolledBack {
            assert!(told.is_subset(&before), "one that never was ready was told of: {told:?}");
        }
    }
    assert!(before.is_disjoint(&addresses(&world, "db").await), "all of them are new");
}

#[tokio::test(start_paused = true)]
async fn a_file_follows_an_instance_that_is_replaced_and_one_that_rests() {
    let (world, controller) = started().await;
    let lost = of(&world, "db").await[0].clone();
    world.engine.exit(&lost.id, 1);
    eventually("it came back", || async {
        let found = of(&world, "db").await;
        found
            .iter()
            .any(|i| i.key.slot == lost.key.slot && i.state.is_running() && i.incarnation > lost.incarnation)
    })
    .await;
    follows(&world, &controller, 2).await;
    // One that is not ready takes a rest from being told of, and comes back.
    let resting = of(&world, "db").await[0].clone();
    let address = resting.endpoints[0].address;
    let api = of(&world, "api").await[0].clone();
    world.checks.fail_readiness(&resting.id);
    eventually("it is told of no longer", || async {
        listed(&controller, &api, "db").await.is_some_and(|told| !told.contains(&address) && told.len() == 1)
    })
    .await;
    world.checks.clear();
    follows(&world, &controller, 2).await;
}

#[tokio::test(start_paused = true)]
async fn who_could_not_be_written_is_written_later_and_changes_are_gathered() {
    let (world, controller) = started().await;
    let unreachable = FaultRule::new(Fault::Fail(ErrorKind::Unavailable)).on(Operation::PutArchive).times(7);
    world.engine.faults().add(unreachable);
    controller.deployer.set(&name("db"), &ScaleChange::to(4, "a test")).await.unwrap();
    follows(&world, &controller, 4).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let before = world.engine.count(Operation::PutArchive);
    controller.deployer.set(&name("db"), &ScaleChange::to(24, "a test")).await.unwrap();
    follows(&world, &controller, 24).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let writes = world.engine.count(Operation::PutArchive) - before;
    // 20 instances come: one write for each of them at each of 26 instances would be 520.
    assert!(writes < 200, "{writes} writes");
    let before = world.engine.count(Operation::PutArchive);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(world.engine.count(Operation::PutArchive), before, "where nothing changes nothing is written");
}

#[tokio::test(start_paused = true)]
async fn a_successor_keeps_what_is_told_and_goes_on_with_it() {
    let (world, controller) = started().await;
    let api = of(&world, "api").await[0].clone();
    let before = listed(&controller, &api, "db").await;
    controller.kill();
    let second = world.controller("second").await;
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(listed(&second, &api, "db").await, before, "nothing of it is forgotten meanwhile");
    }
    second.deployer.set(&name("db"), &ScaleChange::to(3, "a test")).await.unwrap();
    follows(&world, &second, 3).await;
}

/// Jobs are told too: what a migration needs is where its database is.
#[tokio::test(start_paused = true)]
async fn the_environment_says_where_the_others_were_at_creation() {
    let world = World::new();
    let controller = world.controller("first").await;
    let ask =
        job("ask", &["echo-env", "DB_HOST", "DB_PORT", "DB_URL", "DB_ADDRESSES", "DB_DOMAIN", "EWS_PEERS"]);
    let mut db = service("db", "v1");
    db.traffic = request(spec("v1")).traffic;
    let report =
        released(&controller, release([db, ask.clone().after(name("db"), MemberCondition::Promoted)])).await;
    let log = report.member(&name("ask")).unwrap().job.clone().unwrap().log;
    let there = addresses(&world, "db").await;
    let value = |variable: &str| {
        let line = log.iter().find_map(|line| line.strip_prefix(&format!("{variable}=")));
        line.unwrap_or_default().to_owned()
    };
    let told: BTreeSet<SocketAddr> =
        value("DB_ADDRESSES").split(',').map(|address| address.parse().unwrap()).collect();
    assert_eq!(told, there, "{log:?}");
    assert_eq!(value("DB_DOMAIN"), "web.test");
    assert_eq!(value("EWS_PEERS"), "/ews/peers.json");
    let one = format!("{}:{}", value("DB_HOST"), value("DB_PORT"));
    assert!(there.contains(&one.parse().unwrap()), "{log:?}");
    assert_eq!(value("DB_URL"), format!("http://{one}"));
    // And where nothing shall be told, nothing is.
    let quiet = release([service("db", "v1"), ask.after(name("db"), MemberCondition::Promoted)]);
    let report = released(&controller, quiet.with_discovery(Discovery::off())).await;
    let log = report.member(&name("ask")).unwrap().job.clone().unwrap().log;
    assert!(log.iter().all(|line| line.ends_with('=')), "{log:?}");
}
