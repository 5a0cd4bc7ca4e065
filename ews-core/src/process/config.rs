//! What a process runtime is told when it is opened.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::id::NodeId;
use crate::label::Labels;
use crate::secrets::Secrets;

/// What a [`ProcessRuntime`](super::ProcessRuntime) is told when it is opened.
///
/// ```no_run
/// use ews_core::process::{ProcessConfig, ProcessRuntime, ShimProgram};
///
/// # async fn open() -> ews_core::Result<()> {
/// let config = ProcessConfig::new("/var/lib/shop/ews").with_ports(21_000..=21_999)?;
/// let runtime = ProcessRuntime::open(config).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct ProcessConfig {
    /// The directory that everything is kept in; made where it is missing. It must belong to the user that runs this
    /// program and be writable by nobody else. One runtime at a time has it.
    pub root: PathBuf,
    /// The name of this machine. Default none: `local`.
    pub node: Option<NodeId>,
    /// Labels of this machine. Default none.
    pub labels: Labels,
    /// The program that stays with each instance. Default [`ShimProgram::Current`].
    pub shim: ShimProgram,
    /// The ports that are allotted where a spec names none. Default 20000 to 32000, Nomad's: below the range from which
    /// Linux takes ports for outgoing connections, which begins at 32768.
    pub ports: RangeInclusive<u16>,
    /// The address under which endpoints are told. Default none: loopback, with the scope that says so. Set it where others
    /// reach this machine, and the programs listen on that address too.
    pub advertise: Option<IpAddr>,
    /// The variables of this program's environment that instances get; all others they don't. Default: `PATH`, the locale
    /// and the time zone, and on Windows what a program needs to start at all.
    pub inherit: Vec<String>,
    /// Resolves the secrets that specs name. Default none: a spec with a secret is refused.
    pub secrets: Option<Arc<dyn Secrets>>,
    /// Where instances' control groups are made (Linux). Default [`Cgroups::Auto`].
    pub cgroups: Cgroups,
    /// The most bytes that an artifact may have once it is unpacked. Default 16 GiB.
    pub max_artifact: u64,
    /// How many events wait for a slow reader before it is told of a gap. Default 1,024.
    pub events: usize,
    /// How long opening waits for a predecessor that still has the directory. Default 5 s.
    pub takeover: Duration,
    /// How long a call waits for an answer of an instance's shim. Default 10 s.
    pub call_limit: Duration,
}

/// The program that stays with each instance and outlives the controller.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ShimProgram {
    /// This program itself, which must call [`shim_entry`](super::shim_entry) as the first line of its `main`.
    #[default]
    Current,
    /// The program at this path: `ews-shim`, or any that calls [`shim_entry`](super::shim_entry) first.
    Path(PathBuf),
}

/// Where instances' control groups are made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Cgroups {
    /// Below this program's own group, where that may be done. Under systemd that takes `Delegate=yes`.
    #[default]
    Auto,
    /// Below this group, a path from the root of the hierarchy such as `/ews.slice`.
    Parent(String),
    /// Nowhere: no limits are held, and a tree of processes is found by its ancestry.
    Off,
}

impl ProcessConfig {
    /// Everything below `root`, the rest at its default.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            node: None,
            labels: Labels::default(),
            shim: ShimProgram::default(),
            ports: 20_000..=32_000,
            advertise: None,
            inherit: super::environment::INHERITED.iter().map(|name| (*name).to_owned()).collect(),
            secrets: None,
            cgroups: Cgroups::default(),
            max_artifact: 16 << 30,
            events: 1024,
            takeover: Duration::from_secs(5),
            call_limit: Duration::from_secs(10),
        }
    }

    /// Sets [`node`](Self::node).
    #[must_use]
    pub fn with_node(mut self, node: NodeId) -> Self {
        self.node = Some(node);
        self
    }

    /// Sets [`labels`](Self::labels).
    #[must_use]
    pub fn with_labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }

    /// Sets [`shim`](Self::shim).
    #[must_use]
    pub fn with_shim(mut self, shim: ShimProgram) -> Self {
        self.shim = shim;
        self
    }

    /// Sets [`ports`](Self::ports).
    ///
    /// # Errors
    /// `Invalid` for an empty range, or one that begins below 1024 where ports belong to the system.
    pub fn with_ports(mut self, ports: RangeInclusive<u16>) -> Result<Self> {
        if ports.is_empty() || *ports.start() < 1024 {
            return Err(Error::invalid(format!(
                "ports {} to {} can't be allotted; accepted: a range within 1024 to 65535",
                ports.start(),
                ports.end()
            )));
        }
        self.ports = ports;
        Ok(self)
    }

    /// Sets [`advertise`](Self::advertise).
    #[must_use]
    pub fn with_advertise(mut self, address: IpAddr) -> Self {
        self.advertise = Some(address);
        self
    }

    /// Adds to [`inherit`](Self::inherit).
    #[must_use]
    pub fn with_inherited(mut self, name: impl Into<String>) -> Self {
        self.inherit.push(name.into());
        self
    }

    /// Sets [`secrets`](Self::secrets).
    #[must_use]
    pub fn with_secrets(mut self, secrets: Arc<dyn Secrets>) -> Self {
        self.secrets = Some(secrets);
        self
    }

    /// Sets [`cgroups`](Self::cgroups).
    #[must_use]
    pub fn with_cgroups(mut self, cgroups: Cgroups) -> Self {
        self.cgroups = cgroups;
        self
    }

    /// Sets [`max_artifact`](Self::max_artifact).
    #[must_use]
    pub fn with_max_artifact(mut self, bytes: u64) -> Self {
        self.max_artifact = bytes;
        self
    }

    /// Sets [`events`](Self::events).
    #[must_use]
    pub fn with_events(mut self, events: usize) -> Self {
        self.events = events;
        self
    }

    /// Sets [`takeover`](Self::takeover).
    #[must_use]
    pub fn with_takeover(mut self, patience: Duration) -> Self {
        self.takeover = patience;
        self
    }

    /// Sets [`call_limit`](Self::call_limit).
    #[must_use]
    pub fn with_call_limit(mut self, limit: Duration) -> Self {
        self.call_limit = limit;
        self
    }
}

impl fmt::Debug for ProcessConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessConfig")
            .field("root", &self.root)
            .field("node", &self.node)
            .field("shim", &self.shim)
            .field("ports", &self.ports)
            .field("advertise", &self.advertise)
            .field("inherit", &self.inherit)
            .field("secrets", &self.secrets.is_some())
            .field("cgroups", &self.cgroups)
            .finish_non_exhaustive()
    }
}
