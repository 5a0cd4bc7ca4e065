//! The work on one slot: filling it with a revision, or clearing it.
//!
//! Every step is written to the journal before it is made, and every step may be made twice: creating is idempotent by key, a
//! start of what runs does nothing, what is drained, stopped or removed stays so. So a successor begins the procedure anew
//! and arrives at the same place; from the journal it takes how much of the gate's deadline is used up, and that an instance
//! was started by this very unit, whose end is then a failure and not a reason to start it again.
//!
//! Start-first: create, start, gate, attach, then drain, stop and remove what was there. Stop-first: what was there is drained
//! and stopped before, and removed after the new one is healthy, so that going back needs no new instance.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ews_core::balancer::MemberState;
use ews_core::clock::Clock;
use ews_core::image::ImageStore;
use ews_core::metrics::Metrics;
use ews_core::policy::Policy;
use ews_core::probe::{Prober, Target};
use ews_core::runtime::{CreateOptions, LogOptions, RemoveOptions, StopOptions, WaitOptions};
use ews_core::{
    Error, ErrorKind, ExitStatus, Instance, InstanceId, InstanceKey, InstanceState, OwnerId, Result, Retry,
    RevisionId, Runtime, Selector, ServiceName,
};
use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::lead::Lead;
use super::narrate::Narrator;
use super::patch::{Difference, Files};
use crate::discovery::book::Book;
use crate::discovery::dress::Dresser;
use crate::event::{EventKind, Step};
use crate::failure::{FailureClass, FailureSeen};
use crate::gate::{Gate, Verdict};
use crate::hook::Hook;
use crate::plan::UnitOrder;
use crate::record::{Draft, Repository, RevisionRecord, UnitJournal};
use crate::remedy::{RemedySeen, Treatment};
use crate::rollout::{GateLimits, UnitFailure};
use crate::slots::split;
use crate::strategy::OnFailure;
use crate::traffic::Director;

/// What all work on slots of one service shares.
pub(crate) struct Tools {
    pub(crate) owner: OwnerId,
    pub(crate) service: ServiceName,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) director: Option<Director>,
    pub(crate) metrics: Option<Arc<dyn Metrics>>,
    pub(crate) images: Option<Arc<dyn ImageStore>>,
    pub(crate) hooks: Vec<Arc<dyn Hook>>,
    pub(crate) failures: Option<Arc<dyn Policy<FailureSeen, OnFailure>>>,
    pub(crate) remedies: Option<Arc<dyn Policy<RemedySeen, Treatment>>>,
    /// What other services are told of this one.
    pub(crate) book: Book,
    /// What an instance is told of others when it is created.
    pub(crate) dresser: Dresser,
    pub(crate) prober: Prober,
    pub(crate) repository: Repository,
    pub(crate) lead: Lead,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) narrator: Narrator,
    pub(crate) call_limit: Duration,
    /// How often the time that a gate has used up is written down.
    pub(crate) tick: Duration,
}

impl Tools {
    /// The last lines that an instance wrote; none where they can't be had.
    pub(crate) async fn tail(&self, id: &InstanceId) -> Vec<String> {
        tail(&*self.runtime, id, self.call_limit).await
    }
}

/// The last lines that an instance wrote; none where they can't be had within this time.
pub(crate) async fn tail(runtime: &dyn Runtime, id: &InstanceId, limit: Duration) -> Vec<String> {
    let options = LogOptions::tail(UnitFailure::LINES);
    let read = async {
        let lines = runtime.logs(id, &options).await?;
        let lines: Vec<_> = lines.take(UnitFailure::LINES).collect().await;
        Ok::<_, Error>(lines)
    };
    let Ok(Ok(lines)) = timeout(limit, read).await else { return Vec::new() };
    let text = |bytes: &[u8]| {
        let cut = bytes.get(..bytes.len().min(UnitFailure::LINE)).unwrap_or_default();
        // A terminal that shows a report must not be steered by what a program wrote.
        let shown: String = String::from_utf8_lossy(cut).into_owned();
        shown.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
    };
    lines.into_iter().flatten().map(|line| text(&line.bytes)).collect()
}

/// Which instances of a slot are not touched though they are not the one that fills it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Spare {
    /// None: they are left over.
    Nothing,
    /// Those of this revision stand beside it.
    Beside(RevisionId),
    /// Those of every other revision: the work is on one that stands beside them.
    Others,
}

