//! What the tour prints: one line for each thing seen, and the count at the end.

use std::process::ExitCode;
use std::time::Instant;

/// The report of a tour.
pub(super) struct Report {
    began: Instant,
    held: u32,
    failed: Vec<String>,
}

#[allow(clippy::print_stdout, reason = "the report is this program's output")]
impl Report {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), held: 0, failed: Vec::new() }
    }

    /// Begins a step.
    pub(super) fn step(&self, name: &str, what: &str) {
        println!("{:5.1} s  {name}: {what}", self.began.elapsed().as_secs_f64());
    }

    /// Shows something.
    pub(super) fn show(&self, what: &str) {
        println!("         {what}");
    }

    /// Something that must hold.
    pub(super) fn check(&mut self, what: &str, holds: bool) {
        if holds {
            self.held += 1;
            println!("     ok  {what}");
        } else {
            self.fail(what);
        }
    }

    pub(super) fn fail(&mut self, what: &str) {
        println!(" FAILED  {what}");
        self.failed.push(what.to_owned());
    }

    /// Prints the count and says whether all held.
    pub(super) fn end(self) -> ExitCode {
        let seconds = self.began.elapsed().as_secs_f64();
        println!("{seconds:5.1} s  {} checks held, {} failed", self.held, self.failed.len());
        for what in &self.failed {
            println!("         failed: {what}");
        }
        if self.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
