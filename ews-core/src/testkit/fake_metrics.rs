//! A source of metrics that says what a test told it.
//!
//! Samples may come in any order and at any time; what a query means is [`eval`]'s. Its limits are
//! small, so that a test can reach them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::call_fault::{CallFault, FaultQueue};
use crate::capability::{Capability, CapabilitySet};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::histogram::Histogram;
use crate::label::Lookup;
use crate::metrics::eval::{self, Sample, Samples, SeriesSamples};
use crate::metrics::{
    Answer, Coverage, Function, MetricInfo, MetricKind, MetricQuery, Metrics, Reading, TimeRange,
};
use crate::selector::Selector;
use crate::time::Timestamp;

/// The calls that a [`CallFault`] can hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricsCall {
    /// [`Metrics::describe`].
    Describe,
    /// [`Metrics::instant`].
    Instant,
    /// [`Metrics::range`].
    Range,
}

/// How much a query may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MetricsLimits {
    /// Series of one query. Default 1,000.
    pub series: usize,
    /// Samples of one query. Default 1,000,000.
    pub samples: usize,
}

impl Default for MetricsLimits {
    fn default() -> Self {
        Self { series: 1_000, samples: 1_000_000 }
    }
}

/// A source of metrics in memory. See the [module](self). Clones are the same source.
#[derive(Clone)]
pub struct FakeMetrics {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for FakeMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeMetrics").finish_non_exhaustive()
    }
}

struct Shared {
    state: Mutex<State>,
    faults: FaultQueue<MetricsCall>,
    clock: Arc<dyn Clock>,
    limits: MetricsLimits,
    capabilities: CapabilitySet,
}

#[derive(Default)]
struct State {
    metrics: BTreeMap<String, Metric>,
    dropped: u64,
}

struct Metric {
    info: MetricInfo,
    numbers: BTreeMap<BTreeMap<String, String>, Vec<Sample<f64>>>,
    histograms: BTreeMap<BTreeMap<String, String>, Vec<Sample<Histogram>>>,
}

struct ByName<'a>(&'a BTreeMap<String, String>);

impl Lookup for ByName<'_> {
    fn lookup(&self, key: &str) -> Option<Cow<'_, str>> {
        self.0.get(key).map(|value| value.as_str().into())
    }
}

impl FakeMetrics {
    /// A source that knows nothing yet, can do everything and reads the operating system's clock.
    pub fn new() -> Self {
        Self::with(CapabilitySet::all(), MetricsLimits::default(), Arc::new(SystemClock))
    }

    /// A source with these capabilities, limits and clock.
    pub fn with(capabilities: CapabilitySet, limits: MetricsLimits, clock: Arc<dyn Clock>) -> Self {
        let (state, faults) = (Mutex::default(), FaultQueue::default());
        Self { shared: Arc::new(Shared { state, faults, clock, limits, capabilities }) }
    }

    /// Makes a metric known; it may have series later.
    pub fn declare(&self, info: MetricInfo) {
        self.state().metric(&info);
    }

    /// A sample of a counter or a gauge. One at the same moment replaces the earlier.
    pub fn record<K: Into<String>, V: Into<String>>(
        &self,
        info: &MetricInfo,
        labels: impl IntoIterator<Item = (K, V)>,
        at: Timestamp,
        value: f64,
    ) {
        put(self.state().metric(info).numbers.entry(owned(labels)).or_default(), Sample::new(at, value));
    }

    /// A sample of a histogram: all that was recorded since its source started.
    pub fn record_histogram<K: Into<String>, V: Into<String>>(
        &self,
        info: &MetricInfo,
        labels: impl IntoIterator<Item = (K, V)>,
        at: Timestamp,
        value: Histogram,
    ) {
        put(self.state().metric(info).histograms.entry(owned(labels)).or_default(), Sample::new(at, value));
    }

    /// Forgets a metric and all its series.
    pub fn forget(&self, metric: &str) {
        self.state().metrics.remove(metric);
    }

    /// From now on, answers say that so much was dropped.
    pub fn set_dropped(&self, dropped: u64) {
        self.state().dropped = dropped;
    }

    /// Lets the next such call go wrong.
    pub fn inject(&self, call: MetricsCall, fault: CallFault) {
        self.shared.faults.push(call, fault);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn require(&self, function: &Function) -> Result<()> {
        if !matches!(function, Function::Last) {
            self.shared.capabilities.require(Capability::MetricWindows)?;
        }
        if matches!(function, Function::Quantile(..)) {
            self.shared.capabilities.require(Capability::MetricHistograms)?;
        }
        Ok(())
    }
}

impl Default for FakeMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn metric(&mut self, info: &MetricInfo) -> &mut Metric {
        self.metrics.entry(info.name.clone()).or_insert_with(|| Metric {
            info: info.clone(),
            numbers: BTreeMap::new(),
            histograms: BTreeMap::new(),
        })
    }
}

