//! What instances wrote, of one or of all of a service.
//!
//! What there is comes in the order of time; with `follow`, what is written from then on comes as it is written, also by instances
//! that are made later. At most the last 10,000 lines and 64 MiB of what there is are given, 1,000 lines unless the caller says
//! otherwise.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::Uri;
use ews_core::runtime::{LogLine, LogOptions, OutputStream};
use ews_core::{Error, ErrorKind, Instance, InstanceId, InstanceState, Result, ServiceName};
use futures_util::stream::{BoxStream, SelectAll};
use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::wire::{LogLineView, LogStreamLine};
use super::{Answered, Api, flag, parameters, service_name};

/// The most lines of what there is.
const MOST: usize = 10_000;
/// As many as are given unless somebody says how many.
const USUAL: usize = 1_000;
/// The most bytes of what there is, of all instances together.
const BYTES: usize = 64 << 20;
/// What a line takes beside its text.
const LINE: usize = 200;
/// How often is looked for instances that are new.
const LOOK: Duration = Duration::from_secs(1);

/// Lines of one instance.
type Lines = BoxStream<'static, LogStreamLine>;

pub(super) async fn logs(State(api): State<Api>, Path(name): Path<String>, uri: Uri) -> Answered {
    let service = service_name(&name)?;
    let parameters = parameters(&uri, &["tail", "follow", "instance"])?;
    let tail =
        match parameters.get("tail") {
            Some(text) => text.parse().ok().filter(|tail| *tail <= MOST).ok_or_else(|| {
                Error::invalid(format!("`tail` is no number of lines; accepted: 0 to {MOST}"))
            })?,
            None => USUAL,
        };
    let follow = flag(&parameters, "follow")?;
    let only = parameters.get("instance").map(InstanceId::new).transpose()?;
    let instances = instances(&api, &service, only.as_ref()).await?;
    if instances.is_empty()
        && let Some(only) = &only
    {
        return Err(Error::not_found("instance of the service", only).into());
    }
    let (mut lines, mut last) = (Vec::new(), BTreeMap::new());
    for instance in &instances {
        match api.runtime().logs(&instance.id, &LogOptions::tail(tail)).await {
            Ok(log) => {
                let found = kept(dressed(instance, log), BYTES / instances.len()).await;
                if let Some(LogStreamLine::Line(line)) = found.back() {
                    last.insert(instance.id.clone(), line.at);
                }
                lines.extend(found);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => lines.push(failed(instance, &error)),
        }
    }
    // Stable, so that lines of one moment stay as they were written.
    lines.sort_by_key(|line| match line {
        LogStreamLine::Line(line) => line.at,
        LogStreamLine::Failed { .. } => ews_core::Timestamp::MAX,
    });
    let lines = lines.split_off(lines.len().saturating_sub(tail));
    let present = stream::iter(lines);
    if !follow {
        return Ok(api.lines(present)?);
    }
    let mut following =
        Following { api: api.clone(), service, only, known: BTreeSet::new(), open: SelectAll::new() };
    for instance in instances {
        let mut options = LogOptions::follow();
        // From where the lines above end; where none was wanted, from now on.
        options.since = last.get(&instance.id).map(|at| *at + Duration::from_micros(1));
        options.tail = (tail == 0).then_some(0);
        following.add(&instance, &options).await;
    }
    let coming = stream::unfold(following, |mut following| async move {
        let line = following.next().await?;
        Some((line, following))
    });
    Ok(api.lines(present.chain(coming))?)
}

/// The last lines, as far as they have so many bytes together.
async fn kept(mut log: Lines, bytes: usize) -> VecDeque<LogStreamLine> {
    let length = |line: &LogStreamLine| match line {
        LogStreamLine::Line(line) => line.text.len() + LINE,
        LogStreamLine::Failed { why, .. } => why.len() + LINE,
    };
    let (mut found, mut size) = (VecDeque::new(), 0);
    while let Some(line) = log.next().await {
        size += length(&line);
        found.push_back(line);
        while size > bytes
            && found.len() > 1
            && let Some(first) = found.pop_front()
        {
            size -= length(&first);
        }
    }
    found
}

async fn instances(api: &Api, service: &ServiceName, only: Option<&InstanceId>) -> Result<Vec<Instance>> {
    let status = Box::pin(api.deployer().status(service)).await?;
    let meant = |instance: &Instance| only.is_none_or(|only| instance.id == *only);
    Ok(status.instances.into_iter().filter(meant).collect())
}

fn dressed(instance: &Instance, log: ews_core::runtime::LogStream) -> Lines {
    let instance = instance.clone();
    log.map(move |line| match line {
        Ok(LogLine { at, stream, bytes, .. }) => LogStreamLine::Line(LogLineView {
            at,
            instance: instance.id.clone(),
            slot: instance.key.slot,
            revision: instance.key.revision.clone(),
            stderr: stream == OutputStream::Stderr,
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }),
        Err(error) => failed(&instance, &error),
    })
    .boxed()
}

fn failed(instance: &Instance, error: &Error) -> LogStreamLine {
    LogStreamLine::Failed { instance: instance.id.clone(), why: error.message().to_owned() }
}

/// The logs of a service's instances, as they come and go.
struct Following {
    api: Api,
    service: ServiceName,
    only: Option<InstanceId>,
    known: BTreeSet<InstanceId>,
    open: SelectAll<Lines>,
}

impl Following {
    async fn add(&mut self, instance: &Instance, options: &LogOptions) {
        // One that was never started has no log yet; it is looked at again.
        if matches!(instance.state, InstanceState::Creating | InstanceState::Created) {
            return;
        }
        if let Ok(log) = self.api.runtime().logs(&instance.id, options).await {
            self.known.insert(instance.id.clone());
            self.open.push(dressed(instance, log));
        }
    }

    /// The next line; nothing once the service is gone.
    async fn next(&mut self) -> Option<LogStreamLine> {
        let mut look = interval_at(Instant::now() + LOOK, LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(line) = self.open.next(), if !self.open.is_empty() => return Some(line),
                _ = look.tick() => match instances(&self.api, &self.service, self.only.as_ref()).await {
                    Ok(found) => {
                        let there: BTreeSet<InstanceId> = found.iter().map(|one| one.id.clone()).collect();
                        self.known.retain(|known| there.contains(known));
                        for instance in found {
                            if !self.known.contains(&instance.id) {
                                self.add(&instance, &LogOptions::follow()).await;
                            }
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::NotFound => return None,
                    Err(error) => tracing::debug!(service = %self.service, %error, "its instances can't be seen now"),
                },
            }
        }
    }
}
