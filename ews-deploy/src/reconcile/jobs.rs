//! The run-once jobs of a rollout: of the new revision, before anything is replaced and after all is.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ews_core::runtime::RemoveOptions;
use ews_core::spec::lifecycle::{EngineRestart, Job};
use ews_core::spec::probe::Probes;
use ews_core::{Digest, InstanceKey, InstanceSpec, Result, RevisionId, ServiceName};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::leader::Leader;
use super::unit::{Tools, service_selector};
use crate::event::EventKind;
use crate::failure::FailureClass;
use crate::job::{JobJournal, JobRecord, JobReport, JobRunner};
use crate::record::{Draft, RolloutState};
use crate::rollout::Phase;
use crate::strategy::RolloutJob;

/// The pause before a job that could not go on is taken up again.
const AGAIN: Duration = Duration::from_secs(2);

/// Which job of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    Before,
    After,
}

impl When {
    const fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// A job that is being run.
pub(super) struct Running {
    pub(super) when: When,
    pub(super) rollout: u64,
    pub(super) interrupt: watch::Sender<bool>,
}

/// The service under whose name the instances of a service's jobs are known, so that nobody takes them for its own.
fn job_service(service: &ServiceName) -> Result<ServiceName> {
    let name = format!("{service}{}", RolloutJob::SUFFIX);
    if name.len() <= 63 {
        return ServiceName::new(name);
    }
    let digest = Digest::of(service.as_str().as_bytes()).short();
    let head: String = service.as_str().chars().take(40).collect();
    ServiceName::new(format!("{head}{digest}{}", RolloutJob::SUFFIX))
}

impl Leader {
    fn job_of(rollout: &RolloutState, when: When) -> Option<&RolloutJob> {
        match when {
            When::Before => rollout.strategy.before.as_ref(),
            When::After => rollout.strategy.after.as_ref(),
        }
    }

    /// Whether the rollout has to wait for a job before anything is done.
    pub(super) fn waits_for_job(&self, when: When) -> bool {
        let forward = |rollout: &&RolloutState| {
            rollout.phase == Phase::Forward && !rollout.rollback && rollout.restarted.is_none()
        };
        self.rollout.as_ref().filter(forward).is_some_and(|rollout| {
            let report = match when {
                When::Before => &rollout.jobs.before,
                When::After => &rollout.jobs.after,
            };
            Self::job_of(rollout, when).is_some() && report.as_ref().is_none_or(|r| r.succeeded != Some(true))
        })
    }

    /// Runs the job, if it is not being run.
    pub(super) fn run_job(&mut self, when: When) {
        let now = Instant::now();
        if self.job.is_some() || self.job_after.is_some_and(|until| until > now) {
            return;
        }
        let Some(rollout) = self.rollout.as_ref().filter(|rollout| !self.is_halted(rollout)) else { return };
        let Some(record) = self.revisions.get(&rollout.to) else { return };
        let Some(job) = Self::job_of(rollout, when) else { return };
        let Ok(service) = job_service(&self.tools.service) else { return };
        let name = format!("job{}-{}-{}", rollout.number, when.name(), rollout.jobs.tries);
        let Ok(revision) = RevisionId::new(name.clone()) else { return };
        let mut spec: InstanceSpec = record.spec().instance.clone();
        spec.command.clone_from(&job.command);
        spec.args.clone_from(&job.args);
        spec.ports.clear();
        spec.probes = Probes::default();
        spec.engine_restart = EngineRestart::Never;
        let (interrupt, interrupted) = watch::channel(false);
        let mut of = Job::default();
        (of.deadline, of.retries) = (job.deadline, job.retries);
        let runner = JobRunner {
            runtime: Arc::clone(&self.tools.runtime),
            clock: Arc::clone(&self.tools.clock),
            journal: Arc::new(Journal { tools: Arc::clone(&self.tools), key: format!("job/{name}") }),
            spec,
            job: of,
            key: InstanceKey { owner: self.tools.owner.clone(), service, revision, slot: 0, generation: 0 },
            keep_failed: false,
            call_limit: self.tools.call_limit,
            tick: self.tools.tick,
            interrupted,
        };
        self.job = Some(Running { when, rollout: rollout.number, interrupt });
        self.tools.narrator.tell(EventKind::JobStarted { when: when.name().to_owned() });
        self.jobs.spawn(async move { runner.run().await });
    }

