//! The engine that tests run against, asked through the `docker` command so that the driver is never its own witness.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use ews_core::event::EventStream;
use ews_core::image::ImageStore;
use ews_core::instance::{ExitStatus, Instance, InstanceKey};
use ews_core::node::Node;
use ews_core::runtime::{
    ByteStream, CreateOptions, ExecSession, ExecSpec, LogOptions, LogStream, RemoveOptions, StopOptions,
    Usage, WaitOptions,
};
use ews_core::spec::lifecycle::Signal;
use ews_core::{InstanceId, InstanceSpec, Result, Runtime, RuntimeCapabilities, Selector};
use ews_docker::DockerRuntime;

/// The socket of an engine that answers; `None`, and a line that says so, where none does. With `EWS_TEST_DOCKER=required`
/// that is a failure.
pub(crate) fn socket() -> Option<PathBuf> {
    let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
    let answers = docker_ok(&["version"]);
    match host.strip_prefix("unix://") {
        Some(path) if answers => Some(path.into()),
        _ if std::env::var("EWS_TEST_DOCKER").is_ok_and(|value| value == "required") => {
            panic!("EWS_TEST_DOCKER=required, and no engine answers at {host}")
        }
        _ => {
            println!("skipped: no Docker Engine answers at {host}");
            None
        }
    }
}

/// What the `docker` command prints.
pub(crate) fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether the `docker` command succeeds.
pub(crate) fn docker_ok(arguments: &[&str]) -> bool {
    let status = Command::new("docker")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// An image with a shell: a static busybox and nothing else. Built once, and left for the next run.
pub(crate) fn busybox() -> String {
    static IMAGE: OnceLock<String> = OnceLock::new();
    let build = || {
        // Counted up whenever what is in it changes: engines keep it from run to run.
        let name = "ews-test/busybox:2".to_owned();
        if docker_ok(&["image", "inspect", &name]) {
            return name;
        }
        let folder = tempfile::tempdir().unwrap();
        let busybox = ["/bin/busybox", "/usr/bin/busybox"]
            .into_iter()
            .find(|path| std::fs::exists(path).unwrap_or(false));
        std::fs::copy(
            busybox.expect("a static busybox (Debian: busybox-static)"),
            folder.path().join("busybox"),
        )
        .unwrap();
        let dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\",\"--install\",\"-s\",\"/bin\"]\n\
            RUN mkdir -p /tmp /etc && chmod 1777 /tmp && echo 'root:x:0:0::/:/bin/sh' >/etc/passwd && \
            echo 'web:x:1234:1235::/:/bin/sh' >>/etc/passwd\nENV PATH=/bin\n";
        std::fs::write(folder.path().join("Dockerfile"), dockerfile).unwrap();
        let folder = folder.path().to_str().unwrap();
        assert!(docker_ok(&["build", "-q", "-t", &name, folder]), "the test image can't be built");
        name
    };
    IMAGE.get_or_init(build).clone()
}

/// A runtime whose calls run among tasks of its own, so that ending those ends it as SIGKILL would.
pub(crate) struct Within {
    pub(crate) handle: tokio::runtime::Handle,
    pub(crate) runtime: Arc<DockerRuntime>,
}

macro_rules! within {
    ($self:ident, $runtime:ident => $call:expr) => {{
        let $runtime = Arc::clone(&$self.runtime);
        let (dropped, gone) = tokio::sync::oneshot::channel::<()>();
        let task = $self.handle.spawn(async move {
            // A call that was given up has been polled once, however busy its tasks are.
            tokio::select! {
                biased;
                result = async move { $call.await } => Some(result),
                _ = gone => None,
            }
        });
        let ended = task.await;
        // Dropping the wait drops the call, as it would without tasks in between.
        drop(dropped);
        match ended {
            Ok(Some(result)) => result,
            killed => Err(ews_core::Error::new(
                ews_core::ErrorKind::Cancelled,
                format!("the controller was killed: {:?}", killed.err()),
            )),
        }
    }};
}

#[async_trait]
impl Runtime for Within {
    fn capabilities(&self) -> Arc<RuntimeCapabilities> {
        self.runtime.capabilities()
    }

    async fn nodes(&self) -> Result<Vec<Node>> {
        within!(self, runtime => runtime.nodes())
    }

    async fn create(
        &self,
        spec: &InstanceSpec,
        key: &InstanceKey,
        options: &CreateOptions,
    ) -> Result<Instance> {
        let (spec, key, options) = (spec.clone(), key.clone(), options.clone());
        within!(self, runtime => runtime.create(&spec, &key, &options))
    }

    async fn start(&self, id: &InstanceId) -> Result<Instance> {
        let id = id.clone();
        within!(self, runtime => runtime.start(&id))
    }

    async fn stop(&self, id: &InstanceId, options: &StopOptions) -> Result<ExitStatus> {
        let (id, options) = (id.clone(), options.clone());
        within!(self, runtime => runtime.stop(&id, &options))
    }

    async fn wait(&self, id: &InstanceId, options: &WaitOptions) -> Result<ExitStatus> {
        let (id, options) = (id.clone(), options.clone());
        within!(self, runtime => runtime.wait(&id, &options))
    }

    async fn remove(&self, id: &InstanceId, options: &RemoveOptions) -> Result<()> {
        let (id, options) = (id.clone(), options.clone());
        within!(self, runtime => runtime.remove(&id, &options))
    }

    async fn get(&self, id: &InstanceId) -> Result<Instance> {
        let id = id.clone();
        within!(self, runtime => runtime.get(&id))
    }

    async fn list(&self, selector: &Selector) -> Result<Vec<Instance>> {
        let selector = selector.clone();
        within!(self, runtime => runtime.list(&selector))
    }

    async fn events(&self, selector: &Selector) -> Result<EventStream> {
        let selector = selector.clone();
        within!(self, runtime => runtime.events(&selector))
    }

    async fn signal(&self, id: &InstanceId, signal: Signal) -> Result<()> {
        let id = id.clone();
        within!(self, runtime => runtime.signal(&id, signal))
    }

    async fn logs(&self, id: &InstanceId, options: &LogOptions) -> Result<LogStream> {
        let (id, options) = (id.clone(), options.clone());
        within!(self, runtime => runtime.logs(&id, &options))
    }

    async fn usage(&self, ids: &[InstanceId]) -> Result<Vec<Usage>> {
        let ids = ids.to_vec();
        within!(self, runtime => runtime.usage(&ids))
    }

    async fn exec(&self, id: &InstanceId, spec: &ExecSpec) -> Result<ExecSession> {
        let (id, spec) = (id.clone(), spec.clone());
        within!(self, runtime => runtime.exec(&id, &spec))
    }

    async fn put_archive(&self, id: &InstanceId, path: &str, archive: ByteStream) -> Result<()> {
        let (id, path) = (id.clone(), path.to_owned());
        within!(self, runtime => runtime.put_archive(&id, &path, archive))
    }

    async fn get_archive(&self, id: &InstanceId, path: &str) -> Result<ByteStream> {
        let (id, path) = (id.clone(), path.to_owned());
        within!(self, runtime => runtime.get_archive(&id, &path))
    }

    fn images(&self) -> Option<Arc<dyn ImageStore>> {
        self.runtime.images()
    }
}
