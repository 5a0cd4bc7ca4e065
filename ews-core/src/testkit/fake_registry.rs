//! An OCI registry in memory: repositories with blobs, manifests and tags, mounts, deletion by digest, and its refusals.
//!
//! It does what the OCI distribution specification asks of a registry that checks references: a manifest is taken only when
//! what it refers to is there, and a deleted manifest takes all its tags along.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::Value;

use super::call_fault::{CallFault, FaultQueue};
use crate::capability::{Capability, CapabilitySet};
use crate::detach::detach;
use crate::error::{Error, ErrorKind, Result};
use crate::registry::{BlobInfo, Descriptor, Manifest, Registry};
use crate::runtime::ByteStream;
use crate::spec::source::{Digest, ImageRef};

/// The calls that a [`CallFault`] can hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistryCall {
    /// [`Registry::resolve`] and [`Registry::manifest`].
    Manifest,
    /// [`Registry::tags`].
    Tags,
    /// [`Registry::open_blob`] and [`Registry::blob_size`].
    Blob,
    /// [`Registry::push_blob`] and [`Registry::mount_blob`].
    PushBlob,
    /// [`Registry::push_manifest`].
    PushManifest,
    /// [`Registry::delete`].
    Delete,
}

/// An OCI registry in memory. See the [module](self). Clones are the same registry.
#[derive(Clone)]
pub struct FakeRegistry {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for FakeRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeRegistry").finish_non_exhaustive()
    }
}

struct Shared {
    repositories: Mutex<BTreeMap<String, Repository>>,
    denied: Mutex<BTreeSet<String>>,
    faults: FaultQueue<RegistryCall>,
    capabilities: CapabilitySet,
}

#[derive(Default)]
struct Repository {
    blobs: BTreeMap<Digest, Bytes>,
    manifests: BTreeMap<Digest, Manifest>,
    tags: BTreeMap<String, Digest>,
    /// How many blobs were sent, as opposed to found or mounted.
    sent: u64,
}

impl FakeRegistry {
    /// The largest manifest, in bytes.
    pub const MAX_MANIFEST: usize = 4 * 1024 * 1024;
    /// The largest blob, in bytes: a fake holds them in memory.
    pub const MAX_BLOB: usize = 64 * 1024 * 1024;

    /// An empty registry that can do everything.
    pub fn new() -> Self {
        Self::with(CapabilitySet::all())
    }

    /// An empty registry with these capabilities.
    pub fn with(capabilities: CapabilitySet) -> Self {
        let (repositories, denied, faults) = (Mutex::default(), Mutex::default(), FaultQueue::default());
        Self { shared: Arc::new(Shared { repositories, denied, faults, capabilities }) }
    }

    /// From now on, these credentials may not touch a repository.
    pub fn deny(&self, repository: &str) {
        self.shared.denied.lock().unwrap_or_else(PoisonError::into_inner).insert(repository.to_owned());
    }

    /// Replaces the bytes of a blob, as a broken disk would.
    pub fn corrupt_blob(&self, name: &ImageRef, digest: &Digest, bytes: impl Into<Bytes>) {
        let mut repositories = self.shared.repositories();
        if let Some(blob) =
            repositories.get_mut(name.repository()).and_then(|found| found.blobs.get_mut(digest))
        {
            *blob = bytes.into();
        }
    }

    /// How many blobs were sent to a repository, those aside that were there or mounted.
    pub fn blobs_sent(&self, name: &ImageRef) -> u64 {
        self.shared.repositories().get(name.repository()).map_or(0, |found| found.sent)
    }

    /// Lets the next such call go wrong. A rate limit is `Fail(ErrorKind::Unavailable)`.
    pub fn inject(&self, call: RegistryCall, fault: CallFault) {
        self.shared.faults.push(call, fault);
    }
}

impl Default for FakeRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl Repository {
    fn find(&self, name: &ImageRef) -> Result<(Digest, &Manifest)> {
        let digest = name.digest().or_else(|| self.tags.get(name.tag().unwrap_or("latest")).copied());
        let found = digest.and_then(|digest| Some((digest, self.manifests.get(&digest)?)));
        found.ok_or_else(|| image_missing(name))
    }
}

fn image_missing(name: &ImageRef) -> Error {
    Error::new(ErrorKind::ImageMissing, "the repository has no such manifest").with_context("image", name)
}

impl Shared {
    fn repositories(&self) -> MutexGuard<'_, BTreeMap<String, Repository>> {
        self.repositories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allow(&self, name: &ImageRef) -> Result<()> {
        if self.denied.lock().unwrap_or_else(PoisonError::into_inner).contains(name.repository()) {
            return Err(Error::new(
                ErrorKind::ImageDenied,
                "the registry refuses the repository to these credentials",
            ));
        }
        Ok(())
    }

    fn blob(&self, name: &ImageRef, digest: &Digest) -> Result<Option<Bytes>> {
        self.allow(name)?;
        Ok(self.repositories().get(name.repository()).and_then(|found| found.blobs.get(digest)).cloned())
    }

