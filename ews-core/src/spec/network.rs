//! Ports that a program listens on, and networks that it joins.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::id::{NetworkName, PortName};

/// A port that the program listens on.
///
/// A published port is always exposed too: an engine that would ignore one without the other never gets the chance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Port {
    /// Its name, unique in the service; `PORT_<NAME>` in the environment of a runtime that allots ports.
    pub name: PortName,
    /// The number the program listens on. `None`: the runtime allots one and hands it over as `PORT_<NAME>` (and `PORT` for
    /// the first port), which only runtimes with the capability `allot_ports` can do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u16>,
    /// What is spoken. Default TCP.
    #[serde(skip_serializing_if = "super::is_default")]
    pub protocol: Protocol,
    /// How it is reached from outside the node's own networks. Default: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<Publish>,
}

impl Port {
    /// A TCP port of this number, not published.
    pub fn new(name: PortName, number: Option<u16>) -> Self {
        Self { name, number, protocol: Protocol::Tcp, publish: None }
    }

    /// Over this protocol.
    #[must_use]
    pub fn with_protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// Reachable on the node in this way.
    #[must_use]
    pub fn with_publish(mut self, publish: Publish) -> Self {
        self.publish = Some(publish);
        self
    }
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Makes a port reachable on the node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Publish {
    /// The node's address to listen on. Default: the runtime's choice, loopback where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The node's port. Default: any free one, reported as the instance's endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl Publish {
    /// On this port of the node.
    pub fn on(port: u16) -> Self {
        Self { address: None, port: Some(port) }
    }

    /// On this address of the node.
    #[must_use]
    pub fn with_address(mut self, address: IpAddr) -> Self {
        self.address = Some(address);
        self
    }
}

/// A network to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NetworkAttachment {
    /// Which network.
    pub name: NetworkName,
    /// Other names by which the instance is found there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

impl NetworkAttachment {
    /// Joins this network, without aliases.
    pub fn new(name: NetworkName) -> Self {
        Self { name, aliases: Vec::new() }
    }
}
