//! What a balancer holds: references, removals, capabilities, wrong and hostile objects, pages, size.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Bench;
use crate::balancer::{
    Algorithm, AttributeMatch, AttributePlace, Blackhole, BlackholeTarget, Certificate, Change, Domain,
    DomainName, ForwardAuth, HashOn, HeaderEdits, HeaderField, HealthCheck, Hold, Member, MemberState,
    Object, ObjectKind, ObjectQuery, ObjectRef, Op, Outlier, PathMatch, Pool, PoolProtocol, RedirectTo,
    RouteAction, RouteFilter, RouteRule, RouteSet, Sticky, TrafficPolicy, UpstreamTls, WeightedPool,
};
use crate::capability::Capability;
use crate::error::ErrorKind;
use crate::id::{CertificateId, TrafficPolicyId};
use crate::testkit::conformance::expect::{ensure, refused, same};
use crate::testkit::conformance::{CaseResult, Stop};
use crate::time::Timestamp;

pub(super) async fn references_are_checked_on_the_result(bench: Bench<'_>) -> CaseResult {
    // The route comes before its pool, and the pool goes while the route is pointed elsewhere.
    bench.apply("1", [bench.put_routes("s", &[("a", 1)])?, bench.put_pool("a")?]).await?;
    let move_away =
        [Op::Delete(bench.pool_ref("a")?), bench.put_pool("b")?, bench.put_routes("s", &[("b", 1)])?];
    bench.apply("2", move_away).await?;
    ensure!(bench.get(&bench.pool_ref("a")?).await?.is_none(), "the pool was to go");
    bench.clean([ObjectRef::RouteSet(bench.set("s")?), bench.pool_ref("b")?]).await;
    Ok(())
}

pub(super) async fn dangling_references_are_refused(bench: Bench<'_>) -> CaseResult {
    let mut dangling = vec![bench.put_routes("s", &[("none", 1)])?, bench.put_member("none", 1)?];
    if bench.balancer.capabilities().has(Capability::RouteHost) {
        dangling.push(Op::Put(Object::Domain(bench.domain("none")?)));
    }
    for (number, op) in dangling.into_iter().enumerate() {
        let reference = op.reference();
        let result = bench.apply(&number.to_string(), [op]).await;
        refused(&format!("{reference} that refers to nothing"), result, &[ErrorKind::Invalid])?;
        same("the refused object", &bench.get(&reference).await?, &None)?;
    }
    Ok(())
}

pub(super) async fn what_is_referred_to_is_not_removed(bench: Bench<'_>) -> CaseResult {
    let set = ObjectRef::RouteSet(bench.set("s")?);
    bench.apply("1", [bench.put_pool("a")?, bench.put_routes("s", &[("a", 1)])?]).await?;
    refused(
        "a pool in use",
        bench.apply("2", [Op::Delete(bench.pool_ref("a")?)]).await,
        &[ErrorKind::Invalid],
    )?;
    ensure!(bench.get(&bench.pool_ref("a")?).await?.is_some(), "the pool in use is gone");
    if bench.balancer.capabilities().has(Capability::RouteHost) {
        bench.apply("3", [Op::Put(Object::Domain(bench.domain("s")?))]).await?;
        refused(
            "a route set in use",
            bench.apply("4", [Op::Delete(set.clone())]).await,
            &[ErrorKind::Invalid],
        )?;
        bench.apply("5", [Op::Delete(ObjectRef::Domain(bench.host()?))]).await?;
    }
    bench.apply("6", [Op::Delete(set)]).await?;
    bench.apply("7", [Op::Delete(bench.pool_ref("a")?)]).await?;
    Ok(())
}