    fn put_blob(&self, name: &ImageRef, blob: &BlobInfo, bytes: Bytes) -> Result<()> {
        let size = bytes.len() as u64;
        if size != blob.size || Digest::of(&bytes) != blob.digest {
            return Err(Error::invalid(format!(
                "{size} bytes with the digest {}; {} bytes with {} were announced",
                Digest::of(&bytes),
                blob.size,
                blob.digest
            )));
        }
        let mut repositories = self.repositories();
        let repository = repositories.entry(name.repository().to_owned()).or_default();
        if repository.blobs.insert(blob.digest, bytes).is_none() {
            repository.sent += 1;
        }
        Ok(())
    }

    fn put_manifest(&self, name: &ImageRef, manifest: &Manifest) -> Result<Digest> {
        self.allow(name)?;
        let digest = manifest.digest();
        if manifest.bytes.len() > FakeRegistry::MAX_MANIFEST {
            return Err(Error::invalid(format!(
                "a manifest of {} bytes; accepted: at most {}",
                manifest.bytes.len(),
                FakeRegistry::MAX_MANIFEST
            )));
        }
        if name.digest().is_some_and(|wanted| wanted != digest) {
            return Err(Error::invalid(format!(
                "the manifest has the digest {digest}, its name says another"
            )));
        }
        let document: Value = serde_json::from_slice(&manifest.bytes)
            .map_err(|error| Error::invalid("the manifest is not JSON").with_source(error))?;
        let mut repositories = self.repositories();
        let repository = repositories.entry(name.repository().to_owned()).or_default();
        for (what, reference) in references(&document)? {
            let there = match what {
                Part::Blob => repository.blobs.contains_key(&reference),
                Part::Manifest => repository.manifests.contains_key(&reference),
            };
            if !there {
                return Err(Error::invalid(format!(
                    "the manifest refers to {reference}, which is not there"
                )));
            }
        }
        repository.manifests.insert(digest, manifest.clone());
        // Without tag and digest a name means the tag `latest`.
        let tag = name.tag().or(name.digest().is_none().then_some("latest"));
        if let Some(tag) = tag {
            repository.tags.insert(tag.to_owned(), digest);
        }
        Ok(digest)
    }

    fn delete(&self, name: &ImageRef) -> Result<()> {
        self.allow(name)?;
        let digest = name
            .digest()
            .ok_or_else(|| Error::invalid("a name without a digest; accepted: one with a digest"))?;
        if let Some(repository) = self.repositories().get_mut(name.repository()) {
            repository.manifests.remove(&digest);
            repository.tags.retain(|_, tagged| *tagged != digest);
        }
        Ok(())
    }
}

enum Part {
    Blob,
    Manifest,
}

/// What a manifest or an index refers to.
fn references(document: &Value) -> Result<Vec<(Part, Digest)>> {
    let digest = |descriptor: &Value| -> Result<Digest> {
        let text = descriptor.get("digest").and_then(Value::as_str);
        text.ok_or_else(|| Error::invalid("a descriptor of the manifest has no digest"))?.parse()
    };
    let mut found = Vec::new();
    if let Some(config) = document.get("config") {
        found.push((Part::Blob, digest(config)?));
    }
    for layer in document.get("layers").and_then(Value::as_array).into_iter().flatten() {
        found.push((Part::Blob, digest(layer)?));
    }
    for child in document.get("manifests").and_then(Value::as_array).into_iter().flatten() {
        found.push((Part::Manifest, digest(child)?));
    }
    Ok(found)
}

/// Reads a stream to its end, at most this much.
pub(crate) async fn read_all(mut stream: ByteStream, limit: usize) -> Result<Bytes> {
    let mut all = Vec::new();
    while let Some(piece) = stream.next().await {
        all.extend_from_slice(&piece?);
        if all.len() > limit {
            return Err(Error::new(ErrorKind::OutOfResources, format!("more than {limit} bytes")));
        }
    }
    Ok(all.into())
}

/// These bytes in pieces.
pub(crate) fn in_pieces(bytes: Bytes, size: usize) -> ByteStream {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while rest.len() > size {
        pieces.push(Ok(rest.split_to(size)));
    }
    pieces.push(Ok(rest));
    Box::pin(futures_util::stream::iter(pieces))
}

trait Named<T> {
    fn named(self, operation: &'static str, name: &ImageRef) -> Result<T>;
}

impl<T> Named<T> for Result<T> {
    fn named(self, operation: &'static str, name: &ImageRef) -> Self {
        self.map_err(|error| {
            let error = error.with_operation(operation);
            error.with_context("registry", name.registry()).with_context("repository", name.repository())
        })
    }
}

#[async_trait]
impl Registry for FakeRegistry {
    fn capabilities(&self) -> CapabilitySet {
        self.shared.capabilities.clone()
    }

