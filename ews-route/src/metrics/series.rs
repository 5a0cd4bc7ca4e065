//! The series that a gateway keeps: the newest samples of each, in bounded memory, and the answers from them.
//!
//! What a query means is [`eval`]'s. Here is only which series match and how much one query may touch.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ews_core::label::Lookup;
use ews_core::metrics::eval::{self, Sample, SeriesSamples};
use ews_core::metrics::{Answer, Coverage, MetricInfo, MetricKind, MetricQuery, Reading, TimeRange};
use ews_core::{Error, ErrorKind, Histogram, Result, Timestamp};

use crate::gateway::SampleConfig;

/// The most series that one query may touch.
pub(crate) const QUERY_SERIES: usize = 2_000;

/// The labels of a series.
pub(crate) type SeriesLabels = BTreeMap<String, String>;

/// What a sample holds.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Number(f64),
    Histogram(Histogram),
}

/// The series of a gateway.
#[derive(Debug)]
pub(crate) struct SeriesStore {
    metrics: Mutex<Metrics>,
    config: SampleConfig,
}

#[derive(Debug, Default)]
struct Metrics {
    known: BTreeMap<String, Metric>,
    series: usize,
    /// How many series found no room at the last sample.
    refused: u64,
    refusing: u64,
}

#[derive(Debug)]
struct Metric {
    info: MetricInfo,
    series: BTreeMap<SeriesLabels, Ring>,
}

#[derive(Debug)]
enum Ring {
    Numbers(VecDeque<Sample<f64>>),
    Histograms(VecDeque<Sample<Histogram>>),
}

struct ByName<'a>(&'a SeriesLabels);

impl Lookup for ByName<'_> {
    fn lookup(&self, key: &str) -> Option<Cow<'_, str>> {
        self.0.get(key).map(|value| value.as_str().into())
    }
}

impl SeriesStore {
    pub(crate) fn new(config: SampleConfig, infos: impl IntoIterator<Item = MetricInfo>) -> Self {
        let known = infos
            .into_iter()
            .map(|info| (info.name.clone(), Metric { info, series: BTreeMap::new() }))
            .collect();
        Self { metrics: Mutex::new(Metrics { known, ..Metrics::default() }), config }
    }

    fn metrics(&self) -> MutexGuard<'_, Metrics> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a sample to a series. One that is new begins with a zero at `before`, where that is given.
    pub(crate) fn record(
        &self,
        info: &MetricInfo,
        labels: SeriesLabels,
        at: Timestamp,
        value: Value,
        before: Option<Timestamp>,
    ) {
        let mut metrics = self.metrics();
        let has_room = metrics.series < self.config.series;
        let metric = metrics
            .known
            .entry(info.name.clone())
            .or_insert_with(|| Metric { info: info.clone(), series: BTreeMap::new() });
        let is_new = !metric.series.contains_key(&labels);
        if is_new && !has_room {
            metrics.refusing += 1;
            return;
        }
        let keep = self.config.samples.max(2);
        let histograms = (keep / self.config.histogram_every.max(1)).max(2);
        let ring = metric.series.entry(labels).or_insert_with(|| match value {
            Value::Number(_) => Ring::Numbers(VecDeque::new()),
            Value::Histogram(_) => Ring::Histograms(VecDeque::new()),
        });
        let zero = before.filter(|before| is_new && *before < at);
        match (ring, value) {
            (Ring::Numbers(samples), Value::Number(value)) => {
                samples.extend(zero.map(|at| Sample::new(at, 0.0)));
                push(samples, Sample::new(at, value), keep);
            }
            (Ring::Histograms(samples), Value::Histogram(value)) => {
                samples.extend(zero.map(|at| Sample::new(at, Histogram::new())));
                push(samples, Sample::new(at, value), histograms);
            }
            _ => {}
        }
        if is_new {
            metrics.series += 1;
        }
    }

