//! A table that is asked for its fields, and what is said of those that nobody asked for.

use super::super::problem::ShownKey;
use super::super::{Entry, Problem, Table};
use super::At;
use super::at::Foreign;
use super::words::{nearest, same_words};

/// A table that is being asked for its fields.
pub(crate) struct Fields<'a> {
    pub(crate) at: At<'a>,
    table: &'a Table,
    known: Vec<&'static str>,
    /// What other tools call a field whose value is otherwise the same: their name and ours.
    names: &'static [(&'static str, &'static str)],
    /// Held back until it is clear that no other key was meant for it.
    missing: Vec<Missing>,
}

struct Missing {
    /// Any of these would do.
    names: Vec<&'static str>,
    problem: Problem,
}

impl<'a> Fields<'a> {
    pub(super) fn new(at: At<'a>, table: &'a Table) -> Self {
        Self { at, table, known: Vec::new(), names: &[], missing: Vec::new() }
    }

    /// A field that stands under one of these names is still reported as unknown, and its value is judged at once, so that
    /// whoever renames it does not learn of the value's faults only then. The same holds without a list for names that
    /// differ in case, `-` and `_` only.
    pub(crate) fn also_called(mut self, names: &'static [(&'static str, &'static str)]) -> Self {
        self.names = names;
        self
    }

    /// The entry that was meant for a field.
    fn meant(&self, key: &str) -> Option<&'a Entry> {
        let listed =
            |written: &str| self.names.iter().any(|(theirs, ours)| *theirs == written && *ours == key);
        self.table.entry(key).or_else(|| {
            self.table.entries().iter().find(|entry| same_words(&entry.key, key) || listed(&entry.key))
        })
    }

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
        let entry = self.meant(key)?;
        if entry.key != key {
            self.at.sink.renamed(self.at.path.key(key), &entry.key);
        }
        Some(self.at.child(entry))
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
    pub(crate) fn missing(&mut self, key: &'static str, accepted: &str) {
        let message = format!("the field `{key}` is missing; accepted: {accepted}");
        let problem = Problem::new(self.at.path.key(key), message);
        self.missing.push(Missing { names: vec![key], problem });
    }

    /// Notes that none of these fields is given, of which exactly one must be.
    pub(crate) fn none_given(&mut self, what: &str, names: &[&'static str], accepted: &str) {
        let problem = Problem::new(
            self.at.path.clone(),
            format!("no {what} is given; accepted: exactly one of {accepted}"),
        );
        self.missing.push(Missing { names: names.to_vec(), problem });
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
            self.missing.retain(|missing| {
                let meant = missing.names.iter().any(|name| match &advice {
                    Some(advice) => advice.contains(name),
                    None => near == Some(name),
                });
                if meant && let [_] = missing.names.as_slice() {
                    self.at.sink.stand_in(missing.problem.path.clone());
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
            if self.known.iter().any(|known| self.meant(known).is_some_and(|meant| meant.key == key)) {
                // Its value was read: what the rules find in it counts.
                self.at.sink.keep(problem, entry.offset);
            } else {
                self.at.sink.push(problem, entry.offset);
            }
        }
        for missing in self.missing {
            match missing.names.as_slice() {
                [_] => self.at.sink.push(missing.problem, self.at.tree.offset),
                // No rule objects to what stands for one of several, and the other fields are judged as always.
                _ => self.at.sink.keep(missing.problem, self.at.tree.offset),
            }
        }
    }
}
