//! Calls whose future is dropped at each of its polls: what was begun happens once and whole, and what nobody holds does not run on.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use ews_core::instance::InstanceState;
use ews_core::runtime::{CreateOptions, ExecSpec, RemoveOptions, StopOptions, TtySize};
use ews_core::spec::lifecycle::Signal;
use ews_core::testkit::conformance::runtime::{Workload, processes_with};
use ews_core::testkit::tar::{Entry, write};
use ews_core::{ErrorKind, Runtime as _, RuntimeExt as _, Selector};
use ews_docker::{DockerConfig, DockerRuntime, EngineAddress};
use futures_util::{StreamExt as _, stream};

use super::{key_of, spec};
use crate::engine;
use crate::rig::{unique, until};

/// Polls a call so often, each time that it wakes, and drops it; what it gave where it ended before.
async fn polled<F: Future>(times: usize, call: F) -> Option<F::Output> {
    let mut call = Box::pin(call);
    let mut polls = 0;
    let mut last = None;
    poll_fn(|cx| {
        polls += 1;
        match call.as_mut().poll(cx) {
            Poll::Ready(output) => last = Some(output),
            Poll::Pending if polls < times => return Poll::Pending,
            Poll::Pending => {}
        }
        Poll::Ready(())
    })
    .await;
    last
}

/// The most polls that a call is dropped after; it must have ended by then.
const MOST: usize = 16;

async fn runtime() -> Option<(DockerRuntime, ews_core::OwnerId)> {
    let socket = engine::socket()?;
    let config = DockerConfig::new(EngineAddress::Unix(socket)).with_call_limit(Duration::from_secs(20));
    Some((DockerRuntime::connect(config).await.unwrap(), ews_core::OwnerId::new(unique()).unwrap()))
}

/// The engine dies between the two steps of a start, and does not know afterwards of the process that holds the container's network.
#[tokio::test]
async fn what_a_dead_engine_left_of_a_container_goes_with_it() {
    let Some((runtime, owner)) = runtime().await else { return };
    let spec = spec(&engine::busybox(), &Workload::Sleep);
    let key = key_of(&owner, 0);
    let created = runtime.create(&spec, &key, &CreateOptions::default()).await.unwrap();
    let container = engine::docker(&["inspect", "-f", "{{.Id}}", created.id.as_str()]).trim().to_owned();
    let mount = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].into_iter().find(|mount| {
        std::path::Path::new(mount).join("cgroup.procs").exists()
            && std::fs::create_dir_all(format!("{mount}/docker/{container}")).is_ok()
    });
    let mut left = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let group = mount.map(|mount| std::path::PathBuf::from(format!("{mount}/docker/{container}")));
    let joined = group
        .as_ref()
        .is_some_and(|group| std::fs::write(group.join("cgroup.procs"), left.id().to_string()).is_ok());
    runtime.remove(&created.id, &RemoveOptions::default()).await.unwrap();
    if joined {
        // By its parent, which we are: it has ended by SIGKILL, or it sleeps for ten minutes.
        until("the process has ended", async || left.try_wait().unwrap().is_some()).await;
    } else {
        println!("SKIPPED: no control group may be made here");
        left.kill().unwrap();
        left.wait().unwrap();
    }
    if let Some(group) = group {
        let _ = std::fs::remove_dir(group);
    }
}

#[tokio::test]
async fn what_changes_something_happens_once_wherever_it_is_dropped() {
    let Some((runtime, owner)) = runtime().await else { return };
    let spec = spec(&engine::busybox(), &Workload::Sleep);
    let selector = Selector::equal("ews/owner", owner.as_str()).unwrap();
    let mut ended = 0;
    for times in 1..=3 {
        let key = key_of(&owner, u32::try_from(times).unwrap());
        let id = key.to_id().unwrap();
        let state = async || runtime.get(&id).await.ok().map(|instance| instance.state);
        ended += usize::from(
            polled(times, runtime.create(&spec, &key, &CreateOptions::default())).await.is_some(),
        );
        until("the creation", async || state().await == Some(InstanceState::Created)).await;
        polled(times, runtime.start(&id)).await;
        until("the start", async || state().await == Some(InstanceState::Running)).await;
        let incarnation = runtime.get(&id).await.unwrap().incarnation;
        let archive = write(&[Entry::file("dropped", "whole")]);
        let pieces = archive.chunks(100).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect::<Vec<_>>();
        polled(times, runtime.put_archive(&id, "/tmp", stream::iter(pieces).boxed())).await;
        until("the archive", async || runtime.get_archive(&id, "/tmp/dropped").await.is_ok()).await;
        assert_eq!(runtime.get(&id).await.unwrap().incarnation, incarnation, "one start");
        polled(times, runtime.stop(&id, &StopOptions::grace(Duration::from_secs(5)))).await;
        until("the stop", async || state().await.is_some_and(|state| state.is_ended())).await;
        polled(times, runtime.start(&id)).await;
        until("the second start", async || state().await == Some(InstanceState::Running)).await;
        polled(times, runtime.signal(&id, Signal::KILL)).await;
        until("the signal", async || state().await.is_some_and(|state| state.is_ended())).await;
        polled(times, runtime.remove(&id, &RemoveOptions::force())).await;
        until("the removal", async || state().await.is_none()).await;
    }
    assert!(ended > 0, "one creation was waited for");
    assert!(runtime.list(&selector).await.unwrap().is_empty());
}

