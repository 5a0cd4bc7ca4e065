//! The selector language: `app=shop,tier in (web,api),!legacy`.
//!
//! A selector is a list of requirements that must all hold. It reads like Kubernetes' selectors, so that nobody has to
//! learn a new one: `key=value`, `key==value`, `key!=value`, `key in (a,b)`, `key notin (a,b)`, `key` (has it), `!key`
//! (has it not). As there, `!=` and `notin` also match what lacks the key. A value with other characters than letters,
//! digits and `._-/:@+` is written in double quotes (`\"` and `\\` inside).
//!
//! An empty text is an error: what selects everything is written `*`, so that a forgotten variable can't mean "all".

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::label::{self, Lookup};
use crate::time::Shown;

/// One requirement on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Requirement {
    /// The label has one of these values.
    In(Box<str>, Box<[Box<str>]>),
    /// The label is absent, or has none of these values.
    NotIn(Box<str>, Box<[Box<str>]>),
    /// The label is there, whatever its value.
    Exists(Box<str>),
    /// The label is absent.
    Absent(Box<str>),
}

impl Requirement {
    fn holds(&self, labels: &impl Lookup) -> bool {
        match self {
            Self::In(key, values) => {
                labels.lookup(key).is_some_and(|found| values.iter().any(|value| **value == *found))
            }
            Self::NotIn(key, values) => {
                !labels.lookup(key).is_some_and(|found| values.iter().any(|value| **value == *found))
            }
            Self::Exists(key) => labels.lookup(key).is_some(),
            Self::Absent(key) => labels.lookup(key).is_none(),
        }
    }
}

/// A condition on labels; see the [module](self) for the language.
///
/// ```
/// use ews_core::{Labels, Selector};
///
/// let selector: Selector = "app=shop,tier in (web,api),!legacy".parse()?;
/// assert!(selector.matches(&Labels::new([("app", "shop"), ("tier", "web")])?));
/// assert!(!selector.matches(&Labels::new([("app", "shop"), ("tier", "web"), ("legacy", "")])?));
/// assert!("".parse::<Selector>().is_err());
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    requirements: Box<[Requirement]>,
}

impl Selector {
    /// The longest selector text, in bytes.
    pub const MAX_LEN: usize = 16 * 1024;

    /// Selects everything; written `*`.
    pub fn everything() -> Self {
        Self { requirements: Box::default() }
    }

    /// Selects what has this one label value.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a bad key or value.
    pub fn equal(key: &str, value: &str) -> Result<Self> {
        Self::new([Requirement::In(key.into(), Box::new([value.into()]))])
    }

    /// All of these must hold. None at all selects everything.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a bad key or value.
    pub fn new(requirements: impl IntoIterator<Item = Requirement>) -> Result<Self> {
        let requirements: Box<[Requirement]> = requirements.into_iter().collect();
        for requirement in &requirements {
            match requirement {
                Requirement::In(key, values) | Requirement::NotIn(key, values) => {
                    label::check_key(key)?;
                    values.iter().try_for_each(|value| label::check_value(key, value))?;
                }
                Requirement::Exists(key) | Requirement::Absent(key) => label::check_key(key)?,
            }
        }
        Ok(Self { requirements })
    }

    /// This selector and `other` both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self { requirements: self.requirements.iter().chain(&other.requirements).cloned().collect() }
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The requirements, all of which must hold.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Those of many objects that match, in their order.
    ///
    /// It reads ahead: the labels of one object in a large fleet are seldom in the processor's cache, and waiting for thirty
    /// of them takes hardly longer than waiting for one.
    pub fn select<'a, T: Lookup>(&'a self, objects: &'a [T]) -> impl Iterator<Item = &'a T> {
        objects.chunks(32).flat_map(move |chunk| {
            std::hint::black_box(chunk.iter().fold(0, |sum, object| sum ^ object.first_byte()));
            chunk.iter().filter(move |object| self.matches(*object))
        })
    }

