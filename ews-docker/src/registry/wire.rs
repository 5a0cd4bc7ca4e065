//! One HTTP exchange: a request out, the head of an answer back, its redirects followed, its body read within bounds.
//!
//! Redirects are followed here and not by reqwest, since every hop is a decision. Only reads follow them; `Authorization` goes to the
//! origin that the credentials belong to and nowhere else (CVE-2020-15157); a hop without TLS must have been asked for by name; and
//! there are at most five. Nothing is logged that could be a capability: no query, no header, no body.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use ews_core::{Error, Result, SecretValue};
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::config::OciRegistryConfig;
use super::fault::{Fault, Party, Refusal};
use super::origin::Origin;
use super::pace::retry_after;

/// The most hops that a read follows; Docker Hub needs one, a registry behind a balancer that names another host two.
const MAX_HOPS: usize = 5;
/// How much of an error's body is read, in bytes.
const MAX_REFUSAL: usize = 64 * 1024;

/// What makes requests.
pub(super) struct Wire {
    client: reqwest::Client,
    pub(super) config: OciRegistryConfig,
}

/// A request.
pub(super) struct Question {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Question {
    pub(super) fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: Bytes::new() }
    }

    pub(super) fn with_header(mut self, name: reqwest::header::HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// With a body, whose length is told.
    pub(super) fn with_body(mut self, body: Bytes) -> Self {
        self.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        self.body = body;
        self
    }
}

/// What is shown to the origin it belongs to.
#[derive(Clone)]
pub(super) enum Authorization {
    Basic { user: String, password: SecretValue },
    Bearer(SecretValue),
}

/// The head of an answer.
pub(super) struct Answer {
    pub(super) response: Response,
    pub(super) party: Party,
    idle: Duration,
}

impl Wire {
    pub(super) fn new(config: OciRegistryConfig) -> Result<Self> {
        config.check()?;
        let client = client(&config)?;
        Ok(Self { client, config })
    }

    /// Makes a request once and follows it to the head of its answer.
    pub(super) async fn exchange(
        &self,
        question: &Question,
        origin: &Origin,
        authorization: Option<&Authorization>,
        party: Party,
    ) -> Result<Answer, Fault> {
        let reads = matches!(question.method, Method::GET | Method::HEAD);
        let mut url = question.url.clone();
        for hop in 0..=MAX_HOPS {
            let here = self.allowed(&url)?;
            let own = here == *origin;
            let mut request = self.client.request(question.method.clone(), url.clone());
            let sent = Arc::new(AtomicU64::new(0));
            request = request.headers(question.headers.clone());
            if !question.body.is_empty() {
                request = request.body(watched(question.body.clone(), sent.clone()));
            }
            let party = if own || party == Party::TokenService { party } else { Party::Store };
            let answer = self.send(request, &sent, authorization.filter(|_| own), party).await?;
            if !reads || !is_redirect(answer.response.status()) {
                return Ok(answer);
            }
            let location = answer.response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| here.follow(&url, location)).ok_or_else(|| {
                Fault::Misbehaved(
                    "a redirect to what is no address of http or https, or to one with a password".into(),
                )
            })?;
            // Credentials in a token request may be in its query or decide what is given: it stays where it was sent.
            if party == Party::TokenService && Origin::of(&next).as_ref() != Some(origin) {
                return Err(Fault::Misbehaved(
                    "the token service redirects to another host, which is not followed".into(),
                ));
            }
            tracing::trace!(hop, from = %here, "redirected");
            url = next;
        }
        Err(Fault::Misbehaved(format!("more than {MAX_HOPS} redirects: a loop, or a detour").into()))
    }

    /// Makes a request once, with a body that can't be made again; redirects are not followed.
    pub(super) async fn send_stream(
        &self,
        question: &Question,
        body: reqwest::Body,
        origin: &Origin,
        authorization: Option<&Authorization>,
    ) -> Result<Answer, Fault> {
        let here = self.allowed(&question.url)?;
        let own = here == *origin;
        let request = self.client.request(question.method.clone(), question.url.clone());
        let request =
            self.dressed(request.headers(question.headers.clone()).body(body), authorization.filter(|_| own));
        // The answer comes after the body, which takes as long as it takes: whoever feeds it watches over it.
        let response =
            request.send().await.map_err(|source| Fault::Broken { what: "a blob was sent", source })?;
        let party = if own { Party::Registry } else { Party::Store };
        Ok(Answer { response, party, idle: self.config.idle_timeout })
    }

    /// Sends a request. A body may take as long as it moves (`sent` counts it); what stands still is given up.
    async fn send(
        &self,
        request: reqwest::RequestBuilder,
        sent: &AtomicU64,
        authorization: Option<&Authorization>,
        party: Party,
    ) -> Result<Answer, Fault> {
        let limit = self.config.connect_timeout + self.config.answer_timeout;
        let mut sending = Box::pin(self.dressed(request, authorization).send());
        let mut seen = 0;
        let response = loop {
            match tokio::time::timeout(limit, &mut sending).await {
                Ok(answered) => {
                    break answered.map_err(|source| match source.is_timeout() {
                        true => Fault::Silent { what: "connection", after: self.config.connect_timeout },
                        false => Fault::Broken { what: "a request was made", source },
                    })?;
                }
                Err(_) => {
                    let now = sent.load(Ordering::Relaxed);
                    if now == seen {
                        return Err(Fault::Silent { what: "answer", after: limit });
                    }
                    seen = now;
                }
            }
        };
        Ok(Answer { response, party, idle: self.config.idle_timeout })
    }

    fn dressed(
        &self,
        request: reqwest::RequestBuilder,
        authorization: Option<&Authorization>,
    ) -> reqwest::RequestBuilder {
        // What is compressed on the way has another digest.
        let request = request.header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        match authorization {
            None => request,
            // Both mark the header as sensitive, so that it is never shown.
            Some(Authorization::Basic { user, password }) => match password.expose_str() {
                Ok(password) => request.basic_auth(user, Some(password)),
                Err(_) => request,
            },
            Some(Authorization::Bearer(token)) => match token.expose_str() {
                Ok(token) => request.bearer_auth(token),
                Err(_) => request,
            },
        }
    }

    fn allowed(&self, url: &Url) -> Result<Origin, Fault> {
        let origin = Origin::of(url)
            .ok_or_else(|| Fault::Misbehaved("an address that is neither http nor https".into()))?;
        if self.config.allows(&origin) {
            return Ok(origin);
        }
        let message = format!(
            "the way leads to {origin}, without TLS; plain HTTP must be asked for (`plain_http` with its `host:port`)"
        );
        Err(Fault::Misbehaved(message.into()))
    }
}

