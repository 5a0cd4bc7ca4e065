//! Manifests and indexes as documents: what they refer to, read from their raw bytes.
//!
//! Only what the media type says is read: a document that is a manifest and an index at once means two things to two readers
//! (CVE-2021-41190), so one that has the fields of both is refused.

use ews_core::registry::{Descriptor, IndexEntry, Manifest};
use ews_core::{Arch, Digest, Error, ErrorKind, Os, Platform, Result};
use oci_client::manifest::{
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE, OciImageIndex,
};
use serde_json::{Map, Value};

/// What is asked for where a manifest or an index is wanted; each its own header line would do as well, and some registries read
/// only the first.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.oci.artifact.manifest.v1+json, */*;q=0.1";

/// Whether a manifest is an index (OCI's or Docker's list).
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_IMAGE_INDEX_MEDIA_TYPE | IMAGE_MANIFEST_LIST_MEDIA_TYPE)
}

/// The entries of an index, in its order.
///
/// An entry whose system or architecture EWS has no word for has no platform, and so has an attestation (`unknown/unknown`).
///
/// ```
/// use ews_core::registry::Manifest;
/// use ews_docker::registry::index_entries;
///
/// let text = r#"{"schemaVersion": 2, "manifests": [{
///     "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 7,
///     "digest": "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
///     "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}
/// }]}"#;
/// let index = Manifest::new("application/vnd.oci.image.index.v1+json", text);
/// let entries = index_entries(&index)?;
/// assert_eq!(entries[0].platform.as_ref().unwrap().to_string(), "linux/arm64");
/// # Ok::<(), ews_core::Error>(())
/// ```
///
/// # Errors
/// `Invalid` for what is not an index by its media type; `Decode` for one that can't be read or refers to something by no
/// SHA-256.
pub fn index_entries(index: &Manifest) -> Result<Vec<IndexEntry>> {
    if !is_index(&index.media_type) {
        return Err(Error::invalid(
            "this is not an index; accepted: an OCI image index or a Docker manifest list",
        )
        .with_context("media_type", &index.media_type));
    }
    let document = object(index)?;
    if document.contains_key("config") || document.contains_key("layers") {
        return Err(wrong("is an index and has a manifest's fields too"));
    }
    let parsed: OciImageIndex =
        serde_json::from_slice(&index.bytes).map_err(|error| wrong("can't be read").with_source(error))?;
    parsed.manifests.into_iter().map(entry).collect()
}

fn entry(entry: oci_client::manifest::ImageIndexEntry) -> Result<IndexEntry> {
    let digest = digest(&entry.digest)?;
    let size = u64::try_from(entry.size).map_err(|_| wrong("tells a negative size"))?;
    let descriptor = Descriptor::new(digest, entry.media_type, size);
    let platform = entry.platform.as_ref().and_then(|platform| {
        let os = word::<Os>(&platform.os.to_string())?;
        let mut found = Platform::new(os, word::<Arch>(&platform.architecture.to_string())?);
        found.os_version = platform.os_version.as_deref().and_then(|version| version.parse().ok());
        Some(found)
    });
    let mut read = IndexEntry::new(descriptor, platform);
    read.variant = entry.platform.and_then(|platform| platform.variant).filter(|variant| !variant.is_empty());
    read.annotations = entry.annotations.unwrap_or_default();
    Ok(read)
}

fn word<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_value(Value::from(text)).ok()
}

/// What a manifest or an index refers to among manifests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct References {
    /// An index's manifests.
    pub(super) children: Vec<Digest>,
    /// What it says something about.
    pub(super) subject: Option<Digest>,
    /// A manifest's configuration.
    pub(super) config: Option<Digest>,
    /// When it was made, where an annotation tells.
    pub(super) created: Option<String>,
}

/// Reads what a manifest or an index refers to.
pub(super) fn references(manifest: &Manifest) -> Result<References> {
    let document = object(manifest)?;
    let mut found = References::default();
    if is_index(&manifest.media_type) {
        found.children = index_entries(manifest)?.into_iter().map(|entry| entry.descriptor.digest).collect();
    } else if document.contains_key("manifests") {
        return Err(wrong("is a manifest and has an index's entries too"));
    }
    let of =
        |field: &str| match document.get(field).and_then(|part| part.get("digest")).and_then(Value::as_str) {
            Some(text) => digest(text).map(Some),
            None => Ok(None),
        };
    found.subject = of("subject")?;
    if matches!(manifest.media_type.as_str(), OCI_IMAGE_MEDIA_TYPE | IMAGE_MANIFEST_MEDIA_TYPE) {
        found.config = of("config")?;
    }
    let created = document.get("annotations").and_then(|all| all.get("org.opencontainers.image.created"));
    found.created = created.and_then(Value::as_str).map(str::to_owned);
    Ok(found)
}

