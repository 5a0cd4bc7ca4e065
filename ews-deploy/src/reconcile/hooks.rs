//! Asking the embedder's hooks at the joints of a rollout.

use std::sync::Arc;
use std::time::Duration;

use ews_core::image::{EnsureOptions, ImageStore};
use ews_core::spec::source::{ImageSource, Source};
use ews_core::{Result, Retry};
use futures_util::StreamExt as _;
use tokio::time::{sleep, timeout};

use super::leader::Leader;
use crate::failure::FailureClass;
use crate::hook::Hook;
use crate::record::{Draft, RolloutState, numbered};
use crate::report::report;
use crate::rollout::{Outcome, Phase};

/// How often an image is asked for (Kamal's and Nomad's habit: three attempts).
const PULLS: u32 = 3;
/// How often hooks are told of an end before it is given up.
const TELL: u32 = 5;

/// A joint of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joint {
    Before,
    Promotion,
}

impl Leader {
    /// The joint at which the rollout stands and nobody has said yes yet.
    pub(super) fn joint(&self) -> Option<Joint> {
        let rollout = self.rollout.as_ref().filter(|rollout| rollout.phase == Phase::Forward)?;
        let image = self.tools.images.is_some() && self.image_of(rollout).is_some();
        let pulls = image && !rollout.hooks.before;
        if self.tools.hooks.is_empty() && !pulls {
            None
        } else if !rollout.hooks.before {
            Some(Joint::Before)
        } else if !rollout.hooks.promotion && rollout.step().is_none() {
            Some(Joint::Promotion)
        } else {
            None
        }
    }

    /// The image that the rollout's revision runs.
    fn image_of(&self, rollout: &RolloutState) -> Option<ImageSource> {
        match &self.revisions.get(&rollout.to)?.spec().instance.source {
            Source::Image(image) => Some(image.clone()),
            _ => None,
        }
    }

    /// Asks the hooks, if the rollout stands at a joint and they are not being asked.
    pub(super) fn ask_hooks(&mut self) {
        let Some(joint) = self.joint().filter(|_| self.asking.is_empty()) else { return };
        let Some(rollout) = self.rollout.as_ref().filter(|rollout| !self.is_halted(rollout)) else { return };
        let (tools, state, limit) = (Arc::clone(&self.tools), rollout.clone(), self.config.hook_limit);
        let image = self.image_of(rollout).filter(|_| joint == Joint::Before);
        self.asking.spawn(async move {
            let number = state.number;
            let asked = async {
                if let (Some(image), Some(images)) = (image, &tools.images) {
                    let limit = state.strategy.progress_deadline;
                    match timeout(limit, brought(&**images, &image)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => {
                            return Err(format!("its image can't be had, and nothing was changed: {error}"));
                        }
                        Err(_) => {
                            return Err(format!(
                                "its image was not there within {limit:?}, and nothing was changed"
                            ));
                        }
                    }
                }
                let now = tools.clock.now();
                let report =
                    report(&tools.service, state, &tools.repository, now).await.map_err(|e| e.to_string())?;
                for hook in &tools.hooks {
                    let asked = async {
                        match joint {
                            Joint::Before => hook.before(&report).await,
                            Joint::Promotion => hook.before_promotion(&report).await,
                        }
                    };
                    match timeout(limit, asked).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => {
                            return Err(format!("the hook `{}` says no: {}", hook.name(), error.message()));
                        }
                        Err(_) => {
                            return Err(format!(
                                "the hook `{}` did not answer within {limit:?}",
                                hook.name()
                            ));
                        }
                    }
                }
                Ok(())
            };
            (number, joint, asked.await)
        });
    }

    /// The hooks have answered.
    pub(super) async fn answered(
        &mut self,
        number: u64,
        joint: Joint,
        answer: std::result::Result<(), String>,
    ) -> Result<()> {
        let Some(rollout) = self.rollout.as_mut().filter(|rollout| rollout.number == number) else {
            return Ok(());
        };
        match (joint, answer) {
            (Joint::Before, Ok(())) => rollout.hooks.before = true,
            (Joint::Promotion, Ok(())) => rollout.hooks.promotion = true,
            (Joint::Before, Err(reason)) => {
                rollout.cause = reason;
                return self.concluded(Outcome::Failed).await;
            }
            (Joint::Promotion, Err(reason)) => return self.turned(reason, FailureClass::Hook).await,
        }
        self.progressed();
        self.draft()?.commit().await.map(|_| ())
    }

    /// Tells the hooks of ends that a leader before did not tell of.
    pub(super) async fn tell_ends(&mut self) {
        if self.tools.hooks.is_empty() {
            return;
        }
        let rollouts = self.tools.repository.rollouts().await.unwrap_or_default();
        for ended in rollouts.into_iter().filter(|rollout| rollout.outcome.is_some()) {
            self.tell_end(ended);
        }
    }

    /// Tells the hooks of an end that they may not have been told of.
    pub(super) fn tell_end(&mut self, ended: RolloutState) {
        if self.tools.hooks.is_empty() || ended.hooks.after {
            return;
        }
        let (tools, limit) = (Arc::clone(&self.tools), self.config.hook_limit);
        self.telling.spawn(async move {
            let now = tools.clock.now();
            let Ok(report) = report(&tools.service, ended.clone(), &tools.repository, now).await else {
                return;
            };
            for hook in &tools.hooks {
                tell(&**hook, &report, limit).await;
            }
            let mut told = ended;
            told.hooks.after = true;
            let draft = Draft::fenced(&tools.repository, tools.lead.fence());
            if let Ok(draft) = draft.put(&numbered("rollout", told.number), &told) {
                // A record that is gone or a lead that is lost: the next one tells again, or nobody needs to.
                let _ = draft.commit().await;
            }
        });
    }
}

/// Brings an image to every node; what is worth trying again is tried a few times.
async fn brought(images: &dyn ImageStore, image: &ImageSource) -> Result<()> {
    let mut pause = Duration::from_secs(2);
    for attempt in 1.. {
        let pulled = async {
            let mut progress = images.ensure(image, &EnsureOptions::default()).await?;
            while let Some(step) = progress.next().await {
                step?;
            }
            Ok::<_, ews_core::Error>(())
        };
        match pulled.await {
            Err(error) if attempt < PULLS && error.retry() != Retry::Never => {
                tracing::warn!(image = %image.reference, %error, "the image is asked for again");
                sleep(pause).await;
                pause *= 2;
            }
            result => return result,
        }
    }
    Ok(())
}

async fn tell(hook: &dyn Hook, report: &crate::rollout::RolloutReport, limit: Duration) {
    for attempt in 0..TELL {
        match timeout(limit, hook.after(report)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::warn!(rollout = %report.id, hook = hook.name(), error = error.message(), "a hook was not told");
            }
            Err(_) => tracing::warn!(rollout = %report.id, hook = hook.name(), "a hook did not answer"),
        }
        sleep(Duration::from_secs(1 << attempt)).await;
    }
}
