//! What placement promises, by example and by property.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::label::Labels;
use crate::node::{Capacity, Node, NodeState};
use crate::spec::network::Protocol;
use crate::spec::placement::{Placement, PlacementStrategy, Preference};
use crate::spec::platform::{Arch, Isolation, Os, Platform};
use crate::spec::resources::{ByteSize, Cpu};
use crate::{NodeId, ServiceName, Timestamp};

fn node(id: &str, cpu: u32, memory: u32, labels: &[(&str, &str)]) -> Node {
    let mut node = Node::new(NodeId::new(id).unwrap(), Platform::new(Os::Linux, Arch::Amd64));
    node.capacity = Capacity::new(Cpu::from_millis(cpu), ByteSize::from_mib(memory));
    node.labels = Labels::new(labels.iter().copied()).unwrap();
    node
}

fn web() -> ServiceName {
    ServiceName::new("web").unwrap()
}

fn request(cpu: u32, memory: u32) -> Request {
    Request::new(web()).with_resources(Cpu::from_millis(cpu), ByteSize::from_mib(memory))
}

fn rules(change: impl FnOnce(&mut Placement)) -> Placement {
    let mut placement = Placement::default();
    change(&mut placement);
    placement
}

fn on(placed: &Placed) -> Vec<&str> {
    placed.chosen.iter().map(|chosen| chosen.node.as_str()).collect()
}

fn counts(placed: &Placed) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for node in on(placed) {
        *counts.entry(node).or_default() += 1;
    }
    counts
}

#[test]
fn the_reason_counts_nodes_and_names_what_would_have_been_nearest() {
    let mut nodes = vec![
        node("a", 4000, 1024, &[("zone", "a")]),
        node("b", 4000, 512, &[("zone", "a")]),
        node("c", 500, 65536, &[("zone", "a")]),
        node("d", 4000, 65536, &[("zone", "b")]),
        node("e", 4000, 65536, &[("zone", "b")]),
        node("f", 4000, 65536, &[("zone", "a")]),
        node("g", 4000, 65536, &[("zone", "a")]),
        node("h", 4000, 65536, &[("zone", "a")]),
    ];
    nodes[5].state = NodeState::Cordoned;
    nodes[6].state = NodeState::Unknown { since: Timestamp::EPOCH };
    nodes[7].platform = Platform::new(Os::Linux, Arch::Arm64);
    let request = request(1000, 2048)
        .with_placement(rules(|p| p.require = Some("zone=a".parse().unwrap())))
        .with_image(Platform::new(Os::Linux, Arch::Amd64));
    let placed = place(&request, 1, &nodes, &[]);
    assert!(placed.chosen.is_empty());
    assert_eq!(
        placed.no_room.unwrap().to_string(),
        "no room for 1 of 1 instances of web: 2 nodes: labels are not `zone=a`; 2 nodes: not enough memory (need 2GiB, \
         largest free 1GiB); 1 node: cordoned; 1 node: do not answer; 1 node: are linux/arm64; 1 node: not enough CPU \
         (need 1, largest free 500m)"
    );
    let none = place(&request, 2, &[], &[]).no_room.unwrap().to_string();
    assert_eq!(none, "no room for 2 of 2 instances of web: there are no nodes");
}

#[test]
fn spread_takes_the_node_with_fewest_of_the_service_then_the_emptiest() {
    let nodes = [node("a", 4000, 4096, &[]), node("b", 4000, 4096, &[]), node("c", 4000, 4096, &[])];
    let other = Request::new(ServiceName::new("db").unwrap())
        .with_resources(Cpu::from_millis(1000), ByteSize::from_mib(64));
    let existing = [request(100, 100).occupant(nodes[0].id.clone()), other.occupant(nodes[1].id.clone())];
    let placed = place(&request(100, 100), 4, &nodes, &existing);
    assert_eq!(on(&placed), ["c", "b", "a", "c"]);
}

#[test]
fn pack_fills_one_node_before_the_next() {
    let nodes: Vec<_> = ["a", "b", "c"].iter().map(|id| node(id, 4000, 4096, &[])).collect();
    let existing = [request(500, 0).occupant(nodes[1].id.clone())];
    let request = request(1000, 0).with_placement(rules(|p| p.strategy = PlacementStrategy::Pack));
    assert_eq!(on(&place(&request, 7, &nodes, &existing)), ["b", "b", "b", "a", "a", "a", "a"]);
}

