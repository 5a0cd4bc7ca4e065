//! A small world on virtual time: an engine, a balancer, a store, and controllers that can be killed anywhere.
#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "shared by the tests of this crate, which each use a part of it"
)]

mod guard;
mod killing;
mod metrics;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ews_core::balancer::{MemberState, Object, ObjectKind, ObjectQuery};
use ews_core::probe::{Checker, Outcome as Tried, Target};
use ews_core::spec::network::Port;
use ews_core::spec::probe::{Check, HttpCheck, Probe};
use ews_core::spec::source::{ArtifactSource, Source};
use ews_core::store::{ListRequest, MemoryStore, Prefix};
use ews_core::testkit::FakeBalancer;
use ews_core::testkit::fake::{FakeConfig, FakeEngine, FakeRuntime};
use ews_core::{
    Balancer as _, Instance, InstanceId, InstanceState, Labels, PortName, Runtime as _, Selector,
    ServiceName, ServiceSpec, Store,
};
use ews_deploy::{
    Batch, DeployConfig, DeployParts, DeployRequest, Deployer, Outcome, RolloutId, RolloutReport, Strategy,
    Traffic,
};

pub(crate) use guard::Guard;
pub(crate) use killing::{Kill, KillingStore};
pub(crate) use metrics::{Say, Sayings};

/// The service under test.
pub(crate) fn web() -> ServiceName {
    ServiceName::new("web").unwrap()
}

/// An engine, a balancer and a store, which outlive controllers.
pub(crate) struct World {
    pub(crate) engine: FakeEngine,
    pub(crate) balancer: FakeBalancer,
    pub(crate) guard: Arc<Guard>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) checks: Arc<Checks>,
    pub(crate) metrics: Arc<Sayings>,
}

/// A controller's life.
pub(crate) struct Controller {
    pub(crate) deployer: Deployer,
    pub(crate) runtime: Arc<FakeRuntime>,
}

impl Controller {
    /// SIGKILL: its tasks end where they stand, and what it had sent to the engine happens.
    pub(crate) fn kill(self) {
        self.runtime.kill();
        drop(self.deployer);
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_engine(FakeConfig::default())
    }

    pub(crate) fn with_engine(config: FakeConfig) -> Self {
        let engine = FakeEngine::new(config);
        let balancer = FakeBalancer::new();
        let guard = Arc::new(Guard::new(balancer.clone(), engine.clone()));
        let store = Arc::new(MemoryStore::new());
        Self { engine, balancer, guard, store, checks: Arc::default(), metrics: Arc::default() }
    }

    pub(crate) async fn controller(&self, name: &str) -> Controller {
        self.controller_on(name, Arc::clone(&self.store) as Arc<dyn Store>).await
    }

    /// A controller with other parts besides.
    pub(crate) async fn controller_with(
        &self,
        name: &str,
        with: impl FnOnce(DeployParts) -> DeployParts,
    ) -> Controller {
        self.made(name, Arc::clone(&self.store) as Arc<dyn Store>, with).await
    }

    pub(crate) async fn controller_on(&self, name: &str, store: Arc<dyn Store>) -> Controller {
        self.made(name, store, |parts| parts).await
    }

    async fn made(
        &self,
        name: &str,
        store: Arc<dyn Store>,
        with: impl FnOnce(DeployParts) -> DeployParts,
    ) -> Controller {
        let runtime = Arc::new(FakeRuntime::connect(&self.engine));
        let parts = DeployParts::new(Arc::clone(&runtime) as _, store)
            .with_balancer(Arc::clone(&self.guard) as _)
            .with_metrics(Arc::clone(&self.metrics) as _)
            .with_checker(Arc::new(ByLabel(self.engine.clone(), Arc::clone(&self.checks))));
        let parts = with(parts);
        let config = DeployConfig::new("acme".parse().unwrap()).with_controller(name);
        Controller { deployer: Deployer::start(parts, config).await.unwrap(), runtime }
    }

    pub(crate) async fn instances(&self) -> Vec<Instance> {
        let runtime = FakeRuntime::connect(&self.engine);
        let mut instances = runtime.list(&Selector::everything()).await.unwrap();
        instances.sort_by_key(|instance| (instance.key.slot, instance.key.generation));
        instances
    }

