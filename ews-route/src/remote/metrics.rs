//! The metrics of a gateway in another process.

use std::sync::Arc;

use async_trait::async_trait;
use ews_core::metrics::{Answer, MetricInfo, MetricQuery, Metrics, Reading, TimeRange};
use ews_core::{CapabilitySet, Result, Timestamp};

use super::client::{Client, Kind, RemoteConfig};
use crate::wire::{Capabilities, DescribeRequest, InstantRequest, RangeRequest};

/// A source of metrics that asks a gateway's admin endpoint. Clones share their connections.
#[derive(Clone)]
pub struct RemoteMetrics {
    client: Arc<Client>,
    capabilities: CapabilitySet,
}

impl std::fmt::Debug for RemoteMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteMetrics").finish_non_exhaustive()
    }
}

impl RemoteMetrics {
    /// Asks the gateway what it can do.
    ///
    /// # Errors
    /// `Invalid` for an address that can't be used; `Unauthorized`; `Unavailable` where it can't be reached.
    pub async fn connect(config: RemoteConfig) -> Result<Self> {
        let client = Arc::new(Client::new(&config)?);
        let known: Capabilities = client.get("metrics.connect", "/v1/capabilities").await?;
        Ok(Self::of(client, known.metrics))
    }

    pub(super) fn of(client: Arc<Client>, capabilities: CapabilitySet) -> Self {
        Self { client, capabilities }
    }
}

#[async_trait]
impl Metrics for RemoteMetrics {
    fn capabilities(&self) -> CapabilitySet {
        self.capabilities.clone()
    }

    async fn describe(&self, after: Option<String>, limit: usize) -> Result<Vec<MetricInfo>> {
        let request = DescribeRequest { after, limit };
        self.client.post("metrics.describe", "/v1/metrics/describe", &request, Kind::Reads).await
    }

    async fn instant(&self, query: &MetricQuery, at: Option<Timestamp>) -> Result<Answer<Reading>> {
        let request = InstantRequest { query: query.clone(), at };
        self.client.post("metrics.instant", "/v1/metrics/instant", &request, Kind::Reads).await
    }

    async fn range(&self, query: &MetricQuery, range: &TimeRange) -> Result<Answer<Vec<Reading>>> {
        let request = RangeRequest { query: query.clone(), range: *range };
        self.client.post("metrics.range", "/v1/metrics/range", &request, Kind::Reads).await
    }
}
