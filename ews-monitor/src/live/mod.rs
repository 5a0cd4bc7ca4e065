//! The live store: the last minutes of every series, in bounded memory.
//!
//! A sample costs 16 bytes and is never copied to be read: a query's windows are found in place by
//! [`ews_core::metrics::eval`]. What the store may hold is bounded in every direction ([`LiveConfig`]), and each bound says what
//! gives way:
//!
//! | Full | What happens |
//! |---|---|
//! | metrics, series of a metric, series in all | a new series is folded into its metric's overflow series, labelled `otel_metric_overflow="true"`, and what is folded counts as dropped; a series that is there never gives way to a new one |
//! | samples of a series, samples in all | the series that gets a new one gives up its own oldest |
//! | retention | what is older goes, and a series without samples is forgotten |
//!
//! An overflow series of a counter grows by what the folded ones grow; one of a gauge is their sum. It remembers four times as many
//! series as the metric may have; samples of others are dropped. Histograms beyond the bound
//! are dropped without a fold, which would need the last state of each.
//!
//! Samples may come late and out of order, within [`LiveConfig::out_of_order`]; of two at one moment the later to come wins. A
//! moment outside the accepted range is refused and counted, never corrected: a value at a time when nobody measured it would
//! be invented. A clock that steps back so loses samples for a while and never makes a negative rate.

mod answer;
mod column;
mod config;
mod labels;
mod metric;
mod overflow;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ews_core::metrics::{MetricInfo, MetricKind};
use ews_core::{Clock, Error, Histogram, Result, SystemClock, Timestamp};

pub use config::LiveConfig;
pub(crate) use labels::pairs;
pub(crate) use metric::Latest;
use metric::{Metric, Pushed, Value};

/// The last minutes of every series. See the [module](self). Clones are the same store.
///
/// ```
/// use ews_core::metrics::{MetricInfo, MetricKind, MetricQuery};
/// use ews_core::{Clock, MetricsExt, Selector, SystemClock};
/// use ews_monitor::{LiveConfig, LiveStore};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let store = LiveStore::new(LiveConfig::default())?;
/// let depth = MetricInfo::new("queue.depth", MetricKind::Gauge, "{job}");
/// store.record(&depth, [("service", "web")], SystemClock.now(), 12.0)?;
/// let query = MetricQuery::new("queue.depth", Selector::equal("service", "web")?);
/// assert_eq!(store.number(&query).await?.unwrap().value, 12.0);
/// # Ok::<(), ews_core::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct LiveStore {
    shared: Arc<Shared>,
}

struct Shared {
    config: LiveConfig,
    clock: Arc<dyn Clock>,
    metrics: RwLock<BTreeMap<String, Mutex<Metric>>>,
    counts: Counts,
    /// When series were last looked through for old ones, in microseconds.
    swept: AtomicU64,
}

/// What is held and what was not taken. The held ones are signed, since two threads' updates may cross.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) series: AtomicI64,
    pub(crate) samples: AtomicI64,
    pub(crate) folded: AtomicU64,
    pub(crate) dropped: AtomicU64,
    late: AtomicU64,
    future: AtomicU64,
    pub(crate) replaced: AtomicU64,
    pub(crate) out_of_order: AtomicU64,
}

/// What the store holds and what it did not take, since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LiveStats {
    /// Metrics.
    pub metrics: u64,
    /// Series, overflow series included.
    pub series: u64,
    /// Samples, a histogram's counted as [`LiveConfig::HISTOGRAM_WEIGHT`].
    pub samples: u64,
    /// Samples that went into an overflow series.
    pub folded: u64,
    /// Samples that were dropped by a bound on series or metrics.
    pub dropped: u64,
    /// Samples that came too late.
    pub late: u64,
    /// Samples whose time lies too far in the future.
    pub future: u64,
    /// Samples that replaced another of the same moment.
    pub replaced: u64,
    /// Samples that came after a later one of their series, and were taken.
    pub out_of_order: u64,
}

impl LiveStore {
    /// An empty store.
    ///
    /// # Errors
    /// Those of [`LiveConfig::check`].
    pub fn new(config: LiveConfig) -> Result<Self> {
        Self::with_clock(config, Arc::new(SystemClock))
    }

    /// An empty store that takes the time from this clock.
    ///
    /// # Errors
    /// Those of [`LiveConfig::check`].
    pub fn with_clock(config: LiveConfig, clock: Arc<dyn Clock>) -> Result<Self> {
        config.check()?;
        let swept = AtomicU64::new(clock.now().as_micros());
        let (metrics, counts) = (RwLock::default(), Counts::default());
        Ok(Self { shared: Arc::new(Shared { config, clock, metrics, counts, swept }) })
    }

    /// Its bounds.
    pub fn config(&self) -> &LiveConfig {
        &self.shared.config
    }

