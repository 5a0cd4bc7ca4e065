//! Traffic policies in the form in which requests meet them.
//!
//! The cheapest question first: is the client welcome, is the site in maintenance, is a rate exceeded, is there room. What a
//! policy counts (its rate, what is under way) outlives a change of the policy that leaves that part as it was.

mod presence;
mod rate;
mod slots;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use ews_core::balancer::{Page, TrafficPolicy};
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

use super::auth::Auth;
use super::body::ResponseBody;
use super::networks::Networks;
use super::respond::{plain, text};
use crate::metrics::recorder::Failure;

pub(crate) use presence::{Presence, Present};
pub(crate) use rate::RateTable;
pub(crate) use slots::{Slot, Slots, Waiting};

use rate::{Rate, RateCell};

/// A policy as requests meet it.
#[derive(Debug)]
pub(crate) struct Policy {
    uid: u64,
    /// Until the begin of a response, in milliseconds.
    pub(crate) response: Option<u64>,
    /// How many endpoints are tried.
    pub(crate) attempts: Option<u32>,
    pub(crate) max_body: Option<u64>,
    allow: Networks,
    deny: Networks,
    per_client: Option<Rate>,
    all: Option<(Rate, Arc<RateCell>)>,
    /// What may be under way.
    pub(crate) slots: Option<Arc<Slots>>,
    maintenance: Option<OwnPage>,
    pages: Vec<OwnPage>,
    /// Who is asked whether a request may pass.
    pub(crate) auth: Option<Arc<Auth>>,
}

#[derive(Debug)]
struct OwnPage {
    status: StatusCode,
    body: Bytes,
    content_type: HeaderValue,
}

/// A request that is turned away.
pub(crate) struct Turned {
    pub(crate) response: Response<ResponseBody>,
    pub(crate) failure: Failure,
}

impl Policy {
    /// This policy, with what an earlier form of it has counted.
    pub(crate) fn new(uid: u64, policy: &TrafficPolicy, before: Option<&Self>) -> Self {
        let all = policy.rate.map(|rate| Rate::new(rate, policy.burst));
        let kept = before.and_then(|before| before.all.as_ref());
        let cell = kept.map_or_else(Arc::default, |(_, cell)| cell.clone());
        let slots = policy.max_in_flight.map(|most| {
            let kept = before.and_then(|before| before.slots.as_ref());
            match kept.filter(|slots| slots.is_for(most, policy.queue)) {
                Some(slots) => slots.clone(),
                None => Arc::new(Slots::new(most, policy.queue)),
            }
        });
        let auth = policy.auth.as_ref().and_then(|auth| Auth::new(auth).ok()).map(Arc::new);
        // It was checked before it was applied. Were it not, nobody would pass.
        let closed = || (policy.auth.is_some() && auth.is_none()).then(OwnPage::closed);
        Self {
            // Clients keep what they have used up.
            uid: before.map_or(uid, |before| before.uid),
            response: policy
                .request_timeout
                .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)),
            attempts: policy.retries.map(|retries| retries + 1),
            max_body: policy.max_body,
            allow: Networks::new(&policy.allow),
            deny: Networks::new(&policy.deny),
            per_client: policy.rate_per_client.map(|rate| Rate::new(rate, policy.burst_per_client)),
            all: all.map(|rate| (rate, cell)),
            slots,
            maintenance: policy.maintenance.as_ref().and_then(OwnPage::new).or_else(closed),
            pages: policy.error_pages.iter().filter_map(OwnPage::new).collect(),
            auth,
        }
    }

    /// Whether a request of this client is taken at this moment, in the gateway's nanoseconds; else why not.
    pub(crate) fn turns_away(&self, client: IpAddr, now: u64, table: &RateTable) -> Option<Turned> {
        if self.deny.contain(client) || !(self.allow.is_empty() || self.allow.contain(client)) {
            return Some(self.turned(StatusCode::FORBIDDEN, Failure::Denied));
        }
        if let Some(page) = &self.maintenance {
            return Some(Turned { response: page.response(), failure: Failure::Maintenance });
        }
        // The client's own first: what is refused for it must cost the others nothing.
        if let Some(rate) = &self.per_client
            && let Err(wait) = table.take(self.uid, client, rate, now)
        {
            return Some(self.limited(wait));
        }
        if let Some((rate, cell)) = &self.all
            && let Err(wait) = cell.take(rate, now)
        {
            return Some(self.limited(wait));
        }
        None
    }

    /// An error of the gateway's own, with the page for it.
    pub(crate) fn error(&self, status: StatusCode) -> Response<ResponseBody> {
        let page = self.pages.iter().find(|page| page.status == status);
        page.map_or_else(|| plain(status), OwnPage::response)
    }

    fn turned(&self, status: StatusCode, failure: Failure) -> Turned {
        Turned { response: self.error(status), failure }
    }

    /// Too many requests; another one is welcome after so many nanoseconds.
    fn limited(&self, wait: u64) -> Turned {
        let mut turned = self.turned(StatusCode::TOO_MANY_REQUESTS, Failure::Limited);
        let seconds = wait.div_ceil(1_000_000_000).max(1);
        turned.response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        turned
    }
}

