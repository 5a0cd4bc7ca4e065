//! The accounts of nodes, and the loop that fills them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use super::filter::{Filter, Obstacle};
use super::outcome::{Chosen, NoRoom, Placed};
use super::request::{HostPort, Occupant, Request};
use super::score::{Own, Part, Standing, domain_weight};
use crate::id::{NodeId, ServiceName};
use crate::label::Lookup as _;
use crate::node::Node;
use crate::spec::ServiceSpec;
use crate::spec::platform::Isolation;
use crate::spec::resources::{ByteSize, Cpu};

/// What is set aside on nodes. A value without time or IO: clone it to try something out.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// By node id, so that no order of arrival shows.
    accounts: Vec<Account>,
    places: HashMap<NodeId, usize>,
}

/// One node and what is on it.
#[derive(Debug, Clone)]
pub(super) struct Account {
    node: Node,
    // In wider types than one instance's, so that no sum overflows.
    cpu: u64,
    memory: u128,
    instances: u32,
    services: HashMap<ServiceName, u32>,
    ports: Vec<HostPort>,
}

impl Account {
    fn new(node: Node) -> Self {
        Self { node, cpu: 0, memory: 0, instances: 0, services: HashMap::new(), ports: Vec::new() }
    }

    fn add(&mut self, service: &ServiceName, cpu: Cpu, memory: ByteSize, ports: &[HostPort]) {
        self.cpu += u64::from(cpu.millis());
        self.memory += u128::from(memory.bytes());
        self.instances += 1;
        *self.services.entry(service.clone()).or_default() += 1;
        self.ports.extend_from_slice(ports);
    }

    fn remove(&mut self, occupant: &Occupant) -> bool {
        let Some(count) = self.services.get_mut(&occupant.service) else { return false };
        *count -= 1;
        if *count == 0 {
            self.services.remove(&occupant.service);
        }
        self.cpu = self.cpu.saturating_sub(u64::from(occupant.cpu.millis()));
        self.memory = self.memory.saturating_sub(u128::from(occupant.memory.bytes()));
        self.instances = self.instances.saturating_sub(1);
        for port in &occupant.ports {
            if let Some(at) = self.ports.iter().position(|taken| taken == port) {
                self.ports.swap_remove(at);
            }
        }
        true
    }

    pub(super) fn instances(&self) -> u32 {
        self.instances
    }

    pub(super) fn of_service(&self, service: &ServiceName) -> u32 {
        self.services.get(service).copied().unwrap_or(0)
    }

    pub(super) fn has_port(&self, port: &HostPort) -> bool {
        self.ports.iter().any(|taken| taken.clashes(port))
    }

    /// CPU that is left; `None` where nobody knows what there is.
    pub(super) fn free_cpu(&self) -> Option<Cpu> {
        let capacity = self.node.capacity.cpu.millis();
        let free = u64::from(capacity).saturating_sub(self.cpu);
        (capacity > 0).then(|| Cpu::from_millis(u32::try_from(free).unwrap_or(u32::MAX)))
    }

    /// Memory that is left; `None` where nobody knows what there is.
    pub(super) fn free_memory(&self) -> Option<ByteSize> {
        let capacity = self.node.capacity.memory.bytes();
        let free = u128::from(capacity).saturating_sub(self.memory);
        (capacity > 0).then(|| ByteSize::from_bytes(u64::try_from(free).unwrap_or(u64::MAX)))
    }

    /// How full it would be with one more, in thousandths of the scarcer resource; what nobody knows counts as empty.
    pub(super) fn permille_with(&self, request: &Request) -> u32 {
        let share = |used: u128, capacity: u64| {
            if capacity == 0 { 0 } else { (used.saturating_mul(1000) / u128::from(capacity)).min(1000) }
        };
        let cpu = u128::from(self.cpu + u64::from(request.cpu.millis()));
        let memory = self.memory.saturating_add(u128::from(request.memory.bytes()));
        let capacity = &self.node.capacity;
        let fuller = share(cpu, u64::from(capacity.cpu.millis())).max(share(memory, capacity.memory.bytes()));
        u32::try_from(fuller).unwrap_or(1000)
    }
}

impl Ledger {
    /// The accounts of these nodes. Ids are distinct: of several nodes of one id the last counts. What is on a node that is
    /// not among them is left out.
    pub fn new(nodes: &[Node], existing: &[Occupant]) -> Self {
        let by_id: BTreeMap<&NodeId, &Node> = nodes.iter().map(|node| (&node.id, node)).collect();
        let accounts: Vec<_> = by_id.into_values().map(|node| Account::new(node.clone())).collect();
        let places = accounts.iter().enumerate().map(|(at, account)| (account.node.id.clone(), at)).collect();
        let mut ledger = Self { accounts, places };
        for occupant in existing {
            ledger.add(occupant);
        }
        ledger
    }

    /// Enters an instance. False where its node is not known.
    pub fn add(&mut self, occupant: &Occupant) -> bool {
        let Some(account) = self.account(&occupant.node) else { return false };
        account.add(&occupant.service, occupant.cpu, occupant.memory, &occupant.ports);
        true
    }

    /// Strikes out an instance that was entered or placed. False where no instance of its service is on the node.
    pub fn remove(&mut self, occupant: &Occupant) -> bool {
        self.account(&occupant.node).is_some_and(|account| account.remove(occupant))
    }

    fn account(&mut self, node: &NodeId) -> Option<&mut Account> {
        let at = *self.places.get(node)?;
        self.accounts.get_mut(at)
    }

