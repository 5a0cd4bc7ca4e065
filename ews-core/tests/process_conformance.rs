//! The process runtime passes the suite of runtimes on real processes: with control groups where this machine has them, and
//! without.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "parts of tests, which fail by panics and say what they skip"
)]

#[path = "process/hosted.rs"]
mod hosted;

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ews_core::process::Cgroups;
use ews_core::secrets::FileSecrets;
use ews_core::spec::source::{ArtifactSource, Source};
use ews_core::testkit::conformance::runtime::{self, LogCapture, RuntimeHarness, Workload, processes_with};
use ews_core::{Enforcement, InstanceKey, InstanceSpec, OwnerId, Result, Runtime, SecretRef};
use hosted::{Hosted, config};

struct Harness {
    folder: tempfile::TempDir,
    cgroups: Cgroups,
    log: LogCapture,
    last: Mutex<Option<Arc<Hosted>>>,
}

impl Harness {
    fn new(cgroups: Cgroups, log: LogCapture) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("secrets")).unwrap();
        let secret = folder.path().join("secrets/token");
        fs::write(&secret, "a-53cret-of-the-suite\n").unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        // Programs of other users must get through to their work directories.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        Self { folder, cgroups, log, last: Mutex::default() }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn place(&self, key: &InstanceKey) -> PathBuf {
        self.root().join("instances").join(key.name())
    }
}

#[async_trait]
impl RuntimeHarness for Harness {
    async fn connect(&self) -> Result<Arc<dyn Runtime>> {
        // The one before is gone, or about to be.
        self.last.lock().unwrap().take();
        let secrets = Arc::new(FileSecrets::new(self.folder.path().join("secrets"))?);
        // The two tests run at once, and two runtimes must not allot from one range.
        let ports = if self.cgroups == Cgroups::Off { 21_000..=21_999 } else { 22_000..=22_999 };
        let config = config(&self.root(), self.cgroups.clone()).with_secrets(secrets).with_ports(ports)?;
        let hosted = Hosted::open(config).await?;
        *self.last.lock().unwrap() = Some(Arc::clone(&hosted));
        Ok(hosted)
    }

    fn workload(&self, workload: &Workload) -> Option<InstanceSpec> {
        workload.over(InstanceSpec::new(Source::Artifact(ArtifactSource::new("/bin/sh"))))
    }

    fn name(&self) -> String {
        format!("processes, control groups {:?}", self.cgroups)
    }

    async fn kill_controller(&self) -> bool {
        let last = self.last.lock().unwrap().take();
        last.is_some_and(|hosted| {
            hosted.kill();
            true
        })
    }

    async fn plant_foreign(&self, key: &InstanceKey) -> bool {
        fs::create_dir(self.place(key)).is_ok() && fs::write(self.place(key).join("theirs"), "x").is_ok()
    }

    async fn foreign_is_intact(&self, key: &InstanceKey) -> bool {
        let intact = fs::read_to_string(self.place(key).join("theirs")).is_ok_and(|text| text == "x");
        fs::remove_dir_all(self.place(key)).unwrap();
        intact
    }

    async fn leftovers(&self, _: &OwnerId) -> Option<usize> {
        let names = |folder: PathBuf| -> Vec<String> {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
        };
        let instances = names(self.root().join("instances"));
        let hidden = instances.iter().filter(|name| name.starts_with('.')).count();
        let sockets = names(self.root().join("s")).len();
        Some(hidden + sockets.saturating_sub(instances.len()))
    }

    async fn marked_processes(&self, mark: &str) -> Option<usize> {
        processes_with(mark)
    }

    fn secret(&self) -> Option<(SecretRef, String)> {
        Some(("token".parse().unwrap(), "a-53cret-of-the-suite".to_owned()))
    }

    fn captured_log(&self) -> Option<String> {
        Some(self.log.text())
    }
}

/// What only a runtime of images, of several nodes or of an engine of its own can show.
const SKIPS: &[&str] = &[
    "silence_is_unknown_never_exited",
    "an_engine_restart_is_survived_as_declared",
    "a_missing_image_is_named",
    "a_wrong_platform_is_named",
    "mounts_are_seen_and_read_only_holds",
    "a_broken_event_stream_goes_on_with_a_gap",
    "calls_to_a_hung_engine_end",
];

/// What takes control groups with these controllers.
const LIMITS: &[&str] = &["a_memory_limit_holds", "a_cpu_limit_holds", "a_process_limit_holds"];

async fn passes(cgroups: Cgroups) {
    let log = LogCapture::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let harness = Harness::new(cgroups, log);
    let report = runtime::run(&harness).await;
    println!("{report}");
    let enforced = harness.connect().await.unwrap().capabilities();
    let mut skips = SKIPS.to_vec();
    if [enforced.cpu, enforced.memory, enforced.pids] != [Enforcement::Hard; 3] {
        skips.extend(LIMITS);
    }
    report.assert_passed(&skips);
    assert_eq!(
        harness.leftovers(&OwnerId::new("any").unwrap()).await,
        Some(0),
        "the suite left something behind"
    );
    assert_eq!(
        fs::read_dir(harness.root().join("instances")).unwrap().count(),
        0,
        "the suite left instances"
    );
}

#[tokio::test]
async fn it_passes_with_control_groups() {
    passes(Cgroups::Auto).await;
}

#[tokio::test]
async fn it_passes_without_control_groups() {
    passes(Cgroups::Off).await;
}
