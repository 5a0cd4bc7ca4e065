//! [`Runtime`] behind a layer.
#![deny(clippy::missing_trait_methods)]

use std::sync::Arc;

use async_trait::async_trait;

use crate::capability::{Capability, RuntimeCapabilities};
use crate::error::Result;
use crate::event::EventStream;
use crate::id::InstanceId;
use crate::image::ImageStore;
use crate::instance::{ExitStatus, Instance, InstanceKey};
use crate::layer::around::Given;
use crate::layer::exec::LayeredExec;
use crate::layer::{Around, Call, CallKind, Contract, Layered, Subject};
use crate::node::Node;
use crate::runtime::{
    ByteStream, CreateOptions, ExecSession, ExecSpec, LogOptions, LogStream, RemoveOptions, Runtime,
    StopOptions, Usage, WaitOptions,
};
use crate::selector::Selector;
use crate::spec::InstanceSpec;
use crate::spec::lifecycle::Signal;

const fn call<'a>(operation: &'static str, kind: CallKind) -> Call<'a> {
    Call::new(Contract::Runtime, operation, kind)
}

#[async_trait]
impl<C: Runtime + ?Sized, A: Around> Runtime for Layered<C, A> {
    fn capabilities(&self) -> Arc<RuntimeCapabilities> {
        self.inner.capabilities()
    }

    async fn nodes(&self) -> Result<Vec<Node>> {
        self.around.around(call("runtime.nodes", CallKind::Read), || self.inner.nodes()).await
    }

    async fn create(
        &self,
        spec: &InstanceSpec,
        key: &InstanceKey,
        options: &CreateOptions,
    ) -> Result<Instance> {
        let check = || {
            let capabilities = self.inner.capabilities();
            if options.node.is_some() {
                capabilities.features.require(Capability::NodeChoice)?;
            }
            capabilities.check(spec)
        };
        let subject = Subject {
            service: Some(&key.service),
            revision: Some(&key.revision),
            node: options.node.as_ref(),
            object: Some(key),
            ..Subject::NONE
        };
        let call = call("runtime.create", CallKind::Idempotent).long().about(subject).checked(&check);
        self.around.around(call, || self.inner.create(spec, key, options)).await
    }

    async fn start(&self, id: &InstanceId) -> Result<Instance> {
        let call = call("runtime.start", CallKind::Idempotent).about(Subject::instance(id));
        self.around.around(call, || self.inner.start(id)).await
    }

    async fn stop(&self, id: &InstanceId, options: &StopOptions) -> Result<ExitStatus> {
        let mut call = call("runtime.stop", CallKind::Idempotent).about(Subject::instance(id));
        match options.grace {
            Some(grace) => call.extra = grace,
            // The grace is the spec's, which may be minutes, and nobody on this side of the driver knows it.
            None => call = call.long(),
        }
        self.around.around(call, || self.inner.stop(id, options)).await
    }

    async fn wait(&self, id: &InstanceId, options: &WaitOptions) -> Result<ExitStatus> {
        let call = call("runtime.wait", CallKind::Wait).about(Subject::instance(id));
        self.around.around(call, || self.inner.wait(id, options)).await
    }

    async fn remove(&self, id: &InstanceId, options: &RemoveOptions) -> Result<()> {
        // A forced removal kills first: Windows engines wait up to 75 s for that.
        let call = call("runtime.remove", CallKind::Idempotent).long().about(Subject::instance(id));
        self.around.around(call, || self.inner.remove(id, options)).await
    }

    async fn get(&self, id: &InstanceId) -> Result<Instance> {
        let call = call("runtime.get", CallKind::Read).about(Subject::instance(id));
        self.around.around(call, || self.inner.get(id)).await
    }

    async fn list(&self, selector: &Selector) -> Result<Vec<Instance>> {
        let call = call("runtime.list", CallKind::Read).about(Subject::object(selector));
        self.around.around(call, || self.inner.list(selector)).await
    }

    async fn events(&self, selector: &Selector) -> Result<EventStream> {
        let call = call("runtime.events", CallKind::Read).about(Subject::object(selector));
        self.around.around(call, || self.inner.events(selector)).await
    }

    async fn signal(&self, id: &InstanceId, signal: Signal) -> Result<()> {
        let check = || self.inner.capabilities().check_signal(signal);
        let call = call("runtime.signal", CallKind::Once).about(Subject::instance(id)).checked(&check);
        self.around.around(call, || self.inner.signal(id, signal)).await
    }

    async fn logs(&self, id: &InstanceId, options: &LogOptions) -> Result<LogStream> {
        let check = || {
            let features = &self.inner.capabilities().features;
            features.require(Capability::Logs)?;
            if options.since.is_some() {
                features.require(Capability::LogsSince)?;
            }
            if options.stdout != options.stderr {
                features.require(Capability::LogsSplit)?;
            }
            Ok(())
        };
        let call = call("runtime.logs", CallKind::Read).about(Subject::instance(id)).checked(&check);
        self.around.around(call, || self.inner.logs(id, options)).await
    }

    async fn usage(&self, ids: &[InstanceId]) -> Result<Vec<Usage>> {
        let check = || self.inner.capabilities().features.require(Capability::Usage);
        let call = call("runtime.usage", CallKind::Read).checked(&check);
        self.around.around(call, || self.inner.usage(ids)).await
    }

    async fn exec(&self, id: &InstanceId, spec: &ExecSpec) -> Result<ExecSession> {
        let check = || {
            let features = &self.inner.capabilities().features;
            features.require(Capability::Exec)?;
            if spec.tty.is_some() {
                features.require(Capability::ExecTty)?;
            }
            Ok(())
        };
        // The command may hold a secret; the instance is enough to find the call.
        let call = call("runtime.exec", CallKind::Once).about(Subject::instance(id)).checked(&check);
        let mut session = self.around.around(call, || self.inner.exec(id, spec)).await?;
        session.control = Box::new(LayeredExec {
            inner: session.control,
            around: Arc::clone(&self.around),
            capabilities: self.inner.capabilities(),
            instance: id.clone(),
        });
        Ok(session)
    }

    async fn put_archive(&self, id: &InstanceId, path: &str, archive: ByteStream) -> Result<()> {
        let check = || self.inner.capabilities().features.require(Capability::PutArchive);
        let call = call("runtime.put_archive", CallKind::Once)
            .transfer()
            .about(Subject::instance(id))
            .checked(&check);
        let archive = Given::new(archive);
        self.around.around(call, || async { self.inner.put_archive(id, path, archive.take()?).await }).await
    }

    async fn get_archive(&self, id: &InstanceId, path: &str) -> Result<ByteStream> {
        let check = || self.inner.capabilities().features.require(Capability::GetArchive);
        let call = call("runtime.get_archive", CallKind::Read).about(Subject::instance(id)).checked(&check);
        self.around.around(call, || self.inner.get_archive(id, path)).await
    }

    fn images(&self) -> Option<Arc<dyn ImageStore>> {
        let images = self.inner.images()?;
        Some(Arc::new(Layered::sharing(images, Arc::clone(&self.around))))
    }
}