    /// Places `count` instances and enters them; more than [`ServiceSpec::MAX_REPLICAS`] are taken for that many.
    pub fn place(&mut self, request: &Request, count: u32) -> Placed {
        let count = count.min(ServiceSpec::MAX_REPLICAS);
        let filter = Filter::new(request);
        let mut domains = Domains::new(request, &self.accounts);
        let mut obstacles: Vec<Obstacle> = Vec::new();
        let mut candidates: HashMap<usize, Candidate> = HashMap::new();
        // The best node of each group of nodes that share every domain: only the chosen node's own standing changes.
        let mut groups: Vec<BinaryHeap<(Standing, Reverse<usize>)>> = Vec::new();
        groups.resize_with(domains.groups(), BinaryHeap::new);

        let image_on: HashSet<&NodeId> = request.image_on.iter().collect();
        for (at, account) in self.accounts.iter().enumerate() {
            let isolation = match filter.fixed(&account.node) {
                Ok(isolation) => isolation,
                Err(obstacle) => {
                    obstacles.push(obstacle);
                    continue;
                }
            };
            if let Err(obstacle) = filter.room(account) {
                obstacles.push(obstacle);
                continue;
            }
            let preferred = request.placement.prefer.iter().filter(|p| p.selector.matches(&account.node));
            let own = Own {
                fixed: preferred.map(|preference| i64::from(preference.weight.clamp(-100, 100))).sum(),
                image_there: image_on.contains(&account.node.id),
            };
            if let Some(heap) = groups.get_mut(domains.group_of(at)) {
                heap.push((own.standing(request, account), Reverse(at)));
            }
            candidates.insert(at, Candidate { own, isolation });
        }

        let mut chosen = Vec::new();
        while chosen.len() < count as usize {
            let best = groups.iter().enumerate().filter_map(|(group, heap)| {
                let (standing, at) = heap.peek()?;
                Some((standing.plus(domains.points(group)), *at, group))
            });
            let Some((_, Reverse(at), group)) = best.max() else { break };
            let (Some(heap), Some(account), Some(candidate)) =
                (groups.get_mut(group), self.accounts.get_mut(at), candidates.get(&at))
            else {
                break;
            };
            heap.pop();
            let mut parts = domains.parts(group);
            parts.extend(candidate.own.parts(request, account));
            chosen.push(Chosen {
                node: account.node.id.clone(),
                score: parts.iter().map(Part::points).sum(),
                parts,
                isolation: candidate.isolation,
            });
            account.add(&request.service, request.cpu, request.memory, &request.ports);
            domains.count(group);
            match filter.room(account) {
                Ok(()) => heap.push((candidate.own.standing(request, account), Reverse(at))),
                Err(obstacle) => obstacles.push(obstacle),
            }
        }

        let missing = count.saturating_sub(u32::try_from(chosen.len()).unwrap_or(u32::MAX));
        let no_room = (missing > 0)
            .then(|| NoRoom::new(request.service.clone(), count, missing, obstacles.into_iter()));
        Placed { chosen, no_room }
    }
}

struct Candidate {
    own: Own,
    isolation: Option<Isolation>,
}

/// How many of the service's instances each domain of `spread_by` has.
///
/// The first key divides the nodes, the second divides each of those parts, and so on. A node that lacks a key is in the
/// domain of those that lack it. Nodes that take no instances count with what they have.
struct Domains {
    keys: Vec<Arc<str>>,
    /// The group of each account.
    of_account: Vec<usize>,
    /// The domains that each group is in, one per key.
    of_group: Vec<Vec<usize>>,
    present: Vec<u32>,
}

impl Domains {
    fn new(request: &Request, accounts: &[Account]) -> Self {
        let keys: Vec<Arc<str>> =
            request.placement.spread_by.iter().map(|key| Arc::from(key.as_str())).collect();
        let mut domains = Self { keys, of_account: Vec::new(), of_group: Vec::new(), present: Vec::new() };
        // A domain is its parent and the value of its key.
        let mut known: HashMap<(Option<usize>, Option<String>), usize> = HashMap::new();
        let mut groups: HashMap<Vec<usize>, usize> = HashMap::new();
        for account in accounts {
            let mut path = Vec::with_capacity(domains.keys.len());
            for key in &domains.keys {
                let value = account.node.lookup(key).map(std::borrow::Cow::into_owned);
                let next = known.len();
                path.push(*known.entry((path.last().copied(), value)).or_insert(next));
            }
            domains.present.resize(known.len(), 0);
            let next = groups.len();
            let group = *groups.entry(path.clone()).or_insert(next);
            if group == next {
                domains.of_group.push(path);
            }
            domains.of_account.push(group);
            for _ in 0..account.of_service(&request.service) {
                domains.count(group);
            }
        }
        domains
    }

    fn groups(&self) -> usize {
        self.of_group.len()
    }

    fn group_of(&self, account: usize) -> usize {
        self.of_account.get(account).copied().unwrap_or(0)
    }

    fn in_domains(&self, group: usize) -> impl Iterator<Item = (usize, u32)> {
        let path = self.of_group.get(group).into_iter().flatten();
        path.enumerate().map(|(place, domain)| (place, self.present.get(*domain).copied().unwrap_or(0)))
    }

    fn points(&self, group: usize) -> i64 {
        self.in_domains(group).map(|(place, present)| domain_weight(place) * i64::from(present)).sum()
    }

    fn parts(&self, group: usize) -> Vec<Part> {
        let present = self.in_domains(group).zip(&self.keys);
        present
            .filter(|((_, present), _)| *present > 0)
            .map(|((place, present), key)| Part::Domain {
                key: Arc::clone(key),
                present,
                points: domain_weight(place) * i64::from(present),
            })
            .collect()
    }

    fn count(&mut self, group: usize) {
        for domain in self.of_group.get(group).into_iter().flatten() {
            if let Some(present) = self.present.get_mut(*domain) {
                *present += 1;
            }
        }
    }
}
