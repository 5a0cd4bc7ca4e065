//! What a newcomer gets wrong, and what they are told: each mistake is made through the public API, and its message must say what kind
//! of fault it is, where it is and what would be accepted.
//!
//! `cargo test -p ews-examples --test mistakes -- --nocapture` prints all of them.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use ews_core::balancer::{
    Change, DomainName, Member, Object, Op, PathMatch, RouteAction, RouteRule, RouteSet,
};
use ews_core::metrics::MetricQuery;
use ews_core::process::{ProcessConfig, ProcessRuntime};
use ews_core::secrets::FileSecrets;
use ews_core::spec::network::Port;
use ews_core::spec::probe::{Check, HttpCheck, Probe};
use ews_core::spec::source::{ArtifactSource, ImageSource, Source};
use ews_core::store::{MemoryStore, RedbConfig, RedbStore};
use ews_core::testkit::FakeBalancer;
use ews_core::testkit::fake::{FakeConfig, FakeEngine, FakeRuntime};
use ews_core::{
    Balancer as _, ChangeId, Error, ErrorKind, PortName, RouteSetId, ScaleChange, ScaleTarget as _, Selector,
    ServiceName, ServiceSpec,
};
use ews_deploy::{
    Batch, Canary, CanaryStep, DeployConfig, DeployParts, DeployRequest, Deployer, Outcome, RemedyPolicy,
    Strategy, Traffic,
};
use ews_scale::{ScalePolicy, Signal, Target, TargetTracking};

/// Prints what was said and looks for what must be in it.
fn says(mistake: &str, message: impl Display, words: &[&str]) {
    let message = message.to_string();
    println!("- {mistake}:\n    {}", message.replace('\n', "\n    "));
    for word in words {
        assert!(message.contains(word), "{mistake}: no `{word}` in: {message}");
    }
}

fn refuses<T>(mistake: &str, result: Result<T, Error>, kind: ErrorKind, words: &[&str]) {
    let Err(error) = result else { unreachable!("{mistake}: accepted without a word") };
    says(mistake, &error, words);
    assert_eq!(error.kind(), kind, "{mistake}: {error}");
}

fn web() -> ServiceSpec {
    let mut spec =
        ServiceSpec::new("web".parse().unwrap(), Source::Artifact(ArtifactSource::new("/srv/web")));
    spec.instance.ports = vec![Port::new("http".parse().unwrap(), None)];
    spec
}

fn named(name: &str) -> ServiceSpec {
    let mut spec = web();
    spec.name = name.parse().unwrap();
    spec
}

fn traffic(domain: &str, port: &str) -> Traffic {
    Traffic::new([DomainName::new(domain).unwrap()], port.parse().unwrap())
}

async fn deployer() -> Deployer {
    let runtime = Arc::new(FakeRuntime::connect(&FakeEngine::new(FakeConfig::default())));
    let parts = DeployParts::new(runtime, Arc::new(MemoryStore::new()));
    let parts = parts.with_balancer(Arc::new(FakeBalancer::new()));
    Deployer::start(parts, DeployConfig::new("acme".parse().unwrap())).await.unwrap()
}

