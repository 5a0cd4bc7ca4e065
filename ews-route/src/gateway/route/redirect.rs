//! Sends a client to what it asked for, with some of it changed.

use ews_core::Result;
use ews_core::balancer::{PathMatch, RedirectTo};
use hyper::header::HeaderValue;
use hyper::{StatusCode, Uri};

use super::edit::PathEdit;

/// A redirect that is made from the request.
#[derive(Debug)]
pub(crate) struct Redirect {
    pub(crate) status: StatusCode,
    scheme: Option<Box<str>>,
    host: Option<Box<str>>,
    port: Option<u16>,
    path: Option<PathEdit>,
}

impl Redirect {
    pub(super) fn new(to: &RedirectTo, status: StatusCode, rule: &PathMatch) -> Result<Self> {
        Ok(Self {
            status,
            scheme: to.scheme.as_deref().map(Into::into),
            host: to.host.as_deref().map(Into::into),
            port: to.port,
            path: to.path.as_ref().map(|path| PathEdit::new(path, rule)).transpose()?,
        })
    }

    /// Where a client goes that asked over this scheme this authority for this target.
    pub(crate) fn location(&self, scheme: &str, authority: &str, target: &Uri) -> Option<HeaderValue> {
        let (host, port) = split(authority);
        let is_default =
            |scheme: &str, port: &str| matches!((scheme, port), ("http", "80") | ("https", "443"));
        let to = self.scheme.as_deref().unwrap_or(scheme);
        let own = self.port.map(|port| port.to_string());
        let port = match (&own, &self.scheme) {
            (Some(own), _) => own.as_str(),
            // The port belonged to the other scheme.
            (None, Some(_)) => "",
            (None, None) => port,
        };
        let port = if is_default(to, port) { "" } else { port };
        let path = match &self.path {
            Some(path) => path.path(target.path()),
            None => target.path().to_owned(),
        };
        let query = target.query();
        let pieces = [
            to,
            "://",
            self.host.as_deref().unwrap_or(host),
            if port.is_empty() { "" } else { ":" },
            port,
            &path,
            if query.is_some() { "?" } else { "" },
            query.unwrap_or_default(),
        ];
        HeaderValue::from_str(&pieces.concat()).ok()
    }
}

/// A host and its port, which may be empty.
fn split(authority: &str) -> (&str, &str) {
    match authority.rsplit_once(':') {
        // Not the colon of an IPv6 address.
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, ""),
    }
}

#[cfg(test)]
mod tests {
    use ews_core::balancer::PathRewrite;

    use super::*;

    fn sent(to: &RedirectTo, authority: &str, target: &str) -> String {
        let rule = PathMatch::Prefix("/old".to_owned());
        let redirect = Redirect::new(to, StatusCode::FOUND, &rule).unwrap();
        let target = target.parse().unwrap();
        redirect.location("http", authority, &target).unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn what_is_not_named_stays() {
        let none = RedirectTo::new(302);
        let https = RedirectTo::https();
        assert_eq!(sent(&https, "shop.example:8080", "/a?b=c"), "https://shop.example/a?b=c");
        assert_eq!(sent(&https, "[::1]:80", "/"), "https://[::1]/");
        let port = https.with_port(8443);
        assert_eq!(sent(&port, "[::1]", "/"), "https://[::1]:8443/");
        let host = none.clone().with_host("www.example");
        assert_eq!(sent(&host, "example:8080", "/"), "http://www.example:8080/");
        assert_eq!(sent(&host, "example:80", "/"), "http://www.example/");
        let path = none.with_path(PathRewrite::Prefix("/new".to_owned()));
        assert_eq!(sent(&path, "example", "/old/x?y"), "http://example/new/x?y");
    }
}
