//! [`ImageStore`] behind a layer.
#![deny(clippy::missing_trait_methods)]

use async_trait::async_trait;

use crate::capability::{Capability, CapabilitySet};
use crate::error::Result;
use crate::id::InstanceId;
use crate::image::{
    BuildSpec, CommitSpec, EnsureOptions, Image, ImageQuery, ImageStore, ProgressStream, PruneOptions,
};
use crate::layer::around::Given;
use crate::layer::{Around, Call, CallKind, Contract, Layered, Subject};
use crate::runtime::ByteStream;
use crate::selector::Selector;
use crate::spec::source::{Digest, ImageRef, ImageSource};

const fn call<'a>(operation: &'static str, kind: CallKind) -> Call<'a> {
    Call::new(Contract::ImageStore, operation, kind)
}

#[async_trait]
impl<C: ImageStore + ?Sized, A: Around> ImageStore for Layered<C, A> {
    fn capabilities(&self) -> CapabilitySet {
        self.inner.capabilities()
    }

    async fn ensure(&self, image: &ImageSource, options: &EnsureOptions) -> Result<ProgressStream> {
        let call = call("image_store.ensure", CallKind::Idempotent).about(Subject::object(&image.reference));
        self.around.around(call, || self.inner.ensure(image, options)).await
    }

    async fn inspect(&self, image: &ImageQuery) -> Result<Image> {
        self.around.around(call("image_store.inspect", CallKind::Read), || self.inner.inspect(image)).await
    }

    async fn list(&self, labels: &Selector) -> Result<Vec<Image>> {
        let call = call("image_store.list", CallKind::Read).about(Subject::object(labels));
        self.around.around(call, || self.inner.list(labels)).await
    }

    async fn prune(&self, options: &PruneOptions) -> Result<Vec<Digest>> {
        let kind = if options.dry_run { CallKind::Read } else { CallKind::Idempotent };
        self.around.around(call("image_store.prune", kind).long(), || self.inner.prune(options)).await
    }

    async fn build(&self, spec: &BuildSpec, context: ByteStream) -> Result<ProgressStream> {
        let check = || self.inner.capabilities().require(Capability::ImageBuild);
        let call = call("image_store.build", CallKind::Once)
            .transfer()
            .about(Subject::object(&spec.name))
            .checked(&check);
        let context = Given::new(context);
        self.around.around(call, || async { self.inner.build(spec, context.take()?).await }).await
    }

    async fn commit(&self, instance: &InstanceId, spec: &CommitSpec) -> Result<Image> {
        let check = || self.inner.capabilities().require(Capability::ImageCommit);
        let call = call("image_store.commit", CallKind::Once)
            .long()
            .about(Subject { object: Some(&spec.name), ..Subject::instance(instance) })
            .checked(&check);
        self.around.around(call, || self.inner.commit(instance, spec)).await
    }

    async fn tag(&self, image: &ImageQuery, name: &ImageRef) -> Result<()> {
        let check = || self.inner.capabilities().require(Capability::ImageTag);
        let call = call("image_store.tag", CallKind::Idempotent).about(Subject::object(name)).checked(&check);
        self.around.around(call, || self.inner.tag(image, name)).await
    }

    async fn push(&self, name: &ImageRef) -> Result<ProgressStream> {
        let check = || self.inner.capabilities().require(Capability::ImagePush);
        let call =
            call("image_store.push", CallKind::Idempotent).about(Subject::object(name)).checked(&check);
        self.around.around(call, || self.inner.push(name)).await
    }

    async fn save(&self, images: &[ImageQuery]) -> Result<ByteStream> {
        let check = || self.inner.capabilities().require(Capability::ImageArchive);
        let call = call("image_store.save", CallKind::Read).checked(&check);
        self.around.around(call, || self.inner.save(images)).await
    }

    async fn load(&self, archive: ByteStream) -> Result<Vec<Image>> {
        let check = || self.inner.capabilities().require(Capability::ImageArchive);
        let call = call("image_store.load", CallKind::Once).transfer().checked(&check);
        let archive = Given::new(archive);
        self.around.around(call, || async { self.inner.load(archive.take()?).await }).await
    }
}
