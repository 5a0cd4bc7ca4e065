//! The way that every program goes: deployed, updated, hotfixed, rolled back, killed and removed, with clients of the gateway all along.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ews_core::balancer::{DomainName, PoolProtocol};
use ews_core::spec::lifecycle::Signal;
use ews_core::store::MemoryStore;
use ews_core::{Instance, PortName, Selector, ServiceName};
use ews_deploy::{
    Batch, DeployConfig, DeployParts, DeployRequest, Deployer, Hotfix, Order, Outcome, RolloutId, Strategy,
    Traffic,
};
use ews_route::{Gateway, GatewayConfig, TcpListen};
use tokio::time::{sleep, timeout};

use crate::ground::Ground;
use crate::load::{CLIENTS, Load, Told};
use crate::program::{Found, Program};

/// How long anything may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(90);

/// The whole way on processes of this machine.
pub(crate) async fn on_processes(found: Found<Arc<dyn Program>>) {
    let Some(program) = installed(found) else { return };
    let ground = Ground::processes(&program).await;
    Box::pin(Journey::begin(program, ground).await.go()).await;
}

/// The whole way on the engine that the environment names.
pub(crate) async fn on_docker(found: Found<Arc<dyn Program>>) {
    let Some(program) = installed(found) else { return };
    let Some(ground) = Ground::docker(&program).await else { return };
    Box::pin(Journey::begin(program, ground).await.go()).await;
}

fn installed(found: Found<Arc<dyn Program>>) -> Option<Arc<dyn Program>> {
    match found {
        Ok(program) => Some(program),
        Err(missing) => {
            let required = std::env::var("EWS_TEST_SERVERS").is_ok_and(|value| value == "required");
            assert!(!required, "EWS_TEST_SERVERS=required, and this is not here: {missing}");
            println!("skipped: this is not here: {missing}");
            None
        }
    }
}

struct Journey {
    program: Arc<dyn Program>,
    ground: Ground,
    deployer: Deployer,
    _gateway: Gateway,
    /// Where the gateway listens for this program.
    front: SocketAddr,
    service: ServiceName,
    /// What was written into its data.
    words: Vec<String>,
}

