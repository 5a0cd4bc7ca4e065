//! Credentials that the embedder names: a registry, a user, and the reference of a secret.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use ews_core::{Result, SecretRef, SecretValue, Secrets};

use super::{Credential, CredentialSource};

/// Credentials by registry, their secrets resolved for each operation.
///
/// A secret's last line end is not part of the password: files mostly have one, and no registry takes a password with it.
#[derive(Clone)]
pub struct ExplicitCredentials {
    secrets: Arc<dyn Secrets>,
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone)]
enum Entry {
    Password { user: String, secret: SecretRef },
    IdentityToken(SecretRef),
}

impl ExplicitCredentials {
    /// None yet; secrets will be resolved here.
    pub fn new(secrets: Arc<dyn Secrets>) -> Self {
        Self { secrets, entries: BTreeMap::new() }
    }

    /// With a user and a password for a registry, named as in images: `docker.io`, `registry.example:5000`.
    #[must_use]
    pub fn with_password(
        mut self,
        registry: impl Into<String>,
        user: impl Into<String>,
        secret: SecretRef,
    ) -> Self {
        self.entries.insert(registry.into(), Entry::Password { user: user.into(), secret });
        self
    }

    /// With an identity token for a registry.
    #[must_use]
    pub fn with_identity_token(mut self, registry: impl Into<String>, secret: SecretRef) -> Self {
        self.entries.insert(registry.into(), Entry::IdentityToken(secret));
        self
    }

    async fn resolve(&self, secret: &SecretRef) -> Result<SecretValue> {
        let value = self.secrets.resolve(secret).await?;
        let bytes = value.expose();
        let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        SecretValue::new(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

#[async_trait]
impl CredentialSource for ExplicitCredentials {
    async fn find(&self, registry: &str) -> Result<Option<Credential>> {
        Ok(match self.entries.get(registry) {
            None => None,
            Some(Entry::Password { user, secret }) => {
                Some(Credential::Password { user: user.clone(), password: self.resolve(secret).await? })
            }
            Some(Entry::IdentityToken(secret)) => {
                Some(Credential::IdentityToken(self.resolve(secret).await?))
            }
        })
    }
}

impl fmt::Debug for ExplicitCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.entries.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use ews_core::ErrorKind;
    use ews_core::testkit::FakeSecrets;

    use super::*;

    #[tokio::test]
    async fn a_secret_is_resolved_each_time_and_loses_its_line_end() {
        let secrets = FakeSecrets::new();
        let reference: SecretRef = "registry".parse().unwrap();
        let source = ExplicitCredentials::new(Arc::new(secrets.clone())).with_password(
            "a.example",
            "me",
            reference.clone(),
        );
        assert_eq!(source.find("a.example").await.unwrap_err().kind(), ErrorKind::NotFound);
        for value in ["one\n", "two\r\n", "three"] {
            secrets.put(&reference, value);
            match source.find("a.example").await.unwrap() {
                Some(Credential::Password { password, .. }) => {
                    assert_eq!(password.expose_str().unwrap(), value.trim_end())
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(source.find("b.example").await.unwrap().is_none());
    }
}
