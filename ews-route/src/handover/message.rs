//! What is said between a gateway and its successor.

use std::net::{IpAddr, SocketAddr};

use ews_core::ErrorKind;
use ews_core::balancer::{Change, GatewayView, Remembered, Stored};
use ews_core::endpoint::{EndpointAddress, EndpointKey};
use ews_core::id::{GatewayId, PoolId};
use serde::{Deserialize, Serialize};

/// What a successor says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Asks {
    /// It wants to take over the gateway of this name.
    Take { version: u32, gateway: GatewayId },
    /// What it has to know: everything that was applied, or only what no store holds.
    Tell { everything: bool },
    /// It serves.
    Ready,
    /// It has applied a change, and reached this generation by it.
    Change { generation: u64, change: Change },
}

/// What a predecessor says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Tells {
    /// It does not hand over.
    Refused { kind: ErrorKind, reason: String },
    /// What was applied ends there; the listening sockets of these addresses follow.
    Given { generation: u64, listeners: Vec<SocketAddr> },
    /// Some of what was applied.
    Objects(Vec<Stored>),
    /// The changes that are remembered, the oldest first.
    Remembered(Vec<Remembered>),
    /// Endpoints that are well by their checks.
    Well(Vec<(PoolId, EndpointKey)>),
    /// What names of endpoints stand for.
    Named(Vec<(EndpointAddress, Vec<IpAddr>)>),
    /// Nothing more is to be known.
    All,
    /// It accepts no more connections.
    Draining(Vec<GatewayView>),
    /// What it, and whoever was before it, has still under way.
    Views(Vec<GatewayView>),
}
