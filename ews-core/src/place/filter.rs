//! What keeps an instance off a node.

use std::fmt;

use super::ledger::Account;
use super::request::{HostPort, Request};
use super::windows::windows_fit;
use crate::node::{Node, NodeState};
use crate::selector::{Requirement, Selector};
use crate::spec::platform::{Isolation, OsVersion, Platform};
use crate::spec::resources::{ByteSize, Cpu};

/// What keeps an instance off a node. Of several, the first in this order counts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle {
    /// The node takes no new instances.
    Cordoned,
    /// The node does not answer.
    Unknown,
    /// The node is gone.
    Gone,
    /// The node is of another platform.
    Platform {
        /// What it is.
        node: Platform,
    },
    /// The image's Windows build does not run on the node's.
    WindowsBuild {
        /// The node's.
        node: OsVersion,
        /// The image's.
        image: OsVersion,
    },
    /// The node can't isolate in the wanted way.
    Isolation(Isolation),
    /// The node lacks a required label.
    Label(Selector),
    /// The node has as many instances of the service as it may have.
    MaxPerNode(u32),
    /// A port of the node is taken.
    Port(HostPort),
    /// The node has too little CPU left.
    Cpu {
        /// Needed.
        need: Cpu,
        /// Left.
        free: Cpu,
    },
    /// The node has too little memory left.
    Memory {
        /// Needed.
        need: ByteSize,
        /// Left.
        free: ByteSize,
    },
}

impl Obstacle {
    /// Whether two nodes stand in the same row of an explanation; how much is left may differ.
    pub(super) fn alike(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Cpu { .. }, Self::Cpu { .. }) | (Self::Memory { .. }, Self::Memory { .. }) => true,
            _ => self == other,
        }
    }

    /// Of two that are alike, the one that was nearer to fitting.
    pub(super) fn nearer(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Cpu { free: a, .. }, Self::Cpu { free: b, .. }) if b > a => other,
            (Self::Memory { free: a, .. }, Self::Memory { free: b, .. }) if b > a => other,
            _ => self,
        }
    }

    /// Its place in the order of the filters.
    pub(super) fn order(&self) -> u8 {
        match self {
            Self::Cordoned => 0,
            Self::Unknown => 1,
            Self::Gone => 2,
            Self::Platform { .. } => 3,
            Self::WindowsBuild { .. } => 4,
            Self::Isolation(_) => 5,
            Self::Label(_) => 6,
            Self::MaxPerNode(_) => 7,
            Self::Port(_) => 8,
            Self::Cpu { .. } => 9,
            Self::Memory { .. } => 10,
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cordoned => f.write_str("cordoned"),
            Self::Unknown => f.write_str("do not answer"),
            Self::Gone => f.write_str("gone"),
            Self::Platform { node } => write!(f, "are {node}"),
            Self::WindowsBuild { node, image } => {
                write!(f, "are of Windows build {}, the image is of build {}", node.build(), image.build())
            }
            Self::Isolation(wanted) => {
                let wanted = match wanted {
                    Isolation::None => "none",
                    Isolation::Process => "process",
                    Isolation::Hyperv => "hyperv",
                };
                write!(f, "can't isolate by `{wanted}`")
            }
            Self::Label(requirement) => write!(f, "labels are not `{requirement}`"),
            Self::MaxPerNode(most) => {
                write!(f, "have the most instances of the service that one node may have ({most})")
            }
            Self::Port(port) => write!(f, "port {port} is taken"),
            Self::Cpu { need, free } => write!(f, "not enough CPU (need {need}, largest free {free})"),
            Self::Memory { need, free } => {
                write!(f, "not enough memory (need {}, largest free {})", Size(*need), Size(*free))
            }
        }
    }
}

/// A size for people: a tenth of the largest unit that it reaches.
struct Size(ByteSize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.bytes();
        for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            let size = 1_u64 << shift;
            if bytes >= size {
                // Rounded down, so that what does not fit never looks as if it did.
                let tenths = u128::from(bytes) * 10 / u128::from(size);
                return match tenths % 10 {
                    0 => write!(f, "{}{unit}", tenths / 10),
                    rest => write!(f, "{}.{rest}{unit}", tenths / 10),
                };
            }
        }
        write!(f, "{bytes}B")
    }
}

/// What of a request is worked out once for all nodes.
pub(super) struct Filter<'a> {
    request: &'a Request,
    /// Each requirement by itself, so that an explanation names the one that is not met.
    required: Vec<Selector>,
}

impl<'a> Filter<'a> {
    pub(super) fn new(request: &'a Request) -> Self {
        let required = request.placement.require.iter().flat_map(Selector::requirements);
        let alone = |requirement: &Requirement| Selector::new([requirement.clone()]).ok();
        Self { request, required: required.filter_map(alone).collect() }
    }

    /// What holds whatever else is placed: the isolation to ask for, or what is in the way.
    pub(super) fn fixed(&self, node: &Node) -> Result<Option<Isolation>, Obstacle> {
        match node.state {
            NodeState::Ready => {}
            NodeState::Cordoned => return Err(Obstacle::Cordoned),
            NodeState::Unknown { .. } => return Err(Obstacle::Unknown),
            NodeState::Gone => return Err(Obstacle::Gone),
        }
        let image_fits = |image: &Platform| image.os == node.platform.os && image.arch == node.platform.arch;
        if !node.platform.meets(&self.request.platform) || !self.request.image.as_ref().is_none_or(image_fits)
        {
            return Err(Obstacle::Platform { node: node.platform.clone() });
        }
        let isolation = self.isolation(node)?;
        match self.required.iter().find(|requirement| !requirement.matches(node)) {
            Some(unmet) => Err(Obstacle::Label(unmet.clone())),
            None => Ok(isolation),
        }
    }

    fn isolation(&self, node: &Node) -> Result<Option<Isolation>, Obstacle> {
        let wanted = self.request.platform.isolation;
        if let Some(wanted) = wanted
            && !node.isolation.contains(&wanted)
        {
            return Err(Obstacle::Isolation(wanted));
        }
        let image = self.request.image.as_ref().and_then(|image| image.os_version);
        let (Some(host), Some(image)) = (node.platform.os_version, image) else { return Ok(wanted) };
        let fit = windows_fit(host, image);
        let fits = |isolation: Isolation| match isolation {
            Isolation::Process => fit.process,
            Isolation::Hyperv => fit.hyperv,
            Isolation::None => true,
        };
        let found = match wanted {
            Some(wanted) => fits(wanted),
            // The engine's default first; where only another one goes, it must be asked for.
            None => match node.isolation.iter().position(|isolation| fits(*isolation)) {
                Some(0) => true,
                Some(other) => return Ok(node.isolation.get(other).copied()),
                None => false,
            },
        };
        if found { Ok(wanted) } else { Err(Obstacle::WindowsBuild { node: host, image }) }
    }

    /// What depends on what is on the node by now.
    pub(super) fn room(&self, account: &Account) -> Result<(), Obstacle> {
        let request = self.request;
        if let Some(most) = request.placement.max_per_node
            && account.of_service(&request.service) >= most
        {
            return Err(Obstacle::MaxPerNode(most));
        }
        if let Some(taken) = request.ports.iter().find(|port| account.has_port(port)) {
            return Err(Obstacle::Port(*taken));
        }
        if let Some(free) = account.free_cpu()
            && free < request.cpu
        {
            return Err(Obstacle::Cpu { need: request.cpu, free });
        }
        if let Some(free) = account.free_memory()
            && free < request.memory
        {
            return Err(Obstacle::Memory { need: request.memory, free });
        }
        Ok(())
    }
}
