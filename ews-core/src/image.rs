//! The `ImageStore` contract: the images that a runtime has at hand.
//!
//! It is a facet of a [`Runtime`](crate::Runtime), since images lie where instances run. Moving images between places is
//! [`Registry`](crate::Registry)'s part.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::capability::{Capability, CapabilitySet};
use crate::error::{Error, Result};
use crate::id::{InstanceId, NodeId};
use crate::runtime::ByteStream;
use crate::spec::content::EnvValue;
use crate::spec::platform::Platform;
use crate::spec::source::{Digest, ImageRef, ImageSource};
use crate::time::Timestamp;

/// The images of a runtime. The rules of [`Runtime`](crate::runtime) hold here too: dropping a future abandons the wait.
#[async_trait]
pub trait ImageStore: Send + Sync + 'static {
    /// What this store can do.
    fn capabilities(&self) -> CapabilitySet;

    /// Sees to it that an image is there, by its pull policy. Concurrent calls for one image are one pull. The stream ends
    /// with [`Progress::Done`] or an error, and nothing follows; dropping it lets the pull go on. What fails may fail the
    /// call or end the stream. A pin is what must be there, whatever the name stands for by now; a local one is never
    /// pulled.
    ///
    /// # Errors
    /// `ImageMissing`, `ImageDenied`, `ImageIncompatible`, `OutOfResources` for a full disk; `NotFound` for the node.
    async fn ensure(&self, image: &ImageSource, options: &EnsureOptions) -> Result<ProgressStream>;

    /// An image that is there.
    ///
    /// # Errors
    /// `ImageMissing`.
    async fn inspect(&self, image: &ImageQuery) -> Result<Image>;

    /// The images that are there: all, or those with all of these labels.
    ///
    /// # Errors
    /// Those that every call to an engine may give: `Unavailable`, `Timeout`, `Decode`, `Unauthorized`, `Internal`.
    async fn list(&self, labels: &crate::Selector) -> Result<Vec<Image>>;

    /// Removes images that are unused and not kept. What is in use or in `keep` is never removed, nor is anything without
    /// this owner's label unless the options say so. Returns what was removed, or would be on a dry run.
    ///
    /// # Errors
    /// Those of [`list`](Self::list); what was removed before one stays removed.
    async fn prune(&self, options: &PruneOptions) -> Result<Vec<Digest>>;

    /// Builds an image from a context: a tar archive with a Dockerfile in it. The stream ends with [`Progress::Done`].
    ///
    /// # Errors
    /// `Invalid` for what the builder refuses, with its words.
    async fn build(&self, spec: &BuildSpec, context: ByteStream) -> Result<ProgressStream> {
        let _ = (spec, context);
        Err(Error::unsupported(Capability::ImageBuild))
    }

    /// Makes an image from an instance. What the run-time environment added, secrets above all, is not in it.
    ///
    /// # Errors
    /// `NotFound` for the instance; `Busy` where it must not run.
    async fn commit(&self, instance: &InstanceId, spec: &CommitSpec) -> Result<Image> {
        let _ = (instance, spec);
        Err(Error::unsupported(Capability::ImageCommit))
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// `ImageMissing`.
    async fn tag(&self, image: &ImageQuery, name: &ImageRef) -> Result<()> {
        let _ = (image, name);
        Err(Error::unsupported(Capability::ImageTag))
    }

    /// Pushes an image under its name. The stream ends with [`Progress::Done`], which carries the manifest's digest.
    ///
    /// # Errors
    /// `ImageMissing`, `ImageDenied`.
    async fn push(&self, name: &ImageRef) -> Result<ProgressStream> {
        let _ = name;
        Err(Error::unsupported(Capability::ImagePush))
    }

    /// Writes images as one archive.
    ///
    /// # Errors
    /// `ImageMissing`.
    async fn save(&self, images: &[ImageQuery]) -> Result<ByteStream> {
        let _ = images;
        Err(Error::unsupported(Capability::ImageArchive))
    }

    /// Reads the images of an archive.
    ///
    /// # Errors
    /// `Invalid` for what is no image archive; `OutOfResources`.
    async fn load(&self, archive: ByteStream) -> Result<Vec<Image>> {
        let _ = archive;
        Err(Error::unsupported(Capability::ImageArchive))
    }
}

/// Which image is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageQuery {
    /// By name.
    Name(ImageRef),
    /// By the digest of its config, the engine's image id.
    Id(Digest),
}

/// An image that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Image {
    /// The digest of its config.
    pub id: Digest,
    /// The names and tags it has here.
    pub names: Vec<ImageRef>,
    /// The manifest digests that registries know it by.
    pub manifests: Vec<Digest>,
    /// What it runs on.
    pub platform: Platform,
    /// Its size when unpacked, in bytes.
    pub size: u64,
    /// Its labels, as the engine has them: not checked by the rules of [`Labels`](crate::Labels).
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
}

