//! How the members of a release find each other, and follow changes.
//!
//! Each service's leader keeps a record of the endpoints that passed their gate ([`book`]): one that comes is added after its gate,
//! one that goes is taken out before it is drained and stopped. Whoever is created is told what is known then, in its environment
//! and in a file ([`dress`]); from then on its own leader keeps that file as the records are ([`spread`]). What is told is made from
//! the records by pure functions ([`render`]).
//!
//! | Where | What | Follows changes |
//! |---|---|---|
//! | environment | `DB_HOST`, `DB_PORT`, `DB_URL`, `DB_ADDRESSES`, `DB_<PORT>_ADDRESSES`, `DB_DOMAIN` for a member `db` | no: as of the instance's creation |
//! | `ews/peers.json`, `ews/hosts` in the instance; `EWS_PEERS` says where | every endpoint of every member | yes, for a program that reads it again |
//! | a network of the release with each member's name as alias, on a runtime with the capability `networks` | names resolve to instances that run, those whose gate is still to come included: a resolver knows no gates | yes |
//! | the gateway, for a member with traffic | its domain | yes |
//!
//! An instance without `networks` (the process runtime) has no names, so there addresses arrive. Where the runtime takes no archives,
//! the root is read-only, or the engine runs Windows, there is no file. On the process runtime the file is replaced in one step; an
//! engine that unpacks an archive may let it be missing for a moment, so whoever finds no whole JSON reads again.

pub(crate) mod book;
pub(crate) mod dress;
pub(crate) mod render;
pub(crate) mod spread;

use std::time::Duration;

use ews_core::store::{Prefix, Schema};
use ews_core::time::duration;
use ews_core::{Error, OwnerId, ReleaseName, Result, ServiceName};
use serde::{Deserialize, Serialize};

/// How members of a release find each other.
///
/// ```
/// use std::time::Duration;
/// use ews_deploy::release::Discovery;
///
/// // Programs here read their file twice a second.
/// let discovery = Discovery::default().with_settle(Duration::from_secs(1));
/// discovery.check()?;
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Discovery {
    /// Whether addresses arrive in the environment. Default true. A variable that the spec sets itself is left as it is.
    pub environment: bool,
    /// Whether there is a file that follows changes, where the runtime takes archives. Default true.
    pub file: bool,
    /// Whether instances join a network of the release with their service's name as alias, where the runtime has networks. Default
    /// true. Instances of the spec's own networks join it besides.
    pub network: bool,
    /// How long an instance runs on after it was taken out of what is told and before it is drained and stopped: the time in which
    /// the others' files are written and read. At most 1 min. Default 2 s.
    #[serde(with = "duration")]
    pub settle: Duration,
}

impl Default for Discovery {
    fn default() -> Self {
        Self { environment: true, file: true, network: true, settle: Duration::from_secs(2) }
    }
}

impl Discovery {
    /// Members are told nothing of each other.
    pub fn off() -> Self {
        Self { environment: false, file: false, network: false, settle: Duration::ZERO }
    }

    /// With addresses in the environment, or without.
    #[must_use]
    pub fn with_environment(mut self, environment: bool) -> Self {
        self.environment = environment;
        self
    }

    /// With a file, or without.
    #[must_use]
    pub fn with_file(mut self, file: bool) -> Self {
        self.file = file;
        self
    }

    /// With a network, or without.
    #[must_use]
    pub fn with_network(mut self, network: bool) -> Self {
        self.network = network;
        self
    }

    /// With this time between being taken out and being stopped.
    #[must_use]
    pub fn with_settle(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }

    /// Refuses what can't work.
    ///
    /// # Errors
    /// `Invalid`, naming the field and what is accepted.
    pub fn check(&self) -> Result<()> {
        if self.settle > Duration::from_secs(60) {
            return Err(Error::invalid(format!(
                "a settle time of {:?}; accepted: at most 1 min",
                self.settle
            ))
            .with_context("field", "discovery.settle"));
        }
        Ok(())
    }

    /// Whether anything is told at all.
    pub(crate) fn is_on(&self) -> bool {
        self.environment || self.file
    }
}

/// Which release a service belongs to: `deploy/<owner>/<service>/in/member`, written by the release's leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MemberOf {
    pub(crate) release: ReleaseName,
    pub(crate) discovery: Discovery,
}

impl MemberOf {
    /// The key below a service's records.
    pub(crate) const KEY: &'static str = "in/member";
}

impl Schema for MemberOf {
    const NAME: &'static str = "deploy-member";
    const VERSION: u32 = 1;
}

/// Where the addresses of a release's members are recorded.
pub(crate) fn prefix(owner: &OwnerId, release: &ReleaseName) -> Result<Prefix> {
    Prefix::new(format!("discover/{owner}/{release}/"))
}

fn record_key(owner: &OwnerId, release: &ReleaseName, service: &ServiceName) -> String {
    format!("discover/{owner}/{release}/{service}")
}
