//! Takes a tree apart and notes every problem on the way.
//!
//! A reader of a document asks an [`At`] (a value and its path) for what it wants. What is not there is noted, and the
//! reader goes on with a stand-in, so that one pass finds everything. A [`Fields`] remembers which fields it was asked for:
//! what remains at its end is unknown, and the accepted list in the message can't go out of date.

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::problem::ShownKey;
use super::{Format, Path, Position, Problem, Problems, Step, Table, Tree, Value};
use crate::error::Error;
use crate::time::{Shown, parse_duration};

/// Where the problems of one walk are collected.
pub(crate) struct Sink<'t> {
    source: Option<(&'t str, Format)>,
    found: RefCell<Found>,
}

#[derive(Default)]
struct Found {
    problems: Vec<Problem>,
    more: usize,
    /// The places where a stand-in was used.
    failed: Vec<Path>,
}

/// How many problems a walk keeps before it sorts and cuts: enough that the first hundred by place are the true ones.
const KEPT: usize = 10 * Problems::MAX;

impl<'t> Sink<'t> {
    /// Problems get places, and examples the right form, if the text is given from which the tree was read.
    pub(crate) fn new(source: Option<(&'t str, Format)>) -> Self {
        Self { source, found: RefCell::default() }
    }

    /// Examples in messages are written as TOML; whoever writes another format gets them in that.
    fn example(&self, text: &str) -> String {
        let quote = match self.source {
            Some((_, Format::Json)) => "\"",
            Some((_, Format::Yaml)) => "",
            _ => return text.to_owned(),
        };
        let mut parts = text.split(" = ");
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let key = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let start = out.trim_end_matches(key).len();
            out.insert_str(start, quote);
            out.push_str(quote);
            out.push_str(": ");
            out.push_str(part);
        }
        out
    }

    fn push(&self, problem: Problem, offset: Option<usize>) {
        self.stand_in(problem.path.clone());
        self.keep(problem, offset);
    }

    fn keep(&self, mut problem: Problem, offset: Option<usize>) {
        problem.accepted = problem.accepted.map(|accepted| self.example(&accepted));
        let mut found = self.found.borrow_mut();
        if found.problems.len() >= KEPT {
            found.more += 1;
            return;
        }
        let position = self.source.and_then(|(text, _)| offset.map(|offset| Position::of(text, offset)));
        found.problems.push(problem.with_position(position));
    }

    fn is_full(&self) -> bool {
        self.found.borrow().problems.len() >= KEPT
    }

    /// Remembers that a stand-in was used here.
    fn stand_in(&self, path: Path) {
        let mut found = self.found.borrow_mut();
        if found.failed.len() < KEPT {
            found.failed.push(path);
        }
    }

    /// Notes what the rules found, except where it may follow from something that could not be read.
    pub(crate) fn add_findings(&self, root: &Tree, findings: Vec<Finding>) {
        for finding in findings {
            let (path, offset) = locate(root, &finding.path);
            let unread = {
                let found = self.found.borrow();
                found.failed.iter().any(|failed| {
                    failed.touches(&path)
                        || failed.touches(&finding.path)
                        || finding.needs.iter().any(|need| failed.touches(need))
                })
            };
            if !unread {
                self.keep(Problem { path, ..finding.into_problem() }, offset);
            }
        }
    }

    pub(crate) fn finish(self, what: &'static str) -> Result<(), Problems> {
        let found = self.found.into_inner();
        Problems::of(what, found.problems, found.more).map_or(Ok(()), Err)
    }
}

/// What a rule found in a spec, by the spec's own path.
pub(crate) struct Finding {
    pub(crate) path: Path,
    /// Other places that the rule looked at: where one of them could not be read, the finding means nothing.
    pub(crate) needs: Vec<Path>,
    pub(crate) message: String,
}

impl Finding {
    pub(crate) fn into_problem(self) -> Problem {
        Problem::new(self.path, self.message)
    }
}

/// The path as the document has it, and its place. A short form ends the path early (`image.reference` is `image` where
/// that is a text), and a table stands for a list (`ports[0].number` is `ports.http` where ports are written as a table).
fn locate(root: &Tree, path: &Path) -> (Path, Option<usize>) {
    let mut node = root;
    let mut offset = root.offset;
    let mut shown = Path::root();
    for step in path.steps() {
        let next = match (&node.value, step) {
            (Value::Table(table), Step::Key(key)) => {
                shown = shown.key(key.clone());
                match table.entry(key) {
                    Some(entry) => (&entry.value, entry.value.offset.or(entry.offset)),
                    None => return (shown, offset),
                }
            }
            (Value::Table(table), Step::Index(index)) => match table.entries().get(*index) {
                Some(entry) => {
                    shown = shown.key(entry.key.clone());
                    (&entry.value, entry.value.offset.or(entry.offset))
                }
                None => return (shown, offset),
            },
            (Value::List(items), Step::Index(index)) => match items.get(*index) {
                Some(item) => {
                    shown = shown.index(*index);
                    (item, item.offset)
                }
                None => return (shown, offset),
            },
            _ => return (shown, offset),
        };
        node = next.0;
        offset = next.1.or(offset);
    }
    (shown, offset)
}

