//! What is asked of [`Sources`](super::Sources), one type for each kind of source.

use std::collections::BTreeMap;

use ews_core::spec::content::EnvValue;
use ews_core::{ImageRef, Timestamp};

use super::artifact::Artifact;
use super::submission::{Approved, Submission};
use crate::hotfix::Overlaid;

/// A source that is to be resolved, and who asks.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SourceRequest {
    /// What it is.
    pub what: Wanted,
    /// Who asks, kept in the provenance. Default empty.
    pub by: String,
}

impl SourceRequest {
    /// Asks for this.
    pub fn new(what: impl Into<Wanted>) -> Self {
        Self { what: what.into(), by: String::new() }
    }

    /// Says who asks.
    #[must_use]
    pub fn with_by(mut self, by: impl Into<String>) -> Self {
        self.by = by.into();
        self
    }
}

/// What a source is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Wanted {
    /// An image that somebody made.
    Image(ImageRequest),
    /// An artifact on an official image.
    Artifact(ArtifactRequest),
    /// A source tree, compiled in a builder image, its result on an official image.
    Compiled(CompiledRequest),
    /// A Dockerfile and its context.
    Dockerfile(DockerfileRequest),
    /// A container that was made an image, and that somebody approved.
    Submission(SubmissionRequest),
    /// An image that EWS made of an artifact, on a patched base.
    Rebase(RebaseRequest),
    /// An artifact that runs without an image.
    Process(ProcessRequest),
    /// What a revision runs, its hotfixes made part of it.
    Hotfix(OverlaidRequest),
}

macro_rules! wanted {
    ($($kind:ident: $request:ty),+) => {$(
        impl From<$request> for Wanted {
            fn from(request: $request) -> Self {
                Self::$kind(request)
            }
        }
        impl From<$request> for SourceRequest {
            fn from(request: $request) -> Self {
                Self::new(request)
            }
        }
    )+};
}

wanted! {
    Image: ImageRequest,
    Artifact: ArtifactRequest,
    Compiled: CompiledRequest,
    Dockerfile: DockerfileRequest,
    Submission: SubmissionRequest,
    Rebase: RebaseRequest,
    Process: ProcessRequest,
    Hotfix: OverlaidRequest
}

/// An image that somebody made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageRequest {
    /// Its name; a tag is resolved to what it stands for now.
    pub image: ImageRef,
}

impl ImageRequest {
    /// This image.
    pub fn new(image: ImageRef) -> Self {
        Self { image }
    }
}

/// An artifact on an official image.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ArtifactRequest {
    /// What was received.
    pub artifact: Artifact,
    /// The entry of the catalogue, `id` or `id:line`.
    pub on: String,
    /// The name that the image gets, with a tag or without for `latest`.
    pub name: ImageRef,
    /// The directory within the upload that is meant. Default: its top.
    pub root: Option<String>,
    /// What stands for `{main}` in the entry's command, such as `Shop.dll`. Default none.
    pub main: Option<String>,
    /// The time of all files, such as the commit's. Default 1980-01-01: without a time of its own one content gives one image.
    pub modified: Option<Timestamp>,
}

impl ArtifactRequest {
    /// This upload on this entry, as an image of this name.
    pub fn new(artifact: Artifact, on: impl Into<String>, name: ImageRef) -> Self {
        Self { artifact, on: on.into(), name, root: None, main: None, modified: None }
    }

    /// Takes one directory of the upload.
    #[must_use]
    pub fn with_root(mut self, root: impl Into<String>) -> Self {
        self.root = Some(root.into());
        self
    }

    /// Says what stands for `{main}`.
    #[must_use]
    pub fn with_main(mut self, main: impl Into<String>) -> Self {
        self.main = Some(main.into());
        self
    }

    /// Says the time of all files.
    #[must_use]
    pub fn with_modified(mut self, modified: Timestamp) -> Self {
        self.modified = Some(modified);
        self
    }
}

/// A source tree, compiled in the entry's builder image.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CompiledRequest {
    /// The tree, and what becomes of its result.
    pub tree: ArtifactRequest,
    /// Secrets that the build may mount, by their id there (`/run/secrets/<id>`). Default none.
    pub secrets: BTreeMap<String, EnvValue>,
}

impl CompiledRequest {
    /// This tree, compiled for this entry, as an image of this name.
    pub fn new(tree: Artifact, on: impl Into<String>, name: ImageRef) -> Self {
        Self { tree: ArtifactRequest::new(tree, on, name), secrets: BTreeMap::new() }
    }

    /// Takes one directory of the tree.
    #[must_use]
    pub fn with_root(mut self, root: impl Into<String>) -> Self {
        self.tree.root = Some(root.into());
        self
    }

    /// Lets the build mount a secret, by this id.
    #[must_use]
    pub fn with_secret(mut self, id: impl Into<String>, value: EnvValue) -> Self {
        self.secrets.insert(id.into(), value);
        self
    }
}

