//! The Docker runtime passes the suite of runtimes on a real engine, and bears what engines do (`trouble`).

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "parts of tests, which fail by panics and say what they skip"
)]

#[path = "rig/engine.rs"]
mod engine;
#[path = "rig/harness.rs"]
mod harness;
mod made;
mod newer;
#[path = "rig/private.rs"]
mod private;
#[path = "rig/relay.rs"]
mod relay;
mod remote;
#[path = "rig/mod.rs"]
mod rig;
mod suite;
mod trouble;
