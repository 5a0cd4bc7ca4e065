//! One span per call, and one event where it failed.

use std::future::Future;
use std::time::Instant;

use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::error::{Error, ErrorKind, Result};
use crate::layer::{Around, Call};

/// One span per call.
///
/// The span `ews.call` carries `contract`, `operation`, what the call is about (`service`, `revision`, `instance`, `node`,
/// `object`), and when it ends `outcome` (`ok`, `abandoned` where the caller dropped it, or the error's kind) and
/// `duration_us`. Calls that change something are at level info, others at debug.
///
/// A failure is an event at the level that its kind deserves: what needs a person (`internal`, `corrupt`) is an error, what
/// a peer did is a warning, and what is an ordinary answer (`not_found`, `stale`, …) is debug.
///
/// What is written: names, kinds and the error's own message. What never is: arguments, values, and an error's detail and
/// sources, which hold a peer's words and may repeat what it was sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trace;

macro_rules! call_span {
    ($level:ident, $call:expr) => {
        tracing::$level!(
            "ews.call",
            contract = $call.contract.as_str(),
            operation = $call.operation,
            service = $call.subject.service.map(tracing::field::display),
            revision = $call.subject.revision.map(tracing::field::display),
            instance = $call.subject.instance.map(tracing::field::display),
            node = $call.subject.node.map(tracing::field::display),
            object = $call.subject.object.map(tracing::field::display),
            outcome = Empty,
            duration_us = Empty,
        )
    };
}

impl Around for Trace {
    async fn around<T, F, Fut>(&self, call: Call<'_>, operation: F) -> Result<T>
    where
        T: Send,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T>> + Send,
    {
        let span =
            if call.kind.is_mutating() { call_span!(info_span, call) } else { call_span!(debug_span, call) };
        // It writes down the end even where the caller drops this future.
        let mut end = End { span: span.clone(), started: Instant::now(), outcome: "abandoned" };
        let result = operation().instrument(span.clone()).await;
        end.outcome = match &result {
            Ok(_) => "ok",
            Err(error) => error.kind().as_str(),
        };
        if let Err(error) = &result {
            span.in_scope(|| failed(call.operation, error));
        }
        result
    }
}

struct End {
    span: Span,
    started: Instant,
    outcome: &'static str,
}

impl Drop for End {
    fn drop(&mut self) {
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.span.record("outcome", self.outcome).record("duration_us", micros);
    }
}

fn failed(operation: &'static str, error: &Error) {
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(
                operation,
                kind = error.kind().as_str(),
                maybe_applied = error.maybe_applied(),
                message = error.message()
            )
        };
    }
    match error.kind() {
        ErrorKind::Internal | ErrorKind::Corrupt => event!(error),
        ErrorKind::Unavailable
        | ErrorKind::Timeout
        | ErrorKind::Decode
        | ErrorKind::OutOfResources
        | ErrorKind::Unauthorized
        | ErrorKind::ImageDenied
        | ErrorKind::PortInUse => event!(warn),
        _ => event!(debug),
    }
}
