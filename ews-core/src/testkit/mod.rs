//! Tools for tests of drivers and engines; none of this belongs into a running service.
//!
//! [`conformance`] holds one suite per contract. A team proves a driver of its own by running the contract's suite on it
//! and asserting on the [`Report`](conformance::Report). The fakes stand for drivers in tests of engines: each passes its
//! suite, and each can be made to lag, fail or hang. [`fake`] is an engine in memory, and [`VirtualClock`] the wall clock
//! that goes with tokio's paused one.

mod call_fault;
mod clock;
pub mod conformance;
pub mod fake;
pub mod fake_balancer;
mod fake_gateway;
pub mod fake_images;
pub mod fake_metrics;
pub mod fake_registry;
pub mod fake_scale;
pub mod fake_secrets;
#[cfg(feature = "mock")]
pub mod mock;
pub mod tar;

pub use call_fault::CallFault;
pub use clock::VirtualClock;
pub use fake_balancer::FakeBalancer;
pub use fake_images::FakeImages;
pub use fake_metrics::FakeMetrics;
pub use fake_registry::FakeRegistry;
pub use fake_scale::FakeScaleTarget;
pub use fake_secrets::FakeSecrets;
