//! The metrics suite on the fake, and proof that its cases can fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

#[macro_use]
mod layered;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ews_core::metrics::{
    Aggregation, Answer, Function, Measured, MetricInfo, MetricQuery, Metrics, Reading, TimeRange,
    Unavailable, Window,
};
use ews_core::testkit::FakeMetrics;
use ews_core::testkit::conformance::metrics::{Fed, MetricsHarness, run};
use ews_core::testkit::conformance::{Stop, Verdict};
use ews_core::testkit::fake_metrics::MetricsLimits;
use ews_core::{Capability, CapabilitySet, Result, Selector, SystemClock, Timestamp};
use layered::Over;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
    None,
    LastIsFirst,
    Extrapolates,
    ResetsAreNegative,
    IncreaseWithinWindow,
    WindowTooLong,
    HistogramSinceStart,
    MissesRestart,
    QuantileOfOther,
    TakesEveryKind,
    TakesAnyWindow,
    UnsupportedIsEmpty,
    MissingIsZero,
    StaleIsOld,
    AgeIsExclusive,
    OneSampleIsZero,
    SkipsNan,
    SaysMissing,
    SeesTheFuture,
    CutsSilently,
    JoinsSeries,
    MinIsMax,
    CountsUnavailableAsZero,
    DropsGroupOfNone,
    MeanOfQuantiles,
    IgnoresSelector,
    AlignsToTheEnd,
    LeavesOutSteps,
    TakesAnyRange,
    IgnoresAfter,
}

use Mutation as M;

const TABLE: &[(Mutation, &str)] = &[
    (M::LastIsFirst, "last_is_the_newest_sample"),
    (M::Extrapolates, "a_rate_is_from_the_first_to_the_last_sample"),
    (M::ResetsAreNegative, "a_reset_is_growth_from_zero"),
    (M::IncreaseWithinWindow, "an_increase_starts_before_its_window"),
    (M::WindowTooLong, "mean_min_and_max"),
    (M::HistogramSinceStart, "a_histogram_holds_what_was_recorded_in_the_window"),
    (M::MissesRestart, "a_histogram_that_was_restarted"),
    (M::QuantileOfOther, "quantiles"),
    (M::TakesEveryKind, "a_function_of_another_kind_is_refused"),
    (M::TakesAnyWindow, "wrong_windows_and_quantiles_are_refused"),
    (M::UnsupportedIsEmpty, "what_it_can_not_do_is_refused"),
    (M::MissingIsZero, "what_is_not_there_is_no_group"),
    (M::StaleIsOld, "stale_is_never_a_number"),
    (M::AgeIsExclusive, "max_age_is_the_last_age_that_counts"),
    (M::OneSampleIsZero, "too_few_samples_are_missing"),
    (M::SkipsNan, "what_is_no_number_is_never_passed_over"),
    (M::SaysMissing, "a_group_says_why_it_has_nothing"),
    (M::SeesTheFuture, "samples_after_the_moment_are_not_seen"),
    (M::CutsSilently, "too_much_is_refused_not_cut"),
    (M::JoinsSeries, "series_stay_apart_without_an_aggregate"),
    (M::MinIsMax, "every_aggregation"),
    (M::CountsUnavailableAsZero, "an_unavailable_series_is_left_out_and_counted"),
    (M::DropsGroupOfNone, "groups_by_label"),
    (M::MeanOfQuantiles, "histograms_merge_before_the_quantile"),
    (M::IgnoresSelector, "selectors_pick_series"),
    (M::AlignsToTheEnd, "a_range_is_the_instants_at_its_moments"),
    (M::LeavesOutSteps, "all_groups_have_equally_many_steps"),
    (M::TakesAnyRange, "wrong_ranges_are_refused"),
    (M::IgnoresAfter, "metrics_are_described_in_pages"),
];

struct Broken {
    inner: FakeMetrics,
    mutation: Mutation,
}

fn number(value: f64) -> Reading {
    Reading::Number(Measured::new(value, Timestamp::EPOCH, 1))
}

fn empty<V>() -> Answer<V> {
    Answer::new(Vec::new(), Default::default())
}

#[async_trait]
impl Metrics for Broken {
    fn capabilities(&self) -> CapabilitySet {
        self.inner.capabilities()
    }

    async fn describe(&self, after: Option<String>, limit: usize) -> Result<Vec<MetricInfo>> {
        let after = if self.mutation == M::IgnoresAfter { None } else { after };
        self.inner.describe(after, limit).await
    }

