//! The deploy API: tokens, routes, and what every request of it has in common.
//!
//! The token is looked at before a byte of a body is read and before it is said which paths there are. What a token may do is its
//! scope: services by pattern, and verbs. Requests and answers are JSON, errors are problems (RFC 9457).

mod act;
mod deploy;
mod events;
mod read;
mod uploads;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, patch, post, put};
use ews_core::http::{Access, ControlConfig, Problem, Tokens, control};
use ews_core::{Digest, Error, ErrorKind, Result, ServiceName};
use serde::de::DeserializeOwned;

use super::answer::problem;
use super::config::{TokenScope, Verb};
use super::glob::Glob;
use super::heard;
use super::hooks::once;
use super::{Inner, service_name};

/// The API's description, OpenAPI 3.1 as JSON.
pub const OPENAPI: &str = include_str!("openapi.json");

/// The longest that a request waits for a rollout's end.
const WAIT: Duration = Duration::from_secs(60);

type Answered = std::result::Result<Response, Problem>;

/// Whose token a request carries.
#[derive(Clone)]
struct Caller {
    name: Arc<str>,
    scope: Arc<TokenScope>,
}

impl Caller {
    /// The service of that name, where the token may do this to it.
    fn may(&self, verb: Verb, service: &str) -> Result<ServiceName> {
        let service = service_name(service)?;
        self.can(verb)?;
        if self.sees(&service) {
            return Ok(service);
        }
        Err(Error::new(
            ErrorKind::Unauthorized,
            "the token is not for this service; accepted: the services of its scope",
        )
        .with_context("service", service))
    }

    fn can(&self, verb: Verb) -> Result<()> {
        if self.scope.verbs.contains(&verb) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unauthorized,
            format!("the token is not for this; accepted: one with the verb `{verb}`"),
        ))
    }

    fn sees(&self, service: &ServiceName) -> bool {
        Glob::any(&self.scope.services, service.as_str())
    }

    /// Who asks, for the audit trail.
    fn by(&self) -> String {
        format!("api:{}", self.name)
    }
}

pub(super) fn router(inner: &Arc<Inner>) -> Result<Router> {
    let limits = &inner.config.limits;
    let small = Router::new()
        .route("/v1/openapi.json", get(openapi))
        .route("/v1/audit", get(read::audit))
        .route("/v1/services/{name}/status", get(read::status))
        .route("/v1/services/{name}/history", get(read::history))
        .route("/v1/services/{name}/rollouts/{number}", get(read::rollout))
        .route("/v1/services/{name}/events", get(events::events))
        .route("/v1/services/{name}/rollback", post(act::rollback))
        .route("/v1/services/{name}/restart", post(act::restart))
        .route("/v1/services/{name}/pause", post(act::pause))
        .route("/v1/services/{name}/resume", post(act::resume))
        .route("/v1/services/{name}/abort", post(act::abort))
        .route("/v1/services/{name}/cancel", post(act::cancel))
        .route("/v1/services/{name}/scale", post(act::scale))
        .route("/v1/uploads", post(uploads::begin));
    // A source is made while the caller waits.
    let making = Router::new()
        .route("/v1/services/{name}/deploy", post(deploy::deploy))
        .route("/v1/services/{name}/plan", post(deploy::plan))
        .route("/v1/services/{name}/hotfix", post(act::hotfix));
    let large = Router::new()
        .route(
            "/v1/uploads/{id}",
            patch(uploads::append).get(uploads::see).put(uploads::complete).delete(uploads::delete),
        )
        .route("/v1/artifacts", put(uploads::artifact));
    let bounded = |routes: Router<Arc<Inner>>, max: usize, timeout| {
        let config = ControlConfig::default().with_max_body(max).with_timeout(timeout);
        control(routes.with_state(Arc::clone(inner)), Access::Open, config)
    };
    let day = Duration::from_secs(24 * 3_600);
    let making_limit = (limits.making_limit + Duration::from_secs(60)).min(day);
    let upload = usize::try_from(limits.upload).unwrap_or(usize::MAX);
    let routes = bounded(large, upload, limits.upload_limit)?
        .merge(bounded(making, limits.api_body, making_limit)?)
        .merge(bounded(small, limits.api_body, WAIT + Duration::from_secs(30))?);
    Ok(routes.layer(from_fn_with_state(Arc::clone(inner), admitted)))
}

/// Lets in who has a token that is known here.
async fn admitted(State(inner): State<Arc<Inner>>, mut request: Request, next: Next) -> Response {
    let mut found = None;
    // None is left out, so that which one it is does not show in the time.
    for (name, scope) in &inner.config.tokens {
        let values = inner.vault.values(&scope.secrets).await.unwrap_or_default();
        let Ok(tokens) = Tokens::new(values) else { continue };
        if tokens.open(request.headers()) {
            found = Some(Caller { name: Arc::from(name.as_str()), scope: Arc::new(scope.clone()) });
        }
    }
    let Some(caller) = found else {
        let error = Error::new(
            ErrorKind::Unauthorized,
            "a token is needed; accepted: `Authorization: Bearer` and one that is known here",
        );
        return problem(error, StatusCode::UNAUTHORIZED).into_response();
    };
    request.extensions_mut().insert(caller);
    next.run(request).await
}

async fn openapi() -> ([(header::HeaderName, HeaderValue); 1], &'static str) {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], OPENAPI)
}

/// Reads a document of bounded depth; an empty body is an empty document.
fn document<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    let value = heard::read(body).map_err(Error::invalid)?;
    serde_json::from_value(value).map_err(|error| {
        // Serde's words name the field and what is accepted.
        let message: String = error.to_string().chars().take(1_024).collect();
        Error::invalid(format!("the request can't be read: {message}")).with_context("field", "body")
    })
}

/// The parameters after `?`; of a repeated one the last.
fn parameters(uri: &Uri) -> Result<BTreeMap<String, String>> {
    let query = uri.query().unwrap_or_default();
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decoded(name)?, decoded(value)?))
    });
    pairs.collect()
}

fn decoded(text: &str) -> Result<String> {
    let wrong =
        || Error::invalid("a parameter that is not percent-encoded text").with_context("field", "query");
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
                u8::try_from(high * 16 + low).map_err(|_| wrong())?
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// The key by which a request is known again, of this token and about this, of a length that a record takes.
fn key(caller: &Caller, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Option<String>> {
    if !headers.contains_key("idempotency-key") {
        return Ok(None);
    }
    let said = once(headers, "idempotency-key").filter(|key| (1..=255).contains(&key.len()));
    let said = said.ok_or_else(|| {
        Error::invalid("an Idempotency-Key that is no text of 1 to 255 bytes, or more than one")
            .with_context("field", "Idempotency-Key")
    })?;
    let about = format!("{}\n{method}\n{}\n{said}", caller.name, uri.path());
    Ok(Some(Digest::of(about.as_bytes()).to_string().split_off(7)))
}
