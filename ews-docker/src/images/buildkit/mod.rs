//! Building with BuildKit, over the same call of the engine as the classic builder.
//!
//! Beside the build, a [`session`] stays open through which BuildKit asks back: for a secret when a step mounts it, for a credential when a
//! base's registry wants one. So neither is in the request, in the image's history or in the builder's cache. The log comes as
//! messages of BuildKit's own, which [`trace`] makes into lines.
//!
//! It is spoken by hand, in the few messages that it takes: the client that others use takes secrets from files and environment variables
//! alone, and its driver drops the log.
//!
//! The context is the same archive. BuildKit takes what it is sent: an excluded Dockerfile or ignore file, which the classic builder takes
//! out again, stays in the context.

mod message;
mod session;
mod trace;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use ews_core::image::BuildSpec;
use ews_core::spec::content::EnvValue;
use ews_core::{Error, ErrorKind, Result, SecretValue};
use tokio::time::timeout;

use super::Shared;
use super::build::OPERATION;
use crate::client::Call;
use session::{Answers, Session};

pub(super) use trace::Trace;

impl Shared {
    /// Which builder it is, and what is kept open while it works. Podman and engines on Windows have no BuildKit behind this call.
    pub(super) async fn builder(&self, spec: &BuildSpec, call: Call) -> Result<(Call, Option<Session>)> {
        let facts = self.engine.facts();
        if facts.version.podman || facts.is_windows() {
            return Ok((self.classic(spec, call).await?, None));
        }
        let mut secrets = BTreeMap::new();
        for (id, value) in &spec.secrets {
            secrets.insert(id.clone(), self.secret(id, value).await?);
        }
        let half = || RandomState::new().build_hasher().finish();
        let id = format!("{:016x}{:016x}", half(), half());
        let (credentials, deadline) = (self.credentials.clone(), self.engine.config().call_limit);
        let answers = Answers { secrets, credentials, deadline };
        let session = Session::open(&self.engine, OPERATION, id, answers).await?;
        Ok((call.query("version", "2").query("session", &session.id), Some(session)))
    }

    /// A secret's value: at the last moment before the build, so that what can't be resolved is known before a step ran.
    async fn secret(&self, id: &str, value: &EnvValue) -> Result<SecretValue> {
        let resolver = match value {
            EnvValue::Plain(text) => return SecretValue::new(text.as_bytes()),
            _ => &self.secrets,
        };
        let (EnvValue::Secret { secret }, Some(resolver)) = (value, resolver) else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the build's secret `{id}` is a reference, and this store was given nobody who resolves references: see \
                     `DockerImages::with_secrets`"
                ),
            ));
        };
        let deadline = self.engine.config().call_limit;
        timeout(deadline, resolver.resolve(secret)).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, format!("the secret {secret} did not come in {deadline:?}")))
        })
    }
}
