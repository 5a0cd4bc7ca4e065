//! What holds for requests whatever serves them: times, attempts, sizes, rates, who may ask at all.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::balancer::Network;
use crate::balancer::check::check_edited;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{PoolId, TrafficPolicyId};

/// The most networks of one list.
const MAX_NETWORKS: usize = 1_000;
/// The most error pages.
const MAX_PAGES: usize = 32;
/// The largest page, in bytes.
const MAX_PAGE: usize = 64 * 1024;
/// The longest wait that may be asked for.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// What holds for requests whatever serves them. A domain has one, or a rule in its place.
///
/// ```
/// use ews_core::balancer::TrafficPolicy;
/// use ews_core::id::TrafficPolicyId;
///
/// let mut policy = TrafficPolicy::new(TrafficPolicyId::new("shop")?);
/// policy.rate_per_client = Some(50);
/// policy.deny = vec!["203.0.113.0/24".parse()?];
/// policy.check()?;
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TrafficPolicy {
    /// Its id.
    pub id: TrafficPolicyId,
    /// How long a request may take until its response begins. Default: the balancer's.
    #[serde(default, with = "crate::time::duration::option")]
    pub request_timeout: Option<Duration>,
    /// How often a request that was not sent, or is idempotent, is tried elsewhere, at most 9. Default: the balancer's.
    #[serde(default)]
    pub retries: Option<u32>,
    /// The largest request body, in bytes. Default: the balancer's.
    #[serde(default)]
    pub max_body: Option<u64>,
    /// Requests per second that one client may make: one IPv4 address, or the first 64 bits of an IPv6 one. Beyond: 429 with
    /// `Retry-After`. Default: unlimited.
    #[serde(default)]
    pub rate_per_client: Option<u32>,
    /// How many requests one client may make at once before its rate holds. Default: as many as the rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst_per_client: Option<u32>,
    /// Requests per second under this policy, whoever makes them, at each gateway. Beyond: 429. Default: unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// How many requests may come at once before the rate holds. Default: as many as the rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Requests under way at once under this policy, at each gateway. Beyond, they wait in `queue`; without one: 503. Default:
    /// unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
    /// Where requests wait that are beyond `max_in_flight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<Queue>,
    /// Only clients of these networks are served, others get 403. Empty: all. At most 1,000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Network>,
    /// Clients of these networks get 403, even where they are allowed. At most 1,000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<Network>,
    /// Every request is answered so, and reaches no endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Page>,
    /// What is answered in place of the balancer's own plain errors, by status. At most 32. What endpoints answer is not
    /// touched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub error_pages: Vec<Page>,
    /// Who is asked whether a request that goes to a pool may pass. Default: nobody. Needs the capability `forward_auth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Box<ForwardAuth>>,
}

/// A service that is asked whether a request may pass (nginx' `auth_request`, Traefik's `forwardAuth`).
///
/// It gets a `GET` with the request's headers and no body, beside them `X-Forwarded-Method`, `-Uri`, `-Host`, `-Proto` and
/// `-For`. An answer of 200 to 299 lets the request pass. Any other is what the client gets; at most 64 KiB of its body.
/// Without an answer: 503.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ForwardAuth {
    /// Whose endpoints are asked.
    pub pool: PoolId,
    /// What is asked for there.
    pub path: String,
    /// Headers of its answer that the request gets, such as `X-User`. What the client sent under these names goes in any
    /// case. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub response_headers: Vec<String>,
    /// How long it may take. Above zero, at most 10 minutes. Default 5 s.
    #[serde(default = "auth_timeout", with = "crate::time::duration")]
    pub timeout: Duration,
}

fn auth_timeout() -> Duration {
    Duration::from_secs(5)
}

impl ForwardAuth {
    /// This path of this pool is asked.
    pub fn new(pool: PoolId, path: impl Into<String>) -> Self {
        Self { pool, path: path.into(), response_headers: Vec::new(), timeout: auth_timeout() }
    }