#[test]
fn in_a_document() {
    let good = "name = 'web'\nartifact = '/srv/web'\n";
    let one = |line: &str| ServiceSpec::from_toml(&format!("{good}{line}\n")).map(drop);
    one("").unwrap();
    for (mistake, line, words) in [
        (
            "a command in one text",
            "command = 'serve --fast'",
            ["command (line 3", "no shell splits it", "accepted: a list"],
        ),
        ("an empty program", "command = ['']", ["command[0]", "the program's name is empty", "accepted"]),
        ("a misspelt key", "replica = 3", ["replica (line 3", "did you mean `replicas`?", "accepted"]),
        (
            "a count in quotes",
            "replicas = '3'",
            ["replicas", "whole number from 0 to 100000", "without quotes"],
        ),
        (
            "too many instances",
            "replicas = 10_000_000_000",
            ["replicas", "10000000000", "accepted: a whole number from 0 to 100000"],
        ),
        (
            "a port's number twice",
            "ports = { http = 80, admin = 80 }",
            ["ports", "given twice", "accepted: each port number once"],
        ),
        ("a port that is none", "ports = { http = 80800 }", ["ports.http", "80800", "from 1 to 65535"]),
        ("Docker's way to write a port", "ports = ['80:8080']", ["ports[0]", "80:8080", "number = 8080"]),
        (
            "a probe of a port that is not there",
            "ports = { http = 80 }\nprobes.readiness.http = { path = '/', port = 'admin' }",
            ["probes.readiness.http.port", "there is no port \"admin\" in `ports`", "accepted: \"http\""],
        ),
        (
            "a probe without any port",
            "probes.readiness.tcp = {}",
            ["probes.readiness.tcp", "no TCP port", "accepted: the field `ports`"],
        ),
        (
            "a probe's path without a slash",
            "ports = { http = 80 }\nprobes.readiness.http = 'health'",
            ["probes.readiness.http (line 4", "is not a path", "\"/health?full=1\""],
        ),
        (
            "a time without a unit",
            "stop.grace = 30",
            ["stop.grace", "without a unit", "for seconds write \"30s\""],
        ),
        ("a negative time", "stop.grace = '-30s'", ["stop.grace", "-30s", "such as"]),
        (
            "an unknown unit of time",
            "stop.grace = '3 fortnights'",
            ["stop.grace", "3 fortnights", "ms, s, m, h, d"],
        ),
        (
            "a size with a doubtful unit",
            "resources.memory = '512M'",
            ["resources.memory", "512M", "Docker means \"512MiB\" by it"],
        ),
        (
            "an absurd size",
            "resources.memory = '99999999999TiB'",
            ["resources.memory", "more than any machine has", "accepted"],
        ),
        ("hardly any memory", "resources.memory = '64'", ["resources.memory", "found", "accepted"]),
        ("a share of CPU in percent", "resources.cpu = '50%'", ["resources.cpu", "50%", "`500m`"]),
        (
            "a selector of another language",
            "placement.require = 'disk == ssd && !old'",
            ["placement.require", "expected", "accepted: conditions such as"],
        ),
        ("a mount without a source", "mounts = [{ target = '/data' }]", ["mounts[0]", "accepted", "volume"]),
        (
            "a relative mount",
            "mounts = [{ bind = 'data', target = '/data' }]",
            ["mounts[0].bind", "is not absolute", "accepted"],
        ),
        ("a list as environment", "env = ['A=b']", ["env", "found a list", "{ NAME = \"value\" }"]),
        (
            "a secret in no store",
            "env = { PASSWORD = { secrt = 'db' } }",
            ["env.PASSWORD", "secrt", "did you mean `secret`?"],
        ),
    ] {
        let problems = one(line).expect_err(mistake);
        says(mistake, &problems, &words);
        assert_eq!(problems.len(), 1, "{mistake}: one slip is one problem: {problems}");
    }
    for (mistake, text, words) in [
        (
            "a relative artifact",
            "name = 'web'\nartifact = 'web.tar.gz'",
            ["artifact (line 2", "not absolute", "accepted"],
        ),
        ("an image in upper case", "name = 'web'\nimage = 'Shop/Web:1'", ["image", "Shop/Web:1", "accepted"]),
        (
            "a name with capitals and spaces",
            "name = 'My Web'\nimage = 'shop/web:1'",
            ["name (line 1", "My Web", "accepted: 1 to 63"],
        ),
        ("neither image nor artifact", "name = 'web'", ["image", "is missing", "`artifact`"]),
        ("a key twice", "name = 'web'\nname = 'web'\nimage = 'shop/web:1'", ["line 2", "name", "twice"]),
        ("a quote that is open", "name = 'web", ["line 1", "column", "'"]),
        ("nothing at all", "", ["name", "is missing", "image"]),
    ] {
        says(mistake, ServiceSpec::from_toml(text).expect_err(mistake), &words);
    }
}

