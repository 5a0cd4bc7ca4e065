//! What the balancer shall have of a service, and bringing it there.
//!
//! The wanted endpoints are kept here; [`Director::sync`] reads what the balancer has and sends the difference as one change, with
//! the versions that it read as preconditions: a controller that lost its lease and wakes up collides instead of undoing what
//! its successor did. A change of endpoints and the shares of their pools go together, so that no pool without endpoints ever
//! has a share while another has some.
//!
//! Change ids are made from the fencing token and a number: unique in the life of a lock, and equal where a change is sent again
//! because its answer was lost.

mod aim;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ews_core::balancer::{
    Balancer, BalancerExt as _, Change, Domain, DomainName, Drained, Member, MemberState, Object,
    ObjectQuery, ObjectRef, Op, PathMatch, Pool, RouteAction, RouteRule, RouteSet, Stored, WeightedPool,
};
use ews_core::{
    ChangeId, Endpoint, EndpointAddress, EndpointKey, Error, ErrorKind, Incarnation, Instance, InstanceId,
    Labels, PoolId, Result, Retry, RevisionId, RouteSetId, ServiceName,
};
use tokio::time::{Instant, sleep, timeout};

pub(crate) use aim::{Aim, CanaryAim};

use crate::request::Traffic;

/// The most endpoint operations of one change; the rest of a change's room is for routes and pools.
const OPS: usize = 800;
/// The pause before a change is sent again.
const AGAIN: Duration = Duration::from_millis(200);

/// Moves the traffic of one service.
pub(crate) struct Director {
    balancer: Arc<dyn Balancer>,
    service: ServiceName,
    /// The fencing token of the lead, for change ids.
    token: u64,
    call_limit: Duration,
    wanted: Mutex<Wanted>,
    /// One change at a time; the number of the next one.
    sequence: tokio::sync::Mutex<u64>,
}

#[derive(Default)]
struct Wanted {
    traffic: Option<Traffic>,
    /// Domains that may be at the balancer though they are not wanted any more.
    domains: BTreeSet<DomainName>,
    endpoints: BTreeMap<InstanceId, Told>,
    /// The revisions whose pools may be at the balancer.
    revisions: BTreeSet<RevisionId>,
    aim: Aim,
    /// Whether the balancer may have something else.
    dirty: bool,
}

/// The endpoints of one instance.
struct Told {
    slot: u32,
    of: BTreeMap<EndpointKey, Entry>,
}

impl Wanted {
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.endpoints.values().flat_map(|told| told.of.values())
    }

    /// Wants this of an instance; whether that is new.
    fn put(&mut self, instance: &InstanceId, slot: u32, key: EndpointKey, entry: Entry) -> bool {
        let told = match self.endpoints.get_mut(instance) {
            Some(told) => told,
            None => {
                let new = Told { slot, of: BTreeMap::new() };
                self.endpoints.entry(instance.clone()).or_insert(new)
            }
        };
        if told.of.get(&key) == Some(&entry) {
            return false;
        }
        told.of.insert(key, entry);
        true
    }
}

#[derive(Clone, PartialEq)]
struct Entry {
    pool: PoolId,
    revision: RevisionId,
    endpoint: Endpoint<EndpointAddress>,
    state: MemberState,
}

/// A part of a difference: operations, and the versions from which they were made.
struct Part {
    ops: Vec<Op>,
    expected: Vec<(ObjectRef, Option<u64>)>,
}

