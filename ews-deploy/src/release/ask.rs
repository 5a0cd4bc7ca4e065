//! What a deployer is asked about releases: each call writes what is asked and returns.

use std::collections::BTreeSet;
use std::sync::Arc;

use ews_core::{Error, ErrorKind, ReleaseName, Result, ServiceName, Store};

use super::graph::Graph;
use super::members::is_unchanged;
use super::plan::{MemberAction, PlannedMember, ReleaseBase, ReleasePlan};
use super::record::{Records, ReleaseControl, ReleaseHead, ReleaseInput, SpecHead};
use super::report::ReleaseId;
use super::request::ReleaseRequest;
use super::spec::MemberSpec;
use crate::deployer::{Deployer, Found, collided};
use crate::discovery::MemberOf;
use crate::plan::Base;
use crate::record::{Draft, End, Versioned};
use crate::request::Concurrency;

/// How often a write that collides with another is made anew.
const ATTEMPTS: usize = 20;

impl Deployer {
    pub(super) fn releases_of(&self, name: &ReleaseName) -> Records {
        let workshop = self.workshop();
        Records::new(Arc::clone(&workshop.store) as Arc<dyn Store>, &workshop.config.owner, name)
    }

    /// What a release would do, without doing it.
    ///
    /// # Errors
    /// What [`release`](Self::release) refuses.
    pub async fn plan_release(&self, request: &ReleaseRequest) -> Result<ReleasePlan> {
        let spec = &request.spec;
        self.check_release(request).await?;
        let graph = Graph::new(spec)?;
        let records = self.releases_of(&spec.name);
        let input = records.input().await?;
        let head = records.head().await?.map(|found| found.value).unwrap_or_default();
        let mut members = Vec::new();
        let mut warnings = Vec::new();
        let mut base = ReleaseBase {
            input: input.as_ref().map(|input| input.modified).unwrap_or_default(),
            ..Default::default()
        };
        for member in graph.order().iter().filter_map(|name| spec.member(name)) {
            let name = member.name();
            let action = if member.is_job() {
                warnings.push(format!("{name}: what a job did is not taken back when the release goes back"));
                MemberAction::Job
            } else {
                let repository = self.repository(name);
                let found = Found::read(&repository).await?;
                base.members.insert(name.clone(), found.base());
                if found.input.as_ref().is_some_and(|input| input.value.active.is_some()) {
                    warnings.push(format!("{name}: another rollout is under way, and is waited for"));
                }
                if is_unchanged(member, &found, &repository).await? {
                    MemberAction::Unchanged
                } else {
                    let plan = self.plan(&member.request()).await?;
                    warnings.extend(plan.warnings.iter().map(|warning| format!("{name}: {warning}")));
                    MemberAction::Deploy(Box::new(plan))
                }
            };
            members.push(PlannedMember { member: name.clone(), after: member.after.clone(), action });
        }
        let left: Vec<ServiceName> =
            head.services.iter().rev().filter(|name| spec.member(name).is_none()).cloned().collect();
        if !spec.prune && !left.is_empty() {
            let names: Vec<_> = left.iter().map(ServiceName::as_str).collect();
            warnings.push(format!("no members any more, and left as they are: {}", names.join(", ")));
        }
        let order = graph.waves();
        let time = |name: &ServiceName| {
            members.iter().find(|member| member.member == *name).map_or_else(Default::default, |member| {
                match &member.action {
                    MemberAction::Deploy(plan) => plan.at_least,
                    _ => std::time::Duration::ZERO,
                }
            })
        };
        let at_least = order.iter().map(|wave| wave.iter().map(time).max().unwrap_or_default()).sum();
        Ok(ReleasePlan {
            release: spec.name.clone(),
            order,
            members,
            removes: if spec.prune { left } else { Vec::new() },
            warnings,
            at_least,
            base,
        })
    }

