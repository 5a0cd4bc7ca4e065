//! A rollout on an engine, the same engine calls made by a loop, and the update of a Swarm service.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ews_benches::{Bench, Pair};
use ews_core::image::ImageQuery;
use ews_core::runtime::{CreateOptions, RemoveOptions, StopOptions};
use ews_core::spec::lifecycle::Signal;
use ews_core::spec::source::{ImagePin, ImageSource, PullPolicy};
use ews_core::store::{RedbConfig, RedbStore};
use ews_core::{
    InstanceId, InstanceKey, InstanceState, RevisionId, Runtime, Selector, ServiceName, ServiceSpec, Source,
};
use ews_deploy::{Batch, DeployConfig, DeployParts, DeployRequest, Deployer, Outcome, Strategy};
use ews_docker::{DockerConfig, DockerRuntime, EngineAddress};
use futures_util::{StreamExt as _, stream};
use tokio::runtime::Runtime as Threads;

/// What a rollout may cost beside its bare engine calls.
const TARGET: f64 = 1.1;
const IMAGE: &str = "ews-bench/deploy:1";
const SWARM: &str = "ews-bench-deploy";
/// How many instances are worked on at a time, by everybody.
const AT_ONCE: usize = 4;

/// What can be shared by both of our sides.
struct Stage {
    threads: Threads,
    runtime: DockerRuntime,
    spec: ServiceSpec,
    count: u32,
}

pub(crate) fn rollouts(bench: &mut Bench) {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = DockerConfig::from_env().unwrap();
    let EngineAddress::Unix(socket) = config.address.clone() else {
        panic!("this bench measures an engine on this machine, by its socket; {} is none", config.address)
    };
    if std::os::unix::net::UnixStream::connect(&socket).is_err() {
        let required = std::env::var("EWS_TEST_DOCKER").is_ok_and(|value| value == "required");
        assert!(!required, "EWS_TEST_DOCKER=required, and no engine answers at {}", config.address);
        println!("no Docker Engine answers at {}: no rollouts", config.address);
        return;
    }
    image();
    let runtime = threads.block_on(DockerRuntime::connect(config)).unwrap();
    let spec = threads.block_on(spec(&runtime));
    let count = bench.scale(20, 3) as u32;
    let stage = Stage { threads, runtime, spec, count };
    stage.clean();
    let data = tempfile::tempdir().unwrap();
    let mut ours = Ours::start(&stage, data.path().join("store.redb"));
    let mut bare = Bare::start(&stage);
    let swarm = (!bench.quick).then(|| Swarm::start(count));
    let rounds = bench.scale(5, 1);
    let mut loops = Pair { ours: Vec::new(), theirs: Vec::new() };
    let mut swarms = Pair { ours: Vec::new(), theirs: Vec::new() };
    // Three sides take turns, each first in a third of the rounds; the first round does not count.
    for round in 0..=rounds {
        let mut times = [Duration::ZERO; 3];
        for turn in 0..3 {
            let side = (round + turn) % 3;
            let began = Instant::now();
            match side {
                0 => ours.update(&stage),
                1 => bare.update(&stage),
                _ => swarm.iter().for_each(Swarm::update),
            }
            times[side] = began.elapsed();
        }
        if round > 0 {
            loops.ours.push(times[0]);
            loops.theirs.push(times[1]);
            swarms.ours.push(times[0]);
            swarms.theirs.push(times[2]);
        }
    }
    let name = format!("rollout of {count} instances, {AT_ONCE} at a time");
    bench.ratio(&name, "the bare engine calls in a loop", &loops, Some(TARGET));
    if swarm.is_some() {
        bench.ratio(&name, "docker service update", &swarms, None);
    }
    drop(swarm);
    stage.threads.block_on(ours.deployer.leave());
    stage.clean();
    docker(&["rmi", IMAGE]);
}

/// Through the deployer: a store on disk, no traffic, nothing waited for but that it runs.
struct Ours {
    deployer: Deployer,
    number: u32,
}

impl Ours {
    fn start(stage: &Stage, data: PathBuf) -> Self {
        let deployer = stage.threads.block_on(async {
            let store = Arc::new(RedbStore::open(data, RedbConfig::default()).await.unwrap());
            let mut config = DeployConfig::new("bench-deploy".parse().unwrap());
            config.parallel = AT_ONCE;
            Deployer::start(DeployParts::new(Arc::new(stage.runtime.clone()), store), config).await.unwrap()
        });
        let mut ours = Self { deployer, number: 0 };
        ours.update(stage);
        ours
    }

