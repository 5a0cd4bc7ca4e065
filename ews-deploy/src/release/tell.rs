//! What a deployer tells of releases: how they stand, how they ended, what happens.

use std::collections::BTreeMap;

use ews_core::bus::Subscription;
use ews_core::store::ListRequest;
use ews_core::{Error, ErrorKind, ReleaseName, Result, RevisionId, ServiceName};

use super::graph::Graph;
use super::record::{Back, MemberState, Records, ReleaseState, Stage};
use super::report::{MemberReport, MemberStage, ReleaseEvent, ReleaseId, ReleasePhase, ReleaseReport};
use crate::deployer::Deployer;
use crate::rollout::RolloutId;

impl Deployer {
    /// What happens from now on to every release that this controller leads.
    pub fn release_events(&self) -> Subscription<ReleaseEvent> {
        self.workshop().releases.subscribe()
    }

    /// Waits until a release has ended.
    ///
    /// # Errors
    /// `NotFound` for one that is not there or no longer kept; those of the store.
    pub async fn wait_release(&self, id: &ReleaseId) -> Result<ReleaseReport> {
        let records = self.releases_of(&id.release);
        loop {
            let state = records.state(id.number).await?;
            if state.is_some_and(|state| state.outcome.is_some()) {
                return self.release_report(id).await;
            }
            if !records.is_known(id.number).await? {
                return Err(Error::not_found("release", id));
            }
            self.a_change(&records.repository().prefix("state")?).await?;
        }
    }

    /// A release as it stands.
    ///
    /// # Errors
    /// `NotFound` for one that is not there or no longer kept; those of the store.
    pub async fn release_report(&self, id: &ReleaseId) -> Result<ReleaseReport> {
        let records = self.releases_of(&id.release);
        let state = records.state(id.number).await?;
        self.reported(id, state, &records).await
    }

    /// The releases of a name that are kept, the latest first; as many as
    /// [`DeployConfig::history`](crate::DeployConfig::history) says, and those that wait.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn release_history(&self, release: &ReleaseName) -> Result<Vec<ReleaseReport>> {
        let records = self.releases_of(release);
        let states = records.states().await?;
        let mut reports = Vec::new();
        let queued = records.input().await?.map(|found| found.value.queue).unwrap_or_default();
        for number in queued.into_iter().rev().filter(|number| states.iter().all(|s| s.number != *number)) {
            let id = ReleaseId { release: release.clone(), number };
            reports.push(self.reported(&id, None, &records).await?);
        }
        for state in states.into_iter().rev() {
            let id = ReleaseId { release: release.clone(), number: state.number };
            match self.reported(&id, Some(state), &records).await {
                Ok(report) => reports.push(report),
                // It was pruned between the two looks.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(reports)
    }

    /// The names of which there are releases.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn releases(&self) -> Result<Vec<ReleaseName>> {
        let workshop = self.workshop();
        let owner = &workshop.config.owner;
        let mut request = ListRequest::new(Records::releases(owner)?);
        let mut names = Vec::new();
        loop {
            let page = workshop.store.list(&request).await?;
            names.extend(page.records.iter().filter_map(|record| Records::release_of(owner, &record.key)));
            match page.records.last() {
                Some(last) if page.more => request = request.after(last.key.clone()),
                _ => return Ok(names),
            }
        }
    }

