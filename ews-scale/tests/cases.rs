//! The edge cases of a scaling decision, one test each, on a service whose count follows each decision at once.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test harness")]

use std::time::Duration;

use ews_core::metrics::MetricQuery;
use ews_core::{Explained, Policy as _, PolicyState, Scale, Selector, Timestamp, Unavailable};
use ews_scale::{
    Direction, Flapping, OnMissing, RateLimit, ScaleDecision, ScaleObservation, ScalePolicy, Sight, Signal,
    SignalReading, Target, TargetTracking,
};

const TICK: Duration = Duration::from_secs(15);

/// A policy, its state, a service and the time.
struct Loop {
    policy: TargetTracking,
    state: PolicyState,
    scale: Scale,
    now: Timestamp,
}

fn signal(name: &str) -> Signal {
    Signal::new(name, Target::PerInstance(10.0), MetricQuery::new(name, Selector::everything()))
}

fn base() -> ScalePolicy {
    ScalePolicy::new(2, 20, [signal("load")])
}

fn start(policy: ScalePolicy, count: u32) -> Loop {
    Loop {
        policy: TargetTracking::new(policy).unwrap(),
        state: PolicyState::default(),
        scale: Scale::at_rest(count, 1),
        now: Timestamp::from_micros(1_767_268_800_000_000),
    }
}

impl Loop {
    /// Decides on these readings without anything following.
    fn look(&mut self, readings: Vec<SignalReading>) -> Explained<ScaleDecision> {
        let seen = ScaleObservation::new(self.scale.clone(), readings);
        let (decided, state) = self.policy.decide(&seen, &self.state, self.now);
        self.state = state;
        decided
    }

    /// One tick of the live loop: the count follows, and then time passes.
    fn tick(&mut self, readings: Vec<SignalReading>) -> Explained<ScaleDecision> {
        let decided = self.look(readings);
        self.set(decided.decision.desired);
        self.now = self.now + TICK;
        decided
    }

    fn set(&mut self, count: u32) {
        if self.scale.desired != count {
            let rolling_out = self.scale.rolling_out;
            self.scale = Scale::at_rest(count, self.scale.version + 1);
            self.scale.rolling_out = rolling_out;
        }
    }

    fn load(&mut self, load: f64) -> u32 {
        self.tick(vec![SignalReading::measured("load", load, self.now)]).decision.desired
    }

    fn blind(&mut self) -> Explained<ScaleDecision> {
        self.tick(vec![SignalReading::unavailable("load", Unavailable::Missing)])
    }

    /// So long at this load.
    fn settle(&mut self, load: f64, ticks: u32) -> u32 {
        (0..ticks).map(|_| self.load(load)).last().unwrap()
    }
}

fn bound_by(decided: &Explained<ScaleDecision>, name: &str) -> bool {
    decided.constraints.iter().any(|constraint| constraint.name.starts_with(name))
}

#[test]
fn out_at_once_and_in_after_the_window() {
    let mut service = start(base(), 3);
    assert_eq!(service.load(80.0), 7, "4 per 15 s");
    assert_eq!(service.load(80.0), 8);
    assert_eq!(service.settle(30.0, 19), 8, "the last 300 s still hold the high load");
    assert_eq!(service.settle(30.0, 2), 3);
}

#[test]
fn a_restart_sees_a_whole_window_before_it_scales_in() {
    let mut service = start(base(), 8);
    assert_eq!(service.settle(30.0, 20), 8);
    let before = service.state.clone();
    assert_eq!(service.load(30.0), 3);
    // Without its state, and with a state that is older than three intervals, it begins the window anew.
    service.set(8);
    service.state = PolicyState::default();
    assert_eq!(service.settle(30.0, 20), 8);
    let mut late = start(base(), 8);
    (late.state, late.now) = (before, service.now + Duration::from_secs(60));
    assert_eq!(late.settle(30.0, 20), 8);
    assert_eq!(late.load(30.0), 3);
}

#[test]
fn missing_data_is_a_typed_reason_and_holds() {
    let (nothing, far) = (Unavailable::Missing, Duration::from_secs(600));
    let mut service = start(base(), 8);
    service.settle(80.0, 30);
    for reading in [
        SignalReading::unavailable("load", nothing),
        SignalReading::measured("load", f64::NAN, service.now),
        SignalReading::measured("load", f64::INFINITY, service.now),
        SignalReading::measured("load", -1.0, service.now),
        SignalReading::measured("load", 0.0, service.now - far),
        SignalReading::measured("load", 0.0, service.now + far),
        SignalReading::measured("another", 0.0, service.now),
    ] {
        for _ in 0..50 {
            let decided = service.tick(vec![reading.clone()]);
            assert_eq!((decided.decision.desired, decided.decision.sight), (8, Sight::Blind), "{reading:?}");
            let input = decided.inputs.iter().find(|input| input.name == "load").unwrap();
            assert!(input.reading.is_err(), "{decided}");
            service.now = service.now - TICK;
        }
    }
}

