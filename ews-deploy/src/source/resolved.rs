//! What comes of a source: a pinned spec, where it is from, and what somebody should know.

use ews_core::{Digest, ImageRef, ServiceSpec};
use serde::{Deserialize, Serialize};

use super::oci::Moved;

/// A source that was resolved.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Resolved {
    /// The spec, pinned, with defaults where it said nothing. It can be made a revision.
    pub spec: ServiceSpec,
    /// Where it is from.
    pub provenance: Provenance,
    /// What somebody should know and nobody refuses.
    pub warnings: Vec<Warning>,
    /// What moved between here and the registry.
    pub moved: Moved,
}

/// Where a pinned source is from. Kept for audits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Provenance {
    /// What it was made of.
    pub kind: ProvenanceKind,
    /// Who asked.
    pub by: String,
    /// Who approved, where somebody had to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// What it became: the digest that the spec is pinned to.
    pub result: Digest,
    /// The upload's digest, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<Digest>,
    /// The digest of the application's layer without compression: the same content gives the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<Digest>,
    /// The entry of the catalogue, `id:line`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// The bases, one for each platform.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bases: Vec<BaseUsed>,
    /// The image that it was compiled in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builder: Option<ImageRef>,
    /// The image that it was before, of a rebase and of a hotfix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Digest>,
}

impl Provenance {
    pub(super) fn new(kind: ProvenanceKind, by: &str, result: Digest) -> Self {
        Self {
            kind,
            by: by.to_owned(),
            approved_by: None,
            result,
            upload: None,
            layer: None,
            entry: None,
            bases: Vec::new(),
            builder: None,
            before: None,
        }
    }
}

/// What a pinned source was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ProvenanceKind {
    /// An image that somebody made.
    Image,
    /// An artifact on an official image.
    Artifact,
    /// A source tree.
    Compiled,
    /// A Dockerfile.
    Dockerfile,
    /// A container.
    Submission,
    /// Another image of EWS.
    Rebase,
    /// An artifact without an image.
    Process,
    /// What a revision ran, its hotfixes made part of it.
    Hotfix,
}

/// A base that an image stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BaseUsed {
    /// The name by which it was found.
    pub name: ImageRef,
    /// The manifest of its platform.
    pub digest: Digest,
    /// The platform, for people.
    pub platform: String,
}

/// What somebody should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Warning {
    /// What it is about.
    pub about: WarningAbout,
    /// In whole words.
    pub message: String,
}

impl Warning {
    pub(super) fn new(about: WarningAbout, message: impl Into<String>) -> Self {
        Self { about, message: message.into() }
    }
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// What a warning is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WarningAbout {
    /// Files of one fixed time, on a server that tells clients by it whether they changed.
    Times,
    /// An entry that nobody patches any more.
    EndOfLife,
    /// An entry that is not stable.
    Channel,
    /// Data that lies in volumes and directories of the node, and is not in the image.
    Mounts,
    /// Secrets that an image may hold.
    Secrets,
    /// Something that could not be checked.
    Unchecked,
    /// Nothing was to be done.
    Nothing,
}
