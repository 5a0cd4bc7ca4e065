//! Series, groups, ranges and descriptions.

use super::{Bench, MINUTE, number, seconds};
use crate::capability::Capability;
use crate::error::ErrorKind;
use crate::metrics::{Aggregate, Aggregation, Function, MetricKind, Reading, TimeRange};
use crate::testkit::conformance::expect::{ensure, refused, same};
use crate::testkit::conformance::{CaseResult, Stop};

type Shown = Vec<(String, Reading)>;

fn shown(series: &[crate::metrics::Series<Reading>]) -> Shown {
    let labels = |series: &crate::metrics::Series<Reading>| {
        let pairs: Vec<String> = series.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        (pairs.join(","), series.value.clone())
    };
    series.iter().map(labels).collect()
}

pub(super) async fn series_stay_apart_without_an_aggregate(bench: Bench<'_>) -> CaseResult {
    let info = bench.info("gauge", MetricKind::Gauge);
    bench.numbers(&info, &[("a", "2"), ("z", "1")], &[(10, 2.0)]).await?;
    bench.numbers(&info, &[("a", "1")], &[(10, 1.0)]).await?;
    let answer = bench.ask(&bench.query(&info, Function::Last)).await?;
    let found = shown(&answer.series);
    let names: Vec<&str> = found.iter().map(|(labels, _)| labels.as_str()).collect();
    same("series, ordered by labels", &names, &vec!["a=1", "a=2,z=1"])?;
    for ((_, reading), wanted) in found.iter().zip([1.0, 2.0]) {
        number("a series' value", reading, wanted)?;
    }
    same("coverage", &(answer.coverage.matched, answer.coverage.unavailable), &(2, 0))
}

pub(super) async fn every_aggregation(bench: Bench<'_>) -> CaseResult {
    let info = bench.info("gauge", MetricKind::Gauge);
    for (name, ago, value) in [("1", 10, 4.0), ("2", 5, -1.0), ("3", 20, 9.0)] {
        bench.numbers(&info, &[("a", name)], &[(ago, value)]).await?;
    }
    for (by, wanted) in [
        (Aggregation::Sum, 12.0),
        (Aggregation::Mean, 4.0),
        (Aggregation::Min, -1.0),
        (Aggregation::Max, 9.0),
    ] {
        let reading = bench.one(&bench.query(&info, Function::Last).aggregate(Aggregate::all(by))).await?;
        number(&format!("{by:?}"), &reading, wanted)?;
        let Reading::Number(found) = reading else { return Err(Stop::fail("not a number")) };
        same("the newest moment and all samples", &(found.at, found.samples), &(bench.now - seconds(5), 3))?;
    }
    Ok(())
}

pub(super) async fn an_unavailable_series_is_left_out_and_counted(bench: Bench<'_>) -> CaseResult {
    let info = bench.info("gauge", MetricKind::Gauge);
    bench.numbers(&info, &[("a", "1")], &[(10, 4.0)]).await?;
    bench.numbers(&info, &[("a", "2")], &[(10, 6.0)]).await?;
    bench.numbers(&info, &[("a", "stale")], &[(40, 100.0)]).await?;
    bench.numbers(&info, &[("a", "nan")], &[(10, f64::NAN)]).await?;
    for (by, wanted) in [(Aggregation::Mean, 5.0), (Aggregation::Sum, 10.0), (Aggregation::Min, 4.0)] {
        let query = bench.query(&info, Function::Last).aggregate(Aggregate::all(by));
        number(&format!("{by:?}"), &bench.one(&query).await?, wanted)?;
        let coverage = bench.ask(&query).await?.coverage;
        same("matched and unavailable", &(coverage.matched, coverage.unavailable), &(4, 2))?;
    }
    Ok(())
}

