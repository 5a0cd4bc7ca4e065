//! Distributions that merge: OpenTelemetry's exponential histogram.
//!
//! Bucket `i` of scale `s` holds values in `(base^i, base^(i+1)]` with `base = 2^(2^-s)`. Halving the number of buckets
//! lowers the scale by one without looking at the values, so any two histograms merge by lowering the finer one, and one of
//! at most [`Histogram::MAX_BUCKETS`] buckets fits every range of values: its error grows instead of its memory. At the
//! start scale of 20 and 160 buckets, latencies within a factor of 1,000 of each other keep a relative error of 2.2 %
//! (scale 4: base 1.044).
//!
//! Values are not negative: durations, sizes, counts. Source: OpenTelemetry data model, "ExponentialHistogram".

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A distribution of values that are not negative. See the [module](self).
///
/// ```
/// use ews_core::Histogram;
///
/// let mut fast = Histogram::new();
/// let mut slow = Histogram::new();
/// (1..=99).for_each(|n| fast.record(f64::from(n) / 1000.0));
/// slow.record(2.0);
/// fast.merge(&slow);
/// assert_eq!(fast.count(), 100);
/// assert!((fast.quantile(0.5).unwrap() - 0.050).abs() < 0.003);
/// assert_eq!(fast.quantile(1.0), Some(2.0));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Histogram {
    scale: i32,
    /// How many values are zero, or too small to tell from it.
    zeros: u64,
    /// The index of the first bucket.
    offset: i32,
    buckets: Vec<u64>,
    sum: f64,
    min: f64,
    max: f64,
}

impl Histogram {
    /// The most buckets a histogram has (OpenTelemetry SDKs' default).
    pub const MAX_BUCKETS: usize = 160;

    const MAX_SCALE: i32 = 20;
    const MIN_SCALE: i32 = -10;

    /// No values yet.
    pub const fn new() -> Self {
        Self {
            scale: Self::MAX_SCALE,
            zeros: 0,
            offset: 0,
            buckets: Vec::new(),
            sum: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
        }
    }

    /// Records a value. What is negative or not finite is left out.
    pub fn record(&mut self, value: f64) {
        self.record_many(value, 1);
    }

    /// Records a value so many times, at the price of one.
    pub fn record_many(&mut self, value: f64, count: u64) {
        if !value.is_finite() || value < 0.0 || count == 0 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a sum of more than 2^53 values is not exact anyway")]
        let sum = value * count as f64;
        self.sum = (self.sum + sum).min(f64::MAX);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        if value < f64::MIN_POSITIVE {
            self.zeros = self.zeros.saturating_add(count);
            return;
        }
        loop {
            let index = index(value, self.scale);
            if self.add(index, count) {
                return;
            }
            self.coarsen();
        }
    }

    /// Adds all values of another.
    pub fn merge(&mut self, other: &Self) {
        self.zeros = self.zeros.saturating_add(other.zeros);
        self.sum = (self.sum + other.sum).min(f64::MAX);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        let mut other = other.clone();
        while other.scale > self.scale {
            other.coarsen();
        }
        while self.scale > other.scale {
            self.coarsen();
        }
        for (index, count) in
            (other.offset..).zip(other.buckets.iter().copied()).filter(|(_, count)| *count > 0)
        {
            let mut index = i64::from(index);
            // `other` stands at the scale that both had; each further step here halves its index too.
            for _ in 0..(other.scale - self.scale) {
                index >>= 1;
            }
            while !self.add(i32::try_from(index).unwrap_or(i32::MAX), count) {
                self.coarsen();
                index >>= 1;
            }
        }
    }

