//! The way forward of a release's members: asking their services, looking how far they are, removing what is no longer one.

use ews_core::{ErrorKind, Result, Retry, ServiceName};
use tokio::sync::watch;
use tokio::time::Instant;

use super::leader::{LOOK, Leader};
use super::record::{Before, Kept, ReleaseHead, Stage};
use super::report::{ReleaseEventKind, ReleasePhase};
use super::spec::{MemberCondition, MemberSpec};
use crate::deployer::{Deployer, Found};
use crate::job::JobReport;
use crate::record::{Draft, End, Repository};
use crate::rollout::{Outcome, Phase, RolloutId};

impl Leader {
    fn spec_of(&self, member: &ServiceName) -> Option<MemberSpec> {
        self.active.as_ref()?.spec.member(member).cloned()
    }

    /// The key under which a member's rollout is asked for.
    pub(super) fn key(&self, member: &ServiceName) -> String {
        format!("release-{}-{}-{member}", self.desk.name, self.number())
    }

    /// A member's turn has come.
    pub(super) async fn begin(&mut self, member: &ServiceName) -> Result<()> {
        if self.is_postponed(member) {
            return Ok(());
        }
        if self.member(member).is_some_and(|state| state.is_job) {
            self.change(member, |state| state.stage = Stage::UnderWay).await?;
            self.tell(ReleaseEventKind::MemberStarted { member: member.clone(), rollout: None });
            return Ok(());
        }
        self.ask(member).await
    }

    pub(super) async fn skip(&mut self, member: &ServiceName) -> Result<()> {
        self.change(member, |state| state.stage = Stage::Skipped).await?;
        self.tell(ReleaseEventKind::MemberSkipped { member: member.clone() });
        Ok(())
    }

    /// Asks a member's service for its rollout. What it was before is written down first, and it is asked only if it is that still.
    async fn ask(&mut self, member: &ServiceName) -> Result<()> {
        let Some(spec) = self.spec_of(member) else { return Ok(()) };
        let key = self.key(member);
        let repository = self.desk.service(member);
        let found = Found::read(&repository).await?;
        if let Some(number) = found.known(Some(&key)) {
            return self.asked(member, number).await;
        }
        let input = found.input.as_ref().map(|found| &found.value);
        if input.is_some_and(|input| input.removing || input.active.is_some()) {
            // Somebody else is at it; the deadline bounds the wait.
            self.postpone(member);
            return Ok(());
        }
        if is_unchanged(&spec, &found, &repository).await? {
            self.again.remove(member);
            self.change(member, |state| {
                state.stage = Stage::Unchanged;
                state.before = None;
            })
            .await?;
            self.tell(ReleaseEventKind::MemberUnchanged { member: member.clone() });
            return Ok(());
        }
        let before = Before {
            revision: found.state.current,
            traffic: input.and_then(|input| input.traffic.clone()),
            bounds: input.map_or((0, crate::DeployRequest::MAX_REPLICAS), |input| input.bounds),
            desired: found.scale.as_ref().map_or(0, |scale| scale.value.desired),
        };
        let written = |state: &super::record::MemberState| {
            state.stage == Stage::Asking && state.before.as_ref() == Some(&before)
        };
        if !self.member(member).is_some_and(written) {
            let before = before.clone();
            self.change(member, |state| (state.stage, state.before) = (Stage::Asking, Some(before))).await?;
        }
        let mut request = spec.request().with_key(key).with_reason(format!("release {}", self.release()));
        request.base = Some(found.base());
        self.desk.may_ask()?;
        match self.in_their_name().deploy(&request).await {
            Ok(id) => self.asked(member, id.number).await,
            Err(error) if is_passing(&error) => {
                tracing::debug!(%member, %error, "it is asked again");
                self.postpone(member);
                Ok(())
            }
            Err(error) => self.failed(member, error.to_string()).await,
        }
    }

