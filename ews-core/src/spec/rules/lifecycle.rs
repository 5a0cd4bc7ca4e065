//! Rules of stopping, restarting, logging, jobs and placement.

use std::time::Duration;

use super::{ATTEMPTS, LOG_FILES, PER_NODE, RETRIES, Rules, field};
use crate::document::walk::Whole;
use crate::label;
use crate::selector::Selector;
use crate::spec::lifecycle::{EngineRestart, RestartCondition, Signal};
use crate::spec::placement::Placement;
use crate::spec::probe::Probes;
use crate::spec::resources::ByteSize;
use crate::spec::{InstanceSpec, ServiceSpec};
use crate::time::{Shown, ShownDuration};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);
/// The most entries of `placement.prefer` and `placement.spread_by`.
const MAX_PREFER: usize = 64;
const MAX_SPREAD: usize = 8;

impl Rules {
    pub(super) fn stop_and_log(&mut self, spec: &InstanceSpec) {
        let stop = &spec.stop;
        self.duration(field("stop").key("grace"), stop.grace, Duration::ZERO, DAY);
        if self.windows() && stop.signal != Signal::TERM && stop.signal != Signal::KILL {
            let message = format!(
                "Windows has no {}: every signal but SIGKILL is a shutdown there; accepted: \"SIGTERM\", \"SIGKILL\"",
                stop.signal
            );
            self.find_with(field("stop").key("signal"), &[field("platform")], message);
        }
        let log = &spec.log;
        let (least, most) = (ByteSize::from_bytes(64 * 1024), ByteSize::from_bytes(1 << 40));
        if !(least..=most).contains(&log.max_size) {
            let message = format!("found {} bytes; accepted: from {least} to {most}", log.max_size.bytes());
            self.find(field("log").key("max_size"), message);
        }
        self.whole(field("log").key("max_files"), log.max_files.into(), LOG_FILES);
    }

    pub(super) fn lifecycle(&mut self, spec: &ServiceSpec) {
        self.whole(field("replicas"), spec.replicas.into(), (0, ServiceSpec::MAX_REPLICAS.into()));
        let restart = &spec.restart;
        let at = field("restart");
        self.whole(at.key("attempts"), restart.attempts.into(), ATTEMPTS);
        self.duration(at.key("window"), restart.window, SECOND, MONTH);
        self.duration(at.key("max_delay"), restart.max_delay, Duration::ZERO, DAY);
        if restart.max_delay < restart.delay {
            let message = format!(
                "found {}, less than `delay`; accepted: at least {}",
                ShownDuration(restart.max_delay),
                ShownDuration(restart.delay)
            );
            self.find_with(at.key("max_delay"), &[at.key("delay")], message);
        }
        let Some(job) = &spec.job else { return };
        if job.deadline.is_zero() {
            let message = "found 0s, and every job has a deadline; accepted: from 1s to 30d; for the longest write \"30d\"";
            self.find(field("job").key("deadline"), message);
        } else {
            self.duration(field("job").key("deadline"), job.deadline, SECOND, MONTH);
        }
        self.whole(field("job").key("retries"), job.retries.into(), RETRIES);
        let needs = [field("job")];
        if spec.replicas > 1 {
            let message = format!(
                "found the number {}, but a job runs one instance to its end; accepted: 1, or 0 to only keep it known",
                spec.replicas
            );
            self.find_with(field("replicas"), &needs, message);
        }
        if restart.condition != RestartCondition::Never {
            let message =
                "a job is not restarted; accepted: \"never\"; failed attempts are repeated by job.retries";
            self.find_with(at.key("condition"), &needs, message);
        }
        if spec.instance.engine_restart != EngineRestart::Never {
            let message = "the engine would restart a job that has ended; accepted: \"never\" beside `job`";
            self.find_with(field("engine_restart"), &needs, message);
        }
        if spec.instance.probes != Probes::default() {
            let message = "a job has no probes, its exit code says whether it went well; accepted: no `probes` beside `job`; \
                           job.deadline stops one that hangs";
            self.find_with(field("probes"), &needs, message);
        }
    }

    pub(super) fn placement(&mut self, placement: &Placement) {
        let at = field("placement");
        if let Some(selector) = &placement.require {
            self.selector(at.key("require"), selector);
        }
        if self.at_most(at.key("prefer"), placement.prefer.len(), MAX_PREFER) {
            for (index, preference) in placement.prefer.iter().enumerate() {
                let at = at.key("prefer").index(index);
                self.selector(at.key("selector"), &preference.selector);
                if !(-100..=100).contains(&preference.weight) || preference.weight == 0 {
                    let message = format!(
                        "found the number {}; accepted: a whole number from -100 (avoid) to 100, but not 0, which prefers nothing",
                        preference.weight
                    );
                    self.find(at.key("weight"), message);
                }
            }
        }
        if self.at_most(at.key("spread_by"), placement.spread_by.len(), MAX_SPREAD) {
            let keys = placement.spread_by.iter().enumerate();
            for (index, key) in keys.clone() {
                if let Err(error) = label::check_key(key) {
                    self.find(at.key("spread_by").index(index), error.message());
                }
            }
            let items = keys
                .map(|(n, key)| (at.key("spread_by").index(n), key.clone(), format!("\"{}\"", Shown(key))));
            self.distinct("label key", items);
        }
        if let Some(most) = placement.max_per_node
            && !(PER_NODE.0..=PER_NODE.1).contains(&most.into())
        {
            let message = format!("found the number {most}; accepted: {}", Whole(PER_NODE.0, PER_NODE.1));
            self.find(at.key("max_per_node"), message);
        }
    }

    /// A selector that a program built may not be one that its text gives back.
    fn selector(&mut self, at: crate::document::Path, selector: &Selector) {
        let text = selector.to_string();
        if text.len() > Selector::MAX_LEN || text.parse::<Selector>().ok().as_ref() != Some(selector) {
            let message = "the selector can't be written and read back; accepted: at least one value for each `in`, at most \
                           16384 bytes";
            self.find(at, message);
        }
    }
}
