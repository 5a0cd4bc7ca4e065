//! Reference deployments of EWS: each binary beside this file composes the crates into something that runs.
//!
//! `quickstart` is the tour of everything, in one command. `custom_runtime` (feature `suites`) is what a team writes that runs
//! services in its own way: a driver and the proof that it keeps the contract.

#[cfg(all(unix, feature = "suites"))]
pub mod custom_runtime;

/// The README's code compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
#[cfg(target_os = "linux")]
pub mod quickstart;
