//! Who we are to a registry: asked anew for each operation, put into one header, and kept nowhere.
//!
//! The header is `X-Registry-Auth`: URL-safe base64 of a small JSON object, as Docker's API asks for it. It goes out through
//! `Call::secret_header`, which marks it as not to be shown.

use std::collections::BTreeMap;
use std::time::Duration;

use ews_core::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::client::Call;
use crate::credentials::{Credential, CredentialSource as _, Credentials};

/// The credential as engines read it.
fn as_json(credential: &Credential, registry: &str) -> Result<Value> {
    let address = address(registry);
    Ok(match credential {
        Credential::Password { user, password } => {
            json!({"username": user, "password": password.expose_str()?, "serveraddress": address})
        }
        Credential::IdentityToken(token) => {
            json!({"identitytoken": token.expose_str()?, "serveraddress": address})
        }
    })
}

/// The name under which engines know a registry's credential. Docker Hub's is older than its API.
fn address(registry: &str) -> &str {
    if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry }
}

/// The credential of a registry, asked for within a deadline: a helper program that hangs must not hang a pull.
pub(super) async fn ask(
    source: &Credentials,
    registry: &str,
    deadline: Duration,
) -> Result<Option<Credential>> {
    let asked = timeout(deadline, source.find(registry)).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Timeout, format!("the credentials' source did not answer in {deadline:?}")))
    });
    asked.map_err(|error| error.with_context("registry", registry))
}

impl Call {
    /// With this credential for one registry. Engines refuse a push without the header, so nobody has one too: `{}`.
    pub(super) fn credential(self, registry: &str, credential: Option<&Credential>) -> Result<Self> {
        let auth = credential.map_or_else(|| Ok(json!({})), |credential| as_json(credential, registry))?;
        self.secret_header("x-registry-auth", &base64url(auth.to_string().as_bytes()))
    }

    /// With credentials for several registries, for a build that may pull from any of them.
    pub(super) fn credentials(self, credentials: &BTreeMap<&str, Credential>) -> Result<Self> {
        let auths = credentials
            .iter()
            .map(|(registry, credential)| Ok((address(registry).to_owned(), as_json(credential, registry)?)))
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
    use async_trait::async_trait;
    use ews_core::SecretValue;

    use super::*;
    use crate::credentials::CredentialSource;

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
        let json = as_json(&credential, "docker.io").unwrap();
        assert_eq!(json, json!({"identitytoken": "t", "serveraddress": "https://index.docker.io/v1/"}));
        let json = as_json(&credential, "r.example:5000").unwrap();
        assert_eq!(json["serveraddress"], "r.example:5000");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_hangs_is_given_up() {
        struct Hangs;
        #[async_trait]
        impl CredentialSource for Hangs {
            async fn find(&self, _: &str) -> Result<Option<Credential>> {
                std::future::pending().await
            }
        }
        let source = Credentials::anonymous().or(Hangs);
        let error = ask(&source, "r.example", Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
    }
}
