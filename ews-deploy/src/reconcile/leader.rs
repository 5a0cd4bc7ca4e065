//! The leader of a service: looks, decides, lets work be done, writes down what came of it.
//!
//! One task per service. It alone writes the service's state; work on slots runs beside it and comes back with how it ended.
//! Everything is decided anew from records and observation at each round, so that a successor needs nothing that its
//! predecessor held in memory. Where the runtime can't be asked, nothing is decided until it can.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ews_core::balancer::MemberState;
use ews_core::bus::Subscription;
use ews_core::probe::{ProbeKind, Probed, Target};
use ews_core::store::WatchStream;
use ews_core::{ErrorKind, EventStream, InstanceId, InstanceState, Result, Retry, Revision};
use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::unit::{End, Tools, Unit, journal_key, service_selector};
use crate::config::DeployConfig;
use crate::decide::{self, Act, Cause, Health, Looked, Turn};
use crate::event::{EventKind, Step};
use crate::plan;
use crate::record::{
    ControlInput, Draft, RolloutState, ScaleInput, ServiceInput, ServiceState, UnitJournal, Versioned,
    numbered,
};
use crate::restarts::{May, Restarts, Told};
use crate::rollout::{GateLimits, Outcome, Phase};
use crate::slots::Slots;
use crate::strategy::Strategy;

/// The least time between two listings.
const BREATH: Duration = Duration::from_millis(20);
/// How often the balancer is compared with what it should have though nothing has changed.
const AUDIT: Duration = Duration::from_secs(30);
/// The first and the longest pause before work that could not be done is tried again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Why a leader ended.
pub(super) enum Over {
    /// The service is gone.
    Removed,
    /// Another may lead.
    Lost(String),
}

/// Work that could not be done.
struct Again {
    until: Instant,
    count: u32,
    /// The step that failed.
    at: Option<(Step, Option<InstanceId>)>,
}

/// Work that is being done.
pub(super) struct Busy {
    interrupt: watch::Sender<bool>,
    pub(super) rollout: Option<u64>,
    revision: Option<u64>,
}

