//! How services and rollouts stand, and who asked for what.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use ews_core::time::parse_duration;
use ews_core::{Error, ErrorKind, Result};
use serde::Serialize;
use tokio::time::timeout;

use super::{Answered, Caller, WAIT, parameters};
use crate::audit::AuditEntry;
use crate::deployer::Found;
use crate::intake::Inner;
use crate::intake::answer::json;
use crate::intake::config::Verb;
use crate::rollout::{RolloutId, RolloutReport};

/// A rollout that was asked for and not begun yet, or as it stands.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum RolloutView {
    /// It waits to be begun.
    Waiting,
    /// How it stands or ended.
    Report(Box<RolloutReport>),
}

pub(super) async fn status(
    State(inner): State<Arc<Inner>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Answered {
    let service = caller.may(Verb::Read, &name)?;
    let status = Box::pin(inner.deployer.status(&service)).await?;
    Ok(json(StatusCode::OK, &status))
}

pub(super) async fn history(
    State(inner): State<Arc<Inner>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Answered {
    let service = caller.may(Verb::Read, &name)?;
    let history: Vec<RolloutReport> = Box::pin(inner.deployer.history(&service)).await?;
    Ok(json(StatusCode::OK, &history))
}

/// 200 for one that has ended, 202 for one that goes on.
pub(super) async fn rollout(
    State(inner): State<Arc<Inner>>,
    Extension(caller): Extension<Caller>,
    Path((name, number)): Path<(String, String)>,
    uri: Uri,
) -> Answered {
    let service = caller.may(Verb::Read, &name)?;
    let number: u64 = number.parse().map_err(|_| {
        Error::invalid("not the number of a rollout; accepted: 1 and above").with_context("field", "number")
    })?;
    let wait = match parameters(&uri)?.get("wait") {
        Some(wait) => parse_duration(wait).map_err(|error| error.with_context("field", "wait"))?,
        None => Duration::ZERO,
    };
    if wait > WAIT {
        let message = format!("a wait of more than {WAIT:?}; accepted: at most that, and to ask again");
        return Err(Error::invalid(message).with_context("field", "wait").into());
    }
    let id = RolloutId { service, number };
    if !wait.is_zero()
        && let Ok(report) = timeout(wait, Box::pin(inner.deployer.wait(&id))).await
    {
        return Ok(json(StatusCode::OK, &RolloutView::Report(Box::new(report?))));
    }
    let view = match Box::pin(inner.deployer.rollout(&id)).await {
        Err(error) if error.kind() == ErrorKind::NotFound && is_asked(&inner, &id).await? => {
            RolloutView::Waiting
        }
        report => RolloutView::Report(Box::new(report?)),
    };
    let has_ended = matches!(&view, RolloutView::Report(report) if report.outcome.is_some());
    Ok(json(if has_ended { StatusCode::OK } else { StatusCode::ACCEPTED }, &view))
}

/// Whether a rollout was asked for and not begun yet.
async fn is_asked(inner: &Inner, id: &RolloutId) -> Result<bool> {
    let found = Found::read(&inner.deployer.repository(&id.service)).await?;
    let asked = found.input.iter().flat_map(|input| {
        let waiting = input.value.queue.iter().map(|queued| &queued.request);
        input.value.active.iter().chain(waiting)
    });
    Ok(asked.into_iter().any(|asked| asked.number == id.number))
}

pub(super) async fn audit(
    State(inner): State<Arc<Inner>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Answered {
    /// The most entries of one answer.
    const MOST: usize = 1_000;
    let parameters = parameters(&uri)?;
    let service = parameters.get("service").ok_or_else(|| {
        Error::invalid("no service is named; accepted: `?service=name`").with_context("field", "service")
    })?;
    let service = caller.may(Verb::Read, service)?;
    let limit = match parameters.get("limit") {
        Some(limit) => limit.parse().ok().filter(|limit| (1..=MOST).contains(limit)).ok_or_else(|| {
            Error::invalid("a limit out of bounds; accepted: 1 to 1,000").with_context("field", "limit")
        })?,
        None => 100,
    };
    let entries: Vec<AuditEntry> = inner.deployer.audit(&service, limit).await?;
    Ok(json(StatusCode::OK, &entries))
}
