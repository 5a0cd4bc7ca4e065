//! What is wrong with a document: where, what was found, what is accepted.
//!
//! A problem is one line that can be understood without the others. A list of them is bounded, is an error, and becomes an
//! [`Error`] of kind `Invalid`.

use std::fmt;

use super::Format;
use crate::error::Error;

/// A place in a text, both counted from 1; the column counts characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Position {
    /// The position of this byte of the text; an offset past the end is the end.
    pub fn of(text: &str, offset: usize) -> Self {
        let mut end = offset.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let before = text.get(..end).unwrap_or_default();
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let last = before.rsplit('\n').next().unwrap_or_default();
        Self { line, column: last.chars().filter(|c| *c != '\u{feff}').count() + 1 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// One step of a [`Path`]. `Debug` cuts a key as messages do.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// A field of a table.
    Key(String),
    /// An item of a list, counted from 0.
    Index(usize),
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "Key({})", ShownKey(key)),
            Self::Index(index) => write!(f, "Index({index})"),
        }
    }
}

/// Where something stands in a document: `ports[0].number`, `labels."example.com/team"`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Path {
    steps: Vec<Step>,
}

impl Path {
    /// The document itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// A field below this.
    #[must_use]
    pub fn key(&self, key: impl Into<String>) -> Self {
        let mut steps = self.steps.clone();
        steps.push(Step::Key(key.into()));
        Self { steps }
    }

    /// An item below this.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        let mut steps = self.steps.clone();
        steps.push(Step::Index(index));
        Self { steps }
    }

    /// The steps, outermost first.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether one of the two lies within the other, or both are the same.
    pub(crate) fn touches(&self, other: &Self) -> bool {
        self.steps.iter().zip(&other.steps).all(|(a, b)| a == b)
    }
}

impl From<Vec<Step>> for Path {
    fn from(steps: Vec<Step>) -> Self {
        Self { steps }
    }
}

/// A key as it may be shown. A forgotten space or quote makes `PASSWORD=…` or `PASSWORD:…` a key with the secret in it,
/// so what follows the first character that no name holds is not shown.
pub(crate) struct ShownKey<'a>(pub(crate) &'a str);

impl ShownKey<'_> {
    fn shown(&self) -> (&str, bool) {
        let key = self.0;
        let end = key
            .char_indices()
            .find(|(_, c)| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '<' | '$' | '@')))
            .map_or(key.len(), |(at, _)| at);
        let end = key.char_indices().nth(64).map_or(end, |(at, _)| at.min(end));
        (key.get(..end).unwrap_or_default(), end < key.len())
    }
}

impl fmt::Display for ShownKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, cut) = self.shown();
        write!(f, "{shown}{}", if cut { "…" } else { "" })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.steps.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    if at > 0 {
                        f.write_str(".")?;
                    }
                    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
                    if !key.is_empty() && key.chars().all(bare) && key.len() <= 64 {
                        f.write_str(key)?;
                    } else {
                        write!(f, "\"{}\"", ShownKey(key))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// One thing that is wrong.
///
/// Its text is one line: `ports[0].number (line 7, column 10): found the number 70000; accepted: a whole number from 1 to
/// 65535`. Values that may be secrets (of the environment, of files, of headers, of references) are never in it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// Where in the document's structure; the root for the document as a whole.
    pub path: Path,
    /// Where in the document's text, if it has one.
    pub position: Option<Position>,
    /// What was wrong, in whole words.
    pub message: String,
    /// What stood there, where it may be shown: `text "3"`, `a list`.
    pub found: Option<String>,
    /// What would be accepted.
    pub accepted: Option<String>,
}

impl Problem {
    /// A problem at this path. A `; accepted: …` at the end of the message becomes [`Problem::accepted`].
    pub fn new(path: Path, message: impl Into<String>) -> Self {
        let message = message.into();
        let (message, accepted) = match message.split_once("; accepted: ") {
            Some((message, accepted)) => (message.to_owned(), Some(accepted.to_owned())),
            None => (message, None),
        };
        Self { path, position: None, message, found: None, accepted }
    }

