//! How the driver proves itself: what the conformance suite needs to know of it.

use std::sync::Arc;

use async_trait::async_trait;
use ews_core::spec::source::{ArtifactSource, Source};
use ews_core::testkit::conformance::runtime::{RuntimeHarness, Workload, processes_with};
use ews_core::{InstanceSpec, Result, Runtime};

use super::ProcessRuntime;

/// The suite's way to the driver.
pub struct Harness(Arc<ProcessRuntime>);

impl Harness {
    /// Over a driver of its own.
    ///
    /// # Errors
    /// Those of [`ProcessRuntime::new`].
    pub fn new() -> Result<Self> {
        Ok(Self(Arc::new(ProcessRuntime::new()?)))
    }

    /// The cases that this driver does not claim to pass: each needs a capability that it does not declare, or a hook that
    /// it has no use for.
    pub const SKIPS: &[&str] = &[
        "silence_is_unknown_never_exited",
        "an_engine_restart_is_survived_as_declared",
        "a_foreign_object_is_left_alone",
        "a_missing_image_is_named",
        "a_wrong_platform_is_named",
        "create_on_a_chosen_node",
        "an_open_port_gets_a_real_number",
        "mounts_are_seen_and_read_only_holds",
        "a_memory_limit_holds",
        "a_cpu_limit_holds",
        "a_process_limit_holds",
        "stop_ends_the_whole_tree",
        "wait_survives_the_controller",
        "usage_grows_and_knows_a_burner",
        "usage_leaves_out_what_does_not_run",
        "a_broken_event_stream_goes_on_with_a_gap",
        "exec_gives_exit_codes_and_both_outputs",
        "exec_of_a_missing_program_ends_with_126_or_127",
        "exec_in_what_does_not_run_is_busy",
        "exec_input_ends",
        "terminate_ends_the_sessions_tree",
        "dropping_a_session_ends_it",
        "much_goes_through_exec_in_bounded_memory",
        "a_terminal_carries_every_byte",
        "a_terminal_tells_its_size",
        "archives_round_trip",
        "hostile_archives_are_refused",
        "archives_of_what_is_missing_are_not_found",
        "calls_to_a_hung_engine_end",
        "a_killed_controller_leaves_nothing_it_can_not_find",
    ];
}

#[async_trait]
impl RuntimeHarness for Harness {
    async fn connect(&self) -> Result<Arc<dyn Runtime>> {
        // The driver is its own engine: a second handle is the same one.
        Ok(self.0.clone())
    }

    fn workload(&self, workload: &Workload) -> Option<InstanceSpec> {
        workload.over(InstanceSpec::new(Source::Artifact(ArtifactSource::new("/bin/sh"))))
    }

    fn name(&self) -> String {
        "child processes".to_owned()
    }

    async fn marked_processes(&self, mark: &str) -> Option<usize> {
        processes_with(mark)
    }
}
