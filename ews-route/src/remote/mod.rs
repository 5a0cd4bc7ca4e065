//! Clients of a gateway in another process, over its [admin endpoint](crate::admin).
//!
//! In production a gateway outlives its controllers: it is a process of its own, and a controller holds a [`RemoteBalancer`]
//! and a [`RemoteMetrics`], which are the same contracts and pass the same suites.
//!
//! ```no_run
//! use ews_core::{BalancerExt as _, SecretValue};
//! use ews_route::{RemoteBalancer, RemoteConfig, RemoteMetrics};
//!
//! # async fn reach() -> ews_core::Result<()> {
//! let token = SecretValue::new("a-token-of-at-least-sixteen-bytes")?;
//! let config = RemoteConfig::new("http://127.0.0.1:7070").with_token(token);
//! let balancer = RemoteBalancer::connect(config.clone()).await?;
//! let metrics = RemoteMetrics::connect(config).await?;
//! # Ok(())
//! # }
//! ```

mod balancer;
mod client;
mod metrics;
mod watch;

pub use balancer::RemoteBalancer;
pub use client::RemoteConfig;
pub use metrics::RemoteMetrics;
