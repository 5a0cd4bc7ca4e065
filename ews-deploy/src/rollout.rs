//! What a rollout is, how it stands, and how it ended.

use std::fmt;
use std::time::Duration;

use ews_core::time::duration;
use ews_core::{ExitStatus, InstanceId, RevisionId, ServiceName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::canary::CanaryStep;
use crate::failure::FailureClass;
use crate::job::JobReport;
use crate::strategy::Strategy;

/// Names a rollout: the service, and its number among the service's rollouts from 1. It is all that there is to keep of one: `web#3` as
/// text, and made of both wherever it is needed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RolloutId {
    /// The service.
    pub service: ServiceName,
    /// The number.
    pub number: u64,
}

impl fmt::Display for RolloutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.service, self.number)
    }
}

/// Which way a rollout goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// Towards the new revision.
    Forward,
    /// Back to where it came from.
    RollingBack,
}

/// How a rollout ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// Every slot runs the new revision.
    Succeeded,
    /// Every slot is back at where it came from; with nothing to go back to, nothing of the new revision is left.
    RolledBack,
    /// It stopped where it stood, after a failure. What was replaced stays new.
    Failed,
    /// Going back failed too: somebody has to look. What runs goes on running.
    RollbackFailed,
    /// It was cancelled, or superseded by a later one. What was replaced stays new.
    Cancelled,
}

impl Outcome {
    /// Whether it did what was asked for.
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Succeeded)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Succeeded => "succeeded",
            Self::RolledBack => "rolled back",
            Self::Failed => "failed",
            Self::RollbackFailed => "rollback failed",
            Self::Cancelled => "cancelled",
        })
    }
}

/// Why a new instance failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UnitFailure {
    /// Its slot.
    pub slot: u32,
    /// The instance, where there was one.
    pub instance: Option<InstanceId>,
    /// Of which revision.
    pub revision: RevisionId,
    /// What kind of failure.
    #[serde(default)]
    pub class: FailureClass,
    /// What went wrong, in a sentence.
    pub reason: String,
    /// How its program ended, where it did.
    pub exit: Option<ExitStatus>,
    /// The last lines that it wrote, at most [`UnitFailure::LINES`] of at most [`UnitFailure::LINE`] bytes each. They are the
    /// program's own words: whatever it prints is shown.
    pub log: Vec<String>,
    /// When.
    pub at: Timestamp,
}

impl UnitFailure {
    /// A failure in this slot, of which no more is known: neither an instance nor how its program ended. A policy of one's own is tried
    /// with it.
    pub fn new(
        slot: u32,
        revision: RevisionId,
        class: FailureClass,
        reason: impl Into<String>,
        at: Timestamp,
    ) -> Self {
        Self { slot, instance: None, revision, class, reason: reason.into(), exit: None, log: Vec::new(), at }
    }

    /// The most lines that are kept.
    pub const LINES: usize = 50;
    /// The longest line, in bytes.
    pub const LINE: usize = 2_048;
}

impl fmt::Display for UnitFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {} with {}: {}", self.slot, self.revision, self.reason)?;
        if let Some(exit) = &self.exit {
            write!(f, " ({exit})")?;
        }
        Ok(())
    }
}

/// A rollout as it stands or ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RolloutReport {
    /// Which.
    pub id: RolloutId,
    /// Where it goes.
    pub to: RevisionId,
    /// Where it came from; `None` for a service that did not run.
    pub from: Option<RevisionId>,
    /// Who asked for it; empty where nobody said.
    pub by: String,
    /// Why, in their words.
    pub reason: String,
    /// How far it is.
    pub progress: Progress,
    /// How the jobs before and after it stand or ended, as far as they were begun.
    pub jobs: JobReports,
    /// Slots that keep what they had, since their new instance failed.
    pub skipped: usize,
    /// Which way it goes.
    pub phase: Phase,
    /// Whether it waits for whoever resumes it.
    pub paused: bool,
    /// How it proceeds.
    pub strategy: Strategy,
    /// How many slots run the new revision, and out of how many, in this order.
    pub done: (usize, usize),
    /// The step of the canary under way; `None` where there is none, or all are made.
    pub step: Option<StepReport>,
    /// Why it turned round, paused or failed; empty where all went well.
    pub cause: String,
    /// The failures, at most [`RolloutReport::FAILURES`], the first ones.
    pub failures: Vec<UnitFailure>,
    /// How it ended; `None` while it goes on.
    pub outcome: Option<Outcome>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

impl RolloutReport {
    /// The most failures that are kept.
    pub const FAILURES: usize = 10;
}

/// The jobs of a rollout, as [`Strategy::before`] and [`Strategy::after`] name them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobReports {
    /// The one before the rollout; `None` where there is none, or it was not begun.
    pub before: Option<JobReport>,
    /// The one after it.
    pub after: Option<JobReport>,
}

/// How far a rollout is, as far as can be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Progress {
    /// In hundredths, of the way that it goes now.
    pub percent: u8,
    /// How long it may still take, as the strategy and what was seen so far have it; `None` where it waits for somebody, goes back
    /// or has ended.
    #[serde(with = "duration::option")]
    pub left: Option<Duration>,
}

/// A step of a canary, as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepReport {
    /// Its number, from 1.
    pub number: usize,
    /// Of how many.
    pub of: usize,
    /// What it is.
    pub step: CanaryStep,
    /// The new revision's share of the traffic, in hundredths.
    pub weight: u8,
    /// How many of its instances are up.
    pub up: usize,
    /// How many measurements were taken, where it is an analysis.
    pub measured: u32,
}

/// The gate's limits of one unit, as the strategy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GateLimits {
    #[serde(with = "duration")]
    pub(crate) min_healthy: Duration,
    #[serde(with = "duration")]
    pub(crate) deadline: Duration,
    pub(crate) flaps: u32,
}
