//! The images of a Docker Engine: the [`ImageStore`] contract on its API.
//!
//! ```text
//!  ensure ──▶ look ──▶ pull, one for all who want the same ──▶ look ──▶ give a pinned image its tag
//!  build  ──▶ context (a tar by Docker's own rules) ──▶ BuildKit or classic builder ──▶ log
//!  commit ──▶ quarantine ──▶ the base's config over its layers ──▶ load ──▶ remove the quarantine
//!  prune  ──▶ list images and containers ──▶ pure plan ──▶ remove, never by force
//! ```
//!
//! What changes the engine's state runs in tasks of its own: dropping a future or a stream abandons the wait. Every wait is bounded by the
//! configuration: ordinary calls by `call_limit`, streams by their silence (`idle_limit`). Credentials are asked for per operation through
//! [`Credentials`] and go into one header that is never logged; no call that could carry a secret goes through bollard.
//!
//! Errors of an engine, whether they are an answer or lie within a stream, are given their kind in one place (`client/fault.rs`); its own
//! words are the error's detail.

mod build;
#[cfg(feature = "buildkit")]
mod buildkit;
mod commit;
mod context;
mod credentials;
mod ensure;
mod feed;
mod lines;
mod look;
mod pipe;
mod prune;
mod transfer;
mod upload;
mod wire;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use ews_core::image::{
    BuildSpec, CommitSpec, EnsureOptions, Image, ImageQuery, ImageStore, ProgressStream, PruneOptions,
};
use ews_core::runtime::ByteStream;
use ews_core::spec::source::ImageSource;
use ews_core::{Capability, CapabilitySet, Digest, ImageRef, InstanceId, NodeId, Result, Secrets, Selector};

use crate::client::Engine;
use crate::config::DockerConfig;
use crate::credentials::Credentials;

pub use context::{ContextLimits, context, context_within};

/// The label that the runtime puts on what it makes, as engines have it.
const OWNER: &str = "ews.owner";

/// The images of one Docker Engine. Clones are the same store, and share its pulls.
///
/// ```no_run
/// use ews_core::image::{EnsureOptions, ImageStore as _};
/// use ews_core::spec::source::ImageSource;
/// use ews_docker::{DockerConfig, DockerImages};
/// use futures_util::TryStreamExt as _;
///
/// # async fn run() -> ews_core::Result<()> {
/// let images = DockerImages::connect(DockerConfig::from_env()?).await?;
/// let nginx = ImageSource::new("nginx:1.27".parse()?);
/// let mut progress = images.ensure(&nginx, &EnsureOptions::default()).await?;
/// while let Some(step) = progress.try_next().await? {
///     println!("{step:?}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct DockerImages {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    node: NodeId,
    /// Whether only instances of EWS may be committed. A store by itself knows nothing of instances.
    ours_only: bool,
    credentials: Credentials,
    /// Who resolves the references among a build's secrets.
    #[cfg_attr(
        not(feature = "buildkit"),
        expect(dead_code, reason = "the classic builder mounts no secret")
    )]
    secrets: Option<Arc<dyn Secrets>>,
    pulls: ensure::Pulls,
}

impl DockerImages {
    /// Connects to an engine, for whoever wants its images alone. Registries are asked as nobody; see
    /// [`connect_with`](Self::connect_with).
    ///
    /// # Errors
    /// `Invalid` for the configuration; `Unavailable`, `Unauthorized`, `Timeout`; `Unsupported` for an engine older than 20.10.
    pub async fn connect(config: DockerConfig) -> Result<Self> {
        Self::connect_with(config, Credentials::anonymous()).await
    }

    /// Connects to an engine, with credentials for registries.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect).
    pub async fn connect_with(config: DockerConfig, credentials: Credentials) -> Result<Self> {
        let engine = Engine::connect(config).await?;
        let node = match &engine.config().node {
            Some(node) => node.clone(),
            None => engine.facts().node()?,
        };
        Ok(Self::new(engine, node, credentials))
    }

    /// The same store, which resolves references among a build's secrets here. It shares no pulls with what it was made from.
    #[must_use]
    pub fn with_secrets(self, secrets: Arc<dyn Secrets>) -> Self {
        let Shared { engine, node, ours_only, credentials, .. } = &*self.shared;
        Self {
            shared: Arc::new(Shared {
                engine: engine.clone(),
                node: node.clone(),
                ours_only: *ours_only,
                credentials: credentials.clone(),
                secrets: Some(secrets),
                pulls: ensure::Pulls::default(),
            }),
        }
    }

    fn new(engine: Engine, node: NodeId, credentials: Credentials) -> Self {
        let (secrets, pulls) = (None, ensure::Pulls::default());
        Self { shared: Arc::new(Shared { engine, node, ours_only: false, credentials, secrets, pulls }) }
    }

    /// A runtime's store, which commits only what carries an owner's label: a commit pauses a program, and others' are not ours to pause.
    pub(crate) fn of_runtime(
        engine: Engine,
        node: NodeId,
        credentials: Credentials,
        secrets: Option<Arc<dyn Secrets>>,
    ) -> Self {
        let pulls = ensure::Pulls::default();
        Self { shared: Arc::new(Shared { engine, node, ours_only: true, credentials, secrets, pulls }) }
    }
}

impl fmt::Debug for DockerImages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerImages").field("engine", &self.shared.engine).finish_non_exhaustive()
    }
}

#[async_trait]
impl ImageStore for DockerImages {
    fn capabilities(&self) -> CapabilitySet {
        [
            Capability::ImageBuild,
            Capability::ImageCommit,
            Capability::ImageArchive,
            Capability::ImageTag,
            Capability::ImagePush,
        ]
        .into_iter()
        .collect()
    }

    async fn ensure(&self, image: &ImageSource, options: &EnsureOptions) -> Result<ProgressStream> {
        self.shared.ensure(image, options).await
    }

    async fn inspect(&self, image: &ImageQuery) -> Result<Image> {
        const OPERATION: &str = "images.inspect";
        let found = look::inspect(&self.shared.engine, OPERATION, &look::words_of(image)?).await?;
        look::image(&self.shared.engine, &found).map_err(|error| error.with_operation(OPERATION))
    }

    async fn list(&self, labels: &Selector) -> Result<Vec<Image>> {
        look::list(&self.shared.engine, labels).await
    }

    async fn prune(&self, options: &PruneOptions) -> Result<Vec<Digest>> {
        self.shared.prune(options).await
    }

    async fn build(&self, spec: &BuildSpec, context: ByteStream) -> Result<ProgressStream> {
        self.shared.build(spec, context).await
    }

    async fn commit(&self, instance: &InstanceId, spec: &CommitSpec) -> Result<Image> {
        self.shared.commit(instance, spec).await
    }

    async fn tag(&self, image: &ImageQuery, name: &ImageRef) -> Result<()> {
        self.shared.tag(image, name).await
    }

    async fn push(&self, name: &ImageRef) -> Result<ProgressStream> {
        self.shared.push(name).await
    }

    async fn save(&self, images: &[ImageQuery]) -> Result<ByteStream> {
        self.shared.save(images).await
    }

    async fn load(&self, archive: ByteStream) -> Result<Vec<Image>> {
        self.shared.load(archive).await
    }
}
