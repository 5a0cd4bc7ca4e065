//! Taking over from a controller that is gone: what runs is watched again, what has ended is known, what is left is removed.
//!
//! The lock of an instance tells whether a shim lives. Where one does, it is asked; where none does, the records say what it did
//! last, and what they don't say nobody knows. Everything of another boot is gone, and so are its instances: whoever keeps the
//! desired count makes them anew, and nothing stale is taken for something that runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};

use super::create::{allotted, remove_tree};
use super::watch::{CREATION_GRACE, Look, Orphan, lives, look};
use super::{Controller, Entry, Run, now};
use crate::error::{Error, Result, io_error};
use crate::id::InstanceId;
use crate::instance::{Incarnation, InstanceState};
use crate::process::client::{self, Silence};
use crate::process::environment::MARK;
use crate::process::protocol::Ask;
use crate::process::record::{self, End, EndRecord, InstanceRecord, RunRecord, at};
use crate::process::root::{InstancePaths, Root, blocking, try_lock};
use crate::process::sys::{proc, tree};

/// How many instances are looked at at a time.
const AT_ONCE: usize = 64;

/// What lies in a root.
pub(in crate::process) struct Found {
    pub(in crate::process) instances: Vec<(InstanceId, InstanceRecord)>,
}

impl Found {
    /// The ports that were allotted to instances.
    pub(in crate::process) fn ports(&self) -> BTreeSet<u16> {
        self.instances.iter().flat_map(|(_, record)| allotted(&record.spec, &record.ports)).collect()
    }
}

/// Reads the records of a root, and takes away what was half made, half removed, or is of another boot.
pub(in crate::process) fn survey(root: &Root, boot: &str) -> Result<Found> {
    let folder = root.instances();
    let wrong = |error| at(io_error("the instances could not be listed", error), &folder);
    let mut instances = Vec::new();
    for entry in fs::read_dir(&folder).map_err(wrong)? {
        let Ok(name) = entry.map_err(wrong)?.file_name().into_string() else { continue };
        if name.starts_with(".new-") || name.starts_with(".gone-") {
            swept(&folder.join(&name));
            continue;
        }
        // What is not named as an instance is somebody else's.
        let Ok(id) = InstanceId::new(&name) else { continue };
        match record::read::<InstanceRecord>(&root.instance(&id).record()) {
            Ok(Some(record)) if record.boot != boot => {
                tracing::info!(instance = %id, "it ended when the machine was restarted, and is removed");
                swept(&folder.join(&name));
            }
            Ok(Some(record)) => instances.push((id, record)),
            Ok(None) => {}
            // Its files stay for whoever mends them, and its name is taken.
            Err(error) => {
                tracing::error!(instance = %id, %error, "an instance can't be read and is left alone")
            }
        }
    }
    Ok(Found { instances })
}

/// Removes what is left of something. What can't be removed keeps nobody from his work, and is tried again next time.
fn swept(path: &PathBuf) {
    if let Err(error) = remove_tree(path) {
        tracing::warn!(%error, "leftovers can't be removed");
    }
}

impl Controller {
    /// Takes over what was found.
    pub(in crate::process) async fn recover(self: &Arc<Self>, found: Found) {
        let recovered = stream::iter(found.instances).map(|(id, record)| async move {
            // One bad file takes no other instance out of control; it stays for whoever mends it, as what runs behind it does.
            if let Err(error) = self.recover_one(id.clone(), record).await {
                tracing::error!(instance = %id, %error, "an instance can't be taken over and is left alone");
            }
        });
        recovered.buffer_unordered(AT_ONCE).collect::<()>().await;
        self.sweep().await;
    }