pub(super) async fn removing_a_pool_removes_its_endpoints(bench: Bench<'_>) -> CaseResult {
    let ops =
        [bench.put_pool("a")?, bench.put_pool("b")?, bench.put_member("a", 1)?, bench.put_member("b", 2)?];
    bench.apply("1", ops).await?;
    bench.apply("2", [Op::Delete(bench.pool_ref("a")?)]).await?;
    let gone = bench.get(&ObjectRef::Endpoint(bench.pool("a")?, bench.key(1, 1)?)).await?;
    same("the endpoint of the removed pool", &gone, &None)?;
    let kept = bench.get(&ObjectRef::Endpoint(bench.pool("b")?, bench.key(2, 1)?)).await?;
    ensure!(kept.is_some(), "the endpoint of another pool is gone too");
    bench.apply("3", [bench.put_pool("a")?]).await?;
    same(
        "endpoints of the pool made anew",
        &bench.balancer.objects(&ObjectQuery::pool(bench.pool("a")?)).await?.len(),
        &0,
    )?;
    bench.clean([bench.pool_ref("a")?, bench.pool_ref("b")?]).await;
    Ok(())
}

pub(super) async fn removing_what_is_not_there_is_harmless(bench: Bench<'_>) -> CaseResult {
    let applied = bench.apply("1", [Op::Delete(bench.pool_ref("none")?)]).await?;
    same("versions", &applied.versions.len(), &0)
}

pub(super) async fn replacing_a_pool_keeps_its_endpoints(bench: Bench<'_>) -> CaseResult {
    bench.apply("1", [bench.put_pool("a")?, bench.put_member("a", 1)?]).await?;
    let mut pool = Pool::new(bench.pool("a")?);
    pool.labels = crate::Labels::new([("service", "shop")])?;
    bench.apply("2", [Op::Put(Object::Pool(pool.clone()))]).await?;
    let stored = bench.get(&bench.pool_ref("a")?).await?.map(|stored| stored.object);
    same("the replaced pool", &stored, &Some(Object::Pool(pool)))?;
    let kept = bench.get(&ObjectRef::Endpoint(bench.pool("a")?, bench.key(1, 1)?)).await?.map(|s| s.object);
    same("its endpoint", &kept, &Some(Object::Endpoint(bench.member("a", 1, 1)?)))?;
    bench.clean([bench.pool_ref("a")?]).await;
    Ok(())
}

pub(super) async fn weight_and_state_need_an_endpoint(bench: Bench<'_>) -> CaseResult {
    bench.apply("1", [bench.put_pool("a")?, bench.put_member("a", 1)?]).await?;
    let (pool, there, missing) = (bench.pool("a")?, bench.key(1, 1)?, bench.key(1, 2)?);
    let state = |endpoint, state| Op::State { pool: pool.clone(), endpoint, state };
    let result = bench.apply("2", [state(missing.clone(), MemberState::Draining)]).await;
    refused("the state of an incarnation that is not there", result, &[ErrorKind::NotFound])?;
    bench.apply("3", [state(there.clone(), MemberState::Draining)]).await?;
    let mut wanted = bench.member("a", 1, 1)?;
    wanted.state = MemberState::Draining;
    if bench.balancer.capabilities().has(Capability::Weights) {
        let weight = |endpoint, weight| Op::Weight { pool: pool.clone(), endpoint, weight };
        let result = bench.apply("4", [weight(missing, 1)]).await;
        refused("the weight of an incarnation that is not there", result, &[ErrorKind::NotFound])?;
        let result = bench.apply("5", [weight(there.clone(), Member::MAX_WEIGHT + 1)]).await;
        refused("a weight above the largest", result, &[ErrorKind::Invalid])?;
        bench.apply("6", [weight(there.clone(), Member::MAX_WEIGHT)]).await?;
        wanted.weight = Member::MAX_WEIGHT;
    }
    let stored = bench.get(&ObjectRef::Endpoint(pool, there)).await?.map(|stored| stored.object);
    same("the endpoint: nothing else of it changes", &stored, &Some(Object::Endpoint(wanted)))?;
    bench.clean([bench.pool_ref("a")?]).await;
    Ok(())
}

