//! Deployments on a real engine, under load through the gateway: what is planned costs no request, what is bad goes back, and an engine's own
//! turns are got over.
//!
//! Without an engine the tests say that they were skipped; `EWS_TEST_DOCKER=required` makes that a failure. They need Debian's `nginx-light`
//! and the `docker` command; the one that restarts its engine needs root and `dockerd`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests"
)]

#[path = "deploy_docker/bad.rs"]
mod bad;
#[path = "deploy_docker/controller.rs"]
mod controller;
#[path = "deploy_docker/engine.rs"]
mod engine;
#[path = "deploy_docker/fixes.rs"]
mod fixes;
#[path = "deploy_docker/images.rs"]
mod images;
#[path = "deploy_docker/load.rs"]
mod load;
#[path = "deploy_docker/others.rs"]
mod others;
#[path = "deploy_docker/planned.rs"]
mod planned;
#[path = "deploy_docker/restarted.rs"]
mod restarted;
#[path = "deploy_docker/stage.rs"]
mod stage;
