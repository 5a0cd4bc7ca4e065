//! What the conformance suite does not see: scripts, faults, and that two runs are alike.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::event::{Gap, Notice, RuntimeEvent};
use crate::instance::{Health, Incarnation, InstanceKey, InstanceState};
use crate::node::NodeState;
use crate::runtime::{CreateOptions, RemoveOptions, Runtime, StopOptions, WaitOptions};
use crate::runtime_ext::RuntimeExt as _;
use crate::spec::InstanceSpec;
use crate::spec::lifecycle::EngineRestart;
use crate::spec::resources::{ByteSize, Cpu};
use crate::spec::source::{ImageSource, Source};
use crate::{Capability, ErrorKind, Retry, Selector};

fn spec(words: &str) -> InstanceSpec {
    let mut spec = InstanceSpec::new(Source::Image(ImageSource::new("shop/web:1".parse().unwrap())));
    spec.command = words.split_whitespace().map(str::to_owned).collect();
    spec
}

fn key(slot: u32) -> InstanceKey {
    InstanceKey {
        owner: "acme".parse().unwrap(),
        service: "web".parse().unwrap(),
        revision: "r1".parse().unwrap(),
        slot,
        generation: 0,
    }
}

fn engine() -> FakeEngine {
    FakeEngine::new(FakeConfig::default())
}

fn anywhere() -> CreateOptions {
    CreateOptions::default()
}

/// A busy hour with chance faults: the whole sequence of events and outcomes as text.
async fn a_run(seed: u64) -> String {
    let config = FakeConfig { seed, ..FakeConfig::default() };
    let engine = FakeEngine::new(config);
    engine.faults().add(
        FaultRule::new(Fault::FailApplied(ErrorKind::Unavailable)).on(Operation::Start).with_probability(0.3),
    );
    engine.faults().add(FaultRule::new(Fault::Slow(Duration::from_secs(1))).with_probability(0.2));
    let runtime = FakeRuntime::connect(&engine);
    let mut events = runtime.events(&Selector::everything()).await.unwrap();
    let mut text = String::new();
    let launches = (0..20).map(|slot| {
        let runtime = &runtime;
        async move { runtime.launch(&spec("fake exit 1 after 3s"), &key(slot), &anywhere()).await }
    });
    for outcome in futures_util::future::join_all(launches).await {
        text.push_str(&format!("{outcome:?}\n"));
    }
    sleep(Duration::from_secs(3600)).await;
    while let Ok(Some(notice)) = timeout(Duration::from_secs(1), events.next()).await {
        text.push_str(&format!("{notice:?}\n"));
    }
    text.push_str(&format!("{:?} {}", engine.calls(), engine.peak_concurrency()));
    text
}

#[tokio::test(start_paused = true)]
async fn two_runs_of_one_seed_are_alike_and_of_two_seeds_are_not() {
    let first = a_run(1).await;
    assert_eq!(first, a_run(1).await);
    assert_ne!(first, a_run(2).await);
    assert!(
        first.contains("may have been applied") || first.contains("maybe_applied: true"),
        "no fault struck"
    );
}