pub(super) async fn groups_by_label(bench: Bench<'_>) -> CaseResult {
    let info = bench.info("gauge", MetricKind::Gauge);
    let all: [(&[(&str, &str)], f64); 4] = [
        (&[("zone", "b"), ("i", "1")], 1.0),
        (&[("zone", "a"), ("i", "2")], 2.0),
        (&[("zone", "b"), ("i", "3")], 4.0),
        (&[("i", "4")], 8.0),
    ];
    for (labels, value) in all {
        bench.numbers(&info, labels, &[(10, value)]).await?;
    }
    let query = bench.query(&info, Function::Last).aggregate(Aggregate::group(Aggregation::Sum, ["zone"]));
    let found = shown(&bench.ask(&query).await?.series);
    let names: Vec<&str> = found.iter().map(|(labels, _)| labels.as_str()).collect();
    same("groups, a missing label being one too", &names, &vec!["", "zone=a", "zone=b"])?;
    for ((labels, reading), wanted) in found.iter().zip([8.0, 2.0, 5.0]) {
        number(labels, reading, wanted)?;
    }
    Ok(())
}

pub(super) async fn histograms_merge_before_the_quantile(bench: Bench<'_>) -> CaseResult {
    bench.needs(Capability::MetricHistograms)?;
    bench.needs(Capability::MetricWindows)?;
    let info = bench.info("histogram", MetricKind::Histogram);
    bench.recorded(&info, &[("a", "busy")], &[(40, &[]), (10, &[1.0; 99])]).await?;
    bench.recorded(&info, &[("a", "quiet")], &[(40, &[]), (10, &[100.0])]).await?;
    for by in [Aggregation::Mean, Aggregation::Sum, Aggregation::Max] {
        let query = bench.query(&info, Function::Quantile(0.9, MINUTE)).aggregate(Aggregate::all(by));
        let reading = bench.one(&query).await?;
        let Reading::Number(found) = reading else { return Err(Stop::fail(format!("{reading:?}"))) };
        // The mean of the two quantiles would be 50, their maximum 100.
        ensure!((0.9..=1.1).contains(&found.value), "{by:?}: {} instead of 1", found.value);
    }
    let query = bench.query(&info, Function::Increase(MINUTE)).aggregate(Aggregate::all(Aggregation::Max));
    let Reading::Histogram { histogram, .. } = bench.one(&query).await? else {
        return Err(Stop::fail("histograms must merge to a histogram"));
    };
    same("merged", &histogram.count(), &100)
}

pub(super) async fn selectors_pick_series(bench: Bench<'_>) -> CaseResult {
    let info = bench.info("gauge", MetricKind::Gauge);
    for (tier, value) in [("web", 1.0), ("api", 2.0), ("we", 4.0)] {
        bench.numbers(&info, &[("tier", tier), ("app", "shop")], &[(10, value)]).await?;
    }
    bench.numbers(&info, &[("app", "\"}) or vector(1) #")], &[(10, 8.0)]).await?;
    for (selector, wanted) in [
        ("tier=web", 1.0),
        ("tier in (web,api)", 3.0),
        ("tier!=web", 14.0),
        ("tier notin (web,api)", 12.0),
        ("tier", 7.0),
        ("!tier", 8.0),
        ("tier=web,app=shop", 1.0),
        ("app=\"\\\"}) or vector(1) #\"", 8.0),
    ] {
        let mut query = bench.query(&info, Function::Last).aggregate(Aggregate::all(Aggregation::Sum));
        query.matching = selector.parse()?;
        number(selector, &bench.one(&query).await?, wanted)?;
    }
    Ok(())
}

pub(super) async fn a_range_is_the_instants_at_its_moments(bench: Bench<'_>) -> CaseResult {
    bench.needs(Capability::MetricRanges)?;
    let info = bench.info("gauge", MetricKind::Gauge);
    let samples: Vec<(u64, f64)> =
        [100, 93, 71, 60, 22, 11].map(|ago| (ago, f64::from(u32::try_from(ago).unwrap_or(0)))).to_vec();
    bench.numbers(&info, &[("a", "1")], &samples).await?;
    let mut functions = vec![Function::Last];
    if bench.metrics.capabilities().has(Capability::MetricWindows) {
        functions.push(Function::Mean(MINUTE));
    }
    // The end is no whole number of steps from the start: moments are counted from the start.
    let range = TimeRange { from: bench.now - seconds(101), to: bench.now - seconds(2), step: seconds(10) };
    for function in functions {
        let query = bench.query(&info, function);
        let answer = bench.metrics.range(&query, &range).await?;
        let found = answer.series.first().map(|series| series.value.clone()).unwrap_or_default();
        let mut wanted = Vec::new();
        for at in range.moments()? {
            let mut instant = bench.metrics.instant(&query, Some(at)).await?;
            let missing = Reading::Unavailable(crate::metrics::Unavailable::Missing);
            wanted.push(instant.series.pop().map_or(missing, |series| series.value));
        }
        same("steps", &found.len(), &10)?;
        same(&format!("{function:?} step by step"), &found, &wanted)?;
    }
    Ok(())
}

