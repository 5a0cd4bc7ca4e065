//! The services, and what is asserted of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use ews_core::process::{ProcessConfig, ProcessRuntime};
use ews_core::spec::content::EnvValue;
use ews_core::spec::network::Port;
use ews_core::spec::probe::{Check, HttpCheck, Probe};
use ews_core::spec::source::{ArtifactSource, Source};
use ews_core::store::MemoryStore;
use ews_core::{Instance, PortName, Runtime, Selector, ServiceName, ServiceSpec};
use ews_deploy::release::{
    Discovery, MemberCondition, MemberSpec, MemberStage, ReleaseReport, ReleaseRequest, ReleaseSpec,
};
use ews_deploy::{Batch, DeployConfig, DeployParts, Deployer, Outcome, Strategy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

/// How long anything may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if std::env::args().nth(1).as_deref() == Some("serve") {
        return runtime.block_on(serve());
    }
    // Arguments of the usual harness say nothing here, but a list is a list.
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let root = std::env::temp_dir().join(format!("ews-release-{}", std::process::id()));
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(test(&root))));
    let _ = std::fs::remove_dir_all(&root);
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

// The services: each answers with its own name and version and, if it has one, what the next one answered.

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

async fn serve() -> ExitCode {
    if variable("VERSION") == "broken" {
        println!("this version can't be");
        return ExitCode::from(3);
    }
    let port: u16 = variable("PORT").parse().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let app = Router::new()
        .route("/", get(|| answer(next_by_file)))
        .route("/environment", get(|| answer(next_by_environment)))
        .route("/ready", get(|| std::future::ready("ready")));
    let mut asked = signal(SignalKind::terminate()).unwrap();
    let until = async move {
        asked.recv().await;
    };
    match axum::serve(listener, app).with_graceful_shutdown(until).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

async fn answer(next: fn(&str) -> Option<SocketAddr>) -> (StatusCode, String) {
    let mine = format!("{} {}", variable("EWS_SERVICE"), variable("VERSION"));
    let calls = variable("CALLS");
    if calls.is_empty() {
        return (StatusCode::OK, mine);
    }
    let Some(address) = next(&calls) else {
        return (StatusCode::BAD_GATEWAY, format!("{mine} knows no {calls}"));
    };
    match fetch(address, "/").await {
        Some((200, answer)) => (StatusCode::OK, format!("{mine} > {answer}")),
        other => (StatusCode::BAD_GATEWAY, format!("{mine} got {other:?} from {calls} at {address}")),
    }
}

/// What the file says now; each time another one of those that there are.
fn next_by_file(member: &str) -> Option<SocketAddr> {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let text = std::fs::read_to_string(variable("EWS_PEERS")).ok()?;
    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
    let endpoints = value["members"][member]["endpoints"].as_array()?;
    let turn = TURN.fetch_add(1, Ordering::Relaxed) % endpoints.len().max(1);
    endpoints.get(turn)?["address"].as_str()?.parse().ok()
}

/// What was known when the instance was created.
fn next_by_environment(member: &str) -> Option<SocketAddr> {
    let upper = member.to_uppercase();
    format!("{}:{}", variable(&format!("{upper}_HOST")), variable(&format!("{upper}_PORT"))).parse().ok()
}

async fn fetch(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let fetched = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        let status = text.split(' ').nth(1)?.parse().ok()?;
        Some((status, text.split_once("\r\n\r\n")?.1.to_owned()))
    };
    timeout(Duration::from_secs(10), fetched).await.ok()?
}

// The test.

fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

fn member(of: &str, version: &str, calls: &str) -> MemberSpec {
    let program = std::env::current_exe().unwrap();
    let mut spec =
        ServiceSpec::new(name(of), Source::Artifact(ArtifactSource::new(program.to_string_lossy())));
    spec.replicas = 2;
    spec.instance.args = vec!["serve".to_owned()];
    for (variable, value) in [("VERSION", version), ("CALLS", calls)] {
        spec.instance.env.insert(variable.to_owned(), EnvValue::Plain(value.to_owned()));
    }
    spec.instance.ports = vec![Port::new(PortName::new("http").unwrap(), None)];
    let mut readiness = Probe::new(Check::Http(HttpCheck::new("/ready")));
    readiness.interval = Duration::from_millis(200);
    spec.instance.probes.readiness = Some(readiness);
    spec.instance.stop.grace = Duration::from_secs(5);
    let strategy = Strategy::default()
        .with_batches(Batch::Count(1), Batch::Count(1))
        .with_min_healthy(Duration::from_millis(300))
        .with_deadlines(Duration::from_secs(30), Duration::from_secs(60))
        .with_monitor(Duration::ZERO);
    MemberSpec::new(spec).with_strategy(strategy)
}

