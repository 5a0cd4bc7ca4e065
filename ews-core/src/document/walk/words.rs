//! Parts of messages: the nearest name, ranges, words in quotes.

use std::fmt;

/// The name that this is most likely a slip of, compared without case, `-` and `_`. None for what is longer than 40 bytes.
///
/// ```
/// use ews_core::document::nearest;
///
/// assert_eq!(nearest("domian", ["port", "domain"]), Some("domain"));
/// assert_eq!(nearest("colour", ["port", "domain"]), None);
/// ```
pub fn nearest<'n>(found: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
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
        .filter(|(distance, name)| {
            *distance <= (name.len().max(found.len()) / 3).max(1).min(name.len().saturating_sub(1))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Whether two names differ in case, `-` and `_` only.
pub(super) fn same_words(a: &str, b: &str) -> bool {
    let plain = |text: &str| {
        let plain = text.bytes().filter(|b| !matches!(b, b'-' | b'_'));
        plain.map(|b| b.to_ascii_lowercase()).collect::<Vec<_>>()
    };
    // Most names differ in length by more than their punctuation, and are not looked at.
    a.len().abs_diff(b.len()) <= 8 && a.len() <= 64 && plain(a) == plain(b)
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
