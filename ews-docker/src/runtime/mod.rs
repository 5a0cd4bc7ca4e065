//! The [`Runtime`] contract on one Docker Engine.
//!
//! - An instance is a container of a deterministic name. Its labels say whose it is, what it is for and what it was made from; a container
//!   that lacks them, or carries them under another name, is nobody's business of ours.
//! - Its incarnation is the moment of its last start, in microseconds of the engine's clock: an engine keeps no count of starts.
//! - Mutating calls finish in tasks of their own, one at a time for each instance.
//! - Secrets in files lie in memory of the engine's machine (see [`DockerConfig::secrets_directory`]); secrets in the environment can be
//!   seen by everybody who may ask the engine, as with every Docker client.

mod archive;
mod capabilities;
mod create;
mod events;
mod exec;
pub(crate) mod labels;
mod leftovers;
mod life;
mod list;
mod logs;
mod mapping;
mod memory;
mod objects;
mod observe;
mod replace;
mod turns;
mod usage;

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use ews_core::event::EventStream;
use ews_core::image::ImageStore;
use ews_core::instance::{ExitStatus, Instance, InstanceKey};
use ews_core::node::{Capacity, Node, NodeState};
use ews_core::runtime::{
    ByteStream, CreateOptions, ExecSession, ExecSpec, LogOptions, LogStream, RemoveOptions, StopOptions,
    Usage, WaitOptions,
};
use ews_core::spec::lifecycle::Signal;
use ews_core::spec::resources::{ByteSize, Cpu};
use ews_core::{
    Clock, Error, ErrorKind, InstanceId, InstanceSpec, Result, Runtime, RuntimeCapabilities, Secrets,
    Selector, SystemClock, Timestamp, detach,
};
use tokio::sync::OnceCell;

use crate::client::models::{InfoAnswer, Inspected};
use crate::client::{Call, Engine, Subject};
use crate::config::DockerConfig;
use crate::credentials::Credentials;
use crate::images::DockerImages;

pub use objects::{Kept, Pruned};

use events::Hub;
use memory::MemoryDirectory;
use observe::{Place, Seen};
use turns::Turns;
use usage::Meters;

/// One Docker Engine as a [`Runtime`]. Cloning copies a pointer.
///
/// ```no_run
/// use ews_core::Runtime as _;
/// use ews_docker::{DockerConfig, DockerRuntime};
///
/// # async fn run() -> ews_core::Result<()> {
/// let runtime = DockerRuntime::connect(DockerConfig::from_env()?).await?;
/// for node in runtime.nodes().await? {
///     println!("{} runs {}", node.id, node.engine);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct DockerRuntime {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for DockerRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DockerRuntime").field("node", &self.inner.place.node).finish_non_exhaustive()
    }
}

/// What a [`DockerRuntime`] is made of; see [`DockerRuntime::builder`].
#[derive(Clone)]
pub struct DockerRuntimeBuilder {
    config: DockerConfig,
    secrets: Option<Arc<dyn Secrets>>,
    credentials: Credentials,
}

impl std::fmt::Debug for DockerRuntimeBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DockerRuntimeBuilder")
            .field("config", &self.config)
            .field("secrets", &self.secrets.is_some())
            .field("credentials", &self.credentials)
            .finish()
    }
}

impl DockerRuntimeBuilder {
    /// Says who we are to registries. Without it, images are pulled as nobody.
    #[must_use]
    pub fn with_credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// Resolves the secrets that specs name. Without it, such specs are refused.
    #[must_use]
    pub fn with_secrets(mut self, secrets: Arc<dyn Secrets>) -> Self {
        self.secrets = Some(secrets);
        self
    }