    /// What was recorded after `earlier`, an older state of this same histogram; `None` where it is not older (it was
    /// started anew). Smallest and largest value are those of the buckets that grew.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        let mut old = earlier.clone();
        let mut new = self.clone();
        while old.scale > new.scale {
            old.coarsen();
        }
        if old.scale < new.scale {
            return None;
        }
        new.zeros = new.zeros.checked_sub(old.zeros)?;
        new.sum -= old.sum;
        for (index, count) in (old.offset..).zip(old.buckets.iter().copied()).filter(|(_, count)| *count > 0)
        {
            let at = usize::try_from(i64::from(index) - i64::from(new.offset)).ok()?;
            let bucket = new.buckets.get_mut(at)?;
            *bucket = bucket.checked_sub(count)?;
        }
        let (first, last) = (
            new.buckets.iter().position(|count| *count > 0),
            new.buckets.iter().rposition(|count| *count > 0),
        );
        let edge =
            |at: usize| lower(new.offset.saturating_add(i32::try_from(at).unwrap_or(i32::MAX)), new.scale);
        let (min, max) = match (first, last) {
            (Some(first), Some(last)) => (edge(first).max(self.min), edge(last + 1).min(self.max)),
            _ if new.zeros > 0 => (0.0, 0.0),
            _ => (f64::INFINITY, f64::NEG_INFINITY),
        };
        new.min = if new.zeros > 0 { 0.0 } else { min };
        new.max = max;
        Some(new)
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(self.zeros, |sum, count| sum.saturating_add(*count))
    }

    /// The sum of all values.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// The smallest value.
    pub fn min(&self) -> Option<f64> {
        (self.count() > 0).then_some(self.min)
    }

    /// The largest value.
    pub fn max(&self) -> Option<f64> {
        (self.count() > 0).then_some(self.max)
    }

    /// The mean of all values.
    pub fn mean(&self) -> Option<f64> {
        let count = self.count();
        #[expect(clippy::cast_precision_loss, reason = "a mean of more than 2^53 values is not exact anyway")]
        let mean = self.sum / count as f64;
        (count > 0).then_some(mean)
    }

    /// The value below which this share of the values lies, 0 to 1, by linear interpolation within its bucket; `None`
    /// without values or for a share outside that range.
    #[expect(clippy::cast_precision_loss, reason = "ranks beyond 2^53 need no exactness")]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 || !(0.0..=1.0).contains(&share) {
            return None;
        }
        let rank = share * count as f64;
        let mut seen = self.zeros as f64;
        if rank <= seen && self.zeros > 0 {
            return Some(0.0);
        }
        for (index, bucket) in (self.offset..).zip(&self.buckets) {
            let size = *bucket as f64;
            if size > 0.0 && rank <= seen + size {
                let (low, high) = (lower(index, self.scale), lower(index.saturating_add(1), self.scale));
                let value = low + (high - low) * ((rank - seen) / size);
                return Some(value.clamp(self.min, self.max));
            }
            seen += size;
        }
        Some(self.max)
    }

    /// How many values are at most this, by linear interpolation within the bucket that it falls into, rounded down; never less
    /// for a larger bound. It is the inverse of [`quantile`](Self::quantile), and what a histogram with other buckets is made of.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a bucket is estimated anyway; a cast saturates"
    )]
    pub fn count_at_most(&self, bound: f64) -> u64 {
        if bound >= self.max {
            return self.count();
        }
        let mut seen = if bound >= 0.0 { self.zeros } else { 0 };
        for (index, bucket) in (self.offset..).zip(&self.buckets) {
            let (low, high) = (lower(index, self.scale), lower(index.saturating_add(1), self.scale));
            if bound >= high {
                seen = seen.saturating_add(*bucket);
            } else {
                let part = ((bound - low) / (high - low)).clamp(0.0, 1.0);
                let part = if bound < self.min { 0.0 } else { part };
                return seen.saturating_add(((*bucket as f64) * part) as u64);
            }
        }
        seen
    }

    /// Adds to the bucket of this index; false where that would need too many buckets.
    fn add(&mut self, index: i32, count: u64) -> bool {
        if self.buckets.is_empty() {
            self.offset = index;
        }
        let at = i64::from(index) - i64::from(self.offset);
        let length = i64::try_from(self.buckets.len()).unwrap_or(i64::MAX);
        let wanted = if at < 0 { length - at } else { length.max(at + 1) };
        let fits = usize::try_from(wanted).is_ok_and(|wanted| wanted <= Self::MAX_BUCKETS);
        if !fits && self.scale > Self::MIN_SCALE {
            return false;
        }
        if at < 0 {
            let missing = usize::try_from(-at).unwrap_or(0);
            self.buckets.splice(0..0, std::iter::repeat_n(0, missing));
            self.offset = index;
        } else if at >= length {
            self.buckets.resize(usize::try_from(at + 1).unwrap_or(0), 0);
        }
        let at = usize::try_from(i64::from(index) - i64::from(self.offset)).unwrap_or(0);
        if let Some(bucket) = self.buckets.get_mut(at) {
            *bucket = bucket.saturating_add(count);
        }
        true
    }

    /// Halves the number of buckets.
    fn coarsen(&mut self) {
        self.scale -= 1;
        let offset = self.offset >> 1;
        let mut buckets: Vec<u64> = Vec::with_capacity(self.buckets.len() / 2 + 1);
        for (index, count) in (self.offset..).zip(&self.buckets) {
            let at = usize::try_from((index >> 1) - offset).unwrap_or(0);
            if at >= buckets.len() {
                buckets.resize(at + 1, 0);
            }
            if let Some(bucket) = buckets.get_mut(at) {
                *bucket = bucket.saturating_add(*count);
            }
        }
        self.offset = offset;
        self.buckets = buckets;
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

/// The bucket of a normal positive value: the largest `i` with `base^i < value`.
#[expect(clippy::cast_possible_truncation, reason = "at most 1074 * 2^20, which fits")]
fn index(value: f64, scale: i32) -> i32 {
    let exact = value.log2() * f64::from(scale).exp2();
    let mut index = exact.ceil() as i64 - 1;
    // The logarithm is rounded: settle values at a bucket's edge by the edge itself.
    let clamped = |index: i64| i32::try_from(index).unwrap_or(i32::MAX);
    if lower(clamped(index), scale) >= value {
        index -= 1;
    } else if lower(clamped(index + 1), scale) < value {
        index += 1;
    }
    clamped(index)
}

/// The lower edge of a bucket.
fn lower(index: i32, scale: i32) -> f64 {
    (f64::from(index) * f64::from(-scale).exp2()).exp2()
}

/// The form in which a histogram is stored and sent; checked when it comes in.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    scale: i32,
    zeros: u64,
    offset: i32,
    buckets: Vec<u64>,
    sum: f64,
    /// Absent while there are no values, since infinity has no JSON.
    min: Option<f64>,
    max: Option<f64>,
}

