//! Tools for tests of drivers and engines; none of this belongs into a running service.
//!
//! [`conformance`] holds one suite per contract. A team proves a driver of its own by running the contract's suite on it
//! and asserting on the [`Report`](conformance::Report).

pub mod conformance;
#[cfg(feature = "mock")]
pub mod mock;