/// A value, its path, and where to note problems with it.
#[derive(Clone)]
pub(crate) struct At<'a> {
    pub(crate) tree: &'a Tree,
    path: Path,
    sink: &'a Sink<'a>,
    /// Whether the value may be a secret and is never shown.
    quiet: bool,
}

/// What a key was meant to be, by the words of other tools: returns advice.
pub(crate) type Foreign = fn(&str) -> Option<&'static str>;

impl<'a> At<'a> {
    pub(crate) fn root(tree: &'a Tree, sink: &'a Sink<'a>) -> Self {
        Self { tree, path: Path::root(), sink, quiet: false }
    }

    /// The same, never shown in a message.
    pub(crate) fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.tree.value, Value::Null)
    }

    /// Notes a problem here.
    pub(crate) fn fail(&self, message: impl Into<String>) {
        let problem = Problem::new(self.path.clone(), message).with_found(self.found());
        self.sink.push(problem, self.tree.offset);
    }

    /// Notes that something else was expected here.
    pub(crate) fn expected(&self, accepted: impl fmt::Display) {
        self.fail(format!("found {}; accepted: {accepted}", self.found()));
    }

    /// What stands here, as a message may say it.
    pub(crate) fn found(&self) -> String {
        if self.quiet {
            return match self.tree.value {
                Value::Bool(_) => "true or false (not shown, it may be a secret)".to_owned(),
                Value::Text(_) | Value::Integer(_) | Value::Float(_) | Value::Time(_) => {
                    format!("{} (not shown, it may be a secret)", self.tree.kind())
                }
                _ => self.tree.kind().to_owned(),
            };
        }
        let written = self.tree.written.as_deref();
        match &self.tree.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => written.map_or_else(|| value.to_string(), |w| Shown(w).to_string()),
            Value::Integer(number) => match written {
                Some(written) => format!("the number {}", Shown(written)),
                None => format!("the number {number}"),
            },
            Value::Float(number) => match written {
                Some(written) => format!("the number {}", Shown(written)),
                None => format!("the number {number}"),
            },
            Value::Time(time) => format!("the date or time {}", Shown(time)),
            Value::Text(text) => format!("the text \"{}\"", Shown(text)),
            Value::List(items) if items.is_empty() => "an empty list".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Table(table) if table.entries().is_empty() => "an empty table".to_owned(),
            Value::Table(_) => "a table".to_owned(),
        }
    }

    /// A table, to be asked for its fields.
    pub(crate) fn table(&self, accepted: &str) -> Option<Fields<'a>> {
        match &self.tree.value {
            Value::Table(table) => {
                Some(Fields { at: self.clone(), table, known: Vec::new(), missing: Vec::new() })
            }
            _ => {
                self.expected(accepted);
                None
            }
        }
    }

    /// The items of a list.
    pub(crate) fn list(&self, accepted: &str) -> Vec<At<'a>> {
        match &self.tree.value {
            Value::List(items) => items
                .iter()
                .enumerate()
                .map(|(index, tree)| At {
                    tree,
                    path: self.path.index(index),
                    sink: self.sink,
                    quiet: self.quiet,
                })
                .collect(),
            _ => {
                self.expected(accepted);
                Vec::new()
            }
        }
    }

    /// The entries of a table whose keys are free.
    pub(crate) fn entries(&self, accepted: &str) -> Vec<(&'a str, At<'a>)> {
        match &self.tree.value {
            Value::Table(table) => {
                table.entries().iter().map(|entry| (entry.key.as_str(), self.child(entry))).collect()
            }
            _ => {
                self.expected(accepted);
                Vec::new()
            }
        }
    }

    fn child(&self, entry: &'a super::Entry) -> At<'a> {
        At { tree: &entry.value, path: self.path.key(entry.key.clone()), sink: self.sink, quiet: self.quiet }
    }

    pub(crate) fn boolean(&self) -> Option<bool> {
        if let Value::Bool(value) = self.tree.value {
            return Some(value);
        }
        match self.tree.as_text() {
            Some(text) if matches!(text, "yes" | "no" | "on" | "off" | "y" | "n") && !self.quiet => self.fail(format!(
                "found the text \"{text}\", which YAML 1.2 does not read as true or false; accepted: true or false, \
                 without quotes"
            )),
            Some("true" | "false" | "True" | "False") => self.expected("true or false, without quotes"),
            _ => self.expected("true or false"),
        }
        None
    }

    /// A text as it stands.
    pub(crate) fn text(&self, accepted: &str) -> Option<&'a str> {
        let text = self.tree.as_text();
        if text.is_none() {
            match self.tree.value {
                Value::Integer(_) | Value::Float(_) | Value::Bool(_) | Value::Time(_) => {
                    self.expected(format_args!("{accepted}, in quotes"));
                }
                _ => self.expected(accepted),
            }
        }
        text
    }

    /// A text; a whole number, true or false is taken as its text if it is written as it would be written back, since the
    /// environment and arguments are often numbers.
    pub(crate) fn word(&self, accepted: &str) -> Option<String> {
        let value = match &self.tree.value {
            Value::Text(text) => return Some(text.clone()),
            Value::Integer(number) if self.tree.written.is_none() => return Some(number.to_string()),
            Value::Bool(value) if self.tree.written.is_none() => return Some(value.to_string()),
            value => value,
        };
        let found = self.found();
        match value {
            Value::Float(_) | Value::Integer(_) | Value::Bool(_) => self.fail(format!(
                "found {found}, which is no text and would not keep its form, as {}; accepted: {accepted}; to keep the form \
                 put it in quotes",
                if matches!(value, Value::Bool(_)) { "True becomes true" } else { "1.10 becomes 1.1 and 0644 becomes 644" }
            )),
            Value::Time(_) => self.expected(format_args!("{accepted}, so put it in quotes")),
            Value::Null => self.expected(format_args!("{accepted}; an empty text is written \"\"")),
            _ => self.expected(accepted),
        }
        None
    }

    /// A whole number in this range.
    pub(crate) fn integer(&self, least: u64, most: u64) -> Option<u64> {
        let range = Whole(least, most);
        match self.tree.value {
            Value::Integer(number) => {
                let fits = u64::try_from(number).ok().filter(|n| (least..=most).contains(n));
                if fits.is_none() {
                    self.expected(range);
                }
                fits
            }
            Value::Text(ref text) if text.trim().parse::<i128>().is_ok() => {
                self.expected(format_args!("{range}, without quotes"));
                None
            }
            _ => {
                self.expected(range);
                None
            }
        }
    }

    /// A text that this type reads; its own words say what is wrong.
    pub(crate) fn parsed<T: FromStr<Err = Error>>(&self, accepted: &str) -> Option<T> {
        let text = self.text(accepted)?;
        self.read(text)
    }

    /// The same from a text that was made from the value.
    pub(crate) fn read<T: FromStr<Err = Error>>(&self, text: &str) -> Option<T> {
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.fail(error.message());
                None
            }
        }
    }

    /// A duration with its unit.
    pub(crate) fn duration(&self) -> Option<Duration> {
        const ACCEPTED: &str = "a number with a unit (ms, s, m, h, d), such as \"10s\" or \"1h 30m\"";
        match &self.tree.value {
            Value::Integer(number) if self.tree.written.is_none() && *number >= 0 => {
                self.fail(format!(
                    "found the number {number} without a unit; accepted: {ACCEPTED}; for seconds write \"{number}s\""
                ));
                None
            }
            Value::Text(text) => match parse_duration(text) {
                Ok(duration) => Some(duration),
                Err(_) => {
                    self.expected(ACCEPTED);
                    None
                }
            },
            _ => {
                self.expected(ACCEPTED);
                None
            }
        }
    }

    /// One of these words.
    pub(crate) fn one_of<T: Copy>(&self, choices: &[(&str, T)], foreign: Foreign) -> Option<T> {
        let names = || choices.iter().map(|(name, _)| *name);
        let Some(text) = self.tree.as_text() else {
            self.expected(Quoted(names().collect()));
            return None;
        };
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let accepted = Quoted(names().collect());
        let found = self.found();
        match (foreign(text), nearest(text, names())) {
            (Some(advice), _) => self.fail(format!("found {found}: {advice}; accepted: {accepted}")),
            (None, Some(name)) => {
                self.fail(format!("found {found}, did you mean \"{name}\"?; accepted: {accepted}"));
            }
            (None, None) => self.expected(accepted),
        }
        None
    }
}

