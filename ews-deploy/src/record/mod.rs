//! The records that controllers share, and who writes which.
//!
//! | Key below `deploy/<owner>/<service>/` | What | Written by |
//! |---|---|---|
//! | `lock` | who leads the service | its leader, by lease |
//! | `in/service` | [`ServiceInput`]: what is asked for | whoever asks, by compare-and-set |
//! | `in/scale` | [`ScaleInput`]: how many are asked for | whoever asks, by compare-and-set |
//! | `in/control` | [`ControlInput`]: pause, abort, cancel | whoever asks, by compare-and-set |
//! | `in/member` | [`MemberOf`](crate::discovery::MemberOf): which release it belongs to | the release's leader, fenced by that |
//! | `revision/<n>` | [`RevisionRecord`] | whoever asks, once |
//! | `state` | [`ServiceState`]: what each slot shall run | the leader, fenced |
//! | `rollout/<n>` | [`RolloutState`] | the leader, fenced |
//! | `unit/<slot>` | [`UnitJournal`]: the step that is about to be made | the leader, fenced |
//!
//! What is asked for is acknowledged when it is written, so a leader that dies loses none of it. What a leader writes carries
//! its fence: one that lost its lease writes nothing any more.

mod repository;

use std::collections::BTreeMap;
use std::time::Duration;

use ews_core::balancer::DomainName;
use ews_core::store::Schema;
use ews_core::time::duration;
use ews_core::{InstanceId, Revision, ServiceName, Timestamp};
use serde::{Deserialize, Serialize};

pub(crate) use repository::{Draft, Repository, Versioned, numbered};

use crate::event::Step;
use crate::plan::UnitOrder;
use crate::request::Traffic;
use crate::rollout::{Outcome, Phase, UnitFailure};
use crate::strategy::Strategy;

/// What is asked of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceInput {
    pub(crate) name: ServiceName,
    pub(crate) traffic: Option<Traffic>,
    /// Domains that it had before, so that a leader takes them away; at most [`ServiceInput::FORMER`].
    pub(crate) former: Vec<DomainName>,
    pub(crate) bounds: (u32, u32),
    pub(crate) next_revision: u64,
    pub(crate) next_rollout: u64,
    /// The rollout that is asked for or under way.
    pub(crate) active: Option<RolloutRequest>,
    /// The keys of the last requests and their rollouts, the newest last.
    pub(crate) keys: Vec<(String, u64)>,
    /// Whether the service shall go with all that belongs to it.
    pub(crate) removing: bool,
}

impl ServiceInput {
    /// The most former domains that are remembered.
    pub(crate) const FORMER: usize = 1_000;
    /// The most keys of requests that are remembered.
    pub(crate) const KEYS: usize = 100;
}

impl Schema for ServiceInput {
    const NAME: &'static str = "deploy-service";
    const VERSION: u32 = 1;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RolloutRequest {
    pub(crate) number: u64,
    pub(crate) revision: u64,
    pub(crate) strategy: Strategy,
    /// A rollback goes in whole batches from the start, and is never itself rolled back.
    pub(crate) rollback: bool,
    pub(crate) reason: String,
}

/// How many instances are asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScaleInput {
    pub(crate) desired: u32,
    pub(crate) version: u64,
    pub(crate) victims: Vec<InstanceId>,
    pub(crate) reason: String,
}

impl Schema for ScaleInput {
    const NAME: &'static str = "deploy-scale";
    const VERSION: u32 = 1;
}

/// What is asked of the rollout under way.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ControlInput {
    /// Of which rollout; for another one it says nothing.
    pub(crate) rollout: u64,
    pub(crate) paused: bool,
    /// Raised by each resume, so that a pause of the rollout's own is taken back by it.
    pub(crate) resumes: u64,
    pub(crate) end: Option<End>,
}

impl Schema for ControlInput {
    const NAME: &'static str = "deploy-control";
    const VERSION: u32 = 1;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    Abort,
    Cancel,
}

/// A revision as stored. It is never changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RevisionRecord {
    pub(crate) revision: Revision,
}

impl Schema for RevisionRecord {
    const NAME: &'static str = "deploy-revision";
    const VERSION: u32 = 1;
}

/// What each slot shall run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceState {
    /// The revision number that each slot shall run.
    pub(crate) slots: BTreeMap<u32, u64>,
    /// The revisions that a rollout brought about in full, the newest last: what a rollback goes to.
    pub(crate) stable: Vec<u64>,
    /// What slots are filled with that scaling adds.
    pub(crate) current: Option<u64>,
    /// The rollout under way.
    pub(crate) rollout: Option<u64>,
    /// The strategy of the last rollout: supervision and scaling keep to its gate and drain.
    pub(crate) strategy: Option<Strategy>,
    /// The count that `slots` was last brought to, and its version.
    pub(crate) scaled: (u32, u64),
}

impl Schema for ServiceState {
    const NAME: &'static str = "deploy-state";
    const VERSION: u32 = 1;
}

/// A rollout as its leader keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RolloutState {
    pub(crate) number: u64,
    pub(crate) to: u64,
    pub(crate) from: Option<u64>,
    pub(crate) strategy: Strategy,
    pub(crate) rollback: bool,
    pub(crate) order: UnitOrder,
    /// The slots in the order in which they are replaced.
    pub(crate) slots: Vec<u32>,
    /// How many of them each batch takes.
    pub(crate) batches: Vec<usize>,
    pub(crate) phase: Phase,
    /// Paused by the rollout itself, after a failure: until a resume beyond this one.
    pub(crate) held: Option<u64>,
    /// The batch that waits for approval, numbered from 1.
    #[serde(default)]
    pub(crate) waits: Option<usize>,
    /// The last batch that was approved; before any was, the first may begin.
    #[serde(default)]
    pub(crate) approved: usize,
    pub(crate) cause: String,
    pub(crate) failures: Vec<UnitFailure>,
    /// How many failures there were in all.
    #[serde(default)]
    pub(crate) failed: usize,
    /// How much of the progress deadline is used up.
    #[serde(with = "duration")]
    pub(crate) spent: Duration,
    pub(crate) done: usize,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) started_at: Timestamp,
    pub(crate) ended_at: Option<Timestamp>,
}

impl Schema for RolloutState {
    const NAME: &'static str = "deploy-rollout";
    const VERSION: u32 = 1;
}

/// The step of a slot's work that is about to be made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UnitJournal {
    pub(crate) slot: u32,
    /// The revision that the slot is being filled with; `None` where it is being cleared.
    pub(crate) revision: Option<u64>,
    /// The rollout whose unit it is.
    pub(crate) rollout: Option<u64>,
    pub(crate) step: Step,
    pub(crate) instance: Option<InstanceId>,
    /// How much of the gate's deadline is used up.
    #[serde(with = "duration")]
    pub(crate) gated: Duration,
    pub(crate) at: Timestamp,
}

impl Schema for UnitJournal {
    const NAME: &'static str = "deploy-unit";
    const VERSION: u32 = 1;
}
