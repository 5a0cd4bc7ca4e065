//! Placing 1,000 instances on 1,000 nodes, against a bare loop that only looks for the emptiest node with room.

#![allow(clippy::unwrap_used, reason = "a bench that can't run says so by its panic")]

use ews_benches::{Bench, interleave};
use ews_core::place::{Ledger, Occupant, Request, place};
use ews_core::spec::placement::{Placement, Preference};
use ews_core::spec::resources::{ByteSize, Cpu};
use ews_core::{Arch, Capacity, Labels, Node, NodeId, Os, Platform, ServiceName};

const NODES: u32 = 1000;
const INSTANCES: u32 = 1000;
/// What stands on the nodes before: ten instances on each.
const EXISTING: u32 = 10 * NODES;

fn main() {
    let mut bench = Bench::from_args("place");
    let nodes: Vec<Node> = (0..NODES).map(node).collect();
    let existing: Vec<Occupant> = (0..EXISTING).map(occupant).collect();
    let plain = request();
    let mut placement = Placement::default();
    placement.require = Some("pool=web".parse().unwrap());
    placement.spread_by = vec!["zone".into(), "rack".into()];
    placement.prefer = vec![Preference::new("disk=ssd".parse().unwrap(), 50)];
    placement.max_per_node = Some(20);
    let full = request().with_placement(placement);

    let rounds = bench.scale(100, 10);
    for (name, request) in [("spread", &plain), ("require, prefer, spread by zone and rack", &full)] {
        let placed = place(request, INSTANCES, &nodes, &existing);
        assert_eq!((placed.chosen.len(), placed.no_room), (INSTANCES as usize, None));
        let name = format!("{INSTANCES} on {NODES} nodes: {name}");
        let pair =
            interleave(rounds, || place(request, INSTANCES, &nodes, &existing), || bare(&nodes, &existing));
        bench.line(&name, pair.ours().as_secs_f64() * 1e3, "ms", None, format!("beside {EXISTING}"));
        bench.ratio(&name, "bare loop over the nodes", &pair, None);
    }

    // What a controller does, that keeps the accounts: one more instance.
    let mut ledger = Ledger::new(&nodes, &existing);
    let rounds = bench.scale(2000, 200);
    let pair = interleave(
        rounds,
        || {
            let placed = ledger.place(&full, 1);
            let chosen = placed.chosen.into_iter().next().unwrap();
            assert!(ledger.remove(&full.occupant(chosen.node)));
        },
        || nodes.iter().map(|node| node.capacity.memory.bytes()).max(),
    );
    bench.line("one more, accounts kept", pair.ours().as_secs_f64() * 1e6, "µs", None, "and taken back");
    bench.ratio("one more, accounts kept", "a look at each node's memory", &pair, None);
    std::process::exit(bench.finish());
}

fn node(n: u32) -> Node {
    let mut node =
        Node::new(NodeId::new(format!("node-{n:04}")).unwrap(), Platform::new(Os::Linux, Arch::Amd64));
    node.capacity = Capacity::new(Cpu::from_millis(64_000), ByteSize::from_mib(256 * 1024));
    let disk = if n.is_multiple_of(3) { "ssd" } else { "hdd" };
    node.labels = Labels::new([
        ("pool", "web".to_owned()),
        ("zone", format!("z{}", n % 3)),
        ("rack", format!("r{}", n % 40)),
        ("disk", disk.to_owned()),
    ])
    .unwrap();
    node
}

fn occupant(n: u32) -> Occupant {
    let other = Request::new(ServiceName::new(format!("svc-{}", n % 200)).unwrap());
    other.with_resources(Cpu::from_millis(500), ByteSize::from_mib(512)).occupant(node_id(n % NODES))
}

fn node_id(n: u32) -> NodeId {
    NodeId::new(format!("node-{n:04}")).unwrap()
}

fn request() -> Request {
    Request::new(ServiceName::new("web").unwrap())
        .with_resources(Cpu::from_millis(250), ByteSize::from_mib(256))
}

/// Spread without labels, platforms, reasons or ports: the accounts are made, then each instance looks at every node.
fn bare(nodes: &[Node], existing: &[Occupant]) -> Vec<usize> {
    let index: std::collections::HashMap<&str, usize> =
        nodes.iter().enumerate().map(|(at, node)| (node.id.as_str(), at)).collect();
    let mut free: Vec<(u64, u64)> = nodes
        .iter()
        .map(|node| (u64::from(node.capacity.cpu.millis()), node.capacity.memory.bytes()))
        .collect();
    for occupant in existing {
        let (cpu, memory) = free.get_mut(*index.get(occupant.node.as_str()).unwrap()).unwrap();
        *cpu -= u64::from(occupant.cpu.millis());
        *memory -= occupant.memory.bytes();
    }
    let (cpu, memory) = (250, ByteSize::from_mib(256).bytes());
    let mut chosen = Vec::with_capacity(INSTANCES as usize);
    for _ in 0..INSTANCES {
        let fits = free.iter().enumerate().filter(|(_, free)| free.0 >= cpu && free.1 >= memory);
        let (at, _) = fits.max_by_key(|(_, free)| free.1).unwrap();
        let free = free.get_mut(at).unwrap();
        free.0 -= cpu;
        free.1 -= memory;
        chosen.push(at);
    }
    chosen
}
