//! The way back of a release's members: each to what it was before the release, in reverse order, and never back from there.

use ews_core::{ErrorKind, Result, ServiceName};

use super::leader::Leader;
use super::members::is_passing;
use super::record::{Back, Before, Stage};
use super::report::ReleaseEventKind;
use crate::deployer::Found;
use crate::record::{End, ServiceInput};
use crate::request::{Bounds, DeployRequest};
use crate::rollout::{Outcome, RolloutId};

impl Leader {
    /// The key under which a member's way back is asked for.
    fn back_key(&self, member: &ServiceName) -> String {
        format!("{}-back", self.key(member))
    }

    /// A member's turn to go back has come, or it is on its way.
    pub(super) async fn go_back(&mut self, member: &ServiceName) -> Result<()> {
        let Some(state) = self.member(member).cloned() else { return Ok(()) };
        if self.is_postponed(member) && !state.is_job {
            return Ok(());
        }
        if state.is_job {
            // What a job did can't be taken back; one that is under way is being ended.
            return match state.is_under_way() {
                true => Ok(()),
                false => self.change(member, |state| state.back = Back::Done).await,
            };
        }
        match (state.stage, state.rollout, state.back) {
            // Whether it was asked for at all is being looked at.
            (Stage::Asking, _, _) => Ok(()),
            (Stage::UnderWay, Some(number), back) => {
                if back == Back::Pending {
                    self.change(member, |state| state.back = Back::Aborted).await?;
                    self.tell(ReleaseEventKind::MemberGoingBack { member: member.clone() });
                }
                self.end_rollout(member, number, End::Abort).await
            }
            (_, None, _) => self.settled(member, Back::Done, "").await,
            (_, Some(number), Back::Pending | Back::Aborted) => {
                self.turn_back(member, number, state.before, state.back).await
            }
            (_, Some(_), Back::Removing) => self.removed(member).await,
            (_, Some(number), Back::Rolling) => match state.back_rollout {
                None => self.ask_back(member, number, state.before).await,
                Some(back) => self.look_back(member, back).await,
            },
            (_, _, Back::Done | Back::Left | Back::Failed) => Ok(()),
        }
    }

    /// The member's own rollout has ended: what is left to be done follows from how.
    async fn turn_back(
        &mut self,
        member: &ServiceName,
        number: u64,
        before: Option<Before>,
        back: Back,
    ) -> Result<()> {
        let found = Found::read(&self.desk.service(member)).await?;
        let Some(input) = found.input.as_ref().map(|found| &found.value) else {
            return self.settled(member, Back::Done, "").await;
        };
        if !is_last(input, number) {
            return self.settled(member, Back::Left, "").await;
        }
        let id = RolloutId { service: member.clone(), number };
        let outcome = match self.desk.asker.rollout(&id).await {
            Ok(report) => report.outcome,
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if outcome == Some(Outcome::RollbackFailed) {
            return self.settled(member, Back::Failed, "its own rollback failed").await;
        }
        let Some(before) = before else {
            return self.settled(member, Back::Failed, "what it was before is not known").await;
        };
        let next = match before.revision {
            None => Back::Removing,
            Some(_) if outcome == Some(Outcome::RolledBack) && is_as_before(&found, input, &before) => {
                return self.settled(member, Back::Done, "").await;
            }
            Some(_) => Back::Rolling,
        };
        self.change(member, |state| state.back = next).await?;
        if back == Back::Pending {
            self.tell(ReleaseEventKind::MemberGoingBack { member: member.clone() });
        }
        Ok(())
    }

    /// A member that was nothing before is taken away.
    async fn removed(&mut self, member: &ServiceName) -> Result<()> {
        match self.desk.service(member).input().await? {
            None => self.settled(member, Back::Done, "").await,
            Some(input) if input.value.removing => Ok(()),
            Some(_) => {
                self.desk.may_ask()?;
                self.desk.asker.remove(member).await
            }
        }
    }

    /// Asks for the rollout to what it was.
    async fn ask_back(&mut self, member: &ServiceName, number: u64, before: Option<Before>) -> Result<()> {
        let repository = self.desk.service(member);
        let found = Found::read(&repository).await?;
        let Some(input) = found.input.as_ref().map(|found| &found.value) else {
            return self.settled(member, Back::Done, "").await;
        };
        let key = self.back_key(member);
        if let Some(back) = found.known(Some(&key)) {
            return self.change(member, |state| state.back_rollout = Some(back)).await;
        }
        if !is_last(input, number) {
            return self.settled(member, Back::Left, "").await;
        }
        let revision = match before.as_ref().and_then(|before| before.revision) {
            Some(revision) => repository.revision(revision).await?,
            None => None,
        };
        let (Some(before), Some(revision)) = (before, revision) else {
            return self.settled(member, Back::Failed, "the revision that it had is no longer kept").await;
        };
        let mut request = DeployRequest::new((*revision.revision.spec).clone())
            .with_key(key)
            .with_reason(format!("release {} goes back", self.release()));
        if let Some(strategy) = &found.state.strategy {
            request.strategy = strategy.clone();
        }
        request.traffic = before.traffic;
        request.bounds = Some(Bounds::new(before.bounds.0, before.bounds.1));
        request.back = Some(before.desired);
        request.base = Some(found.base());
        self.desk.may_ask()?;
        match self.desk.asker.deploy(&request).await {
            Ok(id) => self.change(member, |state| state.back_rollout = Some(id.number)).await,
            Err(error) if is_passing(&error) => {
                self.postpone(member);
                Ok(())
            }
            Err(error) => self.settled(member, Back::Failed, &error.to_string()).await,
        }
    }

    /// Looks how far the way back is.
    async fn look_back(&mut self, member: &ServiceName, number: u64) -> Result<()> {
        let id = RolloutId { service: member.clone(), number };
        let report = match self.desk.asker.rollout(&id).await {
            Ok(report) => report,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let input = self.desk.service(member).input().await?;
                let active = input.and_then(|input| input.value.active);
                return match (active, self.desk.asker.rollout(&id).await) {
                    (Some(active), _) if active.number == number => Ok(()),
                    // It began and ended between the looks: seen at the next one.
                    (_, Ok(_)) => Ok(()),
                    _ => self.settled(member, Back::Left, "").await,
                };
            }
            Err(error) => return Err(error),
        };
        match report.outcome {
            None => {
                let winds = self.active.as_ref().is_some_and(|active| active.state.winding.is_some());
                if winds { self.end_rollout(member, number, End::Cancel).await } else { Ok(()) }
            }
            Some(Outcome::Succeeded) => self.settled(member, Back::Done, "").await,
            Some(outcome) => {
                let input = self.desk.service(member).input().await?;
                let left = input.is_none_or(|input| !is_last(&input.value, number));
                if outcome == Outcome::Cancelled && left {
                    return self.settled(member, Back::Left, "").await;
                }
                let cause = format!("its rollout {id} back ended as {outcome}: {}", report.cause);
                self.settled(member, Back::Failed, &cause).await
            }
        }
    }

