//! Random releases: graphs, failures, and what happens meanwhile.
//!
//! Whatever comes, a release ends; no member is started before its conditions held, by what the engine saw and not by what the release
//! says of itself; and after a rollback every member runs what it ran before.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod release_rig;
mod rig;

use std::collections::BTreeMap;
use std::time::Duration;

use ews_core::event::{Notice, RuntimeEvent};
use ews_core::testkit::fake::{FakeRuntime, Fault, FaultRule};
use ews_core::{ErrorKind, EventStream, InstanceState, Runtime as _, Selector, Timestamp};
use ews_deploy::Outcome;
use ews_deploy::release::{MemberCondition, MemberSpec, OnMemberFailure, ReleaseRequest, ReleaseSpec};
use futures_util::{FutureExt as _, StreamExt as _};
use proptest::prelude::*;
use release_rig::*;
use rig::*;

/// What a member of the second release does.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Good,
    Same,
    Sick,
    Crashing,
    Job,
    FailingJob,
}

/// What happens to the release under way.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Meanwhile {
    Nothing,
    Kill,
    KillTwice,
    Abort,
    Cancel,
    PauseAndResume,
    Faults,
}

#[derive(Debug, Clone)]
struct Member {
    kind: Kind,
    /// Whether an earlier release brought it.
    known: bool,
    /// For each earlier member, what of it is waited for.
    edges: Vec<Option<MemberCondition>>,
}

#[derive(Debug, Clone)]
struct Case {
    members: Vec<Member>,
    policy: OnMemberFailure,
    parallel: usize,
    meanwhile: Meanwhile,
    after: u64,
}

fn member(index: usize) -> impl Strategy<Value = Member> {
    let kind = prop_oneof![
        6 => Just(Kind::Good),
        1 => Just(Kind::Same),
        1 => Just(Kind::Sick),
        1 => Just(Kind::Crashing),
        1 => Just(Kind::Job),
        1 => Just(Kind::FailingJob),
    ];
    let condition = prop_oneof![
        3 => Just(None),
        1 => Just(Some(MemberCondition::Started)),
        1 => Just(Some(MemberCondition::Healthy)),
        1 => Just(Some(MemberCondition::Promoted)),
    ];
    (kind, any::<bool>(), prop::collection::vec(condition, index)).prop_map(|(kind, known, edges)| Member {
        kind,
        known: known || kind == Kind::Same,
        edges,
    })
}

fn case() -> impl Strategy<Value = Case> {
    let members = (2_usize..7).prop_flat_map(|count| (0..count).map(member).collect::<Vec<_>>());
    let policy = prop_oneof![
        3 => Just(OnMemberFailure::Rollback),
        1 => Just(OnMemberFailure::Freeze),
        1 => Just(OnMemberFailure::Keep),
    ];
    let meanwhile = prop_oneof![
        2 => Just(Meanwhile::Nothing),
        2 => Just(Meanwhile::Kill),
        1 => Just(Meanwhile::KillTwice),
        1 => Just(Meanwhile::Abort),
        1 => Just(Meanwhile::Cancel),
        1 => Just(Meanwhile::PauseAndResume),
        1 => Just(Meanwhile::Faults),
    ];
    (members, policy, 1_usize..5, meanwhile, 0_u64..40_000).prop_map(
        |(members, policy, parallel, meanwhile, after)| Case { members, policy, parallel, meanwhile, after },
    )
}

fn of(index: usize) -> String {
    format!("m{index}")
}

fn is_job(member: &Member) -> bool {
    matches!(member.kind, Kind::Job | Kind::FailingJob)
}

fn second(case: &Case) -> ReleaseSpec {
    let members = case.members.iter().enumerate().map(|(index, member)| {
        let name_of = of(index);
        let mut spec: MemberSpec = match member.kind {
            Kind::Good => service(&name_of, "v2"),
            Kind::Same => service(&name_of, "v1"),
            Kind::Sick => ailing(&name_of, "v2"),
            Kind::Crashing => {
                let mut spec = service(&name_of, "v2");
                spec.service.instance.command =
                    ["fake", "exit", "7", "after", "100ms"].map(str::to_owned).to_vec();
                spec
            }
            Kind::Job => job(&name_of, &["exit", "0", "after", "3s"]),
            Kind::FailingJob => job(&name_of, &["exit", "5", "after", "3s"]),
        };
        for (earlier, condition) in member.edges.iter().enumerate() {
            if let Some(condition) = condition {
                spec = spec.after(name(&of(earlier)), *condition);
            }
        }
        spec
    });
    release(members)
        .with_on_failure(case.policy)
        .with_parallel(case.parallel)
        .with_keep_failed(Duration::ZERO)
}

/// When each instance of the second release came to run and ended, by the engine.
#[derive(Default, Debug)]
struct Seen {
    running: BTreeMap<String, Vec<Timestamp>>,
    exited: BTreeMap<String, Timestamp>,
}

fn drain(events: &mut EventStream, old: &[String], seen: &mut Seen) {
    while let Some(Some(notice)) = events.next().now_or_never() {
        match notice {
            Notice::Event(RuntimeEvent::Instance { id, key, state, at, .. }) => {
                if old.contains(&key.revision.to_string()) {
                    continue;
                }
                match state {
                    InstanceState::Running => {
                        let times = seen.running.entry(key.service.to_string()).or_default();
                        times.push(at);
                    }
                    InstanceState::Exited(status) if status.is_success() => {
                        seen.exited.entry(key.service.to_string()).or_insert(at);
                    }
                    _ => {}
                }
                let _ = id;
            }
            Notice::Gap(gap) => panic!("{gap:?}: what was seen would say nothing"),
            Notice::Event(_) => {}
        }
    }
}

