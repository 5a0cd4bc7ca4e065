//! Collectors over the fake engine, a scripted runtime and another source of metrics.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test harness")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ews_core::metrics::{Function, MetricInfo, MetricKind, MetricQuery, Reading, Window};
use ews_core::runtime::{CreateOptions, RemoveOptions, StopOptions};
use ews_core::spec::source::{ImageSource, Source};
use ews_core::testkit::fake::{FakeConfig, FakeEngine, FakeRuntime};
use ews_core::testkit::fake_metrics::{MetricsCall, MetricsLimits};
use ews_core::testkit::{CallFault, FakeMetrics, VirtualClock};
use ews_core::{
    CapabilitySet, Clock as _, ErrorKind, Histogram, Instance, InstanceKey, InstanceSpec, Metrics as _,
    MetricsExt as _, OwnerId, Result, RevisionId, Runtime, RuntimeExt as _, Selector, ServiceName,
};
use ews_monitor::{Collection, Collector, LiveConfig, LiveStore, Relay, RuntimeCollector};
use tokio::time::sleep;

const EVERY: Duration = Duration::from_secs(10);

struct World {
    clock: Arc<VirtualClock>,
    engine: FakeEngine,
    runtime: Arc<FakeRuntime>,
    store: LiveStore,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(VirtualClock::default());
        let mut config = FakeConfig::default();
        config.clock = Arc::clone(&clock) as _;
        let engine = FakeEngine::new(config);
        let runtime = Arc::new(FakeRuntime::connect(&engine));
        let store = LiveStore::with_clock(LiveConfig::default(), Arc::clone(&clock) as _).unwrap();
        Self { clock, engine, runtime, store }
    }

    async fn launch(&self, slot: u32, generation: u32) -> Instance {
        let image = ImageSource::new("ews.example/workload:1".parse().unwrap());
        let mut spec = InstanceSpec::new(Source::Image(image));
        spec.command = vec!["fake".to_owned(), "burn".to_owned()];
        let key = InstanceKey {
            owner: OwnerId::new("prod").unwrap(),
            service: ServiceName::new("web").unwrap(),
            revision: RevisionId::new("r1").unwrap(),
            slot,
            generation,
        };
        self.runtime.launch(&spec, &key, &CreateOptions::default()).await.unwrap()
    }

    fn collection(&self) -> Collection {
        let matching = Selector::equal("ews/owner", "prod").unwrap();
        let collector = RuntimeCollector::new(Arc::clone(&self.runtime) as Arc<dyn Runtime>, matching);
        Collection::new(self.store.clone()).with(collector, EVERY).unwrap()
    }

    async fn number(&self, query: &MetricQuery) -> f64 {
        self.store.number(query).await.unwrap().unwrap().value
    }
}

