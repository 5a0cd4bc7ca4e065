//! Scaling for EWS: signals to decisions to a new count.
//!
//! This crate will decide *how many* run and where, as pure functions over [`ews_core`]'s `Metrics`, and act through
//! `ScaleTarget`. **Nothing is implemented yet**: the crate holds its place in the dependency graph.
