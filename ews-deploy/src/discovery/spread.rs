//! Keeps the files of a service's instances as the records of its release are.
//!
//! One task beside each service's leader, under its lead. Records that change in quick succession are taken together, an instance is
//! written only where what it has differs, and what could not be written is tried again, with pauses that grow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ews_core::store::{ListRequest, WatchStream};
use ews_core::{Digest, Error, ErrorKind, Incarnation, InstanceId, InstanceState, Result, Retry};
use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::dress::{DIRECTORY, HOSTS, PEERS, known, takes_files};
use super::{MemberOf, prefix, render};
use crate::reconcile::{Tools, service_selector};

/// For how long changes are gathered before files are written.
const GATHER: Duration = Duration::from_millis(250);
/// How many instances are written at once.
const AT_ONCE: usize = 8;
/// The first and the longest pause before what failed is tried again.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What each start of an instance was given.
type Given = BTreeMap<(InstanceId, Incarnation), Digest>;

/// Runs until the lead is over, which ends the task from outside.
pub(crate) async fn spread(tools: Arc<Tools>, relist: Duration) {
    let mut given = Given::new();
    let mut failures = 0_u32;
    let mut watched: Option<(MemberOf, WatchStream)> = None;
    loop {
        let mut again = None;
        if let Err(error) = tools.book.sync(tools.lead.fence()).await {
            tracing::warn!(service = %tools.service, %error, "what is told of the service can't be written");
            again = Some(Instant::now() + AGAIN.0);
        }
        let member = tools.book.member().filter(|member| member.discovery.file);
        if watched.as_ref().map(|(member, _)| member) != member.as_ref() {
            watched = None;
        }
        if let Some(member) = &member {
            if watched.is_none() {
                watched = watch(&tools, member).await.map(|changes| (member.clone(), changes));
            }
            match written(&tools, member, &mut given).await {
                Ok(()) => failures = 0,
                Err(error) => {
                    tracing::warn!(service = %tools.service, %error, "an instance was not told of the others");
                    let pause = AGAIN.0.saturating_mul(2_u32.saturating_pow(failures)).min(AGAIN.1);
                    failures = failures.saturating_add(1);
                    again = Some(Instant::now() + pause);
                }
            }
        }
        let tick = Instant::now() + if member.is_some() { relist } else { Duration::from_secs(3600) };
        let mut lost = false;
        tokio::select! {
            () = tools.book.changed() => {}
            change = next(&mut watched) => lost = !matches!(change, Some(Ok(_))),
            () = sleep_until(again.unwrap_or(tick).min(tick)) => {}
        }
        if lost {
            watched = None;
        }
        sleep(GATHER).await;
    }
}

async fn watch(tools: &Tools, member: &MemberOf) -> Option<WatchStream> {
    let store = tools.repository.store();
    let prefix = prefix(&tools.owner, &member.release).ok()?;
    let page = store.list(&ListRequest::new(prefix.clone()).limit(1)).await.ok()?;
    store.watch(&prefix, page.revision).await.ok()
}

async fn next<T>(watched: &mut Option<(MemberOf, stream::BoxStream<'static, T>)>) -> Option<T> {
    match watched {
        Some((_, changes)) => changes.next().await,
        None => std::future::pending().await,
    }
}

/// Writes the files of every instance that has others than it should.
async fn written(tools: &Tools, member: &MemberOf, given: &mut Given) -> Result<()> {
    if !takes_files(&tools.runtime.capabilities()) {
        return Ok(());
    }
    let members = known(tools.repository.store(), &tools.owner, &member.release).await?;
    let (json, hosts) = (render::json(&member.release, &members), render::hosts(&members));
    let digest = Digest::of(json.as_bytes());
    let selector = service_selector(&tools.owner, &tools.service)?;
    let listing = tools.runtime.list(&selector);
    let instances =
        timeout(tools.call_limit, listing).await.unwrap_or_else(|_| Err(silent(tools.call_limit)))?;
    given.retain(|(id, incarnation), _| {
        instances.iter().any(|i| i.id == *id && i.incarnation == *incarnation)
    });
    let mut work = Vec::new();
    for instance in instances.iter().filter(|instance| instance.state == InstanceState::Running) {
        let start = (instance.id.clone(), instance.incarnation);
        if given.get(&start) == Some(&digest) {
            continue;
        }
        work.push(start);
    }
    let archive = archive(&[(PEERS, &json), (HOSTS, &hosts)])?;
    let puts = work.into_iter().map(|start| {
        let archive = archive.clone();
        async move {
            let result = async {
                tools.lead.outlasts(tools.call_limit)?;
                let bytes = stream::iter([Ok(archive)]).boxed();
                let put = tools.runtime.put_archive(&start.0, "/", bytes);
                timeout(tools.call_limit, put).await.unwrap_or_else(|_| Err(silent(tools.call_limit)))
            };
            let result = result.await;
            (start, result)
        }
    });
    // Collected first: a future that borrows its item is not general enough for a stream of closures.
    let puts: Vec<_> = puts.collect();
    let results: Vec<_> = stream::iter(puts).buffer_unordered(AT_ONCE).collect().await;
    let mut last = Ok(());
    for (start, result) in results {
        match result {
            Ok(()) => {
                given.insert(start, digest);
            }
            // It is gone, and so is whoever would read.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // It will not take this one however often it is tried.
            Err(error) if error.retry() == Retry::Never && !error.maybe_applied() => {
                tracing::debug!(instance = %start.0, %error, "it takes no files");
                given.insert(start, digest);
            }
            Err(error) => last = Err(error),
        }
    }
    last
}

fn silent(limit: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("the runtime did not answer within {limit:?}"))
}

/// The files as an archive for the instance's root.
fn archive(files: &[(&str, &str)]) -> Result<Bytes> {
    let failed = |error| Error::internal("the files could not be packed").with_source(error);
    let mut builder = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        builder.append_data(&mut header, format!("{DIRECTORY}/{name}"), text.as_bytes()).map_err(failed)?;
    }
    builder.into_inner().map(Bytes::from).map_err(failed)
}
