//! The suite of the contract on the gateway's own series, fed with what it asks for.

use std::sync::Arc;

use async_trait::async_trait;
use ews_core::metrics::{Answer, MetricInfo, MetricQuery, Metrics, Reading, TimeRange};
use ews_core::testkit::conformance::Stop;
use ews_core::testkit::conformance::metrics::{Fed, MetricsHarness, run};
use ews_core::{CapabilitySet, Clock, Result, SystemClock, Timestamp};

use super::series::{QUERY_SERIES, SeriesStore, Value};
use crate::gateway::SampleConfig;

struct Kept(SeriesStore);

#[async_trait]
impl Metrics for Kept {
    fn capabilities(&self) -> CapabilitySet {
        super::capabilities()
    }

    async fn describe(&self, after: Option<String>, limit: usize) -> Result<Vec<MetricInfo>> {
        self.0.describe(after.as_deref(), limit)
    }

    async fn instant(&self, query: &MetricQuery, at: Option<Timestamp>) -> Result<Answer<Reading>> {
        self.0.instant(query, at.unwrap_or_else(|| SystemClock.now()))
    }

    async fn range(&self, query: &MetricQuery, range: &TimeRange) -> Result<Answer<Vec<Reading>>> {
        self.0.range(query, range)
    }
}

struct Harness(Arc<Kept>);

#[async_trait]
impl MetricsHarness for Harness {
    async fn metrics(&self) -> std::result::Result<Arc<dyn Metrics>, Stop> {
        Ok(self.0.clone())
    }

    async fn feed(
        &self,
        info: &MetricInfo,
        labels: &[(&str, &str)],
        at: Timestamp,
        value: Fed,
    ) -> std::result::Result<(), Stop> {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let value = match value {
            Fed::Number(number) => Value::Number(number),
            Fed::Histogram(histogram) => Value::Histogram(histogram),
            _ => return Err(Stop::skip("it knows numbers and histograms")),
        };
        self.0.0.record(info, labels, at, value, None);
        Ok(())
    }

    fn name(&self) -> String {
        "a gateway's series".to_owned()
    }

    fn too_many_series(&self) -> Option<usize> {
        Some(QUERY_SERIES + 1)
    }
}

#[tokio::test]
async fn the_series_keep_the_contract() {
    let config = SampleConfig { histogram_every: 1, ..SampleConfig::default() };
    let harness = Harness(Arc::new(Kept(SeriesStore::new(config, super::infos()))));
    run(&harness).await.assert_passed(&[]);
}

fn labels(number: usize) -> super::series::SeriesLabels {
    [("a".to_owned(), number.to_string())].into_iter().collect()
}

#[test]
fn series_and_samples_are_bounded_and_what_finds_no_room_is_said() {
    let config = SampleConfig { samples: 3, series: 2, ..SampleConfig::default() };
    let store = SeriesStore::new(config, super::infos());
    let info = &super::infos()[0];
    let counter = &super::infos()[1];
    let at = |second: u64| Timestamp::from_micros(second * 1_000_000);
    for second in 1..=10 {
        for number in 0..5 {
            store.record(counter, labels(number), at(second), Value::Number(1.0), None);
        }
        store.turn(at(0));
    }
    let everything = MetricQuery::new(&counter.name, ews_core::Selector::everything());
    let answer = store.instant(&everything, at(10)).unwrap();
    assert_eq!((answer.series.len(), answer.coverage.dropped), (2, 3));
    let old = store.instant(&everything, at(7)).unwrap();
    assert_eq!(old.coverage.unavailable, 2, "only three samples are kept");
    // What has gone makes room.
    store.turn(at(11));
    store.record(info, labels(9), at(12), Value::Histogram(ews_core::Histogram::new()), Some(at(11)));
    store.turn(at(11));
    let answer =
        store.instant(&MetricQuery::new(&info.name, ews_core::Selector::everything()), at(12)).unwrap();
    assert_eq!((answer.series.len(), answer.coverage.dropped), (1, 0));
}

#[test]
fn what_is_counted_for_the_first_time_has_grown_from_zero() {
    let store = SeriesStore::new(SampleConfig::default(), super::infos());
    let counter = &super::infos()[1];
    let at = |second: u64| Timestamp::from_micros(second * 1_000_000);
    store.record(counter, labels(1), at(11), Value::Number(5.0), Some(at(10)));
    store.record(counter, labels(1), at(12), Value::Number(7.0), Some(at(11)));
    let window = ews_core::metrics::Window(std::time::Duration::from_secs(5));
    let query = MetricQuery::new(&counter.name, ews_core::Selector::everything())
        .function(ews_core::metrics::Function::Increase(window));
    let Reading::Number(grown) = &store.instant(&query, at(12)).unwrap().series[0].value else {
        panic!("no number")
    };
    assert_eq!(grown.value, 7.0);
}
