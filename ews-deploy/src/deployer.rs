//! The deployer: what an embedder holds.
//!
//! Asking and doing are apart. Every call here reads or writes records and returns; whoever leads the service, this controller
//! or another one of the installation, brings about what is written. So an acknowledged request survives every crash, and any
//! controller may be asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ews_core::balancer::Balancer;
use ews_core::bus::Subscription;
use ews_core::clock::Clock;
use ews_core::probe::{Checker, Prober, ProberConfig, StandardChecker};
use ews_core::store::{ListRequest, Prefix};
use ews_core::{
    Bus, Error, ErrorKind, Instance, InstanceId, Result, Revision, RevisionId, Runtime, ServiceName, Store,
    SystemClock,
};
use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep, timeout};

use crate::config::DeployConfig;
use crate::event::DeployEvent;
use crate::plan::{self, Base, Plan, Question};
use crate::reconcile::{self, Workshop, service_selector};
use crate::record::{
    ControlInput, Draft, End, Repository, RevisionRecord, RolloutRequest, RolloutState, ScaleInput,
    ServiceInput, ServiceState, Versioned, numbered,
};
use crate::request::{Concurrency, DeployRequest};
use crate::rollout::{Phase, RolloutId, RolloutReport};
use crate::slots::Slots;
use crate::strategy::Strategy;
use crate::traffic::Director;

/// How often a write that collides with another is made anew.
const ATTEMPTS: usize = 20;

/// What a deployer stands on.
#[derive(Clone)]
#[non_exhaustive]
pub struct DeployParts {
    /// Where instances run.
    pub runtime: Arc<dyn Runtime>,
    /// Where records live.
    pub store: Arc<dyn Store>,
    /// What moves traffic. Default: nothing; a request with traffic is refused.
    pub balancer: Option<Arc<dyn Balancer>>,
    /// Wall time for records. Default: the system's.
    pub clock: Arc<dyn Clock>,
    /// Who makes the tries of probes. Default: HTTP and TCP from this process, commands through the runtime.
    pub checker: Option<Arc<dyn Checker>>,
}

impl DeployParts {
    /// Instances run here, records live there, traffic is left alone.
    pub fn new(runtime: Arc<dyn Runtime>, store: Arc<dyn Store>) -> Self {
        Self { runtime, store, balancer: None, clock: Arc::new(SystemClock), checker: None }
    }

    /// Traffic is moved by this.
    #[must_use]
    pub fn with_balancer(mut self, balancer: Arc<dyn Balancer>) -> Self {
        self.balancer = Some(balancer);
        self
    }

    /// Records say this clock's time.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Probes are tried by this.
    #[must_use]
    pub fn with_checker(mut self, checker: Arc<dyn Checker>) -> Self {
        self.checker = Some(checker);
        self
    }
}

/// Deploys services. Clones are handles to the same one; when the last is dropped, its work ends where it stands, and a
/// successor goes on when its leases have ended. [`leave`](Self::leave) ends it in order.
///
/// ```
/// use std::sync::Arc;
/// use ews_core::spec::source::{ArtifactSource, Source};
/// use ews_core::store::MemoryStore;
/// use ews_core::testkit::fake::{FakeConfig, FakeEngine, FakeRuntime};
/// use ews_core::ServiceSpec;
/// use ews_deploy::{DeployConfig, DeployParts, DeployRequest, Deployer, Outcome};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> ews_core::Result<()> {
/// // Any runtime and any store will do; these are the ones for tests.
/// let runtime = FakeRuntime::connect(&FakeEngine::new(FakeConfig::default()));
/// let parts = DeployParts::new(Arc::new(runtime), Arc::new(MemoryStore::new()));
/// let deployer = Deployer::start(parts, DeployConfig::new("acme".parse()?)).await?;
///
/// let mut spec = ServiceSpec::new("web".parse()?, Source::Artifact(ArtifactSource::new("/srv/web")));
/// spec.replicas = 3;
/// let rollout = deployer.deploy(&DeployRequest::new(spec)).await?;
/// let report = deployer.wait(&rollout).await?;
/// assert_eq!(report.outcome, Some(Outcome::Succeeded));
/// deployer.leave().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Deployer {
    inner: Arc<Inner>,
}

