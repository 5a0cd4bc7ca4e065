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
//! | `blob/<n>/<digest>/<i>` | a piece of a file of the hotfix that is revision n | whoever asks, before `revision/<n>` |
//! | `state` | [`ServiceState`]: what each slot shall run | the leader, fenced |
//! | `rollout/<n>` | [`RolloutState`] | the leader, fenced |
//! | `audit/<time>-<random>` | [`AuditEntry`](crate::AuditEntry) | whoever asks, with what is asked; the leader |
//! | `job/<name>` | a job of the rollout under way, see `job` | the leader, fenced |
//! | `unit/<slot>` | [`UnitJournal`]: the step that is about to be made | the leader, fenced |
//!
//! What is asked for is acknowledged when it is written, so a leader that dies loses none of it. What a leader writes carries
//! its fence: one that lost its lease writes nothing any more.

mod repository;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ews_core::balancer::{AttributeMatch, DomainName};
use ews_core::store::Schema;
use ews_core::time::duration;
use ews_core::{
    Error, ErrorKind, InstanceId, InstanceKey, Result, Revision, RevisionId, ServiceName, ServiceSpec,
    Timestamp,
};
use serde::{Deserialize, Serialize};

pub(crate) use repository::{Draft, Repository, Versioned, numbered};

use crate::analysis::Run;
use crate::event::Step;
use crate::hotfix::Overlay;
use crate::job::JobReport;
use crate::plan::UnitOrder;
use crate::remedy::RemedyPolicy;
use crate::request::Traffic;
use crate::rollout::{Outcome, Phase, UnitFailure};
use crate::strategy::{Batch, Strategy};

/// What is asked of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceInput {
    pub(crate) name: ServiceName,
    pub(crate) traffic: Option<Traffic>,
    /// Domains that it had before, so that a leader takes them away; at most [`ServiceInput::FORMER`].
    pub(crate) former: Vec<DomainName>,
    pub(crate) bounds: (u32, u32),
    /// How instances are treated that are not well.
    #[serde(default)]
    pub(crate) remedy: Option<RemedyPolicy>,
    pub(crate) next_revision: u64,
    pub(crate) next_rollout: u64,
    /// The rollout that is asked for or under way.
    pub(crate) active: Option<RolloutRequest>,
    /// Those that wait for it, in order.
    #[serde(default)]
    pub(crate) queue: Vec<Queued>,
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

    /// Takes over what a request changes besides the revision.
    pub(crate) fn admit(
        &mut self,
        traffic: Option<&Traffic>,
        bounds: Option<(u32, u32)>,
        desired: u32,
    ) -> Result<()> {
        self.bounds = bounds.unwrap_or(self.bounds);
        within(self.bounds, desired)?;
        if let Some(traffic) = traffic {
            let before = self.traffic.replace(traffic.clone());
            let dropped = before.into_iter().flat_map(|traffic| traffic.domains);
            self.former.extend(dropped);
            self.former.retain(|domain| !traffic.domains.contains(domain));
            self.former.sort();
            self.former.dedup();
            if self.former.len() > Self::FORMER {
                let message = format!(
                    "more than {} former domains; remove the service and deploy it anew",
                    Self::FORMER
                );
                return Err(Error::new(ErrorKind::OutOfResources, message));
            }
        }
        Ok(())
    }

    /// Remembers the key of the request that led to this rollout.
    pub(crate) fn remember(&mut self, key: Option<&str>, rollout: u64) {
        if let Some(key) = key {
            self.keys.push((key.to_owned(), rollout));
            let surplus = self.keys.len().saturating_sub(Self::KEYS);
            self.keys.drain(..surplus);
        }
    }
}

/// Refuses a count outside of a service's bounds.
pub(crate) fn within((least, most): (u32, u32), desired: u32) -> Result<()> {
    if (least..=most).contains(&desired) {
        return Ok(());
    }
    Err(Error::invalid(format!("{desired} instances; accepted by the service's bounds: {least} to {most}"))
        .with_context("field", "replicas"))
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
    #[serde(default)]
    pub(crate) by: String,
    /// The slots whose instances are made anew, though they run the revision already; `None`: it is about another revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) restart: Option<BTreeSet<u32>>,
}

/// A request that waits for those before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Queued {
    pub(crate) request: RolloutRequest,
    /// What it changes besides when its turn has come.
    pub(crate) desired: Option<u32>,
    pub(crate) traffic: Option<Traffic>,
    pub(crate) bounds: Option<(u32, u32)>,
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
    /// What a hotfix lays over the instances of another revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) overlay: Option<Overlay>,
}

impl RevisionRecord {
    /// The revision by whose id its instances are known: its own, or that which it is laid over.
    pub(crate) fn key(&self) -> &RevisionId {
        self.overlay.as_ref().map_or(&self.revision.id, |overlay| &overlay.base_id)
    }

    pub(crate) fn spec(&self) -> &ServiceSpec {
        &self.revision.spec
    }
}

