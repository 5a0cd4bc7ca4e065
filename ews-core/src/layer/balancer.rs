//! [`Balancer`] behind a layer, and which capability each operation of a change needs.
#![deny(clippy::missing_trait_methods)]

use async_trait::async_trait;
use futures_core::stream::BoxStream;

use crate::balancer::{
    Applied, Balancer, BalancerEvent, Change, GatewayView, Member, MemberState, Object, ObjectQuery,
    ObserveQuery, Op, PathMatch, PoolProtocol, RouteAction, RouteRule, Stored,
};
use crate::capability::{Capability, CapabilitySet};
use crate::error::Result;
use crate::event::Notice;
use crate::layer::{Around, Call, CallKind, Contract, Layered, Subject};

const fn call<'a>(operation: &'static str, kind: CallKind) -> Call<'a> {
    Call::new(Contract::Balancer, operation, kind)
}

#[async_trait]
impl<C: Balancer + ?Sized, A: Around> Balancer for Layered<C, A> {
    fn capabilities(&self) -> CapabilitySet {
        self.inner.capabilities()
    }

    async fn apply(&self, change: &Change) -> Result<Applied> {
        let check = || check(&self.inner.capabilities(), change);
        let call =
            call("balancer.apply", CallKind::Idempotent).about(Subject::object(&change.id)).checked(&check);
        self.around.around(call, || self.inner.apply(change)).await
    }

    async fn objects(&self, query: &ObjectQuery) -> Result<Vec<Stored>> {
        self.around.around(call("balancer.objects", CallKind::Read), || self.inner.objects(query)).await
    }

    async fn observe(&self, query: &ObserveQuery) -> Result<Vec<GatewayView>> {
        self.around.around(call("balancer.observe", CallKind::Read), || self.inner.observe(query)).await
    }

    async fn watch(&self) -> Result<BoxStream<'static, Notice<BalancerEvent>>> {
        self.around.around(call("balancer.watch", CallKind::Read), || self.inner.watch()).await
    }
}

/// Whether a balancer of these capabilities can apply this change. Deleting what it can't have is harmless and not refused.
fn check(has: &CapabilitySet, change: &Change) -> Result<()> {
    for (index, op) in change.ops.iter().enumerate() {
        if let Some(missing) = needs(op).into_iter().find(|capability| !has.has(*capability)) {
            return Err(crate::Error::unsupported(missing)
                .with_context("change", &change.id)
                .with_context("op", index));
        }
    }
    Ok(())
}

fn needs(op: &Op) -> Vec<Capability> {
    let object = match op {
        Op::Put(object) => object,
        Op::Weight { .. } => return vec![Capability::Weights],
        Op::State { state: MemberState::Closed, .. } => return vec![Capability::ForceClose],
        Op::State { .. } | Op::Delete(_) => return Vec::new(),
    };
    let mut needs = Vec::new();
    match object {
        Object::Domain(domain) => {
            // `*` alone is the default of every balancer: whatever host is asked for.
            if domain.name.as_str() != "*" {
                needs.push(Capability::RouteHost);
                if domain.name.is_wildcard() {
                    needs.push(Capability::RouteWildcard);
                }
            }
            if domain.certificate.is_some() {
                needs.push(Capability::Tls);
            }
            if domain.policy.is_some() {
                needs.push(Capability::TrafficPolicies);
            }
        }
        Object::RouteSet(set) => set.rules.iter().for_each(|rule| rule_needs(rule, &mut needs)),
        Object::Pool(pool) if pool.protocol == PoolProtocol::Tcp => needs.push(Capability::TcpRoutes),
        Object::Pool(_) => {}
        Object::Endpoint(member) => {
            if member.weight != Member::DEFAULT_WEIGHT {
                needs.push(Capability::Weights);
            }
            if member.state == MemberState::Closed {
                needs.push(Capability::ForceClose);
            }
        }
        Object::TrafficPolicy(_) => needs.push(Capability::TrafficPolicies),
        Object::Certificate(_) => needs.push(Capability::Tls),
        Object::Blackhole(_) => needs.push(Capability::Blackhole),
    }
    needs
}

fn rule_needs(rule: &RouteRule, needs: &mut Vec<Capability>) {
    match &rule.path {
        // Everything: no routing by path.
        PathMatch::Prefix(prefix) if prefix == "/" => {}
        PathMatch::Prefix(_) | PathMatch::Exact(_) => needs.push(Capability::RoutePath),
        PathMatch::Regex(_) => needs.push(Capability::RouteRegex),
    }
    if !rule.methods.is_empty() || !rule.attributes.is_empty() {
        needs.push(Capability::RouteAttributes);
    }
    if let RouteAction::Forward(pools) = &rule.action
        && pools.len() > 1
    {
        needs.push(Capability::Weights);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::{Domain, DomainName, RouteSet, WeightedPool};
    use crate::{ChangeId, ErrorKind, PoolId, RouteSetId};

    fn rules(rule: RouteRule) -> Op {
        Op::Put(Object::RouteSet(RouteSet { id: RouteSetId::new("r").unwrap(), rules: vec![rule] }))
    }

    fn domain(name: &str) -> Op {
        let routes = RouteSetId::new("r").unwrap();
        Op::Put(Object::Domain(Domain {
            name: DomainName::new(name).unwrap(),
            routes,
            certificate: None,
            policy: None,
        }))
    }

    #[test]
    fn each_operation_needs_its_capability_and_the_error_says_which_op() {
        let pool = |weight| WeightedPool { pool: PoolId::new("p").unwrap(), weight };
        let forward = |count| RouteAction::Forward((0..count).map(|_| pool(1)).collect());
        let regex = RouteRule::new(PathMatch::Regex("a.*".into()), forward(1));
        let split = RouteRule::new(PathMatch::Prefix("/".into()), forward(2));
        let mut method = RouteRule::new(PathMatch::Prefix("/".into()), forward(1));
        method.methods.push("GET".into());
        for (op, needed) in [
            (domain("*"), vec![]),
            (domain("a.example"), vec![Capability::RouteHost]),
            (domain("*.a.example"), vec![Capability::RouteHost, Capability::RouteWildcard]),
            (rules(regex), vec![Capability::RouteRegex]),
            (rules(split), vec![Capability::Weights]),
            (rules(method), vec![Capability::RouteAttributes]),
        ] {
            assert_eq!(needs(&op), needed, "{op:?}");
            let change = Change::new(ChangeId::new("c").unwrap(), [domain("*"), op]);
            let all: CapabilitySet = CapabilitySet::all();
            check(&all, &change).unwrap();
            for missing in needed {
                let error = check(&all.clone().without(missing), &change).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                let text = error.to_string();
                assert!(text.contains(missing.as_str()) && text.contains("op=1"), "{text}");
            }
        }
    }
}
