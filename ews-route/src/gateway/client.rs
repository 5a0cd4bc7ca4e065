//! Who asks: the peer of a connection, or the one for whom a proxy says that it speaks.
//!
//! Only proxies of the networks that the configuration names are believed. The list that they send is read from its end: each
//! that is itself such a proxy is passed over, and the first that is none is the client, since whatever stands before it is
//! what the client said of itself.

use std::net::{IpAddr, SocketAddr};

use ews_core::balancer::Network;
use hyper::HeaderMap;
use hyper::header::HeaderValue;

use super::config::{ForwardedBy, Forwarding};
use super::connection::Connection;
use super::headers::{FORWARDED, X_FORWARDED_FOR, X_FORWARDED_PROTO};
use super::networks::Networks;

/// The most proxies of a list that are passed over.
const MAX_HOPS: usize = 32;

/// Whom a gateway believes, looked up quickly.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    proxies: Networks,
    announcing: Networks,
    by: ForwardedBy,
}

impl Trust {
    pub(crate) fn new(config: &Forwarding) -> Self {
        let set = |networks: &[Network]| Networks::new(networks);
        Self { proxies: set(&config.trusted), announcing: set(&config.proxy_protocol), by: config.read }
    }

    /// Whether what this peer says in headers is believed.
    pub(crate) fn believes(&self, peer: IpAddr) -> bool {
        !self.proxies.is_empty() && self.proxies.contain(peer)
    }

    /// Whether this peer's connections begin with the PROXY protocol.
    pub(crate) fn announces(&self, peer: IpAddr) -> bool {
        !self.announcing.is_empty() && self.announcing.contain(peer)
    }
}

/// The one who made a request.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    /// The same as a log carries it, where it is not the connection's.
    other: Option<HeaderValue>,
    /// How it spoke to the first that it met: `http` or `https`.
    pub(crate) scheme: &'static str,
}

impl Client {
    pub(crate) fn of(connection: &Connection, headers: &HeaderMap) -> Self {
        let peer = Self { address: connection.address(), other: None, scheme: connection.scheme };
        if !connection.is_believed() {
            return peer;
        }
        let trust = &connection.thread.shared.trust;
        let (address, scheme) = match trust.by {
            ForwardedBy::XForwardedFor => {
                let lines = headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
                let list = lines.rev().flat_map(|line| line.rsplit(|byte| *byte == b',')).map(address);
                (
                    first_untrusted(list, trust),
                    headers.get(X_FORWARDED_PROTO).and_then(|value| scheme(value.as_bytes())),
                )
            }
            ForwardedBy::Forwarded => {
                let lines = headers.get_all(FORWARDED).iter().map(HeaderValue::as_bytes);
                let list = lines.rev().flat_map(|line| elements(line).into_iter().rev());
                let list = list.map(|element| address(parameter(element, b"for")?));
                let first =
                    headers.get(FORWARDED).and_then(|value| elements(value.as_bytes()).into_iter().next());
                (
                    first_untrusted(list, trust),
                    first.and_then(|element| scheme(parameter(element, b"proto")?)),
                )
            }
        };
        let scheme = scheme.unwrap_or(peer.scheme);
        let Some(address) = address else { return Self { scheme, ..peer } };
        Self { address, other: HeaderValue::from_str(&address.to_string()).ok(), scheme }
    }

    pub(crate) fn text<'a>(&'a self, connection: &'a Connection) -> &'a HeaderValue {
        self.other.as_ref().unwrap_or_else(|| connection.client())
    }
}

/// The last of the list that is no proxy of ours; the first where all are. What can't be read ends the list: it could stand
/// for anybody.
fn first_untrusted(list: impl Iterator<Item = Option<IpAddr>>, trust: &Trust) -> Option<IpAddr> {
    let mut last = None;
    for address in list.take(MAX_HOPS) {
        let Some(address) = address else { break };
        last = Some(address);
        if !trust.proxies.contain(address) {
            break;
        }
    }
    last
}

/// `10.0.0.1`, `10.0.0.1:80`, `::1`, `[::1]` or `[::1]:80`, in quotes or not.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim().trim_matches('"');
    let plain = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let found = plain.parse::<IpAddr>().ok();
    found.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip())).map(|ip| ip.to_canonical())
}

