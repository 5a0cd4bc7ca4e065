//! Where an endpoint of a pool is connected to: an address, or a name that somebody looks up.
//!
//! An instance is always at an address. A service outside, or one that another engine names, may be known by name alone;
//! what the name stands for is then for the balancer to find out, again and again.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::time::Shown;

const ACCEPTED: &str = "accepted: `10.0.0.7:8080`, `[2001:db8::7]:8080` or `db.example.com:5432`, where a name consists of \
                        labels of letters, digits, `-` and `_` joined by `.`, at most 253 characters, the last label no number";

/// A host's name, in lower case: labels joined by `.`, at most 253 characters. A `.` at its end says that no search list is
/// to be tried with it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

impl HostName {
    /// Checks and takes a name; upper case becomes lower case.
    ///
    /// A name whose last label is a number is none: systems read `127.1` and `0x7f000001` as addresses.
    ///
    /// # Errors
    /// `Invalid`, saying what is accepted.
    pub fn new(text: &str) -> Result<Self, Error> {
        let host = text.strip_suffix('.').unwrap_or(text);
        let label = |part: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric();
            (1..=63).contains(&part.len())
                && part.starts_with(plain)
                && part.ends_with(plain)
                && part.chars().all(|c| plain(c) || c == '-' || c == '_')
        };
        let last = host.rsplit('.').next().unwrap_or_default();
        let is_number = last.bytes().all(|byte| byte.is_ascii_digit())
            || last.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("0x"));
        if host.len() <= 253 && host.split('.').all(label) && !is_number {
            return Ok(Self(text.to_ascii_lowercase().into()));
        }
        Err(Error::invalid(format!("`{}` is not a host's name; {ACCEPTED}", Shown(text))))
    }

    /// The name as it is looked up.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without the `.` that may stand at its end, as TLS and HTTP have it.
    pub fn bare(&self) -> &str {
        self.0.strip_suffix('.').unwrap_or(&self.0)
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::new(text)
    }
}

/// Where an endpoint of a pool is connected to. As text, also in JSON: `10.0.0.7:8080`, `[2001:db8::7]:8080` or
/// `db.example.com:5432`.
///
/// ```
/// use ews_core::endpoint::EndpointAddress;
///
/// let address: EndpointAddress = "DB.example.com:5432".parse()?;
/// assert_eq!(address.to_string(), "db.example.com:5432");
/// assert!(address.host().is_some() && address.socket().is_none());
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointAddress {
    /// An address.
    Ip(SocketAddr),
    /// A name that is looked up. Needs the capability `endpoint_names`.
    Name {
        /// The host.
        host: HostName,
        /// The port.
        port: u16,
    },
}

impl EndpointAddress {
    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Ip(address) => address.port(),
            Self::Name { port, .. } => *port,
        }
    }

    /// The address, where it is one.
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Name { .. } => None,
        }
    }

    /// The name, where it is one.
    pub fn host(&self) -> Option<&HostName> {
        match self {
            Self::Ip(_) => None,
            Self::Name { host, .. } => Some(host),
        }
    }
}

impl From<SocketAddr> for EndpointAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl FromStr for EndpointAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let named = text.rsplit_once(':').and_then(|(host, port)| {
            // `u16` alone would take `+80`.
            let port = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok())??;
            Some(Self::Name { host: HostName::new(host).ok()?, port })
        });
        let refused =
            || Error::invalid(format!("`{}` is no address of an endpoint; {ACCEPTED}", Shown(text)));
        named.ok_or_else(refused)
    }
}

impl Serialize for EndpointAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EndpointAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error: Error| serde::de::Error::custom(error.message()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_is_one_address() {
        for (text, shown) in [
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("db.example.com:5432", "db.example.com:5432"),
            ("DB.Example.com.:5432", "db.example.com.:5432"),
            ("my_app-1:1", "my_app-1:1"),
            ("localhost:65535", "localhost:65535"),
            ("10.0.0.1.example:80", "10.0.0.1.example:80"),
        ] {
            let address: EndpointAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            let json = serde_json::to_string(&address).unwrap();
            assert_eq!(json, format!("\"{shown}\""));
            assert_eq!(serde_json::from_str::<EndpointAddress>(&json).unwrap(), address);
            assert_eq!(address.socket().is_some(), address.host().is_none());
        }
        assert_eq!("a.example.:1".parse::<EndpointAddress>().unwrap().host().unwrap().bare(), "a.example");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = |length: usize| format!("{}:80", vec!["a".repeat(63); 5].join(".").split_at(length).0);
        assert!(
            long(253).parse::<EndpointAddress>().is_ok() && long(254).parse::<EndpointAddress>().is_err()
        );
        for text in [
            "",
            ":80",
            "a",
            "a:",
            "a:+80",
            "a:80 ",
            "a:65536",
            "a:-1",
            " a:80",
            "a b:80",
            "a\n:80",
            "a\0:80",
            "a..b:80",
            ".a:80",
            "a..:80",
            "*.a:80",
            "-a:80",
            "a-:80",
            "http://a:80",
            "a:80:80",
            "::1:80",
            "[::1]",
            "[a]:80",
            "127.1:80",
            "2130706433:80",
            "a.0x7f:80",
            "10.0.0.256:80",
            "店.example:80",
        ] {
            let error = text.parse::<EndpointAddress>().unwrap_err();
            assert!(error.message().contains("accepted"), "{text:?}: {error}");
            assert!(!error.message().contains(['\n', '\0']), "{text:?}: {error}");
        }
    }
}
