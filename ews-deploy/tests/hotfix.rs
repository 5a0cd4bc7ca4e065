//! Files laid over running instances, as a rollout of their own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, reason = "tests")]

mod rig;

use std::sync::Arc;

use ews_core::spec::content::{ConfigFile, FileContent};
use ews_core::spec::lifecycle::Signal;
use ews_core::spec::storage::{Mount, MountKind};
use ews_core::testkit::fake::{FakeRuntime, Fault, FaultRule, Operation};
use ews_core::testkit::tar;
use ews_core::{ErrorKind, Instance, InstanceId, Runtime as _, ScaleChange, ScaleTarget as _, Store};
use ews_deploy::{Approval, Batch, EventKind, Hotfix, Outcome, Phase, Reload, RolloutReport, Step};
use futures_util::StreamExt as _;
use rig::*;

const PATH: &str = "/etc/passwd";
const BEFORE: &str = "root:x:0:0::/:/bin/sh\n";

fn fix(content: &str) -> Hotfix {
    let one = Batch::Count(1);
    Hotfix::new(web()).with_file(PATH, content.to_owned()).with_strategy(strategy().with_batches(one, one))
}

async fn content(world: &World, id: &InstanceId, path: &str) -> Option<String> {
    let mut archive = FakeRuntime::connect(&world.engine).get_archive(id, path).await.ok()?;
    let mut bytes = Vec::new();
    while let Some(piece) = archive.next().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    let entries = tar::read(&bytes).unwrap();
    Some(String::from_utf8(entries[0].content.clone()).unwrap())
}

async fn contents(world: &World, path: &str) -> Vec<Option<String>> {
    let mut all = Vec::new();
    for instance in world.instances().await {
        all.push(content(world, &instance.id, path).await);
    }
    all
}

fn three(text: &str) -> Vec<Option<String>> {
    vec![Some(text.to_owned()); 3]
}

async fn fixed(controller: &Controller, fix: &Hotfix) -> RolloutReport {
    let id = controller.deployer.hotfix(fix).await.unwrap();
    ended(controller, &id).await
}

fn starts(instances: &[Instance]) -> Vec<u64> {
    instances.iter().map(|instance| instance.incarnation.0).collect()
}

#[tokio::test(start_paused = true)]
async fn files_are_replaced_in_place_and_in_every_instance_that_comes_later() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    let before = world.instances().await;
    assert_eq!(controller.deployer.overlaid(&web()).await.unwrap(), None);
    let report = fixed(&controller, &fix("mended")).await;
    assert_eq!((report.outcome, report.done), (Some(Outcome::Succeeded), (3, 3)), "{report:?}");
    assert_eq!(contents(&world, PATH).await, three("mended"));
    assert_eq!(world.instances().await, before, "the same instances, started once");
    assert!(controller.deployer.drift(&web()).await.unwrap().is_empty());
    let (revision, overlay) = controller.deployer.hotfixes(&web()).await.unwrap().remove(0);
    assert_eq!(
        (revision.parent, overlay.files[PATH].original.unwrap().size),
        (report.from, BEFORE.len() as u64)
    );

    let overlaid = controller.deployer.overlaid(&web()).await.unwrap().unwrap();
    assert_eq!((&overlaid.revision, &overlaid.files[PATH].content[..]), (&revision.id, &b"mended"[..]));
    assert_eq!(overlaid.files[PATH].mode, overlay.files[PATH].content.mode);
    assert_eq!(overlaid.spec, spec("v1"));

    controller.deployer.set(&web(), &ScaleChange::to(4, "test")).await.unwrap();
    eventually("a fourth", || async { world.serving().await.len() == 4 }).await;
    assert_eq!(contents(&world, PATH).await, vec![Some("mended".to_owned()); 4]);
    // One that is gone with all it had.
    let runtime = FakeRuntime::connect(&world.engine);
    let gone = &before[1].id;
    runtime.remove(gone, &ews_core::runtime::RemoveOptions::force()).await.unwrap();
    let replaced = || async { world.instances().await.len() == 4 && world.serving().await.len() == 4 };
    eventually("it is replaced", replaced).await;
    assert_eq!(contents(&world, PATH).await, vec![Some("mended".to_owned()); 4]);
    // One that ended is started again with what it has.
    world.engine.exit(&world.instances().await[0].id, 1);
    eventually("it is back", || async { world.serving().await.len() == 4 }).await;
    assert_eq!(contents(&world, PATH).await, vec![Some("mended".to_owned()); 4]);
}

