//! Revisions: immutable, pinned specs.

use std::sync::Arc;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::id::RevisionId;
use crate::spec::ServiceSpec;
use crate::spec::source::{Digest, Source};
use crate::time::Timestamp;

/// One immutable version of a service: a spec whose image or artifact is pinned to its content.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Revision {
    /// Its id, unique within the service.
    pub id: RevisionId,
    /// Its number within the service, from 1.
    pub number: u64,
    /// What runs. Never changed after creation.
    pub spec: Arc<ServiceSpec>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The revision that it was made from, for hotfixes and rebases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<RevisionId>,
}

impl Revision {
    /// A revision of a pinned spec. Its id is `r<number>-<first digits of the spec's digest>`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) where an image or an archive is not pinned: two nodes could then
    /// run two different things under one revision.
    pub fn new(number: u64, spec: Arc<ServiceSpec>, created_at: Timestamp) -> Result<Self> {
        match &spec.instance.source {
            Source::Image(image) if image.pin.is_none() => {
                return Err(Error::invalid(
                    "the image of a revision must be pinned: resolve its tag to a digest first",
                )
                .with_context("image", &image.reference));
            }
            Source::Artifact(artifact) if artifact.location.contains("://") && artifact.digest.is_none() => {
                return Err(Error::invalid("an artifact that is fetched from an address must have a digest")
                    .with_context("service", &spec.name));
            }
            _ => {}
        }
        let id = RevisionId::new(format!("r{number}-{}", spec.instance.hash().short()))?;
        Ok(Self { id, number, spec, created_at, parent: None })
    }

    /// The digest of what each instance of this revision is created from.
    pub fn spec_hash(&self) -> Digest {
        self.spec.instance.hash()
    }
}
