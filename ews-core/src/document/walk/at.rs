//! One value of a document: what it is, how a message shows it, and how it is read as what was asked for.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::super::{Entry, Path, Problem, Tree, Value};
use super::words::{Quoted, Whole, nearest};
use super::{Fields, Sink};
use crate::error::Error;
use crate::time::{Shown, parse_duration};

/// A value, its path, and where to note problems with it.
#[derive(Clone)]
pub(crate) struct At<'a> {
    pub(crate) tree: &'a Tree,
    pub(super) path: Path,
    pub(super) sink: &'a Sink<'a>,
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
            Value::Table(table) => Some(Fields::new(self.clone(), table)),
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

    pub(super) fn child(&self, entry: &'a Entry) -> At<'a> {
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
