//! The suite of the [`Metrics`] contract: every function with an answer that is known by hand, and every way in which data
//! can be missing.
//!
//! The harness feeds samples with times of its own choosing, so that answers do not depend on when the suite runs.

use std::time::Duration;

use std::sync::Arc;

use async_trait::async_trait;

use super::expect::{ensure, run_cases};
use super::{CaseResult, Report, Stop};
use crate::capability::Capability;
use crate::histogram::Histogram;
use crate::metrics::{
    Answer, Function, MetricInfo, MetricKind, MetricQuery, Metrics, Reading, Unavailable, Window,
};
use crate::selector::Selector;
use crate::time::Timestamp;

mod absence;
mod functions;
mod groups;

/// What a sample holds.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Fed {
    /// The value of a counter or a gauge.
    Number(f64),
    /// All that a histogram has recorded since its source started.
    Histogram(Histogram),
}

/// Makes the source under test and feeds it.
#[async_trait]
pub trait MetricsHarness: Send + Sync {
    /// The source under test: for each case a new one, or always the same.
    async fn metrics(&self) -> Result<Arc<dyn Metrics>, Stop>;

    /// Puts a sample of a series into the source, at this time. A series' samples come in order of time.
    async fn feed(
        &self,
        info: &MetricInfo,
        labels: &[(&str, &str)],
        at: Timestamp,
        value: Fed,
    ) -> Result<(), Stop>;

    /// Sees to it that what was fed can be asked for. Default: nothing is needed.
    async fn flush(&self) -> Result<(), Stop> {
        Ok(())
    }

    /// What is under test, for the report.
    fn name(&self) -> String {
        "metrics".to_owned()
    }

    /// Whether this case is to run; for work on a single one. Default: yes.
    fn wants(&self, case: &str) -> bool {
        let _ = case;
        true
    }

    /// The moment that the suite calls now: samples are fed up to an hour before it. Default: 2026-01-01, 12:00.
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1_767_268_800_000_000)
    }

    /// What the names of metrics begin with; another one for each run on the same source.
    fn prefix(&self) -> String {
        "conformance".to_owned()
    }

    /// One series more than a query may touch, where that can be made. Default: it can't.
    fn too_many_series(&self) -> Option<usize> {
        None
    }
}

/// Runs every case.
pub async fn run(harness: &dyn MetricsHarness) -> Report {
    let mut report = Report::new(format!("metrics ({})", harness.name()));
    let bench = async |number: u16| -> Result<Bench<'_>, Stop> {
        let (metrics, now) = (harness.metrics().await?, harness.now());
        Ok(Bench { harness, metrics, now, prefix: format!("{}.c{number}", harness.prefix()) })
    };
    run_cases! { report, Duration::from_secs(120), harness, bench;
        1 functions::last_is_the_newest_sample;
        2 functions::a_rate_is_from_the_first_to_the_last_sample;
        3 functions::a_reset_is_growth_from_zero;
        4 functions::an_increase_starts_before_its_window;
        5 functions::mean_min_and_max;
        6 functions::a_histogram_holds_what_was_recorded_in_the_window;
        7 functions::a_histogram_that_was_restarted;
        8 functions::quantiles;
        9 functions::a_function_of_another_kind_is_refused;
        10 functions::wrong_windows_and_quantiles_are_refused;
        11 functions::what_it_can_not_do_is_refused;
        20 absence::what_is_not_there_is_no_group;
        21 absence::stale_is_never_a_number;
        22 absence::max_age_is_the_last_age_that_counts;
        23 absence::too_few_samples_are_missing;
        24 absence::what_is_no_number_is_never_passed_over;
        25 absence::a_group_says_why_it_has_nothing;
        26 absence::samples_after_the_moment_are_not_seen;
        27 absence::too_much_is_refused_not_cut;
        30 groups::series_stay_apart_without_an_aggregate;
        31 groups::every_aggregation;
        32 groups::an_unavailable_series_is_left_out_and_counted;
        33 groups::groups_by_label;
        34 groups::histograms_merge_before_the_quantile;
        35 groups::selectors_pick_series;
        36 groups::a_range_is_the_instants_at_its_moments;
        37 groups::all_groups_have_equally_many_steps;
        38 groups::wrong_ranges_are_refused;
        39 groups::metrics_are_described_in_pages;
    }
    report
}

/// What a case works with.
struct Bench<'a> {
    harness: &'a dyn MetricsHarness,
    metrics: Arc<dyn Metrics>,
    now: Timestamp,
    prefix: String,
}

const MINUTE: Window = Window(Duration::from_secs(60));

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

impl Bench<'_> {
    fn info(&self, name: &str, kind: MetricKind) -> MetricInfo {
        MetricInfo::new(format!("{}.{name}", self.prefix), kind, "1")
    }

    /// Feeds numbers so many seconds before now.
    async fn numbers(
        &self,
        info: &MetricInfo,
        labels: &[(&str, &str)],
        samples: &[(u64, f64)],
    ) -> Result<(), Stop> {
        for (ago, value) in samples {
            self.harness.feed(info, labels, self.now - seconds(*ago), Fed::Number(*value)).await?;
        }
        self.harness.flush().await
    }

    /// Feeds the states of a histogram, so many seconds before now, to which these values were added each time.
    async fn recorded(
        &self,
        info: &MetricInfo,
        labels: &[(&str, &str)],
        samples: &[(u64, &[f64])],
    ) -> Result<(), Stop> {
        let mut histogram = Histogram::new();
        for (ago, values) in samples {
            values.iter().for_each(|value| histogram.record(*value));
            self.harness
                .feed(info, labels, self.now - seconds(*ago), Fed::Histogram(histogram.clone()))
                .await?;
        }
        self.harness.flush().await
    }

    fn query(&self, info: &MetricInfo, function: Function) -> MetricQuery {
        MetricQuery::new(&info.name, Selector::everything()).function(function)
    }

    async fn ask(&self, query: &MetricQuery) -> Result<Answer<Reading>, Stop> {
        Ok(self.metrics.instant(query, Some(self.now)).await?)
    }

    /// The value of the only group.
    async fn one(&self, query: &MetricQuery) -> Result<Reading, Stop> {
        let mut answer = self.ask(query).await?;
        match (answer.series.pop(), answer.series.is_empty()) {
            (Some(series), true) => Ok(series.value),
            (last, _) => Err(Stop::fail(format!("expected one group, got {last:?} and {:?}", answer.series))),
        }
    }

    fn needs(&self, capability: Capability) -> Result<(), Stop> {
        if self.metrics.capabilities().has(capability) {
            return Ok(());
        }
        Err(Stop::skip(format!("the source lacks the capability `{capability}`")))
    }
}

/// The reading must be this number.
fn number(what: &str, reading: &Reading, wanted: f64) -> CaseResult {
    match reading {
        Reading::Number(found) if (found.value - wanted).abs() <= wanted.abs() * 1e-9 => Ok(()),
        other => Err(Stop::fail(format!("{what}: expected {wanted}, found {other:?}"))),
    }
}

/// The reading must be nothing, for this reason.
fn nothing(what: &str, reading: &Reading, wanted: Unavailable) -> CaseResult {
    ensure!(
        *reading == Reading::Unavailable(wanted),
        "{what}: expected that it is {wanted}, found {reading:?}"
    );
    Ok(())
}
