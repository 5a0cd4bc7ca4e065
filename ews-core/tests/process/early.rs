//! The shim that is begun while its instance is created: used by the start, or gone without a trace.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use ews_core::process::{Cgroups, ProcessRuntime, ShimProgram};
use ews_core::runtime::{CreateOptions, RemoveOptions, Runtime};
use ews_core::{Incarnation, InstanceId, InstanceState};

use super::{Place, fs, key, kill, shell, shim_of, shims_below, until};

/// An instance that is created and not started, and the shim that waits for that.
async fn created(place: &Place, runtime: &ProcessRuntime, slot: u32) -> (InstanceId, u32) {
    let spec = shell("while :; do sleep 1; done");
    let id = runtime.create(&spec, &key(slot), &CreateOptions::default()).await.unwrap().id;
    let mut shim = None;
    until("a shim that waits", async || {
        shim = shim_of(&place.root(), id.as_str());
        shim.is_some()
    })
    .await;
    (id, shim.unwrap())
}

#[tokio::test]
async fn the_start_uses_the_shim_that_waits() {
    let place = Place::new(Cgroups::Auto);
    let runtime = place.open().await;
    let (id, shim) = created(&place, &runtime, 0).await;
    assert_eq!(runtime.get(&id).await.unwrap().state, InstanceState::Created);
    let started = runtime.start(&id).await.unwrap();
    assert_eq!((started.state, started.incarnation), (InstanceState::Running, Incarnation(1)));
    assert_eq!(shims_below(&place.root()), [shim]);
    runtime.remove(&id, &RemoveOptions::force()).await.unwrap();
    until("it to be waited for", async || !std::path::Path::new(&format!("/proc/{shim}")).exists()).await;
}

#[tokio::test]
async fn a_shim_killed_while_it_waits_is_replaced() {
    let place = Place::new(Cgroups::Auto);
    let runtime = place.open().await;
    let (id, shim) = created(&place, &runtime, 0).await;
    kill(shim, "KILL");
    // Its command line is gone before its lock and its socket are; dead it has neither.
    until("it to be dead", async || {
        let stat = fs::read_to_string(format!("/proc/{shim}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
    })
    .await;
    let started = runtime.start(&id).await.unwrap();
    assert_eq!((started.state, started.incarnation), (InstanceState::Running, Incarnation(1)));
    assert!(shim_of(&place.root(), id.as_str()).is_some_and(|other| other != shim));
    runtime.remove(&id, &RemoveOptions::force()).await.unwrap();
    assert_eq!(place.hidden(), Vec::<String>::new());
}

#[tokio::test]
async fn who_is_not_started_in_time_is_started_by_another() {
    let place = Place::new(Cgroups::Auto);
    let runtime = place.open().await;
    let (id, shim) = created(&place, &runtime, 0).await;
    until("it to be let go", async || shim_of(&place.root(), id.as_str()).is_none()).await;
    // Not even its remains are left.
    until("it to be waited for", async || !std::path::Path::new(&format!("/proc/{shim}")).exists()).await;
    let started = runtime.start(&id).await.unwrap();
    assert_eq!((started.state, started.incarnation), (InstanceState::Running, Incarnation(1)));
    runtime.remove(&id, &RemoveOptions::force()).await.unwrap();
}

#[tokio::test]
async fn removal_takes_the_shim_that_waits_along() {
    let place = Place::new(Cgroups::Auto);
    let runtime = place.open().await;
    let (id, shim) = created(&place, &runtime, 0).await;
    runtime.remove(&id, &RemoveOptions::default()).await.unwrap();
    until("it to be waited for", async || !std::path::Path::new(&format!("/proc/{shim}")).exists()).await;
    assert_eq!(place.hidden(), Vec::<String>::new());
}

/// The next controller finds what was created, and nothing that waits.
#[tokio::test]
async fn it_goes_with_its_controller() {
    let place = Place::new(Cgroups::Auto);
    let runtime = place.open().await;
    let (id, shim) = created(&place, &runtime, 0).await;
    drop(runtime);
    let runtime = place.open().await;
    assert_eq!(runtime.get(&id).await.unwrap().state, InstanceState::Created);
    until("it to end", async || shim_of(&place.root(), id.as_str()).is_none()).await;
    runtime.start(&id).await.unwrap();
    assert!(shim_of(&place.root(), id.as_str()).is_some_and(|other| other != shim));
    runtime.remove(&id, &RemoveOptions::force()).await.unwrap();
}

#[tokio::test]
async fn no_more_than_a_few_wait_and_the_others_start_as_well() {
    let place = Place::new(Cgroups::Auto);
    let runtime = place.open().await;
    let spec = shell("while :; do sleep 1; done");
    let (mut ids, mut most) = (Vec::new(), 0);
    for slot in 0..20 {
        ids.push(runtime.create(&spec, &key(slot), &CreateOptions::default()).await.unwrap().id);
        most = most.max(shims_below(&place.root()).len());
    }
    // What is begun is seen a moment later.
    tokio::time::sleep(Duration::from_millis(100)).await;
    most = most.max(shims_below(&place.root()).len());
    assert!((1..=16).contains(&most), "{most} wait at a time");
    for id in &ids {
        assert_eq!(runtime.start(id).await.unwrap().state, InstanceState::Running);
    }
    assert_eq!(shims_below(&place.root()).len(), 20);
    for id in &ids {
        runtime.remove(id, &RemoveOptions::force()).await.unwrap();
    }
    assert_eq!(place.hidden(), Vec::<String>::new());
}

/// A program that is no shim and never ends keeps no instance from being removed.
#[tokio::test]
async fn what_is_no_shim_and_does_not_end_is_killed() {
    let place = Place::new(Cgroups::Auto);
    let program = place.folder.path().join("no-shim");
    fs::write(&program, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let runtime = ProcessRuntime::open(place.config().with_shim(ShimProgram::Path(program))).await.unwrap();
    let id = runtime.create(&shell("exit"), &key(0), &CreateOptions::default()).await.unwrap().id;
    runtime.remove(&id, &RemoveOptions::default()).await.unwrap();
    assert_eq!(place.hidden(), Vec::<String>::new());
}

/// A program that is no shim ends at once; the start says so, as it does without one that waits.
#[tokio::test]
async fn what_is_no_shim_is_told_by_the_start() {
    let place = Place::new(Cgroups::Auto);
    let config = place.config().with_shim(ShimProgram::Path("/bin/true".into()));
    let runtime = ProcessRuntime::open(config).await.unwrap();
    let id = runtime.create(&shell("exit"), &key(0), &CreateOptions::default()).await.unwrap().id;
    let error = runtime.start(&id).await.unwrap_err();
    assert!(error.to_string().contains("shim"), "{error}");
    until("the failure to be known", async || runtime.get(&id).await.unwrap().state.is_ended()).await;
    runtime.remove(&id, &RemoveOptions::default()).await.unwrap();
}
