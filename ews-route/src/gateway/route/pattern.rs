//! A regular expression over a whole path.

use ews_core::{Error, Result};

/// What one compiled expression may take in memory; the crate's own default is ten times that.
#[cfg(feature = "regex")]
const SIZE: usize = 1 << 20;

/// An expression in the syntax of the crate `regex`, whose time is linear in the path whatever is written.
#[derive(Debug)]
pub(super) struct Pattern {
    #[cfg(feature = "regex")]
    regex: regex::Regex,
    #[cfg(not(feature = "regex"))]
    never: std::convert::Infallible,
}

impl Pattern {
    #[cfg(feature = "regex")]
    pub(super) fn new(text: &str) -> Result<Self> {
        let compile = |text: &str| regex::RegexBuilder::new(text).size_limit(SIZE).build();
        let wrong = |error: regex::Error| {
            Error::invalid(format!(
                "the regular expression `{}` does not compile: {}",
                text.escape_debug(),
                error.to_string().replace('\n', " ")
            ))
        };
        // By itself first: what closes the group below and opens another would be something else than was written.
        compile(text).map_err(wrong)?;
        Ok(Self { regex: compile(&format!("^(?:{text})$")).map_err(wrong)? })
    }

    #[cfg(not(feature = "regex"))]
    pub(super) fn new(_: &str) -> Result<Self> {
        Err(Error::new(
            ews_core::ErrorKind::Unsupported,
            "this gateway is built without regular expressions (ews-route's feature `regex`)",
        ))
    }

    #[cfg(feature = "regex")]
    pub(super) fn takes(&self, path: &str) -> bool {
        self.regex.is_match(path)
    }

    #[cfg(not(feature = "regex"))]
    pub(super) fn takes(&self, _: &str) -> bool {
        match self.never {}
    }
}
