//! One request that goes to a pool, from its choice to the last byte of its answer: what it is counted as.
//!
//! However it ends, it is counted once: when it is completed, when it fails, or when it is dropped because the client went
//! away.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use ews_core::{Clock as _, SystemClock};
use hyper::{HeaderMap, StatusCode};

use super::connection::{Connection, Phase};
use super::headers::REQUEST_ID;
use super::policy::Slot;
use super::pool::PoolIdentity;
use super::trace::TRACEPARENT;
use super::upstream::{Lease, Sender};
use crate::access::{End, Entry};
use crate::metrics::recorder::{Failure, PoolCounts};

/// A request under way.
#[derive(Debug)]
pub(crate) struct Exchange {
    connection: Rc<Connection>,
    counts: Arc<PoolCounts>,
    pool: Arc<PoolIdentity>,
    began: Instant,
    status: Option<StatusCode>,
    /// What it holds at the endpoint that answers.
    upstream: Option<Rc<Lease>>,
    /// Its place among those that a policy lets be under way.
    slot: Option<Slot>,
    /// What its line in the access log says, where there is one.
    entry: Option<Box<Entry>>,
    /// How much of the body was handed to the client's connection.
    bytes: u64,
    is_counted: bool,
}

impl Exchange {
    pub(crate) fn new(
        connection: Rc<Connection>,
        counts: Arc<PoolCounts>,
        pool: Arc<PoolIdentity>,
        began: Instant,
    ) -> Self {
        counts.begin();
        Self {
            connection,
            counts,
            pool,
            began,
            status: None,
            upstream: None,
            slot: None,
            entry: None,
            bytes: 0,
            is_counted: false,
        }
    }

    /// Has a line in the access log.
    pub(crate) fn logs(&mut self, entry: Option<Box<Entry>>) {
        self.entry = entry;
    }

    /// The request goes to endpoints with these headers, which name it.
    pub(crate) fn named(&mut self, headers: &HeaderMap) {
        if let Some(entry) = &mut self.entry {
            entry.request_id = headers.get(REQUEST_ID).cloned();
            entry.trace = headers.get(TRACEPARENT).cloned();
        }
    }

    /// Keeps a place until it has ended.
    pub(crate) fn occupies(&mut self, slot: Option<Slot>) {
        self.slot = slot;
    }

    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// An endpoint answers.
    pub(crate) fn answered(&mut self, status: StatusCode, lease: Rc<Lease>) {
        if status.is_server_error() {
            lease.fail();
        }
        self.status = Some(status);
        self.upstream = Some(lease);
    }

    /// So many bytes of the body moved.
    pub(crate) fn progress(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.connection.progress();
    }

    /// So many bytes reached the client after an upgrade.
    pub(crate) fn moved(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// The answer has ended as it should, and its connection may be kept or is gone.
    pub(crate) fn complete(mut self, sender: Option<Sender>) {
        self.count(None);
        if let (Some(lease), Some(sender)) = (self.upstream.take(), sender) {
            lease.local.checkin(sender, &self.connection.thread);
        }
    }

    /// The endpoint broke off in the midst of its answer.
    pub(crate) fn broke_off(mut self) {
        if let Some(lease) = &self.upstream {
            lease.fail();
        }
        self.count(Some(Failure::Upstream));
    }

    /// The gateway answers in its place.
    pub(crate) fn failed(&mut self, failure: Failure, status: StatusCode) {
        self.status = Some(status);
        self.count(Some(failure));
    }

    fn count(&mut self, failure: Option<Failure>) {
        self.is_counted = true;
        self.slot = None;
        self.counts.end();
        if let Some(failure) = failure {
            self.counts.failed(failure);
        }
        if let Some(status) = self.status {
            let nanos = self.began.elapsed().as_nanos();
            self.counts.answered(status, u64::try_from(nanos).unwrap_or(u64::MAX));
        }
        if let Some(entry) = self.entry.take() {
            entry_line(&self.connection, &entry, self, failure);
        }
        self.connection.enter(Phase::Idle);
    }
}

fn entry_line(connection: &Connection, entry: &Entry, exchange: &Exchange, failure: Option<Failure>) {
    let endpoint = exchange.upstream.as_ref().map(|lease| &lease.local.state);
    let end = End {
        at: SystemClock.now(),
        status: exchange.status,
        bytes: exchange.bytes,
        duration: exchange.began.elapsed(),
        pool: Some(exchange.pool.id.as_str()),
        endpoint: endpoint.map(|endpoint| &endpoint.address),
        failure: failure.map(Failure::as_str),
    };
    connection.thread.log(entry, &end);
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.is_counted {
            let is_forced = self.connection.is_aborted();
            self.count(Some(if is_forced { Failure::Forced } else { Failure::Client }));
        }
    }
}
