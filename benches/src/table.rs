//! The results: printed as a table, and written as JSON for whoever compares runs.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench talks to the person who started it")]

use std::path::PathBuf;

use serde::Serialize;

use crate::measure::Pair;

/// One result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// What was measured.
    pub name: String,
    /// The figure.
    pub value: f64,
    /// Its unit, such as `x` for a ratio, `µs`, `bytes`.
    pub unit: &'static str,
    /// The most it may be, where there is such a bound.
    pub target: Option<f64>,
    /// What a reader should know besides, such as both sides' times.
    pub note: String,
}

impl Line {
    /// Whether the figure is within its target; true without one.
    pub fn met(&self) -> bool {
        self.target.is_none_or(|target| self.value <= target)
    }
}

/// A run of a bench: its options and its results.
#[derive(Debug)]
pub struct Bench {
    name: &'static str,
    /// `--quick`: fewer rounds, for a look and for CI; the figures are rougher.
    pub quick: bool,
    json: Option<PathBuf>,
    lines: Vec<Line>,
}

#[derive(Serialize)]
struct Json<'a> {
    bench: &'static str,
    quick: bool,
    lines: &'a [Line],
}

impl Bench {
    /// Reads `--quick` and `--json FILE` from the command line. On anything else it says what it accepts and exits with 2.
    #[allow(clippy::exit, reason = "only programs call this, first thing")]
    pub fn from_args(name: &'static str) -> Self {
        match Self::parse(name, std::env::args().skip(1)) {
            Ok(bench) => bench,
            Err(error) => {
                eprintln!("{error}\nusage: {name} [--quick] [--json FILE]");
                std::process::exit(2);
            }
        }
    }

    fn parse(name: &'static str, mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut bench = Self { name, quick: false, json: None, lines: Vec::new() };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => bench.quick = true,
                "--json" => bench.json = Some(args.next().ok_or("--json needs the name of a file")?.into()),
                other => return Err(format!("`{other}` is not an option")),
            }
        }
        Ok(bench)
    }

    /// A number of rounds or things: `full`, or `quick` with `--quick`.
    pub fn scale(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// Adds a ratio of two sides that took turns.
    pub fn ratio(&mut self, ours: &str, theirs: &str, pair: &Pair, target: Option<f64>) {
        let note = format!("{:?} to {:?}, {} rounds", pair.ours(), pair.theirs(), pair.ours.len());
        self.line(format!("{ours} / {theirs}"), pair.ratio(), "x", target, note);
    }

    /// Adds any figure.
    pub fn line(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        target: Option<f64>,
        note: impl Into<String>,
    ) {
        self.lines.push(Line { name: name.into(), value, unit, target, note: note.into() });
    }

    fn table(&self) -> String {
        let width = self.lines.iter().map(|line| line.name.chars().count()).max().unwrap_or(0);
        let mut table = format!("{}{}\n", self.name, if self.quick { " (quick)" } else { "" });
        for line in &self.lines {
            let Line { name, value, unit, target, note } = line;
            let target = target.map_or(String::new(), |target| format!("≤ {target}"));
            let verdict = match line.target {
                None => "",
                Some(_) if line.met() => "met",
                Some(_) => "MISSED",
            };
            table.push_str(&format!(
                "  {name:width$}  {value:>12.3} {unit:5}  {target:8} {verdict:6}  {note}\n"
            ));
        }
        table
    }

    /// Prints the table, writes the JSON, and returns the exit code: 0, or 1 where a target was missed or the file could not
    /// be written. With `--quick` a missed target shows in the table only: so few rounds on a busy machine prove nothing.
    #[must_use]
    pub fn finish(self) -> i32 {
        print!("{}", self.table());
        let met = self.lines.iter().all(Line::met);
        if let Some(path) = &self.json {
            let json = Json { bench: self.name, quick: self.quick, lines: &self.lines };
            let written = serde_json::to_vec_pretty(&json).map_err(std::io::Error::from);
            if let Err(error) = written.and_then(|json| std::fs::write(path, json)) {
                eprintln!("{} could not be written: {error}", path.display());
                return 1;
            }
        }
        i32::from(!met && !self.quick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Bench, String> {
        Bench::parse("test", args.iter().map(|arg| (*arg).to_owned()))
    }

    #[test]
    fn options_are_read_and_others_refused() {
        let bench = parse(&["--quick", "--json", "out"]).unwrap();
        assert!(bench.quick && bench.json == Some("out".into()));
        assert!(parse(&["--json"]).is_err());
        assert!(parse(&["--fast"]).unwrap_err().contains("--fast"));
    }

    #[test]
    fn a_missed_target_shows_in_the_table_and_the_exit_code() {
        let mut bench = parse(&[]).unwrap();
        bench.line("good", 1.0, "x", Some(1.2), "");
        assert!(bench.table().contains("met") && !bench.table().contains("MISSED"));
        bench.line("bad", 1.3, "x", Some(1.2), "");
        assert!(bench.table().contains("MISSED"));
        assert_eq!(bench.finish(), 1);
        let mut quick = parse(&["--quick"]).unwrap();
        quick.line("bad", 1.3, "x", Some(1.2), "");
        assert!(quick.table().contains("MISSED"));
        assert_eq!(quick.finish(), 0);
    }
}
