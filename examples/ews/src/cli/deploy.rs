//! `ews deploy` and `ews plan`, and how a rollout is followed to its end.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;
use ews_core::ServiceName;
use ews_deploy::{AuditAction, Concurrency, EventKind, Plan, RolloutReport};
use hyper::Method;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::failure::FAILED;
use super::out::age;
use super::{Call, Failure, text};
use crate::api::wire::{Accepted, DeployBody, EventLine, Happening, HistoryView, HostEvent, RolloutView};
use crate::document;

/// What a shell calls the end by Ctrl-C.
const INTERRUPTED: u8 = 130;
/// How long progress is waited for once the end is known: until the end itself is told.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// The same where it had ended before anybody asked, and is told no more.
const NO_WORDS: Duration = Duration::from_millis(300);
/// How long it may take until progress is listened to.
const LISTENS: Duration = Duration::from_secs(2);

fn document(matches: &ArgMatches) -> Result<DeployBody, Failure> {
    let path = matches.get_one::<PathBuf>("file").cloned().unwrap_or_default();
    Ok(document::of_file(&path)?)
}

pub(super) async fn plan(call: &Call, matches: &ArgMatches) -> Result<u8, Failure> {
    let body = document(matches)?;
    let plan: Plan = call.client.post(&format!("/v1/services/{}/plan", body.spec.name), &body).await?;
    if call.out.json {
        call.out.document(&plan);
    }
    call.out.line(&plan.to_string());
    Ok(0)
}

pub(super) async fn deploy(call: &Call, matches: &ArgMatches) -> Result<u8, Failure> {
    let mut body = document(matches)?;
    body.reason = text(matches, "reason");
    body.key = matches.get_one::<String>("key").cloned();
    body.concurrency = match (matches.get_flag("supersede"), matches.get_flag("queue")) {
        (true, _) => Concurrency::Supersede,
        (_, true) => Concurrency::Queue,
        _ => Concurrency::Reject,
    };
    let service = body.spec.name.clone();
    let path = format!("/v1/services/{service}/deploy");
    let doing = call.client.post::<Accepted>(&path, &body);
    rollout(call, &service, matches.get_flag("detach"), doing).await
}

/// Does what becomes a rollout, and follows that to its end.
pub(super) async fn rollout(
    call: &Call,
    service: &ServiceName,
    detach: bool,
    doing: impl Future<Output = Result<Accepted, Failure>>,
) -> Result<u8, Failure> {
    let told = if detach || call.out.json { None } else { Some(tell(call, service).await) };
    let mut interrupt = interrupt()?;
    let accepted = tokio::select! {
        accepted = doing => accepted?,
        _ = interrupt.recv() => {
            call.out.progress(&format!(
                "it may have been asked for all the same: `ews wait {service}` waits for its end"
            ));
            return Ok(INTERRUPTED);
        }
    };
    if detach {
        if call.out.json {
            call.out.document(&accepted);
        }
        call.out.line(&format!("rollout {} of {} is asked for", accepted.rollout, accepted.service));
        return Ok(0);
    }
    followed(call, &accepted, told, interrupt, LAST_WORDS).await
}

/// Waits for a rollout that was asked for before, by whomever: the one that is named, the one under way, or the last.
pub(super) async fn wait(call: &Call, matches: &ArgMatches) -> Result<u8, Failure> {
    let service = ServiceName::new(super::service(matches)?)?;
    let told = if call.out.json { None } else { Some(tell(call, &service).await) };
    let rollout = match matches.get_one::<u64>("rollout") {
        Some(number) => *number,
        None => {
            let view: HistoryView = call.client.get(&format!("/v1/services/{service}/history")).await?;
            let begun = view.rollouts.iter().map(|report| report.id.number);
            // One that was asked for last may not have begun yet.
            let asked = view.audit.iter().filter_map(|entry| match entry.action {
                AuditAction::Deploy(number)
                | AuditAction::Hotfix(number)
                | AuditAction::Rollback(number)
                | AuditAction::Restart(number) => Some(number),
                _ => None,
            });
            let last = begun.chain(asked).max();
            last.ok_or_else(|| Failure::missing(format!("nobody has asked for a rollout of {service} yet")))?
        }
    };
    followed(call, &Accepted { service, rollout }, told, interrupt()?, NO_WORDS).await
}

