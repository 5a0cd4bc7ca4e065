//! What happened to a service, in words.

use ews_core::balancer::Drained;
use ews_deploy::{DeployEvent, EventKind};

/// One line about an event.
pub(crate) fn of(event: &DeployEvent) -> String {
    let rollout = event.rollout.as_ref().map_or(0, |rollout| rollout.number);
    match &event.kind {
        EventKind::Leading => "this host leads the service".to_owned(),
        EventKind::LeadLost { reason } => format!("this host leads the service no longer: {reason}"),
        EventKind::RolloutStarted { to, from, slots, batches } => {
            let from = from.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
            format!("rollout {rollout} begins: {from} -> {to}, {slots} instances in {batches} batches")
        }
        EventKind::RolloutResumed { done: (done, all) } => {
            format!("rollout {rollout} goes on after a restart of the host: {done} of {all} are done")
        }
        EventKind::BatchStarted { number, slots } => format!("batch {number} begins: {}", listed(slots)),
        EventKind::Step { slot, step, .. } => format!("slot {slot}: {step}"),
        EventKind::Drained { slot, how, .. } => match how {
            Drained::Drained => format!("slot {slot}: its requests have ended"),
            Drained::Forced(count) => format!("slot {slot}: {count} requests were closed at the deadline"),
            _ => format!("slot {slot}: its requests may not have ended"),
        },
        EventKind::Filled { slot, revision, .. } => format!("slot {slot} runs {revision}"),
        EventKind::UnitFailed(failure) => format!("failed: {failure}"),
        EventKind::Decided { decision, explained } => format!("{decision}: {explained}"),
        EventKind::Retrying { slot, reason } => format!("slot {slot} is tried again: {reason}"),
        EventKind::AwaitingApproval { batch, of } => {
            format!("batch {batch} of {of} waits for `ews resume {}`", event.service)
        }
        EventKind::StepStarted { number, of, step } => format!("step {number} of {of}: {step}"),
        EventKind::JobStarted { when } => format!("the job {when} the rollout begins"),
        EventKind::JobEnded { when, .. } => format!("the job {when} the rollout has ended"),
        EventKind::Measured { verdict: Some(verdict), .. } => format!("measured: {verdict:?}"),
        EventKind::Measured { .. } => "measured".to_owned(),
        EventKind::Paused { reason } => format!("rollout {rollout} is paused: {reason}"),
        EventKind::Resumed => format!("rollout {rollout} goes on"),
        EventKind::RollingBack { reason } => format!("rollout {rollout} turns round: {reason}"),
        EventKind::Ended { outcome, cause } if cause.is_empty() => format!("rollout {rollout} {outcome}"),
        EventKind::Ended { outcome, cause } => format!("rollout {rollout} {outcome}: {cause}"),
        EventKind::InstanceLost { slot, reason, .. } => {
            format!("slot {slot} has lost its instance: {reason}")
        }
        EventKind::Treated { slot, explained, .. } => format!("slot {slot}: {explained}"),
        EventKind::Braked { waiting, at_once } => {
            format!("{waiting} instances wait to be treated, {at_once} are at once")
        }
        EventKind::GivenUp { slot, restarts } => {
            format!("slot {slot} is given up for a while after {restarts} restarts")
        }
        EventKind::Scaled { from, to, reason } if reason.is_empty() => format!("scaled from {from} to {to}"),
        EventKind::Scaled { from, to, reason } => format!("scaled from {from} to {to}: {reason}"),
        EventKind::Removed => "removed".to_owned(),
        other => format!("{other:?}"),
    }
}

fn listed(slots: &[u32]) -> String {
    const SHOWN: usize = 20;
    let names: Vec<_> = slots.iter().take(SHOWN).map(u32::to_string).collect();
    let more = if slots.len() > SHOWN { ", …" } else { "" };
    format!("{} {}{more}", if slots.len() == 1 { "slot" } else { "slots" }, names.join(", "))
}
