//! The gateway's admin endpoint: what a controller in another process needs, and what a scraper reads.
//!
//! | Path | What |
//! |---|---|
//! | `POST /v1/balancer/apply` | a `Change` → `Applied` |
//! | `POST /v1/balancer/objects` | an [`ObjectsRequest`] → the objects, at most 1,000 at a time; go on with `after` |
//! | `POST /v1/balancer/observe` | an [`ObserveRequest`] → the views, of every endpoint that is asked for |
//! | `GET /v1/balancer/watch` | notices, one JSON value per line, from the answer's begin on; an empty line every 5 s |
//! | `POST /v1/metrics/instant`, `/range`, `/describe` | a question of [`wire`](crate::wire) → its answer |
//! | `GET /v1/capabilities` | what both can do |
//! | `GET /v1/openapi.json` | all of this as OpenAPI 3.1: [`OPENAPI`] |
//! | `GET /metrics` | every series, as Prometheus text |
//! | `GET /healthz`, `/readyz` | 200 as long as the process lives, and serves what was applied; without a token |
//!
//! Errors are problems (RFC 9457) as [`ews_core::http`] has them. The router listens nowhere by itself:
//!
//! ```no_run
//! use ews_core::http::{Access, Tokens};
//! use ews_route::{Gateway, admin};
//!
//! # async fn serve(gateway: Gateway, tokens: Tokens) -> Result<(), Box<dyn std::error::Error>> {
//! let router = admin::router(&gateway, Access::Tokens(tokens))?;
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:7070").await?;
//! axum::serve(listener, router).await?;
//! # Ok(())
//! # }
//! ```

mod prometheus;

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ews_core::balancer::{Applied, Balancer, Change, GatewayView, Stored};
use ews_core::event::Notice;
use ews_core::http::{Access, ControlConfig, Problem, control};
use ews_core::metrics::{Answer, MetricInfo, Metrics, Reading};
use ews_core::{Error, Result};
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;

use crate::Gateway;
use crate::wire::{
    Capabilities, DescribeRequest, InstantRequest, ObjectsRequest, ObserveRequest, RangeRequest,
};

/// The largest request: a change of 1,000 operations of 16 KiB each.
pub const MAX_BODY: usize = 16 * 1024 * 1024;
/// The endpoint's description, OpenAPI 3.1 as JSON.
pub const OPENAPI: &str = include_str!("openapi.json");
/// How often a watch that has nothing to say says so.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);

/// The admin router of a gateway. See the [module](self).
///
/// # Errors
/// Those of [`control`].
pub fn router(gateway: &Gateway, access: Access) -> Result<Router> {
    let routes = Router::new()
        .route("/v1/capabilities", get(capabilities))
        .route("/v1/balancer/apply", post(apply))
        .route("/v1/balancer/objects", post(objects))
        .route("/v1/balancer/observe", post(observe))
        .route("/v1/balancer/watch", get(watch))
        .route("/v1/metrics/instant", post(instant))
        .route("/v1/metrics/range", post(range))
        .route("/v1/metrics/describe", post(describe))
        .route("/v1/openapi.json", get(openapi))
        .route("/metrics", get(prometheus))
        .with_state(gateway.clone());
    let health = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(gateway.clone());
    // In this order, so that what is nowhere is behind the token too.
    Ok(health.merge(control(routes, access, ControlConfig::default().with_max_body(MAX_BODY))?))
}

type Answered<T> = std::result::Result<Json<T>, Problem>;

/// axum's own extractor would tell a wrong document as it sees fit; here it is `Invalid` as everywhere.
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T> {
    serde_json::from_slice(body)
        .map_err(|error| Error::invalid(format!("the request can't be read: {error}")))
}

async fn capabilities(State(gateway): State<Gateway>) -> Json<Capabilities> {
    Json(Capabilities {
        gateway: gateway.id().clone(),
        balancer: Balancer::capabilities(&gateway),
        metrics: Metrics::capabilities(&gateway),
    })
}

async fn apply(State(gateway): State<Gateway>, body: Bytes) -> Answered<Applied> {
    let change: Change = read(&body)?;
    Ok(Json(gateway.apply(&change).await?))
}

async fn objects(State(gateway): State<Gateway>, body: Bytes) -> Answered<Vec<Stored>> {
    let request: ObjectsRequest = read(&body)?;
    Ok(Json(gateway.objects(&request.into()).await?))
}

async fn observe(State(gateway): State<Gateway>, body: Bytes) -> Answered<Vec<GatewayView>> {
    let request: ObserveRequest = read(&body)?;
    Ok(Json(gateway.observe(&request.into()).await?))
}

async fn instant(State(gateway): State<Gateway>, body: Bytes) -> Answered<Answer<Reading>> {
    let InstantRequest { query, at } = read(&body)?;
    Ok(Json(gateway.instant(&query, at).await?))
}

async fn range(State(gateway): State<Gateway>, body: Bytes) -> Answered<Answer<Vec<Reading>>> {
    let RangeRequest { query, range } = read(&body)?;
    Ok(Json(gateway.range(&query, &range).await?))
}

async fn describe(State(gateway): State<Gateway>, body: Bytes) -> Answered<Vec<MetricInfo>> {
    let DescribeRequest { after, limit } = read(&body)?;
    Ok(Json(Metrics::describe(&gateway, after, limit).await?))
}

async fn watch(State(gateway): State<Gateway>) -> std::result::Result<Response, Problem> {
    let events = gateway.watch().await?;
    // Only a name is kept, so that a watcher does not keep the gateway alive.
    drop(gateway);
    let lines = futures_util::stream::unfold((events, true), |(mut events, is_first)| async move {
        if is_first {
            return Some((Bytes::from_static(b"\n"), (events, false)));
        }
        match tokio::time::timeout(HEARTBEAT, events.next()).await {
            Err(_) => Some((Bytes::from_static(b"\n"), (events, false))),
            Ok(None) => None,
            Ok(Some(notice)) => Some((line(&notice), (events, false))),
        }
    });
    let body = Body::from_stream(lines.map(Ok::<_, Infallible>));
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn line<E: serde::Serialize>(notice: &Notice<E>) -> Bytes {
    // Plain fields into memory do not fail; an empty line would be a heartbeat.
    let mut line = serde_json::to_vec(notice).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

async fn ready(State(gateway): State<Gateway>) -> (StatusCode, &'static str) {
    // It has replayed its journal before there is a router; what is left is that its threads have taken it.
    let state = gateway.core().state().table.generation();
    let shared = &gateway.core().shared;
    if state == 0 || shared.served() > 0 {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not yet\n")
    }
}

async fn openapi() -> ([(header::HeaderName, HeaderValue); 1], &'static str) {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], OPENAPI)
}

async fn prometheus(State(gateway): State<Gateway>) -> (HeaderMap, String) {
    let text = prometheus::text(&gateway.core().series.newest());
    let mut headers = HeaderMap::new();
    headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    (headers, text)
}
