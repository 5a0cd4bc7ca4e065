//! SIGKILL, SIGSTOP and lost boots: of the controller, of a shim, of a program, at every step.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use ews_core::process::{Cgroups, ProcessRuntime};
use ews_core::runtime::{
    CreateOptions, ExecSpec, LogOptions, RemoveOptions, Runtime, StopOptions, WaitOptions,
};
use ews_core::spec::lifecycle::Signal;
use ews_core::testkit::conformance::runtime::{Workload, processes_with};
use ews_core::{ErrorKind, Incarnation, InstanceState, Selector};

use super::{Place, fs, key, kill, launch, shell, shim_of, text, until, until_gone, workload};

/// How often the controller is killed.
const ROUNDS: u64 = 30;

/// The slots that the killed controller works on.
const SLOTS: u32 = 3;

fn mark_of_loop(root: &std::path::Path) -> String {
    format!("kill-loop-{}", root.parent().unwrap().file_name().unwrap().to_str().unwrap())
}

/// The controller that is killed: this test's program once more. It says what it begins and what it has acknowledged.
#[tokio::test]
#[allow(clippy::print_stdout, reason = "the test that kills it reads what it says")]
async fn the_controller_that_is_killed() {
    let Ok(root) = std::env::var("EWS_T_KILLED_ROOT") else { return };
    let root = std::path::PathBuf::from(root);
    let runtime = ProcessRuntime::open(super::config(&root, Cgroups::Auto)).await.unwrap();
    let spec = workload(&Workload::Tree, &mark_of_loop(&root));
    println!("\nopen");
    for turn in 0_u32.. {
        let key = key(turn % SLOTS);
        let id = key.to_id().unwrap();
        let before = runtime.get(&id).await.ok();
        match before.as_ref().map(|instance| &instance.state) {
            None => {
                println!("begin {id}");
                runtime.create(&spec, &key, &CreateOptions::default()).await.unwrap();
                println!("done {id} created 0");
            }
            Some(state) if state.is_running() && turn.is_multiple_of(2) => {
                println!("begin {id}");
                runtime.stop(&id, &StopOptions::grace(Duration::ZERO)).await.unwrap();
                println!("done {id} exited {}", runtime.get(&id).await.unwrap().incarnation);
            }
            Some(state) if state.is_running() || turn.is_multiple_of(5) => {
                println!("begin {id}");
                runtime.remove(&id, &RemoveOptions::force()).await.unwrap();
                println!("done {id} gone 0");
            }
            Some(_) => {
                println!("begin {id}");
                let started = runtime.start(&id).await.unwrap();
                println!("done {id} running {}", started.incarnation);
            }
        }
    }
}