fn object(manifest: &Manifest) -> Result<Map<String, Value>> {
    serde_json::from_slice(&manifest.bytes).map_err(|error| wrong("is not a JSON object").with_source(error))
}

fn digest(text: &str) -> Result<Digest> {
    text.parse().map_err(|error: Error| wrong("refers to something by what is no SHA-256").with_source(error))
}

fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::Decode, format!("the document {what}"))
}

/// The kind that a document says it is itself.
pub(super) fn own_media_type(bytes: &[u8]) -> Option<String> {
    let document: Value = serde_json::from_slice(bytes).ok()?;
    document.get("mediaType")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn index(document: &Value) -> Manifest {
        Manifest::new(OCI_IMAGE_INDEX_MEDIA_TYPE, document.to_string())
    }

    fn part(platform: &Value) -> Value {
        json!({ "mediaType": OCI_IMAGE_MEDIA_TYPE, "size": 3, "digest": Digest::of(b"x").to_string(), "platform": platform })
    }

    #[test]
    fn entries_are_read_with_their_platforms() {
        let document = json!({ "schemaVersion": 2, "manifests": [
            part(&json!({ "os": "linux", "architecture": "arm", "variant": "v7" })),
            part(&json!({ "os": "windows", "architecture": "amd64", "os.version": "10.0.20348.2700" })),
            part(&json!({ "os": "unknown", "architecture": "unknown" })),
            part(&json!({ "os": "linux", "architecture": "mips64le", "variant": "" })),
            part(&Value::Null),
        ]});
        let entries = index_entries(&index(&document)).unwrap();
        let shown: Vec<_> = entries.iter().map(|e| e.platform.as_ref().map(ToString::to_string)).collect();
        assert_eq!(
            shown,
            [
                Some("linux/arm".to_owned()),
                Some("windows/amd64 (10.0.20348.2700)".to_owned()),
                None,
                None,
                None
            ]
        );
        assert_eq!(entries[0].variant.as_deref(), Some("v7"));
        assert_eq!(entries[3].variant, None);
        assert_eq!(entries[0].descriptor, Descriptor::new(Digest::of(b"x"), OCI_IMAGE_MEDIA_TYPE, 3));
    }

    #[test]
    fn a_document_that_means_two_things_is_refused() {
        let both = json!({ "schemaVersion": 2, "manifests": [], "layers": [] });
        assert_eq!(index_entries(&index(&both)).unwrap_err().kind(), ErrorKind::Decode);
        let manifest = Manifest::new(OCI_IMAGE_MEDIA_TYPE, both.to_string());
        assert_eq!(references(&manifest).unwrap_err().kind(), ErrorKind::Decode);
        assert_eq!(index_entries(&manifest).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn what_can_not_be_read_is_an_error() {
        let mut short = part(&Value::Null);
        short["digest"] = json!("md5:1234");
        let mut negative = part(&Value::Null);
        negative["size"] = json!(-1);
        for manifests in [json!([short]), json!([negative]), json!({}), json!([1])] {
            let document = json!({ "schemaVersion": 2, "manifests": manifests });
            assert_eq!(index_entries(&index(&document)).unwrap_err().kind(), ErrorKind::Decode, "{document}");
        }
        for text in ["", "[]", "null", "{", "\"x\""] {
            let broken = Manifest::new(OCI_IMAGE_INDEX_MEDIA_TYPE, text);
            assert!(index_entries(&broken).is_err() && references(&broken).is_err(), "{text}");
        }
    }

    #[test]
    fn references_are_children_subject_and_configuration() {
        let (a, b) = (Digest::of(b"a").to_string(), Digest::of(b"b").to_string());
        let document = json!({
            "schemaVersion": 2,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "size": 1, "digest": a },
            "layers": [],
            "subject": { "mediaType": OCI_IMAGE_MEDIA_TYPE, "size": 1, "digest": b },
            "annotations": { "org.opencontainers.image.created": "2026-01-02T03:04:05Z" },
        });
        let manifest = Manifest::new(OCI_IMAGE_MEDIA_TYPE, document.to_string());
        let found = references(&manifest).unwrap();
        assert_eq!((found.config, found.subject), (Some(Digest::of(b"a")), Some(Digest::of(b"b"))));
        assert_eq!(found.created.as_deref(), Some("2026-01-02T03:04:05Z"));
        assert!(found.children.is_empty());
    }
}
