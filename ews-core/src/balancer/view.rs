//! What gateways serve and see, as opposed to what was applied.

use serde::{Deserialize, Serialize};

use crate::balancer::MemberState;
use crate::endpoint::EndpointKey;
use crate::id::{ChangeId, GatewayId, PoolId};
use crate::spec::network::Protocol;

/// What is to be observed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ObserveQuery {
    /// Only this pool. Default: every pool. A pool that nobody knows gives views without endpoints, not an error.
    pub pool: Option<PoolId>,
    /// Only these endpoints. Empty: every one.
    pub endpoints: Vec<EndpointKey>,
}

impl ObserveQuery {
    /// This endpoint of this pool.
    pub fn endpoint(pool: PoolId, endpoint: EndpointKey) -> Self {
        Self { pool: Some(pool), endpoints: vec![endpoint] }
    }
}

/// What one gateway serves and sees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GatewayView {
    /// Which gateway.
    pub gateway: GatewayId,
    /// The generation that it serves in full; `None` where it does not answer. It never falls while the gateway lives.
    pub generation: Option<u64>,
    /// What it sees of the endpoints that were asked for; empty where it does not answer, never what it saw before. An
    /// endpoint that it does not know, or that was removed and has nothing under way any more, is left out; one that was
    /// removed and still has is listed as draining.
    pub endpoints: Vec<EndpointView>,
}

impl GatewayView {
    /// A gateway that serves this generation; for drivers.
    pub fn new(gateway: GatewayId, generation: Option<u64>, endpoints: Vec<EndpointView>) -> Self {
        Self { gateway, generation, endpoints }
    }
}

/// What one gateway sees of one endpoint. Counters start at zero when the gateway learns of the endpoint, whatever was at
/// its address before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EndpointView {
    /// Its pool.
    pub pool: PoolId,
    /// Which endpoint.
    pub endpoint: EndpointKey,
    /// The transport that is counted: requests of what is spoken over TCP, datagram flows over UDP. Default TCP.
    pub protocol: Protocol,
    /// The state that the gateway acts by.
    pub state: MemberState,
    /// The weight that the gateway acts by.
    pub weight: u32,
    /// Requests or connections under way; `None` where the gateway can't count.
    pub in_flight: Option<u64>,
    /// Requests or connections so far.
    pub requests: Option<u64>,
    /// How many of them failed: no answer, or a status of 500 and above.
    pub errors: Option<u64>,
    /// Whether the gateway's own checks let it get traffic; `None` where it makes none.
    pub healthy: Option<bool>,
    /// How many requests or connections were closed by force, by [`MemberState::Closed`], since the gateway learned of the
    /// endpoint; `None` where the gateway can't count.
    pub forced: Option<u64>,
}

impl EndpointView {
    /// An endpoint of which the gateway knows only state and weight; for drivers.
    pub fn new(pool: PoolId, endpoint: EndpointKey, state: MemberState, weight: u32) -> Self {
        Self {
            pool,
            endpoint,
            protocol: Protocol::Tcp,
            state,
            weight,
            in_flight: None,
            requests: None,
            errors: None,
            healthy: None,
            forced: None,
        }
    }
}

/// Something changed at a balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BalancerEvent {
    /// A change was applied.
    Applied {
        /// Which.
        change: ChangeId,
        /// The generation reached.
        generation: u64,
    },
    /// A gateway serves this generation now.
    Serving {
        /// Which gateway.
        gateway: GatewayId,
        /// The generation.
        generation: u64,
    },
    /// A gateway's own checks changed their mind about an endpoint.
    EndpointHealth {
        /// Which gateway.
        gateway: GatewayId,
        /// Its pool.
        pool: PoolId,
        /// Which endpoint.
        endpoint: EndpointKey,
        /// Whether it may get traffic.
        healthy: bool,
    },
    /// A draining endpoint has nothing under way any more at this gateway.
    Idle {
        /// Which gateway.
        gateway: GatewayId,
        /// Its pool.
        pool: PoolId,
        /// Which endpoint.
        endpoint: EndpointKey,
    },
}
