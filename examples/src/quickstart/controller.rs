//! The controller of the tour: everything that an operations system is, composed in one process.
//!
//! It is killed on the way. What it needs to go on is in its store, at the runtime and at the gateway.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ews_core::balancer::{DomainName, Drained};
use ews_core::bus::Subscription;
use ews_core::event::Notice;
use ews_core::metrics::{Aggregate, Aggregation, Function, MetricQuery, Window};
use ews_core::process::{ProcessConfig, ProcessRuntime};
use ews_core::spec::content::EnvValue;
use ews_core::spec::network::Port;
use ews_core::spec::probe::{Check, HttpCheck, Probe};
use ews_core::spec::source::{ArtifactSource, Source};
use ews_core::store::{RedbConfig, RedbStore};
use ews_core::{Error, InstanceState, PortName, Result, Runtime, SecretValue, Selector, ServiceSpec};
use ews_deploy::release::{
    self, MemberSpec, ReleaseEvent, ReleaseEventKind, ReleaseId, ReleaseRequest, ReleaseSpec,
};
use ews_deploy::{
    Analysis, Batch, Canary, CanaryStep, Condition, DeployConfig, DeployEvent, DeployParts, DeployRequest,
    Deployer, EventKind, Hotfix, MetricCheck, Missing, Strategy, Traffic,
};
use ews_monitor::{
    AlertCondition, AlertRule, Alerts, Collection, LiveConfig, LiveStore, Relay, RuntimeCollector,
    Transition, prometheus,
};
use ews_route::server::Addresses;
use ews_route::{RemoteBalancer, RemoteConfig};
use ews_scale::{Autoscaler, Direction, ScalePolicy, Signal, Target};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::canaries::SHARE;
use super::say::{Ask, Said};
use super::shop::{DOMAIN, MEMBERS};
use super::{MOST, OWNER, REPLICAS, hello, own_program, service};

/// What the gateway counts requests under.
const REQUESTS: &str = "ews.route.requests";
/// How often is measured.
const EVERY: Duration = Duration::from_millis(250);
/// How many requests per second one instance shall take.
const PER_INSTANCE: f64 = 80.0;
/// From how many requests per second on somebody should know.
const BUSY: f64 = 200.0;

/// Leads the service and does what it is asked for, until it is told to leave or killed.
pub async fn controller(root: &Path) -> ExitCode {
    match run(root).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&Said::Failed(error.to_string()));
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout, reason = "this is how it speaks to the presenter")]
fn say(said: &Said) {
    if let Ok(line) = serde_json::to_string(said) {
        println!("{line}");
    }
}

async fn run(root: &Path) -> Result<()> {
    // Where instances run, where records live, what moves traffic.
    let runtime = runtime(root).await?;
    let store = Arc::new(RedbStore::open(root.join("controller.redb"), RedbConfig::default()).await?);
    let balancer = balancer(root).await?;
    let gateway = balancer.metrics();

    // What decides and does.
    let live = LiveStore::new(LiveConfig::default())?;
    let parts = DeployParts::new(Arc::clone(&runtime), store.clone())
        .with_balancer(Arc::new(balancer))
        .with_metrics(Arc::new(live.clone()));
    let deployer =
        Deployer::start(parts, DeployConfig::new(OWNER.parse()?).with_controller("quickstart")).await?;
    let mut events = deployer.events_since_start();

    // What measures, and what follows from it.
    let collection = Collection::new(live.clone())
        .with(RuntimeCollector::new(Arc::clone(&runtime), Selector::equal("ews/owner", OWNER)?), EVERY * 4)?
        .with(Relay::new("gateway", Arc::new(gateway), [REQUESTS, "http.server.request.duration"])?, EVERY)?;
    let query = rate()?;
    let quick = |direction: Direction, window| direction.with_window(window);
    let policy = ScalePolicy::new(
        REPLICAS,
        MOST,
        [Signal::new("requests", Target::PerInstance(PER_INSTANCE), query.clone())],
    )
    .with_interval(Duration::from_millis(500))
    .with_warm_up(Duration::from_secs(5))
    .with_scale_out(quick(Direction::scale_out(), Duration::ZERO))
    .with_scale_in(quick(Direction::scale_in(), Duration::from_secs(3)));
    let autoscaler =
        Autoscaler::new(Arc::new(live.clone()), Arc::new(deployer.clone())).with_service(hello()?, policy)?;
    let rule = AlertRule::new("busy", query, AlertCondition::Above(BUSY))
        .with_clear(BUSY * 0.8)
        .with_for(Duration::from_secs(1))
        .with_interval(Duration::from_millis(500))
        .with_severity("warning", "more requests than usual");
    let alerts = Alerts::new(Arc::new(live.clone())).with_store(store).with_rule(rule)?;
    let mut alarms = alerts.subscribe();

    let tell = async {
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Notice::Event(event)) => told(&event.event),
                    Some(Notice::Gap(_)) => {}
                    None => return,
                },
                alarm = alarms.next() => match alarm {
                    Some(Notice::Event(alarm)) => {
                        let alarm = alarm.event;
                        let fires = match alarm.transition {
                            Transition::Firing => Some(true),
                            Transition::Resolved => Some(false),
                            _ => None,
                        };
                        say(&Said::Alert { fires, text: alarm.to_string() });
                    }
                    Some(Notice::Gap(_)) => {}
                    None => return,
                },
            }
        }
    };
    say(&Said::Ready);
    let never = std::future::pending::<()>;
    tokio::select! {
        asked = asked(root, &deployer, &runtime, &live) => asked?,
        () = tell => {}
        () = collection.run(never()) => {}
        () = autoscaler.run(never()) => {}
        () = alerts.run(never()) => {}
    }
    deployer.leave().await;
    Ok(())
}