    /// Asks in the name of whoever asked for the release. Going back is nobody's wish, and is asked for in no name.
    fn in_their_name(&self) -> Deployer {
        self.desk.asker.by(self.active.as_ref().map_or("", |active| &active.by))
    }

    pub(super) fn release(&self) -> String {
        format!("{}#{}", self.desk.name, self.number())
    }

    async fn asked(&mut self, member: &ServiceName, number: u64) -> Result<()> {
        self.again.remove(member);
        self.change(member, |state| (state.stage, state.rollout) = (Stage::UnderWay, Some(number))).await?;
        let rollout = Some(RolloutId { service: member.clone(), number });
        self.tell(ReleaseEventKind::MemberStarted { member: member.clone(), rollout });
        Ok(())
    }

    async fn failed(&mut self, member: &ServiceName, cause: String) -> Result<()> {
        let told = cause.clone();
        self.change(member, |state| {
            state.stage = Stage::Failed;
            state.cause = cause;
        })
        .await?;
        self.tell(ReleaseEventKind::MemberFailed { member: member.clone(), cause: told });
        Ok(())
    }

    async fn succeeded(&mut self, member: &ServiceName) -> Result<()> {
        let was_healthy = self.member(member).is_some_and(|state| state.healthy);
        self.change(member, |state| {
            (state.stage, state.started, state.healthy) = (Stage::Succeeded, true, true);
        })
        .await?;
        if !was_healthy {
            self.tell(ReleaseEventKind::MemberHealthy { member: member.clone() });
        }
        self.tell(ReleaseEventKind::MemberSucceeded { member: member.clone() });
        Ok(())
    }

    /// Looks how far every member under way has come.
    pub(super) async fn observe(&mut self) -> Result<()> {
        let Some(active) = &self.active else { return Ok(()) };
        let goes_on = active.state.phase == ReleasePhase::Forward && active.state.winding.is_none();
        let under_way: Vec<ServiceName> = active
            .graph
            .order()
            .iter()
            .filter(|name| self.member(name).is_some_and(|state| state.is_under_way()))
            .cloned()
            .collect();
        let all = self.looked.elapsed() >= LOOK || !goes_on;
        if all {
            self.looked = Instant::now();
        }
        let hinted = std::mem::take(&mut self.hinted);
        for member in under_way {
            let Some(state) = self.member(&member).cloned() else { continue };
            if state.is_job {
                self.look_after_job(&member, !goes_on).await?;
                continue;
            }
            match (state.stage, state.rollout) {
                (Stage::Asking, _) if goes_on => {
                    if !self.is_postponed(&member) {
                        self.ask(&member).await?;
                    }
                }
                (Stage::Asking, _) => {
                    // It is not asked for any more, unless it was before.
                    let found = Found::read(&self.desk.service(&member)).await?;
                    match found.known(Some(&self.key(&member))) {
                        Some(number) => self.asked(&member, number).await?,
                        None => self.change(&member, |state| state.stage = Stage::Waiting).await?,
                    }
                }
                (_, Some(_)) if !all && !hinted.contains(&member) => {}
                (_, Some(number)) => {
                    self.look_at(&member, number).await?;
                    let winds = self.active.as_ref().is_some_and(|active| active.state.winding.is_some());
                    if winds && self.member(&member).is_some_and(|state| state.stage == Stage::UnderWay) {
                        self.end_rollout(&member, number, End::Cancel).await?;
                    }
                }
                _ => self.failed(&member, "its rollout is not known".to_owned()).await?,
            }
        }
        Ok(())
    }

