//! The pure core of a balancer: the objects, their versions, and every check that the contract asks for.
//!
//! A driver keeps one [`Table`]. [`prepare`](Table::prepare) looks at a change and changes nothing: it gives the result of a
//! replay, or a [`Prepared`] change with what it touches, or the error that the contract names. Between that and
//! [`commit`](Table::commit) the driver makes the change durable and renders it for its engine; where that fails, the
//! prepared change is dropped and nothing happened. So all-or-nothing is the same code in the gateway, in every driver and
//! in the fake.
//!
//! A version is the generation of the change that last named the object. So versions never come back, without a tombstone
//! for each of the endpoints that ever were.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::balancer::draft::{Draft, counted};
use crate::balancer::{Applied, Change, Member, Object, ObjectKind, ObjectQuery, ObjectRef, Op, Stored};
use crate::capability::CapabilitySet;
use crate::endpoint::EndpointKey;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ChangeId, PoolId};
use crate::spec::source::Digest;
use crate::time::Timestamp;

/// How much a balancer holds. Beyond it a change is refused with `OutOfResources`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Domains. Default 1,000,000.
    pub domains: usize,
    /// Route sets. Default 100,000.
    pub route_sets: usize,
    /// Rules of one route set. Default 1,000.
    pub rules: usize,
    /// Pools. Default 100,000.
    pub pools: usize,
    /// Endpoints of all pools together. Default 1,000,000.
    pub endpoints: usize,
    /// Traffic policies. Default 100,000.
    pub traffic_policies: usize,
    /// Certificates. Default 1,000,000.
    pub certificates: usize,
    /// Blackholes. Default 100,000.
    pub blackholes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            domains: 1_000_000,
            route_sets: 100_000,
            rules: 1_000,
            pools: 100_000,
            endpoints: 1_000_000,
            traffic_policies: 100_000,
            certificates: 1_000_000,
            blackholes: 100_000,
        }
    }
}

impl Limits {
    pub(super) const fn of(&self, kind: ObjectKind) -> usize {
        match kind {
            ObjectKind::Domain => self.domains,
            ObjectKind::RouteSet => self.route_sets,
            ObjectKind::Pool => self.pools,
            ObjectKind::Endpoint => self.endpoints,
            ObjectKind::TrafficPolicy => self.traffic_policies,
            ObjectKind::Certificate => self.certificates,
            ObjectKind::Blackhole => self.blackholes,
        }
    }
}

/// The objects of a balancer and the changes that made them. See the [module](self).
#[derive(Debug, Clone)]
pub struct Table {
    capabilities: CapabilitySet,
    pub(super) limits: Limits,
    generation: u64,
    pub(super) objects: BTreeMap<ObjectRef, Stored>,
    /// The endpoints of each pool, so that a pool's are found without a walk over all.
    pub(super) members: BTreeMap<PoolId, BTreeSet<EndpointKey>>,
    pub(super) counts: BTreeMap<ObjectKind, usize>,
    /// How many objects refer to this one, endpoints to their pool aside.
    pub(super) uses: HashMap<ObjectRef, usize>,
    remembered: HashMap<ChangeId, (Digest, Applied)>,
    /// The remembered changes, the oldest first.
    order: VecDeque<ChangeId>,
}

/// What [`Table::prepare`] found.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The change was applied before: nothing is to be done.
    Replay(Applied),
    /// The change may be committed.
    New(Prepared),
}

/// A change that was checked and not yet committed.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    id: ChangeId,
    digest: Digest,
    applied: Applied,
    /// What each touched object will be; `None`: it goes.
    touched: BTreeMap<ObjectRef, Option<Object>>,
}

impl Prepared {
    /// What the change will have given.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Every object that the change touches and what it will be, `None` for one that goes; ordered by reference. The
    /// endpoints of a pool that goes are among them.
    pub fn touched(&self) -> impl Iterator<Item = (&ObjectRef, Option<&Object>)> {
        self.touched.iter().map(|(reference, object)| (reference, object.as_ref()))
    }
}

/// Everything in a [`Table`], in a form that can be stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableImage {
    /// The generation.
    pub generation: u64,
    /// The objects, ordered by reference.
    pub objects: Vec<Stored>,
    /// The remembered changes, the oldest first: id, digest of the operations, result.
    pub changes: Vec<(ChangeId, Digest, Applied)>,
}

impl Table {
    /// How many changes are remembered for replays.
    pub const MEMORY: usize = 1_000;

