//! The deployer as a [`ScaleTarget`]: a count is an input to the service's reconciler, like a rollout.

use async_trait::async_trait;
use ews_core::{
    Capability, CapabilitySet, Error, ErrorKind, InstanceState, Result, Scale, ScaleChange, ScaleTarget,
    ServiceName,
};

use crate::audit::AuditAction;
use crate::deployer::{Deployer, Found, collided, of_the_service};
use crate::record::{Draft, ScaleInput};

#[async_trait]
impl ScaleTarget for Deployer {
    fn capabilities(&self) -> CapabilitySet {
        CapabilitySet::none().with(Capability::ChooseVictims)
    }

    async fn current(&self, service: &ServiceName) -> Result<Scale> {
        let found = Found::read(&self.repository(service)).await?;
        let Some(scale) = found.scale.as_ref().filter(|_| found.input.is_some()) else {
            return Err(Error::not_found("service", service));
        };
        self.scale_of(service, &found, &scale.value).await
    }

    async fn set(&self, service: &ServiceName, change: &ScaleChange) -> Result<Scale> {
        // The write is one transaction: whether it happens does not hang on who waits for it.
        let (deployer, service, change) = (self.clone(), service.clone(), change.clone());
        ews_core::detach(async move { deployer.set_count(&service, &change).await }).await
    }
}

impl Deployer {
    async fn set_count(&self, service: &ServiceName, change: &ScaleChange) -> Result<Scale> {
        let repository = self.repository(service);
        loop {
            let found = Found::read(&repository).await?;
            let (Some(input), Some(scale)) = (&found.input, &found.scale) else {
                return Err(Error::not_found("service", service));
            };
            let now = &scale.value;
            if change.version.is_some_and(|version| version != now.version) {
                return Err(Error::new(
                    ErrorKind::Stale,
                    "the count was changed since: read it again and decide anew",
                )
                .with_context("version", now.version));
            }
            let (least, most) = input.value.bounds;
            if !(least..=most).contains(&change.desired) {
                return Err(Error::invalid(format!(
                    "{} instances; accepted by the service's bounds: {least} to {most}",
                    change.desired
                ))
                .with_context("service", service));
            }
            of_the_service(&self.slots(service).await?, &change.victims)?;
            if input.value.removing {
                return Err(Error::new(
                    ErrorKind::Busy,
                    "the service is being removed; accepted: one that stays",
                )
                .with_context("service", service));
            }
            if change.desired == now.desired {
                return self.scale_of(service, &found, now).await;
            }
            let value = ScaleInput {
                desired: change.desired,
                version: now.version + 1,
                victims: change.victims.clone(),
                reason: change.reason.chars().take(1_024).collect(),
            };
            let draft = Draft::new(&repository)
                .expect("in/service", Some(input.modified))?
                .expect("in/scale", Some(scale.modified))?
                .put("in/scale", &value)?
                .note(
                    &self.entry(AuditAction::Scale { from: now.desired, to: value.desired }, &change.reason),
                )?;
            match draft.commit().await {
                Ok(_) => return self.scale_of(service, &found, &value).await,
                Err(error) if collided(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn scale_of(&self, service: &ServiceName, found: &Found, scale: &ScaleInput) -> Result<Scale> {
        let slots = self.slots(service).await?;
        let ready = |instance: &&ews_core::Instance| {
            instance.state == InstanceState::Running
                && self.prober().state(&instance.id).is_some_and(|state| state.status.ready)
        };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let mut now = Scale::at_rest(scale.desired, scale.version);
        now.present = count(slots.iter().count());
        now.ready = count(slots.iter().filter(ready).count());
        now.rolling_out = found.input.as_ref().is_some_and(|input| input.value.active.is_some());
        Ok(now)
    }
}