    /// Connects to the engine and learns what it can do.
    ///
    /// # Errors
    /// `Invalid` for a configuration that can't work; `Unavailable`, `Timeout` or `Unauthorized` where the engine can't be reached;
    /// `Unsupported` for an engine that is too old, or too new to take what we speak.
    pub async fn connect(self) -> Result<DockerRuntime> {
        let engine =
            Engine::connect(self.config).await.map_err(|error| error.with_operation("docker.connect"))?;
        let (config, facts) = (engine.config(), engine.facts());
        let node = match &config.node {
            Some(node) => node.clone(),
            None => facts.node()?,
        };
        let address = config
            .node_address
            .or_else(|| config.address.host().and_then(|host| host.parse::<IpAddr>().ok()));
        let memory = MemoryDirectory::of(config, facts).await?;
        let capabilities = Arc::new(capabilities::of(facts));
        let images = Arc::new(DockerImages::of_runtime(
            engine.clone(),
            node.clone(),
            self.credentials,
            self.secrets.clone(),
        ));
        let inner = Inner {
            images,
            meters: Meters::of(config, facts),
            place: Place { node, address },
            capabilities,
            secrets: self.secrets,
            memory,
            turns: Turns::default(),
            making: tokio::sync::Mutex::new(()),
            hub: OnceCell::new(),
            engine,
        };
        let inner = Arc::new(inner);
        inner.sweep_memory().await;
        Ok(DockerRuntime { inner })
    }
}

impl DockerRuntime {
    /// Connects to an engine, with nothing that resolves secrets.
    ///
    /// # Errors
    /// Those of [`DockerRuntimeBuilder::connect`].
    pub async fn connect(config: DockerConfig) -> Result<Self> {
        Self::builder(config).connect().await
    }

    /// Starts from a configuration.
    pub fn builder(config: DockerConfig) -> DockerRuntimeBuilder {
        DockerRuntimeBuilder { config, secrets: None, credentials: Credentials::anonymous() }
    }

    /// The engine's own id: what [`ImagePin::Local`](ews_core::spec::source::ImagePin::Local) names, and what tells whether two addresses
    /// are one engine.
    pub fn engine_id(&self) -> &str {
        &self.inner.engine.facts().info.id
    }
}

/// What tasks of the runtime share.
pub(crate) struct Inner {
    engine: Engine,
    images: Arc<DockerImages>,
    place: Place,
    capabilities: Arc<RuntimeCapabilities>,
    secrets: Option<Arc<dyn Secrets>>,
    memory: Option<MemoryDirectory>,
    turns: Turns,
    /// Networks and volumes are made one at a time: an engine may make two of one name.
    making: tokio::sync::Mutex<()>,
    hub: OnceCell<Hub>,
    meters: Meters,
}