    /// A table without objects.
    pub fn new(capabilities: CapabilitySet, limits: Limits) -> Self {
        Self {
            capabilities,
            limits,
            generation: 0,
            objects: BTreeMap::new(),
            members: BTreeMap::new(),
            counts: BTreeMap::new(),
            uses: HashMap::new(),
            remembered: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// The table that this image was taken from. Limits and capabilities that shrank meanwhile do not remove anything.
    ///
    /// # Errors
    /// `Corrupt` where an object refers to one that is not there or is newer than the table.
    pub fn restore(image: TableImage, capabilities: CapabilitySet, limits: Limits) -> Result<Self> {
        let mut table = Self::new(capabilities, limits);
        table.generation = image.generation;
        let corrupt = |what: &ObjectRef, fault: &str| {
            Error::new(ErrorKind::Corrupt, format!("the stored object {what} {fault}"))
        };
        for stored in image.objects {
            let reference = stored.object.reference();
            if stored.version > image.generation {
                return Err(corrupt(&reference, "is newer than the table"));
            }
            table.insert(reference, stored);
        }
        for (reference, stored) in &table.objects {
            if let Some(missing) =
                stored.object.references().iter().find(|to| !table.objects.contains_key(*to))
            {
                return Err(corrupt(reference, &format!("refers to {missing}, which is not there")));
            }
        }
        for (id, digest, applied) in image.changes {
            table.remember(id, digest, applied);
        }
        Ok(table)
    }

    /// Everything in it, for storage.
    pub fn image(&self) -> TableImage {
        let remembered = |id: &ChangeId| {
            let (digest, applied) = self.remembered.get(id)?;
            Some((id.clone(), *digest, applied.clone()))
        };
        TableImage {
            generation: self.generation,
            objects: self.objects.values().cloned().collect(),
            changes: self.order.iter().filter_map(remembered).collect(),
        }
    }

    /// What the balancer can do.
    pub fn capabilities(&self) -> &CapabilitySet {
        &self.capabilities
    }

    /// How much it holds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The generation of the last change.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// An object.
    pub fn get(&self, reference: &ObjectRef) -> Option<&Stored> {
        self.objects.get(reference)
    }

    /// The endpoints of a pool, ordered by key.
    pub fn members(&self, pool: &PoolId) -> impl Iterator<Item = &Member> {
        self.members.get(pool).into_iter().flatten().filter_map(|key| {
            match &self.objects.get(&ObjectRef::Endpoint(pool.clone(), key.clone()))?.object {
                Object::Endpoint(member) => Some(member),
                _ => None,
            }
        })
    }

    /// Checks a change against what is there, and changes nothing.
    ///
    /// # Errors
    /// Those of [`Balancer::apply`](crate::Balancer::apply), except `Unavailable`.
    pub fn prepare(&self, change: &Change) -> Result<Outcome> {
        self.check(change)
            .map_err(|error| error.with_operation("balancer.apply").with_context("change", &change.id))
    }

    /// Makes a prepared change true.
    ///
    /// # Errors
    /// `Stale` where another change was committed since it was prepared.
    pub fn commit(&mut self, prepared: Prepared) -> Result<Applied> {
        let Prepared { id, digest, applied, touched } = prepared;
        if applied.generation != self.generation.saturating_add(1) {
            return Err(Error::new(
                ErrorKind::Stale,
                "another change was committed since this one was prepared",
            ));
        }
        self.generation = applied.generation;
        for (reference, object) in touched {
            self.remove(&reference);
            if let Some(object) = object {
                self.insert(reference, Stored { version: applied.generation, object });
            }
        }
        self.remember(id, digest, applied.clone());
        Ok(applied)
    }

    /// Prepares and commits.
    ///
    /// # Errors
    /// Those of [`prepare`](Self::prepare).
    pub fn apply(&mut self, change: &Change) -> Result<Applied> {
        match self.prepare(change)? {
            Outcome::Replay(applied) => Ok(applied),
            Outcome::New(prepared) => self.commit(prepared),
        }
    }

    /// Forgets the blackholes that have ended by now, and names them. That is no change: the generation stays.
    pub fn expire(&mut self, now: Timestamp) -> Vec<ObjectRef> {
        let ended = |(reference, stored): (&ObjectRef, &Stored)| match &stored.object {
            Object::Blackhole(blackhole) if blackhole.until <= now => Some(reference.clone()),
            _ => None,
        };
        // Blackholes come last in the order of references.
        let ended: Vec<ObjectRef> = self
            .objects
            .iter()
            .rev()
            .take_while(|(key, _)| key.kind() == ObjectKind::Blackhole)
            .filter_map(ended)
            .collect();
        for reference in &ended {
            self.remove(reference);
        }
        ended
    }

    /// Answers [`Balancer::objects`](crate::Balancer::objects).
    ///
    /// # Errors
    /// `Invalid` for a limit of zero or more than [`ObjectQuery::MAX_ONLY`] names.
    pub fn objects(&self, query: &ObjectQuery) -> Result<Vec<Stored>> {
        use std::ops::Bound::{Excluded, Unbounded};
        if query.limit == 0 || query.only.len() > ObjectQuery::MAX_ONLY {
            return Err(Error::invalid(format!(
                "a query for {} objects by name with a limit of {}; accepted: at most {} names, a limit of at least 1",
                query.only.len(),
                query.limit,
                ObjectQuery::MAX_ONLY
            ))
            .with_operation("balancer.objects"));
        }
        let wanted = |reference: &ObjectRef| {
            (query.kinds.is_empty() || query.kinds.contains(&reference.kind()))
                && query.after.as_ref().is_none_or(|after| reference > after)
                && match (&query.pool, reference) {
                    (Some(pool), ObjectRef::Endpoint(of, _)) => pool == of,
                    _ => true,
                }
        };
        let endpoints_only = matches!(query.kinds.as_slice(), [ObjectKind::Endpoint]);
        let references: Vec<ObjectRef> = if !query.only.is_empty() {
            query.only.iter().cloned().collect::<BTreeSet<_>>().into_iter().filter(wanted).collect()
        } else if let (Some(pool), true) = (&query.pool, endpoints_only) {
            let keys = self.members.get(pool).into_iter().flatten();
            keys.map(|key| ObjectRef::Endpoint(pool.clone(), key.clone()))
                .filter(wanted)
                .take(query.limit)
                .collect()
        } else {
            let from = query.after.clone().map_or(Unbounded, Excluded);
            let found = self.objects.range((from, Unbounded)).map(|(reference, _)| reference);
            found.filter(|reference| wanted(reference)).take(query.limit).cloned().collect()
        };
        Ok(references
            .iter()
            .filter_map(|reference| self.objects.get(reference))
            .take(query.limit)
            .cloned()
            .collect())
    }

    fn check(&self, change: &Change) -> Result<Outcome> {
        let digest = digest(&change.ops)?;
        if let Some((known, applied)) = self.remembered.get(&change.id) {
            if *known == digest {
                return Ok(Outcome::Replay(applied.clone()));
            }
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                "another change with this id was applied before; a new change needs a new id",
            ));
        }
        if change.ops.is_empty() {
            return Err(Error::invalid("a change without operations; accepted: at least one"));
        }
        if change.ops.len().max(change.preconditions.len()) > Change::MAX_OPS {
            return Err(Error::new(
                ErrorKind::OutOfResources,
                format!(
                    "{} operations and {} preconditions; at most {} of each are accepted",
                    change.ops.len(),
                    change.preconditions.len(),
                    Change::MAX_OPS
                ),
            ));
        }
        for op in &change.ops {
            op.check()?;
            for capability in op.needs() {
                self.capabilities
                    .require(capability)
                    .map_err(|error| error.with_context("op", op.reference()))?;
            }
        }
        for wanted in &change.preconditions {
            let version = self.objects.get(&wanted.object).map(|stored| stored.version);
            if version != wanted.version {
                let text =
                    |version: Option<u64>| version.map_or("absent".to_owned(), |v| format!("version {v}"));
                return Err(Error::new(
                    ErrorKind::Stale,
                    format!("the object is {}, the change wants it {}", text(version), text(wanted.version)),
                )
                .with_context("object", &wanted.object));
            }
        }
        let touched = Draft::new(self).apply(&change.ops)?;
        let generation = self.generation.saturating_add(1);
        let left =
            change.ops.iter().map(Op::reference).filter(|named| matches!(touched.get(named), Some(Some(_))));
        let versions = left.map(|named| (named.to_string(), generation)).collect();
        let applied = Applied { generation, versions };
        Ok(Outcome::New(Prepared { id: change.id.clone(), digest, applied, touched }))
    }

