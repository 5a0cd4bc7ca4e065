//! How services and rollouts stand, and what there was.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::IntoResponse as _;
use ews_core::time::parse_duration;
use ews_core::{Error, ErrorKind, Result, ServiceName};
use ews_deploy::RolloutId;
use ews_monitor::prometheus;
use tokio::time::timeout;

use super::wire::{HistoryView, HostView, RolloutView, ServiceView};
use super::{Answered, Api, WAIT, json, parameters, service_name};

/// The most entries of the audit trail in one answer.
const AUDIT: usize = 200;
/// How long a rollout that was not begun yet is looked for.
const LOOK: Duration = Duration::from_millis(200);

pub(super) async fn host(State(api): State<Api>) -> Answered {
    let ending = api.parts.ending.load(Ordering::Relaxed);
    Ok(json(StatusCode::OK, &HostView { ending, ..api.parts.host.clone() }))
}

pub(super) async fn metrics(State(api): State<Api>) -> Answered {
    let text = prometheus::text(&api.parts.live);
    Ok(([(header::CONTENT_TYPE, prometheus::MEDIA_TYPE)], text).into_response())
}

pub(super) async fn services(State(api): State<Api>) -> Answered {
    let mut views = Vec::new();
    for service in api.deployer().services().await? {
        match view(&api, &service).await {
            Ok(view) => views.push(view),
            // It was removed between the two looks.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(json(StatusCode::OK, &views))
}

pub(super) async fn service(State(api): State<Api>, Path(name): Path<String>) -> Answered {
    let view = view(&api, &service_name(&name)?).await?;
    Ok(json(StatusCode::OK, &view))
}

async fn view(api: &Api, service: &ServiceName) -> Result<ServiceView> {
    let status = Box::pin(api.deployer().status(service)).await?;
    Ok(ServiceView {
        service: status.service,
        desired: status.desired,
        ready: status.ready,
        unknown: status.unknown,
        stable: status.stable,
        rollout: status.rollout,
        instances: status.instances,
        removing: status.removing,
    })
}

pub(super) async fn history(State(api): State<Api>, Path(name): Path<String>) -> Answered {
    let service = service_name(&name)?;
    // What was never deployed has no history, and is not there.
    Box::pin(api.deployer().status(&service)).await?;
    let rollouts = Box::pin(api.deployer().history(&service)).await?;
    let audit = api.deployer().audit(&service, AUDIT).await?;
    Ok(json(StatusCode::OK, &HistoryView { rollouts, audit }))
}

/// 200 for one that has ended, 202 for one that goes on.
pub(super) async fn rollout(
    State(api): State<Api>,
    Path((name, number)): Path<(String, String)>,
    uri: Uri,
) -> Answered {
    let service = service_name(&name)?;
    let number =
        number.parse().map_err(|_| Error::invalid("not the number of a rollout; accepted: 1 and above"))?;
    let wait = match parameters(&uri, &["wait"])?.get("wait") {
        Some(wait) => parse_duration(wait)?,
        None => Duration::ZERO,
    };
    if wait > WAIT {
        let message = format!("a wait of more than {WAIT:?}; accepted: at most that, and to ask again");
        return Err(Error::invalid(message).into());
    }
    let id = RolloutId { service, number };
    // It looks at once, and refuses one that nobody asked for.
    let report = match timeout(wait.max(LOOK), Box::pin(api.deployer().wait(&id))).await {
        Ok(report) => Some(report?),
        Err(_) => match Box::pin(api.deployer().rollout(&id)).await {
            Ok(report) => Some(report),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        },
    };
    let has_ended = report.as_ref().is_some_and(|report| report.outcome.is_some());
    Ok(json(if has_ended { StatusCode::OK } else { StatusCode::ACCEPTED }, &RolloutView { report }))
}
