//! Who may have a root, and what a shim of another time is to a controller.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use ews_core::process::{Cgroups, ProcessConfig, ProcessRuntime, ShimProgram};
use ews_core::runtime::{Runtime, StopOptions};
use ews_core::testkit::conformance::runtime::{Workload, processes_with};
use ews_core::{ErrorKind, InstanceState, Selector};

use super::{Place, fs, key, kill, launch, shell, shim_of, until, until_gone, workload};

#[tokio::test]
async fn one_at_a_time_has_it() {
    let place = Place::new(Cgroups::Off);
    let first = place.open().await;
    let second = ProcessRuntime::open(place.config().with_takeover(Duration::ZERO)).await.unwrap_err();
    assert_eq!(second.kind(), ErrorKind::Busy);
    assert!(second.to_string().contains(place.root().to_str().unwrap()), "{second}");
    // Who waits gets it when the first has gone.
    let waiting = tokio::spawn(ProcessRuntime::open(place.config().with_takeover(Duration::from_secs(60))));
    tokio::task::yield_now().await;
    drop(first);
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_root_that_others_write_to_or_that_is_too_deep_is_refused() {
    let place = Place::new(Cgroups::Off);
    fs::create_dir(place.root()).unwrap();
    fs::set_permissions(place.root(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = ProcessRuntime::open(place.config()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(error.to_string().contains("0777"), "{error}");

    let deep = place.folder.path().join("d".repeat(100));
    let error = ProcessRuntime::open(super::config(&deep, Cgroups::Off)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("at most"), "{error}");

    fs::set_permissions(place.root(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(place.root().join("format"), "2").unwrap();
    let error = ProcessRuntime::open(place.config()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("format 2"), "{error}");
}

#[tokio::test]
async fn a_program_that_can_not_be_a_shim_is_told_so() {
    let place = Place::new(Cgroups::Off);
    let error = ProcessRuntime::open(ProcessConfig::new(place.root())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("shim_entry"), "{error}");
    let missing = ShimProgram::Path("/no/such/shim".into());
    let error = ProcessRuntime::open(place.config().with_shim(missing)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // One that is no shim at all: the start fails, and nothing is left.
    let runtime =
        ProcessRuntime::open(place.config().with_shim(ShimProgram::Path("/bin/true".into()))).await.unwrap();
    let id = runtime.create(&shell("true"), &key(0), &Default::default()).await.unwrap().id;
    let error = runtime.start(&id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    until("the start to be known as over", async || runtime.get(&id).await.unwrap().state.is_ended()).await;
    runtime.remove(&id, &Default::default()).await.unwrap();
    assert_eq!(place.hidden(), Vec::<String>::new());
}

#[tokio::test]
async fn an_instance_whose_record_is_damaged_is_left_alone() {
    let place = Place::new(Cgroups::Off);
    let runtime = place.open().await;
    let id = launch(&runtime, &shell("exit 0"), 0).await.id;
    runtime.wait(&id, &Default::default()).await.unwrap();
    drop(runtime);
    let folder = place.root().join("instances").join(id.as_str());
    fs::write(folder.join("instance.json"), "{\"key\":").unwrap();
    let runtime = place.open().await;
    assert!(runtime.list(&Selector::everything()).await.unwrap().is_empty());
    let error = runtime.create(&shell("exit 0"), &key(0), &Default::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(fs::read_to_string(folder.join("instance.json")).unwrap(), "{\"key\":");
}

/// One bad file neither takes the others out of control nor costs the program that runs behind it.
#[tokio::test]
async fn what_runs_behind_a_damaged_record_is_left_alone_and_the_others_are_taken_over() {
    for (cgroups, name) in [(Cgroups::Auto, "group"), (Cgroups::Off, "mark")] {
        for (slot, file) in [(1, "instance.json"), (2, "end.json")] {
            let place = Place::new(cgroups.clone());
            let mark = format!("damaged-{name}-{slot}-{}", std::process::id());
            let runtime = place.open().await;
            let good = launch(&runtime, &workload(&Workload::Sleep, "none"), 0).await.id;
            let bad = launch(&runtime, &workload(&Workload::Sleep, &mark), slot).await.id;
            until("it to run", async || processes_with(&mark) > Some(0)).await;
            let folder = place.root().join("instances").join(bad.as_str());
            if file == "end.json" {
                // Read only where no shim lives, so this one has ended.
                runtime.stop(&bad, &StopOptions::grace(Duration::ZERO)).await.unwrap();
            }
            drop(runtime);
            fs::write(folder.join(file), "{").unwrap();
            let runtime = place.open().await;
            let seen = runtime.list(&Selector::everything()).await.unwrap();
            assert_eq!(seen.iter().map(|instance| &instance.id).collect::<Vec<_>>(), [&good], "{file}");
            assert_eq!(seen[0].state, InstanceState::Running);
            assert!(folder.exists());
            if file == "instance.json" {
                assert!(processes_with(&mark) > Some(0), "by {name}: what runs was ended");
                let shim = shim_of(&place.root(), bad.as_str()).unwrap();
                kill(shim, "KILL");
                until_gone(&mark).await;
            }
            runtime.remove(&good, &ews_core::runtime::RemoveOptions::force()).await.unwrap();
        }
    }
}

/// Speaks for a shim of another version: it answers every hello with the versions that it knows.
fn stranger(listener: UnixListener, versions: &'static str) {
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut header = [0; 5];
            if connection.read_exact(&mut header).is_err() {
                continue;
            }
            let mut words =
                vec![0; u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize];
            connection.read_exact(&mut words).unwrap();
            let answer = format!(r#"{{"strange":{{"versions":{versions}}}}}"#);
            let mut frame = u32::try_from(answer.len()).unwrap().to_le_bytes().to_vec();
            frame.push(1);
            frame.extend(answer.as_bytes());
            connection.write_all(&frame).unwrap();
        }
    });
}

#[tokio::test]
async fn a_shim_of_another_version_is_unknown_and_never_ended() {
    let place = Place::new(Cgroups::Off);
    let runtime = place.open().await;
    let id = launch(&runtime, &shell("exit 0"), 0).await.id;
    runtime.wait(&id, &Default::default()).await.unwrap();
    drop(runtime);
    // It has the lock and listens, as if it lived.
    let folder = place.root().join("instances").join(id.as_str());
    let lock = fs::File::options().write(true).open(folder.join("run.lock")).unwrap();
    until("the real shim to be gone", async || lock.try_lock().is_ok()).await;
    let digest = ews_core::Digest::of(id.as_str().as_bytes()).short();
    stranger(UnixListener::bind(place.root().join("s").join(digest)).unwrap(), "[7,9]");
    let runtime = place.open().await;
    let state = runtime.get(&id).await.unwrap().state;
    assert!(matches!(state, InstanceState::Unknown { .. }), "{state:?}");
    let error = runtime.remove(&id, &ews_core::runtime::RemoveOptions::force()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}