pub(super) struct Leader {
    pub(super) tools: Arc<Tools>,
    config: DeployConfig,
    pub(super) input: Versioned<ServiceInput>,
    pub(super) scale: ScaleInput,
    pub(super) control: ControlInput,
    pub(super) state: ServiceState,
    pub(super) rollout: Option<RolloutState>,
    pub(super) revisions: BTreeMap<u64, Revision>,
    pub(super) observed: Slots,
    /// Whether the last listing succeeded.
    sighted: bool,
    pub(super) busy: BTreeMap<u32, Busy>,
    units: JoinSet<(u32, End)>,
    syncs: JoinSet<bool>,
    sync_after: Option<Instant>,
    audited: Instant,
    restarts: Restarts,
    again: BTreeMap<u32, Again>,
    /// The slots of the rollout whose new instance was found healthy.
    healthy: BTreeSet<u32>,
    /// The journal of an earlier controller, until its work is taken up.
    journal: BTreeMap<u32, UnitJournal>,
    /// Since when the progress deadline has been counting.
    pub(super) counted: Instant,
    written: Instant,
    batch: usize,
    batch_after: Option<Instant>,
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
            revisions.insert(record.revision.number, record.revision);
        }
        let journal = repository.units().await?.into_iter().map(|unit| (unit.slot, unit)).collect();
        let now = Instant::now();
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
            busy: BTreeMap::new(),
            units: JoinSet::new(),
            syncs: JoinSet::new(),
            sync_after: None,
            audited: now,
            restarts: Restarts::default(),
            again: BTreeMap::new(),
            healthy: BTreeSet::new(),
            journal,
            counted: now,
            written: now,
            batch: 0,
            batch_after: None,
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
        over
    }

    /// How many revisions and ended rollouts are kept.
    pub(super) fn history(&self) -> usize {
        self.config.history
    }

    async fn rounds(&mut self) -> Over {
        self.tools.narrator.set_rollout(self.rollout.as_ref().map(|rollout| rollout.number));
        self.tools.narrator.tell(EventKind::Leading);
        if let Some(rollout) = &self.rollout {
            let done = (self.done(rollout), rollout.slots.len());
            self.tools.narrator.tell(EventKind::RolloutResumed { done });
        }
        let mut events: Option<EventStream> = None;
        let mut inputs: Option<WatchStream> = None;
        let mut transitions = self.tools.prober.transitions();
        let mut adopted = false;
        let mut relist = Instant::now();
        loop {
            if events.is_none() {
                events = self.events().await;
                relist = Instant::now();
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
            if relist <= Instant::now() {
                self.look().await;
                relist =
                    Instant::now() + if self.sighted { self.config.relist } else { Duration::from_secs(1) };
            }
            if self.sighted && !adopted {
                adopted = self.adopt().await;
                if !adopted {
                    relist = Instant::now() + Duration::from_secs(1);
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
                        sleep(AGAIN.0).await;
                        continue;
                    }
                }
            }
            let wake = self.wake(relist);
            tokio::select! {
                biased;
                Some(ended) = self.units.join_next() => {
                    if let Ok((slot, end)) = ended
                        && let Err(error) = self.ended(slot, end).await
                        && let Some(over) = lost(&error)
                    {
                        return over;
                    }
                    relist = Instant::now();
                }
                Some(synced) = self.syncs.join_next() => {
                    if !matches!(synced, Ok(true)) {
                        self.sync_after = Some(Instant::now() + AGAIN.0);
                    }
                }
                notice = next(&mut events) => {
                    if notice.is_none() {
                        events = None;
                    }
                    relist = relist.min(Instant::now() + BREATH);
                    sleep(BREATH).await;
                    drain(&mut events);
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
                _ = probed(&mut transitions) => {}
                () = sleep_until(wake) => {}
            }
        }
    }

    /// When something is due though nothing happens.
    fn wake(&self, relist: Instant) -> Instant {
        let now = Instant::now();
        let mut wake = relist;
        let due = self
            .again
            .values()
            .map(|again| again.until)
            .chain(self.restarts.next())
            .chain(self.sync_after)
            .chain(self.batch_after);
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

    async fn events(&mut self) -> Option<EventStream> {
        let selector = service_selector(&self.tools.owner, &self.tools.service).ok()?;
        let stream = timeout(self.config.call_limit, self.tools.runtime.events(&selector)).await;
        stream.ok()?.ok()
    }

    async fn watch_inputs(&self) -> Option<WatchStream> {
        let repository = &self.tools.repository;
        let prefix = repository.inputs().ok()?;
        let page = repository
            .store()
            .list(&ews_core::store::ListRequest::new(prefix.clone()).limit(1))
            .await
            .ok()?;
        repository.store().watch(&prefix, page.revision).await.ok()
    }

    /// Reads again what is asked for.
    pub(super) async fn refresh(&mut self) -> Result<()> {
        let repository = &self.tools.repository;
        if let Some(input) = repository.input().await? {
            self.input = input;
        }
        if let Some(scale) = repository.scale().await? {
            self.scale = scale.value;
        }
        if let Some(control) = repository.control().await? {
            self.control = control.value;
        }
        if let Some(request) = &self.input.value.active
            && !self.revisions.contains_key(&request.revision)
            && let Some(record) = repository.revision(request.revision).await?
        {
            self.revisions.insert(record.revision.number, record.revision);
        }
        if let Some(director) = &self.tools.director {
            // One that is being removed keeps its traffic until nothing of it runs.
            director.set_traffic(self.input.value.traffic.as_ref(), &self.input.value.former);
        }
        Ok(())
    }

    /// Lists the instances and probes those that run.
    async fn look(&mut self) {
        let Ok(selector) = service_selector(&self.tools.owner, &self.tools.service) else { return };
        let listed = timeout(self.config.call_limit, self.tools.runtime.list(&selector)).await;
        let Ok(Ok(instances)) = listed else {
            self.sighted = false;
            return;
        };
        self.sighted = true;
        let before: BTreeSet<_> = self.observed.iter().map(|instance| instance.id.clone()).collect();
        self.observed = Slots::new(instances);
        for gone in before.iter().filter(|id| self.observed.slot_of(id).is_none()) {
            self.tools.prober.remove(gone);
        }
        for instance in self.observed.iter() {
            if instance.state != InstanceState::Running {
                if instance.state.is_ended() {
                    self.tools.prober.remove(&instance.id);
                }
                continue;
            }
            let Some(revision) = self.revisions.values().find(|r| r.id == instance.key.revision) else {
                continue;
            };
            let ago = instance.started_at.map(|at| self.tools.clock.now().since(at)).unwrap_or_default();
            let target =
                Target::new(instance.clone(), revision.spec.instance.probes.clone()).with_started_ago(ago);
            if let Err(error) = self.tools.prober.set(target) {
                tracing::debug!(instance = %instance.id, %error, "not probed");
            }
        }
    }

    /// Takes up the traffic that an earlier controller directed.
    async fn adopt(&mut self) -> bool {
        let Some(director) = &self.tools.director else { return true };
        let instances: Vec<_> = self.observed.iter().cloned().collect();
        let revisions = self.revisions.values().map(|revision| revision.id.clone());
        let adopted = timeout(self.config.call_limit, director.adopt(revisions, &instances)).await;
        match adopted {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(service = %self.tools.service, %error, "the balancer can't be asked");
                false
            }
            Err(_) => false,
        }
    }

    pub(super) fn looked<'a>(
        &'a self,
        busy: &'a BTreeSet<u32>,
        halted: bool,
        health: Health<'a>,
    ) -> Looked<'a> {
        Looked {
            state: &self.state,
            observed: &self.observed,
            busy,
            rollout: self.rollout.as_ref(),
            halted,
            revisions: &self.revisions,
            health,
        }
    }

    /// One round: what is asked for is taken up, and what is to be done is begun.
    async fn round(&mut self) -> Result<Option<Over>> {
        let prober = self.tools.prober.clone();
        let observed_health = move |id: &InstanceId| prober.state(id).map(|state| state.status);
        // The count comes first: a rollout that begins now takes the slots as they shall be.
        self.rescale(&observed_health).await?;
        if self.take_up().await? {
            return Ok(Some(Over::Removed));
        }
        self.count_progress().await?;

        let busy: BTreeSet<u32> = self.busy.keys().copied().collect();
        let now = Instant::now();
        let mut acts = Vec::new();
        if let Some(rollout) = &self.rollout {
            let halted =
                self.ending || self.is_halted(rollout) || self.batch_after.is_some_and(|until| until > now);
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
                Turn::Wait => {}
                Turn::Finish(outcome) => {
                    self.finish(outcome).await?;
                    self.tools.narrator.set_rollout(None);
                }
            }
        }
        let taken: BTreeSet<u32> = acts.iter().map(Act::slot).collect();
        acts.extend(decide::supervise(&self.looked(&busy, false, &observed_health), &taken));
        for act in acts {
            if self.busy.len() >= self.config.parallel {
                break;
            }
            if self.may(&act, now) {
                self.begin(act);
            }
        }
        self.direct(&observed_health);
        self.tidy_journal().await?;
        Ok(None)
    }

    /// Forgets what an earlier controller was about to do where nothing is left to be done about it.
    async fn tidy_journal(&mut self) -> Result<()> {
        let rolling =
            self.rollout.as_ref().filter(|rollout| rollout.phase == Phase::Forward).map(|r| r.number);
        // A unit of the rollout under way is taken up in its turn, and then wants to know.
        let done = |entry: &&UnitJournal| {
            !self.busy.contains_key(&entry.slot) && (entry.rollout.is_none() || entry.rollout != rolling)
        };
        let slots: Vec<u32> = self.journal.values().filter(done).map(|entry| entry.slot).take(100).collect();
        if slots.is_empty() {
            return Ok(());
        }
        let mut draft = self.draft()?;
        for slot in &slots {
            draft = draft.delete(&journal_key(*slot))?;
        }
        draft.commit().await?;
        self.journal.retain(|slot, _| !slots.contains(slot));
        Ok(())
    }

    /// Whether work that supervision or a rollout wants may begin now.
    fn may(&mut self, act: &Act, now: Instant) -> bool {
        let slot = act.slot();
        if self.again.get(&slot).is_some_and(|again| again.until > now) {
            return false;
        }
        let (number, reason) = match act {
            Act::Fill { revision, cause: Cause::Ended(how), .. } => (*revision, how.clone()),
            Act::Bounce { revision, why, .. } => (*revision, why.clone()),
            _ => return true,
        };
        let Some(revision) = self.revisions.get(&number) else { return false };
        match self.restarts.lost(slot, now, &revision.spec.restart) {
            May::Now => true,
            May::Later(_, told) => {
                let instance = self.observed.split(slot, &revision.id).0.map(|instance| instance.id.clone());
                match told {
                    None => {}
                    Some(Told::Pause(pause)) => {
                        let reason = format!("{reason}; started again in {pause:?}");
                        self.tools.narrator.tell(EventKind::InstanceLost { slot, instance, reason });
                    }
                    Some(Told::GivenUp(restarts)) => {
                        self.tools.narrator.tell(EventKind::InstanceLost { slot, instance, reason });
                        self.tools.narrator.tell(EventKind::GivenUp { slot, restarts });
                    }
                }
                false
            }
        }
    }

    fn begin(&mut self, act: Act) {
        let slot = act.slot();
        let strategy = self.strategy().clone();
        let (number, unit_of) = match &act {
            Act::Fill { revision, cause: Cause::Rollout, .. } => {
                (Some(*revision), self.rollout.as_ref().map(|rollout| rollout.number))
            }
            Act::Fill { revision, .. } | Act::Bounce { revision, .. } => (Some(*revision), None),
            Act::Clear { .. } => (None, None),
        };
        let revision = number.and_then(|number| Some((number, self.revisions.get(&number)?.clone())));
        let capabilities = self.tools.runtime.capabilities();
        let order = revision.as_ref().map_or(plan::UnitOrder::StartFirst, |(_, revision)| {
            plan::order_of(strategy.order, &revision.spec, self.scale.desired, &capabilities).0
        });
        let min_healthy = if unit_of.is_some() { strategy.min_healthy } else { Duration::ZERO };
        let before =
            self.journal.remove(&slot).filter(|entry| entry.revision == number && entry.rollout == unit_of);
        let (interrupt, interrupted) = watch::channel(false);
        let unit = Unit {
            tools: Arc::clone(&self.tools),
            slot,
            revision,
            order,
            rollout: unit_of,
            limits: GateLimits { min_healthy, deadline: strategy.healthy_deadline, flaps: strategy.flaps },
            drain: strategy.drain,
            before,
            interrupted,
            way: Mutex::default(),
        };
        self.busy.insert(slot, Busy { interrupt, rollout: unit_of, revision: number });
        self.units.spawn(async move {
            let end = match act {
                Act::Fill { .. } => unit.fill().await,
                Act::Bounce { .. } => unit.bounce().await,
                Act::Clear { .. } => unit.clear().await,
            };
            (slot, end)
        });
    }

    pub(super) fn strategy(&self) -> &Strategy {
        static DEFAULT: std::sync::OnceLock<Strategy> = std::sync::OnceLock::new();
        let active = self.rollout.as_ref().map(|rollout| &rollout.strategy);
        active.or(self.state.strategy.as_ref()).unwrap_or_else(|| DEFAULT.get_or_init(Strategy::default))
    }

    /// Asks all units of the rollout to end at their next step.
    pub(super) fn interrupt_rollout(&self) {
        for busy in self.busy.values().filter(|busy| busy.rollout.is_some()) {
            busy.interrupt.send_replace(true);
        }
    }

    /// The same for the units of one rollout.
    pub(super) fn interrupt_units_of(&self, number: u64) {
        for busy in self.busy.values().filter(|busy| busy.rollout == Some(number)) {
            busy.interrupt.send_replace(true);
        }
    }

    /// Work on a slot ended.
    async fn ended(&mut self, slot: u32, end: End) -> Result<()> {
        let Some(busy) = self.busy.remove(&slot) else { return Ok(()) };
        let mut failed = None;
        match end {
            End::Filled(instance) => {
                self.again.remove(&slot);
                if let Some(revision) = busy.revision.and_then(|number| self.revisions.get(&number)) {
                    let revision = revision.id.clone();
                    self.tools.narrator.tell(EventKind::Filled { slot, instance, revision });
                }
                let rolling = self.rollout.as_mut().filter(|rollout| Some(rollout.number) == busy.rollout);
                if let (Some(rollout), Some(number)) = (rolling, busy.revision)
                    && rollout.slots.contains(&slot)
                {
                    self.state.slots.insert(slot, number);
                    if self.healthy.insert(slot) {
                        rollout.spent = Duration::ZERO;
                        self.counted = Instant::now();
                    }
                    let to = rollout.to;
                    let done =
                        rollout.slots.iter().filter(|slot| self.state.slots.get(slot) == Some(&to)).count();
                    rollout.done = done;
                }
            }
            End::Cleared => {
                self.again.remove(&slot);
                self.restarts.forget(slot);
            }
            End::Interrupted => {}
            End::Failed(failure) => {
                self.tools.narrator.tell(EventKind::UnitFailed((*failure).clone()));
                self.postpone(slot, None);
                failed = busy.rollout.map(|number| (number, *failure));
            }
            End::Again { error, at, healthy } => {
                // Clearing away what was there is not what the progress deadline is about: once for each slot, it counts
                // as progress that the new instance is healthy.
                if healthy && busy.rollout.is_some() && self.healthy.insert(slot) {
                    self.progressed();
                }
                self.postpone(slot, at);
                self.tools.narrator.tell(EventKind::Retrying { slot, reason: error.to_string() });
            }
        }
        if let Some((number, failure)) = failed
            && self.rollout.as_ref().is_some_and(|rollout| rollout.number == number)
        {
            self.failed(failure).await?;
        }
        let draft = self.draft()?.delete(&journal_key(slot))?;
        draft.commit().await?;
        Ok(())
    }

    /// The pause doubles while it is the same step that fails.
    fn postpone(&mut self, slot: u32, at: Option<(Step, Option<InstanceId>)>) {
        let count = match self.again.get(&slot) {
            Some(before) if before.at == at => before.count + 1,
            _ => 0,
        };
        let pause = AGAIN.0.saturating_mul(2_u32.saturating_pow(count)).min(AGAIN.1);
        self.again.insert(slot, Again { until: Instant::now() + pause, count, at });
    }

    fn progressed(&mut self) {
        self.counted = Instant::now();
        if let Some(rollout) = &mut self.rollout {
            rollout.spent = Duration::ZERO;
        }
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
    async fn count_progress(&mut self) -> Result<()> {
        let now = Instant::now();
        let Some(rollout) = &self.rollout else { return Ok(()) };
        if self.is_halted(rollout) {
            self.counted = now;
            return Ok(());
        }
        let spent = self.spent(rollout);
        self.counted = now;
        let Some(rollout) = &mut self.rollout else { return Ok(()) };
        rollout.spent = spent;
        if spent >= rollout.strategy.progress_deadline {
            let reason = format!("no instance got healthy within {:?}", rollout.strategy.progress_deadline);
            rollout.spent = Duration::ZERO;
            return self.turned(reason).await;
        }
        if now - self.written >= self.tools.tick {
            self.written = now;
            self.draft()?.commit().await?;
        }
        Ok(())
    }

    fn spent(&self, rollout: &RolloutState) -> Duration {
        rollout.spent + self.counted.elapsed()
    }

    /// Whether no further unit may begin: somebody paused it, or it paused itself.
    pub(super) fn is_halted(&self, rollout: &RolloutState) -> bool {
        let paused = self.control.rollout == rollout.number && self.control.paused;
        paused || rollout.held.is_some()
    }

    pub(super) fn done(&self, rollout: &RolloutState) -> usize {
        rollout.slots.iter().filter(|slot| self.state.slots.get(slot) == Some(&rollout.to)).count()
    }

    /// Keeps the balancer's picture of instances that nobody works on: the dead go at once, the ready come, those that are
    /// known not to be ready take a rest.
    fn direct(&mut self, health: Health<'_>) {
        let Some(director) = &self.tools.director else { return };
        for id in director.instances() {
            let found = self.observed.iter().find(|instance| instance.id == id);
            match found {
                Some(instance) if instance.state.is_ended() => director.forget(&id, None),
                // A later start is another endpoint.
                Some(instance) => director.forget(&id, Some(instance.incarnation)),
                None => director.forget(&id, None),
            }
        }
        for (slot, number) in self.state.slots.iter().filter(|(slot, _)| !self.busy.contains_key(slot)) {
            let Some(revision) = self.revisions.get(number) else { continue };
            let (Some(instance), _) = self.observed.split(*slot, &revision.id) else { continue };
            if instance.state != InstanceState::Running {
                continue;
            }
            let probed =
                self.tools.prober.state(&instance.id).filter(|s| s.incarnation == instance.incarnation);
            let Some(status) = health(&instance.id).filter(|_| probed.is_some()) else { continue };
            let tried = |state: &ews_core::probe::prober::State| {
                state.last.iter().any(|(kind, _)| matches!(kind, ProbeKind::Readiness | ProbeKind::Startup))
            };
            let wanted = match (status.ready, director.serves(&instance.id)) {
                (true, _) => MemberState::Active,
                // Not tried yet: what was known before holds.
                (false, true) if !probed.as_ref().is_some_and(tried) => continue,
                (false, true) => MemberState::Draining,
                (false, false) => continue,
            };
            if let Err(error) = director.want(instance, wanted) {
                tracing::warn!(instance = %instance.id, %error, "it gets no traffic");
            }
        }
        let now = Instant::now();
        if now - self.audited >= AUDIT {
            self.audited = now;
            director.suspect();
        }
        let rested = self.sync_after.is_none_or(|until| until <= now);
        if director.is_dirty() && self.syncs.is_empty() && rested {
            self.sync_after = None;
            let tools = Arc::clone(&self.tools);
            self.syncs.spawn(async move {
                let Some(director) = &tools.director else { return true };
                match director.sync().await {
                    Ok(()) => true,
                    Err(error) => {
                        tracing::warn!(service = %tools.service, %error, "the balancer is not as it should be");
                        false
                    }
                }
            });
        }
    }

    /// The rollout is over.
    async fn finish(&mut self, outcome: Outcome) -> Result<()> {
        self.concluded(outcome).await?;
        self.batch = 0;
        self.batch_after = None;
        Ok(())
    }

    pub(super) fn begin_batches(&mut self) {
        self.batch = 0;
        self.batch_after = None;
        self.counted = Instant::now();
        self.again.clear();
        self.healthy.clear();
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
    use futures_util::FutureExt as _;
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
