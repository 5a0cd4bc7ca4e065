//! The images of an engine: the conformance suite and what goes beyond it on a real engine, and what only a stand-in can show.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test"
)]

#[cfg(feature = "buildkit")]
#[path = "images/buildkit.rs"]
mod buildkit;
#[path = "images/commit.rs"]
mod commit;
#[path = "images/conformance.rs"]
mod conformance;
#[path = "images/context.rs"]
mod context;
#[path = "images/engine.rs"]
mod engine;
mod rig;
#[path = "images/troubles.rs"]
mod troubles;
