//! What a rule asks of a request beside its path.

use std::borrow::Cow;

use ews_core::balancer::{AttributePlace, RouteRule};
use ews_core::{Error, Result};
use hyper::header::{self, HeaderName};
use hyper::{HeaderMap, Method};

/// What a rule is found by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a Method,
    /// Without the query.
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) headers: &'a HeaderMap,
}

/// All that must hold.
#[derive(Debug)]
pub(super) struct Conditions {
    /// Empty: all.
    methods: Vec<Method>,
    attributes: Vec<Attribute>,
}

#[derive(Debug)]
struct Attribute {
    place: Place,
    /// `None`: any.
    value: Option<Box<str>>,
}

#[derive(Debug)]
enum Place {
    Header(HeaderName),
    Cookie(Box<str>),
    Query(Box<str>),
}

impl Conditions {
    /// The conditions of a rule; `None` where it has none.
    pub(super) fn new(rule: &RouteRule) -> Result<Option<Self>> {
        if rule.methods.is_empty() && rule.attributes.is_empty() {
            return Ok(None);
        }
        let method = |text: &String| {
            Method::from_bytes(text.as_bytes()).map_err(|_| Error::invalid(format!("`{text}` is no method")))
        };
        let attribute = |wanted: &ews_core::balancer::AttributeMatch| {
            let place = match wanted.place {
                AttributePlace::Header => Place::Header(super::edit::name(&wanted.name)?),
                AttributePlace::Cookie => Place::Cookie(wanted.name.as_str().into()),
                AttributePlace::Query => Place::Query(wanted.name.as_str().into()),
                _ => return Err(Error::invalid("an attribute in a place that this gateway does not know")),
            };
            Ok(Attribute { place, value: wanted.value.as_deref().map(Into::into) })
        };
        Ok(Some(Self {
            methods: rule.methods.iter().map(method).collect::<Result<_>>()?,
            attributes: rule.attributes.iter().map(attribute).collect::<Result<_>>()?,
        }))
    }

    pub(super) fn hold(&self, ask: &Ask<'_>) -> bool {
        (self.methods.is_empty() || self.methods.contains(ask.method))
            && self.attributes.iter().all(|attribute| attribute.holds(ask))
    }
}

impl Attribute {
    fn holds(&self, ask: &Ask<'_>) -> bool {
        let wanted = |value: &[u8]| self.value.as_ref().is_none_or(|wanted| wanted.as_bytes() == value);
        match &self.place {
            Place::Header(name) => ask.headers.get_all(name).iter().any(|value| wanted(value.as_bytes())),
            Place::Cookie(name) => {
                cookies(ask.headers).any(|(known, value)| known == name.as_bytes() && wanted(value))
            }
            Place::Query(name) => ask.query.unwrap_or_default().split('&').any(|pair| {
                let (known, value) = pair.split_once('=').unwrap_or((pair, ""));
                *decoded(known) == *name.as_bytes() && wanted(&decoded(value))
            }),
        }
    }
}

/// The cookies of a request (RFC 6265, section 4.2.1), without the quotes that a value may stand in.
pub(crate) fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = headers.get_all(header::COOKIE).iter();
    lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';')).filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (pair.get(..at)?.trim_ascii(), pair.get(at + 1..)?.trim_ascii());
        let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        Some((name, bare.unwrap_or(value)))
    })
}

/// A part of a query as its sender meant it: `+` for a space and `%` with two digits for a byte. Other `%` stand for themselves.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut rest = text.as_bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some((byte, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        rest = after;
        match (byte, digit(0), digit(1)) {
            (b'+', ..) => out.push(b' '),
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(b'%'));
                rest = after.get(2..).unwrap_or_default();
            }
            _ => out.push(*byte),
        }
    }
    Cow::Owned(out)
}
