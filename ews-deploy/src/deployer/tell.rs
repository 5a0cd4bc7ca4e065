//! What a deployer tells: how services and rollouts stand, and when they have ended.

use std::collections::BTreeSet;

use ews_core::image::PruneOptions;
use ews_core::spec::source::{ImagePin, Source};
use ews_core::store::{ListRequest, Prefix};
use ews_core::{Digest, Error, ErrorKind, Instance, Result, Revision, RevisionId, ServiceName};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::time::{Duration, timeout};

use super::Deployer;
use super::found::Found;
use crate::audit::AuditEntry;
use crate::report::report;
use crate::rollout::{RolloutId, RolloutReport};

/// How a service stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServiceStatus {
    /// Which service.
    pub service: ServiceName,
    /// How many instances it should have.
    pub desired: u32,
    /// How many of its instances run and are known to be ready.
    pub ready: u32,
    /// How many run of which nobody knows here yet whether they are ready: nobody has looked since this deployer was started, or another
    /// controller leads the service and looks.
    pub unknown: u32,
    /// The revision that a rollout brought about last; `None` where none ever was.
    pub stable: Option<RevisionId>,
    /// The rollout under way, where there is one.
    pub rollout: Option<RolloutReport>,
    /// Its instances as the runtime sees them now, by slot and generation.
    pub instances: Vec<Instance>,
    /// Whether it is being removed.
    pub removing: bool,
}

impl Deployer {
    /// Waits until a removed service is gone.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn wait_removed(&self, service: &ServiceName) -> Result<()> {
        let repository = self.repository(service);
        while repository.input().await?.is_some() {
            self.a_change(&repository.inputs()?).await?;
        }
        Ok(())
    }

    /// Waits until a rollout has ended, for as long as that takes: one that is paused waits for somebody. Dropping the future ends the wait
    /// and nothing else.
    ///
    /// # Errors
    /// `NotFound` for one that is not there or no longer kept; those of the store.
    pub async fn wait(&self, rollout: &RolloutId) -> Result<RolloutReport> {
        let repository = self.repository(&rollout.service);
        loop {
            let report = self.rollout(rollout).await;
            match report {
                Ok(report) if report.outcome.is_some() => return Ok(report),
                Ok(_) => {}
                // Asked for, and nobody has begun it yet.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let input = repository.input().await?;
                    let asked = input.iter().flat_map(|input| {
                        let waiting = input.value.queue.iter().map(|queued| &queued.request);
                        input.value.active.iter().chain(waiting)
                    });
                    if !asked.into_iter().any(|asked| asked.number == rollout.number) {
                        // It may have begun and ended between the two looks.
                        return self.rollout(rollout).await;
                    }
                }
                Err(error) => return Err(error),
            }
            self.a_change(&repository.prefix("rollout")?).await?;
        }
    }

    /// Waits for a change under a prefix, at most for a second: a change between a look and the wait costs no more than that.
    pub(crate) async fn a_change(&self, prefix: &Prefix) -> Result<()> {
        let store = &self.inner.workshop.store;
        let page = store.list(&ListRequest::new(prefix.clone()).limit(1)).await?;
        let mut changes = store.watch(prefix, page.revision).await?;
        let _ = timeout(Duration::from_secs(1), changes.next()).await;
        Ok(())
    }

    /// A rollout as it stands.
    ///
    /// # Errors
    /// `NotFound` for one that is not there, was not begun yet or is no longer kept.
    pub async fn rollout(&self, rollout: &RolloutId) -> Result<RolloutReport> {
        let repository = self.repository(&rollout.service);
        let Some(found) = repository.rollout(rollout.number).await? else {
            return Err(Error::not_found("rollout", rollout));
        };
        Box::pin(report(&rollout.service, found.value, &repository, self.now())).await
    }

    /// The rollouts that are kept, the latest first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn history(&self, service: &ServiceName) -> Result<Vec<RolloutReport>> {
        let repository = self.repository(service);
        let mut reports = Vec::new();
        for state in repository.rollouts().await?.into_iter().rev() {
            reports.push(Box::pin(report(service, state, &repository, self.now())).await?);
        }
        Ok(reports)
    }

    /// The revisions that are kept, the earliest first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn revisions(&self, service: &ServiceName) -> Result<Vec<Revision>> {
        let records = self.repository(service).revisions().await?;
        Ok(records.into_iter().map(|record| record.revision).collect())
    }

    /// Every image that a revision of any service runs which is kept: what a rollback may go to. Whoever removes images keeps these.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn images_in_use(&self) -> Result<BTreeSet<Digest>> {
        let mut digests = BTreeSet::new();
        for service in self.services().await? {
            for record in self.repository(&service).revisions().await? {
                let Source::Image(image) = &record.spec().instance.source else { continue };
                match &image.pin {
                    Some(ImagePin::Manifest(digest)) => digests.insert(*digest),
                    Some(ImagePin::Local { image_id, .. }) => digests.insert(*image_id),
                    _ => continue,
                };
            }
        }
        Ok(digests)
    }

    /// Removes the images of EWS that no kept revision of any service runs, and says which; with
    /// [`dry_run`](PruneOptions::dry_run), which would be. What a revision runs is kept besides what `options` keep.
    ///
    /// # Errors
    /// `Unsupported` where the deployer has no images; those of the store and of the images.
    pub async fn prune_images(&self, options: &PruneOptions) -> Result<Vec<Digest>> {
        let Some(images) = &self.workshop().images else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the deployer has no images to look after; accepted: an image store in its `DeployParts` (`with_images`)",
            ));
        };
        let mut options = options.clone();
        options.keep.extend(self.images_in_use().await?);
        images.prune(&options).await
    }

    /// The audit trail, the latest first, at most `limit` entries.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn audit(&self, service: &ServiceName, limit: usize) -> Result<Vec<AuditEntry>> {
        let mut entries = self.repository(service).audit().await?;
        entries.reverse();
        entries.truncate(limit);
        Ok(entries)
    }

    /// How a service stands.
    ///
    /// # Errors
    /// `NotFound` for a service that is not there; those of the store and the runtime.
    pub async fn status(&self, service: &ServiceName) -> Result<ServiceStatus> {
        let repository = self.repository(service);
        let found = Found::read(&repository).await?;
        let Some(input) = &found.input else { return Err(Error::not_found("service", service)) };
        let rollout = match found.state.rollout {
            Some(number) => Some(self.rollout(&RolloutId { service: service.clone(), number }).await?),
            None => None,
        };
        let stable = match found.state.stable.last() {
            Some(number) => Some(repository.revision_id(*number).await?),
            None => None,
        };
        let instances: Vec<Instance> = self.slots(service).await?.iter().cloned().collect();
        let (mut ready, mut unknown) = (0, 0);
        for instance in instances.iter().filter(|instance| instance.state.is_running()) {
            let state = self.prober().state(&instance.id).filter(|s| s.incarnation == instance.incarnation);
            match state {
                Some(state) if state.status.ready => ready += 1,
                Some(state) if state.is_known() => {}
                _ => unknown += 1,
            }
        }
        Ok(ServiceStatus {
            service: service.clone(),
            ready,
            unknown,
            desired: found.scale.as_ref().map_or(0, |scale| scale.value.desired),
            stable,
            rollout,
            instances,
            removing: input.value.removing,
        })
    }

    /// The services of the installation, by name.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn services(&self) -> Result<Vec<ServiceName>> {
        Ok(self.scan().await?.0)
    }
}
