//! [`Balancer`] behind a layer; which capability an operation needs it says itself.
#![deny(clippy::missing_trait_methods)]

use async_trait::async_trait;
use futures_core::stream::BoxStream;

use crate::balancer::{
    Applied, Balancer, BalancerEvent, Change, GatewayView, ObjectQuery, ObserveQuery, Stored,
};
use crate::capability::CapabilitySet;
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
        if let Some(missing) = op.needs().into_iter().find(|capability| !has.has(*capability)) {
            return Err(crate::Error::unsupported(missing)
                .with_context("change", &change.id)
                .with_context("op", index));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::{
        Domain, DomainName, Object, Op, PathMatch, RouteAction, RouteRule, RouteSet, WeightedPool,
    };
    use crate::{Capability, ChangeId, ErrorKind, PoolId, RouteSetId};

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
            assert_eq!(op.needs(), needed, "{op:?}");
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
