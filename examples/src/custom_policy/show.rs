//! The policies in action: a replay over a day's load, and the live loops over the fakes.

use std::sync::Arc;
use std::time::Duration;

use ews_core::event::Notice;
use ews_core::metrics::{Aggregate, Aggregation, MetricInfo, MetricKind, MetricQuery};
use ews_core::spec::source::{ArtifactSource, Source};
use ews_core::store::MemoryStore;
use ews_core::testkit::FakeMetrics;
use ews_core::testkit::fake::{FakeConfig, FakeEngine, FakeRuntime};
use ews_core::{Clock as _, Result, ScaleTarget as _, Selector, ServiceName, ServiceSpec, SystemClock};
use ews_deploy::{
    DeployConfig, DeployParts, DeployRequest, Deployer, EventKind, OnFailure, Outcome, Strategy,
};
use ews_scale::{
    Autoscaler, Plant, ReplayReport, ScalePolicy, Signal, Target, TargetTracking, replay, replay_with,
};
use tokio::time::{sleep, timeout};

use super::{Patience, Staircase};

/// Requests per second over a day that takes two hours, one value for each second: a night, a morning that rises, a noon with a peak
/// of some minutes, and an evening.
pub fn day() -> Vec<f64> {
    let mut day = Vec::new();
    for (seconds, from, to) in [
        (1_200, 40.0, 40.0),
        (1_800, 40.0, 420.0),
        (300, 420.0, 900.0),
        (300, 900.0, 420.0),
        (3_600, 420.0, 40.0),
    ] {
        // A minute of more and a minute of less: a policy that follows each of them is seen.
        let at = |second: u32| {
            let ripple = if (second / 60).is_multiple_of(2) { 1.1 } else { 0.9 };
            (from + (to - from) * f64::from(second) / f64::from(seconds)) * ripple
        };
        day.extend((0..seconds).map(at));
    }
    day
}

/// Thresholds for instances that take a hundred requests per second each.
///
/// # Errors
/// Those of [`Staircase::new`].
pub fn staircase_for(hold: Duration) -> Result<Staircase> {
    Staircase::new("requests", [(0.0, 2), (120.0, 4), (300.0, 7), (550.0, 11)], hold)
}

/// The signal that the staircase looks at. Its target says nothing to it.
fn signal() -> Signal {
    let query =
        MetricQuery::new("requests", Selector::everything()).aggregate(Aggregate::all(Aggregation::Sum));
    Signal::new("requests", Target::PerInstance(80.0), query)
}

/// This staircase and target tracking over the day, with instances that are ready after 20 seconds.
///
/// # Errors
/// Those of the replay.
pub fn compared(staircase: &Staircase) -> Result<[(&'static str, ReplayReport); 2]> {
    let document = ScalePolicy::new(2, 11, [signal()]);
    let plant = Plant::new(100.0).with_start_delay(Duration::from_secs(20));
    let of_staircase = replay_with(staircase, &document, &day(), &plant)?;
    let of_tracking = replay(&TargetTracking::new(document)?, &day(), &plant)?;
    Ok([("staircase", of_staircase), ("target tracking", of_tracking)])
}

/// A deployer over fakes.
async fn deployer(change: impl FnOnce(DeployParts) -> DeployParts + Send) -> Result<Deployer> {
    let runtime = FakeRuntime::connect(&FakeEngine::new(FakeConfig::default()));
    let parts = DeployParts::new(Arc::new(runtime), Arc::new(MemoryStore::new()));
    Deployer::start(change(parts), DeployConfig::new("acme".parse()?)).await
}

fn request(command: &[&str]) -> Result<DeployRequest> {
    let mut spec = ServiceSpec::new("web".parse()?, Source::Artifact(ArtifactSource::new("/srv/web")));
    spec.replicas = 2;
    spec.instance.command = command.iter().map(|word| (*word).to_owned()).collect();
    let quick = Duration::from_millis(50);
    let strategy = Strategy::default().with_min_healthy(quick).with_monitor(Duration::ZERO);
    Ok(DeployRequest::new(spec).with_strategy(strategy))
}

/// Lets the staircase follow a load that rises and falls, in the live loop over a deployer; the counts that it came to, and why.
///
/// # Errors
/// Those of the deployer and the autoscaler.
pub async fn followed() -> Result<(Vec<u32>, Vec<String>)> {
    let deployer = deployer(|parts| parts).await?;
    let web: ServiceName = "web".parse()?;
    let rollout = deployer.deploy(&request(&["fake", "serve"])?).await?;
    deployer.wait(&rollout).await?;

    let metrics = FakeMetrics::new();
    let policy = Arc::new(staircase_for(Duration::from_millis(200))?);
    let scaler = Autoscaler::new(Arc::new(metrics.clone()), Arc::new(deployer.clone())).with_policy(
        web.clone(),
        policy,
        vec![signal()],
        Duration::from_millis(20),
    )?;
    let info = MetricInfo::new("requests", MetricKind::Gauge, "1/s");
    let mut counts = Vec::new();
    for load in [60.0, 350.0, 60.0] {
        let feed = async {
            for _ in 0..60 {
                metrics.record(&info, [("gateway", "a")], SystemClock.now(), load);
                sleep(Duration::from_millis(10)).await;
            }
        };
        scaler.run(feed).await;
        counts.push(deployer.current(&web).await?.desired);
    }
    let records = scaler.records(&web);
    let changes =
        records.iter().filter(|record| record.decision.decision.desired != record.decision.decision.from);
    let reasons = changes.map(|record| record.decision.outcome.clone()).collect();
    deployer.leave().await;
    Ok((counts, reasons))
}

/// Deploys a version whose program ends with this code at once, under [`Patience`]: how the rollout ended, and how often it was tried
/// again.
///
/// # Errors
/// Those of the deployer.
pub async fn retried(code: i32) -> Result<(Option<Outcome>, usize)> {
    let deployer = deployer(|parts| parts.with_failure_policy(Arc::new(Patience { tries: 2 }))).await?;
    let good = deployer.deploy(&request(&["fake", "serve"])?).await?;
    deployer.wait(&good).await?;
    let mut events = deployer.events();
    let bad = deployer.deploy(&request(&["fake", "exit", &code.to_string()])?).await?;
    let report = deployer.wait(&bad).await?;
    deployer.leave().await;
    drop(deployer);
    let mut retries = 0;
    while let Ok(Some(notice)) = timeout(Duration::from_secs(1), events.next()).await {
        if let Notice::Event(event) = notice {
            retries += usize::from(matches!(
                event.event.kind,
                EventKind::Decided { decision: OnFailure::Retry(_), .. }
            ));
        }
    }
    Ok((report.outcome, retries))
}