#[test]
fn in_names_and_sizes() {
    use ErrorKind::Invalid;
    refuses("a service's name", ServiceName::new("my_web"), Invalid, &["my_web", "accepted: 1 to 63"]);
    refuses("a port's name", PortName::new("HTTP"), Invalid, &["HTTP", "accepted"]);
    refuses(
        "an address as domain",
        DomainName::new("https://shop.example/"),
        Invalid,
        &["https://shop.example/", "accepted: labels"],
    );
    refuses(
        "a selector that ends early",
        "app in (web,".parse::<Selector>(),
        Invalid,
        &["character 13", "the end", "accepted: conditions"],
    );
    refuses("a label's key", Selector::equal("app!", "web"), Invalid, &["app!", "accepted: 1 to 63"]);
    refuses(
        "a batch above all",
        "120%".parse::<Batch>(),
        Invalid,
        &["`120%`", "accepted: a count from 1, or `1%` to `100%`"],
    );
}

#[test]
fn in_settings() {
    use ErrorKind::Invalid;
    for (mistake, text, words) in [
        ("a misspelt key of a strategy", r#"{"batches": 2}"#, ["batches", "first_batch"]),
        (
            "a batch in a fraction",
            r#"{"batch": 0.25}"#,
            ["floating point `0.25`", "a count from 1, or a text from"],
        ),
        (
            "a time as a number",
            r#"{"min_healthy": 10}"#,
            ["integer `10`", "a number and a unit (ms, s, m, h, d)"],
        ),
        ("a word that is none", r#"{"on_failure": "revert"}"#, ["revert", "`rollback`"]),
    ] {
        says(mistake, serde_json::from_str::<Strategy>(text).expect_err(mistake), &words);
    }
    let seconds = Duration::from_secs;
    let strategy = Strategy::default();
    refuses(
        "healthy after its deadline",
        strategy.clone().with_min_healthy(seconds(600)).check(),
        Invalid,
        &["`healthy_deadline`", "accepted: more than `min_healthy` (600s)"],
    );
    refuses(
        "batches of nothing",
        strategy.clone().with_batches(Batch::Count(0), Batch::Percent(25)).check(),
        Invalid,
        &["field=first_batch", "accepted: a count from 1"],
    );
    refuses(
        "a canary of more than all",
        strategy.clone().with_canary(Canary::new([CanaryStep::Weight(120)])).check(),
        Invalid,
        &["step 1", "a weight of 120", "accepted: 0 to 100", "field=canary.steps"],
    );
    refuses(
        "a canary without steps",
        strategy.with_canary(Canary::new([])).check(),
        Invalid,
        &["0 steps", "accepted: 1 to"],
    );
    refuses(
        "a fence that is too low",
        RemedyPolicy::default().with_fencing(seconds(1)).check(),
        Invalid,
        &["`fencing`", "accepted: 10 s to 7 days"],
    );
    let signal =
        || Signal::new("load", Target::PerInstance(10.0), MetricQuery::new("load", Selector::everything()));
    for (mistake, policy, words) in [
        ("scaled to zero", ScalePolicy::new(0, 5, [signal()]), ["`min` is 0", "accepted: 1 or more"]),
        (
            "bounds the wrong way round",
            ScalePolicy::new(5, 2, [signal()]),
            ["`max` is 2", "accepted: from `min` (5)"],
        ),
        ("scaled by nothing", ScalePolicy::new(1, 5, []), ["`signals` has 0 entries", "accepted: 1 to 32"]),
        (
            "one signal twice",
            ScalePolicy::new(1, 5, [signal(), signal()]),
            ["two signals are named `load`", "accepted"],
        ),
    ] {
        refuses(mistake, TargetTracking::new(policy).map(drop), Invalid, &words);
    }
}

#[tokio::test]
async fn at_the_start() {
    let nowhere = std::env::temp_dir().join("ews-mistakes-nowhere/state.redb");
    let opened = RedbStore::open(&nowhere, RedbConfig::default()).await.map(drop);
    refuses(
        "a store in a directory that is not there",
        opened,
        ErrorKind::NotFound,
        &["ews-mistakes-nowhere", "the folder for the file does not exist; create it first"],
    );
    let secrets = FileSecrets::new(nowhere).map(drop);
    refuses(
        "secrets in a directory that is not there",
        secrets,
        ErrorKind::NotFound,
        &["directory of secrets", "ews-mistakes-nowhere"],
    );

    let directory = tempfile::tempdir().unwrap();
    let opened = ProcessRuntime::open(ProcessConfig::new(directory.path())).await.map(drop);
    refuses(
        "no `shim_entry`",
        opened,
        ErrorKind::Invalid,
        &["call `ews_core::process::shim_entry()` as the first line of `main`"],
    );
    let ports = ProcessConfig::new(directory.path()).with_ports(80..=90).map(drop);
    refuses(
        "ports of the system",
        ports,
        ErrorKind::Invalid,
        &["ports 80 to 90", "accepted: a range within 1024"],
    );

    let runtime = Arc::new(FakeRuntime::connect(&FakeEngine::new(FakeConfig::default())));
    let parts = DeployParts::new(runtime, Arc::new(MemoryStore::new()));
    let config = DeployConfig::new("acme".parse().unwrap()).with_lease(Duration::from_secs(1));
    let started = Deployer::start(parts, config).await.map(drop);
    refuses(
        "a lease that is too short",
        started,
        ErrorKind::Invalid,
        &["`lease`", "accepted: 3 s to 24 h", "field=lease"],
    );
}

#[tokio::test(start_paused = true)]
async fn when_deploying() {
    use ErrorKind::{AlreadyExists, Invalid, NotFound};
    let deployer = deployer().await;
    let deploy = async |request: DeployRequest| {
        // What is refused is refused by the dry run too.
        let planned = deployer.plan(&request).await.map(drop);
        let deployed = deployer.deploy(&request).await.map(drop);
        let kind = |result: &Result<(), Error>| result.as_ref().err().map(Error::kind);
        assert_eq!(kind(&planned), kind(&deployed));
        deployed
    };
    let changed = |change: fn(&mut ServiceSpec)| {
        let mut spec = web();
        change(&mut spec);
        DeployRequest::new(spec)
    };
    for (mistake, request, words) in [
        (
            "traffic without a port",
            changed(|spec| spec.instance.ports.clear()).with_traffic(traffic("a.test", "http")),
            vec![
                "the port `http`, which the service does not have",
                "add `ports = { http = 8080 }`",
                "field=traffic.port",
            ],
        ),
        (
            "traffic for another port",
            DeployRequest::new(web()).with_traffic(traffic("a.test", "admin")),
            vec!["the port `admin`", "accepted: http", "field=traffic.port"],
        ),
        (
            "traffic below no path",
            DeployRequest::new(web()).with_traffic({
                let mut traffic = traffic("a.test", "http");
                traffic.path = "shop".to_owned();
                traffic
            }),
            vec!["the path `shop`", "accepted: one that starts with `/`", "field=traffic.path"],
        ),
        (
            "traffic without a domain",
            DeployRequest::new(web()).with_traffic(Traffic::new([], "http".parse().unwrap())),
            vec!["accepted: at least one, `*` for every host", "field=traffic.domains"],
        ),
        (
            "an image by its tag",
            changed(|spec| {
                spec.instance.source = Source::Image(ImageSource::new("shop/web:1.2".parse().unwrap()))
            }),
            vec!["shop/web:1.2` is not pinned", "accepted: a reference with the digest", "field=image.pin"],
        ),
        (
            "a relative artifact, in Rust",
            changed(|spec| spec.instance.source = Source::Artifact(ArtifactSource::new("web"))),
            vec!["artifact.location", "not absolute", "accepted"],
        ),
        (
            "an empty program, in Rust",
            changed(|spec| spec.instance.command = vec![String::new()]),
            vec!["command[0]", "the program's name is empty", "accepted"],
        ),
        (
            "a port twice, in Rust",
            changed(|spec| {
                let port = Port::new("http".parse().unwrap(), Some(80));
                spec.instance.ports = vec![port.clone(), port];
            }),
            vec!["the port name \"http\" is given twice", "accepted: each port name once"],
        ),
        (
            "a probe of a port that is not there, in Rust",
            changed(|spec| {
                let mut check = HttpCheck::new("/");
                check.port = Some("admin".parse().unwrap());
                spec.instance.probes.readiness = Some(Probe::new(Check::Http(check)));
            }),
            vec!["there is no port \"admin\"", "accepted: \"http\""],
        ),
        (
            "fewer instances than the least",
            changed(|spec| spec.replicas = 0).with_bounds(1..=5),
            vec!["0 instances", "accepted by the service's bounds: 1 to 5", "field=replicas"],
        ),
        (
            "more instances than a service may have",
            changed(|spec| spec.replicas = 60_000),
            vec!["60000 replicas", "accepted: at most 50000", "field=replicas"],
        ),
        (
            "a grace beyond the lease",
            changed(|spec| spec.instance.stop.grace = Duration::from_secs(600)),
            vec!["a stop grace of 600s", "accepted: at most 25s", "field=stop.grace"],
        ),
        (
            "a weighted canary without traffic",
            DeployRequest::new(web()).with_strategy(Strategy::default().with_canary(Canary::new([
                CanaryStep::Match(vec![ews_core::balancer::AttributeMatch::new(
                    ews_core::balancer::AttributePlace::Header,
                    "x-beta",
                )]),
            ]))),
            vec!["gets no traffic", "accepted: `traffic` beside it"],
        ),
        (
            "a service named as jobs are",
            DeployRequest::new(named("web-ews-job")),
            vec!["`-ews-job`", "accepted: any other", "field=name"],
        ),
    ] {
        refuses(mistake, deploy(request).await, Invalid, &words);
    }

    let mut placed = web();
    placed.placement.max_per_node = Some(1);
    refuses(
        "a wish that nobody would heed",
        deploy(DeployRequest::new(placed)).await,
        ErrorKind::Unsupported,
        &["the runtime chooses where instances run", "accepted: no `placement`", "field=placement"],
    );

    let first = DeployRequest::new(web()).with_traffic(traffic("shop.test", "http"));
    let rollout = deployer.deploy(&first).await.unwrap();
    assert_eq!(deployer.wait(&rollout).await.unwrap().outcome, Some(Outcome::Succeeded));
    refuses(
        "a domain that another service has",
        deploy(DeployRequest::new(named("other")).with_traffic(traffic("shop.test", "http"))).await,
        AlreadyExists,
        &[
            "`shop.test`",
            "the routes `web`",
            "accepted: one that no other service has",
            "field=traffic.domains",
        ],
    );
    refuses(
        "a rollback of the first version",
        deployer.rollback(&"web".parse().unwrap(), None).await,
        NotFound,
        &["no earlier revision", "service=web"],
    );
    refuses(
        "the status of a stranger",
        deployer.status(&"wbe".parse().unwrap()).await.map(drop),
        NotFound,
        &["no such service: wbe"],
    );
    let web: ServiceName = "web".parse().unwrap();
    refuses(
        "scaled beyond everything",
        deployer.set(&web, &ScaleChange::to(100_000, "a slip")).await,
        Invalid,
        &["100000 instances", "bounds: 0 to 50000", "service=web"],
    );
    deployer.leave().await;
}

#[tokio::test]
async fn at_the_balancer() {
    let balancer = FakeBalancer::new();
    let apply =
        async |op: Op| balancer.apply(&Change::new(ChangeId::new("c").unwrap(), [op])).await.map(drop);
    let forward = |pools: &[(&str, u32)]| {
        let pools = pools
            .iter()
            .map(|(pool, weight)| ews_core::balancer::WeightedPool::new(pool.parse().unwrap(), *weight));
        let rule = RouteRule::new(PathMatch::Prefix("/".to_owned()), RouteAction::Forward(pools.collect()));
        Op::Put(Object::RouteSet(RouteSet::new(RouteSetId::new("s").unwrap(), [rule])))
    };
    let beyond = Member::MAX_WEIGHT + 1;
    for (mistake, op, words) in [
        (
            "a weight beyond the largest",
            forward(&[("a", beyond)]),
            vec!["10001", "accepted", "object=route_set/s"],
        ),
        (
            "one pool twice",
            forward(&[("a", 1), ("a", 1)]),
            vec!["the pool `a` comes twice; accepted: each pool once", "object=route_set/s"],
        ),
        (
            "routes to a pool that is not there",
            forward(&[("a", 1)]),
            vec!["route_set/s refers to pool/a, which is not there; accepted: one that is"],
        ),
        ("routes to nothing", forward(&[]), vec!["forwards to no pool", "accepted: at least one"]),
    ] {
        refuses(mistake, apply(op).await, ErrorKind::Invalid, &words);
    }
}
