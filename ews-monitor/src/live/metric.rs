//! One metric: its series, and what stands for those that found no room.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ews_core::metrics::eval::{Sample, Samples};
use ews_core::metrics::{MetricInfo, MetricKind};
use ews_core::{Histogram, Timestamp};

use super::column::{Column, Placed};
use super::overflow::Overflow;
use super::{Counts, LiveConfig};

/// The labels of an overflow series, as `labels::key_of` writes them (OpenTelemetry metrics SDK, "Cardinality limits").
pub(crate) const OVERFLOW: &str = "otel_metric_overflow\u{1f}true\u{1e}";

/// What a sample holds.
pub(crate) enum Value {
    Number(f64),
    Histogram(Histogram),
}

/// The newest sample of a series.
pub(crate) enum Latest<'a> {
    Number(f64),
    Histogram(&'a Histogram),
}

/// What became of a sample.
pub(crate) enum Pushed {
    Own,
    Folded,
    Dropped,
}

pub(crate) enum Series {
    Numbers(Column<f64>),
    Histograms(Column<Histogram>),
}

pub(crate) struct Metric {
    pub(crate) info: MetricInfo,
    pub(crate) series: HashMap<Box<str>, Series>,
    overflow: Option<Box<Overflow>>,
    /// How many samples found no room of their own.
    pub(crate) lost: u64,
}

impl Series {
    fn new(kind: MetricKind) -> Self {
        match kind {
            MetricKind::Histogram => Self::Histograms(Column::new()),
            _ => Self::Numbers(Column::new()),
        }
    }

    fn push(&mut self, at: Timestamp, value: Value) -> Placed {
        match (self, value) {
            (Self::Numbers(column), Value::Number(value)) => column.push(Sample::new(at, value)),
            (Self::Histograms(column), Value::Histogram(value)) => column.push(Sample::new(at, value)),
            // The kind was checked before; nothing is placed.
            _ => Placed::InPlaceOfAnother,
        }
    }

    pub(crate) fn samples(&self) -> Samples<'_> {
        match self {
            Self::Numbers(column) => Samples::Numbers(column.as_slice()),
            Self::Histograms(column) => Samples::Histograms(column.as_slice()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Numbers(column) => column.len(),
            Self::Histograms(column) => column.len(),
        }
    }

    fn before(&self, at: Timestamp) -> usize {
        match self {
            Self::Numbers(column) => column.before(at),
            Self::Histograms(column) => column.before(at),
        }
    }

    fn forget(&mut self, count: usize) {
        match self {
            Self::Numbers(column) => column.forget(count),
            Self::Histograms(column) => column.forget(count),
        }
    }
}

