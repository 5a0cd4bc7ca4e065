//! An origin: scheme, host and port. What is allowed, who gets credentials and what is a redirect elsewhere is decided on it.

use std::fmt;

use ews_core::{Error, Result};
use reqwest::Url;

/// Scheme, host and port, as a URL's parser normalises them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin {
    tls: bool,
    host: String,
    port: u16,
}

impl Origin {
    /// The origin of `host` or `host:port`.
    pub(super) fn parse(host: &str, plain: bool) -> Result<Self> {
        let wrong = || {
            let shown: String = host.chars().take(64).filter(|c| !c.is_control()).collect();
            Error::invalid(format!(
                "`{shown}` is not a registry's host; accepted: `host` or `host:port`, such as `127.0.0.1:5000`"
            ))
        };
        if host.is_empty()
            || host.contains(['/', '@', '?', '#', '\\'])
            || host.chars().any(char::is_whitespace)
        {
            return Err(wrong());
        }
        let scheme = if plain { "http" } else { "https" };
        let url = Url::parse(&format!("{scheme}://{host}/")).map_err(|_| wrong())?;
        Self::of(&url).ok_or_else(wrong)
    }

    /// The origin of an address; `None` for one that is neither `http` nor `https`.
    pub(super) fn of(url: &Url) -> Option<Self> {
        let tls = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        Some(Self { tls, host: url.host_str()?.to_owned(), port: url.port_or_known_default()? })
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls
    }

    /// The address of a path here.
    pub(super) fn url(&self, path: &str) -> Option<Url> {
        Url::parse(&format!("{self}{path}")).ok()
    }

    /// Reads a `Location`, which may be relative to where it was found.
    ///
    /// A registry behind a proxy that ends TLS often tells its own host with `http`; that is taken for what it means, as
    /// containerd does, instead of as a way out of TLS.
    pub(super) fn follow(&self, from: &Url, location: &str) -> Option<Url> {
        if location.len() > 8 * 1024 {
            return None;
        }
        let mut url = from.join(location).ok()?;
        let there = Self::of(&url)?;
        if !url.username().is_empty() || url.password().is_some() {
            return None;
        }
        if self.tls && !there.tls && there.host == self.host && (there.port == 80 || there.port == self.port)
        {
            url.set_scheme("https").ok()?;
            url.set_port(Some(self.port)).ok()?;
        }
        Some(url)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, default) = if self.tls { ("https", 443) } else { ("http", 80) };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port == default { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_normalised() {
        for (text, plain, shown) in [
            ("Registry.Example", false, "https://registry.example"),
            ("registry.example:443", false, "https://registry.example"),
            ("registry.example:80", true, "http://registry.example"),
            ("[::1]:5000", true, "http://[::1]:5000"),
        ] {
            assert_eq!(Origin::parse(text, plain).unwrap().to_string(), shown);
        }
        for text in ["", "a b", "a/b", "u@h", "http://h", "h:99999", "h:x", "h?x", "[::1"] {
            assert!(Origin::parse(text, false).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_location_stays_under_tls_on_its_own_host_only() {
        let origin = Origin::parse("registry.example:8443", false).unwrap();
        let from = origin.url("/v2/a/blobs/uploads/").unwrap();
        let follow = |location: &str| origin.follow(&from, location).map(String::from);
        assert_eq!(follow("/v2/x?_state=1").unwrap(), "https://registry.example:8443/v2/x?_state=1");
        assert_eq!(follow("http://registry.example/v2/x").unwrap(), "https://registry.example:8443/v2/x");
        // Another host keeps what it says, for whoever decides whether that is allowed.
        assert_eq!(follow("http://store.example/x").unwrap(), "http://store.example/x");
        for refused in ["file:///etc/passwd", "https://user:word@registry.example/x", "ftp://a/b", "https://"]
        {
            assert_eq!(follow(refused), None, "{refused}");
        }
        assert_eq!(follow(&format!("/{}", "a".repeat(9000))), None);
    }
}