#[test]
fn domains_are_even_whatever_the_number_of_nodes_in_them() {
    let nodes = [
        node("a1", 0, 0, &[("zone", "a"), ("rack", "1")]),
        node("a2", 0, 0, &[("zone", "a"), ("rack", "1")]),
        node("a3", 0, 0, &[("zone", "a"), ("rack", "2")]),
        node("a4", 0, 0, &[("zone", "a"), ("rack", "2")]),
        // The same rack name in another zone is another rack.
        node("b1", 0, 0, &[("zone", "b"), ("rack", "1")]),
    ];
    let by = request(0, 0).with_placement(rules(|p| p.spread_by = vec!["zone".into(), "rack".into()]));
    let placed = place(&by, 8, &nodes, &[]);
    assert_eq!(counts(&placed), BTreeMap::from([("a1", 1), ("a2", 1), ("a3", 1), ("a4", 1), ("b1", 4)]));
    // What is on a node that takes no more still counts for its zone.
    let mut cordoned = nodes.to_vec();
    cordoned[4].state = NodeState::Cordoned;
    cordoned.push(node("b2", 0, 0, &[("zone", "b"), ("rack", "1")]));
    let existing: Vec<_> = (0..3).map(|_| by.occupant(nodes[4].id.clone())).collect();
    let placed = place(&by, 3, &cordoned, &existing);
    assert!(on(&placed).iter().all(|node| node.starts_with('a')), "{placed:?}");
}

#[test]
fn a_preference_outweighs_one_instance_and_not_two() {
    let nodes = [node("a", 0, 0, &[("zone", "a")]), node("b", 0, 0, &[("zone", "b"), ("disk", "ssd")])];
    let by = |weight| {
        request(0, 0).with_placement(rules(|p| {
            p.spread_by = vec!["zone".into()];
            p.prefer = vec![Preference::new("disk=ssd".parse().unwrap(), weight)];
        }))
    };
    // A zone ahead by one costs 100, and 20 for the same node.
    assert_eq!(on(&place(&by(100), 4, &nodes, &[])), ["b", "a", "b", "a"]);
    assert_eq!(on(&place(&by(-100), 4, &nodes, &[])), ["a", "b", "a", "b"]);
    let only_preference = request(0, 0).with_placement(rules(|p| {
        p.prefer = vec![Preference::new("disk=ssd".parse().unwrap(), 100)];
    }));
    assert_eq!(on(&place(&only_preference, 6, &nodes, &[])), ["b", "b", "b", "b", "b", "a"]);
}

#[test]
fn points_add_up_and_read_as_a_sentence() {
    let nodes = [node("a", 1000, 0, &[("zone", "a"), ("disk", "ssd")])];
    let mut request = request(100, 0).with_placement(rules(|p| {
        p.spread_by = vec!["zone".into()];
        p.prefer = vec![Preference::new("disk=ssd".parse().unwrap(), 30)];
    }));
    request.image_on = vec![nodes[0].id.clone()];
    let placed = place(&request, 2, &nodes, &[]);
    assert_eq!(
        placed.chosen[1].to_string(),
        "a with -77 points: -100 for 1 of the service in the same zone, +30 by preferences, -20 for 1 of the service on the \
         node, -2 for being 20.0% full, +15 for having the image"
    );
}

#[test]
fn a_host_port_is_taken_once_per_node_and_address() {
    let nodes = [node("a", 0, 0, &[]), node("b", 0, 0, &[])];
    let port = |address: Option<&str>, number| HostPort {
        address: address.map(|address| address.parse().unwrap()),
        number,
        protocol: Protocol::Tcp,
    };
    let asking = |port| Request { ports: vec![port], ..request(0, 0) };
    let placed = place(&asking(port(None, 80)), 3, &nodes, &[]);
    assert_eq!(on(&placed), ["a", "b"]);
    assert!(placed.no_room.unwrap().to_string().ends_with("2 nodes: port 80/tcp is taken"));

    let mut ledger = Ledger::new(&nodes[..1], &[]);
    let fits = |ledger: &mut Ledger, port| ledger.place(&asking(port), 1).no_room.is_none();
    assert!(fits(&mut ledger, port(Some("10.0.0.1"), 80)));
    assert!(fits(&mut ledger, port(Some("10.0.0.2"), 80)));
    assert!(!fits(&mut ledger, port(Some("10.0.0.1"), 80)));
    assert!(!fits(&mut ledger, port(Some("0.0.0.0"), 80)));
    assert!(!fits(&mut ledger, port(None, 80)));
    assert!(fits(&mut ledger, port(None, 81)));
    assert!(ledger.remove(&asking(port(Some("10.0.0.1"), 80)).occupant(nodes[0].id.clone())));
    assert!(fits(&mut ledger, port(Some("10.0.0.1"), 80)));
}