#[tokio::test(start_paused = true)]
async fn a_fault_before_changes_nothing_and_one_after_asks_for_a_look() {
    let engine = engine();
    let runtime = FakeRuntime::connect(&engine);
    engine.faults().add(FaultRule::new(Fault::Fail(ErrorKind::Unavailable)).on(Operation::Create).times(1));
    let error = runtime.create(&spec("fake serve"), &key(0), &anywhere()).await.unwrap_err();
    assert_eq!((error.retry(), error.operation(), engine.objects()), (Retry::Safe, "runtime.create", 0));

    engine
        .faults()
        .add(FaultRule::new(Fault::FailApplied(ErrorKind::Timeout)).on(Operation::Create).times(1));
    let error = runtime.create(&spec("fake serve"), &key(0), &anywhere()).await.unwrap_err();
    assert_eq!((error.retry(), engine.objects()), (Retry::AfterInspect, 1));

    let id = key(0).to_id().unwrap();
    engine.faults().add(
        FaultRule::new(Fault::Fail(ErrorKind::Internal))
            .on(Operation::Start)
            .of(id.clone())
            .after(1)
            .times(1),
    );
    runtime.start(&id).await.unwrap();
    assert!(runtime.start(&id).await.is_err(), "the second call fails");
    runtime.start(&id).await.unwrap();
    assert_eq!(engine.faults().struck(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_call_to_a_hung_engine_times_out_and_happens_at_its_release() {
    let engine = engine();
    let runtime = FakeRuntime::connect(&engine);
    engine.faults().add(FaultRule::new(Fault::Hang).on(Operation::Create));
    let began = Instant::now();
    let error = runtime.create(&spec("fake serve"), &key(0), &anywhere()).await.unwrap_err();
    assert_eq!((error.kind(), began.elapsed()), (ErrorKind::Timeout, Duration::from_secs(30)));
    assert!(error.maybe_applied());
    assert_eq!(engine.objects(), 0);
    engine.faults().clear();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(engine.objects(), 1, "what had reached the engine happens after all");
}

#[tokio::test(start_paused = true)]
async fn a_lost_nodes_instances_run_on_unseen_and_come_back() {
    let engine = engine();
    let runtime = FakeRuntime::connect(&engine);
    let started = runtime.launch(&spec("fake exit 4 after 10s"), &key(0), &anywhere()).await.unwrap();
    let since = engine.now();
    let mut events = runtime.events(&Selector::everything()).await.unwrap();
    engine.set_node_state(&started.node, NodeState::Unknown { since });
    assert_eq!(runtime.get(&started.id).await.unwrap().state, InstanceState::Unknown { since });
    let error = runtime.stop(&started.id, &StopOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(engine.processes(), 1);
    let elsewhere = runtime.create(&spec("fake serve"), &key(1), &anywhere()).await.unwrap();
    assert_ne!(elsewhere.node, started.node);
    sleep(Duration::from_secs(60)).await;
    engine.set_node_state(&started.node, NodeState::Ready);
    let back = runtime.get(&started.id).await.unwrap();
    assert!(matches!(&back.state, InstanceState::Exited(status) if status.code == Some(4)), "{back:?}");
    let mut told = Vec::new();
    while let Ok(Some(Notice::Event(event))) = timeout(Duration::from_secs(1), events.next()).await {
        told.push(event);
    }
    let of_it =
        |event: &&RuntimeEvent| matches!(event, RuntimeEvent::Instance { id, .. } if *id == started.id);
    assert_eq!(told.iter().filter(of_it).count(), 0, "its exit was told while nobody could see it");
    assert_eq!(told.iter().filter(|event| matches!(event, RuntimeEvent::Node { .. })).count(), 2);

    let gone = runtime.launch(&spec("fake serve"), &key(2), &anywhere()).await.unwrap();
    engine.set_node_state(&gone.node, NodeState::Gone);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(engine.processes(), 0);
}

#[tokio::test(start_paused = true)]
async fn events_are_lost_doubled_and_late_as_asked() {
    let engine = engine();
    let runtime = FakeRuntime::connect(&engine);
    let mut events = runtime.events(&Selector::everything()).await.unwrap();
    engine.lose_events(1);
    let id = runtime.create(&spec("fake serve"), &key(0), &anywhere()).await.unwrap().id;
    assert_eq!(events.next().await, Some(Notice::Gap(Gap::EngineLost)));
    engine.duplicate_events(1);
    engine.set_health(&id, Health::Unhealthy);
    let first = events.next().await;
    assert!(matches!(first, Some(Notice::Event(RuntimeEvent::Health { .. }))), "{first:?}");
    assert_eq!(events.next().await, first);
    engine.delay_events(Duration::from_secs(7));
    let began = Instant::now();
    engine.set_health(&id, Health::Healthy);
    events.next().await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_secs(7));
    drop(runtime);
    assert_eq!(events.next().await, None, "a stream ends with its driver");
}

#[tokio::test(start_paused = true)]
async fn a_slow_consumer_sees_what_fits_and_then_a_gap() {
    let config = FakeConfig { event_capacity: 4, ..FakeConfig::default() };
    let engine = FakeEngine::new(config);
    let runtime = FakeRuntime::connect(&engine);
    let mut events = runtime.events(&Selector::everything()).await.unwrap();
    for slot in 0..10 {
        runtime.create(&spec("fake serve"), &key(slot), &anywhere()).await.unwrap();
    }
    for _ in 0..4 {
        assert!(matches!(events.next().await, Some(Notice::Event(_))));
    }
    assert_eq!(events.next().await, Some(Notice::Gap(Gap::Lagged)));
    runtime.create(&spec("fake serve"), &key(10), &anywhere()).await.unwrap();
    assert!(matches!(events.next().await, Some(Notice::Event(_))));
}

#[tokio::test(start_paused = true)]
async fn capacity_disks_and_images_refuse_and_leave_nothing() {
    let engine = FakeEngine::new(FakeConfig::default().with_nodes(1));
    let runtime = FakeRuntime::connect(&engine);
    let node = runtime.nodes().await.unwrap()[0].id.clone();
    let mut large = spec("fake serve");
    large.resources.cpu_reserve = Some(Cpu::from_millis(40_000));
    runtime.create(&large, &key(0), &anywhere()).await.unwrap();
    let error = runtime.create(&large, &key(1), &anywhere()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfResources);
    large.resources.cpu_reserve = None;
    large.resources.memory_reserve = Some(ByteSize::from_mib(300 * 1024));
    assert!(runtime.create(&large, &key(1), &anywhere()).await.is_err());

    engine.set_disk_full(&node, true);
    let error = runtime.create(&spec("fake serve"), &key(2), &anywhere()).await.unwrap_err();
    assert_eq!((error.kind(), engine.objects()), (ErrorKind::OutOfResources, 1));
    engine.set_disk_full(&node, false);
    for (state, kind) in [
        (ImageState::Missing, ErrorKind::ImageMissing),
        (ImageState::Denied, ErrorKind::ImageDenied),
        (ImageState::Incompatible, ErrorKind::ImageIncompatible),
    ] {
        engine.set_image("shop/web:1".parse().unwrap(), state);
        let error = runtime.create(&spec("fake serve"), &key(3), &anywhere()).await.unwrap_err();
        assert_eq!((error.kind(), engine.objects()), (kind, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn scripts_end_programs_and_the_engine_restarts_them_by_the_spec() {
    let engine = engine();
    let runtime = FakeRuntime::connect(&engine);
    let mut restarting = spec("fake serve");
    restarting.engine_restart = EngineRestart::OnFailure;
    let id = runtime.launch(&restarting, &key(0), &anywhere()).await.unwrap().id;
    engine.kill_for_memory(&id);
    let status = runtime.wait(&id, &WaitOptions::incarnation(Incarnation(1))).await.unwrap();
    assert!(status.oom_killed);
    sleep(Duration::from_secs(1)).await;
    let again = runtime.get(&id).await.unwrap();
    assert_eq!((again.incarnation, &again.state), (Incarnation(2), &InstanceState::Running));
    engine.exit(&id, 0);
    sleep(Duration::from_secs(1)).await;
    assert!(
        matches!(runtime.get(&id).await.unwrap().state, InstanceState::Exited(_)),
        "a success is no failure"
    );
    runtime.start(&id).await.unwrap();
    runtime.stop(&id, &StopOptions::default()).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert!(runtime.get(&id).await.unwrap().state.is_ended(), "it was asked to stop");
}

#[tokio::test(start_paused = true)]
async fn a_killed_controllers_calls_end_and_the_engine_goes_on() {
    let engine = engine();
    let first = FakeRuntime::connect(&engine);
    let create = async { first.create(&spec("fake serve"), &key(0), &anywhere()).await };
    let kill = async {
        sleep(Duration::from_millis(1)).await;
        first.kill();
    };
    let (created, ()) = tokio::join!(create, kill);
    let error = created.unwrap_err();
    assert_eq!((error.kind(), error.maybe_applied()), (ErrorKind::Cancelled, true));
    sleep(Duration::from_secs(1)).await;
    let next = FakeRuntime::connect(&engine);
    assert_eq!(next.list(&Selector::everything()).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn daemons_without_tree_kill_are_counted_as_orphans() {
    let mut config = FakeConfig::default();
    config.capabilities.features = config.capabilities.features.without(Capability::TreeKill);
    let engine = FakeEngine::new(config);
    let runtime = FakeRuntime::connect(&engine);
    let id = runtime.launch(&spec("fake tree"), &key(0), &anywhere()).await.unwrap().id;
    sleep(Duration::from_millis(1)).await;
    assert_eq!((engine.processes(), engine.orphans()), (2, 0));
    runtime.stop(&id, &StopOptions::default()).await.unwrap();
    assert_eq!((engine.processes(), engine.orphans()), (1, 1));
    runtime.remove(&id, &RemoveOptions::default()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_journal_of_calls_is_bounded() {
    let engine = engine();
    let runtime = FakeRuntime::connect(&engine);
    for _ in 0..FakeEngine::MAX_CALLS + 10 {
        runtime.nodes().await.unwrap();
    }
    assert_eq!(engine.calls().len(), FakeEngine::MAX_CALLS);
    assert_eq!(engine.count(Operation::Nodes), FakeEngine::MAX_CALLS as u64 + 10);
}
