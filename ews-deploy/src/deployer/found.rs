//! The records of a service as found, and what follows from them for a request.

use std::sync::Arc;

use ews_core::store::StoreRevision;
use ews_core::{Error, ErrorKind, InstanceId, Result, Revision, Timestamp};

use crate::plan::Base;
use crate::record::{
    Repository, RevisionRecord, RolloutRequest, ScaleInput, ServiceInput, ServiceState, Versioned,
};
use crate::request::{Concurrency, DeployRequest};
use crate::slots::Slots;

/// Whether a write collided with another one, so that it is worth making anew.
pub(crate) fn collided(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Stale | ErrorKind::AlreadyExists)
}

/// The records of a service as found.
pub(crate) struct Found {
    pub(crate) input: Option<Versioned<ServiceInput>>,
    pub(crate) scale: Option<Versioned<ScaleInput>>,
    pub(crate) state: ServiceState,
    state_modified: StoreRevision,
    /// Whether the rollout that was asked for last has ended. It is let go of a write later, and whoever has heard of its end
    /// need not know that.
    has_ended: bool,
}

impl Found {
    pub(crate) async fn read(repository: &Repository) -> Result<Self> {
        let input = repository.input().await?;
        let scale = repository.scale().await?;
        let state = repository.state().await?;
        let state_modified = state.as_ref().map(|state| state.modified).unwrap_or_default();
        let state = state.map(|state| state.value).unwrap_or_default();
        let has_ended = match input.as_ref().and_then(|input| input.value.active.as_ref()) {
            Some(active) => repository
                .rollout(active.number)
                .await?
                .is_some_and(|rollout| rollout.value.outcome.is_some()),
            None => false,
        };
        Ok(Self { input, scale, state, state_modified, has_ended })
    }

    pub(crate) fn base(&self) -> Base {
        Base {
            input: self.input.as_ref().map(|found| found.modified).unwrap_or_default(),
            scale: self.scale.as_ref().map(|found| found.modified).unwrap_or_default(),
            state: self.state_modified,
        }
    }

    /// The rollout that a request of this key led to before.
    pub(crate) fn known(&self, key: Option<&str>) -> Option<u64> {
        let keys = &self.input.as_ref()?.value.keys;
        keys.iter().find(|(known, _)| Some(known.as_str()) == key).map(|(_, number)| *number)
    }

    /// What was asked for last, where it has not ended.
    pub(super) fn under_way(&self) -> Option<&RolloutRequest> {
        let active = self.input.as_ref()?.value.active.as_ref()?;
        (!self.has_ended).then_some(active)
    }

    pub(super) fn free(&self, advice: &str) -> Result<()> {
        match self.under_way() {
            Some(active) => Err(Error::new(
                ErrorKind::Busy,
                format!("rollout {} of the service is under way; wait for it, or {advice}", active.number),
            )),
            None => Ok(()),
        }
    }

    pub(super) fn admits(&self, request: &DeployRequest) -> Result<()> {
        if self.input.as_ref().is_some_and(|input| input.value.removing) {
            return Err(Error::new(
                ErrorKind::Busy,
                "the service is being removed; deploy it when it is gone (`wait_removed`)",
            )
            .with_context("service", &request.spec.name));
        }
        if request.concurrency == Concurrency::Reject {
            self.free("ask for `supersede` or `queue`")?;
        }
        match request.base {
            Some(base) if base != self.base() => Err(Error::new(
                ErrorKind::Stale,
                "the service has changed since the plan was made; plan again",
            )
            .with_context("service", &request.spec.name)),
            _ => Ok(()),
        }
    }

    /// The revision of a request: one that is kept already, or a new one.
    pub(super) async fn revision_for(
        &self,
        request: &DeployRequest,
        now: Timestamp,
        repository: &Repository,
    ) -> Result<RevisionRecord> {
        let kept = repository.revisions().await?;
        let same = |record: &&RevisionRecord| record.overlay.is_none() && *record.spec() == request.spec;
        if let Some(record) = kept.iter().rev().find(same) {
            return Ok(record.clone());
        }
        let next = self.input.as_ref().map_or(1, |input| input.value.next_revision);
        let revision = Revision::new(next, Arc::new(request.spec.clone()), now)?;
        Ok(RevisionRecord { revision, overlay: None })
    }

    /// How many instances there shall be: the count of the spec where it is new or was changed, or else the count that holds.
    pub(super) async fn desired_for(&self, record: &RevisionRecord, repository: &Repository) -> Result<u32> {
        let Some(scale) = &self.scale else { return Ok(record.spec().replicas) };
        let before = match self.state.current {
            Some(number) => repository.revision(number).await?.map(|record| record.revision.spec.replicas),
            None => None,
        };
        let replicas = record.spec().replicas;
        Ok(if before == Some(replicas) { scale.value.desired } else { replicas })
    }
}

/// The instances that a victim may be of.
pub(crate) fn of_the_service(slots: &Slots, victims: &[InstanceId]) -> Result<()> {
    match victims.iter().find(|victim| slots.slot_of(victim).is_none()) {
        Some(stranger) => Err(Error::invalid(
            "a victim that is not an instance of the service; accepted: its own instances",
        )
        .with_context("instance", stranger)),
        None => Ok(()),
    }
}