    async fn resolve(&self, name: &ImageRef) -> Result<Descriptor> {
        let manifest = self.manifest(name).await.map_err(|error| error.with_operation("registry.resolve"))?;
        let (digest, size) = (manifest.digest(), manifest.bytes.len() as u64);
        Ok(Descriptor { digest, media_type: manifest.media_type, size })
    }

    async fn manifest(&self, name: &ImageRef) -> Result<Manifest> {
        let read = || {
            self.shared.allow(name)?;
            let repositories = self.shared.repositories();
            let repository = repositories.get(name.repository()).ok_or_else(|| image_missing(name))?;
            repository.find(name).map(|(_, manifest)| manifest.clone())
        };
        self.shared.faults.run(RegistryCall::Manifest, read).await.named("registry.manifest", name)
    }

    async fn tags(&self, name: &ImageRef, after: Option<String>, limit: usize) -> Result<Vec<String>> {
        let read = || {
            self.shared.allow(name)?;
            if limit == 0 {
                return Err(Error::invalid("a limit of zero; accepted: at least 1"));
            }
            let repositories = self.shared.repositories();
            let repository = repositories.get(name.repository()).ok_or_else(|| image_missing(name))?;
            let later = repository.tags.keys().filter(|tag| after.as_ref().is_none_or(|after| *tag > after));
            Ok(later.take(limit).cloned().collect())
        };
        self.shared.faults.run(RegistryCall::Tags, read).await.named("registry.tags", name)
    }

    async fn open_blob(&self, name: &ImageRef, digest: &Digest, offset: u64) -> Result<ByteStream> {
        let read = || {
            let missing = || Error::not_found("blob", digest);
            let bytes = self.shared.blob(name, digest)?.ok_or_else(missing)?;
            let whole = offset == 0;
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            if start > bytes.len() {
                return Err(Error::invalid(format!(
                    "an offset of {offset} in a blob of {} bytes",
                    bytes.len()
                )));
            }
            if whole && Digest::of(&bytes) != *digest {
                // What was read until the fault showed has been handed out; the end says that it is worth nothing.
                let wrong = Error::new(ErrorKind::Decode, "the blob's bytes don't have its digest");
                return Ok(Box::pin(futures_util::stream::iter([Ok(bytes), Err(wrong)])) as ByteStream);
            }
            Ok(in_pieces(bytes.slice(start..), 64 * 1024))
        };
        self.shared.faults.run(RegistryCall::Blob, read).await.named("registry.open_blob", name)
    }

    async fn blob_size(&self, name: &ImageRef, digest: &Digest) -> Result<Option<u64>> {
        let read = || Ok(self.shared.blob(name, digest)?.map(|bytes| bytes.len() as u64));
        self.shared.faults.run(RegistryCall::Blob, read).await.named("registry.blob_size", name)
    }

    async fn push_blob(&self, name: &ImageRef, blob: &BlobInfo, bytes: ByteStream) -> Result<()> {
        self.shared.capabilities.require(Capability::RegistryPush)?;
        if self.shared.blob(name, &blob.digest).named("registry.push_blob", name)?.is_some() {
            return Ok(());
        }
        let (shared, to, blob) = (self.shared.clone(), name.clone(), blob.clone());
        let push = async move {
            let bytes = read_all(bytes, Self::MAX_BLOB).await?;
            shared.faults.run(RegistryCall::PushBlob, || shared.put_blob(&to, &blob, bytes)).await
        };
        detach(push).await.named("registry.push_blob", name)
    }

    async fn mount_blob(&self, name: &ImageRef, digest: &Digest, from: &ImageRef) -> Result<bool> {
        self.shared.capabilities.require(Capability::RegistryMount)?;
        let mount = || {
            self.shared.allow(name)?;
            if name.registry() != from.registry() || self.shared.allow(from).is_err() {
                return Ok(false);
            }
            let Some(bytes) = self.shared.blob(from, digest)? else { return Ok(false) };
            let mut repositories = self.shared.repositories();
            repositories.entry(name.repository().to_owned()).or_default().blobs.insert(*digest, bytes);
            Ok(true)
        };
        self.shared.faults.run(RegistryCall::PushBlob, mount).await.named("registry.mount_blob", name)
    }

    async fn push_manifest(&self, name: &ImageRef, manifest: &Manifest) -> Result<Digest> {
        self.shared.capabilities.require(Capability::RegistryPush)?;
        let (shared, to, manifest) = (self.shared.clone(), name.clone(), manifest.clone());
        let push = async move {
            shared.faults.run(RegistryCall::PushManifest, || shared.put_manifest(&to, &manifest)).await
        };
        detach(push).await.named("registry.push_manifest", name)
    }

    async fn delete(&self, name: &ImageRef) -> Result<()> {
        self.shared.capabilities.require(Capability::RegistryDelete)?;
        let (shared, at) = (self.shared.clone(), name.clone());
        let delete = async move { shared.faults.run(RegistryCall::Delete, || shared.delete(&at)).await };
        detach(delete).await.named("registry.delete", name)
    }
}
