//! Many instances on the fake runtime: what the planner takes, and what supervision takes while nothing happens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ews_benches::{Bench, median, resident_bytes};
use ews_core::probe::{Checker, Outcome as Tried, Target};
use ews_core::runtime::CreateOptions;
use ews_core::spec::network::Port;
use ews_core::spec::probe::{Check, HttpCheck, Probe};
use ews_core::spec::source::{ArtifactSource, Source};
use ews_core::store::MemoryStore;
use ews_core::testkit::fake::{FakeConfig, FakeEngine, FakeRuntime};
use ews_core::{
    InstanceKey, PortName, RevisionId, Runtime as _, Selector, ServiceName, ServiceSpec, SystemClock,
};
use ews_deploy::{Batch, DeployConfig, DeployParts, DeployRequest, Deployer, Outcome, Strategy};

/// A check that is passed at once: what the checked answers is not ours.
struct Passes;

#[async_trait]
impl Checker for Passes {
    async fn check(&self, _target: &Target, _probe: &Probe) -> Tried {
        Tried::pass("passes")
    }
}

fn spec(count: u32, version: &str) -> ServiceSpec {
    let mut spec =
        ServiceSpec::new("web".parse().unwrap(), Source::Artifact(ArtifactSource::new("/srv/web")));
    spec.replicas = count;
    spec.instance.args = vec![version.to_owned()];
    spec.instance.ports = vec![Port::new(PortName::new("http").unwrap(), Some(8080))];
    // At their default: every 10 s, each of them.
    let probe = Probe::new(Check::Http(HttpCheck::new("/ready")));
    spec.instance.probes.readiness = Some(probe.clone());
    spec.instance.probes.liveness = Some(probe);
    spec
}

fn request(count: u32, version: &str) -> DeployRequest {
    let strategy = Strategy::default()
        .with_batches(Batch::Percent(100), Batch::Percent(25))
        .with_min_healthy(Duration::ZERO)
        .with_monitor(Duration::ZERO);
    DeployRequest::new(spec(count, version)).with_strategy(strategy)
}

fn engine() -> FakeEngine {
    let mut config = FakeConfig::default();
    (config.create_time, config.start_time) = (Duration::ZERO, Duration::ZERO);
    config.clock = Arc::new(SystemClock);
    FakeEngine::new(config)
}

/// Processor time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // USER_HZ is 100 on every Linux that Rust runs on.
    Duration::from_millis((fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10)
}

pub(crate) fn plans_and_supervision(bench: &mut Bench) {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let count = bench.scale(10_000, 200) as u32;
    threads.block_on(Box::pin(measured(bench, count)));
}

async fn measured(bench: &mut Bench, count: u32) {
    // What the fake engine itself takes for as many, without us.
    let before = resident_bytes().unwrap_or(0);
    let alone = engine();
    let bare = FakeRuntime::connect(&alone);
    let plain = spec(count, "v1");
    for slot in 0..count {
        let key = InstanceKey {
            owner: "bench".parse().unwrap(),
            service: ServiceName::new("web").unwrap(),
            revision: RevisionId::new("r1").unwrap(),
            slot,
            generation: 0,
        };
        let created = bare.create(&plain.instance, &key, &CreateOptions::default()).await.unwrap();
        bare.start(&created.id).await.unwrap();
    }
    let of_the_fake = resident_bytes().unwrap_or(0).saturating_sub(before);

    let before = resident_bytes().unwrap_or(0);
    let engine = engine();
    let runtime = Arc::new(FakeRuntime::connect(&engine));
    let parts = DeployParts::new(Arc::clone(&runtime) as _, Arc::new(MemoryStore::new()))
        .with_checker(Arc::new(Passes));
    let mut config = DeployConfig::new("bench".parse().unwrap());
    config.parallel = 256;
    let deployer = Deployer::start(parts, config).await.unwrap();
    let began = Instant::now();
    let rollout = deployer.deploy(&request(count, "v1")).await.unwrap();
    let report = deployer.wait(&rollout).await.unwrap();
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    bench.line(
        format!("first deployment of {count} fake instances"),
        began.elapsed().as_secs_f64(),
        "s",
        None,
        "an engine that takes no time, a store in memory",
    );
    plans(bench, &deployer, &runtime, count).await;
    rest(bench, &deployer, count, (before, of_the_fake)).await;
    death(bench, &engine, &runtime).await;
    drop((alone, bare));
    deployer.leave().await;
}

async fn plans(bench: &mut Bench, deployer: &Deployer, runtime: &FakeRuntime, count: u32) {
    let update = request(count, "v2");
    let ours = Selector::equal("ews/owner", "bench").unwrap();
    let (mut plans, mut lists) = (Vec::new(), Vec::new());
    for _ in 0..bench.scale(30, 3) {
        let began = Instant::now();
        let plan = deployer.plan(&update).await.unwrap();
        plans.push(began.elapsed().as_secs_f64() * 1e3);
        assert_eq!(plan.creates(), count as usize);
        let began = Instant::now();
        assert_eq!(runtime.list(&ours).await.unwrap().len(), count as usize);
        lists.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let list = median(lists);
    let note = format!("the median, with one list of the fake runtime, which alone takes {list:.1} ms");
    bench.line(format!("plan of {count} instances"), median(plans), "ms", Some(100.0), note);
}

async fn rest(bench: &mut Bench, deployer: &Deployer, count: u32, (before, of_the_fake): (u64, u64)) {
    // What the deployment itself left to do is done, and each probe has had its first turn.
    tokio::time::sleep(Duration::from_secs(bench.scale(12, 1) as u64)).await;
    let time = Duration::from_secs(bench.scale(30, 3) as u64);
    let (began, used) = (Instant::now(), cpu());
    tokio::time::sleep(time).await;
    let share = (cpu() - used).as_secs_f64() / began.elapsed().as_secs_f64();
    let service = "web".parse().unwrap();
    assert_eq!(deployer.status(&service).await.unwrap().instances.len(), count as usize);
    let note = "both probes of each every 10 s, a list of all every 10 s; the fake engine's share included";
    bench.line(
        format!("supervision of {count} instances at rest"),
        share * 60.0,
        "CPU s per minute",
        None,
        note,
    );
    let all = resident_bytes().unwrap_or(0).saturating_sub(before);
    let each = |bytes: u64| bytes as f64 / f64::from(count);
    let note = format!(
        "resident, records and engine included; as many on the fake engine alone: {:.0}",
        each(of_the_fake)
    );
    bench.line("memory of one instance", each(all), "bytes", None, note);
}

async fn death(bench: &mut Bench, engine: &FakeEngine, runtime: &FakeRuntime) {
    let ours = Selector::equal("ews/owner", "bench").unwrap();
    let mut times = Vec::new();
    for slot in 0..bench.scale(5, 1) as u32 {
        let all = runtime.list(&ours).await.unwrap();
        let victim = all.iter().find(|instance| instance.key.slot == slot).unwrap().clone();
        drop(all);
        let began = Instant::now();
        engine.exit(&victim.id, 1);
        let slot = Selector::equal("ews/slot", &slot.to_string()).unwrap();
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let there = runtime.list(&slot).await.unwrap();
            if there.iter().any(|one| {
                one.state.is_running() && (&one.id, one.incarnation) != (&victim.id, victim.incarnation)
            }) {
                break;
            }
        }
        times.push(began.elapsed().as_secs_f64());
    }
    bench.line(
        "one dies: until it runs again",
        median(times),
        "s",
        None,
        "1 s of it is the restart's default delay",
    );
}