/// Does what the presenter asks for, until it is told to leave.
async fn asked(root: &Path, deployer: &Deployer, runtime: &Arc<dyn Runtime>, live: &LiveStore) -> Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(ask) = serde_json::from_str::<Ask>(&line) else { continue };
        match ask {
            Ask::Deploy(version) => match deployer.deploy(&request(root, &version)?).await {
                Ok(id) => follow(deployer, id),
                Err(error) => say(&Said::Failed(error.to_string())),
            },
            Ask::Canary(version) => match deployer.deploy(&canary(root, &version)?).await {
                Ok(id) => follow(deployer, id),
                Err(error) => say(&Said::Failed(error.to_string())),
            },
            Ask::Hotfix(text) => match deployer.hotfix(&hotfix(root, &text)?).await {
                Ok(id) => follow(deployer, id),
                Err(error) => say(&Said::Failed(error.to_string())),
            },
            Ask::Release(version) => {
                let events = deployer.release_events();
                match deployer.release(&shop(root, &version)?).await {
                    Ok(id) => follow_release(events, id),
                    Err(error) => say(&Said::Failed(error.to_string())),
                }
            }
            Ask::Rollback => match deployer.rollback(&hello()?, None).await {
                Ok(id) => follow(deployer, id),
                Err(error) => say(&Said::Failed(error.to_string())),
            },
            Ask::Status => say(&status(runtime, deployer).await?),
            Ask::Metrics => say(&Said::Metrics(prometheus::text(live).lines().map(str::to_owned).collect())),
            Ask::Remove => {
                // Whoever calls another goes before it.
                for service in deployer.services().await?.into_iter().rev() {
                    deployer.remove(&service).await?;
                    deployer.wait_removed(&service).await?;
                }
                say(&Said::Removed);
            }
            Ask::Leave => return Ok(()),
        }
    }
    Ok(())
}

/// Says that the rollout was asked for, and how it ended.
fn follow(deployer: &Deployer, id: ews_deploy::RolloutId) {
    say(&Said::Asked(id.number));
    let deployer = deployer.clone();
    tokio::spawn(async move {
        match deployer.wait(&id).await {
            Ok(report) => say(&ended(&report)),
            Err(error) => say(&Said::Failed(error.to_string())),
        }
    });
}

/// Says how a release ended, and in which order its members were done.
fn follow_release(mut events: Subscription<ReleaseEvent>, id: ReleaseId) {
    tokio::spawn(async move {
        let mut order = Vec::new();
        loop {
            let Some(notice) = events.next().await else { return };
            let Notice::Event(event) = notice else { continue };
            if event.event.release != id {
                continue;
            }
            match event.event.kind {
                ReleaseEventKind::MemberStarted { member, .. } => {
                    say(&Said::Event(format!("{member} begins")));
                }
                ReleaseEventKind::MemberSucceeded { member } => {
                    say(&Said::Event(format!("{member} is done")));
                    order.push(member.to_string());
                }
                ReleaseEventKind::MemberFailed { member, cause } => {
                    say(&Said::Event(format!("{member} failed: {cause}")));
                }
                ReleaseEventKind::MemberWentBack { member } => {
                    say(&Said::Event(format!("{member} went back")));
                }
                ReleaseEventKind::Ended { outcome, cause } => {
                    say(&Said::Released { outcome: outcome.to_string(), cause, order });
                    return;
                }
                _ => {}
            }
        }
    });
}

fn ended(report: &ews_deploy::RolloutReport) -> Said {
    Said::Ended {
        number: report.id.number,
        outcome: report.outcome.map(|outcome| outcome.to_string()).unwrap_or_default(),
        cause: report.cause.clone(),
        log: report.failures.first().map(|failure| failure.log.clone()).unwrap_or_default(),
    }
}