fn of(metric: &str, labels: &str) -> MetricQuery {
    MetricQuery::new(metric, labels.parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn usage_and_counts_by_place_and_never_by_id() {
    let world = World::new();
    let first = world.launch(0, 0).await;
    world.launch(1, 0).await;
    let collection = world.collection();
    collection.run(sleep(Duration::from_secs(35))).await;
    assert_eq!(world.number(&of("ews.instances", "service=web,state=running")).await, 2.0);
    let cpu = of("container.cpu.time", "service=web,slot=0");
    let rate = world.number(&cpu.clone().function(Function::Rate(Window(Duration::from_secs(60))))).await;
    assert!((rate - 1.0).abs() < 0.1, "it burns one CPU: {rate}");
    let answer = world.store.instant(&cpu, None).await.unwrap();
    let labels: Vec<&str> = answer.series[0].labels.keys().map(String::as_str).collect();
    assert_eq!(labels, ["node", "revision", "service", "slot"]);

    // A restart makes no new series and no step back.
    let before = world.number(&cpu).await;
    world.runtime.stop(&first.id, &StopOptions::default()).await.unwrap();
    collection.collect().await;
    assert_eq!(world.number(&of("ews.instances", "service=web,state=exited")).await, 1.0);
    world.runtime.start(&first.id).await.unwrap();
    collection.run(sleep(Duration::from_secs(25))).await;
    let after = world.number(&cpu).await;
    assert!(after > before && after < before + 40.0, "{before} {after}");
    assert_eq!(
        world.number(&of("ews.instances", "service=web,state=exited")).await,
        0.0,
        "listed, and none is so"
    );
    assert_eq!(world.store.instant(&of("container.cpu.time", "*"), None).await.unwrap().series.len(), 2);

    // What does not answer is missing, never zero.
    world.engine.sever();
    collection.run(sleep(Duration::from_secs(60))).await;
    let answer = world.store.instant(&of("ews.instances", "service=web,state=running"), None).await.unwrap();
    assert!(matches!(answer.series[0].value, Reading::Unavailable(_)), "{answer:?}");
    let status = &collection.status()[0];
    assert!(status.failures > 0 && status.last_error.is_some() && status.collected > 0, "{status:?}");
    world.engine.restore();
    collection.collect().await;
    assert!(collection.status()[0].last_error.is_none());
    for instance in world.runtime.list(&Selector::everything()).await.unwrap() {
        world.runtime.remove(&instance.id, &RemoveOptions::force()).await.unwrap();
    }
    collection.collect().await;
    assert_eq!(world.number(&of("ews.instances", "service=web,state=running")).await, 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_new_generation_goes_on_where_the_old_one_was() {
    let world = World::new();
    let old = world.launch(0, 0).await;
    let collection = world.collection();
    collection.run(sleep(Duration::from_secs(100))).await;
    let cpu = of("container.cpu.time", "slot=0");
    let before = world.number(&cpu).await;
    assert!(before > 80.0);
    world.runtime.remove(&old.id, &RemoveOptions::force()).await.unwrap();
    // So long that it uses more than the old one ever did, before anybody looks.
    world.launch(0, 1).await;
    sleep(Duration::from_secs(150)).await;
    collection.collect().await;
    let after = world.number(&cpu).await;
    let nodes = world.store.instant(&cpu, None).await.unwrap().series.len();
    assert!(nodes == 2 || (after - before - 150.0).abs() < 15.0, "{before} {after} on {nodes}");
}

#[tokio::test(start_paused = true)]
async fn a_relay_brings_what_is_there_and_nothing_else() {
    let world = World::new();
    let source =
        FakeMetrics::with(CapabilitySet::all(), MetricsLimits::default(), Arc::clone(&world.clock) as _);
    let requests = MetricInfo::new("requests", MetricKind::Counter, "{request}");
    let latency = MetricInfo::new("latency", MetricKind::Histogram, "s");
    let other = MetricInfo::new("other", MetricKind::Gauge, "1");
    let now = world.clock.now();
    source.record(&requests, [("service", "web")], now - Duration::from_secs(3), 7.0);
    source.record(&requests, [("service", "old")], now - Duration::from_secs(300), 9.0);
    source.record(&requests, [("service", "bad")], now, f64::NAN);
    source.record(&other, [("service", "web")], now, 1.0);
    let mut histogram = Histogram::new();
    (1..=100).for_each(|ms| histogram.record(f64::from(ms) / 1e3));
    source.record_histogram(&latency, [("service", "web")], now, histogram.clone());

    let relay = Relay::new("gateway", Arc::new(source.clone()), ["requests", "latency", "unknown"]).unwrap();
    let collection = Collection::new(world.store.clone()).with(relay, EVERY).unwrap();
    collection.collect().await;
    let answer = world.store.instant(&of("requests", "*"), None).await.unwrap();
    assert_eq!(answer.series.len(), 1, "{answer:?}");
    let Reading::Number(found) = answer.series[0].value else { panic!("{answer:?}") };
    assert_eq!((found.value, found.at), (7.0, now - Duration::from_secs(3)), "it keeps its moment");
    let answer = world.store.instant(&of("latency", "service=web"), None).await.unwrap();
    assert!(
        matches!(&answer.series[0].value, Reading::Histogram { histogram: found, .. } if *found == histogram)
    );
    assert!(world.store.instant(&of("other", "*"), None).await.unwrap().series.is_empty());

    for (call, fault) in [
        (MetricsCall::Describe, CallFault::Fail(ErrorKind::Unavailable)),
        (MetricsCall::Instant, CallFault::Hang),
    ] {
        source.inject(call, fault);
        collection.collect().await;
    }
    assert_eq!((collection.status()[0].failures, collection.status()[0].collected), (2, 1));
    assert!(Relay::new("none", Arc::new(source), Vec::<String>::new()).is_err());
}

/// Counts how often it runs and how many at once.
#[derive(Clone, Default)]
struct Slow(Arc<Mutex<(u32, u32, u32)>>);

#[async_trait]
impl Collector for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    async fn collect(&self, _into: &LiveStore) -> Result<()> {
        {
            let mut counts = self.0.lock().unwrap();
            counts.0 += 1;
            counts.1 += 1;
            counts.2 = counts.2.max(counts.1);
        }
        sleep(Duration::from_secs(7)).await;
        self.0.lock().unwrap().1 -= 1;
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_collector_never_overlaps_itself_and_stops_when_told() {
    let world = World::new();
    let slow = Slow::default();
    let collection = Collection::new(world.store.clone()).with(slow.clone(), EVERY).unwrap();
    collection.run(sleep(Duration::from_secs(55))).await;
    let (runs, _, at_once) = *slow.0.lock().unwrap();
    assert_eq!((runs, at_once), (6, 1));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(slow.0.lock().unwrap().0, 6);
    // One that takes longer than its interval is ended and counted.
    let hasty = Collection::new(world.store.clone()).with(Slow::default(), Duration::from_secs(5)).unwrap();
    hasty.run(sleep(Duration::from_secs(22))).await;
    assert!(hasty.status()[0].failures >= 3 && hasty.status()[0].collected == 0, "{:?}", hasty.status());
    for bad in [Duration::ZERO, Duration::from_secs(901)] {
        assert!(Collection::new(world.store.clone()).with(Slow::default(), bad).is_err());
    }
}
