//! Where the problems of one walk are collected, and how the findings of the rules come to their places.

use std::cell::RefCell;
use std::collections::HashMap;

use super::super::{Format, Path, Position, Problem, Problems, Step, Tree, Value};

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
    /// Fields that stand under another key than their own: their own path, and the key.
    renamed: HashMap<Path, String>,
}

/// How many problems a walk keeps before it sorts and cuts: enough that the first hundred by place are the true ones.
const KEPT: usize = 10 * Problems::MAX;

impl<'t> Sink<'t> {
    /// Problems get places, and examples the right form, if the text is given from which the tree was read.
    pub(crate) fn new(source: Option<(&'t str, Format)>) -> Self {
        Self { source, found: RefCell::default() }
    }

    /// Examples in messages are written as TOML; whoever writes another format gets them in that.
    pub(super) fn example(&self, text: &str) -> String {
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

    pub(super) fn push(&self, problem: Problem, offset: Option<usize>) {
        self.stand_in(problem.path.clone());
        self.keep(problem, offset);
    }

    pub(super) fn keep(&self, mut problem: Problem, offset: Option<usize>) {
        problem.accepted = problem.accepted.map(|accepted| self.example(&accepted));
        let mut found = self.found.borrow_mut();
        if found.problems.len() >= KEPT {
            found.more += 1;
            return;
        }
        let position = self.source.and_then(|(text, _)| offset.map(|offset| Position::of(text, offset)));
        found.problems.push(problem.with_position(position));
    }

    pub(super) fn is_full(&self) -> bool {
        self.found.borrow().problems.len() >= KEPT
    }

    /// Remembers that a stand-in was used here.
    pub(super) fn stand_in(&self, path: Path) {
        let mut found = self.found.borrow_mut();
        if found.failed.len() < KEPT {
            found.failed.push(path);
        }
    }

    /// Remembers that a field stands under this key.
    pub(super) fn renamed(&self, path: Path, key: &str) {
        let mut found = self.found.borrow_mut();
        if found.renamed.len() < KEPT {
            found.renamed.insert(path, key.to_owned());
        }
    }

    /// Notes what the rules found, except where it may follow from something that could not be read.
    pub(crate) fn add_findings(&self, root: &Tree, findings: Vec<Finding>) {
        for finding in findings {
            let (path, offset) = locate(root, &finding.path, &self.found.borrow().renamed);
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
fn locate(root: &Tree, path: &Path, renamed: &HashMap<Path, String>) -> (Path, Option<usize>) {
    let mut node = root;
    let mut offset = root.offset;
    let mut shown = Path::root();
    for step in path.steps() {
        let next = match (&node.value, step) {
            (Value::Table(table), Step::Key(key)) => {
                let own = shown.key(key.clone());
                let key = if table.entry(key).is_some() { key } else { renamed.get(&own).unwrap_or(key) };
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
