//! An image as a registry has it: its manifest and its config, and what an index leads to.
//!
//! Both documents are kept as they are, field by field, so that what we do not know of survives a rewrite.

use ews_core::registry::Manifest;
use ews_core::{Digest, Error, ErrorKind, ImageRef, Os, Platform, Registry, Result};
use futures_util::StreamExt as _;
use serde_json::{Map, Value};

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The largest config, in bytes; a manifest may have as many by the contract.
const MAX_CONFIG: usize = 4 << 20;
/// The most images that one index may lead to here. Docker Hub's official ones have some 20.
const MAX_CHILDREN: usize = 100;

/// One image, for one platform.
#[derive(Debug, Clone)]
pub(in crate::source) struct Image {
    /// Its repository and digest.
    pub(in crate::source) name: ImageRef,
    pub(in crate::source) digest: Digest,
    docker: bool,
    manifest: Map<String, Value>,
    pub(in crate::source) config: Map<String, Value>,
    pub(in crate::source) platform: Platform,
    pub(in crate::source) variant: Option<String>,
}

/// What a name leads to.
#[derive(Debug, Clone)]
pub(in crate::source) struct Images {
    /// What the name stands for: an index, or the only image.
    pub(in crate::source) digest: Digest,
    /// In the index's order.
    pub(in crate::source) images: Vec<Image>,
}

/// Reads what a name leads to: of an index, those whose system and architecture are wanted.
///
/// # Errors
/// Those of the registry; `ImageIncompatible` where nothing is wanted of it; `Decode` for what is no image.
pub(in crate::source) async fn read(
    registry: &dyn Registry,
    name: &ImageRef,
    wanted: &(dyn Fn(&Platform) -> bool + Sync),
) -> Result<Images> {
    let top = registry.manifest(name).await?;
    let digest = top.digest();
    if !matches!(top.media_type.as_str(), OCI_INDEX | DOCKER_LIST) {
        let image = read_one(registry, &at(name, digest)?, top, None).await?;
        if !wanted(&image.platform) {
            return Err(incompatible(name, &[image.platform.to_string()]));
        }
        return Ok(Images { digest, images: vec![image] });
    }
    let document = object(&top.bytes)?;
    let entries = document
        .get("manifests")
        .and_then(Value::as_array)
        .ok_or_else(|| wrong("is an index without a list"))?;
    let (mut images, mut there) = (Vec::new(), Vec::new());
    for entry in entries {
        let Some(platform) = entry.get("platform").and_then(platform) else { continue };
        if !wanted(&platform) {
            there.push(platform.to_string());
            continue;
        }
        if images.len() == MAX_CHILDREN {
            return Err(wrong("is an index of too many images"));
        }
        let child = digest_of(entry)?;
        let variant =
            entry.get("platform").and_then(|platform| platform.get("variant")).and_then(Value::as_str);
        let child_name = at(name, child)?;
        let manifest = registry.manifest(&child_name).await?;
        let mut image = read_one(registry, &child_name, manifest, variant.map(str::to_owned)).await?;
        // An index may know the build of Windows where the config does not.
        image.platform.os_version = image.platform.os_version.or(platform.os_version);
        images.push(image);
    }
    if images.is_empty() {
        return Err(incompatible(name, &there));
    }
    Ok(Images { digest, images })
}

fn incompatible(name: &ImageRef, there: &[String]) -> Error {
    let message = format!("the image has none of the wanted platforms; it has: {}", there.join(", "));
    Error::new(ErrorKind::ImageIncompatible, message).with_context("image", name)
}

async fn read_one(
    registry: &dyn Registry,
    name: &ImageRef,
    manifest: Manifest,
    variant: Option<String>,
) -> Result<Image> {
    let docker = match manifest.media_type.as_str() {
        OCI_MANIFEST => false,
        DOCKER_MANIFEST => true,
        other => {
            return Err(wrong("is no image").with_context("media_type", other).with_context("image", name));
        }
    };
    let document = object(&manifest.bytes)?;
    let config = digest_of(document.get("config").unwrap_or(&Value::Null))?;
    let config = object(&blob(registry, name, config, MAX_CONFIG).await?)?;
    let platform = platform(&Value::Object(config.clone())).ok_or_else(|| {
        wrong("is an image for a platform that EWS has no word for").with_context("image", name)
    })?;
    let variant = variant.or_else(|| config.get("variant").and_then(Value::as_str).map(str::to_owned));
    let digest = manifest.digest();
    let image = Image { name: name.clone(), digest, docker, manifest: document, config, platform, variant };
    if image.layers().len() != image.diff_ids().len() {
        return Err(wrong("has another number of layers than its config").with_context("image", name));
    }
    image.layers().iter().try_for_each(|layer| digest_of(layer).map(drop))?;
    Ok(image)
}

