//! A rollout's record as whoever asks sees it.

use std::time::Duration;

use ews_core::{Result, ServiceName, Timestamp};

use crate::analysis::Analysis;
use crate::canary::CanaryStep;
use crate::decide;
use crate::record::{Repository, RolloutState};
use crate::rollout::{JobReports, Outcome, Phase, Progress, RolloutId, RolloutReport, StepReport};

/// What a step or a batch takes beyond what the strategy says, until it is seen to take longer.
const LEAST: Duration = Duration::from_secs(2);

/// A rollout as it stands.
pub(crate) async fn report(
    service: &ServiceName,
    state: RolloutState,
    repository: &Repository,
    now: Timestamp,
) -> Result<RolloutReport> {
    let control = repository.control().await?;
    let asked = control.is_some_and(|control| control.value.rollout == state.number && control.value.paused);
    let paused = state.outcome.is_none() && state.phase == Phase::Forward && (asked || state.held.is_some());
    let step = state.step().map(|step| {
        let canary = state.canary.as_ref();
        StepReport {
            number: canary.map_or(0, |canary| canary.made) + 1,
            of: state.strategy.steps().len(),
            step,
            weight: canary.and_then(|canary| canary.weight).unwrap_or_default(),
            up: canary.map_or(0, |canary| canary.up.len()),
            measured: canary.map_or(0, |canary| canary.run.taken),
        }
    });
    Ok(RolloutReport {
        id: RolloutId { service: service.clone(), number: state.number },
        to: repository.revision_id(state.to).await?,
        from: match state.from {
            Some(from) => Some(repository.revision_id(from).await?),
            None => None,
        },
        progress: progress(&state, paused, now),
        jobs: JobReports { before: state.jobs.before, after: state.jobs.after },
        skipped: state.skipped.len(),
        by: state.by,
        reason: state.reason,
        phase: state.phase,
        paused,
        strategy: state.strategy,
        done: (state.done, state.slots.len()),
        step,
        cause: state.cause,
        failures: state.failures,
        outcome: state.outcome,
        started_at: state.started_at,
        ended_at: state.ended_at,
    })
}

/// How far a rollout is: what is behind it and what is ahead by the times of its strategy, and slower in proportion where it has
/// been slower so far.
fn progress(state: &RolloutState, paused: bool, now: Timestamp) -> Progress {
    let share = |part: usize| u8::try_from(part * 100 / state.slots.len().max(1)).unwrap_or(100);
    match (state.outcome, state.phase) {
        (Some(Outcome::Succeeded), _) => return Progress { percent: 100, left: None },
        (Some(Outcome::RolledBack), _) => return Progress { percent: 100, left: None },
        (Some(_), _) => return Progress { percent: share(state.done), left: None },
        (None, Phase::RollingBack) => {
            let back = state.slots.len().saturating_sub(state.done);
            return Progress { percent: share(back).min(99), left: None };
        }
        (None, Phase::Forward) => {}
    }
    let strategy = &state.strategy;
    let waits = |step: &CanaryStep| match step {
        CanaryStep::Pause(time) => *time,
        CanaryStep::Analysis(analysis) => Analysis::takes(analysis),
        _ => strategy.min_healthy + LEAST,
    };
    let steps = if state.canary.is_some() { strategy.steps() } else { Vec::new() };
    let made = state.canary.as_ref().map_or(0, |canary| canary.made);
    let within = state.canary.as_ref().map(|canary| canary.spent).unwrap_or_default();
    let batch = strategy.min_healthy + strategy.interval + LEAST;
    let batches = decide::batches(state);
    let mut left = state.done;
    let done = batches.iter().take_while(|batch| {
        let whole = left >= batch.len();
        left = left.saturating_sub(batch.len());
        whole
    });
    let done = u32::try_from(done.count()).unwrap_or(u32::MAX);
    let count = u32::try_from(batches.len()).unwrap_or(u32::MAX);
    let behind = steps.iter().take(made).map(waits).sum::<Duration>() + within + batch * done;
    let timed: Duration = steps.iter().skip(made).map(waits).sum();
    let ahead = timed.saturating_sub(within) + batch * count.saturating_sub(done) + strategy.monitor;
    let elapsed = now.since(state.started_at);
    let slower =
        if behind.is_zero() { 1.0 } else { (elapsed.as_secs_f64() / behind.as_secs_f64()).clamp(1.0, 10.0) };
    let all = (behind + ahead).as_secs_f64();
    let percent = if all > 0.0 { behind.as_secs_f64() * 100.0 / all } else { 99.0 };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 99")]
    let percent = percent.clamp(0.0, 99.0) as u8;
    Progress { percent, left: (!paused).then(|| ahead.mul_f64(slower)) }
}