    async fn reported(
        &self,
        id: &ReleaseId,
        state: Option<ReleaseState>,
        records: &Records,
    ) -> Result<ReleaseReport> {
        let Some(found) = records.spec(id.number).await? else { return Err(Error::not_found("release", id)) };
        let graph = Graph::new(&found.spec)?;
        let control = records.control().await?.map(|found| found.value).unwrap_or_default();
        let nothing = BTreeMap::new();
        let stands = state.as_ref().map_or(&nothing, |state| &state.members);
        let mut members = Vec::new();
        for name in graph.order() {
            let member = stands.get(name).cloned().unwrap_or_default();
            members.push(self.member_report(name, &member, id.number, records).await?);
        }
        let back = state.as_ref().is_some_and(|state| state.phase == ReleasePhase::RollingBack);
        let percent = percent(&members, stands, back);
        Ok(ReleaseReport {
            id: id.clone(),
            phase: state.as_ref().map_or(ReleasePhase::Queued, |state| state.phase),
            paused: control.release == id.number
                && control.paused
                && state.as_ref().is_none_or(|s| s.outcome.is_none() && s.phase == ReleasePhase::Forward),
            members,
            percent: if state.as_ref().is_some_and(|s| s.outcome.is_some_and(crate::Outcome::is_success)) {
                100
            } else {
                percent
            },
            cause: state.as_ref().map(|state| state.cause.clone()).unwrap_or_default(),
            outcome: state.as_ref().and_then(|state| state.outcome),
            by: found.by,
            reason: found.reason,
            asked_at: found.asked_at,
            started_at: state.as_ref().map(|state| state.started_at),
            ended_at: state.as_ref().and_then(|state| state.ended_at),
        })
    }

    async fn member_report(
        &self,
        name: &ServiceName,
        member: &MemberState,
        number: u64,
        records: &Records,
    ) -> Result<MemberReport> {
        let id = |number| RolloutId { service: name.clone(), number };
        let rollout = member.rollout.map(id);
        let mut done = (0, 0);
        if let Some(rollout) = rollout.as_ref().filter(|_| member.is_under_way()) {
            match self.rollout(rollout).await {
                Ok(report) => done = report.done,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let before = match member.before.as_ref().and_then(|before| before.revision) {
            Some(number) => match self.repository(name).revision(number).await? {
                Some(record) => Some(record.revision.id),
                // It is no longer kept; its number is.
                None => Some(RevisionId::new(format!("r{number}"))?),
            },
            None => None,
        };
        let job = if member.is_job { records.job(number, name).await? } else { None };
        Ok(MemberReport {
            member: name.clone(),
            stage: stage(member),
            rollout,
            back: member.back_rollout.map(id),
            before,
            done,
            cause: member.cause.clone(),
            job: job.map(|record| record.report),
        })
    }
}

fn stage(member: &MemberState) -> MemberStage {
    match (member.back, member.stage) {
        // What a job did stays done.
        (Back::Done, Stage::Succeeded) if member.is_job => MemberStage::Succeeded,
        (Back::Done, Stage::Failed) if member.is_job || member.rollout.is_none() => MemberStage::Failed,
        (Back::Done, _) => MemberStage::WentBack,
        (Back::Left, _) => MemberStage::Left,
        (Back::Failed, _) => MemberStage::BackFailed,
        (Back::Aborted | Back::Rolling | Back::Removing, _) => MemberStage::GoingBack,
        (Back::Pending, stage) => match stage {
            Stage::Waiting | Stage::Asking => MemberStage::Waiting,
            Stage::UnderWay => MemberStage::UnderWay,
            Stage::Unchanged => MemberStage::Unchanged,
            Stage::Succeeded => MemberStage::Succeeded,
            Stage::Failed => MemberStage::Failed,
            Stage::Skipped => MemberStage::Skipped,
        },
    }
}

/// How far the way is, in hundredths: each member counts alike.
fn percent(members: &[MemberReport], stands: &BTreeMap<ServiceName, MemberState>, back: bool) -> u8 {
    let part = |report: &MemberReport| -> usize {
        let state = stands.get(&report.member);
        let settled = state.is_some_and(|state| match back {
            true => !state.is_touched() || state.back.is_settled(),
            false => {
                matches!(state.stage, Stage::Unchanged | Stage::Succeeded | Stage::Failed | Stage::Skipped)
            }
        });
        match report.done {
            _ if settled => 100,
            (done, of) if of > 0 && !back => (done * 100 / of).min(99),
            _ => 0,
        }
    };
    let sum: usize = members.iter().map(part).sum();
    u8::try_from(sum / members.len().max(1)).unwrap_or(100)
}
