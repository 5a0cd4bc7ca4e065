//! Deployment against the bare engine calls that it is made of and against Swarm, plans of many instances, and supervision at rest.
//!
//! It needs a Docker Engine on this machine, `busybox-static`, and the `docker` command. Without `--quick` it makes a one-node Swarm of that
//! engine for as long as it runs: take one of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::exit,
    reason = "a bench that can't run says so by its panic"
)]

#[cfg(target_os = "linux")]
#[path = "deploy/mod.rs"]
mod deploy;

fn main() {
    #[cfg(target_os = "linux")]
    deploy::main();
}