pub(super) async fn shares_change_nothing_else(bench: Bench<'_>) -> CaseResult {
    bench.needs(Capability::Weights)?;
    let mut routes = bench.routes("s", &[("a", 100), ("b", 0)])?;
    routes.rules.push(RouteRule::new(
        PathMatch::Prefix("/".to_owned()),
        RouteAction::Respond { status: 200, body: "ok".to_owned() },
    ));
    let make = [
        bench.put_pool("a")?,
        bench.put_pool("b")?,
        bench.put_pool("c")?,
        Op::Put(Object::RouteSet(routes.clone())),
    ];
    bench.apply("1", make).await?;
    let set = bench.set("s")?;
    let share = |pool, weight| WeightedPool { pool, weight };
    let shares = |weights: Vec<WeightedPool>| Op::Shares { set: set.clone(), weights };
    let missing = vec![share(bench.pool("a")?, 1), share(bench.pool("c")?, 1)];
    refused(
        "the share of a pool that no rule has",
        bench.apply("2", [shares(missing)]).await,
        &[ErrorKind::NotFound],
    )?;
    let gone = Op::Shares { set: bench.set("none")?, weights: vec![share(bench.pool("a")?, 1)] };
    refused(
        "shares of a route set that is not there",
        bench.apply("3", [gone]).await,
        &[ErrorKind::NotFound],
    )?;
    bench.apply("4", [shares(vec![share(bench.pool("b")?, 5), share(bench.pool("a")?, 95)])]).await?;
    let wanted = vec![share(bench.pool("a")?, 95), share(bench.pool("b")?, 5)];
    if let Some(rule) = routes.rules.first_mut() {
        rule.action = RouteAction::Forward(wanted);
    }
    let stored = bench.get(&ObjectRef::RouteSet(set.clone())).await?.map(|stored| stored.object);
    same("the route set", &stored, &Some(Object::RouteSet(routes)))?;
    let all = ["a", "b", "c"].into_iter().map(|name| bench.pool_ref(name));
    bench.clean([ObjectRef::RouteSet(set)].into_iter().chain(all.collect::<crate::Result<Vec<_>>>()?)).await;
    Ok(())
}

