//! Hours of it: random deployments, canaries, hotfixes, releases, rushes and kills under load, and nothing that grows or stays.
//!
//! `quickstart soak 60` does it for an hour, with a seed that it prints; `quickstart soak 60 7` does the same again. Planned changes may cost no
//! request; a kill may cost those that were under way. The load's clients send a `GET` again whose connection broke, as browsers do.
//!
//! `--runtime docker` does it on containers, which the gateway reaches on their own network; `--engine PIDFILE` says that the engine with this process
//! id may be killed too, since somebody starts it again and it runs with `live-restore`. That costs no request: what serves does not depend on the engine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use ews_core::{Error, Result};
use tokio::time::{Instant, sleep};

use super::load::{CONNECTIONS, Load};
use super::processes::{ControllerProcess, GatewayProcess};
use super::report::Report;
use super::say::{Ask, Said};
use super::{AT_REST, Ground, PATIENCE, REPLICAS, RUSH, Tour, prepare, processes_below, service};

/// What is done, and how often of a hundred times.
const DEEDS: [(Deed, u32); 12] = [
    (Deed::Update, 22),
    (Deed::Canary, 12),
    (Deed::Broken, 10),
    (Deed::Rollback, 8),
    (Deed::Hotfix, 8),
    (Deed::Release, 8),
    (Deed::BrokenRelease, 6),
    (Deed::Rush, 6),
    (Deed::KillInstance, 8),
    (Deed::KillController, 8),
    (Deed::KillGateway, 4),
    (Deed::KillEngine, 6),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    Update,
    Canary,
    Broken,
    Rollback,
    Hotfix,
    Release,
    BrokenRelease,
    Rush,
    KillInstance,
    KillController,
    KillGateway,
    KillEngine,
}

impl Deed {
    const fn name(self) -> &'static str {
        match self {
            Self::Update => "updates",
            Self::Canary => "canaries",
            Self::Broken => "broken versions",
            Self::Rollback => "rollbacks",
            Self::Hotfix => "hotfixes",
            Self::Release => "releases",
            Self::BrokenRelease => "broken releases",
            Self::Rush => "rushes",
            Self::KillInstance => "killed instances",
            Self::KillController => "killed controllers",
            Self::KillGateway => "killed gateways",
            Self::KillEngine => "killed engines",
        }
    }

    /// How many requests one of them may cost.
    const fn may_cost(self) -> u64 {
        match self {
            Self::KillInstance | Self::KillGateway => CONNECTIONS as u64,
            _ => 0,
        }
    }
}

/// What one kind of deed came to.
#[derive(Default)]
struct Sum {
    times: u64,
    sent: u64,
    failed: u64,
    took: Duration,
}

/// From how long a run on its processes' memory is compared with what they held before.
const COMPARED: Duration = Duration::from_secs(300);
/// What no process of a shorter run holds, in bytes; twice what one has after an hour.
const LITTLE: u64 = 96 << 20;

/// What a process held at some time of the run, in bytes.
struct Held {
    at: Duration,
    controller: u64,
    gateway: u64,
}

/// For so many minutes, on processes.
pub async fn soak(minutes: f64, seed: u64) -> ExitCode {
    on(Ground::Processes, minutes, seed, None).await
}

/// The same on containers; where `engine` has the engine's process id and somebody starts it again, it is killed too.
#[cfg(feature = "docker")]
pub async fn soak_on_docker(minutes: f64, seed: u64, engine: Option<PathBuf>) -> ExitCode {
    match super::docker::Docker::connect().await {
        Ok(docker) => on(Ground::Docker(Box::new(docker)), minutes, seed, engine).await,
        Err(error) => {
            let mut report = Report::new();
            report.fail(&format!("it can't begin: {error}"));
            report.end()
        }
    }
}

