//! What is made beside a container: files in memory, files of the spec, networks and volumes, archives.

mod archives;
mod files;
mod memory;
mod objects;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ews_core::instance::{Instance, InstanceKey};
use ews_core::runtime::{CreateOptions, LogOptions, RemoveOptions, WaitOptions};
use ews_core::secrets::{SecretValue, Secrets};
use ews_core::spec::source::{ImageSource, Source};
use ews_core::{
    InstanceId, InstanceSpec, OwnerId, Result, RevisionId, Runtime, RuntimeExt as _, SecretRef, ServiceName,
};
use ews_docker::{DockerConfig, DockerRuntime, EngineAddress};
use futures_util::TryStreamExt as _;

use crate::engine;
use crate::rig::unique;

/// An engine, an owner of this test's own, and a directory in memory.
struct Site {
    runtime: DockerRuntime,
    owner: OwnerId,
    memory: tempfile::TempDir,
    socket: PathBuf,
}

/// A secret whose value is its name and this word.
const WORD: &str = "-53cret-in-memory";

struct Named;

#[async_trait]
impl Secrets for Named {
    async fn resolve(&self, secret: &SecretRef) -> Result<SecretValue> {
        SecretValue::new(format!("{secret}{WORD}"))
    }
}

impl Site {
    /// `None`, and a line that says so, where there is no engine, or no root to give files away.
    async fn new() -> Option<Self> {
        let socket = engine::socket()?;
        if !rustix::process::geteuid().is_root() {
            println!("skipped: files in memory take root");
            return None;
        }
        let memory = tempfile::Builder::new().prefix("ews-test").tempdir_in("/dev/shm").unwrap();
        let owner = OwnerId::new(unique()).unwrap();
        let runtime = Self::connect(&socket, &memory).await;
        Some(Self { runtime, owner, memory, socket })
    }

    async fn connect(socket: &std::path::Path, memory: &tempfile::TempDir) -> DockerRuntime {
        let config = DockerConfig::new(EngineAddress::Unix(socket.to_owned()))
            .with_call_limit(Duration::from_secs(20))
            .with_secrets_directory(memory.path().join("secrets"));
        DockerRuntime::builder(config).with_secrets(Arc::new(Named)).connect().await.unwrap()
    }

    /// Another controller on the same engine.
    async fn another(&self) -> DockerRuntime {
        Self::connect(&self.socket, &self.memory).await
    }

    fn key(&self, slot: u32) -> InstanceKey {
        InstanceKey {
            owner: self.owner.clone(),
            service: ServiceName::new("made").unwrap(),
            revision: RevisionId::new("r1").unwrap(),
            slot,
            generation: 0,
        }
    }

    async fn create(&self, spec: &InstanceSpec, slot: u32) -> Result<Instance> {
        self.runtime.create(spec, &self.key(slot), &CreateOptions::default()).await
    }

    /// Runs it to its end and gives what it wrote.
    async fn output(&self, spec: &InstanceSpec, slot: u32) -> (InstanceId, String) {
        let id = self.runtime.launch(spec, &self.key(slot), &CreateOptions::default()).await.unwrap().id;
        (id.clone(), self.written(&id).await)
    }

    /// What a program that ends has written, in all its starts.
    async fn written(&self, id: &InstanceId) -> String {
        self.runtime.wait(id, &WaitOptions::default()).await.unwrap();
        let logs = self.runtime.logs(id, &LogOptions::default()).await.unwrap();
        let lines: Vec<_> = logs.try_collect().await.unwrap();
        let lines = lines.iter().map(|line| String::from_utf8_lossy(&line.bytes).into_owned());
        lines.collect::<Vec<_>>().join("\n")
    }

    async fn remove(&self, slot: u32) {
        let id = self.key(slot).to_id().unwrap();
        self.runtime.remove(&id, &RemoveOptions::force()).await.unwrap();
    }

    /// The folders in memory.
    fn folders(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.memory.path().join("secrets")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

/// A shell that runs this.
fn shell(script: &str) -> InstanceSpec {
    let mut spec = InstanceSpec::new(Source::Image(ImageSource::new(engine::busybox().parse().unwrap())));
    spec.command = vec!["sh".into(), "-c".into(), script.into()];
    spec
}

const IDLE: &str = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";