#[tokio::test(start_paused = true)]
async fn going_back_lays_the_old_ones_over_and_hotfixes_add_up() {
    let (world, controller) = running().await;
    let before = world.instances().await;
    let first = fixed(&controller, &fix("one")).await;
    fixed(&controller, &fix("two").with_file("/tmp/other", "new")).await;
    assert_eq!(
        (contents(&world, PATH).await, contents(&world, "/tmp/other").await),
        (three("two"), three("new"))
    );
    let overlay = controller.deployer.hotfixes(&web()).await.unwrap().remove(1).1;
    assert_eq!((overlay.base, overlay.files.len(), overlay.files["/tmp/other"].original), (1, 2, None));

    world.guard.watch(3);
    // The file that was not there before can't be taken away: the instances make way, and start with what they shall have.
    let id = controller.deployer.rollback(&web(), Some(&first.to)).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    world.assert_whole(3, "v1").await;
    assert_eq!(
        (contents(&world, PATH).await, contents(&world, "/tmp/other").await),
        (three("one"), vec![None; 3])
    );
    assert!(world.instances().await.iter().all(|instance| !before.contains(instance)));

    let now = world.instances().await;
    let id = controller.deployer.rollback(&web(), first.from.as_ref()).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    assert_eq!(contents(&world, PATH).await, three(BEFORE));
    assert_eq!(world.instances().await, now, "in place");
    assert!(controller.deployer.drift(&web()).await.unwrap().is_empty());
    assert!(world.guard.least() >= 3);
}

#[tokio::test(start_paused = true)]
async fn a_program_is_told_as_it_was_asked_for() {
    let (world, controller) = running().await;
    let before = starts(&world.instances().await);
    world.guard.watch(2);
    fixed(&controller, &fix("restarted").with_reload(Reload::Restart)).await;
    let after: Vec<u64> = before.iter().map(|incarnation| incarnation + 1).collect();
    assert_eq!(starts(&world.instances().await), after);
    assert_eq!(world.guard.least(), 2, "one at a time, and drained before");
    let exec = Reload::Exec(["fake", "print", "reloaded"].map(str::to_owned).to_vec());
    let report = fixed(&controller, &fix("told").with_reload(exec)).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    let mut events = controller.deployer.events();
    let report = fixed(&controller, &fix("signalled").with_reload(Reload::Signal(Signal::HUP))).await;
    // The fake's programs end at a signal that they do not know.
    assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
    assert_eq!(contents(&world, PATH).await, three("told"));
    let mut reloads = 0;
    while let Some(notice) = events.try_next() {
        if let ews_core::event::Notice::Event(event) = notice
            && let EventKind::Step { step: Step::Reload, .. } = event.event.kind
        {
            reloads += 1;
        }
    }
    assert!(reloads >= 1);
}

#[tokio::test(start_paused = true)]
async fn what_does_badly_is_undone_in_the_instances_that_have_it() {
    let (world, controller) = running().await;
    let before = world.instances().await;
    let exec = Reload::Exec(["fake", "exit", "3"].map(str::to_owned).to_vec());
    let report = fixed(&controller, &fix("bad").with_reload(exec)).await;
    assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
    assert!(report.failures[0].reason.contains("the reload command ended: "), "{report:?}");
    assert_eq!(report.failures[0].log, ["out", "err"]);
    let restored = || async { contents(&world, PATH).await == three(BEFORE) };
    eventually("the old ones are back", restored).await;
    // A program that can't be told of the old file either is started again.
    let grown: Vec<u64> = starts(&before).iter().map(|start| start + 1).collect();
    assert_eq!(starts(&world.instances().await)[0], grown[0]);

    // The first one is well, the second is not: both are as before in the end.
    let (world, controller) = running().await;
    let before = world.instances().await;
    let id = controller.deployer.hotfix(&fix("bad")).await.unwrap();
    eventually("one is done", || async {
        controller.deployer.rollout(&id).await.is_ok_and(|r| r.done.0 == 1)
    })
    .await;
    let patched = || async { content(&world, &before[1].id, PATH).await.as_deref() == Some("bad") };
    eventually("the second has it", patched).await;
    world.checks.fail_readiness(&before[1].id);
    let turned = || async {
        let report = controller.deployer.rollout(&id).await;
        report.is_ok_and(|report| report.phase == Phase::RollingBack)
    };
    eventually("it turns round", turned).await;
    world.checks.clear();
    let report = ended(&controller, &id).await;
    assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
    eventually("the old ones are back", || async { contents(&world, PATH).await == three(BEFORE) }).await;
    assert_eq!(world.instances().await, before);
}

