//! The live store: the suite of the `Metrics` contract, its bounds, and samples that come as they should not.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test harness")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ews_core::metrics::{
    Aggregate, Aggregation, Function, MetricInfo, MetricKind, MetricQuery, Metrics, Reading, Window,
};
use ews_core::testkit::VirtualClock;
use ews_core::testkit::conformance::Stop;
use ews_core::testkit::conformance::metrics::{Fed, MetricsHarness, run};
use ews_core::{Clock, Histogram, MetricsExt as _, Selector, Timestamp};
use ews_monitor::{LiveConfig, LiveStore};
use proptest::prelude::*;

fn noon() -> Timestamp {
    Timestamp::from_micros(1_767_268_800_000_000)
}

struct Harness(Mutex<Option<LiveStore>>);

#[async_trait]
impl MetricsHarness for Harness {
    async fn metrics(&self) -> Result<Arc<dyn Metrics>, Stop> {
        let config = LiveConfig::default()
            .with_retention(Duration::from_secs(7_200))
            .with_out_of_order(Duration::from_secs(7_200))
            .with_max_query_series(1_000);
        let store = LiveStore::with_clock(config, Arc::new(VirtualClock::new(noon())))?;
        *self.0.lock().unwrap() = Some(store.clone());
        Ok(Arc::new(store))
    }

