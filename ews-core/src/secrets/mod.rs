//! The `Secrets` contract: from a reference to a value, at the last moment.
//!
//! Specs, revisions, plans and events hold [`SecretRef`]s. A driver resolves one when it creates an instance and forgets the
//! value; [`SecretValue`] can't be printed, serialised or compared by accident, and wipes its memory.
//!
//! Three providers are built in: [`EnvSecrets`] (environment variables), [`FileSecrets`] (files of a directory, such as Docker's
//! and Kubernetes' mounts), and [`SecretsByProvider`], which puts several behind one by the reference's provider. A vault is
//! a driver of your own.

mod by_provider;
mod env;
mod file;

pub use by_provider::SecretsByProvider;
pub use env::EnvSecrets;
pub use file::FileSecrets;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};
use crate::spec::content::SecretRef;

/// Resolves references to secrets.
#[async_trait]
pub trait Secrets: Send + Sync + 'static {
    /// The value that a reference stands for now, byte by byte as it was stored: no line end is cut or added. Without a
    /// version, the newest. Dropping the future abandons the question.
    ///
    /// # Errors
    /// `NotFound` where there is no such secret or version; `Invalid` for a reference that this provider can't have, such as a
    /// version where it keeps none; `Unauthorized`; `Unavailable`; `OutOfResources` for a value above
    /// [`SecretValue::MAX_LEN`]. An error names the reference, never a value.
    async fn resolve(&self, reference: &SecretRef) -> Result<SecretValue>;
}

/// The value of a secret. Its memory is wiped when it is dropped; `Debug` shows only its length.
#[derive(Clone)]
pub struct SecretValue(Arc<Zeroizing<Vec<u8>>>);

impl SecretValue {
    /// The longest value, in bytes (Kubernetes' and etcd's order of magnitude).
    pub const MAX_LEN: usize = 512 * 1024;

    /// Takes a value.
    ///
    /// # Errors
    /// `OutOfResources` above [`Self::MAX_LEN`].
    pub fn new(value: impl Into<Vec<u8>>) -> Result<Self> {
        let value = Zeroizing::new(value.into());
        if value.len() > Self::MAX_LEN {
            return Err(Error::new(
                ErrorKind::OutOfResources,
                format!("a secret of {} bytes; at most {} are accepted", value.len(), Self::MAX_LEN),
            ));
        }
        Ok(Self(Arc::new(value)))
    }

    /// The value itself: the one place where it comes out.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The value as text.
    ///
    /// # Errors
    /// `Invalid` where it is not UTF-8; the value is not repeated.
    pub fn expose_str(&self) -> Result<&str> {
        std::str::from_utf8(&self.0).map_err(|_| Error::invalid("the secret is not UTF-8 text"))
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretValue({} bytes)", self.0.len())
    }
}