    /// The same problem at this place of the text.
    #[must_use]
    pub fn with_position(mut self, position: Option<Position>) -> Self {
        self.position = position;
        self
    }

    /// The same problem, saying what stood there.
    #[must_use]
    pub fn with_found(mut self, found: impl Into<String>) -> Self {
        self.found = Some(found.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.path.steps.is_empty(), self.position) {
            (true, None) => {}
            (true, Some(position)) => write!(f, "{position}: ")?,
            (false, None) => write!(f, "{}: ", self.path)?,
            (false, Some(position)) => write!(f, "{} ({position}): ", self.path)?,
        }
        f.write_str(&self.message)?;
        match &self.accepted {
            Some(accepted) if self.message.ends_with('?') => write!(f, " accepted: {accepted}"),
            Some(accepted) => write!(f, "; accepted: {accepted}"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with one document; at least one problem.
///
/// Its text is a headline and one line for each problem, in the order of the document. At most
/// [`Problems::MAX`] are kept; the rest is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    headline: Headline,
    problems: Vec<Problem>,
    more: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Headline {
    Syntax(Format),
    Content(&'static str),
}

impl Problems {
    /// The most problems that are kept.
    pub const MAX: usize = 100;

    pub(crate) fn syntax(format: Format, problem: Problem) -> Self {
        Self { headline: Headline::Syntax(format), problems: vec![problem], more: 0 }
    }

    /// One problem with what was read well.
    pub(crate) fn content(what: &'static str, problem: Problem) -> Self {
        Self { headline: Headline::Content(what), problems: vec![problem], more: 0 }
    }

    /// `None` if there is nothing to report. Sorts by place, then keeps the first [`Self::MAX`].
    pub(crate) fn of(what: &'static str, mut problems: Vec<Problem>, mut more: usize) -> Option<Self> {
        if problems.is_empty() {
            return None;
        }
        problems.sort_by_key(|problem| problem.position);
        more += problems.len().saturating_sub(Self::MAX);
        problems.truncate(Self::MAX);
        Some(Self { headline: Headline::Content(what), problems, more })
    }

    /// The problems that were kept.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter()
    }

    /// How many there are, those included that were not kept.
    pub fn len(&self) -> usize {
        self.problems.len() + self.more
    }

    /// Never true: there is at least one problem.
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// How many were counted only.
    pub fn more(&self) -> usize {
        self.more
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.headline {
            Headline::Syntax(format) => write!(f, "this is not {format} that can be read:")?,
            Headline::Content(what) if self.len() == 1 => write!(f, "{what} has 1 problem:")?,
            Headline::Content(what) => write!(f, "{what} has {} problems:", self.len())?,
        }
        for problem in &self.problems {
            write!(f, "\n{problem}")?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more problems, not shown", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        Self::invalid(problems.to_string()).with_source(problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_from_one() {
        assert_eq!(Position::of("a\n店b", 5).to_string(), "line 2, column 2");
        assert_eq!(Position::of("", 9).to_string(), "line 1, column 1");
        // In the middle of a character: the character itself.
        assert_eq!(Position::of("店", 1).to_string(), "line 1, column 1");
    }

    #[test]
    fn paths_quote_what_needs_it_and_hide_what_looks_like_a_value() {
        let path = Path::root().key("labels").key("example.com/team");
        assert_eq!(path.to_string(), "labels.\"example.com/team\"");
        assert_eq!(Path::root().key("env").key("TOKEN=hunter2").to_string(), "env.\"TOKEN…\"");
        assert_eq!(Path::root().key("ports").index(3).key("number").to_string(), "ports[3].number");
    }

    #[test]
    fn only_the_first_hundred_are_kept_and_the_rest_is_counted() {
        let many = (0..130).map(|n| Problem::new(Path::root().index(n), "x")).collect();
        let problems = Problems::of("it", many, 7).unwrap();
        assert_eq!((problems.iter().count(), problems.len()), (100, 137));
        assert!(problems.to_string().ends_with("and 37 more problems, not shown"));
        let error = Error::from(problems);
        assert_eq!(error.kind(), crate::ErrorKind::Invalid);
    }
}
