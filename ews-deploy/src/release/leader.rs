//! The leader of a release: takes up what is asked for, lets members go, writes down what came of it.
//!
//! One task per name. Everything is decided anew at each round from what is written and from how the services stand, so that a
//! successor needs nothing that its predecessor held in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ews_core::bus::Subscription;
use ews_core::event::Notice;
use ews_core::store::{Fence, ListRequest, WatchStream};
use ews_core::{Error, ErrorKind, ReleaseName, Result, Retry, ServiceName};
use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::decide::{self, Act, Rules};
use super::graph::Graph;
use super::record::{
    MemberState, Records, ReleaseControl, ReleaseHead, ReleaseInput, ReleaseState, Stage, state_key,
};
use super::report::{ReleaseEvent, ReleaseEventKind, ReleaseId, ReleasePhase};
use super::spec::{OnMemberFailure, ReleaseSpec};
use crate::deployer::Deployer;
use crate::event::DeployEvent;
use crate::job::JobReport;
use crate::reconcile::{Lead, Workshop};
use crate::record::{Draft, End, Repository, Versioned};
use crate::rollout::Outcome;

/// How often members are looked at while something is under way, though nothing says that it is worth it.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// The same while nothing is under way.
pub(super) const IDLE: Duration = Duration::from_secs(30);
/// The least time between two rounds.
const BREATH: Duration = Duration::from_millis(50);
/// The pause after the store could not be written.
const REST: Duration = Duration::from_millis(500);
/// The first and the longest pause before a member is asked again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// What everything that is done for a release works with.
pub(super) struct Desk {
    pub(super) name: ReleaseName,
    pub(super) workshop: Arc<Workshop>,
    /// Asks services as an embedder does.
    pub(super) asker: Deployer,
    pub(super) records: Records,
    pub(super) lead: Lead,
}

impl Desk {
    pub(super) fn service(&self, name: &ServiceName) -> Repository {
        Repository::new(Arc::clone(&self.workshop.store), &self.workshop.config.owner, name)
    }

    pub(super) fn fence(&self) -> &Fence {
        self.lead.fence()
    }

    /// Whether a service may be asked now: what is asked carries no fence of ours, so it must be through before the lead can end.
    pub(super) fn may_ask(&self) -> Result<()> {
        self.lead.outlasts(self.workshop.config.call_limit)
    }

    pub(super) fn tell(&self, number: u64, kind: ReleaseEventKind) {
        let release = ReleaseId { release: self.name.clone(), number };
        tracing::info!(%release, event = ?kind, "release");
        self.workshop.releases.publish(ReleaseEvent { release, at: self.workshop.clock.now(), kind });
    }
}

/// The release under way.
pub(super) struct Active {
    pub(super) spec: ReleaseSpec,
    /// Who asked for the release, and so for what it asks of its members.
    pub(super) by: String,
    pub(super) graph: Graph,
    pub(super) state: ReleaseState,
}

pub(super) struct Leader {
    pub(super) desk: Arc<Desk>,
    pub(super) input: Versioned<ReleaseInput>,
    pub(super) control: ReleaseControl,
    pub(super) head: ReleaseHead,
    pub(super) active: Option<Active>,
    pub(super) jobs: JoinSet<(ServiceName, Result<JobReport>)>,
    /// The jobs that are run, and what ends them.
    pub(super) running: BTreeMap<ServiceName, watch::Sender<bool>>,
    /// Members that are not asked again before.
    pub(super) again: BTreeMap<ServiceName, (Instant, u32)>,
    /// Members whose rollout waits for somebody.
    pub(super) waiting: BTreeMap<ServiceName, bool>,
    /// Members of which something was told, and when all were looked at last.
    pub(super) hinted: BTreeSet<ServiceName>,
    pub(super) looked: Instant,
    /// Something has changed, so that it is worth looking again at once.
    pub(super) soon: bool,
    /// Since when the deadline has been counting.
    pub(super) counted: Instant,
    pub(super) written: Instant,
    /// Since when kept instances have been counting.
    pub(super) kept: Instant,
}