impl Image {
    /// The descriptors of its layers.
    pub(in crate::source) fn layers(&self) -> &[Value] {
        self.manifest.get("layers").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// The digests of its layers without compression.
    pub(in crate::source) fn diff_ids(&self) -> Vec<&str> {
        let ids =
            self.config.get("rootfs").and_then(|rootfs| rootfs.get("diff_ids")).and_then(Value::as_array);
        ids.into_iter().flatten().map(|id| id.as_str().unwrap_or_default()).collect()
    }

    pub(in crate::source) fn history(&self) -> &[Value] {
        self.config.get("history").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// A field of what runs.
    pub(in crate::source) fn run(&self, field: &str) -> Option<&Value> {
        self.config.get("config")?.get(field)
    }

    pub(in crate::source) fn label(&self, name: &str) -> Option<&str> {
        self.run("Labels")?.get(name)?.as_str()
    }

    pub(in crate::source) fn is_docker(&self) -> bool {
        self.docker
    }
}

/// The digest that a descriptor has.
pub(in crate::source) fn digest_of(descriptor: &Value) -> Result<Digest> {
    let text = descriptor.get("digest").and_then(Value::as_str).ok_or_else(|| wrong("lacks a digest"))?;
    text.parse().map_err(|error: Error| wrong("refers to something by no SHA-256").with_source(error))
}

/// Reads a blob into memory.
pub(in crate::source) async fn blob(
    registry: &dyn Registry,
    name: &ImageRef,
    digest: Digest,
    most: usize,
) -> Result<Vec<u8>> {
    let mut stream = registry.open_blob(name, &digest, 0).await?;
    let mut all = Vec::new();
    while let Some(piece) = stream.next().await {
        all.extend_from_slice(&piece?);
        if all.len() > most {
            return Err(wrong("is too large").with_context("digest", digest));
        }
    }
    Ok(all)
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(bytes).map_err(|error| wrong("is no JSON object").with_source(error))
}

fn platform(of: &Value) -> Option<Platform> {
    let word = |field: &str| of.get(field).cloned();
    let os: Os = serde_json::from_value(word("os")?).ok()?;
    let mut platform = Platform::new(os, serde_json::from_value(word("architecture")?).ok()?);
    platform.os_version = word("os.version").and_then(|version| version.as_str()?.parse().ok());
    Some(platform)
}

/// The same repository, by digest alone.
pub(in crate::source) fn at(name: &ImageRef, digest: Digest) -> Result<ImageRef> {
    format!("{}/{}@{digest}", name.registry(), name.repository()).parse()
}

pub(in crate::source) fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::Decode, format!("the registry's document {what}"))
}

/// Documents for an image that is to be pushed.
pub(in crate::source) struct Written {
    pub(in crate::source) config: Vec<u8>,
    pub(in crate::source) manifest: Manifest,
    pub(in crate::source) platform: Platform,
    pub(in crate::source) variant: Option<String>,
}

/// An image of this config and these layers, in the form that its base has.
pub(in crate::source) fn write(
    base: &Image,
    config: Map<String, Value>,
    layers: Vec<Value>,
) -> Result<Written> {
    let config = json(&Value::Object(config))?;
    let (kind, config_kind) = if base.docker {
        (DOCKER_MANIFEST, "application/vnd.docker.container.image.v1+json")
    } else {
        (OCI_MANIFEST, "application/vnd.oci.image.config.v1+json")
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": kind,
        "config": {"mediaType": config_kind, "digest": Digest::of(&config), "size": config.len()},
        "layers": layers,
    });
    let manifest = Manifest::new(kind, json(&manifest)?);
    Ok(Written { config, manifest, platform: base.platform.clone(), variant: base.variant.clone() })
}

/// An index of these images.
pub(in crate::source) fn write_index(images: &[Written], docker: bool) -> Result<Manifest> {
    let entries: Vec<Value> = images
        .iter()
        .map(|image| {
            let mut platform =
                serde_json::json!({"os": image.platform.os, "architecture": image.platform.arch});
            if let (Some(version), Some(fields)) = (image.platform.os_version, platform.as_object_mut()) {
                fields.insert("os.version".to_owned(), Value::String(version.to_string()));
            }
            if let (Some(variant), Some(fields)) = (&image.variant, platform.as_object_mut()) {
                fields.insert("variant".to_owned(), Value::String(variant.clone()));
            }
            serde_json::json!({
                "mediaType": image.manifest.media_type,
                "digest": image.manifest.digest(),
                "size": image.manifest.bytes.len(),
                "platform": platform,
            })
        })
        .collect();
    let kind = if docker { DOCKER_LIST } else { OCI_INDEX };
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": kind, "manifests": entries});
    Ok(Manifest::new(kind, json(&index)?))
}

fn json(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::internal("a document can't be written").with_source(error))
}
