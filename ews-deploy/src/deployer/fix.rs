//! Hotfixes as they are asked for, and what became of them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ews_core::{Capability, Digest, Error, ErrorKind, Instance, Result, Revision, RevisionId, ServiceName};

use super::Deployer;
use super::found::{Found, collided};
use crate::audit::{AuditAction, AuditEntry};
use crate::hotfix::{
    self, Drift, FileFact, Hotfix, Overlaid, OverlaidFile, Overlay, OverlayFile, Reload, files,
};
use crate::record::{Draft, Repository, RevisionRecord, RolloutRequest, ServiceInput, numbered};
use crate::rollout::RolloutId;

/// How often a write that collides with another is made anew.
const ATTEMPTS: usize = 20;
/// The most instances of a service that takes hotfixes: which files each has is one record.
const INSTANCES: u32 = 20_000;

/// An overlay that is about to be written, with what its files hold.
struct Made {
    overlay: Overlay,
    contents: BTreeMap<Digest, Bytes>,
}

impl Deployer {
    /// Asks for files to be replaced in the running instances of a service, and returns once that is written down. It is a
    /// rollout to a revision of its own, whose instances are those of the present one: batch by batch, gated, undone where it
    /// fails. Instances that are created later get the files before they start. [`rollback`](Self::rollback) takes it back;
    /// the next deployment of another spec does not have it.
    ///
    /// What the files held before is taken from an instance that runs. A file is replaced as the runtime's archives do it: for a
    /// moment it may not be there.
    ///
    /// # Errors
    /// `Invalid` for a request that is wrong in itself, for what is no file, and for files in mounts or placed by the spec;
    /// `Unsupported` where the runtime lacks archives, or what the reload takes; `NotFound` for a service that is not there;
    /// `Busy` while a rollout is under way; `Unavailable` where no instance runs; `OutOfResources` beyond
    /// [`Hotfix::TOTAL`], or above 20,000 instances; those of the store and the runtime.
    pub async fn hotfix(&self, request: &Hotfix) -> Result<RolloutId> {
        request.check()?;
        let capabilities = self.inner.workshop.runtime.capabilities();
        let features = &capabilities.features;
        let reload = match &request.reload {
            Reload::Signal(_) => Some(Capability::Signals),
            Reload::Exec(_) => Some(Capability::Exec),
            Reload::None | Reload::Restart => None,
        };
        for needed in [Capability::PutArchive, Capability::GetArchive].into_iter().chain(reload) {
            if !features.has(needed) {
                return Err(Error::unsupported(needed));
            }
        }
        let service = &request.service;
        let repository = self.repository(service);
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let found = Found::read(&repository).await?;
            let Some(input) = &found.input else { return Err(Error::not_found("service", service)) };
            if let Some(number) = found.known(request.key.as_deref()) {
                return Ok(RolloutId { service: service.clone(), number });
            }
            if input.value.removing {
                return Err(Error::new(
                    ErrorKind::Busy,
                    "the service is being removed; accepted: one that stays",
                )
                .with_context("service", service));
            }
            found.free("fix it when that has ended")?;
            if found.scale.as_ref().is_some_and(|scale| scale.value.desired > INSTANCES) {
                let message =
                    format!("a hotfix of more than {INSTANCES} instances; deploy a revision instead");
                return Err(Error::new(ErrorKind::OutOfResources, message));
            }
            let current = match found.state.current {
                Some(number) => repository.revision(number).await?,
                None => None,
            };
            let Some(current) = current else {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    "no revision of the service was ever brought about",
                )
                .with_context("service", service));
            };
            request.check_against(current.spec())?;
            let made = self.laid_over(request, &current).await?;
            let asked = (self.now(), self.by.to_string());
            match write(&repository, request, &found, input.value.clone(), &current, made, asked).await {
                Ok(number) => return Ok(RolloutId { service: service.clone(), number }),
                Err(error) if collided(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::internal("no attempt was made")))
    }

    /// What the present revision and this hotfix come to together.
    async fn laid_over(&self, request: &Hotfix, current: &RevisionRecord) -> Result<Made> {
        let repository = self.repository(&request.service);
        let before = current.overlay.as_ref();
        let mut files = before.map(|overlay| overlay.files.clone()).unwrap_or_default();
        let mut contents = BTreeMap::new();
        // What earlier hotfixes hold is kept under this one's number too: the earlier ones may be forgotten before it.
        for file in files.values() {
            for fact in [Some(file.content), file.original].into_iter().flatten() {
                let content = repository.blob(current.revision.number, &fact.digest, fact.size).await?;
                contents.insert(fact.digest, content);
            }
        }
        let instance = self.an_instance(&request.service, current.key()).await?;
        for (path, file) in &request.files {
            let original = match files.get(path) {
                Some(known) => known.original,
                None => match files::read(&*self.inner.workshop.runtime, &instance.id, path).await? {
                    Some(found) => {
                        contents.insert(found.fact.digest, found.content);
                        Some(found.fact)
                    }
                    None => None,
                },
            };
            let content = FileFact {
                digest: Digest::of(&file.content),
                size: file.content.len() as u64,
                mode: file.mode.or(original.map(|original| original.mode)).unwrap_or(0o644),
                owner: original.map(|original| original.owner).unwrap_or_default(),
            };
            contents.insert(content.digest, file.content.clone());
            files.insert(path.clone(), OverlayFile { content, original });
        }
        hotfix::check_size(&files)?;
        let overlay = Overlay {
            base: before.map_or(current.revision.number, |overlay| overlay.base),
            base_id: current.key().clone(),
            files,
            reload: request.reload.clone(),
            reason: request.reason.clone(),
        };
        Ok(Made { overlay, contents })
    }

    /// An instance of this revision that runs.
    async fn an_instance(&self, service: &ServiceName, key: &RevisionId) -> Result<Instance> {
        let slots = self.slots(service).await?;
        let mut running = slots.iter().filter(|i| i.state.is_running() && i.key.revision == *key);
        running.next().cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::Unavailable,
                "no instance of the service runs, from which the files could be taken",
            )
            .with_context("service", service)
        })
    }

    /// The hotfixes that are kept, with the revisions that they are, the earliest first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn hotfixes(&self, service: &ServiceName) -> Result<Vec<(Revision, Overlay)>> {
        let records = self.repository(service).revisions().await?;
        Ok(records.into_iter().filter_map(|record| Some((record.revision, record.overlay?))).collect())
    }

    /// The present revision with its hotfixes and what they hold; `None` where it has none. A source is made of it (the module `source`,
    /// `OverlaidRequest`), and deployed like any other: what was mended in place is then part of what new instances are made from.
    ///
    /// # Errors
    /// `NotFound` for a service that is not there; those of the store.
    pub async fn overlaid(&self, service: &ServiceName) -> Result<Option<Overlaid>> {
        let repository = self.repository(service);
        let found = Found::read(&repository).await?;
        if found.input.is_none() {
            return Err(Error::not_found("service", service));
        }
        let current = match found.state.current {
            Some(number) => repository.revision(number).await?,
            None => None,
        };
        let Some(RevisionRecord { revision, overlay: Some(overlay) }) = current else { return Ok(None) };
        let mut files = BTreeMap::new();
        for (path, OverlayFile { content: fact, .. }) in overlay.files {
            let content = repository.blob(revision.number, &fact.digest, fact.size).await?;
            files.insert(path, OverlaidFile { content, mode: fact.mode, owner: fact.owner });
        }
        let spec = (*revision.spec).clone();
        Ok(Some(Overlaid { revision: revision.id, spec, files, reason: overlay.reason }))
    }

    /// The files that are not as the present revision has them, in every instance that runs: of all that any of its hotfixes
    /// touches. None where there is no hotfix.
    ///
    /// # Errors
    /// `NotFound` for a service that is not there; those of the store and the runtime.
    pub async fn drift(&self, service: &ServiceName) -> Result<Vec<Drift>> {
        let repository = self.repository(service);
        let found = Found::read(&repository).await?;
        if found.input.is_none() {
            return Err(Error::not_found("service", service));
        }
        let records: BTreeMap<u64, RevisionRecord> = repository
            .revisions()
            .await?
            .into_iter()
            .map(|record| (record.revision.number, record))
            .collect();
        let mut drifts = Vec::new();
        for instance in self.slots(service).await?.iter().filter(|instance| instance.state.is_running()) {
            let number = found.state.slots.get(&instance.key.slot);
            let Some(record) = number.and_then(|number| records.get(number)) else { continue };
            if *record.key() != instance.key.revision {
                continue;
            }
            let overlays = records.values().filter_map(|other| other.overlay.as_ref());
            let of_it = overlays.filter(|overlay| overlay.base_id == *record.key());
            for (path, target) in hotfix::targets(of_it, record.overlay.as_ref()) {
                let holds = files::read(&*self.inner.workshop.runtime, &instance.id, &path).await?;
                let (expected, holds) =
                    (target.map(|target| target.digest), holds.map(|file| file.fact.digest));
                if expected != holds {
                    drifts.push(Drift { instance: instance.id.clone(), path, expected, found: holds });
                }
            }
        }
        Ok(drifts)
    }
}

