//! A series' labels as one string: sorted, each key and value ended by a control character that neither may hold.

use std::borrow::Cow;
use std::fmt;

use ews_core::{Error, Lookup, Result};

/// The most labels of a series.
const MOST: usize = 32;
/// The longest key and value, in bytes.
const LONGEST: usize = 256;
const AFTER_KEY: char = '\u{1f}';
const AFTER_VALUE: char = '\u{1e}';

/// The string of these labels.
pub(crate) fn key_of<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<String> {
    let mut sorted: Vec<(&str, &str)> = Vec::with_capacity(8);
    for (key, value) in labels {
        if sorted.len() == MOST {
            return Err(Error::invalid(format!("more than {MOST} labels; accepted: at most {MOST}")));
        }
        let has_control = |text: &str| text.bytes().any(|byte| byte.is_ascii_control());
        if key.is_empty() || key.len() > LONGEST || has_control(key) {
            return Err(Error::invalid(format!(
                "the label's key `{}` can't be one; accepted: 1 to {LONGEST} bytes without control characters",
                Shown(key)
            )));
        }
        if value.len() > LONGEST || has_control(value) {
            return Err(Error::invalid(format!(
                "the value of the label `{}` has {} bytes, or control characters; accepted: at most {LONGEST} bytes without",
                Shown(key),
                value.len()
            )));
        }
        sorted.push((key, value));
    }
    sorted.sort_unstable();
    if let Some([(key, _), _]) = sorted.array_windows().find(|[(before, _), (after, _)]| before == after) {
        return Err(Error::invalid(format!(
            "the label `{}` comes twice; accepted: each key once",
            Shown(key)
        )));
    }
    let mut text = String::with_capacity(sorted.iter().map(|(key, value)| key.len() + value.len() + 2).sum());
    for (key, value) in sorted {
        text.push_str(key);
        text.push(AFTER_KEY);
        text.push_str(value);
        text.push(AFTER_VALUE);
    }
    Ok(text)
}

/// The labels of such a string, sorted by key.
pub(crate) fn pairs(key: &str) -> impl Iterator<Item = (&str, &str)> {
    key.split_terminator(AFTER_VALUE).filter_map(|pair| pair.split_once(AFTER_KEY))
}

/// Refuses what can't be the name of a metric.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > LONGEST || name.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "`{}` can't be the name of a metric; accepted: 1 to {LONGEST} bytes without control characters",
            Shown(name)
        )));
    }
    Ok(())
}

/// A key or a name in a message: its first 64 characters, escaped.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().take(64).try_for_each(|c| write!(f, "{}", c.escape_debug()))
    }
}

/// Such a string, for selectors.
pub(crate) struct ByKey<'a>(pub(crate) &'a str);

impl Lookup for ByKey<'_> {
    fn lookup(&self, key: &str) -> Option<Cow<'_, str>> {
        pairs(self.0).find(|(name, _)| *name == key).map(|(_, value)| value.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_one_whatever_their_order_and_refused_where_they_would_be_taken_for_others() {
        let key = key_of([("b", "2"), ("a", "")]).unwrap();
        assert_eq!(key, key_of([("a", ""), ("b", "2")]).unwrap());
        assert_eq!(pairs(&key).collect::<Vec<_>>(), [("a", ""), ("b", "2")]);
        assert_eq!(ByKey(&key).lookup("b").as_deref(), Some("2"));
        assert_eq!(pairs(&key_of([]).unwrap()).count(), 0);
        let long = "x".repeat(257);
        for bad in [("", "x"), ("a\u{1f}", "x"), ("a", "x\u{1e}"), ("a", &long)] {
            assert!(key_of([bad]).is_err(), "{bad:?}");
        }
        assert!(key_of([("a", "1"), ("a", "2")]).is_err());
        let names: Vec<String> = (0..33).map(|index| format!("l{index}")).collect();
        assert!(key_of(names.iter().map(|name| (name.as_str(), ""))).is_err());
    }
}