    /// Asks for a release and returns once it is written down: whatever happens then, it is brought about or ends with an outcome.
    /// [`wait_release`](Self::wait_release) waits for that.
    ///
    /// # Errors
    /// `Invalid` for a request that is wrong in itself or a job that is named like a service, `Unsupported` for a spec that the runtime
    /// can't run, `AlreadyExists` for a member that belongs to another release and for a domain that another service has, `Busy` while
    /// another release of the name is under way, `OutOfResources` where [`ReleaseRequest::QUEUE`] wait already, `Stale` where the plan that it expects is out of
    /// date; those of the store.
    pub async fn release(&self, request: &ReleaseRequest) -> Result<ReleaseId> {
        let spec = &request.spec;
        let id = |number| ReleaseId { release: spec.name.clone(), number };
        request.check()?;
        let records = self.releases_of(&spec.name);
        let known = |input: &ReleaseInput| {
            let mut keys = input.keys.iter();
            keys.find(|(key, _)| Some(key.as_str()) == request.key.as_deref()).map(|(_, number)| *number)
        };
        let input = records.input().await?;
        if let Some(number) = input.as_ref().and_then(|found| known(&found.value)) {
            return Ok(id(number));
        }
        self.check_release(request).await?;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let found = records.input().await?;
            if let Some(number) = found.as_ref().and_then(|found| known(&found.value)) {
                return Ok(id(number));
            }
            match self.ask_release(request, found, &records).await {
                Ok(number) => return Ok(id(number)),
                Err(error) if collided(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
            // Only what a write collided with is worth another look.
            if let Some(base) = &request.base {
                self.check_base(request, base, &records).await?;
            }
        }
        Err(last.unwrap_or_else(|| Error::internal("no attempt was made")))
    }

    async fn ask_release(
        &self,
        request: &ReleaseRequest,
        found: Option<Versioned<ReleaseInput>>,
        records: &Records,
    ) -> Result<u64> {
        if let Some(base) = &request.base {
            self.check_base(request, base, records).await?;
        }
        let modified = found.as_ref().map(|found| found.modified);
        let mut input = found.map(|found| found.value).unwrap_or_default();
        let number = input.next;
        let under_way = input.active.or_else(|| input.queue.first().copied());
        match (request.concurrency, under_way) {
            (_, None) => {}
            (Concurrency::Reject, Some(under_way)) => {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!(
                        "release {under_way} of the name is under way; wait for it, or ask for `queue` or `supersede`"
                    ),
                ));
            }
            (Concurrency::Queue, Some(_)) => {}
            (Concurrency::Supersede, Some(_)) => input.superseded = number,
        }
        if input.queue.len() >= ReleaseRequest::QUEUE {
            return Err(Error::new(
                ErrorKind::OutOfResources,
                format!(
                    "{} releases of the name wait already; accepted: at most {}",
                    input.queue.len(),
                    ReleaseRequest::QUEUE
                ),
            ));
        }
        input.next += 1;
        input.queue.push(number);
        if let Some(key) = &request.key {
            input.keys.push((key.clone(), number));
            let surplus = input.keys.len().saturating_sub(ReleaseInput::KEYS);
            input.keys.drain(..surplus);
        }
        let head = SpecHead {
            spec: request.spec.clone(),
            members: 0,
            by: self.asks_as().to_owned(),
            reason: request.reason.clone(),
            asked_at: self.workshop().clock.now(),
        };
        let draft =
            Draft::new(records.repository()).expect("in/release", modified)?.put("in/release", &input)?;
        Records::put_spec(draft, number, head)?.commit().await?;
        Ok(number)
    }

    async fn check_base(
        &self,
        request: &ReleaseRequest,
        base: &ReleaseBase,
        records: &Records,
    ) -> Result<()> {
        let stale = || {
            let error = Error::new(
                ErrorKind::Stale,
                "a member or the release has changed since the plan was made; plan again",
            );
            // Not worth the attempt that a collision is.
            Err(error.with_retry(ews_core::Retry::Never).with_context("release", &request.spec.name))
        };
        let input = records.input().await?.map(|found| found.modified).unwrap_or_default();
        if input != base.input {
            return stale();
        }
        for member in request.spec.members.iter().filter(|member| !member.is_job()) {
            let now = Found::read(&self.repository(member.name())).await?.base();
            if base.members.get(member.name()).copied().unwrap_or_else(Base::default) != now {
                return stale();
            }
        }
        Ok(())
    }

    /// What can be refused before anything is written.
    async fn check_release(&self, request: &ReleaseRequest) -> Result<()> {
        request.check()?;
        for member in &request.spec.members {
            let checked = if member.is_job() {
                self.check_job(member).await
            } else {
                self.check_service(request, member).await
            };
            checked.map_err(|error| error.with_context("member", member.name()))?;
        }
        Ok(())
    }

    async fn check_service(&self, request: &ReleaseRequest, member: &MemberSpec) -> Result<()> {
        self.preflight(&member.request()).await?;
        self.survey(&member.service).await?;
        // What would be refused as a revision is refused now, not when the others are done.
        ews_core::Revision::new(1, Arc::new(member.service.clone()), self.workshop().clock.now())?;
        let of = self.repository(member.name()).get::<MemberOf>(MemberOf::KEY).await?;
        match of.map(|found| found.value.release).filter(|other| *other != request.spec.name) {
            Some(other) => Err(Error::new(
                ErrorKind::AlreadyExists,
                format!(
                    "`{}` belongs to the release `{other}`; a service belongs to one release",
                    member.name()
                ),
            )),
            None => Ok(()),
        }
    }

    async fn check_job(&self, member: &MemberSpec) -> Result<()> {
        let workshop = self.workshop();
        ews_core::Revision::new(1, Arc::new(member.service.clone()), workshop.clock.now())?;
        workshop.runtime.capabilities().check(&member.service.instance)?;
        let (grace, longest) = (member.service.instance.stop.grace, workshop.config.longest_grace());
        if grace > longest {
            return Err(Error::invalid(format!(
                "a stop grace of {grace:?}, which does not fit under the lease; accepted: at most {longest:?}"
            ))
            .with_context("field", "stop.grace"));
        }
        if self.repository(member.name()).input().await?.is_some() {
            return Err(Error::invalid(format!(
                "the job `{}` is named like a service that is deployed; accepted: a name that no service has",
                member.name()
            )));
        }
        Ok(())
    }

    /// Begins no further member of the release under way. Rollouts and jobs that are under way go on; pause a member's service to
    /// hold its rollout too.
    ///
    /// # Errors
    /// `Busy` where no release of the name is under way; those of the store.
    pub async fn pause_release(&self, release: &ReleaseName) -> Result<()> {
        self.control_release(release, |control| control.paused = true).await
    }

    /// Lets a paused release go on.
    ///
    /// # Errors
    /// Those of [`pause_release`](Self::pause_release).
    pub async fn resume_release(&self, release: &ReleaseName) -> Result<()> {
        self.control_release(release, |control| control.paused = false).await
    }

    /// Turns the release under way round: every member that was changed goes back, in reverse order. It says nothing to one that is
    /// going back or removing already.
    ///
    /// # Errors
    /// Those of [`pause_release`](Self::pause_release).
    pub async fn abort_release(&self, release: &ReleaseName) -> Result<()> {
        self.control_release(release, |control| control.end = Some(End::Abort)).await
    }

    /// Ends the release under way, or its way back, where it stands: rollouts under way are cancelled, jobs are stopped, and what was
    /// changed stays.
    ///
    /// # Errors
    /// Those of [`pause_release`](Self::pause_release).
    pub async fn cancel_release(&self, release: &ReleaseName) -> Result<()> {
        self.control_release(release, |control| control.end = Some(End::Cancel)).await
    }

    async fn control_release(
        &self,
        release: &ReleaseName,
        change: impl Fn(&mut ReleaseControl),
    ) -> Result<()> {
        let records = self.releases_of(release);
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let input = records.input().await?;
            let active =
                input.as_ref().and_then(|found| found.value.active.or(found.value.queue.first().copied()));
            let (Some(input), Some(active)) = (input, active) else {
                return Err(Error::new(ErrorKind::Busy, "no release of the name is under way")
                    .with_retry(ews_core::Retry::Never)
                    .with_context("release", release));
            };
            let control = records.control().await?;
            let modified = control.as_ref().map(|control| control.modified);
            let mut value = control.map(|control| control.value).unwrap_or_default();
            if value.release != active {
                value = ReleaseControl { release: active, ..ReleaseControl::default() };
            }
            change(&mut value);
            let draft = Draft::new(records.repository())
                .expect("in/release", Some(input.modified))?
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

    /// The services that releases of this name brought and that are there still, in their order.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn released_services(&self, release: &ReleaseName) -> Result<Vec<ServiceName>> {
        let head: Option<Versioned<ReleaseHead>> = self.releases_of(release).head().await?;
        let services = head.map(|found| found.value.services).unwrap_or_default();
        let mut there = BTreeSet::new();
        for service in &services {
            if self.repository(service).input().await?.is_some() {
                there.insert(service.clone());
            }
        }
        Ok(services.into_iter().filter(|service| there.contains(service)).collect())
    }
}