/// As how many samples one of this kind counts.
fn weight(kind: MetricKind) -> i64 {
    if kind == MetricKind::Histogram { LiveConfig::HISTOGRAM_WEIGHT as i64 } else { 1 }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Whether one sample more would be more than all series together may have.
fn crowded(kind: MetricKind, config: &LiveConfig, counts: &Counts) -> bool {
    counts.samples.load(Relaxed) + weight(kind) > signed(config.max_samples)
}

/// A sample, and the moment at which it came.
struct Sampled {
    at: Timestamp,
    value: Value,
    now: Timestamp,
}

/// Puts a sample into its series, whose own oldest make room before the new one comes.
fn place(series: &mut Series, kind: MetricKind, sampled: Sampled, config: &LiveConfig, counts: &Counts) {
    let Sampled { at, value, now } = sampled;
    let old = series.before(now - config.retention);
    let no_room = series.len() - old >= config.max_samples_per_series;
    let full = usize::from(no_room || (old == 0 && crowded(kind, config, counts)));
    let gone = (old + full).min(series.len());
    if gone > 0 {
        series.forget(gone);
        counts.samples.fetch_sub(signed(gone) * weight(kind), Relaxed);
    }
    match series.push(at, value) {
        Placed::InPlaceOfAnother => drop(counts.replaced.fetch_add(1, Relaxed)),
        placed => {
            counts.samples.fetch_add(weight(kind), Relaxed);
            if placed == Placed::Between {
                counts.out_of_order.fetch_add(1, Relaxed);
            }
        }
    }
}

impl Metric {
    pub(crate) fn new(info: MetricInfo) -> Self {
        Self { info, series: HashMap::new(), overflow: None, lost: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.series.is_empty() && self.overflow.is_none()
    }

    /// Its overflow series, where it has one.
    pub(crate) fn overflow(&self) -> Option<Samples<'_>> {
        self.overflow.as_ref().map(|overflow| Samples::Numbers(overflow.column.as_slice()))
    }

    pub(crate) fn push(
        &mut self,
        key: &str,
        at: Timestamp,
        value: Value,
        now: Timestamp,
        config: &LiveConfig,
        counts: &Counts,
    ) -> Pushed {
        let kind = self.info.kind;
        // One look-up for the many samples of a series that is there.
        if let Some(series) = self.series.get_mut(key) {
            place(series, kind, Sampled { at, value, now }, config, counts);
            return Pushed::Own;
        }
        let full = self.series.len() >= config.max_series_per_metric
            || counts.series.load(Relaxed) >= signed(config.max_series)
            || crowded(kind, config, counts);
        if full || key == OVERFLOW {
            self.lost += 1;
            return self.fold(key, at, value, config, counts);
        }
        let mut series = Series::new(kind);
        counts.series.fetch_add(1, Relaxed);
        place(&mut series, kind, Sampled { at, value, now }, config, counts);
        self.series.insert(key.into(), series);
        Pushed::Own
    }

    fn fold(
        &mut self,
        key: &str,
        at: Timestamp,
        value: Value,
        config: &LiveConfig,
        counts: &Counts,
    ) -> Pushed {
        let Value::Number(value) = value else { return Pushed::Dropped };
        if self.overflow.is_none() {
            self.overflow = Some(Box::new(Overflow::new()));
            counts.series.fetch_add(1, Relaxed);
        }
        let Some(overflow) = &mut self.overflow else { return Pushed::Dropped };
        let before = overflow.column.len();
        let most = config.max_series_per_metric.saturating_mul(4);
        let taken = overflow.fold(self.info.kind, key, Sample::new(at, value), most);
        let excess = overflow.column.len().saturating_sub(config.max_samples_per_series);
        overflow.column.forget(excess);
        let grown = overflow.column.len() as i64 - before as i64;
        counts.samples.fetch_add(grown, Relaxed);
        if taken { Pushed::Folded } else { Pushed::Dropped }
    }

    pub(crate) fn forget_before(&mut self, at: Timestamp, counts: &Counts) {
        let (mut gone, mut series_gone) = (0, 0);
        self.series.retain(|_, series| {
            let old = series.before(at);
            series.forget(old);
            gone += old as i64;
            let stays = series.len() > 0;
            series_gone += i64::from(!stays);
            stays
        });
        gone *= weight(self.info.kind);
        if let Some(overflow) = &mut self.overflow {
            overflow.forget_before(self.info.kind, at);
            let old = overflow.column.before(at);
            overflow.column.forget(old);
            gone += old as i64;
            if overflow.column.len() == 0 {
                self.overflow = None;
                series_gone += 1;
            }
        }
        counts.samples.fetch_sub(gone, Relaxed);
        counts.series.fetch_sub(series_gone, Relaxed);
    }

    /// The newest sample of every series, ordered by labels, where it is not older than this.
    pub(crate) fn latest(&self, now: Timestamp, max_age: Duration) -> Vec<(&str, Latest<'_>)> {
        let all = self.series.iter().map(|(key, series)| (&**key, series.samples()));
        let all = all.chain(self.overflow().map(|samples| (OVERFLOW, samples)));
        let newest = |(key, samples)| {
            let (at, latest) = match samples {
                Samples::Numbers(samples) => {
                    samples.last().map(|last| (last.at, Latest::Number(last.value)))?
                }
                Samples::Histograms(samples) => {
                    samples.last().map(|last| (last.at, Latest::Histogram(&last.value)))?
                }
                _ => return None,
            };
            (now.since(at) <= max_age).then_some((key, latest))
        };
        let mut latest: Vec<_> = all.filter_map(newest).collect();
        latest.sort_unstable_by_key(|(key, _)| *key);
        latest
    }
}
