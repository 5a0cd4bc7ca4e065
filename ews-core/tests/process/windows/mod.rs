//! The suite of runtimes on a system without shells: what is asked on the command line, and the harness.
//!
//! The command line is libtest's as far as `scripts/windows-tests` uses it, with the suite's cases as the tests.

mod marks;
mod own;
mod programs;
mod raw;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ews_core::process::{Cgroups, ShimProgram};
use ews_core::secrets::FileSecrets;
use ews_core::spec::source::{ArtifactSource, Source};
use ews_core::testkit::conformance::run_case;
use ews_core::testkit::conformance::runtime::{self, LogCapture, RuntimeHarness, SuiteLimits, Workload};
use ews_core::{Enforcement, InstanceKey, InstanceSpec, OwnerId, Result, Runtime, SecretRef};

use crate::hosted::{Hosted, config};

/// The first argument of a program that the suite runs.
const WORKLOAD: &str = "workload";

/// What only a runtime of images, of several nodes or of an engine of its own can show.
const SKIPS: &[&str] = &[
    "silence_is_unknown_never_exited",
    "an_engine_restart_is_survived_as_declared",
    "a_missing_image_is_named",
    "a_wrong_platform_is_named",
    "mounts_are_seen_and_read_only_holds",
    "a_broken_event_stream_goes_on_with_a_gap",
    "calls_to_a_hung_engine_end",
    // Terminals are not declared: pseudo-consoles are work of their own.
    "a_terminal_carries_every_byte",
    "a_terminal_tells_its_size",
];

/// What takes job objects that hold limits. Those of Wine 8 take them and forget them, so they are declared as best effort.
const LIMITS: &[&str] = &["a_memory_limit_holds", "a_cpu_limit_holds", "a_process_limit_holds"];

/// What takes the CPU time of another process, in whose place Wine 8 tells the asker's own.
const TIMES: &str = "usage_grows_and_knows_a_burner";

/// How long a case of our own may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// `scripts/windows-tests` says where Wine is kept; nobody else does.
fn under_wine() -> bool {
    std::env::var_os("WINEPREFIX").is_some()
}

pub(super) fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == WORKLOAD) {
        return programs::run(words.get(1..).unwrap_or_default());
    }
    let Asked { list, names } = asked(&words);
    if list {
        for name in names {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let code = threads.block_on(suite(&names));
    threads.shutdown_background();
    code
}

/// What a command line of libtest asks for.
struct Asked {
    list: bool,
    /// The cases to run.
    names: Vec<&'static str>,
}

fn asked(words: &[String]) -> Asked {
    const WITH_VALUE: [&str; 6] =
        ["--format", "--color", "--test-threads", "--logfile", "-Z", "--shuffle-seed"];
    let (mut list, mut wanted, mut skipped) = (false, Vec::new(), Vec::new());
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "--list" => list = true,
            "--skip" => skipped.extend(words.next()),
            _ if WITH_VALUE.contains(&word) => drop(words.next()),
            _ if word.starts_with('-') => {}
            name => wanted.push(name),
        }
    }
    let names = runtime::names().into_iter().map(|(_, name)| name).chain(own::NAMES);
    let names = names.filter(|name| wanted.is_empty() || wanted.contains(name));
    Asked { list, names: names.filter(|name| !skipped.contains(name)).collect() }
}

