//! Deployments, and what they would do.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use ews_core::{Digest, Error, ErrorKind, ImageRef, Result, ServiceName, ServiceSpec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Answered, Caller, document, key};
use crate::deployer::Found;
use crate::intake::Inner;
use crate::intake::answer::json;
use crate::intake::config::Verb;
use crate::intake::make::{Made, Wish};
use crate::intake::rule::{MadeKind, spec_of};
use crate::request::{Bounds, Concurrency, DeployRequest, Traffic};
use crate::rollout::RolloutId;
use crate::strategy::Strategy;

/// A deployment as it is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DeployBody {
    image: Option<ImageRef>,
    upload: Option<UploadBody>,
    spec: Option<Value>,
    strategy: Option<Strategy>,
    traffic: Option<Traffic>,
    bounds: Option<Bounds>,
    concurrency: Concurrency,
    reason: String,
}

/// What is made of an upload.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct UploadBody {
    id: Option<String>,
    digest: Option<Digest>,
    kind: MadeKind,
    on: Option<String>,
    name: Option<ImageRef>,
    root: Option<String>,
    main: Option<String>,
}

/// What was accepted.
#[derive(Debug, Serialize)]
pub(super) struct Accepted {
    pub(super) service: ServiceName,
    pub(super) rollout: u64,
    /// Where to look.
    pub(super) href: String,
}

impl From<RolloutId> for Accepted {
    fn from(id: RolloutId) -> Self {
        let href = format!("/v1/services/{}/rollouts/{}", id.service, id.number);
        Self { service: id.service, rollout: id.number, href }
    }
}

pub(super) async fn deploy(
    State(inner): State<Arc<Inner>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Answered {
    let service = caller.may(Verb::Deploy, &name)?;
    let key = key(&caller, &method, &uri, &headers)?;
    let mut request = Box::pin(request(&inner, &caller, &service, &body)).await?;
    request.key = key.map(|key| format!("api:{key}"));
    let id = Box::pin(inner.deployer.by(&caller.by()).deploy(&request)).await?;
    Ok(json(StatusCode::ACCEPTED, &Accepted::from(id)))
}

pub(super) async fn plan(
    State(inner): State<Arc<Inner>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    body: Bytes,
) -> Answered {
    // A source is made for it, which may push an image: who only reads may not.
    caller.may(Verb::Read, &name)?;
    let service = caller.may(Verb::Deploy, &name)?;
    let request = Box::pin(request(&inner, &caller, &service, &body)).await?;
    Ok(json(StatusCode::OK, &Box::pin(inner.deployer.plan(&request)).await?))
}

async fn request(
    inner: &Inner,
    caller: &Caller,
    service: &ServiceName,
    body: &[u8],
) -> Result<DeployRequest> {
    let mut body: DeployBody = document(body)?;
    // A spec may hold its image itself; what lies on a node is nothing for a token to name.
    if let Some(Value::Object(spec)) = &mut body.spec
        && let Some(image) = spec.remove("image")
    {
        let wrong =
            || Error::invalid("two images, or one that is no text").with_context("field", "spec.image");
        let image = image.as_str().filter(|_| body.image.is_none()).ok_or_else(wrong)?;
        body.image = Some(image.parse().map_err(|error: Error| error.with_context("field", "spec.image"))?);
    }
    let spec = match &body.spec {
        Some(spec) => spec_of(spec, Some(service))?,
        None => present(inner, service).await?,
    };
    let wish = match (body.image, body.upload) {
        (Some(image), None) => Wish::Image(image),
        (None, Some(upload)) => of_upload(inner, caller, upload)?,
        _ => {
            return Err(Error::invalid(
                "no source, or two; accepted: `image`, or `upload`, or a `spec` with an `image`",
            )
            .with_context("field", "image"));
        }
    };
    let by = caller.by();
    let spec = inner.make(&wish, None, spec, (&by, Some(&caller.name))).await?;
    let mut request = DeployRequest::new(spec)
        .with_strategy(body.strategy.unwrap_or_default())
        .with_concurrency(body.concurrency)
        .with_reason(body.reason);
    request.traffic = body.traffic;
    request.bounds = body.bounds;
    Ok(request)
}

fn of_upload(inner: &Inner, caller: &Caller, upload: UploadBody) -> Result<Wish> {
    let digest = match (&upload.id, upload.digest) {
        (Some(id), None) => inner.uploads.digest_of(id, &caller.name)?,
        (None, Some(digest)) => digest,
        _ => {
            return Err(Error::invalid("an upload by nothing or by two; accepted: `id` or `digest`")
                .with_context("field", "upload"));
        }
    };
    let UploadBody { kind, on, name, root, main, .. } = upload;
    Ok(Wish::Upload { digest, made: Made { kind, on, name, root, main } })
}

/// The spec of the revision that runs, whose source is replaced.
async fn present(inner: &Inner, service: &ServiceName) -> Result<ServiceSpec> {
    let repository = inner.deployer.repository(service);
    let found = Found::read(&repository).await?;
    let record = match found.state.current {
        Some(number) => repository.revision(number).await?,
        None => repository.revisions().await?.pop(),
    };
    let none = || {
        Error::new(ErrorKind::NotFound, "there is no such service yet; accepted: a `spec` beside the source")
            .with_context("service", service)
    };
    Ok(record.ok_or_else(none)?.spec().clone())
}