    /// A job has ended, or could not go on.
    pub(super) async fn job_ended(&mut self, result: Result<JobReport>) -> Result<()> {
        let Some(Running { when, rollout: number, .. }) = self.job.take() else { return Ok(()) };
        let report = match result {
            Ok(report) => report,
            Err(error) => {
                self.job_after = Some(Instant::now() + AGAIN);
                self.tools.narrator.tell(EventKind::Retrying { slot: 0, reason: error.to_string() });
                return Ok(());
            }
        };
        self.job_after = None;
        self.tools
            .narrator
            .tell(EventKind::JobEnded { when: when.name().to_owned(), report: report.clone() });
        let Some(rollout) = self.rollout.as_mut().filter(|rollout| rollout.number == number) else {
            return Ok(());
        };
        let succeeded = report.succeeded == Some(true);
        let cause = report.cause.clone();
        let key = format!("job/job{number}-{}-{}", when.name(), rollout.jobs.tries);
        match when {
            When::Before => rollout.jobs.before = Some(report),
            When::After => rollout.jobs.after = Some(report),
        }
        if !succeeded {
            // One that is tried again is another job to the engine.
            rollout.jobs.tries += 1;
        }
        let forward = rollout.phase == Phase::Forward;
        self.progressed();
        self.draft()?.delete(&key)?.commit().await?;
        if succeeded || !forward {
            return Ok(());
        }
        self.turned(format!("the job {} the rollout failed: {cause}", when.name()), FailureClass::Job).await
    }

    /// Asks a job that is being run to end.
    pub(super) fn interrupt_job(&self) {
        if let Some(job) = &self.job {
            job.interrupt.send_replace(true);
        }
    }

    /// Removes what a leader before left of jobs that nobody waits for.
    pub(super) async fn sweep_jobs(&self) {
        let Ok(service) = job_service(&self.tools.service) else { return };
        let Ok(selector) = service_selector(&self.tools.owner, &service) else { return };
        let limit = self.tools.call_limit;
        if self.tools.lead.outlasts(limit).is_err() {
            return;
        }
        let Ok(Ok(found)) = timeout(limit, self.tools.runtime.list(&selector)).await else { return };
        let waited = self.rollout.as_ref().filter(|rollout| rollout.phase == Phase::Forward);
        let mine = waited.map(|rollout| format!("job{}-", rollout.number));
        for instance in found {
            let is_mine =
                mine.as_ref().is_some_and(|mine| instance.key.revision.as_str().starts_with(mine.as_str()));
            if !is_mine && self.tools.lead.outlasts(limit).is_ok() {
                // What is left is swept by the next one.
                let _ =
                    timeout(limit, self.tools.runtime.remove(&instance.id, &RemoveOptions::force())).await;
            }
        }
    }
}

/// The record of a job, beside its rollout's.
struct Journal {
    tools: Arc<Tools>,
    key: String,
}

#[async_trait]
impl JobJournal for Journal {
    async fn load(&self) -> Result<Option<JobRecord>> {
        Ok(self.tools.repository.get::<JobRecord>(&self.key).await?.map(|found| found.value))
    }

    async fn save(&self, record: &JobRecord) -> Result<()> {
        let draft = Draft::fenced(&self.tools.repository, self.tools.lead.fence());
        draft.put(&self.key, record)?.commit().await.map(|_| ())
    }

    fn outlasts(&self, limit: Duration) -> Result<()> {
        self.tools.lead.outlasts(limit)
    }

    async fn dress(&self, spec: &InstanceSpec, key: &InstanceKey) -> Result<InstanceSpec> {
        // It is told of others as the service's own instances are.
        let key = InstanceKey { service: self.tools.service.clone(), ..key.clone() };
        self.tools.dresser.dress(spec, &key).await
    }
}
