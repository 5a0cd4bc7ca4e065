//! The deployer: what an embedder holds.
//!
//! Asking and doing are apart. Every call here reads or writes records and returns; whoever leads the service, this controller
//! or another one of the installation, brings about what is written. So an acknowledged request survives every crash, and any
//! controller may be asked.

mod ask;
mod fix;
mod found;
mod tell;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ews_core::balancer::Balancer;
use ews_core::bus::Subscription;
use ews_core::clock::Clock;
use ews_core::image::ImageStore;
use ews_core::metrics::Metrics;
use ews_core::policy::Policy;
use ews_core::probe::{Checker, Prober, ProberConfig, StandardChecker};
use ews_core::store::{ListRequest, StoreRevision};
use ews_core::{Bus, Result, Runtime, ServiceName, Store, SystemClock};
use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

pub(crate) use found::{Found, collided, of_the_service};
pub use tell::ServiceStatus;

use crate::audit::{AuditAction, AuditEntry};
use crate::config::DeployConfig;
use crate::event::DeployEvent;
use crate::failure::FailureSeen;
use crate::hook::Hook;
use crate::reconcile::{self, Workshop, service_selector};
use crate::record::Repository;
use crate::release;
use crate::remedy::{RemedySeen, Treatment};
use crate::slots::Slots;
use crate::strategy::OnFailure;

/// What a deployer stands on: the embedder's drivers, and its code where it has any. Drivers want layers around them
/// ([`ews_core::layer::stack`]), which trace, repeat and bound each call.
#[derive(Clone)]
#[non_exhaustive]
pub struct DeployParts {
    /// Where instances run.
    pub runtime: Arc<dyn Runtime>,
    /// Where records live.
    pub store: Arc<dyn Store>,
    /// What moves traffic. Default: nothing; a request with traffic is refused.
    pub balancer: Option<Arc<dyn Balancer>>,
    /// Who answers questions about signals. Default: nobody; a request with an analysis is refused.
    pub metrics: Option<Arc<dyn Metrics>>,
    /// Wall time for records. Default: the system's.
    pub clock: Arc<dyn Clock>,
    /// What brings images to the runtime's nodes. With it a rollout begins when its image is on every node, and ends as failed with
    /// nothing changed where it can't be had; so does a rollback to a revision whose image is gone. Default: each instance's own
    /// creation pulls.
    pub images: Option<Arc<dyn ImageStore>>,
    /// Code that is asked at the joints of rollouts. Default: none.
    pub hooks: Vec<Arc<dyn Hook>>,
    /// What is done about failures, in place of the strategy's rules. Default: those.
    pub failures: Option<Arc<dyn Policy<FailureSeen, OnFailure>>>,
    /// What is done about instances that are not well, in place of the service's rules. Default: those.
    pub remedies: Option<Arc<dyn Policy<RemedySeen, Treatment>>>,
    /// Who makes the tries of probes. Default: HTTP and TCP from this process, commands through the runtime.
    pub checker: Option<Arc<dyn Checker>>,
}

impl std::fmt::Debug for DeployParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hooks: Vec<_> = self.hooks.iter().map(|hook| hook.name()).collect();
        f.debug_struct("DeployParts")
            .field("balancer", &self.balancer.is_some())
            .field("metrics", &self.metrics.is_some())
            .field("images", &self.images.is_some())
            .field("hooks", &hooks)
            .field("failures", &self.failures.as_ref().map(|policy| policy.name()))
            .field("remedies", &self.remedies.as_ref().map(|policy| policy.name()))
            .field("checker", &self.checker.is_some())
            .finish_non_exhaustive()
    }
}

impl DeployParts {
    /// Instances run here, records live there, traffic is left alone.
    pub fn new(runtime: Arc<dyn Runtime>, store: Arc<dyn Store>) -> Self {
        Self {
            runtime,
            store,
            balancer: None,
            metrics: None,
            clock: Arc::new(SystemClock),
            images: None,
            hooks: Vec::new(),
            failures: None,
            remedies: None,
            checker: None,
        }
    }

    /// Traffic is moved by this.
    #[must_use]
    pub fn with_balancer(mut self, balancer: Arc<dyn Balancer>) -> Self {
        self.balancer = Some(balancer);
        self
    }

    /// Analyses ask this.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Arc<dyn Metrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Images are brought to the nodes by this.
    #[must_use]
    pub fn with_images(mut self, images: Arc<dyn ImageStore>) -> Self {
        self.images = Some(images);
        self
    }

    /// This hook is asked, after those that are there.
    #[must_use]
    pub fn with_hook(mut self, hook: Arc<dyn Hook>) -> Self {
        self.hooks.push(hook);
        self
    }

    /// This decides about failures.
    #[must_use]
    pub fn with_failure_policy(mut self, policy: Arc<dyn Policy<FailureSeen, OnFailure>>) -> Self {
        self.failures = Some(policy);
        self
    }

