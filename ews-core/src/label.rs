//! Labels: the facts by which thousands of instances, services and nodes are selected.
//!
//! A [`Labels`] value is one shared, immutable buffer: a clone is a pointer, a look-up reads memory in order and steps over
//! what has another length, and 100,000 instances of one service share one buffer. Keys that start with `ews/` belong to EWS and
//! are derived from the object itself, never set by users.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::time::Shown;

/// The prefix of the labels that EWS derives: `ews/owner`, `ews/service`, `ews/revision`, `ews/slot`, `ews/node`, ….
pub const RESERVED_PREFIX: &str = "ews/";

/// Where a selector finds the value of a label.
pub trait Lookup {
    /// The value of `key`, or `None` where the object has no such label.
    fn lookup(&self, key: &str) -> Option<Cow<'_, str>>;

    /// A byte of the memory that a look-up reads first, so that [`Selector::select`](crate::Selector::select) can wait for
    /// many objects' memory at once. The default reads nothing.
    fn first_byte(&self) -> u8 {
        0
    }
}

/// A set of labels, at most [`Labels::MAX_COUNT`] of them.
///
/// ```
/// use ews_core::Labels;
///
/// let labels = Labels::new([("app", "shop"), ("tier", "web")])?;
/// assert_eq!(labels.get("tier"), Some("web"));
/// assert!(Labels::new([("app name", "shop")]).is_err());
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Labels {
    // Sorted by key. Each entry is the key's length and the value's length, each as one character of that number, then the
    // key and the value: all of it text, so that no part of it needs to be checked for UTF-8 again.
    text: Arc<str>,
}

/// Walks the entries of a [`Labels`] buffer. It steps over bytes and cuts text only where it is asked for, since a selector
/// looks at many entries and takes few.
struct Entries<'a> {
    text: &'a str,
    at: usize,
}

/// One entry: where its key and its value start, and where it ends.
struct Entry<'a> {
    text: &'a str,
    key: usize,
    value: usize,
    end: usize,
}

impl<'a> Entry<'a> {
    fn has_key(&self, key: &str) -> bool {
        self.text.as_bytes().get(self.key..self.value) == Some(key.as_bytes())
    }

    fn key(&self) -> Option<&'a str> {
        self.text.get(self.key..self.value)
    }

    fn value(&self) -> Option<&'a str> {
        self.text.get(self.value..self.end)
    }
}

impl<'a> Entries<'a> {
    /// The number that the character at this place stands for: one byte below 128, two bytes below 2,048.
    #[inline]
    fn length(&mut self) -> Option<usize> {
        let bytes = self.text.as_bytes();
        let first = usize::from(*bytes.get(self.at)?);
        self.at += 1;
        if first < 0x80 {
            return Some(first);
        }
        let second = usize::from(*bytes.get(self.at)?);
        self.at += 1;
        Some((first & 0x1f) << 6 | second & 0x3f)
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (key, value) = (self.length()?, self.length()?);
        let entry = Entry { text: self.text, key: self.at, value: self.at + key, end: self.at + key + value };
        self.at = entry.end;
        Some(entry)
    }
}

impl Labels {
    /// The most labels one object may carry.
    pub const MAX_COUNT: usize = 64;
    /// The longest key, in bytes: a prefix of 253, a slash and a name of 63 (Kubernetes' limits).
    pub const MAX_KEY: usize = 317;
    /// The longest value, in bytes.
    pub const MAX_VALUE: usize = 256;

    /// Checks and takes labels. A key that comes twice is refused.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a bad key or value, a repeated key or too many labels.
    pub fn new<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> Result<Self> {
        let mut entries: Vec<(K, V)> = Vec::new();
        for (key, value) in pairs {
            check_key(key.as_ref())?;
            check_value(key.as_ref(), value.as_ref())?;
            entries.push((key, value));
        }
        entries.sort_by(|a, b| a.0.as_ref().cmp(b.0.as_ref()));
        if let Some([(key, _), _]) = entries.array_windows::<2>().find(|[a, b]| a.0.as_ref() == b.0.as_ref())
        {
            return Err(Error::invalid(format!("label `{}` is given twice", key.as_ref())));
        }
        if entries.len() > Self::MAX_COUNT {
            return Err(Error::invalid(format!(
                "{} labels are given; accepted: at most {}",
                entries.len(),
                Self::MAX_COUNT
            )));
        }
        Ok(Self::build(entries.iter().map(|(k, v)| (k.as_ref(), v.as_ref()))))
    }

    /// Entries must be sorted, distinct and checked.
    fn build<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut text = String::new();
        // Both are at most a few hundred bytes long, so each length is a character.
        let length = |text: &str| u32::try_from(text.len()).ok().and_then(char::from_u32).unwrap_or('\0');
        for (key, value) in entries {
            text.extend([length(key), length(value)]);
            text.push_str(key);
            text.push_str(value);
        }
        Self { text: Arc::from(text) }
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries().find(|entry| entry.has_key(key))?.value()
    }

    fn entries(&self) -> Entries<'_> {
        Entries { text: &self.text, at: 0 }
    }

    /// All labels, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries().filter_map(|entry| Some((entry.key()?, entry.value()?)))
    }

    /// How many labels there are.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// These labels with `other` laid over them: where both have a key, `other` wins.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the result has more than [`Self::MAX_COUNT`] labels.
    pub fn merged(&self, other: &Self) -> Result<Self> {
        let mut entries: std::collections::BTreeMap<&str, &str> = self.iter().collect();
        entries.extend(other.iter());
        if entries.len() > Self::MAX_COUNT {
            return Err(Error::invalid(format!(
                "{} labels after merging; at most {} are accepted",
                entries.len(),
                Self::MAX_COUNT
            )));
        }
        Ok(Self::build(entries.into_iter()))
    }

    /// These labels without the keys for which `drop` says yes.
    #[must_use]
    pub fn without(&self, mut drop: impl FnMut(&str) -> bool) -> Self {
        Self::build(self.iter().filter(|(key, _)| !drop(key)))
    }
}

