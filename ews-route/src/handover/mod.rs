//! A gateway's successor takes over without a refused connection: a new version of the program, a new configuration.
//!
//! The successor asks at a Unix socket. It is given the listening sockets themselves, so that connections which wait to be
//! accepted wait on, and what was applied where no store holds it. Once it serves, its predecessor accepts nothing more and
//! finishes what is under way.
//!
//! ```text
//! successor                                       predecessor
//!     │  ask ───────────────────────────────────▶ │  changes wait from here on, the store is closed
//!     │ ◀────────────────────────────── given ── │  generation, listening sockets
//!     │  tell ──────────────────────────────────▶ │
//!     │ ◀────────────── objects, health, …, all ─ │
//!     │  replays, starts its threads, accepts      │  still accepts
//!     │  ready ─────────────────────────────────▶ │  accepts no more
//!     │ ◀─────────────────────────── draining ── │
//!     │  change ────────────────────────────────▶ │  follows, so that a drain holds in both
//!     │ ◀────────────────────────────── views ── │  what is still under way
//!     │                                            ▼  ends
//! ```
//!
//! - **Nothing is decided before `ready`.** A successor that fails, dies or takes longer than [`Handover::patience`] before it is
//!   forgotten: the predecessor opens its store again and goes on as if nothing had been.
//! - **A drain stays proven.** While the predecessor finishes requests, the successor passes on every change and lists the
//!   predecessor as a gateway of its own (`<name>.before`) in what it [observes](ews_core::Balancer::observe).
//! - **Changes wait** for three seconds while a hand-over is under way; those that are still too early are refused as `Unavailable`, and
//!   may be sent again, to the successor as well: changes carry ids.
//! - Not handed over: connections, sessions of TLS (the next one takes a full handshake), and what rates, breakers and
//!   ejections have counted, which begins anew. What active checks have found is.
//!
//! The socket belongs to its owner alone (mode 0600), and both sides look at who the other one is: the same user, or root.
//!
//! The program `ews-gateway` and [`server`](crate::server) do all this where they are given a path. By hand:
//!
//! ```no_run
//! use std::path::Path;
//! use std::time::Duration;
//! use ews_route::handover::{Handover, HandoverOutcome, Predecessor, Successors};
//! use ews_route::{Gateway, GatewayConfig};
//!
//! # async fn serve(config: GatewayConfig) -> ews_core::Result<()> {
//! let path = Path::new("/run/shop/gateway.socket");
//! let mut builder = Gateway::builder(config);
//! if let Some(predecessor) = Predecessor::ask(path, "gateway").await? {
//!     builder = builder.with_predecessor(predecessor);
//! }
//! let gateway = builder.start().await?;
//! // From here on we are the one who is asked.
//! let mut successors = Successors::bind(path)?;
//! loop {
//!     let successor = successors.next().await?;
//!     match successor.take_over(&gateway, Handover::default().with_drain(Duration::from_secs(30))).await? {
//!         HandoverOutcome::Taken { closed } => break println!("taken over; {closed} connections were cut"),
//!         HandoverOutcome::Kept(reason) => eprintln!("still here: {reason}"),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod channel;
mod message;
mod predecessor;
mod relay;
mod successor;

pub use predecessor::Predecessor;
pub(crate) use relay::Relay;
pub use successor::{Handover, HandoverOutcome, KeptStore, Successor, Successors};

/// The version of what is spoken.
const VERSION: u32 = 1;
