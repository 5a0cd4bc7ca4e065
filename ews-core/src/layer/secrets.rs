//! [`Secrets`] behind a layer.
#![deny(clippy::missing_trait_methods)]

use async_trait::async_trait;

use crate::error::Result;
use crate::layer::{Around, Call, CallKind, Contract, Layered, Subject};
use crate::secrets::{SecretValue, Secrets};
use crate::spec::content::SecretRef;

#[async_trait]
impl<C: Secrets + ?Sized, A: Around> Secrets for Layered<C, A> {
    async fn resolve(&self, reference: &SecretRef) -> Result<SecretValue> {
        let call =
            Call::new(Contract::Secrets, "secrets.resolve", CallKind::Read).about(Subject::object(reference));
        self.around.around(call, || self.inner.resolve(reference)).await
    }
}