pub(super) async fn what_it_can_not_do_is_refused(bench: Bench<'_>) -> CaseResult {
    let capabilities = bench.balancer.capabilities();
    bench
        .apply(
            "make",
            [
                bench.put_pool("a")?,
                bench.put_pool("b")?,
                bench.put_member("a", 1)?,
                bench.put_routes("s", &[("a", 1)])?,
            ],
        )
        .await?;
    let rule = |path| RouteRule::new(path, RouteAction::Respond { status: 200, body: String::new() });
    let rules =
        |rule| Ok::<_, Stop>(Op::Put(Object::RouteSet(RouteSet { id: bench.set("t")?, rules: vec![rule] })));
    let pool = |change: fn(&mut Pool)| {
        let mut pool = Pool::new(bench.pool("c")?);
        change(&mut pool);
        Ok::<_, Stop>(Op::Put(Object::Pool(pool)))
    };
    let domain = |name: &str| {
        Ok::<_, Stop>(Op::Put(Object::Domain(Domain { name: DomainName::new(name)?, ..bench.domain("s")? })))
    };
    let mut get_only = rule(PathMatch::Prefix("/".to_owned()));
    get_only.methods.push("GET".to_owned());
    let policy = TrafficPolicy::new(TrafficPolicyId::new(format!("{}-p", bench.prefix))?);
    let mut secured = Pool::new(bench.pool("c")?);
    secured.tls = Some(Box::new(UpstreamTls::new("conformance/ca".parse()?)));
    let secured = Op::Put(Object::Pool(secured));
    let mut asking = policy.clone();
    asking.auth = Some(Box::new(ForwardAuth::new(bench.pool("b")?, "/check")));
    let certificate = Certificate::new(
        CertificateId::new(format!("{}-c", bench.prefix))?,
        "conformance/chain".parse()?,
        "conformance/key".parse()?,
    );
    let blackhole = Blackhole { target: BlackholeTarget::Domain(bench.host()?), until: Timestamp::MAX };
    let closed = Op::State { pool: bench.pool("a")?, endpoint: bench.key(1, 1)?, state: MemberState::Closed };
    let asked = [
        domain(bench.host()?.as_str())?,
        domain(&format!("*.{}", bench.host()?))?,
        rules(rule(PathMatch::Prefix("/x".to_owned())))?,
        rules(rule(PathMatch::Exact("/x".to_owned())))?,
        rules(rule(PathMatch::Regex("/x[0-9]+".to_owned())))?,
        rules(get_only)?,
        bench.put_routes("t", &[("a", 1), ("b", 1)])?,
        Op::Put(Object::Endpoint(bench.member("a", 2, 1)?.weight(7))),
        Op::Weight { pool: bench.pool("a")?, endpoint: bench.key(1, 1)?, weight: 7 },
        named(&bench, "service.invalid:80")?,
        pool(|pool| pool.protocol = PoolProtocol::Tcp)?,
        pool(|pool| pool.algorithm = Algorithm::PeakEwma)?,
        pool(|pool| pool.algorithm = Algorithm::LeastRequest)?,
        pool(|pool| pool.algorithm = Algorithm::RoundRobin)?,
        pool(|pool| pool.protocol = PoolProtocol::H2c)?,
        pool(|pool| pool.algorithm = Algorithm::Rendezvous)?,
        pool(|pool| pool.algorithm = Algorithm::Maglev)?,
        pool(|pool| pool.sticky = Some(Sticky { cookie: "where".to_owned(), max_age: None }))?,
        pool(|pool| pool.slow_start = Some(Duration::from_secs(10)))?,
        pool(|pool| pool.outlier = Some(Outlier::default()))?,
        pool(|pool| pool.check = Some(Box::new(HealthCheck::http("/healthz"))))?,
        pool(|pool| pool.max_in_flight = Some(10))?,
        secured,
        pool(|pool| pool.hold = Some(Hold { requests: 1, wait: Duration::from_secs(1) }))?,
        rules(
            rule(PathMatch::Prefix("/".to_owned()))
                .filter(RouteFilter::ResponseHeaders(HeaderEdits::default())),
        )?,
        rules(RouteRule::new(
            PathMatch::Prefix("/".to_owned()),
            RouteAction::RedirectTo(RedirectTo::https()),
        ))?,
        rules(rule(PathMatch::Prefix("/".to_owned())).split_by(HashOn::Cookie("user".to_owned())))?,
        Op::Put(Object::TrafficPolicy(policy.clone())),
        Op::Put(Object::TrafficPolicy(asking)),
        Op::Put(Object::Certificate(certificate)),
        Op::Put(Object::Blackhole(blackhole)),
        closed,
    ];
    let mut made = Vec::new();
    for (number, op) in asked.into_iter().enumerate() {
        let reference = op.reference();
        let lacking: Vec<Capability> = op.needs().into_iter().filter(|c| !capabilities.has(*c)).collect();
        let before = bench.get(&reference).await?;
        let result = bench.apply(&number.to_string(), [op]).await;
        if lacking.is_empty() {
            result.map_err(|error| Stop::fail(format!("{reference} is within the capabilities: {error}")))?;
            made.push(reference);
        } else {
            refused(&format!("{reference} needs {lacking:?}"), result, &[ErrorKind::Unsupported])?;
            same("the refused object", &bench.get(&reference).await?, &before)?;
        }
    }
    made.extend([ObjectRef::RouteSet(bench.set("s")?), bench.pool_ref("a")?, bench.pool_ref("b")?]);
    bench.clean(made).await;
    Ok(())
}

