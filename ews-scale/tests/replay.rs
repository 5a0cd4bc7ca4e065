//! Backtests: over loads that are made here, and over the recorded traces of microsoft/autothrottle (MIT; `traces/*.txt`, one value
//! per line, requests per second) where the environment variable `EWS_TRACES` names the folder that holds them.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test harness")]

use std::time::Duration;

use ews_core::metrics::MetricQuery;
use ews_core::policy::{Explained, PolicyState};
use ews_core::{ErrorKind, Policy, Selector, Timestamp};
use ews_scale::{
    Direction, Plant, RateLimit, ReplayReport, ScaleDecision, ScaleObservation, ScalePolicy, Sight, Signal,
    Target, TargetTracking, replay, replay_with,
};

fn policy(target: Target) -> ScalePolicy {
    ScalePolicy::new(2, 100, [Signal::new("load", target, MetricQuery::new("load", Selector::everything()))])
}

fn run(policy: ScalePolicy, trace: &[f64], plant: &Plant) -> ReplayReport {
    replay(&TargetTracking::new(policy).unwrap(), trace, plant).unwrap()
}

/// An hour: a slow wave, a burst on top of it, and a noise of its own.
fn wave() -> Vec<f64> {
    let second = |second: u32| {
        let slow = 150.0 + 80.0 * (f64::from(second) / 3_600.0 * std::f64::consts::TAU).sin();
        let burst = if (1_800..1_860).contains(&second) { 200.0 } else { 0.0 };
        slow + burst + f64::from(second * 7_919 % 31) - 15.0
    };
    (0..3_600).map(second).collect()
}

#[test]
fn a_steady_load_needs_no_change_and_costs_what_it_must() {
    let report = run(policy(Target::PerInstance(10.0)), &[100.0; 3_600], &Plant::new(10.0));
    assert_eq!((report.changes, report.reversals, report.most, report.fewest), (0, 0, 10, 10));
    assert!(report.under_provisioned == 0.0 && (report.cost() - 1.0).abs() < 1e-9);
    assert_eq!(report.requests, 360_000.0);
}

/// One instance more each time it is asked, whatever the load.
struct Growing;

impl Policy<ScaleObservation, ScaleDecision> for Growing {
    fn name(&self) -> &'static str {
        "growing/1"
    }

    fn decide(
        &self,
        seen: &ScaleObservation,
        state: &PolicyState,
        now: Timestamp,
    ) -> (Explained<ScaleDecision>, PolicyState) {
        let from = seen.scale.desired;
        let decision = ScaleDecision::new(from + 1, from, Sight::Full);
        (Explained::new("growing/1", now, decision, "one more"), state.clone())
    }
}

#[test]
fn a_policy_of_ones_own_is_replayed_by_the_document_that_goes_with_it() {
    let document = policy(Target::PerInstance(10.0)).with_interval(Duration::from_secs(60));
    let plant = Plant::new(10.0);
    let report = replay_with(&Growing, &document, &[100.0; 600], &plant).unwrap();
    assert_eq!((report.changes, report.reversals, report.fewest, report.most), (10, 0, 10, 20));
    let same =
        replay_with(&TargetTracking::new(document.clone()).unwrap(), &document, &wave(), &plant).unwrap();
    assert_eq!(same, run(document, &wave(), &plant));
    let error = replay_with(&Growing, &ScalePolicy::new(5, 2, []), &[1.0], &plant).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn a_step_is_under_provisioned_for_as_long_as_starting_takes() {
    let trace: Vec<f64> = (0..600).map(|second| if second < 300 { 100.0 } else { 200.0 }).collect();
    let short = run(
        policy(Target::PerInstance(10.0)),
        &trace,
        &Plant::new(10.0).with_start_delay(Duration::from_secs(5)),
    );
    let long = run(
        policy(Target::PerInstance(10.0)),
        &trace,
        &Plant::new(10.0).with_start_delay(Duration::from_secs(120)),
    );
    assert!(short.under_provisioned > 0.0 && short.under_provisioned < 3_000.0, "{short:?}");
    assert!(long.under_provisioned > 10_000.0, "{long:?}");
}

#[test]
fn a_longer_window_reverses_less_loses_less_and_costs_more() {
    // Two minutes low, two minutes high.
    let trace: Vec<f64> = (0..3_600).map(|second| if second % 240 < 120 { 100.0 } else { 200.0 }).collect();
    let window = |seconds| {
        let rules = Direction::scale_in().with_window(Duration::from_secs(seconds));
        run(policy(Target::PerInstance(7.0)).with_scale_in(rules), &trace, &Plant::new(10.0))
    };
    let (short, long) = (window(0), window(300));
    assert!(short.reversals >= 20 && long.reversals <= 1, "{short:?} {long:?}");
    assert!(short.cost() < long.cost(), "{short:?} {long:?}");
    assert!(long.under_provisioned < short.under_provisioned, "{short:?} {long:?}");
    assert_eq!(window(300), long, "two runs are alike");
}

#[test]
fn slower_limits_lose_more() {
    let slow = Direction::scale_out().with_limits([RateLimit::instances(1, Duration::from_secs(60))]);
    let quick = run(policy(Target::Ratio(0.7)), &wave(), &Plant::new(10.0));
    let slow = run(policy(Target::Ratio(0.7)).with_scale_out(slow), &wave(), &Plant::new(10.0));
    assert!(slow.under_provisioned > quick.under_provisioned, "{slow:?} {quick:?}");
}

#[test]
fn what_is_no_trace_is_refused() {
    let tracking = TargetTracking::new(policy(Target::PerInstance(1.0))).unwrap();
    let plant = Plant::new(10.0);
    for trace in [&[][..], &[1.0, f64::NAN], &[-1.0]] {
        assert!(replay(&tracking, trace, &plant).is_err(), "{trace:?}");
    }
    assert!(replay(&tracking, &[1.0], &Plant::new(0.0)).is_err());
}

#[test]
fn the_recorded_traces() {
    let Some(folder) = std::env::var_os("EWS_TRACES") else {
        println!("skipped: EWS_TRACES does not name the folder of the recorded traces");
        return;
    };
    for (name, lost, cost) in
        [("diurnal", 0.01, 1.8), ("diurnal-2", 0.01, 1.8), ("bursty", 0.05, 2.2), ("noisy", 0.03, 2.2)]
    {
        let text =
            std::fs::read_to_string(std::path::Path::new(&folder).join(format!("{name}.txt"))).unwrap();
        let trace: Vec<f64> = text.lines().map(|line| line.trim().parse().unwrap()).collect();
        assert_eq!(trace.len(), 3_600);
        for (kind, target) in [("per instance", Target::PerInstance(7.0)), ("ratio", Target::Ratio(0.7))] {
            let report = run(policy(target), &trace, &Plant::new(10.0));
            println!(
                "{name:10} {kind:12} {:6.2} % under-provisioned, cost {:.2} of the oracle, {} changes, {} reversals, {} to {}",
                report.share_under_provisioned() * 100.0,
                report.cost(),
                report.changes,
                report.reversals,
                report.fewest,
                report.most
            );
            assert!(report.share_under_provisioned() < lost && report.cost() < cost, "{name}: {report:?}");
        }
    }
}
