//! What the tour prints: plain lines into a pipe, and a line of live progress at the foot of a terminal.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The report of a tour.
pub(super) struct Report {
    began: Instant,
    held: u32,
    failed: Vec<String>,
    live: bool,
    rows: Vec<Row>,
}

/// What a change cost.
struct Row {
    what: String,
    sent: u64,
    failed: u64,
    seconds: f64,
}

impl Report {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            held: 0,
            failed: Vec::new(),
            live: std::io::stdout().is_terminal(),
            rows: Vec::new(),
        }
    }

    fn line(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        // The line of progress gives way.
        let clear = if self.live { "\r\x1b[2K" } else { "" };
        let _ = writeln!(out, "{clear}{text}");
    }

    /// Notes for the end what a change cost that has begun so long ago.
    pub(super) fn cost(&mut self, what: &str, (sent, failed): (u64, u64), began: Instant) {
        self.cost_of(what, (sent, failed), began.elapsed());
    }

    /// The same, of so long a time.
    pub(super) fn cost_of(&mut self, what: &str, (sent, failed): (u64, u64), took: Duration) {
        self.rows.push(Row { what: what.to_owned(), sent, failed, seconds: took.as_secs_f64() });
    }

    /// Begins a step.
    pub(super) fn step(&self, name: &str, what: &str) {
        self.line(&format!("{:5.1} s  {name}: {what}", self.began.elapsed().as_secs_f64()));
    }

    /// Shows something.
    pub(super) fn show(&self, what: &str) {
        self.line(&format!("         {what}"));
    }

    /// Live progress; nothing in a pipe.
    pub(super) fn progress(&self, what: &str) {
        if self.live {
            let mut out = std::io::stdout().lock();
            let _ = write!(out, "\r\x1b[2K{:5.1} s  … {what}", self.began.elapsed().as_secs_f64());
            let _ = out.flush();
        }
    }

    /// Something that must hold.
    pub(super) fn check(&mut self, what: &str, holds: bool) {
        if holds {
            self.held += 1;
            self.line(&format!("     ok  {what}"));
        } else {
            self.fail(what);
        }
    }

    pub(super) fn fail(&mut self, what: &str) {
        self.line(&format!(" FAILED  {what}"));
        self.failed.push(what.to_owned());
    }

    /// Prints the count and says whether all held.
    pub(super) fn end(self) -> ExitCode {
        let seconds = self.began.elapsed().as_secs_f64();
        if !self.rows.is_empty() {
            self.line("");
            self.line(&format!(
                "         {:<58} {:>8} {:>7} {:>7}",
                "what was done", "requests", "failed", "took"
            ));
        }
        for Row { what, sent, failed, seconds } in &self.rows {
            self.line(&format!("         {what:<58} {sent:>8} {failed:>7} {seconds:>5.1} s"));
        }
        if !self.rows.is_empty() {
            self.line("");
        }
        self.line(&format!("{seconds:5.1} s  {} checks held, {} failed", self.held, self.failed.len()));
        for what in &self.failed {
            self.line(&format!("         failed: {what}"));
        }
        if self.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
