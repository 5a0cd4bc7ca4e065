//! What a deployment stands in: disks that are full, clocks that jump, and secrets that nobody may read.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ews_core::balancer::{AttributeMatch, AttributePlace, HashOn, Object, PoolProtocol};
use ews_core::clock::Clock;
use ews_core::event::Notice;
use ews_core::spec::content::{ConfigFile, EnvValue, FileContent};
use ews_core::store::{ListRequest, Prefix};
use ews_core::testkit::FakeSecrets;
use ews_core::testkit::fake::{FakeConfig, Fault, FaultRule, Operation};
use ews_core::{ErrorKind, ServiceSpec, Store as _, Timestamp};
use ews_deploy::{Canary, CanaryStep, FailureClass, Outcome, Traffic};
use rig::*;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_full_disk_changes_nothing_that_runs_and_the_next_deployment_goes_through() {
    let (world, controller) = running().await;
    world.guard.watch(3);
    let before = world.instances().await;
    let full = FaultRule::new(Fault::Fail(ErrorKind::OutOfResources)).on(Operation::Create);
    world.engine.faults().add(full);
    let report = deploy(&controller, spec("v2")).await;
    assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
    assert_eq!(report.failures[0].class, FailureClass::Refused, "{report:?}");
    assert!(report.failures[0].reason.contains("out_of_resources"), "{report:?}");
    assert_eq!(world.instances().await, before, "the same instances, never stopped");
    world.assert_whole(3, "v1").await;
    world.engine.faults().clear();
    assert_eq!(deploy(&controller, spec("v2")).await.outcome, Some(Outcome::Succeeded));
    world.assert_whole(3, "v2").await;
    assert_eq!(world.guard.least(), 3);
}

#[tokio::test(start_paused = true)]
async fn traffic_by_tcp_goes_to_pools_of_tcp_and_knows_no_paths() {
    let (world, controller) = running().await;
    let pools = async || {
        let protocol = |object| match object {
            Object::Pool(pool) => Some(pool.protocol),
            _ => None,
        };
        world.objects().await.into_iter().filter_map(protocol).collect::<Vec<_>>()
    };
    assert_eq!(pools().await, [PoolProtocol::Http1], "where nothing else is said");
    let request = request(spec("v2"));
    let tcp = request.traffic.clone().unwrap().with_protocol(PoolProtocol::Tcp);
    let mut by_path = tcp.clone();
    by_path.path = "/shop".to_owned();
    let refused = controller.deployer.deploy(&request.clone().with_traffic(by_path)).await.unwrap_err();
    assert!(
        refused.kind() == ErrorKind::Invalid && refused.message().contains("TCP knows no paths"),
        "{refused}"
    );
    // Nor does it know requests that could be chosen.
    let request = request.with_traffic(tcp.clone());
    let beta = AttributeMatch::new(AttributePlace::Header, "x-beta").with_value("1");
    let matching = Canary::new([CanaryStep::Match(vec![beta])]);
    let by_header = Canary::new([CanaryStep::Weight(50)]).with_split_by(HashOn::Header("x-user".to_owned()));
    for (canary, accepted) in [(matching, "weights"), (by_header, "client_address")] {
        let strategy = strategy().with_canary(canary);
        let refused = controller.deployer.deploy(&request.clone().with_strategy(strategy)).await.unwrap_err();
        assert!(refused.kind() == ErrorKind::Invalid && refused.message().contains(accepted), "{refused}");
    }
    let id = controller.deployer.deploy(&request).await.unwrap();
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));
    assert_eq!(pools().await, [PoolProtocol::Tcp]);

    // What is written down reads back, also what was written before there was a choice.
    let before = r#"{"domains":["web.test"],"port":"http"}"#;
    let traffic: Traffic = serde_json::from_str(before).unwrap();
    assert_eq!(traffic.protocol, PoolProtocol::Http1);
    assert!(!serde_json::to_string(&traffic).unwrap().contains("protocol"));
    let tcp = serde_json::to_string(&traffic.with_protocol(PoolProtocol::Tcp)).unwrap();
    assert_eq!(serde_json::from_str::<Traffic>(&tcp).unwrap().protocol, PoolProtocol::Tcp);
}

/// A clock of which every look is a month before or after the last one.
struct Jumping(AtomicU64);

impl Clock for Jumping {
    fn now(&self) -> Timestamp {
        let month = 30 * 24 * 3_600_000_000;
        let look = self.0.fetch_add(1, Ordering::Relaxed);
        Timestamp::from_micros(1_800_000_000_000_000 + if look.is_multiple_of(2) { month } else { 0 } - look)
    }
}