impl Leader {
    pub(super) async fn load(desk: Arc<Desk>) -> Result<Self> {
        let input = desk.records.input().await?;
        let input =
            input.unwrap_or(Versioned { value: ReleaseInput::default(), modified: Default::default() });
        let control = desk.records.control().await?.map(|found| found.value).unwrap_or_default();
        let head = desk.records.head().await?.map(|found| found.value).unwrap_or_default();
        let now = Instant::now();
        Ok(Self {
            desk,
            input,
            control,
            head,
            active: None,
            jobs: JoinSet::new(),
            running: BTreeMap::new(),
            again: BTreeMap::new(),
            waiting: BTreeMap::new(),
            hinted: BTreeSet::new(),
            looked: now,
            soon: false,
            counted: now,
            written: now,
            kept: now,
        })
    }

    /// Leads until the lead is lost or `leave` says to go; says why.
    pub(super) async fn lead(&mut self, leave: &mut watch::Receiver<bool>) -> String {
        let desk = Arc::clone(&self.desk);
        let over = tokio::select! {
            over = self.rounds() => over,
            () = desk.lead.over() => "the lease ended".to_owned(),
            _ = leave.wait_for(|leave| *leave) => "the controller is leaving".to_owned(),
        };
        // A job goes on at its runtime, and whoever leads next follows it. An engine call of ours runs to its end within the lead.
        self.jobs.abort_all();
        over
    }

