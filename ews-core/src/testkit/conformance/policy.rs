//! The suite of the [`Policy`] contract, for any observation and decision.
//!
//! The harness gives runs of observations as the policy would meet them; the suite drives the policy through each with the
//! state that it returns, as its live loop does, and checks what the contract says at every step. The harness says how to
//! take the data out of an observation and how to read a level (a replica count, a share) out of a decision; then the
//! suite checks that missing data never lowers it, too.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::expect::{ensure, run_cases, same};
use super::{CaseResult, Report, Stop};
use crate::policy::{Explained, Policy, PolicyState};
use crate::time::Timestamp;

/// Makes the policy under test and what it looks at.
pub trait PolicyHarness<O, D>: Send + Sync
where
    O: Clone + Debug + Send + Sync + 'static,
    D: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// The policy under test, made anew: two of them must decide alike.
    fn policy(&self) -> Arc<dyn Policy<O, D>>;

    /// Runs of observations with their moments: each as long as it takes the policy to change its mind a few times. More
    /// than one run, and a generator of random ones, find more.
    fn runs(&self) -> Vec<Vec<(O, Timestamp)>>;

    /// What is under test, for the report.
    fn name(&self) -> String {
        "policy".to_owned()
    }

    /// Whether this case is to run; for work on a single one. Default: yes.
    fn wants(&self, case: &str) -> bool {
        let _ = case;
        true
    }

    /// The same observation with every signal unavailable; what is known without signals, such as the present count, stays.
    /// Default: not known, which skips the cases about missing data.
    fn without_data(&self, observation: &O) -> Option<O> {
        let _ = observation;
        None
    }

    /// The same observation with one signal of several unavailable, in each way that is possible. Default: none.
    fn with_gaps(&self, observation: &O) -> Vec<O> {
        let _ = observation;
        Vec::new()
    }

    /// The level that a decision leads to and the level that holds when it is made, such as wanted and present replicas.
    /// Missing data must not bring the first below the second. Default: not known.
    fn levels(&self, observation: &O, decision: &D) -> Option<(f64, f64)> {
        let _ = (observation, decision);
        None
    }

    /// How many inputs of the observation the explanation must name, at least. Default 1.
    fn inputs(&self, observation: &O) -> usize {
        let _ = observation;
        1
    }
}

/// Runs every case.
pub async fn run<O, D>(harness: &dyn PolicyHarness<O, D>) -> Report
where
    O: Clone + Debug + Send + Sync + 'static,
    D: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    let mut report = Report::new(format!("policy ({})", harness.name()));
    let bench = async |_: u16| -> Result<Bench<'_, O, D>, Stop> {
        let runs = harness.runs();
        ensure!(
            runs.iter().any(|run| run.len() > 1),
            "the harness must give a run of two observations at least"
        );
        Ok(Bench { harness, policy: harness.policy(), runs })
    };
    run_cases! { report, Duration::from_secs(300), harness, bench;
        1 cases::equal_arguments_give_equal_results;
        2 cases::another_value_of_the_policy_decides_alike;
        3 cases::the_state_is_all_that_it_remembers;
        4 cases::the_state_survives_json;
        5 cases::a_newer_state_is_started_anew_and_said_so;
        6 cases::a_damaged_state_is_no_panic;
        7 cases::the_record_names_policy_moment_and_outcome;
        8 cases::the_record_names_its_inputs;
        9 cases::the_record_survives_json;
        10 cases::time_that_goes_back_is_no_panic;
        20 cases::missing_data_never_lowers;
        21 cases::a_gap_in_the_data_never_lowers_further;
        22 cases::missing_data_is_named;
    }
    report
}

/// What a case works with.
struct Bench<'a, O, D> {
    harness: &'a dyn PolicyHarness<O, D>,
    policy: Arc<dyn Policy<O, D>>,
    runs: Vec<Vec<(O, Timestamp)>>,
}

/// One decision of a run.
struct Step<'a, O, D> {
    observation: &'a O,
    now: Timestamp,
    before: PolicyState,
    decided: Explained<D>,
    after: PolicyState,
}