/// A table that is being asked for its fields.
pub(crate) struct Fields<'a> {
    pub(crate) at: At<'a>,
    table: &'a Table,
    known: Vec<&'static str>,
    /// Held back until it is clear that no other key was meant for it.
    missing: Vec<(String, Problem)>,
}

impl<'a> Fields<'a> {
    /// The value of a field, if it is there. Null is not there.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<At<'a>> {
        self.take_even_null(key).filter(|at| !at.is_null())
    }

    /// A field whose mere presence means something, so that null is no way to leave it out: `job:` with nothing below it.
    pub(crate) fn take_present(&mut self, key: &'static str) -> Option<At<'a>> {
        let at = self.take_even_null(key)?;
        if at.is_null() {
            at.fail(format!("found nothing; write `{key}: {{}}` for the defaults, or leave the field out"));
            return None;
        }
        Some(at)
    }

    fn take_even_null(&mut self, key: &'static str) -> Option<At<'a>> {
        self.known.push(key);
        self.table.entry(key).map(|entry| self.at.child(entry))
    }

    /// Whether a field is there, null included.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.entry(key).is_some()
    }

    /// Reports this field as unknown, and nothing else.
    pub(crate) fn only(&self, key: &str, foreign: Foreign) {
        let message = format!("unknown field `{key}`: {}", foreign(key).unwrap_or_default());
        let offset = self.table.entry(key).and_then(|entry| entry.offset);
        self.at.sink.push(Problem::new(self.at.path.key(key), message), offset);
    }

    /// The value of a field that must be there.
    pub(crate) fn required(&mut self, key: &'static str, accepted: &str) -> Option<At<'a>> {
        match self.take_even_null(key) {
            Some(at) if at.is_null() => {
                at.expected(accepted);
                None
            }
            Some(at) => Some(at),
            None => {
                self.missing(key, accepted);
                None
            }
        }
    }

    /// Notes that a field is missing. Where an unknown key was meant for it, that is the only problem.
    pub(crate) fn missing(&mut self, key: &str, accepted: &str) {
        let problem = Problem::new(
            self.at.path.key(key),
            format!("the field `{key}` is missing; accepted: {accepted}"),
        );
        self.missing.push((key.to_owned(), problem));
    }

    /// Reports every field that was not asked for.
    pub(crate) fn finish(mut self, foreign: Foreign) {
        for entry in self.table.entries() {
            let key = entry.key.as_str();
            if self.known.contains(&key) {
                continue;
            }
            // Looking for the nearest of many names is work, and nobody reads the thousandth problem.
            if self.at.sink.is_full() {
                self.at.sink.push(Problem::new(self.at.path.clone(), "unknown field"), entry.offset);
                continue;
            }
            let accepted = self.known.join(", ");
            let near = nearest(key, self.known.iter().copied());
            let advice = foreign(key).map(|advice| self.at.sink.example(advice));
            self.missing.retain(|(name, problem)| {
                let meant = match &advice {
                    Some(advice) => advice.contains(name.as_str()),
                    None => near == Some(name),
                };
                if meant {
                    self.at.sink.stand_in(problem.path.clone());
                }
                !meant
            });
            let message = match (advice, near) {
                // Among many names the list would hide the advice.
                (Some(advice), _) if self.known.len() > 10 => {
                    format!("unknown field `{}`: {advice}", ShownKey(key))
                }
                (Some(advice), _) => {
                    format!("unknown field `{}`: {advice}; accepted: {accepted}", ShownKey(key))
                }
                (None, Some(name)) => {
                    format!("unknown field `{}`, did you mean `{name}`?; accepted: {accepted}", ShownKey(key))
                }
                (None, None) => format!("unknown field `{}`; accepted: {accepted}", ShownKey(key)),
            };
            let problem = Problem::new(self.at.path.key(key), message);
            self.at.sink.push(problem, entry.offset);
        }
        for (_, problem) in self.missing {
            self.at.sink.push(problem, self.at.tree.offset);
        }
    }
}

/// The name that this is most likely a slip of, compared without case, `-` and `_`.
pub(crate) fn nearest<'n>(found: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    // Comparing is quadratic in the length, and no slip of a short name is long.
    if found.len() > 40 {
        return None;
    }
    let plain = |text: &str| {
        text.chars()
            .filter(|c| !matches!(c, '-' | '_' | ' '))
            .flat_map(char::to_lowercase)
            .collect::<String>()
    };
    let found = plain(found);
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&found, &plain(name)), name))
        .filter(|(distance, name)| *distance <= (name.len().max(found.len()) / 3).max(1).min(name.len() - 1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// A range of whole numbers, in words.
pub(crate) struct Whole(pub(crate) u64, pub(crate) u64);

impl fmt::Display for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            u64::MAX => write!(f, "a whole number of at least {}", self.0),
            most => write!(f, "a whole number from {} to {most}", self.0),
        }
    }
}

/// Words in quotes, joined by commas.
pub(crate) struct Quoted<'n>(pub(crate) Vec<&'n str>);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, name) in self.0.iter().enumerate() {
            write!(f, "{}\"{name}\"", if at > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}
