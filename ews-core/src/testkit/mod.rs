//! Tools for tests of drivers and engines; none of this belongs into a running service.
//!
//! [`conformance`] holds one suite per contract. A team proves a driver of its own by running the contract's suite on it
//! and asserting on the [`Report`](conformance::Report). The fakes stand for drivers in tests of engines: each passes its
//! suite, and each can be made to lag, fail or hang.

mod call_fault;
pub mod conformance;
pub mod fake_balancer;
mod fake_gateway;
#[cfg(feature = "mock")]
pub mod mock;

pub use call_fault::CallFault;
pub use fake_balancer::FakeBalancer;
