//! The balancer's table under arbitrary changes, against a plain model of what the contract says.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

use std::collections::BTreeMap;

use ews_core::balancer::{
    Change, Domain, DomainName, Limits, Member, MemberState, Object, ObjectQuery, ObjectRef, Op, PathMatch,
    Pool, RouteAction, RouteRule, RouteSet, Table, WeightedPool,
};
use ews_core::spec::network::Protocol;
use ews_core::{
    CapabilitySet, ChangeId, Endpoint, EndpointKey, ErrorKind, Incarnation, InstanceId, PoolId, PortName,
    RouteSetId, Scope,
};
use proptest::prelude::*;

fn pool(n: u8) -> PoolId {
    PoolId::new(format!("p{n}")).unwrap()
}

fn set(n: u8) -> RouteSetId {
    RouteSetId::new(format!("s{n}")).unwrap()
}

fn key(n: u8) -> EndpointKey {
    EndpointKey {
        instance: InstanceId::new(format!("i{n}")).unwrap(),
        incarnation: Incarnation(1),
        port: PortName::new("http").unwrap(),
    }
}

fn name(n: u8) -> DomainName {
    DomainName::new(&format!("d{n}.example")).unwrap()
}

fn ops() -> impl Strategy<Value = Op> {
    let n = || 0_u8..3;
    prop_oneof![
        n().prop_map(|p| Op::Put(Object::Pool(Pool::new(pool(p))))),
        n().prop_map(|p| Op::Delete(ObjectRef::Pool(pool(p)))),
        (n(), n()).prop_map(|(p, k)| {
            let address: std::net::SocketAddr = "127.0.0.1:80".parse().unwrap();
            let endpoint = Endpoint { key: key(k), address, protocol: Protocol::Tcp, scope: Scope::Loopback };
            Op::Put(Object::Endpoint(Member::new(pool(p), endpoint)))
        }),
        (n(), n()).prop_map(|(p, k)| Op::Delete(ObjectRef::Endpoint(pool(p), key(k)))),
        (n(), n(), 0_u32..20_000).prop_map(|(p, k, weight)| Op::Weight {
            pool: pool(p),
            endpoint: key(k),
            weight
        }),
        (n(), n()).prop_map(|(p, k)| Op::State {
            pool: pool(p),
            endpoint: key(k),
            state: MemberState::Draining
        }),
        (n(), proptest::collection::btree_set(n(), 1..3)).prop_map(|(s, pools)| {
            let shares = pools.into_iter().map(|p| WeightedPool::new(pool(p), 1)).collect();
            let rule = RouteRule::new(PathMatch::Prefix("/".into()), RouteAction::Forward(shares));
            Op::Put(Object::RouteSet(RouteSet::new(set(s), [rule.clone(), rule])))
        }),
        n().prop_map(|s| Op::Delete(ObjectRef::RouteSet(set(s)))),
        (n(), n())
            .prop_map(|(s, p)| Op::Shares { set: set(s), weights: vec![WeightedPool::new(pool(p), 7)] }),
        (n(), n()).prop_map(|(d, s)| { Op::Put(Object::Domain(Domain::new(name(d), set(s)))) }),
        n().prop_map(|d| Op::Delete(ObjectRef::Domain(name(d)))),
    ]
}

fn all(table: &Table) -> BTreeMap<ObjectRef, (u64, Object)> {
    let stored = table.objects(&ObjectQuery::kinds([])).unwrap();
    stored.into_iter().map(|stored| (stored.object.reference(), (stored.version, stored.object))).collect()
}

