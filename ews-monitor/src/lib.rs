//! Monitoring for EWS: live series, traces, alerts and the log archive.
//!
//! This crate will answer [`ews_core`]'s `Metrics` queries and raise alerts; it never decides what to do about them.
//! **Nothing is implemented yet**: the crate holds its place in the dependency graph.