impl From<Histogram> for Wire {
    fn from(histogram: Histogram) -> Self {
        let (min, max) = (histogram.min(), histogram.max());
        let Histogram { scale, zeros, offset, buckets, sum, .. } = histogram;
        Self { scale, zeros, offset, buckets, sum, min, max }
    }
}

impl TryFrom<Wire> for Histogram {
    type Error = Error;

    fn try_from(wire: Wire) -> Result<Self> {
        let Wire { scale, zeros, offset, buckets, sum, min, max } = wire;
        let far = 1_i32 << 30;
        if !(Self::MIN_SCALE..=Self::MAX_SCALE).contains(&scale)
            || buckets.len() > Self::MAX_BUCKETS
            || !(-far..far).contains(&offset)
            || !sum.is_finite()
        {
            return Err(Error::invalid(format!(
                "a histogram of scale {scale} with {} buckets; accepted: scales from {} to {}, at most {} buckets, finite sums",
                buckets.len(),
                Self::MIN_SCALE,
                Self::MAX_SCALE,
                Self::MAX_BUCKETS
            )));
        }
        let histogram = Self {
            scale,
            zeros,
            offset,
            buckets,
            sum,
            min: min.unwrap_or(f64::INFINITY),
            max: max.unwrap_or(f64::NEG_INFINITY),
        };
        if histogram.count() > 0
            && !(histogram.min >= 0.0 && histogram.min <= histogram.max && histogram.max.is_finite())
        {
            return Err(Error::invalid("a histogram with values needs its smallest and largest one"));
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exact(values: &mut [f64], share: f64) -> f64 {
        values.sort_by(f64::total_cmp);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let rank = (share * values.len() as f64).ceil() as usize;
        values[rank.saturating_sub(1)]
    }

    proptest! {
        #[test]
        fn quantiles_stay_within_one_bucket(
            mut values in proptest::collection::vec(0.001_f64..1.0, 1..400),
            share in 0.0_f64..=1.0,
        ) {
            let mut histogram = Histogram::new();
            values.iter().for_each(|value| histogram.record(*value));
            let found = histogram.quantile(share).unwrap();
            let wanted = exact(&mut values, share);
            // Three decades at 160 buckets are scale 4, whose buckets are 4.4 % wide.
            prop_assert!((found / wanted - 1.0).abs() < 0.045, "{found} for {wanted}");
        }

        #[test]
        fn merging_is_the_same_as_recording_all(
            left in proptest::collection::vec(0.0_f64..1e9, 0..100),
            right in proptest::collection::vec(1e-9_f64..1.0, 0..100),
        ) {
            let (mut one, mut two, mut all) = (Histogram::new(), Histogram::new(), Histogram::new());
            left.iter().for_each(|value| one.record(*value));
            right.iter().for_each(|value| two.record(*value));
            left.iter().chain(&right).for_each(|value| all.record(*value));
            let before = one.clone();
            one.merge(&two);
            prop_assert_eq!(one.count(), all.count());
            prop_assert_eq!((one.min(), one.max()), (all.min(), all.max()));
            prop_assert_eq!(one.scale, all.scale);
            let text = serde_json::to_string(&one).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Histogram>(&text).unwrap().buckets, &one.buckets);
            prop_assert_eq!(one.since(&before).unwrap().count(), two.count());
        }

        #[test]
        fn counts_below_a_bound_are_off_by_one_bucket_at_most(
            mut values in proptest::collection::vec(0.0_f64..1.0, 1..400), bound in -0.1_f64..1.2, more in 0.0_f64..1.0,
        ) {
            let mut histogram = Histogram::new();
            values.iter().for_each(|value| histogram.record(*value));
            values.sort_by(f64::total_cmp);
            let exact = |bound: f64| values.iter().filter(|value| **value <= bound).count() as u64;
            let found = histogram.count_at_most(bound);
            prop_assert!(exact(bound / 1.1) <= found && found <= exact(bound * 1.1), "{} of {}", found, exact(bound));
            prop_assert!(histogram.count_at_most(bound + more) >= found);
            prop_assert_eq!(histogram.count_at_most(f64::INFINITY), histogram.count());
        }

        #[test]
        fn no_value_panics_or_needs_more_buckets(values in proptest::collection::vec(any::<f64>(), 0..50)) {
            let mut histogram = Histogram::new();
            values.iter().for_each(|value| histogram.record(*value));
            prop_assert!(histogram.buckets.len() <= Histogram::MAX_BUCKETS);
            let kept = values.iter().filter(|v| v.is_finite() && **v >= 0.0).count();
            prop_assert_eq!(histogram.count(), kept as u64);
        }
    }

    #[test]
    fn an_edge_belongs_to_the_bucket_below() {
        for scale in [0, 3, 20] {
            for power in [-3, 0, 5] {
                let edge = f64::from(power).exp2();
                let at = index(edge, scale);
                assert!(lower(at, scale) < edge && edge <= lower(at + 1, scale), "{edge} at scale {scale}");
            }
        }
    }

    #[test]
    fn what_is_below_a_bound_is_counted() {
        let mut histogram = Histogram::new();
        [0.0, 0.004, 0.03, 0.03, 20.0].into_iter().for_each(|value| histogram.record(value));
        let counts = [-1.0, 0.0, 0.005, 0.029, 0.05, 19.0, 20.0, 1e9].map(|at| histogram.count_at_most(at));
        assert_eq!(counts, [0, 1, 2, 2, 4, 4, 5, 5]);
        assert_eq!(Histogram::new().count_at_most(1.0), 0);
    }

    #[test]
    fn many_at_once_are_the_same_as_one_by_one() {
        let (mut once, mut one_by_one) = (Histogram::new(), Histogram::new());
        for (value, count) in [(0.5, 3), (0.0, 2), (8.0, 1), (2.0, 0), (f64::NAN, 4)] {
            once.record_many(value, count);
            (0..count).for_each(|_| one_by_one.record(value));
        }
        assert_eq!(once, one_by_one);
        assert_eq!((once.count(), once.sum()), (6, 9.5));
    }

    #[test]
    fn a_restarted_source_is_no_older_state() {
        let (mut old, mut new) = (Histogram::new(), Histogram::new());
        (0..10).for_each(|_| old.record(1.0));
        (0..3).for_each(|_| new.record(1.0));
        assert!(new.since(&old).is_none());
        assert_eq!(old.since(&new).unwrap().count(), 7);
    }

    #[test]
    fn hostile_wire_forms_are_refused() {
        for text in [
            r#"{"scale":99,"zeros":0,"offset":0,"buckets":[],"sum":0,"min":null,"max":null}"#,
            r#"{"scale":0,"zeros":1,"offset":0,"buckets":[],"sum":0,"min":null,"max":null}"#,
            r#"{"scale":0,"zeros":0,"offset":2147483647,"buckets":[1,1],"sum":0,"min":1,"max":1}"#,
        ] {
            assert!(serde_json::from_str::<Histogram>(text).is_err(), "{text}");
        }
    }
}
