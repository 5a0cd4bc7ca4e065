//! Users: programs run as the user that runs their shim, and as no other.
//!
//! Another user's process takes that user's password or a service with the right to make tokens. Neither is this crate's.

use std::io;
use std::path::Path;

use crate::capability::Capability;
use crate::error::{Error, Result};
use crate::process::archive::Owner;
use crate::process::protocol::User;

/// Whether this process may run programs as others.
pub(in crate::process) fn may_change() -> bool {
    false
}

/// Files belong to who makes them.
pub(in crate::process) fn owner(_: Option<&User>) -> Owner {
    Owner::default()
}

/// There is nobody to give a file to.
///
/// # Errors
/// None.
pub(in crate::process) fn give(_: &Path, _: Option<&User>) -> io::Result<()> {
    Ok(())
}

/// No user can be named: the capabilities have said so.
///
/// # Errors
/// `Unsupported`, always.
pub(in crate::process) fn resolve(_: &str) -> Result<User> {
    Err(Error::unsupported(Capability::User).with_context("field", "user"))
}
