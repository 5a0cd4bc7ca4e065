//! Sources: what a team has, made into something that can be pinned.
//!
//! A [`Revision`](ews_core::Revision) wants exact content. Teams have a tag, a zip from their build, a source tree, a Dockerfile, or a
//! container that somebody got to work. [`Sources`] makes a pinned spec of each, with defaults where the spec says nothing, and says where it
//! is from.
//!
//! | They have | It becomes |
//! |---|---|
//! | an image by tag | its digest, of the registry or of the image store |
//! | tar, tar.gz, zip, war, jar, a program, a directory | one deterministic layer on an official image of the [`Catalogue`], made by manifest through a `Registry`: no engine, no base downloaded |
//! | a source tree | its result of a builder image, as such a layer |
//! | such an image and a patched base | the same layer on the new base, some kilobytes moved |
//! | a Dockerfile | a build whose bases are on a list |
//! | a container | a submission, that says what it holds and that somebody else approves |
//! | an artifact for the process runtime | a checked archive by its digest |
//! | a revision that was mended in place | its image with one more layer, or its artifact packed again |
//!
//! What comes in is a stranger's: it is received within [`UploadLimits`], told by its content, unpacked into a checked tree, and refused with
//! what and where. Scratch space is bounded, and its files have no names, so that nothing stays however a call ends. An image's tag moves
//! last of all, so that a call that is dropped leaves no tag on half an image.
//!
//! # Reading order
//! [`SourceRequest`] and [`Resolved`]; `artifact` (uploads), `catalogue`, `oci` (documents of images); then one file for each kind of source.

mod artifact;
mod assemble;
mod build;
mod catalogue;
mod compile;
mod config;
mod defaults;
mod dockerfile;
mod hotfixed;
mod oci;
mod preflight;
mod process;
mod rebased;
mod request;
mod resolved;
mod scratch;
mod submission;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ews_core::image::{EnsureOptions, ImageQuery};
use ews_core::runtime::ByteStream;
use ews_core::spec::source::{ImagePin, ImageSource};
use ews_core::{
    Digest, Error, ErrorKind, ImageRef, ImageStore, Registry, Result, ServiceSpec, Source, Timestamp,
};

pub use artifact::{Artifact, Content, UploadLimits};
pub use catalogue::{
    Base, BasePlatform, Builder, Catalogue, CatalogueEntry, CatalogueProbe, Channel, Kind, OnProcess, Takes,
};
pub use config::SourcesConfig;
pub use dockerfile::BasePolicy;
pub use oci::Moved;
pub use preflight::preflight;
pub use request::{
    ArtifactRequest, CompiledRequest, DockerfileRequest, ImageRequest, OverlaidRequest, ProcessRequest,
    RebaseRequest, SourceRequest, SubmissionRequest, Wanted,
};
pub use resolved::{BaseUsed, Provenance, ProvenanceKind, Resolved, Warning, WarningAbout};
pub use submission::{Approved, Change, Changes, Submission, SubmitRequest};

use scratch::{Scratch, of_disk};

/// Makes pinned specs of sources. Clones are the same, scratch space included.
///
/// ```no_run
/// use std::sync::Arc;
///
/// use ews_core::spec::source::{ImageSource, Source};
/// use ews_core::{Registry, ServiceSpec};
/// use ews_deploy::source::{ArtifactRequest, Catalogue, SourceRequest, Sources, SourcesConfig};
///
/// # async fn example(registry: Arc<dyn Registry>) -> ews_core::Result<()> {
/// let catalogue = Catalogue::built_in()?.with_mirror("docker.io", "mirror.example:5000/hub")?;
/// let sources = Sources::new(SourcesConfig::new("/var/lib/shop/scratch"), catalogue)?.with_registry(registry);
///
/// let site = sources.receive_path("site.zip".as_ref()).await?;
/// let name = "registry.example/shop/site:1.2".parse()?;
/// let request = SourceRequest::new(ArtifactRequest::new(site, "static-site", name)).with_by("ann");
/// let spec = ServiceSpec::new("site".parse()?, Source::Image(ImageSource::new("shop/site".parse()?)));
/// let resolved = sources.resolve(&request, spec).await?;
/// println!("{} stands on {:?}", resolved.provenance.result, resolved.provenance.bases);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Sources {
    registry: Option<Arc<dyn Registry>>,
    images: Option<(Arc<dyn ImageStore>, String)>,
    catalogue: Arc<Catalogue>,
    limits: UploadLimits,
    scratch: Scratch,
    artifacts: Option<Arc<PathBuf>>,
    policy: Arc<BasePolicy>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources")
            .field("registry", &self.registry.is_some())
            .field("images", &self.images.is_some())
            .field("limits", &self.limits)
            .field("artifacts", &self.artifacts)
            .finish_non_exhaustive()
    }
}

impl Sources {
    /// With this catalogue; registry and image store are given apart, as far as there are any.
    ///
    /// # Errors
    /// `Invalid` for the configuration; those of the file system for its directories.
    pub fn new(config: SourcesConfig, catalogue: Catalogue) -> Result<Self> {
        config.check()?;
        if let Some(artifacts) = &config.artifacts {
            std::fs::create_dir_all(artifacts)
                .map_err(|error| of_disk("the directory of artifacts", error))?;
            process::sweep(artifacts)?;
        }
        let policy = Arc::new(BasePolicy::of(&catalogue));
        Ok(Self {
            registry: None,
            images: None,
            catalogue: Arc::new(catalogue),
            limits: config.limits,
            scratch: Scratch::new(config.scratch, config.scratch_bytes)?,
            artifacts: config.artifacts.map(Arc::new),
            policy,
        })
    }