    /// Which version each slot's instance runs; two instances in one slot fail the test.
    pub(crate) async fn versions(&self) -> BTreeMap<u32, String> {
        let mut versions = BTreeMap::new();
        for instance in self.instances().await {
            assert_eq!(instance.state, InstanceState::Running, "{instance:?}");
            let version = instance.labels.get("version").unwrap().to_owned();
            assert!(
                versions.insert(instance.key.slot, version).is_none(),
                "two in slot {}",
                instance.key.slot
            );
        }
        versions
    }

    /// The versions of all instances.
    pub(crate) async fn versions_seen(&self) -> Vec<String> {
        let instances = self.instances().await;
        instances.iter().filter_map(|instance| instance.labels.get("version").map(str::to_owned)).collect()
    }

    /// Everything that the balancer has.
    pub(crate) async fn objects(&self) -> Vec<Object> {
        let found = self.balancer.objects(&ObjectQuery::kinds([])).await.unwrap();
        found.into_iter().map(|stored| stored.object).collect()
    }

    /// The rules of a set of routes, each as the versions that it forwards to and their weights.
    pub(crate) async fn rules(&self, routes: &str) -> Vec<BTreeMap<String, u32>> {
        let objects = self.objects().await;
        let version = |pool: &ews_core::PoolId| {
            pool.as_str().split_once(".r").unwrap().1.split_once('-').unwrap().0.to_owned()
        };
        let found = objects.iter().find_map(|object| match object {
            Object::RouteSet(set) if set.id.as_str() == routes => Some(set),
            _ => None,
        });
        let rules = found.into_iter().flat_map(|set| &set.rules);
        let shares = rules.map(|rule| match &rule.action {
            ews_core::balancer::RouteAction::Forward(pools) => {
                pools.iter().map(|share| (format!("v{}", version(&share.pool)), share.weight)).collect()
            }
            _ => BTreeMap::new(),
        });
        shares.collect()
    }

    /// The share of a version in hundredths.
    pub(crate) async fn share(&self, version: &str) -> u32 {
        let rules = self.rules("web").await;
        let shares = rules.first().unwrap();
        let all: u32 = shares.values().sum();
        shares.get(version).copied().unwrap_or_default() * 100 / all.max(1)
    }

    /// How many instances of a version there are.
    pub(crate) async fn count(&self, version: &str) -> usize {
        self.versions_seen().await.iter().filter(|seen| *seen == version).count()
    }

    /// The endpoints that take traffic, as instances.
    pub(crate) async fn serving(&self) -> Vec<String> {
        let found = self.balancer.objects(&ObjectQuery::kinds([ObjectKind::Endpoint])).await.unwrap();
        let endpoints = found.into_iter().filter_map(|stored| match stored.object {
            Object::Endpoint(member) if member.state == MemberState::Active => {
                Some(member.endpoint.key.instance.to_string())
            }
            _ => None,
        });
        endpoints.collect()
    }

    /// Everything is as it should be after a rollout: one instance of this version in each slot, each serving, nothing else
    /// anywhere.
    pub(crate) async fn assert_whole(&self, slots: u32, version: &str) {
        // The last work on a slot may go on a moment after the rollout has ended.
        let whole = || async {
            self.engine.objects() == slots as usize && self.serving().await.len() == slots as usize
        };
        eventually("as many instances serve as there shall be", whole).await;
        let expected: BTreeMap<u32, String> = (0..slots).map(|slot| (slot, version.to_owned())).collect();
        assert_eq!(self.versions().await, expected);
        let mut instances: Vec<String> = self.instances().await.iter().map(|i| i.id.to_string()).collect();
        instances.sort();
        let mut serving = self.serving().await;
        serving.sort();
        assert_eq!(serving, instances, "what runs serves, and nothing else");
        assert_eq!(self.engine.objects(), slots as usize, "nothing is left at the engine");
        assert_eq!(self.engine.orphans(), 0);
        let empty = || async { self.keys("deploy/acme/web/unit/").await == 0 };
        eventually("the journal is empty", empty).await;
    }

    /// The lease by which the service is led.
    pub(crate) async fn lease_of_leader(&self) -> ews_core::store::LeaseId {
        let key = ews_core::store::Key::new("deploy/acme/web/lock").unwrap();
        self.store.get(&key).await.unwrap().unwrap().lease.unwrap()
    }

    pub(crate) async fn keys(&self, prefix: &str) -> usize {
        let request = ListRequest::new(Prefix::new(prefix).unwrap());
        self.store.list(&request).await.unwrap().records.len()
    }
}

