//! Secrets in memory, with versions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::call_fault::{CallFault, FaultQueue};
use crate::error::{Error, ErrorKind, Result};
use crate::secrets::{SecretValue, Secrets};
use crate::spec::content::SecretRef;

/// Secrets in memory. See the [module](self). Clones are the same secrets.
#[derive(Clone, Default)]
pub struct FakeSecrets {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for FakeSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeSecrets").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Shared {
    /// By provider and name: the versions, the newest last.
    secrets: Mutex<BTreeMap<(Option<String>, String), Versions>>,
    denied: Mutex<Vec<String>>,
    faults: FaultQueue<()>,
}

/// Plain bytes, so that a test can put in what is too long.
type Versions = Vec<(String, Vec<u8>)>;

impl FakeSecrets {
    /// No secrets yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts the newest version of a secret. A version that the reference does not name is called by its number, from 1 on.
    pub fn put(&self, reference: &SecretRef, value: impl Into<Vec<u8>>) {
        let mut secrets = self.shared.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (reference.provider().map(str::to_owned), reference.name().to_owned());
        let versions = secrets.entry(name).or_default();
        let version = reference.version().map_or_else(|| (versions.len() + 1).to_string(), str::to_owned);
        versions.retain(|(known, _)| *known != version);
        versions.push((version, value.into()));
    }

    /// Removes a secret with all its versions.
    pub fn remove(&self, reference: &SecretRef) {
        let name = (reference.provider().map(str::to_owned), reference.name().to_owned());
        self.shared.secrets.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
    }

    /// From now on, nobody may read a secret of this name.
    pub fn deny(&self, name: &str) {
        self.shared.denied.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
    }

    /// Lets the next [`resolve`](Secrets::resolve) go wrong.
    pub fn inject(&self, fault: CallFault) {
        self.shared.faults.push((), fault);
    }

    fn find(&self, reference: &SecretRef) -> Result<SecretValue> {
        let denied = self.shared.denied.lock().unwrap_or_else(PoisonError::into_inner);
        if denied.iter().any(|name| name == reference.name()) {
            return Err(Error::new(ErrorKind::Unauthorized, "these credentials may not read the secret"));
        }
        let secrets = self.shared.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (reference.provider().map(str::to_owned), reference.name().to_owned());
        let versions = secrets.get(&name).map(Vec::as_slice).unwrap_or_default();
        let found = match reference.version() {
            None => versions.last(),
            Some(wanted) => versions.iter().find(|(version, _)| version == wanted),
        };
        let (_, value) = found.ok_or_else(|| Error::not_found("secret or version", reference))?;
        SecretValue::new(value.clone())
    }
}

#[async_trait]
impl Secrets for FakeSecrets {
    async fn resolve(&self, reference: &SecretRef) -> Result<SecretValue> {
        let found = self.shared.faults.run((), || self.find(reference)).await;
        found.map_err(|error| error.with_operation("secrets.resolve").with_context("secret", reference))
    }
}
