//! The tour of `quickstart`: what is done and what must have been seen.
//!
//! It is four programs in one: the presenter, the gateway, the controller that is killed on the way, and the service. What the
//! presenter shows it also checks; `report` counts. Load runs from the first deployment to the end.
//!
//! | File | What |
//! |---|---|
//! | `controller` | what an embedder writes: the composition of all engines |
//! | `gateway` | the gateway as a process |
//! | `service` | the service that is deployed |
//! | `canaries` | a canary that does badly, one that does well, a hotfix |
//! | `shop` | a release of three services, and staying up |
//! | `docker` | containers of nginx in place of processes (feature `docker`) |
//! | `kills` | the controller killed at one step after the other |
//! | `soak` | random deeds and kills for as long as one likes |
//! | `load`, `processes`, `say`, `report` | the presenter's parts |

mod canaries;
mod controller;
#[cfg(feature = "docker")]
mod docker;
mod gateway;
mod kills;
mod load;
mod processes;
mod report;
mod say;
mod service;
mod shop;
mod soak;

pub use controller::controller;
pub use gateway::gateway;
pub use kills::kills;
pub use service::serve;
pub use soak::soak;
#[cfg(feature = "docker")]
pub use soak::soak_on_docker;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ews_core::process::{ProcessConfig, ProcessRuntime};
use ews_core::runtime::{RemoveOptions, Runtime as _};
use ews_core::{Error, ErrorKind, Result, Selector, ServiceName};
use load::{CONNECTIONS, Load};
use processes::{ControllerProcess, GatewayProcess};
use report::Report;
use say::{Ask, Said};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// Whose instances they are.
const OWNER: &str = "quickstart";
/// How many instances there are at rest, and the most that scaling makes of them.
const REPLICAS: u32 = 3;
const MOST: u32 = 6;
/// Requests per second at rest, and in the rush.
const AT_REST: u32 = 100;
const RUSH: u32 = 450;

/// The longest that any one thing may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the tour's instances are.
enum Ground {
    /// Processes of this machine.
    Processes,
    /// Containers of an engine.
    #[cfg(feature = "docker")]
    Docker(Box<docker::Docker>),
}

impl Ground {
    /// After a failure: nothing of it stays.
    async fn clear(&self, root: &Path, report: &mut Report) {
        report.show("what it had begun is removed");
        match self {
            Self::Processes => clean_up(root).await,
            #[cfg(feature = "docker")]
            Self::Docker(docker) => {
                if let Err(error) = docker.remove_all().await {
                    report.show(&format!("something may be left on the engine: {error}"));
                }
                let _ = std::fs::remove_dir_all(root);
            }
        }
    }

    /// SIGKILL to the engine whose process id stands in this file; returns when somebody has started it again.
    #[cfg_attr(not(feature = "docker"), expect(clippy::unused_async, reason = "an engine is waited for"))]
    async fn kill_engine(&self, pid_file: &Path) -> Result<()> {
        match self {
            Self::Processes => Err(Error::internal(format!(
                "processes have no engine, whatever {} says",
                pid_file.display()
            ))),
            #[cfg(feature = "docker")]
            Self::Docker(docker) => docker.kill_engine(pid_file).await,
        }
    }

    /// After the services were removed.
    #[cfg_attr(
        not(feature = "docker"),
        expect(clippy::unused_async, reason = "an engine is asked, a directory is looked at")
    )]
    async fn clean_end(&mut self, root: &Path, report: &mut Report) -> Result<()> {
        match self {
            Self::Processes => {
                let empty = directories(&root.join("runtime/instances")) == 0;
                report.check("no instance is left on disk", empty);
                Ok(())
            }
            #[cfg(feature = "docker")]
            Self::Docker(docker) => docker.clean_end(report).await,
        }
    }
}

/// The tour on processes, from an empty directory to an empty directory; `keep`: all stays up before the clean end, until Ctrl-C.
pub async fn tour(keep: bool) -> ExitCode {
    on(Ground::Processes, keep).await
}

/// The tour on containers, from an engine without anything of ours to the same.
#[cfg(feature = "docker")]
pub async fn tour_on_docker(keep: bool) -> ExitCode {
    match docker::Docker::connect().await {
        Ok(docker) => on(Ground::Docker(Box::new(docker)), keep).await,
        Err(error) => {
            let mut report = Report::new();
            report.fail(&format!("it can't begin: {error}"));
            report.end()
        }
    }
}