    async fn feed(
        &self,
        info: &MetricInfo,
        labels: &[(&str, &str)],
        at: Timestamp,
        value: Fed,
    ) -> Result<(), Stop> {
        let store = self.0.lock().unwrap().clone().unwrap();
        let labels = labels.iter().copied();
        match value {
            Fed::Number(value) => store.record(info, labels, at, value)?,
            Fed::Histogram(value) => store.record_histogram(info, labels, at, value)?,
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    fn name(&self) -> String {
        "live store".to_owned()
    }

    fn too_many_series(&self) -> Option<usize> {
        Some(1_001)
    }
}

#[tokio::test(start_paused = true)]
async fn the_live_store_passes_the_suite() {
    run(&Harness(Mutex::default())).await.assert_passed(&[]);
}

fn store(config: LiveConfig) -> (LiveStore, Arc<VirtualClock>) {
    let clock = Arc::new(VirtualClock::new(noon()));
    (LiveStore::with_clock(config, Arc::clone(&clock) as _).unwrap(), clock)
}

fn gauge() -> MetricInfo {
    MetricInfo::new("depth", MetricKind::Gauge, "1")
}

fn counter() -> MetricInfo {
    MetricInfo::new("requests", MetricKind::Counter, "1")
}

fn all(metric: &str) -> MetricQuery {
    MetricQuery::new(metric, Selector::everything())
}

async fn number(store: &LiveStore, query: &MetricQuery) -> f64 {
    store.number(query).await.unwrap().unwrap().value
}

#[tokio::test(start_paused = true)]
async fn new_series_are_folded_and_old_ones_stay() {
    let (store, clock) = store(LiveConfig::default().with_max_series(1_000, 3));
    let overflow = Selector::equal("otel_metric_overflow", "true").unwrap();
    for second in 0..20_u32 {
        for series in 0..10 {
            let name = format!("s{series}");
            let grown = f64::from(second * (series + 1));
            store.record(&counter(), [("instance", name.as_str())], clock.now(), grown).unwrap();
            store.record(&gauge(), [("instance", name.as_str())], clock.now(), f64::from(series)).unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let rate = all("requests").function(Function::Rate(Window(Duration::from_secs(60))));
    let answer = store.instant(&rate, None).await.unwrap();
    assert_eq!(answer.series.len(), 4);
    assert_eq!(answer.coverage.dropped, 20 * 7, "what is folded counts as dropped");
    for (index, series) in answer.series[..3].iter().enumerate() {
        let Reading::Number(found) = series.value else { panic!("{series:?}") };
        assert_eq!(
            (series.labels["instance"].clone(), found.value),
            (format!("s{index}"), index as f64 + 1.0)
        );
    }
    // 4 + 5 + … + 10 per second: nothing of the growth is lost, and no total is taken for growth.
    let folded = MetricQuery::new("requests", overflow.clone())
        .function(Function::Increase(Window(Duration::from_secs(60))));
    assert_eq!(number(&store, &folded).await, 19.0 * 49.0);
    assert_eq!(
        number(&store, &MetricQuery::new("depth", overflow)).await,
        f64::from(3 + 4 + 5 + 6 + 7 + 8 + 9)
    );
    assert_eq!(store.stats().folded, 20 * 14);
}

#[tokio::test(start_paused = true)]
async fn every_bound_holds() {
    let config = LiveConfig::default().with_max_series(5, 4).with_max_samples(40, 10).with_max_metrics(3);
    let (store, clock) = store(config);
    let mut histogram = Histogram::new();
    for round in 0..100_u32 {
        histogram.record(f64::from(round));
        for metric in ["a", "b", "c", "d"] {
            for series in 0..10 {
                let (info, name) = (MetricInfo::new(metric, MetricKind::Gauge, "1"), format!("{series}"));
                store.record(&info, [("i", name.as_str())], clock.now(), 1.0).unwrap();
            }
        }
        let info = MetricInfo::new("e", MetricKind::Histogram, "s");
        store.record_histogram(&info, [], clock.now(), histogram.clone()).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let stats = store.stats();
        // Each metric may have an overflow series on top of the bound.
        assert!(stats.metrics <= 3 && stats.series <= 5 + 3 && stats.samples <= 40 + 3 * 10, "{stats:?}");
    }
    assert_eq!(store.stats().metrics, 3);
    assert!(store.stats().dropped > 0);
    // What is old goes, and makes room.
    tokio::time::sleep(Duration::from_secs(1_000)).await;
    store.record(&gauge(), [("i", "new")], clock.now(), 1.0).unwrap();
    let stats = store.stats();
    assert_eq!((stats.metrics, stats.series, stats.samples), (1, 1, 1), "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn late_double_and_future_samples() {
    let (store, clock) = store(LiveConfig::default());
    let ago = |seconds| noon() - Duration::from_secs(seconds);
    for (at, value) in [(ago(10), 10.0), (ago(30), 5.0), (ago(20), 7.0), (ago(20), 8.0)] {
        store.record(&counter(), [], at, value).unwrap();
    }
    store.record(&counter(), [], ago(601), 1.0).unwrap();
    store.record(&counter(), [], noon() + Duration::from_secs(301), 99.0).unwrap();
    let stats = store.stats();
    assert_eq!(
        (stats.late, stats.future, stats.replaced, stats.out_of_order, stats.samples),
        (1, 1, 1, 2, 3)
    );
    let increase = all("requests").function(Function::Increase(Window(Duration::from_secs(60))));
    assert_eq!(number(&store, &increase).await, 5.0, "in order, with the later 8");
    // The clock steps back an hour: what comes then is late for the store's own future, and no rate gets negative.
    clock.jump_back(Duration::from_secs(3_600));
    store.record(&counter(), [], clock.now(), 11.0).unwrap();
    assert!(
        store.number(&increase).await.unwrap().is_ok_and(|found| found.value >= 0.0)
            || store.stats().future == 1
    );
    clock.jump_forward(Duration::from_secs(3_600));
    assert!(number(&store, &increase).await >= 0.0);
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_refused_with_the_reason() {
    let (store, clock) = store(LiveConfig::default());
    store.record(&gauge(), [], clock.now(), 1.0).unwrap();
    let other = MetricInfo::new("depth", MetricKind::Counter, "1");
    let histogram = MetricInfo::new("latency", MetricKind::Histogram, "s");
    for (error, wanted) in [
        (store.record(&other, [], clock.now(), 1.0), "the metric is a Gauge"),
        (store.record(&histogram, [], clock.now(), 1.0), "a number for a histogram"),
        (
            store.record_histogram(&gauge(), [], clock.now(), Histogram::new()),
            "a distribution for what is no",
        ),
        (
            store.record(&gauge(), [("", "x")], clock.now(), 1.0),
            "the label's key `` can't be one; accepted: 1 to 256",
        ),
        (store.record(&gauge(), [("a\n", "x")], clock.now(), 1.0), "the label's key `a\\n` can't be one"),
        (
            store.record(&gauge(), [("a", "\u{1f}")], clock.now(), 1.0),
            "the value of the label `a` has 1 bytes, or control",
        ),
        (store.record(&gauge(), [("a", "x"), ("a", "y")], clock.now(), 1.0), "the label `a` comes twice"),
        (
            store.record(&MetricInfo::new("", MetricKind::Gauge, "1"), [], clock.now(), 1.0),
            "`` can't be the name of a metric; accepted",
        ),
    ] {
        assert!(error.unwrap_err().message().contains(wanted), "{wanted}");
    }
    for config in [
        LiveConfig::default().with_retention(Duration::ZERO),
        LiveConfig::default().with_out_of_order(Duration::from_secs(901)),
        LiveConfig::default().with_max_series(0, 1),
        LiveConfig::default().with_max_samples(10, 1),
    ] {
        assert!(LiveStore::new(config).is_err());
    }
    assert!(
        serde_json::from_str::<LiveConfig>(r#"{"retention":"1m","out_of_order":"1m","series":3}"#).is_err()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever comes in whatever order, the counts say what is there.
    #[test]
    fn the_counts_are_true(samples in prop::collection::vec((0_u32..6, 0_u64..40, any::<f64>()), 0..300)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (store, _) = store(LiveConfig::default().with_max_series(100, 4).with_max_samples(60, 20));
            for (series, second, value) in samples {
                let name = format!("{series}");
                store.record(&gauge(), [("i", name.as_str())], noon() - Duration::from_secs(second), value).unwrap();
                let query = all("depth").function(Function::Last).aggregate(Aggregate::all(Aggregation::Max));
                let _ = store.instant(&query, None).await.unwrap();
                prop_assert!(store.stats().samples <= 60 + 20 && store.stats().series <= 5);
            }
            Ok(())
        })?;
    }
}
