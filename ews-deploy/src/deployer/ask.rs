//! What a deployer is asked for: each call writes what is asked and returns.

use std::collections::BTreeSet;

use ews_core::balancer::{HashOn, Object, PathMatch, PoolProtocol, RouteAction, RouteRule, RouteSet};
use ews_core::{Capability, Error, ErrorKind, Result, RevisionId, RouteSetId, ServiceName, ServiceSpec};

use tokio::time::timeout;

use super::Deployer;
use super::found::{Found, collided};
use crate::audit::AuditAction;
use crate::canary::CanaryStep;
use crate::plan::{self, Plan, Question};
use crate::preflight::{self, Preflight};
use crate::reconcile::Workshop;
use crate::record::{
    ControlInput, Draft, End, Queued, Repository, RevisionRecord, RolloutRequest, RolloutState, ScaleInput,
    ServiceInput, numbered, within,
};
use crate::request::{Bounds, Concurrency, DeployRequest};
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
        let preflight = self.survey(&request.spec).await?;
        let found = Found::read(&repository).await?;
        let revision = found.revision_for(request, self.inner.workshop.clock.now(), &repository).await?;
        let desired = found.desired_for(&revision, &repository).await?;
        let asked = request.bounds.map(Bounds::pair);
        if let Some(bounds) = asked.or(found.input.as_ref().map(|input| input.value.bounds)) {
            within(bounds, desired)?;
        }
        let mut plan = self.planned(&found, &revision, request, desired, &repository).await?;
        plan.warnings.extend(preflight.summary());
        plan.preflight = preflight;
        self.admits_canary(request, &found, &plan)?;
        Ok(plan)
    }

    /// Asks for a deployment and returns once it is written down: whatever happens then, it is brought about or ends with an
    /// outcome. [`wait`](Self::wait) waits for that.
    ///
    /// # Errors
    /// `Invalid` for a request that is wrong in itself, `Unsupported` for a spec that the runtime can't run, `Busy` while
    /// another rollout is under way, `OutOfResources` where [`DeployRequest::QUEUE`] wait already, `Stale` where the plan that it expects is out of date, `AlreadyExists` for a domain that
    /// another service has; `ImageIncompatible`, `ImageMissing`, `PortInUse` or `OutOfResources` where no node will ever run it, with
    /// what stands against it on each; those of the store.
    pub async fn deploy(&self, request: &DeployRequest) -> Result<RolloutId> {
        // Boxed, since whoever deploys has this future in its own.
        Box::pin(self.deployed(request)).await
    }

    async fn deployed(&self, request: &DeployRequest) -> Result<RolloutId> {
        self.preflight(request).await?;
        let repository = self.repository(&request.spec.name);
        let (mut last, mut surveyed) = (None, request.back.is_some());
        for _ in 0..ATTEMPTS {
            let found = Found::read(&repository).await?;
            if let Some(number) = found.known(request.key.as_deref()) {
                return Ok(RolloutId { service: request.spec.name.clone(), number });
            }
            found.admits(request)?;
            if !surveyed {
                self.survey(&request.spec).await?;
                surveyed = true;
            }
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
        if !request.strategy.steps().is_empty() && request.back.is_none() {
            let plan = self.planned(found, &revision, request, desired, repository).await?;
            self.admits_canary(request, found, &plan)?;
        }
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
                queue: Vec::new(),
                remedy: None,
                removing: false,
            },
            |found| found.value.clone(),
        );
        input.remedy = request.remedy.clone().or(input.remedy);
        let number = input.next_rollout;
        input.next_rollout += 1;
        input.next_revision = input.next_revision.max(revision.revision.number + 1);
        input.remember(request.key.as_deref(), number);
        let asked = RolloutRequest {
            number,
            revision: revision.revision.number,
            strategy: request.strategy.clone(),
            rollback: request.back.is_some(),
            reason: request.reason.clone(),
            by: self.by.to_string(),
            restart: None,
        };
        let bounds = request.bounds.map(Bounds::pair);
        let mut draft = Draft::new(repository)
            .expect("in/service", found.input.as_ref().map(|input| input.modified))?
            .put(&numbered("revision", revision.revision.number), &revision)?
            .note(&self.entry(AuditAction::Deploy(number), &request.reason))?;
        if request.concurrency == Concurrency::Queue && input.active.is_some() {
            // It must be right when its turn comes, too.
            input.clone().admit(request.traffic.as_ref(), bounds, desired)?;
            if input.queue.len() >= DeployRequest::QUEUE {
                let waiting = input.queue.len();
                let message = format!(
                    "{waiting} requests for the service wait already; accepted: at most {}",
                    DeployRequest::QUEUE
                );
                return Err(
                    Error::new(ErrorKind::OutOfResources, message).with_context("service", &input.name)
                );
            }
            let (traffic, desired) = (request.traffic.clone(), Some(desired));
            input.queue.push(Queued { request: asked, desired, traffic, bounds });
            draft.put("in/service", &input)?.commit().await?;
            return Ok(number);
        }
        if request.back.is_some() && request.traffic.is_none() {
            // A way back brings the traffic of before too, none included.
            let dropped = input.traffic.take().into_iter().flat_map(|traffic| traffic.domains);
            input.former.extend(dropped);
        }
        input.admit(request.traffic.as_ref(), bounds, desired)?;
        // What was asked for and never begun leaves a record, so that whoever waits for it hears of its end.
        let waiting = std::mem::take(&mut input.queue).into_iter().map(|queued| queued.request);
        for request in input.active.replace(asked).into_iter().chain(waiting) {
            let key = numbered("rollout", request.number);
            if repository.rollout(request.number).await?.is_none() {
                let cause = format!("superseded by rollout {number} before it was begun");
                let ended = RolloutState::never_begun(&request, found.state.current, cause, self.now());
                draft = draft.expect(&key, None)?.put(&key, &ended)?;
            }
        }
        draft = draft.put("in/service", &input)?;
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
    /// `NotFound` where there is no such revision or none before; `Busy` while a rollout is under way: abort that one instead; those of
    /// the store.
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
                    Some(wanted) => {
                        Error::not_found("revision of the service", wanted).with_context("service", service)
                    }
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
                by: self.by.to_string(),
                restart: None,
            });
            let draft = Draft::new(&repository)
                .expect("in/service", Some(input.modified))?
                .put("in/service", &value)?
                .note(&self.entry(AuditAction::Rollback(number), &format!("to {}", revision.id)))?;
            match draft.commit().await {
                Ok(_) => return Ok(RolloutId { service: service.clone(), number }),
                Err(error) if collided(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::internal("no attempt was made")))
    }

    /// Makes every instance of a service anew, in the batches of this strategy: a new one of the same revision takes the place of each.
    /// A new one that fails ends it there; there is nothing to go back to.
    ///
    /// # Errors
    /// `NotFound` for a service that is not there or never ran; `Invalid` for the strategy, a canary included; `Busy` while a rollout
    /// is under way; those of the store.
    pub async fn restart(&self, service: &ServiceName, strategy: &Strategy) -> Result<RolloutId> {
        self.restart_slots(service, strategy, None).await
    }

    pub(crate) async fn restart_slots(
        &self,
        service: &ServiceName,
        strategy: &Strategy,
        slots: Option<BTreeSet<u32>>,
    ) -> Result<RolloutId> {
        strategy.check()?;
        if !strategy.steps().is_empty() {
            return Err(Error::invalid(
                "a restart by canary or blue/green; accepted: batches, with `approval`",
            )
            .with_context("field", "strategy"));
        }
        let repository = self.repository(service);
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let found = Found::read(&repository).await?;
            let Some(input) = &found.input else { return Err(Error::not_found("service", service)) };
            found.free("restart it when that has ended")?;
            let Some(current) = found.state.current else {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    "no revision of the service was ever brought about",
                )
                .with_context("service", service));
            };
            let is_meant = |slot: &u32| slots.as_ref().is_none_or(|slots| slots.contains(slot));
            let running: BTreeSet<u32> = found.state.slots.keys().copied().filter(is_meant).collect();
            let mut value = input.value.clone();
            let number = value.next_rollout;
            value.next_rollout += 1;
            value.active = Some(RolloutRequest {
                number,
                revision: current,
                strategy: strategy.clone(),
                rollback: false,
                reason: "restart".to_owned(),
                by: self.by.to_string(),
                restart: Some(running),
            });
            let draft = Draft::new(&repository)
                .expect("in/service", Some(input.modified))?
                .put("in/service", &value)?
                .note(&self.entry(AuditAction::Restart(number), ""))?;
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
    /// `Busy` where no rollout is under way; `NotFound` for a service that is not there; those of the store.
    pub async fn pause(&self, service: &ServiceName) -> Result<()> {
        self.control(service, AuditAction::Pause, |control| control.paused = true).await
    }

    /// Lets a paused rollout go on; one that paused itself after a failure tries the failed unit again.
    ///
    /// # Errors
    /// Those of [`pause`](Self::pause).
    pub async fn resume(&self, service: &ServiceName) -> Result<()> {
        self.control(service, AuditAction::Resume, |control| {
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
        self.control(service, AuditAction::Abort, |control| control.end = Some(End::Abort)).await
    }

    /// Ends the rollout under way, or its rollback, where it stands: units under way are undone, what was replaced stays new.
    ///
    /// # Errors
    /// Those of [`pause`](Self::pause).
    pub async fn cancel(&self, service: &ServiceName) -> Result<()> {
        self.control(service, AuditAction::Cancel, |control| control.end = Some(End::Cancel)).await
    }

    async fn control(
        &self,
        service: &ServiceName,
        action: impl Fn(u64) -> AuditAction,
        change: impl Fn(&mut ControlInput),
    ) -> Result<()> {
        let repository = self.repository(service);
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let found = Found::read(&repository).await?;
            let Some(input) = &found.input else { return Err(Error::not_found("service", service)) };
            let Some(active) = found.under_way() else {
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
                .put("in/control", &value)?
                .note(&self.entry(action(active.number), ""))?;
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
            value.queue.clear();
            let draft = Draft::new(&repository)
                .expect("in/service", Some(input.modified))?
                .put("in/service", &value)?
                .note(&self.entry(AuditAction::Remove, ""))?;
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
        let budget = request.remedy.as_ref().is_some_and(|remedy| remedy.error_budget.is_some());
        if budget && workshop.metrics.is_none() {
            return Err(Error::invalid(
                "an error budget is to be asked for, and the deployer has no metrics; accepted: none, or metrics in its `DeployParts`",
            )
            .with_context("field", "remedy.error_budget"));
        }
        if request.strategy.analyses() && workshop.metrics.is_none() {
            return Err(Error::invalid(
                "an analysis is asked for, and the deployer has no metrics; accepted: none, or metrics in its `DeployParts`",
            )
            .with_context("field", "analysis"));
        }
        let preview = request.strategy.blue_green.iter().flat_map(|blue_green| &blue_green.preview);
        match (&request.traffic, &workshop.balancer) {
            (Some(_), None) => Err(Error::invalid(
                "traffic is asked for, and the deployer has no balancer; accepted: none, or a balancer in its `DeployParts`",
            )
            .with_context("field", "traffic")),
            (Some(traffic), Some(balancer)) => {
                if traffic.protocol == PoolProtocol::Tcp {
                    balancer.capabilities().require(Capability::TcpRoutes)?;
                }
                let domains: Vec<_> = traffic.domains.iter().chain(preview).cloned().collect();
                Director::check_domains(&**balancer, &request.spec.name, &domains).await
            }
            (None, Some(balancer)) => {
                let domains: Vec<_> = preview.cloned().collect();
                Director::check_domains(&**balancer, &request.spec.name, &domains).await
            }
            (None, None) => Ok(()),
        }
    }

    /// Asks every node whether it can run a spec, and refuses what none can. An engine that does not answer now is waited for by the
    /// rollout.
    pub(crate) async fn survey(&self, spec: &ServiceSpec) -> Result<Preflight> {
        let Workshop { runtime, images, config, .. } = &*self.inner.workshop;
        let asked = preflight::here(spec, &**runtime, images.as_deref(), &config.owner);
        match timeout(config.call_limit, asked).await {
            Ok(Ok(found)) => found.refuse().map(|()| found),
            // What is wrong with the spec itself is said where the revision is made.
            Ok(Err(_)) | Err(_) => Ok(Preflight::default()),
        }
    }

    /// What a canary takes of a service: instances that can live side by side, and traffic where it is about traffic.
    fn admits_canary(&self, request: &DeployRequest, found: &Found, plan: &Plan) -> Result<()> {
        let strategy = &request.strategy;
        let steps = strategy.steps();
        if steps.is_empty() {
            return Ok(());
        }
        let field = if strategy.canary.is_some() { "canary" } else { "blue_green" };
        if plan.order == plan::UnitOrder::StopFirst {
            return Err(Error::invalid(format!(
                "new instances can't stand beside old ones: {}; accepted: batches, with `approval` where somebody shall look",
                plan.order_reason
            ))
            .with_context("field", field));
        }
        let kept = found.input.as_ref().and_then(|input| input.value.traffic.as_ref());
        let traffic = request.traffic.as_ref().or(kept);
        let split = strategy.canary.as_ref().and_then(|canary| canary.split_by.as_ref());
        let preview = strategy.blue_green.as_ref().is_some_and(|blue_green| !blue_green.preview.is_empty());
        let matches = steps.iter().any(|step| matches!(step, CanaryStep::Match(m) if !m.is_empty()));
        match traffic {
            None if matches || preview || split.is_some() => Err(Error::invalid(
                "requests are to be chosen, and the service gets no traffic from the balancer; accepted: `traffic` beside it",
            )
            .with_context("field", field)),
            Some(traffic) if traffic.protocol == PoolProtocol::Tcp && (matches || preview) => Err(Error::invalid(
                "requests are to be chosen, and traffic by TCP knows connections only; accepted: weights and numbers of instances",
            )
            .with_context("field", field)),
            Some(traffic)
                if traffic.protocol == PoolProtocol::Tcp
                    && split.is_some_and(|split| *split != HashOn::ClientAddress) =>
            {
                Err(Error::invalid(
                    "traffic by TCP is split by what only a request has; accepted: `client_address`, or no `split_by`",
                )
                .with_context("field", "canary.split_by"))
            }
            Some(traffic) => {
                let rule = RouteRule::new(
                    PathMatch::Prefix(traffic.path.clone()),
                    RouteAction::Respond { status: 200, body: String::new() },
                );
                let mut rules = vec![rule.clone()];
                rules.extend(steps.iter().filter_map(|step| match step {
                    CanaryStep::Match(attributes) => {
                        let mut rule = rule.clone();
                        rule.attributes.clone_from(attributes);
                        Some(rule)
                    }
                    _ => None,
                }));
                if let (Some(rule), Some(split)) = (rules.first_mut(), split) {
                    rule.split_by = Some(split.clone());
                }
                let routes = RouteSet::new(RouteSetId::new(request.spec.name.as_str())?, rules);
                Object::RouteSet(routes).check().map_err(|error| error.with_context("field", field))?;
                let capabilities = self.inner.workshop.balancer.as_ref().map(|balancer| balancer.capabilities());
                match split {
                    Some(_) if !capabilities.is_some_and(|c| c.has(Capability::BalanceHash)) => {
                        Err(Error::new(
                            ErrorKind::Unsupported,
                            "the balancer can't split traffic by a hash (capability `balance_hash`); accepted: no `split_by`",
                        )
                            .with_context("field", "canary.split_by"))
                    }
                    _ => Ok(()),
                }
            }
            None => Ok(()),
        }
    }

    async fn planned(
        &self,
        found: &Found,
        revision: &RevisionRecord,
        request: &DeployRequest,
        desired: u32,
        repository: &Repository,
    ) -> Result<Plan> {
        let from = match found.state.current {
            Some(number) => repository.revision(number).await?,
            None => None,
        };
        let observed = self.slots(&revision.spec().name).await?;
        let kept = found.input.as_ref().and_then(|input| input.value.traffic.as_ref());
        Ok(plan::make(&Question {
            to: revision,
            from: from.as_ref(),
            state: &found.state,
            desired,
            observed: &observed,
            strategy: &request.strategy,
            rollback: false,
            served: request.traffic.is_some() || kept.is_some(),
            capabilities: &self.inner.workshop.runtime.capabilities(),
            base: found.base(),
        }))
    }
}