/// Which probes fail though their instances answer.
#[derive(Default)]
pub(crate) struct Checks {
    failing: Mutex<BTreeSet<(InstanceId, &'static str)>>,
}

impl Checks {
    pub(crate) fn fail_liveness(&self, id: &InstanceId) {
        self.failing.lock().unwrap().insert((id.clone(), "/live"));
    }

    pub(crate) fn fail_readiness(&self, id: &InstanceId) {
        self.failing.lock().unwrap().insert((id.clone(), "/"));
    }

    pub(crate) fn clear(&self) {
        self.failing.lock().unwrap().clear();
    }
}

/// Answers by the instance's labels, by what the test says and by whether it listens.
struct ByLabel(FakeEngine, Arc<Checks>);

#[async_trait]
impl Checker for ByLabel {
    async fn check(&self, target: &Target, probe: &Probe) -> Tried {
        let path = match &probe.check {
            Check::Http(check) => check.path.as_str(),
            _ => "",
        };
        let failing =
            self.1.failing.lock().unwrap().iter().any(|(id, p)| *id == target.instance.id && *p == path);
        if failing {
            return Tried::fail("status 500");
        }
        if target.instance.labels.get("healthy") == Some("no") {
            return Tried::fail("status 503");
        }
        let address = target.instance.endpoints.first().map(|endpoint| endpoint.address);
        match address.map(|address| self.0.dial(address)) {
            Some(Ok(_)) => Tried::pass("status 200"),
            _ => Tried::fail("connection refused"),
        }
    }
}

/// A service of three that answers HTTP.
pub(crate) fn spec(version: &str) -> ServiceSpec {
    labelled(version, "yes")
}

/// One whose readiness probe never passes.
pub(crate) fn sick(version: &str) -> ServiceSpec {
    labelled(version, "no")
}

/// One that ends right after its start, with last words.
pub(crate) fn crashing(version: &str) -> ServiceSpec {
    let mut spec = spec(version);
    spec.instance.command = ["fake", "exit", "7", "after", "100ms"].map(str::to_owned).to_vec();
    spec
}

fn labelled(version: &str, healthy: &str) -> ServiceSpec {
    let mut spec = ServiceSpec::new(web(), Source::Artifact(ArtifactSource::new("/srv/web")));
    spec.replicas = 3;
    spec.instance.command = vec!["fake".to_owned(), "serve".to_owned()];
    spec.instance.ports = vec![Port::new(PortName::new("http").unwrap(), None)];
    spec.instance.labels = Labels::new([("version", version), ("healthy", healthy)]).unwrap();
    let mut probe = Probe::new(Check::Http(HttpCheck::new("/")));
    probe.interval = Duration::from_secs(1);
    spec.instance.probes.readiness = Some(probe);
    spec.instance.stop.grace = Duration::from_secs(5);
    spec
}

pub(crate) fn strategy() -> Strategy {
    Strategy::default()
        .with_min_healthy(Duration::from_secs(3))
        .with_deadlines(Duration::from_secs(30), Duration::from_secs(120))
        .with_batches(Batch::Count(1), Batch::Count(2))
        .with_monitor(Duration::ZERO)
}

pub(crate) fn request(spec: ServiceSpec) -> DeployRequest {
    let traffic = Traffic::new(
        [ews_core::balancer::DomainName::new("web.test").unwrap()],
        PortName::new("http").unwrap(),
    );
    DeployRequest::new(spec).with_strategy(strategy()).with_traffic(traffic)
}

/// Deploys and waits for the end.
pub(crate) async fn deploy(controller: &Controller, spec: ServiceSpec) -> RolloutReport {
    let id = controller.deployer.deploy(&request(spec)).await.unwrap();
    ended(controller, &id).await
}

/// Waits for the end of a rollout, in virtual time.
pub(crate) async fn ended(controller: &Controller, id: &RolloutId) -> RolloutReport {
    let waited = tokio::time::timeout(Duration::from_secs(3600), controller.deployer.wait(id)).await;
    waited.expect("every rollout ends").unwrap()
}

/// Waits until something holds, in virtual time.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..20_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it never came about that {what}");
}

/// A world in which v1 runs whole.
pub(crate) async fn running() -> (World, Controller) {
    let world = World::new();
    let controller = world.controller("first").await;
    let report = deploy(&controller, spec("v1")).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    (world, controller)
}