impl Journey {
    async fn begin(program: Arc<dyn Program>, ground: Ground) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let tcp = TcpListen::new(any, domain(&*program));
        let config = GatewayConfig::default().with_listen([any]).with_listen_tcp([tcp]).with_threads(1);
        let gateway = Gateway::start(config).await.unwrap();
        let front = gateway.addresses()[usize::from(program.protocol() == PoolProtocol::Tcp)];
        let parts = DeployParts::new(Arc::clone(&ground.runtime), Arc::new(MemoryStore::new()))
            .with_balancer(Arc::new(gateway.clone()));
        let config = DeployConfig::new(ground.word.parse().unwrap());
        let deployer = Deployer::start(parts, config).await.unwrap();
        let service = program.name().parse().unwrap();
        Self { program, ground, deployer, _gateway: gateway, front, service, words: Vec::new() }
    }

    async fn go(mut self) {
        // No request fails where two can run side by side. Where they can't, nobody is there between the two, and clients see it.
        let alone = self.program.keeps_data();
        let told = async |journey: &mut Self, what: &str, told: Told, before: &str, after: &str| {
            assert!(
                told.versions().iter().all(|version| [before, after].contains(version)),
                "{what}: {told:?}"
            );
            journey.says(after).await;
            journey.remembers(what).await;
        };

        let began = Instant::now();
        let first = self.ground.version("v1");
        let rollout = self.deployer.deploy(&self.request("v1", first)).await.unwrap();
        self.succeeded(&rollout).await;
        println!("{}: v1 is deployed in {:.1} s", self.ground.word, began.elapsed().as_secs_f32());
        self.says("v1").await;
        self.remembers("v1").await;

        let next = self.ground.version("v2");
        let request = self.request("v2", next);
        let work = async |journey: &Self| journey.deployer.deploy(&request).await.unwrap();
        let update = self.under_load("an update to v2", work).await;
        assert_eq!(update.failed > 0, alone, "an update: {update:?}");
        told(&mut self, "an update", update, "v1", "v2").await;

        let path = self.program.fixed();
        let fixed = self.program.files("v2-fixed").into_iter().find(|(name, _)| *name == path).unwrap().1;
        let fix = Hotfix::new(self.service.clone()).with_file(path, fixed).with_reload(self.program.reload());
        let fix = fix.with_strategy(self.strategy());
        let before = self.instances().await;
        let work = async |journey: &Self| Box::pin(journey.deployer.hotfix(&fix)).await.unwrap();
        let hotfix = self.under_load("a hotfix", work).await;
        assert_eq!(hotfix.failed, 0, "a hotfix: {hotfix:?}");
        told(&mut self, "a hotfix", hotfix, "v2", "v2-fixed").await;
        assert_eq!(ids(&before), ids(&self.instances().await), "a hotfix makes no new instances");

        let work = async |journey: &Self| journey.deployer.rollback(&journey.service, None).await.unwrap();
        let back = self.under_load("the hotfix is taken back", work).await;
        assert_eq!(back.failed, 0, "the hotfix is taken back: {back:?}");
        told(&mut self, "back to v2", back, "v2-fixed", "v2").await;

        let first = self.deployer.revisions(&self.service).await.unwrap()[0].id.clone();
        let work =
            async |journey: &Self| journey.deployer.rollback(&journey.service, Some(&first)).await.unwrap();
        let back = self.under_load("a rollback to v1", work).await;
        assert_eq!(back.failed > 0, alone, "a rollback: {back:?}");
        told(&mut self, "back to v1", back, "v2", "v1").await;

        self.killed().await;
        self.removed().await;
        println!("{}: {:.1} s in all", self.ground.word, began.elapsed().as_secs_f32());
        self.ground.end();
    }

    fn strategy(&self) -> Strategy {
        let order = if self.program.keeps_data() { Order::StopFirst } else { Order::Auto };
        Strategy::default()
            .with_order(order)
            .with_batches(Batch::Count(1), Batch::Count(1))
            .with_min_healthy(Duration::from_millis(300))
            .with_deadlines(Duration::from_secs(60), PATIENCE)
            .with_drain(Duration::from_secs(10))
            .with_monitor(Duration::from_millis(300))
    }

    fn request(&self, version: &str, spec: ews_core::ServiceSpec) -> DeployRequest {
        let traffic = Traffic::new([domain(&*self.program)], PortName::new("main").unwrap());
        DeployRequest::new(spec)
            .with_strategy(self.strategy())
            .with_traffic(traffic.with_protocol(self.program.protocol()))
            .with_reason(version)
    }

    async fn succeeded(&self, rollout: &RolloutId) {
        let report =
            timeout(PATIENCE, self.deployer.wait(rollout)).await.expect("every rollout ends").unwrap();
        assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    }

    /// Brings a rollout about while clients ask.
    async fn under_load(&self, what: &str, begin: impl AsyncFnOnce(&Self) -> RolloutId) -> Told {
        let load = Load::start(&self.program, self.front);
        let began = Instant::now();
        let rollout = begin(self).await;
        self.succeeded(&rollout).await;
        let took = began.elapsed().as_secs_f32();
        let told = load.ended().await;
        println!("{}: {what}: {took:.1} s, {told:?}", self.ground.word);
        told
    }

    async fn instances(&self) -> Vec<Instance> {
        let ours = Selector::equal("ews/owner", &self.ground.word).unwrap();
        let mut instances = self.ground.runtime.list(&ours).await.unwrap();
        instances.sort_by_key(|instance| instance.key.slot);
        instances
    }

    /// Every instance runs and says this version, asked itself and by way of the gateway.
    async fn says(&self, version: &str) {
        let wanted = if self.program.keeps_data() { 1 } else { 2 };
        until(&format!("{wanted} say {version}"), async || {
            let instances = self.instances().await;
            for instance in &instances {
                let main = instance.endpoints.iter().find(|endpoint| endpoint.key.port.as_str() == "main");
                let Some(main) = main.filter(|_| instance.state.is_running()) else { return false };
                if self.program.version(main.address).await.is_ok_and(|said| said == version) {
                    continue;
                }
                return false;
            }
            instances.len() == wanted
        })
        .await;
        for _ in 0..4 {
            assert_eq!(self.program.version(self.front).await.unwrap(), version, "by way of the gateway");
        }
    }

    /// What was written before is there, and so is another word from now on.
    async fn remembers(&mut self, word: &str) {
        if self.program.keeps_data() {
            self.program.remember(self.front, word).await.unwrap();
            self.words.push(word.to_owned());
            assert_eq!(self.program.remembered(self.front).await.unwrap(), self.words);
        }
    }

    /// The program of one instance is killed, and comes back by itself.
    async fn killed(&mut self) {
        let victim = self.instances().await.remove(0);
        let load = Load::start(&self.program, self.front);
        let began = Instant::now();
        self.ground.runtime.signal(&victim.id, Signal::KILL).await.unwrap();
        until("what was killed is back", async || {
            let instances = self.instances().await;
            instances.iter().all(|instance| {
                instance.state.is_running()
                    && (instance.id != victim.id || instance.incarnation > victim.incarnation)
            })
        })
        .await;
        until("it serves again", async || self.program.version(self.front).await.is_ok()).await;
        let took = began.elapsed().as_secs_f32();
        let told = load.ended().await;
        println!("{}: one is killed: {took:.1} s, {told:?}", self.ground.word);
        if !self.program.keeps_data() {
            // What was under way. On Docker somebody takes connections for a container that has ended, until the engine knows; by HTTP the
            // gateway asks another one, of TCP it knows no questions.
            let rounds = if self.program.protocol() == PoolProtocol::Tcp { 5 } else { 1 };
            assert!(told.failed <= rounds * CLIENTS, "no more than was under way: {told:?}");
        }
        assert!(told.versions().iter().all(|version| *version == "v1"), "{told:?}");
        self.says("v1").await;
        self.remembers("killed").await;
    }

    async fn removed(&self) {
        self.deployer.remove(&self.service).await.unwrap();
        timeout(PATIENCE, self.deployer.wait_removed(&self.service)).await.expect("it is removed").unwrap();
        assert_eq!(self.ground.left(), Vec::<String>::new(), "nothing is left");
        assert!(self.program.version(self.front).await.is_err(), "nobody answers");
        self.deployer.leave().await;
    }
}

fn ids(instances: &[Instance]) -> Vec<&str> {
    instances.iter().map(|instance| instance.id.as_str()).collect()
}

fn domain(program: &dyn Program) -> DomainName {
    DomainName::new(&format!("{}.test", program.name())).unwrap()
}

/// Waits until something holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "it did not come to be: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}
