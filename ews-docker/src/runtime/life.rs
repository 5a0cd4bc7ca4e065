//! Start, stop, wait, remove, signal.

use std::sync::Arc;
use std::time::Duration;

use ews_core::event::{Notice, RuntimeEvent};
use ews_core::instance::{ExitStatus, Failure, Incarnation, Instance, InstanceState};
use ews_core::runtime::{RemoveOptions, StopOptions, WaitOptions};
use ews_core::spec::lifecycle::Signal;
use ews_core::{Error, ErrorKind, InstanceId, Result};
use hyper::Method;

use super::mapping::whole_seconds;
use super::observe::{self, Seen};
use super::{Inner, leftovers};
use crate::client::models::Inspected;
use crate::client::{Call, Subject, Until};

/// How often an engine is asked by those that wait, where its events say nothing.
const POLL: Duration = Duration::from_secs(5);
/// How often it is asked by those that wait for what must be soon.
const SOON: Duration = Duration::from_millis(20);
/// How much later than an end an engine may hear that it was for memory: the kernel tells of both on ways of their own. A
/// busy engine may lose it (containerd drops it where the control group is gone first), and then no wait helps.
const MEMORY_NEWS: Duration = Duration::from_millis(300);

impl Inner {
    pub(super) async fn start(self: &Arc<Self>, id: &InstanceId) -> Result<Instance> {
        const OPERATION: &str = "runtime.start";
        let _turn = self.turns.take(id).await;
        let (before, inspected) = self.find(id, OPERATION).await?;
        if before.instance.state.is_running() {
            return Ok(before.instance);
        }
        self.restore_memory(&before, &inspected).await?;
        let call = Call::post(OPERATION, Subject::Container, &["containers", &before.container, "start"])
            .within(self.engine.config().work_limit);
        let started = self.engine.unit(call).await;
        let passing = |kind| {
            matches!(
                kind,
                ErrorKind::PortInUse
                    | ErrorKind::OutOfResources
                    | ErrorKind::Unavailable
                    | ErrorKind::Timeout
                    | ErrorKind::NotFound
                    | ErrorKind::Unauthorized
            )
        };
        match started {
            Ok(()) => Ok(self.find(id, OPERATION).await?.0.instance),
            Err(error) if is_half_begun(&error, &before.container) => {
                self.give_up(id, &before, OPERATION)
                    .await
                    .map_err(|error| error.with_context("instance", id))?;
                let gone = "the engine died while it started this instance, and can neither start it nor take up what it had begun: the \
                    container was removed, so that another one is made";
                Err(Error::new(ErrorKind::NotFound, gone)
                    .with_context("instance", id)
                    .with_detail(error.detail().unwrap_or_default()))
            }
            Err(error) if passing(error.kind()) => Err(error.with_context("instance", id)),
            Err(error) => {
                // A program that can't be started is told by its state. It is the engine that knows whether it was that.
                let (after, _) = self.find(id, OPERATION).await?;
                match after.instance.state {
                    InstanceState::Failed(_) => Ok(after.instance),
                    _ => Err(error.with_context("instance", id)),
                }
            }
        }
    }

    pub(super) async fn stop(self: &Arc<Self>, id: &InstanceId, options: &StopOptions) -> Result<ExitStatus> {
        const OPERATION: &str = "runtime.stop";
        let _turn = self.turns.take(id).await;
        let (before, inspected) = self.find(id, OPERATION).await?;
        let asked = before.instance.incarnation;
        match &before.instance.state {
            InstanceState::Created => return Ok(ExitStatus::unknown(self.now())),
            InstanceState::Exited(status) => return Ok(status.clone()),
            InstanceState::Failed(failure) => {
                return Ok(never_ran(failure));
            }
            _ => {}
        }
        let grace = options.grace.unwrap_or(before.known.grace);
        let container = before.container.as_str();
        let limit = Until::after(grace + self.engine.config().work_limit);
        if grace.is_zero() {
            let call = Call::post(OPERATION, Subject::Container, &["containers", container, "kill"])
                .query("signal", "KILL");
            match self.engine.unit(call).await {
                Ok(()) => {}
                // It has ended by itself, or has gone.
                Err(error) if matches!(error.kind(), ErrorKind::Busy | ErrorKind::NotFound) => {}
                Err(error) => return Err(error.with_context("instance", id)),
            }
        } else {
            let call = Call::post(OPERATION, Subject::Container, &["containers", container, "stop"])
                .query("t", &whole_seconds(grace).to_string())
                .within(limit.left());
            self.engine.unit(call).await.map_err(|error| error.with_context("instance", id))?;
        }
        drop(inspected);
        loop {
            let (seen, inspected) = self.find(id, OPERATION).await?;
            match ended(&seen, &inspected) {
                Some(status) if seen.instance.incarnation == asked => return Ok(status),
                _ if seen.instance.incarnation != asked => {
                    return Err(Error::new(ErrorKind::Stale, "somebody has started it again meanwhile")
                        .with_operation(OPERATION)
                        .with_context("instance", id));
                }
                _ if limit.left().is_zero() => {
                    return Err(Error::new(ErrorKind::Timeout, "it was killed and is still said to run")
                        .with_operation(OPERATION)
                        .with_context("instance", id)
                        .with_maybe_applied());
                }
                _ => tokio::time::sleep(SOON).await,
            }
        }
    }