#[test]
fn one_missing_signal_vetoes_scale_in_and_the_other_may_still_scale_out() {
    let mut service = start(ScalePolicy::new(2, 20, [signal("load"), signal("queue")]), 8);
    for _ in 0..40 {
        let low = SignalReading::measured("load", 20.0, service.now);
        let decided = service.tick(vec![low, SignalReading::unavailable("queue", Unavailable::NotANumber)]);
        assert_eq!((decided.decision.desired, decided.decision.sight), (8, Sight::Partial));
        assert!(bound_by(&decided, "a signal is missing"), "{decided}");
    }
    let high = SignalReading::measured("load", 120.0, service.now);
    assert_eq!(service.tick(vec![high]).decision.desired, 12);
}

#[test]
fn after_the_grace_the_policy_says_what_happens() {
    let policy = |on_missing| base().with_on_missing(Duration::from_secs(60), on_missing);
    let mut fallback = start(policy(OnMissing::AtLeast(6)), 3);
    assert_eq!((0..4).map(|_| fallback.blind().decision.desired).collect::<Vec<_>>(), [3; 4]);
    let decided = fallback.blind();
    assert_eq!(decided.decision.desired, 6);
    assert!(bound_by(&decided, "on_missing"), "{decided}");
    let mut higher = start(policy(OnMissing::AtLeast(6)), 9);
    assert!((0..20).all(|_| higher.blind().decision.desired == 9), "the larger of present and fallback");
    let mut failing = start(policy(OnMissing::Fail), 3);
    let sights: Vec<Sight> = (0..6).map(|_| failing.blind().decision.sight).collect();
    assert_eq!(
        sights,
        [Sight::Blind, Sight::Blind, Sight::Blind, Sight::Blind, Sight::Failed, Sight::Failed]
    );
    // One value ends the grace, and the next gap begins a new one.
    failing.load(30.0);
    assert_eq!(failing.blind().decision.sight, Sight::Blind);
}

#[test]
fn bounds_hold_whatever_the_signals_say() {
    let mut low = start(base(), 1);
    assert_eq!(low.blind().decision.desired, 2, "raised to min at once, without any data");
    let slow = Direction::scale_in().with_limits([RateLimit::instances(3, Duration::from_secs(30))]);
    let mut high = start(base().with_scale_in(slow), 30);
    let counts: Vec<u32> = (0..9).map(|_| high.blind().decision.desired).collect();
    assert_eq!(counts, [27, 27, 24, 24, 21, 21, 20, 20, 20], "lowered to max at the rate of scale-in");
    let mut off = start(base().with_scale_in(Direction::scale_in().disabled()), 30);
    assert_eq!(off.blind().decision.desired, 20, "an order is no scale-in by signals");
    assert_eq!(off.settle(1.0, 50), 20);
    let mut full = start(base(), 15);
    assert_eq!(full.load(1_000.0), 20);
    assert_eq!(start(base(), 2).settle(0.0, 50), 2);
}

#[test]
fn a_rollout_blocks_scale_in_and_its_surge_is_not_counted() {
    let mut service = start(base(), 8);
    service.settle(80.0, 30);
    (service.scale.rolling_out, service.scale.present, service.scale.ready) = (true, 10, 10);
    for _ in 0..40 {
        let decided = service.look(vec![SignalReading::measured("load", 20.0, service.now)]);
        assert_eq!(decided.decision.desired, 8);
        assert!(bound_by(&decided, "a rollout runs"), "{decided}");
        service.now = service.now + TICK;
    }
    assert_eq!(service.load(100.0), 10, "out is free");
}

#[test]
fn warming_instances_block_scale_in_for_a_while() {
    let mut service = start(base(), 8);
    service.settle(80.0, 30);
    service.scale.ready = 7;
    // 20 ticks of warm-up and the window after it; then the one that is not ready counts as used.
    let counts: Vec<u32> = (0..45).map(|_| service.load(30.0)).collect();
    assert_eq!(counts[..39], [8; 39]);
    assert_eq!(counts[44], 4, "{counts:?}");
}

#[test]
fn losing_readiness_under_load_never_lowers() {
    let mut service = start(base(), 8);
    service.settle(80.0, 30);
    service.scale.ready = 0;
    for _ in 0..100 {
        assert!(service.look(vec![SignalReading::measured("load", 5.0, service.now)]).decision.desired >= 8);
        service.now = service.now + TICK;
    }
    assert!(service.load(200.0) > 8);
}

#[test]
fn what_somebody_else_set_is_left_for_a_while() {
    let mut service = start(base(), 5);
    service.settle(50.0, 30);
    service.set(9);
    assert_eq!(service.settle(50.0, 19), 9);
    let decided = service.look(vec![SignalReading::measured("load", 50.0, service.now)]);
    assert!(bound_by(&decided, "somebody else raised"), "{decided}");
    assert_eq!(service.load(200.0), 18, "a higher load still scales out");

    let mut service = start(base(), 9);
    service.settle(90.0, 30);
    service.set(4);
    assert_eq!(service.settle(90.0, 20), 4);
    assert_eq!(service.load(90.0), 8, "after five minutes the load counts again");
    // A change of its own that was refused is nobody else's.
    let mut refused = start(base(), 3);
    for _ in 0..10 {
        let decided = refused.look(vec![SignalReading::measured("load", 60.0, refused.now)]);
        assert_eq!(decided.decision.desired, 6);
        refused.now = refused.now + TICK;
    }
}