pub(super) async fn wrong_objects_are_refused(bench: Bench<'_>) -> CaseResult {
    bench.apply("make", [bench.put_pool("a")?]).await?;
    let forward = |shares: &[u32]| -> crate::Result<RouteAction> {
        let share = |weight: &u32| Ok(WeightedPool { pool: bench.pool("a")?, weight: *weight });
        Ok(RouteAction::Forward(shares.iter().map(share).collect::<crate::Result<_>>()?))
    };
    let all = || PathMatch::Prefix("/".to_owned());
    let mut rules = vec![
        RouteRule::new(all(), forward(&[])?),
        RouteRule::new(all(), forward(&[1, 1])?),
        RouteRule::new(all(), forward(&[Member::MAX_WEIGHT + 1])?),
        RouteRule::new(all(), RouteAction::Redirect { to: "/x".to_owned(), status: 200 }),
        RouteRule::new(all(), RouteAction::Redirect { to: "/x\r\nSet-Cookie: a=b".to_owned(), status: 302 }),
        RouteRule::new(all(), RouteAction::Respond { status: 99, body: String::new() }),
    ];
    for path in ["", "x", "/a\nb", "/a\0b", "/a b", "/a?b"] {
        rules.push(RouteRule::new(PathMatch::Prefix(path.to_owned()), forward(&[1])?));
        rules.push(RouteRule::new(PathMatch::Exact(path.to_owned()), forward(&[1])?));
    }
    for (name, value) in [("a b", "x"), ("", "x"), ("a", "x\r\ny")] {
        let (place, name, value) = (AttributePlace::Header, name.to_owned(), Some(value.to_owned()));
        let attributes = vec![AttributeMatch { place, name, value }];
        rules.push(RouteRule { attributes, ..RouteRule::new(all(), forward(&[1])?) });
    }
    rules.push(RouteRule { methods: vec!["GET /".to_owned()], ..RouteRule::new(all(), forward(&[1])?) });
    if bench.balancer.capabilities().has(Capability::RouteRegex) {
        rules.push(RouteRule::new(PathMatch::Regex("/x\n".to_owned()), forward(&[1])?));
    }
    for name in ["content-length", "Host", "a b"] {
        let edits = HeaderEdits { remove: vec![name.to_owned()], ..HeaderEdits::default() };
        rules.push(RouteRule::new(all(), forward(&[1])?).filter(RouteFilter::RequestHeaders(edits)));
    }
    let set = vec![HeaderField::new("a", "b\r\nc: d")];
    let edits = HeaderEdits { set, ..HeaderEdits::default() };
    rules.push(RouteRule::new(all(), forward(&[1])?).filter(RouteFilter::ResponseHeaders(edits)));
    let round = RedirectTo { scheme: None, ..RedirectTo::https() };
    rules.push(RouteRule::new(all(), RouteAction::RedirectTo(round)));
    let mut wrong: Vec<Op> = Vec::new();
    for rule in rules {
        wrong.push(Op::Put(Object::RouteSet(RouteSet { id: bench.set("s")?, rules: vec![rule] })));
    }
    for address in ["127.0.0.1:0", "0.0.0.0:80", "service.invalid:0"] {
        let mut member = bench.member("a", 1, 1)?;
        member.endpoint.address = address.parse()?;
        wrong.push(Op::Put(Object::Endpoint(member)));
    }
    if bench.balancer.capabilities().has(Capability::Blackhole) {
        let target = BlackholeTarget::Source { network: "10.1.2.3".parse()?, bits: 8 };
        wrong.push(Op::Put(Object::Blackhole(Blackhole { target, until: Timestamp::MAX })));
        let target = BlackholeTarget::Source { network: "10.0.0.0".parse()?, bits: 33 };
        wrong.push(Op::Put(Object::Blackhole(Blackhole { target, until: Timestamp::MAX })));
    }
    for (number, op) in wrong.into_iter().enumerate() {
        let (what, reference) = (format!("{op:?}"), op.reference());
        // A balancer may look at capabilities before it looks at the object.
        let mut kinds = vec![ErrorKind::Invalid];
        if op.needs().into_iter().any(|capability| !bench.balancer.capabilities().has(capability)) {
            kinds.push(ErrorKind::Unsupported);
        }
        refused(&what, bench.apply(&number.to_string(), [op]).await, &kinds)?;
        ensure!(bench.get(&reference).await?.is_none(), "{what} was refused and is there");
    }
    bench.clean([bench.pool_ref("a")?]).await;
    Ok(())
}

