//! What a command writes: lines and tables for people, JSON for programs.
//!
//! Who reads it may be gone, such as the `head` of a pipe; then nothing more is written, a stream ends, and that is no failure. There are
//! no colours, so that `NO_COLOR` has nothing to ask for.

use std::borrow::Cow;
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

    /// A line for people. False where nobody reads any more.
    pub(super) fn line(self, text: &str) -> bool {
        self.json || writeln!(std::io::stdout().lock(), "{}", plain(text)).is_ok()
    }

    /// A line as a program wrote it, colours and all. False where nobody reads any more.
    pub(super) fn raw_line(self, text: &str) -> bool {
        writeln!(std::io::stdout().lock(), "{text}").is_ok()
    }

    /// A line about what goes on; it is no part of the answer.
    pub(super) fn progress(self, text: &str) {
        if !self.json {
            let _ = writeln!(std::io::stderr().lock(), "{}", plain(text));
        }
    }

    /// A document on a line, in both forms. False where nobody reads any more.
    pub(super) fn document(self, value: &impl Serialize) -> bool {
        match serde_json::to_string(value) {
            Ok(text) => writeln!(std::io::stdout().lock(), "{text}").is_ok(),
            Err(_) => true,
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

    /// Bytes as they are. False where nobody reads any more.
    pub(super) fn raw(self, bytes: &[u8]) -> bool {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).is_ok()
    }

    /// Bytes as they are, apart from the answer. False where nobody reads any more.
    pub(super) fn raw_error(self, bytes: &[u8]) -> bool {
        std::io::stderr().lock().write_all(bytes).is_ok()
    }

    /// Columns for people, the first row above the others.
    pub(super) fn table(self, head: &[&str], rows: &[Vec<String>]) {
        for line in table(head, rows) {
            self.line(&line);
        }
    }

    /// Why a command failed, apart from the answer.
    pub(super) fn error(self, failure: &Failure) {
        let (code, message) = (failure.code(), failure.message());
        let text = match self.json {
            true => serde_json::json!({ "error": message, "exit": code }).to_string(),
            false => format!("error: {}", plain(message)),
        };
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }
}

/// What others have written, such as the reason of a deployment, must not steer the terminal of whoever reads it.
fn plain(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) { plain.extend(c.escape_default()) } else { plain.push(c) }
    }
    Cow::Owned(plain)
}

/// The lines of a table. A cell is one line, whatever it holds; the last column may be as long as it likes.
fn table(head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let cell = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let head: Vec<String> = head.iter().map(|text| (*text).to_owned()).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|text| cell(text)).collect()).collect();
    let rows: Vec<&Vec<String>> = std::iter::once(&head).chain(&rows).collect();
    let mut widths = vec![0; head.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(*row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &&Vec<String>| {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + 2));
        }
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_one_line_for_each_row_whatever_its_cells_hold() {
        let long = "x".repeat(120);
        let rows = [
            vec!["ä".to_owned(), "two\nlines\tand a tab".to_owned(), "end".to_owned()],
            vec![long.clone(), String::new(), "end".to_owned()],
        ];
        let lines = table(&["A", "B", "C"], &rows);
        assert_eq!(lines.len(), 3);
        let place = |line: &str, word: &str| line.split_once(word).unwrap().0.chars().count();
        assert_eq!(place(&lines[0], "C"), place(&lines[1], "end"));
        assert_eq!(place(&lines[1], "end"), place(&lines[2], "end"));
        assert!(lines[1].contains("two lines and a tab") && lines[2].starts_with(&long));
    }

    #[test]
    fn what_others_wrote_does_not_steer_a_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\u{9b}1m\rc"), "a\\u{1b}[2Jb\\u{9b}1m\\rc");
        assert_eq!(plain("zwölf\n\tüber"), "zwölf\n\tüber");
    }
}