/// A body in pieces, counted as they are taken.
fn watched(body: Bytes, sent: Arc<AtomicU64>) -> reqwest::Body {
    const PIECE: usize = 64 * 1024;
    reqwest::Body::wrap_stream(futures_util::stream::unfold((body, sent), |(mut rest, sent)| async move {
        if rest.is_empty() {
            return None;
        }
        let piece = rest.split_to(PIECE.min(rest.len()));
        sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Some((Ok::<_, std::convert::Infallible>(piece), (rest, sent)))
    }))
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The length that its head tells, also of an answer without a body.
    pub(super) fn length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// The next piece of its body; `None` at the end.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, Fault> {
        match tokio::time::timeout(self.idle, self.response.chunk()).await {
            Ok(piece) => piece.map_err(|source| Fault::Broken { what: "an answer was read", source }),
            Err(_) => Err(Fault::Silent { what: "more of an answer", after: self.idle }),
        }
    }

    /// Its whole body, of at most `limit` bytes.
    pub(super) async fn read(mut self, what: &str, limit: usize) -> Result<Bytes, Fault> {
        let too_large = || Fault::Misbehaved(format!("{what} of more than {limit} bytes").into());
        if self.length().is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        let mut body = BytesMut::new();
        while let Some(piece) = self.piece().await? {
            if body.len() + piece.len() > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&piece);
        }
        Ok(body.freeze())
    }

    /// Reads what is left of a short answer, so that its connection can be used again.
    pub(super) async fn discard(mut self) {
        let mut left = MAX_REFUSAL;
        while let Ok(Some(piece)) = self.piece().await {
            match left.checked_sub(piece.len()) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    }

    /// What an answer that is no success says. Its body counts as far as it can be had; `secrets` are taken out of its words.
    pub(super) async fn refusal(mut self, known: bool, secrets: &Shown) -> Refusal {
        let (status, party) = (self.status(), self.party);
        let retry_after = retry_after(self.response.headers(), SystemTime::now());
        let mut body = BytesMut::new();
        while body.len() < MAX_REFUSAL {
            match self.piece().await {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) | Err(_) => break,
            }
        }
        body.truncate(MAX_REFUSAL);
        let (code, words) = Refusal::read(&body);
        let words = secrets.taken_out_of(words);
        Refusal { party, status, code, words, retry_after, known, out_of_scope: false }
    }
}