    /// With these headers of its answer for the request.
    #[must_use]
    pub fn with_response_headers<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.response_headers = names.into_iter().map(Into::into).collect();
        self
    }

    /// With so much time.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    fn check(&self) -> Result<()> {
        if !self.path.starts_with('/')
            || self.path.len() > 4096
            || !self.path.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(Error::invalid(format!(
                "the path `{}` of an authorizer; accepted: one that starts with `/`, at most 4,096 characters that need no escape",
                crate::time::Shown(&self.path)
            )));
        }
        if self.timeout.is_zero() || self.timeout > MAX_WAIT {
            return Err(Error::invalid("an authorizer's time; accepted: above zero, at most 10 minutes"));
        }
        if self.response_headers.len() > 64 {
            return Err(Error::new(
                ErrorKind::OutOfResources,
                "more than 64 headers of an authorizer's answer",
            ));
        }
        self.response_headers.iter().try_for_each(|name| check_edited(name))
    }
}

/// A bounded wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Queue {
    /// How many wait at most; beyond: 503. 1 to 100,000.
    pub requests: u32,
    /// How long each waits at most; then 503. Above zero, at most 10 minutes.
    #[serde(with = "crate::time::duration")]
    pub wait: Duration,
}

impl Queue {
    /// So many requests, each so long.
    pub const fn new(requests: u32, wait: Duration) -> Self {
        Self { requests, wait }
    }
}

/// An answer that the balancer gives by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Page {
    /// The status, 400 to 599.
    pub status: u16,
    /// The body, at most 64 KiB.
    pub body: String,
    /// Its type. Default `text/html; charset=utf-8`.
    #[serde(default = "html")]
    pub content_type: String,
}

fn html() -> String {
    "text/html; charset=utf-8".to_owned()
}

impl Page {
    /// Of this type, such as `application/json`.
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = content_type.into();
        self
    }

    /// An HTML page with this status.
    pub fn html(status: u16, body: impl Into<String>) -> Self {
        Self { status, body: body.into(), content_type: html() }
    }

    fn check(&self) -> Result<()> {
        if !(400..=599).contains(&self.status) {
            return Err(Error::invalid(format!("a page with status {}; accepted: 400 to 599", self.status)));
        }
        if self.body.len() > MAX_PAGE {
            return Err(Error::new(
                ErrorKind::OutOfResources,
                format!("a page of {} bytes; at most {MAX_PAGE} are accepted", self.body.len()),
            ));
        }
        if self.content_type.is_empty()
            || self.content_type.len() > 256
            || !self.content_type.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        {
            return Err(Error::invalid(
                "the type of a page; accepted: 1 to 256 printable characters of ASCII, such as `text/html`",
            ));
        }
        Ok(())
    }
}

impl TrafficPolicy {
    /// A policy that leaves all to the balancer.
    pub fn new(id: TrafficPolicyId) -> Self {
        Self {
            id,
            request_timeout: None,
            retries: None,
            max_body: None,
            rate_per_client: None,
            burst_per_client: None,
            rate: None,
            burst: None,
            max_in_flight: None,
            queue: None,
            allow: Vec::new(),
            deny: Vec::new(),
            maintenance: None,
            error_pages: Vec::new(),
            auth: None,
        }
    }

    /// Whether it is well formed.
    ///
    /// # Errors
    /// `Invalid` with the field that is wrong and what is accepted; `OutOfResources` for a list or a page above its limit.
    pub fn check(&self) -> Result<()> {
        let zero =
            |what: &str| Err(Error::invalid(format!("{what} of zero; accepted: more than zero, or none")));
        if self.request_timeout.is_some_and(|timeout| timeout.is_zero()) {
            return zero("a request timeout");
        }
        if self.retries.is_some_and(|retries| retries > 9) {
            return Err(Error::invalid("more than 9 retries; accepted: 0 to 9, or none"));
        }
        for (what, number, of) in [
            ("a rate per client", self.rate_per_client, true),
            ("a burst per client", self.burst_per_client, self.rate_per_client.is_some()),
            ("a rate", self.rate, true),
            ("a burst", self.burst, self.rate.is_some()),
            ("a bound of requests in flight", self.max_in_flight, true),
        ] {
            match number {
                Some(0) => return zero(what),
                Some(1_000_001..) => {
                    return Err(Error::invalid(format!(
                        "{what} above 1,000,000; accepted: 1 to 1,000,000, or none"
                    )));
                }
                Some(_) if !of => {
                    return Err(Error::invalid(format!(
                        "{what} without a rate; accepted: both, or the rate"
                    )));
                }
                _ => {}
            }
        }
        if let Some(Queue { requests, wait }) = self.queue {
            if self.max_in_flight.is_none() {
                return Err(Error::invalid(
                    "a queue without a bound of requests in flight; accepted: both, or neither",
                ));
            }
            check_wait("a queue", requests, wait)?;
        }
        for (what, list) in [("allowed", &self.allow), ("denied", &self.deny)] {
            if list.len() > MAX_NETWORKS {
                return Err(Error::new(
                    ErrorKind::OutOfResources,
                    format!("{} networks are {what}; at most {MAX_NETWORKS} are accepted", list.len()),
                ));
            }
        }
        if self.error_pages.len() > MAX_PAGES {
            return Err(Error::new(
                ErrorKind::OutOfResources,
                format!("{} error pages; at most {MAX_PAGES} are accepted", self.error_pages.len()),
            ));
        }
        for (index, page) in self.error_pages.iter().enumerate() {
            page.check()?;
            if self.error_pages.iter().take(index).any(|earlier| earlier.status == page.status) {
                return Err(Error::invalid(format!(
                    "two error pages for status {}; accepted: one",
                    page.status
                )));
            }
        }
        self.auth.as_ref().map_or(Ok(()), |auth| auth.check())?;
        self.maintenance.as_ref().map_or(Ok(()), Page::check)
    }
}