pub(super) async fn all_groups_have_equally_many_steps(bench: Bench<'_>) -> CaseResult {
    bench.needs(Capability::MetricRanges)?;
    let info = bench.info("gauge", MetricKind::Gauge);
    bench.numbers(&info, &[("a", "always")], &[(50, 1.0), (30, 1.0), (10, 1.0)]).await?;
    bench.numbers(&info, &[("a", "late")], &[(10, 1.0)]).await?;
    let range = TimeRange { from: bench.now - seconds(50), to: bench.now, step: seconds(10) };
    let query = bench.query(&info, Function::Last).max_age(seconds(20));
    let answer = bench.metrics.range(&query, &range).await?;
    same("groups", &answer.series.len(), &2)?;
    for series in &answer.series {
        same("steps of a group", &series.value.len(), &6)?;
    }
    let numbers =
        |values: &[Reading]| values.iter().filter(|value| matches!(value, Reading::Number(_))).count();
    let counts: Vec<usize> = answer.series.iter().map(|series| numbers(&series.value)).collect();
    same("steps with a number", &counts, &vec![6, 2])?;
    same("matched and unavailable", &(answer.coverage.matched, answer.coverage.unavailable), &(2, 1))
}

pub(super) async fn wrong_ranges_are_refused(bench: Bench<'_>) -> CaseResult {
    bench.needs(Capability::MetricRanges)?;
    let info = bench.info("gauge", MetricKind::Gauge);
    bench.numbers(&info, &[], &[(10, 1.0)]).await?;
    let query = bench.query(&info, Function::Last);
    for (what, before, step) in [
        ("a step of zero", 60, std::time::Duration::ZERO),
        ("too many steps", 3600, std::time::Duration::from_millis(1)),
    ] {
        let range = TimeRange { from: bench.now - seconds(before), to: bench.now, step };
        refused(what, bench.metrics.range(&query, &range).await, &[ErrorKind::Invalid])?;
    }
    let range = TimeRange { from: bench.now, to: bench.now - seconds(1), step: seconds(1) };
    refused("an end before the start", bench.metrics.range(&query, &range).await, &[ErrorKind::Invalid])
}

pub(super) async fn metrics_are_described_in_pages(bench: Bench<'_>) -> CaseResult {
    let mut wanted = Vec::new();
    for number in 0..7 {
        let info = bench.info(&format!("described.{number}"), MetricKind::Gauge);
        bench.numbers(&info, &[("a", "1")], &[(10, 1.0)]).await?;
        wanted.push(info.name);
    }
    let (mut after, mut found) = (None, Vec::new());
    for _ in 0..10_000 {
        let page = bench.metrics.describe(after.clone(), 3).await?;
        ensure!(page.len() <= 3, "a page of {} where at most 3 were asked for", page.len());
        let Some(last) = page.last() else { break };
        ensure!(Some(&last.name) > after.as_ref(), "the page after {after:?} ends with {}", last.name);
        after = Some(last.name.clone());
        found.extend(page.into_iter().filter(|info| info.name.starts_with(&bench.prefix)));
    }
    same("names", &found.iter().map(|info| info.name.clone()).collect(), &wanted)?;
    ensure!(
        found.iter().all(|info| info.kind == MetricKind::Gauge),
        "a gauge is described as something else"
    );
    refused("a limit of zero", bench.metrics.describe(None, 0).await, &[ErrorKind::Invalid])
}