    async fn recover_one(self: &Arc<Self>, id: InstanceId, record: InstanceRecord) -> Result<()> {
        let paths = self.root.instance(&id);
        let entry = self.entry_of(id.clone(), record);
        let until = tokio::time::Instant::now() + CREATION_GRACE;
        loop {
            let (lock_path, run_path) = (paths.lock(), paths.run());
            let (free, run) = blocking(move || {
                // The record is read under the lock, where there is one.
                let lock = try_lock(&lock_path)?;
                Ok((lock.is_some(), record::read::<RunRecord>(&run_path)?))
            })
            .await?;
            let run = run.filter(|run| run.boot == self.boot);
            if free && !lives(self, run.as_ref()) {
                return self.without_shim(id, entry, &paths, run).await;
            }
            // It lives, or is being started.
            match client::ask(&paths.socket, &Ask::Watch, self.config.call_limit.min(CREATION_GRACE)).await {
                Ok(session) => {
                    let state =
                        if session.stopping { InstanceState::Stopping } else { InstanceState::Running };
                    let run = run.filter(|run| run.incarnation == session.incarnation);
                    let shim = run.as_ref().map_or(0, |run| run.shim.pid);
                    let started = run.map_or_else(now, |run| run.started_at);
                    let incarnation = session.incarnation;
                    let mut entry = entry;
                    entry.instance.incarnation = incarnation;
                    entry.run = Some(Run { shim, cgroups: self.groups.of_start(&id, incarnation) });
                    self.running(&mut entry, started, state);
                    self.insert(&id, entry)?;
                    self.watch(id, incarnation, Box::new(session), Orphan::none());
                    return Ok(());
                }
                Err(Silence::Nobody | Silence::Broken(_)) if tokio::time::Instant::now() < until => {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
                Err(silence) => {
                    let error: Error = silence.error();
                    tracing::error!(instance = %id, %error, "its shim lives and can't be asked");
                    let incarnation = run.as_ref().map_or(Incarnation(0), |run| run.incarnation);
                    let shim = run.map_or(0, |run| run.shim.pid);
                    let mut entry = entry;
                    entry.instance.incarnation = incarnation;
                    entry.run = Some(Run { shim, cgroups: self.groups.of_start(&id, incarnation) });
                    entry.instance.state = InstanceState::Unknown { since: now() };
                    self.insert(&id, entry)?;
                    self.find_out(id, incarnation, Orphan::none());
                    return Ok(());
                }
            }
        }
    }

    /// No shim lives: the records say what it did last.
    async fn without_shim(
        self: &Arc<Self>,
        id: InstanceId,
        mut entry: Entry,
        paths: &InstancePaths,
        run: Option<RunRecord>,
    ) -> Result<()> {
        let end_path = paths.end();
        let end = blocking(move || record::read::<EndRecord>(&end_path)).await?;
        let last = run.as_ref().map_or(Incarnation(0), |run| run.incarnation);
        entry.instance.incarnation = last;
        entry.instance.started_at = run.as_ref().map(|run| run.started_at);
        match end {
            Some(EndRecord { incarnation, end: End::Failed(failure) }) if incarnation == last => {
                entry.instance.state = InstanceState::Failed(failure);
            }
            Some(EndRecord { incarnation, end: End::Exited(status) }) if incarnation == last => {
                entry.last_end = Some((incarnation, status.clone()));
                entry.instance.state = InstanceState::Exited(status);
            }
            _ if run.is_some() => {
                if let Look::Ended(status) = look(self, &id, paths, last).await? {
                    entry.last_end = Some((last, status.clone()));
                    entry.instance.state = InstanceState::Exited(status);
                }
            }
            _ => {}
        }
        self.insert(&id, entry).map(drop)
    }

    /// Ends what belongs to no instance that runs: what a controller and a shim left that were killed at the same time. What has a
    /// directory that can't be read belongs to an instance nevertheless, and may run.
    async fn sweep(&self) {
        let mut running = BTreeSet::new();
        let mut starts = BTreeSet::new();
        let mut sockets = BTreeSet::new();
        let mut unreadable = BTreeSet::new();
        {
            let entries = self.entries();
            for (id, entry) in entries.iter().filter(|(_, entry)| entry.run.is_some()) {
                running.insert(self.mark(id));
                starts.insert(format!("{id}.{}", entry.instance.incarnation));
                sockets.insert(self.root.instance(id).socket);
            }
            for folder in fs::read_dir(self.root.instances()).into_iter().flatten().flatten() {
                let id = folder.file_name().into_string().ok().and_then(|name| InstanceId::new(name).ok());
                if let Some(id) = id.filter(|id| !entries.contains_key(id)) {
                    running.insert(self.mark(&id));
                    sockets.insert(self.root.instance(&id).socket);
                    unreadable.insert(id.to_string());
                }
            }
        }
        for name in self.groups.starts() {
            let spared = name.rsplit_once('.').is_some_and(|(id, _)| unreadable.contains(id));
            if !spared && !starts.contains(&name) {
                let paths = self.groups.named(&name);
                if tree::kill_left(&paths, &name).await {
                    paths.remove();
                }
            }
        }
        let prefix = format!("{}.", self.root.tag());
        let ours = move |mark: &str| mark.starts_with(&prefix) && !running.contains(mark);
        let left = tokio::task::spawn_blocking(move || proc::marked(MARK, ours)).await.unwrap_or_default();
        let marks: BTreeSet<String> = left.into_iter().map(|(_, mark)| mark).collect();
        for mark in marks {
            tracing::warn!(%mark, "ends processes of an instance that does not run");
            tree::kill_left(&super::Paths::default(), &mark).await;
        }
        let folder = self.root.path().join("s");
        for socket in fs::read_dir(folder).into_iter().flatten().flatten() {
            if !sockets.contains(&socket.path()) {
                let _ = fs::remove_file(socket.path());
            }
        }
    }
}
