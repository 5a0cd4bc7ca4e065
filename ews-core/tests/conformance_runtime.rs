//! The fake runtime passes the suite of runtimes: with every capability, and with few.

use ews_core::capability::{Capability, CapabilitySet, RuntimeCapabilities};
use ews_core::spec::platform::Isolation;
use ews_core::testkit::conformance::Verdict;
use ews_core::testkit::conformance::runtime::{self, LogCapture};
use ews_core::testkit::fake::{FakeConfig, FakeHarness};

#[tokio::test(start_paused = true)]
async fn the_fake_passes_every_case() {
    let log = LogCapture::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let harness = FakeHarness::new(FakeConfig::default(), log);
    runtime::run(&harness).await.assert_passed(&[]);
    assert_eq!(harness.engine().objects(), 0, "the suite left instances behind");
    assert_eq!(harness.engine().processes(), 0, "the suite left processes behind");
}

/// A driver that declares next to nothing is held to just that: whatever it lacks it refuses.
#[tokio::test(start_paused = true)]
async fn a_fake_of_few_capabilities_passes_with_skips() {
    let mut few = RuntimeCapabilities::new(CapabilitySet::none().with(Capability::ImageSource));
    few.isolation = vec![Isolation::Process];
    let harness = FakeHarness::new(FakeConfig::default().with_capabilities(few), LogCapture::default());
    let report = runtime::run(&harness).await;
    report.assert_passed(&[
        "a_cpu_limit_holds",
        "a_killed_controller_leaves_nothing_it_can_not_find",
        "a_memory_limit_holds",
        "a_process_limit_holds",
        "a_terminal_carries_every_byte",
        "a_terminal_tells_its_size",
        "an_open_port_gets_a_real_number",
        "archives_of_what_is_missing_are_not_found",
        "archives_round_trip",
        "create_on_a_chosen_node",
        "dropping_a_session_ends_it",
        "exec_gives_exit_codes_and_both_outputs",
        "exec_in_what_does_not_run_is_busy",
        "exec_input_ends",
        "exec_of_a_missing_program_ends_with_126_or_127",
        "followed_logs_end_at_exit",
        "hostile_archives_are_refused",
        "logs_are_rotated",
        "logs_cut_a_long_line_into_pieces",
        "logs_keep_a_partial_last_line",
        "logs_keep_a_split_character",
        "logs_keep_order_and_both_outputs",
        "logs_since_a_moment",
        "logs_tail_the_last_lines",
        "mounts_are_seen_and_read_only_holds",
        "much_goes_through_exec_in_bounded_memory",
        "stop_ends_the_whole_tree",
        "terminate_ends_the_sessions_tree",
        "the_program_gets_exact_values",
        "usage_grows_and_knows_a_burner",
        "usage_leaves_out_what_does_not_run",
        "wait_survives_the_controller",
        // Unpublished ports lie on addresses of their own, where nothing clashes.
        "a_port_clash_is_port_in_use",
    ]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_no_case_has_is_a_failure() {
    let harness = FakeHarness::new(FakeConfig::default(), LogCapture::default());
    let report = runtime::run_only(&harness, &["nodes_answer_in_five_seconds", "no_such_case"]).await;
    let verdicts: Vec<_> = report.outcomes.iter().map(|outcome| &outcome.verdict).collect();
    assert!(matches!(verdicts.as_slice(), [Verdict::Passed, Verdict::Failed(_)]), "{report}");
}