async fn on(mut ground: Ground, minutes: f64, seed: u64, engine: Option<PathBuf>) -> ExitCode {
    let root = std::env::temp_dir().join(format!("ews-quickstart-soak-{}", std::process::id()));
    let mut report = Report::new();
    let time = Duration::from_secs_f64(minutes.clamp(0.1, 7.0 * 24.0 * 60.0) * 60.0);
    report.step("soak", &format!("{time:.0?}, seed {seed}"));
    if let Err(error) = Box::pin(through(&root, &mut ground, &mut report, time, seed, engine)).await {
        report.fail(&format!("it broke off: {error}"));
        ground.clear(&root, &mut report).await;
    }
    report.end()
}

struct Soak<'a> {
    tour: Tour<'a>,
    gateway: GatewayProcess,
    random: u64,
    /// Where the process id of an engine stands that may be killed.
    engine: Option<PathBuf>,
    /// How many versions there are to deploy; on processes, as many as one likes.
    images: u32,
    /// The version that runs, and how many there were.
    current: String,
    versions: u32,
    releases: u32,
    fixes: u32,
}

async fn through(
    root: &Path,
    ground: &mut Ground,
    report: &mut Report,
    time: Duration,
    seed: u64,
    engine: Option<PathBuf>,
) -> Result<()> {
    prepare(root)?;
    let images = match ground {
        Ground::Processes => u32::MAX,
        #[cfg(feature = "docker")]
        Ground::Docker(docker) => {
            docker.prepare(root, report, &super::docker::OF_THE_SOAK, false).await?;
            3
        }
    };
    let laid = files_below(root);
    let gateway = GatewayProcess::start(root).await?;
    let controller = ControllerProcess::start(root).await?;
    let load = Load::replaying(gateway.address);
    let tour = Tour {
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
    let current = "v1".to_owned();
    let mut soak =
        Soak { tour, gateway, random: seed, engine, images, current, versions: 0, releases: 0, fixes: 0 };
    soak.tour.first_deployment().await?;
    soak.tour.load.set_rate(AT_REST);
    let (began, mut sums, mut held) = (Instant::now(), BTreeMap::<Deed, Sum>::new(), Vec::new());
    while began.elapsed() < time {
        let deed = soak.drawn();
        let before = soak.tour.settle().await;
        drop(soak.tour.load.failures());
        soak.done(deed).await?;
        let (right, versions) = soak.whole().await?;
        let now = soak.tour.settle().await;
        let (sent, failed) = (now.0 - before.0, now.1 - before.1);
        if !right || failed > deed.may_cost() {
            let what =
                format!("{}: {versions:?} of {}, {failed} of {sent} failed", deed.name(), soak.current);
            soak.tour.report.fail(&what);
            for failure in soak.tour.load.failures() {
                soak.tour.report.show(&format!("one was: {failure}"));
            }
        }
        let sum = sums.entry(deed).or_default();
        sum.times += 1;
        sum.sent += sent;
        sum.failed += failed;
        sum.took += before.2.elapsed();
        let resident = |pid: Option<u32>| pid.and_then(resident).unwrap_or_default();
        held.push(Held {
            at: began.elapsed(),
            controller: resident(soak.tour.controller.pid()),
            gateway: resident(soak.gateway.pid()),
        });
    }
    let Soak { tour, gateway, .. } = soak;
    judged(tour.report, &sums, &held, time);
    let Tour { controller, load, ground, report, .. } = tour;
    let mut controller = controller;
    let replayed = load.replayed();
    drop(load);
    report.show(&format!("requests that were sent again since their connection broke: {replayed}"));
    controller.ask(&Ask::Remove).await?;
    while controller.next(PATIENCE * 2).await? != Said::Removed {}
    report.check("the controller left in order", controller.leave().await?);
    report.check("the gateway ended in order", gateway.stop().await);
    ground.clean_end(root, report).await?;
    let kept = files_below(root).saturating_sub(laid);
    report.show(&format!("{kept} files of records and logs"));
    report.check("there are not more files for more deeds", kept < 100);
    let _ = std::fs::remove_dir_all(root);
    report.check("no process is left", processes_below(root) == 0);
    Ok(())
}

/// What all of it cost, and whether what the processes hold has grown.
fn judged(report: &mut Report, sums: &BTreeMap<Deed, Sum>, held: &[Held], time: Duration) {
    for (deed, sum) in sums {
        report.cost_of(&format!("{} {}", sum.times, deed.name()), (sum.sent, sum.failed), sum.took);
    }
    let most = |from: f64, to: f64, of: fn(&Held) -> u64| {
        let within = held.iter().filter(|held| {
            let share = held.at.as_secs_f64() / time.as_secs_f64();
            (from..to).contains(&share)
        });
        within.map(of).max().unwrap_or_default()
    };
    for (who, of) in [("controller", (|h| h.controller) as fn(&Held) -> u64), ("gateway", |h| h.gateway)] {
        let (early, late) = (most(0.1, 0.4, of), most(0.7, f64::INFINITY, of));
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        report.show(&format!(
            "the {who} held at most {:.1} MiB early and {:.1} MiB late",
            mib(early),
            mib(late)
        ));
        if time < COMPARED {
            // A process may be seconds old at one of the times, and an hour at none.
            report.check(&format!("the {who} holds little"), (1..LITTLE).contains(&late));
            continue;
        }
        // Records are kept up to a bound that is reached early; a leak of every deed would be far above this.
        report.check(
            &format!("the {who}'s memory is flat"),
            early > 0 && late <= early + early / 4 + (4 << 20),
        );
    }
}

impl Soak<'_> {
    /// SplitMix64: the same seed draws the same.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn drawn(&mut self) -> Deed {
        let spared = self.engine.is_none().then_some(Deed::KillEngine);
        let deeds = || DEEDS.into_iter().filter(|(deed, _)| Some(*deed) != spared);
        let all: u32 = deeds().map(|(_, weight)| weight).sum();
        let mut at = u32::try_from(self.next() % u64::from(all)).unwrap_or_default();
        for (deed, weight) in deeds() {
            if at < weight {
                return deed;
            }
            at -= weight;
        }
        Deed::Update
    }

    /// Whether the version that shall run does, in every instance, at the latest after a while; and which do.
    async fn whole(&mut self) -> Result<(bool, Vec<String>)> {
        let until = Instant::now() + PATIENCE * 2;
        loop {
            let whole = self.tour.eventually(REPLICAS).await?;
            let versions = self.tour.status().await?.0;
            let right =
                whole && !self.is_rolling().await? && versions.iter().all(|version| *version == self.current);
            if right || Instant::now() > until {
                return Ok((right, versions));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn is_rolling(&mut self) -> Result<bool> {
        self.tour.controller.ask(&Ask::Status).await?;
        let mut found = false;
        self.tour
            .until("the status", |said| {
                if let Said::Status { rolling, .. } = said {
                    found = *rolling;
                }
                matches!(said, Said::Status { .. })
            })
            .await?;
        Ok(found)
    }

    async fn done(&mut self, deed: Deed) -> Result<()> {
        self.tour.report.step(deed.name(), &self.current.clone());
        match deed {
            Deed::Update => {
                let next = self.next_version();
                let outcome = self.tour.deploy(&next).await?.outcome;
                self.expect(&outcome, "succeeded");
                self.current = next;
            }
            Deed::Canary => {
                let next = self.next_version();
                self.tour.controller.ask(&Ask::Canary(next.clone())).await?;
                let outcome = self.tour.outcome().await?.outcome;
                self.expect(&outcome, "succeeded");
                self.current = next;
            }
            Deed::Broken => {
                let outcome = self.tour.deploy(service::BROKEN).await?.outcome;
                self.expect(&outcome, "rolled back");
            }
            Deed::Rollback => {
                if self.versions == 0 {
                    // There is nothing to go back to yet.
                    return Box::pin(self.done(Deed::Update)).await;
                }
                self.tour.controller.ask(&Ask::Rollback).await?;
                let outcome = self.tour.outcome().await?.outcome;
                self.expect(&outcome, "succeeded");
                self.current = self.tour.status().await?.0.first().cloned().unwrap_or_default();
            }
            Deed::Hotfix => {
                self.fixes += 1;
                self.tour.controller.ask(&Ask::Hotfix(format!("mended {}", self.fixes))).await?;
                let outcome = self.tour.outcome().await?.outcome;
                self.expect(&outcome, "succeeded");
            }
            Deed::Release => {
                let basket = format!("b{}", self.releases % self.images + 1);
                self.releases += 1;
                let (outcome, _) = self.tour.released(&basket).await?;
                self.expect(&outcome, "succeeded");
            }
            Deed::BrokenRelease => {
                let (outcome, _) = self.tour.released(service::BROKEN).await?;
                // The first of all has nothing to go back to but nothing.
                self.expect(&outcome, "rolled back");
            }
            Deed::Rush => {
                self.tour.load.set_rate(RUSH);
                sleep(Duration::from_millis(2_000 + self.next() % 4_000)).await;
                self.tour.load.set_rate(AT_REST);
            }
            Deed::KillInstance => {
                if !self.tour.kill_one().await? {
                    return Err(Error::internal("there is no instance to kill"));
                }
                self.tour.until("it is started again", |said| matches!(said, Said::Filled(_))).await?;
            }
            Deed::KillController => self.kill_controller().await?,
            Deed::KillEngine => self.kill_engine().await?,
            Deed::KillGateway => {
                let pid = self.gateway.pid();
                let root = self.tour.root.to_owned();
                self.gateway.replace(&root).await?;
                self.tour.report.show(&format!("{pid:?} is replaced by {:?}", self.gateway.pid()));
            }
        }
        Ok(())
    }

    /// Somewhere within an update, which the next controller ends.
    async fn kill_controller(&mut self) -> Result<()> {
        let next = self.next_version();
        self.tour.controller.ask(&Ask::Deploy(next.clone())).await?;
        // Written down, so that it is brought about.
        self.tour.until("it is asked for", |said| matches!(said, Said::Asked(_))).await?;
        sleep(Duration::from_millis(self.next() % 2_500)).await;
        self.tour.controller.kill().await;
        self.tour.controller = ControllerProcess::start(self.tour.root).await?;
        self.current = next;
        Ok(())
    }

    /// The engine, somewhere within an update, which goes on when there is another.
    async fn kill_engine(&mut self) -> Result<()> {
        let next = self.next_version();
        self.tour.controller.ask(&Ask::Deploy(next.clone())).await?;
        self.tour.until("it is asked for", |said| matches!(said, Said::Asked(_))).await?;
        sleep(Duration::from_millis(self.next() % 4_000)).await;
        let none = || Error::internal("there is no engine that may be killed");
        self.tour.ground.kill_engine(self.engine.as_ref().ok_or_else(none)?).await?;
        self.tour.report.show("the engine is killed; another one answers");
        let outcome = self.tour.outcome().await?.outcome;
        self.expect(&outcome, "succeeded");
        if outcome == "succeeded" {
            self.current = next;
        }
        Ok(())
    }

    /// Not the one that runs: with a bounded number of images, the way back may have led to the next.
    fn next_version(&mut self) -> String {
        loop {
            let next = format!("u{}", self.versions % self.images + 1);
            self.versions += 1;
            if next != self.current {
                return next;
            }
        }
    }

    fn expect(&mut self, outcome: &str, wanted: &str) {
        if outcome != wanted {
            self.tour.report.fail(&format!("it ended as {outcome}, not {wanted}"));
        }
    }
}

/// What a process holds in memory, in bytes.
fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn files_below(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { files_below(&entry.path()) } else { 1 }).sum()
}
