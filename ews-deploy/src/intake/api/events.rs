//! What happens to a service, as server-sent events.
//!
//! Each has an id, after which a client that comes back goes on (`Last-Event-ID`, or `?after=`), as far as the bus still has what
//! followed; where it has not, or the process is another one, an event `gap` says so and the client looks at the status. A stream
//! ends after an hour, so that what was forgotten by its client is not kept for ever.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use ews_core::bus::{Cursor, Numbered, Subscription};
use ews_core::{Error, ErrorKind, Notice, Result, ServiceName};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};

use super::{Answered, Caller, parameters};
use crate::event::DeployEvent;
use crate::intake::Inner;
use crate::intake::answer::problem;
use crate::intake::config::Verb;
use crate::intake::hooks::once;

/// How often a stream that has nothing to say says so.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a stream lasts.
const LASTS: Duration = Duration::from_secs(3_600);

struct Stream {
    events: Subscription<DeployEvent>,
    service: ServiceName,
    ends: Instant,
    begun: bool,
    /// How many streams there are is bounded.
    _permit: OwnedSemaphorePermit,
}

pub(super) async fn events(
    State(inner): State<Arc<Inner>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Answered {
    let service = caller.may(Verb::Read, &name)?;
    let parameters = parameters(&uri)?;
    let after = once(&headers, "last-event-id").or(parameters.get("after").map(String::as_str));
    let after = after.filter(|after| !after.is_empty()).map(cursor).transpose()?;
    let Ok(permit) = Arc::clone(&inner.streams).try_acquire_owned() else {
        let error =
            Error::new(ErrorKind::Unavailable, "too many streams of events are open; come back later");
        return Err(problem(error, StatusCode::TOO_MANY_REQUESTS));
    };
    let bus = &inner.deployer.workshop().bus;
    let events = after.map_or_else(|| bus.subscribe(), |after| bus.resume(after));
    let stream = Stream { events, service, ends: Instant::now() + LASTS, begun: false, _permit: permit };
    // Neither the deployer nor the intake is kept by who listens.
    drop(inner);
    let lines = futures_util::stream::unfold(stream, |mut stream| async move {
        let bytes = stream.next().await?;
        Some((Ok::<_, Infallible>(bytes), stream))
    });
    let mut response: Response = Body::from_stream(lines).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

impl Stream {
    async fn next(&mut self) -> Option<Bytes> {
        if !self.begun {
            self.begun = true;
            return Some(Bytes::from_static(b": here\n\n"));
        }
        loop {
            let left = self.ends.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            match timeout(HEARTBEAT.min(left), self.events.next()).await {
                Err(_) => return Some(Bytes::from_static(b": still here\n\n")),
                Ok(None) => return None,
                Ok(Some(Notice::Gap(_))) => return Some(Bytes::from_static(b"event: gap\ndata: {}\n\n")),
                Ok(Some(Notice::Event(event))) if event.event.service == self.service => {
                    return Some(written(&event));
                }
                Ok(Some(Notice::Event(_))) => {}
            }
        }
    }
}

fn written(event: &Numbered<DeployEvent>) -> Bytes {
    let Cursor { bus, sequence } = event.cursor;
    // JSON holds no line break of its own, so one line is one event.
    let data = serde_json::to_string(&event.event).unwrap_or_else(|_| "{}".to_owned());
    format!("id: {bus:016x}-{sequence}\nevent: deploy\ndata: {data}\n\n").into()
}

fn cursor(text: &str) -> Result<Cursor> {
    let parsed = text.split_once('-').and_then(|(bus, sequence)| {
        Some(Cursor { bus: u64::from_str_radix(bus, 16).ok()?, sequence: sequence.parse().ok()? })
    });
    parsed.ok_or_else(|| {
        Error::invalid("not the id of an event; accepted: one that was sent here")
            .with_context("field", "Last-Event-ID")
    })
}
