//! What a deployer is asked for: each call writes what is asked and returns.

use ews_core::{Error, ErrorKind, Result, Revision, RevisionId, ServiceName};

use super::Deployer;
use super::found::{Found, collided};
use crate::plan::{self, Plan, Question};
use crate::record::{
    ControlInput, Draft, End, Repository, RevisionRecord, RolloutRequest, ScaleInput, ServiceInput, numbered,
};
use crate::request::DeployRequest;
use crate::rollout::RolloutId;
use crate::strategy::Strategy;
use crate::traffic::Director;

/// How often a write that collides with another is made anew.
const ATTEMPTS: usize = 20;

impl Deployer {
    /// What a request would do, without doing it.
    ///
    /// # Errors
    /// What [`deploy`](Self::deploy) refuses.
    pub async fn plan(&self, request: &DeployRequest) -> Result<Plan> {
        let repository = self.repository(&request.spec.name);
        self.preflight(request).await?;
        let found = Found::read(&repository).await?;
        let revision = found.revision_for(request, self.inner.workshop.clock.now(), &repository).await?;
        let desired = found.desired_for(&revision, &repository).await?;
        self.planned(&found, &revision, &request.strategy, desired, false, &repository).await
    }

    /// Asks for a deployment and returns once it is written down: whatever happens then, it is brought about or ends with an
    /// outcome. [`wait`](Self::wait) waits for that.
    ///
    /// # Errors
    /// `Invalid` for a request that is wrong in itself, `Unsupported` for a spec that the runtime can't run, `Busy` while
    /// another rollout is under way, `Stale` where the plan that it expects is out of date, `AlreadyExists` for a domain that
    /// another service has; those of the store.
    pub async fn deploy(&self, request: &DeployRequest) -> Result<RolloutId> {
        self.preflight(request).await?;
        let repository = self.repository(&request.spec.name);
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let found = Found::read(&repository).await?;
            if let Some(number) = found.known(request.key.as_deref()) {
                return Ok(RolloutId { service: request.spec.name.clone(), number });
            }
            found.admits(request)?;
            match self.ask(request, &found, &repository).await {
                Ok(number) => {
                    self.adopt(&request.spec.name);
                    return Ok(RolloutId { service: request.spec.name.clone(), number });
                }
                Err(error) if collided(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::internal("no attempt was made")))
    }

    async fn ask(&self, request: &DeployRequest, found: &Found, repository: &Repository) -> Result<u64> {
        let name = request.spec.name.clone();
        let revision = found.revision_for(request, self.inner.workshop.clock.now(), repository).await?;
        let desired = match request.back {
            Some(count) => count,
            None => found.desired_for(&revision, repository).await?,
        };
        let mut input = found.input.as_ref().map_or_else(
            || ServiceInput {
                name,
                traffic: None,
                former: Vec::new(),
                bounds: (0, DeployRequest::MAX_REPLICAS),
                next_revision: 1,
                next_rollout: 1,
                active: None,
                keys: Vec::new(),
                removing: false,
            },
            |found| found.value.clone(),
        );
        if let Some(bounds) = &request.bounds {
            input.bounds = (*bounds.start(), *bounds.end());
        }
        let (least, most) = input.bounds;
        if !(least..=most).contains(&desired) {
            return Err(Error::invalid(format!(
                "{desired} instances; accepted by the service's bounds: {least} to {most}"
            ))
            .with_context("field", "replicas"));
        }
        // A way back brings the traffic of before too, none included.
        if request.traffic.is_some() || request.back.is_some() {
            let before = std::mem::replace(&mut input.traffic, request.traffic.clone());
            let dropped = before.into_iter().flat_map(|traffic| traffic.domains);
            input.former.extend(dropped);
            let kept: Vec<_> = input.traffic.iter().flat_map(|traffic| traffic.domains.clone()).collect();
            input.former.retain(|domain| !kept.contains(domain));
            input.former.sort();
            input.former.dedup();
            if input.former.len() > ServiceInput::FORMER {
                return Err(Error::new(
                    ErrorKind::OutOfResources,
                    format!(
                        "more than {} former domains; remove the service and deploy it anew",
                        ServiceInput::FORMER
                    ),
                ));
            }
        }
        let number = input.next_rollout;
        input.next_rollout += 1;
        input.next_revision = input.next_revision.max(revision.number + 1);
        input.active = Some(RolloutRequest {
            number,
            revision: revision.number,
            strategy: request.strategy.clone(),
            rollback: request.back.is_some(),
            reason: request.reason.clone(),
        });
        if let Some(key) = &request.key {
            input.keys.push((key.clone(), number));
            let surplus = input.keys.len().saturating_sub(ServiceInput::KEYS);
            input.keys.drain(..surplus);
        }
        let mut draft = Draft::new(repository)
            .expect("in/service", found.input.as_ref().map(|input| input.modified))?
            .put("in/service", &input)?
            .put(&numbered("revision", revision.number), &RevisionRecord { revision })?;
        if found.scale.as_ref().is_none_or(|scale| scale.value.desired != desired) {
            let version = found.scale.as_ref().map_or(1, |scale| scale.value.version + 1);
            let scale = ScaleInput {
                desired,
                version,
                victims: Vec::new(),
                reason: "deployed with this count".to_owned(),
            };
            draft = draft
                .expect("in/scale", found.scale.as_ref().map(|scale| scale.modified))?
                .put("in/scale", &scale)?;
        }
        draft.commit().await?;
        Ok(number)
    }

