//! Policies of one's own: how many instances run, and what is done about a failure.
//!
//! A policy is a pure function from what is seen, what it remembers and the time to a decision with its reasons. It reads no clock and no
//! network, so that the live loop, a dry run, a replay and a test run the same code.
//!
//! | File | What |
//! |---|---|
//! | `staircase` | counts by thresholds, for a service whose capacity is known by experience |
//! | `patience` | what is tried again, what waits for somebody, and what goes back |
//! | `harness` | how the conformance suite drives both |
//! | `show` | both in action: over a day's load in a replay, and in the live loops over the fakes |

mod harness;
mod patience;
mod show;
mod staircase;

pub use harness::{PatienceHarness, StaircaseHarness};
pub use patience::Patience;
pub use show::{compared, day, followed, retried, staircase_for};
pub use staircase::Staircase;