    fn insert(&mut self, reference: ObjectRef, stored: Stored) {
        self.count(&stored.object, &reference, |count| count.saturating_add(1));
        if let ObjectRef::Endpoint(pool, key) = &reference {
            self.members.entry(pool.clone()).or_default().insert(key.clone());
        }
        self.objects.insert(reference, stored);
    }

    fn remove(&mut self, reference: &ObjectRef) {
        let Some(stored) = self.objects.remove(reference) else { return };
        self.count(&stored.object, reference, |count| count.saturating_sub(1));
        if let ObjectRef::Endpoint(pool, key) = reference
            && let Some(keys) = self.members.get_mut(pool)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.members.remove(pool);
            }
        }
    }

    fn count(&mut self, object: &Object, reference: &ObjectRef, change: impl Fn(usize) -> usize) {
        let count = self.counts.entry(reference.kind()).or_default();
        *count = change(*count);
        for to in counted(object) {
            let uses = change(self.uses.get(&to).copied().unwrap_or_default());
            if uses == 0 {
                self.uses.remove(&to);
            } else {
                self.uses.insert(to, uses);
            }
        }
    }

    fn remember(&mut self, id: ChangeId, digest: Digest, applied: Applied) {
        while self.order.len() >= Self::MEMORY {
            if let Some(oldest) = self.order.pop_front() {
                self.remembered.remove(&oldest);
            }
        }
        if self.remembered.insert(id.clone(), (digest, applied)).is_none() {
            self.order.push_back(id);
        }
    }
}

/// What tells changes with the same id apart: their operations. Preconditions are left out on purpose, see
/// [`change`](crate::balancer::Change).
fn digest(ops: &[Op]) -> Result<Digest> {
    let text = serde_json::to_vec(ops)
        .map_err(|error| Error::internal("a change can't be written as JSON").with_source(error))?;
    Ok(Digest::of(&text))
}
