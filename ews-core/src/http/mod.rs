//! The kit for control endpoints: what every admin, webhook, metrics and intake router of EWS has in common.
//!
//! An engine builds an `axum::Router`; [`control`] puts around it what such an endpoint must not be without, and the
//! embedding service mounts the result beside its own routes. Nothing here listens.
//!
//! | From the outside in | What it does |
//! |---|---|
//! | problems | every answer from 400 on becomes `application/problem+json` (RFC 9457), axum's own refusals included |
//! | timeout | a request whose answer does not begin in time is 504; what a handler streams after is its own |
//! | token | [`Tokens`]: 401 for a missing and a wrong one alike, before a byte of the body is read |
//! | body | above the limit it is 413, whether its length was said or not |
//!
//! ```
//! use axum::{Router, routing::get};
//! use ews_core::http::{Access, ControlConfig, Problem, Tokens, control};
//! use ews_core::{Error, SecretValue};
//!
//! async fn rollout() -> Result<&'static str, Problem> {
//!     Err(Error::not_found("rollout", "7"))?
//! }
//!
//! # fn main() -> ews_core::Result<()> {
//! let token = SecretValue::new("a-token-of-at-least-sixteen-bytes")?;
//! let routes = Router::new().route("/rollouts/7", get(rollout));
//! let router = control(routes, Access::Tokens(Tokens::new([token])?), ControlConfig::default())?;
//! # let _: Router = router;
//! # Ok(())
//! # }
//! ```

mod control;
mod problem;
mod token;

#[cfg(test)]
mod tests;

pub use control::{Access, ControlConfig, control};
pub use problem::Problem;
pub use token::Tokens;