// On threads, since it waits for the lines of a process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_killed_at_any_moment_loses_nothing_acknowledged() {
    let place = Place::new(Cgroups::Auto);
    let mark = mark_of_loop(&place.root());
    let mut acknowledged: BTreeMap<String, (String, u64)> = BTreeMap::new();
    let mut steps = 0;
    for round in 0..ROUNDS {
        let mut controller = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kills::the_controller_that_is_killed", "--nocapture"])
            .env("EWS_T_KILLED_ROOT", place.root())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(controller.stdout.take().unwrap()).lines();
        // Killed a little later in each round, counted in what it has said, and a little after that.
        let mut said = 0;
        let mut begun = None;
        let mut take = |line: String, begun: &mut Option<String>| {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["begin", id] => *begun = Some(id.to_owned()),
                ["done", id, state, incarnation] => {
                    acknowledged.insert(id.to_owned(), (state.to_owned(), incarnation.parse().unwrap()));
                    *begun = None;
                    steps += 1;
                }
                _ => {}
            }
        };
        while said < round
            && let Some(line) = lines.next()
        {
            take(line.unwrap(), &mut begun);
            said += 1;
        }
        tokio::time::sleep(Duration::from_micros(round * 7919 % 9000)).await;
        controller.kill().unwrap();
        controller.wait().unwrap();
        for line in lines {
            take(line.unwrap(), &mut begun);
        }

        let runtime = place.open().await;
        for (id, (state, incarnation)) in &acknowledged {
            let found = runtime.get(&id.parse().unwrap()).await.ok();
            if begun.as_deref() == Some(id) {
                continue;
            }
            let now = found.as_ref().map_or("gone", |instance| instance.state.as_str());
            assert_eq!(now, state, "round {round}: {id} was acknowledged");
            let seen = found.map_or(Incarnation(0), |instance| instance.incarnation);
            assert_eq!(seen, Incarnation(*incarnation), "round {round}: {id}");
        }
        // What was under way is in one of the states on its way, or whole again.
        for instance in runtime.list(&Selector::everything()).await.unwrap() {
            let known = matches!(
                instance.state,
                InstanceState::Created
                    | InstanceState::Running
                    | InstanceState::Exited(_)
                    | InstanceState::Stopping
            );
            assert!(known, "round {round}: {} is {:?}", instance.id, instance.state);
        }
        // The next round's controller begins from what is true now.
        acknowledged.clear();
        for instance in runtime.list(&Selector::everything()).await.unwrap() {
            let state =
                if instance.state == InstanceState::Stopping { continue } else { instance.state.as_str() };
            acknowledged.insert(instance.id.to_string(), (state.to_owned(), instance.incarnation.0));
        }
    }
    assert!(steps > 20, "the controllers did only {steps} steps");
    let runtime = place.open().await;
    for instance in runtime.list(&Selector::everything()).await.unwrap() {
        runtime.remove(&instance.id, &RemoveOptions::force()).await.unwrap();
    }
    until_gone(&mark).await;
    assert_eq!(place.hidden(), Vec::<String>::new());
}

async fn a_killed_shim_takes_its_tree_along(cgroups: Cgroups, mark: &str) {
    let place = Place::new(cgroups);
    let runtime = place.open().await;
    let id = launch(&runtime, &workload(&Workload::Tree, mark), 0).await.id;
    until("the daemon", async || processes_with(mark) >= Some(3)).await;
    kill(shim_of(&place.root(), id.as_str()).unwrap(), "KILL");
    let status = runtime.wait(&id, &WaitOptions::default()).await.unwrap();
    assert_eq!((status.code, status.signal), (None, None), "how it ended nobody has seen");
    until_gone(mark).await;
    let again = runtime.start(&id).await.unwrap();
    assert_eq!((again.state, again.incarnation), (InstanceState::Running, Incarnation(2)));

    // The same while no controller is there: the next one finds it out.
    until("the daemon", async || processes_with(mark) >= Some(3)).await;
    drop(runtime);
    kill(shim_of(&place.root(), id.as_str()).unwrap(), "KILL");
    let runtime = place.open().await;
    let found = runtime.get(&id).await.unwrap();
    assert!(
        matches!(&found.state, InstanceState::Exited(status) if status.code.is_none()),
        "{:?}",
        found.state
    );
    assert_eq!(found.incarnation, Incarnation(2));
    until_gone(mark).await;
    runtime.remove(&id, &RemoveOptions::default()).await.unwrap();
    assert_eq!(place.hidden(), Vec::<String>::new());
}

#[tokio::test]
async fn a_killed_shim_takes_its_tree_along_by_group() {
    a_killed_shim_takes_its_tree_along(Cgroups::Auto, &format!("shim-group-{}", std::process::id())).await;
}

#[tokio::test]
async fn a_killed_shim_takes_its_tree_along_by_mark() {
    a_killed_shim_takes_its_tree_along(Cgroups::Off, &format!("shim-mark-{}", std::process::id())).await;
}

