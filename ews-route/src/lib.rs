//! Routing for EWS: the gateway, and the clients of a gateway in another process.
//!
//! [`Gateway`] moves HTTP and TCP traffic on threads of its own: HTTP/1.1, upgrades such as WebSockets, and with the features
//! `http2` and `tls` HTTP/2 and TLS on both sides. It is a [`Balancer`](ews_core::Balancer), which takes domains,
//! routes, pools and endpoints, and a source of [`Metrics`](ews_core::Metrics), which answers for what it sees. It never
//! learns what a rollout is.
//!
//! ```text
//! changes ─▶ table ─▶ journal ─▶ snapshot ─▶ data threads ─▶ endpoints
//!                                               │
//!                        observe, watch ◀── counters ──▶ samples ──▶ metrics
//! ```
//!
//! # Where to start
//! - **You embed it**: [`Gateway::start`], and [`GatewayConfig`] for every bound and time limit.
//! - **You want it in a process of its own**: `server::run` (feature `server`) or the program `ews-gateway` (feature `bin`), with
//!   `RemoteBalancer` and `RemoteMetrics` (feature `remote`) on the other side.
//! - **You replace it without a refused connection**: `handover` (feature `handover`, on Unix).
//! - **You work on it**: the headers of [`gateway`]'s modules, from `guard` on.
//!
//! # What it does not do yet
//! HTTP/3, SNI without ending TLS. What it can't do is no capability of it, and a change that asks for it is refused with
//! `Unsupported`.

pub mod access;
#[cfg(feature = "admin")]
pub mod admin;
mod balancer;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod gateway;
#[cfg(all(unix, feature = "handover"))]
pub mod handover;
mod journal;
pub mod metrics;
#[cfg(feature = "remote")]
pub mod remote;
#[cfg(feature = "server")]
pub mod server;
#[cfg(any(feature = "admin", feature = "remote"))]
pub mod wire;

pub use access::{AccessFile, AccessFormat, AccessLog};
pub use gateway::{
    Accept, ForwardedBy, Forwarding, Gateway, GatewayBuilder, GatewayConfig, NamesConfig, RequestLimits,
    Resolver, SampleConfig, SystemResolver, TcpListen, Timeouts, UpstreamConfig,
};
#[cfg(feature = "remote")]
pub use remote::{RemoteBalancer, RemoteConfig, RemoteMetrics};
