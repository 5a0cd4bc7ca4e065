//! The `Metrics` contract: what signals say, and that they say nothing.
//!
//! A query asks for one metric, picks series by label, and says how to fold a window of samples into one number per group.
//! What is missing, stale or not a number comes back as a typed [`Unavailable`], never as zero: missing data must not scale
//! a service in nor open a gate.
//!
//! [`eval`] holds the meaning of all this as pure functions over samples: a source that has samples calls them, and one that
//! asks a peer (PromQL extrapolates, for one) fetches raw samples and calls them too.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::capability::CapabilitySet;
use crate::error::{Error, Result};
use crate::histogram::Histogram;
use crate::selector::Selector;
use crate::time::Timestamp;

pub mod eval;

/// Answers questions about signals.
///
/// Every call reads only; dropping a future abandons it.
#[async_trait]
pub trait Metrics: Send + Sync + 'static {
    /// What it can do.
    fn capabilities(&self) -> CapabilitySet;

    /// The metrics it knows, ordered by name; at most `limit`, at least 1, after `after`, which need not exist. A source may
    /// give fewer, at least one where there is one.
    ///
    /// # Errors
    /// `Invalid` for a limit of zero; `Unavailable`.
    async fn describe(&self, after: Option<String>, limit: usize) -> Result<Vec<MetricInfo>>;

    /// One value per group at a moment; `None` is now. Samples after the moment are not looked at. No group at all means
    /// that nothing matched; a metric that nobody has recorded yet is no error, since a service that just started has
    /// none. A series may be forgotten, and match no more, once its newest sample is far older than `max_age`.
    ///
    /// # Errors
    /// `Invalid` for a function that the metric's kind does not have, a window of zero or a quantile outside 0 to 1;
    /// `OutOfResources` where the query would touch more than the source's limits, never a part of the answer in its
    /// place; `Unsupported`; `Unavailable`.
    async fn instant(&self, query: &MetricQuery, at: Option<Timestamp>) -> Result<Answer<Reading>>;

    /// One value per group and step, each as [`instant`](Self::instant) gives it at that moment: the range's start, and on by
    /// whole steps, as [`TimeRange::moments`] says. A step without data is an `Unavailable` reading, so that all groups have
    /// one value for each moment.
    ///
    /// # Errors
    /// Those of [`instant`](Self::instant); `Invalid` for an empty range, a step of zero or more than
    /// [`TimeRange::MAX_STEPS`] steps.
    async fn range(&self, query: &MetricQuery, range: &TimeRange) -> Result<Answer<Vec<Reading>>>;
}

/// What [`Metrics`] offers on top.
#[async_trait]
pub trait MetricsExt: Metrics {
    /// The single number that a query gives, or why there is none.
    ///
    /// # Errors
    /// `Invalid` where the query gives more than one group; those of [`Metrics::instant`].
    async fn number(&self, query: &MetricQuery) -> Result<std::result::Result<Measured, Unavailable>> {
        let answer = self.instant(query, None).await?;
        let mut series = answer.series.into_iter();
        let Some(first) = series.next() else { return Ok(Err(Unavailable::Missing)) };
        if series.next().is_some() {
            return Err(Error::invalid(
                "the query gives several groups where one number is wanted; aggregate it or match \
                                       more labels",
            )
            .with_context("metric", &query.metric));
        }
        Ok(match first.value {
            Reading::Number(measured) => Ok(measured),
            Reading::Histogram { .. } => {
                return Err(Error::invalid(
                    "the query gives a histogram where one number is wanted; ask for a quantile",
                )
                .with_context("metric", &query.metric));
            }
            Reading::Unavailable(reason) => Err(reason),
        })
    }
}

impl<T: Metrics + ?Sized> MetricsExt for T {}

/// A metric that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MetricInfo {
    /// Its name, in OpenTelemetry's form: `http.server.request.duration`.
    pub name: String,
    /// What it is.
    pub kind: MetricKind,
    /// Its unit, in UCUM's words as OpenTelemetry uses them: `s`, `By`, `{request}`.
    pub unit: String,
    /// What it says.
    pub description: String,
}