impl Metric {
    fn matching(&self, selector: &Selector, limits: MetricsLimits) -> Result<Vec<SeriesSamples<'_>>> {
        let wanted = |labels: &BTreeMap<String, String>| selector.matches(&ByName(labels));
        let series: Vec<SeriesSamples<'_>> = if self.info.kind == MetricKind::Histogram {
            let found = self.histograms.iter().filter(|(labels, _)| wanted(labels));
            found.map(|(labels, samples)| SeriesSamples::histograms(labels.clone(), samples)).collect()
        } else {
            let found = self.numbers.iter().filter(|(labels, _)| wanted(labels));
            found.map(|(labels, samples)| SeriesSamples::numbers(labels.clone(), samples)).collect()
        };
        let length = |one: &SeriesSamples<'_>| match one.samples {
            Samples::Numbers(samples) => samples.len(),
            Samples::Histograms(samples) => samples.len(),
        };
        let samples: usize = series.iter().map(length).sum();
        if series.len() > limits.series || samples > limits.samples {
            return Err(Error::new(
                ErrorKind::OutOfResources,
                format!(
                    "the query touches {} series and {samples} samples; at most {} and {} are accepted: match more labels",
                    series.len(),
                    limits.series,
                    limits.samples
                ),
            ));
        }
        Ok(series)
    }
}

fn owned<K: Into<String>, V: Into<String>>(
    labels: impl IntoIterator<Item = (K, V)>,
) -> BTreeMap<String, String> {
    labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
}

fn put<T>(samples: &mut Vec<Sample<T>>, sample: Sample<T>) {
    match samples.binary_search_by_key(&sample.at, |known| known.at) {
        Ok(at) => {
            if let Some(known) = samples.get_mut(at) {
                *known = sample;
            }
        }
        Err(at) => samples.insert(at, sample),
    }
}

fn nothing<V>() -> Answer<V> {
    Answer { series: Vec::new(), coverage: Coverage::default() }
}

#[async_trait]
impl Metrics for FakeMetrics {
    fn capabilities(&self) -> CapabilitySet {
        self.shared.capabilities.clone()
    }

    async fn describe(&self, after: Option<String>, limit: usize) -> Result<Vec<MetricInfo>> {
        let read = || {
            if limit == 0 {
                return Err(Error::invalid("a limit of zero; accepted: at least 1"));
            }
            let state = self.state();
            let infos = state.metrics.values().map(|metric| &metric.info);
            let later = infos.filter(|info| after.as_ref().is_none_or(|after| info.name > *after));
            Ok(later.take(limit).cloned().collect())
        };
        self.shared.faults.run(MetricsCall::Describe, read).await
    }

    async fn instant(&self, query: &MetricQuery, at: Option<Timestamp>) -> Result<Answer<Reading>> {
        let read = || {
            self.require(&query.function)?;
            let state = self.state();
            let Some(metric) = state.metrics.get(&query.metric) else { return Ok(nothing()) };
            let series = metric.matching(&query.matching, self.shared.limits)?;
            let at = at.unwrap_or_else(|| self.shared.clock.now());
            let mut answer = eval::instant(metric.info.kind, query, &series, at)?;
            answer.coverage.dropped = state.dropped;
            Ok(answer)
        };
        let answer = self.shared.faults.run(MetricsCall::Instant, read).await;
        answer.map_err(|error| error.with_operation("metrics.instant").with_context("metric", &query.metric))
    }

    async fn range(&self, query: &MetricQuery, range: &TimeRange) -> Result<Answer<Vec<Reading>>> {
        let read = || {
            self.shared.capabilities.require(Capability::MetricRanges)?;
            self.require(&query.function)?;
            range.moments()?;
            let state = self.state();
            let Some(metric) = state.metrics.get(&query.metric) else { return Ok(nothing()) };
            let series = metric.matching(&query.matching, self.shared.limits)?;
            let mut answer = eval::range(metric.info.kind, query, &series, range)?;
            answer.coverage.dropped = state.dropped;
            Ok(answer)
        };
        let answer = self.shared.faults.run(MetricsCall::Range, read).await;
        answer.map_err(|error| error.with_operation("metrics.range").with_context("metric", &query.metric))
    }
}
