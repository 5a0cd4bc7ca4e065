//! The leader of a service: looks, decides, lets work be done, writes down what came of it.
//!
//! One task per service. It alone writes the service's state; work on slots runs beside it and comes back with how it ended.
//! Everything is decided anew from records and observation at each round, so that a successor needs nothing that its
//! predecessor held in memory. Where the runtime can't be asked, nothing is decided until it can.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ews_core::bus::Subscription;
use ews_core::probe::Probed;
use ews_core::store::WatchStream;
use ews_core::{ErrorKind, EventStream, Instance, InstanceId, Result, Retry};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{self, sleep, sleep_until};

use super::hooks::Joint;
use super::jobs::{Running, When};
use super::remedies::Care;
use super::steps::Which;
use super::unit::{End, Tools};
use crate::analysis::Numbers;
use crate::config::DeployConfig;
use crate::decide::{self, Act, Turn};
use crate::event::{EventKind, Step};
use crate::failure::FailureClass;
use crate::hotfix::Overlay;
use crate::job::JobReport;
use crate::record::{
    ControlInput, Draft, RevisionRecord, RolloutState, ScaleInput, ServiceInput, ServiceState, UnitJournal,
    Versioned, numbered,
};
use crate::restarts::Restarts;
use crate::rollout::{Outcome, Phase};
use crate::slots::Slots;

/// The least time between two listings.
const BREATH: Duration = Duration::from_millis(20);
/// The pause after a round for each instance that there is: about what a round takes for it, so that a service of thousands that is
/// being changed is looked at half of the time at most.
const PACE: Duration = Duration::from_micros(2);
/// The least pause that is worth a timer.
const PAUSE: Duration = Duration::from_millis(2);
/// How many pieces of work that ended are written down together.
const ENDS: usize = 128;
/// The pause after the store could not be written.
const REST: Duration = Duration::from_millis(500);

/// Why a leader ended.
pub(super) enum Over {
    /// The service is gone.
    Removed,
    /// Another may lead.
    Lost(String),
}

/// A slot, and whether it is about the instance that stands beside the one that fills it.
pub(super) type Spot = (u32, bool);

/// Work that could not be done.
pub(super) struct Again {
    pub(super) until: time::Instant,
    pub(super) count: u32,
    /// The step that failed.
    pub(super) at: Option<(Step, Option<InstanceId>)>,
}

/// Work that is being done.
pub(super) struct Busy {
    pub(super) interrupt: watch::Sender<bool>,
    pub(super) rollout: Option<u64>,
    pub(super) revision: Option<u64>,
    pub(super) beside: bool,
    /// Whether it is about an instance that was not well.
    pub(super) remedy: bool,
}

pub(super) struct Leader {
    pub(super) tools: Arc<Tools>,
    pub(super) config: DeployConfig,
    pub(super) input: Versioned<ServiceInput>,
    pub(super) scale: ScaleInput,
    pub(super) control: ControlInput,
    pub(super) state: ServiceState,
    pub(super) rollout: Option<RolloutState>,
    pub(super) revisions: BTreeMap<u64, RevisionRecord>,
    pub(super) observed: Slots,
    /// Whether the last listing succeeded.
    pub(super) sighted: bool,
    /// The listing under way, and how many were begun. It takes as long as an engine takes that is starting containers, and nobody
    /// waits for it but whoever wants to know.
    pub(super) looks: JoinSet<Option<Vec<Instance>>>,
    pub(super) looked_for: u64,
    /// Slots on which work ended, with the listing that will know of it, and whether that work was a remedy.
    pub(super) unseen: BTreeMap<u32, (u64, bool)>,
    pub(super) busy: BTreeMap<u32, Busy>,
    pub(super) units: JoinSet<(u32, End)>,
    pub(super) syncs: JoinSet<bool>,
    pub(super) sync_after: Option<time::Instant>,
    pub(super) audited: time::Instant,
    pub(super) restarts: Restarts,
    pub(super) care: Care,
    /// The error budget that is being asked for.
    pub(super) budgets: JoinSet<Option<f64>>,
    pub(super) again: BTreeMap<Spot, Again>,
    /// The slots of the rollout whose new instance was found healthy.
    pub(super) healthy: BTreeSet<u32>,
    /// Since when the new instances of the rollout's slots are watched; `None` for one that is being started again. Another
    /// controller begins anew.
    pub(super) watched: BTreeMap<u32, Option<time::Instant>>,
    /// The journal of an earlier controller, until its work is taken up.
    pub(super) journal: BTreeMap<u32, UnitJournal>,
    /// Since when the progress deadline has been counting.
    pub(super) counted: time::Instant,
    pub(super) written: time::Instant,
    pub(super) batch: usize,
    pub(super) batch_after: Option<time::Instant>,
    /// Metrics that are being asked: of which rollout, which analysis, and what they say.
    pub(super) measures: JoinSet<(u64, Which, Vec<Numbers>)>,
    pub(super) measuring: BTreeSet<Which>,
    /// Hooks that are being asked, and told.
    pub(super) asking: JoinSet<(u64, Joint, Result<(), String>)>,
    pub(super) telling: JoinSet<()>,
    /// The job of the rollout that is being run, and when one that could not go on is taken up again.
    pub(super) job: Option<Running>,
    pub(super) jobs: JoinSet<Result<JobReport>>,
    pub(super) job_after: Option<time::Instant>,
    /// How many steps were made when the one under way was told of.
    pub(super) told_step: Option<usize>,
    /// The rollout is about to end: its units end, and none begins.
    pub(super) ending: bool,
}