impl Image {
    /// An image without names; for drivers.
    pub fn new(id: Digest, platform: Platform) -> Self {
        Self {
            id,
            names: Vec::new(),
            manifests: Vec::new(),
            platform,
            size: 0,
            labels: BTreeMap::new(),
            created_at: None,
        }
    }
}

/// Where an image must be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct EnsureOptions {
    /// On which nodes. Empty: on the only one, or on every one.
    pub nodes: Vec<NodeId>,
    /// For which platform. Default: the node's.
    pub platform: Option<Platform>,
}

impl EnsureOptions {
    /// On these nodes.
    #[must_use]
    pub fn with_nodes(mut self, nodes: impl IntoIterator<Item = NodeId>) -> Self {
        self.nodes = nodes.into_iter().collect();
        self
    }

    /// For this platform.
    #[must_use]
    pub fn with_platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }
}

/// What a long operation on images yields.
pub type ProgressStream = BoxStream<'static, Result<Progress>>;

/// How far a long operation on images is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Progress {
    /// Bytes moved so far.
    Transfer {
        /// Moved.
        done: u64,
        /// In all, where it is known by now.
        total: Option<u64>,
    },
    /// A line of a builder's log.
    Log(String),
    /// It is done; nothing follows.
    Done {
        /// The image's id, where the image is here now.
        image: Option<Digest>,
        /// The manifest's digest, where a registry has it.
        manifest: Option<Digest>,
    },
}

/// What to build.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BuildSpec {
    /// The name that the image gets.
    pub name: ImageRef,
    /// The Dockerfile's path within the context. Default `Dockerfile`.
    pub dockerfile: String,
    /// The stage to build. Default: the last.
    pub target: Option<String>,
    /// Build arguments. They stay in the image's history: secrets go into `secrets`.
    pub args: BTreeMap<String, String>,
    /// Secrets that the build may mount, by their id there.
    pub secrets: BTreeMap<String, EnvValue>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// For which platform. Default: the engine's.
    pub platform: Option<Platform>,
    /// Whether bases are pulled anew. Default false.
    pub pull: bool,
}

impl BuildSpec {
    /// Builds `Dockerfile` under this name.
    pub fn new(name: ImageRef) -> Self {
        Self {
            name,
            dockerfile: "Dockerfile".to_owned(),
            target: None,
            args: BTreeMap::new(),
            secrets: BTreeMap::new(),
            labels: BTreeMap::new(),
            platform: None,
            pull: false,
        }
    }

    /// With the Dockerfile at this path within the context.
    #[must_use]
    pub fn with_dockerfile(mut self, path: impl Into<String>) -> Self {
        self.dockerfile = path.into();
        self
    }

    /// Up to this stage.
    #[must_use]
    pub fn with_target(mut self, stage: impl Into<String>) -> Self {
        self.target = Some(stage.into());
        self
    }

    /// With this build argument; never a secret.
    #[must_use]
    pub fn with_arg(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.args.insert(name.into(), value.into());
        self
    }

    /// With this secret, which the build may mount by its id.
    #[must_use]
    pub fn with_secret(mut self, id: impl Into<String>, secret: EnvValue) -> Self {
        self.secrets.insert(id.into(), secret);
        self
    }

    /// With this label.
    #[must_use]
    pub fn with_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// For this platform.
    #[must_use]
    pub fn with_platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }
}

/// How an instance becomes an image.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommitSpec {
    /// The name that the image gets.
    pub name: ImageRef,
    /// Who made it and why, kept in the image.
    pub comment: String,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Whether the program is paused meanwhile, where the engine can. Default true.
    pub pause: bool,
}

impl CommitSpec {
    /// Commits under this name.
    pub fn new(name: ImageRef) -> Self {
        Self { name, comment: String::new(), labels: BTreeMap::new(), pause: true }
    }

    /// With these words about who made it and why.
    #[must_use]
    pub fn with_comment(mut self, comment: impl Into<String>) -> Self {
        self.comment = comment.into();
        self
    }

    /// With this label.
    #[must_use]
    pub fn with_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }
}

/// What may be removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PruneOptions {
    /// Never removed: ids or manifest digests.
    pub keep: Vec<Digest>,
    /// Only images with these labels. Default: only those that carry an owner label of EWS.
    pub labels: Option<crate::Selector>,
    /// Says what would be removed and removes nothing.
    pub dry_run: bool,
}

impl PruneOptions {
    /// Keeping these: ids or manifest digests.
    #[must_use]
    pub fn with_kept(mut self, digests: impl IntoIterator<Item = Digest>) -> Self {
        self.keep.extend(digests);
        self
    }

    /// Only images with these labels, in place of those that carry an owner label of EWS.
    #[must_use]
    pub fn with_labels(mut self, labels: crate::Selector) -> Self {
        self.labels = Some(labels);
        self
    }

    /// Saying what would be removed, and removing nothing.
    #[must_use]
    pub fn with_dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }
}
