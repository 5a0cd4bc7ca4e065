//! The policy suite on a small policy, and proof that its cases can fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ews_core::policy::Input;
use ews_core::testkit::conformance::Verdict;
use ews_core::testkit::conformance::policy::{PolicyHarness, run};
use ews_core::{ErrorKind, Explained, Policy, PolicyState, Timestamp, Unavailable};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
    None,
    CountsCalls,
    CountsValues,
    RemembersLast,
    ReadsNewer,
    NewerSaidNothing,
    UnwrapsState,
    OtherMoment,
    NoInputs,
    NanInput,
    NanDecision,
    UnwrapsTime,
    MissingIsZero,
    GapIsZero,
    HidesMissing,
}
use Mutation as M;

const TABLE: &[(Mutation, &str)] = &[
    (M::CountsCalls, "equal_arguments_give_equal_results"),
    (M::CountsValues, "another_value_of_the_policy_decides_alike"),
    (M::RemembersLast, "the_state_is_all_that_it_remembers"),
    (M::ReadsNewer, "a_newer_state_is_started_anew_and_said_so"),
    (M::NewerSaidNothing, "a_newer_state_is_started_anew_and_said_so"),
    (M::UnwrapsState, "a_damaged_state_is_no_panic"),
    (M::OtherMoment, "the_record_names_policy_moment_and_outcome"),
    (M::NoInputs, "the_record_names_its_inputs"),
    (M::NanInput, "the_record_names_its_inputs"),
    (M::NanDecision, "the_record_survives_json"),
    (M::UnwrapsTime, "time_that_goes_back_is_no_panic"),
    (M::MissingIsZero, "missing_data_never_lowers"),
    (M::GapIsZero, "a_gap_in_the_data_never_lowers_further"),
    (M::HidesMissing, "missing_data_is_named"),
];

#[derive(Debug, Clone)]
struct Observation {
    present: u32,
    load: Result<f64, Unavailable>,
    queue: Result<f64, Unavailable>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Decision {
    replicas: u32,
    share: f64,
}

/// Remembers since when the load is low, and goes down only after a minute of it.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    low_since: Option<Timestamp>,
    #[serde(default)]
    decisions: f64,
}

struct Simple {
    mutation: Mutation,
    calls: AtomicU32,
    value: u32,
}

static VALUES: AtomicU32 = AtomicU32::new(0);

impl Policy<Observation, Decision> for Simple {
    fn name(&self) -> &str {
        "simple/1"
    }

    fn decide(
        &self,
        observation: &Observation,
        state: &PolicyState,
        now: Timestamp,
    ) -> (Explained<Decision>, PolicyState) {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        let mut note = String::new();
        let mut remembered: State = match state.read(1) {
            Ok(value) => value.unwrap_or_default(),
            Err(_) if self.mutation == M::UnwrapsState => panic!("unwrapped"),
            Err(_) if self.mutation == M::ReadsNewer => {
                state.read(state.version).unwrap().unwrap_or_default()
            }
            Err(error) => {
                if self.mutation != M::NewerSaidNothing || error.kind() != ErrorKind::Stale {
                    note = format!("; {}", error.message());
                }
                State::default()
            }
        };
        let signal = |reading: &Result<f64, Unavailable>| match (self.mutation, reading) {
            (M::MissingIsZero, Err(_)) => Ok(0.0),
            (_, reading) => *reading,
        };
        let (load, queue) = (signal(&observation.load), signal(&observation.queue));
        let present = observation.present;
        // What is missing speaks for staying.
        let stay = f64::from(present);
        let missing =
            if self.mutation == M::GapIsZero && (load.is_ok() || queue.is_ok()) { 0.0 } else { stay };
        let wanted = load.unwrap_or(missing).max(queue.unwrap_or(missing)).ceil() as u32;
        let mut replicas = present.max(wanted);
        if wanted < present {
            let since = *remembered.low_since.get_or_insert(now);
            if self.mutation == M::UnwrapsTime {
                assert!(now >= since, "time went back");
            }
            if now.since(since) >= Duration::from_secs(60) {
                replicas = wanted;
            }
        } else {
            remembered.low_since = None;
        }
        remembered.decisions += 0.1;
        if self.mutation == M::CountsCalls {
            replicas += calls % 2;
        }
        if self.mutation == M::RemembersLast {
            // Equal for equal calls in a row, and for a fresh value: only the order tells.
            let micros = (now.as_micros() / 1_000_000) as u32;
            let last = self.calls.swap(micros, Ordering::Relaxed);
            replicas += u32::from(last > micros);
        }
        if self.mutation == M::CountsValues {
            replicas += self.value;
        }
        let mut share = 0.1 + 0.2;
        if self.mutation == M::NanDecision {
            share = f64::INFINITY;
        }
        let at = if self.mutation == M::OtherMoment { now + Duration::from_secs(1) } else { now };
        let outcome = format!("from {present} to {replicas}{note}");
        let mut decided = Explained::new(self.name(), at, Decision { replicas, share }, outcome);
        for (name, reading) in [("load", observation.load), ("queue", observation.queue)] {
            let reading = match (self.mutation, reading) {
                (M::HidesMissing, Err(_)) => Ok(0.0),
                (M::NanInput, Ok(_)) => Ok(f64::NAN),
                (_, reading) => reading,
            };
            if self.mutation != M::NoInputs {
                decided = decided.with_input(Input::new(name, reading));
            }
        }
        (decided, PolicyState::new(1, &remembered).unwrap())
    }
}