impl MetricInfo {
    /// A metric of this name, kind and unit.
    pub fn new(name: impl Into<String>, kind: MetricKind, unit: impl Into<String>) -> Self {
        Self { name: name.into(), kind, unit: unit.into(), description: String::new() }
    }
}

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MetricKind {
    /// It only grows, except that it starts at zero again with its source.
    Counter,
    /// It goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

/// A question about one metric. As a part of a document it needs `metric` and `matching` only; unknown fields are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct MetricQuery {
    /// Which metric.
    pub metric: String,
    /// Which series.
    pub matching: Selector,
    /// How the samples of a series become one value. Default: the newest.
    #[serde(default = "MetricQuery::newest")]
    pub function: Function,
    /// How the values of several series become one. `None`: each series stays by itself.
    #[serde(default)]
    pub aggregate: Option<Aggregate>,
    /// How old a series' newest sample may be before it counts as stale. Default 30 s.
    #[serde(default = "MetricQuery::half_a_minute", with = "crate::time::duration")]
    pub max_age: Duration,
}

impl MetricQuery {
    /// The newest value of every series of this metric that matches.
    pub fn new(metric: impl Into<String>, matching: Selector) -> Self {
        Self {
            metric: metric.into(),
            matching,
            function: Self::newest(),
            aggregate: None,
            max_age: Self::half_a_minute(),
        }
    }

    const fn newest() -> Function {
        Function::Last
    }

    const fn half_a_minute() -> Duration {
        Duration::from_secs(30)
    }

    /// Folds the samples in this way.
    #[must_use]
    pub fn function(mut self, function: Function) -> Self {
        self.function = function;
        self
    }

    /// Joins the series in this way.
    #[must_use]
    pub fn aggregate(mut self, aggregate: Aggregate) -> Self {
        self.aggregate = Some(aggregate);
        self
    }

    /// Takes older samples too, or only younger ones.
    #[must_use]
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }
}

/// How the samples of a series become one value.
///
/// A window holds the samples after its start up to and with the moment asked for, as Prometheus 3 has it. A series whose
/// newest sample is older than [`MetricQuery::max_age`] is stale whatever the window holds. A sample that is no finite number
/// makes the value [`Unavailable::NotANumber`] wherever it is among those looked at: it is never passed over.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Function {
    /// The newest sample of a counter, a gauge or a histogram.
    Last,
    /// A counter's growth per second within the window, resets taken into account; from the first to the last sample in it,
    /// without extrapolation. Fewer than two samples are [`Unavailable::Missing`].
    Rate(Window),
    /// A counter's growth within the window, or a histogram of what was recorded within it, resets taken into account: from
    /// the newest sample at or before the window's start, where there is one not older than `max_age` before it, or else
    /// from the first sample in the window. So windows that adjoin lose nothing between them. Fewer than two samples in all
    /// are [`Unavailable::Missing`].
    Increase(Window),
    /// A gauge's mean over the samples in the window.
    Mean(Window),
    /// A gauge's smallest sample in the window.
    Min(Window),
    /// A gauge's largest sample in the window.
    Max(Window),
    /// This quantile, 0 to 1, of what a histogram recorded within the window, as `Increase` has it. Nothing recorded is
    /// [`Unavailable::Missing`].
    Quantile(f64, Window),
}

/// A stretch of time that ends at the moment asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Window(#[serde(with = "crate::time::duration")] pub Duration);

/// How the values of several series become one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Aggregate {
    /// In which way. Histograms are merged, whichever it is; a quantile is taken after merging.
    pub by: Aggregation,
    /// Series with equal values of these labels are one group. Empty: all series are one.
    #[serde(default)]
    pub group: Vec<String>,
}

impl Aggregate {
    /// All series become one.
    pub fn all(by: Aggregation) -> Self {
        Self { by, group: Vec::new() }
    }

    /// Series with equal values of these labels become one.
    pub fn group(by: Aggregation, group: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { by, group: group.into_iter().map(Into::into).collect() }
    }
}

/// In which way values are joined. A series that is unavailable is left out, and the answer's coverage counts it; a group of
/// which every series is unavailable is so itself: stale if one is (with the newest moment), else not a number if one is,
/// else missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Aggregation {
    /// Their sum.
    Sum,
    /// Their mean.
    Mean,
    /// The smallest.
    Min,
    /// The largest.
    Max,
}

/// The moments of a range query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TimeRange {
    /// The first moment.
    pub from: Timestamp,
    /// The last moment that may be.
    pub to: Timestamp,
    /// From one moment to the next.
    #[serde(with = "crate::time::duration")]
    pub step: Duration,
}

