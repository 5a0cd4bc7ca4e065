//! Who we are to a registry: asked anew for each operation, put into one header, and kept nowhere.
//!
//! The header is `X-Registry-Auth`: URL-safe base64 of a small JSON object, as Docker's API asks for it. It goes out through
//! [`Call::secret_header`], which marks it as not to be shown.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ews_core::{Error, ErrorKind, Result, SecretValue};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::client::Call;

/// Says who we are to a registry.
#[async_trait]
pub trait PullCredentials: Send + Sync + 'static {
    /// The credential for this registry, such as `docker.io` or `registry.example:5000`; `None` to come as nobody. Asked for each pull,
    /// push and build, so that a token may be short-lived. It must answer within the configuration's `call`.
    ///
    /// # Errors
    /// Whatever the source fails with; it ends the operation. An error must not hold the credential.
    async fn for_registry(&self, registry: &str) -> Result<Option<Credential>>;
}

/// Comes to every registry as nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

#[async_trait]
impl PullCredentials for Anonymous {
    async fn for_registry(&self, _: &str) -> Result<Option<Credential>> {
        Ok(None)
    }
}

/// A credential for one registry. `Debug` shows no secret.
///
/// ```
/// use ews_core::SecretValue;
/// use ews_docker::images::Credential;
///
/// let credential = Credential::password("deployer", SecretValue::new("correct horse")?);
/// assert!(!format!("{credential:?}").contains("horse"));
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum Credential {
    /// A user's name and password, or an access token in the password's place.
    Password {
        /// The name.
        username: String,
        /// The password or access token.
        password: SecretValue,
    },
    /// An identity token: a refresh token that the registry's token server gave.
    IdentityToken(SecretValue),
}

impl Credential {
    /// A user's name and password.
    pub fn password(username: impl Into<String>, password: SecretValue) -> Self {
        Self::Password { username: username.into(), password }
    }

    /// An identity token.
    pub fn identity_token(token: SecretValue) -> Self {
        Self::IdentityToken(token)
    }

    fn as_json(&self, registry: &str) -> Result<Value> {
        let address = address(registry);
        Ok(match self {
            Self::Password { username, password } => {
                json!({"username": username, "password": password.expose_str()?, "serveraddress": address})
            }
            Self::IdentityToken(token) => {
                json!({"identitytoken": token.expose_str()?, "serveraddress": address})
            }
        })
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { username, password } => {
                f.debug_struct("Password").field("username", username).field("password", password).finish()
            }
            Self::IdentityToken(token) => f.debug_tuple("IdentityToken").field(token).finish(),
        }
    }
}

/// The name under which engines know a registry's credential. Docker Hub's is older than its API.
fn address(registry: &str) -> &str {
    if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry }
}

/// The credential of a registry, asked for within a deadline: a helper program that hangs must not hang a pull.
pub(super) async fn ask(
    source: &Arc<dyn PullCredentials>,
    registry: &str,
    deadline: Duration,
) -> Result<Option<Credential>> {
    let asked = timeout(deadline, source.for_registry(registry)).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Timeout, format!("the credentials' source did not answer in {deadline:?}")))
    });
    asked.map_err(|error| error.with_context("registry", registry))
}

impl Call {
    /// With this credential for one registry. Engines refuse a push without the header, so nobody has one too: `{}`.
    pub(super) fn credential(self, registry: &str, credential: Option<&Credential>) -> Result<Self> {
        let auth = credential.map_or_else(|| Ok(json!({})), |credential| credential.as_json(registry))?;
        self.secret_header("x-registry-auth", &base64url(auth.to_string().as_bytes()))
    }

    /// With credentials for several registries, for a build that may pull from any of them.
    pub(super) fn credentials(self, credentials: &BTreeMap<&str, Credential>) -> Result<Self> {
        let auths = credentials
            .iter()
            .map(|(registry, credential)| Ok((address(registry).to_owned(), credential.as_json(registry)?)))
            .collect::<Result<serde_json::Map<_, _>>>()?;
        self.secret_header("x-registry-config", &base64url(Value::Object(auths).to_string().as_bytes()))
    }
}

/// RFC 4648's URL-safe alphabet with padding: what the engine's decoder takes.
fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = ALPHABET.get((bits >> (18 - 6 * place)) as usize & 63).copied().unwrap_or(b'=');
            text.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_rfc_4648s() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
            ("\u{3ff}?>", "z78_Pg=="),
        ] {
            assert_eq!(base64url(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn docker_hub_has_the_name_that_engines_know() {
        let credential = Credential::identity_token(SecretValue::new("t").unwrap());
        let json = credential.as_json("docker.io").unwrap();
        assert_eq!(json, json!({"identitytoken": "t", "serveraddress": "https://index.docker.io/v1/"}));
        let json = credential.as_json("r.example:5000").unwrap();
        assert_eq!(json["serveraddress"], "r.example:5000");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_hangs_is_given_up() {
        struct Hangs;
        #[async_trait]
        impl PullCredentials for Hangs {
            async fn for_registry(&self, _: &str) -> Result<Option<Credential>> {
                std::future::pending().await
            }
        }
        let source: Arc<dyn PullCredentials> = Arc::new(Hangs);
        let error = ask(&source, "r.example", Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
    }
}
