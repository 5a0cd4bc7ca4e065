//! Webhooks: `POST /hooks/{provider}/{rule}`.
//!
//! A request is believed by its signature over the raw bytes, then read, then compared with its rule, then written down, then
//! answered: 202, with what became of it. Whoever is not believed learns nothing, not even which rules there are. What a rule is
//! not about is answered with 202 too and why, since senders turn off what fails.

mod read;
mod verify;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use ews_core::http::{Access, ControlConfig, Problem, control};
use ews_core::{Error, ErrorKind, Result, Timestamp};
use serde::Serialize;

use super::Inner;
use super::answer::{json, problem};
use super::heard;
use super::make::Wish;
use super::record::Accepted;
use read::Said;

pub(super) use verify::once;

/// What became of a webhook.
#[derive(Debug, Serialize)]
struct Outcome {
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<Timestamp>,
}

impl Outcome {
    fn of(result: &'static str, why: Option<String>) -> Self {
        Self { result, why, due_at: None }
    }
}

#[derive(Debug, Serialize)]
struct Outcomes {
    results: Vec<Outcome>,
}

pub(super) fn router(inner: &Arc<Inner>) -> Result<Router> {
    let routes = Router::new().route("/hooks/{provider}/{rule}", post(hook)).with_state(Arc::clone(inner));
    control(routes, Access::Open, ControlConfig::default().with_max_body(inner.config.limits.hook_body))
}

async fn hook(
    State(inner): State<Arc<Inner>>,
    Path((provider, name)): Path<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> std::result::Result<Response, Problem> {
    let rule = inner.config.rules.get(&name).filter(|rule| rule.provider.name() == provider);
    let Some(rule) = rule else {
        // As much work as for one that is there.
        let _ = hmac_sha256::HMAC::mac(&body, [0; 32]);
        return Err(refused());
    };
    let secrets = inner.vault.values(&rule.secrets).await.map_err(|_| unavailable())?;
    let query = uri.query().unwrap_or_default();
    if !verify::is_genuine(rule, &secrets, &headers, query, &body, inner.now()) {
        return Err(refused());
    }
    let results = match document(&headers, &body) {
        Err(why) => vec![Outcome::of("ignored", Some(why.to_owned()))],
        Ok(document) => match read::read(rule, &headers, &document, &body) {
            Said::Ping => vec![Outcome::of("pong", None)],
            Said::Ignored(why) => vec![Outcome::of("ignored", Some(why))],
            Said::Heard(all) => {
                let mut results = Vec::new();
                for (id, heard) in all {
                    results.push(take(&inner, (&name, rule), &id, heard).await?);
                }
                results
            }
        },
    };
    Ok(json(StatusCode::ACCEPTED, &Outcomes { results }).into_response())
}

/// What a body says, as if its signature had been right.
#[cfg(fuzzing)]
pub(super) fn understood(rule: &super::rule::Rule, headers: &HeaderMap, body: &[u8]) -> Vec<heard::Heard> {
    match document(headers, body).map(|document| read::read(rule, headers, &document, body)) {
        Ok(Said::Heard(all)) => all.into_iter().map(|(_, heard)| heard).collect(),
        _ => Vec::new(),
    }
}

async fn take(
    inner: &Inner,
    (name, rule): (&str, &super::rule::Rule),
    id: &str,
    heard: heard::Heard,
) -> Result<Outcome> {
    if let Some(why) = rule.refuses(&heard) {
        return Ok(Outcome::of("ignored", Some(why)));
    }
    let wish = match Wish::of(&rule.source, &heard) {
        Ok(wish) => wish,
        Err(error) => return Ok(Outcome::of("ignored", Some(error.message().to_owned()))),
    };
    let keep = inner.config.limits.deliveries;
    let accepted = inner.records.accept((name, rule), id, (heard, wish), inner.now(), keep).await?;
    inner.wake.notify_one();
    Ok(match accepted {
        Accepted::Repeated => Outcome::of("repeated", Some("it was delivered before".to_owned())),
        Accepted::Due(at) => Outcome { due_at: Some(at), ..Outcome::of("accepted", None) },
    })
}

/// The document in a body; GitHub can send it as a form's field, which is not read.
fn document(headers: &HeaderMap, body: &[u8]) -> std::result::Result<serde_json::Value, &'static str> {
    let form = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form"));
    if form {
        return Err("the body is a form; let the sender send `application/json`");
    }
    heard::read(body)
}

fn refused() -> Problem {
    let error = Error::new(
        ErrorKind::Unauthorized,
        "no rule of this name believes it; accepted: the provider's signature by the rule's secret",
    );
    problem(error, StatusCode::UNAUTHORIZED)
}

fn unavailable() -> Problem {
    Error::new(ErrorKind::Unavailable, "the rule's secret can't be had now; send it again").into()
}