fn told(event: &DeployEvent) {
    let said = match &event.kind {
        EventKind::RolloutStarted { to, from, slots, batches } => {
            let from = from.as_ref().map_or("nothing".to_owned(), ToString::to_string);
            Said::Event(format!("rollout: {from} to {to}, {slots} slots in {batches} batches"))
        }
        EventKind::RolloutResumed { done: (done, all) } => Said::Event(format!(
            "the next controller goes on with the rollout: {done} of {all} slots are done"
        )),
        EventKind::RollingBack { reason } => Said::Event(format!("rolling back: {reason}")),
        EventKind::UnitFailed(failure) => Said::Event(format!("failed: {failure}")),
        EventKind::Retrying { slot, reason } => Said::Event(format!("slot {slot} is tried again: {reason}")),
        EventKind::Filled { slot, revision, .. } => Said::Filled(format!("slot {slot} runs {revision}")),
        EventKind::Step { slot, step, .. } => Said::Step(format!("{step} in slot {slot}")),
        EventKind::Drained { how, .. } => Said::Drained(*how == Drained::Drained),
        EventKind::InstanceLost { slot, reason, .. } => Said::Lost(format!("slot {slot}: {reason}")),
        EventKind::Scaled { from, to, reason } if from != to => {
            // The decision explains itself at length; its outcome comes first.
            let reason = reason.split(';').next().unwrap_or_default();
            Said::Scaled { to: *to, why: format!("{from} to {to} instances ({reason})") }
        }
        EventKind::LeadLost { reason } => Said::Event(format!("the lead is lost: {reason}")),
        // The successor of a controller that was killed says how its rollout ended, since nobody asked it to wait.
        EventKind::Ended { outcome, cause } => {
            let number = event.rollout.as_ref().map_or(0, |rollout| rollout.number);
            Said::Event(format!(
                "rollout {number} {outcome}{}{cause}",
                if cause.is_empty() { "" } else { ": " }
            ))
        }
        _ => return,
    };
    say(&said);
}

/// Processes on this machine, or containers where the presenter has laid out images.
async fn runtime(root: &Path) -> Result<Arc<dyn Runtime>> {
    #[cfg(feature = "docker")]
    if super::docker::is_ground_of(root) {
        return super::docker::runtime().await;
    }
    Ok(Arc::new(ProcessRuntime::open(ProcessConfig::new(root.join("runtime"))).await?))
}

async fn status(runtime: &Arc<dyn Runtime>, deployer: &Deployer) -> Result<Said> {
    let rolling = deployer.status(&hello()?).await.is_ok_and(|status| status.rollout.is_some());
    let ours = Selector::equal("ews/owner", OWNER)?.and(&Selector::equal("ews/service", "hello")?);
    let instances = runtime.list(&ours).await?;
    let running: Vec<_> = instances.into_iter().filter(|i| i.state == InstanceState::Running).collect();
    let version = |i: &ews_core::Instance| i.labels.get("version").unwrap_or_default().to_owned();
    Ok(Said::Status {
        running: u32::try_from(running.len()).unwrap_or(u32::MAX),
        versions: running.iter().map(version).collect(),
        rolling,
        instances: running.iter().map(|i| format!("{} {}", i.id, i.incarnation)).collect(),
    })
}

async fn balancer(root: &Path) -> Result<RemoteBalancer> {
    let missing = || Error::internal("the gateway has not said where it listens");
    let admin = Addresses::read(&root.join("addresses"))?.and_then(|all| all.admin).ok_or_else(missing)?;
    let token = std::fs::read_to_string(root.join("token"))
        .map_err(|error| Error::internal("the gateway's token can't be read").with_source(error))?;
    let config = RemoteConfig::new(format!("http://{admin}")).with_token(SecretValue::new(token.trim())?);
    RemoteBalancer::connect(config).await
}

/// Requests per second, as the gateway counts them.
fn rate() -> Result<MetricQuery> {
    let window = Window(Duration::from_secs(2));
    Ok(MetricQuery::new(REQUESTS, Selector::equal("service", "hello")?)
        .function(Function::Rate(window))
        .aggregate(Aggregate::all(Aggregation::Sum))
        .max_age(Duration::from_secs(2)))
}

/// The service in this version: this program, which answers HTTP at the port that it is given, or an image of nginx.
fn spec(root: &Path, name: &str, version: &str) -> Result<ServiceSpec> {
    #[cfg(feature = "docker")]
    if super::docker::is_ground_of(root) {
        return super::docker::spec(root, name, version);
    }
    let _ = root;
    let program = own_program()?;
    let mut spec =
        ServiceSpec::new(name.parse()?, Source::Artifact(ArtifactSource::new(program.to_string_lossy())));
    spec.instance.args = vec!["serve".to_owned()];
    spec.instance.env.insert("VERSION".to_owned(), EnvValue::Plain(version.to_owned()));
    spec.instance.ports = vec![Port::new(PortName::new("http")?, None)];
    Ok(spec)
}