#[tokio::test]
async fn a_shim_killed_at_any_moment_of_a_start_leaves_nothing() {
    let place = Place::new(Cgroups::Auto);
    let runtime = std::sync::Arc::new(place.open().await);
    let mark = format!("shim-start-{}", std::process::id());
    let spec = workload(&Workload::Tree, &mark);
    for slot in 0..40 {
        let id = runtime.create(&spec, &key(slot), &CreateOptions::default()).await.unwrap().id;
        let starting = tokio::spawn({
            let (runtime, id) = (runtime.clone(), id.clone());
            async move { runtime.start(&id).await }
        });
        // From the moment that it can be seen, in steps of a fifth of a millisecond. One that was not told yet what to start is
        // replaced by another, which goes on.
        let mut shim = None;
        while shim.is_none() && !starting.is_finished() {
            shim = shim_of(&place.root(), id.as_str());
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_micros(u64::from(slot) * 200)).await;
        if let Some(shim) = shim.or_else(|| shim_of(&place.root(), id.as_str())) {
            kill(shim, "KILL");
        }
        // The call may fail; what is true is known soon.
        let _ = starting.await.unwrap();
        until("the start to be known as over, or as another shim's", async || {
            let state = runtime.get(&id).await.unwrap().state;
            state.is_ended()
                || state == InstanceState::Running && shim_of(&place.root(), id.as_str()).is_some()
        })
        .await;
        let started = runtime.start(&id).await.unwrap();
        assert_eq!(started.state, InstanceState::Running, "round {slot}");
        runtime.remove(&id, &RemoveOptions::force()).await.unwrap();
    }
    until_gone(&mark).await;
    assert_eq!(place.hidden(), Vec::<String>::new());
}

#[tokio::test]
async fn a_killed_program_is_seen_with_its_signal() {
    let place = Place::new(Cgroups::Auto);
    let runtime = place.open().await;
    let id = launch(&runtime, &shell("echo pid $$; while :; do sleep 1; done"), 0).await.id;
    let mut lines = Vec::new();
    until("its number", async || {
        lines = text(&runtime, &id).await;
        !lines.is_empty()
    })
    .await;
    kill(lines[0].strip_prefix("pid ").unwrap().parse().unwrap(), "KILL");
    let status = runtime.wait(&id, &WaitOptions::default()).await.unwrap();
    assert_eq!(status.signal, Some(Signal::KILL));
    assert!(!status.oom_killed);
}

/// A shim that is stopped takes calls and never answers: an engine that hangs.
#[tokio::test]
async fn calls_to_a_shim_that_hangs_end_and_nothing_is_said_to_have_ended() {
    let place = Place::new(Cgroups::Auto);
    // Only what hangs is asked with a short limit: a busy machine may need longer for what succeeds.
    let limit = Duration::from_secs(1);
    let runtime = place.open().await;
    let mark = format!("hang-{}", std::process::id());
    let before = launch(&runtime, &workload(&Workload::Sleep, &mark), 0).await;
    let id = before.id.clone();
    drop(runtime);
    let runtime = ProcessRuntime::open(place.config().with_call_limit(limit)).await.unwrap();
    until("it to be adopted", async || runtime.get(&id).await.unwrap().state == InstanceState::Running).await;
    let shim = shim_of(&place.root(), id.as_str()).unwrap();
    kill(shim, "STOP");
    let silent = |kind: ErrorKind| matches!(kind, ErrorKind::Timeout | ErrorKind::Unavailable);
    let error = runtime.signal(&id, Signal::USR1).await.unwrap_err();
    assert!(silent(error.kind()) && error.maybe_applied(), "{error}");
    let error = runtime.exec(&id, &ExecSpec::new(["true"])).await.unwrap_err();
    assert!(silent(error.kind()), "{error}");
    let error = runtime.stop(&id, &StopOptions::grace(Duration::ZERO)).await.unwrap_err();
    assert!(silent(error.kind()) && error.maybe_applied(), "{error}");
    let error = runtime.remove(&id, &RemoveOptions::force()).await.unwrap_err();
    assert!(silent(error.kind()), "{error}");
    let state = runtime.get(&id).await.unwrap().state;
    assert_eq!(state, InstanceState::Running, "nobody knows better");
    drop(runtime);
    // The next controller can't ask it either, and does not say that it has ended.
    let runtime = ProcessRuntime::open(place.config().with_call_limit(limit)).await.unwrap();
    let state = runtime.get(&id).await.unwrap().state;
    assert!(matches!(state, InstanceState::Unknown { .. }), "{state:?}");
    assert_eq!(runtime.start(&id).await.unwrap_err().kind(), ErrorKind::Unavailable);
    kill(shim, "CONT");
    // It was never told more than a greeting, so its program runs as before, and is watched again.
    until("it to be known again", async || runtime.get(&id).await.unwrap().state == InstanceState::Running)
        .await;
    let seen = runtime.get(&id).await.unwrap();
    assert_eq!((seen.incarnation, seen.started_at), (before.incarnation, before.started_at));
    drop(runtime);
    let runtime = place.open().await;
    runtime.remove(&id, &RemoveOptions::force()).await.unwrap();
    until_gone(&mark).await;
}

