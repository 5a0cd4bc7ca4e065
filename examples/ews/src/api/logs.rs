//! What instances wrote, of one or of all of a service.
//!
//! What there is comes in the order of time; with `follow`, what is written from then on comes as it is written, also by instances
//! that are made or started again later. At most the last 10,000 lines and 64 MiB of what there is are given, 1,000 lines unless the caller says
//! otherwise.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::Uri;
use ews_core::runtime::{LogLine, LogOptions, OutputStream};
use ews_core::{
    Error, ErrorKind, Incarnation, Instance, InstanceId, InstanceState, Result, ServiceName, Timestamp,
};
use futures_util::stream::{BoxStream, SelectAll};
use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

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
    let room = api.room()?;
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
        LogStreamLine::Failed { .. } => Timestamp::MAX,
    });
    let lines = lines.split_off(lines.len().saturating_sub(tail));
    let present = stream::iter(lines);
    if !follow {
        return Ok(room.lines(present));
    }
    let mut following = Following {
        api: api.clone(),
        service,
        only,
        known: BTreeMap::new(),
        open: SelectAll::new(),
        look: looks(),
    };
    for instance in instances {
        // From where the lines above end; where none was wanted, from now on.
        let since = last.get(&instance.id).map(|at| *at + Duration::from_micros(1));
        following.add(&instance, since, (tail == 0).then_some(0)).await;
    }
    let coming = stream::unfold(following, |mut following| async move {
        let line = following.next().await?;
        Some((line, following))
    });
    Ok(room.lines(present.chain(coming)))
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

/// What is known of an instance whose log is followed.
struct Known {
    incarnation: Incarnation,
    /// When its last line was written.
    last: Option<Timestamp>,
    /// Whether its program may write more: a log ends with the program.
    is_open: bool,
}

/// A line, or the end of what one start of an instance wrote.
enum Written {
    Line(LogStreamLine),
    End(InstanceId, Incarnation),
}

/// The logs of a service's instances, as they come and go.
struct Following {
    api: Api,
    service: ServiceName,
    only: Option<InstanceId>,
    known: BTreeMap<InstanceId, Known>,
    open: SelectAll<BoxStream<'static, Written>>,
    look: Interval,
}

fn looks() -> Interval {
    let mut look = interval_at(Instant::now() + LOOK, LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look
}

impl Following {
    async fn add(&mut self, instance: &Instance, since: Option<Timestamp>, tail: Option<usize>) {
        // One that was never started has no log yet; it is looked at again.
        if matches!(instance.state, InstanceState::Creating | InstanceState::Created) {
            return;
        }
        let mut options = LogOptions::follow();
        (options.since, options.tail) = (since, tail);
        if let Ok(log) = self.api.runtime().logs(&instance.id, &options).await {
            let (id, incarnation) = (instance.id.clone(), instance.incarnation);
            let last = since;
            self.known.insert(id.clone(), Known { incarnation, last, is_open: true });
            let end = stream::once(std::future::ready(Written::End(id, incarnation)));
            self.open.push(dressed(instance, log).map(Written::Line).chain(end).boxed());
        }
    }

    /// The next line; nothing once the service is gone.
    async fn next(&mut self) -> Option<LogStreamLine> {
        loop {
            tokio::select! {
                // First of all: who writes without a pause must not keep others from being found.
                biased;
                _ = self.look.tick() => self.found().await?,
                Some(written) = self.open.next(), if !self.open.is_empty() => match written {
                    Written::Line(line) => {
                        if let LogStreamLine::Line(line) = &line
                            && let Some(known) = self.known.get_mut(&line.instance)
                        {
                            known.last = Some(line.at);
                        }
                        return Some(line);
                    }
                    Written::End(id, incarnation) => {
                        if let Some(known) = self.known.get_mut(&id)
                            && known.incarnation == incarnation
                        {
                            known.is_open = false;
                        }
                    }
                },
            }
        }
    }

    /// Takes up instances that are new, and those that were started again. `None` once the service is gone.
    async fn found(&mut self) -> Option<()> {
        let found = match instances(&self.api, &self.service, self.only.as_ref()).await {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::debug!(service = %self.service, %error, "its instances can't be seen now");
                return Some(());
            }
        };
        let there: BTreeSet<&InstanceId> = found.iter().map(|one| &one.id).collect();
        self.known.retain(|known, _| there.contains(known));
        for instance in &found {
            match self.known.get(&instance.id) {
                None => self.add(instance, None, None).await,
                Some(known) if !known.is_open && instance.incarnation > known.incarnation => {
                    // Where nothing of it was seen, what an earlier start wrote is not wanted either.
                    let since = known.last.map(|at| at + Duration::from_micros(1)).or(instance.started_at);
                    self.add(instance, since, None).await;
                }
                Some(_) => {}
            }
        }
        Some(())
    }
}