    /// This decides about instances that are not well.
    #[must_use]
    pub fn with_remedy_policy(mut self, policy: Arc<dyn Policy<RemedySeen, Treatment>>) -> Self {
        self.remedies = Some(policy);
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
    /// Who asks, for the audit trail.
    by: Arc<str>,
}

struct Inner {
    this: Weak<Self>,
    workshop: Arc<Workshop>,
    leave: watch::Sender<bool>,
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    services: BTreeMap<ServiceName, Reconciling>,
    set: JoinSet<()>,
}

/// A task that reconciles a service.
struct Reconciling {
    handle: AbortHandle,
    /// Set when the service is spoken of: the task looks once more before it ends, so that one which is removed and deployed
    /// anew at once is not left without.
    again: Arc<AtomicBool>,
}

impl std::fmt::Debug for Deployer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deployer").field("config", &self.inner.workshop.config).finish_non_exhaustive()
    }
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
        let DeployParts {
            runtime,
            store,
            balancer,
            metrics,
            clock,
            images,
            hooks,
            failures,
            remedies,
            checker,
        } = parts;
        let checker = checker.unwrap_or_else(|| Arc::new(StandardChecker::new(Arc::clone(&runtime))));
        let prober = Prober::new(checker, Arc::clone(&clock), ProberConfig::default())?;
        let bus = Bus::new(config.events)?;
        let releases = Bus::new(config.events)?;
        let holder = config.controller.as_deref().map_or_else(reconcile::anonymous, Arc::from);
        let workshop = Arc::new(Workshop {
            config,
            holder,
            runtime,
            store,
            balancer,
            metrics,
            images,
            hooks,
            failures,
            remedies,
            prober,
            clock,
            bus,
            releases,
        });
        let inner = Arc::new_cyclic(|this| Inner {
            this: this.clone(),
            workshop,
            leave: watch::Sender::new(false),
            tasks: Mutex::default(),
        });
        let deployer = Self { inner, by: Arc::from("") };
        let after = deployer.discover().await?;
        deployer.watch_services(after)?;
        let leading = release::run(Arc::clone(&deployer.inner.workshop), deployer.inner.leave.subscribe());
        deployer.inner.tasks().set.spawn(leading);
        Ok(deployer)
    }

    /// The same deployer, asked by somebody: what is asked for through it is in the audit trail and in reports under this name, of which
    /// at most 255 characters are kept, control characters left out. Default: nobody, an empty name.
    #[must_use]
    pub fn by(&self, who: &str) -> Self {
        let by: String = who.chars().filter(|c| !c.is_control()).take(255).collect();
        Self { inner: Arc::clone(&self.inner), by: by.into() }
    }

    /// Who asks through this handle; empty where nobody said.
    pub(crate) fn asks_as(&self) -> &str {
        &self.by
    }

    /// A handle that asks and leads nothing: for the deployer's own tasks, which must not keep it alive.
    pub(crate) fn asking(workshop: Arc<Workshop>) -> Self {
        let inner =
            Inner { this: Weak::new(), workshop, leave: watch::Sender::new(true), tasks: Mutex::default() };
        Self { inner: Arc::new(inner), by: Arc::from("") }
    }

    pub(crate) fn workshop(&self) -> &Workshop {
        &self.inner.workshop
    }

    pub(crate) fn now(&self) -> ews_core::Timestamp {
        self.inner.workshop.clock.now()
    }

    /// An entry of the audit trail.
    pub(crate) fn entry(&self, action: AuditAction, why: &str) -> AuditEntry {
        let why = why.chars().take(1_024).collect();
        AuditEntry { at: self.now(), by: self.by.to_string(), action, why }
    }

    /// Ends in order: what is under way ends at its next step, and every lead is given back, so that a successor goes on at
    /// once. Rollouts are not ended by it.
    pub async fn leave(&self) {
        self.inner.leave.send_replace(true);
        let mut set = std::mem::take(&mut self.inner.tasks().set);
        while set.join_next().await.is_some() {}
    }

    /// What has happened since this deployer was started, and what happens from now on. A deployer leads from its first moment, so that
    /// [`events`](Self::events) may come too late for the first: what a predecessor left half done is gone on with at once.
    /// Where more has happened than is kept, the first notice is a gap.
    pub fn events_since_start(&self) -> Subscription<DeployEvent> {
        let bus = &self.inner.workshop.bus;
        let mut begin = bus.cursor();
        begin.sequence = 0;
        bus.resume(begin)
    }

    /// What happens from now on, to every service that this controller leads.
    pub fn events(&self) -> Subscription<DeployEvent> {
        self.inner.workshop.bus.subscribe()
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

    /// The services there are, and the store's revision that shows them.
    async fn scan(&self) -> Result<(Vec<ServiceName>, StoreRevision)> {
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

    async fn discover(&self) -> Result<StoreRevision> {
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
    fn watch_services(&self, mut after: StoreRevision) -> Result<()> {
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
                    if let Ok(revision) = (Self { inner, by: Arc::from("") }).discover().await {
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
        tasks.services.retain(|_, task| !task.handle.is_finished());
        if let Some(task) = tasks.services.get(service) {
            task.again.store(true, Ordering::SeqCst);
            return;
        }
        let workshop = Arc::clone(&self.workshop);
        let again = Arc::new(AtomicBool::new(false));
        let (of, leave, look) = (service.clone(), self.leave.subscribe(), Arc::clone(&again));
        let inner = self.this.clone();
        let task = async move {
            loop {
                // Boxed: a reconciler holds much, and a task's future is moved when it is made.
                Box::pin(reconcile::reconcile(Arc::clone(&workshop), of.clone(), leave.clone())).await;
                let Some(inner) = inner.upgrade() else { return };
                // Under the lock, so that nobody speaks of the service between the look and the end.
                let mut tasks = inner.tasks();
                if *leave.borrow() || !look.swap(false, Ordering::SeqCst) {
                    tasks.services.remove(&of);
                    return;
                }
            }
        };
        let handle = tasks.set.spawn(task);
        tasks.services.insert(service.clone(), Reconciling { handle, again });
    }
}