    async fn rounds(&mut self) -> String {
        let mut inputs: Option<WatchStream> = None;
        let mut events = self.desk.workshop.bus.subscribe();
        loop {
            if inputs.is_none() {
                inputs = self.watch_inputs().await;
                if let Err(error) = self.refresh().await {
                    if is_lost(&error) {
                        return error.to_string();
                    }
                    inputs = None;
                }
            }
            self.soon = false;
            if let Err(error) = self.round().await {
                if is_lost(&error) {
                    return error.to_string();
                }
                tracing::warn!(release = %self.desk.name, %error, "the release can't go on now");
                inputs = None;
                sleep(REST).await;
                continue;
            }
            if self.soon {
                continue;
            }
            let wake = self.wake();
            tokio::select! {
                Some(ended) = self.jobs.join_next() => {
                    if let Ok((member, result)) = ended
                        && let Err(error) = self.job_ended(&member, result).await
                    {
                        if is_lost(&error) {
                            return error.to_string();
                        }
                        inputs = None;
                    }
                }
                batch = next(&mut inputs) => {
                    if !matches!(batch, Some(Ok(_))) {
                        inputs = None;
                    } else if let Err(error) = self.refresh().await {
                        if is_lost(&error) {
                            return error.to_string();
                        }
                        inputs = None;
                    }
                }
                service = told(&mut events), if self.active.is_some() => {
                    self.hinted.extend(service);
                    sleep(BREATH).await;
                    self.gather(&mut events);
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    /// What else was told meanwhile.
    fn gather(&mut self, events: &mut Subscription<DeployEvent>) {
        while let Some(Notice::Event(event)) = events.try_next() {
            self.hinted.insert(event.event.service);
        }
    }

    async fn watch_inputs(&self) -> Option<WatchStream> {
        let repository = self.desk.records.repository();
        let prefix = repository.inputs().ok()?;
        let page = repository.store().list(&ListRequest::new(prefix.clone()).limit(1)).await.ok()?;
        repository.store().watch(&prefix, page.revision).await.ok()
    }

    pub(super) async fn refresh(&mut self) -> Result<()> {
        if let Some(input) = self.desk.records.input().await? {
            self.input = input;
        }
        if let Some(control) = self.desk.records.control().await? {
            self.control = control.value;
        }
        Ok(())
    }

    fn wake(&self) -> Instant {
        let now = Instant::now();
        let idle = self.active.is_none();
        let mut wake = now + if idle { IDLE } else { LOOK };
        for until in self.again.values().map(|(until, _)| *until).filter(|until| *until > now) {
            wake = wake.min(until);
        }
        if let Some(left) = self.head.kept.iter().map(|kept| kept.left).min() {
            wake = wake.min(self.kept + left.max(BREATH));
        }
        wake.max(now + Duration::from_millis(1))
    }

    async fn round(&mut self) -> Result<()> {
        self.tidy_kept().await?;
        self.take_up().await?;
        if self.active.is_none() {
            return Ok(());
        }
        self.controlled().await?;
        self.observe().await?;
        if self.count().await? {
            return Ok(());
        }
        self.prune_next().await?;
        self.wind_up_back().await?;
        let Some(active) = &self.active else { return Ok(()) };
        let rules = Rules {
            graph: &active.graph,
            on_failure: active.spec.on_failure,
            parallel: active.spec.parallel,
            held: self.is_paused(),
            prunes: active.spec.prune && !self.left_over().is_empty(),
        };
        for act in decide::next(&active.state, &rules) {
            match act {
                Act::Begin(member) => self.begin(&member).await?,
                Act::Skip(member) => self.skip(&member).await?,
                Act::TurnRound => {
                    let reason = self.first_failure();
                    self.turn_round(reason).await?;
                }
                Act::GoBack(member) => self.go_back(&member).await?,
                Act::Prune => self.begin_pruning().await?,
                Act::Finish(outcome) => {
                    self.conclude(outcome).await?;
                    break;
                }
            }
        }
        Ok(())
    }

    pub(super) fn number(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.state.number)
    }

    pub(super) fn tell(&self, kind: ReleaseEventKind) {
        self.desk.tell(self.number(), kind);
    }

    fn is_paused(&self) -> bool {
        self.control.release == self.number() && self.control.paused
    }

    /// The state as it is now, to be written.
    pub(super) async fn commit(&mut self) -> Result<()> {
        let Some(active) = &self.active else { return Ok(()) };
        let draft = Draft::fenced(self.desk.records.repository(), self.desk.fence());
        draft.put(&state_key(active.state.number), &active.state)?.commit().await?;
        self.soon = true;
        Ok(())
    }

    /// Changes a member and writes it down. Nothing is told before.
    pub(super) async fn change(
        &mut self,
        member: &ServiceName,
        change: impl FnOnce(&mut MemberState),
    ) -> Result<()> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let Some(state) = active.state.members.get_mut(member) else { return Ok(()) };
        let before = state.clone();
        change(state);
        let result = self.commit().await;
        if result.is_err()
            && let Some(active) = &mut self.active
        {
            // What was not written is not so: it is done again.
            active.state.members.insert(member.clone(), before);
        }
        result
    }

    pub(super) fn member(&self, member: &ServiceName) -> Option<&MemberState> {
        self.active.as_ref()?.state.members.get(member)
    }

    /// A member is not asked again before a pause that grows.
    pub(super) fn postpone(&mut self, member: &ServiceName) {
        let count = self.again.get(member).map_or(0, |(_, count)| count.saturating_add(1));
        let pause = AGAIN.0.saturating_mul(2_u32.saturating_pow(count)).min(AGAIN.1);
        self.again.insert(member.clone(), (Instant::now() + pause, count));
    }

    pub(super) fn is_postponed(&self, member: &ServiceName) -> bool {
        self.again.get(member).is_some_and(|(until, _)| *until > Instant::now())
    }

    /// Abort, cancel and what supersedes, as they are asked for now.
    async fn controlled(&mut self) -> Result<()> {
        let superseded = self.input.value.superseded;
        let end = self.control.end.filter(|_| self.control.release == self.number());
        let Some(active) = &mut self.active else { return Ok(()) };
        let state = &mut active.state;
        if state.winding.is_some() {
            return Ok(());
        }
        let cause = match (end, state.phase) {
            (Some(End::Abort), ReleasePhase::Forward) => {
                return self.turn_round("somebody aborted it".to_owned()).await;
            }
            (Some(End::Cancel), _) => "somebody cancelled it",
            (_, ReleasePhase::Forward) if state.number < superseded => "superseded by a later release",
            _ => return Ok(()),
        };
        state.winding = Some(Outcome::Cancelled);
        state.spent = Duration::ZERO;
        if state.cause.is_empty() {
            cause.clone_into(&mut state.cause);
        }
        self.counted = Instant::now();
        self.commit().await
    }

    /// Counts the time, and writes it down now and then. True where the release ended by it.
    async fn count(&mut self) -> Result<bool> {
        let now = Instant::now();
        let held = self.is_paused() || self.waits_for_somebody();
        let passed = now - std::mem::replace(&mut self.counted, now);
        let tick = self.desk.workshop.config.lease / 3;
        let Some(active) = &mut self.active else { return Ok(true) };
        let going = active.state.phase == ReleasePhase::Forward && active.state.winding.is_none();
        if !(held && going) {
            active.state.spent += passed;
        }
        if active.state.spent < active.spec.deadline {
            if now - self.written >= tick {
                self.written = now;
                self.commit().await?;
                self.soon = false;
            }
            return Ok(false);
        }
        let reason = format!("it was not through within {:?}", active.spec.deadline);
        if let Some(outcome) = active.state.winding {
            self.conclude(outcome).await?;
            return Ok(true);
        }
        match active.state.phase {
            ReleasePhase::Forward if active.spec.on_failure == OnMemberFailure::Rollback => {
                self.turn_round(reason).await?;
                Ok(false)
            }
            ReleasePhase::Forward => {
                active.state.cause = reason;
                active.state.winding = Some(Outcome::Failed);
                active.state.spent = Duration::ZERO;
                self.commit().await?;
                Ok(false)
            }
            ReleasePhase::RollingBack => {
                self.add_cause("it was not back within the deadline");
                self.conclude(Outcome::RollbackFailed).await?;
                Ok(true)
            }
            ReleasePhase::Pruning | ReleasePhase::Queued => {
                self.add_cause("what is no longer a member was not removed within the deadline");
                self.conclude(Outcome::Failed).await?;
                Ok(true)
            }
        }
    }

    pub(super) fn add_cause(&mut self, cause: &str) {
        if let Some(active) = &mut self.active {
            if !active.state.cause.is_empty() {
                active.state.cause.push_str("; ");
            }
            active.state.cause.push_str(cause);
        }
    }

    /// Whether all that is under way waits for somebody's approval.
    fn waits_for_somebody(&self) -> bool {
        let Some(active) = &self.active else { return false };
        let mut under_way = active.state.members.iter().filter(|(_, state)| state.is_under_way()).peekable();
        under_way.peek().is_some()
            && under_way.all(|(name, _)| self.waiting.get(name).copied().unwrap_or_default())
    }

    pub(super) fn first_failure(&self) -> String {
        let Some(active) = &self.active else { return String::new() };
        let failed = active.graph.order().iter().find_map(|name| {
            active
                .state
                .members
                .get(name)
                .filter(|state| state.stage == Stage::Failed)
                .map(|state| (name, state))
        });
        failed.map(|(name, state)| format!("`{name}` failed: {}", state.cause)).unwrap_or_default()
    }

    /// All go back from here on.
    async fn turn_round(&mut self, reason: String) -> Result<()> {
        let Some(active) = &mut self.active else { return Ok(()) };
        active.state.phase = ReleasePhase::RollingBack;
        active.state.spent = Duration::ZERO;
        active.state.cause.clone_from(&reason);
        self.counted = Instant::now();
        self.again.clear();
        self.commit().await?;
        self.tell(ReleaseEventKind::RollingBack { reason });
        Ok(())
    }
}

/// Whether an error of the store says that another leads.
fn is_lost(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Stale)
        || (error.retry() == Retry::Never && !matches!(error.kind(), ErrorKind::AlreadyExists))
}

async fn next<T>(stream: &mut Option<futures_util::stream::BoxStream<'static, T>>) -> Option<T> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

/// Something happened to a service; to which is not known where some of it was missed.
async fn told(events: &mut Subscription<DeployEvent>) -> Option<ServiceName> {
    match events.next().await {
        Some(Notice::Event(event)) => Some(event.event.service),
        Some(Notice::Gap(_)) => None,
        None => std::future::pending().await,
    }
}
