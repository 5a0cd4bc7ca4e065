//! What a change would leave: its operations done one after the other over a table that stays as it is.
//!
//! References, uses and limits are checked on the result, not on the way, so that a change may put a route before its pool
//! or move the last reference away and remove what it pointed to.

use std::collections::{BTreeMap, HashMap};

use crate::balancer::{
    Member, Object, ObjectKind, ObjectRef, Op, RouteAction, RouteSet, Table, WeightedPool,
};
use crate::endpoint::EndpointKey;
use crate::error::{Error, ErrorKind, Result};
use crate::id::PoolId;

pub(super) struct Draft<'a> {
    table: &'a Table,
    /// What each touched object will be; `None`: it goes.
    touched: BTreeMap<ObjectRef, Option<Object>>,
}

/// The references of an object that are counted. Those of endpoints are not: they go with their pool.
pub(super) fn counted(object: &Object) -> Vec<ObjectRef> {
    if matches!(object, Object::Endpoint(_)) { Vec::new() } else { object.references() }
}

impl<'a> Draft<'a> {
    pub(super) fn new(table: &'a Table) -> Self {
        Self { table, touched: BTreeMap::new() }
    }

    /// Does the operations in order and checks what they leave.
    pub(super) fn apply(mut self, ops: &[Op]) -> Result<BTreeMap<ObjectRef, Option<Object>>> {
        for op in ops {
            self.step(op).map_err(|error| error.with_context("op", op.reference()))?;
        }
        self.check_references()?;
        self.check_limits()?;
        Ok(self.touched)
    }

    /// An object that is no domain, as it would be by now.
    fn get(&self, reference: &ObjectRef) -> Option<&Object> {
        match self.touched.get(reference) {
            Some(touched) => touched.as_ref(),
            None => self.table.other(reference).map(|stored| &stored.object),
        }
    }

    fn step(&mut self, op: &Op) -> Result<()> {
        let reference = op.reference();
        match op {
            Op::Put(object) => {
                self.touched.insert(reference, Some(object.clone()));
            }
            Op::Delete(_) => self.delete(reference),
            Op::Shares { set, weights } => {
                let Some(Object::RouteSet(routes)) = self.get(&reference) else {
                    return Err(Error::not_found("route set", set));
                };
                let mut routes = routes.clone();
                set_shares(&mut routes, weights)?;
                self.touched.insert(reference, Some(Object::RouteSet(routes)));
            }
            Op::Weight { pool, endpoint, weight } => {
                let member = self.member(pool, endpoint)?.weight(*weight);
                self.touched.insert(reference, Some(Object::Endpoint(member)));
            }
            Op::State { pool, endpoint, state } => {
                let mut member = self.member(pool, endpoint)?;
                member.state = *state;
                self.touched.insert(reference, Some(Object::Endpoint(member)));
            }
        }
        Ok(())
    }

    fn delete(&mut self, reference: ObjectRef) {
        if let ObjectRef::Pool(pool) = &reference {
            let before = self.table.members.get(pool).into_iter().flatten();
            let mut going: Vec<ObjectRef> =
                before.map(|key| ObjectRef::Endpoint(pool.clone(), key.clone())).collect();
            going.extend(
                self.touched
                    .keys()
                    .filter(|key| matches!(key, ObjectRef::Endpoint(of, _) if of == pool))
                    .cloned(),
            );
            self.touched.extend(going.into_iter().map(|endpoint| (endpoint, None)));
        }
        self.touched.insert(reference, None);
    }

    fn member(&self, pool: &PoolId, endpoint: &EndpointKey) -> Result<Member> {
        match self.get(&ObjectRef::Endpoint(pool.clone(), endpoint.clone())) {
            Some(Object::Endpoint(member)) => Ok(member.clone()),
            _ => Err(Error::not_found("endpoint", endpoint).with_context("pool", pool)),
        }
    }

    fn check_references(&self) -> Result<()> {
        let mut uses: HashMap<ObjectRef, i64> = HashMap::new();
        for (reference, object) in &self.touched {
            if let Some(before) = self.table.get(reference) {
                for to in counted(&before.object) {
                    *uses.entry(to).or_default() -= 1;
                }
            }
            let Some(object) = object else { continue };
            if let Some(missing) = object.references().iter().find(|to| self.get(to).is_none()) {
                return Err(Error::invalid(format!(
                    "{reference} refers to {missing}, which is not there; accepted: one that is, or that comes with the same change"
                )));
            }
            for to in counted(object) {
                *uses.entry(to).or_default() += 1;
            }
        }
        for gone in self.touched.iter().filter(|(_, object)| object.is_none()).map(|(reference, _)| reference)
        {
            let before = self.table.uses.get(gone).copied().unwrap_or_default();
            let after =
                i64::try_from(before).unwrap_or(i64::MAX) + uses.get(gone).copied().unwrap_or_default();
            if after > 0 {
                return Err(Error::invalid(format!(
                    "{gone} can't be removed: {after} others refer to it; point them elsewhere first or in the same change"
                )));
            }
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<()> {
        let mut growth: BTreeMap<ObjectKind, i64> = BTreeMap::new();
        for (reference, object) in &self.touched {
            let before = i64::from(self.table.version(reference).is_some());
            *growth.entry(reference.kind()).or_default() += i64::from(object.is_some()) - before;
            if let Some(Object::RouteSet(set)) = object
                && set.rules.len() > self.table.limits.rules
            {
                return Err(beyond(
                    &format!("rules in {reference}"),
                    set.rules.len(),
                    self.table.limits.rules,
                ));
            }
        }
        for (kind, growth) in growth.into_iter().filter(|(_, growth)| *growth > 0) {
            let before = self.table.count(kind);
            let after = before.saturating_add(usize::try_from(growth).unwrap_or(usize::MAX));
            let limit = self.table.limits.of(kind);
            if after > limit {
                return Err(beyond(&format!("objects of the kind {kind:?}"), after, limit));
            }
        }
        Ok(())
    }
}

fn set_shares(routes: &mut RouteSet, weights: &[WeightedPool]) -> Result<()> {
    for WeightedPool { pool, weight } in weights {
        let mut known = false;
        for rule in &mut routes.rules {
            let RouteAction::Forward(pools) = &mut rule.action else { continue };
            for share in pools.iter_mut().filter(|share| share.pool == *pool) {
                share.weight = *weight;
                known = true;
            }
        }
        if !known {
            return Err(Error::not_found("pool in the route set", pool));
        }
    }
    Ok(())
}

fn beyond(what: &str, wanted: usize, limit: usize) -> Error {
    Error::new(
        ErrorKind::OutOfResources,
        format!("the change would make {wanted} {what}; at most {limit} are accepted"),
    )
}
