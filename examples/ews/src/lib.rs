//! The reference deployment of EWS: everything on a single host, in one program with an operator's command line.
//!
//! It embeds the SDK's crates as any user of them would, and adds what an SDK leaves to its embedder: a configuration file, a
//! directory for its state, signals, a log, an API for the operator and a command line that speaks to it.
//!
//! ```text
//!  ews <command> ──▶ api (Unix socket, or TCP with a token) ──▶ Deployer ──▶ Runtime: processes, or Docker
//!  webhooks, CI ───▶ intake ────────────────────────────────────┘   └──────▶ Gateway ◀── traffic
//!                                                  autoscaler, alerts ◀── LiveStore ◀── gateway, runtime
//! ```
//!
//! # In reading order
//! [`config`] (the file), [`data`] (the directory), [`host`] (how the parts are put together, started and ended), [`ground`] (where
//! instances run), [`certificates`], [`artifacts`] (what may go), [`serving`] (connections), [`notify`] (the service manager), [`api`] and its
//! [`wire`](api::wire) types, [`document`] (a service as its author writes it), [`client`] and [`cli`]; [`demo`] is the service of the
//! first five minutes.
#![cfg(target_os = "linux")]

mod api;
mod artifacts;
mod certificates;
mod cli;
mod client;
mod config;
mod data;
mod demo;
mod document;
mod files;
mod ground;
mod host;
mod intake;
mod notify;
mod serving;
mod trail;

pub use cli::run;
