//! Patterns for names: `*` within a segment, `**` over several, `?` for one character.

use ews_core::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A pattern for branches, tags, paths, repositories and services.
///
/// `*` stands for any characters but `/`, `**` for any at all, `?` for one but `/`; everything else for itself. At most
/// [`Glob::MAX_LEN`] bytes. Matching takes time that grows with the product of both lengths, never more.
///
/// ```
/// use ews_deploy::intake::Glob;
///
/// let release: Glob = "release/*".parse()?;
/// assert!(release.matches("release/1.2") && !release.matches("release/1/2"));
/// assert!("src/**".parse::<Glob>()?.matches("src/a/b.rs"));
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// The longest pattern, in bytes.
    pub const MAX_LEN: usize = 256;

    /// Whether the pattern stands for all of this text.
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text): (Vec<char>, Vec<char>) = (self.0.chars().collect(), text.chars().collect());
        // Which ends of the text each beginning of the pattern reaches: a table of one row, so that no pattern is slow.
        let mut reached = vec![false; text.len() + 1];
        if let Some(first) = reached.first_mut() {
            *first = true;
        }
        let mut at = 0;
        while let Some(&c) = pattern.get(at) {
            let is_deep = c == '*' && pattern.get(at + 1) == Some(&'*');
            let mut next = vec![false; text.len() + 1];
            let mut before = false;
            for (index, slot) in next.iter_mut().enumerate() {
                let here = reached.get(index).copied().unwrap_or_default();
                let last = index.checked_sub(1).and_then(|last| text.get(last)).copied();
                let from =
                    index.checked_sub(1).and_then(|last| reached.get(last)).copied().unwrap_or_default();
                *slot = match c {
                    '*' => here || (before && (is_deep || last != Some('/'))),
                    '?' => from && last != Some('/'),
                    _ => from && last == Some(c),
                };
                before = *slot;
            }
            reached = next;
            at += if is_deep { 2 } else { 1 };
        }
        reached.last().copied().unwrap_or_default()
    }

    /// Whether one of these stands for the text.
    pub(crate) fn any(globs: &[Self], text: &str) -> bool {
        globs.iter().any(|glob| glob.matches(text))
    }
}

impl std::str::FromStr for Glob {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() || text.len() > Self::MAX_LEN || text.chars().any(char::is_control) {
            return Err(Error::invalid(format!(
                "a pattern of {} bytes; accepted: 1 to {} without control characters",
                text.len(),
                Self::MAX_LEN
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Display for Glob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Glob {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Glob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stand_for_what_they_say() {
        let matches = |pattern: &str, text: &str| pattern.parse::<Glob>().unwrap().matches(text);
        for (pattern, text) in [
            ("main", "main"),
            ("*", "main"),
            ("v*", "v1.2"),
            ("**", "a/b/c"),
            ("src/**", "src/a/b"),
            ("**/x", "a/b/x"),
            ("a?c", "abc"),
            ("acme/*", "acme/web"),
            ("a*b*c", "a1b2c"),
            ("ä*", "äö"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("main", "main2"),
            ("main", "xmain"),
            ("*", "a/b"),
            ("acme/*", "acme/web/x"),
            ("acme/*", "evil/acme/web"),
            ("a?c", "a/c"),
            ("src/**", "src"),
            ("v*", ""),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
        assert!("".parse::<Glob>().is_err() && "x".repeat(257).parse::<Glob>().is_err());
    }

    #[test]
    fn no_pattern_is_slow() {
        let glob: Glob = "*a".repeat(120).parse().unwrap();
        assert!(!glob.matches(&format!("{}b", "a".repeat(4_000))));
    }
}
