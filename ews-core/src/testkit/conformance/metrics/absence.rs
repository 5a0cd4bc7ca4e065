//! Every way in which data can be missing: none of them is a number.

use std::time::Duration;

use super::{Bench, MINUTE, nothing, number, seconds};
use crate::capability::Capability;
use crate::error::ErrorKind;
use crate::metrics::{Aggregate, Aggregation, Function, MetricKind, Unavailable};
use crate::selector::Selector;
use crate::testkit::conformance::expect::{refused, same};
use crate::testkit::conformance::{CaseResult, Stop};

pub(super) async fn what_is_not_there_is_no_group(bench: Bench<'_>) -> CaseResult {
    let info = bench.info("gauge", MetricKind::Gauge);
    let unknown = bench.ask(&bench.query(&info, Function::Last)).await?;
    same("groups of a metric that nobody has recorded", &unknown.series.len(), &0)?;
    bench.numbers(&info, &[("a", "1")], &[(10, 1.0)]).await?;
    for aggregate in [None, Some(Aggregate::all(Aggregation::Sum))] {
        let mut query = bench.query(&info, Function::Last);
        query.matching = Selector::equal("a", "2")?;
        query.aggregate = aggregate;
        let answer = bench.ask(&query).await?;
        same("groups where nothing matches", &answer.series.len(), &0)?;
        same("series that matched", &answer.coverage.matched, &0)?;
    }
    Ok(())
}

pub(super) async fn stale_is_never_a_number(bench: Bench<'_>) -> CaseResult {
    let info = bench.info("gauge", MetricKind::Gauge);
    bench.numbers(&info, &[], &[(45, 5.0), (35, 7.0)]).await?;
    let stale = Unavailable::Stale { last: bench.now - seconds(35) };
    let mut functions = vec![Function::Last];
    if bench.metrics.capabilities().has(Capability::MetricWindows) {
        // The samples lie within the window, and still nobody has reported for 35 s.
        functions.extend([Function::Mean(MINUTE), Function::Min(MINUTE), Function::Max(MINUTE)]);
    }
    for function in functions {
        nothing(&format!("{function:?}"), &bench.one(&bench.query(&info, function)).await?, stale)?;
    }
    let counter = bench.info("counter", MetricKind::Counter);
    bench.numbers(&counter, &[], &[(50, 5.0), (35, 7.0)]).await?;
    if bench.metrics.capabilities().has(Capability::MetricWindows) {
        for function in [Function::Rate(MINUTE), Function::Increase(MINUTE)] {
            nothing(&format!("{function:?}"), &bench.one(&bench.query(&counter, function)).await?, stale)?;
        }
    }
    Ok(())
}

pub(super) async fn max_age_is_the_last_age_that_counts(bench: Bench<'_>) -> CaseResult {
    let info = bench.info("gauge", MetricKind::Gauge);
    bench.numbers(&info, &[], &[(20, 5.0)]).await?;
    let query = |age| bench.query(&info, Function::Last).max_age(age);
    number("a sample as old as max_age", &bench.one(&query(seconds(20))).await?, 5.0)?;
    let stale = Unavailable::Stale { last: bench.now - seconds(20) };
    nothing("one that is older", &bench.one(&query(seconds(20) - Duration::from_millis(1))).await?, stale)
}

pub(super) async fn too_few_samples_are_missing(bench: Bench<'_>) -> CaseResult {
    bench.needs(Capability::MetricWindows)?;
    let counter = bench.info("counter", MetricKind::Counter);
    bench.numbers(&counter, &[], &[(10, 1000.0)]).await?;
    for function in [Function::Rate(MINUTE), Function::Increase(MINUTE)] {
        let reading = bench.one(&bench.query(&counter, function)).await?;
        nothing(&format!("{function:?} of one sample"), &reading, Unavailable::Missing)?;
    }
    if bench.metrics.capabilities().has(Capability::MetricHistograms) {
        let quiet = bench.info("quiet", MetricKind::Histogram);
        bench.recorded(&quiet, &[], &[(40, &[1.0; 5]), (10, &[])]).await?;
        let reading = bench.one(&bench.query(&quiet, Function::Quantile(0.5, MINUTE))).await?;
        nothing("a quantile of nothing recorded", &reading, Unavailable::Missing)?;
    }
    Ok(())
}