    async fn look_at(&mut self, member: &ServiceName, number: u64) -> Result<()> {
        let id = RolloutId { service: member.clone(), number };
        let repository = self.desk.service(member);
        let mut found = repository.rollout(number).await?;
        if found.is_none() {
            let input = repository.input().await?;
            if input.and_then(|input| input.value.active).is_some_and(|active| active.number == number) {
                return Ok(());
            }
            // It may have begun and ended between the two looks.
            found = repository.rollout(number).await?;
        }
        let Some(report) = found.map(|found| found.value) else {
            let cause = "its service was removed, or its rollout was superseded before it began";
            return self.failed(member, cause.to_owned()).await;
        };
        let control = repository.control().await?.map(|control| control.value).unwrap_or_default();
        let paused = report.held.is_some() || (control.rollout == number && control.paused);
        self.waiting.insert(member.clone(), paused && report.phase == Phase::Forward);
        match report.outcome {
            Some(Outcome::Succeeded) => return self.succeeded(member).await,
            Some(outcome) => {
                let why = if report.cause.is_empty() { String::new() } else { format!(": {}", report.cause) };
                return self.failed(member, format!("its rollout {id} ended as {outcome}{why}")).await;
            }
            None => {}
        }
        let Some(state) = self.member(member).cloned() else { return Ok(()) };
        let (done, of) = (report.done, report.slots.len());
        let healthy = report.phase == Phase::Forward && of > 0 && done == of;
        if healthy && !state.healthy {
            self.change(member, |state| (state.started, state.healthy) = (true, true)).await?;
            self.tell(ReleaseEventKind::MemberHealthy { member: member.clone() });
        } else if !state.started && self.is_waited_for(member, MemberCondition::Started) {
            // A runtime that can't be asked now is asked at the next look.
            let slots = self.desk.asker.slots(member).await;
            let to = repository.revision(report.to).await?.map(|record| record.revision.id);
            let runs = slots.is_ok_and(|slots| {
                slots.iter().any(|i| i.state.is_running() && Some(&i.key.revision) == to.as_ref())
            });
            if runs {
                self.change(member, |state| state.started = true).await?;
            }
        }
        Ok(())
    }

    fn is_waited_for(&self, member: &ServiceName, condition: MemberCondition) -> bool {
        self.active.as_ref().is_some_and(|active| {
            let mut edges = active.spec.members.iter().flat_map(|spec| &spec.after);
            edges.any(|edge| edge.member == *member && edge.condition == condition)
        })
    }

    /// Asks for the end of a member's rollout, once.
    pub(super) async fn end_rollout(&mut self, member: &ServiceName, number: u64, end: End) -> Result<()> {
        let repository = self.desk.service(member);
        let Some(input) = repository.input().await? else { return Ok(()) };
        if input.value.active.is_none_or(|active| active.number != number) {
            return Ok(());
        }
        let control = repository.control().await?.map(|control| control.value).unwrap_or_default();
        if control.rollout == number && (control.end == Some(end) || control.end == Some(End::Cancel)) {
            return Ok(());
        }
        self.desk.may_ask()?;
        let asked = match end {
            End::Abort => self.desk.asker.abort(member).await,
            End::Cancel => self.desk.asker.cancel(member).await,
        };
        match asked {
            Err(error) if !is_passing(&error) && error.kind() != ErrorKind::NotFound => Err(error),
            // It ended just now, or is asked again at the next look.
            _ => Ok(()),
        }
    }

    /// Runs a job that nobody runs, and ends one that is no longer wanted.
    async fn look_after_job(&mut self, member: &ServiceName, unwanted: bool) -> Result<()> {
        if let Some(interrupt) = self.running.get(member) {
            if unwanted {
                interrupt.send_replace(true);
            }
            let started = self.member(member).is_some_and(|state| state.started);
            if !started && self.is_waited_for(member, MemberCondition::Started) {
                let record = self.desk.records.job(self.number(), member).await?;
                if record.is_some_and(|record| record.launched) {
                    self.change(member, |state| state.started = true).await?;
                }
            }
            return Ok(());
        }
        if self.is_postponed(member) {
            return Ok(());
        }
        let (interrupt, interrupted) = watch::channel(unwanted);
        let Some(runner) = self.runner(member, interrupted)? else {
            return self.failed(member, "it is no job".to_owned()).await;
        };
        self.running.insert(member.clone(), interrupt);
        let name = member.clone();
        self.jobs.spawn(async move { (name, runner.run().await) });
        Ok(())
    }

