//! [`ExecControl`] behind the layer of the runtime that opened the session.
#![deny(clippy::missing_trait_methods)]

use std::sync::Arc;

use async_trait::async_trait;

use crate::capability::{Capability, RuntimeCapabilities};
use crate::error::Result;
use crate::id::InstanceId;
use crate::instance::ExitStatus;
use crate::layer::{Around, Call, CallKind, Contract, Subject};
use crate::runtime::{ExecControl, TtySize};

/// It owns the driver's control, so that dropping it ends the session as before.
pub(crate) struct LayeredExec<A> {
    pub(crate) inner: Box<dyn ExecControl>,
    pub(crate) around: Arc<A>,
    pub(crate) capabilities: Arc<RuntimeCapabilities>,
    pub(crate) instance: InstanceId,
}

impl<A> LayeredExec<A> {
    fn call(&self, operation: &'static str, kind: CallKind) -> Call<'_> {
        Call::new(Contract::Runtime, operation, kind).about(Subject::instance(&self.instance))
    }
}

#[async_trait]
impl<A: Around> ExecControl for LayeredExec<A> {
    async fn resize(&self, size: TtySize) -> Result<()> {
        let check = || self.capabilities.features.require(Capability::ExecResize);
        let call = self.call("runtime.exec.resize", CallKind::Idempotent).checked(&check);
        self.around.around(call, || self.inner.resize(size)).await
    }

    async fn terminate(&self) -> Result<()> {
        let check = || self.capabilities.features.require(Capability::ExecTerminate);
        let call = self.call("runtime.exec.terminate", CallKind::Idempotent).checked(&check);
        self.around.around(call, || self.inner.terminate()).await
    }

    async fn wait(&self) -> Result<ExitStatus> {
        self.around.around(self.call("runtime.exec.wait", CallKind::Wait), || self.inner.wait()).await
    }
}
