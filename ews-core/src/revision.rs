//! Revisions: immutable, pinned specs.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::id::RevisionId;
use crate::spec::ServiceSpec;
use crate::spec::source::{Digest, Source};
use crate::time::Timestamp;

/// One immutable version of a service: a spec whose image or artifact is pinned to its content.
///
/// One that is read from a store goes through the same checks as one that is made: its spec is valid and pinned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
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
        check_pinned(&spec)?;
        let id = RevisionId::new(format!("r{number}-{}", spec.instance.hash().short()))?;
        Ok(Self { id, number, spec, created_at, parent: None })
    }

    /// The digest of what each instance of this revision is created from.
    pub fn spec_hash(&self) -> Digest {
        self.spec.instance.hash()
    }
}

/// Two nodes must not be able to run two different things under one revision.
fn check_pinned(spec: &ServiceSpec) -> Result<()> {
    match &spec.instance.source {
        Source::Image(image) if image.pin.is_none() => {
            Err(Error::invalid(format!(
                "the image `{0}` is not pinned, and what it names may be another one tomorrow; accepted: a reference with the digest, \
                 such as `{0}@sha256:…`, or a `pin` beside it",
                image.reference
            ))
            .with_context("field", "image.pin"))
        }
        Source::Artifact(artifact) if artifact.location.contains("://") && artifact.digest.is_none() => {
            Err(Error::invalid(
                "an artifact that is fetched from an address must have a digest; accepted: `digest` beside `location`",
            )
            .with_context("field", "artifact.digest"))
        }
        _ => Ok(()),
    }
}

/// The form in which a revision is stored, before its spec was looked at.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    id: RevisionId,
    number: u64,
    spec: Arc<ServiceSpec>,
    created_at: Timestamp,
    #[serde(default)]
    parent: Option<RevisionId>,
}

impl TryFrom<Stored> for Revision {
    type Error = Error;

    fn try_from(stored: Stored) -> Result<Self> {
        let Stored { id, number, spec, created_at, parent } = stored;
        check_pinned(&spec)?;
        Ok(Self { id, number, spec, created_at, parent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::source::{ImagePin, ImageSource};
    use crate::{Digest, ServiceName};

    #[test]
    fn only_a_pinned_spec_makes_a_revision_and_what_is_stored_reads_back() {
        let mut image = ImageSource::new("shop/web:1.2".parse().unwrap());
        let spec = |image: &ImageSource| {
            let source = Source::Image(image.clone());
            Arc::new(ServiceSpec::new(ServiceName::new("web").unwrap(), source))
        };
        let error = Revision::new(1, spec(&image), Timestamp::EPOCH).unwrap_err();
        assert!(error.to_string().contains("is not pinned") && error.to_string().contains("field=image.pin"));
        let digest = Digest::of(b"manifest");
        let by_reference = ImageSource::new(format!("shop/web:1.2@{digest}").parse().unwrap());
        assert_eq!(by_reference.pin, Some(ImagePin::Manifest(digest)));
        Revision::new(1, spec(&by_reference), Timestamp::EPOCH).unwrap();
        image.pin = Some(ImagePin::Manifest(digest));
        let revision = Revision::new(7, spec(&image), Timestamp::EPOCH).unwrap();
        assert!(revision.id.as_str().starts_with("r7-"), "{}", revision.id);
        let text = serde_json::to_string(&revision).unwrap();
        assert_eq!(serde_json::from_str::<Revision>(&text).unwrap(), revision);

        let mut unpinned: serde_json::Value = serde_json::from_str(&text).unwrap();
        unpinned["spec"]["image"].as_object_mut().unwrap().remove("pin");
        assert!(serde_json::from_value::<Revision>(unpinned).is_err());
    }
}
