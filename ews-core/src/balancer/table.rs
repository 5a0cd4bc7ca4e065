//! The pure core of a balancer: the objects, their versions, and every check that the contract asks for.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::balancer::domains::{DomainTable, Domains};
use crate::balancer::draft::{Draft, counted};
use crate::balancer::image::{Memory, Remembered};
use crate::balancer::{
    Applied, Change, Limits, Member, Object, ObjectKind, ObjectQuery, ObjectRef, Op, Stored,
};
use crate::capability::CapabilitySet;
use crate::endpoint::EndpointKey;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ChangeId, PoolId};
use crate::spec::source::Digest;
use crate::time::Timestamp;

/// The objects of a balancer and the changes that made them.
///
/// A driver keeps one [`Table`]. [`prepare`](Table::prepare) looks at a change and changes nothing: it gives the result of a
/// replay, or a [`Prepared`] change with what it touches, or the error that the contract names. Between that and
/// [`commit`](Table::commit) the driver makes the change durable and renders it for its engine; where that fails, the
/// prepared change is dropped and nothing happened. So all-or-nothing is the same code in the gateway, in every driver and
/// in the fake.
///
/// A version is the generation of the change that last named the object. So versions never come back, without a tombstone
/// for each of the endpoints that ever were.
///
/// A table holds a million [domains](Domains) as well as one: a change costs what it touches, not what there is.
#[derive(Debug, Clone)]
pub struct Table {
    capabilities: CapabilitySet,
    pub(super) limits: Limits,
    generation: u64,
    /// The domains, of which there are far more than of anything else.
    domains: DomainTable,
    /// All others, kind by kind.
    others: BTreeMap<ObjectKind, BTreeMap<ObjectRef, Stored>>,
    /// The endpoints of each pool, so that a pool's are found without a walk over all.
    pub(super) members: BTreeMap<PoolId, BTreeSet<EndpointKey>>,
    /// How many objects refer to this one, endpoints to their pool aside.
    pub(super) uses: HashMap<ObjectRef, usize>,
    memory: Memory,
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

    /// What is to be remembered of the change, so that a replay of it is known.
    pub fn remembered(&self) -> Remembered {
        Remembered { id: self.id.clone(), digest: self.digest, generation: self.applied.generation }
    }

    /// Every object that the change touches and what it will be, `None` for one that goes; ordered by reference. The
    /// endpoints of a pool that goes are among them.
    pub fn touched(&self) -> impl Iterator<Item = (&ObjectRef, Option<&Object>)> {
        self.touched.iter().map(|(reference, object)| (reference, object.as_ref()))
    }
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
            domains: DomainTable::default(),
            others: BTreeMap::new(),
            members: BTreeMap::new(),
            uses: HashMap::new(),
            memory: Memory::default(),
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