#[test]
fn a_windows_image_is_placed_by_build_and_asks_for_the_isolation_that_fits() {
    let windows = |id: &str, version: &str, isolation: &[Isolation]| {
        let mut node = node(id, 0, 0, &[]);
        node.platform = Platform::new(Os::Windows, Arch::Amd64);
        node.platform.os_version = Some(version.parse().unwrap());
        node.isolation = isolation.to_vec();
        node
    };
    let both = [Isolation::Process, Isolation::Hyperv];
    let mut image = Platform::new(Os::Windows, Arch::Amd64);
    image.os_version = Some("10.0.20348.2700".parse().unwrap());
    let nodes = [
        windows("s2019", "10.0.17763.1", &both),
        windows("s2022", "10.0.20348.1", &both),
        windows("win11", "10.0.26200.1", &both),
        windows("only-process", "10.0.26200.1", &both[..1]),
        node("linux", 0, 0, &[]),
    ];
    let mut request = request(0, 0).with_image(image);
    request.placement.max_per_node = Some(1);
    let placed = place(&request, 5, &nodes, &[]);
    let found: BTreeMap<_, _> = placed.chosen.iter().map(|c| (c.node.as_str(), c.isolation)).collect();
    assert_eq!(found, BTreeMap::from([("s2022", None), ("win11", Some(Isolation::Hyperv))]));
    let text = placed.no_room.unwrap().to_string();
    assert!(text.contains("are of Windows build 17763, the image is of build 20348"), "{text}");

    request.platform.isolation = Some(Isolation::Process);
    let placed = place(&request, 5, &nodes, &[]);
    assert_eq!(on(&placed), ["s2022"]);
}

#[test]
fn an_unknown_capacity_takes_what_it_is_given_and_no_sum_overflows() {
    let unknown = [node("a", 0, 0, &[])];
    let huge = Request::new(web()).with_resources(Cpu::from_millis(u32::MAX), ByteSize::from_bytes(u64::MAX));
    assert_eq!(place(&huge, 100, &unknown, &[]).chosen.len(), 100);
    let mut known = node("b", 1, 0, &[]);
    known.capacity = Capacity::new(Cpu::from_millis(u32::MAX), ByteSize::from_bytes(u64::MAX));
    assert_eq!(place(&huge, 100, &[known], &[]).chosen.len(), 1);
}

fn any_nodes(max: usize) -> impl Strategy<Value = Vec<Node>> {
    let one = (0_u32..5000, 0_u32..5000, 0_u8..4, 0_u8..3, 0_u8..6);
    prop::collection::vec(one, 0..max).prop_map(|all| {
        all.into_iter()
            .enumerate()
            .map(|(at, (cpu, memory, zone, rack, state))| {
                let labels = [("zone", format!("z{zone}")), ("rack", format!("r{rack}"))];
                let mut node = node(&format!("n{at}"), cpu, memory, &[]);
                // Some nodes lack a label.
                node.labels = Labels::new(labels.into_iter().skip(usize::from(zone == 3))).unwrap();
                if state == 0 {
                    node.state = NodeState::Cordoned;
                }
                node
            })
            .collect()
    })
}

fn any_request() -> impl Strategy<Value = Request> {
    (
        0_u32..2000,
        0_u32..2000,
        any::<bool>(),
        0_usize..3,
        0_u32..4,
        -100_i32..=100,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(cpu, memory, pack, keys, most, weight, require, port)| {
            let mut request = request(cpu, memory).with_placement(rules(|p| {
                p.strategy = if pack { PlacementStrategy::Pack } else { PlacementStrategy::Spread };
                p.spread_by = ["zone", "rack"].iter().take(keys).map(|key| (*key).to_owned()).collect();
                p.max_per_node = (most > 0).then_some(most);
                p.prefer = vec![Preference::new("zone=z1".parse().unwrap(), weight)];
                p.require = require.then(|| "zone".parse().unwrap());
            }));
            if port {
                request.ports = vec![HostPort { address: None, number: 80, protocol: Protocol::Tcp }];
            }
            request
        })
}

