//! The process runtime: real processes of this machine behind the [`Runtime`](crate::Runtime) contract, with nothing to
//! install.

#![allow(dead_code, reason = "TEMP")]

mod archive;
mod log;
