//! What the tests have in common: images and streams.

use bytes::Bytes;
use ews_core::registry::{BlobInfo, Manifest, Registry};
use ews_core::runtime::ByteStream;
use ews_core::{Digest, ImageRef, Result};
use futures_util::StreamExt as _;
use serde_json::json;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub(crate) fn stream(bytes: impl Into<Bytes>) -> ByteStream {
    let mut bytes: Bytes = bytes.into();
    let mut pieces = Vec::new();
    while bytes.len() > 1000 {
        pieces.push(Ok(bytes.split_to(1000)));
    }
    pieces.push(Ok(bytes));
    Box::pin(futures_util::stream::iter(pieces))
}

pub(crate) fn info(bytes: &[u8]) -> BlobInfo {
    BlobInfo::new(Digest::of(bytes), bytes.len() as u64)
}

/// What can be read of a stream, and how it ended.
pub(crate) async fn drain(mut stream: ByteStream) -> (Vec<u8>, Result<()>) {
    let mut all = Vec::new();
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(bytes) => all.extend_from_slice(&bytes),
            Err(error) => return (all, Err(error)),
        }
    }
    (all, Ok(()))
}

/// Bytes that differ from place to place.
pub(crate) fn content(length: usize) -> Vec<u8> {
    (0..length as u32 / 4 + 1)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
        .take(length)
        .collect()
}

/// Pushes what an image of one layer with this text needs, and gives its manifest.
pub(crate) async fn image(
    registry: &dyn Registry,
    name: &ImageRef,
    text: &str,
    more: serde_json::Value,
) -> Result<Manifest> {
    let config = format!(r#"{{"architecture":"amd64","os":"linux","text":"{text}"}}"#);
    let (config, layer) = (config.as_bytes(), text.as_bytes());
    for blob in [config, layer] {
        registry.push_blob(name, &info(blob), stream(blob.to_vec())).await?;
    }
    let part = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": Digest::of(bytes).to_string(), "size": bytes.len() });
    let mut document = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": part("application/vnd.oci.image.config.v1+json", config),
        "layers": [part("application/vnd.oci.image.layer.v1.tar", layer)],
    });
    if let (Some(document), Some(more)) = (document.as_object_mut(), more.as_object()) {
        document.extend(more.clone());
    }
    Ok(Manifest::new(MANIFEST, document.to_string()))
}

/// An index of these manifests.
pub(crate) fn index(children: &[&Manifest]) -> Manifest {
    let entry = |child: &&Manifest| {
        json!({
            "mediaType": child.media_type, "digest": child.digest().to_string(), "size": child.bytes.len(),
            "platform": { "os": "linux", "architecture": "amd64" },
        })
    };
    let manifests: Vec<_> = children.iter().map(entry).collect();
    let document = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
    Manifest::new(INDEX, document.to_string())
}
