//! What is done to a service and its rollout.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::Response;
use ews_core::{Error, ErrorKind, Result, RevisionId, ScaleChange, ScaleTarget as _, ServiceName};
use serde::{Deserialize, Serialize};

use super::deploy::Accepted;
use super::{Answered, Caller, document, key};
use crate::deployer::Deployer;
use crate::hotfix::{Hotfix, Reload};
use crate::intake::Inner;
use crate::intake::answer::{json, text};
use crate::intake::config::Verb;
use crate::intake::record::Answer;
use crate::strategy::Strategy;

/// A request with what it is about.
struct Asked<'a> {
    inner: &'a Inner,
    caller: &'a Caller,
    key: Option<String>,
}

impl Asked<'_> {
    fn deployer(&self) -> Deployer {
        self.inner.deployer.by(&self.caller.by())
    }

    /// Does it, or answers what was answered to the same key. The answer is kept after it was done: what is cut off between the
    /// two is done again.
    async fn once<T: Serialize>(&self, doing: impl Future<Output = Result<T>> + Send) -> Answered {
        let token = &*self.caller.name;
        if let Some(key) = &self.key
            && let Some(answer) = self.inner.records.answer(token, key).await?
        {
            let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
            let mut response: Response = text(status, answer.body);
            response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
            return Ok(response);
        }
        let done = Box::pin(doing).await?;
        let body =
            serde_json::to_string(&done).map_err(|_| Error::internal("the answer can't be written"))?;
        let status = StatusCode::ACCEPTED;
        if let Some(key) = &self.key {
            let answer = Answer { key: key.clone(), status: status.as_u16(), body: body.clone() };
            self.inner.records.keep_answer(token, &answer).await?;
        }
        Ok(text(status, body))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RollbackBody {
    to: Option<RevisionId>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RestartBody {
    strategy: Strategy,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScaleBody {
    replicas: u32,
    #[serde(default)]
    version: Option<u64>,
    #[serde(default)]
    reason: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NoBody {}

macro_rules! action {
    ($name:ident, $verb:ident, $body:ty, |$asked:ident, $service:ident, $document:ident| $doing:expr) => {
        pub(super) async fn $name(
            State(inner): State<Arc<Inner>>,
            Extension(caller): Extension<Caller>,
            Path(name): Path<String>,
            method: Method,
            uri: Uri,
            headers: HeaderMap,
            body: Bytes,
        ) -> Answered {
            let service: ServiceName = caller.may(Verb::$verb, &name)?;
            let key = key(&caller, &method, &uri, &headers)?;
            let $document: $body = document(&body)?;
            let ($asked, $service) = (Asked { inner: &inner, caller: &caller, key }, &service);
            $asked.once($doing).await
        }
    };
}

#[derive(Debug, Serialize)]
struct Done {
    service: ServiceName,
}

fn done(service: &ServiceName) -> Done {
    Done { service: service.clone() }
}

action!(rollback, Control, RollbackBody, |asked, service, body| async {
    Ok(Accepted::from(asked.deployer().rollback(service, body.to.as_ref()).await?))
});
action!(restart, Control, RestartBody, |asked, service, body| async {
    Ok(Accepted::from(asked.deployer().restart(service, &body.strategy).await?))
});
action!(pause, Control, NoBody, |asked, service, _body| async {
    asked.deployer().pause(service).await.map(|()| done(service))
});
action!(resume, Control, NoBody, |asked, service, _body| async {
    asked.deployer().resume(service).await.map(|()| done(service))
});
action!(abort, Control, NoBody, |asked, service, _body| async {
    asked.deployer().abort(service).await.map(|()| done(service))
});
action!(cancel, Control, NoBody, |asked, service, _body| async {
    asked.deployer().cancel(service).await.map(|()| done(service))
});
action!(scale, Scale, ScaleBody, |asked, service, body| async {
    let mut change = ScaleChange::to(body.replicas, body.reason);
    change.version = body.version;
    asked.deployer().set(service, &change).await
});

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HotfixBody {
    files: Vec<HotfixFileBody>,
    #[serde(default)]
    reload: Reload,
    #[serde(default)]
    strategy: Option<Strategy>,
    #[serde(default)]
    reason: String,
}

/// A file, whose content is text or an upload.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HotfixFileBody {
    path: String,
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    upload: Option<String>,
    #[serde(default)]
    mode: Option<u32>,
}

pub(super) async fn hotfix(
    State(inner): State<Arc<Inner>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Answered {
    let service = caller.may(Verb::Hotfix, &name)?;
    let body: HotfixBody = document(&body)?;
    let mut fix = Hotfix::new(service).with_reload(body.reload).with_reason(body.reason);
    fix.strategy = body.strategy.unwrap_or(fix.strategy);
    fix.key = key(&caller, &method, &uri, &headers)?.map(|key| format!("api:{key}"));
    if body.files.len() > Hotfix::FILES {
        let message = format!("{} files; accepted: at most {}", body.files.len(), Hotfix::FILES);
        return Err(Error::invalid(message).with_context("field", "files").into());
    }
    let mut total = 0;
    for file in body.files {
        let content: Bytes = match (file.content, file.upload) {
            (Some(content), None) => content.into(),
            (None, Some(id)) => uploaded(&inner, &caller, &id, &mut total).await?,
            _ => {
                return Err(Error::invalid("a file of nothing or of two; accepted: `content` or `upload`")
                    .with_context("field", "files")
                    .into());
            }
        };
        fix = match file.mode {
            Some(mode) => fix.with_file_mode(file.path, content, mode),
            None => fix.with_file(file.path, content),
        };
    }
    let id = Box::pin(inner.deployer.by(&caller.by()).hotfix(&fix)).await?;
    Ok(json(StatusCode::ACCEPTED, &Accepted::from(id)))
}

/// What an upload holds, as far as a hotfix takes it.
async fn uploaded(inner: &Inner, caller: &Caller, id: &str, total: &mut u64) -> Result<Bytes> {
    let seen = inner.uploads.see(id, &caller.name).await?;
    *total += seen.size;
    if seen.size > Hotfix::FILE as u64 || *total > Hotfix::TOTAL {
        let message = format!(
            "uploads of {total} bytes for a hotfix; accepted: at most {} each and {} together",
            Hotfix::FILE,
            Hotfix::TOTAL
        );
        return Err(Error::invalid(message).with_context("field", "files"));
    }
    let path = inner.uploads.whole(&inner.uploads.digest_of(id, &caller.name)?, Some(&caller.name))?;
    let read = tokio::fs::read(path).await;
    read.map(Bytes::from)
        .map_err(|error| Error::new(ErrorKind::Unavailable, "the upload can't be read").with_source(error))
}