    pub(super) async fn wait(self: &Arc<Self>, id: &InstanceId, options: &WaitOptions) -> Result<ExitStatus> {
        const OPERATION: &str = "runtime.wait";
        let stale = |wanted: Incarnation| {
            Error::new(ErrorKind::Stale, "this start is over, and how it ended is no longer known")
                .with_operation(OPERATION)
                .with_context("instance", id)
                .with_context("incarnation", wanted)
        };
        let mut hints = self.hub().await.ok().map(|hub| hub.subscribe());
        let mut wanted = options.incarnation.filter(|wanted| wanted.0 != 0);
        loop {
            let (seen, inspected) = match self.find(id, OPERATION).await {
                Ok(found) => found,
                // An engine that is away may come back with the answer.
                Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) => {
                    tokio::time::sleep(POLL.min(Duration::from_secs(1))).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let now = seen.instance.incarnation;
            if let InstanceState::Failed(failure) = &seen.instance.state {
                return match wanted {
                    Some(wanted) if wanted != now || now.0 != 0 => Err(stale(wanted)),
                    _ => Ok(never_ran(failure)),
                };
            }
            if now.0 != 0 {
                match wanted {
                    Some(wanted) if wanted != now => return Err(stale(wanted)),
                    _ => wanted = Some(now),
                }
                if let Some(status) = ended(&seen, &inspected) {
                    return Ok(match for_memory_perhaps(&status, &inspected) {
                        true => self.told_later(id, now).await?.unwrap_or(status),
                        false => status,
                    });
                }
            } else if let Some(wanted) = wanted {
                return Err(stale(wanted));
            }
            // Until something happens to it. An end that was told and is overtaken by the next start is not lost.
            let told = async {
                let Some(hints) = &mut hints else { return std::future::pending().await };
                loop {
                    match hints.next().await {
                        Some(Notice::Event(event)) => match event {
                            RuntimeEvent::Instance {
                                id: of,
                                state: InstanceState::Exited(status),
                                incarnation,
                                ..
                            } if of == *id => {
                                return (Some(incarnation) == wanted && incarnation.0 != 0).then_some(status);
                            }
                            RuntimeEvent::Instance { id: of, .. } | RuntimeEvent::Removed { id: of, .. }
                                if of == *id =>
                            {
                                return None;
                            }
                            _ => {}
                        },
                        Some(Notice::Gap(_)) => return None,
                        None => return std::future::pending().await,
                    }
                }
            };
            if let Ok(Some(status)) = tokio::time::timeout(POLL, told).await {
                // The event knows the code but not whether it was for memory; the engine does, as long as it is the same start.
                let still = self
                    .look(id, OPERATION)
                    .await?
                    .filter(|(seen, _)| Some(seen.instance.incarnation) == wanted);
                let Some((seen, inspected)) = still else { return Ok(status) };
                let status = ended(&seen, &inspected).unwrap_or(status);
                return Ok(match for_memory_perhaps(&status, &inspected) {
                    true => self.told_later(id, seen.instance.incarnation).await?.unwrap_or(status),
                    false => status,
                });
            }
        }
    }

    /// How a start ended, by what the engine says a moment later; `None` where another start has begun.
    async fn told_later(&self, id: &InstanceId, of: Incarnation) -> Result<Option<ExitStatus>> {
        tokio::time::sleep(MEMORY_NEWS).await;
        let later = self.look(id, "runtime.wait").await?.filter(|(seen, _)| seen.instance.incarnation == of);
        Ok(later.and_then(|(seen, inspected)| ended(&seen, &inspected)))
    }

    pub(super) async fn remove(self: &Arc<Self>, id: &InstanceId, options: &RemoveOptions) -> Result<()> {
        const OPERATION: &str = "runtime.remove";
        let _turn = self.turns.take(id).await;
        let Some((seen, _)) = self.look(id, OPERATION).await? else { return Ok(()) };
        if seen.instance.state.is_running() && !options.force {
            return Err(Error::new(ErrorKind::Busy, "it runs: stop it first, or remove it with force")
                .with_operation(OPERATION)
                .with_context("instance", id));
        }
        self.take_away(id, &seen, options.force, OPERATION)
            .await
            .map_err(|error| error.with_context("instance", id))?;
        if seen.instance.started_at.is_none() {
            self.end_leftovers(&seen.container).await;
        }
        Ok(())
    }

    /// The container, and what is kept beside it.
    async fn take_away(
        &self,
        id: &InstanceId,
        seen: &Seen,
        force: bool,
        operation: &'static str,
    ) -> Result<()> {
        self.remove_container(&seen.container, force, operation).await?;
        self.meters.forget(id);
        if let Some(files) = &seen.known.files {
            self.forget_memory(&files.directory).await;
        }
        Ok(())
    }

    /// Ends what an engine that died in the midst of a start may have left of a container that it says never ran.
    async fn end_leftovers(&self, container: &str) {
        let id = container.to_owned();
        if let Ok(ended @ 1..) = tokio::task::spawn_blocking(move || leftovers::end(&id)).await {
            tracing::warn!(
                container,
                ended,
                "processes that a dead engine left of this container were ended"
            );
        }
    }

    /// Removes a container that can't be started any more.
    async fn give_up(&self, id: &InstanceId, seen: &Seen, operation: &'static str) -> Result<()> {
        tracing::warn!(
            instance = id.as_str(),
            container = seen.container.as_str(),
            "the engine died while it started this container, and refuses to start it again: it is removed"
        );
        self.take_away(id, seen, true, operation).await?;
        self.end_leftovers(&seen.container).await;
        Ok(())
    }

    /// Removes a container with its anonymous volumes, and returns when it is gone.
    pub(super) async fn remove_container(
        &self,
        container: &str,
        force: bool,
        operation: &'static str,
    ) -> Result<()> {
        let limit = Until::after(self.engine.config().work_limit);
        loop {
            let call = Call::new(Method::DELETE, operation, Subject::Container, &["containers", container])
                .flag("v", true)
                .flag("force", force)
                .within(limit.left().max(SOON));
            let error = match self.engine.unit(call).await {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) => error,
            };
            // Somebody else's removal is under way, or Windows has not let go of a file yet.
            let words = error.detail().unwrap_or_default().to_ascii_lowercase();
            let passing = ["already in progress", "marked for removal", "access is denied"]
                .iter()
                .any(|word| words.contains(word));
            if !passing || limit.left().is_zero() {
                return Err(error);
            }
            tokio::time::sleep(SOON * 2).await;
        }
    }

