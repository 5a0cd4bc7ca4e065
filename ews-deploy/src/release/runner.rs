//! The jobs of a release: whose key they have, and where their records are kept.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ews_core::{Digest, InstanceKey, InstanceSpec, Result, RevisionId, ServiceName};
use tokio::sync::watch;

use super::leader::{Desk, Leader};
use super::record::job_key;
use crate::discovery::MemberOf;
use crate::job::{JobJournal, JobRecord, JobRunner};
use crate::record::Draft;

/// The record of one job of one release.
struct Journal {
    desk: Arc<Desk>,
    number: u64,
    member: ServiceName,
    of: MemberOf,
}

#[async_trait]
impl JobJournal for Journal {
    async fn load(&self) -> Result<Option<JobRecord>> {
        self.desk.records.job(self.number, &self.member).await
    }

    async fn save(&self, record: &JobRecord) -> Result<()> {
        let draft = Draft::fenced(self.desk.records.repository(), self.desk.fence());
        draft.put(&job_key(self.number, &self.member), record)?.commit().await?;
        Ok(())
    }

    fn outlasts(&self, limit: Duration) -> Result<()> {
        self.desk.lead.outlasts(limit)
    }

    async fn dress(&self, spec: &InstanceSpec, key: &InstanceKey) -> Result<InstanceSpec> {
        self.desk.workshop.dresser().dress_as(&self.of, spec, key).await
    }
}

impl Leader {
    /// What runs a member's job; `None` for one that is none.
    pub(super) fn runner(
        &self,
        member: &ServiceName,
        interrupted: watch::Receiver<bool>,
    ) -> Result<Option<JobRunner>> {
        let Some(active) = &self.active else { return Ok(None) };
        let Some(spec) = active.spec.member(member) else { return Ok(None) };
        let Some(job) = spec.service.job.clone() else { return Ok(None) };
        let (workshop, number) = (&self.desk.workshop, active.state.number);
        // One key for each release: two releases may have jobs of one name.
        let release = Digest::of(self.desk.name.as_str().as_bytes()).short();
        let key = InstanceKey {
            owner: workshop.config.owner.clone(),
            service: member.clone(),
            revision: RevisionId::new(format!("job{number}-{release}"))?,
            slot: 0,
            generation: 0,
        };
        let of = MemberOf { release: self.desk.name.clone(), discovery: active.spec.discovery.clone() };
        Ok(Some(JobRunner {
            runtime: Arc::clone(&workshop.runtime),
            clock: Arc::clone(&workshop.clock),
            journal: Arc::new(Journal { desk: Arc::clone(&self.desk), number, member: member.clone(), of }),
            spec: spec.service.instance.clone(),
            job,
            key,
            keep_failed: !active.spec.keep_failed.is_zero(),
            call_limit: workshop.config.call_limit,
            tick: workshop.config.lease / 3,
            interrupted,
        }))
    }
}
