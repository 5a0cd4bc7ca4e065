//! What a fake engine is like: its nodes, its capabilities, its speed.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use crate::capability::{Capability, CapabilitySet, Enforcement, RuntimeCapabilities};
use crate::clock::Clock;
use crate::error::Result;
use crate::id::NodeId;
use crate::label::Labels;
use crate::node::{Capacity, Node};
use crate::secrets::Secrets;
use crate::spec::platform::{Arch, Isolation, Os, Platform};
use crate::spec::resources::{ByteSize, Cpu};
use crate::testkit::VirtualClock;

/// What a [`FakeEngine`](super::FakeEngine) is like.
#[derive(Clone)]
#[non_exhaustive]
pub struct FakeConfig {
    /// Its nodes. Default: `n1` to `n3` in zones `a`, `b`, `c`, each of 64 CPUs and 256 GiB.
    pub nodes: Vec<Node>,
    /// What it declares and holds to. Default: everything that a runtime can declare, except an image store.
    ///
    /// Without `tree_kill`, daemons outlive their instance; without `survives_engine`, programs end with the engine.
    pub capabilities: RuntimeCapabilities,
    /// Its wall clock. Default: a [`VirtualClock`].
    pub clock: Arc<dyn Clock>,
    /// Where secrets come from. Default: nowhere; a spec with a secret is refused with `NotFound`.
    pub secrets: Option<Arc<dyn Secrets>>,
    /// How long a create takes. Default 5 ms, about what Docker takes.
    pub create_time: Duration,
    /// How long a start takes. Default 50 ms.
    pub start_time: Duration,
    /// How long the driver waits for the engine's answer, beyond what a call takes by its own nature. Default 30 s.
    pub call_limit: Duration,
    /// How many events wait for one consumer before it lags. Default 256, what Docker keeps.
    pub event_capacity: usize,
    /// The seed of everything that is drawn. Default 1.
    pub seed: u64,
}

impl FakeConfig {
    /// A ready Linux node of 64 CPUs and 256 GiB; `number` goes into its address `10.0.0.<number>` and its zone.
    ///
    /// # Errors
    /// `Invalid` for what is no node id.
    pub fn node(id: &str, number: u8) -> Result<Node> {
        let mut node = Node::new(NodeId::new(id)?, Platform::new(Os::Linux, Arch::Amd64));
        node.capacity = Capacity::new(Cpu::from_millis(64_000), ByteSize::from_mib(256 * 1024));
        node.addresses = vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, number))];
        node.engine = "fake 1".to_owned();
        let zone = char::from(b'a' + number.saturating_sub(1) % 26);
        node.labels = Labels::new([("zone", zone.to_string())])?;
        Ok(node)
    }

    /// So many nodes, `n1` and on; at most 250.
    #[must_use]
    pub fn with_nodes(mut self, count: u8) -> Self {
        self.nodes = (1..=count.min(250)).filter_map(|n| Self::node(&format!("n{n}"), n).ok()).collect();
        self
    }

    /// Declares and holds to these.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: RuntimeCapabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// Takes secrets from here.
    #[must_use]
    pub fn with_secrets(mut self, secrets: Arc<dyn Secrets>) -> Self {
        self.secrets = Some(secrets);
        self
    }

    /// Everything that a runtime can declare, except an image store, with every limit enforced.
    pub fn every_capability() -> RuntimeCapabilities {
        // The list of capabilities begins with those of runtimes.
        let runtimes = Capability::ALL.iter().copied().take_while(|c| *c != Capability::ImageBuild);
        let features = runtimes.collect::<CapabilitySet>().without(Capability::ImageStore);
        let mut capabilities = RuntimeCapabilities::new(features);
        capabilities.cpu = Enforcement::Hard;
        capabilities.memory = Enforcement::Hard;
        capabilities.pids = Enforcement::Hard;
        capabilities.isolation = vec![Isolation::Process, Isolation::Hyperv, Isolation::None];
        capabilities
    }
}

impl Default for FakeConfig {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            capabilities: Self::every_capability(),
            clock: Arc::new(VirtualClock::default()),
            secrets: None,
            create_time: Duration::from_millis(5),
            start_time: Duration::from_millis(50),
            call_limit: Duration::from_secs(30),
            event_capacity: 256,
            seed: 1,
        }
        .with_nodes(3)
    }
}

impl std::fmt::Debug for FakeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeConfig").field("nodes", &self.nodes.len()).finish_non_exhaustive()
    }
}
