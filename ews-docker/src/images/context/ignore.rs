//! `.dockerignore`: which paths of a context are left out.
//!
//! A pattern is matched from the context's root against the whole path and against each of its parents, unlike in `.gitignore`, where a bare
//! name matches at any depth. The last pattern that matches counts; `!` in front takes a path in again. `*` and `?` stop at a `/`; `**`
//! is any number of directories, none included. A line that begins with `#` is a comment, spaces around a line and slashes at either end
//! don't count. Source: the package `patternmatcher` of moby and the reference of `docker build`.

use ews_core::{Error, Result};

/// What a `.dockerignore` says, in its order.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    patterns: Vec<Pattern>,
}

/// What is known of a directory, for what lies in it: whether each pattern matched it or a parent of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Above {
    matched: Vec<bool>,
}

#[derive(Debug)]
struct Pattern {
    parts: Vec<Part>,
    takes_in: bool,
    /// What every path that matches begins with.
    literal: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    One(char),
    /// `?`
    Any,
    /// `*`
    Star,
    /// `**/`, or `**` with more behind it: nothing, or anything that ends with a `/`.
    Directories,
    /// `**` at the end, or in front of nothing but letters: anything.
    Rest,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Patterns {
    /// Reads a `.dockerignore`.
    pub(super) fn read(text: &str) -> Result<Self> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut patterns = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            let (takes_in, pattern) = match line.strip_prefix('!') {
                Some(pattern) => (true, pattern.trim()),
                None => (false, line),
            };
            if pattern.is_empty() {
                if takes_in {
                    return Err(wrong(number, "`!` stands alone"));
                }
                continue;
            }
            let pattern = clean(&if cfg!(windows) { pattern.replace('\\', "/") } else { pattern.to_owned() });
            let pattern = pattern.strip_prefix('/').filter(|rest| !rest.is_empty()).unwrap_or(&pattern);
            let parts = parts(pattern).map_err(|fault| wrong(number, fault))?;
            let literal = parts.iter().map_while(|part| match part {
                Part::One(c) => Some(*c),
                _ => None,
            });
            patterns.push(Pattern { literal: literal.collect(), parts, takes_in });
        }
        Ok(Self { patterns })
    }

    /// Takes this very path in, whatever the patterns before say.
    pub(super) fn keep(&mut self, path: &str) {
        let parts = path.chars().map(Part::One).collect();
        self.patterns.push(Pattern { parts, takes_in: true, literal: path.to_owned() });
    }

    /// Whether a path is left out, and what to know for what lies in it. `above` is what was said of its directory.
    pub(super) fn leaves_out(&self, path: &str, above: &Above) -> (bool, Above) {
        let path: Vec<char> = path.chars().collect();
        let (mut out, mut matched) = (false, Vec::with_capacity(self.patterns.len()));
        for (index, pattern) in self.patterns.iter().enumerate() {
            let matches = above.matched.get(index).copied().unwrap_or(false) || pattern.matches(&path);
            if matches {
                out = !pattern.takes_in;
            }
            matched.push(matches);
        }
        (out, Above { matched })
    }

    /// Whether something in a directory that is left out may be taken in again, so that it must be looked into.
    pub(super) fn may_take_in_below(&self, directory: &str) -> bool {
        let directory = format!("{directory}/");
        self.patterns.iter().filter(|pattern| pattern.takes_in).any(|pattern| {
            let literal = pattern.literal.as_str();
            let whole = literal.chars().count() == pattern.parts.len();
            // What is all literal must lead in here; what goes on with a wildcard may also match beyond the letters it begins with.
            literal.starts_with(&directory) || (!whole && directory.starts_with(literal))
        })
    }
}

fn wrong(line: usize, fault: impl std::fmt::Display) -> Error {
    Error::invalid(format!("line {line}: {fault}; accepted: patterns as `docker build` takes them"))
}

impl Pattern {
    /// Whether the whole path matches. The table over parts and characters is filled from the end, so that no pattern takes longer than
    /// the product of both.
    fn matches(&self, path: &[char]) -> bool {
        // Nearly every pattern fails at its first letters.
        if !self.literal.chars().zip(path).all(|(wanted, found)| wanted == *found)
            || self.literal.chars().count() > path.len()
        {
            return false;
        }
        // Whether the parts that come after match from each character on.
        let mut after: Vec<bool> = vec![false; path.len() + 1];
        if let Some(end) = after.last_mut() {
            *end = true;
        }
        for part in self.parts.iter().rev() {
            let mut here = vec![false; path.len() + 1];
            // Whether `after` holds somewhere behind a later `/`.
            let mut behind_slash = false;
            for at in (0..=path.len()).rev() {
                let found = path.get(at);
                let holds = |table: &[bool], at: usize| table.get(at).copied().unwrap_or(false);
                let one = holds(&after, at + 1);
                if found == Some(&'/') {
                    behind_slash |= one;
                }
                let matches = match part {
                    Part::One(c) => found == Some(c) && one,
                    Part::Any => found.is_some_and(|c| *c != '/') && one,
                    Part::Class { negated, ranges } => {
                        found.is_some_and(|c| {
                            ranges.iter().any(|(low, high)| (low..=high).contains(&c)) != *negated
                        }) && one
                    }
                    Part::Star => {
                        holds(&after, at) || (found.is_some_and(|c| *c != '/') && holds(&here, at + 1))
                    }
                    Part::Directories => holds(&after, at) || behind_slash,
                    Part::Rest => holds(&after, at) || (found.is_some() && holds(&here, at + 1)),
                };
                if let Some(cell) = here.get_mut(at) {
                    *cell = matches;
                }
            }
            after = here;
        }
        after.first().copied().unwrap_or(false)
    }
}

fn parts(pattern: &str) -> Result<Vec<Part>, &'static str> {
    // Docker's own oddity: `**` in front of letters alone is any beginning of a name too, so that `**file` matches `a/myfile`, while
    // `**file*` does not.
    if let Some(letters) = pattern.strip_prefix("**")
        && !letters.starts_with('/')
        && !letters.contains(['*', '?', '[', ']', '\\'])
    {
        return Ok(std::iter::once(Part::Rest).chain(letters.chars().map(Part::One)).collect());
    }
    let (mut parts, mut chars) = (Vec::new(), pattern.chars().peekable());
    while let Some(c) = chars.next() {
        parts.push(match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                if chars.peek().is_none() { Part::Rest } else { Part::Directories }
            }
            '*' => Part::Star,
            '?' => Part::Any,
            '\\' => Part::One(chars.next().ok_or("a `\\` with nothing behind it")?),
            '[' => class(&mut chars)?,
            c => Part::One(c),
        });
    }
    Ok(parts)
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Part, &'static str> {
    const FAULT: &str = "a `[` without its `]`, or with an empty or wrong range";
    fn one(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<char, &'static str> {
        match chars.next() {
            None | Some('-' | ']') => Err(FAULT),
            Some('\\') => chars.next().ok_or(FAULT),
            Some(c) => Ok(c),
        }
    }
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    while ranges.is_empty() || chars.next_if_eq(&']').is_none() {
        let low = one(chars)?;
        let high = if chars.next_if_eq(&'-').is_some() { one(chars)? } else { low };
        ranges.push((low, high));
    }
    Ok(Part::Class { negated, ranges })
}

/// A path without empty parts, `.` and what `..` undoes, as Go's `path.Clean` makes it. The empty path is `.`.
pub(super) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

#[cfg(test)]
#[path = "ignore_tests.rs"]
mod tests;
