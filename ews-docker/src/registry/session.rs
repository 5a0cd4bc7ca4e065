//! One operation on one repository: requests with the credentials they turn out to need, made again where that may help.
//!
//! A request goes out as we are known so far. A challenge of the registry's own origin (never of a host that it redirects to) is
//! answered once with credentials or a token; a token that has meanwhile run out, once more with a new one. What a
//! registry asked for is remembered between operations, so that the next one begins with it; that holds no secret.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ews_core::{Error, ErrorKind, ImageRef, Result};
use reqwest::Url;
use tokio::time::{Instant, timeout_at};

use super::challenge::{self, Challenge, Rights};
use super::fault::{Fault, Party, located};
use super::origin::Origin;
use super::pace::Pace;
use super::token::{self, TokenKey, Tokens};
use super::wire::{Answer, Authorization, Question, Shown, Wire};
use crate::credentials::{Credential, CredentialSource as _, Credentials};

/// How many registries' challenges are remembered.
const MAX_CHALLENGES: usize = 256;
/// How often one call answers a challenge: with what was known, with a token for a wider scope, and with a new token.
const MAX_CHALLENGED: u32 = 3;

/// What all operations have in common.
pub(super) struct Shared {
    pub(super) wire: Wire,
    credentials: Credentials,
    challenges: Mutex<BTreeMap<Origin, Challenge>>,
    tokens: Tokens,
}

impl Shared {
    pub(super) fn new(wire: Wire, credentials: Credentials) -> Self {
        Self { wire, credentials, challenges: Mutex::default(), tokens: Tokens::new() }
    }

    fn challenge(&self, origin: &Origin) -> Option<Challenge> {
        self.challenges.lock().unwrap_or_else(PoisonError::into_inner).get(origin).cloned()
    }

    fn remember(&self, origin: &Origin, challenge: &Challenge) {
        let mut challenges = self.challenges.lock().unwrap_or_else(PoisonError::into_inner);
        if challenges.len() >= MAX_CHALLENGES && !challenges.contains_key(origin) {
            challenges.pop_first();
        }
        challenges.insert(origin.clone(), challenge.clone());
    }
}