/// One piece of work.
pub(crate) struct Unit {
    pub(crate) tools: Arc<Tools>,
    pub(crate) slot: u32,
    /// What it is filled with.
    pub(crate) revision: Option<(u64, RevisionRecord)>,
    pub(crate) order: UnitOrder,
    pub(crate) spare: Spare,
    /// Whether a new instance takes the place of the one that is there, though that be of the same revision.
    pub(crate) fresh: bool,
    /// Whether instances that can't be asked are passed over.
    pub(crate) moved: bool,
    /// The files that its instance shall have, where any hotfix is about them.
    pub(crate) files: Option<Files>,
    /// The rollout whose unit it is.
    pub(crate) rollout: Option<u64>,
    pub(crate) limits: GateLimits,
    pub(crate) drain: Duration,
    /// Where an earlier controller was with the same work.
    pub(crate) before: Option<UnitJournal>,
    /// Set when it shall end at the next step.
    pub(crate) interrupted: watch::Receiver<bool>,
    /// How far it has come.
    pub(crate) way: Mutex<Way>,
}

/// How work on a slot ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The slot is filled by this instance, of this generation.
    Filled(InstanceId, u32),
    /// There is nothing left in it.
    Cleared,
    /// The new instance failed.
    Failed(Box<UnitFailure>),
    /// It was asked to end.
    Interrupted,
    /// A call failed; it is worth trying again.
    Again {
        /// Why.
        error: Error,
        /// In which step, about which instance.
        at: Option<(Step, Option<InstanceId>)>,
        /// Whether the new instance had been found healthy.
        healthy: bool,
    },
}

/// How far a piece of work has come.
#[derive(Default)]
pub(crate) struct Way {
    at: Option<(Step, Option<InstanceId>)>,
    healthy: bool,
    /// The instance's last start before ours.
    started: u64,
}

