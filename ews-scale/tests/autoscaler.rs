//! The live loop on a paused clock, over fakes that are made to fail.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test harness")]

use std::sync::Arc;
use std::time::Duration;

use ews_core::metrics::{Aggregate, Aggregation, MetricInfo, MetricKind, MetricQuery};
use ews_core::store::{Key, MemoryStore, Prefix, StoreExt as _};
use ews_core::testkit::fake_metrics::{MetricsCall, MetricsLimits};
use ews_core::testkit::fake_scale::ScaleCall;
use ews_core::testkit::{CallFault, FakeMetrics, FakeScaleTarget, VirtualClock};
use ews_core::{
    CapabilitySet, Clock as _, ErrorKind, ScaleChange, ScaleTarget as _, Selector, ServiceName, Store,
};
use ews_scale::{Action, Autoscaler, ScalePolicy, Sight, Signal, Target};
use tokio::time::sleep;

const TICK: Duration = Duration::from_secs(15);

struct World {
    clock: Arc<VirtualClock>,
    metrics: FakeMetrics,
    target: FakeScaleTarget,
    store: Arc<MemoryStore>,
    web: ServiceName,
}

impl World {
    fn new(count: u32) -> Self {
        let clock = Arc::new(VirtualClock::default());
        let limits = MetricsLimits::default();
        let metrics = FakeMetrics::with(CapabilitySet::all(), limits, Arc::clone(&clock) as _);
        let (target, web) = (FakeScaleTarget::new(), ServiceName::new("web").unwrap());
        target.add(&web, count, 1..=50);
        Self { clock, metrics, target, store: Arc::new(MemoryStore::new()), web }
    }

    fn policy(&self) -> ScalePolicy {
        let query =
            MetricQuery::new("load", Selector::everything()).aggregate(Aggregate::all(Aggregation::Sum));
        ScalePolicy::new(2, 20, [Signal::new("load", Target::PerInstance(10.0), query)])
    }

    fn scaler(&self) -> Autoscaler {
        Autoscaler::new(Arc::new(self.metrics.clone()), Arc::new(self.target.clone()))
            .with_clock(Arc::clone(&self.clock) as _)
    }

    fn load(&self, value: f64) {
        let info = MetricInfo::new("load", MetricKind::Gauge, "1");
        self.metrics.record(&info, [("instance", "a")], self.clock.now(), value);
    }

    async fn count(&self) -> u32 {
        self.target.current(&self.web).await.unwrap().desired
    }