/// A session that nobody holds does not run, whether it was dropped before the engine knew of it, while it was told, or after.
#[tokio::test]
async fn a_session_that_is_dropped_on_its_way_does_not_run_on() {
    let Some((runtime, owner)) = runtime().await else { return };
    let key = key_of(&owner, 0);
    let host = spec(&engine::busybox(), &Workload::Sleep);
    let id = runtime.launch(&host, &key, &CreateOptions::default()).await.unwrap().id;
    let mark = unique();
    for tty in [None, Some(TtySize { columns: 80, rows: 24 })] {
        // All at once: one after the other would wait as long each. Each is polled when it wakes itself, not when another does.
        let sessions = (1..=MOST).map(|times| {
            let mut command = ExecSpec::new(Workload::Tree.shell_command().unwrap());
            command.env.insert("EWS_MARK".to_owned(), mark.clone());
            command.tty = tty;
            let (runtime, id) = (runtime.clone(), id.clone());
            async move { polled(times, runtime.exec(&id, &command)).await }
        });
        let ended: Vec<_> = sessions.collect::<stream::FuturesUnordered<_>>().collect().await;
        let held = ended.iter().flatten().count();
        assert!((1..MOST).contains(&held), "{held} of {MOST} came to be; some must be dropped on their way");
        assert!(ended.iter().flatten().all(Result::is_ok));
        let running = || processes_with(&mark).unwrap();
        until("those that are held run", async || running() >= held).await;
        drop(ended);
        // None is left, and none comes late.
        let mut quiet = 0;
        until("none runs for a while", async || {
            quiet = if running() == 0 { quiet + 1 } else { 0 };
            quiet > 40
        })
        .await;
    }
    runtime.remove(&id, &RemoveOptions::force()).await.unwrap();
}

/// What only looks can be dropped anywhere, and the next who looks sees everything.
#[tokio::test]
async fn questions_can_be_dropped_anywhere() {
    let Some((runtime, owner)) = runtime().await else { return };
    let key = key_of(&owner, 0);
    let host = spec(&engine::busybox(), &Workload::Sleep);
    let id = runtime.launch(&host, &key, &CreateOptions::default()).await.unwrap().id;
    let ids = [id.clone()];
    let selector = Selector::equal("ews/owner", owner.as_str()).unwrap();
    for times in 1..20 {
        drop(polled(times, runtime.events(&selector)).await);
        drop(polled(times, runtime.list(&selector)).await);
        drop(polled(times, runtime.get(&id)).await);
        drop(polled(times, runtime.usage(&ids)).await);
        drop(polled(times, runtime.logs(&id, &Default::default())).await);
        drop(polled(times, runtime.get_archive(&id, "/etc/passwd")).await);
        // It goes on for as long as the program does.
        let (patience, options) = (Duration::from_millis(200), Default::default());
        drop(tokio::time::timeout(patience, polled(times, runtime.wait(&id, &options))).await);
    }
    let mut events = runtime.events(&selector).await.unwrap();
    assert_eq!(runtime.usage(&ids).await.unwrap().len(), 1);
    assert_eq!(runtime.list(&selector).await.unwrap().len(), 1);
    runtime.remove(&id, &RemoveOptions::force()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), events.next()).await.expect("events are told").unwrap();
    assert_eq!(runtime.get(&id).await.unwrap_err().kind(), ErrorKind::NotFound);
}
