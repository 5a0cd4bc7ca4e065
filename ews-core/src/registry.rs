//! The `Registry` contract: where images live.
//!
//! With it a layer can be added to an image, or its base replaced, without any engine. Names are resolved to digests once,
//! when a revision is made; everything after works on digests.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::capability::{Capability, CapabilitySet};
use crate::error::{Error, Result};
use crate::runtime::ByteStream;
use crate::spec::platform::Platform;
use crate::spec::source::{Digest, ImageRef};

/// Where images live. A name with a digest means that content, whatever its tag; one with neither means the tag `latest`.
/// Dropping a future abandons the wait, not the operation. Credentials are fetched by the driver for each operation and kept nowhere.
///
/// Errors carry the registry, the repository, the digest or tag, and the registry's own code as context. Common to all calls:
/// `ImageDenied`, `Unauthorized`, `Unavailable` (rate limits included, with the registry's own pause respected), `Timeout`,
/// `Decode`.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// What this registry lets us do.
    fn capabilities(&self) -> CapabilitySet;

    /// What a name stands for now.
    ///
    /// # Errors
    /// `ImageMissing`.
    async fn resolve(&self, name: &ImageRef) -> Result<Descriptor>;

    /// The raw bytes of a manifest or an index, checked against the digest where the name has one.
    ///
    /// # Errors
    /// `ImageMissing`; `Decode` where the digest does not match or it is larger than 4 MiB.
    async fn manifest(&self, name: &ImageRef) -> Result<Manifest>;

    /// The tags of the name's repository, ordered; at most `limit` after `after`.
    ///
    /// # Errors
    /// `ImageMissing` for a repository that does not exist; `Invalid` for a limit of zero.
    async fn tags(&self, name: &ImageRef, after: Option<String>, limit: usize) -> Result<Vec<String>>;

    /// A blob of the name's repository from `offset` on, checked against its digest when read whole: a stream from offset 0
    /// whose bytes do not have the digest ends with `Decode`. What is read from further on is for the reader to check.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for an offset beyond the end.
    async fn open_blob(&self, name: &ImageRef, digest: &Digest, offset: u64) -> Result<ByteStream>;

    /// The size of a blob, or `None` where the repository lacks it.
    ///
    /// # Errors
    /// The common ones.
    async fn blob_size(&self, name: &ImageRef, digest: &Digest) -> Result<Option<u64>>;

    /// Puts a blob into the name's repository. Nothing is sent, nor are the bytes asked for, where it is there already.
    ///
    /// # Errors
    /// `Invalid` where the bytes don't have this digest or size.
    async fn push_blob(&self, name: &ImageRef, blob: &BlobInfo, bytes: ByteStream) -> Result<()> {
        let _ = (name, blob, bytes);
        Err(Error::unsupported(Capability::RegistryPush))
    }

    /// Makes a blob of another repository of the same registry appear in the name's, without moving bytes. Returns false
    /// where the registry would not, or has no such blob there: then push it.
    ///
    /// # Errors
    /// `Unsupported` without the capability; the common ones.
    async fn mount_blob(&self, name: &ImageRef, digest: &Digest, from: &ImageRef) -> Result<bool> {
        let _ = (name, digest, from);
        Err(Error::unsupported(Capability::RegistryMount))
    }

    /// Puts a manifest or an index under the name's tag, or under its digest alone where the name has a digest and no tag. A
    /// tag that is there moves; what it stood for stays, by digest. The bytes are kept as they are.
    ///
    /// # Errors
    /// `Invalid` where it refers to blobs or manifests that are not there, or its bytes don't have the name's digest, or it
    /// is larger than 4 MiB.
    async fn push_manifest(&self, name: &ImageRef, manifest: &Manifest) -> Result<Digest> {
        let _ = (name, manifest);
        Err(Error::unsupported(Capability::RegistryPush))
    }

    /// Deletes a manifest by digest, *and with it every tag on it*. Nothing happens where it is gone.
    ///
    /// # Errors
    /// `Invalid` for a name without a digest; `Unsupported` where the registry does not let us.
    async fn delete(&self, name: &ImageRef) -> Result<()> {
        let _ = name;
        Err(Error::unsupported(Capability::RegistryDelete))
    }
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Descriptor {
    /// The digest of the manifest or index.
    pub digest: Digest,
    /// What kind of document it is.
    pub media_type: String,
    /// Its size, in bytes.
    pub size: u64,
}

impl Descriptor {
    /// What has this digest, media type and size in bytes.
    pub fn new(digest: Digest, media_type: impl Into<String>, size: u64) -> Self {
        Self { digest, media_type: media_type.into(), size }
    }
}

/// A blob that is about to be pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlobInfo {
    /// Its digest.
    pub digest: Digest,
    /// Its size, in bytes.
    pub size: u64,
}

impl BlobInfo {
    /// A blob of this digest and size in bytes.
    pub const fn new(digest: Digest, size: u64) -> Self {
        Self { digest, size }
    }

    /// These bytes as a blob.
    pub fn of(bytes: &[u8]) -> Self {
        Self::new(Digest::of(bytes), bytes.len() as u64)
    }
}

/// A manifest or an index, as raw bytes: only those have the digest.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Manifest {
    /// What kind of document it is.
    pub media_type: String,
    /// The document.
    pub bytes: Bytes,
}

impl Manifest {
    /// A document of this kind.
    pub fn new(media_type: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        Self { media_type: media_type.into(), bytes: bytes.into() }
    }

    /// The digest of the bytes.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }
}

/// One entry of an index: the manifest for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IndexEntry {
    /// The manifest.
    pub descriptor: Descriptor,
    /// What it runs on; `None` for what is no image, such as an attestation.
    pub platform: Option<Platform>,
    /// The variant of the architecture, such as `v7` for ARM; `None` where the index does not say.
    pub variant: Option<String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

impl IndexEntry {
    /// An entry without a variant or annotations.
    pub fn new(descriptor: Descriptor, platform: Option<Platform>) -> Self {
        Self { descriptor, platform, variant: None, annotations: BTreeMap::new() }
    }
}
