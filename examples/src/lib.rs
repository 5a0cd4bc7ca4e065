//! Reference deployments of EWS: each binary beside this file composes the crates into something that runs.
//!
//! `embed` is the smallest embedding that is of use, `quickstart` the tour of everything, in one command. `custom_runtime`,
//! `custom_balancer` and `custom_policy` (feature `suites`) are what a team writes that does something in its own way: each with the
//! proof that it keeps the contract.

#[cfg(target_os = "linux")]
pub mod custom_balancer;
#[cfg(feature = "suites")]
pub mod custom_policy;
#[cfg(all(unix, feature = "suites"))]
pub mod custom_runtime;

/// The README's code compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

#[cfg(target_os = "linux")]
pub mod quickstart;