impl Leader {
    pub(super) async fn load(tools: Arc<Tools>, config: DeployConfig) -> Result<Option<Self>> {
        let repository = &tools.repository;
        let Some(input) = repository.input().await? else { return Ok(None) };
        let scale = match repository.scale().await? {
            Some(scale) => scale.value,
            // Its removal was under way, and went that far.
            None if input.value.removing => {
                ScaleInput { desired: 0, version: 0, victims: Vec::new(), reason: String::new() }
            }
            None => return Ok(None),
        };
        let control = repository.control().await?.map(|found| found.value).unwrap_or_default();
        let state = repository.state().await?.map(|found| found.value).unwrap_or_default();
        let rollout = match state.rollout {
            Some(number) => repository.rollout(number).await?.map(|found| found.value),
            None => None,
        };
        let mut revisions = BTreeMap::new();
        for record in repository.revisions().await? {
            revisions.insert(record.revision.number, record);
        }
        let journal: BTreeMap<u32, UnitJournal> =
            repository.units().await?.into_iter().map(|unit| (unit.slot, unit)).collect();
        let mut state = state;
        for entry in journal.values() {
            // Which files the instance has then is to be looked at, and its program to be told: any step but the first may follow on
            // files that were laid.
            if entry.step != Step::Create
                && entry.revision.and_then(|number| revisions.get(&number)).is_some_and(|record| {
                    let of_it = |overlay: &Overlay| overlay.base_id == *record.key();
                    revisions.values().any(|other| other.overlay.as_ref().is_some_and(of_it))
                })
            {
                state.patched.insert(entry.slot, (0, ServiceState::UNKNOWN));
            }
        }
        let now = time::Instant::now();
        let leader = Self {
            config,
            input,
            scale,
            control,
            state,
            rollout,
            revisions,
            observed: Slots::default(),
            sighted: false,
            looks: JoinSet::new(),
            looked_for: 0,
            unseen: BTreeMap::new(),
            busy: BTreeMap::new(),
            units: JoinSet::new(),
            syncs: JoinSet::new(),
            sync_after: None,
            audited: now,
            restarts: Restarts::default(),
            care: Care::default(),
            budgets: JoinSet::new(),
            again: BTreeMap::new(),
            healthy: BTreeSet::new(),
            watched: BTreeMap::new(),
            journal,
            counted: now,
            written: now,
            batch: 0,
            batch_after: None,
            measures: JoinSet::new(),
            measuring: BTreeSet::new(),
            asking: JoinSet::new(),
            telling: JoinSet::new(),
            job: None,
            jobs: JoinSet::new(),
            job_after: None,
            told_step: None,
            ending: false,
            tools,
        };
        Ok(Some(leader))
    }

    /// Leads until the service is removed, the lead is lost or `leave` says to go.
    pub(super) async fn lead(&mut self, leave: &mut watch::Receiver<bool>) -> Over {
        let tools = Arc::clone(&self.tools);
        let over = tokio::select! {
            over = self.rounds() => over,
            () = tools.lead.over() => Over::Lost("the lease ended".to_owned()),
            _ = leave.wait_for(|leave| *leave) => Over::Lost("the controller is leaving".to_owned()),
        };
        // What is under way ends at its next step, so that no call of ours runs beside the successor's.
        for busy in self.busy.values() {
            busy.interrupt.send_replace(true);
        }
        let ended = async { while self.units.join_next().await.is_some() {} };
        tokio::select! {
            () = ended => {}
            () = tools.lead.over() => {}
        }
        self.units.abort_all();
        self.syncs.abort_all();
        self.looks.abort_all();
        self.measures.abort_all();
        self.asking.abort_all();
        self.telling.abort_all();
        self.jobs.abort_all();
        self.budgets.abort_all();
        // Whoever leads next probes them; we would go on for ever.
        for instance in self.observed.iter() {
            tools.prober.remove(&instance.id);
        }
        over
    }

