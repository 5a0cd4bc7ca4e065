//! Every function with known answers, resets among them.

use super::{Bench, MINUTE, number, seconds};
use crate::capability::Capability;
use crate::error::ErrorKind;
use crate::metrics::{Function, MetricKind, MetricQuery, Reading, TimeRange, Window};
use crate::selector::Selector;
use crate::testkit::conformance::expect::{ensure, refused, same};
use crate::testkit::conformance::{CaseResult, Stop};

pub(super) async fn last_is_the_newest_sample(bench: Bench<'_>) -> CaseResult {
    for kind in [MetricKind::Gauge, MetricKind::Counter] {
        let info = bench.info(&format!("last.{kind:?}").to_lowercase(), kind);
        bench.numbers(&info, &[("a", "1")], &[(30, 7.0), (20, 9.0), (10, 8.5)]).await?;
        let reading = bench.one(&bench.query(&info, Function::Last)).await?;
        number("the newest", &reading, 8.5)?;
        let Reading::Number(found) = reading else { return Err(Stop::fail("not a number")) };
        same("its moment", &found.at, &(bench.now - seconds(10)))?;
        same("its samples", &found.samples, &1)?;
    }
    Ok(())
}

pub(super) async fn a_rate_is_from_the_first_to_the_last_sample(bench: Bench<'_>) -> CaseResult {
    bench.needs(Capability::MetricWindows)?;
    let info = bench.info("rate", MetricKind::Counter);
    // 100 in the 40 s from first to last; the sample at the window's open start does not count, nor is anything
    // extrapolated to the window's ends.
    bench.numbers(&info, &[], &[(90, 0.0), (60, 500.0), (50, 1000.0), (30, 1010.0), (10, 1100.0)]).await?;
    let reading = bench.one(&bench.query(&info, Function::Rate(MINUTE))).await?;
    number("the rate", &reading, 2.5)?;
    let Reading::Number(found) = reading else { return Err(Stop::fail("not a number")) };
    same("samples and moment", &(found.samples, found.at), &(3, bench.now - seconds(10)))
}

pub(super) async fn a_reset_is_growth_from_zero(bench: Bench<'_>) -> CaseResult {
    bench.needs(Capability::MetricWindows)?;
    let info = bench.info("reset", MetricKind::Counter);
    bench.numbers(&info, &[], &[(50, 100.0), (40, 110.0), (30, 4.0), (20, 10.0), (10, 2.0)]).await?;
    // 10, then 4 from zero, then 6, then 2 from zero.
    number("the increase", &bench.one(&bench.query(&info, Function::Increase(MINUTE))).await?, 22.0)?;
    number("the rate", &bench.one(&bench.query(&info, Function::Rate(MINUTE))).await?, 22.0 / 40.0)
}

pub(super) async fn an_increase_starts_before_its_window(bench: Bench<'_>) -> CaseResult {
    bench.needs(Capability::MetricWindows)?;
    let info = bench.info("adjoining", MetricKind::Counter);
    bench.numbers(&info, &[], &[(130, 1.0), (100, 5.0), (70, 11.0), (40, 20.0), (10, 33.0)]).await?;
    let query = bench.query(&info, Function::Increase(MINUTE));
    number("the newer minute, from 11 on", &bench.one(&query).await?, 22.0)?;
    let earlier = bench.metrics.instant(&query, Some(bench.now - seconds(60))).await?;
    let reading = earlier.series.first().map(|series| series.value.clone());
    number("the minute before, from 1 on", &reading.ok_or_else(|| Stop::fail("no group"))?, 10.0)?;
    let gap = bench.info("gap", MetricKind::Counter);
    bench.numbers(&gap, &[], &[(200, 1.0), (40, 20.0), (10, 33.0)]).await?;
    let query = bench.query(&gap, Function::Increase(MINUTE));
    number("what lies longer before the window than max_age is no start", &bench.one(&query).await?, 13.0)
}