#[tokio::test]
async fn after_another_boot_there_are_no_instances_and_nothing_is_adopted() {
    let place = Place::new(Cgroups::Auto);
    let runtime = place.open().await;
    let id = launch(&runtime, &shell("echo of the boot before; exit 3"), 0).await.id;
    runtime.wait(&id, &WaitOptions::default()).await.unwrap();
    let created = runtime.create(&shell("true"), &key(1), &CreateOptions::default()).await.unwrap().id;
    drop(runtime);
    for id in [&id, &created] {
        let path = place.root().join("instances").join(id.as_str()).join("instance.json");
        let record = fs::read_to_string(&path).unwrap();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let other = record.replace(boot.trim(), "00000000-0000-4000-8000-000000000000");
        assert_ne!(record, other);
        fs::write(&path, other).unwrap();
    }
    let runtime = place.open().await;
    assert!(runtime.list(&Selector::everything()).await.unwrap().is_empty());
    assert_eq!(super::names(&place.root().join("instances")), Vec::<String>::new());
    // Their slots are free.
    let again = launch(&runtime, &shell("sleep 60"), 0).await;
    assert_eq!(again.incarnation, Incarnation(1));
    runtime.remove(&again.id, &RemoveOptions::force()).await.unwrap();
}

/// A controller and a shim that were killed together, with the record of the start lost too, leave processes that only their
/// group or mark leads to.
#[tokio::test]
async fn what_nobody_knows_of_is_swept() {
    for (cgroups, name) in [(Cgroups::Auto, "group"), (Cgroups::Off, "mark")] {
        let place = Place::new(cgroups);
        let mark = format!("swept-{name}-{}", std::process::id());
        let runtime = place.open().await;
        let id = launch(&runtime, &workload(&Workload::Tree, &mark), 0).await.id;
        until("the daemon", async || processes_with(&mark) >= Some(3)).await;
        drop(runtime);
        let shim = shim_of(&place.root(), id.as_str()).unwrap();
        kill(shim, "KILL");
        fs::remove_dir_all(place.root().join("instances").join(id.as_str())).unwrap();
        fs::create_dir(place.root().join("instances/.new-ews_x")).unwrap();
        fs::create_dir(place.root().join("instances/.gone-ews_y")).unwrap();
        let runtime = place.open().await;
        assert!(runtime.list(&Selector::everything()).await.unwrap().is_empty());
        until_gone(&mark).await;
        assert_eq!(place.hidden(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn who_follows_a_quiet_log_and_goes_away_keeps_no_place() {
    let place = Place::new(Cgroups::Off);
    let runtime = place.open().await;
    let instance = launch(&runtime, &shell("exec sleep 1000"), 0).await;
    // More than a shim answers at once: were they still there, nobody would be answered any more.
    for _ in 0..300 {
        drop(runtime.logs(&instance.id, &LogOptions::follow()).await.unwrap());
    }
    runtime.signal(&instance.id, Signal::TERM).await.unwrap();
    runtime.remove(&instance.id, &RemoveOptions::force()).await.unwrap();
}
