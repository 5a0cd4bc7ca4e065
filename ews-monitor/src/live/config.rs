//! The bounds of a live store.

use std::time::Duration;

use ews_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// The bounds of a [`LiveStore`](super::LiveStore). With the defaults its samples take at most 32 MB when they are packed, twice as
/// much while vectors grow; series add about 300 bytes each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LiveConfig {
    /// How long samples are kept. Above zero, at most a day. Default 15 min: three times the longest window that scaling and
    /// alerts use by default.
    #[serde(with = "ews_core::time::duration")]
    pub retention: Duration,
    /// How late a sample may come. At most the retention. Default 10 min (as Prometheus' `out_of_order_time_window` is
    /// commonly set; its own default is none).
    #[serde(with = "ews_core::time::duration")]
    pub out_of_order: Duration,
    /// How far in the future a sample's time may lie, at most a day. Default 5 min: clocks of a fleet that nobody keeps in step.
    #[serde(with = "ews_core::time::duration")]
    pub future: Duration,
    /// The most metrics. Default 1,000.
    pub max_metrics: usize,
    /// The most series in all. Default 10,000.
    pub max_series: usize,
    /// The most series of a metric, its overflow series not counted. Default 2,000 (the OpenTelemetry SDKs' cardinality limit).
    pub max_series_per_metric: usize,
    /// The most samples of a series, at least 2. Default 1,000: one per second for the retention, and some.
    pub max_samples_per_series: usize,
    /// The most samples in all. Default 2,000,000.
    pub max_samples: usize,
    /// The most series that one query may touch. Default 5,000.
    pub max_query_series: usize,
}

impl LiveConfig {
    /// As how many samples one of a histogram counts: 1.4 kB, its largest size.
    pub const HISTOGRAM_WEIGHT: usize = 90;

    /// Keeping samples for so long, and taking them as late.
    #[must_use]
    pub fn with_retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self.out_of_order = self.out_of_order.min(retention);
        self
    }

    /// Taking samples that are so late.
    #[must_use]
    pub fn with_out_of_order(mut self, out_of_order: Duration) -> Self {
        self.out_of_order = out_of_order;
        self
    }

    /// Taking samples whose time lies so far in the future.
    #[must_use]
    pub fn with_future(mut self, future: Duration) -> Self {
        self.future = future;
        self
    }

    /// With so many series in all, and of one metric.
    #[must_use]
    pub fn with_max_series(mut self, max_series: usize, per_metric: usize) -> Self {
        (self.max_series, self.max_series_per_metric) = (max_series, per_metric);
        self
    }

    /// With so many samples in all, and of one series.
    #[must_use]
    pub fn with_max_samples(mut self, max_samples: usize, per_series: usize) -> Self {
        (self.max_samples, self.max_samples_per_series) = (max_samples, per_series);
        self
    }

    /// With so many metrics.
    #[must_use]
    pub fn with_max_metrics(mut self, max_metrics: usize) -> Self {
        self.max_metrics = max_metrics;
        self
    }

    /// With so many series in a query.
    #[must_use]
    pub fn with_max_query_series(mut self, max_query_series: usize) -> Self {
        self.max_query_series = max_query_series;
        self
    }

    /// Refuses what can't be meant.
    ///
    /// # Errors
    /// `Invalid`, naming the field and what is accepted.
    pub fn check(&self) -> Result<()> {
        let day = Duration::from_secs(24 * 3600);
        if self.retention.is_zero() || self.retention > day {
            return Err(Error::invalid(format!(
                "`retention` is {:?}; accepted: above zero, at most a day",
                self.retention
            )));
        }
        if self.out_of_order > self.retention {
            return Err(Error::invalid(format!(
                "`out_of_order` is {:?}; accepted: at most `retention` ({:?})",
                self.out_of_order, self.retention
            )));
        }
        if self.future > day {
            return Err(Error::invalid(format!("`future` is {:?}; accepted: at most a day", self.future)));
        }
        for (name, count) in [
            ("max_metrics", self.max_metrics),
            ("max_series", self.max_series),
            ("max_series_per_metric", self.max_series_per_metric),
            ("max_samples", self.max_samples),
            ("max_query_series", self.max_query_series),
        ] {
            if count == 0 {
                return Err(Error::invalid(format!("`{name}` is 0; accepted: 1 or more")));
            }
        }
        if self.max_samples_per_series < 2 {
            return Err(Error::invalid(format!(
                "`max_samples_per_series` is {}, of which no rate can be made; accepted: 2 or more",
                self.max_samples_per_series
            )));
        }
        Ok(())
    }
}

impl Default for LiveConfig {
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(900),
            out_of_order: Duration::from_secs(600),
            future: Duration::from_secs(300),
            max_metrics: 1_000,
            max_series: 10_000,
            max_series_per_metric: 2_000,
            max_samples_per_series: 1_000,
            max_samples: 2_000_000,
            max_query_series: 5_000,
        }
    }
}
