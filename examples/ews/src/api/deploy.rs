//! Deployments, and what they would do.
//!
//! A revision is pinned to its content. An artifact of a document is copied under its digest and kept, so that building anew at the
//! same place and deploying again is another revision, and going back runs what ran before; an image is resolved to its digest.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use ews_core::{Error, ErrorKind, Result, ServiceName, Source};
use ews_deploy::DeployRequest;
use ews_deploy::source::{ImageRequest, ProcessRequest, SourceRequest};

use super::wire::{Accepted, DeployBody};
use super::{Answered, Api, Caller, document, json, service_name};
use crate::config::RuntimeKind;

pub(super) async fn deploy(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    body: Bytes,
) -> Answered {
    let request = Box::pin(request(&api, &service_name(&name)?, &body, caller)).await?;
    let id = Box::pin(api.deployer().by(caller.0).deploy(&request)).await?;
    Ok(json(StatusCode::ACCEPTED, &Accepted::from(id)))
}

pub(super) async fn plan(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    body: Bytes,
) -> Answered {
    let request = Box::pin(request(&api, &service_name(&name)?, &body, caller)).await?;
    let plan = Box::pin(api.deployer().plan(&request)).await?;
    Ok(json(StatusCode::OK, &plan))
}

async fn request(api: &Api, service: &ServiceName, body: &[u8], caller: Caller) -> Result<DeployRequest> {
    let body: DeployBody = document(body)?;
    if body.spec.name != *service {
        return Err(Error::invalid(format!(
            "the document is for the service `{}`, and the path names `{service}`",
            body.spec.name
        )));
    }
    let spec = match (&body.spec.instance.source, api.parts.kind) {
        (Source::Image(image), RuntimeKind::Process) => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the service is an image, and this host runs processes; accepted: `command` or `artifact`, or a host with \
                 `runtime = \"docker\"`",
            )
            .with_context("image", &image.reference));
        }
        (Source::Artifact(artifact), RuntimeKind::Docker) => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the service is a program, and this host runs containers; accepted: `image`, or a host with \
                 `runtime = \"process\"`",
            )
            .with_context("artifact", &artifact.location));
        }
        (Source::Image(image), RuntimeKind::Docker) if image.pin.is_none() => {
            let request = ImageRequest::new(image.reference.clone());
            let request = SourceRequest::new(request).with_by(caller.0);
            Box::pin(api.parts.sources.resolve(&request, body.spec)).await?.spec
        }
        (Source::Artifact(artifact), RuntimeKind::Process) if body.keep && artifact.digest.is_none() => {
            let received = Box::pin(api.parts.sources.receive_path(artifact.location.as_ref())).await?;
            let request = SourceRequest::new(ProcessRequest::new(received)).with_by(caller.0);
            Box::pin(api.parts.sources.resolve(&request, body.spec)).await?.spec
        }
        _ => body.spec,
    };
    let mut request = DeployRequest::new(spec)
        .with_strategy(body.strategy)
        .with_concurrency(body.concurrency)
        .with_reason(body.reason);
    (request.traffic, request.remedy, request.key) = (body.traffic, body.remedy, body.key);
    request.bounds = body.bounds;
    Ok(request)
}