    /// Images are resolved and made through this registry.
    #[must_use]
    pub fn with_registry(mut self, registry: Arc<dyn Registry>) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Images are built, committed and pushed by this store, whose engine has this id.
    #[must_use]
    pub fn with_images(mut self, images: Arc<dyn ImageStore>, engine: impl Into<String>) -> Self {
        self.images = Some((images, engine.into()));
        self
    }

    /// Dockerfiles may build on these images, and submissions stand on them. Default: the catalogue's bases and builders.
    #[must_use]
    pub fn with_policy(mut self, policy: BasePolicy) -> Self {
        self.policy = Arc::new(policy);
        self
    }

    /// The official images.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// How many bytes of scratch space are taken now.
    pub fn scratch_used(&self) -> u64 {
        self.scratch.used()
    }

    /// Receives an upload. Where its digest was announced, another is refused. Its bytes take scratch space until the last clone of the
    /// result is dropped.
    ///
    /// # Errors
    /// `Invalid` for another digest and for what is no artifact; `Unsupported` for archives of another kind; `OutOfResources` beyond a limit
    /// or the scratch space; those of the stream.
    pub async fn receive(&self, bytes: ByteStream, expected: Option<Digest>) -> Result<Artifact> {
        let received = artifact::receive(bytes, expected, &self.limits, &self.scratch).await;
        received.map_err(|error| error.with_operation("sources.receive"))
    }

    /// Receives a file or a directory of this machine. Nobody less trusted may write to a directory meanwhile.
    ///
    /// # Errors
    /// As [`receive`](Self::receive), and `NotFound`.
    pub async fn receive_path(&self, path: &Path) -> Result<Artifact> {
        let received = artifact::receive_path(path, &self.limits, &self.scratch).await;
        received.map_err(|error| error.with_operation("sources.receive"))
    }

    /// Makes a pinned spec of a source. The spec's own source is replaced; what else it says stays.
    ///
    /// Dropping the future leaves no tag on half an image and no scratch file.
    ///
    /// # Errors
    /// `Invalid` and `Unsupported` for what is refused, which is named; `NotFound` for an entry of the catalogue; `ImageIncompatible` where
    /// platforms don't meet; `OutOfResources` beyond a limit; those of the registry and the image store.
    pub async fn resolve(&self, request: &SourceRequest, spec: ServiceSpec) -> Result<Resolved> {
        let by = request.by.as_str();
        let resolved = match &request.what {
            Wanted::Image(request) => Box::pin(self.image(request, by, spec)).await,
            Wanted::Artifact(request) => Box::pin(self.artifact(request, by, spec)).await,
            Wanted::Compiled(request) => Box::pin(self.compiled(request, by, spec)).await,
            Wanted::Dockerfile(request) => Box::pin(self.dockerfile(request, by, spec)).await,
            Wanted::Submission(request) => submission::approved(request, by, spec),
            Wanted::Rebase(request) => Box::pin(self.rebase(request, by, spec)).await,
            Wanted::Process(request) => Box::pin(self.process(request, by, spec)).await,
            Wanted::Hotfix(request) => Box::pin(self.hotfixed(request, by, spec)).await,
        };
        resolved.map_err(|error| error.with_operation("sources.resolve"))
    }

    async fn image(&self, request: &ImageRequest, by: &str, mut spec: ServiceSpec) -> Result<Resolved> {
        let mut image = ImageSource::new(request.image.clone());
        let (pin, result) = match &self.registry {
            Some(registry) => {
                let digest = of_registry(&**registry, &request.image, &spec).await?;
                (ImagePin::Manifest(digest), digest)
            }
            None => self.of_store(&image, &spec).await?,
        };
        image.pin = Some(pin);
        spec.instance.source = Source::Image(image);
        let provenance = Provenance::new(ProvenanceKind::Image, by, result);
        Ok(Resolved { spec, provenance, warnings: Vec::new(), moved: Moved::default() })
    }

    /// What a name stands for at the image store, which pulls it where it is missing.
    async fn of_store(&self, image: &ImageSource, spec: &ServiceSpec) -> Result<(ImagePin, Digest)> {
        let Ok((images, engine)) = self.images() else { return Err(no_registry()) };
        build::done(images.ensure(image, &EnsureOptions::default()).await?).await?;
        let found = images.inspect(&ImageQuery::Name(image.reference.clone())).await?;
        if !found.platform.meets(&spec.instance.platform) {
            return Err(Error::new(
                ErrorKind::ImageIncompatible,
                format!("the image is for {}, and the spec wants another platform", found.platform),
            )
            .with_context("image", &image.reference));
        }
        // What no registry knows is there and nowhere else.
        Ok(match found.manifests.first() {
            Some(digest) => (ImagePin::Manifest(*digest), *digest),
            None => (ImagePin::Local { engine: engine.to_owned(), image_id: found.id }, found.id),
        })
    }

    fn registry(&self) -> Result<&dyn Registry> {
        self.registry.as_deref().ok_or_else(no_registry)
    }
}

fn no_registry() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "there is no registry: sources that become images need one (`with_registry`)",
    )
}

/// What a name stands for at its registry.
async fn of_registry(registry: &dyn Registry, image: &ImageRef, spec: &ServiceSpec) -> Result<Digest> {
    let wanted = &spec.instance.platform;
    if wanted.os.is_none() && wanted.arch.is_none() {
        return Ok(registry.resolve(image).await?.digest);
    }
    // The index is pinned and each node takes its own of it; here it is only made sure that there is one.
    Ok(oci::image::read(registry, image, &|platform| platform.meets(wanted)).await?.digest)
}

fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}
