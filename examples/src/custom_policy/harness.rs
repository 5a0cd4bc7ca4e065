//! How the policies prove themselves: what the conformance suite drives them through.

use std::sync::Arc;
use std::time::Duration;

use ews_core::testkit::conformance::policy::PolicyHarness;
use ews_core::{ExitStatus, Policy, PolicyState, Scale, Timestamp, Unavailable};
use ews_deploy::{FailureClass, FailureSeen, OnFailure, Strategy, UnitFailure};
use ews_scale::{ScaleDecision, ScaleObservation, SignalReading};

use super::{Patience, Staircase, day, staircase_for};

/// Any moment will do.
const START: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

/// The suite's way to the staircase.
pub struct StaircaseHarness(Arc<Staircase>);

impl StaircaseHarness {
    /// A signal is all that it looks at, so that there are no gaps between several.
    pub const SKIPS: &[&str] = &["a_gap_in_the_data_never_lowers_further"];

    /// Over the staircase of the replay.
    ///
    /// # Errors
    /// Those of [`Staircase::new`].
    pub fn new() -> ews_core::Result<Self> {
        Ok(Self(Arc::new(staircase_for(Duration::from_secs(120))?)))
    }
}

impl PolicyHarness<ScaleObservation, ScaleDecision> for StaircaseHarness {
    fn policy(&self) -> Arc<dyn Policy<ScaleObservation, ScaleDecision>> {
        Arc::new(Staircase::clone(&self.0))
    }

    /// A day's load in two hours, looked at every 30 seconds, with the count following each decision.
    fn runs(&self) -> Vec<Vec<(ScaleObservation, Timestamp)>> {
        let (mut state, mut count, mut now) = (PolicyState::default(), 2, START);
        let mut run = Vec::new();
        for (version, load) in (1..).zip(day().into_iter().step_by(30)) {
            now = now + Duration::from_secs(30);
            let reading = SignalReading::measured("requests", load, now);
            let seen = ScaleObservation::new(Scale::at_rest(count, version), [reading]);
            let (decided, next) = self.0.decide(&seen, &state, now);
            (state, count) = (next, decided.decision.desired);
            run.push((seen, now));
        }
        vec![run]
    }

    fn name(&self) -> String {
        "staircase".to_owned()
    }

    fn without_data(&self, observation: &ScaleObservation) -> Option<ScaleObservation> {
        let mut blind = observation.clone();
        for reading in &mut blind.signals {
            reading.value = Err(Unavailable::Missing);
        }
        Some(blind)
    }

    fn levels(&self, observation: &ScaleObservation, decision: &ScaleDecision) -> Option<(f64, f64)> {
        Some((f64::from(decision.desired), f64::from(observation.scale.desired)))
    }

    fn inputs(&self, _: &ScaleObservation) -> usize {
        2
    }
}

/// The suite's way to the answer to failures.
pub struct PatienceHarness;

impl PatienceHarness {
    /// It decides nothing that is a level, and looks at no signals.
    pub const SKIPS: &[&str] =
        &["missing_data_never_lowers", "a_gap_in_the_data_never_lowers_further", "missing_data_is_named"];

    /// A failure as the deployer shows it; `None` where a name is none, which is a defect.
    fn seen(class: FailureClass, code: Option<i32>, tries: u32, done: usize) -> Option<FailureSeen> {
        let mut seen = FailureSeen::new("web".parse().ok()?, class, "it failed", Strategy::default());
        (seen.failed, seen.tries, seen.done) = (usize::try_from(tries.max(1)).ok()?, tries, (done, 4));
        if let Some(code) = code {
            let mut failure = UnitFailure::new(0, "r2".parse().ok()?, class, "it ended", START);
            failure.exit = Some(ExitStatus::code(code, START));
            seen.failure = Some(failure);
        }
        Some(seen)
    }
}

impl PolicyHarness<FailureSeen, OnFailure> for PatienceHarness {
    fn policy(&self) -> Arc<dyn Policy<FailureSeen, OnFailure>> {
        Arc::new(Patience { tries: 2 })
    }

    fn runs(&self) -> Vec<Vec<(FailureSeen, Timestamp)>> {
        let mut run = Vec::new();
        for done in 0..4 {
            for tries in 1..5 {
                run.extend(Self::seen(FailureClass::Exited, Some(75), tries, done));
                run.extend(Self::seen(FailureClass::Refused, None, tries, done));
            }
            run.extend(Self::seen(FailureClass::Exited, Some(1), 1, done));
            run.extend(Self::seen(FailureClass::Deadline, None, 0, done));
        }
        vec![run.into_iter().map(|seen| (seen, START)).collect()]
    }

    fn name(&self) -> String {
        "patience".to_owned()
    }

    fn inputs(&self, _: &FailureSeen) -> usize {
        3
    }
}
