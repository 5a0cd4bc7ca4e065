//! The harness of the runtime's suite on the engine that tests use: over its socket or a port, bare or behind layers of ews-core.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use ews_core::secrets::FileSecrets;
use ews_core::spec::lifecycle::Signal;
use ews_core::spec::source::{ImageSource, Source};
use ews_core::testkit::conformance::runtime::{
    Disturbance, LogCapture, RuntimeHarness, SuiteLimits, Workload, processes_with,
};
use ews_core::{InstanceKey, InstanceSpec, OwnerId, Result, Runtime, SecretRef};
use ews_docker::{DockerConfig, DockerRuntime, EngineAddress};

use crate::engine::{self, docker, docker_ok};
use crate::relay::Relay;

/// What stands between the suite and the driver.
pub(crate) type Layers = fn(Arc<dyn Runtime>) -> Arc<dyn Runtime>;

/// How the engine is reached.
pub(crate) enum Way {
    Socket,
    Tcp,
    #[cfg(feature = "tls")]
    Tls(tokio_rustls::TlsAcceptor, ews_docker::TlsFiles),
}

pub(crate) struct Harness {
    folder: tempfile::TempDir,
    image: String,
    relay: Relay,
    config: DockerConfig,
    layers: Layers,
    /// Tasks of the last controller, which a kill ends with it.
    last: Mutex<Option<tokio::runtime::Runtime>>,
}

/// What the whole test program logs.
fn log() -> &'static LogCapture {
    static LOG: OnceLock<LogCapture> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = LogCapture::default();
        let _ = tracing::subscriber::set_global_default(log.clone());
        log
    })
}

impl Harness {
    /// On the engine with this socket.
    pub(crate) fn new(engine: PathBuf, way: Way) -> Self {
        log();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("secrets")).unwrap();
        let secret = folder.path().join("secrets/token");
        std::fs::write(&secret, "a-53cret-of-the-suite\n").unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        let (relay, address) = match way {
            Way::Socket => {
                let relay = Relay::open(folder.path().join("docker.sock"), engine);
                let address = EngineAddress::Unix(relay.path().to_owned());
                (relay, address)
            }
            Way::Tcp => {
                let relay = Relay::tcp(engine);
                let address = format!("tcp://127.0.0.1:{}", relay.port()).parse().unwrap();
                (relay, address)
            }
            #[cfg(feature = "tls")]
            Way::Tls(acceptor, files) => {
                let relay = Relay::tls(engine, acceptor);
                let address =
                    EngineAddress::Tls { host: "127.0.0.1".to_owned(), port: relay.port(), tls: files };
                (relay, address)
            }
        };
        let config = DockerConfig::new(address)
            .with_call_limit(Duration::from_secs(10))
            .with_work_limit(Duration::from_secs(40));
        let image = engine::busybox();
        Self { image, folder, relay, config, layers: |runtime| runtime, last: Mutex::default() }
    }

    /// Behind these layers.
    pub(crate) fn behind(mut self, layers: Layers) -> Self {
        self.layers = layers;
        self
    }

    /// Gives up on calls after this time.
    pub(crate) fn within(mut self, call: Duration) -> Self {
        (self.config.call_limit, self.config.work_limit) = (call, call * 2);
        self
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
        let config = self.config.clone();
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
        Ok((self.layers)(Arc::new(engine::Within { handle, runtime: Arc::new(runtime) })))
    }

    fn workload(&self, workload: &Workload) -> Option<InstanceSpec> {
        let mut spec =
            workload.over(InstanceSpec::new(Source::Image(ImageSource::new(self.image.parse().unwrap()))))?;
        if matches!(workload, Workload::Serve { .. }) {
            // As a container's first process busybox's server is deaf to SIGTERM, and every stop of it would take the whole grace.
            spec.stop.signal = Signal::KILL;
        }
        Some(spec)
    }

    fn name(&self) -> String {
        format!("docker at {}", self.config.address)
    }

    fn limits(&self) -> SuiteLimits {
        let mut limits = SuiteLimits::default();
        limits.many = std::env::var("EWS_TEST_MANY").ok().and_then(|many| many.parse().ok()).unwrap_or(30);
        limits.patience = Duration::from_secs(60);
        limits
    }

    /// An engine that is busy loses it now and then: containerd drops the kernel's word where the control group is gone first. Of 60
    /// kills ten at a time, `docker inspect` of 20.10 on cgroup v1 said of one for ever that it was not for memory.
    fn tries_for_memory(&self) -> u32 {
        3
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
        Some(log().text())
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
