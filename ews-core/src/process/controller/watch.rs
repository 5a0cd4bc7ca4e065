//! Watching what runs: how it ends, told by its shim, or found out where the shim can't tell any more.

use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::{Controller, now};
use crate::error::Result;
use crate::id::InstanceId;
use crate::instance::{ExitStatus, Incarnation, InstanceState};
use crate::process::client::{self, Session, Silence};
use crate::process::protocol::{Ask, Frame, Tell};
use crate::process::record::{self, Durable, End, EndRecord, RunRecord};
use crate::process::root::{InstancePaths, blocking, try_lock};
use crate::process::sys::{proc, tree};

/// How long a shim that broke off may take to end before it is held for alive.
const DYING: Duration = Duration::from_secs(2);

/// How often one that lives and does not answer is asked again, at the least.
const SEEKING: Duration = Duration::from_secs(5);

/// How long a new shim may take to listen.
pub(super) const CREATION_GRACE: Duration = Duration::from_secs(5);

/// The shims that are children of this process and were not waited for: their remains would stay until it ends.
static REMAINS: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Waits for the shims that have ended.
pub(in crate::process) struct Orphans;

impl Orphans {
    /// Takes away the remains of those that have ended. Called now and then; each shim is in the list once.
    pub(in crate::process) fn reap() {
        let mut remains = REMAINS.lock().unwrap_or_else(PoisonError::into_inner);
        remains.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}

/// A shim as a child of this process; when it is dropped, its remains are taken away later.
#[derive(Debug)]
pub(super) struct Orphan(Option<Child>);

impl Orphan {
    pub(super) fn of(child: Child) -> Self {
        Self(Some(child))
    }

    /// The shim was made by another controller, or not at all.
    pub(super) fn none() -> Self {
        Self(None)
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    /// Kills it. For one that has started nothing yet.
    pub(super) fn kill(&mut self) {
        if let Some(child) = &mut self.0 {
            // One that has ended already needs none.
            let _ = child.kill();
        }
    }

    /// Whether it has not ended yet.
    pub(super) fn lives(&mut self) -> bool {
        self.0.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take()
            && matches!(child.try_wait(), Ok(None))
        {
            REMAINS.lock().unwrap_or_else(PoisonError::into_inner).push(child);
        }
    }
}

impl Controller {
    /// Watches a start over this connection until it ends or the controller does.
    pub(super) fn watch(
        self: &Arc<Self>,
        id: InstanceId,
        incarnation: Incarnation,
        session: Box<Session>,
        orphan: Orphan,
    ) {
        let (weak, mut alive) = (Arc::downgrade(self), self.alive.clone());
        tokio::spawn(async move {
            let watched = hear(weak, id, incarnation, session, orphan);
            tokio::select! {
                () = watched => {}
                // Its sender goes with the handle.
                _ = alive.changed() => {}
            }
        });
    }

    /// Finds out what became of a start whose shim does not answer.
    pub(super) fn find_out(self: &Arc<Self>, id: InstanceId, incarnation: Incarnation, orphan: Orphan) {
        let (weak, mut alive) = (Arc::downgrade(self), self.alive.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = seek(weak, id, incarnation, orphan) => {}
                _ = alive.changed() => {}
            }
        });
    }

    /// The end of a start is known.
    pub(super) fn ended(&self, id: &InstanceId, incarnation: Incarnation, status: ExitStatus) {
        // Where it is gone there is nobody to tell.
        let run = self.with(id, |entry| entry.run.take()).ok().flatten();
        if let Some(run) = run.filter(|run| !run.cgroups.is_empty()) {
            // The kernel takes its time over each; nobody waits for it but who removes the instance.
            tokio::task::spawn_blocking(move || run.cgroups.remove());
        }
        let _ = self.change(id, |entry| {
            // An end is told for a start that was never seen to begin, where the controller was not there.
            entry.instance.incarnation = incarnation.max(entry.instance.incarnation);
            entry.instance.endpoints.clear();
            entry.last_end = Some((incarnation, status.clone()));
            entry.instance.state = InstanceState::Exited(status);
        });
    }
}

/// Hears a shim out.
async fn hear(
    weak: Weak<Controller>,
    id: InstanceId,
    incarnation: Incarnation,
    mut session: Box<Session>,
    orphan: Orphan,
) {
    loop {
        match session.reader.next::<Tell>().await {
            Ok(Some(Frame::Words(Tell::Ended(status)))) => {
                if let Some(controller) = weak.upgrade() {
                    controller.ended(&id, incarnation, status);
                }
                // It ends when this connection does.
                drop(session);
                let _ = tokio::task::spawn_blocking(move || wait(orphan)).await;
                return;
            }
            // A word of a later version, meant for others.
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break,
        }
    }
    drop(session);
    seek(weak, id, incarnation, orphan).await;
}

/// Waits for the end of a shim that is ending.
pub(super) fn wait(mut orphan: Orphan) {
    if let Some(mut child) = orphan.0.take() {
        let _ = child.wait();
    }
}