proptest! {
    #[test]
    fn nothing_is_ever_placed_where_it_does_not_fit(
        nodes in any_nodes(12), first in any_request(), second in any_request(), count in 0_u32..40,
    ) {
        let mut ledger = Ledger::new(&nodes, &[]);
        let mut used: BTreeMap<NodeId, (u64, u64, u32, u32)> = BTreeMap::new();
        let mut second = second;
        second.service = ServiceName::new("other").unwrap();
        for request in [&first, &second] {
            let placed = ledger.place(request, count);
            let missing = placed.no_room.as_ref().map_or(0, |no_room| no_room.missing);
            prop_assert_eq!(placed.chosen.len() as u32 + missing, count);
            let mut mine: BTreeMap<NodeId, u32> = BTreeMap::new();
            for chosen in &placed.chosen {
                prop_assert_eq!(chosen.score, chosen.parts.iter().map(Part::points).sum::<i64>());
                let entry = used.entry(chosen.node.clone()).or_default();
                entry.0 += u64::from(request.cpu.millis());
                entry.1 += request.memory.bytes();
                entry.2 += request.ports.len() as u32;
                *mine.entry(chosen.node.clone()).or_default() += 1;
            }
            for (id, count) in mine {
                let node = nodes.iter().find(|node| node.id == id).unwrap();
                prop_assert_eq!(&node.state, &NodeState::Ready);
                prop_assert!(request.placement.require.as_ref().is_none_or(|s| s.matches(node)));
                prop_assert!(request.placement.max_per_node.is_none_or(|most| count <= most));
            }
        }
        for (id, (cpu, memory, ports, _)) in used {
            let capacity = nodes.iter().find(|node| node.id == id).unwrap().capacity;
            prop_assert!(capacity.cpu.millis() == 0 || cpu <= u64::from(capacity.cpu.millis()));
            prop_assert!(capacity.memory.bytes() == 0 || memory <= capacity.memory.bytes());
            prop_assert!(ports <= 1);
        }
    }

    #[test]
    fn the_order_of_nodes_does_not_show(
        nodes in any_nodes(12).prop_shuffle(), request in any_request(), count in 0_u32..30,
    ) {
        let mut sorted = nodes.clone();
        sorted.sort_by(|a, b| a.id.cmp(&b.id));
        prop_assert_eq!(place(&request, count, &nodes, &[]), place(&request, count, &sorted, &[]));
    }

    #[test]
    fn one_more_node_never_makes_room_smaller(
        nodes in any_nodes(10), request in any_request(), count in 0_u32..60,
    ) {
        let Some((_, fewer)) = nodes.split_last() else { return Ok(()) };
        let (less, more) = (place(&request, count, fewer, &[]), place(&request, count, &nodes, &[]));
        prop_assert!(more.chosen.len() >= less.chosen.len());
    }

    /// One at a time with the accounts made anew gives what the kept accounts give: nothing of the shortcuts shows.
    #[test]
    fn keeping_accounts_changes_no_choice(nodes in any_nodes(8), request in any_request(), count in 0_u32..12) {
        let at_once = place(&request, count, &nodes, &[]);
        let mut existing = Vec::new();
        let mut one_by_one = Vec::new();
        for _ in 0..count {
            for chosen in place(&request, 1, &nodes, &existing).chosen {
                existing.push(request.occupant(chosen.node.clone()));
                one_by_one.push(chosen);
            }
        }
        prop_assert_eq!(at_once.chosen, one_by_one);
    }

    /// Each choice is the best by the table of the module's header, worked out the slow way.
    #[test]
    fn every_choice_has_the_most_points(nodes in any_nodes(8), request in any_request(), count in 1_u32..8) {
        let mut existing: Vec<Occupant> = Vec::new();
        for chosen in place(&request, count, &nodes, &[]).chosen {
            let alone: BTreeSet<i64> = nodes
                .iter()
                .filter_map(|node| {
                    // The score of this node if it were the only one that takes instances.
                    let mut others = nodes.clone();
                    others.iter_mut().filter(|other| other.id != node.id).for_each(|o| o.state = NodeState::Gone);
                    place(&request, 1, &others, &existing).chosen.first().map(|only| only.score)
                })
                .collect();
            prop_assert_eq!(alone.last().copied(), Some(chosen.score));
            existing.push(request.occupant(chosen.node));
        }
    }
}
