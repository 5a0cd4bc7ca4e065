//! Docker for EWS: the engine runtime, its images, and registries.
//!
//! This crate implements [`ews_core`]'s `Runtime`, `ImageStore` and `Registry` contracts over Docker Engine's API and the OCI
//! distribution API. It is the only crate that knows Docker's client.

#[cfg(feature = "registry")]
pub mod registry;