/// What ends a procedure early.
pub(super) enum Halt {
    Failed(Box<UnitFailure>),
    Interrupted,
    Error(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

pub(super) type Done<T> = Result<T, Halt>;

impl Unit {
    /// Fills the slot.
    pub(crate) async fn fill(self) -> End {
        let Some((_, revision)) = &self.revision else { return self.clear().await };
        let revision = revision.clone();
        match self.filled(&revision).await {
            Ok(instance) => End::Filled(instance.id, instance.key.generation),
            Err(halt) => {
                if self.fresh && matches!(halt, Halt::Failed(_)) {
                    self.undo(&revision).await;
                }
                self.halted(halt, Some(&revision))
            }
        }
    }

    /// Takes away what was to take an instance's place, so that nobody takes the one for the other.
    async fn undo(&self, revision: &RevisionRecord) {
        let Ok(instances) = self.instances().await else { return };
        let mut mine: Vec<_> = instances.into_iter().filter(|i| i.key.revision == *revision.key()).collect();
        if mine.len() > 1
            && let Some(newest) = mine.pop()
        {
            // What is left of it is cleared away by whoever looks next.
            let _ = self.retire(&newest).await;
        }
    }

    /// Stops the instance that fills the slot, then fills it again.
    pub(crate) async fn bounce(self) -> End {
        let Some((_, revision)) = &self.revision else { return self.clear().await };
        let revision = revision.clone();
        let stopped = async {
            let instances = self.instances().await?;
            if let (Some(mine), _) = split(&instances, revision.key()) {
                let mine = mine.clone();
                self.tools.book.withdraw(&mine.id);
                self.tools.book.sync(self.tools.lead.fence()).await?;
                self.stop(&mine).await?;
                self.forget(&mine.id).await?;
            }
            Ok(())
        };
        match stopped.await {
            Ok(()) => self.fill().await,
            Err(halt) => self.halted(halt, Some(&revision)),
        }
    }

    /// Removes all that is in the slot.
    pub(crate) async fn clear(self) -> End {
        let cleared = async {
            for instance in self.instances().await? {
                self.retire(&instance).await?;
            }
            Ok(())
        };
        match cleared.await {
            Ok(()) => End::Cleared,
            Err(halt) => self.halted(halt, None),
        }
    }

    fn halted(&self, halt: Halt, revision: Option<&RevisionRecord>) -> End {
        match (halt, revision) {
            (Halt::Failed(failure), _) => End::Failed(failure),
            (Halt::Interrupted, _) => End::Interrupted,
            (Halt::Error(error), Some(revision)) if is_the_revisions(&error) => {
                let mut failure = self.failure(revision, None, error.to_string());
                failure.class = FailureClass::Refused;
                End::Failed(Box::new(failure))
            }
            (Halt::Error(error), _) => {
                let Way { at, healthy, .. } = std::mem::take(&mut *self.way());
                End::Again { error, at, healthy }
            }
        }
    }

    fn way(&self) -> MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn filled(&self, revision: &RevisionRecord) -> Done<Instance> {
        let mut instances = self.instances().await?;
        let mut lost = Vec::new();
        if self.moved {
            lost.extend(instances.extract_if(.., |i| matches!(i.state, InstanceState::Unknown { .. })));
        }
        if let Some(unknown) = instances.iter().find(|i| matches!(i.state, InstanceState::Unknown { .. })) {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the engine can't be asked about an instance of the slot",
            )
            .with_context("instance", &unknown.id)
            .into());
        }
        let (mine, mut left) = split(&instances, revision.key());
        left.retain(|instance| match &self.spare {
            Spare::Nothing => true,
            Spare::Beside(beside) => instance.key.revision != *beside,
            Spare::Others => instance.key.revision == *revision.key(),
        });
        if self.order == UnitOrder::StopFirst && mine.is_none_or(|mine| !mine.state.is_running()) {
            for instance in &left {
                self.quiesce(instance).await?;
            }
        }
        // An instance that is to lose a file makes way for one that never had it.
        let difference = match (mine, &self.files) {
            (Some(mine), Some(work)) if !(work.known && mine.state.is_running()) => {
                self.difference(mine, work).await?
            }
            _ => Difference::None,
        };
        let mine = match (&difference, mine) {
            (Difference::Stranger, Some(stranger)) | (_, Some(stranger)) if self.makes_way(&difference) => {
                left.push(stranger);
                if self.order == UnitOrder::StopFirst {
                    self.quiesce(stranger).await?;
                }
                None
            }
            (_, mine) => mine,
        };
        let all: Vec<Instance> = instances.iter().chain(&lost).cloned().collect();
        let instance = self.brought_up(mine, &all, revision, &difference).await?;
        if let Some(director) = &self.tools.director {
            lost.iter().for_each(|lost| director.forget(&lost.id, None));
        }
        self.way().healthy = true;
        self.check()?;
        // Others hear of one that only stands beside when it is promoted.
        if self.spare != Spare::Others {
            self.tools.book.announce(&instance, revision.spec());
        }
        self.tools.book.sync(self.tools.lead.fence()).await?;
        if let Some(director) = &self.tools.director {
            if director.has_traffic() && !director.serves(&instance.id) {
                self.journal(Step::Attach, Some(&instance.id)).await?;
            }
            if let Err(error) = director.want(&instance, MemberState::Active) {
                return Err(Halt::Failed(Box::new(self.failure(
                    revision,
                    Some(&instance.id),
                    error.to_string(),
                ))));
            }
            director.forget(&instance.id, Some(instance.incarnation));
            director.sync().await?;
        }
        for instance in left {
            self.retire(instance).await?;
        }
        Ok(instance)
    }

    /// Whether the instance that is there makes way for a new one.
    fn makes_way(&self, difference: &Difference) -> bool {
        self.fresh || matches!(difference, Difference::Stranger)
    }

    /// A healthy instance of the revision: the one that is there, or a new one.
    async fn brought_up(
        &self,
        mine: Option<&Instance>,
        all: &[Instance],
        revision: &RevisionRecord,
        difference: &Difference,
    ) -> Done<Instance> {
        let instance = match mine {
            Some(instance) if instance.state.is_running() => {
                let ago = instance.started_at.map(|at| self.tools.clock.now().since(at)).unwrap_or_default();
                self.probe(instance, revision, ago)?;
                if let (Difference::Files(differs), Some(work)) = (difference, &self.files) {
                    let flaps = self.tools.prober.state(&instance.id).map_or(0, |state| state.status.flaps);
                    let patched = self.patched(instance, revision, work, differs).await?;
                    let flaps = if patched.incarnation == instance.incarnation { flaps } else { 0 };
                    self.gate(&patched, revision, flaps).await?;
                    return Ok(patched);
                }
                if self.tools.director.as_ref().is_some_and(|director| director.serves(&instance.id)) {
                    return Ok(instance.clone());
                }
                instance.clone()
            }
            Some(instance) => {
                let started_here = self.before.as_ref().is_some_and(|before| {
                    before.instance.as_ref() == Some(&instance.id)
                        && (before.step != Step::Start || instance.incarnation.0 > before.started)
                        && matches!(before.step, Step::Start | Step::Reload | Step::Gate | Step::Attach)
                });
                if let (InstanceState::Exited(status), true, true) =
                    (&instance.state, started_here, self.rollout.is_some())
                {
                    return Err(self.ended(revision, &instance.id, Some(status.clone())).await);
                }
                if let (Difference::Files(differs), Some(work)) = (difference, &self.files) {
                    self.lay(instance, revision, work, differs).await?;
                }
                self.started(instance, revision).await?
            }
            None => {
                let created = self.created(all, revision).await?;
                if let Some(work) = &self.files
                    && let Difference::Files(differs) = self.difference(&created, work).await?
                {
                    self.lay(&created, revision, work, &differs).await?;
                }
                self.started(&created, revision).await?
            }
        };
        self.gate(&instance, revision, 0).await?;
        Ok(instance)
    }

