//! Pages of a list as of one revision: the latest rows, with what changed since taken back.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use super::rows::{Backend, Rows, Table};
use super::{Inner, apply, codec, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Key, ListPage, ListRequest, Record, StoreRevision};

/// A page ends early when its keys and values reach so many bytes, so that no page costs more than this and one record.
const PAGE_BYTES: usize = 8 << 20;

impl<B: Backend> Inner<B> {
    pub(super) fn list(&self, rows: &mut dyn Rows, request: &ListRequest) -> Result<ListPage> {
        if request.limit == 0 {
            return Err(Error::invalid("a page of no records; accepted: a limit of at least 1"));
        }
        let limit = request.limit.min(self.config.limits.page.max(1));
        let now = apply::revision(rows)?;
        let at = request.at.map_or(now, |at| at.0);
        let changed = if at == now {
            BTreeMap::new()
        } else {
            lock(&self.history).between(at, now, &request.prefix).ok_or_else(|| {
                Error::new(
                    ErrorKind::Compacted,
                    format!(
                        "the state at revision {at} is not known any more, the store is at {now}; list again"
                    ),
                )
            })?
        };
        let prefix = request.prefix.as_str();
        let from = match &request.after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix),
        };
        let mut page = Page { records: Vec::new(), bytes: 0, limit, more: false };
        // Both run in the order of the keys: the rows, and what some of them were at `at`.
        let mut earlier = changed.range::<str, _>((from, Bound::Unbounded)).peekable();
        rows.scan(Table::Records, from.map(str::as_bytes), &mut |key, row| {
            if !key.starts_with(prefix.as_bytes()) {
                return Ok(ControlFlow::Break(()));
            }
            while let Some((_, record)) = earlier.next_if(|(earlier, _)| earlier.as_str().as_bytes() < key) {
                if page.add(record.clone()).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if let Some((_, record)) = earlier.next_if(|(earlier, _)| earlier.as_str().as_bytes() == key) {
                return Ok(page.add(record.clone()));
            }
            Ok(page.add(Some(codec::read_record(codec::read_key(key)?, row)?)))
        })?;
        for (_, record) in earlier {
            if page.add(record.clone()).is_break() {
                break;
            }
        }
        Ok(ListPage { records: page.records, revision: StoreRevision(at), more: page.more })
    }
}

struct Page {
    records: Vec<Record>,
    bytes: usize,
    limit: usize,
    more: bool,
}

impl Page {
    fn add(&mut self, record: Option<Record>) -> ControlFlow<()> {
        let Some(record) = record else { return ControlFlow::Continue(()) };
        if self.records.len() >= self.limit || self.bytes >= PAGE_BYTES {
            self.more = true;
            return ControlFlow::Break(());
        }
        self.bytes += record.key.as_str().len() + record.value.len();
        self.records.push(record);
        ControlFlow::Continue(())
    }
}

/// [`Key`] orders as its text does, so that a range of keys can be named by text.
impl std::borrow::Borrow<str> for Key {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}
