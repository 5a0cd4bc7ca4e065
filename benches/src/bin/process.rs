//! The process runtime against what it is made of: bare forks, execs, pipes and syncs; and what it costs at rest.
//!
//! The peer of a launch does what no launch can do without: a directory with a synced record that appears by a rename, one
//! process that starts another with pipes, and an answer that it runs. It keeps no log, watches nothing and outlives nobody.

#![allow(clippy::unwrap_used, reason = "a bench that can't run says so by its panic")]

#[cfg(target_os = "linux")]
#[path = "process/mod.rs"]
mod process;

fn main() {
    #[cfg(target_os = "linux")]
    process::main();
}