/// Hears of Ctrl-C from now on.
fn interrupt() -> Result<Signal, Failure> {
    signal(SignalKind::interrupt())
        .map_err(|error| Failure::odd(format!("signals can't be listened for: {error}")))
}

/// What is told meanwhile.
struct Told {
    /// The last rollout whose end was told.
    ended: watch::Receiver<u64>,
    telling: JoinHandle<()>,
}

/// Waits for the end of a rollout and shows it. Who does not wait any more leaves it to the host. One that had ended already has so
/// much time for its last words.
async fn followed(
    call: &Call,
    accepted: &Accepted,
    told: Option<Told>,
    mut interrupt: Signal,
    words: Duration,
) -> Result<u8, Failure> {
    let mut has_waited = false;
    let report = tokio::select! {
        report = ended(call, accepted, &mut has_waited) => report,
        _ = interrupt.recv() => {
            let Accepted { service, rollout } = accepted;
            call.out.progress(&format!(
                "rollout {rollout} goes on: `ews wait {service} {rollout}` waits for its end, `ews abort {service}` turns it round"
            ));
            return Ok(INTERRUPTED);
        }
    };
    if let Some(mut told) = told {
        let words = if has_waited { LAST_WORDS } else { words };
        let _ = timeout(words, told.ended.wait_for(|ended| *ended >= accepted.rollout)).await;
        // It has no end of its own.
        told.telling.abort();
    }
    let report = report?;
    if call.out.json {
        call.out.document(&report);
    }
    show(call, &report);
    Ok(if report.outcome.is_some_and(ews_deploy::Outcome::is_success) { 0 } else { FAILED })
}

/// Tells what happens to a service from now on; it listens when this returns.
async fn tell(call: &Call, service: &ServiceName) -> Told {
    let (client, out) = (call.client.clone(), call.out);
    let path = format!("/v1/events?service={service}&follow=true&past=false");
    let (listens, listening) = oneshot::channel();
    let mut listens = Some(listens);
    let (ends, ended) = watch::channel(0);
    let telling = tokio::spawn(async move {
        let each = |line: EventLine| {
            if let Some(listens) = listens.take() {
                let _ = listens.send(());
            }
            if let EventLine::Event(event) = line {
                out.progress(&format!("  {}", event.text));
                if let Some(number) = ended_by(&event) {
                    ends.send_replace(number);
                }
            }
            Ok(ControlFlow::Continue(()))
        };
        // What goes wrong here goes wrong with the request too, which says so.
        let _ = client.lines(Method::GET, &path, None, each).await;
    });
    let _ = timeout(LISTENS, listening).await;
    Told { ended, telling }
}

/// The rollout whose end this is.
fn ended_by(event: &HostEvent) -> Option<u64> {
    match &event.what {
        Happening::Deploy(event) if matches!(event.kind, EventKind::Ended { .. }) => {
            event.rollout.as_ref().map(|rollout| rollout.number)
        }
        _ => None,
    }
}

/// Waits for the end; says whether it had to.
async fn ended(call: &Call, accepted: &Accepted, has_waited: &mut bool) -> Result<RolloutReport, Failure> {
    let number = accepted.rollout;
    let path = format!("/v1/services/{}/rollouts/{number}?wait=30s", accepted.service);
    loop {
        let view: RolloutView = call.client.get(&path).await.map_err(|failure| {
            if failure.is_unreachable() {
                Failure::unreachable(format!(
                    "{}; rollout {number} is written down and goes on when the host is back: `ews wait {} {number}` waits for its end",
                    failure.message(),
                    accepted.service
                ))
            } else {
                failure
            }
        })?;
        if let Some(report) = view.report
            && report.outcome.is_some()
        {
            return Ok(report);
        }
        *has_waited = true;
    }
}

fn show(call: &Call, report: &RolloutReport) {
    let outcome = report.outcome.map(|outcome| outcome.to_string()).unwrap_or_default();
    let took =
        report.ended_at.map_or(String::new(), |ended| format!(" in {}", age(ended.since(report.started_at))));
    let (done, all) = report.done;
    call.out.line(&format!(
        "rollout {} of {} {outcome}{took}: {} ({done} of {all})",
        report.id.number, report.id.service, report.to
    ));
    if !report.cause.is_empty() {
        call.out.line(&format!("  because: {}", report.cause));
    }
    for failure in &report.failures {
        call.out.line(&format!("  {failure}"));
        for line in &failure.log {
            call.out.line(&format!("    | {line}"));
        }
    }
}