/// An endpoint at a name.
fn named(bench: &Bench<'_>, address: &str) -> Result<Op, Stop> {
    let mut member = bench.member("a", 3, 1)?;
    member.endpoint.address = address.parse()?;
    Ok(Op::Put(Object::Endpoint(member)))
}

pub(super) async fn a_name_stays_a_name(bench: Bench<'_>) -> CaseResult {
    bench.needs(Capability::EndpointNames)?;
    // A name that stands for nothing (RFC 6761, section 6.4) and one that stands for an address: neither is waited for, and
    // what comes back is what was given.
    for (step, address) in
        ["service.invalid:80", "localhost:80", "service.invalid.:5432"].into_iter().enumerate()
    {
        let op = named(&bench, address)?;
        let reference = op.reference();
        let Op::Put(wanted) = op.clone() else { return Err(Stop::fail("an endpoint is put")) };
        let applied = bench.apply(&step.to_string(), [bench.put_pool("a")?, op]).await?;
        bench.settled(applied.generation, "a").await?;
        let stored = bench.get(&reference).await?.map(|stored| stored.object);
        same("the endpoint", &stored, &Some(wanted))?;
    }
    bench.clean([bench.pool_ref("a")?]).await;
    Ok(())
}

pub(super) async fn hostile_texts_come_back_unharmed(bench: Bench<'_>) -> CaseResult {
    bench.needs(Capability::RoutePath)?;
    bench.apply("make", [bench.put_pool("a")?]).await?;
    let mut rules = Vec::new();
    // What breaks out of a quoted string, a block, a comment or a variable of some engine's configuration.
    for hostile in [
        "/\"';}{",
        "/$host${x}",
        "/%2e%2e/",
        "/\\",
        "/../..",
        "/<script>",
        "/`id`",
        "/;return",
        "/店",
        "/acl{-m",
    ] {
        rules.push(RouteRule::new(
            PathMatch::Exact(hostile.to_owned()),
            RouteAction::Respond { status: 200, body: format!("\"';}}{{\n{hostile}\n") },
        ));
    }
    let routes = RouteSet { id: bench.set("s")?, rules };
    bench.apply("1", [Op::Put(Object::RouteSet(routes.clone()))]).await?;
    let stored = bench.get(&ObjectRef::RouteSet(bench.set("s")?)).await?.map(|stored| stored.object);
    same("the routes", &stored, &Some(Object::RouteSet(routes)))?;
    let mut pool = Pool::new(bench.pool("b")?);
    pool.labels = crate::Labels::new([("note", "\"'; drop {table} $x \\")])?;
    bench.apply("2", [Op::Put(Object::Pool(pool.clone()))]).await?;
    let stored = bench.get(&bench.pool_ref("b")?).await?.map(|stored| stored.object);
    same("the pool", &stored, &Some(Object::Pool(pool)))?;
    // It still takes changes: nothing that it rendered stands in its way.
    let applied = bench.apply("3", [bench.put_member("a", 1)?]).await?;
    bench.settled(applied.generation, "a").await?;
    bench.clean([ObjectRef::RouteSet(bench.set("s")?), bench.pool_ref("a")?, bench.pool_ref("b")?]).await;
    Ok(())
}

