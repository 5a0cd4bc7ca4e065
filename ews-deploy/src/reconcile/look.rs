//! What a leader sees, and what it lets the balancer see.

use std::collections::BTreeSet;
use std::sync::Arc;

use ews_core::balancer::MemberState;
use ews_core::probe::Target;
use ews_core::probe::prober::State;
use ews_core::store::{ListRequest, WatchStream};
use ews_core::{EventStream, Instance, InstanceState, Result};
use tokio::time::{self, Duration, timeout};

use super::leader::Leader;
use super::unit::service_selector;
use crate::decide::{Health, Looked};
use crate::slots::Slots;

/// How often the balancer is compared with what it should have though nothing has changed.
const AUDIT: Duration = Duration::from_secs(30);

impl Leader {
    pub(super) async fn events(&mut self) -> Option<EventStream> {
        let selector = service_selector(&self.tools.owner, &self.tools.service).ok()?;
        let stream = timeout(self.config.call_limit, self.tools.runtime.events(&selector)).await;
        stream.ok()?.ok()
    }

    pub(super) async fn watch_inputs(&self) -> Option<WatchStream> {
        let repository = &self.tools.repository;
        let prefix = repository.inputs().ok()?;
        let page = repository.store().list(&ListRequest::new(prefix.clone()).limit(1)).await.ok()?;
        repository.store().watch(&prefix, page.revision).await.ok()
    }

    /// Reads again what is asked for.
    pub(super) async fn refresh(&mut self) -> Result<()> {
        let repository = &self.tools.repository;
        if let Some(input) = repository.input().await? {
            self.input = input;
        }
        if let Some(scale) = repository.scale().await? {
            self.scale = scale.value;
        }
        if let Some(control) = repository.control().await? {
            self.control = control.value;
        }
        if let Some(request) = &self.input.value.active
            && !self.revisions.contains_key(&request.revision)
            && let Some(record) = repository.revision(request.revision).await?
        {
            self.revisions.insert(record.revision.number, record);
        }
        self.tools.book.refresh(repository, self.input.value.traffic.as_ref()).await?;
        if let Some(director) = &self.tools.director {
            // One that is being removed keeps its traffic until nothing of it runs.
            director.set_traffic(self.input.value.traffic.as_ref(), &self.input.value.former);
            // What a rollout showed before it was promoted may still be there.
            let shown = self.state.strategy.iter().filter_map(|strategy| strategy.blue_green.as_ref());
            shown.for_each(|blue_green| director.suspect_domains(&blue_green.preview));
        }
        Ok(())
    }

    /// Whether somebody works on a slot, or what came of that was not seen yet.
    pub(super) fn is_taken(&self, slot: u32) -> bool {
        self.busy.contains_key(&slot) || self.unseen.contains_key(&slot)
    }

    /// Those slots.
    pub(super) fn taken(&self) -> BTreeSet<u32> {
        self.busy.keys().chain(self.unseen.keys()).copied().collect()
    }

    /// Begins to list the instances.
    pub(super) fn look(&mut self) {
        let Ok(selector) = service_selector(&self.tools.owner, &self.tools.service) else { return };
        self.looked_for += 1;
        let (tools, limit) = (Arc::clone(&self.tools), self.config.call_limit);
        self.looks.spawn(async move {
            let listed = timeout(limit, tools.runtime.list(&selector)).await;
            listed.ok().and_then(Result::ok)
        });
    }

    /// Takes up what was listed, and probes those that run.
    pub(super) fn seen(&mut self, instances: Vec<Instance>) {
        let known = self.looked_for;
        self.unseen.retain(|_, (look, _)| *look > known);
        let before = std::mem::replace(&mut self.observed, Slots::new(instances));
        let is_there = |was: &&Instance| self.observed.of(was.key.slot).iter().any(|now| now.id == was.id);
        for gone in before.iter().filter(|was| !is_there(was)) {
            self.tools.prober.remove(&gone.id);
            if let Some(director) = &self.tools.director {
                director.forget(&gone.id, None);
            }
        }
        for instance in self.observed.iter() {
            // Of thousands hardly one has changed.
            if before.of(instance.key.slot).contains(instance)
                && self.tools.prober.probes(&instance.id, instance.incarnation)
            {
                continue;
            }
            if instance.state != InstanceState::Running {
                if instance.state.is_ended() {
                    self.tools.prober.remove(&instance.id);
                }
                continue;
            }
            let Some(revision) = self.revisions.values().find(|r| *r.key() == instance.key.revision) else {
                continue;
            };
            // One that was seen before and has started since did so just now, whatever the engine's clock says.
            let known = before.of(instance.key.slot).iter().any(|was| was.id == instance.id);
            let ago = instance.started_at.filter(|_| !known);
            let ago = ago.map(|at| self.tools.clock.now().since(at)).unwrap_or_default();
            let target =
                Target::new(instance.clone(), revision.spec().instance.probes.clone()).with_started_ago(ago);
            if let Err(error) = self.tools.prober.set(target) {
                tracing::debug!(instance = %instance.id, %error, "not probed");
            }
        }
    }

