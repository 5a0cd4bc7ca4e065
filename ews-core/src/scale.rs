//! The `ScaleTarget` contract: what a scaling decision acts on.
//!
//! ews-deploy implements it; ews-scale uses it. A count is an input to the service's one reconciler, never its rival: setting
//! it records the wish, and the reconciler brings it about in its own time.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::capability::CapabilitySet;
use crate::error::Result;
use crate::id::{InstanceId, ServiceName};

/// What a scaling decision acts on. Dropping a future abandons the wait, not the operation.
#[async_trait]
pub trait ScaleTarget: Send + Sync + 'static {
    /// What it can do.
    fn capabilities(&self) -> CapabilitySet;

    /// How many instances a service has and should have.
    ///
    /// # Errors
    /// `NotFound`.
    async fn current(&self, service: &ServiceName) -> Result<Scale>;

    /// Records how many instances a service should have, and returns what holds then. Setting the count that is set already
    /// changes nothing, whatever victims are named; a version that is no longer the present one is refused even then.
    ///
    /// # Errors
    /// `NotFound`; `Stale` where the change's version is no longer the present one: read again and decide anew;
    /// `Invalid` for a count outside the service's bounds or a victim that is not of the service; `Unsupported` for victims
    /// without the capability; `Busy` while the service does not take a new count.
    async fn set(&self, service: &ServiceName, change: &ScaleChange) -> Result<Scale>;
}

/// How many instances a service has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Scale {
    /// How many it should have.
    pub desired: u32,
    /// How many there are, in whatever state.
    pub present: u32,
    /// How many of them take work.
    pub ready: u32,
    /// Raised whenever `desired` changes, by whomever.
    pub version: u64,
    /// Whether a rollout is changing the service right now.
    pub rolling_out: bool,
}

impl Scale {
    /// A service at rest with so many instances, all ready.
    pub fn at_rest(count: u32, version: u64) -> Self {
        Self { desired: count, present: count, ready: count, version, rolling_out: false }
    }
}

/// A new count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ScaleChange {
    /// How many instances the service should have.
    pub desired: u32,
    /// Only if [`Scale::version`] is still this. `None`: whatever it is.
    pub version: Option<u64>,
    /// Which instances go first on the way down, in this order, and no more of them than the count asks for. Empty: the
    /// reconciler chooses.
    pub victims: Vec<InstanceId>,
    /// Why, for the audit trail: the decision's own explanation.
    pub reason: String,
}

impl ScaleChange {
    /// So many instances, for this reason.
    pub fn to(desired: u32, reason: impl Into<String>) -> Self {
        Self { desired, version: None, victims: Vec::new(), reason: reason.into() }
    }

    /// Only if the version is still this.
    #[must_use]
    pub fn if_version(mut self, version: u64) -> Self {
        self.version = Some(version);
        self
    }
}