pub(super) async fn objects_come_in_pages_and_in_order(bench: Bench<'_>) -> CaseResult {
    let mut ops = vec![bench.put_pool("a")?, bench.put_pool("b")?, bench.put_routes("s", &[("a", 1)])?];
    for number in 1..=9 {
        ops.push(bench.put_member("a", number)?);
    }
    ops.push(bench.put_member("b", 10)?);
    let mut made: Vec<ObjectRef> = ops.iter().map(Op::reference).collect();
    made.sort();
    bench.apply("1", ops).await?;
    let mut query = ObjectQuery::pool(bench.pool("a")?).limit(4);
    let mut found = Vec::new();
    for _ in 0..20 {
        let page = bench.balancer.objects(&query).await?;
        ensure!(page.len() <= 4, "a page of {} where at most 4 were asked for", page.len());
        let Some(last) = page.last().map(|stored| stored.object.reference()) else { break };
        found.extend(page.iter().map(|stored| stored.object.reference()));
        // What the page ended with may be gone when the next is asked for.
        if found.len() <= 4 {
            bench.apply("2", [Op::Delete(last.clone())]).await?;
        }
        query = query.after(last);
    }
    let pool = bench.pool("a")?;
    let of_pool = |reference: &&ObjectRef| matches!(reference, ObjectRef::Endpoint(of, _) if *of == pool);
    let wanted: Vec<ObjectRef> = made.iter().filter(of_pool).cloned().collect();
    same("the endpoints of the pool, page by page", &found, &wanted)?;
    let several = ObjectQuery::only([bench.pool_ref("b")?, bench.pool_ref("a")?, bench.pool_ref("none")?]);
    let found: Vec<ObjectRef> =
        bench.balancer.objects(&several).await?.iter().map(|stored| stored.object.reference()).collect();
    same("objects by name", &found, &vec![bench.pool_ref("a")?, bench.pool_ref("b")?])?;
    let mut pools = ObjectQuery::only(made.iter().cloned());
    pools.kinds = vec![ObjectKind::Pool, ObjectKind::RouteSet];
    let kinds: Vec<ObjectKind> =
        bench.balancer.objects(&pools).await?.iter().map(|stored| stored.object.reference().kind()).collect();
    same("kinds", &kinds, &vec![ObjectKind::RouteSet, ObjectKind::Pool, ObjectKind::Pool])?;
    refused(
        "a limit of zero",
        bench.balancer.objects(&ObjectQuery::kinds([]).limit(0)).await,
        &[ErrorKind::Invalid],
    )?;
    bench.clean([ObjectRef::RouteSet(bench.set("s")?), bench.pool_ref("a")?, bench.pool_ref("b")?]).await;
    Ok(())
}

pub(super) async fn ten_thousand_endpoints(bench: Bench<'_>) -> CaseResult {
    const ALL: u16 = 10_000;
    bench.apply("pool", [bench.put_pool("a")?]).await?;
    for from in (1..=ALL).step_by(Change::MAX_OPS) {
        let ops = (from..).take(Change::MAX_OPS).map(|number| bench.put_member("a", number));
        bench.apply(&format!("fill-{from}"), ops.collect::<crate::Result<Vec<_>>>()?).await?;
    }
    let (mut query, mut found) = (ObjectQuery::pool(bench.pool("a")?), BTreeSet::new());
    loop {
        let page = bench.balancer.objects(&query).await?;
        let Some(last) = page.last().map(|stored| stored.object.reference()) else { break };
        for stored in &page {
            ensure!(found.insert(stored.object.reference()), "{} came twice", stored.object.reference());
        }
        query = query.after(last);
    }
    same("endpoints", &found.len(), &usize::from(ALL))?;
    let applied =
        bench.apply("one", [Op::Delete(ObjectRef::Endpoint(bench.pool("a")?, bench.key(77, 1)?))]).await?;
    for view in bench.settled(applied.generation, "a").await? {
        same("endpoints at a gateway", &view.endpoints.len(), &usize::from(ALL - 1))?;
    }
    bench.apply("remove", [Op::Delete(bench.pool_ref("a")?)]).await?;
    Ok(())
}

pub(super) async fn a_blackhole_that_has_ended_is_forgotten(bench: Bench<'_>) -> CaseResult {
    bench.needs(Capability::Blackhole)?;
    let target = BlackholeTarget::Domain(bench.host()?);
    let reference = ObjectRef::Blackhole(target.clone());
    let put = |until| Op::Put(Object::Blackhole(Blackhole { target: target.clone(), until }));
    bench.apply("1", [put(Timestamp::MAX)]).await?;
    ensure!(bench.get(&reference).await?.is_some(), "a blackhole that has not ended is gone");
    bench.apply("2", [put(Timestamp::EPOCH)]).await?;
    same("a blackhole that has ended", &bench.get(&reference).await?, &None)
}
