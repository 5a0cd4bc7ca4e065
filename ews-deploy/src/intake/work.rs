//! The background part: what was accepted is brought about, followed and told, by whoever runs it after any crash.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ews_core::store::{Key, Typed};
use ews_core::{Error, ErrorKind, Result, Retry, ServiceName, Timestamp};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Inner;
use super::record::{Followed, Job, Records, Stage};
use super::rule::Rule;
use super::status::{Status, StatusState, TELLING};
use crate::rollout::{Outcome, RolloutId};

/// How often it is looked without a reason: another intake may have accepted something, and rollouts end.
const LOOK: Duration = Duration::from_secs(2);
/// How often uploads are looked through.
const SWEEP: Duration = Duration::from_secs(60);
/// The most statuses that are told at once.
const TOLD: usize = 16;

/// What is under way, each under a name, so that nothing is begun twice.
#[derive(Default)]
struct Tasks {
    set: JoinSet<()>,
    names: HashMap<tokio::task::Id, String>,
}

impl Tasks {
    fn has(&self, name: &str) -> bool {
        self.names.values().any(|known| known == name)
    }

    fn count(&self, prefix: &str) -> usize {
        self.names.values().filter(|name| name.starts_with(prefix)).count()
    }

    fn spawn(&mut self, name: String, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.set.spawn(task).id();
        self.names.insert(id, name);
    }

    /// Waits until one has ended; for ever where there is none.
    async fn ended(&mut self) {
        match self.set.join_next_with_id().await {
            Some(Ok((id, ()))) => drop(self.names.remove(&id)),
            Some(Err(error)) => drop(self.names.remove(&error.id())),
            None => std::future::pending().await,
        }
    }
}

impl Inner {
    pub(super) async fn run(self: Arc<Self>) {
        let mut tasks = Tasks::default();
        let mut swept = None::<tokio::time::Instant>;
        loop {
            if swept.is_none_or(|at| at.elapsed() >= SWEEP) {
                self.uploads.sweep().await;
                swept = Some(tokio::time::Instant::now());
            }
            if let Err(error) = self.look(&mut tasks).await {
                tracing::warn!(%error, "the intake's records can't be read; it is tried again");
            }
            let next = self.next_due(&tasks).await.unwrap_or(LOOK).min(LOOK);
            tokio::select! {
                () = self.wake.notified() => {}
                () = tasks.ended() => {}
                () = sleep(next.max(Duration::from_millis(10))) => {}
            }
        }
    }

    /// How long until the next job is due that nobody works on.
    async fn next_due(&self, tasks: &Tasks) -> Result<Duration> {
        let now = self.now();
        let jobs = self.records.jobs().await?;
        let waiting = jobs.iter().filter(|(rule, _)| !tasks.has(&format!("job {rule}")));
        let ready = waiting.map(|(_, job)| self.records.ready_at(job, now)).filter(|at| *at > now);
        Ok(ready.map(|at| at.since(now)).min().unwrap_or(LOOK))
    }

    async fn look(self: &Arc<Self>, tasks: &mut Tasks) -> Result<()> {
        let now = self.now();
        for (rule, job) in self.records.jobs().await? {
            let name = format!("job {rule}");
            if self.records.ready_at(&job, now) > now
                || tasks.has(&name)
                || tasks.count("job ") >= self.config.limits.making
            {
                continue;
            }
            let inner = Arc::clone(self);
            tasks.spawn(name, async move {
                if let Err(error) = inner.work(&rule).await {
                    tracing::warn!(%error, rule, "a webhook's job is tried again");
                    sleep(LOOK).await;
                }
            });
        }
        let mut rules = BTreeSet::new();
        for (key, followed) in self.records.followed().await? {
            // The statuses of one rule are told one after another, so that they come in order.
            let first = followed.value.stage != Stage::Running && rules.insert(followed.value.rule.clone());
            let name = format!("tell {}", followed.value.rule);
            match followed.value.stage {
                Stage::Running => self.ended(&key, followed).await?,
                _ if self.sink.is_none() => self.told(&key, &followed).await?,
                _ if !first || followed.value.due_at > now || tasks.has(&name) => {}
                _ if tasks.count("tell ") >= TOLD => {}
                _ => {
                    let inner = Arc::clone(self);
                    tasks.spawn(name, async move {
                        if let Err(error) = inner.tell(&key, followed).await {
                            tracing::warn!(%error, "a status is told again");
                            sleep(LOOK).await;
                        }
                    });
                }
            }
        }
        Ok(())
    }