    /// Lets what is under way back end, where the release ends without waiting for it.
    pub(super) async fn wind_up_back(&mut self) -> Result<()> {
        let Some(active) = &self.active else { return Ok(()) };
        if active.state.winding.is_none() {
            return Ok(());
        }
        let on_its_way: Vec<_> = active
            .state
            .members
            .iter()
            .filter(|(_, state)| matches!(state.back, Back::Aborted | Back::Rolling | Back::Removing))
            .map(|(name, state)| (name.clone(), state.clone()))
            .collect();
        for (member, state) in on_its_way {
            match (state.back, state.back_rollout) {
                _ if state.is_under_way() => {}
                (Back::Rolling, Some(number)) => self.look_back(&member, number).await?,
                (Back::Removing, _) => self.removed(&member).await?,
                // Its rollout has ended, or its way back was never asked for.
                (_, _) => self.settled(&member, Back::Left, "").await?,
            }
        }
        Ok(())
    }

    async fn settled(&mut self, member: &ServiceName, back: Back, cause: &str) -> Result<()> {
        let is_new = self.member(member).is_some_and(|state| state.back == Back::Pending);
        self.again.remove(member);
        self.change(member, |state| {
            state.back = back;
            if back == Back::Failed {
                cause.clone_into(&mut state.cause);
            }
        })
        .await?;
        let of = member.clone();
        if is_new {
            self.tell(ReleaseEventKind::MemberGoingBack { member: member.clone() });
        }
        self.tell(match back {
            Back::Left => ReleaseEventKind::MemberLeft { member: of },
            Back::Failed => ReleaseEventKind::MemberBackFailed { member: of, cause: cause.to_owned() },
            _ => ReleaseEventKind::MemberWentBack { member: of },
        });
        Ok(())
    }
}

/// Whether nobody asked the service for another rollout since.
fn is_last(input: &ServiceInput, number: u64) -> bool {
    input.next_rollout == number + 1
}

/// Whether what is asked of a service is what was asked of it before.
fn is_as_before(found: &Found, input: &ServiceInput, before: &Before) -> bool {
    input.traffic == before.traffic
        && input.bounds == before.bounds
        && found.scale.as_ref().is_some_and(|scale| scale.value.desired == before.desired)
}
