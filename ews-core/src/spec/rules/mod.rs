//! What a spec must keep beyond its types: the rules that need no engine to be known.
//!
//! They look at a whole spec and name what is wrong by the paths of its document, so that a document and a program's own
//! spec are checked by the same code. Each file holds one field of rules.

mod content;
mod health;
mod lifecycle;
mod network;
mod paths;
mod platform;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Duration;

use super::platform::Os;
use super::{InstanceSpec, ServiceSpec};
use crate::document::Path;
use crate::document::walk::{Finding, Whole};
use crate::time::ShownDuration;

/// The most bytes of a spec, as JSON: under the `Store`'s 1 MiB for one value, with room for what a revision adds.
pub(crate) const MAX_SPEC: usize = 768 * 1024;
/// `restart.attempts`.
pub(crate) const ATTEMPTS: (u64, u64) = (1, 10_000);
/// `log.max_files`.
pub(crate) const LOG_FILES: (u64, u64) = (1, 1_000);
/// `placement.max_per_node`.
pub(crate) const PER_NODE: (u64, u64) = (1, 100_000);
/// `job.retries`.
pub(crate) const RETRIES: (u64, u64) = (0, 100);
/// `probes.*.success`.
pub(crate) const SUCCESSES: (u64, u64) = (1, 100);
/// `probes.*.failure`.
pub(crate) const FAILURES: (u64, u64) = (1, 1_000);
/// `resources.pids`; the most is Linux's `PID_MAX_LIMIT`.
pub(crate) const PIDS: (u64, u64) = (1, 4_194_304);

/// How many findings are kept: what is shown is far less.
const KEPT: usize = 1_000;

/// Everything that is wrong with a service.
pub(super) fn service(spec: &ServiceSpec) -> Vec<Finding> {
    let mut rules = Rules::new(&spec.instance);
    rules.instance(&spec.instance);
    rules.lifecycle(spec);
    rules.placement(&spec.placement);
    rules.size(spec);
    rules.findings
}

/// Everything that is wrong with an instance.
pub(super) fn instance(spec: &InstanceSpec) -> Vec<Finding> {
    let mut rules = Rules::new(spec);
    rules.instance(spec);
    rules.size(spec);
    rules.findings
}

/// Collects findings.
pub(super) struct Rules {
    findings: Vec<Finding>,
    os: Option<Os>,
}

impl Rules {
    fn new(spec: &InstanceSpec) -> Self {
        Self { findings: Vec::new(), os: spec.platform.os }
    }

    fn windows(&self) -> bool {
        self.os == Some(Os::Windows)
    }

    fn find(&mut self, path: Path, message: impl Into<String>) {
        self.find_with(path, &[], message);
    }

    /// A finding that also rests on other places.
    fn find_with(&mut self, path: Path, needs: &[Path], message: impl Into<String>) {
        if self.findings.len() < KEPT {
            self.findings.push(Finding { path, needs: needs.to_vec(), message: message.into() });
        }
    }

    fn whole(&mut self, path: Path, value: u64, (least, most): (u64, u64)) {
        if !(least..=most).contains(&value) {
            self.find(path, format!("found the number {value}; accepted: {}", Whole(least, most)));
        }
    }

    fn duration(&mut self, path: Path, value: Duration, least: Duration, most: Duration) {
        if !(least..=most).contains(&value) {
            self.find(
                path,
                format!(
                    "found {}; accepted: from {} to {}",
                    ShownDuration(value),
                    ShownDuration(least),
                    ShownDuration(most)
                ),
            );
        }
    }

    /// At most so many items; whether there are few enough to look at each.
    fn at_most(&mut self, path: Path, count: usize, most: usize) -> bool {
        if count > most {
            self.find(path, format!("found {count} of them; accepted: at most {most}"));
        }
        count <= most
    }

    /// Says of each value that came before where it came first.
    fn distinct<K: std::hash::Hash + Eq>(
        &mut self,
        what: &str,
        items: impl IntoIterator<Item = (Path, K, String)>,
    ) {
        let mut seen: HashMap<K, Path> = HashMap::new();
        for (path, key, shown) in items {
            match seen.get(&key) {
                Some(first) => {
                    let message = format!(
                        "the {what} {shown} is given twice, first at {first}; accepted: each {what} once"
                    );
                    self.find_with(path, std::slice::from_ref(first), message);
                }
                None => {
                    seen.insert(key, path);
                }
            }
        }
    }

    fn instance(&mut self, spec: &InstanceSpec) {
        self.source(spec);
        self.platform(spec);
        self.content(spec);
        self.storage(spec);
        self.network(spec);
        self.probes(spec);
        self.stop_and_log(spec);
        self.rights(spec);
    }

    fn size(&mut self, spec: &impl serde::Serialize) {
        let size = serde_json::to_vec(spec).map_or(0, |text| text.len());
        if size > MAX_SPEC {
            self.find(
                Path::root(),
                format!("the spec is {size} bytes long as JSON; accepted: at most {MAX_SPEC}; put large files into the image"),
            );
        }
    }
}

/// A field of the spec.
fn field(name: &str) -> Path {
    Path::root().key(name)
}
