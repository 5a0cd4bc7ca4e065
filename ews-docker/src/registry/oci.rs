//! The `Registry` contract over the OCI distribution API.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use ews_core::registry::{BlobInfo, Descriptor, Manifest, Registry};
use ews_core::runtime::ByteStream;
use ews_core::{Capability, CapabilitySet, Digest, Error, ImageRef, Result, detach};

use super::challenge::Rights;
use super::config::OciRegistryConfig;
use super::fault::located;
use super::pull;
use super::session::{Session, Shared};
use super::wire::Wire;
use crate::credentials::Credentials;

/// Every registry that an image's name can name. See the [module](super); clones are the same client.
///
/// Calls end by themselves within [`total_timeout`](OciRegistryConfig::total_timeout); a blob's stream and an upload may last as long as
/// bytes flow. What is safe to repeat is repeated here, so a `Retry` layer in front multiplies attempts. Mutating calls run to
/// their end in a task of their own.
///
/// Each call of [`tags`](Registry::tags) reads all tags of the repository, whatever its limit, since registries agree neither on their order
/// nor on pages: ask with a limit above their number, once.
///
/// Memory: a push keeps one chunk, everything else at most 4 MiB, and up to 20 MiB for the tags of a repository with 100,000 of them.
#[derive(Clone)]
pub struct OciRegistry {
    shared: Arc<Shared>,
}

impl OciRegistry {
    /// A client; nothing is asked yet.
    ///
    /// # Errors
    /// `Invalid` for a configuration that [`check`](OciRegistryConfig::check) refuses, or certificates that can't be read.
    pub fn new(config: OciRegistryConfig, credentials: Credentials) -> Result<Self> {
        Ok(Self { shared: Arc::new(Shared::new(Wire::new(config)?, credentials)) })
    }

    fn session(&self, name: &ImageRef, actions: &[&str]) -> Result<Session> {
        Session::new(self.shared.clone(), name, Rights::on(name.repository(), actions))
    }

    fn require(&self, capability: Capability, name: &ImageRef) -> Result<()> {
        self.shared.wire.config.capabilities.require(capability).map_err(|error| located(error, name))
    }
}

impl fmt::Debug for OciRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OciRegistry").field("config", &self.shared.wire.config).finish_non_exhaustive()
    }
}

/// Names the call that failed.
fn named<T>(result: Result<T>, operation: &'static str) -> Result<T> {
    result.map_err(|error| error.with_operation(operation))
}

#[async_trait]
impl Registry for OciRegistry {
    fn capabilities(&self) -> CapabilitySet {
        self.shared.wire.config.capabilities.clone()
    }

    async fn resolve(&self, name: &ImageRef) -> Result<Descriptor> {
        let resolve = async { Box::pin(self.session(name, &["pull"])?.resolve()).await };
        named(resolve.await, "registry.resolve")
    }

    async fn manifest(&self, name: &ImageRef) -> Result<Manifest> {
        let read = async { Box::pin(self.session(name, &["pull"])?.manifest()).await };
        named(read.await, "registry.manifest")
    }

    async fn tags(&self, name: &ImageRef, after: Option<String>, limit: usize) -> Result<Vec<String>> {
        let list = async {
            if limit == 0 {
                return Err(located(Error::invalid("a limit of zero; accepted: at least 1"), name));
            }
            let mut tags = Box::pin(self.session(name, &["pull"])?.all_tags()).await?;
            let start = after.map_or(0, |after| tags.partition_point(|tag| *tag <= after));
            tags.drain(..start);
            tags.truncate(limit);
            Ok(tags)
        };
        named(list.await, "registry.tags")
    }

    async fn open_blob(&self, name: &ImageRef, digest: &Digest, offset: u64) -> Result<ByteStream> {
        let open = async { Box::pin(pull::open(self.session(name, &["pull"])?, digest, offset)).await };
        named(open.await, "registry.open_blob")
    }

    async fn blob_size(&self, name: &ImageRef, digest: &Digest) -> Result<Option<u64>> {
        let size = async { Box::pin(self.session(name, &["pull"])?.blob_size(digest)).await };
        named(size.await, "registry.blob_size")
    }

    async fn push_blob(&self, name: &ImageRef, blob: &BlobInfo, bytes: ByteStream) -> Result<()> {
        let push = async {
            self.require(Capability::RegistryPush, name)?;
            let (mut session, blob) = (self.session(name, &["pull", "push"])?, blob.clone());
            detach(async move { session.push_blob(&blob, bytes).await }).await
        };
        named(push.await, "registry.push_blob")
    }

    async fn mount_blob(&self, name: &ImageRef, digest: &Digest, from: &ImageRef) -> Result<bool> {
        let mount = async {
            self.require(Capability::RegistryMount, name)?;
            if name.registry() != from.registry() {
                return Ok(false);
            }
            let rights = Rights::on(name.repository(), &["pull", "push"]).and(from.repository(), &["pull"]);
            let mut session = Session::new(self.shared.clone(), name, rights)?;
            let (digest, from) = (*digest, from.clone());
            detach(async move { session.mount_blob(&digest, &from).await }).await
        };
        named(mount.await, "registry.mount_blob")
    }

    async fn push_manifest(&self, name: &ImageRef, manifest: &Manifest) -> Result<Digest> {
        let push = async {
            self.require(Capability::RegistryPush, name)?;
            let (mut session, manifest) = (self.session(name, &["pull", "push"])?, manifest.clone());
            detach(async move { session.push_manifest(&manifest).await }).await
        };
        named(push.await, "registry.push_manifest")
    }

    async fn delete(&self, name: &ImageRef) -> Result<()> {
        let delete = async {
            self.require(Capability::RegistryDelete, name)?;
            let mut session = self.session(name, &["pull", "delete"])?;
            detach(async move { session.delete().await }).await
        };
        named(delete.await, "registry.delete")
    }
}
