//! Reference deployments of EWS: each binary beside this file composes the crates into something that runs.
//!
//! [`custom_runtime`] is what a team writes that runs services in its own way: a driver and the proof that it keeps the
//! contract.

#[cfg(unix)]
pub mod custom_runtime;

/// The README's code compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
#[cfg(target_os = "linux")]
pub mod quickstart;