    /// How many revisions and ended rollouts are kept.
    pub(super) fn history(&self) -> usize {
        self.config.history
    }

    pub(super) async fn rounds(&mut self) -> Over {
        self.tools.narrator.set_rollout(self.rollout.as_ref().map(|rollout| rollout.number));
        self.tools.narrator.tell(EventKind::Leading);
        self.tell_ends().await;
        self.sweep_jobs().await;
        if let Some(rollout) = &self.rollout {
            let done = (self.done(rollout), rollout.slots.len());
            self.tools.narrator.tell(EventKind::RolloutResumed { done });
            let new = rollout.slots.iter().filter(|slot| self.state.slots.get(slot) == Some(&rollout.to));
            self.watched = new.map(|slot| (*slot, Some(time::Instant::now()))).collect();
        }
        let mut events: Option<EventStream> = None;
        let mut inputs: Option<WatchStream> = None;
        let mut transitions = self.tools.prober.transitions();
        let mut adopted = false;
        let (mut relist, mut quiet) = (time::Instant::now(), time::Instant::now());
        loop {
            if events.is_none() {
                events = self.events().await;
                relist = time::Instant::now();
            }
            if inputs.is_none() {
                inputs = self.watch_inputs().await;
                if let Err(error) = self.refresh().await {
                    if let Some(over) = lost(&error) {
                        return over;
                    }
                    inputs = None;
                }
            }
            if relist <= time::Instant::now() && self.looks.is_empty() {
                self.look();
                relist = time::Instant::now() + self.config.relist;
            }
            if self.sighted && !adopted {
                adopted = self.adopt().await;
                if !adopted {
                    relist = time::Instant::now() + Duration::from_secs(1);
                }
            }
            if self.sighted && adopted {
                match self.round().await {
                    Ok(Some(over)) => return over,
                    Ok(None) => {}
                    Err(error) => {
                        if let Some(over) = lost(&error) {
                            return over;
                        }
                        tracing::warn!(service = %self.tools.service, %error, "the store can't be written");
                        inputs = None;
                        sleep(REST).await;
                        continue;
                    }
                }
            }
            let pause = PACE.saturating_mul(u32::try_from(self.observed.len()).unwrap_or(u32::MAX));
            if pause >= PAUSE {
                sleep(pause).await;
            }
            // What is being looked for comes by itself.
            let far = time::Instant::now() + self.config.relist;
            let mut wake = self.wake(if self.looks.is_empty() { relist } else { far });
            let listens = quiet <= time::Instant::now();
            if !listens {
                wake = wake.min(quiet);
            }
            tokio::select! {
                biased;
                Some(ended) = self.units.join_next() => {
                    let mut ends = Vec::from_iter(ended.ok());
                    while ends.len() < ENDS && let Some(ended) = self.units.try_join_next() {
                        ends.extend(ended.ok());
                    }
                    if let Err(error) = self.ended(ends).await
                        && let Some(over) = lost(&error)
                    {
                        return over;
                    }
                    relist = time::Instant::now();
                }
                Some(measured) = self.measures.join_next() => {
                    if let Ok((rollout, which, numbers)) = measured
                        && let Err(error) = self.measured(rollout, which, numbers).await
                        && let Some(over) = lost(&error)
                    {
                        return over;
                    }
                }
                Some(answered) = self.asking.join_next() => {
                    if let Ok((rollout, joint, answer)) = answered
                        && let Err(error) = self.answered(rollout, joint, answer).await
                        && let Some(over) = lost(&error)
                    {
                        return over;
                    }
                }
                Some(ended) = self.jobs.join_next() => {
                    let ended = ended.unwrap_or_else(|_| Err(ews_core::Error::internal("the job's task failed")));
                    if let Err(error) = self.job_ended(ended).await
                        && let Some(over) = lost(&error)
                    {
                        return over;
                    }
                }
                Some(_) = self.telling.join_next() => {}
                Some(budget) = self.budgets.join_next() => self.budgeted(budget.ok().flatten()),
                Some(synced) = self.syncs.join_next() => {
                    if !matches!(synced, Ok(true)) {
                        self.sync_after = Some(time::Instant::now() + REST);
                    }
                }
                Some(looked) = self.looks.join_next() => {
                    self.sighted = match looked {
                        Ok(Some(instances)) => {
                            self.seen(instances);
                            true
                        }
                        _ => {
                            relist = relist.min(time::Instant::now() + Duration::from_secs(1));
                            false
                        }
                    };
                }
                notice = next(&mut events), if listens => {
                    match notice {
                        Some(_) => drain(&mut events),
                        None => events = None,
                    }
                    quiet = time::Instant::now() + BREATH;
                    relist = relist.min(quiet);
                }
                batch = next(&mut inputs) => {
                    if !matches!(batch, Some(Ok(_))) {
                        inputs = None;
                    } else if let Err(error) = self.refresh().await {
                        if let Some(over) = lost(&error) {
                            return over;
                        }
                        inputs = None;
                    }
                }
                _ = probed(&mut transitions) => {
                    for _ in 0..1_000 {
                        if transitions.next().now_or_never().is_none() {
                            break;
                        }
                    }
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    /// When something is due though nothing happens.
    pub(super) fn wake(&self, relist: time::Instant) -> time::Instant {
        let now = time::Instant::now();
        let mut wake = relist;
        let due = self
            .again
            .values()
            .map(|again| again.until)
            .chain(self.restarts.next())
            .chain(self.sync_after)
            .chain(self.batch_after)
            .chain(self.job_after)
            .chain(self.step_due())
            .chain(self.care_due())
            .chain(self.watched_until());
        for until in due.filter(|until| *until > now) {
            wake = wake.min(until);
        }
        if let Some(rollout) = self.rollout.as_ref().filter(|rollout| !self.is_halted(rollout)) {
            let left = rollout.strategy.progress_deadline.saturating_sub(self.spent(rollout));
            wake = wake.min(now + left.max(BREATH));
            wake = wake.min(self.written + self.tools.tick);
        }
        wake.max(now + Duration::from_millis(1))
    }

    /// One round: what is asked for is taken up, and what is to be done is begun.
    pub(super) async fn round(&mut self) -> Result<Option<Over>> {
        let prober = self.tools.prober.clone();
        let observed_health = move |id: &InstanceId| prober.state(id).map(|state| state.status);
        // The count comes first: a rollout that begins now takes the slots as they shall be.
        self.rescale(&observed_health).await?;
        if self.take_up().await? {
            return Ok(Some(Over::Removed));
        }
        self.count_progress().await?;
        if let Some(director) = &self.tools.director {
            director.set_aim(self.aim());
        }
        self.tell_step();
        self.ask_hooks();
        if self.joint() != Some(Joint::Before) && self.waits_for_job(When::Before) && !self.ending {
            self.run_job(When::Before);
        }

        let busy = self.taken();
        let now = time::Instant::now();
        let mut acts = Vec::new();
        if let Some(rollout) = &self.rollout {
            let halted = self.ending
                || self.is_halted(rollout)
                || self.joint().is_some()
                || self.waits_for_job(When::Before)
                || self.batch_after.is_some_and(|until| until > now);
            let (turn, interval) = (
                decide::turn(&self.looked(&busy, halted, &observed_health), rollout),
                rollout.strategy.interval,
            );
            match turn {
                Turn::Work { batch, acts: units } => {
                    if batch > self.batch {
                        // The pause comes before every batch but the first.
                        if self.batch > 0 && !interval.is_zero() && self.batch_after.is_none() {
                            self.batch_after = Some(now + interval);
                        } else {
                            self.batch_after = None;
                            self.batch = batch;
                            let slots = units.iter().map(Act::slot).collect();
                            self.tools.narrator.tell(EventKind::BatchStarted { number: batch, slots });
                            acts = units;
                        }
                    } else {
                        acts = units;
                    }
                }
                Turn::Approve { batch } => self.wait_for_approval(batch).await?,
                Turn::Step(step) => self.make(step).await?,
                Turn::Wait => {}
                // What is under way ends first.
                Turn::Finish(_) if self.job.is_some() => {}
                Turn::Finish(Outcome::Succeeded) if self.waits_for_job(When::After) => {
                    self.run_job(When::After);
                }
                Turn::Finish(outcome) => {
                    self.finish(outcome).await?;
                    self.tools.narrator.set_rollout(None);
                }
            }
        }
        let taken: BTreeSet<u32> = acts.iter().map(Act::slot).collect();
        let mut care = decide::supervise(&self.looked(&busy, false, &observed_health), &taken);
        self.watch_over(&mut care).await?;
        let care = self.treated(care, &observed_health, now);
        let rolling = acts.len();
        acts.extend(care);
        for (index, act) in acts.into_iter().enumerate() {
            if self.busy.len() >= self.config.parallel {
                break;
            }
            // What supervision wants was asked about already, but for what nobody complains of.
            if index >= rolling || self.may(&act, now) {
                self.begin(act);
            }
        }
        self.measure();
        if let Some(director) = &self.tools.director {
            director.set_aim(self.aim());
        }
        self.direct(&observed_health);
        self.tell_addresses(&observed_health);
        self.tidy_journal().await?;
        Ok(None)
    }

    /// State and rollout as they are now, to be written.
    pub(super) fn draft(&self) -> Result<Draft<'_>> {
        let draft =
            Draft::fenced(&self.tools.repository, self.tools.lead.fence()).put("state", &self.state)?;
        match &self.rollout {
            Some(rollout) => draft.put(&numbered("rollout", rollout.number), rollout),
            None => Ok(draft),
        }
    }

    /// Counts the time without progress, and writes it down now and then.
    pub(super) async fn count_progress(&mut self) -> Result<()> {
        let now = time::Instant::now();
        let Some(rollout) = &self.rollout else { return Ok(()) };
        if self.is_halted(rollout) {
            self.counted = now;
            return Ok(());
        }
        let passed = self.counted.elapsed();
        self.counted = now;
        // A step that only takes its time is bounded by itself.
        let waits = self.count_step(passed);
        let Some(rollout) = &mut self.rollout else { return Ok(()) };
        // A job has a deadline of its own.
        if !waits && self.job.is_none() {
            rollout.spent += passed;
        }
        if rollout.spent >= rollout.strategy.progress_deadline {
            let reason = format!("no instance got healthy within {:?}", rollout.strategy.progress_deadline);
            rollout.spent = Duration::ZERO;
            return self.turned(reason, FailureClass::Deadline).await;
        }
        if now - self.written >= self.tools.tick {
            self.written = now;
            self.draft()?.commit().await?;
        }
        Ok(())
    }

    pub(super) fn spent(&self, rollout: &RolloutState) -> Duration {
        rollout.spent + self.counted.elapsed()
    }

    /// Whether no further unit may begin: somebody paused it, or it paused itself.
    pub(super) fn is_halted(&self, rollout: &RolloutState) -> bool {
        let paused = self.control.rollout == rollout.number && self.control.paused;
        // What goes back is not held up by a pause of the way forward.
        rollout.phase == Phase::Forward && (paused || rollout.held.is_some())
    }

    pub(super) fn done(&self, rollout: &RolloutState) -> usize {
        rollout.slots.iter().filter(|slot| rollout.is_done(**slot, &self.state.slots)).count()
    }

    /// The rollout is over.
    pub(super) async fn finish(&mut self, outcome: Outcome) -> Result<()> {
        self.concluded(outcome).await?;
        self.batch = 0;
        self.batch_after = None;
        Ok(())
    }

    pub(super) fn begin_batches(&mut self) {
        self.batch = 0;
        self.batch_after = None;
        self.counted = time::Instant::now();
        self.again.clear();
        self.healthy.clear();
        // An answer, or an image, that nobody waits for any more would hold up whoever is next.
        self.asking.abort_all();
    }
}

/// Whether an error of the store says that another leads.
fn lost(error: &ews_core::Error) -> Option<Over> {
    let fenced = matches!(error.kind(), ErrorKind::Stale);
    let broken = error.retry() == Retry::Never && !matches!(error.kind(), ErrorKind::AlreadyExists);
    (fenced || broken).then(|| Over::Lost(error.to_string()))
}

/// The next of a stream that may not be there.
async fn next<T>(stream: &mut Option<futures_util::stream::BoxStream<'static, T>>) -> Option<T> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

/// Takes what waits in the stream: each of them only says that it is worth a look.
fn drain(events: &mut Option<EventStream>) {
    for _ in 0..1_000 {
        match events.as_mut().map(|stream| stream.next().now_or_never()) {
            Some(Some(Some(_))) => {}
            Some(Some(None)) => *events = None,
            _ => return,
        }
    }
}

async fn probed(transitions: &mut Subscription<Probed>) {
    if transitions.next().await.is_none() {
        std::future::pending::<()>().await;
    }
}
