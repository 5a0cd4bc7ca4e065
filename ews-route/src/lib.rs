//! Routing for EWS: a gateway for HTTP and TCP in your process or one of its own, and the clients of one elsewhere.
//!
//! A [`Gateway`] is a [`Balancer`](ews_core::Balancer): it is told of domains, routes, pools and endpoints, and proves what it serves. It
//! is a source of [`Metrics`](ews_core::Metrics) too, which answers for what it sees. It never learns what a rollout is.
//!
//! ```text
//! changes ─▶ table ─▶ journal ─▶ snapshot ─▶ data threads ─▶ endpoints
//!                                               │
//!                        observe, watch ◀── counters ──▶ samples ──▶ metrics
//! ```
//!
//! A `Deployer` of ews-deploy that has the gateway as its balancer says by itself what is said by hand here:
//!
//! ```
//! use std::io::{Read as _, Write as _};
//! use std::net::{TcpListener, TcpStream};
//! use std::time::Duration;
//!
//! use ews_core::Incarnation;
//! use ews_core::balancer::{
//!     Balancer as _, Change, Domain, DomainName, Member, Object, ObserveQuery, Op, PathMatch, Pool, RouteAction, RouteRule, RouteSet,
//!     WeightedPool,
//! };
//! use ews_core::endpoint::{Endpoint, EndpointKey, Scope};
//! use ews_core::spec::network::Protocol;
//! use ews_route::{Gateway, GatewayConfig};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = GatewayConfig::default().with_listen(["127.0.0.1:0".parse()?]).with_threads(1);
//! let gateway = Gateway::start(config).await?;
//!
//! // An instance that answers, and what leads to it.
//! let instance = TcpListener::bind("127.0.0.1:0")?;
//! let key = EndpointKey { instance: "web-0".parse()?, incarnation: Incarnation(1), port: "http".parse()? };
//! let address = instance.local_addr()?;
//! let endpoint = Endpoint { key, address, protocol: Protocol::Tcp, scope: Scope::Loopback };
//! let forward = RouteAction::Forward(vec![WeightedPool::new("web".parse()?, 1)]);
//! let rules = vec![RouteRule::new(PathMatch::Prefix("/".to_owned()), forward)];
//! let name = DomainName::new("shop.example")?;
//! let change = Change::new(
//!     "change-1".parse()?,
//!     [
//!         Op::Put(Object::Pool(Pool::new("web".parse()?))),
//!         Op::Put(Object::Endpoint(Member::new("web".parse()?, endpoint))),
//!         Op::Put(Object::RouteSet(RouteSet::new("web".parse()?, rules))),
//!         Op::Put(Object::Domain(Domain::new(name, "web".parse()?))),
//!     ],
//! );
//! // Applied is not yet served: that is what the gateway says when it is asked.
//! let applied = gateway.apply(&change).await?;
//! while gateway.observe(&ObserveQuery::default()).await?[0].generation < Some(applied.generation) {
//!     tokio::time::sleep(Duration::from_millis(1)).await;
//! }
//!
//! std::thread::spawn(move || -> std::io::Result<()> {
//!     let (mut connection, _) = instance.accept()?;
//!     let _ = connection.read(&mut [0; 4096])?;
//!     connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
//! });
//! let mut client = TcpStream::connect(gateway.addresses()[0])?;
//! client.write_all(b"GET / HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n")?;
//! let mut answer = String::new();
//! client.read_to_string(&mut answer)?;
//! assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hello"), "{answer}");
//! gateway.shutdown(Duration::from_secs(10)).await; // What is under way is finished.
//! # Ok(())
//! # }
//! ```
//!
//! # Where to start
//! | You want to | Look at |
//! |---|---|
//! | set bounds and time limits | [`GatewayConfig`], each field with its default and whose that is |
//! | keep what was applied, take over a bound socket, log requests | [`Gateway::builder`], [`access`] |
//! | give a deployer traffic to move | the gateway itself, as the balancer of `ews_deploy::DeployParts` |
//! | know what it counts | [`metrics`] |
//! | run it as a process of its own | the program `ews-gateway` (feature `bin`), or `server::run` under a subcommand of yours (feature `server`) |
//! | reach it from another process | `RemoteBalancer` and `RemoteMetrics` (feature `remote`), over the router of `admin` (feature `admin`) |
//! | speak to that router yourself | `wire`, and `admin::OPENAPI` |
//! | replace it without a refused connection | `handover` (feature `handover`, on Unix) |
//! | work on EWS itself | the headers of [`gateway`]'s modules, from `guard` on |
//!
//! # How it works
//! Traffic moves on threads of the gateway's own, so that nothing that the embedder's runtime does holds a request up. HTTP/1.1, upgrades
//! such as WebSockets, and TCP are always there. It installs no signal handler and no global of any kind.
//!
//! # Features
//! None is on by default.
//!
//! | Feature | What it brings |
//! |---|---|
//! | `http2` | HTTP/2 from clients, with TLS and without, and to endpoints; gRPC with it |
//! | `tls` | TLS from clients and to endpoints, by rustls with ring |
//! | `regex` | routes by regular expression |
//! | `admin` | `admin`: an axum router with changes, views, events, metrics and health, which listens nowhere |
//! | `remote` | `remote`: the balancer and the metrics of a gateway in another process |
//! | `handover` | `handover`: a successor takes over the listening sockets; on Unix, nothing elsewhere |
//! | `server` | `server`: a gateway process with its configuration as a document and its state on disk; `admin` and `handover` too |
//! | `bin` | the program `ews-gateway`, with `http2`, `regex`, `server` and `tls` |
//!
//! # What may change
//! Until 1.0 anything may, and the changelog says so. What may grow is non-exhaustive: it is made by `new`, `default` and `with_*`, and
//! matched with a last arm for the rest. The traits that you implement ([`Resolver`], `handover::KeptStore`) grow by methods with a
//! default. Errors are [`ews_core::Error`], told apart by [`kind`](ews_core::Error::kind). Types of other crates that are part of this
//! API: `axum::Router` (0.8) with `admin`, streams of `futures_core`, and `serde`'s traits on documents.
//!
//! # What is not here
//! HTTP/3, certificates from ACME, TLS to the admin endpoint, and routing by SNI without ending TLS. What the gateway can't do is no capability of it,
//! and a change that asks for it is refused with `Unsupported`.

#![warn(missing_debug_implementations)]

pub mod access;
#[cfg(feature = "admin")]
pub mod admin;
mod balancer;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod gateway;
#[cfg(all(unix, feature = "handover"))]
pub mod handover;
mod journal;
pub mod metrics;
#[cfg(feature = "remote")]
pub mod remote;
#[cfg(feature = "server")]
pub mod server;
#[cfg(any(feature = "admin", feature = "remote"))]
pub mod wire;

pub use access::{AccessFile, AccessFormat, AccessLog};
pub use gateway::{
    Accept, ForwardedBy, Forwarding, Gateway, GatewayBuilder, GatewayConfig, NamesConfig, RequestLimits,
    Resolver, SampleConfig, SystemResolver, TcpListen, Timeouts, UpstreamConfig,
};
#[cfg(feature = "remote")]
pub use remote::{RemoteBalancer, RemoteConfig, RemoteMetrics};