    /// A round of samples is complete: forgets series that have none since this moment.
    pub(crate) fn turn(&self, oldest: Timestamp) {
        let mut metrics = self.metrics();
        metrics.refused = std::mem::take(&mut metrics.refusing);
        let mut series = 0;
        for metric in metrics.known.values_mut() {
            metric.series.retain(|_, ring| ring.newest().is_some_and(|newest| newest >= oldest));
            series += metric.series.len();
        }
        metrics.series = series;
    }

    pub(crate) fn describe(&self, after: Option<&str>, limit: usize) -> Result<Vec<MetricInfo>> {
        if limit == 0 {
            return Err(Error::invalid("a limit of zero; accepted: at least 1"));
        }
        let metrics = self.metrics();
        let infos = metrics.known.values().map(|metric| &metric.info);
        let later = infos.filter(|info| after.is_none_or(|after| info.name.as_str() > after));
        Ok(later.take(limit).cloned().collect())
    }

    pub(crate) fn instant(&self, query: &MetricQuery, at: Timestamp) -> Result<Answer<Reading>> {
        self.evaluate(query, |kind, series| eval::instant(kind, query, series, at))
    }

    pub(crate) fn range(&self, query: &MetricQuery, range: &TimeRange) -> Result<Answer<Vec<Reading>>> {
        range.moments()?;
        self.evaluate(query, |kind, series| eval::range(kind, query, series, range))
    }

    fn evaluate<V>(
        &self,
        query: &MetricQuery,
        eval: impl FnOnce(MetricKind, &[SeriesSamples<'_>]) -> Result<Answer<V>>,
    ) -> Result<Answer<V>> {
        let mut metrics = self.metrics();
        let dropped = metrics.refused;
        let Some(metric) = metrics.known.get_mut(&query.metric) else {
            return Ok(Answer::new(Vec::new(), Coverage::new(0, 0, dropped)));
        };
        let kind = metric.info.kind;
        let matching = |labels: &SeriesLabels| query.matching.matches(&ByName(labels));
        let mut series = Vec::new();
        for (labels, ring) in &mut metric.series {
            if !matching(labels) {
                continue;
            }
            if series.len() == QUERY_SERIES {
                return Err(Error::new(
                    ErrorKind::OutOfResources,
                    format!("the query touches more than {QUERY_SERIES} series: match more labels"),
                ));
            }
            let labels = labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            series.push(match ring {
                Ring::Numbers(samples) => SeriesSamples::numbers(labels, samples.make_contiguous()),
                Ring::Histograms(samples) => SeriesSamples::histograms(labels, samples.make_contiguous()),
            });
        }
        let mut answer = eval(kind, &series)?;
        answer.coverage.dropped = dropped;
        Ok(answer)
    }

    /// The newest value of every series, for whoever shows all.
    #[cfg(feature = "admin")]
    pub(crate) fn newest(&self) -> Vec<(MetricInfo, Vec<(SeriesLabels, Value)>)> {
        let metrics = self.metrics();
        let of = |metric: &Metric| {
            let series = metric.series.iter().filter_map(|(labels, ring)| {
                let value = match ring {
                    Ring::Numbers(samples) => Value::Number(samples.back()?.value),
                    Ring::Histograms(samples) => Value::Histogram(samples.back()?.value.clone()),
                };
                Some((labels.clone(), value))
            });
            (metric.info.clone(), series.collect())
        };
        metrics.known.values().map(of).collect()
    }
}

impl Ring {
    fn newest(&self) -> Option<Timestamp> {
        match self {
            Self::Numbers(samples) => samples.back().map(|sample| sample.at),
            Self::Histograms(samples) => samples.back().map(|sample| sample.at),
        }
    }
}

fn push<T>(samples: &mut VecDeque<Sample<T>>, sample: Sample<T>, keep: usize) {
    match samples.back_mut() {
        // A clock that was set back must not disturb the order.
        Some(last) if last.at > sample.at => return,
        Some(last) if last.at == sample.at => {
            *last = sample;
            return;
        }
        _ => {}
    }
    if samples.len() >= keep {
        samples.pop_front();
    }
    samples.push_back(sample);
}