/// The shim broke off: it was killed, or it lives and can't be asked. Its lock tells which.
async fn seek(weak: Weak<Controller>, id: InstanceId, incarnation: Incarnation, orphan: Orphan) {
    let mut pause = Duration::from_millis(20);
    let began = tokio::time::Instant::now();
    loop {
        let Some(controller) = weak.upgrade() else { return };
        let paths = controller.root.instance(&id);
        match look(&controller, &id, &paths, incarnation).await {
            Ok(Look::Ended(status)) => {
                controller.ended(&id, incarnation, status);
                return;
            }
            Ok(Look::NeverBegan) => {
                let run = controller.with(&id, |entry| entry.run.take()).ok().flatten();
                if let Some(run) = run {
                    run.cgroups.remove();
                }
                let failure = crate::instance::Failure::new(
                    "its shim was killed before the program had started",
                    None,
                    now(),
                );
                let _ = controller.set_state(&id, InstanceState::Failed(failure));
                return;
            }
            Ok(Look::Lives(session, at)) => {
                let stopping = session.stopping;
                let state = if stopping { InstanceState::Stopping } else { InstanceState::Running };
                let _ = controller.change(&id, |entry| {
                    entry.instance.incarnation = incarnation;
                    controller.running(entry, at, state);
                });
                controller.watch(id, incarnation, session, orphan);
                return;
            }
            Ok(Look::Silent) if began.elapsed() < DYING => {}
            Ok(Look::Silent) | Err(_) => {
                let unknown = |state: &InstanceState| matches!(state, InstanceState::Unknown { .. });
                if controller.get(&id).is_ok_and(|instance| !unknown(&instance.state)) {
                    tracing::warn!(instance = %id, "its shim does not answer");
                    let _ = controller.set_state(&id, InstanceState::Unknown { since: now() });
                }
            }
        }
        drop(controller);
        tokio::time::sleep(pause).await;
        if began.elapsed() > DYING {
            pause = (pause * 2).min(SEEKING);
        }
    }
}

/// What is found where a shim was.
pub(super) enum Look {
    /// It is gone, and this is how its program ended.
    Ended(ExitStatus),
    /// It is gone, and had not started its program.
    NeverBegan,
    /// It lives and answers.
    Lives(Box<Session>, crate::Timestamp),
    /// It lives and does not answer.
    Silent,
}

/// Whether the shim of a record lives, lock or no lock: somebody may have taken the lock's file from under it.
pub(super) fn lives(controller: &Controller, run: Option<&RunRecord>) -> bool {
    run.is_some_and(|run| run.boot == controller.boot && proc::is_alive(run.shim))
}

/// Looks at the lock, at the records and at the socket of a start.
pub(super) async fn look(
    controller: &Arc<Controller>,
    id: &InstanceId,
    paths: &InstancePaths,
    incarnation: Incarnation,
) -> Result<Look> {
    let lock_path = paths.lock();
    let Some(lock) = blocking(move || try_lock(&lock_path)).await? else {
        let run = paths.run();
        let run = blocking(move || record::read::<RunRecord>(&run)).await?;
        let at = run.as_ref().map_or_else(now, |run| run.started_at);
        return match client::ask(&paths.socket, &Ask::Watch, controller.config.call_limit.min(DYING)).await {
            Ok(session) if session.incarnation == incarnation => Ok(Look::Lives(Box::new(session), at)),
            Ok(_) => Ok(Look::Silent),
            Err(silence) => {
                if let Silence::Strange(_) = silence {
                    tracing::error!(instance = %id, error = %silence.error(), "a shim of another version");
                }
                Ok(Look::Silent)
            }
        };
    };
    // Nobody else has the lock, so nobody writes.
    let (run_path, end_path) = (paths.run(), paths.end());
    let (run, end) =
        blocking(move || Ok((record::read::<RunRecord>(&run_path)?, record::read::<EndRecord>(&end_path)?)))
            .await?;
    if lives(controller, run.as_ref()) {
        return Ok(Look::Silent);
    }
    if let Some(EndRecord { incarnation: of, end: End::Exited(status) }) = end
        && of == incarnation
    {
        drop(lock);
        return Ok(Look::Ended(status));
    }
    let cgroups = controller.groups.of_start(id, incarnation);
    if !tree::kill_left(&cgroups, &controller.mark(id)).await {
        tracing::error!(instance = %id, "what a killed shim has left does not end");
    }
    crate::process::sys::ipc::remove(&paths.socket);
    if run.is_none_or(|run| run.incarnation != incarnation) {
        drop(lock);
        return Ok(Look::NeverBegan);
    }
    // Its program went with it, and how nobody has seen.
    let status = ExitStatus::unknown(now());
    let record = EndRecord { incarnation, end: End::Exited(status.clone()) };
    let end_path = paths.end();
    blocking(move || record::write(&end_path, &record, Durable::Synced)).await?;
    drop(lock);
    Ok(Look::Ended(status))
}