/// Writes a hotfix down: its files, then itself with the rollout to it.
async fn write(
    repository: &Repository,
    request: &Hotfix,
    found: &Found,
    mut input: ServiceInput,
    current: &RevisionRecord,
    made: Made,
    (now, by): (ews_core::Timestamp, String),
) -> Result<u64> {
    let revision = input.next_revision;
    let needed: BTreeSet<Digest> = made
        .overlay
        .files
        .values()
        .flat_map(|file| [Some(file.content), file.original])
        .flatten()
        .map(|fact| fact.digest)
        .collect();
    for (digest, content) in made.contents.iter().filter(|(digest, _)| needed.contains(*digest)) {
        repository.put_blob(revision, digest, content).await?;
    }
    let mut record = Revision::new(revision, current.revision.spec.clone(), now)?;
    record.parent = Some(current.revision.id.clone());
    let record = RevisionRecord { revision: record, overlay: Some(made.overlay) };
    let number = input.next_rollout;
    input.next_rollout += 1;
    input.next_revision += 1;
    input.active = Some(RolloutRequest {
        number,
        revision,
        strategy: request.strategy.clone(),
        rollback: false,
        reason: request.reason.clone(),
        by: by.clone(),
        restart: None,
    });
    input.remember(request.key.as_deref(), number);
    Draft::new(repository)
        .expect("in/service", found.input.as_ref().map(|input| input.modified))?
        .put("in/service", &input)?
        .put(&numbered("revision", revision), &record)?
        .note(&AuditEntry { at: now, by, action: AuditAction::Hotfix(number), why: request.reason.clone() })?
        .commit()
        .await?;
    Ok(number)
}