    /// A job's runner came to an end.
    pub(super) async fn job_ended(&mut self, member: &ServiceName, result: Result<JobReport>) -> Result<()> {
        self.running.remove(member);
        if !self.member(member).is_some_and(|state| state.is_under_way()) {
            return Ok(());
        }
        let report = match result {
            Ok(report) => report,
            Err(error) => {
                tracing::warn!(release = %self.desk.name, %member, %error, "the job is looked at again");
                self.postpone(member);
                return Ok(());
            }
        };
        self.again.remove(member);
        if report.succeeded == Some(true) {
            return self.succeeded(member).await;
        }
        if let (Some(instance), Some(active)) = (report.kept, &self.active) {
            let mut head = self.head.clone();
            head.kept.retain(|kept| kept.instance != instance);
            let surplus = (head.kept.len() + 1).saturating_sub(ReleaseHead::KEPT);
            // The oldest go at the next look.
            head.kept.iter_mut().take(surplus).for_each(|kept| kept.left = std::time::Duration::ZERO);
            head.kept.push(Kept { instance, left: active.spec.keep_failed });
            let draft = Draft::fenced(self.desk.records.repository(), self.desk.fence());
            draft.put("head", &head)?.commit().await?;
            self.head = head;
        }
        self.failed(member, report.cause).await
    }

    /// Services that this name brought before and that are no members any more, the first to go first.
    pub(super) fn left_over(&self) -> Vec<ServiceName> {
        let Some(active) = &self.active else { return Vec::new() };
        let old = self.head.services.iter().rev();
        old.filter(|name| active.spec.member(name).is_none()).cloned().collect()
    }

    pub(super) async fn begin_pruning(&mut self) -> Result<()> {
        let left = self.left_over();
        let Some(active) = &mut self.active else { return Ok(()) };
        active.state.prune = left;
        active.state.phase = ReleasePhase::Pruning;
        active.state.spent = std::time::Duration::ZERO;
        self.commit().await
    }

    /// Removes the next of the services that are no members any more, one after the other.
    pub(super) async fn prune_next(&mut self) -> Result<()> {
        let Some(active) = &self.active else { return Ok(()) };
        if active.state.phase != ReleasePhase::Pruning || active.state.winding.is_some() {
            return Ok(());
        }
        let Some(service) = active.state.prune.first().cloned() else { return Ok(()) };
        let repository = self.desk.service(&service);
        match repository.input().await? {
            None => {
                if let Some(active) = &mut self.active {
                    active.state.prune.remove(0);
                }
                self.commit().await
            }
            Some(input) if input.value.removing => Ok(()),
            Some(_) => {
                self.desk.may_ask()?;
                self.in_their_name().remove(&service).await?;
                self.tell(ReleaseEventKind::Pruning { service });
                Ok(())
            }
        }
    }
}

/// Whether a service runs what the member says, all of it.
pub(super) async fn is_unchanged(spec: &MemberSpec, found: &Found, repository: &Repository) -> Result<bool> {
    let (Some(input), Some(current)) = (&found.input, found.state.current) else { return Ok(false) };
    let input = &input.value;
    let whole = found.state.rollout.is_none() && found.state.slots.values().all(|number| *number == current);
    let traffic = spec.traffic.is_none() || spec.traffic == input.traffic;
    let bounds = spec.bounds.is_none_or(|bounds| bounds.pair() == input.bounds);
    if !whole || !traffic || !bounds || input.removing || input.active.is_some() {
        return Ok(false);
    }
    Ok(repository.revision(current).await?.is_some_and(|record| *record.revision.spec == spec.service))
}

/// Whether what was refused now may be taken later.
pub(super) fn is_passing(error: &ews_core::Error) -> bool {
    error.retry() != Retry::Never || matches!(error.kind(), ErrorKind::Busy | ErrorKind::Stale)
}
