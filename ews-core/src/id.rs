//! Names and ids as types of their own, checked once where they enter.
//!
//! A name ends up in URLs, file paths, container names, log fields and metric labels of peers that escape nothing, so a
//! value of these types is safe in all of them: ASCII, bounded, never `.` or `..`, no `/`, no control characters. Cloning
//! one copies a pointer.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::time::Shown;

/// What a kind of name may look like.
struct Rule {
    what: &'static str,
    max: usize,
    upper: bool,
    /// Allowed between the first and the last character.
    inner: &'static str,
}

impl Rule {
    fn accepted(&self) -> String {
        let letters = if self.upper { "letters, digits" } else { "lower-case letters, digits" };
        let mut inner = String::new();
        for character in self.inner.chars() {
            inner.push_str(", `");
            inner.push(character);
            inner.push('`');
        }
        format!("1 to {} of {letters}{inner}, starting and ending with a letter or digit", self.max)
    }

    fn check(&self, text: &str) -> Result<()> {
        let fault = if text.is_empty() {
            "is empty".to_owned()
        } else if text.len() > self.max {
            format!("is {} bytes long", text.len())
        } else if let Some(found) = text.chars().find(|c| !self.inner.contains(*c) && !self.plain(*c)) {
            format!("contains `{}`", found.escape_default())
        } else if !text.starts_with(|c| self.plain(c)) || !text.ends_with(|c| self.plain(c)) {
            "starts or ends with a punctuation mark".to_owned()
        } else if text.contains("..") {
            "contains `..`".to_owned()
        } else {
            return Ok(());
        };
        let meant = self.mended(text).map(|meant| format!(", did you mean `{meant}`?")).unwrap_or_default();
        Err(Error::invalid(format!(
            "{} `{}` {fault}{meant}; accepted: {}",
            self.what,
            Shown(text),
            self.accepted()
        )))
    }

    /// The name that this becomes by lower case and by `-` for what stands between words.
    fn mended(&self, text: &str) -> Option<String> {
        if text.len() > 64.min(self.max) || !self.inner.contains('-') {
            return None;
        }
        let mended: String = text
            .trim()
            .chars()
            .map(|c| match c {
                c if self.plain(c) || self.inner.contains(c) => c,
                c if c.is_ascii_uppercase() => c.to_ascii_lowercase(),
                '_' | '.' | ' ' => '-',
                c => c,
            })
            .collect();
        let mended = mended.trim_matches(['-', '_', '.']).to_owned();
        (mended != text && self.check_plainly(&mended)).then_some(mended)
    }

    fn check_plainly(&self, text: &str) -> bool {
        text.starts_with(|c| self.plain(c))
            && text.ends_with(|c| self.plain(c))
            && text.chars().all(|c| self.plain(c) || self.inner.contains(c))
            && !text.contains("..")
    }

    fn plain(&self, c: char) -> bool {
        c.is_ascii_digit() || c.is_ascii_lowercase() || (self.upper && c.is_ascii_uppercase())
    }
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident { $what:literal, max $max:literal, upper $upper:literal, inner $inner:literal })+) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            const RULE: Rule = Rule { what: $what, max: $max, upper: $upper, inner: $inner };

            /// The longest accepted value, in bytes.
            pub const MAX_LEN: usize = $max;

            /// Checks and takes a name.
            ///
            /// # Errors
            /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), saying what is wrong and what is accepted.
            pub fn new(text: impl AsRef<str>) -> Result<Self> {
                let text = text.as_ref();
                Self::RULE.check(text)?;
                Ok(Self(Arc::from(text)))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// What this kind of name accepts, for messages.
            pub fn accepted() -> String {
                Self::RULE.accepted()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::new(text)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = Error;
            fn try_from(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(text).map_err(|error| serde::de::Error::custom(error.message()))
            }
        }
    )+};
}

names! {
    /// The installation that owns instances: one owner, many controllers, so that a successor can adopt.
    OwnerId { "owner", max 63, upper false, inner "-" }
    /// A service: what is deployed, scaled and routed to as one. A DNS label, since names of services resolve.
    ServiceName { "service name", max 63, upper false, inner "-" }
    /// A release: several services that are brought about as one.
    ReleaseName { "release name", max 63, upper false, inner "-" }
    /// One immutable revision of a service.
    RevisionId { "revision", max 63, upper false, inner "-" }
    /// A machine, or what a runtime presents as one.
    NodeId { "node", max 128, upper true, inner "-_." }
    /// An instance, as its runtime names it. Opaque: only the runtime that gave it may read meaning into it.
    InstanceId { "instance", max 255, upper true, inner "-_." }
    /// A named port of a service: `http`, `metrics`.
    PortName { "port name", max 15, upper false, inner "-" }
    /// A network that instances join.
    NetworkName { "network", max 128, upper true, inner "-_." }
    /// A volume that outlives instances.
    VolumeName { "volume", max 128, upper true, inner "-_." }
    /// One change sent to a balancer; the same id applied twice is one change.
    ChangeId { "change", max 128, upper true, inner "-_." }
    /// A pool of endpoints at a balancer.
    PoolId { "pool", max 128, upper true, inner "-_." }
    /// A set of routes at a balancer, shared by any number of domains.
    RouteSetId { "route set", max 128, upper true, inner "-_." }
    /// A traffic policy at a balancer.
    TrafficPolicyId { "traffic policy", max 128, upper true, inner "-_." }
    /// A certificate at a balancer.
    CertificateId { "certificate", max 128, upper true, inner "-_." }
    /// One gateway among those behind a balancer.
    GatewayId { "gateway", max 128, upper true, inner "-_." }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_escape_a_path_or_a_url_is_refused_with_the_reason() {
        for (bad, reason) in [
            ("", "is empty"),
            ("../networks/bridge", "contains `/`"),
            ("a..b", "contains `..`"),
            ("..", "starts or ends"),
            (".", "starts or ends"),
            ("a\nb", "contains `\\n`"),
            ("a%2fb", "contains `%`"),
            ("a b", "contains ` `"),
            ("-a", "starts or ends"),
            ("店", "contains `\\u{5e97}`"),
            (&"n".repeat(129), "129 bytes long"),
        ] {
            let error = NodeId::new(bad).unwrap_err();
            assert!(error.message().contains(reason), "{bad:?}: {error}");
            assert!(error.message().contains("accepted: 1 to 128"), "{bad:?}: {error}");
        }
    }

    #[test]
    fn a_service_is_a_dns_label() {
        assert!(ServiceName::new("shop-web-2").is_ok());
        for bad in ["Shop", "shop.web", "shop_web", "shop-"] {
            assert!(ServiceName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn serde_checks_too() {
        let error = serde_json::from_str::<NodeId>("\"a/b\"").unwrap_err();
        assert!(error.to_string().contains("contains `/`"), "{error}");
    }

    #[test]
    fn a_name_is_offered_only_if_it_would_be_accepted() {
        for (text, offered) in [
            ("shop_web", Some("shop-web")),
            ("Shop Web", Some("shop-web")),
            ("_web_", Some("web")),
            ("web!", None),
            ("...", None),
            ("", None),
        ] {
            let message = ServiceName::new(text).unwrap_err().message().to_owned();
            let found = message.split("did you mean `").nth(1).and_then(|rest| rest.split('`').next());
            assert_eq!(found, offered, "{message}");
            assert!(found.is_none_or(|name| ServiceName::new(name).is_ok()), "{message}");
        }
        let long = ServiceName::new("A".repeat(10_000)).unwrap_err();
        assert!(!long.message().contains("did you mean"), "{long}");
    }
}