#[tokio::test(start_paused = true)]
async fn a_hotfix_waits_for_approval_and_can_be_aborted_or_cancelled() {
    let (world, controller) = running().await;
    let mut asked = fix("half");
    asked.strategy = asked.strategy.with_approval(Approval::FirstBatch);
    for (abort, outcome, seen) in [(true, Outcome::RolledBack, BEFORE), (false, Outcome::Cancelled, "half")] {
        let id = controller.deployer.hotfix(&asked).await.unwrap();
        eventually("it waits", || async { controller.deployer.rollout(&id).await.is_ok_and(|r| r.paused) })
            .await;
        let half = contents(&world, PATH).await;
        assert_eq!(half.iter().filter(|c| c.as_deref() == Some("half")).count(), 1, "{half:?}");
        if abort {
            controller.deployer.abort(&web()).await.unwrap();
        } else {
            controller.deployer.cancel(&web()).await.unwrap();
        }
        assert_eq!(ended(&controller, &id).await.outcome, Some(outcome));
        assert_eq!(contents(&world, PATH).await[0].as_deref(), Some(seen));
        assert_eq!(contents(&world, PATH).await[1].as_deref(), Some(BEFORE));
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_revision_does_not_have_it_and_the_plan_says_so() {
    let (world, controller) = running().await;
    fixed(&controller, &fix("mended")).await;
    let plan = controller.deployer.plan(&request(spec("v2"))).await.unwrap();
    assert!(plan.warnings.iter().any(|warning| warning.contains(PATH)), "{plan}");
    assert_eq!(deploy(&controller, spec("v2")).await.outcome, Some(Outcome::Succeeded));
    assert_eq!(contents(&world, PATH).await, three(BEFORE));
    // The same spec again is the revision itself, without the hotfix.
    let id = controller.deployer.rollback(&web(), None).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    assert_eq!(contents(&world, PATH).await, three("mended"), "a rollback to it has it");
    let now = world.instances().await;
    assert_eq!(deploy(&controller, spec("v1")).await.outcome, Some(Outcome::Succeeded));
    assert_eq!((contents(&world, PATH).await, world.instances().await), (three(BEFORE), now));
}

#[tokio::test(start_paused = true)]
async fn what_drifts_is_reported() {
    let (world, controller) = running().await;
    fixed(&controller, &fix("mended")).await;
    let runtime = FakeRuntime::connect(&world.engine);
    let id = world.instances().await[2].id.clone();
    let archive = bytes::Bytes::from(tar::write(&[tar::Entry::file("passwd", "tampered")]));
    let archive = futures_util::stream::once(async move { Ok(archive) }).boxed();
    runtime.put_archive(&id, "/etc", archive).await.unwrap();
    let drift = controller.deployer.drift(&web()).await.unwrap();
    assert_eq!((drift.len(), &drift[0].instance, drift[0].path.as_str()), (1, &id, PATH));
    assert_ne!(drift[0].expected, drift[0].found);
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_is_refused_before_anything_is_written() {
    let (world, controller) = running().await;
    let refused = async |fix: Hotfix, word: &str| {
        let error = controller.deployer.hotfix(&fix).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(word), "{error} lacks {word}");
    };
    for path in ["etc/passwd", "/etc/../x", "/", "/a//b", "/a\nb", "/etc/"] {
        refused(Hotfix::new(web()).with_file(path, "x"), "not the path of a file").await;
    }
    refused(Hotfix::new(web()), "0 files").await;
    refused(Hotfix::new(web()).with_file("/etc", "x"), "a directory").await;
    refused(fix("x").with_reload(Reload::Exec(Vec::new())), "without a program").await;
    refused(Hotfix::new(web()).with_file(PATH, vec![0; Hotfix::FILE + 1]), "at most").await;
    assert!(controller.deployer.hotfixes(&web()).await.unwrap().is_empty());

    let mut closed = spec("v2");
    closed.instance.mounts = vec![Mount::new("/data", MountKind::Volume("data".parse().unwrap()))];
    closed.instance.files = vec![ConfigFile::new("/etc/app.conf", FileContent::Content("x".into()))];
    assert_eq!(deploy(&controller, closed.clone()).await.outcome, Some(Outcome::Succeeded));
    refused(Hotfix::new(web()).with_file("/data/x", "x"), "volume `data`").await;
    refused(Hotfix::new(web()).with_file("/etc/app.conf", "x"), "the spec places").await;
    closed.instance.security.read_only_root = true;
    assert_eq!(deploy(&controller, closed).await.outcome, Some(Outcome::Succeeded));
    refused(fix("x"), "read-only").await;
    assert_eq!(world.keys("deploy/acme/web/blob/").await, 0, "and nothing was kept");
    let nobody = Hotfix::new("nobody".parse().unwrap()).with_file(PATH, "x");
    assert_eq!(controller.deployer.hotfix(&nobody).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_fails_for_a_while_costs_time_and_nothing_else() {
    let (world, controller) = running().await;
    let before = world.instances().await;
    for operation in [Operation::PutArchive, Operation::GetArchive, Operation::Exec] {
        let fail = FaultRule::new(Fault::Fail(ErrorKind::Unavailable)).on(operation).after(2).times(2);
        world.engine.faults().add(fail);
        let applied = FaultRule::new(Fault::FailApplied(ErrorKind::Timeout)).on(operation).after(5).times(1);
        world.engine.faults().add(applied);
    }
    let exec = Reload::Exec(["fake", "print", "x"].map(str::to_owned).to_vec());
    let report = fixed(&controller, &fix("mended").with_reload(exec)).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    assert_eq!(contents(&world, PATH).await, three("mended"));
    assert_eq!(world.instances().await, before);
}

#[tokio::test(start_paused = true)]
async fn old_hotfixes_are_forgotten_with_their_files() {
    let (world, controller) = running().await;
    for number in 0..30 {
        assert_eq!(fixed(&controller, &fix(&format!("{number}"))).await.outcome, Some(Outcome::Succeeded));
    }
    // As many stable ones as are kept, and as many others; each with what it holds and what was there before.
    let kept = controller.deployer.hotfixes(&web()).await.unwrap().len();
    assert!((10..=21).contains(&kept), "{kept}");
    assert!(world.keys("deploy/acme/web/blob/").await <= 2 * kept);
    assert_eq!(contents(&world, PATH).await, three("29"));
    let first = controller.deployer.revisions(&web()).await.unwrap().remove(0).id;
    let id = controller.deployer.rollback(&web(), Some(&first)).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    assert_eq!(contents(&world, PATH).await, three(BEFORE), "what it was laid over is never forgotten");
}

/// Hotfixes with a controller that is killed at every commit, before and after it happens; a successor ends them.
async fn every_point(name: &str, fix: &Hotfix, sick: bool, outcome: Outcome, text: &str, budget: usize) {
    let mut points = 0;
    for kill in [Kill::Before, Kill::After] {
        for at in 1.. {
            let (world, first) = running().await;
            let before = world.instances().await;
            first.deployer.leave().await;
            drop(first);
            world.guard.watch(budget);
            if sick {
                // From the second on, whoever is asked about readiness after this says no while the new file is there.
                world.engine.faults().add(
                    FaultRule::new(Fault::Fail(ErrorKind::Invalid))
                        .on(Operation::PutArchive)
                        .after(1)
                        .times(1),
                );
            }
            let store = Arc::new(KillingStore::new(Arc::clone(&world.store) as Arc<dyn Store>, at, kill));
            let fix = fix.clone().with_key("the fix");
            let second = tokio::select! {
                biased;
                () = store.killed() => None,
                second = world.controller_on("second", Arc::clone(&store) as Arc<dyn Store>) => Some(second),
            };
            let mut killed = second.is_none();
            if let Some(second) = second {
                let work = async {
                    let id = second.deployer.hotfix(&fix).await.unwrap();
                    ended(&second, &id).await
                };
                tokio::select! {
                    biased;
                    () = store.killed() => killed = true,
                    _ = work => {}
                }
                second.kill();
            }
            let third = world.controller("third").await;
            let id = third.deployer.hotfix(&fix).await.unwrap();
            assert_eq!(id.number, 2, "the same request is one rollout");
            let report = ended(&third, &id).await;
            assert!(
                report.outcome == Some(outcome)
                    || (sick && killed && report.outcome == Some(Outcome::Succeeded)),
                "{name}: killed {kill:?} commit {at}: {report:?}"
            );
            let text = if report.outcome == Some(Outcome::Succeeded) { "mended" } else { text };
            eventually("the files", || async { contents(&world, PATH).await == three(text) }).await;
            world.assert_whole(3, "v1").await;
            let ids = |all: &[Instance]| all.iter().map(|i| i.id.clone()).collect::<Vec<_>>();
            assert_eq!(ids(&world.instances().await), ids(&before), "in place");
            assert!(third.deployer.drift(&web()).await.unwrap().is_empty());
            assert!(world.guard.least() >= budget);
            if !killed {
                break;
            }
            points += 1;
        }
    }
    println!("{name}: {points} kills");
    assert!(points > 20, "{points}");
}

#[tokio::test(start_paused = true)]
async fn a_kill_at_any_point_of_a_hotfix() {
    let exec = Reload::Exec(["fake", "print", "x"].map(str::to_owned).to_vec());
    every_point("hotfix", &fix("mended").with_reload(exec), false, Outcome::Succeeded, "mended", 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_kill_at_any_point_of_a_hotfix_that_restarts() {
    let fix = fix("mended").with_reload(Reload::Restart);
    every_point("hotfix by restart", &fix, false, Outcome::Succeeded, "mended", 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_kill_at_any_point_of_a_hotfix_that_fails() {
    every_point("failing hotfix", &fix("mended"), true, Outcome::RolledBack, BEFORE, 3).await;
}