    /// An object. A domain is put together anew, since the table keeps it in less room; any other is lent.
    pub fn get(&self, reference: &ObjectRef) -> Option<Cow<'_, Stored>> {
        match reference {
            ObjectRef::Domain(name) => self.domains.stored(name).map(Cow::Owned),
            _ => self.other(reference).map(Cow::Borrowed),
        }
    }

    /// An object that is no domain.
    pub fn other(&self, reference: &ObjectRef) -> Option<&Stored> {
        self.others.get(&reference.kind())?.get(reference)
    }

    /// The version of an object; `None` where there is none.
    pub fn version(&self, reference: &ObjectRef) -> Option<u64> {
        match reference {
            ObjectRef::Domain(name) => self.domains.domains().get(name).map(|(version, _)| version),
            _ => self.other(reference).map(|stored| stored.version),
        }
    }

    /// The domains, for whoever routes by them: a clone of this is a few pointers and never changes.
    pub fn domains(&self) -> &Domains {
        self.domains.domains()
    }

    /// How many objects of a kind there are.
    pub fn count(&self, kind: ObjectKind) -> usize {
        match kind {
            ObjectKind::Domain => self.domains.domains().len(),
            _ => self.others.get(&kind).map_or(0, BTreeMap::len),
        }
    }

    /// The objects of a kind, ordered by reference; those after one of that kind, or all.
    pub fn stored<'a>(
        &'a self,
        kind: ObjectKind,
        after: Option<&'a ObjectRef>,
    ) -> Box<dyn Iterator<Item = Cow<'a, Stored>> + Send + 'a> {
        use std::ops::Bound::{Excluded, Unbounded};
        if kind == ObjectKind::Domain {
            let name = match after {
                Some(ObjectRef::Domain(name)) => Some(name.as_str()),
                _ => None,
            };
            return Box::new(self.domains.after(name).map(Cow::Owned));
        }
        let from = after.map_or(Unbounded, Excluded);
        let of_kind = self.others.get(&kind).into_iter();
        Box::new(
            of_kind
                .flat_map(move |all| all.range((from, Unbounded)))
                .map(|(_, stored)| Cow::Borrowed(stored)),
        )
    }

    /// The endpoints of a pool, ordered by key.
    pub fn members(&self, pool: &PoolId) -> impl Iterator<Item = &Member> {
        self.members.get(pool).into_iter().flatten().filter_map(|key| {
            match &self.other(&ObjectRef::Endpoint(pool.clone(), key.clone()))?.object {
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
            match object {
                Some(object) => self.insert(Stored { version: applied.generation, object }),
                None => self.remove(&reference),
            }
        }
        self.memory.remember(Remembered { id, digest, generation: applied.generation });
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
        let blackholes = self.others.get(&ObjectKind::Blackhole).into_iter().flatten();
        let ended: Vec<ObjectRef> = blackholes.filter_map(ended).collect();
        for reference in &ended {
            self.remove(reference);
        }
        ended
    }

    /// Answers [`Balancer::objects`](crate::Balancer::objects), with at most [`ObjectQuery::MAX_PAGE`] objects.
    ///
    /// # Errors
    /// `Invalid` for a limit of zero or more than [`ObjectQuery::MAX_ONLY`] names.
    pub fn objects(&self, query: &ObjectQuery) -> Result<Vec<Stored>> {
        if query.limit == 0 || query.only.len() > ObjectQuery::MAX_ONLY {
            return Err(Error::invalid(format!(
                "a query for {} objects by name with a limit of {}; accepted: at most {} names, a limit of at least 1",
                query.only.len(),
                query.limit,
                ObjectQuery::MAX_ONLY
            ))
            .with_operation("balancer.objects"));
        }
        let limit = query.limit.min(ObjectQuery::MAX_PAGE);
        let wants_kind = |kind: ObjectKind| query.kinds.is_empty() || query.kinds.contains(&kind);
        let of_pool = |object: &Object| match (&query.pool, object) {
            (Some(pool), Object::Endpoint(member)) => *pool == member.pool,
            _ => true,
        };
        if !query.only.is_empty() {
            let named: BTreeSet<&ObjectRef> = query.only.iter().collect();
            let wanted = named.into_iter().filter(|reference| {
                wants_kind(reference.kind()) && query.after.as_ref().is_none_or(|after| *reference > after)
            });
            let found = wanted.filter_map(|reference| self.get(reference));
            return Ok(found
                .filter(|stored| of_pool(&stored.object))
                .take(limit)
                .map(Cow::into_owned)
                .collect());
        }
        let after = query.after.as_ref();
        let mut page = Vec::new();
        for kind in ObjectKind::ALL.iter().copied().filter(|kind| wants_kind(*kind)) {
            let from = match after {
                Some(after) if after.kind() > kind => continue,
                Some(after) if after.kind() == kind => Some(after),
                _ => None,
            };
            let left = limit - page.len();
            if let (ObjectKind::Endpoint, Some(pool)) = (kind, &query.pool) {
                let keys = self.members.get(pool).into_iter().flatten();
                let references = keys.map(|key| ObjectRef::Endpoint(pool.clone(), key.clone()));
                let later = references.filter(|reference| from.is_none_or(|from| reference > from));
                page.extend(later.filter_map(|reference| self.other(&reference)).take(left).cloned());
            } else {
                page.extend(self.stored(kind, from).take(left).map(Cow::into_owned));
            }
            if page.len() >= limit {
                break;
            }
        }
        Ok(page)
    }

    fn check(&self, change: &Change) -> Result<Outcome> {
        let digest = digest(&change.ops)?;
        if let Some((known, generation)) = self.memory.get(&change.id) {
            if known == digest {
                return Ok(Outcome::Replay(applied(&change.ops, generation)));
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
            let version = self.version(&wanted.object);
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
        let applied = applied(&change.ops, self.generation.saturating_add(1));
        Ok(Outcome::New(Prepared { id: change.id.clone(), digest, applied, touched }))
    }

    /// The changes that are remembered, the oldest first.
    pub fn remembered(&self) -> impl Iterator<Item = Remembered> {
        self.memory.all()
    }

    /// Goes on from what was stored.
    pub(super) fn begin(&mut self, generation: u64, changes: impl IntoIterator<Item = Remembered>) {
        self.generation = generation;
        changes.into_iter().for_each(|change| self.memory.remember(change));
    }

    /// An object that refers to one that is not there, and that one.
    pub(super) fn dangling(&self) -> Option<(ObjectRef, ObjectRef)> {
        let missing = |to: &ObjectRef| self.version(to).is_none();
        if let Some(to) = self.domains.references().find(missing) {
            let refers = |stored: &Stored| stored.object.references().contains(&to);
            let from = self.domains.after(None).find(refers)?.object.reference();
            return Some((from, to));
        }
        self.others.values().flatten().find_map(|(from, stored)| {
            let to = stored.object.references().into_iter().find(missing)?;
            Some((from.clone(), to))
        })
    }

    /// Puts an object in place of the one of its name.
    pub(super) fn insert(&mut self, stored: Stored) {
        // Before what it was is taken back, so that what it still refers to is not forgotten in between.
        self.count_uses(counted(&stored.object), |uses| uses.saturating_add(1));
        match stored {
            Stored { version, object: Object::Domain(domain) } => {
                if let Some(before) = self.domains.put(version, &domain) {
                    self.count_uses(before.references(), |uses| uses.saturating_sub(1));
                }
            }
            other => {
                let reference = other.object.reference();
                if let ObjectRef::Endpoint(pool, key) = &reference {
                    self.members.entry(pool.clone()).or_default().insert(key.clone());
                }
                if let Some(before) =
                    self.others.entry(reference.kind()).or_default().insert(reference, other)
                {
                    self.count_uses(counted(&before.object), |uses| uses.saturating_sub(1));
                }
            }
        }
    }

    fn remove(&mut self, reference: &ObjectRef) {
        if let ObjectRef::Domain(name) = reference {
            if let Some(before) = self.domains.remove(name) {
                self.count_uses(before.references(), |uses| uses.saturating_sub(1));
            }
            return;
        }
        let Some(before) = self.others.get_mut(&reference.kind()).and_then(|all| all.remove(reference))
        else {
            return;
        };
        self.count_uses(counted(&before.object), |uses| uses.saturating_sub(1));
        if let ObjectRef::Endpoint(pool, key) = reference
            && let Some(keys) = self.members.get_mut(pool)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.members.remove(pool);
            }
        }
    }

    fn count_uses(&mut self, of: impl IntoIterator<Item = ObjectRef>, change: impl Fn(usize) -> usize) {
        for to in of {
            let uses = self.uses.get_mut(&to);
            let after = change(uses.as_ref().map_or(0, |uses| **uses));
            match uses {
                Some(_) if after == 0 => drop(self.uses.remove(&to)),
                Some(uses) => *uses = after,
                None if after > 0 => drop(self.uses.insert(to, after)),
                None => {}
            }
        }
    }
}

/// What a change that is accepted gives: a version for each object that it names and leaves behind. That follows from its
/// operations, so nothing of it has to be remembered for a replay.
fn applied(ops: &[Op], generation: u64) -> Applied {
    let mut left = BTreeSet::new();
    for op in ops {
        match op {
            Op::Delete(reference) => {
                if let ObjectRef::Pool(pool) = reference {
                    left.retain(|other| !matches!(other, ObjectRef::Endpoint(of, _) if of == pool));
                }
                left.remove(reference);
            }
            _ => drop(left.insert(op.reference())),
        }
    }
    let versions = left.into_iter().map(|reference| (reference.to_string(), generation)).collect();
    Applied { generation, versions }
}

/// What tells changes with the same id apart: their operations. Preconditions are left out on purpose, see
/// [`change`](crate::balancer::Change).
fn digest(ops: &[Op]) -> Result<Digest> {
    let text = serde_json::to_vec(ops)
        .map_err(|error| Error::internal("a change can't be written as JSON").with_source(error))?;
    Ok(Digest::of(&text))
}
