//! Running a job once to its end, through crashes of whoever runs it.
//!
//! A job has one instance for each attempt, whose key is the same whoever asks for it. That it ended is written down before the
//! instance is removed, so a successor finds either the record or the instance, and never runs again what has ended with 0. An
//! instance that was started and is gone without a record of its end counts as failed: nobody knows what it did.
//!
//! Whoever leads the release, or the service whose rollout the job belongs to, runs it, and keeps its record under its own fence
//! ([`JobJournal`]). An error of [`JobRunner::run`] says that it could not go on now; it is run again and goes on from its record.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ews_core::clock::Clock;
use ews_core::runtime::{CreateOptions, RemoveOptions, StopOptions};
use ews_core::spec::lifecycle::Job;
use ews_core::store::Schema;
use ews_core::time::duration;
use ews_core::{
    Error, ErrorKind, ExitStatus, Instance, InstanceId, InstanceKey, InstanceSpec, InstanceState, Result,
    Runtime, Selector, Timestamp,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::reconcile::{asked, exit_of, is_the_revisions, service_selector, tail};

/// How a job stands or ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobReport {
    /// Which attempt, from 1.
    pub attempt: u32,
    /// Whether it succeeded; `None` while it goes on.
    pub succeeded: Option<bool>,
    /// How the program of the last attempt ended, where that is known: exit code, signal, whether it was killed for memory.
    pub exit: Option<ExitStatus>,
    /// What went wrong; empty where nothing did.
    pub cause: String,
    /// The last lines that it wrote, at most 50 of at most 2 KiB each. They are the program's own words.
    pub log: Vec<String>,
    /// When it was begun.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// The instance that is kept for a while, so that somebody can look at it.
    pub kept: Option<InstanceId>,
}

/// A job as its runner keeps it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobRecord {
    /// From 0: the generation of the attempt's instance.
    pub(crate) attempt: u32,
    /// Whether the attempt's instance is about to be started or was.
    pub(crate) launched: bool,
    /// How much of the attempt's deadline is used up.
    #[serde(with = "duration")]
    pub(crate) spent: Duration,
    pub(crate) report: JobReport,
}

impl Schema for JobRecord {
    const NAME: &'static str = "deploy-job";
    const VERSION: u32 = 1;
}

/// Where the record of a job is kept, and by whose lead it is run.
#[async_trait]
pub(crate) trait JobJournal: Send + Sync {
    async fn load(&self) -> Result<Option<JobRecord>>;
    /// Fenced: a runner whose lead is over writes nothing any more.
    async fn save(&self, record: &JobRecord) -> Result<()>;
    /// Refuses an engine call that may outlive the lead.
    fn outlasts(&self, limit: Duration) -> Result<()>;
    /// What the instance is made from: the job's spec, and what it is told of others.
    async fn dress(&self, spec: &InstanceSpec, key: &InstanceKey) -> Result<InstanceSpec>;
}

/// Runs one job.
pub(crate) struct JobRunner {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) journal: Arc<dyn JobJournal>,
    pub(crate) spec: InstanceSpec,
    pub(crate) job: Job,
    /// The key of the first attempt. No other service may have its service's name and revision.
    pub(crate) key: InstanceKey,
    /// Whether the instance of a job that failed is left to the caller to remove.
    pub(crate) keep_failed: bool,
    pub(crate) call_limit: Duration,
    /// How often the time that is used up is written down.
    pub(crate) tick: Duration,
    /// Set when it shall not go on.
    pub(crate) interrupted: watch::Receiver<bool>,
}

/// How an attempt ended.
struct Attempt {
    exit: Option<ExitStatus>,
    /// Empty for a success.
    cause: String,
    /// Whether another attempt is worth it.
    again: bool,
}

impl Attempt {
    fn ended(status: ExitStatus) -> Self {
        let cause = if status.is_success() { String::new() } else { format!("its program ended: {status}") };
        Self { exit: Some(status), cause, again: true }
    }

    fn failed(cause: impl Into<String>) -> Self {
        Self { exit: None, cause: cause.into(), again: true }
    }

    fn for_good(cause: impl Into<String>) -> Self {
        Self { exit: None, cause: cause.into(), again: false }
    }
}

impl JobRunner {
    /// Runs the job to its end, or goes on with it, and says how it ended. What it left behind is removed by then, but for the
    /// instance that is kept.
    ///
    /// # Errors
    /// Those of the store and the runtime: it is worth being run again.
    pub(crate) async fn run(&self) -> Result<JobReport> {
        let mut record = self.journal.load().await?.unwrap_or_default();
        while record.report.succeeded.is_none() {
            let instance = self.find(record.attempt).await?;
            let ended = match instance {
                // What has ended has ended, wanted or not.
                Some(Instance { state: InstanceState::Exited(status), .. }) => Attempt::ended(status),
                _ if *self.interrupted.borrow() => {
                    Attempt::for_good("it was stopped: it is no longer wanted")
                }
                None if record.launched => {
                    Attempt::failed("its instance is gone, and nobody knows how it ended")
                }
                None => match self.create(record.attempt).await {
                    Ok(()) => continue,
                    Err(error) if is_the_revisions(&error) => Attempt::for_good(error.to_string()),
                    Err(error) => return Err(error),
                },
                Some(instance) => self.follow(&instance, &mut record).await?,
            };
            self.concluded(ended, &mut record).await?;
        }
        let kept = self.tidy(record.report.kept.as_ref()).await;
        kept.map(|()| record.report)
    }