    async fn instant(&self, query: &MetricQuery, at: Option<Timestamp>) -> Result<Answer<Reading>> {
        let (mut query, mut at) = (query.clone(), at.unwrap_or_default());
        match (self.mutation, query.function) {
            (M::LastIsFirst, Function::Last) => at = at - Duration::from_secs(15),
            (M::WindowTooLong, Function::Mean(_)) => {
                query.function = Function::Mean(Window(Duration::from_secs(61)))
            }
            (M::IncreaseWithinWindow, Function::Increase(Window(window))) => {
                let rate = self
                    .inner
                    .instant(&query.clone().function(Function::Rate(Window(window))), Some(at))
                    .await?;
                let mut answer = rate;
                for series in &mut answer.series {
                    if let Reading::Number(found) = &mut series.value {
                        found.value *= 30.0;
                    }
                }
                return Ok(answer);
            }
            (M::HistogramSinceStart, Function::Increase(_)) => query.function = Function::Last,
            (M::QuantileOfOther, Function::Quantile(share, window)) => {
                query.function = Function::Quantile(share / 2.0, window);
            }
            (M::AgeIsExclusive, _) => query.max_age = query.max_age.saturating_sub(Duration::from_micros(1)),
            (M::StaleIsOld, _) => query.max_age = Duration::from_secs(86_400),
            (M::SeesTheFuture, _) => at = at + Duration::from_secs(3_600),
            (M::IgnoresSelector, _) => query.matching = Selector::everything(),
            (M::JoinsSeries, _) if query.aggregate.is_none() => {
                query.aggregate = Some(ews_core::metrics::Aggregate::all(Aggregation::Sum));
            }
            (M::MinIsMax, _) => {
                if let Some(aggregate) = &mut query.aggregate {
                    aggregate.by = Aggregation::Max;
                }
            }
            (M::MeanOfQuantiles, Function::Quantile(..)) => {
                query.aggregate = None;
                let mut apart = self.inner.instant(&query, Some(at)).await?;
                let values = apart.series.iter().filter_map(|series| match series.value {
                    Reading::Number(found) => Some(found.value),
                    _ => None,
                });
                let mean = values.clone().sum::<f64>() / values.count() as f64;
                apart.series.truncate(1);
                apart.series[0].value = number(mean);
                return Ok(apart);
            }
            _ => {}
        }
        let answer = self.inner.instant(&query, Some(at)).await;
        let mut answer = match (self.mutation, answer) {
            (M::TakesEveryKind, Err(error)) if error.message().contains("is for") => return Ok(empty()),
            (M::TakesAnyWindow, Err(error)) if error.message().contains("window of zero") => {
                return Ok(empty());
            }
            (M::UnsupportedIsEmpty | M::CutsSilently, Err(_)) => return Ok(empty()),
            (_, answer) => answer?,
        };
        match self.mutation {
            M::MissingIsZero if answer.series.is_empty() => {
                let labels = Default::default();
                answer.series.push(ews_core::metrics::Series::new(labels, number(0.0)));
            }
            M::CountsUnavailableAsZero => answer.coverage.unavailable = 0,
            M::DropsGroupOfNone => answer.series.retain(|series| !series.labels.is_empty()),
            _ => {}
        }
        for series in &mut answer.series {
            match (self.mutation, &mut series.value) {
                (M::Extrapolates, Reading::Number(found)) => found.value *= 60.0 / 40.0,
                (M::ResetsAreNegative, Reading::Number(found)) => found.value = -found.value,
                (M::OneSampleIsZero, value @ Reading::Unavailable(Unavailable::Missing)) => {
                    *value = number(0.0)
                }
                (M::SkipsNan, value @ Reading::Unavailable(Unavailable::NotANumber)) => *value = number(2.0),
                (M::SaysMissing, Reading::Unavailable(reason)) => *reason = Unavailable::Missing,
                (M::MissesRestart, Reading::Histogram { histogram, .. }) => {
                    let half = histogram.clone();
                    histogram.merge(&half);
                }
                _ => {}
            }
        }
        Ok(answer)
    }

    async fn range(&self, query: &MetricQuery, range: &TimeRange) -> Result<Answer<Vec<Reading>>> {
        let mut range = *range;
        if self.mutation == M::AlignsToTheEnd {
            range.from = range.from + Duration::from_secs(9);
        }
        let mut answer = match (self.mutation, self.inner.range(query, &range).await) {
            (M::TakesAnyRange | M::UnsupportedIsEmpty, Err(_)) => return Ok(empty()),
            (_, answer) => answer?,
        };
        if self.mutation == M::LeavesOutSteps {
            for series in &mut answer.series {
                series.value.retain(|value| matches!(value, Reading::Number(_)));
            }
        }
        Ok(answer)
    }
}

