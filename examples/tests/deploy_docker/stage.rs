//! A gateway under load, an engine, and a deployer on both.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ews_core::balancer::DomainName;
use ews_core::spec::lifecycle::Signal;
use ews_core::spec::network::{Port, Publish};
use ews_core::spec::probe::{Check, HttpCheck, Probe};
use ews_core::spec::resources::ByteSize;
use ews_core::spec::source::{ImagePin, ImageSource, PullPolicy};
use ews_core::spec::storage::{Mount, MountKind};
use ews_core::store::MemoryStore;
use ews_core::{
    Digest, Instance, Labels, PortName, Runtime as _, Selector, ServiceName, ServiceSpec, Source,
};
use ews_deploy::{
    Batch, DeployConfig, DeployParts, DeployRequest, Deployer, Outcome, RolloutId, RolloutReport, Strategy,
    Traffic,
};
use ews_docker::{DockerConfig, DockerRuntime};
use ews_route::{Gateway, GatewayConfig, SampleConfig};
use tokio::time::sleep;

use crate::images::{self, Behaviour};
use crate::load::{Load, Told};

/// How many instances the service has.
pub(crate) const REPLICAS: u32 = 3;

pub(crate) fn web() -> ServiceName {
    "web".parse().unwrap()
}

pub(crate) struct Stage {
    pub(crate) host: String,
    pub(crate) runtime: DockerRuntime,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) gateway: Gateway,
    pub(crate) load: Load,
    pub(crate) deployer: Deployer,
    /// A word that no other test has: the owner's name, and that of its images.
    pub(crate) word: String,
    images: BTreeMap<String, Digest>,
}

impl Stage {
    /// With v1 of [`REPLICAS`] instances that serve, and the other versions to come; `None`, said aloud, where no engine answers.
    pub(crate) async fn new(test: &str, versions: &[(&str, Behaviour)]) -> Option<Self> {
        let config = DockerConfig::from_env().unwrap();
        if let Err(error) = DockerRuntime::connect(config.clone()).await {
            let required = std::env::var("EWS_TEST_DOCKER").is_ok_and(|value| value == "required");
            assert!(!required, "EWS_TEST_DOCKER=required, and no engine answers: {error}");
            println!("skipped: no Docker Engine answers: {error}");
            return None;
        }
        // What is tested here is reached through published ports.
        if std::env::var("EWS_TEST_PUBLISHED").is_ok_and(|value| value == "unreachable") {
            println!("skipped, as EWS_TEST_PUBLISHED=unreachable says");
            return None;
        }
        Some(Self::on(config, test, versions).await)
    }

    /// The same on a given engine.
    pub(crate) async fn on(config: DockerConfig, test: &str, versions: &[(&str, Behaviour)]) -> Self {
        let host = config.address.to_string();
        let word = format!("e2e-{test}-{}", std::process::id());
        let all = [("v1", Behaviour::Good)].into_iter().chain(versions.iter().copied());
        let images = all.map(|(version, behaviour)| {
            let id = images::build(&host, &format!("{word}:{version}"), version, behaviour);
            (version.to_owned(), id)
        });
        let images = images.collect();
        let mut samples = SampleConfig::default();
        samples.interval = Duration::from_millis(250);
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let gateway = GatewayConfig::default().with_listen([listen]).with_threads(1).with_metrics(samples);
        let gateway = Gateway::start(gateway).await.unwrap();
        let store = Arc::new(MemoryStore::new());
        let runtime = DockerRuntime::connect(config).await.unwrap();
        let deployer = deployer(&runtime, &store, &gateway, &word).await;
        // Nothing is sent before something serves; a 404 of the gateway would be a failure.
        let request = Self::request_of(&images, &runtime, &word, "v1");
        let rollout = deployer.deploy(&request).await.unwrap();
        let report = deployer.wait(&rollout).await.unwrap();
        assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
        let load = Load::start(gateway.addresses()[0]);
        let stage = Self { host, runtime, store, gateway, load, deployer, word, images };
        let (told, ()) = stage.quiet("v1 serves", stage.load.more(50)).await;
        assert_eq!(told.versions(), ["v1"]);
        stage
    }

    fn request_of(
        images: &BTreeMap<String, Digest>,
        runtime: &DockerRuntime,
        word: &str,
        version: &str,
    ) -> DeployRequest {
        let mut image = ImageSource::new(format!("{word}:{version}").parse().unwrap());
        let engine = runtime.engine_id().to_owned();
        image.pin = Some(ImagePin::Local { engine, image_id: images[version] });
        image.pull = PullPolicy::Never;
        let mut spec = ServiceSpec::new(web(), Source::Image(image));
        spec.replicas = REPLICAS;
        spec.restart.delay = Duration::from_millis(200);
        let mut port = Port::new(PortName::new("http").unwrap(), Some(8080));
        port.publish = Some(Publish::default());
        let instance = &mut spec.instance;
        instance.labels = Labels::new([("version", version)]).unwrap();
        instance.ports = vec![port];
        instance.mounts = vec![Mount::new("/tmp", MountKind::Tmpfs(ByteSize::from_mib(8)))];
        instance.user = Some("65534:65534".to_owned());
        let mut ready = Probe::new(Check::Http(HttpCheck::new("/ready")));
        ready.interval = Duration::from_millis(200);
        instance.probes.readiness = Some(ready);
        // What nginx takes as "finish what you have begun".
        instance.stop.signal = Signal::QUIT;
        instance.stop.grace = Duration::from_secs(5);
        DeployRequest::new(spec)
            .with_strategy(strategy())
            .with_traffic(Traffic::new(
                [DomainName::new("web.test").unwrap()],
                PortName::new("http").unwrap(),
            ))
            .with_bounds(1..=10)
    }

