//! The decision core under the suite of the `Policy` contract.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test harness")]

use std::sync::Arc;
use std::time::Duration;

use ews_core::backoff::{Random as _, SplitMix64};
use ews_core::metrics::MetricQuery;
use ews_core::testkit::conformance::policy::{PolicyHarness, run};
use ews_core::{Policy, Scale, Selector, Timestamp, Unavailable};
use ews_scale::{
    Direction, OnMissing, ScaleDecision, ScaleObservation, ScalePolicy, Signal, SignalReading, Target,
    TargetTracking,
};

struct Harness {
    on_missing: OnMissing,
}

fn signal(name: &str, target: Target) -> Signal {
    Signal::new(name, target, MetricQuery::new(name, Selector::everything()))
}

impl PolicyHarness<ScaleObservation, ScaleDecision> for Harness {
    fn policy(&self) -> Arc<dyn Policy<ScaleObservation, ScaleDecision>> {
        let signals = [signal("requests", Target::PerInstance(50.0)), signal("cpu", Target::Ratio(0.7))];
        let policy = ScalePolicy::new(2, 40, signals)
            .with_scale_in(Direction::scale_in().with_window(Duration::from_secs(90)))
            .with_on_missing(Duration::from_secs(60), self.on_missing);
        Arc::new(TargetTracking::new(policy).unwrap())
    }

    /// The count follows each decision, as a live loop has it, while the load goes up and down at random.
    fn runs(&self) -> Vec<Vec<(ScaleObservation, Timestamp)>> {
        (0..4).map(|seed| self.one_run(seed)).collect()
    }

    fn name(&self) -> String {
        format!("target tracking, {:?}", self.on_missing)
    }

    fn without_data(&self, observation: &ScaleObservation) -> Option<ScaleObservation> {
        let mut blind = observation.clone();
        for reading in &mut blind.signals {
            reading.value = Err(Unavailable::Missing);
        }
        Some(blind)
    }

    fn with_gaps(&self, observation: &ScaleObservation) -> Vec<ScaleObservation> {
        let gap = |index: usize| {
            let mut partial = observation.clone();
            partial.signals[index].value = Err(Unavailable::NotANumber);
            partial
        };
        (0..observation.signals.len()).map(gap).collect()
    }

    fn levels(&self, observation: &ScaleObservation, decision: &ScaleDecision) -> Option<(f64, f64)> {
        Some((f64::from(decision.desired), f64::from(observation.scale.desired)))
    }

    fn inputs(&self, observation: &ScaleObservation) -> usize {
        observation.signals.len() + 3
    }
}

impl Harness {
    fn one_run(&self, seed: u64) -> Vec<(ScaleObservation, Timestamp)> {
        let policy = self.policy();
        let mut random = SplitMix64::new(seed);
        let mut now = Timestamp::from_micros(1_767_268_800_000_000);
        let (mut state, mut count, mut load, mut run) = (Default::default(), 3, 150.0, Vec::new());
        for version in 0..120 {
            now = now + Duration::from_secs(15);
            #[expect(clippy::cast_precision_loss, reason = "a test's load needs no exactness")]
            let step = (random.next_u64() % 401) as f64 - 200.0;
            load = f64::clamp(load + step, 0.0, 3_000.0);
            let mut scale = Scale::at_rest(count, version);
            // Every other run is calm, or scale-in would hardly ever be free of a veto.
            if seed.is_multiple_of(2) {
                scale.ready = count - u32::try_from(random.next_u64() % 5 / 4).unwrap();
                scale.rolling_out = random.next_u64().is_multiple_of(20);
            }
            let readings = [
                SignalReading::measured("requests", load, now - Duration::from_secs(3)),
                SignalReading::measured("cpu", load / 80.0 / f64::from(count), now),
            ];
            let seen = ScaleObservation::new(scale, readings);
            let (decided, next) = policy.decide(&seen, &state, now);
            (state, count) = (next, decided.decision.desired);
            run.push((seen, now));
        }
        run
    }
}

#[tokio::test]
async fn target_tracking_passes() {
    for on_missing in [OnMissing::Hold, OnMissing::AtLeast(10), OnMissing::Fail] {
        run(&Harness { on_missing }).await.assert_passed(&[]);
    }
}

/// A suite over runs in which nothing happens would prove nothing.
#[test]
fn the_runs_make_it_change_its_mind_in_both_directions() {
    let harness = Harness { on_missing: OnMissing::Hold };
    for run in harness.runs() {
        let counts: Vec<u32> = run.iter().map(|(seen, _)| seen.scale.desired).collect();
        assert!(counts.array_windows().any(|[a, b]| a < b), "{counts:?}");
    }
    let shrinks = |run: &Vec<(ScaleObservation, Timestamp)>| {
        run.array_windows().any(|[a, b]| a.0.scale.desired > b.0.scale.desired)
    };
    assert!(harness.runs().iter().any(shrinks));
}
