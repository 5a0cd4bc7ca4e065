//! The process runtime on real processes: what is killed, what is left, what a program gets, who may have a root.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "parts of tests, which fail by panics and say what they skip"
)]

#[path = "process/early.rs"]
mod early;
#[path = "process/kills.rs"]
mod kills;
#[path = "process/program.rs"]
mod program;
#[path = "process/roots.rs"]
mod roots;
#[path = "process/servers.rs"]
mod servers;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use ews_core::process::{Cgroups, ProcessConfig, ProcessRuntime, ShimProgram};
use ews_core::runtime::{CreateOptions, LogOptions, Runtime};
use ews_core::spec::content::EnvValue;
use ews_core::spec::source::{ArtifactSource, Source};
use ews_core::testkit::conformance::runtime::{Workload, processes_with};
use ews_core::{
    Instance, InstanceId, InstanceKey, InstanceSpec, InstanceState, OwnerId, RevisionId, ServiceName,
};
use futures_util::StreamExt as _;

/// A root of its own, removed at the end with whatever still runs below it.
struct Place {
    folder: tempfile::TempDir,
    ports: u16,
    cgroups: Cgroups,
}

impl Place {
    fn new(cgroups: Cgroups) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(23_000);
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        Self { folder, ports: NEXT.fetch_add(100, Ordering::Relaxed), cgroups }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn config(&self) -> ProcessConfig {
        config(&self.root(), self.cgroups.clone()).with_ports(self.ports..=self.ports + 99).unwrap()
    }

    async fn open(&self) -> ProcessRuntime {
        ProcessRuntime::open(self.config()).await.unwrap()
    }

    /// What only the disk shows: names of half made and half removed instances, sockets.
    fn hidden(&self) -> Vec<String> {
        let hidden = names(&self.root().join("instances")).into_iter().filter(|name| name.starts_with('.'));
        hidden.chain(names(&self.root().join("s"))).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for pid in shims_below(&self.root()) {
            kill(pid, "KILL");
        }
    }
}

/// The configuration of tests: the shim is the program beside this one.
fn config(root: &Path, cgroups: Cgroups) -> ProcessConfig {
    ProcessConfig::new(root)
        .with_shim(ShimProgram::Path(env!("CARGO_BIN_EXE_ews-shim").into()))
        .with_cgroups(cgroups)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

fn kill(pid: u32, signal: &str) {
    let status = Command::new("kill").args(["-s", signal, &pid.to_string()]).status().unwrap();
    let _ = status;
}

/// The shims of the instances of a root, by their instances' records.
fn shims_below(root: &Path) -> Vec<u32> {
    names(&root.join("instances")).iter().filter_map(|id| shim_of(root, id)).collect()
}

/// The living shim of an instance, by its command line.
fn shim_of(root: &Path, id: &str) -> Option<u32> {
    let own = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        let named = words.next() == Some(b"ews-shim") && words.nth(1) == Some(id.as_bytes());
        // Ids are the same in every root of these tests; the log that it writes to is not.
        let log = fs::read_link(format!("/proc/{pid}/fd/2")).unwrap_or_default();
        named && log.starts_with(root)
    };
    let mut pids = names(Path::new("/proc")).into_iter().filter_map(|name| name.parse().ok());
    pids.find(own)
}

fn key(slot: u32) -> InstanceKey {
    InstanceKey {
        owner: OwnerId::new("tests").unwrap(),
        service: ServiceName::new("web").unwrap(),
        revision: RevisionId::new("r1").unwrap(),
        slot,
        generation: 0,
    }
}

/// A script in a shell.
fn shell(script: &str) -> InstanceSpec {
    let mut spec = InstanceSpec::new(Source::Artifact(ArtifactSource::new("/bin/sh")));
    spec.command = ["sh", "-c", script].map(str::to_owned).to_vec();
    spec
}

fn workload(workload: &Workload, mark: &str) -> InstanceSpec {
    let base = InstanceSpec::new(Source::Artifact(ArtifactSource::new("/bin/sh")));
    let mut spec = workload.over(base).unwrap();
    spec.env.insert("EWS_MARK".to_owned(), EnvValue::Plain(mark.to_owned()));
    spec
}

async fn launch(runtime: &impl Runtime, spec: &InstanceSpec, slot: u32) -> Instance {
    let created = runtime.create(spec, &key(slot), &CreateOptions::default()).await.unwrap();
    let started = runtime.start(&created.id).await.unwrap();
    assert_eq!(started.state, InstanceState::Running);
    started
}

async fn text(runtime: &impl Runtime, id: &InstanceId) -> Vec<String> {
    let lines = runtime.logs(id, &LogOptions::default()).await.unwrap().collect::<Vec<_>>().await;
    lines.into_iter().map(|line| String::from_utf8_lossy(&line.unwrap().bytes).into_owned()).collect()
}

/// Asks until the answer is yes; the longest that anything here may take is generous, since it is a failure.
async fn until(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    for _ in 0..3000 {
        if ask().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain for {what}");
}

async fn until_gone(mark: &str) {
    until("the processes to be gone", async || processes_with(mark) == Some(0)).await;
}
