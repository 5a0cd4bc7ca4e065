//! The Docker runtime against raw HTTP on the same socket, against the `docker` command, and against the engine's own statistics.
//!
//! Needs an engine on this machine, and a static busybox. The raw side sends the same requests over one kept connection and reads the answers;
//! it checks nothing, decodes nothing and knows no owner.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench that can't run says so by its panic"
)]

#[cfg(target_os = "linux")]
#[path = "docker/mod.rs"]
mod docker;

fn main() {
    #[cfg(target_os = "linux")]
    docker::main();
}
