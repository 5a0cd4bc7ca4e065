//! The prober: one for gates, supervision and a balancer's active checks, so that none of them has its own idea of healthy.
//!
//! Three parts. [`thresholds`] is a pure state machine: from single outcomes to a [`Status`] that changes only after
//! enough of them in a row. [`check`] makes one try: HTTP, TCP, a command, the engine's own word. [`prober`] is the shell:
//! it makes tries for thousands of instances in time, some at once, and publishes [`Transition`]s on a
//! [`Bus`](crate::bus::Bus).
//!
//! A try passes, fails or *says nothing*: an engine that can't be asked, a check of the engine's own that has not made up
//! its mind. What says nothing moves no threshold, neither way: it opens no gate, and it restarts nothing because an engine
//! blinked.

pub mod check;
mod http;
pub mod prober;
pub mod thresholds;

pub use check::{Checker, Outcome, StandardChecker, Target, Verdict};
pub use http::http_over;
pub use prober::{Probed, Prober, ProberConfig, State};
pub use thresholds::{ProbeKind, Startup, Status, Thresholds, Transition};