    /// Starts what was made, and waits for its end.
    async fn follow(&self, instance: &Instance, record: &mut JobRecord) -> Result<Attempt> {
        match &instance.state {
            InstanceState::Exited(status) => Ok(Attempt::ended(status.clone())),
            InstanceState::Failed(failure) => {
                Ok(Attempt::failed(format!("its program could not be started: {}", failure.message)))
            }
            InstanceState::Created => {
                record.launched = true;
                record.report.attempt = record.attempt + 1;
                record.report.started_at.get_or_insert(self.clock.now());
                self.journal.save(record).await?;
                let started = self.call(self.call_limit, self.runtime.start(&instance.id)).await?;
                match &started.state {
                    InstanceState::Created => {
                        Err(Error::new(ErrorKind::Unavailable, "the instance was not started"))
                    }
                    InstanceState::Running | InstanceState::Starting => self.wait(&started, record).await,
                    _ => Box::pin(self.follow(&started, record)).await,
                }
            }
            InstanceState::Running
            | InstanceState::Starting
            | InstanceState::Paused
            | InstanceState::Stopping => self.wait(instance, record).await,
            _ => Err(Error::new(ErrorKind::Unavailable, "the engine can't say how the job stands")
                .with_context("instance", &instance.id)),
        }
    }

    async fn wait(&self, instance: &Instance, record: &mut JobRecord) -> Result<Attempt> {
        let mut interrupted = self.interrupted.clone();
        let mut exit = std::pin::pin!(exit_of(&*self.runtime, instance));
        loop {
            let left = self.job.deadline.saturating_sub(record.spent);
            if left.is_zero() {
                let status = self.stop(&instance.id).await?;
                // It may have ended by itself at the last moment.
                if status.is_success() {
                    return Ok(Attempt::ended(status));
                }
                let cause = format!("it was stopped, since it had not ended within {:?}", self.job.deadline);
                return Ok(Attempt { exit: Some(status), cause, again: true });
            }
            let since = Instant::now();
            tokio::select! {
                status = &mut exit => {
                    return Ok(match status {
                        Some(status) => Attempt::ended(status),
                        None => Attempt::failed("its instance is gone, and nobody knows how it ended"),
                    });
                }
                () = sleep(left.min(self.tick)) => {}
                () = asked(&mut interrupted) => {
                    let status = self.stop(&instance.id).await?;
                    let cause = "it was stopped: it is no longer wanted".to_owned();
                    return Ok(if status.is_success() {
                        Attempt::ended(status)
                    } else {
                        Attempt { exit: Some(status), cause, again: false }
                    });
                }
            }
            record.spent += since.elapsed();
            self.journal.save(record).await?;
        }
    }

    /// Writes down how an attempt ended, before anything of it is removed.
    async fn concluded(&self, ended: Attempt, record: &mut JobRecord) -> Result<()> {
        let instance = self.find(record.attempt).await?;
        if let Some(instance) = &instance
            && !instance.state.is_ended()
            && instance.state != InstanceState::Created
        {
            self.stop(&instance.id).await?;
        }
        let log = match &instance {
            Some(instance) => tail(&*self.runtime, &instance.id, self.call_limit).await,
            None => Vec::new(),
        };
        let succeeded = ended.cause.is_empty();
        let report = &mut record.report;
        report.attempt = record.attempt + 1;
        (report.exit, report.cause, report.log) = (ended.exit, ended.cause, log);
        if !succeeded && ended.again && record.attempt < self.job.retries {
            record.attempt += 1;
            record.launched = false;
            record.spent = Duration::ZERO;
            self.journal.save(record).await?;
            return self.tidy(None).await;
        }
        report.succeeded = Some(succeeded);
        report.ended_at = Some(self.clock.now());
        report.kept = instance.filter(|_| !succeeded && self.keep_failed && ended.again).map(|i| i.id);
        self.journal.save(record).await
    }

    /// The key of an attempt, counted from 0.
    pub(crate) fn attempt(&self, attempt: u32) -> InstanceKey {
        InstanceKey { generation: self.key.generation + attempt, ..self.key.clone() }
    }

    async fn list(&self) -> Result<Vec<Instance>> {
        let selector = service_selector(&self.key.owner, &self.key.service)?
            .and(&Selector::equal("ews/revision", self.key.revision.as_str())?);
        self.call(self.call_limit, self.runtime.list(&selector)).await
    }

    async fn find(&self, attempt: u32) -> Result<Option<Instance>> {
        let key = self.attempt(attempt);
        Ok(self.list().await?.into_iter().find(|instance| instance.key == key))
    }

    async fn create(&self, attempt: u32) -> Result<()> {
        let key = self.attempt(attempt);
        let spec = self.journal.dress(&self.spec, &key).await?;
        self.call(self.call_limit, self.runtime.create(&spec, &key, &CreateOptions::default())).await?;
        Ok(())
    }

    async fn stop(&self, id: &InstanceId) -> Result<ExitStatus> {
        let limit = self.spec.stop.grace + self.call_limit;
        match self.call(limit, self.runtime.stop(id, &StopOptions::default())).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(ExitStatus::unknown(self.clock.now())),
            result => result,
        }
    }

    /// Removes every instance of the job but this one.
    async fn tidy(&self, but: Option<&InstanceId>) -> Result<()> {
        for instance in self.list().await? {
            if Some(&instance.id) != but {
                let options = RemoveOptions::force();
                self.call(self.call_limit, self.runtime.remove(&instance.id, &options)).await?;
            }
        }
        Ok(())
    }

    /// An engine call, begun only if the lead outlasts it.
    async fn call<T>(&self, limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.journal.outlasts(limit)?;
        timeout(limit, call).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, format!("the runtime did not answer within {limit:?}"))
                .with_maybe_applied())
        })
    }
}
