//! What an instance is given: environment values, files and secrets by reference.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::text_serde;
use crate::error::{Error, Result};
use crate::time::Shown;

/// The value of an environment variable. `Debug` does not show a value, since it may be a secret against all advice.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum EnvValue {
    /// As written.
    Plain(String),
    /// Resolved when the instance is created, by the driver.
    Secret {
        /// Which secret.
        secret: SecretRef,
    },
}

/// A file placed before the program starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ConfigFile {
    /// Where, absolute in the instance; the process runtime takes it relative to the work directory.
    pub path: String,
    /// What it holds.
    #[serde(flatten)]
    pub content: FileContent,
    /// Its permission bits. Default 0644; 0400 for a secret.
    pub mode: FileMode,
}

impl ConfigFile {
    /// This file, readable by all; by its owner only if it is a secret.
    pub fn new(path: impl Into<String>, content: FileContent) -> Self {
        let mode = match content {
            FileContent::Content(_) => FileMode::PUBLIC,
            FileContent::Secret(_) => FileMode::SECRET,
        };
        Self { path: path.into(), content, mode }
    }
}

/// The permission bits of a file, written in octal as text: `"0644"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(u16);

impl FileMode {
    /// Readable by all, writable by its owner.
    pub const PUBLIC: Self = Self(0o644);
    /// Readable by its owner only.
    pub const SECRET: Self = Self(0o400);

    /// From permission bits; the set-id and sticky bits are refused.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) above 0777.
    pub fn new(bits: u16) -> Result<Self> {
        if bits > 0o777 {
            return Err(Error::invalid(format!("mode {bits:o} is above 0777")));
        }
        Ok(Self(bits))
    }

    /// The permission bits.
    pub const fn bits(self) -> u16 {
        self.0
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl FromStr for FileMode {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let good = (3..=4).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
        let bits = if good { u16::from_str_radix(text, 8).ok() } else { None };
        bits.and_then(|bits| Self::new(bits).ok()).ok_or_else(|| {
            Error::invalid(format!(
                "`{}` is not a file mode; accepted: octal text from \"0000\" to \"0777\"",
                Shown(text)
            ))
        })
    }
}

/// What a file holds. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FileContent {
    /// This text; at most 512 KiB.
    Content(String),
    /// A secret, resolved when the instance is created, by the driver.
    Secret(SecretRef),
}

/// The name of a secret, never its value: `[provider:]name[@version]`, such as `file:db/password@3`.
///
/// The provider is lower-case letters, digits and `-`; the name is segments joined by `/` of letters, digits, `.`, `_`,
/// `-`; the version likewise without `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretRef {
    provider: Option<String>,
    name: String,
    version: Option<String>,
}

impl SecretRef {
    /// Which provider resolves it; `None` is the embedder's default.
    pub fn provider(&self) -> Option<&str> {
        self.provider.as_deref()
    }

    /// The name at the provider.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version at the provider; `None` is the newest.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }
}

impl FromStr for SecretRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let word = |s: &str| {
            !s.is_empty()
                && s.len() <= 128
                && !matches!(s, "." | "..")
                && s.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
        };
        let (provider, rest) = match text.split_once(':') {
            Some((provider, rest)) => (Some(provider), rest),
            None => (None, text),
        };
        let (name, version) = match rest.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (rest, None),
        };
        let good = name.len() <= 253
            && name.split('/').all(word)
            && version.is_none_or(word)
            && provider.is_none_or(|p| {
                (1..=32).contains(&p.len())
                    && p.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            });
        if !good {
            let fault = match text {
                "" => "is empty",
                _ if text.contains(char::is_whitespace) => "holds a space or line break",
                _ if text.len() > 400 => "is too long",
                _ if !text.is_ascii() => "holds a character that is not ASCII",
                _ => "is not made of letters, digits, `.`, `_`, `-` and `/` between them",
            };
            // The text may be the secret itself, put here by mistake: it is not repeated.
            return Err(Error::invalid(format!(
                "this must be the name of a secret, not its value, and what stands here {fault} (it is not shown, it may be the \
                 secret itself); accepted: `[provider:]name[@version]`, such as `file:db/password`"
            )));
        }
        Ok(Self {
            provider: provider.map(str::to_owned),
            name: name.to_owned(),
            version: version.map(str::to_owned),
        })
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(provider) = &self.provider {
            write!(f, "{provider}:")?;
        }
        f.write_str(&self.name)?;
        if let Some(version) = &self.version {
            write!(f, "@{version}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for EnvValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(value) => write!(f, "Plain({} bytes)", value.len()),
            Self::Secret { secret } => write!(f, "Secret({secret})"),
        }
    }
}

impl fmt::Debug for FileContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Content(text) => write!(f, "Content({} bytes)", text.len()),
            Self::Secret(secret) => write!(f, "Secret({secret})"),
        }
    }
}

text_serde!(FileMode, SecretRef);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_references_round_trip_and_never_echo_what_they_refuse() {
        for text in ["db-password", "file:db/password", "env:TOKEN", "store:a/b@3"] {
            assert_eq!(text.parse::<SecretRef>().unwrap().to_string(), text);
        }
        for text in ["hunter2 with spaces", "file:../etc/shadow", "a//b", "", "UP:x", "a@", "p@ss!word"] {
            let error = text.parse::<SecretRef>().unwrap_err();
            assert!(text.is_empty() || !error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn modes_are_octal_text() {
        assert_eq!("0640".parse::<FileMode>().unwrap().bits(), 0o640);
        for text in ["", "9", "0x1ff", "4755", "1000", "-1", "+644"] {
            assert!(text.parse::<FileMode>().is_err(), "{text}");
        }
    }
}