/// What was shown to somebody in this operation, and must not come back in words.
#[derive(Default)]
pub(super) struct Shown(Vec<SecretValue>);

impl Shown {
    /// Remembers what an authorization shows, and the form in which it goes over the wire.
    pub(super) fn remember(&mut self, wire: &Wire, authorization: &Authorization) {
        let value = match authorization {
            Authorization::Basic { password, .. } => password,
            Authorization::Bearer(token) => token,
        };
        self.remember_secret(value);
        // Built and never sent: the header as reqwest writes it.
        let request = wire.dressed(wire.client.get("http://localhost/"), Some(authorization)).build();
        if let Ok(request) = request
            && let Some(header) = request.headers().get(AUTHORIZATION)
            && let Some(encoded) = header.as_bytes().splitn(2, |byte| *byte == b' ').nth(1)
            && let Ok(encoded) = SecretValue::new(encoded)
        {
            self.remember_secret(&encoded);
        }
    }

    pub(super) fn remember_secret(&mut self, secret: &SecretValue) {
        // A blob's stream may get a new token every minute for hours; what is old enough is worth nothing any more.
        const MOST: usize = 32;
        if self.0.len() == MOST {
            self.0.remove(0);
        }
        self.0.push(secret.clone());
    }

    pub(super) fn taken_out_of(&self, mut words: String) -> String {
        for secret in &self.0 {
            if let Ok(secret) = secret.expose_str()
                && !secret.is_empty()
                && words.contains(secret)
            {
                words = words.replace(secret, "[redacted]");
            }
        }
        words
    }
}

fn client(config: &OciRegistryConfig) -> Result<reqwest::Client> {
    let mut extra = Vec::new();
    for (index, pem) in config.certificates.iter().enumerate() {
        let wrong = |what: String| {
            Error::invalid(format!("`certificates[{index}]` {what}; accepted: PEM blocks of certificates"))
                .with_context("index", index)
        };
        let before = extra.len();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            extra.push(certificate.map_err(|error| wrong(format!("is no PEM text: {error}")))?);
        }
        if extra.len() == before {
            return Err(wrong("holds no certificate".to_owned()));
        }
    }
    let tls_error =
        |error: rustls::Error| Error::invalid("the certificates can't be used").with_source(error);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(extra, provider.clone())
        .map_err(tls_error)?;
    // A process-wide provider belongs to the embedder: ours is our own.
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(tls_error)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        // What is tried again, and how often, is `pace`'s business.
        .retry(reqwest::retry::never())
        .connect_timeout(config.connect_timeout)
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(8)
        .user_agent(concat!("ews-docker/", env!("CARGO_PKG_VERSION")));
    let builder = if config.environment_proxy { builder } else { builder.no_proxy() };
    builder.build().map_err(|error| Error::internal("the HTTP client can't be made").with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out_of_words_in_both_forms() {
        let wire = Wire::new(OciRegistryConfig::default()).unwrap();
        let mut shown = Shown::default();
        let password = SecretValue::new("hunter2").unwrap();
        shown.remember(&wire, &Authorization::Basic { user: "me".to_owned(), password });
        // `bWU6aHVudGVyMg==` is `me:hunter2`.
        let words = shown.taken_out_of("bad password hunter2 in Basic bWU6aHVudGVyMg==".to_owned());
        assert_eq!(words, "bad password [redacted] in Basic [redacted]");
        shown.remember(&wire, &Authorization::Bearer(SecretValue::new("tkn").unwrap()));
        assert_eq!(shown.taken_out_of("tkn".to_owned()), "[redacted]");
    }

    #[test]
    fn certificates_are_read_at_once() {
        for text in ["", "no certificate", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"] {
            let error = Wire::new(OciRegistryConfig::default().with_certificates(text)).err().unwrap();
            assert_eq!(error.kind(), ews_core::ErrorKind::Invalid, "{text}");
            assert!(error.message().contains("certificates[0]"), "{error}");
        }
    }
}
