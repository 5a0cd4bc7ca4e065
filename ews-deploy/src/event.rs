//! What a deployer tells while it works.
//!
//! Events are for people, notifications and user interfaces; nothing of EWS decides by them. The bus is bounded: a slow reader
//! gets a gap and asks for the status.

use ews_core::balancer::Drained;
use ews_core::{InstanceId, RevisionId, ServiceName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::analysis::{Measurement, Verdict};
use crate::canary::CanaryStep;
use crate::job::JobReport;
use crate::remedy::{Ailment, Remedy};
use crate::rollout::{Outcome, RolloutId, UnitFailure};
use crate::strategy::OnFailure;

/// Something happened to a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeployEvent {
    /// To which service.
    pub service: ServiceName,
    /// The rollout under way then.
    pub rollout: Option<RolloutId>,
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// This controller leads the service from now on.
    Leading,
    /// This controller leads the service no longer: another does, or its lease ended.
    LeadLost {
        /// Why.
        reason: String,
    },
    /// A rollout began.
    RolloutStarted {
        /// Where it goes.
        to: RevisionId,
        /// Where it comes from.
        from: Option<RevisionId>,
        /// How many slots.
        slots: usize,
        /// In how many batches.
        batches: usize,
    },
    /// A rollout that an earlier controller began goes on.
    RolloutResumed {
        /// How many slots are done, out of how many.
        done: (usize, usize),
    },
    /// A batch began.
    BatchStarted {
        /// Its number, from 1.
        number: usize,
        /// Its slots.
        slots: Vec<u32>,
    },
    /// A step of the work on a slot begins.
    Step {
        /// The slot.
        slot: u32,
        /// Which step.
        step: Step,
        /// The instance that it is about.
        instance: Option<InstanceId>,
    },
    /// Requests under way at an instance that is to stop have ended.
    Drained {
        /// Its slot.
        slot: u32,
        /// The instance.
        instance: InstanceId,
        /// How.
        how: Drained,
    },
    /// A slot is filled as it should be.
    Filled {
        /// The slot.
        slot: u32,
        /// By which instance.
        instance: InstanceId,
        /// Of which revision.
        revision: RevisionId,
    },
    /// A new instance failed.
    UnitFailed(UnitFailure),
    /// A policy said what is done about a failure.
    Decided {
        /// What.
        decision: OnFailure,
        /// Why, in a sentence.
        explained: String,
    },
    /// A call failed and is made again.
    Retrying {
        /// About which slot.
        slot: u32,
        /// What went wrong.
        reason: String,
    },
    /// A batch waits until somebody [resumes](crate::Deployer::resume) the rollout.
    AwaitingApproval {
        /// Its number, from 1.
        batch: usize,
        /// Of how many.
        of: usize,
    },
    /// A step of a canary begins: instances first, then what it is about.
    StepStarted {
        /// Its number, from 1.
        number: usize,
        /// Of how many.
        of: usize,
        /// What it is.
        step: CanaryStep,
    },
    /// A job of the rollout begins, or goes on.
    JobStarted {
        /// `before` or `after`.
        when: String,
    },
    /// A job of the rollout ended.
    JobEnded {
        /// `before` or `after`.
        when: String,
        /// How.
        report: JobReport,
    },
    /// Metrics were measured.
    Measured {
        /// Each check.
        measurements: Vec<Measurement>,
        /// What the analysis comes to; `None` while it goes on.
        verdict: Option<Verdict>,
    },
    /// The rollout waits for whoever resumes it.
    Paused {
        /// Why.
        reason: String,
    },
    /// The rollout goes on.
    Resumed,
    /// The rollout turned round.
    RollingBack {
        /// Why.
        reason: String,
    },
    /// The rollout ended.
    Ended {
        /// How.
        outcome: Outcome,
        /// Why, where it did not succeed.
        cause: String,
    },
    /// An instance ended by itself, is gone or stopped being live.
    InstanceLost {
        /// Its slot.
        slot: u32,
        /// Which.
        instance: Option<InstanceId>,
        /// What is known of it.
        reason: String,
    },
    /// A policy said what is done about an instance that is not well.
    Treated {
        /// Its slot.
        slot: u32,
        /// What it suffers from.
        ailment: Ailment,
        /// What is done.
        remedy: Remedy,
        /// Whether somebody should know.
        alert: bool,
        /// Why, in a sentence.
        explained: String,
    },
    /// More instances are not well than are treated at once.
    Braked {
        /// How many wait.
        waiting: usize,
        /// How many are treated at once.
        at_once: usize,
    },
    /// Supervision gives up on a slot for the time of its restart window.
    GivenUp {
        /// The slot.
        slot: u32,
        /// After how many restarts.
        restarts: u32,
    },
    /// The number of instances that shall run was changed.
    Scaled {
        /// From this.
        from: u32,
        /// To this.
        to: u32,
        /// Why, in the words of who asked.
        reason: String,
    },
    /// The service was removed with all that belonged to it.
    Removed,
}

/// A step of the work on a slot; each is written to the journal before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Step {
    /// An instance is created.
    Create,
    /// It is started.
    Start,
    /// Files of a hotfix are laid over it.
    Patch,
    /// Its program is told that its files have changed.
    Reload,
    /// It is watched until it is healthy.
    Gate,
    /// It gets traffic.
    Attach,
    /// An instance gets no new traffic, and what it has under way ends.
    Drain,
    /// It is stopped.
    Stop,
    /// It is removed.
    Remove,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Patch => "patch",
            Self::Reload => "reload",
            Self::Gate => "gate",
            Self::Attach => "attach",
            Self::Drain => "drain",
            Self::Stop => "stop",
            Self::Remove => "remove",
        })
    }
}
