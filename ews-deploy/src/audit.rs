//! The audit trail: who asked for what, why, and what came of it.

use ews_core::Timestamp;
use ews_core::store::Schema;
use serde::{Deserialize, Serialize};

use crate::rollout::Outcome;

/// Something that was asked of a service, or what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// Who, as [`Deployer::by`](crate::Deployer::by) said; empty where nobody did.
    pub by: String,
    /// What.
    pub action: AuditAction,
    /// Why, in the words of who asked, or what came of it.
    pub why: String,
}

/// What was asked for, or came about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AuditAction {
    /// A deployment: the rollout that it became.
    Deploy(u64),
    /// A hotfix: the rollout that it became.
    Hotfix(u64),
    /// A rollback: the rollout that it became.
    Rollback(u64),
    /// A restart: the rollout that it became.
    Restart(u64),
    /// A rollout was paused.
    Pause(u64),
    /// A rollout was resumed, or a step of it approved.
    Resume(u64),
    /// A rollout was aborted.
    Abort(u64),
    /// A rollout was cancelled.
    Cancel(u64),
    /// A count was set.
    Scale {
        /// From this.
        from: u32,
        /// To this.
        to: u32,
    },
    /// The service was removed.
    Remove,
    /// A rollout ended.
    Ended {
        /// Which.
        rollout: u64,
        /// How.
        outcome: Outcome,
    },
}

impl AuditEntry {
    /// The most entries that are kept of a service, the latest ones; some more until the next is written.
    pub const KEPT: usize = 1_000;
}

impl Schema for AuditEntry {
    const NAME: &'static str = "deploy-audit";
    const VERSION: u32 = 1;
}

/// The key of an entry: in the order of time, and its own whoever writes at the same moment.
pub(crate) fn key(at: Timestamp) -> String {
    use std::hash::{BuildHasher as _, Hasher as _};
    let random = std::hash::RandomState::new().build_hasher().finish();
    format!("audit/{:020}-{random:016x}", at.as_micros())
}
