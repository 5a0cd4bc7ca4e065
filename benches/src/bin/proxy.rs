//! The gateway beside nginx and HAProxy: processor time per proxied request, each with one thread, in turn, on one machine.
//!
//! Every proxy is a process of its own, and so are the upstream and (this one) the load. What counts is the processor time
//! of the proxy's process alone: it does not depend on how fast the load generator is. `--json FILE` writes the figures.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a bench that can't run says so by its panic"
)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench talks to the person who started it")]

#[cfg(target_os = "linux")]
#[path = "proxy/mod.rs"]
mod proxy;

fn main() {
    #[cfg(target_os = "linux")]
    proxy::main();
}