impl<O: cases::Seen, D: cases::Made> Bench<'_, O, D> {
    /// Every step of every run, by this policy.
    fn steps(&self) -> Vec<Step<'_, O, D>> {
        let mut steps = Vec::new();
        for run in &self.runs {
            let mut state = PolicyState::default();
            for (observation, now) in run {
                let (decided, after) = self.policy.decide(observation, &state, *now);
                steps.push(Step { observation, now: *now, before: state, decided, after: after.clone() });
                state = after;
            }
        }
        steps
    }
}

#[allow(clippy::unused_async, reason = "every case of every suite is a future")]
mod cases {
    use super::*;

    /// What observations are.
    pub(super) trait Seen: Clone + Debug + Send + Sync + 'static {}
    impl<T: Clone + Debug + Send + Sync + 'static> Seen for T {}
    /// What decisions are.
    pub(super) trait Made:
        Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static
    {
    }
    impl<T: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static> Made for T {}

    pub(super) async fn equal_arguments_give_equal_results<O: Seen, D: Made>(
        bench: Bench<'_, O, D>,
    ) -> CaseResult {
        for step in bench.steps() {
            for _ in 0..3 {
                let again = bench.policy.decide(step.observation, &step.before, step.now);
                same("a second call", &again, &(step.decided.clone(), step.after.clone()))?;
            }
        }
        Ok(())
    }

    pub(super) async fn another_value_of_the_policy_decides_alike<O: Seen, D: Made>(
        bench: Bench<'_, O, D>,
    ) -> CaseResult {
        for step in bench.steps() {
            let again = bench.harness.policy().decide(step.observation, &step.before, step.now);
            same("a policy made anew", &again, &(step.decided, step.after))?;
        }
        Ok(())
    }

    /// Replayed from the last step to the first, nothing that the policy hides in itself can help it.
    pub(super) async fn the_state_is_all_that_it_remembers<O: Seen, D: Made>(
        bench: Bench<'_, O, D>,
    ) -> CaseResult {
        for step in bench.steps().into_iter().rev() {
            let again = bench.policy.decide(step.observation, &step.before, step.now);
            same("a step out of order", &again, &(step.decided, step.after))?;
        }
        Ok(())
    }

    pub(super) async fn the_state_survives_json<O: Seen, D: Made>(bench: Bench<'_, O, D>) -> CaseResult {
        for step in bench.steps() {
            let stored: PolicyState = serde_json::from_str(&serde_json::to_string(&step.before)?)?;
            same("the stored state", &stored, &step.before)?;
            let again = bench.policy.decide(step.observation, &stored, step.now);
            same("a decision from the stored state", &again, &(step.decided, step.after))?;
        }
        Ok(())
    }

    pub(super) async fn a_newer_state_is_started_anew_and_said_so<O: Seen, D: Made>(
        bench: Bench<'_, O, D>,
    ) -> CaseResult {
        for step in bench.steps() {
            if step.before == PolicyState::default() {
                continue;
            }
            let newer = PolicyState { version: step.before.version.saturating_add(1), ..step.before };
            let (decided, after) = bench.policy.decide(step.observation, &newer, step.now);
            let (fresh, fresh_after) =
                bench.policy.decide(step.observation, &PolicyState::default(), step.now);
            same("the decision on a newer state and on none", &decided.decision, &fresh.decision)?;
            same("the state after a newer one and after none", &after, &fresh_after)?;
            ensure!(
                decided != fresh,
                "the explanation does not say that a newer state was left unread: {decided}"
            );
        }
        Ok(())
    }

    pub(super) async fn a_damaged_state_is_no_panic<O: Seen, D: Made>(bench: Bench<'_, O, D>) -> CaseResult {
        use serde_json::json;
        for step in bench.steps() {
            for value in [json!(null), json!(7), json!("x"), json!([]), json!({}), json!({"x": -1})] {
                let damaged = PolicyState { version: step.after.version, value };
                let (decided, _) = bench.policy.decide(step.observation, &damaged, step.now);
                ensure!(!decided.outcome.is_empty(), "no outcome on the damaged state {damaged:?}");
            }
        }
        Ok(())
    }

    pub(super) async fn the_record_names_policy_moment_and_outcome<O: Seen, D: Made>(
        bench: Bench<'_, O, D>,
    ) -> CaseResult {
        ensure!(!bench.policy.name().is_empty(), "the policy has no name");
        for Step { decided, now, .. } in bench.steps() {
            same("the policy's name in the record", &decided.policy.as_str(), &bench.policy.name())?;
            same("the moment in the record", &decided.at, &now)?;
            ensure!(!decided.outcome.trim().is_empty(), "the record has no outcome: {decided:?}");
        }
        Ok(())
    }

