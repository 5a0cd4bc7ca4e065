//! The `Balancer` contract: whatever moves traffic.
//!
//! A balancer holds objects, each with a version: domains point to route sets, rules of route sets point to pools, pools hold
//! endpoints. Routes and pools are shared, so that changing an app's pool touches none of its thousand domains. A
//! [`Change`] names the versions it was made from, so that unrelated changes never collide, and an id, so that a replay is
//! harmless. What was applied is one thing; what each gateway serves is another, and [`observe`](Balancer::observe) says it
//! per gateway.
//!
//! An endpoint is keyed by instance, incarnation and port: whoever gets the same address next inherits nothing.
//!
//! [`BalancerExt`] builds the two moves of a rollout on it: [`shift`](BalancerExt::shift) weights, and
//! [`drain`](BalancerExt::drain) an endpoint with proof. [`Table`] is the pure core of a balancer, with every check that the
//! contract asks for: a driver keeps one, persists what it returns and renders it for its engine.
//!
//! # Reading order
//! Changes, objects, views (what is said), then [`Table`] (what is checked), then [`BalancerExt`] (what is built on it).

use async_trait::async_trait;
use futures_core::stream::BoxStream;

use crate::capability::CapabilitySet;
use crate::error::Result;
use crate::event::Notice;

mod change;
mod check;
mod domains;
mod draft;
mod ext;
mod image;
mod limits;
mod network;
mod objects;
mod policy;
mod routes;
mod table;
mod view;

pub use change::{Applied, Change, ObjectKind, ObjectQuery, ObjectRef, Op, Precondition, Stored};
pub use domains::{Domains, Site};
pub use ext::{BalancerExt, Drained};
pub use image::{Remembered, TableImage, TableLoader};
pub use limits::Limits;
pub use network::Network;
pub use objects::{
    Algorithm, Blackhole, BlackholeTarget, Certificate, ClientCertificate, Domain, DomainName, HashOn,
    HealthCheck, Hold, Member, MemberState, Object, Outlier, Pool, PoolProtocol, ProxyProtocol, Sticky,
    UpstreamTls,
};
pub use policy::{ForwardAuth, Page, Queue, TrafficPolicy};
pub use routes::{
    AttributeMatch, AttributePlace, HeaderEdits, HeaderField, PathMatch, PathRewrite, RedirectTo, Rewrite,
    RouteAction, RouteFilter, RouteRule, RouteSet, WeightedPool,
};
pub use table::{Outcome, Prepared, Table};
pub use view::{BalancerEvent, EndpointView, GatewayView, ObserveQuery};

/// Whatever moves traffic.
///
/// Dropping a future abandons the wait, not the operation; an error says with `maybe_applied` when it may have happened.
#[async_trait]
pub trait Balancer: Send + Sync + 'static {
    /// What it can do. An operation beyond it is refused, never dropped.
    fn capabilities(&self) -> CapabilitySet;

    /// Applies a change: all of it, or none of it and an error.
    ///
    /// The id of a change that was applied before, with the same operations, gives the same result again and changes nothing,
    /// for at least the last [`Table::MEMORY`] changes and across restarts of the balancer and of its caller. That comes
    /// before every other check. A change that was refused is not remembered: its id may come again with other operations.
    ///
    /// `Ok` says that the change is durable and on its way, not that every gateway serves it: that is what
    /// [`observe`](Self::observe) tells.
    ///
    /// # Errors
    /// `Stale` where a precondition does not hold; `AlreadyExists` where an id comes back with other operations; `NotFound`
    /// where `Shares`, `Weight` or `State` name what is not there; `Invalid` for an object that is wrong in itself, that
    /// refers to one that is not there, or for the removal of one that others refer to, and for a change without
    /// operations; `Unsupported` beyond the capabilities; `OutOfResources` beyond the balancer's limits or
    /// [`Change::MAX_OPS`]; `Unavailable` with `maybe_applied` where it is not known whether it happened.
    async fn apply(&self, change: &Change) -> Result<Applied>;

    /// The objects of these kinds as applied, ordered by reference; at most `limit` after `after`.
    ///
    /// # Errors
    /// `Invalid` for a limit of zero or more than [`ObjectQuery::MAX_ONLY`] names; `Unavailable`.
    async fn objects(&self, query: &ObjectQuery) -> Result<Vec<Stored>>;

    /// What each gateway serves and sees now. A gateway that does not answer is listed so, not left out, for as long as it
    /// may serve traffic: a balancer forgets a gateway only when it is told to.
    ///
    /// # Errors
    /// `Unavailable` where the balancer itself can't be asked. A gateway's silence is no error.
    async fn observe(&self, query: &ObserveQuery) -> Result<Vec<GatewayView>>;

    /// Hints that an object was changed or that what a gateway sees of an endpoint has changed, from this call on. The queue
    /// is bounded: a slow consumer gets a [`Gap`](crate::event::Gap) in place of what it missed.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn watch(&self) -> Result<BoxStream<'static, Notice<BalancerEvent>>>;
}
