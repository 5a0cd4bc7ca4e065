//! The suite of runtimes can fail: for each behaviour, drivers that break it and the case that catches them.
//!
//! A case that nothing here breaks would prove nothing of a driver, so the table must name every case of the suite.

mod broken;

use std::collections::BTreeSet;

use broken::{BrokenHarness, Flaw as F};
use ews_core::testkit::conformance::Verdict;
use ews_core::testkit::conformance::runtime::{self, LogCapture};

/// What is broken, the case that must fail, and a part of what it must say, so that it fails for that reason.
const TABLE: &[(F, &str, &str)] = &[
    (F::NoNodes, "nodes_answer_in_five_seconds", "there is no node"),
    (F::ExitedFromSilence, "silence_is_unknown_never_exited", "out of reach is said to be exited"),
    (F::ClaimsToSurviveTheEngine, "an_engine_restart_is_survived_as_declared", "outlive the engine"),
    (F::WaveringCapabilities, "capabilities_are_stable", "two answers"),
    (F::DropsHostNames, "what_is_not_declared_is_refused", "`hostname` succeeded"),
    (F::ClaimsUsage, "what_is_declared_is_there", "`usage` is declared and refused"),
    (F::CreateStarts, "create_does_not_start", "is running"),
    (F::CreatesTwice, "create_twice_is_one", "two creates of one key gave"),
    (F::AdoptsAnySpec, "the_same_key_with_another_spec_is_refused", "succeeded"),
    (F::TakesForeignObjects, "a_foreign_object_is_left_alone", "succeeded"),
    (F::RacyCreate, "twenty_creates_at_once_are_one", "twenty creates of one key gave"),
    (F::MissingImageIsInternal, "a_missing_image_is_named", "not with: internal"),
    (F::IgnoresPlatform, "a_wrong_platform_is_named", "succeeded"),
    (F::IgnoresNode, "create_on_a_chosen_node", "asked for node"),
    (F::FailureIsExit, "a_program_that_is_missing_is_failed_with_words", "is exited"),
    (F::StartRestarts, "start_twice_is_one_start", "gave incarnation 2"),
    (F::ForgetsIncarnations, "each_start_raises_the_incarnation", "gave incarnation 1 after 1"),
    (F::StopsWhatIsMissing, "what_is_not_there_is_not_found", "stop of what is not there succeeded"),
    (F::WrongEndpoint, "ports_are_reachable_when_running", "an answer from"),
    (F::PortClashIsBusy, "a_port_clash_is_port_in_use", "not with: "),
    (F::LaunchLeftovers, "a_port_clash_is_port_in_use", "left something behind"),
    (F::PortZero, "an_open_port_gets_a_real_number", "port 0"),
    (F::SplitsArguments, "the_program_gets_exact_values", "the arguments"),
    (F::IgnoresReadOnly, "mounts_are_seen_and_read_only_holds", "a read-only mount gave"),
    (F::IgnoresMemory, "a_memory_limit_holds", "lives with a limit"),
    (F::IgnoresCpu, "a_cpu_limit_holds", "it used 1.00"),
    (F::IgnoresPids, "a_process_limit_holds", "it started 40 children"),
    (F::KillsAtOnce, "stop_honours_the_grace_then_kills", "before its grace"),
    (F::NeverKills, "stop_honours_the_grace_then_kills", "stop did not end within"),
    (F::KillsAtOnce, "stop_lets_a_program_end_by_itself", "exits with 7 at SIGTERM"),
    (F::StopForgetsTheEnd, "stop_of_what_has_ended_is_harmless", "stop says `exit code 0`"),
    (F::ClaimsTreeKill, "stop_ends_the_whole_tree", "the daemon to end"),
    (F::ExitCodesAreZero, "exit_code_signal_and_memory_are_told_apart", "exit code 3 is reported"),
    (F::ForgetsOom, "exit_code_signal_and_memory_are_told_apart", "a kill for memory is reported"),
    (F::ForgetsOom, "a_memory_limit_holds", "that it was for memory is not said"),
    (F::AlwaysForces, "removing_what_runs_needs_force", "removing what runs succeeded"),
    (F::RemoveMissingIsNotFound, "removing_what_is_gone_is_harmless", "not_found"),
    (F::WaitBeforeStartEnds, "wait_before_during_and_after", "a wait says `unknown end`"),
    (
        F::WaitIgnoresIncarnation,
        "wait_for_an_earlier_start_is_never_the_later_ones_end",
        "the first start ended with",
    ),
    (F::WaitOfRemovedIsUnknown, "wait_for_what_is_removed_meanwhile_is_not_found", "succeeded"),
    (F::ForgetsExitsOfOthers, "wait_survives_the_controller", "the next controller hears"),
    (F::ListsAHundred, "lists_are_exact_for_many", "500 instances are listed as 100"),
    (F::DropsStderr, "logs_keep_order_and_both_outputs", "standard error came as []"),
    (F::PartialIsWhole, "logs_keep_a_partial_last_line", "came as"),
    (F::LossyText, "logs_keep_a_split_character", "a character in two writes"),
    (F::DropsPartialLines, "logs_cut_a_long_line_into_pieces", "a line of 200000 bytes came as"),
    (F::IgnoresTail, "logs_tail_the_last_lines", "a tail of 0 gave 100"),
    (F::IgnoresSince, "logs_since_a_moment", "since the time of `out 2` came"),
    (F::IgnoresLogLimits, "logs_are_rotated", "bytes are kept"),
    (F::FollowEndsAtOnce, "followed_logs_end_at_exit", "standard output came as"),
    (F::FollowNeverEnds, "followed_logs_end_at_exit", "did not end within"),
    (F::CpuInMicros, "usage_grows_and_knows_a_burner", "of CPU time, the driver 0.00 s"),
    (F::ZeroUsageOfStopped, "usage_leaves_out_what_does_not_run", "one of four runs"),
    (F::LosesExits, "every_transition_is_told", "was not told"),
    (F::HidesLag, "events_are_complete_or_a_gap_says_so", "the next event did not end within"),
    (F::EndsAtGap, "a_broken_event_stream_goes_on_with_a_gap", "the stream of events ended"),
    (F::ExecExitsWithZero, "exec_gives_exit_codes_and_both_outputs", "it exits with 7"),
    (F::ExecExitsWithZero, "exec_of_a_missing_program_ends_with_126_or_127", "ends with `exit code 0`"),
    (F::ExecStartsTheInstance, "exec_in_what_does_not_run_is_busy", "succeeded"),
    (F::ExecInputStaysOpen, "exec_input_ends", "cat with an input that ends did not end"),
    (F::TerminateDoesNothing, "terminate_ends_the_sessions_tree", "wait after terminate did not end"),
    (F::LeaksSessions, "dropping_a_session_ends_it", "the session's processes to end"),
    (F::BuffersExec, "much_goes_through_exec_in_bounded_memory", "that nobody has read, and ended"),
    (F::GuessesFrames, "a_terminal_carries_every_byte", "the bytes to come back"),
    (F::IgnoresResize, "a_terminal_tells_its_size", "43 132"),
    (F::PutArchiveDoesNothing, "archives_round_trip", "not_found"),
    (F::AcceptsHostileArchives, "hostile_archives_are_refused", "succeeded"),
    (F::MissingFileIsEmpty, "archives_of_what_is_missing_are_not_found", "succeeded"),
    (F::HangsWithTheEngine, "calls_to_a_hung_engine_end", "did not end within"),
    (F::NotDetached, "a_dropped_call_happens_once", "given up after 0 ms to happen"),
    (F::HalfMadeCreate, "a_killed_controller_leaves_nothing_it_can_not_find", "the successor's create says"),
    (F::CutsRevisions, "hostile_names_are_only_names", "is seen as"),
    (F::DropsEmptyLabels, "hostile_values_are_only_values", "came back as"),
    (F::MendsSpecs, "what_can_not_be_said_is_invalid", "succeeded"),
    (F::LogsTheEnvironment, "secrets_stay_out_of_sight", "a secret stands in the log"),
];

