//! What the gateway logs, as lines on standard error: a library installs no subscriber, so the program does.
//!
//! A line is one write, with its time, its level, where it comes from, and its fields. No text in it can end the line.

use std::fmt::{Debug, Write as _};
use std::io::Write as _;

use ews_core::{Clock as _, SystemClock};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Logs up to this level from here on.
pub(crate) fn install(level: Level) {
    // Nothing else in this program could have been there before.
    let _ = tracing::subscriber::set_global_default(Lines { level });
}

/// Writes events; spans are not kept.
struct Lines {
    level: Level,
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.level))
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut line = Line::default();
        event.record(&mut line);
        let Line { message, fields } = line;
        let (now, level, from) = (SystemClock.now(), metadata.level(), metadata.target());
        let text = format!("{now} {level} {from}: {message}{fields}\n");
        // Nobody is left to be told where standard error is gone.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The parts of a line that an event brings.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let value = plain(&format!("{value:?}"));
        if field.name() == "message" {
            self.message = value;
        } else {
            let _ = write!(self.fields, " {}={value}", field.name());
        }
    }
}

/// The same without control characters.
fn plain(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut all, c| {
        if c.is_control() {
            all.extend(c.escape_default());
        } else {
            all.push(c);
        }
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_ends_a_line() {
        assert_eq!(plain("a\nb\u{1b}[31mc é"), "a\\nb\\u{1b}[31mc é");
    }
}
