//! [`ScaleTarget`] behind a layer.
#![deny(clippy::missing_trait_methods)]

use async_trait::async_trait;

use crate::capability::{Capability, CapabilitySet};
use crate::error::Result;
use crate::id::ServiceName;
use crate::layer::{Around, Call, CallKind, Contract, Layered, Subject};
use crate::scale::{Scale, ScaleChange, ScaleTarget};

#[async_trait]
impl<C: ScaleTarget + ?Sized, A: Around> ScaleTarget for Layered<C, A> {
    fn capabilities(&self) -> CapabilitySet {
        self.inner.capabilities()
    }

    async fn current(&self, service: &ServiceName) -> Result<Scale> {
        let call = call("scale_target.current", CallKind::Read, service);
        self.around.around(call, || self.inner.current(service)).await
    }

    async fn set(&self, service: &ServiceName, change: &ScaleChange) -> Result<Scale> {
        let check = || {
            if change.victims.is_empty() {
                return Ok(());
            }
            self.inner.capabilities().require(Capability::ChooseVictims)
        };
        // A second one that names a version would be told that the first has made it stale.
        let kind = if change.version.is_some() { CallKind::Once } else { CallKind::Idempotent };
        let call = call("scale_target.set", kind, service).checked(&check);
        self.around.around(call, || self.inner.set(service, change)).await
    }
}

const fn call<'a>(operation: &'static str, kind: CallKind, service: &'a ServiceName) -> Call<'a> {
    let subject = Subject { service: Some(service), ..Subject::NONE };
    Call::new(Contract::ScaleTarget, operation, kind).about(subject)
}