    /// The loop for so long, with the load measured anew every few seconds.
    async fn during(&self, scaler: &Autoscaler, time: Duration, load: f64) {
        let feed = async {
            for _ in 0..time.as_secs() / 3 {
                self.load(load);
                sleep(Duration::from_secs(3)).await;
            }
        };
        scaler.run(feed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn it_follows_the_load_out_and_in() {
    let world = World::new(3);
    let scaler = world.scaler().with_service(world.web.clone(), world.policy()).unwrap();
    world.during(&scaler, TICK * 3, 80.0).await;
    assert_eq!(world.count().await, 8);
    world.during(&scaler, Duration::from_secs(270), 30.0).await;
    assert_eq!(world.count().await, 8);
    world.during(&scaler, Duration::from_secs(90), 30.0).await;
    assert_eq!(world.count().await, 3);
    let reasons = world.target.reasons(&world.web);
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    assert!(reasons[0].contains("out from 3 to 7") && reasons[2].contains("in from 8 to 3"), "{reasons:?}");
    let records = scaler.records(&world.web);
    assert!(records.len() > 20 && records.iter().filter(|r| r.action != Action::Unchanged).count() == 3);
    assert_eq!(scaler.status(&world.web).unwrap().failures, 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_stopped_does_nothing_more_and_leaves_no_task() {
    let world = World::new(3);
    let scaler = world.scaler().with_service(world.web.clone(), world.policy()).unwrap();
    world.load(80.0);
    scaler.run(std::future::ready(())).await;
    assert_eq!(world.count().await, 3, "stopped before the first tick");
    let mut running = Box::pin(scaler.run(std::future::pending()));
    assert!(tokio::time::timeout(TICK * 3 / 2, &mut running).await.is_err());
    drop(running);
    let count = world.count().await;
    assert!(count > 3);
    world.load(500.0);
    sleep(TICK * 10).await;
    assert_eq!(world.count().await, count);
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
    let empty = world.scaler();
    empty.run(sleep(TICK)).await;
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_decides_and_sets_nothing() {
    let world = World::new(3);
    let store = Arc::clone(&world.store) as Arc<dyn Store>;
    let scaler = world.scaler().with_store(store, "dry").with_dry_run();
    let scaler = scaler.with_service(world.web.clone(), world.policy()).unwrap();
    world.during(&scaler, TICK * 4, 80.0).await;
    assert_eq!(world.count().await, 3);
    let records = scaler.records(&world.web);
    assert!(records.len() >= 4);
    assert!(records.iter().all(|r| r.action == Action::DryRun && r.decision.decision.desired == 7));
    assert!(world.store.list_all(&Prefix::all(), 10).await.unwrap().records.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_hangs_or_says_too_much_is_a_missing_signal() {
    let world = World::new(8);
    let scaler = world.scaler().with_service(world.web.clone(), world.policy()).unwrap();
    for fault in
        [CallFault::Fail(ErrorKind::Unavailable), CallFault::Fail(ErrorKind::Invalid), CallFault::Hang]
    {
        world.load(0.0);
        world.metrics.inject(MetricsCall::Instant, fault);
        let record = scaler.evaluate(&world.web).await.unwrap();
        let decision = record.decision.decision;
        assert_eq!((decision.desired, decision.sight), (8, Sight::Blind), "{fault:?}");
    }
    let mut policy = world.policy();
    policy.signals[0].query.aggregate = None;
    let scaler = world.scaler().with_service(world.web.clone(), policy).unwrap();
    world.load(0.0);
    let info = MetricInfo::new("load", MetricKind::Gauge, "1");
    world.metrics.record(&info, [("instance", "b")], world.clock.now(), 0.0);
    assert_eq!(scaler.evaluate(&world.web).await.unwrap().decision.decision.sight, Sight::Blind);
}

#[tokio::test(start_paused = true)]
async fn without_metrics_the_lower_bound_holds_and_nothing_is_lowered() {
    let world = World::new(1);
    let scaler = world.scaler().with_service(world.web.clone(), world.policy()).unwrap();
    scaler.run(sleep(TICK * 100)).await;
    assert_eq!(world.count().await, 2);
    world.target.set(&world.web, &ScaleChange::to(9, "by hand")).await.unwrap();
    scaler.run(sleep(TICK * 100)).await;
    assert_eq!(world.count().await, 9);
}

#[tokio::test(start_paused = true)]
async fn a_count_that_can_not_be_read_or_set_is_tried_again() {
    let world = World::new(3);
    let scaler = world.scaler().with_service(world.web.clone(), world.policy()).unwrap();
    world.load(60.0);
    for fault in [CallFault::Fail(ErrorKind::Unavailable), CallFault::Hang] {
        world.target.inject(ScaleCall::Current, fault);
        let error = scaler.evaluate(&world.web).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error}");
    }
    assert_eq!(scaler.status(&world.web).unwrap().failures, 2);
    for fault in [CallFault::Fail(ErrorKind::Stale), CallFault::Fail(ErrorKind::Busy), CallFault::Hang] {
        world.load(60.0);
        world.target.inject(ScaleCall::Set, fault);
        let record = scaler.evaluate(&world.web).await.unwrap();
        assert!(matches!(record.action, Action::Failed { .. }), "{record:?}");
        assert_eq!(world.count().await, 3);
        sleep(TICK).await;
    }
    world.load(60.0);
    let record = scaler.evaluate(&world.web).await.unwrap();
    assert!(matches!(record.action, Action::Applied { .. }), "{record:?}");
    assert_eq!((world.count().await, scaler.status(&world.web).unwrap().last_error), (6, None));
}

#[tokio::test(start_paused = true)]
async fn a_change_between_reading_and_setting_wins() {
    let world = World::new(3);
    let scaler = world.scaler().with_service(world.web.clone(), world.policy()).unwrap();
    world.load(60.0);
    // The signal takes a second, and meanwhile somebody sets the count.
    world.metrics.inject(MetricsCall::Instant, CallFault::Slow(Duration::from_secs(1)));
    let meddle = async {
        sleep(Duration::from_millis(500)).await;
        world.target.set(&world.web, &ScaleChange::to(12, "by hand")).await.unwrap();
    };
    let (record, ()) = tokio::join!(scaler.evaluate(&world.web), meddle);
    let record = record.unwrap();
    assert!(matches!(record.action, Action::Failed { kind: ErrorKind::Stale, .. }), "{record:?}");
    assert_eq!(world.count().await, 12);
}

#[tokio::test(start_paused = true)]
async fn a_successor_goes_on_where_the_state_was_kept() {
    let world = World::new(8);
    let made = |name: &str| {
        let store = Arc::clone(&world.store) as Arc<dyn Store>;
        world.scaler().with_store(store, name).with_service(world.web.clone(), world.policy()).unwrap()
    };
    world.during(&made("one"), Duration::from_secs(291), 30.0).await;
    assert_eq!(world.count().await, 8);
    // Almost a whole window was seen by the first; the second needs only the rest.
    let second = made("two");
    world.during(&second, Duration::from_secs(45), 30.0).await;
    assert_eq!(world.count().await, 3);
    assert!(second.records(&world.web).len() > Autoscaler::KEPT_RECORDS, "the last records came along");

    // What is damaged is started anew, and that is careful.
    world
        .store
        .put(&Key::new("scale/web/state").unwrap(), "junk".into(), ews_core::store::Expect::Any)
        .await
        .unwrap();
    world.target.set(&world.web, &ScaleChange::to(8, "by hand")).await.unwrap();
    world.during(&made("three"), Duration::from_secs(250), 30.0).await;
    assert_eq!(world.count().await, 8);
}

#[tokio::test(start_paused = true)]
async fn of_two_controllers_one_acts_and_the_other_takes_over() {
    let world = World::new(3);
    let made = |name: &str| {
        let store = Arc::clone(&world.store) as Arc<dyn Store>;
        world.scaler().with_store(store, name).with_service(world.web.clone(), world.policy()).unwrap()
    };
    let (first, second) = (made("one"), made("two"));
    world.load(60.0);
    first.evaluate(&world.web).await.unwrap();
    assert_eq!(world.count().await, 6);
    let error = second.evaluate(&world.web).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    // The first is paused for longer than its lease lives; the second takes over, and the first finds out before it acts.
    sleep(Duration::from_secs(120)).await;
    world.load(100.0);
    second.evaluate(&world.web).await.unwrap();
    assert_eq!(world.count().await, 10);
    world.load(200.0);
    assert_eq!(first.evaluate(&world.web).await.unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(world.count().await, 10);
}

#[tokio::test(start_paused = true)]
async fn many_services_are_spread_over_the_interval() {
    let world = World::new(3);
    let mut scaler = world.scaler();
    for index in 0..30 {
        let name = ServiceName::new(format!("s{index}")).unwrap();
        world.target.add(&name, 3, 1..=50);
        scaler = scaler.with_service(name, world.policy()).unwrap();
    }
    scaler.run(sleep(Duration::from_millis(7_400))).await;
    let asked = (0..30).filter(|index| {
        let name = ServiceName::new(format!("s{index}")).unwrap();
        !scaler.records(&name).is_empty()
    });
    assert_eq!(asked.count(), 15, "half of them in half an interval");
}
