//! What ties a client or a kind of request to an endpoint: a hash of the request, a cookie.

use std::net::IpAddr;

use ews_core::balancer::HashOn;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{HeaderMap, Request};

use super::endpoint::EndpointState;
use super::pool::PoolView;
use super::pool::hash::hash;
use super::route::cookies;

/// What a request wants of a pool beside being served.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Affinity {
    /// Its hash, for pools that choose by it.
    pub(crate) key: u64,
    /// The endpoint that the client was given before.
    pub(crate) tag: Option<u64>,
}

impl Affinity {
    pub(crate) fn of(pool: &PoolView, client: IpAddr, request: &Request<Incoming>) -> Self {
        let key = if pool.hashes() {
            key(&pool.hash_on, client, request.uri().path(), request.headers())
        } else {
            0
        };
        let tag = pool.sticky.as_ref().and_then(|sticky| {
            let value = named(request.headers(), &sticky.cookie)?;
            u64::from_str_radix(std::str::from_utf8(value).ok()?, 16).ok()
        });
        Self { key, tag }
    }

    /// The cookie that brings a client back to this endpoint, where it has none that does.
    pub(crate) fn cookie(
        self,
        pool: &PoolView,
        endpoint: &EndpointState,
        scheme: &str,
    ) -> Option<HeaderValue> {
        let sticky = pool.sticky.as_ref()?;
        let tag = pool.tag(endpoint).filter(|tag| Some(*tag) != self.tag)?;
        let mut text = format!("{}={tag:016x}; Path=/; HttpOnly; SameSite=Lax", sticky.cookie);
        if scheme == "https" {
            text.push_str("; Secure");
        }
        if let Some(age) = sticky.max_age {
            text.push_str(&format!("; Max-Age={}", age.as_secs().max(1)));
        }
        HeaderValue::from_str(&text).ok()
    }
}

/// The hash of what a request is told apart by.
pub(crate) fn key(hash_on: &HashOn, client: IpAddr, path: &str, headers: &HeaderMap) -> u64 {
    let found = match hash_on {
        HashOn::Path => Some(path.as_bytes()),
        HashOn::Header(name) => headers.get(name.as_str()).map(HeaderValue::as_bytes),
        HashOn::Cookie(name) => named(headers, name),
        _ => None,
    };
    match (found, client) {
        (Some(found), _) => hash(found),
        (None, IpAddr::V4(address)) => hash(&address.octets()),
        (None, IpAddr::V6(address)) => hash(&address.octets()),
    }
}

fn named<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    cookies(headers).find(|(known, _)| *known == name.as_bytes()).map(|(_, value)| value)
}
