//! Selecting among 100,000 instances, and what their state takes in memory, against the same state held in maps of strings.

#![allow(clippy::unwrap_used, reason = "a bench that can't run says so by its panic")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ews_benches::{Bench, Pair, interleave, resident_bytes};
use ews_core::instance::{Incarnation, InstanceKey, InstanceState};
use ews_core::spec::network::Protocol;
use ews_core::{
    Digest, Endpoint, EndpointKey, Instance, Labels, NodeId, OwnerId, PortName, RevisionId, Scope, Selector,
    ServiceName, Timestamp,
};

const INSTANCES: u32 = 100_000;
/// Instances of one service; they are made from one revision and so share its labels.
const PER_SERVICE: u32 = 50;

fn main() {
    let mut bench = Bench::from_args("selector");
    // First, while no memory was freed that others could reuse unseen.
    let before = resident_bytes();
    let instances = fleet(PER_SERVICE);
    let after = resident_bytes();
    // What services of their own make of it: every instance has labels of its own.
    let apart = fleet(1);
    let others = resident_bytes();
    let maps = fleet_of_maps();
    let last = resident_bytes();
    if let (Some(before), Some(after), Some(others), Some(last)) = (before, after, others, last) {
        let each = |from: u64, to: u64| to.saturating_sub(from) as f64 / f64::from(INSTANCES);
        let (ours, peer) = (each(before, after), each(others, last));
        bench.line("state of an instance", ours, "bytes", None, format!("of {INSTANCES}, in memory"));
        bench.line(
            "the same in maps of strings",
            peer,
            "bytes",
            None,
            format!("{:.2} of it are ours", ours / peer),
        );
        bench.line("state of all", ours * f64::from(INSTANCES) / 1e6, "MB", Some(100.0), String::new());
    }

    // The target holds for the language's own example; the others show what is cheaper and what is dearer.
    for (text, target) in [
        ("app=app3,tier in (web,api),!legacy", Some(10.0)),
        ("ews/service=svc-77", None),
        ("zone!=z1,team=shop,version notin (1,2)", None),
    ] {
        let selector: Selector = text.parse().unwrap();
        let count = |fleet: &[Instance]| selector.select(fleet).count();
        let by_hand = by_hand(text);
        let count_maps = || maps.iter().filter(|(_, labels)| by_hand(labels)).count();
        assert_eq!(count(&instances), count_maps(), "{text}");
        let rounds = bench.scale(200, 20);
        let pair = interleave(rounds, || count(&instances), count_maps);
        report(&mut bench, text, target, &pair);
        let pair = interleave(rounds, || count(&apart), count_maps);
        report(&mut bench, &format!("{text} (labels apart)"), target, &pair);
    }
    std::process::exit(bench.finish());
}

fn report(bench: &mut Bench, name: &str, target: Option<f64>, pair: &Pair) {
    // A selection is made in the loop of a console or a reconciler: 10 ms is what it may cost there.
    bench.line(name, pair.ours().as_secs_f64() * 1e3, "ms", target, format!("of {INSTANCES} instances"));
    bench.ratio(name, "by hand on maps of strings", pair, None);
}

fn labels(n: u32) -> [(&'static str, String); 5] {
    let tier = ["web", "api", "db"].into_iter().nth(n as usize % 3).unwrap();
    [
        ("app", format!("app{}", n % 10)),
        ("team", "shop".to_owned()),
        ("tier", tier.to_owned()),
        ("version", (n % 7).to_string()),
        ("zone", format!("z{}", n % 4)),
    ]
}

/// As a driver that lists an engine makes them, `share` instances at a time from one spec.
fn fleet(share: u32) -> Vec<Instance> {
    let owner = OwnerId::new("prod").unwrap();
    let port = PortName::new("http").unwrap();
    let hash = Digest::of(b"spec");
    let nodes: Vec<NodeId> = (0..1000).map(|n| NodeId::new(format!("node-{n}")).unwrap()).collect();
    let mut fleet = Vec::with_capacity(INSTANCES as usize);
    let mut shared: Option<(ServiceName, RevisionId, Labels)> = None;
    for n in 0..INSTANCES {
        if n % share == 0 {
            shared = None;
        }
        let number = n / PER_SERVICE;
        let (service, revision, labels) = shared
            .get_or_insert_with(|| {
                let service = ServiceName::new(format!("svc-{number}")).unwrap();
                let revision = RevisionId::new(format!("r7-{}", hash.short())).unwrap();
                (service, revision, Labels::new(labels(number)).unwrap())
            })
            .clone();
        let key =
            InstanceKey { owner: owner.clone(), service, revision, slot: n % PER_SERVICE, generation: 0 };
        let node = nodes.get(n as usize % nodes.len()).unwrap().clone();
        let id = key.to_id().unwrap();
        let mut instance = Instance::new(id.clone(), key, node, hash, Timestamp::EPOCH);
        instance.state = InstanceState::Running;
        instance.incarnation = Incarnation(1);
        instance.labels = labels;
        instance.endpoints = vec![Endpoint {
            key: EndpointKey { instance: id, incarnation: Incarnation(1), port: port.clone() },
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 20_000),
            protocol: Protocol::Tcp,
            scope: Scope::Loopback,
        }];
        fleet.push(instance);
    }
    fleet
}

type Fields = BTreeMap<String, String>;

/// The same facts as maps of strings: fields, and labels with the service's name among them.
fn fleet_of_maps() -> Vec<(Fields, Fields)> {
    let field = |name: &str, value: String| (name.to_owned(), value);
    (0..INSTANCES)
        .map(|n| {
            let service = n / PER_SERVICE;
            let id = format!("ews_prod_svc-{service}_r7-0123456789ab_{}_0", n % PER_SERVICE);
            let fields = Fields::from([
                field("id", id.clone()),
                field("owner", "prod".into()),
                field("revision", "r7-0123456789ab".into()),
                field("slot", (n % PER_SERVICE).to_string()),
                field("generation", "0".into()),
                field("incarnation", "1".into()),
                field("node", format!("node-{}", n % 1000)),
                field("state", "running".into()),
                field(
                    "spec_hash",
                    "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef".into(),
                ),
                field("created_at", "1970-01-01T00:00:00.000000Z".into()),
                field("endpoint", format!("{id}#1:http 127.0.0.1:20000 loopback")),
            ]);
            let mut all: Fields =
                labels(service).into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            all.insert("ews/service".into(), format!("svc-{service}"));
            (fields, all)
        })
        .collect()
}

/// What somebody would write for one selector.
fn by_hand(text: &str) -> fn(&Fields) -> bool {
    match text {
        "app=app3,tier in (web,api),!legacy" => |labels| {
            labels.get("app").is_some_and(|v| v == "app3")
                && labels.get("tier").is_some_and(|v| v == "web" || v == "api")
                && !labels.contains_key("legacy")
        },
        "ews/service=svc-77" => |labels| labels.get("ews/service").is_some_and(|v| v == "svc-77"),
        _ => |labels| {
            labels.get("zone").is_none_or(|v| v != "z1")
                && labels.get("team").is_some_and(|v| v == "shop")
                && labels.get("version").is_none_or(|v| v != "1" && v != "2")
        },
    }
}
