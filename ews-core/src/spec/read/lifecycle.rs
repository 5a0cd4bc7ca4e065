//! Stop, restart, log limits, jobs and placement.

use super::network::texts;
use super::{content, foreign};
use crate::document::Value;
use crate::document::walk::{At, Whole};
use crate::selector::Selector;
use crate::spec::lifecycle::{EngineRestart, Job, LogLimits, Restart, RestartCondition, Signal, Stop};
use crate::spec::placement::{Placement, PlacementStrategy, Preference};
use crate::spec::rules::{ATTEMPTS, LOG_FILES, PER_NODE, RETRIES};

fn count(at: &At<'_>, (least, most): (u64, u64)) -> Option<u32> {
    at.integer(least, most).and_then(|n| u32::try_from(n).ok())
}

pub(super) fn stop(at: &At<'_>) -> Stop {
    let mut stop = Stop::default();
    let Some(fields) = at.table("a table with `signal` and `grace`") else { return stop };
    let mut fields = fields.also_called(&foreign::STOP);
    if let Some(signal) = fields.take("signal").and_then(|at| signal(&at)) {
        stop.signal = signal;
    }
    if let Some(grace) = fields.take("grace").and_then(|at| at.duration()) {
        stop.grace = grace;
    }
    fields.finish(foreign::stop);
    stop
}

fn signal(at: &At<'_>) -> Option<Signal> {
    match &at.tree.value {
        Value::Integer(number) if at.tree.written.is_none() => at.read(&number.to_string()),
        _ => at.parsed("a signal such as \"SIGTERM\""),
    }
}

const CONDITIONS: [(&str, RestartCondition); 3] = [
    ("always", RestartCondition::Always),
    ("on-failure", RestartCondition::OnFailure),
    ("never", RestartCondition::Never),
];

/// A job runs once, so its default is never.
pub(super) fn restart(at: Option<&At<'_>>, is_job: bool) -> Restart {
    let mut restart = Restart::default();
    if is_job {
        restart.condition = RestartCondition::Never;
    }
    let Some(at) = at else { return restart };
    if at.tree.as_text().is_some() {
        if let Some(condition) = at.one_of(&CONDITIONS, foreign::restart_word) {
            restart.condition = condition;
        }
        return restart;
    }
    let accepted = "one of \"always\", \"on-failure\", \"never\", or a table with `condition`, `attempts`, `window`, `delay`, \
                    `max_delay`";
    let Some(fields) = at.table(accepted) else { return restart };
    let mut fields = fields.also_called(&foreign::RESTART);
    if let Some(condition) =
        fields.take("condition").and_then(|at| at.one_of(&CONDITIONS, foreign::restart_word))
    {
        restart.condition = condition;
    }
    if let Some(attempts) = fields.take("attempts").and_then(|at| count(&at, ATTEMPTS)) {
        restart.attempts = attempts;
    }
    if let Some(window) = fields.take("window").and_then(|at| at.duration()) {
        restart.window = window;
    }
    if let Some(delay) = fields.take("delay").and_then(|at| at.duration()) {
        restart.delay = delay;
    }
    if let Some(delay) = fields.take("max_delay").and_then(|at| at.duration()) {
        restart.max_delay = delay;
    }
    fields.finish(foreign::restart);
    restart
}

pub(super) fn engine_restart(at: &At<'_>) -> Option<EngineRestart> {
    at.one_of(
        &[
            ("never", EngineRestart::Never),
            ("on-failure", EngineRestart::OnFailure),
            ("unless-stopped", EngineRestart::UnlessStopped),
        ],
        foreign::engine_restart,
    )
}

pub(super) fn log(at: &At<'_>) -> LogLimits {
    let mut log = LogLimits::default();
    let Some(fields) = at.table("a table with `max_size` and `max_files`") else { return log };
    let mut fields = fields.also_called(&foreign::LOG);
    if let Some(size) = fields.take("max_size").and_then(|at| content::size(&at)) {
        log.max_size = size;
    }
    if let Some(files) = fields.take("max_files").and_then(|at| count(&at, LOG_FILES)) {
        log.max_files = files;
    }
    fields.finish(foreign::log);
    log
}