pub(super) async fn mean_min_and_max(bench: Bench<'_>) -> CaseResult {
    bench.needs(Capability::MetricWindows)?;
    let info = bench.info("gauge", MetricKind::Gauge);
    // What lies at the open start is out, at the closed end in.
    bench.numbers(&info, &[], &[(61, 1e6), (60, -1e6), (59, 4.0), (30, -2.0), (0, 10.0)]).await?;
    for (function, wanted) in
        [(Function::Mean(MINUTE), 4.0), (Function::Min(MINUTE), -2.0), (Function::Max(MINUTE), 10.0)]
    {
        let reading = bench.one(&bench.query(&info, function)).await?;
        number(&format!("{function:?}"), &reading, wanted)?;
        let Reading::Number(found) = reading else { return Err(Stop::fail("not a number")) };
        same("samples", &found.samples, &3)?;
    }
    Ok(())
}

pub(super) async fn a_histogram_holds_what_was_recorded_in_the_window(bench: Bench<'_>) -> CaseResult {
    bench.needs(Capability::MetricHistograms)?;
    bench.needs(Capability::MetricWindows)?;
    let info = bench.info("histogram", MetricKind::Histogram);
    bench.recorded(&info, &[], &[(70, &[5.0; 7]), (40, &[1.0; 3]), (10, &[2.0; 2])]).await?;
    let Reading::Histogram { histogram, at } =
        bench.one(&bench.query(&info, Function::Increase(MINUTE))).await?
    else {
        return Err(Stop::fail("the increase of a histogram must be a histogram"));
    };
    same("how many were recorded", &histogram.count(), &5)?;
    ensure!((histogram.sum() - 7.0).abs() < 1e-6, "their sum is {} instead of 7", histogram.sum());
    ensure!(
        histogram.max().is_some_and(|max| max < 2.2),
        "the largest is {:?} instead of 2",
        histogram.max()
    );
    same("the newest moment", &at, &(bench.now - seconds(10)))?;
    let last = bench.one(&bench.query(&info, Function::Last)).await?;
    let Reading::Histogram { histogram, .. } = last else {
        return Err(Stop::fail("the newest state of a histogram must be a histogram"));
    };
    same("all that was recorded", &histogram.count(), &12)
}

pub(super) async fn a_histogram_that_was_restarted(bench: Bench<'_>) -> CaseResult {
    bench.needs(Capability::MetricHistograms)?;
    bench.needs(Capability::MetricWindows)?;
    let info = bench.info("restarted", MetricKind::Histogram);
    bench.recorded(&info, &[], &[(50, &[1.0; 4]), (40, &[1.0; 2])]).await?;
    // A new process: its histogram begins anew, and soon holds more than the old one did.
    bench.recorded(&info, &[], &[(30, &[3.0; 5]), (10, &[3.0; 20])]).await?;
    let Reading::Histogram { histogram, .. } =
        bench.one(&bench.query(&info, Function::Increase(MINUTE))).await?
    else {
        return Err(Stop::fail("the increase of a histogram must be a histogram"));
    };
    same("2 before the restart and 25 after it", &histogram.count(), &27)
}

pub(super) async fn quantiles(bench: Bench<'_>) -> CaseResult {
    bench.needs(Capability::MetricHistograms)?;
    bench.needs(Capability::MetricWindows)?;
    let info = bench.info("quantile", MetricKind::Histogram);
    let values: Vec<f64> = (1..=100).map(f64::from).collect();
    bench.recorded(&info, &[], &[(50, &[1e6; 50]), (10, &values)]).await?;
    for (share, wanted) in [(0.5, 50.0), (0.9, 90.0), (0.99, 99.0), (1.0, 100.0)] {
        let reading = bench.one(&bench.query(&info, Function::Quantile(share, MINUTE))).await?;
        let Reading::Number(found) = &reading else {
            return Err(Stop::fail(format!("the quantile {share} must be a number, found {reading:?}")));
        };
        // Two buckets of any histogram that is worth asking: 10 %.
        ensure!(
            (found.value / wanted - 1.0).abs() < 0.1,
            "the quantile {share} is {}, not {wanted}",
            found.value
        );
    }
    Ok(())
}

