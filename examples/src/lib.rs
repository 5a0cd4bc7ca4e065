//! Reference deployments of EWS: each binary beside this file composes the crates into something that runs.
//!
//! `embed` is the smallest embedding that is of use, `quickstart` the tour of everything, in one command. `custom_runtime`,
//! `custom_balancer` and `custom_policy` (feature `suites`) are what a team writes that does something in its own way: each with the
//! proof that it keeps the contract. The guides in `docs` go with them.

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

/// So does the code of the guide for drivers.
#[cfg(doctest)]
#[doc = include_str!("../../docs/driver.md")]
pub struct DriverGuide;

/// And that of the guide for those who come from elsewhere.
#[cfg(doctest)]
#[doc = include_str!("../../docs/migrate.md")]
pub struct MigrationGuide;

#[cfg(target_os = "linux")]
pub mod quickstart;
