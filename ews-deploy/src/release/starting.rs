//! How a release begins, and how one that is under way is taken up by another controller.

use std::time::Duration;

use ews_core::store::{Expect, Transaction, encode_typed};
use ews_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::graph::Graph;
use super::leader::{Active, Leader};
use super::record::{MemberState, ReleaseState, state_key};
use super::report::{ReleaseEventKind, ReleasePhase};
use super::spec::{MemberSpec, ReleaseSpec};
use crate::discovery::MemberOf;
use crate::record::Versioned;
use crate::rollout::Outcome;

impl Leader {
    /// Takes up the release that was under way, or begins the next one.
    pub(super) async fn take_up(&mut self) -> Result<()> {
        if self.active.is_some() {
            return Ok(());
        }
        let number = match (self.input.value.active, self.input.value.queue.first().copied()) {
            (Some(number), _) => {
                let (Some(found), Some(state)) =
                    (self.desk.records.spec(number).await?, self.desk.records.state(number).await?)
                else {
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        "the records of the release are not there",
                    ));
                };
                let graph = Graph::new(&found.spec)?;
                self.active = Some(Active { spec: found.spec, by: found.by, graph, state });
                self.fresh();
                self.tell(ReleaseEventKind::Resumed);
                return Ok(());
            }
            (None, Some(number)) => number,
            (None, None) => return Ok(()),
        };
        let Some(found) = self.desk.records.spec(number).await? else {
            return Err(Error::new(ErrorKind::Unavailable, "the spec of the release is not there"));
        };
        let graph = Graph::new(&found.spec)?;
        let now = self.desk.workshop.clock.now();
        let member = |spec: &MemberSpec| {
            (spec.name().clone(), MemberState { is_job: spec.is_job(), ..MemberState::default() })
        };
        let mut state = ReleaseState {
            number,
            phase: ReleasePhase::Forward,
            members: found.spec.members.iter().map(member).collect(),
            prune: Vec::new(),
            winding: None,
            cause: String::new(),
            spent: Duration::ZERO,
            outcome: None,
            started_at: now,
            ended_at: None,
        };
        let mut value = self.input.value.clone();
        value.queue.retain(|queued| *queued != number);
        let refused = if number < value.superseded {
            Some((Outcome::Cancelled, "superseded by a later release".to_owned()))
        } else {
            self.stranger(&found.spec).await?.map(|cause| (Outcome::Failed, cause))
        };
        if let Some((outcome, cause)) = &refused {
            (state.outcome, state.ended_at) = (Some(*outcome), Some(now));
            state.cause.clone_from(cause);
        } else {
            value.active = Some(number);
        }
        let mut transaction = Transaction::new().fence(self.desk.fence().clone());
        let repository = self.desk.records.repository();
        let key = repository.key("in/release")?;
        transaction = transaction
            .expect(&key, Expect::Revision(self.input.modified))
            .put(&key, encode_typed(&value)?)
            .put(&repository.key(&state_key(number))?, encode_typed(&state)?);
        if refused.is_none() {
            let of = MemberOf { release: self.desk.name.clone(), discovery: found.spec.discovery.clone() };
            for member in found.spec.members.iter().filter(|member| !member.is_job()) {
                transaction = transaction
                    .put(&self.desk.service(member.name()).key(MemberOf::KEY)?, encode_typed(&of)?);
            }
        }
        match repository.store().commit(&transaction).await {
            Ok(modified) => self.input = Versioned { value, modified },
            Err(error) => return self.collided(error).await,
        }
        self.soon = true;
        if let Some((outcome, cause)) = refused {
            self.desk.tell(number, ReleaseEventKind::Ended { outcome, cause });
            return Ok(());
        }
        let members = graph.order().to_vec();
        self.active = Some(Active { spec: found.spec, by: found.by, graph, state });
        self.fresh();
        self.tell(ReleaseEventKind::Started { members });
        Ok(())
    }

    fn fresh(&mut self) {
        self.again.clear();
        self.waiting.clear();
        self.counted = Instant::now();
        self.written = self.counted;
    }

    /// Why the release may not take one of its members, where another one has it.
    async fn stranger(&self, spec: &ReleaseSpec) -> Result<Option<String>> {
        for member in spec.members.iter().filter(|member| !member.is_job()) {
            let found = self.desk.service(member.name()).get::<MemberOf>(MemberOf::KEY).await?;
            if let Some(other) =
                found.map(|found| found.value.release).filter(|other| *other != self.desk.name)
            {
                return Ok(Some(format!("`{}` belongs to the release `{other}`", member.name())));
            }
        }
        Ok(None)
    }

    /// A write that expects what is asked for failed: the fence or the record, and reading tells which.
    pub(super) async fn collided(&mut self, error: Error) -> Result<()> {
        if error.kind() != ErrorKind::Stale {
            return Err(error);
        }
        let before = self.input.modified;
        self.refresh().await?;
        self.soon = true;
        if self.input.modified == before { Err(error) } else { Ok(()) }
    }
}
