//! Endpoints: where a port of an instance is reached, and by whom.

mod address;

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use address::{EndpointAddress, HostName};

use crate::id::{InstanceId, PortName};
use crate::instance::Incarnation;
use crate::spec::network::Protocol;

/// What tells endpoints apart.
///
/// It names the incarnation, so that whoever gets the same address next can't inherit traffic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointKey {
    /// The instance.
    pub instance: InstanceId,
    /// Which of its starts.
    pub incarnation: Incarnation,
    /// The port's name.
    pub port: PortName,
}

impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}:{}", self.instance, self.incarnation, self.port)
    }
}

/// Where a port of an instance is reached. Instances are at addresses; a pool's endpoint may be at an [`EndpointAddress`],
/// which may be a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint<A = SocketAddr> {
    /// What it belongs to.
    pub key: EndpointKey,
    /// The address to connect to.
    pub address: A,
    /// What is spoken.
    pub protocol: Protocol,
    /// From where the address is reached.
    pub scope: Scope,
}

impl From<Endpoint> for Endpoint<EndpointAddress> {
    fn from(endpoint: Endpoint) -> Self {
        let Endpoint { key, address, protocol, scope } = endpoint;
        Self { key, address: address.into(), protocol, scope }
    }
}

/// From where an address is reached, the narrowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Scope {
    /// Only from the node itself, over loopback.
    Loopback,
    /// From the node and from instances on the same network of the engine.
    Bridge,
    /// From the node's own networks, at an address of the node.
    Host,
    /// From every node.
    Routable,
}
