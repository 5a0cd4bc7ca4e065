//! Stopping, waiting and removing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::create::{allotted, remove_tree};
use super::{Controller, Told, now};
use crate::error::{Error, ErrorKind, Result, io_error};
use crate::event::RuntimeEvent;
use crate::id::InstanceId;
use crate::instance::{ExitStatus, Failure, Incarnation, InstanceState};
use crate::process::client::{self, Silence, unsure};
use crate::process::protocol::Ask;
use crate::process::record::at;
use crate::process::root::{blocking, take_away};
use crate::process::sys::ipc;
use crate::runtime::{RemoveOptions, StopOptions, WaitOptions};
use crate::spec::lifecycle::Signal;

/// How long the end of a killed program may take to be seen: its tree is killed, its last output read, its end written.
pub(super) const AFTERMATH: Duration = Duration::from_secs(20);

/// How long a shim that broke off may take to be known as ended.
const ENDING: Duration = Duration::from_secs(1);

impl Controller {
    /// Ends an instance, where it runs, and says how.
    pub(in crate::process) async fn stop(
        self: Arc<Self>,
        id: InstanceId,
        options: StopOptions,
    ) -> Result<ExitStatus> {
        // One that is being started is stopped when it runs.
        drop(self.turn(&id).await);
        let (instance, spec_stop, last) = self.with(&id, |entry| {
            (entry.instance.clone(), entry.record.spec.stop.clone(), entry.last_end.clone())
        })?;
        match &instance.state {
            InstanceState::Unknown { .. } => {
                return Err(Error::new(ErrorKind::Unavailable, "the instance's shim does not answer")
                    .with_context("instance", id));
            }
            InstanceState::Failed(failure) => return Ok(failed(failure)),
            state if !state.is_running() => {
                return Ok(last.map_or_else(|| ExitStatus::unknown(now()), |(_, status)| status));
            }
            _ => {}
        }
        let grace = options.grace.unwrap_or(spec_stop.grace);
        let signal = (!grace.is_zero()).then_some(spec_stop.signal.number());
        let ask = Ask::Stop { signal, grace: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX) };
        let socket = self.root.instance(&id).socket;
        self.ask_to_stop(&id, instance.incarnation, &socket, &ask).await?;
        let wanted = WaitOptions::incarnation(instance.incarnation);
        let ended = tokio::time::timeout(grace.saturating_add(AFTERMATH), self.wait(&id, &wanted)).await;
        ended.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Timeout,
                "the program was killed and has not ended; it waits in the kernel",
            )
            .with_maybe_applied()
            .with_context("instance", id))
        })
    }

    /// Asks the shim to end its program. A shim that breaks off is one that ends, where its end is told soon.
    async fn ask_to_stop(&self, id: &InstanceId, of: Incarnation, socket: &Path, ask: &Ask) -> Result<()> {
        match client::done(socket, ask, self.config.call_limit).await {
            Ok(()) => {
                self.change(id, |entry| {
                    if entry.instance.state == InstanceState::Running {
                        entry.instance.state = InstanceState::Stopping;
                    }
                })?;
                Ok(())
            }
            Err(Silence::Nobody) => Ok(()),
            Err(silence) if self.ends_soon(id, of).await => {
                tracing::debug!(instance = %id, error = %silence.error(), "it ended while it was asked to");
                Ok(())
            }
            Err(silence) => Err(unsure(silence).with_context("instance", id)),
        }
    }

    /// Whether the end of a start is told within the time that a shim takes to end.
    async fn ends_soon(&self, id: &InstanceId, of: Incarnation) -> bool {
        let ended = WaitOptions::incarnation(of);
        tokio::time::timeout(ENDING, self.wait(id, &ended)).await.is_ok()
    }

    /// Waits for the end of a start.
    pub(in crate::process) async fn wait(
        &self,
        id: &InstanceId,
        options: &WaitOptions,
    ) -> Result<ExitStatus> {
        let (mut changed, first) =
            self.with(id, |entry| (entry.changed.subscribe(), entry.instance.incarnation))?;
        let wanted = options.incarnation.unwrap_or(Incarnation(first.0.max(1)));
        loop {
            let (state, now_at, end) = self.with(id, |entry| {
                (entry.instance.state.clone(), entry.instance.incarnation, entry.last_end.clone())
            })?;
            match (&state, end) {
                // A failure ends the start that would have been the next one, and the wait of who named none.
                (InstanceState::Failed(failure), _) if wanted > now_at || options.incarnation.is_none() => {
                    return Ok(failed(failure));
                }
                (_, Some((of, status))) if of == wanted => return Ok(status),
                _ if wanted < now_at => {
                    return Err(Error::new(ErrorKind::Stale, "how that start ended is no longer known")
                        .with_context("incarnation", wanted)
                        .with_context("instance", id));
                }
                _ => {}
            }
            changed.changed().await.map_err(|_| Error::not_found("instance", id))?;
        }
    }

    /// Removes an instance with everything of it.
    pub(in crate::process) async fn remove(
        self: Arc<Self>,
        id: InstanceId,
        options: RemoveOptions,
    ) -> Result<()> {
        let _turn = self.turn(&id).await;
        let Ok((instance, record)) =
            self.with(&id, |entry| (entry.instance.clone(), Arc::clone(&entry.record)))
        else {
            return Ok(());
        };
        let paths = self.root.instance(&id);
        match instance.state {
            InstanceState::Unknown { .. } => {
                return Err(Error::new(ErrorKind::Unavailable, "the instance's shim does not answer")
                    .with_context("instance", id));
            }
            ref state if state.is_running() => {
                if !options.force {
                    return Err(Error::new(
                        ErrorKind::Busy,
                        "the instance runs; stop it first, or force the removal",
                    )
                    .with_context("instance", id));
                }
                let kill = Ask::Stop { signal: None, grace: 0 };
                self.ask_to_stop(&id, instance.incarnation, &paths.socket, &kill).await?;
                let wanted = WaitOptions::incarnation(instance.incarnation);
                let ended = tokio::time::timeout(AFTERMATH, self.wait(&id, &wanted)).await;
                ended.map_err(|_| {
                    Error::new(
                        ErrorKind::Timeout,
                        "the program was killed and has not ended; it waits in the kernel",
                    )
                    .with_maybe_applied()
                    .with_context("instance", &id)
                })??;
            }
            _ => {}
        }
        self.dismiss(&id);
        let lock = self.lock(&paths).await?;
        let before = self.get(&id)?.state;
        self.set_state(&id, InstanceState::Removing)?;
        let (place, gone) = (paths.directory.clone(), self.root.hidden("gone", &id));
        let cgroups = self.groups.of_start(&id, self.get(&id)?.incarnation);
        let renamed = blocking(move || {
            cgroups.remove();
            remove_tree(&gone)?;
            take_away(&place, &gone, lock).map_err(|error| {
                at(io_error("the instance's directory could not be taken away", error), &place)
            })?;
            Ok(gone)
        });
        let gone = match renamed.await {
            Ok(gone) => gone,
            Err(error) => {
                self.set_state(&id, before)?;
                return Err(error);
            }
        };
        // From here on it is gone, whatever becomes of its remains: they are swept by the next who opens the root.
        self.ports.release(allotted(&record.spec, &record.ports));
        ipc::remove(&paths.socket);
        let entry = self.entries().remove(&id);
        if let Some(entry) = entry {
            let event = RuntimeEvent::Removed { id: id.clone(), key: entry.instance.key.clone(), at: now() };
            self.bus.publish(Told { instance: Arc::new(entry.instance), event });
        }
        blocking(move || remove_tree(&gone))
            .await
            .map_err(|error| error.with_maybe_applied().with_context("instance", id))
    }

    /// Sends a signal to the program.
    pub(in crate::process) async fn signal(&self, id: &InstanceId, signal: Signal) -> Result<()> {
        let state = self.get(id)?.state;
        if let InstanceState::Unknown { .. } = state {
            return Err(Error::new(ErrorKind::Unavailable, "the instance's shim does not answer")
                .with_context("instance", id));
        }
        if !state.is_running() {
            return Err(not_running(id));
        }
        let socket = self.root.instance(id).socket;
        let ask = Ask::Signal { number: signal.number() };
        match client::done(&socket, &ask, self.config.call_limit).await {
            Ok(()) => Ok(()),
            Err(Silence::Nobody) => Err(not_running(id)),
            Err(Silence::Broken(_)) if self.get(id).is_ok_and(|instance| instance.state.is_ended()) => {
                Err(not_running(id))
            }
            Err(silence) => Err(unsure(silence).with_context("instance", id).with_context("signal", signal)),
        }
    }
}

/// Asked for what takes a running program.
pub(in crate::process) fn not_running(id: &InstanceId) -> Error {
    Error::new(ErrorKind::Busy, "the instance does not run").with_context("instance", id)
}

fn failed(failure: &Failure) -> ExitStatus {
    let mut status = ExitStatus::unknown(failure.at);
    status.code = failure.code;
    status
}
