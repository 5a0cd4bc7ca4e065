//! What a rule of a route set may hold.

use crate::balancer::{
    AttributeMatch, HashOn, HeaderEdits, HeaderField, PathMatch, PathRewrite, RedirectTo, Rewrite,
    RouteAction, RouteFilter, RouteRule, WeightedPool,
};
use crate::error::{Error, ErrorKind, Result};
use crate::time::Shown;

/// The longest text in a route: a path, an expression, an attribute, an address.
const MAX_TEXT: usize = 4 * 1024;
/// The longest body that a balancer answers by itself.
const MAX_BODY: usize = 64 * 1024;
/// The most methods, and the most attributes, of one rule.
const MAX_CONDITIONS: usize = 64;
/// The most filters of one rule, and the most headers that one of them edits.
const MAX_FILTERS: usize = 16;
const MAX_EDITS: usize = 64;

/// Headers that frame a message or belong to one connection: whoever edits them tells two readers two things.
const NOT_EDITED: [&str; 11] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
];

pub(super) fn check_rule(rule: &RouteRule) -> Result<()> {
    match &rule.path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => check_path(path)?,
        PathMatch::Regex(expression) => check_text("regular expression", expression)?,
    }
    if rule.methods.len() > MAX_CONDITIONS || rule.attributes.len() > MAX_CONDITIONS {
        return Err(too_much("conditions of a rule", MAX_CONDITIONS));
    }
    for method in &rule.methods {
        // RFC 9110, section 9.1: a method is a token and is case-sensitive; all that are registered are upper case.
        if method.is_empty()
            || method.len() > 32
            || !method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-')
        {
            return Err(Error::invalid(format!(
                "the method `{}`; accepted: 1 to 32 upper-case letters and `-`",
                Shown(method)
            )));
        }
    }
    rule.attributes.iter().try_for_each(check_attribute)?;
    check_filters(rule)?;
    rule.split_by.as_ref().map_or(Ok(()), check_hash_on)?;
    match &rule.action {
        RouteAction::RedirectTo(redirect) => check_redirect(redirect, &rule.path),
        RouteAction::Forward(pools) if pools.is_empty() => {
            Err(Error::invalid("a rule that forwards to no pool; accepted: at least one"))
        }
        RouteAction::Forward(pools) => check_shares(pools),
        RouteAction::Redirect { to, status } => {
            check_text("address of a redirect", to)?;
            if to.is_empty() || to.contains(' ') {
                return Err(Error::invalid(format!(
                    "a redirect to `{}`; accepted: an address without spaces",
                    Shown(to)
                )));
            }
            check_redirect_status(*status)
        }
        RouteAction::Respond { status, .. } if !matches!(status, 200..=599) => {
            Err(Error::invalid(format!("an answer with status {status}; accepted: 200 to 599")))
        }
        RouteAction::Respond { body, .. } if body.len() > MAX_BODY => {
            Err(too_much("bytes of an answer", MAX_BODY))
        }
        RouteAction::Respond { .. } => Ok(()),
    }
}

pub(super) fn check_shares(shares: &[WeightedPool]) -> Result<()> {
    for (index, share) in shares.iter().enumerate() {
        super::check_weight(share.weight)?;
        if shares.iter().take(index).any(|earlier| earlier.pool == share.pool) {
            return Err(Error::invalid(format!(
                "the pool `{}` comes twice; accepted: each pool once, with its share",
                share.pool
            )));
        }
    }
    Ok(())
}

fn check_attribute(attribute: &AttributeMatch) -> Result<()> {
    check_text("name of an attribute", &attribute.name)?;
    if !is_name(&attribute.name) {
        return Err(Error::invalid(format!(
            "the attribute name `{}`; accepted: letters, digits and the punctuation of a header name",
            Shown(&attribute.name)
        )));
    }
    check_text("value of an attribute", attribute.value.as_deref().unwrap_or_default())
}

fn check_filters(rule: &RouteRule) -> Result<()> {
    if rule.filters.len() > MAX_FILTERS {
        return Err(too_much("filters of a rule", MAX_FILTERS));
    }
    rule.filters.iter().try_for_each(|filter| match filter {
        RouteFilter::RequestHeaders(edits) | RouteFilter::ResponseHeaders(edits) => check_edits(edits),
        RouteFilter::Rewrite(Rewrite { host, path }) => {
            if let Some(host) = host {
                check_host(host)?;
            }
            path.as_ref().map_or(Ok(()), |path| check_rewrite(path, &rule.path))
        }
    })
}

fn check_edits(edits: &HeaderEdits) -> Result<()> {
    if edits.set.len() + edits.add.len() + edits.remove.len() > MAX_EDITS {
        return Err(too_much("edits of headers in a filter", MAX_EDITS));
    }
    for HeaderField { name, value } in edits.set.iter().chain(&edits.add) {
        check_edited(name)?;
        check_text("value of a header", value)?;
    }
    edits.remove.iter().try_for_each(|name| check_edited(name))
}

