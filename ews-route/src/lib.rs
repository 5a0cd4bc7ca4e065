//! Routing for EWS: the gateway, the routing centre and the drivers of other balancers.
//!
//! This crate will move traffic behind [`ews_core`]'s `Balancer` contract and never learns what a rollout is.
//! **Nothing is implemented yet**: the crate holds its place in the dependency graph.