/// A Dockerfile and its context.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DockerfileRequest {
    /// The context: tar or tar.gz, as `ews_docker::images::context` makes it of a directory by the rules of `.dockerignore`.
    pub context: Artifact,
    /// The name that the image gets.
    pub name: ImageRef,
    /// The Dockerfile's path within the context. Default `Dockerfile`.
    pub dockerfile: String,
    /// The stage that is wanted. Default: the last.
    pub target: Option<String>,
    /// Build arguments. They stay in the image for everybody to see: a name that sounds like a secret's is refused. Default none.
    pub args: BTreeMap<String, String>,
    /// Secrets that the build may mount, by their id there. Default none.
    pub secrets: BTreeMap<String, EnvValue>,
    /// Whether the image is pushed, or stays on the engine that built it. Default: pushed.
    pub push: bool,
}

impl DockerfileRequest {
    /// Builds `Dockerfile` of this context as an image of this name, and pushes it.
    pub fn new(context: Artifact, name: ImageRef) -> Self {
        Self {
            context,
            name,
            dockerfile: "Dockerfile".to_owned(),
            target: None,
            args: BTreeMap::new(),
            secrets: BTreeMap::new(),
            push: true,
        }
    }

    /// Wants this stage in place of the last.
    #[must_use]
    pub fn with_target(mut self, stage: impl Into<String>) -> Self {
        self.target = Some(stage.into());
        self
    }

    /// Lets the build mount a secret, by this id.
    #[must_use]
    pub fn with_secret(mut self, id: impl Into<String>, value: EnvValue) -> Self {
        self.secrets.insert(id.into(), value);
        self
    }

    /// Names the Dockerfile.
    #[must_use]
    pub fn with_dockerfile(mut self, path: impl Into<String>) -> Self {
        self.dockerfile = path.into();
        self
    }

    /// Adds a build argument.
    #[must_use]
    pub fn with_arg(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.args.insert(name.into(), value.into());
        self
    }

    /// Leaves the image on the engine that built it.
    #[must_use]
    pub fn local(mut self) -> Self {
        self.push = false;
        self
    }
}

/// A submission that somebody approved. A container is submitted by a [`SubmitRequest`](super::SubmitRequest).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SubmissionRequest {
    /// What was submitted.
    pub submission: Submission,
    /// Who approved it.
    pub approved: Approved,
}

impl SubmissionRequest {
    /// This submission, approved.
    pub fn new(submission: Submission, approved: Approved) -> Self {
        Self { submission, approved }
    }
}

/// An image that EWS made of an artifact, on a patched base.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RebaseRequest {
    /// The image.
    pub image: ImageRef,
    /// The entry whose base it gets, `id` or `id:line`.
    pub on: String,
    /// The name that the result gets. Default: the image's own tag.
    pub name: Option<ImageRef>,
}

impl RebaseRequest {
    /// This image on this entry's base.
    pub fn new(image: ImageRef, on: impl Into<String>) -> Self {
        Self { image, on: on.into(), name: None }
    }

    /// Gives the result a name of its own.
    #[must_use]
    pub fn with_name(mut self, name: ImageRef) -> Self {
        self.name = Some(name);
        self
    }
}

/// An artifact that runs without an image.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProcessRequest {
    /// What was received.
    pub artifact: Artifact,
    /// The entry of the catalogue whose command, port and probe are taken. Default none: the spec says them.
    pub on: Option<String>,
    /// The directory within the upload that is meant. Default: its top.
    pub root: Option<String>,
    /// What stands for `{main}` in the entry's command. Default none.
    pub main: Option<String>,
}

impl ProcessRequest {
    /// This upload.
    pub fn new(artifact: Artifact) -> Self {
        Self { artifact, on: None, root: None, main: None }
    }

    /// With the command, port and probe of an entry.
    #[must_use]
    pub fn with_entry(mut self, on: impl Into<String>) -> Self {
        self.on = Some(on.into());
        self
    }

    /// Takes one directory of the upload.
    #[must_use]
    pub fn with_root(mut self, root: impl Into<String>) -> Self {
        self.root = Some(root.into());
        self
    }

    /// Says what stands for `{main}`.
    #[must_use]
    pub fn with_main(mut self, main: impl Into<String>) -> Self {
        self.main = Some(main.into());
        self
    }
}

/// A revision's hotfixes, made part of what it runs: one more layer on its image, made by manifest through the registry, or its artifact
/// packed again. A hotfix itself is asked for by a [`Hotfix`](crate::Hotfix).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct OverlaidRequest {
    /// What lies over what; [`Deployer::overlaid`](crate::Deployer::overlaid) gives it.
    pub overlaid: Box<Overlaid>,
    /// The name that the image gets. Default: the image's own, its tag followed by the revision's id.
    pub name: Option<ImageRef>,
}

impl OverlaidRequest {
    /// What [`Deployer::overlaid`](crate::Deployer::overlaid) gave.
    pub fn new(overlaid: Overlaid) -> Self {
        Self { overlaid: Box::new(overlaid), name: None }
    }

    /// Gives the image a name of its own.
    #[must_use]
    pub fn with_name(mut self, name: ImageRef) -> Self {
        self.name = Some(name);
        self
    }
}