/// How long a canary with a pause takes, its instances probed only 10 s after their start, and a controller that dies in the pause.
async fn takes(jumps: bool) -> Duration {
    let world = World::new();
    let controller = async |name: &str| {
        let clock: Arc<dyn Clock> =
            if jumps { Arc::new(Jumping(AtomicU64::new(0))) } else { Arc::new(ews_core::SystemClock) };
        world
            .controller_with(name, |mut parts| {
                parts.clock = clock;
                parts
            })
            .await
    };
    let delayed = |version: &str| -> ServiceSpec {
        let mut spec = spec(version);
        spec.instance.probes.readiness.as_mut().unwrap().initial_delay = Duration::from_secs(10);
        spec
    };
    let first = controller("first").await;
    assert_eq!(deploy(&first, delayed("v1")).await.outcome, Some(Outcome::Succeeded));
    world.guard.watch(3);
    let began = Instant::now();
    let canary = Canary::new([CanaryStep::Weight(30), CanaryStep::Pause(Duration::from_secs(300))]);
    let asked = request(delayed("v2")).with_strategy(strategy().with_canary(canary));
    let id = first.deployer.deploy(&asked).await.unwrap();
    tokio::time::sleep(Duration::from_secs(120)).await;
    let second = controller("second").await;
    first.kill();
    let report = ended(&second, &id).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    let took = began.elapsed();
    world.assert_whole(3, "v2").await;
    assert_eq!(world.guard.least(), 3);
    took
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_by_months_makes_nothing_sooner_or_later() {
    let (steady, jumping) = (takes(false).await, takes(true).await);
    assert!(steady > Duration::from_secs(330), "{steady:?}");
    assert!(steady.abs_diff(jumping) < Duration::from_secs(15), "{steady:?}, and with jumps {jumping:?}");
}

#[tokio::test(start_paused = true)]
async fn a_secret_stands_nowhere_and_a_value_of_the_environment_in_no_plan_report_or_event() {
    let secrets = FakeSecrets::new();
    secrets.put(&"db/password".parse().unwrap(), "hunter2-secret");
    let world = World::with_engine(FakeConfig::default().with_secrets(Arc::new(secrets)));
    let controller = world.controller("first").await;
    let mut events = controller.deployer.events();
    let told = |mut spec: ServiceSpec, plain: &str| {
        let secret = EnvValue::Secret { secret: "db/password".parse().unwrap() };
        spec.instance.env.insert("PASSWORD".to_owned(), secret);
        spec.instance.env.insert("TOKEN".to_owned(), EnvValue::Plain(format!("hunter3-{plain}")));
        let content = FileContent::Content(format!("hunter4-{plain}"));
        spec.instance.files.push(ConfigFile::new("/etc/web.conf", content));
        spec
    };
    let mut said = String::new();
    let mut bad = sick("v2");
    bad.instance.stop.grace = Duration::from_secs(3);
    for (spec, outcome) in [
        (told(spec("v1"), "old"), Outcome::Succeeded),
        (told(bad, "new"), Outcome::RolledBack),
        (told(crashing("v3"), "newer"), Outcome::RolledBack),
    ] {
        let plan = controller.deployer.plan(&request(spec.clone())).await.unwrap();
        said += &format!("{plan}\n{plan:?}\n{}\n", serde_json::to_string(&plan).unwrap());
        let report = deploy(&controller, spec).await;
        assert_eq!(report.outcome, Some(outcome), "{report:?}");
        said += &format!("{report:?}\n{}\n", serde_json::to_string(&report).unwrap());
    }
    said += &format!("{:?}", controller.deployer.audit(&web(), 100).await.unwrap());
    while let Ok(Some(Notice::Event(event))) = tokio::time::timeout(Duration::ZERO, events.next()).await {
        said += &format!("{event:?}\n");
    }
    assert!(said.contains("change: env.TOKEN: (not shown) -> (not shown)"), "{said}");
    assert!(said.contains("UnitFailed"), "{said}");
    assert!(!said.contains("hunter"), "{said}");

    // What is written down knows the secret by its name.
    let everything = ListRequest::new(Prefix::new("deploy/").unwrap());
    let records = world.store.list(&everything).await.unwrap().records;
    let written: Vec<String> =
        records.iter().map(|record| String::from_utf8_lossy(&record.value).into_owned()).collect();
    assert!(written.iter().any(|record| record.contains("db/password")));
    assert!(!written.iter().any(|record| record.contains("hunter2")));
}
