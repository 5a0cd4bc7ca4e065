//! Tools for tests of drivers and engines; none of this belongs into a running service.
//!
//! [`conformance`] holds one suite per contract. A team proves a driver of its own by running the contract's suite on it
//! and asserting on the [`Report`](conformance::Report). [`fake`] is an engine in memory that engines are tested on, and
//! [`VirtualClock`] the wall clock that goes with it.

mod clock;
pub mod conformance;
pub mod fake;
pub mod tar;

pub use clock::VirtualClock;
