//! No control groups: what a system without them has in their place. Paths are empty, and nothing is made or found.

use std::collections::BTreeSet;
use std::io;

use super::{Counted, Limits, Paths};
use crate::capability::Enforcement;
use crate::id::InstanceId;
use crate::instance::Incarnation;
use crate::process::config::Cgroups;
use crate::process::sys::tree;
use crate::spec::resources::Resources;

/// The groups of a runtime: none. It only knows how far this system's own means hold limits.
#[derive(Debug)]
pub(in crate::process) struct Groups {
    enforcement: [Enforcement; 3],
}

impl Groups {
    /// Asks the system what it holds; where groups would be made makes no difference.
    pub(in crate::process) fn detect(_: &Cgroups, _: &str) -> Self {
        Self { enforcement: tree::enforcement() }
    }

    pub(in crate::process) fn of_start(&self, _: &InstanceId, _: Incarnation) -> Paths {
        Paths::default()
    }

    /// How limits on CPU, memory and processes are held.
    pub(in crate::process) fn enforcement(&self) -> [Enforcement; 3] {
        self.enforcement
    }

    /// A job refuses memory, and its program ends as it likes: nobody can say that it was for memory.
    pub(in crate::process) fn tells_memory_kills(&self) -> bool {
        false
    }

    pub(in crate::process) fn starts(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }

    pub(in crate::process) fn named(&self, _: &str) -> Paths {
        Paths::default()
    }

    pub(in crate::process) fn remove(&self) {}
}

impl Paths {
    pub(in crate::process) fn needed(self, _: &Resources) -> Self {
        self
    }

    /// # Errors
    /// None.
    pub(in crate::process) fn make(&self) -> io::Result<()> {
        Ok(())
    }

    /// The shim holds its program to the limits of its plan.
    ///
    /// # Errors
    /// None.
    pub(in crate::process) fn limit(&self, _: &Limits) -> io::Result<()> {
        Ok(())
    }

    pub(in crate::process) fn count(&self) -> Counted {
        Counted::default()
    }

    pub(in crate::process) fn remove(&self) {}
}

/// Nobody kills for memory here.
pub(in crate::process) fn oom_killed(_: &Paths) -> bool {
    false
}
