//! How a Docker Engine is used: [`DockerConfig`].

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ews_core::{Error, NodeId, Result};

use crate::connect::EngineAddress;

/// How one engine is reached and used.
///
/// ```
/// use std::time::Duration;
/// use ews_docker::{DockerConfig, EngineAddress};
///
/// let address: EngineAddress = "tcp://10.0.0.7:2375".parse()?;
/// let config = DockerConfig::new(address).with_call_limit(Duration::from_secs(5));
/// config.check()?;
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DockerConfig {
    /// Where the engine is.
    pub address: EngineAddress,
    /// The name of its node. Default: the engine's host name, made a [`NodeId`].
    pub node: Option<NodeId>,
    /// The address under which others reach what is published on every address of the node. Default: the engine's own where it is
    /// given as an IP, else loopback.
    pub node_address: Option<IpAddr>,
    /// The longest that an ordinary call may take, its answer included. Default 30 s. Reads are far below it on a healthy engine.
    pub call_limit: Duration,
    /// The longest that a call may take in which the engine works: create, start, remove, and stop beyond its grace. Default 120 s.
    pub work_limit: Duration,
    /// The longest silence of a stream that is expected to flow: pulls, builds, archives. Default 300 s: an engine unpacks large layers
    /// without a word. Followed logs, events and sessions may be silent for ever.
    pub idle_limit: Duration,
    /// The most calls at a time; others wait. Default 32: an engine serialises most work, and more only lengthens its queue.
    pub concurrency: usize,
    /// A directory in memory (tmpfs) of the engine's machine, seen by this process under the same path, where secret files are laid for
    /// containers. Default: `/run/ews-docker` for an engine on this machine where this process may make it, else none, and specs
    /// with secret files are refused.
    pub secrets_directory: Option<PathBuf>,
    /// Whether usage is read from the kernel's files where the engine runs on this machine. Default true.
    pub read_cgroups: bool,
}

impl DockerConfig {
    /// The engine at this address, everything else at its default.
    pub fn new(address: EngineAddress) -> Self {
        Self {
            address,
            node: None,
            node_address: None,
            call_limit: Duration::from_secs(30),
            work_limit: Duration::from_secs(120),
            idle_limit: Duration::from_secs(300),
            concurrency: 32,
            secrets_directory: None,
            read_cgroups: true,
        }
    }

    /// The engine that the `docker` command would talk to.
    ///
    /// # Errors
    /// Those of [`EngineAddress::from_env`].
    pub fn from_env() -> Result<Self> {
        Ok(Self::new(EngineAddress::from_env()?))
    }

    /// Names the node.
    #[must_use]
    pub fn with_node(mut self, node: NodeId) -> Self {
        self.node = Some(node);
        self
    }

    /// Says under which address others reach the node.
    #[must_use]
    pub fn with_node_address(mut self, address: IpAddr) -> Self {
        self.node_address = Some(address);
        self
    }

    /// Sets the longest ordinary call.
    #[must_use]
    pub fn with_call_limit(mut self, limit: Duration) -> Self {
        self.call_limit = limit;
        self
    }

    /// Sets the longest call in which the engine works.
    #[must_use]
    pub fn with_work_limit(mut self, limit: Duration) -> Self {
        self.work_limit = limit;
        self
    }

    /// Sets the longest silence of a stream that is expected to flow.
    #[must_use]
    pub fn with_idle_limit(mut self, limit: Duration) -> Self {
        self.idle_limit = limit;
        self
    }

    /// Sets the most calls at a time.
    #[must_use]
    pub fn with_concurrency(mut self, calls: usize) -> Self {
        self.concurrency = calls;
        self
    }

    /// Names the directory in memory for secret files.
    #[must_use]
    pub fn with_secrets_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.secrets_directory = Some(directory.into());
        self
    }

    /// Says whether usage may be read from the kernel's files.
    #[must_use]
    pub fn with_read_cgroups(mut self, read: bool) -> Self {
        self.read_cgroups = read;
        self
    }

    /// Refuses what can't work.
    ///
    /// # Errors
    /// `Invalid`, naming the field, what it holds and what is accepted.
    pub fn check(&self) -> Result<()> {
        for (name, value) in [
            ("call_limit", self.call_limit),
            ("work_limit", self.work_limit),
            ("idle_limit", self.idle_limit),
        ] {
            if value < Duration::from_millis(100) || value > Duration::from_secs(86_400) {
                return Err(Error::invalid(format!("`{name}` is {value:?}; accepted: 100 ms to 24 h")));
            }
        }
        if !(1..=1024).contains(&self.concurrency) {
            return Err(Error::invalid(format!(
                "`concurrency` is {}; accepted: 1 to 1024",
                self.concurrency
            )));
        }
        if let Some(directory) =
            self.secrets_directory.as_deref().filter(|directory| !directory.is_absolute())
        {
            return Err(Error::invalid(format!(
                "`secrets_directory` is `{}`; accepted: an absolute path, such as `/run/shop`",
                directory.display()
            )));
        }
        Ok(())
    }
}
