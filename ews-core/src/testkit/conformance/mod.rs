//! Conformance suites: what every implementation of a contract must do, as named cases that anyone can run.
//!
//! A suite takes a harness that makes the thing under test, runs its cases one after the other and returns a [`Report`].
//! A case that does not apply (the driver lacks a declared capability) is skipped by name, and
//! [`Report::assert_passed`] fails on each skip that the caller did not expect.

pub mod balancer;
pub mod clock;
mod expect;
pub mod images;
pub mod metrics;
pub mod policy;
pub mod registry;
mod report;
pub mod runtime;
pub mod scale;
pub mod secrets;
pub mod store;

pub use report::{CaseResult, Outcome, Report, Stop, Verdict, run_case};
