//! What a command writes: lines and tables for people, JSON for programs.
//!
//! Who reads it may be gone, such as the `head` of a pipe; then nothing more is written, and that is no failure.

use std::io::Write as _;

use serde::Serialize;

use super::Failure;

/// Where a command writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Out {
    pub(super) json: bool,
}

impl Out {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// A line for people.
    pub(super) fn line(self, text: &str) {
        if !self.json {
            let _ = writeln!(std::io::stdout().lock(), "{text}");
        }
    }

    /// A line about what goes on; it is no part of the answer.
    pub(super) fn progress(self, text: &str) {
        if !self.json {
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        }
    }

    /// A document on a line, in both forms.
    pub(super) fn document(self, value: &impl Serialize) {
        if let Ok(text) = serde_json::to_string(value) {
            let _ = writeln!(std::io::stdout().lock(), "{text}");
        }
    }

    /// A document for programs, a line for people.
    pub(super) fn document_or_line(self, value: &impl Serialize, text: &str) {
        if self.json {
            self.document(value);
        } else {
            self.line(text);
        }
    }

    /// Bytes as they are.
    pub(super) fn raw(self, bytes: &[u8]) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    }

    /// Bytes as they are, apart from the answer.
    pub(super) fn raw_error(self, bytes: &[u8]) {
        let _ = std::io::stderr().lock().write_all(bytes);
    }

    /// Columns for people, the first row above the others.
    pub(super) fn table(self, head: &[&str], rows: &[Vec<String>]) {
        let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let shown = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::new();
            for (cell, width) in cells.zip(&widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + 2));
            }
            line.trim_end().to_owned()
        };
        self.line(&shown(&mut head.iter().copied()));
        for row in rows {
            self.line(&shown(&mut row.iter().map(String::as_str)));
        }
    }

    /// Why a command failed, apart from the answer.
    pub(super) fn error(self, failure: &Failure) {
        let (code, message) = (failure.code(), failure.message());
        let text = match self.json {
            true => serde_json::json!({ "error": message, "exit": code }).to_string(),
            false => format!("error: {message}"),
        };
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }
}

/// A duration for people: `3d 4h`, `5m 10s`, `8s`.
pub(super) fn age(time: std::time::Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m {seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h {minutes}m"),
        (days, hours, ..) => format!("{days}d {hours}h"),
    }
}
