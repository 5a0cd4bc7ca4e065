//! A shim that comes to life while its instance is still being written to disk.
//!
//! To load a program takes this processor as long as a record and its names take the disk, and a created instance is nearly
//! always started at once. So the shim is begun before the record is: it holds the instance's lock, has been told nothing, and
//! waits. [`start`](Controller::start) tells it what to start; where none comes in time, or there is no such shim, it makes one.
//!
//! # How it fails and recovers
//! - It can't be begun, or is killed while it waits: the start makes another, and says what is wrong where that fails too.
//! - The controller ends: the shim's connection does, and so does the shim, which has started nothing.
//! - Nobody starts the instance: it is let go after [`PATIENCE`], and would go by itself soon after.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

use super::Controller;
use super::start::shim_log;
use super::watch::{Orphan, wait};
use crate::error::Result;
use crate::id::InstanceId;
use crate::process::root::{InstancePaths, try_lock};
use crate::process::sys::ipc::{self, Connection, Theirs};
use crate::process::sys::spawn::{EARLY, ShimStart, spawn_shim};

/// How many wait at a time: about as many as are created together, since each is a process.
pub(super) const MOST: usize = 16;

/// How long one may wait. Half of what a shim waits for its first words, so that none is spoken to that is just going.
const PATIENCE: Duration = Duration::from_secs(5);

/// A place for a shim that is to be begun, and the connection to it.
pub(super) struct Place {
    ours: Connection,
    /// Before the shim begins to wait, so that it never waits for less than is thought here.
    since: Instant,
    permit: OwnedSemaphorePermit,
}

/// A shim that waits for what it is to start.
pub(super) struct Ready {
    connection: Connection,
    coming: Coming,
    since: Instant,
    _permit: OwnedSemaphorePermit,
}

/// A shim that is being begun on a thread of its own; nothing where it could not be.
pub(super) type Coming = JoinHandle<Option<Orphan>>;

impl Place {
    /// Where there is none, the start makes a shim as it does for every other start of the instance.
    pub(super) fn take(controller: &Controller) -> Option<(Self, Theirs)> {
        if !EARLY {
            return None;
        }
        let permit = Arc::clone(&controller.waiting).try_acquire_owned().ok()?;
        let (ours, theirs) = ipc::pair().ok()?;
        Some((Self { ours, since: Instant::now(), permit }, theirs))
    }

    pub(super) fn with(self, coming: Coming) -> Ready {
        Ready { connection: self.ours, coming, since: self.since, _permit: self.permit }
    }
}

/// Begins a shim for an instance whose directory has not got its name yet. Returns at once; on a thread for what waits.
pub(super) fn begin(program: &Path, id: &InstanceId, directory: &Path, theirs: Theirs) -> Result<Coming> {
    let paths = InstancePaths { directory: directory.to_owned(), socket: std::path::PathBuf::new() };
    // Both stay what they are when the directory gets its name.
    let lock = try_lock(&paths.lock())?;
    let log = shim_log(&paths.shim_log())?;
    let (program, name) = (program.to_owned(), id.to_string());
    Ok(spawn_blocking(move || {
        let start = ShimStart { program: &program, name: &name, connection: theirs, lock: lock?, log };
        spawn_shim(start).ok().map(Orphan::of)
    }))
}

impl Ready {
    /// The shim, where it still waits.
    pub(super) async fn meet(self) -> Option<(Connection, Orphan)> {
        let mut orphan = self.coming.await.ok().flatten()?;
        (self.since.elapsed() < PATIENCE && orphan.lives()).then_some((self.connection, orphan))
    }

    /// Lets it go: it ends when its connection does.
    async fn dismiss(self) {
        drop(self.connection);
        if let Ok(Some(orphan)) = self.coming.await {
            let _ = spawn_blocking(move || wait(orphan)).await;
        }
    }
}

impl Controller {
    /// Lets the shim of an instance go that nobody has started in time.
    pub(super) fn dismiss_late(self: &Arc<Self>, id: InstanceId) {
        let (weak, mut alive) = (Arc::downgrade(self), self.alive.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(PATIENCE) => {}
                // Those of a controller that ends go with it.
                _ = alive.changed() => return,
            }
            let Some(controller) = weak.upgrade() else { return };
            let late = |ready: &mut Ready| ready.since.elapsed() >= PATIENCE;
            let ready = controller.with(&id, |entry| entry.ready.take_if(late)).ok().flatten();
            drop(controller);
            if let Some(ready) = ready {
                ready.dismiss().await;
            }
        });
    }

    /// Lets the shim go that waits for the start of this instance, where one does. It takes its lock along a moment later.
    pub(super) fn dismiss(&self, id: &InstanceId) {
        if let Some(ready) = self.with(id, |entry| entry.ready.take()).ok().flatten() {
            tokio::spawn(ready.dismiss());
        }
    }
}
