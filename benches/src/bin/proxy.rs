//! The gateway beside nginx and HAProxy: processor time per proxied request, each with one thread, in turn, on one machine.
//!
//! Every proxy is a process of its own, and so are the upstream and (this one) the load. What counts is the processor time
//! of the proxy's process alone: it does not depend on how fast the load generator is. Ours has 100,000 domains, checks its
//! upstream and samples its metrics; the peers do what they can of that. HAProxy as a relay that reads nothing is the floor.
//!
//! `--json FILE` writes the figures, `--case NAME` measures one case, `--quick` is for a look and for CI. Without it the exit
//! code says whether all holds that must: a small request at most 1.15 × nginx and 1.05 × HAProxy, all else 1.3 × nginx.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
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
