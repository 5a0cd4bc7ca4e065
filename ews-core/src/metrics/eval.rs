//! What a query means, as pure functions over samples.
//!
//! A source picks the series that match and hands their samples over as slices, ordered by time; what comes back is the
//! [`Answer`]. No clock, no IO, no allocation per sample: a window is found by binary search and read in place.
//!
//! ```
//! use std::time::Duration;
//! use ews_core::metrics::eval::{Sample, SeriesSamples, instant};
//! use ews_core::metrics::{Function, MetricKind, MetricQuery, Reading, Window};
//! use ews_core::{Selector, Timestamp};
//!
//! let at = |second: u64| Timestamp::from_micros(second * 1_000_000);
//! let samples = [Sample::new(at(100), 10.0), Sample::new(at(110), 30.0)];
//! let query = MetricQuery::new("requests", Selector::everything())
//!     .function(Function::Rate(Window(Duration::from_secs(60))));
//! let series = [SeriesSamples::numbers([("instance", "web-0")], &samples)];
//! let answer = instant(MetricKind::Counter, &query, &series, at(115))?;
//! assert!(matches!(&answer.series[0].value, Reading::Number(rate) if rate.value == 2.0));
//! # Ok::<(), ews_core::Error>(())
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use super::{
    Aggregation, Answer, Coverage, Function, Measured, MetricKind, MetricQuery, Reading, Series, TimeRange,
    Unavailable, Window,
};
use crate::error::{Error, Result};
use crate::histogram::Histogram;
use crate::time::Timestamp;

/// What was measured at a moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample<T> {
    /// When.
    pub at: Timestamp,
    /// What. Counters and histograms are cumulative: all since their source started.
    pub value: T,
}

impl<T> Sample<T> {
    /// This value at this moment.
    pub const fn new(at: Timestamp, value: T) -> Self {
        Self { at, value }
    }
}

/// The samples of a series, ordered by time; no two at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Samples<'a> {
    /// Of a counter or a gauge.
    Numbers(&'a [Sample<f64>]),
    /// Of a histogram.
    Histograms(&'a [Sample<Histogram>]),
}

/// A series that matches.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SeriesSamples<'a> {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its samples.
    pub samples: Samples<'a>,
}

impl<'a> SeriesSamples<'a> {
    /// These samples under these labels.
    pub fn new(labels: BTreeMap<String, String>, samples: Samples<'a>) -> Self {
        Self { labels, samples }
    }

    /// A counter or a gauge.
    pub fn numbers<K: Into<String>, V: Into<String>>(
        labels: impl IntoIterator<Item = (K, V)>,
        samples: &'a [Sample<f64>],
    ) -> Self {
        let labels = labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Self { labels, samples: Samples::Numbers(samples) }
    }

    /// A histogram.
    pub fn histograms<K: Into<String>, V: Into<String>>(
        labels: impl IntoIterator<Item = (K, V)>,
        samples: &'a [Sample<Histogram>],
    ) -> Self {
        let labels = labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Self { labels, samples: Samples::Histograms(samples) }
    }
}

/// Whether a metric of this kind has this function.
///
/// # Errors
/// `Invalid`, also for a window of zero and a quantile outside 0 to 1.
pub fn check(kind: MetricKind, function: &Function) -> Result<()> {
    let (wanted, window): (&[MetricKind], _) = match function {
        Function::Last => return Ok(()),
        Function::Rate(window) => (&[MetricKind::Counter], window),
        Function::Increase(window) => (&[MetricKind::Counter, MetricKind::Histogram], window),
        Function::Mean(window) | Function::Min(window) | Function::Max(window) => {
            (&[MetricKind::Gauge], window)
        }
        Function::Quantile(share, window) => {
            if !(0.0..=1.0).contains(share) {
                return Err(Error::invalid(format!("the quantile {share}; accepted: 0 to 1")));
            }
            (&[MetricKind::Histogram], window)
        }
    };
    if window.0 < Duration::from_micros(1) {
        return Err(Error::invalid("a window of zero; accepted: at least 1µs"));
    }
    if !wanted.contains(&kind) {
        return Err(Error::invalid(format!(
            "the function {function:?} is for {wanted:?}, the metric is a {kind:?}"
        )));
    }
    Ok(())
}

