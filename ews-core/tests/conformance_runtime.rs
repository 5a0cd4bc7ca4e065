//! The fake runtime passes the suite of runtimes: with every capability, and with few.

#[macro_use]
mod layered;

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use ews_core::capability::{Capability, CapabilitySet, RuntimeCapabilities};
use ews_core::spec::platform::Isolation;
use ews_core::testkit::conformance::Verdict;
use ews_core::testkit::conformance::runtime::{
    self, Disturbance, LogCapture, RuntimeHarness, SuiteLimits, Workload,
};
use ews_core::testkit::fake::{FakeConfig, FakeHarness};
use ews_core::{InstanceKey, InstanceSpec, OwnerId, Result, Runtime, SecretRef};
use layered::Over;

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

/// The fake's harness, which hands out its driver behind a layer.
struct Behind {
    inner: FakeHarness,
    over: Over,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RuntimeHarness for Behind {
    async fn connect(&self) -> Result<Arc<dyn Runtime>> {
        let driver = self.inner.connect().await?;
        Ok(behind!(self.over, driver))
    }

    fn workload(&self, workload: &Workload) -> Option<InstanceSpec> {
        self.inner.workload(workload)
    }

    fn command(&self, workload: &Workload) -> Option<Vec<String>> {
        self.inner.command(workload)
    }

    fn name(&self) -> String {
        format!("{} behind {:?}", self.inner.name(), self.over)
    }

    fn limits(&self) -> SuiteLimits {
        self.inner.limits()
    }

    fn tries_for_memory(&self) -> u32 {
        self.inner.tries_for_memory()
    }

    fn run_id(&self) -> String {
        self.inner.run_id()
    }

    async fn disturb(&self, disturbance: Disturbance) -> bool {
        self.inner.disturb(disturbance).await
    }

    async fn heal(&self) {
        self.inner.heal().await;
    }

    async fn kill_controller(&self) -> bool {
        self.inner.kill_controller().await
    }

    async fn plant_foreign(&self, key: &InstanceKey) -> bool {
        self.inner.plant_foreign(key).await
    }

    async fn foreign_is_intact(&self, key: &InstanceKey) -> bool {
        self.inner.foreign_is_intact(key).await
    }

    async fn leftovers(&self, owner: &OwnerId) -> Option<usize> {
        self.inner.leftovers(owner).await
    }

    async fn marked_processes(&self, mark: &str) -> Option<usize> {
        self.inner.marked_processes(mark).await
    }

    async fn dial(&self, address: SocketAddr) -> Result<()> {
        self.inner.dial(address).await
    }

    fn free_port(&self) -> Option<u16> {
        self.inner.free_port()
    }

    fn secret(&self) -> Option<(SecretRef, String)> {
        self.inner.secret()
    }

    fn captured_log(&self) -> Option<String> {
        self.inner.captured_log()
    }

    fn bind_directory(&self) -> Option<String> {
        self.inner.bind_directory()
    }

    fn scratch_directory(&self) -> String {
        self.inner.scratch_directory()
    }

    async fn cleanup(&self, owner: &OwnerId) {
        self.inner.cleanup(owner).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_fake_passes_behind_each_layer() {
    for over in [Over::Nothing].into_iter().chain(Over::ALL) {
        let log = LogCapture::default();
        let _guard = tracing::subscriber::set_default(log.clone());
        let inner = FakeHarness::new(FakeConfig::default(), log);
        let harness = Behind { inner, over };
        let report = runtime::run(&harness).await;
        assert_eq!(report.problems(&[]), Vec::<String>::new(), "behind {over:?}");
        assert_eq!(harness.inner.engine().objects(), 0, "behind {over:?} the suite left instances");
    }
}