#[tokio::test(start_paused = true)]
async fn each_broken_driver_is_caught() {
    let mut escaped = Vec::new();
    for (flaw, case, text) in TABLE {
        let log = LogCapture::default();
        let _guard = tracing::subscriber::set_default(log.clone());
        let harness = BrokenHarness::new(*flaw, log);
        let report = runtime::run_only(&harness, &[case]).await;
        match report.outcomes.iter().map(|outcome| &outcome.verdict).collect::<Vec<_>>().as_slice() {
            [Verdict::Failed(why)] if why.contains(text) => {}
            other => escaped.push(format!("{flaw:?} is not caught by `{case}` with `{text}`: {other:?}")),
        }
    }
    assert!(escaped.is_empty(), "{} of {}:\n{}", escaped.len(), TABLE.len(), escaped.join("\n"));
}

#[test]
fn every_case_is_broken_by_something() {
    let broken: BTreeSet<&str> = TABLE.iter().map(|(_, case, _)| *case).collect();
    let all: BTreeSet<&str> = runtime::names().into_iter().map(|(_, name)| name).collect();
    assert_eq!(all.difference(&broken).collect::<Vec<_>>(), Vec::<&&str>::new(), "cases that nothing breaks");
}

#[test]
fn every_behaviour_of_the_list_has_a_case() {
    let numbers: BTreeSet<u16> = runtime::names().into_iter().filter_map(|(number, _)| number).collect();
    assert_eq!(numbers, (1..=44).collect::<BTreeSet<u16>>());
}

/// The wrapper itself breaks nothing, so that what is caught is the flaw.
#[tokio::test(start_paused = true)]
async fn the_wrapper_without_a_flaw_passes() {
    let log = LogCapture::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let harness = BrokenHarness::new(F::None, log);
    runtime::run(&harness).await.assert_passed(&[]);
}
