//! The host's log: a line on standard error for each event of the SDK's tracing, as a journal takes it.
//!
//! `2026-11-26T17:00:00.000000Z INFO ews_deploy::reconcile: the lead is taken service=web`. Spans are not kept: the fields of
//! an event say what it is about. The service's log is its own and is not in here.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use ews_core::{Clock as _, SystemClock};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::config::LogLevel;

/// The longest line, in bytes.
const MOST: usize = 8 * 1024;

/// Writes events of our own crates, up to a level; of others, warnings and errors only.
pub(crate) struct Trail {
    level: Level,
    spans: AtomicU64,
}

impl Trail {
    /// Everything up to this level.
    pub(crate) fn new(level: LogLevel) -> Self {
        let level = match level {
            LogLevel::Error => Level::ERROR,
            LogLevel::Warn => Level::WARN,
            LogLevel::Info => Level::INFO,
            LogLevel::Debug => Level::DEBUG,
            LogLevel::Trace => Level::TRACE,
        };
        Self { level, spans: AtomicU64::new(1) }
    }
}

impl Subscriber for Trail {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let most =
            if metadata.target().starts_with("ews") { self.level } else { self.level.min(Level::WARN) };
        metadata.is_event() && *metadata.level() <= most
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed).max(1))
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let (metadata, mut line) = (event.metadata(), Line::default());
        event.record(&mut line);
        let now = SystemClock.now();
        let mut text =
            format!("{now} {} {}: {}{}", metadata.level(), metadata.target(), line.message, line.fields);
        // A message is one line, whatever a peer said.
        text.retain(|c| !c.is_control());
        while text.len() > MOST {
            text.pop();
        }
        text.push('\n');
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