impl Inner {
    /// The container of an instance; `None` where there is none, or it is not ours.
    async fn look(&self, id: &InstanceId, operation: &'static str) -> Result<Option<(Seen, Inspected)>> {
        let call = Call::get(operation, Subject::Container, &["containers", id.as_str(), "json"]);
        match self.engine.json::<Inspected>(call).await {
            // An engine finds a container by the beginning of its id too: what is found must have the name that was asked for.
            Ok(found) => Ok(observe::instance(&self.place, &found)
                .filter(|seen| seen.instance.id == *id)
                .map(|seen| (seen, found))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The same, where it must be there.
    async fn find(&self, id: &InstanceId, operation: &'static str) -> Result<(Seen, Inspected)> {
        let found = self.look(id, operation).await?;
        found.ok_or_else(|| Error::not_found("instance", id).with_operation(operation))
    }

    fn now(&self) -> Timestamp {
        SystemClock.now()
    }
}

#[async_trait]
impl Runtime for DockerRuntime {
    fn capabilities(&self) -> Arc<RuntimeCapabilities> {
        Arc::clone(&self.inner.capabilities)
    }

    async fn nodes(&self) -> Result<Vec<Node>> {
        let inner = &self.inner;
        let facts = inner.engine.facts();
        let mut node = Node::new(inner.place.node.clone(), facts.platform.clone());
        node.isolation = facts.isolation();
        node.addresses.extend(inner.place.address);
        node.engine =
            format!("{} {}", if facts.version.podman { "podman" } else { "docker" }, facts.version.engine);
        let call = Call::get("runtime.nodes", Subject::Engine, &["info"])
            .within(NODE_PATIENCE.min(inner.engine.config().call_limit));
        let info = match inner.engine.json::<InfoAnswer>(call).await {
            Ok(info) => info,
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) => {
                node.state = NodeState::Unknown { since: inner.now() };
                facts.info.clone()
            }
            Err(error) => return Err(error),
        };
        let millis = u32::try_from(info.cpus.saturating_mul(1000)).unwrap_or(u32::MAX);
        node.capacity = Capacity::new(Cpu::from_millis(millis), ByteSize::from_bytes(info.memory));
        Ok(vec![node])
    }

    async fn create(
        &self,
        spec: &InstanceSpec,
        key: &InstanceKey,
        options: &CreateOptions,
    ) -> Result<Instance> {
        let (inner, spec, key, options) =
            (Arc::clone(&self.inner), spec.clone(), key.clone(), options.clone());
        let named = key.clone();
        let created = detach(async move { Box::pin(inner.create(spec, key, options)).await }).await;
        created.map_err(|error| error.with_operation("runtime.create").with_context("instance", named))
    }

    async fn start(&self, id: &InstanceId) -> Result<Instance> {
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        detach(async move { Box::pin(inner.start(&id)).await }).await
    }

    async fn stop(&self, id: &InstanceId, options: &StopOptions) -> Result<ExitStatus> {
        let (inner, id, options) = (Arc::clone(&self.inner), id.clone(), options.clone());
        detach(async move { Box::pin(inner.stop(&id, &options)).await }).await
    }

    async fn wait(&self, id: &InstanceId, options: &WaitOptions) -> Result<ExitStatus> {
        Box::pin(self.inner.wait(id, options)).await
    }

    async fn remove(&self, id: &InstanceId, options: &RemoveOptions) -> Result<()> {
        let (inner, id, options) = (Arc::clone(&self.inner), id.clone(), options.clone());
        detach(async move { Box::pin(inner.remove(&id, &options)).await }).await
    }

    async fn get(&self, id: &InstanceId) -> Result<Instance> {
        self.inner.find(id, "runtime.get").await.map(|(seen, _)| seen.instance)
    }

    async fn list(&self, selector: &Selector) -> Result<Vec<Instance>> {
        self.inner.list(selector).await
    }

    async fn events(&self, selector: &Selector) -> Result<EventStream> {
        self.inner.events(selector).await
    }

    async fn signal(&self, id: &InstanceId, signal: Signal) -> Result<()> {
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        inner.capabilities.check_signal(signal)?;
        detach(async move { inner.signal(&id, signal).await }).await
    }

    async fn logs(&self, id: &InstanceId, options: &LogOptions) -> Result<LogStream> {
        self.inner.logs(id, options).await
    }

    async fn usage(&self, ids: &[InstanceId]) -> Result<Vec<Usage>> {
        self.inner.usage(ids).await
    }

    async fn exec(&self, id: &InstanceId, spec: &ExecSpec) -> Result<ExecSession> {
        // Not detached: a session that nobody holds must not begin.
        Box::pin(Arc::clone(&self.inner).exec(id, spec)).await
    }

    async fn put_archive(&self, id: &InstanceId, path: &str, archive: ByteStream) -> Result<()> {
        let (inner, id, path) = (Arc::clone(&self.inner), id.clone(), path.to_owned());
        detach(async move { inner.put_archive(&id, &path, archive).await }).await
    }

    async fn get_archive(&self, id: &InstanceId, path: &str) -> Result<ByteStream> {
        self.inner.get_archive(id, path).await
    }

    fn images(&self) -> Option<Arc<dyn ImageStore>> {
        Some(Arc::clone(&self.inner.images) as Arc<dyn ImageStore>)
    }
}

/// How long a node may take to say that it is there.
const NODE_PATIENCE: std::time::Duration = std::time::Duration::from_secs(4);