    /// Works on a rule's job.
    async fn work(&self, name: &str) -> Result<()> {
        let Some(job) = self.records.claim(name, self.now()).await? else { return Ok(()) };
        let renewed = async {
            loop {
                sleep(Records::RENEW).await;
                if let Err(error) = self.records.renew(name, self.now()).await {
                    tracing::warn!(%error, rule = name, "the claim of a job is not renewed");
                }
            }
        };
        let done = tokio::select! {
            done = Box::pin(self.deploy_job(name, &job)) => done,
            () = renewed => return Ok(()),
        };
        let now = self.now();
        let (service, rollout, stage) = match done {
            Ok(id) => (id.service.to_string(), Some(id.number), Stage::Begun),
            Err(error) if error.retry() != Retry::Never && job.attempts + 1 < self.config.limits.attempts => {
                tracing::info!(%error, rule = name, "a webhook's deployment is tried again");
                return self.records.put_off(name, &job.id, now + backoff(job.attempts)).await;
            }
            Err(error) => {
                tracing::warn!(%error, rule = name, "a webhook's deployment failed");
                let service = self.config.rules.get(name).and_then(|rule| rule.blank().ok());
                let service = service.map(|spec| spec.name.to_string()).unwrap_or_default();
                // The message and never the detail, which holds a peer's own words.
                let description = format!("{}: {}", error.kind(), error.message());
                (service, None, Stage::Ended { ok: false, description })
            }
        };
        let followed = Followed {
            rule: name.to_owned(),
            id: job.id,
            heard: job.heard,
            service,
            rollout,
            stage,
            attempts: 0,
            due_at: now,
        };
        self.records.finish(&followed, now, self.config.limits.followed).await?;
        self.wake.notify_one();
        Ok(())
    }

    async fn deploy_job(&self, name: &str, job: &Job) -> Result<RolloutId> {
        let rule: &Rule = self.config.rules.get(name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "the rule is no longer there").with_context("rule", name)
        })?;
        let heard = &job.heard;
        let by = format!("{}:{}@{}", rule.provider.name(), heard.repository, heard.by);
        let spec = self.make(&job.wish, Some(heard), rule.blank()?, (&by, None)).await?;
        let what = heard.sha.as_deref().or(heard.tag.as_deref()).unwrap_or("-");
        let request = rule
            .request(spec)?
            .with_key(format!("hook:{name}:{}", job.id))
            .with_reason(format!("{} {what} of {}", heard.kind, heard.repository));
        self.deployer.by(&by).deploy(&request).await
    }

    /// Looks whether a rollout has ended.
    async fn ended(&self, key: &Key, followed: Typed<Followed>) -> Result<()> {
        let (mut value, at) = (followed.value, followed.record.modified);
        let service = ServiceName::new(&value.service);
        let (Ok(service), Some(number)) = (service, value.rollout) else {
            return self.records.follow(key, at, None).await;
        };
        let id = RolloutId { service, number };
        let report = match self.deployer.rollout(&id).await {
            // It may wait for its turn; what waits is not there yet, what is forgotten never will be.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                match timeout(Duration::from_millis(50), self.deployer.wait(&id)).await {
                    Ok(report) => report,
                    Err(_) => return Ok(()),
                }
            }
            report => report,
        };
        let (ok, description) = match report {
            Ok(report) => match report.outcome {
                None => return Ok(()),
                Some(Outcome::Succeeded) => (true, format!("rollout {number} succeeded")),
                Some(outcome) => (false, format!("rollout {number}: {outcome}: {}", report.cause)),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {
                (false, format!("rollout {number} is no longer known"))
            }
            Err(error) => return Err(error),
        };
        value.stage = Stage::Ended { ok, description: description.chars().take(1_024).collect() };
        (value.attempts, value.due_at) = (0, self.now());
        self.records.follow(key, at, Some(&value)).await?;
        self.wake.notify_one();
        Ok(())
    }

    async fn tell(&self, key: &Key, followed: Typed<Followed>) -> Result<()> {
        let Some(sink) = &self.sink else { return Ok(()) };
        let value = &followed.value;
        let (state, description) = match &value.stage {
            Stage::Begun | Stage::Running => (StatusState::Pending, "the deployment has begun".to_owned()),
            Stage::Ended { ok: true, description } => (StatusState::Success, description.clone()),
            Stage::Ended { ok: false, description } => (StatusState::Failure, description.clone()),
        };
        let Ok(service) = ServiceName::new(&value.service) else {
            return self.told(key, &followed).await;
        };
        let link = self.link.as_ref().and_then(|link| link(&service, value.rollout));
        let status = Status {
            state,
            description,
            link,
            rule: value.rule.clone(),
            service,
            rollout: value.rollout,
            heard: value.heard.clone(),
        };
        let told = timeout(TELLING, sink.tell(&status)).await;
        match told.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "telling took too long"))) {
            Ok(()) => self.told(key, &followed).await?,
            Err(error) if value.attempts + 1 >= self.config.limits.attempts => {
                tracing::warn!(%error, rule = value.rule, "a status is not told");
                self.told(key, &followed).await?;
            }
            Err(error) => {
                tracing::info!(%error, rule = value.rule, "a status is told again later");
                let mut later = value.clone();
                later.due_at = self.now() + backoff(value.attempts);
                later.attempts += 1;
                self.records.follow(key, followed.record.modified, Some(&later)).await?;
            }
        }
        self.wake.notify_one();
        Ok(())
    }

    /// What comes after it was told.
    async fn told(&self, key: &Key, followed: &Typed<Followed>) -> Result<()> {
        let mut value = followed.value.clone();
        let next = match value.stage {
            Stage::Begun => {
                (value.stage, value.attempts) = (Stage::Running, 0);
                Some(&value)
            }
            Stage::Running | Stage::Ended { .. } => None,
        };
        self.records.follow(key, followed.record.modified, next).await
    }

    pub(super) fn now(&self) -> Timestamp {
        self.deployer.now()
    }
}

/// One second, doubled with each attempt, at most five minutes.
fn backoff(attempts: u32) -> Duration {
    Duration::from_secs(1).saturating_mul(1 << attempts.min(9)).min(Duration::from_secs(300))
}