pub(super) fn job(at: &At<'_>) -> Job {
    let mut job = Job::default();
    let Some(mut fields) = at.table("a table with `deadline` and `retries`, {} for the defaults") else {
        return job;
    };
    fields = fields.also_called(&foreign::JOB);
    if let Some(deadline) = fields.take("deadline").and_then(|at| at.duration()) {
        job.deadline = deadline;
    }
    if let Some(retries) = fields.take("retries").and_then(|at| count(&at, RETRIES)) {
        job.retries = retries;
    }
    fields.finish(foreign::job);
    job
}

const SELECTOR: &str = "a selector such as \"zone=a,disk in (ssd,nvme)\"";

fn selector(at: &At<'_>) -> Option<Selector> {
    if at.tree.as_table().is_some() || at.tree.as_list().is_some() {
        // `{ zone = "a" }` is what it says: the same as a text.
        let pairs: Option<Vec<String>> = at.tree.as_table().map(|table| {
            let pairs = table.entries().iter().take(8);
            pairs.filter_map(|e| Some(format!("{}={}", e.key, e.value.as_text()?))).collect()
        });
        let same = pairs.map(|pairs| pairs.join(","));
        let same = same.filter(|same| same.len() <= 64 && same.parse::<Selector>().is_ok());
        let hint = same.map(|same| format!("; here \"{same}\"")).unwrap_or_default();
        at.fail(format!(
            "found {}; accepted: {SELECTOR}, as one text; several conditions are joined by commas and must all hold{hint}",
            at.found()
        ));
        return None;
    }
    at.parsed(SELECTOR)
}

pub(super) fn placement(at: &At<'_>) -> Placement {
    let mut placement = Placement::default();
    let accepted = "a table with `require`, `prefer`, `strategy`, `spread_by` and `max_per_node`";
    let Some(fields) = at.table(accepted) else { return placement };
    let mut fields = fields.also_called(&foreign::PLACEMENT);
    placement.require = fields.take("require").and_then(|at| selector(&at));
    if let Some(at) = fields.take("prefer") {
        for at in at.list("a list of tables, each with `selector` and `weight`") {
            let preference = preference(&at);
            placement.prefer.push(preference.unwrap_or_else(|| Preference::new(Selector::everything(), 1)));
        }
    }
    let strategies = [("spread", PlacementStrategy::Spread), ("pack", PlacementStrategy::Pack)];
    placement.strategy =
        fields.take("strategy").and_then(|at| at.one_of(&strategies, foreign::strategy)).unwrap_or_default();
    placement.spread_by =
        fields.take("spread_by").map(|at| texts(&at, "a list of label keys")).unwrap_or_default();
    placement.max_per_node = fields.take("max_per_node").and_then(|at| {
        if at.tree.as_integer() == Some(0) {
            let range = Whole(PER_NODE.0, PER_NODE.1);
            at.expected(format_args!("{range}; for no limit leave the field out"));
            return None;
        }
        count(&at, PER_NODE)
    });
    fields.finish(foreign::placement);
    placement
}

fn preference(at: &At<'_>) -> Option<Preference> {
    const WEIGHT: &str = "a whole number from -100 (avoid) to 100";
    let mut fields = at.table("a table with `selector` and `weight`")?;
    let selector = fields.required("selector", SELECTOR).and_then(|at| selector(&at));
    let weight = fields.required("weight", WEIGHT).and_then(|at| match at.tree.as_integer() {
        Some(number @ -100..=100) => i32::try_from(number).ok(),
        _ => {
            at.expected(WEIGHT);
            None
        }
    });
    fields.finish(foreign::preference);
    Some(Preference::new(selector.unwrap_or_else(Selector::everything), weight.unwrap_or(1)))
}