struct Harness {
    mutation: Mutation,
    only: Option<&'static str>,
    blind: bool,
}

impl PolicyHarness<Observation, Decision> for Harness {
    fn policy(&self) -> Arc<dyn Policy<Observation, Decision>> {
        let value = VALUES.fetch_add(1, Ordering::Relaxed);
        Arc::new(Simple { mutation: self.mutation, calls: AtomicU32::new(0), value })
    }

    fn runs(&self) -> Vec<Vec<(Observation, Timestamp)>> {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let at = |step: usize| start + Duration::from_secs(15 * step as u64);
        let run = |loads: &[f64], present: u32| {
            let observe = |(step, load): (usize, &f64)| {
                (Observation { present, load: Ok(*load), queue: Ok(load / 2.0) }, at(step))
            };
            loads.iter().enumerate().map(observe).collect()
        };
        vec![run(&[3.0, 9.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0], 4), run(&[1.0; 12], 7), run(&[20.0], 1)]
    }

    fn wants(&self, case: &str) -> bool {
        self.only.is_none_or(|only| only == case)
    }

    fn without_data(&self, observation: &Observation) -> Option<Observation> {
        let missing = Err(Unavailable::Missing);
        self.blind.then_some(Observation { load: missing, queue: missing, ..*observation })
    }

    fn with_gaps(&self, observation: &Observation) -> Vec<Observation> {
        let stale = Err(Unavailable::Stale { last: Timestamp::EPOCH });
        let mut gaps =
            vec![Observation { load: stale, ..*observation }, Observation { queue: stale, ..*observation }];
        gaps.retain(|_| self.blind);
        gaps
    }

    fn levels(&self, observation: &Observation, decision: &Decision) -> Option<(f64, f64)> {
        Some((f64::from(decision.replicas), f64::from(observation.present)))
    }

    fn inputs(&self, _: &Observation) -> usize {
        2
    }
}

#[tokio::test(start_paused = true)]
async fn a_simple_policy_passes() {
    run(&Harness { mutation: M::None, only: None, blind: true }).await.assert_passed(&[]);
    let skips =
        ["missing_data_never_lowers", "a_gap_in_the_data_never_lowers_further", "missing_data_is_named"];
    run(&Harness { mutation: M::None, only: None, blind: false }).await.assert_passed(&skips);
}

#[tokio::test(start_paused = true)]
async fn every_mutation_is_caught_by_its_case() {
    let (mut survived, mut covered) = (Vec::new(), BTreeSet::new());
    for (mutation, case) in TABLE {
        let report = run(&Harness { mutation: *mutation, only: Some(case), blind: true }).await;
        assert_eq!(report.outcomes.len(), 1, "no case `{case}`");
        if !matches!(report.outcomes[0].verdict, Verdict::Failed(_)) {
            survived.push(format!("{mutation:?}: {report}"));
        }
        covered.insert(*case);
    }
    assert_eq!(survived, Vec::<String>::new());
    let all = run(&Harness { mutation: M::None, only: None, blind: true }).await;
    let names = all.outcomes.iter().map(|outcome| &*outcome.name);
    // What `PolicyState` can hold is JSON already, so that no policy in Rust can break it; one behind a bridge could.
    assert_eq!(names.filter(|name| !covered.contains(name)).collect::<Vec<_>>(), ["the_state_survives_json"]);
}
