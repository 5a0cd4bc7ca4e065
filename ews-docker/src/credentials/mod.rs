//! Who we are to a registry: where credentials come from, one operation at a time.
//!
//! Engines that pull, push and build ask here ([`DockerRuntimeBuilder::with_credentials`](crate::DockerRuntimeBuilder::with_credentials),
//! [`DockerImages::connect_with`](crate::DockerImages::connect_with)), and so does the registry client (feature `registry`).
//!
//! [`Credentials`] asks its sources in the order they were added; the first that knows the registry answers, and where none does
//! we are anonymous. They are asked anew for each operation, and what they gave is forgotten with it. A source that fails ends the
//! operation: to go on as somebody else would turn a broken keychain into a missing image.
//!
//! | Source | What it has |
//! |---|---|
//! | [`ExplicitCredentials`] | users by registry, their passwords by reference to a secret |
//! | `DockerLogins` (feature `registry`) | what `docker login` left, credential programs included |
//! | your own [`CredentialSource`] | a vault, a cloud's token |
//!
//! ```
//! use std::sync::Arc;
//!
//! use ews_core::secrets::EnvSecrets;
//! use ews_docker::{Credentials, DockerConfig, DockerRuntime, ExplicitCredentials};
//!
//! # fn example() -> ews_core::Result<()> {
//! let secrets = Arc::new(EnvSecrets::new(["SHOP_"])?);
//! let explicit = ExplicitCredentials::new(secrets.clone())
//!     .with_password("registry.example", "deploy", "SHOP_REGISTRY_PASSWORD".parse()?);
//! let builder = DockerRuntime::builder(DockerConfig::from_env()?)
//!     .with_credentials(Credentials::anonymous().or(explicit))
//!     .with_secrets(secrets);
//! # let _ = builder; Ok(()) }
//! ```

#[cfg(feature = "registry")]
mod docker_logins;
mod explicit;
#[cfg(feature = "registry")]
mod program;

#[cfg(feature = "registry")]
pub use docker_logins::DockerLogins;
pub use explicit::ExplicitCredentials;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use ews_core::{Result, SecretValue};

/// A source of credentials.
#[async_trait]
pub trait CredentialSource: Send + Sync + 'static {
    /// The credentials for a registry, by the name it has in images (`docker.io`, `registry.example:5000`); `None` where this source
    /// has none. It is asked for each pull, push and build, so that a token may be short-lived, and must answer within the
    /// `call_limit` of the [`DockerConfig`](crate::DockerConfig), or the registry client's `total_timeout`. Dropping the future abandons
    /// the question.
    ///
    /// # Errors
    /// `Unauthorized` where there are some and they can't be had; `Invalid` for a source that is written wrong; `Timeout`. It ends the
    /// operation. An error never holds a credential.
    async fn find(&self, registry: &str) -> Result<Option<Credential>>;
}

/// What a registry or its token service is shown. `Debug` tells its kind only.
///
/// ```
/// use ews_core::SecretValue;
/// use ews_docker::Credential;
///
/// let credential = Credential::password("deployer", SecretValue::new("correct horse")?);
/// assert!(!format!("{credential:?}").contains("horse"));
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum Credential {
    /// A name and a password, or what stands for one: an access token, a key.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: SecretValue,
    },
    /// A token that a token service gave to `docker login`, and takes for others (OAuth 2's refresh token).
    IdentityToken(SecretValue),
}

impl Credential {
    /// A name and a password.
    pub fn password(user: impl Into<String>, password: SecretValue) -> Self {
        Self::Password { user: user.into(), password }
    }

    /// An identity token.
    pub fn identity_token(token: SecretValue) -> Self {
        Self::IdentityToken(token)
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(redacted)",
            Self::IdentityToken(_) => "IdentityToken(redacted)",
        })
    }
}

/// Several sources, the first of which that knows a registry counts. See the [module](self). A clone shares them.
#[derive(Clone, Default)]
pub struct Credentials {
    sources: Vec<Arc<dyn CredentialSource>>,
}

impl Credentials {
    /// No source: anonymous everywhere.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// With one more source, asked after the others.
    #[must_use]
    pub fn or(mut self, source: impl CredentialSource) -> Self {
        self.sources.push(Arc::new(source));
        self
    }
}

#[async_trait]
impl CredentialSource for Credentials {
    async fn find(&self, registry: &str) -> Result<Option<Credential>> {
        for source in &self.sources {
            if let Some(found) = source.find(registry).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({} sources)", self.sources.len())
    }
}

#[cfg(test)]
mod tests {
    use ews_core::{Error, ErrorKind};

    use super::*;

    struct Source(&'static str, Result<(), ErrorKind>);

    #[async_trait]
    impl CredentialSource for Source {
        async fn find(&self, registry: &str) -> Result<Option<Credential>> {
            self.1.map_err(|kind| Error::new(kind, "broken"))?;
            if registry != "known.example" {
                return Ok(None);
            }
            Ok(Some(Credential::Password { user: self.0.to_owned(), password: SecretValue::new("hunter2")? }))
        }
    }

    #[tokio::test]
    async fn the_first_source_that_knows_counts_and_one_that_fails_ends_it() {
        let both = Credentials::anonymous().or(Source("first", Ok(()))).or(Source("second", Ok(())));
        match both.find("known.example").await.unwrap() {
            Some(Credential::Password { user, .. }) => assert_eq!(user, "first"),
            other => panic!("{other:?}"),
        }
        assert!(both.find("other.example").await.unwrap().is_none());
        let broken = Credentials::anonymous()
            .or(Source("", Err(ErrorKind::Unauthorized)))
            .or(Source("second", Ok(())));
        assert_eq!(broken.find("known.example").await.unwrap_err().kind(), ErrorKind::Unauthorized);
    }

    #[tokio::test]
    async fn debug_shows_no_credential() {
        let found = Source("deploy", Ok(())).find("known.example").await.unwrap();
        let shown = format!("{found:?} {:?}", Credentials::anonymous().or(Source("deploy", Ok(()))));
        assert!(!shown.contains("hunter2") && !shown.contains("deploy"), "{shown}");
    }
}
