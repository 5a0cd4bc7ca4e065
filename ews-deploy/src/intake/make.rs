//! From what is wished for to a pinned spec, through the embedder's sources.

use async_trait::async_trait;
use ews_core::runtime::ByteStream;
use ews_core::spec::source::{ImagePin, ImageSource};
use ews_core::{Digest, Error, ErrorKind, ImageRef, Result, ServiceSpec, Source};
use serde::{Deserialize, Serialize};

use super::Inner;
use super::heard::Heard;
use super::rule::{MadeBy, MadeKind, RuleSource};
use crate::source::{
    ArtifactRequest, CompiledRequest, DockerfileRequest, ImageRequest, ProcessRequest, SourceRequest, Sources,
};

/// Turns a commit into its files; the embedder's, who has the keys of the forge. What is added to this trait later has a default.
///
/// ```
/// use async_trait::async_trait;
/// use ews_core::runtime::ByteStream;
/// use ews_core::{Error, Result};
/// use ews_deploy::intake::{Fetch, Heard};
///
/// struct Archives;
///
/// #[async_trait]
/// impl Fetch for Archives {
///     async fn fetch(&self, heard: &Heard) -> Result<ByteStream> {
///         let sha = heard.sha.as_deref().ok_or_else(|| Error::invalid("no commit is named"))?;
///         // An archive of the forge's API, or `git archive` of a clone.
///         Err(Error::not_found("commit", sha))
///     }
/// }
/// ```
#[async_trait]
pub trait Fetch: Send + Sync + 'static {
    /// The files of what the webhook names, as an archive of a kind that [`Sources::receive`] takes. What is named was checked for
    /// its form only: `repository`, `branch` and `tag` are a stranger's text. Dropping the future abandons it.
    ///
    /// # Errors
    /// Any; one that may pass is tried again.
    async fn fetch(&self, heard: &Heard) -> Result<ByteStream>;
}

/// What is wished for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Wish {
    /// An image.
    Image(ImageRef),
    /// Something made of an upload.
    Upload { digest: Digest, made: Made },
    /// Something made of a commit.
    Commit { made: Made },
}

/// What is made of an upload or a tree, with its names filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Made {
    pub(super) kind: MadeKind,
    pub(super) on: Option<String>,
    pub(super) name: Option<ImageRef>,
    pub(super) root: Option<String>,
    pub(super) main: Option<String>,
}

impl Made {
    fn of(made: &MadeBy, heard: &Heard) -> Result<Self> {
        Ok(Self {
            kind: made.kind,
            on: made.on.clone(),
            name: made.name.as_ref().map(|name| name.fill(heard)).transpose()?,
            root: made.root.clone(),
            main: made.main.clone(),
        })
    }
}

impl Wish {
    /// What a rule wishes for when it hears this.
    pub(super) fn of(source: &RuleSource, heard: &Heard) -> Result<Self> {
        Ok(match source {
            RuleSource::Image(template) => Self::Image(template.fill(heard)?),
            RuleSource::Upload(made) => {
                let digest =
                    heard.digest.ok_or_else(|| Error::invalid("the webhook names no digest of an upload"))?;
                Self::Upload { digest, made: Made::of(made, heard)? }
            }
            RuleSource::Commit(made) => {
                if heard.sha.is_none() && heard.tag.is_none() {
                    return Err(Error::invalid("the webhook names no commit"));
                }
                Self::Commit { made: Made::of(made, heard)? }
            }
        })
    }
}

impl Inner {
    /// A pinned spec; uploads are this token's, or anybody's where no token is given.
    pub(super) async fn make(
        &self,
        wish: &Wish,
        heard: Option<&Heard>,
        spec: ServiceSpec,
        (by, token): (&str, Option<&str>),
    ) -> Result<ServiceSpec> {
        let limit = self.config.limits.making_limit;
        let made = async {
            // Whoever waits here is bounded by the same limit.
            let _permit =
                self.making.acquire().await.map_err(|_| Error::internal("nothing is made any more"))?;
            match wish {
                Wish::Image(image) => self.of_image(image, spec, by).await,
                Wish::Upload { digest, made } => {
                    let path = self.uploads.whole(digest, token)?;
                    let artifact = self.sources()?.receive_path(&path).await?;
                    self.of_artifact(artifact, made, spec, by).await
                }
                Wish::Commit { made } => {
                    let (Some(fetch), Some(heard)) = (&self.fetch, heard) else {
                        return Err(Error::new(
                            ErrorKind::Unsupported,
                            "nobody turns commits into files here: the intake has no `Fetch`",
                        ));
                    };
                    let artifact = self.sources()?.receive(fetch.fetch(heard).await?, None).await?;
                    self.of_artifact(artifact, made, spec, by).await
                }
            }
        };
        tokio::time::timeout(limit, Box::pin(made)).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, format!("the source was not made within {limit:?}")))
        })
    }

    fn sources(&self) -> Result<&Sources> {
        self.sources.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "the intake has no sources: only images with a digest can be deployed",
            )
        })
    }

    async fn of_image(&self, image: &ImageRef, mut spec: ServiceSpec, by: &str) -> Result<ServiceSpec> {
        match (&self.sources, image.digest()) {
            (None, Some(digest)) => {
                let mut source = ImageSource::new(image.clone());
                source.pin = Some(ImagePin::Manifest(digest));
                spec.instance.source = Source::Image(source);
                Ok(spec)
            }
            _ => {
                let request = SourceRequest::new(ImageRequest::new(image.clone())).with_by(by);
                Ok(self.sources()?.resolve(&request, spec).await?.spec)
            }
        }
    }

    async fn of_artifact(
        &self,
        artifact: crate::source::Artifact,
        made: &Made,
        spec: ServiceSpec,
        by: &str,
    ) -> Result<ServiceSpec> {
        let needed = |field: &'static str| {
            Error::invalid(format!(
                "a source of kind `{}` without `{field}`; accepted: one with it",
                made.kind
            ))
            .with_context("field", field)
        };
        let on = || made.on.clone().ok_or_else(|| needed("on"));
        let name = || made.name.clone().ok_or_else(|| needed("name"));
        let laid = |artifact| -> Result<ArtifactRequest> {
            let mut request = ArtifactRequest::new(artifact, on()?, name()?);
            request.root.clone_from(&made.root);
            request.main.clone_from(&made.main);
            Ok(request)
        };
        let request = match made.kind {
            MadeKind::Artifact => SourceRequest::new(laid(artifact)?),
            MadeKind::Compiled => {
                let mut request = CompiledRequest::new(artifact.clone(), on()?, name()?);
                request.tree = laid(artifact)?;
                SourceRequest::new(request)
            }
            MadeKind::Dockerfile => SourceRequest::new(DockerfileRequest::new(artifact, name()?)),
            MadeKind::Process => {
                let mut request = ProcessRequest::new(artifact);
                request.on.clone_from(&made.on);
                request.root.clone_from(&made.root);
                request.main.clone_from(&made.main);
                SourceRequest::new(request)
            }
        };
        let resolved = self.sources()?.resolve(&request.with_by(by), spec).await?;
        for warning in &resolved.warnings {
            tracing::warn!(%warning, service = %resolved.spec.name, "of a source");
        }
        Ok(resolved.spec)
    }
}
