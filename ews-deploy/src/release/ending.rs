//! How a release ends, and what is kept of its past: the last releases, and for a while the instances of failed jobs.

use std::time::Duration;

use ews_core::runtime::RemoveOptions;
use ews_core::store::{ListRequest, Transaction};
use ews_core::{Result, ServiceName};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::leader::{Active, IDLE, Leader};
use super::record::{Back, Kept, ReleaseHead, state_key};
use super::report::{ReleaseEventKind, ReleasePhase};
use crate::discovery::MemberOf;
use crate::record::{Draft, Versioned};
use crate::rollout::Outcome;

impl Leader {
    /// The release is over: written before it is told.
    pub(super) async fn conclude(&mut self, outcome: Outcome) -> Result<()> {
        let first = self.first_failure();
        let now = self.desk.workshop.clock.now();
        let Some(active) = &mut self.active else { return Ok(()) };
        let mut state = active.state.clone();
        state.outcome = Some(outcome);
        state.ended_at = Some(now);
        if !outcome.is_success() && state.cause.is_empty() {
            state.cause = first;
        }
        if outcome == Outcome::RollbackFailed {
            for (name, member) in state.members.iter().filter(|(_, member)| member.back == Back::Failed) {
                state.cause.push_str(&format!("; `{name}` could not go back: {}", member.cause));
            }
        }
        let mut head = self.head.clone();
        let is_service = |name: &&ServiceName| state.members.get(*name).is_some_and(|member| !member.is_job);
        let stays = |name: &&ServiceName| {
            outcome.is_success()
                || state.members.get(*name).is_some_and(|m| m.is_touched() && m.back != Back::Done)
        };
        let order = active.graph.order().iter().filter(is_service);
        let mut services: Vec<ServiceName> = order.filter(stays).cloned().collect();
        // Those that were there before and are no part of this one, or were not touched by it, stay behind those that are.
        services.extend(
            head.services.iter().filter(|name| !services.contains(name)).cloned().collect::<Vec<_>>(),
        );
        if active.state.phase == ReleasePhase::Pruning {
            services.retain(|name| active.spec.member(name).is_some() || state.prune.contains(name));
        }
        services.truncate(ReleaseHead::SERVICES);
        // What could not be waited for is removed as soon as the runtime can be asked.
        for (name, member) in &state.members {
            if member.is_job && member.is_under_way() {
                let Some(runner) = self.runner(name, tokio::sync::watch::channel(true).1)? else { continue };
                let record = self.desk.records.job(state.number, name).await?.unwrap_or_default();
                head.kept
                    .push(Kept { instance: runner.attempt(record.attempt).to_id()?, left: Duration::ZERO });
            }
        }
        head.services = services;
        if outcome.is_success() {
            head.current = Some(state.number);
        }
        let mut value = self.input.value.clone();
        value.active = None;
        let repository = self.desk.records.repository();
        let draft = Draft::fenced(repository, self.desk.fence())
            .expect("in/release", Some(self.input.modified))?
            .put("in/release", &value)?
            .put(&state_key(state.number), &state)?
            .put("head", &head)?;
        match draft.commit().await {
            Ok(modified) => self.input = Versioned { value, modified },
            Err(error) => return self.collided(error).await,
        }
        self.head = head;
        self.desk.tell(state.number, ReleaseEventKind::Ended { outcome, cause: state.cause.clone() });
        if let Some(active) = self.active.take() {
            self.forget_members(&active).await?;
        }
        // A job of a release that is over is over too; it was waited for wherever that was possible.
        self.jobs = JoinSet::new();
        self.running.clear();
        self.soon = true;
        self.prune_history().await
    }

    /// Members that never came to be do not belong to the release.
    async fn forget_members(&self, active: &Active) -> Result<()> {
        let mut transaction = Transaction::new().fence(self.desk.fence().clone());
        let mut some = false;
        for member in active.spec.members.iter().filter(|member| !member.is_job()) {
            let service = self.desk.service(member.name());
            if !self.head.services.contains(member.name()) && service.input().await?.is_none() {
                transaction = transaction.delete(&service.key(MemberOf::KEY)?);
                some = true;
            }
        }
        if some {
            self.desk.workshop.store.commit(&transaction).await?;
        }
        Ok(())
    }

    /// Deletes what is kept of releases beyond the last ones.
    async fn prune_history(&self) -> Result<()> {
        let keep = self.desk.workshop.config.history;
        let ended: Vec<u64> =
            self.desk.records.states().await?.into_iter().map(|state| state.number).collect();
        let surplus = ended.len().saturating_sub(keep);
        let repository = self.desk.records.repository();
        for number in ended.iter().take(surplus).filter(|number| Some(**number) != self.head.current) {
            let mut keys = vec![repository.key(&state_key(*number))?];
            for kind in ["spec", "job"] {
                let prefix = repository.prefix(&crate::record::numbered(kind, *number))?;
                let page = repository.store().list(&ListRequest::new(prefix).limit(200)).await?;
                keys.extend(page.records.into_iter().map(|record| record.key));
            }
            // The state goes last: where this is cut short, it is found again.
            keys.reverse();
            for part in keys.chunks(100) {
                let mut transaction = Transaction::new().fence(self.desk.fence().clone());
                for key in part {
                    transaction = transaction.delete(key);
                }
                repository.store().commit(&transaction).await?;
            }
        }
        Ok(())
    }

    /// Removes instances of failed jobs whose time is over.
    pub(super) async fn tidy_kept(&mut self) -> Result<()> {
        let now = Instant::now();
        let passed = now - self.kept;
        let due = self.head.kept.iter().any(|kept| kept.left <= passed);
        if self.head.kept.is_empty() || (!due && passed < self.desk.workshop.config.lease / 3) {
            if self.head.kept.is_empty() {
                self.kept = now;
            }
            return Ok(());
        }
        self.kept = now;
        let mut head = self.head.clone();
        for kept in &mut head.kept {
            kept.left = kept.left.saturating_sub(passed);
        }
        let limit = self.desk.workshop.config.call_limit;
        let over: Vec<_> = head.kept.iter().filter(|kept| kept.left.is_zero()).cloned().collect();
        for kept in over {
            self.desk.lead.outlasts(limit)?;
            let options = RemoveOptions::force();
            let removed = self.desk.workshop.runtime.remove(&kept.instance, &options);
            if matches!(timeout(limit, removed).await, Ok(Ok(()))) {
                head.kept.retain(|other| other.instance != kept.instance);
            } else if let Some(other) = head.kept.iter_mut().find(|other| other.instance == kept.instance) {
                other.left = IDLE;
            }
        }
        let draft = Draft::fenced(self.desk.records.repository(), self.desk.fence());
        draft.put("head", &head)?.commit().await?;
        self.head = head;
        Ok(())
    }
}