/// Answers [`Metrics::instant`](crate::Metrics::instant) from the series that match.
///
/// # Errors
/// Those of [`check`]; `Internal` where a series' samples are not of the metric's kind.
pub fn instant(
    kind: MetricKind,
    query: &MetricQuery,
    series: &[SeriesSamples<'_>],
    at: Timestamp,
) -> Result<Answer<Reading>> {
    check(kind, &query.function)?;
    let mut unavailable = 0;
    let values = at_moment(kind, query, series, at, |_| unavailable += 1)?;
    let series_of = |(labels, value)| Series { labels, value };
    Ok(Answer {
        series: values.into_iter().map(series_of).collect(),
        coverage: Coverage { matched: series.len() as u64, unavailable, dropped: 0 },
    })
}

/// Answers [`Metrics::range`](crate::Metrics::range) from the series that match.
///
/// # Errors
/// Those of [`instant`] and of [`TimeRange::moments`].
pub fn range(
    kind: MetricKind,
    query: &MetricQuery,
    series: &[SeriesSamples<'_>],
    range: &TimeRange,
) -> Result<Answer<Vec<Reading>>> {
    check(kind, &query.function)?;
    let mut silent = vec![false; series.len()];
    let mut groups: BTreeMap<BTreeMap<String, String>, Vec<Reading>> = BTreeMap::new();
    for at in range.moments()? {
        let mark = |index: usize| silent.get_mut(index).into_iter().for_each(|silent| *silent = true);
        for (labels, value) in at_moment(kind, query, series, at, mark)? {
            groups.entry(labels).or_default().push(value);
        }
    }
    let series_of = |(labels, value)| Series { labels, value };
    Ok(Answer {
        series: groups.into_iter().map(series_of).collect(),
        coverage: Coverage {
            matched: series.len() as u64,
            unavailable: silent.iter().filter(|silent| **silent).count() as u64,
            dropped: 0,
        },
    })
}

/// One value per group, the same groups whatever the moment.
fn at_moment(
    kind: MetricKind,
    query: &MetricQuery,
    series: &[SeriesSamples<'_>],
    at: Timestamp,
    mut silent: impl FnMut(usize),
) -> Result<BTreeMap<BTreeMap<String, String>, Reading>> {
    let mut groups: BTreeMap<BTreeMap<String, String>, Group> = BTreeMap::new();
    for (index, one) in series.iter().enumerate() {
        let folded = match (kind, one.samples) {
            (MetricKind::Histogram, Samples::Histograms(samples)) => {
                fold_histograms(&query.function, samples, at, query.max_age).map(Folded::Histogram)
            }
            (MetricKind::Counter | MetricKind::Gauge, Samples::Numbers(samples)) => {
                fold_numbers(&query.function, samples, at, query.max_age).map(Folded::Number)
            }
            _ => return Err(Error::internal("a series' samples are not of the metric's kind")),
        };
        if folded.is_err() {
            silent(index);
        }
        let labels = match &query.aggregate {
            None => one.labels.clone(),
            Some(aggregate) => {
                let kept = |(key, _): &(&String, &String)| aggregate.group.contains(*key);
                one.labels.iter().filter(kept).map(|(key, value)| (key.clone(), value.clone())).collect()
            }
        };
        groups.entry(labels).or_default().add(folded);
    }
    let by = query.aggregate.as_ref().map_or(Aggregation::Sum, |aggregate| aggregate.by);
    Ok(groups.into_iter().map(|(labels, group)| (labels, group.finish(by, &query.function))).collect())
}

enum Folded {
    Number(Measured),
    Histogram(Distribution),
}

/// A histogram that was made from samples.
struct Distribution {
    histogram: Histogram,
    at: Timestamp,
    samples: u64,
}

/// The series of a group so far.
#[derive(Default)]
struct Group {
    numbers: Vec<Measured>,
    merged: Option<Distribution>,
    unavailable: Option<Unavailable>,
}

impl Group {
    fn add(&mut self, folded: std::result::Result<Folded, Unavailable>) {
        match folded {
            Ok(Folded::Number(number)) => self.numbers.push(number),
            Ok(Folded::Histogram(new)) => match &mut self.merged {
                None => self.merged = Some(new),
                Some(merged) => {
                    merged.histogram.merge(&new.histogram);
                    merged.at = merged.at.max(new.at);
                    merged.samples = merged.samples.saturating_add(new.samples);
                }
            },
            Err(reason) => self.unavailable = Some(weightier(self.unavailable, reason)),
        }
    }

    fn finish(self, by: Aggregation, function: &Function) -> Reading {
        if let Some(Distribution { histogram, at, samples }) = self.merged {
            let Function::Quantile(share, _) = function else { return Reading::Histogram { histogram, at } };
            return match histogram.quantile(*share) {
                Some(value) => Reading::Number(Measured { value, at, samples }),
                None => Reading::Unavailable(Unavailable::Missing),
            };
        }
        let Some(at) = self.numbers.iter().map(|number| number.at).max() else {
            return Reading::Unavailable(self.unavailable.unwrap_or(Unavailable::Missing));
        };
        let values = || self.numbers.iter().map(|number| number.value);
        #[expect(clippy::cast_precision_loss, reason = "a count of series is far below 2^53")]
        let value = match by {
            Aggregation::Sum => values().sum(),
            Aggregation::Mean => values().sum::<f64>() / self.numbers.len() as f64,
            Aggregation::Min => values().fold(f64::INFINITY, f64::min),
            Aggregation::Max => values().fold(f64::NEG_INFINITY, f64::max),
        };
        let samples = self.numbers.iter().fold(0_u64, |sum, number| sum.saturating_add(number.samples));
        if value.is_finite() {
            Reading::Number(Measured { value, at, samples })
        } else {
            Reading::Unavailable(Unavailable::NotANumber)
        }
    }
}

/// Of two reasons the one that a reader should see.
fn weightier(old: Option<Unavailable>, new: Unavailable) -> Unavailable {
    let Some(old) = old else { return new };
    match (old, new) {
        (Unavailable::Stale { last: a }, Unavailable::Stale { last: b }) => {
            Unavailable::Stale { last: a.max(b) }
        }
        (Unavailable::Stale { .. }, _) => old,
        (_, Unavailable::Stale { .. }) => new,
        (Unavailable::NotANumber, _) => old,
        (_, reason) => reason,
    }
}

/// The samples up to this moment, the newest of which is fresh.
fn fresh<T>(
    samples: &[Sample<T>],
    at: Timestamp,
    max_age: Duration,
) -> std::result::Result<&[Sample<T>], Unavailable> {
    let known = samples.get(..samples.partition_point(|sample| sample.at <= at)).unwrap_or_default();
    match known.last() {
        None => Err(Unavailable::Missing),
        Some(last) if at.since(last.at) > max_age => Err(Unavailable::Stale { last: last.at }),
        Some(_) => Ok(known),
    }
}

/// Those of them after the window's start.
fn within<T>(known: &[Sample<T>], at: Timestamp, window: Window) -> &[Sample<T>] {
    // A window that reaches back to 1970 or further holds everything, a sample at the epoch included.
    if u128::from(at.as_micros()) < window.0.as_micros() {
        return known;
    }
    let start = at - window.0;
    known.get(known.partition_point(|sample| sample.at <= start)..).unwrap_or_default()
}

/// Those in the window and the one before it that the growth is counted from.
fn with_base<T>(known: &[Sample<T>], at: Timestamp, window: Window, max_age: Duration) -> &[Sample<T>] {
    let inside = within(known, at, window);
    let Some(before) = known.len().checked_sub(inside.len() + 1) else { return inside };
    match known.get(before) {
        Some(base) if (at - window.0).since(base.at) <= max_age => known.get(before..).unwrap_or(inside),
        _ => inside,
    }
}

fn fold_numbers(
    function: &Function,
    samples: &[Sample<f64>],
    at: Timestamp,
    max_age: Duration,
) -> std::result::Result<Measured, Unavailable> {
    let known = fresh(samples, at, max_age)?;
    let used = match function {
        Function::Last => known.get(known.len() - 1..).unwrap_or_default(),
        Function::Rate(window) | Function::Mean(window) | Function::Min(window) | Function::Max(window) => {
            within(known, at, *window)
        }
        Function::Increase(window) | Function::Quantile(_, window) => with_base(known, at, *window, max_age),
    };
    let (Some(first), Some(last)) = (used.first(), used.last()) else { return Err(Unavailable::Missing) };
    if used.iter().any(|sample| !sample.value.is_finite()) {
        return Err(Unavailable::NotANumber);
    }
    let values = || used.iter().map(|sample| sample.value);
    #[expect(clippy::cast_precision_loss, reason = "a count of samples is far below 2^53")]
    let value = match function {
        Function::Last => last.value,
        Function::Rate(_) | Function::Increase(_) if used.len() < 2 => return Err(Unavailable::Missing),
        Function::Rate(_) => growth(used) / last.at.since(first.at).as_secs_f64(),
        Function::Increase(_) => growth(used),
        Function::Mean(_) => values().sum::<f64>() / used.len() as f64,
        Function::Min(_) => values().fold(f64::INFINITY, f64::min),
        Function::Max(_) => values().fold(f64::NEG_INFINITY, f64::max),
        Function::Quantile(..) => return Err(Unavailable::Missing),
    };
    if value.is_finite() {
        Ok(Measured { value, at: last.at, samples: used.len() as u64 })
    } else {
        Err(Unavailable::NotANumber)
    }
}

/// How much a counter grew over these samples. One that fell was restarted: all that it has then is growth.
fn growth(samples: &[Sample<f64>]) -> f64 {
    let step = |[before, after]: &[Sample<f64>; 2]| {
        if after.value >= before.value { after.value - before.value } else { after.value }
    };
    samples.array_windows::<2>().map(step).sum()
}

fn fold_histograms(
    function: &Function,
    samples: &[Sample<Histogram>],
    at: Timestamp,
    max_age: Duration,
) -> std::result::Result<Distribution, Unavailable> {
    let known = fresh(samples, at, max_age)?;
    let window = match function {
        Function::Increase(window) | Function::Quantile(_, window) => *window,
        _ => {
            let last = known.last().ok_or(Unavailable::Missing)?;
            return Ok(Distribution { histogram: last.value.clone(), at: last.at, samples: 1 });
        }
    };
    let used = with_base(known, at, window, max_age);
    let (Some(first), Some(last)) = (used.first(), used.last()) else { return Err(Unavailable::Missing) };
    if used.len() < 2 {
        return Err(Unavailable::Missing);
    }
    let samples = used.len() as u64;
    // The common case: nothing was restarted, and the two ends say it all.
    let mut restarted =
        used.array_windows::<2>().filter(|[before, after]| after.value.count() < before.value.count());
    if restarted.next().is_none()
        && let Some(histogram) = last.value.since(&first.value)
    {
        return Ok(Distribution { histogram, at: last.at, samples });
    }
    let mut histogram = Histogram::new();
    for [before, after] in used.array_windows::<2>() {
        match after.value.since(&before.value) {
            Some(grown) => histogram.merge(&grown),
            None => histogram.merge(&after.value),
        }
    }
    Ok(Distribution { histogram, at: last.at, samples })
}
