//! The records of releases, and who writes which.
//!
//! | Key below `release/<owner>/<name>/` | What | Written by |
//! |---|---|---|
//! | `lock` | who leads the release | its leader, by lease |
//! | `in/release` | [`ReleaseInput`]: what is asked for | whoever asks, by compare-and-set |
//! | `in/control` | [`ReleaseControl`]: pause, abort, cancel | whoever asks, by compare-and-set |
//! | `spec/<n>/head`, `spec/<n>/m<i>` | [`SpecHead`] and its [`MemberSpec`]s | whoever asks, once |
//! | `state/<n>` | [`ReleaseState`] | the leader, fenced |
//! | `job/<n>/<member>` | [`JobRecord`](crate::job::JobRecord) | the leader's runner, fenced |
//! | `head` | [`ReleaseHead`]: what holds beyond one release | the leader, fenced |
//!
//! A service knows its release by `deploy/<owner>/<service>/in/member`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ews_core::store::{Key, Prefix, Schema};
use ews_core::time::duration;
use ews_core::{InstanceId, OwnerId, ReleaseName, Result, ServiceName, Store, Timestamp};
use serde::{Deserialize, Serialize};

use super::report::ReleasePhase;
use super::spec::{MemberSpec, ReleaseSpec};
use crate::record::{Draft, End, Repository, Versioned, numbered};
use crate::request::Traffic;
use crate::rollout::Outcome;

/// What is asked of the releases of one name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReleaseInput {
    pub(crate) next: u64,
    /// The release under way.
    pub(crate) active: Option<u64>,
    /// Those that follow it, the next one first; at most [`ReleaseRequest::QUEUE`](super::request::ReleaseRequest::QUEUE).
    pub(crate) queue: Vec<u64>,
    /// Every release with a lower number than this ends as cancelled.
    pub(crate) superseded: u64,
    /// The keys of the last requests and their releases, the newest last.
    pub(crate) keys: Vec<(String, u64)>,
}

impl ReleaseInput {
    /// The most keys of requests that are remembered.
    pub(crate) const KEYS: usize = 100;
}

impl Default for ReleaseInput {
    fn default() -> Self {
        Self { next: 1, active: None, queue: Vec::new(), superseded: 0, keys: Vec::new() }
    }
}

impl Schema for ReleaseInput {
    const NAME: &'static str = "release-input";
    const VERSION: u32 = 1;
}

/// What is asked of the release under way.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReleaseControl {
    /// Of which release; for another one it says nothing.
    pub(crate) release: u64,
    pub(crate) paused: bool,
    pub(crate) end: Option<End>,
}

impl Schema for ReleaseControl {
    const NAME: &'static str = "release-control";
    const VERSION: u32 = 1;
}

/// A release's spec as stored, without its members, which are records of their own: each may be as large as a record can be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SpecHead {
    pub(crate) spec: ReleaseSpec,
    pub(crate) members: usize,
    /// Who asked. Records of before call it the initiator.
    #[serde(alias = "initiator")]
    pub(crate) by: String,
    pub(crate) reason: String,
    pub(crate) asked_at: Timestamp,
}

impl Schema for SpecHead {
    const NAME: &'static str = "release-spec";
    const VERSION: u32 = 1;
}

impl Schema for MemberSpec {
    const NAME: &'static str = "release-member";
    const VERSION: u32 = 1;
}

/// How a release stands, as its leader keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReleaseState {
    pub(crate) number: u64,
    pub(crate) phase: ReleasePhase,
    pub(crate) members: BTreeMap<ServiceName, MemberState>,
    /// Services that are still to be removed, the first one first.
    pub(crate) prune: Vec<ServiceName>,
    /// It ends like this as soon as nothing is under way any more.
    pub(crate) winding: Option<Outcome>,
    pub(crate) cause: String,
    /// How much of the deadline of this phase is used up.
    #[serde(with = "duration")]
    pub(crate) spent: Duration,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) started_at: Timestamp,
    pub(crate) ended_at: Option<Timestamp>,
}

impl Schema for ReleaseState {
    const NAME: &'static str = "release-state";
    const VERSION: u32 = 1;
}

/// How a member stands.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MemberState {
    pub(crate) is_job: bool,
    pub(crate) stage: Stage,
    /// Whether an instance of the new revision was seen running.
    pub(crate) started: bool,
    /// Whether all of its instances had passed their gate.
    pub(crate) healthy: bool,
    /// What its service was before it was asked for a rollout.
    pub(crate) before: Option<Before>,
    pub(crate) rollout: Option<u64>,
    pub(crate) back: Back,
    pub(crate) back_rollout: Option<u64>,
    pub(crate) cause: String,
}

impl MemberState {
    /// Whether something of it goes on or may have begun to.
    pub(crate) const fn is_under_way(&self) -> bool {
        matches!(self.stage, Stage::Asking | Stage::UnderWay)
    }

    /// Whether something of it may have been changed.
    pub(crate) const fn is_touched(&self) -> bool {
        !matches!(self.stage, Stage::Waiting | Stage::Unchanged | Stage::Skipped)
    }
}

/// Where a member is on its way forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// Its conditions do not hold yet.
    #[default]
    Waiting,
    /// It is about to be asked for.
    Asking,
    /// Its rollout or its job is under way.
    UnderWay,
    /// It runs what it should already.
    Unchanged,
    Succeeded,
    Failed,
    /// What it waits for has failed.
    Skipped,
}

