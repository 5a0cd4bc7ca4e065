//! Nodes: where instances run.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::label::{Labels, Lookup};
use crate::spec::platform::{Isolation, Platform};
use crate::spec::resources::{ByteSize, Cpu};
use crate::time::Timestamp;

/// A machine, or what a runtime presents as one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Node {
    /// Its id, the same after a restart.
    pub id: NodeId,
    /// Whether it answers.
    pub state: NodeState,
    /// What it is.
    pub platform: Platform,
    /// The ways it can isolate; the first is its default.
    pub isolation: Vec<Isolation>,
    /// What it has in all.
    pub capacity: Capacity,
    /// Its addresses, the one that other nodes should use first.
    pub addresses: Vec<IpAddr>,
    /// The engine and its version, for people: `docker 20.10.24`.
    pub engine: String,
    /// Its labels.
    pub labels: Labels,
}

impl Node {
    /// A ready node without capacity, addresses or labels.
    pub fn new(id: NodeId, platform: Platform) -> Self {
        Self {
            id,
            state: NodeState::Ready,
            platform,
            isolation: vec![Isolation::Process],
            capacity: Capacity::default(),
            addresses: Vec::new(),
            engine: String::new(),
            labels: Labels::default(),
        }
    }
}

impl Lookup for Node {
    fn lookup(&self, key: &str) -> Option<std::borrow::Cow<'_, str>> {
        if key == "ews/node" { Some(self.id.as_str().into()) } else { self.labels.lookup(key) }
    }
}

/// Whether a node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NodeState {
    /// It answers and takes instances.
    Ready,
    /// It answers, but takes no new instances.
    Cordoned,
    /// It has not answered since then. What ran there may still run.
    Unknown {
        /// Since when.
        since: Timestamp,
    },
    /// It is known to be gone: what ran there does not run any more.
    Gone,
}

/// What a node has in all. Zero means that the runtime does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Capacity {
    /// CPU time per time.
    pub cpu: Cpu,
    /// Memory.
    pub memory: ByteSize,
}

impl Capacity {
    /// So much CPU and memory.
    pub const fn new(cpu: Cpu, memory: ByteSize) -> Self {
        Self { cpu, memory }
    }
}
