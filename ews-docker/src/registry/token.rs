//! Tokens: how they are asked for, and the short memory of them.
//!
//! A service takes a name and a password by `GET` and basic authentication, an identity token by OAuth 2's `POST`
//! (distribution's *Token Authentication* and *OAuth2 Token Authentication*), and nothing from who is anonymous.
//!
//! Credentials are kept nowhere, but a token lives for minutes and is good for the rights it was given only: it is used again until nine
//! tenths of its life have passed, by whoever shows the same credentials. Without that, every blob of an image would cost a
//! call of the service, which limits those too. At most 256 are kept, and their memory is wiped.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ews_core::backoff::{Random as _, SplitMix64};
use ews_core::{Digest, Error, ErrorKind, Result, SecretValue};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;
use tokio::time::Instant;

use super::challenge::Rights;
use super::fault::{Fault, Party};
use super::origin::Origin;
use super::wire::{Authorization, Question, Shown, Wire};
use crate::credentials::Credential;

/// The largest answer of a token service, in bytes; real ones have a few KiB.
const MAX_ANSWER: usize = 64 * 1024;
/// How many tokens are kept.
const MAX_TOKENS: usize = 256;
/// How long a token lives where its service does not say (distribution's specification).
const LIFE: Duration = Duration::from_secs(60);
/// The longest that one is kept, whatever its service says.
const MAX_LIFE: Duration = Duration::from_secs(3600);

/// Whose token it is, for what, from whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TokenKey {
    realm: String,
    service: Option<String>,
    scopes: Vec<String>,
    holder: Digest,
}

/// The tokens that are still good.
pub(super) struct Tokens {
    salt: [u8; 8],
    known: Mutex<BTreeMap<TokenKey, (SecretValue, Instant)>>,
}

impl Tokens {
    pub(super) fn new() -> Self {
        Self { salt: SplitMix64::from_entropy().next_u64().to_le_bytes(), known: Mutex::default() }
    }

    pub(super) fn key(
        &self,
        realm: &Url,
        service: Option<&str>,
        rights: &Rights,
        holder: Option<&Credential>,
    ) -> TokenKey {
        let mut hash = hmac_sha256::Hash::new();
        hash.update(self.salt);
        match holder {
            None => hash.update("anonymous"),
            Some(Credential::Password { user, password }) => {
                hash.update("password");
                hash.update((user.len() as u64).to_le_bytes());
                hash.update(user);
                hash.update(password.expose());
            }
            Some(Credential::IdentityToken(token)) => {
                hash.update("identity");
                hash.update(token.expose());
            }
        }
        TokenKey {
            realm: realm.to_string(),
            service: service.map(str::to_owned),
            scopes: rights.scopes(),
            holder: Digest::from_sha256(hash.finalize()),
        }
    }

    pub(super) fn get(&self, key: &TokenKey, now: Instant) -> Option<SecretValue> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (_, end)| *end > now);
        known.get(key).map(|(token, _)| token.clone())
    }

    pub(super) fn put(&self, key: TokenKey, token: &Token, now: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_TOKENS
            && let Some(soonest) = known.iter().min_by_key(|(_, (_, end))| *end).map(|(key, _)| key.clone())
        {
            known.remove(&soonest);
        }
        known.insert(key, (token.value.clone(), now + token.life.mul_f64(0.9)));
    }

    /// The registry refused it.
    pub(super) fn forget(&self, key: &TokenKey) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// A token and how long it lives.
pub(super) struct Token {
    pub(super) value: SecretValue,
    life: Duration,
}

/// Both names are in use, and both at once.
#[derive(Deserialize)]
struct Given {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<f64>,
}

/// Asks a service for a token, once.
pub(super) async fn fetch(
    wire: &Wire,
    realm: &Url,
    service: Option<&str>,
    rights: &Rights,
    credential: Option<&Credential>,
    shown: &mut Shown,
) -> Result<Token, Fault> {
    let origin =
        Origin::of(realm).ok_or_else(|| Fault::Misbehaved("a token service without a host".into()))?;
    if !wire.config.allows(&origin) {
        let message = format!(
            "the registry's token service is {origin}, without TLS: nothing is asked of it; plain HTTP must be asked for \
             (`plain_http` with its `host:port`)"
        );
        return Err(Fault::Given(Error::new(ErrorKind::Unauthorized, message)));
    }
    let (question, authorization) = match credential {
        Some(Credential::IdentityToken(token)) => {
            shown.remember_secret(token);
            (by_identity(realm, service, rights, token)?, None)
        }
        Some(Credential::Password { user, password }) => {
            let authorization = Authorization::Basic { user: user.clone(), password: password.clone() };
            shown.remember(wire, &authorization);
            (by_query(realm, service, rights, Some(user)), Some(authorization))
        }
        None => (by_query(realm, service, rights, None), None),
    };
    let answer = wire.exchange(&question, &origin, authorization.as_ref(), Party::TokenService).await?;
    if !answer.status().is_success() {
        return Err(Fault::Refused(Box::new(answer.refusal(credential.is_some(), shown).await)));
    }
    read(&answer.read("a token service's answer", MAX_ANSWER).await?)
}

