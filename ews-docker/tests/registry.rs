//! The registry client against Debian's `docker-registry`, and against a stand-in on the wire for what that can't show.
//!
//! Without `docker-registry` its tests say that they were skipped; `EWS_TEST_REGISTRY=required`, as CI sets it, makes that a failure.

#![cfg(feature = "registry")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests"
)]

#[path = "registry/behaviour.rs"]
mod behaviour;
#[path = "registry/debian.rs"]
mod debian;
#[path = "registry/hostile.rs"]
mod hostile;
#[path = "registry/model.rs"]
mod model;
#[path = "registry/pieces.rs"]
mod pieces;
#[path = "registry/standin.rs"]
mod standin;
#[path = "registry/tls.rs"]
mod tls;