    /// Goes back to a revision: the given one, or the stable one before the present. It skips the careful first batch, is gated
    /// like any rollout, and is never itself rolled back.
    ///
    /// # Errors
    /// `NotFound` where there is no such revision or none before; `Busy` while a rollout is under way: abort that one instead.
    pub async fn rollback(&self, service: &ServiceName, to: Option<&RevisionId>) -> Result<RolloutId> {
        let repository = self.repository(service);
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let found = Found::read(&repository).await?;
            let Some(input) = &found.input else { return Err(Error::not_found("service", service)) };
            found.free("abort it instead")?;
            let revision = match to {
                Some(wanted) => {
                    let all = repository.revisions().await?;
                    all.into_iter().map(|record| record.revision).find(|revision| revision.id == *wanted)
                }
                None => {
                    match found.state.stable.iter().rev().find(|number| Some(**number) != found.state.current)
                    {
                        Some(number) => repository.revision(*number).await?.map(|record| record.revision),
                        None => None,
                    }
                }
            };
            let Some(revision) = revision else {
                return Err(match to {
                    Some(wanted) => Error::not_found("revision of the service", wanted),
                    None => Error::new(ErrorKind::NotFound, "there is no earlier revision to go back to")
                        .with_context("service", service),
                });
            };
            let mut value = input.value.clone();
            let number = value.next_rollout;
            value.next_rollout += 1;
            value.active = Some(RolloutRequest {
                number,
                revision: revision.number,
                strategy: found.state.strategy.clone().unwrap_or_default(),
                rollback: true,
                reason: "rollback".to_owned(),
            });
            let draft = Draft::new(&repository)
                .expect("in/service", Some(input.modified))?
                .put("in/service", &value)?;
            match draft.commit().await {
                Ok(_) => return Ok(RolloutId { service: service.clone(), number }),
                Err(error) if collided(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::internal("no attempt was made")))
    }

    /// Begins no further unit of the rollout under way; supervision goes on.
    ///
    /// # Errors
    /// `Busy` where no rollout is under way; `NotFound` for a service that is not there.
    pub async fn pause(&self, service: &ServiceName) -> Result<()> {
        self.control(service, |control| control.paused = true).await
    }

    /// Lets a paused rollout go on; one that paused itself after a failure tries the failed unit again.
    ///
    /// # Errors
    /// Those of [`pause`](Self::pause).
    pub async fn resume(&self, service: &ServiceName) -> Result<()> {
        self.control(service, |control| {
            control.paused = false;
            control.resumes += 1;
        })
        .await
    }