/// Where a member is on its way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Back {
    /// Its turn has not come.
    #[default]
    Pending,
    /// Its own rollout was turned round.
    Aborted,
    /// A rollout to where it was is about to be asked for, or under way.
    Rolling,
    /// Its service is being removed.
    Removing,
    /// It is back, or there was nothing to go back from.
    Done,
    /// Somebody else deployed it since: it is left alone.
    Left,
    /// It could not go back.
    Failed,
}

impl Back {
    pub(crate) const fn is_settled(self) -> bool {
        matches!(self, Self::Done | Self::Left | Self::Failed)
    }
}

/// What a service was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Before {
    /// The revision that its slots ran; `None` where it did not run.
    pub(crate) revision: Option<u64>,
    pub(crate) traffic: Option<Traffic>,
    pub(crate) bounds: (u32, u32),
    pub(crate) desired: u32,
}

/// What holds beyond one release.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReleaseHead {
    /// The services that releases of this name brought, in their order; at most [`ReleaseHead::SERVICES`].
    pub(crate) services: Vec<ServiceName>,
    /// Instances of failed jobs that are kept for a while; at most [`ReleaseHead::KEPT`].
    pub(crate) kept: Vec<Kept>,
    /// The last release that succeeded.
    pub(crate) current: Option<u64>,
}

impl ReleaseHead {
    /// The most services that are remembered.
    pub(crate) const SERVICES: usize = 1_000;
    /// The most instances that are kept; the oldest go first.
    pub(crate) const KEPT: usize = 100;
}

impl Schema for ReleaseHead {
    const NAME: &'static str = "release-head";
    const VERSION: u32 = 1;
}

/// The instance of a failed job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    pub(crate) instance: InstanceId,
    /// For how much longer.
    #[serde(with = "duration")]
    pub(crate) left: Duration,
}

/// The records of the releases of one name.
#[derive(Clone)]
pub(crate) struct Records {
    repository: Repository,
}

impl Records {
    /// Every key of every release of this owner.
    pub(crate) fn releases(owner: &OwnerId) -> Result<Prefix> {
        Prefix::new(format!("release/{owner}/"))
    }

    /// The releases that a key of an owner's belongs to, where it is the one that makes them known.
    pub(crate) fn release_of(owner: &OwnerId, key: &Key) -> Option<ReleaseName> {
        let rest = key.as_str().strip_prefix(&format!("release/{owner}/"))?;
        let (name, rest) = rest.split_once('/')?;
        if rest == "in/release" { ReleaseName::new(name).ok() } else { None }
    }

    pub(crate) fn new(store: Arc<dyn Store>, owner: &OwnerId, name: &ReleaseName) -> Self {
        Self { repository: Repository::at(store, format!("release/{owner}/{name}")) }
    }

    pub(crate) fn repository(&self) -> &Repository {
        &self.repository
    }

    pub(crate) async fn input(&self) -> Result<Option<Versioned<ReleaseInput>>> {
        self.repository.get("in/release").await
    }

    pub(crate) async fn control(&self) -> Result<Option<Versioned<ReleaseControl>>> {
        self.repository.get("in/control").await
    }

    pub(crate) async fn head(&self) -> Result<Option<Versioned<ReleaseHead>>> {
        self.repository.get("head").await
    }

    pub(crate) async fn state(&self, number: u64) -> Result<Option<ReleaseState>> {
        Ok(self.repository.get(&numbered("state", number)).await?.map(|found| found.value))
    }

    pub(crate) async fn states(&self) -> Result<Vec<ReleaseState>> {
        self.repository.list("state", 10_000).await
    }

    pub(crate) async fn job(
        &self,
        number: u64,
        member: &ServiceName,
    ) -> Result<Option<crate::job::JobRecord>> {
        Ok(self.repository.get(&job_key(number, member)).await?.map(|found| found.value))
    }

    /// Whether there is a release of this number.
    pub(crate) async fn is_known(&self, number: u64) -> Result<bool> {
        let key = self.repository.key(&format!("{}/head", numbered("spec", number)))?;
        Ok(self.repository.store().get(&key).await?.is_some())
    }

    /// A release's spec with its members.
    pub(crate) async fn spec(&self, number: u64) -> Result<Option<SpecHead>> {
        let Some(found) =
            self.repository.get::<SpecHead>(&format!("{}/head", numbered("spec", number))).await?
        else {
            return Ok(None);
        };
        let mut head = found.value;
        for index in 0..head.members {
            let key = member_key(number, index);
            if let Some(member) = self.repository.get::<MemberSpec>(&key).await? {
                head.spec.members.push(member.value);
            }
        }
        Ok(Some(head))
    }

    /// Adds a spec to what is written.
    pub(crate) fn put_spec<'a>(mut draft: Draft<'a>, number: u64, mut head: SpecHead) -> Result<Draft<'a>> {
        let members = std::mem::take(&mut head.spec.members);
        head.members = members.len();
        for (index, member) in members.iter().enumerate() {
            draft = draft.put(&member_key(number, index), member)?;
        }
        draft.put(&format!("{}/head", numbered("spec", number)), &head)
    }
}

fn member_key(number: u64, index: usize) -> String {
    format!("{}/m{index:03}", numbered("spec", number))
}

pub(crate) fn job_key(number: u64, member: &ServiceName) -> String {
    format!("{}/{member}", numbered("job", number))
}

pub(crate) fn state_key(number: u64) -> String {
    numbered("state", number)
}