/// A bounded wait must be bounded.
pub(super) fn check_wait(what: &str, requests: u32, wait: Duration) -> Result<()> {
    if !(1..=100_000).contains(&requests) || wait.is_zero() || wait > MAX_WAIT {
        return Err(Error::invalid(format!(
            "{what} of {requests} requests that wait {} ms each; accepted: 1 to 100,000 requests, and above zero to 10 minutes",
            wait.as_millis()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused() {
        let policy = || TrafficPolicy::new(TrafficPolicyId::new("p").unwrap());
        let queue = Queue { requests: 1, wait: Duration::from_secs(1) };
        let auth = |path: &str| ForwardAuth::new(PoolId::new("auth").unwrap(), path);
        policy().check().unwrap();
        for wrong in [
            TrafficPolicy { request_timeout: Some(Duration::ZERO), ..policy() },
            TrafficPolicy { retries: Some(10), ..policy() },
            TrafficPolicy { rate_per_client: Some(0), ..policy() },
            TrafficPolicy { burst_per_client: Some(5), ..policy() },
            TrafficPolicy { rate: Some(1_000_001), ..policy() },
            TrafficPolicy { burst: Some(5), rate_per_client: Some(5), ..policy() },
            TrafficPolicy { queue: Some(queue), ..policy() },
            TrafficPolicy { queue: Some(Queue { requests: 0, ..queue }), max_in_flight: Some(1), ..policy() },
            TrafficPolicy {
                queue: Some(Queue { wait: MAX_WAIT * 2, ..queue }),
                max_in_flight: Some(1),
                ..policy()
            },
            TrafficPolicy { error_pages: vec![Page::html(503, ""), Page::html(503, "")], ..policy() },
            TrafficPolicy { maintenance: Some(Page::html(200, "")), ..policy() },
            TrafficPolicy { auth: Some(Box::new(auth("check"))), ..policy() },
            TrafficPolicy { auth: Some(Box::new(auth("/check").with_timeout(Duration::ZERO))), ..policy() },
            TrafficPolicy {
                auth: Some(Box::new(auth("/check").with_response_headers(["content-length"]))),
                ..policy()
            },
            TrafficPolicy {
                maintenance: Some(Page { content_type: "a\r\nb".into(), ..Page::html(503, "") }),
                ..policy()
            },
        ] {
            assert_eq!(wrong.check().unwrap_err().kind(), ErrorKind::Invalid, "{wrong:?}");
        }
        let good = TrafficPolicy {
            rate_per_client: Some(5),
            burst_per_client: Some(10),
            max_in_flight: Some(1),
            queue: Some(queue),
            deny: vec!["10.0.0.0/8".parse().unwrap()],
            error_pages: vec![Page::html(502, "x"), Page::html(503, "")],
            auth: Some(Box::new(auth("/check?x=1").with_response_headers(["x-user"]))),
            ..policy()
        };
        good.check().unwrap();
        let text = serde_json::to_string(&good).unwrap();
        assert_eq!(serde_json::from_str::<TrafficPolicy>(&text).unwrap(), good);
    }
}
