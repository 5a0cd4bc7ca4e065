//! Webhooks and the deploy API, with whatever a stranger may send.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what tests stand on fails where it can't go on"
)]

#[path = "../rig/mod.rs"]
mod rig;

mod api;
mod debounce;
mod fuzz;
mod hooks;
mod payloads;
mod snippet;
mod stage;
mod uploads;
