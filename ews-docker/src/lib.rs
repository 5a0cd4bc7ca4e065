//! Docker for EWS: the engine runtime, the Swarm runtime, images and registries.
//!
//! This crate will implement [`ews_core`]'s `Runtime`, `ImageStore` and `Registry` contracts over Docker Engine's
//! API. It is the only crate that may know Docker's client. **Nothing is implemented yet**: the crate holds its place in
//! the dependency graph.
