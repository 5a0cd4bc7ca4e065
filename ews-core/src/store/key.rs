//! Keys and prefixes: paths of whole segments, checked once where they enter.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::time::Shown;

/// Where a record lives: segments joined by `/`, such as `service/web/rollout/7`.
///
/// Segments are not empty, are not `.` or `..`, and hold no control characters; a key is at most [`Key::MAX_LEN`] bytes.
/// Keys order by their bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The longest key, in bytes.
    pub const MAX_LEN: usize = 1024;

    /// Checks and takes a key.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), saying what is wrong and what is accepted.
    pub fn new(text: impl AsRef<str>) -> Result<Self> {
        let text = text.as_ref();
        check_path("key", text, Self::MAX_LEN)?;
        Ok(Self(Arc::from(text)))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a list or a watch covers: every key that starts with these whole segments, or everything.
///
/// A prefix is empty or ends with `/`, so that `service/web/` never takes in `service/web2`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(Arc<str>);

impl Prefix {
    /// Every key.
    pub fn all() -> Self {
        Self(Arc::from(""))
    }

    /// Checks and takes a prefix; a missing `/` at the end is an error.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), saying what is wrong and what is accepted.
    pub fn new(text: impl AsRef<str>) -> Result<Self> {
        let text = text.as_ref();
        match text.strip_suffix('/') {
            Some(path) => check_path("prefix", path, Key::MAX_LEN - 1)?,
            None if text.is_empty() => {}
            None => {
                return Err(Error::invalid(format!(
                    "prefix `{}` does not end with `/`; accepted: whole segments, such as `service/web/`",
                    Shown(text)
                )));
            }
        }
        Ok(Self(Arc::from(text)))
    }

    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `key` lies under this prefix.
    pub fn covers(&self, key: &Key) -> bool {
        key.0.starts_with(&*self.0)
    }
}

fn check_path(what: &'static str, text: &str, max: usize) -> Result<()> {
    let fault = if text.is_empty() {
        "is empty".to_owned()
    } else if text.len() > max {
        format!("is {} bytes long", text.len())
    } else if let Some(found) = text.chars().find(|c| c.is_control()) {
        format!("contains the control character `{}`", found.escape_default())
    } else if let Some(segment) = text.split('/').find(|s| matches!(*s, "" | "." | "..")) {
        format!("has the segment `{segment}`")
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!(
        "{what} `{}` {fault}; accepted: at most {max} bytes of segments joined by `/`, none empty, `.` or `..`, without \
         control characters",
        Shown(text)
    )))
}

macro_rules! text_type {
    ($($name:ident)+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(text).map_err(|error| serde::de::Error::custom(error.message()))
            }
        }
    )+};
}
text_type!(Key Prefix);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_prefixes_keep_to_whole_segments() {
        for bad in ["", "/a", "a/", "a//b", "a/../b", ".", "a\0b", &"k".repeat(1025)] {
            assert!(Key::new(bad).is_err(), "{bad:?}");
        }
        assert!(Prefix::new("service/web").unwrap_err().message().contains("does not end with `/`"));
        let prefix = Prefix::new("service/web/").unwrap();
        assert!(prefix.covers(&Key::new("service/web/1").unwrap()));
        assert!(!prefix.covers(&Key::new("service/web2").unwrap()));
        assert!(Prefix::all().covers(&Key::new("x").unwrap()));
    }
}