async fn run(case: &Case) {
    let world = World::new();
    let mut controller = world.controller("c0").await;
    let first: Vec<MemberSpec> = case
        .members
        .iter()
        .enumerate()
        .filter(|(_, member)| member.known && !is_job(member))
        .map(|(index, _)| service(&of(index), "v1"))
        .collect();
    let known: Vec<String> = first.iter().map(|member| member.name().to_string()).collect();
    if !first.is_empty() {
        let report = released(&controller, release(first)).await;
        assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    }
    let old: Vec<String> = world.instances().await.iter().map(|i| i.key.revision.to_string()).collect();
    let watcher = FakeRuntime::connect(&world.engine);
    let mut events = watcher.events(&Selector::everything()).await.unwrap();
    let mut seen = Seen::default();

    if case.meanwhile == Meanwhile::Faults {
        let fault = FaultRule::new(Fault::Fail(ErrorKind::Unavailable)).with_probability(0.1).times(20);
        world.engine.faults().add(fault);
    }
    let id = controller.deployer.release(&ReleaseRequest::new(second(case))).await.unwrap();
    let kills = match case.meanwhile {
        Meanwhile::Kill => 1,
        Meanwhile::KillTwice => 2,
        _ => 0,
    };
    let pause = Duration::from_millis(case.after);
    for life in 1..=kills {
        tokio::time::sleep(pause).await;
        drain(&mut events, &old, &mut seen);
        controller.kill();
        controller = world.controller(&format!("c{life}")).await;
    }
    tokio::time::sleep(pause).await;
    match case.meanwhile {
        Meanwhile::Abort => drop(controller.deployer.abort_release(&shop()).await),
        Meanwhile::Cancel => drop(controller.deployer.cancel_release(&shop()).await),
        Meanwhile::PauseAndResume => {
            // It may have ended before.
            let _ = controller.deployer.pause_release(&shop()).await;
            tokio::time::sleep(Duration::from_secs(100)).await;
            let _ = controller.deployer.resume_release(&shop()).await;
        }
        _ => {}
    }
    let report = loop {
        let wait = tokio::time::timeout(Duration::from_secs(10), controller.deployer.wait_release(&id)).await;
        drain(&mut events, &old, &mut seen);
        if let Ok(report) = wait {
            break report.unwrap();
        }
    };
    // The test's own looks are not to fail.
    world.engine.faults().clear();
    drain(&mut events, &old, &mut seen);
    assert!(report.outcome.is_some());
    in_order(case, &seen);
    let outcome = report.outcome.unwrap();
    assert_ne!(outcome, Outcome::RollbackFailed, "nothing hinders the way back: {report:?}");
    let fails = case.members.iter().any(|m| matches!(m.kind, Kind::Sick | Kind::Crashing | Kind::FailingJob));
    let expected: BTreeMap<String, Vec<String>> = match outcome {
        Outcome::RolledBack => {
            known.iter().map(|service| (service.clone(), vec!["v1".to_owned(); 2])).collect()
        }
        Outcome::Succeeded => {
            assert!(!fails, "{report:?}");
            let services = case.members.iter().enumerate().filter(|(_, member)| !is_job(member));
            let version = |member: &Member| if member.kind == Kind::Same { "v1" } else { "v2" };
            services.map(|(index, member)| (of(index), vec![version(member).to_owned(); 2])).collect()
        }
        // Where it stood: a cancelled rollout may leave one slot new and one old, and nothing half done.
        _ => {
            let whole = |found: &BTreeMap<String, Vec<String>>| {
                let runs = found.values().flatten().all(|version| version != "down");
                runs && known.iter().all(|service| found.get(service).is_some_and(|all| all.len() == 2))
            };
            eventually("nothing is half done", || async { whole(&versions(&world).await) }).await;
            return;
        }
    };
    eventually("what runs is what shall run", || async { versions(&world).await == expected }).await;
    let left = || async { world.engine.objects() == expected.len() * 2 };
    eventually("nothing else is left", left).await;
}

/// No member was started before the conditions in front of it held.
fn in_order(case: &Case, seen: &Seen) {
    for (index, member) in case.members.iter().enumerate() {
        let Some(started) = seen.running.get(&of(index)).and_then(|times| times.first()) else { continue };
        for (earlier, condition) in member.edges.iter().enumerate() {
            let Some(condition) = condition else { continue };
            let before = &case.members[earlier];
            if before.kind == Kind::Same {
                continue;
            }
            let name = of(earlier);
            let place = format!("m{index} before {name} was {condition}: {case:?} {seen:?}");
            let times = seen.running.get(&name).unwrap_or_else(|| panic!("{place}"));
            match (is_job(before), condition) {
                (_, MemberCondition::Started) => assert!(times[0] <= *started, "{place}"),
                (true, _) => assert!(seen.exited.get(&name).is_some_and(|at| at <= started), "{place}"),
                // Both instances had been running for as long as a gate takes.
                (false, _) => {
                    let early: Vec<_> = times
                        .iter()
                        .filter(|at| started.since(**at) >= Duration::from_secs(2) && *at <= started)
                        .collect();
                    assert!(early.len() >= 2, "{place}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_it_ends_in_order_and_back_where_it_was(case in case()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let ended = runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(4 * 3600), run(&case)).await
        });
        prop_assert!(ended.is_ok(), "it never ended");
    }
}