    async fn created(&self, all: &[Instance], revision: &RevisionRecord) -> Done<Instance> {
        self.check()?;
        let generation = all.iter().map(|instance| instance.key.generation + 1).max().unwrap_or(0);
        let key = InstanceKey {
            owner: self.tools.owner.clone(),
            service: self.tools.service.clone(),
            revision: revision.key().clone(),
            slot: self.slot,
            generation,
        };
        self.journal(Step::Create, Some(&key.to_id()?)).await?;
        let options = CreateOptions::default();
        let limit = self.tools.call_limit;
        let spec = self.tools.dresser.dress(&revision.spec().instance, &key).await?;
        Ok(self.call(limit, self.tools.runtime.create(&spec, &key, &options)).await?)
    }

    pub(super) async fn started(&self, instance: &Instance, revision: &RevisionRecord) -> Done<Instance> {
        self.check()?;
        self.way().started = instance.incarnation.0;
        self.journal(Step::Start, Some(&instance.id)).await?;
        // A start waits for the end of a stop that is under way.
        let limit = self.tools.call_limit + revision.spec().instance.stop.grace;
        let started = self.call(limit, self.tools.runtime.start(&instance.id)).await?;
        if let InstanceState::Failed(failure) = &started.state {
            let reason = match failure.code {
                Some(code) => format!("its program could not be started: {} (code {code})", failure.message),
                None => format!("its program could not be started: {}", failure.message),
            };
            let mut failure = self.failure(revision, Some(&started.id), reason);
            failure.class = FailureClass::Exited;
            return Err(Halt::Failed(Box::new(failure)));
        }
        // By the engine's clock it may have started at any time.
        self.probe(&started, revision, Duration::ZERO)?;
        Ok(started)
    }

    fn probe(&self, instance: &Instance, revision: &RevisionRecord, ago: Duration) -> Result<()> {
        let target =
            Target::new(instance.clone(), revision.spec().instance.probes.clone()).with_started_ago(ago);
        match self.tools.prober.set(target) {
            // The engine has started it again meanwhile: the next look sees that.
            Err(error) if error.kind() == ErrorKind::Stale => Ok(()),
            result => result,
        }
    }

    /// Waits until an instance is healthy; that it lost its readiness `flaps` times before is not held against it.
    async fn gate(&self, instance: &Instance, revision: &RevisionRecord, flaps: u32) -> Done<()> {
        self.journal(Step::Gate, Some(&instance.id)).await?;
        let same = self.before.as_ref().filter(|before| before.instance.as_ref() == Some(&instance.id));
        let mut gate = Gate::new(self.limits, same.map(|before| before.gated).unwrap_or_default());
        let mut transitions = self.tools.prober.transitions();
        let mut interrupted = self.interrupted.clone();
        let mut exit = std::pin::pin!(exit_of(&*self.tools.runtime, instance));
        let mut last = Instant::now();
        let mut written = last;
        loop {
            let known =
                self.tools.prober.state(&instance.id).filter(|s| s.incarnation == instance.incarnation);
            let now = Instant::now();
            let status = known.as_ref().map(|state| {
                let mut status = state.status;
                status.flaps = status.flaps.saturating_sub(flaps);
                status
            });
            let verdict = gate.look(now - last, status);
            last = now;
            let patience = match verdict {
                Verdict::Pass => return Ok(()),
                Verdict::Fail(mut reason) => {
                    for (kind, outcome) in known.iter().flat_map(|state| &state.last) {
                        let kind = match kind {
                            ews_core::probe::ProbeKind::Startup => "startup",
                            ews_core::probe::ProbeKind::Readiness => "readiness",
                            ews_core::probe::ProbeKind::Liveness => "liveness",
                        };
                        reason.push_str(&format!("; {kind}: {}", outcome.reason));
                    }
                    let mut failure = self.failure(revision, Some(&instance.id), reason);
                    failure.class = FailureClass::Unhealthy;
                    failure.log = self.tools.tail(&instance.id).await;
                    return Err(Halt::Failed(Box::new(failure)));
                }
                Verdict::Wait(patience) => patience,
            };
            if now - written >= self.tools.tick {
                written = now;
                self.write(Step::Gate, Some(&instance.id), gate.spent()).await?;
            }
            let exited = tokio::select! {
                status = &mut exit => Some(status),
                _ = transitions.next() => None,
                () = sleep(patience.min(self.tools.tick)) => None,
                () = asked(&mut interrupted) => return Err(Halt::Interrupted),
            };
            if let Some(status) = exited {
                return Err(self.ended(revision, &instance.id, status).await);
            }
        }
    }

