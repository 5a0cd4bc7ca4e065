//! Deployment for EWS: from a source to a revision, a plan, a rollout and supervision.
//!
//! This crate will decide *what runs*, through [`ews_core`]'s contracts only, and never moves a byte of traffic itself.
//! **Nothing is implemented yet**: the crate holds its place in the dependency graph.