fn by_query(realm: &Url, service: Option<&str>, rights: &Rights, account: Option<&str>) -> Question {
    let mut url = realm.clone();
    {
        let mut query = url.query_pairs_mut();
        if let Some(account) = account {
            query.append_pair("account", account);
        }
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        for scope in rights.scopes() {
            query.append_pair("scope", &scope);
        }
    }
    Question::new(Method::GET, url)
}

fn by_identity(
    realm: &Url,
    service: Option<&str>,
    rights: &Rights,
    token: &SecretValue,
) -> Result<Question, Fault> {
    let token = token.expose_str().map_err(Fault::Given)?;
    // The form's encoding is that of a query.
    let mut form =
        Url::parse("http://form/").map_err(|_| Fault::Given(Error::internal("a form can't be written")))?;
    form.query_pairs_mut()
        .append_pair("grant_type", "refresh_token")
        .append_pair("refresh_token", token)
        .append_pair("client_id", "ews")
        .append_pair("service", service.unwrap_or_default())
        .append_pair("scope", &rights.scopes().join(" "));
    let body = Bytes::from(form.query().unwrap_or_default().to_owned());
    Ok(Question::new(Method::POST, realm.clone())
        .with_header(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))
        .with_body(body))
}

fn read(body: &[u8]) -> Result<Token, Fault> {
    // The parser's own words could repeat the token.
    let given: Given = serde_json::from_slice(body)
        .map_err(|_| Fault::Misbehaved("the token service's answer is not the JSON of a token".into()))?;
    let text = given.token.filter(|token| !token.is_empty()).or(given.access_token).unwrap_or_default();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Fault::Misbehaved("the token service gave no token, or one that can't be sent".into()));
    }
    let life = match given.expires_in {
        Some(seconds) if seconds.is_finite() && seconds > 0.0 => {
            Duration::from_secs_f64(seconds.min(MAX_LIFE.as_secs_f64()))
        }
        _ => LIFE,
    };
    Ok(Token { value: SecretValue::new(text).map_err(Fault::Given)?, life })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_in_both_spellings_and_hostile_ones_refused() {
        for (body, value, life) in [
            (r#"{"token":"a"}"#, "a", 60),
            (r#"{"access_token":"b","expires_in":300}"#, "b", 300),
            (r#"{"token":"a","access_token":"b","expires_in":1e300,"scope":["x"]}"#, "a", 3600),
            (r#"{"token":"","access_token":"b","expires_in":-1}"#, "b", 60),
        ] {
            let token = read(body.as_bytes()).unwrap();
            assert_eq!((token.value.expose_str().unwrap(), token.life.as_secs()), (value, life), "{body}");
        }
        for body in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"token":1}"#,
            r#"{"token":"a\nb"}"#,
            r#"{"token":"é"}"#,
            r#"{"token":" "}"#,
        ] {
            assert!(read(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_for_its_holder_its_rights_and_its_time() {
        let (tokens, now) = (Tokens::new(), Instant::now());
        let realm = Url::parse("https://auth.example/token").unwrap();
        let password = |text: &str| Credential::Password {
            user: "me".into(),
            password: SecretValue::new(text).unwrap(),
        };
        let rights = Rights::on("a", &["pull"]);
        let key = |holder: &Credential, rights: &Rights| tokens.key(&realm, None, rights, Some(holder));
        let mine = key(&password("one"), &rights);
        tokens.put(mine.clone(), &read(br#"{"token":"t","expires_in":100}"#).unwrap(), now);
        assert!(tokens.get(&mine, now).is_some());
        assert!(tokens.get(&key(&password("two"), &rights), now).is_none(), "another password");
        assert!(
            tokens.get(&key(&password("one"), &Rights::on("b", &["pull"])), now).is_none(),
            "another repository"
        );
        assert!(tokens.get(&tokens.key(&realm, None, &rights, None), now).is_none(), "nobody");
        assert!(tokens.get(&mine, now + Duration::from_secs(91)).is_none(), "its time has passed");
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_is_bounded() {
        let (tokens, now) = (Tokens::new(), Instant::now());
        let realm = Url::parse("https://auth.example/token").unwrap();
        for number in 0..MAX_TOKENS + 10 {
            let key = tokens.key(&realm, None, &Rights::on(&format!("r{number}"), &["pull"]), None);
            tokens.put(key, &read(br#"{"token":"t"}"#).unwrap(), now);
        }
        assert_eq!(tokens.known.lock().unwrap().len(), MAX_TOKENS);
    }

    #[test]
    fn an_identity_token_is_never_in_an_address() {
        let realm = Url::parse("https://auth.example/token").unwrap();
        let token = SecretValue::new("idt&x").unwrap();
        let question = by_identity(&realm, Some("r"), &Rights::on("a", &["pull"]), &token).unwrap();
        assert_eq!(question.url, realm);
        let body = String::from_utf8(question.body.to_vec()).unwrap();
        assert!(
            body.contains("refresh_token=idt%26x") && body.contains("scope=repository%3Aa%3Apull"),
            "{body}"
        );
    }
}