    /// Whether these labels meet every requirement.
    pub fn matches(&self, labels: &impl Lookup) -> bool {
        self.requirements.iter().all(|requirement| requirement.holds(labels))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.requirements.is_empty() {
            return f.write_str("*");
        }
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match requirement {
                Requirement::In(key, values) if values.len() == 1 => {
                    write!(f, "{key}=")?;
                    write_values(f, values)?;
                }
                Requirement::NotIn(key, values) if values.len() == 1 => {
                    write!(f, "{key}!=")?;
                    write_values(f, values)?;
                }
                Requirement::In(key, values) => {
                    write!(f, "{key} in (")?;
                    write_values(f, values)?;
                    f.write_str(")")?;
                }
                Requirement::NotIn(key, values) => {
                    write!(f, "{key} notin (")?;
                    write_values(f, values)?;
                    f.write_str(")")?;
                }
                Requirement::Exists(key) => f.write_str(key)?,
                Requirement::Absent(key) => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

fn write_values(f: &mut fmt::Formatter<'_>, values: &[Box<str>]) -> fmt::Result {
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            f.write_str(",")?;
        }
        if !value.is_empty() && value.chars().all(is_bare) {
            f.write_str(value)?;
        } else {
            f.write_str("\"")?;
            for character in value.chars() {
                if matches!(character, '"' | '\\') {
                    f.write_str("\\")?;
                }
                write!(f, "{character}")?;
            }
            f.write_str("\"")?;
        }
    }
    Ok(())
}

fn is_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':' | '@' | '+')
}

