//! Sources of deployments on Debian's `docker-registry` and a real engine: what is made runs, answers, and moves to a patched base.
//!
//! Without `docker-registry` or an engine the tests say that they were skipped; `EWS_TEST_REGISTRY=required` and `EWS_TEST_DOCKER=required`
//! make that a failure.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests"
)]

#[path = "sources/artifacts.rs"]
mod artifacts;
#[path = "sources/builds.rs"]
mod builds;
#[path = "sources/processes.rs"]
mod processes;
#[path = "sources/site.rs"]
mod site;