    /// A sample of a counter (all since its source started) or a gauge. What the bounds refuse is counted in
    /// [`stats`](Self::stats) and is no error.
    ///
    /// # Errors
    /// `Invalid` for a histogram, for a metric that is known with another kind, and for names and labels that are empty, too
    /// long, too many or hold control characters.
    pub fn record<'a>(
        &self,
        info: &MetricInfo,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        at: Timestamp,
        value: f64,
    ) -> Result<()> {
        if info.kind == MetricKind::Histogram {
            return Err(Error::invalid(
                "a number for a histogram; accepted: a distribution, by `record_histogram`",
            )
            .with_context("metric", &info.name));
        }
        self.push(info, labels, at, Value::Number(value))
    }

    /// A sample of a histogram: all that was recorded since its source started.
    ///
    /// # Errors
    /// Those of [`record`](Self::record).
    pub fn record_histogram<'a>(
        &self,
        info: &MetricInfo,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        at: Timestamp,
        value: Histogram,
    ) -> Result<()> {
        if info.kind != MetricKind::Histogram {
            return Err(Error::invalid(
                "a distribution for what is no histogram; accepted: a number, by `record`",
            )
            .with_context("metric", &info.name));
        }
        self.push(info, labels, at, Value::Histogram(value))
    }

    fn push<'a>(
        &self,
        info: &MetricInfo,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        at: Timestamp,
        value: Value,
    ) -> Result<()> {
        let Shared { config, clock, metrics, counts, .. } = &*self.shared;
        let key = labels::key_of(labels).map_err(|error| error.with_context("metric", &info.name))?;
        let now = clock.now();
        if at > now + config.future {
            counts.future.fetch_add(1, Relaxed);
            return Ok(());
        }
        if now.since(at) > config.out_of_order {
            counts.late.fetch_add(1, Relaxed);
            return Ok(());
        }
        self.sweep_if_due(now);
        let known = metrics.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(metric) = known.get(&info.name) {
            return self.push_into(metric, info, &key, at, value, now);
        }
        drop(known);
        labels::check_name(&info.name)?;
        let mut all = metrics.write().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= config.max_metrics && !all.contains_key(&info.name) {
            counts.dropped.fetch_add(1, Relaxed);
            return Ok(());
        }
        let metric = all.entry(info.name.clone()).or_insert_with(|| Mutex::new(Metric::new(info.clone())));
        self.push_into(metric, info, &key, at, value, now)
    }

    fn push_into(
        &self,
        metric: &Mutex<Metric>,
        info: &MetricInfo,
        key: &str,
        at: Timestamp,
        value: Value,
        now: Timestamp,
    ) -> Result<()> {
        let Shared { config, counts, .. } = &*self.shared;
        let mut metric = metric.lock().unwrap_or_else(PoisonError::into_inner);
        if metric.info.kind != info.kind {
            let message =
                format!("the metric is a {:?}, the sample is of a {:?}", metric.info.kind, info.kind);
            return Err(Error::invalid(message).with_context("metric", &info.name));
        }
        match metric.push(key, at, value, now, config, counts) {
            Pushed::Own => {}
            Pushed::Folded => drop(counts.folded.fetch_add(1, Relaxed)),
            Pushed::Dropped => drop(counts.dropped.fetch_add(1, Relaxed)),
        }
        Ok(())
    }

    /// Forgets what is older than the retention, now and then: thirty times in a retention.
    fn sweep_if_due(&self, now: Timestamp) {
        let Shared { config, swept, .. } = &*self.shared;
        let last = Timestamp::from_micros(swept.load(Relaxed));
        let due = now.since(last) >= config.retention / 30 || last > now + config.future;
        let claim = || swept.compare_exchange(last.as_micros(), now.as_micros(), Relaxed, Relaxed).is_ok();
        if due && claim() {
            self.sweep(now);
        }
    }

    fn sweep(&self, now: Timestamp) {
        let Shared { config, metrics, counts, .. } = &*self.shared;
        let mut all = metrics.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, metric| {
            let metric = metric.get_mut().unwrap_or_else(PoisonError::into_inner);
            metric.forget_before(now - config.retention, counts);
            !metric.is_empty()
        });
    }

    /// What it holds and what it did not take.
    pub fn stats(&self) -> LiveStats {
        let Counts { series, samples, folded, dropped, late, future, replaced, out_of_order } =
            &self.shared.counts;
        let held = |count: &AtomicI64| u64::try_from(count.load(Relaxed)).unwrap_or(0);
        let metrics = self.shared.metrics.read().unwrap_or_else(PoisonError::into_inner).len() as u64;
        LiveStats {
            metrics,
            series: held(series),
            samples: held(samples),
            folded: folded.load(Relaxed),
            dropped: dropped.load(Relaxed),
            late: late.load(Relaxed),
            future: future.load(Relaxed),
            replaced: replaced.load(Relaxed),
            out_of_order: out_of_order.load(Relaxed),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// The newest sample of every series that is not older than `max_age`, metric by metric.
    pub(crate) fn latest(
        &self,
        max_age: std::time::Duration,
        mut each: impl FnMut(&MetricInfo, &[(&str, Latest<'_>)]),
    ) {
        let now = self.now();
        let all = self.shared.metrics.read().unwrap_or_else(PoisonError::into_inner);
        for metric in all.values() {
            let metric = metric.lock().unwrap_or_else(PoisonError::into_inner);
            let latest = metric.latest(now, max_age);
            if !latest.is_empty() {
                each(&metric.info, &latest);
            }
        }
    }
}

impl std::fmt::Debug for LiveStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveStore").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