/// One operation.
pub(super) struct Session {
    shared: Arc<Shared>,
    pub(super) name: ImageRef,
    origin: Origin,
    /// The name that credentials are looked up under.
    holder: String,
    rights: Rights,
    authorization: Option<Authorization>,
    /// Which token the authorization is, where it is one.
    token: Option<TokenKey>,
    /// Whether somebody is known by it.
    known: bool,
    shown: Shown,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, name: &ImageRef, rights: Rights) -> Result<Self> {
        let (origin, holder) =
            shared.wire.config.endpoint(name.registry()).map_err(|error| located(error, name))?;
        let name = name.clone();
        Ok(Self {
            shared,
            name,
            origin,
            holder,
            rights,
            authorization: None,
            token: None,
            known: false,
            shown: Shown::default(),
        })
    }

    pub(super) fn wire(&self) -> &Wire {
        &self.shared.wire
    }

    /// The address of a path of the name's repository, such as `tags/list`.
    pub(super) fn url(&self, path: &str) -> Result<Url, Fault> {
        let whole = format!("/v2/{}/{path}", self.name.repository());
        self.origin.url(&whole).ok_or_else(|| Fault::Given(Error::internal("the address can't be written")))
    }

    /// Reads a `Location` that an answer from `at` gave.
    pub(super) fn location(&self, answer: &Answer, at: &Url) -> Result<Url, Fault> {
        let location = answer.header("location");
        let found = location.and_then(|location| self.origin.follow(at, location));
        found.ok_or_else(|| {
            Fault::Misbehaved("the registry tells no place, or one that is no address, for an upload".into())
        })
    }

    /// As an error of this operation; `missing` is what a 404 means here.
    pub(super) fn error(&self, fault: Fault, missing: ErrorKind) -> Error {
        fault.into_error(&self.name, missing)
    }

    /// A pace that begins now.
    pub(super) fn pace(&self) -> Result<Pace, Fault> {
        Pace::new(&self.shared.wire.config, Instant::now())
    }

    /// Makes a request, and makes it again where it failed for a passing reason. What comes back is a success; any other status is
    /// a fault.
    pub(super) async fn call(&mut self, question: &Question) -> Result<Answer, Fault> {
        let mut pace = self.pace()?;
        loop {
            let fault = match self.once(question, pace.deadline).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            match pace.pause(&fault, Instant::now()) {
                Some(pause) => self.wait(question, &fault, pause).await,
                None => return Err(fault),
            }
        }
    }

    /// Makes a request once, but for what it takes to be known.
    pub(super) async fn once(&mut self, question: &Question, deadline: Instant) -> Result<Answer, Fault> {
        let total = self.shared.wire.config.total_timeout;
        match timeout_at(deadline, Box::pin(self.known_as_needed(question))).await {
            Ok(result) => result,
            Err(_) => Err(Fault::Silent { what: "end of the call", after: total }),
        }
    }

    /// Makes a request whose body can't be made again. Whoever calls it has made sure before that we are known.
    pub(super) async fn send_stream(
        &mut self,
        question: &Question,
        body: reqwest::Body,
    ) -> Result<Answer, Fault> {
        let sent = self.shared.wire.send_stream(question, body, &self.origin, self.authorization.as_ref());
        let answer = Box::pin(sent).await?;
        if answer.status().is_success() { Ok(answer) } else { Err(self.refuse(answer).await) }
    }

    /// What an answer that is no success says.
    async fn refuse(&self, answer: Answer) -> Fault {
        let asked = challenge::read(answer.response.headers()).ok().flatten();
        let mut refusal = answer.refusal(self.known, &self.shown).await;
        // A token that was given and does not suffice: the service knew us, or gives it to everybody.
        refusal.out_of_scope = asked.is_some_and(|asked| asked.out_of_scope) || self.token.is_some();
        Fault::Refused(Box::new(refusal))
    }

    async fn wait(&self, question: &Question, fault: &Fault, pause: Duration) {
        tracing::debug!(
            registry = self.name.registry(),
            repository = self.name.repository(),
            method = %question.method,
            status = fault.status().map(|status| status.as_u16()),
            pause_ms = pause.as_millis() as u64,
            "will ask again"
        );
        tokio::time::sleep(pause).await;
    }

    async fn known_as_needed(&mut self, question: &Question) -> Result<Answer, Fault> {
        if self.authorization.is_none()
            && let Some(challenge) = self.shared.challenge(&self.origin)
        {
            self.become_known(&challenge).await?;
        }
        let mut challenged = 0;
        loop {
            let wire = &self.shared.wire;
            let answer =
                wire.exchange(question, &self.origin, self.authorization.as_ref(), Party::Registry).await?;
            if answer.status().as_u16() == 401
                && answer.party == Party::Registry
                && challenged < MAX_CHALLENGED
            {
                challenged += 1;
                if self.answer_challenge(&answer).await? {
                    answer.discard().await;
                    continue;
                }
            }
            return if answer.status().is_success() { Ok(answer) } else { Err(self.refuse(answer).await) };
        }
    }

    /// Whether a challenge was answered with something new.
    async fn answer_challenge(&mut self, answer: &Answer) -> Result<bool, Fault> {
        let Some(asked) = challenge::read(answer.response.headers())? else { return Ok(false) };
        let before = self.rights.clone();
        if let Some(scope) = &asked.scope {
            self.rights.widen(scope);
        }
        match (&self.authorization, &asked.challenge) {
            // The same password would be refused again.
            (Some(Authorization::Basic { .. }), Challenge::Basic) => return Ok(false),
            (Some(Authorization::Bearer(_)), Challenge::Bearer { .. }) => {
                if asked.out_of_scope && before == self.rights {
                    return Ok(false);
                }
                if let Some(key) = self.token.take() {
                    self.shared.tokens.forget(&key);
                }
            }
            _ => {}
        }
        self.shared.remember(&self.origin, &asked.challenge);
        self.authorization = None;
        self.become_known(&asked.challenge).await
    }

    /// Gets what a challenge asks for; false where there is nothing to show.
    async fn become_known(&mut self, challenge: &Challenge) -> Result<bool, Fault> {
        let found = self.shared.credentials.find(&self.holder).await;
        let credential =
            found.map_err(|error| Fault::Given(error.with_context("credentials_of", &self.holder)))?;
        self.known = credential.is_some();
        match challenge {
            Challenge::Basic => self.show_password(credential),
            Challenge::Bearer { realm, service } => {
                self.show_token(realm, service.as_deref(), credential.as_ref()).await?;
                Ok(true)
            }
        }
    }

    fn show_password(&mut self, credential: Option<Credential>) -> Result<bool, Fault> {
        match credential {
            None => Ok(false),
            Some(Credential::IdentityToken(_)) => Err(Fault::Given(Error::new(
                ErrorKind::Unauthorized,
                "the registry wants a user and a password, and an identity token is configured for it",
            ))),
            Some(Credential::Password { user, password }) => {
                if password.expose_str().is_err() || user.contains(':') {
                    let message =
                        "the user holds a `:` or the password is no text: neither can be sent to a registry";
                    return Err(Fault::Given(Error::new(ErrorKind::Unauthorized, message)));
                }
                let authorization = Authorization::Basic { user, password };
                self.shown.remember(&self.shared.wire, &authorization);
                self.authorization = Some(authorization);
                Ok(true)
            }
        }
    }

    async fn show_token(
        &mut self,
        realm: &Url,
        service: Option<&str>,
        credential: Option<&Credential>,
    ) -> Result<(), Fault> {
        let key = self.shared.tokens.key(realm, service, &self.rights, credential);
        let value = match self.shared.tokens.get(&key, Instant::now()) {
            Some(value) => value,
            None => {
                let wire = &self.shared.wire;
                let token =
                    token::fetch(wire, realm, service, &self.rights, credential, &mut self.shown).await?;
                self.shared.tokens.put(key.clone(), &token, Instant::now());
                token.value
            }
        };
        let authorization = Authorization::Bearer(value);
        self.shown.remember(&self.shared.wire, &authorization);
        self.authorization = Some(authorization);
        self.token = Some(key);
        Ok(())
    }
}
