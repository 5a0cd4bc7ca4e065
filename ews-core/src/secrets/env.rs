//! Secrets in environment variables of this process.

use std::ffi::OsString;
use std::fmt;

use async_trait::async_trait;

use super::{SecretValue, Secrets};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::content::SecretRef;

/// Secrets in environment variables with allowed prefixes.
///
/// A reference names the variable: `env:SHOP_DB_PASSWORD`. Only variables with an allowed prefix are given out, or whoever may
/// write a spec could read `AWS_SECRET_ACCESS_KEY` of the controller into a container of theirs. The environment itself stays
/// in the process's memory, where its own rules hold; prefer files.
#[derive(Clone)]
pub struct EnvSecrets {
    prefixes: Vec<String>,
    lookup: fn(&str) -> Option<OsString>,
}

impl EnvSecrets {
    /// Gives out variables whose names start with one of these prefixes and go on after it.
    ///
    /// # Errors
    /// `Invalid` for no prefix at all, an empty one, or one with other characters than letters, digits and `_`.
    pub fn new(prefixes: impl IntoIterator<Item = impl Into<String>>) -> Result<Self> {
        let prefixes: Vec<String> = prefixes.into_iter().map(Into::into).collect();
        if prefixes.is_empty() || !prefixes.iter().all(|prefix| is_variable(prefix)) {
            return Err(Error::invalid(
                "secrets of the environment need prefixes that say which variables may be given out; accepted: at least one, \
                 of letters, digits and `_`, such as `SHOP_`",
            ));
        }
        Ok(Self { prefixes, lookup: |name| std::env::var_os(name) })
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

impl fmt::Debug for EnvSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvSecrets").field("prefixes", &self.prefixes).finish_non_exhaustive()
    }
}

#[async_trait]
impl Secrets for EnvSecrets {
    /// # Errors
    /// `Invalid` for a name that is no variable's, or a version; `Unauthorized` without an allowed prefix; `NotFound` where the
    /// variable is not set or empty.
    async fn resolve(&self, reference: &SecretRef) -> Result<SecretValue> {
        let failed = |kind, message: String| {
            Err(Error::new(kind, message).with_operation("secrets.resolve").with_context("secret", reference))
        };
        let name = reference.name();
        if !is_variable(name) || reference.version().is_some() {
            return failed(
                ErrorKind::Invalid,
                "accepted: the name of an environment variable, of letters, digits and `_`, without a version".into(),
            );
        }
        if !self.prefixes.iter().any(|prefix| name.len() > prefix.len() && name.starts_with(prefix)) {
            let accepted = self.prefixes.join("`, `");
            return failed(
                ErrorKind::Unauthorized,
                format!("only variables that start with `{accepted}` are given out"),
            );
        }
        match (self.lookup)(name) {
            Some(value) if !value.is_empty() => SecretValue::new(value.into_encoded_bytes()),
            Some(_) => failed(ErrorKind::NotFound, "the variable is set but empty".into()),
            None => failed(ErrorKind::NotFound, "the variable is not set".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> EnvSecrets {
        let lookup = |name: &str| match name {
            "SHOP_DB" | "AWS_SECRET" | "SHOP_" => Some("hunter2".into()),
            "SHOP_EMPTY" => Some(OsString::new()),
            _ => None,
        };
        EnvSecrets { lookup, ..EnvSecrets::new(["SHOP_"]).unwrap() }
    }

    #[tokio::test]
    async fn only_allowed_variables_are_given_out() {
        let secrets = secrets();
        assert_eq!(secrets.resolve(&"env:SHOP_DB".parse().unwrap()).await.unwrap().expose(), b"hunter2");
        for (name, kind) in [
            ("AWS_SECRET", ErrorKind::Unauthorized),
            ("XSHOP_DB", ErrorKind::Unauthorized),
            ("SHOP_", ErrorKind::Unauthorized),
            ("SHOP_NONE", ErrorKind::NotFound),
            ("SHOP_EMPTY", ErrorKind::NotFound),
            ("SHOP_DB@2", ErrorKind::Invalid),
            ("SHOP_/DB", ErrorKind::Invalid),
            ("SHOP_D.B", ErrorKind::Invalid),
        ] {
            let error = secrets.resolve(&name.parse().unwrap()).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{name}");
            assert!(error.to_string().contains(name) && !error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[tokio::test]
    async fn the_real_environment_is_read() {
        let cargo = EnvSecrets::new(["CARGO_PKG"]).unwrap();
        let name = cargo.resolve(&"CARGO_PKG_NAME".parse().unwrap()).await.unwrap();
        assert_eq!(name.expose_str().unwrap(), "ews-core");
    }

    #[test]
    fn an_empty_allow_list_is_no_allow_list() {
        for bad in [&[][..], &[""], &["A_", ""], &["A-"], &["*"]] {
            assert!(EnvSecrets::new(bad.iter().copied()).is_err(), "{bad:?}");
        }
    }
}