async fn on(mut ground: Ground, keep: bool) -> ExitCode {
    let root = std::env::temp_dir().join(format!("ews-quickstart-{}", std::process::id()));
    let mut report = Report::new();
    let interrupts = Interrupts::new();
    let ended = tokio::select! {
        ended = Box::pin(through(&root, &mut ground, &mut report, keep, &interrupts)) => ended,
        () = interrupts.early.notified() => Err(Error::new(ErrorKind::Cancelled, "somebody interrupted it")),
    };
    if let Err(error) = ended {
        report.fail(&format!("it broke off: {error}"));
        ground.clear(&root, &mut report).await;
    }
    report.end()
}

fn hello() -> Result<ServiceName> {
    ServiceName::new("hello")
}

fn own_program() -> Result<PathBuf> {
    std::env::current_exe().map_err(|error| Error::internal("this program can't be found").with_source(error))
}

/// The tour as it goes.
struct Tour<'a> {
    root: &'a Path,
    gateway: SocketAddr,
    ground: &'a mut Ground,
    report: &'a mut Report,
    controller: ControllerProcess,
    load: Load,
    /// Whether every drain so far ended by itself.
    drained: bool,
    /// What was said while something else was waited for.
    alerts: Vec<bool>,
    /// To which counts the service was scaled, since somebody last asked for that.
    scales: Vec<u32>,
}

/// What every step of the tour must show.
async fn through(
    root: &Path,
    ground: &mut Ground,
    report: &mut Report,
    keep: bool,
    interrupts: &Interrupts,
) -> Result<()> {
    prepare(root)?;
    #[cfg(feature = "docker")]
    if let Ground::Docker(docker) = ground {
        docker.prepare(root, report, &docker::OF_THE_TOUR, true).await?;
    }
    report.step("start", "a gateway and a controller, each a process of its own");
    let gateway = GatewayProcess::start(root).await?;
    report.show(&format!("the gateway listens on {}", gateway.address));
    let controller = ControllerProcess::start(root).await?;
    let load = Load::start(gateway.address);
    let mut tour = Tour {
        root,
        gateway: gateway.address,
        ground,
        report,
        controller,
        load,
        drained: true,
        alerts: Vec::new(),
        scales: Vec::new(),
    };

    tour.first_deployment().await?;
    tour.update().await?;
    tour.broken_version().await?;
    tour.killed_instance().await?;
    tour.killed_controller().await?;
    tour.rollback().await?;
    tour.sickly_canary().await?;
    tour.good_canary().await?;
    tour.hotfix().await?;
    tour.release().await?;
    tour.rush().await?;
    tour.metrics().await?;
    if keep {
        tour.stay(interrupts).await?;
    }

    let Tour { controller, load, drained, ground, report, .. } = tour;
    let mut controller = controller;
    report.step("clean end", "the services are removed, the controller leaves, the gateway stops");
    drop(load);
    report.check("every instance that was replaced had finished its requests", drained);
    controller.ask(&Ask::Remove).await?;
    while controller.next(PATIENCE).await? != Said::Removed {}
    report.check("the controller left in order", controller.leave().await?);
    report.check("the gateway ended in order", gateway.stop().await);
    ground.clean_end(root, report).await?;
    let _ = std::fs::remove_dir_all(root);
    report.check("no process is left", processes_below(root) == 0);
    report.check("no file is left", !root.exists());
    Ok(())
}

