//! The requests of the admin endpoint that the contracts have no form of their own for.
//!
//! `RemoteBalancer` and `RemoteMetrics` speak this; whoever writes another client in Rust finds the same types here, and everybody else the
//! endpoint's description in `admin::OPENAPI`.

use ews_core::balancer::{ObjectKind, ObjectQuery, ObjectRef, ObserveQuery};
use ews_core::endpoint::EndpointKey;
use ews_core::id::{GatewayId, PoolId};
use ews_core::metrics::{MetricQuery, TimeRange};
use ews_core::{CapabilitySet, Timestamp};
use serde::{Deserialize, Serialize};

/// What a gateway can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// Which gateway.
    pub gateway: GatewayId,
    /// As a balancer.
    pub balancer: CapabilitySet,
    /// As a source of metrics.
    pub metrics: CapabilitySet,
}

/// An [`ObjectQuery`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ObjectsRequest {
    /// Of which kinds. Empty: all.
    #[serde(default)]
    pub kinds: Vec<ObjectKind>,
    /// Of endpoints, only those of this pool.
    #[serde(default)]
    pub pool: Option<PoolId>,
    /// Only these. Empty: all.
    #[serde(default)]
    pub only: Vec<ObjectRef>,
    /// Only after this one.
    #[serde(default)]
    pub after: Option<ObjectRef>,
    /// At most so many.
    pub limit: usize,
}

impl From<&ObjectQuery> for ObjectsRequest {
    fn from(query: &ObjectQuery) -> Self {
        Self {
            kinds: query.kinds.clone(),
            pool: query.pool.clone(),
            only: query.only.clone(),
            after: query.after.clone(),
            limit: query.limit,
        }
    }
}

impl From<ObjectsRequest> for ObjectQuery {
    fn from(request: ObjectsRequest) -> Self {
        let mut query = Self::kinds(request.kinds).limit(request.limit);
        (query.pool, query.only, query.after) = (request.pool, request.only, request.after);
        query
    }
}

/// An [`ObserveQuery`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ObserveRequest {
    /// Only this pool.
    #[serde(default)]
    pub pool: Option<PoolId>,
    /// Only these endpoints. Empty: every one.
    #[serde(default)]
    pub endpoints: Vec<EndpointKey>,
}

impl From<&ObserveQuery> for ObserveRequest {
    fn from(query: &ObserveQuery) -> Self {
        Self { pool: query.pool.clone(), endpoints: query.endpoints.clone() }
    }
}

impl From<ObserveRequest> for ObserveQuery {
    fn from(request: ObserveRequest) -> Self {
        let mut query = Self::default();
        (query.pool, query.endpoints) = (request.pool, request.endpoints);
        query
    }
}

/// A question about a moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct InstantRequest {
    /// What is asked.
    pub query: MetricQuery,
    /// The moment. Default: the gateway's now.
    #[serde(default)]
    pub at: Option<Timestamp>,
}

impl InstantRequest {
    /// This, at that moment.
    pub fn new(query: MetricQuery, at: Option<Timestamp>) -> Self {
        Self { query, at }
    }
}

/// A question about a stretch of time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RangeRequest {
    /// What is asked.
    pub query: MetricQuery,
    /// The moments.
    pub range: TimeRange,
}

impl RangeRequest {
    /// This, at those moments.
    pub fn new(query: MetricQuery, range: TimeRange) -> Self {
        Self { query, range }
    }
}

/// A question about which metrics there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DescribeRequest {
    /// Only those after this name.
    #[serde(default)]
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
}

impl DescribeRequest {
    /// So many after that name.
    pub fn new(after: Option<String>, limit: usize) -> Self {
        Self { after, limit }
    }
}