    /// Takes up the traffic that an earlier controller directed.
    pub(super) async fn adopt(&mut self) -> bool {
        let Some(director) = &self.tools.director else {
            self.recall();
            return true;
        };
        let instances: Vec<_> = self.observed.iter().cloned().collect();
        let revisions = self.revisions.values().map(|record| record.key().clone());
        let adopted = timeout(self.config.call_limit, director.adopt(revisions, &instances)).await;
        match adopted {
            Ok(Ok(())) => {
                self.recall();
                true
            }
            Ok(Err(error)) => {
                tracing::warn!(service = %self.tools.service, %error, "the balancer can't be asked");
                false
            }
            Err(_) => false,
        }
    }

    /// What took traffic, or was told of to others, was ready when it was looked at last: a probe that wants several passes, or that waits
    /// for another one, would take all of it out of traffic at once, though nothing has failed.
    fn recall(&self) {
        let told = self.tools.book.instances();
        for instance in self.observed.iter().filter(|instance| instance.state.is_running()) {
            let serves = self.tools.director.as_ref().is_some_and(|d| d.serves(&instance.id));
            let is_told = || told.contains(&(instance.key.slot, instance.id.clone(), instance.incarnation));
            if serves || is_told() {
                self.tools.prober.was_ready(&instance.id, instance.incarnation);
            }
        }
    }

    pub(super) fn looked<'a>(
        &'a self,
        busy: &'a BTreeSet<u32>,
        halted: bool,
        health: Health<'a>,
    ) -> Looked<'a> {
        Looked {
            state: &self.state,
            observed: &self.observed,
            busy,
            rollout: self.rollout.as_ref(),
            halted,
            watches: self.watched_until().is_some(),
            revisions: &self.revisions,
            health,
        }
    }

    /// Keeps what others are told of instances that nobody works on: as with the balancer, the dead go at once, the ready come, and
    /// those that are known not to be ready take a rest.
    pub(super) fn tell_addresses(&self, health: Health<'_>) {
        let book = &self.tools.book;
        for (slot, id, start) in book.instances() {
            let found = self.observed.of(slot).iter().find(|instance| instance.id == id);
            let runs = found.is_some_and(|i| !i.state.is_ended() && i.incarnation == start);
            if !runs && !self.is_taken(slot) {
                book.withdraw(&id);
            }
        }
        for (slot, number) in self.state.slots.iter().filter(|(slot, _)| !self.is_taken(**slot)) {
            let Some(revision) = self.revisions.get(number) else { continue };
            let (Some(instance), _) = self.observed.split(*slot, revision.key()) else { continue };
            let probed =
                self.tools.prober.state(&instance.id).filter(|s| s.incarnation == instance.incarnation);
            let (Some(probed), Some(status)) = (probed, health(&instance.id)) else { continue };
            match status.ready && instance.state == InstanceState::Running {
                true => book.announce(instance, revision.spec()),
                // Not tried yet: what was known before holds.
                false if probed.is_known() => {
                    book.withdraw(&instance.id);
                }
                false => {}
            }
        }
    }

    /// Keeps the balancer's picture of instances that nobody works on: the dead go at once, the ready come, those that are
    /// known not to be ready take a rest.
    pub(super) fn direct(&mut self, health: Health<'_>) {
        let Some(director) = &self.tools.director else { return };
        director.keep(|slot, id, start| {
            match self.observed.of(slot).iter().find(|instance| instance.id == *id) {
                // A later start is another endpoint.
                Some(instance) => !instance.state.is_ended() && instance.incarnation == start,
                // Whoever works on the slot may have made it since the last listing.
                None => self.is_taken(slot),
            }
        });
        let beside = self.rollout.iter().flat_map(|r| r.beside().iter().map(move |slot| (slot, &r.to)));
        let wanted = self.state.slots.iter().chain(beside);
        for (slot, number) in wanted.filter(|(slot, _)| !self.is_taken(**slot)) {
            let Some(revision) = self.revisions.get(number) else { continue };
            let (Some(instance), _) = self.observed.split(*slot, revision.key()) else { continue };
            if instance.state != InstanceState::Running {
                continue;
            }
            let probed =
                self.tools.prober.state(&instance.id).filter(|s| s.incarnation == instance.incarnation);
            let Some(mut status) = health(&instance.id).filter(|_| probed.is_some()) else { continue };
            status.ready &= !self.care.ejected.contains(slot);
            let wanted = match (status.ready, director.serves(&instance.id)) {
                (true, _) => MemberState::Active,
                // Not tried yet: what was known before holds.
                (false, true) if !probed.as_ref().is_some_and(State::is_known) => continue,
                (false, true) => MemberState::Draining,
                (false, false) => continue,
            };
            if let Err(error) = director.want(instance, wanted) {
                tracing::warn!(instance = %instance.id, %error, "it gets no traffic");
            }
        }
        let now = time::Instant::now();
        if now - self.audited >= AUDIT {
            self.audited = now;
            director.suspect();
        }
        let rested = self.sync_after.is_none_or(|until| until <= now);
        if director.is_dirty() && self.syncs.is_empty() && rested {
            self.sync_after = None;
            let tools = Arc::clone(&self.tools);
            self.syncs.spawn(async move {
                let Some(director) = &tools.director else { return true };
                match director.sync().await {
                    Ok(()) => true,
                    Err(error) => {
                        tracing::warn!(service = %tools.service, %error, "the balancer is not as it should be");
                        false
                    }
                }
            });
        }
    }
}
