//! Programs of others, which know nothing of EWS: each is deployed, probed, routed, updated under load, hotfixed, rolled back, killed and
//! removed, on plain processes and on a Docker Engine.
//!
//! All of them go the same [journey](journey), and what differs is said in one module for each: nginx, Python, redis, caddy, PostgreSQL and
//! Tomcat, as Debian packs them. Where a program is not installed its tests say that they were skipped; `EWS_TEST_SERVERS=required` makes
//! that a failure, as `EWS_TEST_DOCKER=required` does where no engine answers.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests"
)]

#[path = "third_party/ask.rs"]
mod ask;
#[path = "third_party/caddy.rs"]
mod caddy;
#[path = "third_party/ground.rs"]
mod ground;
#[path = "third_party/image.rs"]
mod image;
#[path = "third_party/journey.rs"]
mod journey;
#[path = "third_party/load.rs"]
mod load;
#[path = "third_party/nginx.rs"]
mod nginx;
#[path = "third_party/postgres.rs"]
mod postgres;
#[path = "third_party/program.rs"]
mod program;
#[path = "third_party/python.rs"]
mod python;
#[path = "third_party/redis.rs"]
mod redis;
#[path = "third_party/tomcat.rs"]
mod tomcat;
#[path = "third_party/war.rs"]
mod war;