/// The same record where only the name is wanted: reading and checking a whole spec costs a hundred times as much.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RevisionName {
    pub(crate) revision: Named,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Named {
    pub(crate) id: RevisionId,
}

impl Schema for RevisionName {
    const NAME: &'static str = RevisionRecord::NAME;
    const VERSION: u32 = RevisionRecord::VERSION;
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
    /// By slot, the generation of its instance and the revision whose files that has, where it is not the one that it was made
    /// from; [`ServiceState::UNKNOWN`] where work on them did not come to its end.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) patched: BTreeMap<u32, (u32, u64)>,
}

impl ServiceState {
    /// No revision's number.
    pub(crate) const UNKNOWN: u64 = 0;

    /// Whether an instance, made for the key of this revision, has its files.
    pub(crate) fn has_files_of(&self, key: &InstanceKey, record: &RevisionRecord) -> bool {
        match self.patched.get(&key.slot) {
            Some((_, Self::UNKNOWN)) => false,
            Some((generation, number)) if *generation == key.generation => *number == record.revision.number,
            _ => record.overlay.is_none(),
        }
    }
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
    #[serde(default)]
    pub(crate) by: String,
    #[serde(default)]
    pub(crate) reason: String,
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
    /// How far its steps have come; `None` where it has none.
    #[serde(default)]
    pub(crate) canary: Option<CanaryState>,
    pub(crate) cause: String,
    pub(crate) failures: Vec<UnitFailure>,
    /// The slots whose instances were made anew, where that is what it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) restarted: Option<BTreeSet<u32>>,
    /// The slots that keep what they had.
    #[serde(default)]
    pub(crate) skipped: BTreeSet<u32>,
    /// How often slots failed.
    #[serde(default)]
    pub(crate) tries: BTreeMap<u32, u32>,
    /// How its jobs ended.
    #[serde(default)]
    pub(crate) jobs: Jobs,
    /// Which hooks said yes.
    #[serde(default)]
    pub(crate) hooks: Hooked,
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

/// How the jobs of a rollout ended.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Jobs {
    pub(crate) before: Option<JobReport>,
    pub(crate) after: Option<JobReport>,
    /// How often one failed.
    pub(crate) tries: u32,
}

/// What hooks were asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hooked {
    pub(crate) before: bool,
    pub(crate) promotion: bool,
    /// Whether they were told of the end.
    pub(crate) after: bool,
}

/// How far a canary has come.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CanaryState {
    /// How many steps are made.
    pub(crate) made: usize,
    /// The share of the traffic, in hundredths, once a step set one.
    pub(crate) weight: Option<u8>,
    /// The number of instances, once a step set one.
    pub(crate) replicas: Option<Batch>,
    pub(crate) matching: Vec<AttributeMatch>,
    /// The slots whose new instance was found healthy beside the old one.
    pub(crate) up: BTreeSet<u32>,
    /// How long the step under way has gone on.
    #[serde(with = "duration")]
    pub(crate) spent: Duration,
    /// Whether it waits for somebody to say that the step is good.
    pub(crate) asks: bool,
    /// Of the step under way.
    pub(crate) run: Run,
    /// Of what is measured all along.
    pub(crate) along: Run,
}

impl RolloutState {
    /// Whether a slot is where the rollout wants it.
    pub(crate) fn is_done(&self, slot: u32, slots: &BTreeMap<u32, u64>) -> bool {
        match &self.restarted {
            Some(restarted) => restarted.contains(&slot),
            None => slots.get(&slot) == Some(&self.to),
        }
    }

    /// One that ended before anybody began it.
    pub(crate) fn never_begun(
        request: &RolloutRequest,
        from: Option<u64>,
        cause: String,
        now: Timestamp,
    ) -> Self {
        Self {
            number: request.number,
            to: request.revision,
            from,
            strategy: request.strategy.clone(),
            rollback: request.rollback,
            by: request.by.clone(),
            reason: request.reason.clone(),
            order: UnitOrder::StartFirst,
            slots: Vec::new(),
            batches: Vec::new(),
            phase: Phase::Forward,
            held: None,
            waits: None,
            approved: 0,
            canary: None,
            cause,
            failures: Vec::new(),
            restarted: request.restart.as_ref().map(|_| BTreeSet::new()),
            skipped: BTreeSet::new(),
            tries: BTreeMap::new(),
            jobs: Jobs::default(),
            hooks: Hooked::default(),
            failed: 0,
            spent: Duration::ZERO,
            done: 0,
            outcome: Some(Outcome::Cancelled),
            started_at: now,
            ended_at: Some(now),
        }
    }
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
    /// Which start of it there was before the one that is about to be made.
    #[serde(default)]
    pub(crate) started: u64,
    /// How much of the gate's deadline is used up.
    #[serde(with = "duration")]
    pub(crate) gated: Duration,
    pub(crate) at: Timestamp,
}

impl Schema for UnitJournal {
    const NAME: &'static str = "deploy-unit";
    const VERSION: u32 = 1;
}
