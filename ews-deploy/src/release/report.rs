//! What a release is called, how it stands, how it ended, and what it tells meanwhile.

use std::fmt;

use ews_core::{ReleaseName, RevisionId, ServiceName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::job::JobReport;
use crate::rollout::{Outcome, RolloutId};

/// Names a release: its name, and its number among the releases of that name from 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReleaseId {
    /// The name.
    pub release: ReleaseName,
    /// The number.
    pub number: u64,
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.release, self.number)
    }
}

/// What a release is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReleasePhase {
    /// It waits for the one before it.
    Queued,
    /// Its members are brought about.
    Forward,
    /// They go back to what they were.
    RollingBack,
    /// All is brought about; what is no longer a member is removed.
    Pruning,
}

/// How a member of a release stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MemberStage {
    /// Its conditions do not hold yet, or its service is busy with somebody else's rollout.
    Waiting,
    /// Its rollout or its job is under way.
    UnderWay,
    /// It ran what it should already, and was not touched.
    Unchanged,
    /// Its rollout or its job succeeded.
    Succeeded,
    /// Its rollout or its job failed.
    Failed,
    /// What it waits for has failed, so it was left out.
    Skipped,
    /// It is on its way back.
    GoingBack,
    /// It is what it was before the release.
    WentBack,
    /// Somebody else deployed it since, so it was left alone when the others went back.
    Left,
    /// It could not go back: somebody has to look.
    BackFailed,
}

/// A member of a release as it stands or ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemberReport {
    /// Which.
    pub member: ServiceName,
    /// How it stands.
    pub stage: MemberStage,
    /// The rollout that the release asked for.
    pub rollout: Option<RolloutId>,
    /// The rollout by which it went back, where one was needed.
    pub back: Option<RolloutId>,
    /// What its service ran before the release.
    pub before: Option<RevisionId>,
    /// How many of its instances are done, out of how many, while that is known.
    pub done: (usize, usize),
    /// What went wrong with it; empty where nothing did.
    pub cause: String,
    /// How its job stands or ended, where it is one and was begun.
    pub job: Option<JobReport>,
}

/// A release as it stands or ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReleaseReport {
    /// Which.
    pub id: ReleaseId,
    /// What it is about.
    pub phase: ReleasePhase,
    /// Whether it waits for whoever resumes it.
    pub paused: bool,
    /// Its members, in the order in which they go.
    pub members: Vec<MemberReport>,
    /// How far it has come, in hundredths: of the way forward, or of the way back.
    pub percent: u8,
    /// Why it turned round or failed; empty where all went well.
    pub cause: String,
    /// How it ended; `None` while it goes on.
    pub outcome: Option<Outcome>,
    /// Who asked for it, as [`Deployer::by`](crate::Deployer::by) said; empty where nobody did.
    pub by: String,
    /// Why, in the words of who asked.
    pub reason: String,
    /// When it was asked for.
    pub asked_at: Timestamp,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

impl ReleaseReport {
    /// The report of a member.
    pub fn member(&self, name: &ServiceName) -> Option<&MemberReport> {
        self.members.iter().find(|member| member.member == *name)
    }
}

/// Something happened to a release.
///
/// A type of its own on a bus of its own, and no variant of [`DeployEvent`](crate::DeployEvent): that one is about a service, and most
/// of these are about none; and a service that tells much must not push out what is told of a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReleaseEvent {
    /// To which release.
    pub release: ReleaseId,
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: ReleaseEventKind,
}

/// What happened to a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReleaseEventKind {
    /// It began.
    Started {
        /// Its members, in order.
        members: Vec<ServiceName>,
    },
    /// One that an earlier controller began goes on.
    Resumed,
    /// A member's rollout was asked for, or its job begun.
    MemberStarted {
        /// Which member.
        member: ServiceName,
        /// Its rollout; `None` for a job.
        rollout: Option<RolloutId>,
    },
    /// A member runs what it should already.
    MemberUnchanged {
        /// Which member.
        member: ServiceName,
    },
    /// Every instance of a member has passed its gate.
    MemberHealthy {
        /// Which member.
        member: ServiceName,
    },
    /// A member's rollout or job succeeded.
    MemberSucceeded {
        /// Which member.
        member: ServiceName,
    },
    /// A member's rollout or job failed.
    MemberFailed {
        /// Which member.
        member: ServiceName,
        /// Why.
        cause: String,
    },
    /// A member is left out, since what it waits for has failed.
    MemberSkipped {
        /// Which member.
        member: ServiceName,
    },
    /// Its members go back.
    RollingBack {
        /// Why.
        reason: String,
    },
    /// A member's turn to go back has come.
    MemberGoingBack {
        /// Which member.
        member: ServiceName,
    },
    /// A member is what it was before.
    MemberWentBack {
        /// Which member.
        member: ServiceName,
    },
    /// A member is left as it is, since somebody else deployed it meanwhile.
    MemberLeft {
        /// Which member.
        member: ServiceName,
    },
    /// A member could not go back.
    MemberBackFailed {
        /// Which member.
        member: ServiceName,
        /// Why.
        cause: String,
    },
    /// A service that is no longer a member is removed.
    Pruning {
        /// Which service.
        service: ServiceName,
    },
    /// It ended.
    Ended {
        /// How.
        outcome: Outcome,
        /// Why, where it did not succeed.
        cause: String,
    },
}