impl TimeRange {
    /// From the first moment to the last that may be, by this step. [`moments`](Self::moments) checks it.
    pub const fn new(from: Timestamp, to: Timestamp, step: Duration) -> Self {
        Self { from, to, step }
    }

    /// The most moments of one query (Prometheus' limit).
    pub const MAX_STEPS: usize = 11_000;

    /// The moments, checked.
    ///
    /// # Errors
    /// `Invalid` for an end before the start, a step of zero or more than [`Self::MAX_STEPS`] moments.
    pub fn moments(&self) -> Result<Vec<Timestamp>> {
        if self.step < Duration::from_micros(1) || self.to < self.from {
            return Err(Error::invalid(format!(
                "a range from {} to {} by {:?}; accepted: an end that is not before the start, a step of 1 µs or more",
                self.from, self.to, self.step
            )));
        }
        let count = self.to.since(self.from).as_micros() / self.step.as_micros() + 1;
        match usize::try_from(count) {
            Ok(count) if count <= Self::MAX_STEPS => {
                Ok(std::iter::successors(Some(self.from), |at| Some(*at + self.step)).take(count).collect())
            }
            _ => Err(Error::invalid(format!(
                "the range has {count} steps; at most {} are accepted: widen the step",
                Self::MAX_STEPS
            ))),
        }
    }
}

/// What a query found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Answer<V> {
    /// One entry per group, ordered by labels, no two with the same.
    pub series: Vec<Series<V>>,
    /// How much of what was asked is in it.
    pub coverage: Coverage,
}

impl<V> Answer<V> {
    /// These groups, ordered by labels; for drivers.
    pub fn new(series: Vec<Series<V>>, coverage: Coverage) -> Self {
        Self { series, coverage }
    }
}

/// One group of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Series<V> {
    /// The labels that all its series have in common by the query: those that it groups by, as far as the series have them,
    /// or all labels of the one series without an aggregate.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: V,
}

impl<V> Series<V> {
    /// A group of these labels; for drivers.
    pub fn new(labels: BTreeMap<String, String>, value: V) -> Self {
        Self { labels, value }
    }
}

impl Coverage {
    /// So many series matched, so many of them were unavailable, so much was dropped; for drivers.
    pub fn new(matched: u64, unavailable: u64, dropped: u64) -> Self {
        Self { matched, unavailable, dropped }
    }
}

/// How much of what was asked is in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Coverage {
    /// How many series matched.
    pub matched: u64,
    /// How many of them had nothing to say: missing, stale or not a number. In a range, at one step or more.
    pub unavailable: u64,
    /// How many series or samples the source had to drop by its own limits, as far as it knows.
    pub dropped: u64,
}

/// A value, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reading {
    /// A number.
    Number(Measured),
    /// A distribution.
    Histogram {
        /// The distribution.
        histogram: Histogram,
        /// The moment of its newest sample.
        at: Timestamp,
    },
    /// Nothing.
    Unavailable(Unavailable),
}

/// A number that was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Measured {
    /// The number; finite.
    pub value: f64,
    /// The moment of the newest sample in it.
    pub at: Timestamp,
    /// How many samples it was made from, those of all series of the group together.
    pub samples: u64,
}

impl Measured {
    /// This number of that moment, made from so many samples; for drivers.
    pub const fn new(value: f64, at: Timestamp, samples: u64) -> Self {
        Self { value, at, samples }
    }
}

/// Why there is no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Unavailable {
    /// There is no such series, or too few samples in the window.
    Missing,
    /// The newest sample is too old.
    Stale {
        /// When it was taken.
        last: Timestamp,
    },
    /// The samples give no finite number.
    NotANumber,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing"),
            Self::Stale { last } => write!(f, "stale since {last}"),
            Self::NotANumber => f.write_str("not a number"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_bounded_and_holds_both_ends() {
        let from = Timestamp::from_micros(10_000_000);
        let range = |to, step| TimeRange { from, to, step };
        let ten = range(from + Duration::from_secs(9), Duration::from_secs(1)).moments().unwrap();
        assert_eq!((ten.len(), ten[0], ten[9]), (10, from, from + Duration::from_secs(9)));
        assert!(range(from, Duration::ZERO).moments().is_err());
        assert!(range(Timestamp::EPOCH, Duration::from_secs(1)).moments().is_err());
        assert!(range(Timestamp::MAX, Duration::from_micros(1)).moments().is_err());
    }
}