fn shop(db: &str, api: &str, front: &str) -> ReleaseSpec {
    ReleaseSpec::new("shop".parse().unwrap())
        // Long enough for a busy machine to tell the others.
        .with_discovery(Discovery::default().with_settle(Duration::from_secs(8)))
        .with_member(member("front", front, "api").after(name("api"), MemberCondition::Promoted))
        .with_member(member("api", api, "db").after(name("db"), MemberCondition::Healthy))
        .with_member(member("db", db, ""))
}

async fn released(deployer: &Deployer, spec: ReleaseSpec) -> ReleaseReport {
    let id = deployer.release(&ReleaseRequest::new(spec)).await.unwrap();
    timeout(PATIENCE, deployer.wait_release(&id)).await.expect("every release ends").unwrap()
}

async fn instances(runtime: &dyn Runtime, of: &str) -> Vec<Instance> {
    let selector = Selector::equal("ews/service", of).unwrap();
    let mut found = runtime.list(&selector).await.unwrap();
    found.retain(|instance| instance.state.is_running());
    found
}

/// Asks one of the front's instances until it answers like this.
async fn answers(runtime: &dyn Runtime, path: &str, expected: &str) {
    let until = Instant::now() + PATIENCE;
    let mut last = None;
    while Instant::now() < until {
        if let Some(front) = instances(runtime, "front").await.first() {
            last = fetch(front.endpoints[0].address, path).await;
            if last == Some((200, expected.to_owned())) {
                return;
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("{path}: expected {expected}, got {last:?}");
}

async fn test(root: &PathBuf) {
    std::fs::create_dir_all(root).unwrap();
    let runtime: Arc<dyn Runtime> = Arc::new(ProcessRuntime::open(ProcessConfig::new(root)).await.unwrap());
    let parts = DeployParts::new(Arc::clone(&runtime), Arc::new(MemoryStore::new()));
    let deployer = Deployer::start(parts, DeployConfig::new("acme".parse().unwrap())).await.unwrap();

    let report = released(&deployer, shop("v1", "v1", "v1")).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    let order: Vec<_> = report.members.iter().map(|member| member.member.as_str()).collect();
    assert_eq!(order, ["db", "api", "front"]);
    // Whoever came later was told of who was there, in its environment and in its file.
    answers(&*runtime, "/environment", "front v1 > api v1 > db v1").await;
    answers(&*runtime, "/", "front v1 > api v1 > db v1").await;
    println!("three services found each other");

    // The database is replaced under load; the others are not touched and follow.
    let before: Vec<_> = instances(&*runtime, "api").await.into_iter().map(|api| api.id).collect();
    let front = instances(&*runtime, "front").await[0].endpoints[0].address;
    let load = tokio::spawn(async move {
        let mut bad = Vec::new();
        let mut count = 0_u32;
        loop {
            count += 1;
            match fetch(front, "/").await {
                Some((200, answer)) if answer.ends_with("db v2") => return (count, bad),
                Some((200, _)) => {}
                other => bad.push(other),
            }
            sleep(Duration::from_millis(5)).await;
        }
    });
    let report = released(&deployer, shop("v2", "v1", "v1")).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    assert_eq!(report.member(&name("api")).unwrap().stage, MemberStage::Unchanged);
    answers(&*runtime, "/", "front v1 > api v1 > db v2").await;
    let (count, bad) = timeout(PATIENCE, load).await.unwrap().unwrap();
    assert!(bad.is_empty(), "{} of {count} requests failed: {:?}", bad.len(), bad.first());
    let after: Vec<_> = instances(&*runtime, "api").await.into_iter().map(|api| api.id).collect();
    assert_eq!(before, after, "the API is the same");
    println!("the database was replaced: {count} requests until the new one answered, none failed");

    // A version that is broken takes back those that went before it.
    let report = released(&deployer, shop("v3", "broken", "v3")).await;
    assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
    let api = report.member(&name("api")).unwrap();
    assert!(api.cause.contains("exit code 3"), "{api:?}");
    answers(&*runtime, "/", "front v1 > api v1 > db v2").await;
    println!("a broken API took the database back with it");

    for service in ["front", "api", "db"] {
        deployer.remove(&name(service)).await.unwrap();
        timeout(PATIENCE, deployer.wait_removed(&name(service))).await.unwrap().unwrap();
    }
    let left = runtime.list(&Selector::equal("ews/owner", "acme").unwrap()).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    deployer.leave().await;
    println!("nothing is left");
}