/// What is asked of the deployer for this version.
fn request(root: &Path, version: &str) -> Result<DeployRequest> {
    let spec = settled(spec(root, "hello", version)?, REPLICAS, version)?;
    let traffic = Traffic::new([DomainName::new("hello.test")?], PortName::new("http")?);
    let why = if version == service::BROKEN { "a version that is broken" } else { "the tour" };
    Ok(DeployRequest::new(spec)
        .with_strategy(strategy())
        .with_traffic(traffic)
        .with_bounds(REPLICAS..=MOST)
        .with_reason(why))
}

/// How many there are of it, how it is probed, and how it stops.
fn settled(mut spec: ServiceSpec, replicas: u32, version: &str) -> Result<ServiceSpec> {
    spec.replicas = replicas;
    spec.instance.labels = ews_core::Labels::new([("version", version)])?;
    let mut readiness = Probe::new(Check::Http(HttpCheck::new("/ready")));
    readiness.interval = Duration::from_millis(200);
    spec.instance.probes.readiness = Some(readiness);
    spec.instance.stop.grace = Duration::from_secs(5);
    spec.restart.delay = Duration::from_millis(200);
    // A soak kills the same one more often than a program dies that is worth to be started again.
    spec.restart.max_delay = Duration::from_secs(1);
    spec.restart.attempts = 100;
    Ok(spec)
}

fn strategy() -> Strategy {
    Strategy::default()
        .with_batches(Batch::Count(1), Batch::Count(1))
        .with_min_healthy(Duration::from_millis(400))
        .with_deadlines(Duration::from_secs(15), Duration::from_secs(40))
        .with_drain(Duration::from_secs(5))
        .with_monitor(Duration::from_millis(300))
}

/// The same as a canary, which the gateway's own figures judge: at most a twentieth of all answers may be errors.
fn canary(root: &Path, version: &str) -> Result<DeployRequest> {
    let requests = |matching| {
        MetricQuery::new(REQUESTS, matching)
            .function(Function::Increase(Window(Duration::from_secs(2))))
            .aggregate(Aggregate::all(Aggregation::Sum))
    };
    let of_hello = Selector::equal("service", "hello")?;
    let failed = of_hello.clone().and(&Selector::equal("status_class", "5xx")?);
    let errors = MetricCheck::new("errors", requests(failed), Condition::AtMost(0.05))
        .with_per(requests(of_hello))
        .with_missing(Missing::Zero)
        .with_limits(0, 4, 10);
    let analysis = Analysis::new([errors]).with_schedule(5, Duration::from_secs(1));
    let canary = Canary::new([CanaryStep::Weight(SHARE), CanaryStep::Analysis(analysis)]);
    Ok(request(root, version)?.with_strategy(strategy().with_canary(canary)))
}

/// A file in every running instance, which the program reads when it answers.
fn hotfix(root: &Path, text: &str) -> Result<Hotfix> {
    Ok(Hotfix::new(hello()?)
        .with_file(path_of_text(root), format!("{text}\n"))
        .with_strategy(strategy())
        .with_reason("the tour"))
}

fn path_of_text(root: &Path) -> String {
    #[cfg(feature = "docker")]
    if super::docker::is_ground_of(root) {
        return super::docker::TEXT.to_owned();
    }
    let _ = root;
    format!("/{}", service::TEXT)
}

/// Three services that call each other, the one in the middle in this version. With the broken one comes another first one, so that there
/// is something to take back.
fn shop(root: &Path, version: &str) -> Result<ReleaseRequest> {
    let mut release = ReleaseSpec::new("shop".parse()?);
    for (number, name) in MEMBERS.into_iter().enumerate() {
        let before = number.checked_sub(1).and_then(|before| MEMBERS.get(before).copied());
        let version = match number {
            0 if version == service::BROKEN => "v2",
            1 => version,
            _ => "v1",
        };
        let mut spec = settled(spec(root, name, version)?, 2, version)?;
        if let Some(before) = before {
            spec.instance.env.insert("CALLS".to_owned(), EnvValue::Plain(before.to_owned()));
        }
        let mut member = MemberSpec::new(spec).with_strategy(strategy());
        if let Some(before) = before {
            member = member.after(before.parse()?, release::MemberCondition::Promoted);
        }
        if number + 1 == MEMBERS.len() {
            member = member.with_traffic(Traffic::new([DomainName::new(DOMAIN)?], PortName::new("http")?));
        }
        release = release.with_member(member);
    }
    Ok(ReleaseRequest::new(release))
}
