//! Bringing an image to its repository: layers first, documents by digest, and one tag at the very end.
//!
//! A call that is dropped anywhere before leaves blobs that no tag leads to, which the registry's own collection removes, and never a tag
//! on half an image.

use std::sync::Arc;

use ews_core::registry::BlobInfo;
use ews_core::{Capability, Digest, ImageRef, Registry, Result};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::image::{Image, Written, at, digest_of, write_index};
use crate::source::artifact::layer::Layer;
use crate::source::scratch;

/// What moved to make an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Moved {
    /// Bytes of layers and documents that this process made and sent.
    pub uploaded: u64,
    /// Bytes of base layers that went through this process, since base and image lie in different registries.
    pub copied: u64,
    /// Base layers that the registry took over without a byte moved.
    pub mounted: u64,
    /// Layers that were there already.
    pub found: u64,
}

/// Sees to it that layers of one image are in the target's repository too.
pub(in crate::source) async fn bring_layers(
    registry: &dyn Registry,
    from: &Image,
    layers: &[Value],
    to: &ImageRef,
    moved: &mut Moved,
) -> Result<()> {
    let mounts =
        registry.capabilities().has(Capability::RegistryMount) && from.name.registry() == to.registry();
    for layer in layers {
        // A layer with addresses of its own (Windows, before 2023) lies in no registry but its maker's.
        if layer.get("urls").and_then(Value::as_array).is_some_and(|urls| !urls.is_empty()) {
            continue;
        }
        let digest = digest_of(layer)?;
        if registry.blob_size(to, &digest).await?.is_some() {
            moved.found += 1;
        } else if mounts && registry.mount_blob(to, &digest, &from.name).await? {
            moved.mounted += 1;
        } else {
            let size = layer.get("size").and_then(Value::as_u64).unwrap_or_default();
            let bytes = registry.open_blob(&from.name, &digest, 0).await?;
            registry.push_blob(to, &BlobInfo::new(digest, size), bytes).await?;
            moved.copied += size;
        }
    }
    Ok(())
}

/// Sends a layer, where it is not there.
pub(in crate::source) async fn push_layer(
    registry: &dyn Registry,
    layer: &Layer,
    to: &ImageRef,
    moved: &mut Moved,
) -> Result<()> {
    if registry.blob_size(to, &layer.digest).await?.is_some() {
        moved.found += 1;
        return Ok(());
    }
    let info = BlobInfo::new(layer.digest, layer.file.size());
    registry.push_blob(to, &info, scratch::stream(Arc::clone(&layer.file))).await?;
    moved.uploaded += info.size;
    Ok(())
}

/// Sends the documents of an image, or of several and an index, and lets the name lead to them.
pub(in crate::source) async fn finish(
    registry: &dyn Registry,
    images: &[Written],
    docker: bool,
    to: &ImageRef,
    moved: &mut Moved,
) -> Result<Digest> {
    for image in images {
        let info = BlobInfo::new(Digest::of(&image.config), image.config.len() as u64);
        if registry.blob_size(to, &info.digest).await?.is_none() {
            let bytes = bytes::Bytes::from(image.config.clone());
            registry.push_blob(to, &info, Box::pin(stream::iter([Ok(bytes)]))).await?;
            moved.uploaded += info.size;
        }
        registry.push_manifest(&at(to, image.manifest.digest())?, &image.manifest).await?;
        moved.uploaded += image.manifest.bytes.len() as u64;
    }
    let top = match images {
        [only] => only.manifest.clone(),
        several => write_index(several, docker)?,
    };
    let digest = registry.push_manifest(to, &top).await?;
    moved.uploaded += top.bytes.len() as u64;
    Ok(digest)
}
