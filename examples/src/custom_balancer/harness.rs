//! How the driver proves itself: what the conformance suite needs to know of it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use ews_core::testkit::conformance::Stop;
use ews_core::testkit::conformance::balancer::BalancerHarness;
use ews_core::{Balancer, GatewayId, Result};
use tokio::sync::Mutex;

use super::{NginxBalancer, NginxConfig};

/// The suite's way to the driver.
pub struct Harness {
    config: NginxConfig,
    balancer: Mutex<Arc<NginxBalancer>>,
}

impl Harness {
    /// The cases that this driver does not claim to pass: each needs a capability that it does not declare.
    pub const SKIPS: &[&str] = &[
        "a_blackhole_that_has_ended_is_forgotten",
        "a_name_stays_a_name",
        "an_idle_endpoint_drains",
        "a_drain_waits_for_requests",
        "a_drain_closes_what_is_left",
        "a_removed_endpoint_is_listed_while_it_is_busy",
    ];

    /// Over an nginx of its own, in this directory and at this address.
    ///
    /// # Errors
    /// Those of [`NginxBalancer::open`].
    pub async fn new(root: impl Into<PathBuf>, listen: SocketAddr) -> Result<Self> {
        let config = NginxConfig::new(root, listen);
        let balancer = Mutex::new(Arc::new(NginxBalancer::open(config.clone()).await?));
        Ok(Self { config, balancer })
    }

    /// The driver as it is now.
    pub async fn driver(&self) -> Arc<NginxBalancer> {
        self.balancer.lock().await.clone()
    }

    fn sockets(&self) -> (PathBuf, PathBuf) {
        (self.config.root.join("status.sock"), self.config.root.join("status.cut"))
    }
}

#[async_trait]
impl BalancerHarness for Harness {
    async fn balancer(&self) -> Result<Arc<dyn Balancer>, Stop> {
        Ok(self.driver().await)
    }

    fn name(&self) -> String {
        "nginx".to_owned()
    }

    async fn reconnect(&self) -> Result<Arc<dyn Balancer>, Stop> {
        let mut balancer = self.balancer.lock().await;
        balancer.close().await;
        *balancer = Arc::new(NginxBalancer::open(self.config.clone()).await?);
        Ok(balancer.clone())
    }

    /// nginx serves on, and the driver does not find the socket where it asks.
    async fn cut_gateway(&self) -> Result<GatewayId, Stop> {
        let (there, away) = self.sockets();
        std::fs::rename(there, away)?;
        Ok(GatewayId::new("nginx")?)
    }

    async fn heal_gateway(&self) -> Result<(), Stop> {
        let (there, away) = self.sockets();
        Ok(std::fs::rename(away, there)?)
    }
}