    pub(super) async fn the_record_names_its_inputs<O: Seen, D: Made>(bench: Bench<'_, O, D>) -> CaseResult {
        for Step { observation, decided, .. } in bench.steps() {
            let wanted = bench.harness.inputs(observation);
            ensure!(
                decided.inputs.len() >= wanted,
                "{} inputs in the record of {wanted}: {decided}",
                decided.inputs.len()
            );
            for input in &decided.inputs {
                ensure!(!input.name.is_empty(), "an input without a name: {decided}");
                ensure!(
                    input.reading.as_ref().is_ok_and(|value| value.is_finite()) || input.reading.is_err(),
                    "the input {} is {:?}, which is no reading: {decided}",
                    input.name,
                    input.reading
                );
            }
        }
        Ok(())
    }

    pub(super) async fn the_record_survives_json<O: Seen, D: Made>(bench: Bench<'_, O, D>) -> CaseResult {
        for Step { decided, .. } in bench.steps() {
            let stored: Explained<D> = serde_json::from_str(&serde_json::to_string(&decided)?)?;
            same("the stored record", &stored, &decided)?;
        }
        Ok(())
    }

    pub(super) async fn time_that_goes_back_is_no_panic<O: Seen, D: Made>(
        bench: Bench<'_, O, D>,
    ) -> CaseResult {
        for step in bench.steps() {
            for now in [Timestamp::EPOCH, step.now - Duration::from_secs(3600), Timestamp::MAX] {
                let (decided, after) = bench.policy.decide(step.observation, &step.after, now);
                same("the moment in the record", &decided.at, &now)?;
                bench.policy.decide(step.observation, &after, step.now);
            }
        }
        Ok(())
    }

    pub(super) async fn missing_data_never_lowers<O: Seen, D: Made>(bench: Bench<'_, O, D>) -> CaseResult {
        let mut checked = 0;
        for step in bench.steps() {
            let Some(blind) = bench.harness.without_data(step.observation) else { continue };
            // Blind for a long time, from every state that the runs reach: no amount of waiting makes it data.
            let (mut state, mut now) = (step.before, step.now);
            for _ in 0..50 {
                let (decided, after) = bench.policy.decide(&blind, &state, now);
                let Some((wanted, present)) = bench.harness.levels(&blind, &decided.decision) else { break };
                ensure!(wanted >= present, "without data it went from {present} to {wanted}: {decided}");
                (state, now, checked) = (after, now + Duration::from_secs(60), checked + 1);
            }
        }
        if checked == 0 {
            return Err(Stop::skip("the harness can't take data away or read a level"));
        }
        Ok(())
    }

    pub(super) async fn a_gap_in_the_data_never_lowers_further<O: Seen, D: Made>(
        bench: Bench<'_, O, D>,
    ) -> CaseResult {
        let mut checked = 0;
        for step in bench.steps() {
            let Some((full, present)) = bench.harness.levels(step.observation, &step.decided.decision) else {
                continue;
            };
            for partial in bench.harness.with_gaps(step.observation) {
                let (decided, _) = bench.policy.decide(&partial, &step.before, step.now);
                let Some((wanted, _)) = bench.harness.levels(&partial, &decided.decision) else { continue };
                ensure!(
                    wanted >= full.min(present),
                    "with a gap it went to {wanted}, with all data to {full} from {present}: {decided}"
                );
                checked += 1;
            }
        }
        if checked == 0 {
            return Err(Stop::skip("the harness can't make gaps or read a level"));
        }
        Ok(())
    }

    pub(super) async fn missing_data_is_named<O: Seen, D: Made>(bench: Bench<'_, O, D>) -> CaseResult {
        let mut checked = 0;
        for step in bench.steps() {
            let Some(blind) = bench.harness.without_data(step.observation) else { continue };
            let (decided, _) = bench.policy.decide(&blind, &step.before, step.now);
            ensure!(
                decided.inputs.iter().any(|input| input.reading.is_err()),
                "no input of the record is unavailable although no data was there: {decided}"
            );
            checked += 1;
        }
        if checked == 0 {
            return Err(Stop::skip("the harness can't take data away"));
        }
        Ok(())
    }
}