/// What the contract says a change does, written as naively as possible.
fn model(before: &BTreeMap<ObjectRef, (u64, Object)>, ops: &[Op]) -> Option<BTreeMap<ObjectRef, Object>> {
    let mut after: BTreeMap<ObjectRef, Object> =
        before.iter().map(|(k, (_, o))| (k.clone(), o.clone())).collect();
    for op in ops {
        match op {
            Op::Put(object) => {
                after.insert(object.reference(), object.clone());
            }
            Op::Delete(reference) => {
                after.remove(reference);
                if let ObjectRef::Pool(pool) = reference {
                    after.retain(|key, _| !matches!(key, ObjectRef::Endpoint(of, _) if of == pool));
                }
            }
            Op::Weight { weight, .. } => match after.get_mut(&op.reference())? {
                Object::Endpoint(member) if *weight <= 10_000 => member.weight = *weight,
                _ => return None,
            },
            Op::State { state, .. } => match after.get_mut(&op.reference())? {
                Object::Endpoint(member) => member.state = *state,
                _ => return None,
            },
            Op::Shares { weights, .. } => {
                let Object::RouteSet(routes) = after.get_mut(&op.reference())? else { return None };
                let mut found = false;
                for rule in &mut routes.rules {
                    if let RouteAction::Forward(shares) = &mut rule.action {
                        for share in shares.iter_mut().filter(|share| share.pool == weights[0].pool) {
                            share.weight = weights[0].weight;
                            found = true;
                        }
                    }
                }
                if !found {
                    return None;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    after.values().all(|object| object.references().iter().all(|to| after.contains_key(to))).then_some(after)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn it_does_what_the_contract_says(changes in proptest::collection::vec(proptest::collection::vec(ops(), 1..5), 1..40)) {
        let mut table = Table::new(CapabilitySet::all(), Limits::default());
        for (number, ops) in changes.into_iter().enumerate() {
            let (before, generation) = (all(&table), table.generation());
            let wanted = model(&before, &ops);
            let change = Change::new(ChangeId::new(format!("c{number}")).unwrap(), ops);
            match table.apply(&change) {
                Ok(applied) => {
                    let after = all(&table);
                    let objects: BTreeMap<_, _> =
                        after.iter().map(|(key, (_, object))| (key.clone(), object.clone())).collect();
                    prop_assert_eq!(Some(objects), wanted);
                    prop_assert_eq!(applied.generation, generation + 1);
                    for (key, (version, object)) in &after {
                        let named = change.ops.iter().any(|op| op.reference() == *key);
                        prop_assert_eq!(applied.version(key), named.then_some(*version));
                        match before.get(key) {
                            Some((old, _)) if named => prop_assert!(version > old),
                            Some(old) => prop_assert_eq!(old, &(*version, object.clone())),
                            None => prop_assert!(*version > generation),
                        }
                    }
                    prop_assert_eq!(table.apply(&change).unwrap(), applied);
                }
                Err(_) => {
                    prop_assert_eq!(wanted, None);
                    prop_assert_eq!(all(&table), before);
                    prop_assert_eq!(table.generation(), generation);
                }
            }
            let image = serde_json::to_string(&table.image()).unwrap();
            let restored = Table::restore(
                serde_json::from_str(&image).unwrap(), CapabilitySet::all(), Limits::default()).unwrap();
            prop_assert_eq!(restored.image(), table.image());
            // What is counted must be what is there: a restored table counts anew.
            for n in 0..3 {
                for reference in [ObjectRef::Pool(pool(n)), ObjectRef::RouteSet(set(n))] {
                    let delete = Change::new(ChangeId::new("probe").unwrap(), [Op::Delete(reference)]);
                    prop_assert_eq!(table.prepare(&delete).is_ok(), restored.prepare(&delete).is_ok());
                }
            }
        }
    }

    #[test]
    fn pages_hold_everything_once(limit in 1_usize..7, pools in 0_u8..9) {
        let mut table = Table::new(CapabilitySet::all(), Limits::default());
        for n in 0..pools {
            let change = Change::new(
                ChangeId::new(format!("c{n}")).unwrap(), [Op::Put(Object::Pool(Pool::new(pool(n))))]);
            table.apply(&change).unwrap();
        }
        let (mut query, mut found) = (ObjectQuery::kinds([]).limit(limit), Vec::new());
        loop {
            let page = table.objects(&query).unwrap();
            prop_assert!(page.len() <= limit);
            let Some(last) = page.last().map(|stored| stored.object.reference()) else { break };
            found.extend(page.into_iter().map(|stored| stored.object.reference()));
            query = query.after(last);
        }
        prop_assert_eq!(found, (0..pools).map(|n| ObjectRef::Pool(pool(n))).collect::<Vec<_>>());
    }
}

#[test]
fn a_prepared_change_that_was_overtaken_is_refused() {
    let mut table = Table::new(CapabilitySet::all(), Limits::default());
    let put =
        |id: &str, n| Change::new(ChangeId::new(id).unwrap(), [Op::Put(Object::Pool(Pool::new(pool(n))))]);
    let ews_core::balancer::Outcome::New(prepared) = table.prepare(&put("a", 1)).unwrap() else { panic!() };
    table.apply(&put("b", 2)).unwrap();
    assert_eq!(table.commit(prepared).unwrap_err().kind(), ErrorKind::Stale);
    assert_eq!(all(&table).len(), 1);
}

#[test]
fn a_damaged_image_is_refused() {
    let text = r#"{"generation":3,"objects":[{"version":2,"object":{"domain":
        {"name":"a.example","routes":"none","certificate":null,"policy":null}}}],"changes":[]}"#;
    let image = serde_json::from_str(text).unwrap();
    let error = Table::restore(image, CapabilitySet::all(), Limits::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains("route_set/none"), "{error}");
}