    pub(super) async fn signal(&self, id: &InstanceId, signal: Signal) -> Result<()> {
        const OPERATION: &str = "runtime.signal";
        let (seen, _) = self.find(id, OPERATION).await?;
        if !seen.instance.state.is_running() {
            return Err(Error::new(ErrorKind::Busy, "it does not run")
                .with_operation(OPERATION)
                .with_context("instance", id));
        }
        let call = Call::post(OPERATION, Subject::Container, &["containers", &seen.container, "kill"])
            .query("signal", &signal.number().to_string());
        self.engine.unit(call).await.map_err(|error| error.with_context("instance", id))
    }
}

/// Whether an engine says that containerd has something of this container that the engine knows nothing of: it died between the two steps of a
/// start. Starting again gives the same answer for ever, and what containerd has is a shim without a program.
fn is_half_begun(error: &Error, container: &str) -> bool {
    let words = error.detail().unwrap_or_default();
    // The whole id: a network or an endpoint that exists already, of a service called "task", is another matter. The other words are the engine's
    // own about containerd's record of this container, after it could not take that away.
    words.contains(&format!("task {container}: already exists")) || words.trim() == "id already in use"
}

/// Whether a program that was killed may have been killed for memory, and the engine has not said so (yet).
fn for_memory_perhaps(status: &ExitStatus, inspected: &Inspected) -> bool {
    status.code == Some(137) && !status.oom_killed && inspected.host.memory > 0
}

/// How the present start ended, where it has.
fn ended(seen: &Seen, inspected: &Inspected) -> Option<ExitStatus> {
    match &seen.instance.state {
        InstanceState::Exited(status) => Some(status.clone()),
        // The engine waits to start it again by its own policy: this start is over.
        InstanceState::Starting if inspected.state.status == "restarting" => {
            Some(observe::exit(&inspected.state))
        }
        InstanceState::Failed(failure) => Some(never_ran(failure)),
        _ => None,
    }
}

/// The end of a start that led nowhere.
fn never_ran(failure: &Failure) -> ExitStatus {
    let mut status = ExitStatus::unknown(failure.at);
    status.code = failure.code;
    status
}