    /// What is asked for to have a version.
    pub(crate) fn request(&self, version: &str) -> DeployRequest {
        Self::request_of(&self.images, &self.runtime, &self.word, version)
    }

    /// Waits for a rollout's end.
    pub(crate) async fn ended(&self, rollout: &RolloutId) -> RolloutReport {
        self.deployer.wait(rollout).await.unwrap()
    }

    /// Deploys and waits for the end.
    pub(crate) async fn deploy(&self, request: &DeployRequest) -> RolloutReport {
        let rollout = self.deployer.deploy(request).await.unwrap();
        self.ended(&rollout).await
    }

    /// Every container of the service, by slot.
    pub(crate) async fn instances(&self) -> Vec<Instance> {
        let ours = Selector::equal("ews/owner", &self.word).unwrap();
        let mut instances = self.runtime.list(&ours).await.unwrap();
        instances.sort_by_key(|instance| (instance.key.slot, instance.key.generation));
        instances
    }

    /// Waits until every slot has one instance of this version that runs, and nothing else is there.
    pub(crate) async fn whole(&self, version: &str, count: u32) {
        until(&format!("{count} instances of {version}, and none beside"), async || {
            let instances = self.instances().await;
            instances.len() == count as usize
                && instances.iter().all(|instance| {
                    instance.state.is_running() && instance.labels.get("version") == Some(version)
                })
        })
        .await;
    }

    /// Does something and counts the requests meanwhile: none of them fails.
    pub(crate) async fn quiet<T>(&self, what: &str, work: impl Future<Output = T>) -> (Told, T) {
        let (told, done) = self.counted(what, work).await;
        assert_eq!(told.failed, 0, "requests failed while {what}: {told:?}");
        (told, done)
    }

    /// Does something and counts the requests meanwhile.
    pub(crate) async fn counted<T>(&self, what: &str, work: impl Future<Output = T>) -> (Told, T) {
        let before = self.load.told().await;
        let done = work.await;
        let told = self.load.told().await.since(&before);
        println!("{}: {what}: {} requests, {} failed {:?}", self.word, told.sent, told.failed, told.answers);
        assert!(told.sent > 0);
        (told, done)
    }

    /// What is answered from now on.
    pub(crate) async fn answers(&self) -> Vec<String> {
        let (told, ()) = self.quiet("looking", self.load.more(200)).await;
        told.versions().into_iter().map(str::to_owned).collect()
    }

    /// The `docker` command on this engine.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        images::docker(&self.host, arguments)
    }

    /// Removes the service and its images.
    pub(crate) async fn end(self) {
        drop(self.load);
        self.deployer.remove(&web()).await.unwrap();
        self.deployer.wait_removed(&web()).await.unwrap();
        let ours = Selector::equal("ews/owner", &self.word).unwrap();
        assert!(self.runtime.list(&ours).await.unwrap().is_empty());
        self.deployer.leave().await;
        for version in self.images.keys() {
            images::docker(&self.host, &["rmi", "-f", &format!("{}:{version}", self.word)]);
        }
    }
}

/// A controller, under the same name in each of its lives.
pub(crate) async fn deployer(
    runtime: &DockerRuntime,
    store: &Arc<MemoryStore>,
    gateway: &Gateway,
    word: &str,
) -> Deployer {
    let parts = DeployParts::new(Arc::new(runtime.clone()), Arc::clone(store) as _)
        .with_balancer(Arc::new(gateway.clone()))
        .with_metrics(Arc::new(gateway.clone()));
    let config = DeployConfig::new(word.parse().unwrap()).with_controller("only");
    Deployer::start(parts, config).await.unwrap()
}

/// One instance after the other, with little patience.
pub(crate) fn strategy() -> Strategy {
    Strategy::default()
        .with_batches(Batch::Count(1), Batch::Count(2))
        .with_min_healthy(Duration::from_millis(300))
        .with_deadlines(Duration::from_secs(20), Duration::from_secs(120))
        .with_drain(Duration::from_secs(10))
        .with_monitor(Duration::from_millis(500))
}

/// Waits until something holds, for at most a minute and a half.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..1800 {
        if holds().await {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("it did not come to be: {what}");
}
