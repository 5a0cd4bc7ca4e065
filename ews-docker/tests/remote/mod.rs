//! An engine on another machine: the contract over TCP and TLS, and what connections do to those who rely on them.

mod broken;
#[cfg(feature = "tls")]
mod certificates;
mod contract;
