//! What engines do to those who rely on them: missing, forbidden, hung, crashed and restarted, each with an engine of the test's own.

mod dropped;
mod full;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ews_core::event::{Notice, RuntimeEvent};
use ews_core::instance::{InstanceKey, InstanceState};
use ews_core::node::NodeState;
use ews_core::runtime::{CreateOptions, RemoveOptions, StopOptions, WaitOptions};
use ews_core::spec::source::{ImageSource, Source};
use ews_core::testkit::conformance::runtime::{self, Disturbance, RuntimeHarness, Workload, processes_with};
use ews_core::{
    ErrorKind, InstanceSpec, OwnerId, Result, RevisionId, Runtime, RuntimeExt as _, Selector, ServiceName,
};
use ews_docker::{DockerConfig, DockerRuntime, EngineAddress};
use futures_util::StreamExt as _;

use crate::engine;
use crate::private::PrivateEngine;
use crate::rig::{Raw, until};

pub(crate) fn config(socket: &Path) -> DockerConfig {
    DockerConfig::new(EngineAddress::Unix(socket.to_owned()))
        .with_call_limit(Duration::from_secs(5))
        .with_work_limit(Duration::from_secs(30))
}

fn key(slot: u32) -> InstanceKey {
    key_of(&OwnerId::new("trouble").unwrap(), slot)
}

fn key_of(owner: &OwnerId, slot: u32) -> InstanceKey {
    InstanceKey {
        owner: owner.clone(),
        service: ServiceName::new("web").unwrap(),
        revision: RevisionId::new("r1").unwrap(),
        slot,
        generation: 0,
    }
}