#[test]
fn what_is_done_late_is_nobody_elses() {
    let mut service = start(base().with_scale_in(Direction::scale_in().with_window(Duration::ZERO)), 3);
    let reading = |service: &Loop, load| vec![SignalReading::measured("load", load, service.now)];
    // The target takes the change, answers too late, and acts later yet; meanwhile the load has gone.
    assert_eq!(service.look(reading(&service, 60.0)).decision.desired, 6);
    service.now = service.now + TICK;
    assert_eq!(service.load(30.0), 3);
    service.set(6);
    let decided = service.look(reading(&service, 30.0));
    assert_eq!(decided.decision.desired, 3, "{decided}");
    // Once it was seen to happen, the same count by somebody else is theirs.
    service.set(3);
    service.now = service.now + TICK;
    assert_eq!(service.load(30.0), 3);
    service.set(6);
    let decided = service.look(reading(&service, 30.0));
    assert!(bound_by(&decided, "somebody else raised"), "{decided}");
    // And so is one that comes long after it was asked for.
    let mut late = start(base().with_scale_in(Direction::scale_in().with_window(Duration::ZERO)), 3);
    assert_eq!(late.look(reading(&late, 60.0)).decision.desired, 6);
    for _ in 0..4 {
        late.now = late.now + TICK;
        assert_eq!(late.look(reading(&late, 30.0)).decision.desired, 3);
    }
    late.set(6);
    late.now = late.now + TICK;
    let decided = late.look(reading(&late, 30.0));
    assert!(bound_by(&decided, "somebody else raised"), "{decided}");
}

#[test]
fn a_clock_step_never_shortens_a_window() {
    for (step, forward) in [(40, true), (3_600, true), (3_600, false), (40, false)] {
        let mut service = start(base(), 8);
        service.settle(80.0, 30);
        let step = Duration::from_secs(step);
        service.now = if forward { service.now + step } else { service.now - step };
        let held = (0..60).take_while(|_| service.load(30.0) == 8).count();
        let wanted = if forward && step < Duration::from_secs(45) { 17 } else { 19 };
        assert!((wanted..=21).contains(&held), "{step:?} {forward}: {held}");
    }
}

#[test]
fn a_count_that_goes_to_and_fro_waits_longer() {
    let quick = Direction::scale_in().with_window(Duration::from_secs(60));
    let policy = base().with_scale_in(quick).with_flapping(Flapping::new(3, Duration::from_secs(1_800)));
    let mut service = start(policy, 4);
    let mut waits = Vec::new();
    for _ in 0..6 {
        assert_eq!(service.settle(80.0, 3), 8);
        let mut wait = 1;
        while service.load(40.0) != 4 {
            wait += 1;
            assert!(wait < 100);
        }
        waits.push(wait);
    }
    assert_eq!(waits[..2], [4, 4]);
    assert!(waits[5] >= 16, "two doublings: {waits:?}");
    let decided = {
        service.settle(80.0, 3);
        service.tick(vec![SignalReading::measured("load", 40.0, service.now)])
    };
    assert!(bound_by(&decided, "scale_in.window, "), "{decided}");
    // Reversals that are older than the window count no more.
    service.settle(80.0, 130);
    let wait = (1..100).take_while(|_| service.load(40.0) != 4).count();
    assert!(wait < 6, "{wait}");
}

#[test]
fn a_scale_out_window_takes_the_smallest() {
    let patient = Direction::scale_out().with_window(Duration::from_secs(60));
    let mut service = start(base().with_scale_out(patient), 4);
    service.settle(40.0, 10);
    assert_eq!((service.load(80.0), service.load(60.0), service.load(80.0)), (4, 4, 4));
    assert_eq!(service.load(80.0), 6, "the old low load has left the window");
}

#[test]
fn rates_bind_and_are_named() {
    let slow = Direction::scale_out().with_limits([RateLimit::instances(1, TICK * 2)]);
    let mut service = start(base().with_scale_out(slow), 3);
    assert_eq!((0..5).map(|_| service.load(100.0)).collect::<Vec<_>>(), [4, 4, 5, 5, 6]);
    let decided = service.look(vec![SignalReading::measured("load", 100.0, service.now)]);
    assert!(bound_by(&decided, "scale_out.limits"), "{decided}");
}

#[test]
fn a_record_reads_as_a_sentence() {
    let mut service = start(base(), 3);
    let decided =
        service.look(vec![SignalReading::measured("load", 95.0, service.now - Duration::from_secs(4))]);
    let text = decided.to_string();
    for part in [
        "target-tracking/1: out from 3 to 7",
        "load = 95 (4s old)",
        "load proposes 10: 95 / 10 each is 9.50 instances' work",
        "scale_out.limits changes 10 to 7",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
