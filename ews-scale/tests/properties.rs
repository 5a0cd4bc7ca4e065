//! What holds for every policy, load and disturbance.
#![allow(clippy::unwrap_used, reason = "a test harness")]

use std::time::Duration;

use ews_core::metrics::MetricQuery;
use ews_core::{Policy as _, PolicyState, Scale, Selector, Timestamp, Unavailable};
use ews_scale::{
    Direction, OnMissing, RateLimit, ScaleObservation, ScalePolicy, Select, Signal, SignalReading, Target,
    TargetTracking,
};
use proptest::prelude::*;

#[derive(Debug, Clone)]
struct Step {
    loads: [Option<f64>; 2],
    pause: u64,
    unready: u32,
    rolling_out: bool,
    /// What somebody else sets before the decision.
    manual: Option<u32>,
    /// Whether the decision is carried out.
    carried_out: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let load =
        || prop::option::weighted(0.8, prop_oneof![0.0..2_000.0, Just(0.0), Just(f64::NAN), Just(1e300)]);
    (
        load(),
        load(),
        1_u64..90,
        0_u32..3,
        prop::bool::weighted(0.1),
        prop::option::weighted(0.05, 0_u32..60),
        prop::bool::weighted(0.9),
    )
        .prop_map(|(a, b, pause, unready, rolling_out, manual, carried_out)| Step {
            loads: [a, b],
            pause,
            unready,
            rolling_out,
            manual,
            carried_out,
        })
}

fn limits() -> impl Strategy<Value = Vec<RateLimit>> {
    let limit = (1_u32..150, 1_u64..200, any::<bool>()).prop_map(|(amount, period, percent)| {
        let period = Duration::from_secs(period);
        if percent { RateLimit::percent(amount, period) } else { RateLimit::instances(amount, period) }
    });
    prop::collection::vec(limit, 0..3)
}

fn direction() -> impl Strategy<Value = Direction> {
    (limits(), 0_u64..400, any::<bool>(), 0.0_f64..0.5).prop_map(|(limits, window, least, tolerance)| {
        let mut direction = Direction::scale_in().with_limits(limits).with_tolerance(tolerance);
        direction.window = Duration::from_secs(window);
        direction.select = if least { Select::Least } else { Select::Most };
        direction
    })
}

fn policy() -> impl Strategy<Value = ScalePolicy> {
    (1_u32..10, 0_u32..40, direction(), direction(), any::<bool>()).prop_map(
        |(min, more, out, inward, fallback)| {
            let signal = |name: &str, target| {
                Signal::new(name, target, MetricQuery::new(name, Selector::everything()))
            };
            let signals = [signal("a", Target::PerInstance(25.0)), signal("b", Target::Ratio(20.0))];
            let on_missing = if fallback { OnMissing::AtLeast(min + more / 2) } else { OnMissing::Hold };
            ScalePolicy::new(min, min + more, signals)
                .with_scale_out(out)
                .with_scale_in(inward)
                .with_on_missing(Duration::from_secs(60), on_missing)
        },
    )
}

/// What one limit allows from what the count was a period ago, written anew from the documentation.
fn allows(limit: &RateLimit, start: u32, up: bool) -> i64 {
    let start = i64::from(start);
    match (limit.amount, up) {
        (ews_scale::Amount::Instances(count), true) => start + i64::from(count),
        (ews_scale::Amount::Instances(count), false) => start - i64::from(count),
        (ews_scale::Amount::Percent(share), up) => {
            let share = ((start * i64::from(share) + 99) / 100).max(1);
            if up { start + share } else { start - share }
        }
        _ => unreachable!("the policies here have no other limits"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn bounds_rates_and_missing_data(policy in policy(), steps in prop::collection::vec(step(), 1..80), count in 0_u32..60) {
        let tracking = TargetTracking::new(policy.clone()).unwrap();
        let mut state = PolicyState::default();
        let mut now = Timestamp::from_micros(1_767_268_800_000_000);
        let mut count = count;
        // Every count that was in force, with its moment, as long as nobody else meddles.
        let mut history: Vec<(Timestamp, u32)> = vec![(Timestamp::EPOCH, count)];
        // What was decided last, and when.
        let mut decided_last = (Timestamp::EPOCH, count);
        for (version, step) in (1..).zip(&steps) {
            now = now + Duration::from_secs(step.pause);
            if let Some(manual) = step.manual.filter(|manual| *manual != count) {
                count = manual;
                if manual == decided_last.1 {
                    // Nobody can tell it from the decision, carried out late.
                    history.push(decided_last);
                } else {
                    history = vec![(Timestamp::EPOCH, count)];
                }
            }
            let mut scale = Scale::at_rest(count, version);
            scale.ready = count.saturating_sub(step.unready);
            scale.rolling_out = step.rolling_out;
            let readings = ["a", "b"].iter().zip(step.loads).map(|(name, load)| match load {
                Some(load) => SignalReading::measured(*name, load, now),
                None => SignalReading::unavailable(*name, Unavailable::Missing),
            });
            let seen = ScaleObservation::new(scale, readings);
            let (decided, next) = tracking.decide(&seen, &state, now);
            let (again, same) = tracking.decide(&seen, &state, now);
            prop_assert!(again == decided && same == next);
            let wanted = decided.decision.desired;

            prop_assert!(wanted >= policy.min, "{}", decided);
            prop_assert!(wanted <= policy.max.max(count), "{}", decided);
            let missing = step.loads.iter().any(|load| load.is_none_or(|load| !load.is_finite()));
            if missing || step.rolling_out {
                prop_assert!(wanted >= count.min(policy.max), "{}", decided);
            }
            for (up, rules) in [(true, &policy.scale_out), (false, &policy.scale_in)] {
                let moved = if up { wanted > count.max(policy.min) } else { wanted < count };
                if !moved || rules.limits.is_empty() {
                    continue;
                }
                let within = |limit: &RateLimit| {
                    let start = history.iter().rev().find(|(at, _)| now.since(*at) >= limit.period).map_or(count, |(_, c)| *c);
                    if up { i64::from(wanted) <= allows(limit, start, up) } else { i64::from(wanted) >= allows(limit, start, up) }
                };
                let held = match rules.select {
                    Select::Least => rules.limits.iter().all(within),
                    _ => rules.limits.iter().any(within),
                };
                prop_assert!(held, "faster than {:?} after {:?}: {}", rules, history, decided);
            }
            if step.carried_out && wanted != count {
                count = wanted;
                history.push((now, count));
            }
            decided_last = (now, wanted);
            state = next;
        }
    }
}