/// A header that may be edited.
pub(in crate::balancer) fn check_edited(name: &str) -> Result<()> {
    check_text("name of a header", name)?;
    if !is_name(name) {
        return Err(Error::invalid(format!(
            "the header name `{}`; accepted: letters, digits and the punctuation of RFC 9110, section 5.6.2",
            Shown(name)
        )));
    }
    if NOT_EDITED.iter().any(|fixed| name.eq_ignore_ascii_case(fixed)) {
        return Err(Error::invalid(format!(
            "the header `{}` can't be edited, since it frames the message or belongs to one connection; a rewrite sets the host",
            Shown(name)
        )));
    }
    Ok(())
}

fn check_redirect(redirect: &RedirectTo, path: &PathMatch) -> Result<()> {
    if let Some(scheme) = redirect.scheme.as_deref().filter(|scheme| !matches!(*scheme, "http" | "https")) {
        return Err(Error::invalid(format!(
            "the scheme `{}` of a redirect; accepted: `http` and `https`",
            Shown(scheme)
        )));
    }
    if let Some(host) = &redirect.host {
        check_host(host)?;
        if host.contains(':') && !host.starts_with('[') {
            return Err(Error::invalid(
                "the host of a redirect holds a port; accepted: the port in its own field",
            ));
        }
    }
    if redirect.port == Some(0) {
        return Err(Error::invalid("a redirect to port 0; accepted: 1 to 65535, or none"));
    }
    if let Some(rewrite) = &redirect.path {
        check_rewrite(rewrite, path)?;
    }
    if redirect.scheme.is_none()
        && redirect.host.is_none()
        && redirect.port.is_none()
        && redirect.path.is_none()
    {
        return Err(Error::invalid(
            "a redirect that changes nothing goes round for ever; accepted: one change at least",
        ));
    }
    check_redirect_status(redirect.status)
}

fn check_redirect_status(status: u16) -> Result<()> {
    match status {
        301..=303 | 307 | 308 => Ok(()),
        other => Err(Error::invalid(format!(
            "a redirect with status {other}; accepted: 301, 302, 303, 307 or 308"
        ))),
    }
}

fn check_rewrite(rewrite: &PathRewrite, rule: &PathMatch) -> Result<()> {
    match (rewrite, rule) {
        (PathRewrite::Full(path), _) | (PathRewrite::Prefix(path), PathMatch::Prefix(_)) => check_path(path),
        (PathRewrite::Prefix(path), _) => Err(Error::invalid(format!(
            "a prefix is replaced by `{}` in a rule that matches none; accepted: in rules with a prefix",
            Shown(path)
        ))),
    }
}

/// A host that can stand in a header as it is: a name, an IPv4 address or an IPv6 one in brackets, with a port or without.
fn check_host(host: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if host.is_empty() || host.len() > 261 || !host.bytes().all(plain) {
        return Err(Error::invalid(format!(
            "the host `{}`; accepted: letters, digits, `-`, `_` and `.`, or an address, at most 261 characters",
            Shown(host)
        )));
    }
    Ok(())
}

pub(super) fn check_path(path: &str) -> Result<()> {
    check_text("path", path)?;
    if !path.starts_with('/') || path.contains(['?', '#', ' ']) {
        return Err(Error::invalid(format!(
            "the path `{}`; accepted: one that starts with `/` and holds no `?`, `#` or space",
            Shown(path)
        )));
    }
    Ok(())
}

/// What is hashed must have a name that can be there.
pub(super) fn check_hash_on(hash_on: &HashOn) -> Result<()> {
    match hash_on {
        HashOn::Header(name) | HashOn::Cookie(name) => check_name(name),
        HashOn::ClientAddress | HashOn::Path => Ok(()),
    }
}

/// The name of a header or a cookie.
pub(super) fn check_name(name: &str) -> Result<()> {
    if is_name(name) && name.len() <= 256 {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "`{}` as the name of a header or cookie; accepted: 1 to 256 letters, digits and the punctuation of a header name",
        Shown(name)
    )))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token)
}

fn check_text(what: &str, text: &str) -> Result<()> {
    if text.len() > MAX_TEXT {
        return Err(too_much(what, MAX_TEXT));
    }
    if text.chars().any(char::is_control) {
        return Err(Error::invalid(format!("the {what} `{}` holds a control character", Shown(text))));
    }
    Ok(())
}

fn too_much(what: &str, limit: usize) -> Error {
    Error::new(ErrorKind::OutOfResources, format!("too many {what}; at most {limit} are accepted"))
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