fn scheme(text: &[u8]) -> Option<&'static str> {
    let first = text.split(|byte| *byte == b',').next()?.trim_ascii();
    let first = first.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(first);
    ["http", "https"].into_iter().find(|scheme| first.eq_ignore_ascii_case(scheme.as_bytes()))
}

/// The elements of `Forwarded` (RFC 7239, section 4): commas part them, but for those between quotes.
fn elements(line: &[u8]) -> Vec<&[u8]> {
    split(line, b',')
}

fn parameter<'a>(element: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    split(element, b';').into_iter().find_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (key, value) = pair.split_at_checked(at)?;
        key.trim_ascii().eq_ignore_ascii_case(name).then(|| value.get(1..).unwrap_or_default().trim_ascii())
    })
}

fn split(text: &[u8], by: u8) -> Vec<&[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = text.split(move |byte| {
        let was_escaped = std::mem::take(&mut is_escaped);
        match *byte {
            b'\\' if is_quoted && !was_escaped => is_escaped = true,
            b'"' if !was_escaped => is_quoted = !is_quoted,
            other => return other == by && !is_quoted,
        }
        false
    });
    parts.collect()
}

/// This hop as an element of `Forwarded`.
pub(crate) fn element(connection: &Connection, host: Option<&HeaderValue>) -> Vec<u8> {
    let mut text = match connection.address() {
        IpAddr::V4(address) => format!("for={address}"),
        IpAddr::V6(address) => format!("for=\"[{address}]\""),
    }
    .into_bytes();
    // A host that would need an escape is none; the guard has let through no such thing, an edit might.
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(byte);
    if let Some(host) = host.filter(|host| host.as_bytes().iter().all(is_plain)) {
        text.extend_from_slice(b";host=\"");
        text.extend_from_slice(host.as_bytes());
        text.push(b'"');
    }
    text.extend_from_slice(b";proto=");
    text.extend_from_slice(connection.scheme.as_bytes());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(networks: &[&str]) -> Trust {
        let trusted = networks.iter().map(|network| network.parse().unwrap()).collect();
        Trust::new(&Forwarding { trusted, ..Forwarding::default() })
    }

    fn first(list: &[&str], trust: &Trust) -> Option<String> {
        let list = list.iter().rev().map(|text| address(text.as_bytes()));
        first_untrusted(list, trust).map(|address| address.to_string())
    }

    #[test]
    fn the_last_that_is_no_proxy_of_ours_is_the_client() {
        let trust = trust(&["10.0.0.0/8", "fd00::/8"]);
        for (list, wanted) in [
            (&["6.6.6.6", "1.2.3.4", "10.0.0.2"][..], Some("1.2.3.4")),
            (&["1.2.3.4"], Some("1.2.3.4")),
            (&["1.2.3.4:4711", "[fd00::1]:80", "::ffff:10.0.0.1"], Some("1.2.3.4")),
            (&["10.0.0.3", "10.0.0.2"], Some("10.0.0.3")),
            // What can't be read hides all that stands before it.
            (&["1.2.3.4", "unknown", "10.0.0.2"], Some("10.0.0.2")),
            (&["_hidden"], None),
            (&["", "10.0.0.2"], Some("10.0.0.2")),
            (&[], None),
        ] {
            assert_eq!(first(list, &trust).as_deref(), wanted, "{list:?}");
        }
        let many: Vec<_> =
            std::iter::once("1.2.3.4").chain(std::iter::repeat_n("10.0.0.1", MAX_HOPS)).collect();
        assert_eq!(first(&many, &trust).as_deref(), Some("10.0.0.1"));
    }

    #[test]
    fn forwarded_is_read_as_it_is_written() {
        let line =
            br#"For="[2001:db8::17]:4711";proto=https;by="a,b;c", for=192.0.2.43 ;host="x\",for=6.6.6.6""#;
        let elements = elements(line);
        assert_eq!(elements.len(), 2);
        assert_eq!(address(parameter(elements[0], b"for").unwrap()), "2001:db8::17".parse().ok());
        assert_eq!(scheme(parameter(elements[0], b"proto").unwrap()), Some("https"));
        assert_eq!(address(parameter(elements[1], b"for").unwrap()), "192.0.2.43".parse().ok());
        assert_eq!(parameter(elements[1], b"proto"), None);
        assert_eq!(scheme(b"\"HTTPS\""), Some("https"));
        assert_eq!(scheme(b"https, http"), Some("https"));
        assert_eq!(scheme(b"gopher"), None);
    }
}
