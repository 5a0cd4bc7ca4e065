//! [`Registry`] behind a layer.
#![deny(clippy::missing_trait_methods)]

use async_trait::async_trait;

use crate::capability::{Capability, CapabilitySet};
use crate::error::Result;
use crate::layer::around::Given;
use crate::layer::{Around, Call, CallKind, Contract, Layered, Subject};
use crate::registry::{BlobInfo, Descriptor, Manifest, Registry};
use crate::runtime::ByteStream;
use crate::spec::source::{Digest, ImageRef};

fn call<'a>(operation: &'static str, kind: CallKind, name: &'a ImageRef) -> Call<'a> {
    Call::new(Contract::Registry, operation, kind).about(Subject::object(name))
}

#[async_trait]
impl<C: Registry + ?Sized, A: Around> Registry for Layered<C, A> {
    fn capabilities(&self) -> CapabilitySet {
        self.inner.capabilities()
    }

    async fn resolve(&self, name: &ImageRef) -> Result<Descriptor> {
        self.around.around(call("registry.resolve", CallKind::Read, name), || self.inner.resolve(name)).await
    }

    async fn manifest(&self, name: &ImageRef) -> Result<Manifest> {
        self.around
            .around(call("registry.manifest", CallKind::Read, name), || self.inner.manifest(name))
            .await
    }

    async fn tags(&self, name: &ImageRef, after: Option<String>, limit: usize) -> Result<Vec<String>> {
        self.around
            .around(call("registry.tags", CallKind::Read, name), || {
                self.inner.tags(name, after.clone(), limit)
            })
            .await
    }

    async fn open_blob(&self, name: &ImageRef, digest: &Digest, offset: u64) -> Result<ByteStream> {
        self.around
            .around(call("registry.open_blob", CallKind::Read, name), || {
                self.inner.open_blob(name, digest, offset)
            })
            .await
    }

    async fn blob_size(&self, name: &ImageRef, digest: &Digest) -> Result<Option<u64>> {
        self.around
            .around(call("registry.blob_size", CallKind::Read, name), || self.inner.blob_size(name, digest))
            .await
    }

    async fn push_blob(&self, name: &ImageRef, blob: &BlobInfo, bytes: ByteStream) -> Result<()> {
        let check = || self.inner.capabilities().require(Capability::RegistryPush);
        // By the contract a second push changes nothing, but its bytes are gone with the first.
        let call = call("registry.push_blob", CallKind::Once, name).transfer().checked(&check);
        let bytes = Given::new(bytes);
        self.around.around(call, || async { self.inner.push_blob(name, blob, bytes.take()?).await }).await
    }

    async fn mount_blob(&self, name: &ImageRef, digest: &Digest, from: &ImageRef) -> Result<bool> {
        let check = || self.inner.capabilities().require(Capability::RegistryMount);
        let call = call("registry.mount_blob", CallKind::Idempotent, name).checked(&check);
        self.around.around(call, || self.inner.mount_blob(name, digest, from)).await
    }

    async fn push_manifest(&self, name: &ImageRef, manifest: &Manifest) -> Result<Digest> {
        let check = || self.inner.capabilities().require(Capability::RegistryPush);
        let call = call("registry.push_manifest", CallKind::Idempotent, name).checked(&check);
        self.around.around(call, || self.inner.push_manifest(name, manifest)).await
    }

    async fn delete(&self, name: &ImageRef) -> Result<()> {
        let check = || self.inner.capabilities().require(Capability::RegistryDelete);
        let call = call("registry.delete", CallKind::Idempotent, name).checked(&check);
        self.around.around(call, || self.inner.delete(name)).await
    }
}
