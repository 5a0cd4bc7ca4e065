//! The suite of runtimes on a real engine: whole over its socket, and in good part over ports and behind every layer of ews-core.
//!
//! Most cases wait most of the time, and each has names of its own, so several run at once: each lane has a harness of its own, with
//! its own connection to disturb and its own controller to kill.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ews_core::Runtime;
use ews_core::layer::{
    Around, CapabilityCheck, ConcurrencyLimit, Deadline, Layered, RetryLayer, Trace, stack,
};
use ews_core::testkit::conformance::Report;
use ews_core::testkit::conformance::runtime;

use crate::engine;
use crate::harness::{Harness, Way};

/// How many cases run at once.
const LANES: usize = 3;

/// Those that take longest: begun first, so that none of them is alone in the end.
const LONG: [&str; 4] = [
    "a_killed_controller_leaves_nothing_it_can_not_find",
    "calls_to_a_hung_engine_end",
    "a_dropped_call_happens_once",
    "much_goes_through_exec_in_bounded_memory",
];

/// Runs these cases, several at a time, and gives one report in their order.
pub(crate) fn in_lanes(cases: &[&'static str], harness: impl Fn(&str) -> Harness + Sync) -> Report {
    let mut order: Vec<(usize, &'static str)> = cases.iter().copied().enumerate().collect();
    order.sort_by_key(|(_, name)| LONG.iter().position(|long| long == name).unwrap_or(LONG.len()));
    let (waiting, done) = (Mutex::new(VecDeque::from(order)), Mutex::new(Vec::new()));
    let (name, total) = (Mutex::new(String::new()), std::time::Instant::now());
    let lane = || {
        let tasks = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        loop {
            let Some((index, case)) = waiting.lock().unwrap().pop_front() else { return };
            let began = std::time::Instant::now();
            let harness = harness(case);
            let report = tasks.block_on(runtime::run_only(&harness, &[case]));
            println!("{:6.1} s  {case}", began.elapsed().as_secs_f64());
            *name.lock().unwrap() = report.suite.into_owned();
            done.lock().unwrap().extend(report.outcomes.into_iter().map(|outcome| (index, outcome)));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(lane);
        }
    });
    let mut outcomes = done.into_inner().unwrap();
    outcomes.sort_by_key(|(index, _)| *index);
    let mut report = Report::new(name.into_inner().unwrap());
    report.outcomes = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
    println!("{report}\nin {:.1} s", total.elapsed().as_secs_f64());
    report
}

/// Those that call a container through a port that the engine publishes.
const CALLING: [&str; 3] =
    ["ports_are_reachable_when_running", "a_port_clash_is_port_in_use", "an_open_port_gets_a_real_number"];

/// Without those that can't be told where not even what `docker run -p` publishes answers, which CI finds out beforehand.
fn within_reach(cases: &[&'static str]) -> Vec<&'static str> {
    let unreachable = std::env::var("EWS_TEST_PUBLISHED").is_ok_and(|value| value == "unreachable");
    let (left_out, kept) = cases.iter().partition(|case| unreachable && CALLING.contains(case));
    let left_out: Vec<&str> = left_out;
    if !left_out.is_empty() {
        println!("skipped, as EWS_TEST_PUBLISHED=unreachable says: {}", left_out.join(", "));
    }
    kept
}

fn on(socket: &Path, case: &str) -> Harness {
    let harness = Harness::new(socket.to_owned(), Way::Socket);
    patient(harness, case)
}

/// What is asked of an engine that hangs takes as long as it may.
pub(crate) fn patient(harness: Harness, case: &str) -> Harness {
    if case == "calls_to_a_hung_engine_end" { harness.within(Duration::from_secs(3)) } else { harness }
}

#[test]
fn the_docker_runtime_passes_the_suite() {
    let Some(socket) = engine::socket() else { return };
    let only = std::env::var("EWS_TEST_CASE").unwrap_or_default();
    let all = runtime::names().into_iter().map(|(_, name)| name);
    let cases: Vec<_> =
        all.filter(|name| only.is_empty() || only.split(',').any(|only| only == *name)).collect();
    let cases = within_reach(&cases);
    let report = in_lanes(&cases, |case| on(&socket, case));
    // Restarting somebody's engine is not this test's affair; `trouble` has one of its own.
    let skipped = ["an_engine_restart_is_survived_as_declared"];
    report.assert_passed(if only.is_empty() { &skipped } else { &[] });
}

/// What the whole stack is tried with: every call of the contract, and what a layer could get wrong in each: streams, sessions, refusals,
/// repetitions, givings-up. Left out are the cases about what happens inside a container, which no layer sees.
const LAYERED: [&str; 20] = [
    "calls_to_a_hung_engine_end",
    "silence_is_unknown_never_exited",
    "what_is_not_declared_is_refused",
    "what_is_declared_is_there",
    "twenty_creates_at_once_are_one",
    "the_same_key_with_another_spec_is_refused",
    "a_missing_image_is_named",
    "what_is_not_there_is_not_found",
    "start_twice_is_one_start",
    "a_port_clash_is_port_in_use",
    "stop_of_what_has_ended_is_harmless",
    "removing_what_runs_needs_force",
    "wait_for_what_is_removed_meanwhile_is_not_found",
    "a_broken_event_stream_goes_on_with_a_gap",
    "followed_logs_end_at_exit",
    "usage_leaves_out_what_does_not_run",
    "exec_input_ends",
    "terminate_ends_the_sessions_tree",
    "archives_round_trip",
    "hostile_archives_are_refused",
];

/// What each layer alone is tried with.
const EACH: [&str; 4] = [
    "twenty_creates_at_once_are_one",
    "a_broken_event_stream_goes_on_with_a_gap",
    "exec_input_ends",
    "archives_round_trip",
];

fn alone<A: Around + Default>(runtime: Arc<dyn Runtime>) -> Arc<dyn Runtime> {
    Arc::new(Layered::new(runtime, A::default()))
}

#[test]
fn the_docker_runtime_passes_behind_every_layer() {
    let Some(socket) = engine::socket() else { return };
    let whole = |runtime: Arc<dyn Runtime>| -> Arc<dyn Runtime> { Arc::new(stack(runtime)) };
    in_lanes(&within_reach(&LAYERED), |case| on(&socket, case).behind(whole)).assert_passed(&[]);
    for layer in [
        alone::<Trace>,
        alone::<CapabilityCheck>,
        alone::<RetryLayer>,
        alone::<ConcurrencyLimit>,
        alone::<Deadline>,
    ] {
        in_lanes(&EACH, |case| on(&socket, case).behind(layer)).assert_passed(&[]);
    }
}