impl Director {
    pub(crate) fn new(
        balancer: Arc<dyn Balancer>,
        service: ServiceName,
        token: u64,
        call_limit: Duration,
    ) -> Self {
        Self {
            balancer,
            service,
            token,
            call_limit,
            wanted: Mutex::default(),
            sequence: tokio::sync::Mutex::new(0),
        }
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pool(&self, revision: &RevisionId) -> Result<PoolId> {
        PoolId::new(format!("{}.{revision}", self.service))
    }

    fn routes(&self) -> Result<RouteSetId> {
        RouteSetId::new(self.service.as_str())
    }

    /// The routes by which a new revision is looked at before it is promoted.
    fn preview(&self) -> Result<RouteSetId> {
        preview_of(&self.service)
    }

    /// Takes up what the balancer has: what an earlier controller put there serves on until something is known of it.
    pub(crate) async fn adopt(
        &self,
        revisions: impl IntoIterator<Item = RevisionId>,
        instances: &[Instance],
    ) -> Result<()> {
        let revisions: BTreeSet<RevisionId> = revisions.into_iter().collect();
        let stored = self.stored(&revisions).await?;
        let runs: BTreeMap<_, _> =
            instances.iter().filter(|i| i.state.is_running()).map(|i| (&i.id, i)).collect();
        let mut wanted = self.wanted();
        for found in stored {
            if let Object::Endpoint(member) = found.object {
                let key = member.endpoint.key.clone();
                let found = runs.get(&key.instance).filter(|found| found.incarnation == key.incarnation);
                if let Some(found) = found {
                    let (pool, endpoint, state) = (member.pool, member.endpoint, member.state);
                    let revision = found.key.revision.clone();
                    wanted.put(&found.id, found.key.slot, key, Entry { pool, revision, endpoint, state });
                }
            }
        }
        wanted.revisions = revisions;
        wanted.dirty = true;
        Ok(())
    }

    /// Which traffic the service gets from now on.
    pub(crate) fn set_traffic(&self, traffic: Option<&Traffic>, former: &[DomainName]) {
        let mut wanted = self.wanted();
        if wanted.traffic.as_ref() != traffic {
            let before = wanted.traffic.take();
            wanted.domains.extend(before.into_iter().flat_map(|traffic| traffic.domains));
            wanted.traffic = traffic.cloned();
            wanted.dirty = true;
        }
        wanted.domains.extend(former.iter().cloned());
    }

    /// Who gets which share from now on.
    pub(crate) fn set_aim(&self, aim: Aim) {
        let mut wanted = self.wanted();
        if wanted.aim != aim {
            let before = std::mem::replace(&mut wanted.aim, aim);
            wanted.domains.extend(before.canary.into_iter().flat_map(|canary| canary.preview));
            wanted.dirty = true;
        }
    }

    /// Domains that may be at the balancer though nobody wants them any more.
    pub(crate) fn suspect_domains(&self, domains: &[DomainName]) {
        self.wanted().domains.extend(domains.iter().cloned());
    }

    /// Wants an instance's endpoint in this state.
    pub(crate) fn want(&self, instance: &Instance, state: MemberState) -> Result<()> {
        let pool = self.pool(&instance.key.revision)?;
        let mut wanted = self.wanted();
        let Some(traffic) = &wanted.traffic else { return Ok(()) };
        let found = instance.endpoints.iter().find(|endpoint| endpoint.key.port == traffic.port);
        let Some(endpoint) = found.cloned() else {
            return Err(Error::invalid(format!(
                "the instance has no endpoint for its port `{}`",
                traffic.port
            ))
            .with_context("instance", &instance.id));
        };
        wanted.revisions.insert(instance.key.revision.clone());
        let key = endpoint.key.clone();
        let revision = instance.key.revision.clone();
        let entry = Entry { pool, revision, endpoint: endpoint.into(), state };
        wanted.dirty |= wanted.put(&instance.id, instance.key.slot, key, entry);
        Ok(())
    }

    /// Whether one of the instance's endpoints is wanted in a state that takes traffic.
    pub(crate) fn serves(&self, instance: &InstanceId) -> bool {
        let wanted = self.wanted();
        let told = wanted.endpoints.get(instance);
        told.is_some_and(|told| told.of.values().any(|entry| entry.state == MemberState::Active))
    }

    /// Wants nothing of an instance any more; of its start `but`, if given, all stays.
    pub(crate) fn forget(&self, instance: &InstanceId, but: Option<Incarnation>) {
        let mut wanted = self.wanted();
        let Some(told) = wanted.endpoints.get_mut(instance) else { return };
        let before = told.of.len();
        told.of.retain(|key, _| Some(key.incarnation) == but);
        let (left, changed) = (told.of.len(), told.of.len() != before);
        if left == 0 {
            wanted.endpoints.remove(instance);
        }
        wanted.dirty |= changed;
    }

    /// Wants on only what is to be kept: of which slot, which instance, which of its starts.
    pub(crate) fn keep(&self, mut keeps: impl FnMut(u32, &InstanceId, Incarnation) -> bool) {
        let mut wanted = self.wanted();
        let mut changed = false;
        wanted.endpoints.retain(|id, told| {
            let before = told.of.len();
            told.of.retain(|key, _| keeps(told.slot, id, key.incarnation));
            changed |= told.of.len() != before;
            !told.of.is_empty()
        });
        wanted.dirty |= changed;
    }

    /// Whether something is wanted of an instance.
    pub(crate) fn has(&self, instance: &InstanceId) -> bool {
        self.wanted().endpoints.contains_key(instance)
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.wanted().dirty
    }

    /// Whether somebody looks at the service's traffic at all.
    pub(crate) fn has_traffic(&self) -> bool {
        self.wanted().traffic.is_some()
    }

    /// Takes an instance out of traffic with proof.
    pub(crate) async fn drain(&self, instance: &InstanceId, deadline: Duration) -> Result<Option<Drained>> {
        let mut draining = Vec::new();
        {
            let mut wanted = self.wanted();
            for (key, entry) in wanted.endpoints.get_mut(instance).into_iter().flat_map(|told| &mut told.of) {
                entry.state = MemberState::Draining;
                draining.push((key.clone(), entry.pool.clone()));
            }
            wanted.dirty |= !draining.is_empty();
        }
        if draining.is_empty() {
            return Ok(None);
        }
        // With the shares, so that nothing is sent to a pool that has nobody left.
        self.sync().await?;
        let mut how = None;
        for (key, pool) in draining {
            let change = self.next_change().await?;
            let drained = self.balancer.drain(&change, &pool, &key, deadline).await?;
            how = Some(match (how, drained) {
                (None | Some(Drained::Drained), drained) => drained,
                (Some(Drained::Forced(a)), Drained::Forced(b)) => Drained::Forced(a + b),
                (Some(before), _) => before,
            });
        }
        Ok(how)
    }

    async fn next_change(&self) -> Result<ChangeId> {
        let mut sequence = self.sequence.lock().await;
        *sequence += 1;
        ChangeId::new(format!("{}-{}-{}", self.service, self.token, *sequence))
    }

    /// Brings the balancer to what is wanted.
    ///
    /// # Errors
    /// The balancer's, when it has failed for as long as a call may take.
    pub(crate) async fn sync(&self) -> Result<()> {
        let until = Instant::now() + self.call_limit;
        // The guard keeps two changes from being made from the same picture.
        let mut sequence = self.sequence.lock().await;
        loop {
            match timeout(self.call_limit, self.once(&mut sequence)).await {
                Ok(Ok(())) => return Ok(()),
                // Somebody else changed an object in between: the picture is made anew.
                Ok(Err(error)) if error.kind() == ErrorKind::Stale && Instant::now() < until => {}
                Ok(Err(error)) if error.retry() != Retry::Never && Instant::now() + AGAIN < until => {
                    tracing::debug!(service = %self.service, %error, "the balancer is asked again");
                }
                Ok(Err(error)) => return Err(error.with_operation("deploy.traffic")),
                Err(_) => {
                    let message = format!("the balancer did not answer within {:?}", self.call_limit);
                    return Err(Error::new(ErrorKind::Timeout, message).with_maybe_applied());
                }
            }
            sleep(AGAIN).await;
        }
    }

    async fn once(&self, sequence: &mut u64) -> Result<()> {
        let revisions = self.wanted().revisions.clone();
        let stored = self.stored(&revisions).await?;
        let (changes, clean) = {
            let mut wanted = self.wanted();
            // What is wanted from here on makes it dirty again.
            wanted.dirty = false;
            (self.difference(&wanted, &stored)?, wanted.revisions == revisions)
        };
        let result = self.send(changes, sequence).await;
        let mut wanted = self.wanted();
        if result.is_err() || !clean {
            wanted.dirty = true;
        } else {
            // Pools that nobody is in are gone now; the last one is kept as the place to which routes point.
            let last = wanted.revisions.last().cloned();
            let used: BTreeSet<PoolId> = wanted.entries().map(|entry| entry.pool.clone()).collect();
            wanted.revisions.retain(|revision| {
                Some(revision) == last.as_ref() || self.pool(revision).is_ok_and(|pool| used.contains(&pool))
            });
        }
        result
    }

    /// The balancer may have lost or changed something: it is compared at the next sync.
    pub(crate) fn suspect(&self) {
        self.wanted().dirty = true;
    }

    async fn send(&self, changes: Vec<Part>, sequence: &mut u64) -> Result<()> {
        for Part { ops, expected } in changes {
            *sequence += 1;
            let mut change =
                Change::new(ChangeId::new(format!("{}-{}-{}", self.service, self.token, *sequence))?, ops);
            for (object, version) in expected {
                change = change.expect(object, version);
            }
            let mut last = self.balancer.apply(&change).await;
            // The answer may be lost though the change is not: the same one is sent again.
            for _ in 0..5 {
                match &last {
                    Err(error) if error.maybe_applied() || error.retry() == Retry::Safe => sleep(AGAIN).await,
                    _ => break,
                }
                last = self.balancer.apply(&change).await;
            }
            last?;
        }
        Ok(())
    }

    /// What the balancer has of the service.
    async fn stored(&self, revisions: &BTreeSet<RevisionId>) -> Result<Vec<Stored>> {
        let routes = self.routes()?;
        let preview = self.preview()?;
        let mut names = vec![ObjectRef::RouteSet(routes.clone()), ObjectRef::RouteSet(preview.clone())];
        {
            let wanted = self.wanted();
            let previews = wanted.aim.canary.iter().flat_map(|canary| &canary.preview);
            let domains = wanted.traffic.iter().flat_map(|traffic| &traffic.domains).chain(&wanted.domains);
            let domains = domains.chain(previews);
            names.extend(domains.cloned().collect::<BTreeSet<_>>().into_iter().map(ObjectRef::Domain));
        }
        let mut pools = Vec::new();
        for revision in revisions {
            let pool = self.pool(revision)?;
            names.push(ObjectRef::Pool(pool.clone()));
            pools.push(pool);
        }
        let mut stored = Vec::new();
        for names in names.chunks(ObjectQuery::MAX_ONLY) {
            stored.extend(self.page(ObjectQuery::only(names.iter().cloned())).await?);
        }
        for pool in pools {
            stored.extend(self.page(ObjectQuery::pool(pool)).await?);
        }
        // A domain that somebody else's routes serve by now is theirs.
        let is_ours = |domain: &Domain| domain.routes == routes || domain.routes == preview;
        stored.retain(|stored| !matches!(&stored.object, Object::Domain(domain) if !is_ours(domain)));
        Ok(stored)
    }

    async fn page(&self, query: ObjectQuery) -> Result<Vec<Stored>> {
        let mut query = query.limit(1_000);
        let mut all = Vec::new();
        loop {
            let page = self.balancer.objects(&query).await?;
            let Some(last) = page.last().map(|stored| stored.object.reference()) else { return Ok(all) };
            query = query.after(last);
            all.extend(page);
        }
    }

    /// The changes that lead from what is stored to what is wanted, each with the versions that it was made from.
    fn difference(&self, wanted: &Wanted, stored: &[Stored]) -> Result<Vec<Part>> {
        let has: BTreeMap<ObjectRef, &Stored> =
            stored.iter().map(|found| (found.object.reference(), found)).collect();
        let version = |reference: &ObjectRef| has.get(reference).map(|stored| stored.version);
        let shall = self.objects(wanted)?;
        let mut puts = Vec::new();
        let mut fronts = Vec::new();
        let mut states = Vec::new();
        for (reference, object) in &shall {
            match (object, has.get(reference).map(|stored| &stored.object)) {
                (object, Some(found)) if *object == *found => {}
                (Object::Endpoint(member), Some(Object::Endpoint(found)))
                    if member.endpoint == found.endpoint && member.weight == found.weight =>
                {
                    let op = Op::State {
                        pool: member.pool.clone(),
                        endpoint: member.endpoint.key.clone(),
                        state: member.state,
                    };
                    // Who takes traffic comes before the routes that send it, who takes none any more after.
                    let place = if member.state == MemberState::Active { &mut puts } else { &mut states };
                    place.push((op, reference.clone()));
                }
                (Object::Endpoint(_) | Object::Pool(_), _) => {
                    puts.push((Op::Put(object.clone()), reference.clone()))
                }
                (_, _) => fronts.push((Op::Put(object.clone()), reference.clone())),
            }
        }
        let mut gone: Vec<_> = has
            .keys()
            .filter(|reference| !shall.contains_key(*reference))
            .map(|r| (Op::Delete(r.clone()), r.clone()))
            .collect();
        // An endpoint goes before its pool.
        gone.sort_by_key(|(_, reference)| !matches!(reference, ObjectRef::Endpoint(..)));
        let (heads, tails): (Vec<_>, Vec<_>) =
            gone.into_iter().partition(|(_, r)| matches!(r, ObjectRef::Domain(_)));
        puts.sort_by_key(|(_, reference)| !matches!(reference, ObjectRef::Pool(_)));

        let all: Vec<_> = puts.into_iter().chain(heads).chain(fronts).chain(states).chain(tails).collect();
        let mut changes = Vec::new();
        for part in all.chunks(OPS) {
            let ops = part.iter().map(|(op, _)| op.clone()).collect();
            let expected =
                part.iter().map(|(_, reference)| (reference.clone(), version(reference))).collect();
            changes.push(Part { ops, expected });
        }
        Ok(changes)
    }

    /// The objects that the balancer shall have.
    fn objects(&self, wanted: &Wanted) -> Result<BTreeMap<ObjectRef, Object>> {
        let mut objects = BTreeMap::new();
        let Some(traffic) = &wanted.traffic else { return Ok(objects) };
        let mut add = |object: Object| objects.insert(object.reference(), object);
        let mut active: BTreeMap<RevisionId, u32> = BTreeMap::new();
        for entry in wanted.entries() {
            let mut member = Member::new(entry.pool.clone(), entry.endpoint.clone());
            member.state = entry.state;
            add(Object::Endpoint(member));
            let count = active.entry(entry.revision.clone()).or_default();
            *count += u32::from(entry.state == MemberState::Active);
        }
        for revision in &wanted.revisions {
            let id = self.pool(revision)?;
            // A rule must forward to one pool at least, though nobody be in it.
            if active.contains_key(revision)
                || (active.is_empty() && wanted.revisions.last() == Some(revision))
            {
                active.entry(revision.clone()).or_default();
                let mut pool = Pool::new(id);
                pool.protocol = traffic.protocol;
                pool.labels =
                    Labels::new([("service", self.service.as_str()), ("revision", revision.as_str())])?;
                add(Object::Pool(pool));
            }
        }
        if active.is_empty() {
            return Ok(objects);
        }
        let canary = wanted.aim.canary.as_ref();
        let is_new = |revision: &RevisionId| canary.is_some_and(|canary| canary.to == *revision);
        let mut shares: Vec<_> = aim::shares(&active, &wanted.aim).into_iter().collect();
        // A split by hash takes users from the last pool to none of the others as its share grows.
        shares.sort_by_key(|(revision, _)| is_new(revision));
        let mut pools = Vec::new();
        for (revision, weight) in shares {
            pools.push(WeightedPool::new(self.pool(&revision)?, weight));
        }
        let path = || PathMatch::Prefix(traffic.path.clone());
        let mut rule = RouteRule::new(path(), RouteAction::Forward(pools));
        rule.split_by = canary.and_then(|canary| canary.split_by.clone());
        let mut rules = vec![rule];
        let seen = canary.filter(|canary| active.get(&canary.to).is_some_and(|count| *count > 0));
        if let Some(canary) = seen {
            let pool = || -> Result<_> { Ok(vec![WeightedPool::new(self.pool(&canary.to)?, 1)]) };
            if !canary.matching.is_empty() {
                let mut rule = RouteRule::new(path(), RouteAction::Forward(pool()?));
                rule.attributes.clone_from(&canary.matching);
                rules.push(rule);
            }
            if !canary.preview.is_empty() {
                let rule = RouteRule::new(path(), RouteAction::Forward(pool()?));
                self.front(&mut add, self.preview()?, vec![rule], &canary.preview);
            }
        }
        self.front(&mut add, self.routes()?, rules, &traffic.domains);
        Ok(objects)
    }

    /// A set of routes and the domains that it serves.
    fn front(
        &self,
        add: &mut impl FnMut(Object) -> Option<Object>,
        routes: RouteSetId,
        rules: Vec<RouteRule>,
        domains: &[DomainName],
    ) {
        add(Object::RouteSet(RouteSet::new(routes.clone(), rules)));
        for name in domains {
            let (name, routes) = (name.clone(), routes.clone());
            add(Object::Domain(Domain::new(name, routes)));
        }
    }

    /// Refuses domains that somebody else's routes serve.
    pub(crate) async fn check_domains(
        balancer: &dyn Balancer,
        service: &ServiceName,
        domains: &[DomainName],
    ) -> Result<()> {
        // A query of no names would be one of all.
        if domains.is_empty() {
            return Ok(());
        }
        let preview = preview_of(service)?;
        let names = domains.iter().cloned().map(ObjectRef::Domain);
        for found in balancer.objects(&ObjectQuery::only(names)).await? {
            if let Object::Domain(domain) = found.object
                && domain.routes.as_str() != service.as_str()
                && domain.routes != preview
            {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!(
                        "the domain `{}` is served by the routes `{}` already; accepted: one that no other service has",
                        domain.name, domain.routes
                    ),
                )
                .with_context("field", "traffic.domains"));
            }
        }
        Ok(())
    }
}

fn preview_of(service: &ServiceName) -> Result<RouteSetId> {
    RouteSetId::new(format!("{service}.preview"))
}