    /// The failure of an instance that ended by itself, with its last words.
    async fn ended(&self, revision: &RevisionRecord, id: &InstanceId, status: Option<ExitStatus>) -> Halt {
        let reason = if status.is_some() { "its program ended before it was healthy" } else { "it is gone" };
        let mut failure = self.failure(revision, Some(id), reason.to_owned());
        let oom = status.as_ref().is_some_and(|status| status.oom_killed);
        failure.class = if oom { FailureClass::OutOfMemory } else { FailureClass::Exited };
        failure.exit = status;
        failure.log = self.tools.tail(id).await;
        Halt::Failed(Box::new(failure))
    }

    pub(super) fn failure(
        &self,
        revision: &RevisionRecord,
        instance: Option<&InstanceId>,
        reason: String,
    ) -> UnitFailure {
        UnitFailure {
            slot: self.slot,
            instance: instance.cloned(),
            revision: revision.revision.id.clone(),
            class: FailureClass::Other,
            reason,
            exit: None,
            log: Vec::new(),
            at: self.tools.clock.now(),
        }
    }

    /// Drains, stops and removes an instance.
    async fn retire(&self, instance: &Instance) -> Done<()> {
        self.quiesce(instance).await?;
        self.check()?;
        self.journal(Step::Remove, Some(&instance.id)).await?;
        let options = RemoveOptions::default();
        self.call(self.tools.call_limit, self.tools.runtime.remove(&instance.id, &options)).await?;
        self.tools.prober.remove(&instance.id);
        self.forget(&instance.id).await
    }

    /// Takes an instance out of traffic and stops it.
    pub(super) async fn quiesce(&self, instance: &Instance) -> Done<()> {
        let told = self.tools.book.withdraw(&instance.id);
        self.tools.book.sync(self.tools.lead.fence()).await?;
        if told && instance.state.is_running() {
            // Those who call it hear of it while it still answers.
            let mut interrupted = self.interrupted.clone();
            tokio::select! {
                () = sleep(self.tools.book.settle()) => {}
                () = asked(&mut interrupted) => return Err(Halt::Interrupted),
            }
        }
        if instance.state.is_running()
            && let Some(director) = &self.tools.director
            && director.has(&instance.id)
        {
            self.check()?;
            self.journal(Step::Drain, Some(&instance.id)).await?;
            let mut interrupted = self.interrupted.clone();
            let drained = tokio::select! {
                drained = director.drain(&instance.id, self.drain) => drained?,
                () = asked(&mut interrupted) => return Err(Halt::Interrupted),
            };
            if let Some(how) = drained {
                let instance = instance.id.clone();
                self.tools.narrator.tell(EventKind::Drained { slot: self.slot, instance, how });
            }
        }
        self.stop(instance).await?;
        self.forget(&instance.id).await
    }