    fn update(&mut self, stage: &Stage) {
        self.number += 1;
        let mut spec = stage.spec.clone();
        spec.replicas = stage.count;
        spec.instance.args = vec![(100_000 + self.number).to_string()];
        let strategy = Strategy::default()
            .with_batches(Batch::Percent(100), Batch::Percent(100))
            .with_min_healthy(Duration::ZERO)
            .with_monitor(Duration::ZERO);
        let request = DeployRequest::new(spec).with_strategy(strategy);
        let report = stage.threads.block_on(async {
            let rollout = self.deployer.deploy(&request).await.unwrap();
            self.deployer.wait(&rollout).await.unwrap()
        });
        assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    }
}

/// The calls alone, by the same client: create, start, wait until it runs, stop and remove what was there.
struct Bare {
    there: Vec<InstanceId>,
    number: u32,
}

impl Bare {
    fn start(stage: &Stage) -> Self {
        let mut bare = Self { there: vec![], number: 0 };
        bare.update(stage);
        bare
    }

    fn update(&mut self, stage: &Stage) {
        self.number += 1;
        let mut spec = stage.spec.instance.clone();
        spec.args = vec![(100_000 + self.number).to_string()];
        let (runtime, spec, number, there) = (&stage.runtime, &spec, self.number, &self.there);
        let one = |slot: u32| async move {
            let key = InstanceKey {
                owner: "bench-bare".parse().unwrap(),
                service: ServiceName::new("sleeper").unwrap(),
                revision: RevisionId::new(format!("r{number}")).unwrap(),
                slot,
                generation: number,
            };
            let created = runtime.create(spec, &key, &CreateOptions::default()).await.unwrap();
            runtime.start(&created.id).await.unwrap();
            while runtime.get(&created.id).await.unwrap().state != InstanceState::Running {}
            if let Some(old) = there.get(slot as usize) {
                runtime.stop(old, &StopOptions::grace(Duration::ZERO)).await.unwrap();
                runtime.remove(old, &RemoveOptions::default()).await.unwrap();
            }
            (slot, created.id)
        };
        let work = async {
            let all = stream::iter(0..stage.count).map(one).buffer_unordered(AT_ONCE);
            all.collect::<Vec<_>>().await
        };
        let mut new = stage.threads.block_on(work);
        new.sort_by_key(|(slot, _)| *slot);
        self.there = new.into_iter().map(|(_, id)| id).collect();
    }
}

/// A service of a Swarm that is this one node.
struct Swarm;

impl Swarm {
    fn start(count: u32) -> Self {
        docker(&["swarm", "init", "--advertise-addr", "127.0.0.1"]);
        let (count, at_once) = (count.to_string(), AT_ONCE.to_string());
        docker(&[
            "service",
            "create",
            "--quiet",
            "--name",
            SWARM,
            "--replicas",
            &count,
            "--no-resolve-image",
            "--update-parallelism",
            &at_once,
            "--update-order",
            "start-first",
            "--update-monitor",
            "1ms",
            "--stop-signal",
            "SIGKILL",
            "--detach=false",
            IMAGE,
            "/busybox",
            "sleep",
            "100000",
        ]);
        Self
    }

    fn update(&self) {
        docker(&["service", "update", "--quiet", "--force", "--detach=false", "--no-resolve-image", SWARM]);
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        docker(&["service", "rm", SWARM]);
        docker(&["swarm", "leave", "--force"]);
    }
}

impl Stage {
    fn clean(&self) {
        self.threads.block_on(async {
            for owner in ["bench-deploy", "bench-bare"] {
                let left = self.runtime.list(&Selector::equal("ews/owner", owner).unwrap()).await.unwrap();
                for instance in left {
                    self.runtime.remove(&instance.id, &RemoveOptions::force()).await.unwrap();
                }
            }
        });
    }
}

async fn spec(runtime: &DockerRuntime) -> ServiceSpec {
    let name: ews_core::ImageRef = IMAGE.parse().unwrap();
    let images = runtime.images().unwrap();
    let image_id = images.inspect(&ImageQuery::Name(name.clone())).await.unwrap().id;
    let mut image = ImageSource::new(name);
    image.pin = Some(ImagePin::Local { engine: runtime.engine_id().to_owned(), image_id });
    image.pull = PullPolicy::Never;
    let mut spec = ServiceSpec::new("sleeper".parse().unwrap(), Source::Image(image));
    spec.instance.command = ["/busybox", "sleep"].map(str::to_owned).to_vec();
    // A first process that takes no signal but this would be waited for until its grace is over, by everybody.
    spec.instance.stop.signal = Signal::KILL;
    spec.instance.stop.grace = Duration::ZERO;
    spec
}

fn docker(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("docker").args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn image() {
    let folder = tempfile::tempdir().unwrap();
    let busybox =
        ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| std::fs::exists(path).unwrap_or(false));
    std::fs::copy(busybox.expect("a static busybox"), folder.path().join("busybox")).unwrap();
    std::fs::write(folder.path().join("Dockerfile"), "FROM scratch\nCOPY busybox /busybox\n").unwrap();
    docker(&["build", "-q", "-t", IMAGE, folder.path().to_str().unwrap()]);
}
