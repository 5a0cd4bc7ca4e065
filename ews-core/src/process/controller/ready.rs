//! A shim that comes to life while its instance is still being written to disk.
//!
//! To load a program takes this processor as long as a record and its names take the disk, and a created instance is nearly
//! always started at once. So the shim is begun before the record is: it holds the instance's lock, has been told nothing, and
//! waits. [`start`](Controller::start) tells it what to start; where none comes in time, or there is no such shim, it makes one.
//!
//! # How it fails and recovers
//! - It can't be begun, or is killed while it waits: the start makes another, and says what is wrong where that fails too.
//! - The controller ends: the shim's connection does, and so does the shim, which has started nothing.
//! - Nobody starts the instance: it is killed after [`PATIENCE`], and would go by itself soon after.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::Controller;
use super::start::shim_log;
use super::watch::{Orphan, wait};
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
    orphan: Orphan,
    since: Instant,
    _permit: OwnedSemaphorePermit,
}

/// What a shim is given of an instance's directory.
pub(super) struct Gift {
    lock: File,
    log: File,
}

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

    pub(super) fn with(self, orphan: Orphan) -> Ready {
        Ready { connection: self.ours, orphan, since: self.since, _permit: self.permit }
    }
}

impl Gift {
    /// Out of a directory that has not got its name yet: both stay what they are when it gets one.
    pub(super) fn of(directory: &Path) -> Option<Self> {
        let paths = InstancePaths { directory: directory.to_owned(), socket: PathBuf::new() };
        let lock = try_lock(&paths.lock()).ok()??;
        Some(Self { lock, log: shim_log(&paths.shim_log()).ok()? })
    }

    /// Begins the shim. Where that goes wrong, the start finds out why.
    pub(super) fn begin(self, program: &Path, id: &InstanceId, connection: Theirs) -> Option<Orphan> {
        let Self { lock, log } = self;
        spawn_shim(ShimStart { program, name: id.as_str(), connection, lock, log }).ok().map(Orphan::of)
    }
}

impl Ready {
    /// The shim, where it still waits.
    pub(super) fn meet(mut self) -> Option<(Connection, Orphan)> {
        let waits = self.since.elapsed() < PATIENCE && self.orphan.lives();
        if !waits {
            self.orphan.kill();
        }
        waits.then_some((self.connection, self.orphan))
    }

    /// Ends it, also where it is none that would end with its connection.
    async fn dismiss(mut self) {
        self.orphan.kill();
        let _ = spawn_blocking(move || wait(self.orphan)).await;
    }
}

impl Controller {
    /// Ends the shim of an instance that nobody has started in time.
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

    /// Ends the shim that waits for the start of this instance, where one does. Its lock is free a moment later.
    pub(super) fn dismiss(&self, id: &InstanceId) {
        if let Some(ready) = self.with(id, |entry| entry.ready.take()).ok().flatten() {
            tokio::spawn(ready.dismiss());
        }
    }
}
