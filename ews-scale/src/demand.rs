//! From one signal to the count that it proposes.
//!
//! The signal is turned into *work*: how many instances of exactly the target's value it amounts to. With `w` as the work, `d`
//! the count that is set, and `s` instances that are ready and silent or not ready at all:
//!
//! | If | It proposes |
//! |---|---|
//! | `w > d · (1 + tolerance out)` | `⌈w⌉`: those that do nothing yet are counted as capacity and take none of the work |
//! | `w + s < d · (1 − tolerance in)` | `⌈w + s⌉`: those of which nothing is known count as fully used |
//! | else | `d` |
//!
//! That is HPA's rule for missing and not-ready pods (0 % on the way out, 100 % on the way in, no change where that turns the
//! direction around), written without its second pass. Losing readiness so never lowers a count, and `work` only grows with the
//! signal, so the proposal does too.

use ews_core::{Scale, Timestamp, Unavailable};

use crate::observation::SignalReading;
use crate::policy::{ScalePolicy, Signal, Target};

/// What a signal speaks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Demand {
    /// This count, for this reason.
    Count(u32, String),
    /// It says nothing.
    Unavailable(Unavailable, String),
}

/// The reading as it is used: what is no usable number is a reason, never zero.
pub(crate) fn validate(
    signal: &Signal,
    reading: Option<&SignalReading>,
    policy: &ScalePolicy,
    now: Timestamp,
) -> Result<f64, (Unavailable, String)> {
    let Some(reading) = reading else {
        return Err((Unavailable::Missing, "it was not observed".to_owned()));
    };
    let value = reading.value.map_err(|reason| (reason, format!("it is {reason}")))?;
    if !value.is_finite() || value < 0.0 {
        let why = format!("{value} is no value that it can have");
        return Err((Unavailable::NotANumber, why));
    }
    match reading.at {
        Some(at) if at > now + policy.interval => {
            let why = format!("its time lies {:?} in the future", at.since(now));
            Err((Unavailable::Stale { last: at }, why))
        }
        Some(at) if now.since(at) > signal.query.max_age => {
            Err((Unavailable::Stale { last: at }, format!("it is {:?} old", now.since(at))))
        }
        _ => Ok(value),
    }
}

/// What the signal proposes.
pub(crate) fn demand(
    signal: &Signal,
    reading: Option<&SignalReading>,
    scale: &Scale,
    policy: &ScalePolicy,
    now: Timestamp,
) -> Demand {
    let value = match validate(signal, reading, policy, now) {
        Ok(value) => value,
        Err((reason, why)) => return Demand::Unavailable(reason, why),
    };
    // During a rollout there are more than there should be, and their number says nothing about the load.
    let ready = if scale.rolling_out { scale.ready.min(scale.desired) } else { scale.ready };
    let reporting =
        reading.and_then(|reading| reading.reporting).map_or(ready, |reporting| reporting.min(ready));
    let silent = ready - reporting;
    if silent > reporting {
        let why = format!("only {reporting} of {ready} ready instances report");
        return Demand::Unavailable(Unavailable::Missing, why);
    }
    let (work, formula) = match signal.target {
        Target::PerInstance(each) => (value / each, format!("{value} / {each} each")),
        Target::Ratio(_) if reporting == 0 => {
            return Demand::Unavailable(
                Unavailable::Missing,
                "no instance is ready to have a value".to_owned(),
            );
        }
        Target::Ratio(target) => {
            (f64::from(reporting) * value / target, format!("{reporting} × {value} / {target}"))
        }
    };
    let idle = silent.saturating_add(scale.desired.saturating_sub(scale.ready));
    let desired = f64::from(scale.desired);
    let used = work + f64::from(idle);
    if work > desired * (1.0 + policy.scale_out.tolerance) {
        return Demand::Count(up(work).max(scale.desired), format!("{formula} is {work:.2} instances' work"));
    }
    if used < desired * (1.0 - policy.scale_in.tolerance) {
        let idle = if idle > 0 { format!(", {idle} of which nothing is known") } else { String::new() };
        let why = format!("{formula} is {work:.2} instances' work{idle}");
        return Demand::Count(up(used).min(scale.desired), why);
    }
    Demand::Count(
        scale.desired,
        format!("{formula} is {work:.2} instances' work, within the tolerance of {}", scale.desired),
    )
}

