//! Whether a webhook is from whom its rule says. It is decided on the raw bytes, before one of them is read.
//!
//! Every comparison takes the same time whatever is equal: a tag of HMAC by `subtle`, a token by its hash.

use std::time::Duration;

use axum::http::HeaderMap;
use ews_core::{SecretValue, Timestamp};
use subtle::{Choice, ConstantTimeEq as _};

use crate::intake::rule::{Provider, Rule};

/// Whether one of these secrets signed this, or is the token that it carries. None of them is left out, so that neither which
/// one it is nor how near it came shows in the time.
pub(super) fn is_genuine(
    rule: &Rule,
    secrets: &[SecretValue],
    headers: &HeaderMap,
    query: &str,
    body: &[u8],
    now: Timestamp,
) -> bool {
    let genuine = secrets.iter().filter(|secret| !secret.expose().is_empty());
    let by_hmac = |name: &str, prefix: &str| {
        let given = once(headers, name).and_then(|value| value.strip_prefix(prefix)).and_then(tag);
        genuine.clone().fold(Choice::from(0), |found, secret| found | same_tag(secret, body, given))
    };
    let by_token = |token: Option<&[u8]>| {
        genuine.clone().fold(Choice::from(0), |found, secret| found | same_token(secret, token))
    };
    bool::from(match rule.provider {
        Provider::Github => by_hmac("x-hub-signature-256", "sha256="),
        Provider::Gitea => by_hmac("x-gitea-signature", "") | by_hmac("x-forgejo-signature", ""),
        Provider::Gitlab => by_token(once(headers, "x-gitlab-token").map(str::as_bytes)),
        Provider::Registry | Provider::Harbor => {
            let value = once(headers, "authorization");
            let bearer = value.and_then(|value| value.split_at_checked(7));
            let token = match bearer {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer ") => Some(token.trim()),
                // Harbor sends what it is given, with or without a scheme.
                _ if rule.provider == Provider::Harbor => value,
                _ => None,
            };
            by_token(token.map(str::as_bytes))
        }
        Provider::Dockerhub => {
            let token = query.split('&').find_map(|pair| pair.strip_prefix("token="));
            by_token(token.map(str::as_bytes))
        }
        Provider::Generic => {
            let at = once(headers, "x-ews-timestamp");
            let signed = [at.unwrap_or_default().as_bytes(), b".", body].concat();
            let given = once(headers, "x-ews-signature")
                .and_then(|value| value.strip_prefix("sha256="))
                .and_then(tag);
            let signature =
                genuine.fold(Choice::from(0), |found, secret| found | same_tag(secret, &signed, given));
            signature & Choice::from(u8::from(is_near(at, now, rule.tolerance)))
        }
    })
}

/// The header, where it is there once.
pub(in crate::intake) fn once<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let (first, second) = (values.next()?, values.next());
    first.to_str().ok().filter(|_| second.is_none())
}

/// A tag of SHA-256 in hexadecimal digits, all of them.
fn tag(text: &str) -> Option<[u8; 32]> {
    let mut tag = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, pair) in tag.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| !pair.contains('+'))?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(tag)
}

fn same_tag(secret: &SecretValue, body: &[u8], given: Option<[u8; 32]>) -> Choice {
    let made = hmac_sha256::HMAC::mac(body, secret.expose());
    made.ct_eq(&given.unwrap_or_default()) & Choice::from(u8::from(given.is_some()))
}

fn same_token(secret: &SecretValue, given: Option<&[u8]>) -> Choice {
    let (kept, shown) =
        (hmac_sha256::Hash::hash(secret.expose()), hmac_sha256::Hash::hash(given.unwrap_or_default()));
    kept.ct_eq(&shown) & Choice::from(u8::from(given.is_some()))
}

/// Whether seconds since 1970 are near enough to now, before or after.
fn is_near(at: Option<&str>, now: Timestamp, tolerance: Duration) -> bool {
    let digits = at.filter(|at| !at.is_empty() && at.len() <= 12 && at.bytes().all(|b| b.is_ascii_digit()));
    let Some(seconds) = digits.and_then(|at| at.parse::<u64>().ok()) else { return false };
    let at = Timestamp::from_micros(seconds.saturating_mul(1_000_000));
    at.since(now) <= tolerance && now.since(at) <= tolerance
}
