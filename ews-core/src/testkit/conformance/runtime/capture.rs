//! What the program under test logs, kept as text: the suite looks for secrets in it.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// A [`tracing::Subscriber`] that keeps every span and event as text, from every level and target; clones are the same.
///
/// Set it with `tracing::subscriber::set_default` (one thread) or `set_global_default` before the suite runs. It keeps the
/// first [`LogCapture::MAX`] bytes.
#[derive(Debug, Clone, Default)]
pub struct LogCapture(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    text: Mutex<String>,
    spans: AtomicU64,
}

impl LogCapture {
    /// How much is kept, in bytes.
    pub const MAX: usize = 16 << 20;

    /// What was logged so far.
    pub fn text(&self) -> String {
        self.0.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn push(&self, metadata: Option<&Metadata<'_>>, record: impl FnOnce(&mut dyn Visit)) {
        let mut text = self.0.text.lock().unwrap_or_else(PoisonError::into_inner);
        if text.len() >= Self::MAX {
            return;
        }
        if let Some(metadata) = metadata {
            let _ = write!(text, "{} {}", metadata.target(), metadata.name());
        }
        record(&mut Writer(&mut text));
        text.push('\n');
    }
}

struct Writer<'a>(&'a mut String);

impl Visit for Writer<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

impl Subscriber for LogCapture {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.push(Some(span.metadata()), |visit| span.record(visit));
        Id::from_u64(self.0.spans.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn record(&self, _span: &Id, values: &Record<'_>) {
        self.push(None, |visit| values.record(visit));
    }

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        self.push(Some(event.metadata()), |visit| event.record(visit));
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_spans_and_events_are_kept() {
        let log = LogCapture::default();
        tracing::subscriber::with_default(log.clone(), || {
            let _span = tracing::trace_span!("call", password = "hunter2").entered();
            tracing::debug!(answer = 42, "done");
        });
        assert!(log.text().contains("password=\"hunter2\""), "{}", log.text());
        assert!(log.text().contains("answer=42"), "{}", log.text());
    }
}