/// Rounded up; what floating point adds in the ninth digit makes no instance.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast saturates; work is not negative"
)]
fn up(work: f64) -> u32 {
    (work * (1.0 - 1e-9)).ceil() as u32
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ews_core::Selector;
    use ews_core::metrics::MetricQuery;
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000_000);

    fn policy(target: Target) -> ScalePolicy {
        ScalePolicy::new(1, 100, [Signal::new("s", target, MetricQuery::new("m", Selector::everything()))])
    }

    fn scale(desired: u32, ready: u32) -> Scale {
        let mut scale = Scale::at_rest(desired, 1);
        scale.ready = ready;
        scale
    }

    fn of(target: Target, reading: &SignalReading, scale: &Scale) -> Demand {
        let policy = policy(target);
        demand(&policy.signals[0], Some(reading), scale, &policy, NOW)
    }

    fn count(target: Target, value: f64, scale: &Scale) -> u32 {
        match of(target, &SignalReading::measured("s", value, NOW), scale) {
            Demand::Count(count, _) => count,
            Demand::Unavailable(..) => panic!("{value} is available"),
        }
    }

    #[test]
    fn the_examples_of_hpas_documentation() {
        // "if the current metric value is 200m, and the desired value is 100m, the number of replicas will be doubled"
        assert_eq!(count(Target::Ratio(100.0), 200.0, &scale(3, 3)), 6);
        // "If the current value is instead 50m, you'll halve the number of replicas"
        assert_eq!(count(Target::Ratio(100.0), 50.0, &scale(4, 4)), 2);
        // "if the ratio is sufficiently close to 1.0 (within a globally-configurable tolerance, 0.1 by default)"
        assert_eq!(count(Target::Ratio(100.0), 110.0, &scale(4, 4)), 4);
        assert_eq!(count(Target::Ratio(100.0), 90.0, &scale(4, 4)), 4);
        assert_eq!(count(Target::Ratio(100.0), 111.0, &scale(4, 4)), 5);
    }

    #[test]
    fn a_total_is_shared_out() {
        assert_eq!(count(Target::PerInstance(50.0), 500.0, &scale(3, 3)), 10);
        assert_eq!(count(Target::PerInstance(0.1), 0.3, &scale(1, 1)), 3);
        assert_eq!(count(Target::PerInstance(50.0), 0.0, &scale(3, 3)), 0);
    }

    #[test]
    fn losing_readiness_never_lowers() {
        for ready in 0..10 {
            assert!(count(Target::PerInstance(50.0), 400.0, &scale(10, ready)) >= 8);
            assert!(count(Target::PerInstance(50.0), 0.0, &scale(10, ready)) >= 10 - ready);
        }
        // None is ready and the queue grows.
        assert_eq!(count(Target::PerInstance(50.0), 1_000.0, &scale(10, 0)), 20);
        let reading = SignalReading::measured("s", 0.0, NOW);
        assert!(matches!(of(Target::Ratio(0.7), &reading, &scale(10, 0)), Demand::Unavailable(..)));
        assert_eq!(count(Target::Ratio(0.7), 0.1, &scale(10, 5)), 6);
    }

    #[test]
    fn new_instances_are_capacity_on_the_way_out() {
        // 4 ready ones at twice the target are work for 8; 8 are coming up already.
        assert_eq!(count(Target::Ratio(0.5), 1.0, &scale(8, 4)), 8);
        assert_eq!(count(Target::Ratio(0.5), 1.5, &scale(8, 4)), 12);
    }

    #[test]
    fn silent_instances_count_as_used_on_the_way_in_and_idle_on_the_way_out() {
        let silent = |value: f64, reporting: u32| {
            let reading = SignalReading::measured("s", value, NOW).with_reporting(reporting);
            of(Target::Ratio(1.0), &reading, &scale(10, 10))
        };
        assert!(matches!(silent(0.1, 10), Demand::Count(1, _)));
        assert!(matches!(silent(0.1, 6), Demand::Count(5, _)));
        assert!(matches!(silent(1.5, 6), Demand::Count(10, _)));
        assert!(matches!(silent(2.0, 6), Demand::Count(12, _)));
        assert!(matches!(silent(2.0, 4), Demand::Unavailable(Unavailable::Missing, _)), "most are silent");
    }

    #[test]
    fn a_rollouts_surge_adds_nothing() {
        let mut surge = scale(10, 13);
        surge.present = 13;
        assert_eq!(count(Target::Ratio(0.7), 0.9, &surge), 17);
        surge.rolling_out = true;
        assert_eq!(count(Target::Ratio(0.7), 0.9, &surge), 13);
    }

    #[test]
    fn what_is_no_usable_number_is_a_reason() {
        let reason = |value: f64, at: Timestamp| match of(
            Target::PerInstance(1.0),
            &SignalReading::measured("s", value, at),
            &scale(3, 3),
        ) {
            Demand::Unavailable(reason, _) => Some(reason),
            Demand::Count(..) => None,
        };
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.1] {
            assert_eq!(reason(value, NOW), Some(Unavailable::NotANumber), "{value}");
        }
        let (old, ahead) = (NOW - Duration::from_secs(31), NOW + Duration::from_secs(16));
        assert_eq!(reason(1.0, old), Some(Unavailable::Stale { last: old }));
        assert_eq!(reason(1.0, ahead), Some(Unavailable::Stale { last: ahead }));
        assert_eq!(reason(1.0, NOW - Duration::from_secs(30)), None);
        assert_eq!(reason(1.0, NOW + Duration::from_secs(15)), None);
        assert_eq!(reason(f64::MAX, NOW), None);
    }

    proptest! {
        #[test]
        fn more_load_never_asks_for_less(
            low in 0.0_f64..1e4, more in 0.0_f64..1e4, desired in 1_u32..100, ready in 0_u32..120,
            ratio: bool, rolling_out: bool,
        ) {
            let target = if ratio { Target::Ratio(0.7) } else { Target::PerInstance(50.0) };
            let mut scale = scale(desired, ready);
            scale.rolling_out = rolling_out;
            let of = |value: f64| of(target, &SignalReading::measured("s", value, NOW), &scale);
            if let (Demand::Count(low, _), Demand::Count(high, _)) = (of(low), of(low + more)) {
                prop_assert!(low <= high);
            }
        }
    }
}
