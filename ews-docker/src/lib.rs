//! Docker for EWS: the engine runtime, its images, and registries.
//!
//! This crate implements [`ews_core`]'s `Runtime`, `ImageStore` and `Registry` contracts over Docker Engine's API and the OCI
//! distribution API. It is the only crate that knows Docker's client.

mod client;
mod config;
mod connect;
pub mod images;
mod runtime;

#[cfg(feature = "registry")]
pub mod registry;

pub use config::DockerConfig;
pub use connect::{EngineAddress, TlsFiles};
pub use images::DockerImages;
pub use runtime::{DockerRuntime, DockerRuntimeBuilder, Kept, Pruned};