    /// Turns the rollout under way round: everything goes back to where it came from.
    ///
    /// # Errors
    /// Those of [`pause`](Self::pause).
    pub async fn abort(&self, service: &ServiceName) -> Result<()> {
        self.control(service, |control| control.end = Some(End::Abort)).await
    }

    /// Ends the rollout under way, or its rollback, where it stands: units under way are undone, what was replaced stays new.
    ///
    /// # Errors
    /// Those of [`pause`](Self::pause).
    pub async fn cancel(&self, service: &ServiceName) -> Result<()> {
        self.control(service, |control| control.end = Some(End::Cancel)).await
    }

    async fn control(&self, service: &ServiceName, change: impl Fn(&mut ControlInput)) -> Result<()> {
        let repository = self.repository(service);
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let found = Found::read(&repository).await?;
            let Some(input) = &found.input else { return Err(Error::not_found("service", service)) };
            let Some(active) = &input.value.active else {
                return Err(Error::new(ErrorKind::Busy, "no rollout of the service is under way")
                    .with_retry(ews_core::Retry::Never)
                    .with_context("service", service));
            };
            let control = repository.control().await?;
            let modified = control.as_ref().map(|control| control.modified);
            let mut value = control.map(|control| control.value).unwrap_or_default();
            if value.rollout != active.number {
                value = ControlInput { rollout: active.number, ..ControlInput::default() };
            }
            change(&mut value);
            let draft = Draft::new(&repository)
                .expect("in/service", Some(input.modified))?
                .expect("in/control", modified)?
                .put("in/control", &value)?;
            match draft.commit().await {
                Ok(_) => return Ok(()),
                Err(error) if collided(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::internal("no attempt was made")))
    }

    /// Takes a service away with its instances, its traffic and its records, and returns once that is written down. A rollout
    /// under way ends as cancelled. Nothing happens where it is gone; [`services`](Self::services) lists it until it is.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn remove(&self, service: &ServiceName) -> Result<()> {
        let repository = self.repository(service);
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let Some(input) = repository.input().await? else { return Ok(()) };
            let mut value = input.value;
            value.removing = true;
            value.active = None;
            let draft = Draft::new(&repository)
                .expect("in/service", Some(input.modified))?
                .put("in/service", &value)?;
            match draft.commit().await {
                Ok(_) => return Ok(()),
                Err(error) if collided(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::internal("no attempt was made")))
    }

    /// What can be refused before anything is written.
    pub(crate) async fn preflight(&self, request: &DeployRequest) -> Result<()> {
        request.check()?;
        let workshop = &self.inner.workshop;
        workshop.runtime.capabilities().check(&request.spec.instance)?;
        let (grace, longest) = (request.spec.instance.stop.grace, workshop.config.longest_grace());
        if grace > longest {
            return Err(Error::invalid(format!(
                "a stop grace of {grace:?}, which does not fit under the lease of {:?}; accepted: at most {longest:?}, or a longer \
                 `lease` of the deploy configuration",
                workshop.config.lease
            ))
            .with_context("field", "stop.grace"));
        }
        match (&request.traffic, &workshop.balancer) {
            (Some(_), None) => Err(Error::invalid("traffic is asked for, and the deployer has no balancer")
                .with_context("field", "traffic")),
            (Some(traffic), Some(balancer)) => {
                Director::check_domains(&**balancer, &request.spec.name, traffic).await
            }
            (None, _) => Ok(()),
        }
    }

    async fn planned(
        &self,
        found: &Found,
        revision: &Revision,
        strategy: &Strategy,
        desired: u32,
        rollback: bool,
        repository: &Repository,
    ) -> Result<Plan> {
        let from = match found.state.current {
            Some(number) => repository.revision(number).await?.map(|record| record.revision),
            None => None,
        };
        let observed = self.slots(&revision.spec.name).await?;
        Ok(plan::make(&Question {
            to: revision,
            from: from.as_ref(),
            slots: &found.state.slots,
            desired,
            observed: &observed,
            strategy,
            rollback,
            capabilities: &self.inner.workshop.runtime.capabilities(),
            base: found.base(),
        }))
    }
}