struct Harness {
    mutation: Mutation,
    over: Over,
    without: Option<Capability>,
    only: Option<&'static str>,
    fake: Mutex<FakeMetrics>,
}

impl Harness {
    fn new(mutation: Mutation, without: Option<Capability>, only: Option<&'static str>) -> Self {
        Self { mutation, over: Over::Nothing, without, only, fake: Mutex::new(FakeMetrics::new()) }
    }
}

#[async_trait]
impl MetricsHarness for Harness {
    async fn metrics(&self) -> Result<Arc<dyn Metrics>, Stop> {
        let capabilities = CapabilitySet::all();
        let capabilities = self.without.map_or(capabilities.clone(), |missing| capabilities.without(missing));
        let inner = FakeMetrics::with(capabilities, MetricsLimits::default(), Arc::new(SystemClock));
        *self.fake.lock().unwrap() = inner.clone();
        let driver: Arc<dyn Metrics> = Arc::new(Broken { inner, mutation: self.mutation });
        Ok(behind!(self.over, driver))
    }

    async fn feed(
        &self,
        info: &MetricInfo,
        labels: &[(&str, &str)],
        at: Timestamp,
        value: Fed,
    ) -> Result<(), Stop> {
        let fake = self.fake.lock().unwrap();
        let labels = labels.iter().copied();
        match value {
            Fed::Number(value) => fake.record(info, labels, at, value),
            Fed::Histogram(value) => fake.record_histogram(info, labels, at, value),
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    fn wants(&self, case: &str) -> bool {
        self.only.is_none_or(|only| only == case)
    }

    fn too_many_series(&self) -> Option<usize> {
        Some(MetricsLimits::default().series + 1)
    }
}

#[tokio::test(start_paused = true)]
async fn the_fake_passes() {
    run(&Harness::new(M::None, None, None)).await.assert_passed(&[]);
}

#[tokio::test(start_paused = true)]
async fn the_fake_passes_whatever_it_lacks() {
    let histograms = [
        "a_histogram_holds_what_was_recorded_in_the_window",
        "a_histogram_that_was_restarted",
        "quantiles",
        "histograms_merge_before_the_quantile",
    ];
    run(&Harness::new(M::None, Some(Capability::MetricHistograms), None)).await.assert_passed(&histograms);
    let ranges = [
        "a_range_is_the_instants_at_its_moments",
        "all_groups_have_equally_many_steps",
        "wrong_ranges_are_refused",
    ];
    run(&Harness::new(M::None, Some(Capability::MetricRanges), None)).await.assert_passed(&ranges);
    let mut windows = histograms.to_vec();
    windows.extend([
        "a_rate_is_from_the_first_to_the_last_sample",
        "a_reset_is_growth_from_zero",
        "an_increase_starts_before_its_window",
        "mean_min_and_max",
        "a_function_of_another_kind_is_refused",
        "wrong_windows_and_quantiles_are_refused",
        "too_few_samples_are_missing",
    ]);
    run(&Harness::new(M::None, Some(Capability::MetricWindows), None)).await.assert_passed(&windows);
}

#[tokio::test(start_paused = true)]
async fn every_mutation_is_caught_by_its_case() {
    let (mut survived, mut covered) = (Vec::new(), BTreeSet::new());
    for (mutation, case) in TABLE {
        let without = (*mutation == M::UnsupportedIsEmpty).then_some(Capability::MetricRanges);
        let report = run(&Harness::new(*mutation, without, Some(case))).await;
        assert_eq!(report.outcomes.len(), 1, "no case `{case}`");
        if !matches!(report.outcomes[0].verdict, Verdict::Failed(_)) {
            survived.push(format!("{mutation:?}: {report}"));
        }
        covered.insert(*case);
    }
    assert_eq!(survived, Vec::<String>::new());
    let all = run(&Harness::new(M::None, None, None)).await;
    let bare: Vec<_> = all.outcomes.iter().filter(|outcome| !covered.contains(&*outcome.name)).collect();
    assert_eq!(bare, Vec::<&ews_core::testkit::conformance::Outcome>::new(), "cases without a mutation");
}

#[tokio::test(start_paused = true)]
async fn the_fake_passes_behind_each_layer() {
    for over in Over::ALL {
        let harness = Harness { over, ..Harness::new(M::None, None, None) };
        let report = run(&harness).await;
        assert_eq!(report.problems(&[]), Vec::<String>::new(), "behind {over:?}");
    }
}