impl OwnPage {
    fn new(page: &Page) -> Option<Self> {
        Some(Self {
            status: StatusCode::from_u16(page.status).ok()?,
            body: Bytes::copy_from_slice(page.body.as_bytes()),
            content_type: HeaderValue::from_str(&page.content_type).ok()?,
        })
    }

    fn closed() -> Self {
        let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
        Self { status: StatusCode::SERVICE_UNAVAILABLE, body: Bytes::new(), content_type }
    }

    fn response(&self) -> Response<ResponseBody> {
        let mut response = text(self.status, self.body.clone());
        response.headers_mut().insert(header::CONTENT_TYPE, self.content_type.clone());
        response
    }
}

/// An error of the gateway's own under this policy, if there is one.
pub(crate) fn error(policy: Option<&Arc<Policy>>, status: StatusCode) -> Response<ResponseBody> {
    policy.map_or_else(|| plain(status), |policy| policy.error(status))
}

#[cfg(test)]
mod tests {
    use ews_core::id::TrafficPolicyId;

    use super::*;

    fn policy(change: impl FnOnce(&mut TrafficPolicy), before: Option<&Policy>) -> Policy {
        let mut policy = TrafficPolicy::new(TrafficPolicyId::new("p").unwrap());
        change(&mut policy);
        policy.check().unwrap();
        Policy::new(1, &policy, before)
    }

    #[test]
    fn the_denied_cost_nothing_and_a_changed_page_gives_no_fresh_rate() {
        let (table, client) = (RateTable::default(), IpAddr::from([10, 0, 0, 1]));
        let status = |turned: Option<Turned>| turned.map(|turned| turned.response.status().as_u16());
        let first = policy(
            |policy| {
                (policy.rate, policy.rate_per_client) = (Some(3), Some(2));
                policy.deny = vec!["10.9.0.0/16".parse().unwrap()];
            },
            None,
        );
        for _ in 0..10 {
            assert_eq!(status(first.turns_away(IpAddr::from([10, 9, 0, 1]), 0, &table)), Some(403));
        }
        let asked: Vec<_> = (0..5).map(|_| status(first.turns_away(client, 0, &table))).collect();
        assert_eq!(asked, [None, None, Some(429), Some(429), Some(429)]);
        let second = policy(
            |policy| {
                (policy.rate, policy.rate_per_client) = (Some(3), Some(2));
                policy.error_pages = vec![Page::html(429, "slower")];
            },
            Some(&first),
        );
        let turned = second.turns_away(client, 0, &table).unwrap();
        assert_eq!(turned.response.headers()[header::RETRY_AFTER], "1");
        assert_eq!(turned.response.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
        // Of three for all, the first client has had two.
        let other = IpAddr::from([10, 0, 0, 2]);
        let asked: Vec<_> = (0..2).map(|_| status(second.turns_away(other, 0, &table))).collect();
        assert_eq!(asked, [None, Some(429)]);
    }

    #[test]
    fn maintenance_answers_all_but_the_denied() {
        let policy = policy(
            |policy| {
                policy.maintenance = Some(Page::html(503, "back soon"));
                policy.allow = vec!["10.0.0.0/8".parse().unwrap()];
            },
            None,
        );
        let table = RateTable::default();
        let status =
            |client| policy.turns_away(client, 0, &table).map(|turned| turned.response.status().as_u16());
        assert_eq!(status(IpAddr::from([10, 0, 0, 1])), Some(503));
        assert_eq!(status(IpAddr::from([11, 0, 0, 1])), Some(403));
    }
}