pub(super) async fn what_is_no_number_is_never_passed_over(bench: Bench<'_>) -> CaseResult {
    for (name, wrong) in [("nan", f64::NAN), ("infinite", f64::INFINITY), ("negative", f64::NEG_INFINITY)] {
        let info = bench.info(name, MetricKind::Gauge);
        bench.numbers(&info, &[], &[(30, 1.0), (20, wrong), (10, 3.0)]).await?;
        number("a good newest sample", &bench.one(&bench.query(&info, Function::Last)).await?, 3.0)?;
        if bench.metrics.capabilities().has(Capability::MetricWindows) {
            for function in [Function::Mean(MINUTE), Function::Min(MINUTE), Function::Max(MINUTE)] {
                let reading = bench.one(&bench.query(&info, function)).await?;
                nothing(&format!("{function:?} over {wrong}"), &reading, Unavailable::NotANumber)?;
            }
        }
        let newest = bench.info(&format!("{name}.newest"), MetricKind::Gauge);
        bench.numbers(&newest, &[], &[(20, 1.0), (10, wrong)]).await?;
        let reading = bench.one(&bench.query(&newest, Function::Last)).await?;
        nothing(&format!("the newest sample, {wrong}"), &reading, Unavailable::NotANumber)?;
    }
    let sum = bench.info("sum", MetricKind::Gauge);
    bench.numbers(&sum, &[("a", "1")], &[(10, f64::MAX)]).await?;
    bench.numbers(&sum, &[("a", "2")], &[(10, f64::MAX)]).await?;
    let query = bench.query(&sum, Function::Last).aggregate(Aggregate::all(Aggregation::Sum));
    nothing("a sum beyond all numbers", &bench.one(&query).await?, Unavailable::NotANumber)
}

pub(super) async fn a_group_says_why_it_has_nothing(bench: Bench<'_>) -> CaseResult {
    let info = bench.info("gauge", MetricKind::Gauge);
    bench.numbers(&info, &[("a", "1")], &[(10, f64::NAN)]).await?;
    let query = bench.query(&info, Function::Last).aggregate(Aggregate::all(Aggregation::Max));
    nothing("not a number", &bench.one(&query).await?, Unavailable::NotANumber)?;
    bench.numbers(&info, &[("a", "2")], &[(50, 1.0)]).await?;
    bench.numbers(&info, &[("a", "3")], &[(40, 1.0)]).await?;
    let stale = Unavailable::Stale { last: bench.now - seconds(40) };
    nothing("stale, with the newest moment", &bench.one(&query).await?, stale)?;
    let answer = bench.ask(&query).await?;
    same(
        "series that matched and had nothing",
        &(answer.coverage.matched, answer.coverage.unavailable),
        &(3, 3),
    )
}

pub(super) async fn samples_after_the_moment_are_not_seen(bench: Bench<'_>) -> CaseResult {
    let info = bench.info("gauge", MetricKind::Gauge);
    bench.numbers(&info, &[], &[(40, 1.0), (10, 2.0)]).await?;
    let query = bench.query(&info, Function::Last);
    let answer = bench.metrics.instant(&query, Some(bench.now - seconds(20))).await?;
    let reading = answer.series.first().map(|series| series.value.clone());
    number("20 s ago", &reading.ok_or_else(|| Stop::fail("no group"))?, 1.0)
}

pub(super) async fn too_much_is_refused_not_cut(bench: Bench<'_>) -> CaseResult {
    let Some(count) = bench.harness.too_many_series() else {
        return Err(Stop::skip("the harness can't make more series than a query may touch"));
    };
    let info = bench.info("many", MetricKind::Gauge);
    for number in 0..count {
        bench.numbers(&info, &[("n", &number.to_string())], &[(10, 1.0)]).await?;
    }
    let query = bench.query(&info, Function::Last).aggregate(Aggregate::all(Aggregation::Sum));
    let result = bench.metrics.instant(&query, Some(bench.now)).await;
    refused("a query beyond the limits", result, &[ErrorKind::OutOfResources])
}