async fn suite(names: &[&str]) -> ExitCode {
    let log = LogCapture::default();
    tracing::subscriber::set_global_default(log.clone()).unwrap();
    let harness = Harness::new(log);
    let (own, suite): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| own::NAMES.contains(name));
    let mut report = runtime::run_only(&harness, &suite).await;
    for name in own {
        let name = own::NAMES.into_iter().find(|known| *known == name).unwrap();
        report.outcomes.push(run_case(None, name, DEADLINE, own::run(&harness, name)).await);
    }
    println!("{report}");
    let runtime = harness.connect().await.unwrap();
    let enforced = runtime.capabilities();
    println!("limits: cpu {:?}, memory {:?}, pids {:?}", enforced.cpu, enforced.memory, enforced.pids);
    let mut skips = SKIPS.to_vec();
    if [enforced.cpu, enforced.memory, enforced.pids] != [Enforcement::Hard; 3] {
        skips.extend(LIMITS);
    }
    if under_wine() {
        skips.push(TIMES);
    }
    skips.retain(|name| names.contains(name));
    let mut problems = if names.is_empty() { Vec::new() } else { report.problems(&skips) };
    drop(runtime);
    if harness.leftovers(&OwnerId::new("any").unwrap()).await != Some(0)
        || fs::read_dir(harness.root().join("instances")).unwrap().count() != 0
    {
        problems.push("the suite left something behind".to_owned());
    }
    for problem in &problems {
        println!("{problem}");
    }
    if !problems.is_empty() && std::env::var_os("EWS_T_LOG").is_some() {
        println!("{}", harness.log.text());
    }
    marks::remove_all();
    let (passed, failed, ignored) = report.counts();
    let verdict = if problems.is_empty() { "ok" } else { "FAILED" };
    let left_out = runtime::names().len() + own::NAMES.len() - report.outcomes.len();
    println!(
        "test result: {verdict}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; {left_out} filtered out"
    );

    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Harness {
    folder: tempfile::TempDir,
    log: LogCapture,
    last: Mutex<Option<Arc<Hosted>>>,
}

impl Harness {
    fn new(log: LogCapture) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("secrets")).unwrap();
        fs::write(folder.path().join("secrets/token"), "a-53cret-of-the-suite\n").unwrap();
        // The directory that cases run in and put archives into; a path of the current drive, as all paths of the suite are.
        fs::create_dir_all("/tmp").unwrap();
        Self { folder, log, last: Mutex::default() }
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
        let config = config(&self.root(), Cgroups::Off).with_secrets(secrets).with_ports(21_000..=21_999)?;
        let hosted = Hosted::open(config.with_shim(ShimProgram::Current)).await?;
        *self.last.lock().unwrap() = Some(Arc::clone(&hosted));
        Ok(hosted)
    }

    fn workload(&self, workload: &Workload) -> Option<InstanceSpec> {
        let program = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
        let mut spec = InstanceSpec::new(Source::Artifact(ArtifactSource::new(program)));
        spec.command = self.command(workload)?;
        if under_wine() {
            // A program hears CTRL_C only once it has asked for it, so a stop right after a start takes its whole grace.
            spec.stop.grace = Duration::from_secs(1);
        }
        Some(spec)
    }

    fn command(&self, workload: &Workload) -> Option<Vec<String>> {
        if *workload == Workload::Burn && under_wine() {
            return None;
        }
        let words = programs::words(workload)?;
        if *workload == Workload::MissingProgram {
            return Some(words);
        }
        let own = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
        Some([own, WORKLOAD.to_owned()].into_iter().chain(words).collect())
    }

    fn name(&self) -> String {
        "processes, Windows".to_owned()
    }

    /// Starting a process takes a tenth of a second under Wine, and its pipes carry a tenth of a real one's: less of both
    /// shows the same.
    fn limits(&self) -> SuiteLimits {
        let mut limits = SuiteLimits::default();
        limits.many = 100;
        limits.volume = 20_000_000;
        limits
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
        let names = |folder: &str| -> Vec<String> {
            let entries = fs::read_dir(self.root().join(folder)).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
        };
        let instances = names("instances");
        let hidden = instances.iter().filter(|name| name.starts_with('.')).count();
        Some(hidden + names("s").len().saturating_sub(instances.len()))
    }

    async fn marked_processes(&self, mark: &str) -> Option<usize> {
        Some(marks::count(mark))
    }

    fn secret(&self) -> Option<(SecretRef, String)> {
        Some(("token".parse().unwrap(), "a-53cret-of-the-suite".to_owned()))
    }

    fn captured_log(&self) -> Option<String> {
        Some(self.log.text())
    }
}