fn spec(image: &str, workload: &Workload) -> InstanceSpec {
    workload.over(InstanceSpec::new(Source::Image(ImageSource::new(image.parse().unwrap())))).unwrap()
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_said_to_be_missing() {
    let folder = tempfile::tempdir().unwrap();
    let error = DockerRuntime::connect(config(&folder.path().join("docker.sock"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("no engine at this address") && !error.maybe_applied(), "{error}");
    // A socket whose engine is gone.
    let path = folder.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let error = DockerRuntime::connect(config(&path)).await.unwrap_err();
    assert!(error.message().contains("nobody listens"), "{error}");
    let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let address = format!("tcp://{refused}").parse().unwrap();
    let error = DockerRuntime::connect(DockerConfig::new(address)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn a_socket_that_is_forbidden_names_the_remedy() {
    // Root may use every socket, so the question is asked as somebody else, by this test's own program.
    if let Ok(path) = std::env::var("EWS_TEST_FORBIDDEN") {
        let error = DockerRuntime::connect(config(Path::new(&path))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
        assert!(error.message().contains("group `docker`"), "{error}");
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: it takes root to ask as somebody else");
        return;
    }
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("docker.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    // Where the tests were built may be closed to others; what they read is open.
    let program = folder.path().join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut child = std::process::Command::new(&program);
    child
        .args(["--exact", "trouble::a_socket_that_is_forbidden_names_the_remedy"])
        .env("EWS_TEST_FORBIDDEN", &path);
    child.current_dir(folder.path()).uid(65534).gid(65534);
    // What another test forks in the moment of the copy has it open for writing until it runs its own program.
    let until = std::time::Instant::now() + Duration::from_secs(10);
    let output = loop {
        match child.output() {
            Err(error)
                if error.kind() == std::io::ErrorKind::ExecutableFileBusy
                    && std::time::Instant::now() < until =>
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            output => break output.unwrap(),
        }
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

pub(crate) struct Harness {
    engine: Mutex<PrivateEngine>,
    image: String,
    config: DockerConfig,
}

impl Harness {
    /// On an engine of its own, which has the image that the other has; reached so.
    pub(crate) fn new(engine: PrivateEngine, config: DockerConfig) -> Self {
        let image = engine::busybox();
        engine.load(&image);
        Self { engine: Mutex::new(engine), image, config }
    }
}

#[async_trait]
impl RuntimeHarness for Harness {
    async fn connect(&self) -> Result<Arc<dyn Runtime>> {
        Ok(Arc::new(DockerRuntime::connect(self.config.clone()).await?))
    }

    fn workload(&self, workload: &Workload) -> Option<InstanceSpec> {
        workload.over(InstanceSpec::new(Source::Image(ImageSource::new(self.image.parse().unwrap()))))
    }

    fn name(&self) -> String {
        "docker, an engine of its own".to_owned()
    }

    async fn disturb(&self, disturbance: Disturbance) -> bool {
        let mut engine = self.engine.lock().unwrap();
        match disturbance {
            Disturbance::Sever => engine.down(),
            Disturbance::Hang => engine.hang(),
            Disturbance::RestartEngine => {
                engine.down();
                engine.up();
            }
            _ => return false,
        }
        true
    }

    async fn heal(&self) {
        let mut engine = self.engine.lock().unwrap();
        engine.go_on();
        if !engine.docker_ok(&["version"]) {
            engine.up();
        }
    }

    async fn marked_processes(&self, mark: &str) -> Option<usize> {
        processes_with(mark)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_a_stopped_and_a_crashed_engine() {
    if engine::socket().is_none() {
        return;
    }
    let Some(own) = PrivateEngine::start() else { return };
    let config = config(&own.socket());
    let harness = Harness::new(own, config);
    let cases = ["an_engine_restart_is_survived_as_declared", "calls_to_a_hung_engine_end"];
    let report = runtime::run_only(&harness, &cases).await;
    println!("{report}");
    report.assert_passed(&[]);
    killed_in_the_middle(&harness).await;
}

/// The engine dies while a stop is under way and somebody waits and listens: the truth comes out.
async fn killed_in_the_middle(harness: &Harness) {
    let socket = harness.engine.lock().unwrap().socket();
    let runtime = DockerRuntime::connect(config(&socket)).await.unwrap();
    let id = runtime
        .launch(&spec(&harness.image, &Workload::Sleep), &key(0), &CreateOptions::default())
        .await
        .unwrap()
        .id;
    let stubborn = spec(&harness.image, &Workload::IgnoreTerm);
    let stubborn = runtime.launch(&stubborn, &key(1), &CreateOptions::default()).await.unwrap().id;
    let mut events = runtime.events(&Selector::everything()).await.unwrap();
    let waiting = {
        let (runtime, id) = (runtime.clone(), id.clone());
        tokio::spawn(async move { runtime.wait(&id, &WaitOptions::default()).await })
    };
    let stopping = {
        let (runtime, id) = (runtime.clone(), stubborn.clone());
        tokio::spawn(async move { runtime.stop(&id, &StopOptions::grace(Duration::from_secs(20))).await })
    };
    // From its first signal on, the stop is under way for as long as its grace.
    let raw = Raw::new(&config(&socket));
    until("the engine signals it", async || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let target = format!(
            "/events?since=1&until={}.{:09}&filters=%7B%22event%22%3A%5B%22kill%22%5D%2C%22container%22%3A%5B%22{stubborn}%22%5D%7D",
            now.as_secs(),
            now.subsec_nanos()
        );
        let (status, told) = raw.ask(hyper::Method::GET, &target, None).await.unwrap();
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&told));
        !told.is_empty()
    })
    .await;
    harness.engine.lock().unwrap().crash();
    let cut = stopping.await.unwrap();
    assert!(
        cut.as_ref().is_err_and(|error| error.maybe_applied()),
        "a stop that was cut off in the middle says {cut:?}"
    );
    // The engine that comes up ends what its predecessor left running, and the wait hears of it.
    let status = tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(runtime.get(&id).await.unwrap().state, InstanceState::Exited(status));
    let (mut gap, mut lost) = (false, false);
    let told = async {
        while !(gap && lost) {
            match events.next().await.unwrap() {
                Notice::Gap(_) => gap = true,
                Notice::Event(RuntimeEvent::Node { state: NodeState::Unknown { .. }, .. }) => lost = true,
                Notice::Event(_) => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), told).await.expect("a lost node and a gap");
    for id in [&id, &stubborn] {
        let seen = runtime.get(id).await.unwrap();
        assert!(matches!(seen.state, InstanceState::Exited(_)), "after the crash it is {:?}", seen.state);
        runtime.start(id).await.unwrap();
        runtime.remove(id, &RemoveOptions::force()).await.unwrap();
    }
}
