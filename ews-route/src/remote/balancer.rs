//! The balancer of a gateway in another process.

use std::sync::Arc;

use async_trait::async_trait;
use ews_core::balancer::{
    Applied, Balancer, BalancerEvent, Change, GatewayView, ObjectQuery, ObserveQuery, Stored,
};
use ews_core::event::Notice;
use ews_core::id::GatewayId;
use ews_core::{CapabilitySet, Result, detach};
use futures_core::stream::BoxStream;

use super::client::{Client, Kind, RemoteConfig};
use super::{metrics::RemoteMetrics, watch};
use crate::wire::{Capabilities, ObjectsRequest, ObserveRequest};

/// A balancer that speaks to a gateway's admin endpoint. Clones share their connections.
///
/// Calls need a tokio runtime. What the gateway can do is asked once, when it is connected.
#[derive(Clone)]
pub struct RemoteBalancer {
    client: Arc<Client>,
    known: Capabilities,
}

impl std::fmt::Debug for RemoteBalancer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteBalancer").field("gateway", &self.known.gateway).finish_non_exhaustive()
    }
}

impl RemoteBalancer {
    /// Asks the gateway what it can do.
    ///
    /// # Errors
    /// `Invalid` for an address that can't be used; `Unauthorized`; `Unavailable` where it can't be reached.
    pub async fn connect(config: RemoteConfig) -> Result<Self> {
        let client = Arc::new(Client::new(&config)?);
        let known = client.get("balancer.connect", "/v1/capabilities").await?;
        Ok(Self { client, known })
    }

    /// The gateway's name.
    pub fn gateway(&self) -> &GatewayId {
        &self.known.gateway
    }

    /// The metrics of the same gateway, over the same connections.
    pub fn metrics(&self) -> RemoteMetrics {
        RemoteMetrics::of(self.client.clone(), self.known.metrics.clone())
    }
}

#[async_trait]
impl Balancer for RemoteBalancer {
    fn capabilities(&self) -> CapabilitySet {
        self.known.balancer.clone()
    }

    async fn apply(&self, change: &Change) -> Result<Applied> {
        let (client, change) = (self.client.clone(), change.clone());
        // A request that is cut off in the midst would be none; so it goes on when nobody waits any more.
        detach(
            async move { client.post("balancer.apply", "/v1/balancer/apply", &change, Kind::Changes).await },
        )
        .await
    }

    async fn objects(&self, query: &ObjectQuery) -> Result<Vec<Stored>> {
        let request = ObjectsRequest::from(query);
        self.client.post("balancer.objects", "/v1/balancer/objects", &request, Kind::Reads).await
    }

    async fn observe(&self, query: &ObserveQuery) -> Result<Vec<GatewayView>> {
        let request = ObserveRequest::from(query);
        self.client.post("balancer.observe", "/v1/balancer/observe", &request, Kind::Reads).await
    }

    async fn watch(&self) -> Result<BoxStream<'static, Notice<BalancerEvent>>> {
        watch::watch(self.client.clone()).await.map_err(|error| error.with_operation("balancer.watch"))
    }
}