pub(super) async fn a_function_of_another_kind_is_refused(bench: Bench<'_>) -> CaseResult {
    bench.needs(Capability::MetricWindows)?;
    let (counter, gauge) =
        (bench.info("counter", MetricKind::Counter), bench.info("gauge", MetricKind::Gauge));
    bench.numbers(&counter, &[], &[(20, 1.0), (10, 2.0)]).await?;
    bench.numbers(&gauge, &[], &[(20, 1.0), (10, 2.0)]).await?;
    let mut wrong = vec![
        (&counter, Function::Mean(MINUTE)),
        (&counter, Function::Min(MINUTE)),
        (&counter, Function::Max(MINUTE)),
        (&gauge, Function::Rate(MINUTE)),
        (&gauge, Function::Increase(MINUTE)),
    ];
    let histogram = bench.info("histogram", MetricKind::Histogram);
    if bench.metrics.capabilities().has(Capability::MetricHistograms) {
        bench.recorded(&histogram, &[], &[(20, &[1.0]), (10, &[1.0])]).await?;
        wrong.push((&gauge, Function::Quantile(0.5, MINUTE)));
        wrong.push((&counter, Function::Quantile(0.5, MINUTE)));
        wrong.push((&histogram, Function::Rate(MINUTE)));
        wrong.push((&histogram, Function::Mean(MINUTE)));
    }
    for (info, function) in wrong {
        let result = bench.metrics.instant(&bench.query(info, function), Some(bench.now)).await;
        refused(&format!("{function:?} of a {:?}", info.kind), result, &[ErrorKind::Invalid])?;
    }
    Ok(())
}

pub(super) async fn wrong_windows_and_quantiles_are_refused(bench: Bench<'_>) -> CaseResult {
    bench.needs(Capability::MetricWindows)?;
    let counter = bench.info("counter", MetricKind::Counter);
    bench.numbers(&counter, &[], &[(20, 1.0), (10, 2.0)]).await?;
    let query = bench.query(&counter, Function::Rate(Window(seconds(0))));
    refused("a window of zero", bench.metrics.instant(&query, Some(bench.now)).await, &[ErrorKind::Invalid])?;
    if bench.metrics.capabilities().has(Capability::MetricHistograms) {
        let histogram = bench.info("histogram", MetricKind::Histogram);
        bench.recorded(&histogram, &[], &[(20, &[1.0]), (10, &[1.0])]).await?;
        for share in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            let query = bench.query(&histogram, Function::Quantile(share, MINUTE));
            let result = bench.metrics.instant(&query, Some(bench.now)).await;
            refused(&format!("the quantile {share}"), result, &[ErrorKind::Invalid])?;
        }
    }
    Ok(())
}

pub(super) async fn what_it_can_not_do_is_refused(bench: Bench<'_>) -> CaseResult {
    let capabilities = bench.metrics.capabilities();
    let counter = bench.info("counter", MetricKind::Counter);
    bench.numbers(&counter, &[], &[(20, 1.0), (10, 2.0)]).await?;
    let query = MetricQuery::new(&counter.name, Selector::everything());
    if !capabilities.has(Capability::MetricWindows) {
        let result =
            bench.metrics.instant(&bench.query(&counter, Function::Rate(MINUTE)), Some(bench.now)).await;
        refused("a window without the capability", result, &[ErrorKind::Unsupported])?;
    }
    let range = TimeRange { from: bench.now - seconds(10), to: bench.now, step: seconds(5) };
    let result = bench.metrics.range(&query, &range).await;
    if capabilities.has(Capability::MetricRanges) {
        result?;
    } else {
        refused("a range without the capability", result, &[ErrorKind::Unsupported])?;
    }
    same("capabilities asked for twice", &bench.metrics.capabilities(), &capabilities)
}
