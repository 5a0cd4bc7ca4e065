//! Looking at instances of the fake engine: get, list, logs, events, archives.

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use tokio::sync::watch;

use super::engine::FakeEngine;
use super::events::{self, Subscription};
use super::life::reachable;
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventStream;
use crate::id::InstanceId;
use crate::instance::Instance;
use crate::node::{Node, NodeState};
use crate::runtime::{ByteStream, LogOptions, LogStream, Usage};
use crate::selector::Selector;
use crate::spec::lifecycle::Signal;

/// The largest archive, in bytes: tests need no larger one.
const MAX_ARCHIVE: usize = 64 << 20;

/// How much of an archive goes into one piece.
const PIECE: usize = 64 * 1024;

impl FakeEngine {
    pub(super) fn nodes(&self) -> Vec<Node> {
        let state = self.state();
        let mut nodes: Vec<Node> = state.nodes.values().cloned().collect();
        if let Some(since) = state.severed {
            nodes.iter_mut().for_each(|node| node.state = NodeState::Unknown { since });
        }
        nodes
    }

    pub(super) fn get(&self, id: &InstanceId) -> Result<Instance> {
        let state = self.state();
        let record = state.records.get(id).ok_or_else(|| Error::not_found("instance", id))?;
        Ok(state.view(record))
    }

    pub(super) fn list(&self, selector: &Selector) -> Vec<Instance> {
        let state = self.state();
        state
            .records
            .values()
            .filter(|record| selector.matches(&record.instance))
            .map(|record| state.view(record))
            .collect()
    }

    pub(super) fn events(&self, selector: Selector, closed: watch::Receiver<bool>) -> EventStream {
        let subscription = Subscription::new(selector, self.shared.config.event_capacity);
        self.state().subscriptions.push(std::sync::Arc::downgrade(&subscription));
        events::stream(subscription, closed)
    }

    pub(super) fn signal(&self, id: &InstanceId, signal: Signal) -> Result<()> {
        self.shared.config.capabilities.check_signal(signal)?;
        let state = self.state();
        match &reachable(&state, id)?.main {
            Some(main) => {
                main.signal(signal);
                Ok(())
            }
            None => {
                Err(Error::new(ErrorKind::Busy, "the instance does not run").with_context("instance", id))
            }
        }
    }

    pub(super) fn usage(&self, ids: &[InstanceId]) -> Vec<Usage> {
        let at = self.now();
        let state = self.state();
        ids.iter().filter_map(|id| state.usage(id, at)).collect()
    }

    pub(super) fn logs(&self, id: &InstanceId, options: &LogOptions) -> Result<LogStream> {
        let now = self.now();
        let state = self.state();
        let record = reachable(&state, id)?;
        let (lines, place) = record.log.read(options, now);
        let there = stream::iter(lines.into_iter().map(Ok));
        if !options.follow {
            return Ok(there.boxed());
        }
        let changed = record.log.changed.subscribe();
        let follow = (self.clone(), id.clone(), options.clone(), place, changed);
        let coming = stream::unfold(follow, |(engine, id, options, mut place, mut changed)| async move {
            loop {
                let (lines, over) = {
                    let state = engine.state();
                    // A removed instance has nothing more to say.
                    let record = state.records.get(&id)?;
                    changed.mark_unchanged();
                    let lines = record.log.from(place, &options);
                    place = record.log.end_place();
                    (lines, !record.instance.state.is_running() && record.instance.started_at.is_some())
                };
                if !lines.is_empty() {
                    return Some((
                        stream::iter(lines.into_iter().map(Ok)),
                        (engine, id, options, place, changed),
                    ));
                }
                if over || changed.changed().await.is_err() {
                    return None;
                }
            }
        });
        Ok(there.chain(coming.flatten()).boxed())
    }

    pub(super) async fn put_archive(
        &self,
        id: &InstanceId,
        path: &str,
        mut archive: ByteStream,
    ) -> Result<()> {
        reachable(&self.state(), id)?;
        let mut bytes = BytesMut::new();
        while let Some(piece) = archive.next().await {
            bytes.extend_from_slice(&piece?);
            if bytes.len() > MAX_ARCHIVE {
                return Err(Error::new(ErrorKind::OutOfResources, "the archive is larger than 64 MiB"));
            }
        }
        let mut state = self.state();
        let record = state.records.get_mut(id).ok_or_else(|| Error::not_found("instance", id))?;
        record.files.unpack(path, &bytes)
    }

    pub(super) fn get_archive(&self, id: &InstanceId, path: &str) -> Result<ByteStream> {
        let mut archive = Bytes::from(reachable(&self.state(), id)?.files.pack(path)?);
        let mut pieces = Vec::new();
        while !archive.is_empty() {
            pieces.push(Ok(archive.split_to(PIECE.min(archive.len()))));
        }
        Ok(stream::iter(pieces).boxed())
    }
}
