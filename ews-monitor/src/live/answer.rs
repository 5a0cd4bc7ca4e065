//! The live store as a source of `Metrics`: it picks series and leaves the meaning of queries to `eval`.

use async_trait::async_trait;
use ews_core::metrics::eval::{self, SeriesSamples};
use ews_core::metrics::{Answer, Coverage, MetricInfo, MetricKind, MetricQuery, Metrics, Reading, TimeRange};
use ews_core::{Capability, CapabilitySet, Error, ErrorKind, Result, Timestamp};
use std::sync::PoisonError;

use super::LiveStore;
use super::labels::{ByKey, pairs};
use super::metric::{Metric, OVERFLOW};

impl LiveStore {
    /// Answers from the series that match, while their metric is locked: nothing in here waits.
    fn answer<V>(
        &self,
        query: &MetricQuery,
        eval: impl FnOnce(MetricKind, &[SeriesSamples<'_>]) -> Result<Answer<V>>,
    ) -> Result<Answer<V>> {
        let all = self.shared.metrics.read().unwrap_or_else(PoisonError::into_inner);
        let Some(metric) = all.get(&query.metric) else {
            return Ok(Answer::new(Vec::new(), Coverage::default()));
        };
        let metric = metric.lock().unwrap_or_else(PoisonError::into_inner);
        let series = matching(&metric, query, self.shared.config.max_query_series)?;
        let mut answer = eval(metric.info.kind, &series)?;
        answer.coverage.dropped = metric.lost;
        Ok(answer)
    }
}

fn matching<'a>(metric: &'a Metric, query: &MetricQuery, most: usize) -> Result<Vec<SeriesSamples<'a>>> {
    let all = metric.series.iter().map(|(key, series)| (&**key, series.samples()));
    let all = all.chain(metric.overflow().map(|samples| (OVERFLOW, samples)));
    let mut found = Vec::new();
    for (key, samples) in all.filter(|(key, _)| query.matching.matches(&ByKey(key))) {
        if found.len() == most {
            return Err(Error::new(
                ErrorKind::OutOfResources,
                format!("the query touches more than {most} series; match more labels"),
            ));
        }
        let labels = pairs(key).map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        found.push(SeriesSamples::new(labels, samples));
    }
    // The store keeps series in no order; an answer that only depends on what is stored needs one.
    found.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
    Ok(found)
}

#[async_trait]
impl Metrics for LiveStore {
    fn capabilities(&self) -> CapabilitySet {
        [Capability::MetricWindows, Capability::MetricRanges, Capability::MetricHistograms]
            .into_iter()
            .collect()
    }

    async fn describe(&self, after: Option<String>, limit: usize) -> Result<Vec<MetricInfo>> {
        use std::ops::Bound::{Excluded, Unbounded};
        if limit == 0 {
            return Err(
                Error::invalid("a limit of zero; accepted: at least 1").with_operation("metrics.describe")
            );
        }
        let all = self.shared.metrics.read().unwrap_or_else(PoisonError::into_inner);
        let later = all.range::<String, _>((after.as_ref().map_or(Unbounded, Excluded), Unbounded));
        let info = |metric: &std::sync::Mutex<Metric>| {
            metric.lock().unwrap_or_else(PoisonError::into_inner).info.clone()
        };
        Ok(later.take(limit).map(|(_, metric)| info(metric)).collect())
    }

    async fn instant(&self, query: &MetricQuery, at: Option<Timestamp>) -> Result<Answer<Reading>> {
        let at = at.unwrap_or_else(|| self.now());
        let answer = self.answer(query, |kind, series| eval::instant(kind, query, series, at));
        answer.map_err(|error| error.with_operation("metrics.instant").with_context("metric", &query.metric))
    }

    async fn range(&self, query: &MetricQuery, range: &TimeRange) -> Result<Answer<Vec<Reading>>> {
        let answer = range
            .moments()
            .and_then(|_| self.answer(query, |kind, series| eval::range(kind, query, series, range)));
        answer.map_err(|error| error.with_operation("metrics.range").with_context("metric", &query.metric))
    }
}