impl Default for Labels {
    fn default() -> Self {
        Self { text: Arc::from("") }
    }
}

impl Lookup for Labels {
    fn lookup(&self, key: &str) -> Option<Cow<'_, str>> {
        self.get(key).map(Cow::Borrowed)
    }

    fn first_byte(&self) -> u8 {
        self.text.as_bytes().first().copied().unwrap_or_default()
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator}{key}={value}")?;
        }
        Ok(())
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Labels;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of labels, each a key with a text value")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut pairs: Vec<(String, String)> = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    if pairs.len() > Labels::MAX_COUNT {
                        break;
                    }
                    pairs.push(pair);
                }
                Labels::new(pairs).map_err(|error| serde::de::Error::custom(error.message()))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// Checks a label key: an optional DNS-like prefix and a slash, then a name of letters, digits, `-`, `_`, `.`.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), saying what is accepted.
pub fn check_key(key: &str) -> Result<()> {
    fn part(text: &str, max: usize) -> bool {
        let plain = |c: char| c.is_ascii_alphanumeric();
        !text.is_empty()
            && text.len() <= max
            && text.starts_with(plain)
            && text.ends_with(plain)
            && text.chars().all(|c| plain(c) || matches!(c, '-' | '_' | '.'))
    }
    let good = match key.split_once('/') {
        Some((prefix, name)) => part(prefix, 253) && part(name, 63),
        None => part(key, 63),
    };
    if good {
        return Ok(());
    }
    let dashed = key.trim().replace(' ', "-");
    let near = dashed != key && dashed.len() <= 64 && !dashed.contains('/') && part(&dashed, 63);
    let meant = if near { format!(", did you mean `{dashed}`?") } else { String::new() };
    Err(Error::invalid(format!(
        "label key `{}` is not accepted{meant}; accepted: 1 to 63 letters, digits, `-`, `_`, `.`, starting and ending with a letter or \
         digit, with an optional prefix such as `example.com/`",
        Shown(key)
    )))
}

/// Checks a label value: any text without control characters, at most [`Labels::MAX_VALUE`] bytes.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), saying what is accepted.
pub fn check_value(key: &str, value: &str) -> Result<()> {
    if value.len() > Labels::MAX_VALUE {
        return Err(Error::invalid(format!(
            "the value of label `{}` is {} bytes long; accepted: at most {}",
            Shown(key),
            value.len(),
            Labels::MAX_VALUE
        )));
    }
    if let Some(found) = value.chars().find(|c| c.is_control()) {
        return Err(Error::invalid(format!(
            "the value of label `{}` contains the control character `{}`; accepted: text without control characters",
            Shown(key),
            found.escape_default()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_a_prefix_of_another_finds_its_own_value() {
        let labels = Labels::new([("app", "a"), ("app.name", "b"), ("ap", "c")]).unwrap();
        assert_eq!(labels.get("app"), Some("a"));
        assert_eq!(labels.get("ap"), Some("c"));
        assert_eq!(labels.get("a"), None);
        assert_eq!(labels.get("app.name"), Some("b"));
        assert_eq!(labels.len(), 3);
    }

    #[test]
    fn values_may_hold_equals_and_unicode_but_no_line_break() {
        let labels = Labels::new([("query", "a=b"), ("region", "杭州"), ("empty", "")]).unwrap();
        assert_eq!(labels.get("query"), Some("a=b"));
        assert_eq!(labels.get("empty"), Some(""));
        let long = Labels::new([("k".repeat(63), "v".repeat(256)), ("z".into(), "杭".repeat(85))]).unwrap();
        assert_eq!(long.get("z").map(str::len), Some(255));
        assert_eq!(long.get(&"k".repeat(63)).map(str::len), Some(256));
        assert!(Labels::new([("x", "a\nb=c")]).is_err());
        assert!(Labels::new([("a=b", "c")]).is_err());
    }

    #[test]
    fn repeated_and_too_many_are_refused() {
        assert!(Labels::new([("a", "1"), ("a", "2")]).unwrap_err().message().contains("twice"));
        let many = (0..65).map(|n| (format!("k{n}"), "v"));
        assert!(Labels::new(many).unwrap_err().message().contains("at most 64"));
    }

    #[test]
    fn an_overlay_wins() {
        let base = Labels::new([("a", "1"), ("b", "1")]).unwrap();
        let over = Labels::new([("b", "2"), ("c", "2")]).unwrap();
        assert_eq!(base.merged(&over).unwrap().to_string(), "a=1,b=2,c=2");
    }

    #[test]
    fn serde_round_trip() {
        let labels = Labels::new([("a", "1"), ("example.com/b", "2")]).unwrap();
        let text = serde_json::to_string(&labels).unwrap();
        assert_eq!(serde_json::from_str::<Labels>(&text).unwrap(), labels);
        assert!(serde_json::from_str::<Labels>(r#"{"a":"1","a":"2"}"#).is_err());
    }
}
