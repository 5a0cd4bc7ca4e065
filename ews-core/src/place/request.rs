//! What is to be placed, and what is there already.

use std::net::IpAddr;

use crate::id::{NodeId, ServiceName};
use crate::spec::ServiceSpec;
use crate::spec::network::Protocol;
use crate::spec::placement::Placement;
use crate::spec::platform::{Platform, PlatformSpec};
use crate::spec::resources::{ByteSize, Cpu};

/// What one instance of a service needs of a node.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Request {
    /// The service.
    pub service: ServiceName,
    /// CPU that is set aside. Default none.
    pub cpu: Cpu,
    /// Memory that is set aside. Default none.
    pub memory: ByteSize,
    /// What the spec needs of the platform and of isolation.
    pub platform: PlatformSpec,
    /// What the resolved image runs on, with its Windows build. Default: not known, every platform that the spec allows.
    pub image: Option<Platform>,
    /// Ports of the node that it binds.
    pub ports: Vec<HostPort>,
    /// Where it may run and how it spreads.
    pub placement: Placement,
    /// Nodes that have the image already. Default: not known.
    pub image_on: Vec<NodeId>,
}

impl Request {
    /// A service that needs nothing in particular.
    pub fn new(service: ServiceName) -> Self {
        Self {
            service,
            cpu: Cpu::default(),
            memory: ByteSize::default(),
            platform: PlatformSpec::default(),
            image: None,
            ports: Vec::new(),
            placement: Placement::default(),
            image_on: Vec::new(),
        }
    }

    /// What a spec says. The image's platform and where the image is are not in a spec: set them where they are known.
    pub fn of(spec: &ServiceSpec) -> Self {
        let instance = &spec.instance;
        let ports = instance.ports.iter().filter_map(|port| {
            let publish = port.publish.as_ref()?;
            Some(HostPort { address: publish.address, number: publish.port?, protocol: port.protocol })
        });
        Self {
            cpu: instance.resources.reserved_cpu(),
            memory: instance.resources.reserved_memory(),
            platform: instance.platform.clone(),
            ports: ports.collect(),
            placement: spec.placement.clone(),
            ..Self::new(spec.name.clone())
        }
    }

    /// Setting aside so much.
    #[must_use]
    pub fn with_resources(mut self, cpu: Cpu, memory: ByteSize) -> Self {
        self.cpu = cpu;
        self.memory = memory;
        self
    }

    /// By these rules.
    #[must_use]
    pub fn with_placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// For an image of this platform.
    #[must_use]
    pub fn with_image(mut self, image: Platform) -> Self {
        self.image = Some(image);
        self
    }

    /// For an image that these nodes have already.
    #[must_use]
    pub fn with_image_on(mut self, nodes: impl IntoIterator<Item = NodeId>) -> Self {
        self.image_on = nodes.into_iter().collect();
        self
    }

    /// What an instance of it takes up on a node.
    pub fn occupant(&self, node: NodeId) -> Occupant {
        Occupant {
            node,
            service: self.service.clone(),
            cpu: self.cpu,
            memory: self.memory,
            ports: self.ports.clone(),
        }
    }
}

/// An instance that is on a node, or on its way there: placed is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Occupant {
    /// Where.
    pub node: NodeId,
    /// Of which service.
    pub service: ServiceName,
    /// CPU that is set aside for it.
    pub cpu: Cpu,
    /// Memory that is set aside for it.
    pub memory: ByteSize,
    /// Ports of the node that it binds.
    pub ports: Vec<HostPort>,
}

impl Occupant {
    /// An instance of this service on this node that nothing is set aside for.
    pub fn new(node: NodeId, service: ServiceName) -> Self {
        Self { node, service, cpu: Cpu::default(), memory: ByteSize::default(), ports: Vec::new() }
    }

    /// With so much set aside for it.
    #[must_use]
    pub fn with_resources(mut self, cpu: Cpu, memory: ByteSize) -> Self {
        (self.cpu, self.memory) = (cpu, memory);
        self
    }

    /// Binding these ports of the node.
    #[must_use]
    pub fn with_ports(mut self, ports: impl IntoIterator<Item = HostPort>) -> Self {
        self.ports = ports.into_iter().collect();
        self
    }
}

/// A port of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct HostPort {
    /// On which address. `None`: the runtime's choice, which is taken for all.
    pub address: Option<IpAddr>,
    /// The number.
    pub number: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl HostPort {
    /// This port on whatever address the runtime chooses, which is taken for all.
    pub const fn new(number: u16, protocol: Protocol) -> Self {
        Self { address: None, number, protocol }
    }

    /// On this address alone.
    #[must_use]
    pub const fn with_address(mut self, address: IpAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// Whether both can't be bound on one node.
    pub fn clashes(&self, other: &Self) -> bool {
        let all = |address: Option<IpAddr>| address.is_none_or(|address| address.is_unspecified());
        self.number == other.number
            && self.protocol == other.protocol
            && (all(self.address) || all(other.address) || self.address == other.address)
    }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        match self.address {
            Some(address) => write!(f, "{}/{protocol}", std::net::SocketAddr::new(address, self.number)),
            None => write!(f, "{}/{protocol}", self.number),
        }
    }
}
