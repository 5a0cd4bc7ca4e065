//! What is done to a service and its rollout.

use std::time::Duration;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use ews_core::time::parse_duration;
use ews_core::{Error, Result, ScaleChange, ScaleTarget as _, ServiceName};
use ews_deploy::{Deployer, RolloutId};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::wire::{Accepted, RestartBody, RollbackBody, ScaleBody};
use super::{Answered, Api, Caller, WAIT, document, json, parameters, service_name};

impl From<RolloutId> for Accepted {
    fn from(id: RolloutId) -> Self {
        Self { service: id.service, rollout: id.number }
    }
}

/// Something was done that has no more to say.
#[derive(Debug, Serialize)]
struct Done {
    service: ServiceName,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NoBody {}

macro_rules! action {
    ($name:ident, $body:ty, |$deployer:ident, $service:ident, $document:ident| $doing:expr) => {
        pub(super) async fn $name(
            State(api): State<Api>,
            Extension(caller): Extension<Caller>,
            Path(name): Path<String>,
            body: Bytes,
        ) -> Answered {
            let service: ServiceName = service_name(&name)?;
            let $document: $body = document(&body)?;
            let deployer: Deployer = api.deployer().by(caller.0);
            let ($deployer, $service) = (&deployer, &service);
            let done = Box::pin($doing).await?;
            Ok(json(StatusCode::ACCEPTED, &done))
        }
    };
}

fn done(service: &ServiceName) -> Done {
    Done { service: service.clone() }
}

action!(rollback, RollbackBody, |deployer, service, body| async {
    Ok::<_, Error>(Accepted::from(deployer.rollback(service, body.to.as_ref()).await?))
});
action!(restart, RestartBody, |deployer, service, body| async {
    Ok::<_, Error>(Accepted::from(deployer.restart(service, &body.strategy).await?))
});
action!(pause, NoBody, |deployer, service, _body| async {
    deployer.pause(service).await.map(|()| done(service))
});
action!(resume, NoBody, |deployer, service, _body| async {
    deployer.resume(service).await.map(|()| done(service))
});
action!(abort, NoBody, |deployer, service, _body| async {
    deployer.abort(service).await.map(|()| done(service))
});
action!(cancel, NoBody, |deployer, service, _body| async {
    deployer.cancel(service).await.map(|()| done(service))
});
action!(scale, ScaleBody, |deployer, service, body| async {
    deployer.set(service, &ScaleChange::to(body.replicas, body.reason)).await
});

/// 200 once it is gone, 202 while it goes.
pub(super) async fn remove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    uri: Uri,
) -> Answered {
    let service = service_name(&name)?;
    let wait = wait_of(&uri)?;
    // The deployer finds nothing wrong with what is gone; a person who mistyped a name does.
    Box::pin(api.deployer().status(&service)).await?;
    api.deployer().by(caller.0).remove(&service).await?;
    let gone = timeout(wait, api.deployer().wait_removed(&service)).await;
    let status = match gone {
        Ok(gone) => {
            gone?;
            StatusCode::OK
        }
        Err(_) => StatusCode::ACCEPTED,
    };
    Ok(json(status, &done(&service)))
}

fn wait_of(uri: &Uri) -> Result<Duration> {
    match parameters(uri, &["wait"])?.get("wait") {
        Some(wait) => Ok(parse_duration(wait)?.min(WAIT)),
        None => Ok(Duration::ZERO),
    }
}