    async fn stop(&self, instance: &Instance) -> Done<()> {
        let ended = instance.state.is_ended() || matches!(instance.state, InstanceState::Created);
        if !ended {
            self.check()?;
            self.journal(Step::Stop, Some(&instance.id)).await?;
            let grace = self.revision.as_ref().map_or(Duration::ZERO, |(_, r)| r.spec().instance.stop.grace);
            // Its own grace may be another one than that of the revision that comes; both were checked against the lease.
            let limit = grace.max(Duration::from_secs(10)) + self.tools.call_limit;
            let limit = if self.tools.lead.outlasts(limit).is_ok() { limit } else { self.tools.call_limit };
            match self.call(limit, self.tools.runtime.stop(&instance.id, &StopOptions::default())).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                result => {
                    result?;
                }
            }
        }
        Ok(())
    }

    /// Nothing of the instance takes part in traffic any more.
    async fn forget(&self, instance: &InstanceId) -> Done<()> {
        if let Some(director) = &self.tools.director {
            director.forget(instance, None);
            if director.is_dirty() {
                director.sync().await?;
            }
        }
        Ok(())
    }

    async fn instances(&self) -> Done<Vec<Instance>> {
        let selector = slot_selector(&self.tools.owner, &self.tools.service, self.slot)?;
        let mut instances = self.call(self.tools.call_limit, self.tools.runtime.list(&selector)).await?;
        instances.sort_by_key(|instance| instance.key.generation);
        Ok(instances)
    }

    /// Ends the procedure where it was asked to end.
    pub(super) fn check(&self) -> Done<()> {
        if *self.interrupted.borrow() { Err(Halt::Interrupted) } else { Ok(()) }
    }

    pub(super) async fn journal(&self, step: Step, instance: Option<&InstanceId>) -> Done<()> {
        let gated = self.before.as_ref().filter(|before| before.instance.as_ref() == instance);
        self.write(step, instance, gated.map(|before| before.gated).unwrap_or_default()).await?;
        self.tools.narrator.tell(EventKind::Step { slot: self.slot, step, instance: instance.cloned() });
        self.way().at = Some((step, instance.cloned()));
        Ok(())
    }

    async fn write(&self, step: Step, instance: Option<&InstanceId>, gated: Duration) -> Done<()> {
        let entry = UnitJournal {
            slot: self.slot,
            revision: self.revision.as_ref().map(|(number, _)| *number),
            rollout: self.rollout,
            step,
            instance: instance.cloned(),
            started: self.way().started,
            gated,
            at: self.tools.clock.now(),
        };
        let draft = Draft::fenced(&self.tools.repository, self.tools.lead.fence());
        draft.put(&journal_key(self.slot), &entry)?.commit().await?;
        Ok(())
    }

    /// An engine call, begun only if the lead outlasts it.
    pub(super) async fn call<T>(&self, limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.tools.lead.outlasts(limit)?;
        match timeout(limit, call).await {
            Ok(result) => result,
            Err(_) => {
                Err(Error::new(ErrorKind::Timeout, format!("the runtime did not answer within {limit:?}"))
                    .with_maybe_applied())
            }
        }
    }
}

/// Waits until the work is asked to end.
pub(crate) async fn asked(interrupted: &mut watch::Receiver<bool>) {
    if interrupted.wait_for(|stop| *stop).await.is_err() {
        // Whoever could ask is gone, and with it the task that this runs in.
        std::future::pending::<()>().await;
    }
}

/// Whether a call will go wrong every time with this revision.
pub(crate) fn is_the_revisions(error: &Error) -> bool {
    use ErrorKind::{
        ImageDenied, ImageIncompatible, ImageMissing, Invalid, OutOfResources, PortInUse, Unauthorized,
        Unsupported,
    };
    let kinds = [
        ImageDenied,
        ImageIncompatible,
        ImageMissing,
        Invalid,
        OutOfResources,
        PortInUse,
        Unauthorized,
        Unsupported,
    ];
    error.retry() == Retry::Never && kinds.contains(&error.kind())
}

/// Waits for the end of this start; `None` where the instance is gone.
pub(crate) async fn exit_of(runtime: &dyn Runtime, instance: &Instance) -> Option<ExitStatus> {
    let options = WaitOptions::incarnation(instance.incarnation);
    loop {
        match runtime.wait(&instance.id, &options).await {
            Ok(status) => return Some(status),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Stale) => return None,
            Err(_) => sleep(Duration::from_secs(1)).await,
        }
    }
}

pub(crate) fn journal_key(slot: u32) -> String {
    format!("unit/{slot:06}")
}

pub(crate) fn service_selector(owner: &OwnerId, service: &ServiceName) -> Result<Selector> {
    Ok(Selector::equal("ews/owner", owner.as_str())?.and(&Selector::equal("ews/service", service.as_str())?))
}

fn slot_selector(owner: &OwnerId, service: &ServiceName, slot: u32) -> Result<Selector> {
    Ok(service_selector(owner, service)?.and(&Selector::equal("ews/slot", &slot.to_string())?))
}