impl Tour<'_> {
    async fn first_deployment(&mut self) -> Result<()> {
        self.report.step("deploy v1", "three instances behind the gateway");
        let outcome = self.deploy("v1").await?;
        self.report.check("it succeeded", outcome.outcome == "succeeded");
        let before = self.settle().await;
        self.load.set_rate(AT_REST);
        self.wait_for_requests(before.0 + 50).await;
        let versions = self.status().await?.0;
        self.report.check("three instances of v1 serve", versions == ["v1", "v1", "v1"]);
        self.planned("the first moments", before).await;
        Ok(())
    }

    async fn update(&mut self) -> Result<()> {
        self.report.step("deploy v2", "one instance at a time, start-first, under load");
        let before = self.settle().await;
        let outcome = self.deploy("v2").await?;
        self.report.check("it succeeded", outcome.outcome == "succeeded");
        let versions = self.status().await?.0;
        self.report.check("three instances of v2 serve", versions == ["v2", "v2", "v2"]);
        self.planned("the update", before).await;
        Ok(())
    }

    async fn broken_version(&mut self) -> Result<()> {
        self.report.step("deploy v3", "it is broken: it ends at its start");
        let before = self.settle().await;
        let outcome = self.deploy(service::BROKEN).await?;
        self.report.check("it was rolled back", outcome.outcome == "rolled back");
        for line in &outcome.log {
            self.report.show(&format!("its last words: {line}"));
        }
        self.report.check(
            "its last words say why",
            outcome.log.iter().any(|line| line.contains("column") && line.contains("price")),
        );
        let versions = self.status().await?.0;
        self.report.check("three instances of v2 serve on", versions == ["v2", "v2", "v2"]);
        self.planned("the broken version and the way back", before).await;
        Ok(())
    }

    async fn killed_instance(&mut self) -> Result<()> {
        self.report.step("kill an instance", "SIGKILL from outside");
        let before = self.settle().await;
        let sent = self.kill_one().await?;
        self.report.check("the kill was sent", sent);
        let mut seen = false;
        self.until("the instance is started again", |said| {
            seen |= matches!(said, Said::Lost(_));
            matches!(said, Said::Filled(_))
        })
        .await?;
        self.report.check("supervision saw it and started it again", seen);
        let now = self.settle().await;
        let lost = now.1 - before.1;
        self.report.cost("an instance that was killed", (now.0 - before.0, lost), before.2);
        self.report.show(&format!("requests lost with it: {lost}, of at most {CONNECTIONS} under way"));
        self.report.check("no more was lost than was under way", lost <= u64::from(CONNECTIONS));
        Ok(())
    }

    /// SIGKILL to an instance's program. False where none was found.
    #[cfg_attr(
        not(feature = "docker"),
        expect(clippy::unused_async, reason = "an engine is asked, a process is killed")
    )]
    async fn kill_one(&self) -> Result<bool> {
        match &self.ground {
            Ground::Processes => {
                let Some(pid) = a_process_of(self.root) else { return Ok(false) };
                let killed = Command::new("sh").args(["-c", "kill -9 \"$0\"", &pid.to_string()]).status();
                Ok(killed.is_ok_and(|status| status.success()))
            }
            #[cfg(feature = "docker")]
            Ground::Docker(docker) => docker.kill_one().await,
        }
    }

    async fn killed_controller(&mut self) -> Result<()> {
        self.report.step("deploy v4", "and SIGKILL the controller in the midst of it");
        let before = self.settle().await;
        self.controller.ask(&Ask::Deploy("v4".to_owned())).await?;
        self.until("the first instance of v4 runs", |said| matches!(said, Said::Filled(_))).await?;
        self.controller.kill().await;
        self.controller = ControllerProcess::start(self.root).await?;
        self.report.show("the controller is killed; the next one has started");
        let mut goes_on = false;
        let mut outcome = String::new();
        self.until("the rollout has ended", |said| {
            if let Said::Event(event) = said {
                goes_on |= event.contains("goes on with the rollout");
                if event.starts_with("rollout ") && !event.starts_with("rollout:") {
                    outcome.clone_from(event);
                    return true;
                }
            }
            false
        })
        .await?;
        self.report.check("the next controller went on with the rollout", goes_on);
        self.report.check("and ended it well", outcome.ends_with("succeeded"));
        let versions = self.status().await?.0;
        self.report.check("three instances of v4 serve, none besides", versions == ["v4", "v4", "v4"]);
        self.planned("the update with a killed controller", before).await;
        Ok(())
    }

    async fn rollback(&mut self) -> Result<()> {
        self.report.step("roll back", "by hand, to the stable version before");
        let before = self.settle().await;
        self.controller.ask(&Ask::Rollback).await?;
        let outcome = self.outcome().await?;
        self.report.check("it succeeded", outcome.outcome == "succeeded");
        let versions = self.status().await?.0;
        self.report.check("three instances of v2 serve", versions == ["v2", "v2", "v2"]);
        self.planned("the rollback", before).await;
        Ok(())
    }

    async fn rush(&mut self) -> Result<()> {
        self.report.step("rush", "four times the load: scaling and an alert");
        let before = self.settle().await;
        self.alerts.clear();
        self.scales.clear();
        self.load.set_rate(RUSH);
        self.scaled("it has scaled out", |count| count > REPLICAS).await?;
        self.alert(true).await?;
        self.report.step("calm", "the load of before");
        self.scales.clear();
        self.load.set_rate(AT_REST);
        self.alert(false).await?;
        self.scaled("it has scaled in again", |count| count == REPLICAS).await?;
        let three = self.eventually(REPLICAS).await?;
        self.report.check("three instances are left", three);
        self.planned("scaling out and in", before).await;
        Ok(())
    }

    async fn metrics(&mut self) -> Result<()> {
        self.report.step("look inside", "what a Prometheus would scrape from the controller");
        self.controller.ask(&Ask::Metrics).await?;
        let mut lines = Vec::new();
        self.until("the metrics", |said| {
            if let Said::Metrics(all) = said {
                lines.clone_from(all);
            }
            matches!(said, Said::Metrics(_))
        })
        .await?;
        for wanted in
            ["ews_route_requests_total{", "http_server_request_duration_seconds_count{", "container_memory"]
        {
            let found = lines.iter().find(|line| line.starts_with(wanted));
            self.report.show(found.map_or("(missing)", String::as_str));
            self.report.check(&format!("there is {}", wanted.trim_end_matches('{')), found.is_some());
        }
        Ok(())
    }

    /// Deploys a version and waits for the end.
    async fn deploy(&mut self, version: &str) -> Result<Ended> {
        self.controller.ask(&Ask::Deploy(version.to_owned())).await?;
        self.outcome().await
    }

    async fn outcome(&mut self) -> Result<Ended> {
        let mut ended = None;
        self.until("the rollout has ended", |said| {
            if let Said::Ended { outcome, log, .. } = said {
                ended = Some(Ended { outcome: outcome.clone(), log: log.clone() });
            }
            ended.is_some()
        })
        .await?;
        ended.ok_or_else(|| Error::internal("the rollout has no end"))
    }

    /// Waits until the count was changed to one that fits.
    async fn scaled(&mut self, what: &str, fits: impl Fn(u32) -> bool) -> Result<()> {
        if !self.scales.iter().any(|to| fits(*to)) {
            self.until(what, |said| matches!(said, Said::Scaled { to, .. } if fits(*to))).await?;
        }
        self.report.check(what, true);
        Ok(())
    }

    /// Waits until the alert fires, or fires no longer; it may have been heard already.
    async fn alert(&mut self, fires: bool) -> Result<()> {
        let what = if fires { "the alert fires" } else { "the alert has resolved" };
        if !self.alerts.contains(&fires) {
            self.until(what, |said| matches!(said, Said::Alert { fires: now, .. } if *now == Some(fires)))
                .await?;
        }
        self.report.check(what, true);
        Ok(())
    }

    /// Whether so many instances run, at the latest after a while.
    async fn eventually(&mut self, count: u32) -> Result<bool> {
        let until = Instant::now() + PATIENCE;
        loop {
            let (versions, running) = self.status().await?;
            if running == count && versions.len() == count as usize {
                return Ok(true);
            }
            if Instant::now() > until {
                return Ok(false);
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn status(&mut self) -> Result<(Vec<String>, u32)> {
        self.controller.ask(&Ask::Status).await?;
        let mut found = (Vec::new(), 0);
        self.until("the status", |said| {
            if let Said::Status { running, versions, .. } = said {
                found = (versions.clone(), *running);
            }
            matches!(said, Said::Status { .. })
        })
        .await?;
        Ok(found)
    }

    /// Takes what the controller says until this is it, and shows what people want to see.
    async fn until(&mut self, what: &str, mut is_it: impl FnMut(&Said) -> bool) -> Result<()> {
        let until = Instant::now() + PATIENCE * 2;
        loop {
            let (sent, failed) = self.load.counts();
            self.report.progress(&format!("{what}; {sent} requests, {failed} failed"));
            let said = match self.controller.next(Duration::from_millis(200)).await {
                Err(error) if error.kind() == ErrorKind::Timeout && Instant::now() < until => continue,
                Err(error) if error.kind() == ErrorKind::Timeout => {
                    return Err(Error::new(ErrorKind::Timeout, format!("it did not come about that {what}")));
                }
                said => said?,
            };
            match &said {
                Said::Event(text) | Said::Filled(text) => self.report.show(text),
                Said::Lost(text) => self.report.show(&format!("lost: {text}")),
                Said::Scaled { to, why } => {
                    self.scales.push(*to);
                    self.report.show(&format!("scaled: {why}"));
                }
                Said::Alert { fires, text } => {
                    self.alerts.extend(*fires);
                    self.report.show(&format!("alert: {text}"));
                }
                Said::Drained(by_itself) => self.drained &= by_itself,
                Said::Failed(why) => {
                    return Err(Error::internal("the controller failed").with_detail(why.clone()));
                }
                _ => {}
            }
            if is_it(&said) {
                return Ok(());
            }
        }
    }

    /// The counts, once what was sent before has been answered, and when that was.
    async fn settle(&self) -> Before {
        sleep(Duration::from_millis(100)).await;
        let (sent, failed) = self.load.counts();
        (sent, failed, std::time::Instant::now())
    }

    async fn wait_for_requests(&self, sent: u64) {
        let until = Instant::now() + PATIENCE;
        while self.load.counts().0 < sent && Instant::now() < until {
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// A planned change costs no request.
    async fn planned(&mut self, what: &str, before: Before) {
        let now = self.settle().await;
        let (sent, failed) = (now.0 - before.0, now.1 - before.1);
        self.report.cost(what, (sent, failed), before.2);
        self.report
            .check(&format!("requests during {what}: {sent}, failed: {failed}"), failed == 0 && sent > 0);
    }
}

/// Ctrl-C: it breaks the tour off, or ends its staying up.
struct Interrupts {
    staying: AtomicBool,
    early: Notify,
    stayed: Notify,
}

impl Interrupts {
    fn new() -> Arc<Self> {
        let interrupts =
            Arc::new(Self { staying: AtomicBool::new(false), early: Notify::new(), stayed: Notify::new() });
        let told = Arc::clone(&interrupts);
        tokio::spawn(async move {
            while tokio::signal::ctrl_c().await.is_ok() {
                let staying = told.staying.load(Ordering::Relaxed);
                if staying { told.stayed.notify_one() } else { told.early.notify_one() }
            }
        });
        interrupts
    }
}

/// How many requests were sent and failed, and when.
type Before = (u64, u64, std::time::Instant);

/// How a rollout ended.
struct Ended {
    outcome: String,
    log: Vec<String>,
}

/// The directory of the tour, and the token that the controller shows to the gateway.
fn prepare(root: &Path) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let failed = |error: std::io::Error| Error::internal("the tour has no place to be").with_source(error);
    std::fs::create_dir_all(root).map_err(failed)?;
    let mut random = [0_u8; 24];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| std::io::Read::read_exact(&mut source, &mut random))
        .map_err(failed)?;
    let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut file = std::fs::OpenOptions::new();
    let mut file = file.write(true).create_new(true).mode(0o600).open(root.join("token")).map_err(failed)?;
    file.write_all(token.as_bytes()).map_err(failed)
}

fn directories(of: &Path) -> usize {
    std::fs::read_dir(of).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()).count()
}

/// The processes that were started for instances of this root, by what stands in their environment.
fn instance_processes(root: &Path) -> BTreeSet<u32> {
    let prefix = format!("EWS_WORKDIR={}/", root.display());
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let of = |process: std::fs::DirEntry| {
        let environment = std::fs::read(process.path().join("environ")).ok()?;
        let ours = environment.split(|byte| *byte == 0).any(|v| v.starts_with(prefix.as_bytes()));
        process.file_name().to_str()?.parse().ok().filter(|_| ours)
    };
    processes.filter_map(of).collect()
}

fn a_process_of(root: &Path) -> Option<u32> {
    instance_processes(root).into_iter().next()
}

/// How many processes of the tour there are: instances, and whatever has the root among its arguments.
fn processes_below(root: &Path) -> usize {
    let shown = root.display().to_string();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let named = processes.filter(|process| {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| String::from_utf8_lossy(word).starts_with(&shown))
    });
    instance_processes(root).len() + named.count()
}

/// After a failure: whatever runs is ended, and the directory is removed. The gateway and the controller went with their handles.
async fn clean_up(root: &Path) {
    // A controller that was killed a moment ago may have the directory still.
    for _ in 0..50 {
        if let Ok(runtime) = ProcessRuntime::open(ProcessConfig::new(root.join("runtime"))).await {
            for instance in runtime.list(&Selector::everything()).await.unwrap_or_default() {
                let _ = runtime.remove(&instance.id, &RemoveOptions::force()).await;
            }
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    let _ = std::fs::remove_dir_all(root);
}