impl FromStr for Selector {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.len() > Self::MAX_LEN {
            return Err(Error::invalid(format!(
                "the selector is {} bytes long; accepted: at most {}",
                text.len(),
                Self::MAX_LEN
            )));
        }
        if text.trim() == "*" {
            return Ok(Self::everything());
        }
        let mut parser = Parser { text, at: 0 };
        let mut requirements = Vec::new();
        loop {
            requirements.push(parser.requirement()?);
            parser.space();
            if parser.rest().is_empty() {
                return Self::new(requirements);
            }
            if !parser.take(',') {
                return Err(parser.expected("`,` or the end"));
            }
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.rest().starts_with(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !is_bare(c)).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    fn expected(&self, what: &str) -> Error {
        let found = match self.rest().chars().next() {
            Some(character) => format!("`{}`", character.escape_debug()),
            None => "the end".to_owned(),
        };
        // `disk in ssd` for `disk in (ssd)`.
        let rest = self.rest().trim_end();
        let bare = what == "`(`" && !rest.is_empty() && rest.len() <= 64 && rest.chars().all(is_bare);
        let mended = format!("{}({rest})", self.text.get(..self.at).unwrap_or_default());
        let meant = match bare && mended.len() <= 128 {
            true => format!(", did you mean `{}`?", Shown(&mended)),
            false => String::new(),
        };
        Error::invalid(format!(
            "selector `{}`: expected {what} at character {}, found {found}{meant}; accepted: conditions such as \
             `app=shop,tier in (web,api),!legacy`, or `*` for everything",
            Shown(self.text),
            self.text.get(..self.at).unwrap_or_default().chars().count() + 1,
        ))
    }

    fn key(&mut self) -> Result<Box<str>> {
        self.space();
        let start = self.at;
        let word = self.word();
        if word.is_empty() {
            return Err(self.expected("a label key"));
        }
        label::check_key(word).inspect_err(|_| self.at = start)?;
        Ok(word.into())
    }

    fn value(&mut self) -> Result<Box<str>> {
        self.space();
        if !self.take('"') {
            let word = self.word();
            return if word.is_empty() { Err(self.expected("a value")) } else { Ok(word.into()) };
        }
        let mut value = String::new();
        loop {
            let Some(character) = self.rest().chars().next() else {
                return Err(self.expected("a closing `\"`"));
            };
            self.at += character.len_utf8();
            match character {
                '"' => return Ok(value.into()),
                '\\' => match self.rest().chars().next() {
                    Some(escaped @ ('"' | '\\')) => {
                        self.at += escaped.len_utf8();
                        value.push(escaped);
                    }
                    _ => return Err(self.expected("`\"` or `\\` after `\\`")),
                },
                _ => value.push(character),
            }
        }
    }

    fn values(&mut self) -> Result<Box<[Box<str>]>> {
        self.space();
        if !self.take('(') {
            return Err(self.expected("`(`"));
        }
        let mut values = Vec::new();
        loop {
            values.push(self.value()?);
            self.space();
            if self.take(')') {
                return Ok(values.into());
            }
            if !self.take(',') {
                return Err(self.expected("`,` or `)`"));
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement> {
        self.space();
        if self.take('!') {
            return Ok(Requirement::Absent(self.key()?));
        }
        let key = self.key()?;
        self.space();
        if self.take('!') {
            if !self.take('=') {
                return Err(self.expected("`=` after `!`"));
            }
            return Ok(Requirement::NotIn(key, Box::new([self.value()?])));
        }
        if self.take('=') {
            self.take('=');
            return Ok(Requirement::In(key, Box::new([self.value()?])));
        }
        let before = self.at;
        match self.word() {
            "in" => Ok(Requirement::In(key, self.values()?)),
            "notin" => Ok(Requirement::NotIn(key, self.values()?)),
            "" => Ok(Requirement::Exists(key)),
            _ => {
                self.at = before;
                Err(self.expected("`=`, `!=`, `in (…)`, `notin (…)`, `,` or the end"))
            }
        }
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error: Error| serde::de::Error::custom(error.message()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Labels;

    fn labels() -> Labels {
        Labels::new([("app", "shop"), ("tier", "web"), ("region", "杭州 east")]).unwrap()
    }

    #[test]
    fn every_form_matches_as_documented() {
        for (text, expected) in [
            ("*", true),
            (" * ", true),
            ("app=shop", true),
            ("app == shop", true),
            ("app=other", false),
            ("app!=other", true),
            ("missing!=x", true),
            ("missing=x", false),
            ("tier in (api, web)", true),
            ("tier in (api)", false),
            ("tier notin (api)", true),
            ("missing notin (x)", true),
            ("tier notin (api,web)", false),
            ("app", true),
            ("missing", false),
            ("!missing", true),
            ("!app", false),
            ("region=\"杭州 east\"", true),
            ("app=shop,tier in (web,api),!legacy", true),
            ("app=shop,legacy", false),
            ("in=x", false),
            ("in in (in)", false),
        ] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(selector.matches(&labels()), expected, "{text}");
            assert_eq!(selector.to_string().parse::<Selector>().unwrap(), selector, "{text}");
        }
    }

    #[test]
    fn selecting_from_many_is_matching_each() {
        let many: Vec<Labels> = (0..100)
            .map(|n| Labels::new([("n", n.to_string()), ("odd", (n % 2).to_string())]).unwrap())
            .collect();
        let selector: Selector = "odd=1,n notin (33,63)".parse().unwrap();
        let matching: Vec<_> = many.iter().filter(|labels| selector.matches(*labels)).collect();
        assert_eq!(matching.len(), 48);
        assert_eq!(selector.select(&many).collect::<Vec<_>>(), matching);
    }

    #[test]
    fn wrong_texts_say_where_and_what_is_accepted() {
        for (text, place) in [
            ("", "a label key at character 1, found the end"),
            ("   ", "a label key at character 4, found the end"),
            ("app=", "a value at character 5, found the end"),
            ("app=shop,", "a label key at character 10, found the end"),
            ("app=shop tier=web", "`,` or the end at character 10, found `t`"),
            ("tier in web", "`(` at character 9, found `w`"),
            ("tier in (web", "`,` or `)` at character 13, found the end"),
            ("tier in ()", "a value at character 10, found `)`"),
            ("tier like web", "`in (…)`"),
            ("app=\"shop", "a closing `\"`"),
            ("app!shop", "`=` after `!`"),
            ("=shop", "a label key at character 1, found `=`"),
            ("app=shop,*", "a label key at character 10, found `*`"),
        ] {
            let error = text.parse::<Selector>().unwrap_err();
            assert!(error.message().contains(place), "{text:?}: {error}");
        }
        assert!("app=shop,-x=1".parse::<Selector>().unwrap_err().message().contains("label key `-x`"));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,64}") {
            let _ = text.parse::<Selector>();
        }

        #[test]
        fn what_is_written_reads_back(value in "\\PC{0,40}") {
            if let Ok(selector) = Selector::equal("key", &value) {
                proptest::prop_assert_eq!(selector.to_string().parse::<Selector>().unwrap(), selector);
            }
        }
    }
}