struct Inner {
    workshop: Arc<Workshop>,
    leave: watch::Sender<bool>,
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    services: BTreeMap<ServiceName, tokio::task::AbortHandle>,
    set: JoinSet<()>,
}

impl std::fmt::Debug for Deployer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deployer").field("config", &self.inner.workshop.config).finish_non_exhaustive()
    }
}

/// How a service stands.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ServiceStatus {
    /// Which service.
    pub service: ServiceName,
    /// How many instances it should have.
    pub desired: u32,
    /// The revision that a rollout brought about last.
    pub stable: Option<RevisionId>,
    /// The rollout under way.
    pub rollout: Option<RolloutReport>,
    /// Its instances as the runtime sees them now, by slot and generation.
    pub instances: Vec<Instance>,
    /// Whether it is being removed.
    pub removing: bool,
}

impl Deployer {
    /// Starts a deployer: it leads every service of the installation that nobody else leads.
    ///
    /// # Errors
    /// `Invalid` for the configuration; those of the store.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(parts: DeployParts, config: DeployConfig) -> Result<Self> {
        config.check()?;
        let DeployParts { runtime, store, balancer, clock, checker } = parts;
        let checker = checker.unwrap_or_else(|| Arc::new(StandardChecker::new(Arc::clone(&runtime))));
        let prober = Prober::new(checker, Arc::clone(&clock), ProberConfig::default())?;
        let bus = Bus::new(config.events)?;
        let holder = config.controller.as_deref().map_or_else(reconcile::anonymous, Arc::from);
        let workshop = Arc::new(Workshop { config, holder, runtime, store, balancer, prober, clock, bus });
        let inner = Inner { workshop, leave: watch::Sender::new(false), tasks: Mutex::default() };
        let deployer = Self { inner: Arc::new(inner) };
        let after = deployer.discover().await?;
        deployer.watch_services(after)?;
        Ok(deployer)
    }

    /// Ends in order: what is under way ends at its next step, and every lead is given back, so that a successor goes on at
    /// once. Rollouts are not ended by it.
    pub async fn leave(&self) {
        self.inner.leave.send_replace(true);
        let mut set = std::mem::take(&mut self.inner.tasks().set);
        while set.join_next().await.is_some() {}
    }

    /// What happens from now on, to every service that this controller leads.
    pub fn events(&self) -> Subscription<DeployEvent> {
        self.inner.workshop.bus.subscribe()
    }

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
        let desired = found.desired_for(&revision, repository).await?;
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
        if let Some(traffic) = &request.traffic {
            let before = input.traffic.replace(traffic.clone());
            let dropped = before.into_iter().flat_map(|traffic| traffic.domains);
            input.former.extend(dropped);
            input.former.retain(|domain| !traffic.domains.contains(domain));
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
            rollback: false,
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

    /// Waits until a rollout has ended.
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
                    let active = input.as_ref().and_then(|input| input.value.active.as_ref());
                    if active.is_none_or(|active| active.number != rollout.number) {
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
    async fn a_change(&self, prefix: &Prefix) -> Result<()> {
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
        self.report(&rollout.service, found.value, &repository).await
    }

    /// The rollouts that are kept, the latest first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn history(&self, service: &ServiceName) -> Result<Vec<RolloutReport>> {
        let repository = self.repository(service);
        let mut reports = Vec::new();
        for state in repository.rollouts().await?.into_iter().rev() {
            reports.push(self.report(service, state, &repository).await?);
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

    /// How a service stands.
    ///
    /// # Errors
    /// `NotFound`; those of the store and the runtime.
    pub async fn status(&self, service: &ServiceName) -> Result<ServiceStatus> {
        let repository = self.repository(service);
        let found = Found::read(&repository).await?;
        let Some(input) = &found.input else { return Err(Error::not_found("service", service)) };
        let rollout = match found.state.rollout {
            Some(number) => Some(self.rollout(&RolloutId { service: service.clone(), number }).await?),
            None => None,
        };
        let stable = match found.state.stable.last() {
            Some(number) => repository.revision(*number).await?.map(|record| record.revision.id),
            None => None,
        };
        Ok(ServiceStatus {
            service: service.clone(),
            desired: found.scale.as_ref().map_or(0, |scale| scale.value.desired),
            stable,
            rollout,
            instances: self.slots(service).await?.iter().cloned().collect(),
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

    pub(crate) async fn slots(&self, service: &ServiceName) -> Result<Slots> {
        let workshop = &self.inner.workshop;
        Ok(Slots::new(workshop.runtime.list(&service_selector(&workshop.config.owner, service)?).await?))
    }

    pub(crate) fn repository(&self, service: &ServiceName) -> Repository {
        let workshop = &self.inner.workshop;
        Repository::new(Arc::clone(&workshop.store), &workshop.config.owner, service)
    }

    pub(crate) fn prober(&self) -> &Prober {
        &self.inner.workshop.prober
    }

    /// What can be refused before anything is written.
    async fn preflight(&self, request: &DeployRequest) -> Result<()> {
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

    async fn report(
        &self,
        service: &ServiceName,
        state: RolloutState,
        repository: &Repository,
    ) -> Result<RolloutReport> {
        let id = RolloutId { service: service.clone(), number: state.number };
        let name = async |number: u64| -> Result<RevisionId> {
            match repository.revision(number).await? {
                Some(record) => Ok(record.revision.id),
                // Its revision is no longer kept; its number is.
                None => RevisionId::new(format!("r{number}")),
            }
        };
        let control = repository.control().await?;
        let paused =
            control.is_some_and(|control| control.value.rollout == state.number && control.value.paused);
        Ok(RolloutReport {
            id,
            to: name(state.to).await?,
            from: match state.from {
                Some(from) => Some(name(from).await?),
                None => None,
            },
            phase: state.phase,
            paused: state.outcome.is_none()
                && state.phase == Phase::Forward
                && (paused || state.held.is_some()),
            strategy: state.strategy,
            done: (state.done, state.slots.len()),
            cause: state.cause,
            failures: state.failures,
            outcome: state.outcome,
            started_at: state.started_at,
            ended_at: state.ended_at,
        })
    }

    /// The services there are, and the store's revision that shows them.
    async fn scan(&self) -> Result<(Vec<ServiceName>, ews_core::store::StoreRevision)> {
        let workshop = &self.inner.workshop;
        let owner = &workshop.config.owner;
        let mut request = ListRequest::new(Repository::services(owner)?);
        let mut services = Vec::new();
        let mut revision = None;
        loop {
            let page = workshop.store.list(&request).await?;
            services
                .extend(page.records.iter().filter_map(|record| Repository::service_of(owner, &record.key)));
            // The first page's: what changes while the others are read is seen by the watch.
            let first = *revision.get_or_insert(page.revision);
            match page.records.last() {
                Some(last) if page.more => request = request.after(last.key.clone()),
                _ => return Ok((services, first)),
            }
        }
    }

    async fn discover(&self) -> Result<ews_core::store::StoreRevision> {
        let (services, revision) = self.scan().await?;
        for service in services {
            self.adopt(&service);
        }
        Ok(revision)
    }

    /// Lets a task of this controller reconcile the service, if none does.
    fn adopt(&self, service: &ServiceName) {
        self.inner.adopt(service);
    }

    /// Adopts services that other controllers are asked for.
    fn watch_services(&self, mut after: ews_core::store::StoreRevision) -> Result<()> {
        let inner = Arc::downgrade(&self.inner);
        let workshop = Arc::clone(&self.inner.workshop);
        let prefix = Repository::services(&workshop.config.owner)?;
        let mut leave = self.inner.leave.subscribe();
        let watching = async move {
            loop {
                let Ok(mut changes) = workshop.store.watch(&prefix, after).await else {
                    // Too far behind, or the store is away: everything is looked at again.
                    sleep(Duration::from_secs(1)).await;
                    let Some(inner) = inner.upgrade() else { return };
                    if let Ok(revision) = (Self { inner }).discover().await {
                        after = revision;
                    }
                    continue;
                };
                while let Some(Ok(batch)) = changes.next().await {
                    after = batch.revision;
                    for change in &*batch.changes {
                        let ews_core::store::Change::Put(record) = change else { continue };
                        let owner = &workshop.config.owner;
                        let Some(service) = Repository::service_of(owner, &record.key) else { continue };
                        let Some(inner) = inner.upgrade() else { return };
                        inner.adopt(&service);
                    }
                }
            }
        };
        self.inner.tasks().set.spawn(async move {
            tokio::select! {
                () = watching => {}
                _ = leave.wait_for(|leave| *leave) => {}
            }
        });
        Ok(())
    }
}

impl Inner {
    fn tasks(&self) -> std::sync::MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn adopt(&self, service: &ServiceName) {
        if *self.leave.borrow() {
            return;
        }
        let mut tasks = self.tasks();
        // What has ended is forgotten, so that neither map nor set grows with every service that ever was.
        while tasks.set.try_join_next().is_some() {}
        tasks.services.retain(|_, task| !task.is_finished());
        if !tasks.services.contains_key(service) {
            let workshop = Arc::clone(&self.workshop);
            let task = reconcile::reconcile(workshop, service.clone(), self.leave.subscribe());
            let handle = tasks.set.spawn(task);
            tasks.services.insert(service.clone(), handle);
        }
    }
}

/// Whether a write collided with another one, so that it is worth making anew.
pub(crate) fn collided(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Stale | ErrorKind::AlreadyExists)
}

/// The records of a service as found.
pub(crate) struct Found {
    pub(crate) input: Option<Versioned<ServiceInput>>,
    pub(crate) scale: Option<Versioned<ScaleInput>>,
    pub(crate) state: ServiceState,
    state_modified: ews_core::store::StoreRevision,
}

impl Found {
    pub(crate) async fn read(repository: &Repository) -> Result<Self> {
        let input = repository.input().await?;
        let scale = repository.scale().await?;
        let state = repository.state().await?;
        let state_modified = state.as_ref().map(|state| state.modified).unwrap_or_default();
        Ok(Self { input, scale, state: state.map(|state| state.value).unwrap_or_default(), state_modified })
    }

    fn base(&self) -> Base {
        Base {
            input: self.input.as_ref().map(|found| found.modified).unwrap_or_default(),
            scale: self.scale.as_ref().map(|found| found.modified).unwrap_or_default(),
            state: self.state_modified,
        }
    }

    /// The rollout that a request of this key led to before.
    fn known(&self, key: Option<&str>) -> Option<u64> {
        let keys = &self.input.as_ref()?.value.keys;
        keys.iter().find(|(known, _)| Some(known.as_str()) == key).map(|(_, number)| *number)
    }

    fn free(&self, advice: &str) -> Result<()> {
        match self.input.as_ref().and_then(|input| input.value.active.as_ref()) {
            Some(active) => Err(Error::new(
                ErrorKind::Busy,
                format!("rollout {} of the service is under way; wait for it, or {advice}", active.number),
            )),
            None => Ok(()),
        }
    }

    fn admits(&self, request: &DeployRequest) -> Result<()> {
        if self.input.as_ref().is_some_and(|input| input.value.removing) {
            return Err(Error::new(
                ErrorKind::Busy,
                "the service is being removed; deploy it when it is gone",
            ));
        }
        if request.concurrency == Concurrency::Reject {
            self.free("ask for `supersede`")?;
        }
        match request.base {
            Some(base) if base != self.base() => Err(Error::new(
                ErrorKind::Stale,
                "the service has changed since the plan was made; plan again",
            )),
            _ => Ok(()),
        }
    }

    /// The revision of a request: one that is kept already, or a new one.
    async fn revision_for(
        &self,
        request: &DeployRequest,
        now: ews_core::Timestamp,
        repository: &Repository,
    ) -> Result<Revision> {
        let kept = repository.revisions().await?;
        let same = |record: &&RevisionRecord| *record.revision.spec == request.spec;
        if let Some(record) = kept.iter().rev().find(same) {
            return Ok(record.revision.clone());
        }
        let next = self.input.as_ref().map_or(1, |input| input.value.next_revision);
        Revision::new(next, Arc::new(request.spec.clone()), now)
    }

    /// How many instances there shall be: the count of the spec where it is new or was changed, or else the count that holds.
    async fn desired_for(&self, revision: &Revision, repository: &Repository) -> Result<u32> {
        let Some(scale) = &self.scale else { return Ok(revision.spec.replicas) };
        let before = match self.state.current {
            Some(number) => repository.revision(number).await?.map(|record| record.revision.spec.replicas),
            None => None,
        };
        Ok(if before == Some(revision.spec.replicas) { scale.value.desired } else { revision.spec.replicas })
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
