//! Seeing to it that an image is there.
//!
//! What is there, by the pin or else by the name, is looked at first, and [`decide`] says whether that will do. If not, the image is pulled
//! in a task of its own that every caller for the same reference, platform and policy joins; whoever comes late sees how far it is from
//! then on. The task looks again before it pulls, since its predecessor may have just brought the image.
//!
//! A pull by digest brings no tag. Where the reference has one and nobody here has it, it is given to the image; a tag that means
//! another image is left alone: others count on it, and a pin needs none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ews_core::image::{EnsureOptions, Progress, ProgressStream};
use ews_core::spec::source::{ImagePin, ImageSource, PullPolicy};
use ews_core::{Arch, Digest, Error, ErrorKind, ImageRef, Platform, Result};
use tokio::sync::watch;

use super::lines::{Layers, Lines};
use super::look::{self, find, inspect, manifests, pinned};
use super::wire::ImageInspected;
use super::{Shared, credentials};
use crate::client::{Call, Subject};

const OPERATION: &str = "images.ensure";

/// One pull: what is the same for all who join it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Pull {
    name: ImageRef,
    pin: Option<Digest>,
    /// Asked for; else what the node runs.
    platform: Option<Platform>,
    always: bool,
}

/// How far a pull is.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    done: u64,
    total: Option<u64>,
    ended: Option<std::result::Result<Progress, Arc<Error>>>,
}

/// The pulls that are under way.
#[derive(Default)]
pub(super) struct Pulls(Mutex<HashMap<Pull, watch::Receiver<State>>>);

/// Whether what is here will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    There,
    Pull,
    Missing,
    Incompatible,
}

/// What follows from what is here (`fits`: whether it runs on the platform meant; `None` where nothing is here), from a pin and the policy.
/// An image for another platform counts as none where pulling is allowed: another pull may bring the right one of its index.
fn decide(here: Option<bool>, pinned: bool, policy: PullPolicy) -> Step {
    match (here, policy) {
        // A pin can't move: there is nothing to ask a registry.
        (Some(true), PullPolicy::Always) if !pinned => Step::Pull,
        (Some(true), _) => Step::There,
        (Some(false), PullPolicy::Never) => Step::Incompatible,
        (None, PullPolicy::Never) => Step::Missing,
        _ => Step::Pull,
    }
}

/// Whether an image for `image` runs where `wanted` is wanted: the same, or what its processors run as well (containerd's rule for a
/// platform that is a node's own).
fn fits(image: &Platform, wanted: &Platform, asked: bool) -> bool {
    let arch = match (image.arch, wanted.arch) {
        (same, wanted) if same == wanted => true,
        (Arch::I386, Arch::Amd64) | (Arch::Arm, Arch::Arm64) => !asked,
        _ => false,
    };
    image.os == wanted.os && arch
}

impl Shared {
    pub(super) async fn ensure(
        self: &Arc<Self>,
        image: &ImageSource,
        options: &EnsureOptions,
    ) -> Result<ProgressStream> {
        let named = |error: Error| error.with_operation(OPERATION).with_context("image", &image.reference);
        if let Some(stranger) = options.nodes.iter().find(|node| **node != self.node) {
            return Err(named(Error::not_found("node", stranger)));
        }
        let pin = match &image.pin {
            Some(ImagePin::Local { engine, image_id }) => {
                let found = find(&self.engine, OPERATION, &image_id.to_string()).await?.ok_or_else(|| {
                    let message = "the image was never pushed, and is not on this engine";
                    named(Error::new(ErrorKind::ImageMissing, message).with_context("made_on", engine))
                })?;
                // By its content it is the same wherever it was made, so one that was loaded from an archive will do.
                self.right_platform(&found, options.platform.as_ref()).map_err(named)?;
                return self.there(&found, None);
            }
            Some(ImagePin::Manifest(digest)) => Some(*digest),
            None => image.reference.digest(),
            Some(_) => return Err(named(Error::internal("a kind of pin that this driver does not know"))),
        };
        let pull = Pull {
            name: image.reference.clone(),
            pin,
            platform: options.platform.clone(),
            always: image.pull == PullPolicy::Always,
        };
        let (step, found) = self.step(&pull, image.pull).await?;
        match (step, found) {
            (Step::There, Some(found)) => self.there(&found, Some(&pull)),
            (Step::Incompatible, Some(found)) => {
                self.right_platform(&found, options.platform.as_ref()).map_err(named)?;
                self.there(&found, Some(&pull))
            }
            (Step::Missing, _) => Err(named(Error::new(
                ErrorKind::ImageMissing,
                "the image is not on this engine, and the pull policy `never` forbids to pull it",
            ))),
            _ => Ok(follow(self.join(pull))),
        }
    }

    async fn step(&self, pull: &Pull, policy: PullPolicy) -> Result<(Step, Option<ImageInspected>)> {
        let found = find(&self.engine, OPERATION, &pull.words()).await?;
        let here = found.as_ref().map(|found| self.right_platform(found, pull.platform.as_ref()).is_ok());
        Ok((decide(here, pull.pin.is_some(), policy), found))
    }

    /// Refuses an image that does not run on the platform asked for, or on the node.
    fn right_platform(&self, found: &ImageInspected, asked: Option<&Platform>) -> Result<()> {
        let image = look::platform_of(&self.engine, found)?;
        let wanted = asked.unwrap_or(&self.engine.facts().platform);
        if fits(&image, wanted, asked.is_some()) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::ImageIncompatible, format!("the image is for {image}, not for {wanted}")))
    }

    fn there(&self, found: &ImageInspected, pull: Option<&Pull>) -> Result<ProgressStream> {
        let done = done(found, pull)?;
        Ok(Box::pin(futures_util::stream::iter([Ok(done)])))
    }

    /// The pull that is under way, or a new one, which goes on whoever waits for it.
    fn join(self: &Arc<Self>, pull: Pull) -> watch::Receiver<State> {
        let mut pulls = self.pulls.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = pulls.get(&pull) {
            return running.clone();
        }
        let (state, receiver) = watch::channel(State::default());
        pulls.insert(pull.clone(), receiver.clone());
        drop(pulls);
        let task = Task { shared: self.clone(), pull, state };
        tokio::spawn(task.run());
        receiver
    }

    async fn pull(&self, pull: &Pull, state: &watch::Sender<State>) -> Result<Progress> {
        let policy = if pull.always { PullPolicy::Always } else { PullPolicy::IfMissing };
        if let (Step::There, Some(found)) = self.step(pull, policy).await? {
            return done(&found, Some(pull));
        }
        let registry = pull.name.registry();
        let config = self.engine.config();
        let credential = credentials::ask(&self.credentials, registry, config.call_limit).await?;
        let mut call = Call::post(OPERATION, Subject::Image, &["images", "create"])
            .query("fromImage", &format!("{registry}/{}", pull.name.repository()))
            // Without a tag, an engine takes all of them.
            .query(
                "tag",
                &match pull.pin {
                    Some(digest) => digest.to_string(),
                    None => pull.name.tag().unwrap_or("latest").to_owned(),
                },
            )
            // The head comes with the registry's first answer.
            .within(config.idle_limit);
        if let Some(platform) = &pull.platform {
            call = call.query("platform", &Platform::new(platform.os, platform.arch).to_string());
        }
        if credential.is_some() {
            call = call.credential(registry, credential.as_ref())?;
        }
        let (_, pieces) = self.engine.flow(call, Some(config.idle_limit)).await?;
        let (mut lines, mut layers) = (Lines::new(pieces), Layers::default());
        while let Some(line) = lines.next().await? {
            if layers.take(&line) {
                let (done, total) = layers.sum();
                state.send_modify(|state| (state.done, state.total) = (done, total));
            }
        }
        let found = inspect(&self.engine, OPERATION, &pull.words()).await?;
        self.right_platform(&found, pull.platform.as_ref())?;
        self.give_tag(pull).await;
        done(&found, Some(pull))
    }

    /// Gives what was pulled by digest the tag of its reference, where nobody has it. Nothing depends on it, so it may fail.
    async fn give_tag(&self, pull: &Pull) {
        let (Some(_), Some(tag)) = (pull.pin, pull.name.tag()) else { return };
        let repository = format!("{}/{}", pull.name.registry(), pull.name.repository());
        let given = async {
            if find(&self.engine, OPERATION, &format!("{repository}:{tag}")).await?.is_some() {
                return Ok(());
            }
            self.name(OPERATION, &pull.words(), &repository, tag).await
        };
        if let Err(error) = given.await {
            tracing::debug!(image = %pull.name, %error, "what was pulled by digest has no tag");
        }
    }
}

impl Pull {
    fn words(&self) -> String {
        match self.pin {
            Some(digest) => pinned(&self.name, digest),
            None => self.name.to_string(),
        }
    }
}

/// A pull's task. However it ends, nobody joins it any more and everybody hears of it.
struct Task {
    shared: Arc<Shared>,
    pull: Pull,
    state: watch::Sender<State>,
}

impl Task {
    async fn run(self) {
        let ended = Box::pin(self.shared.pull(&self.pull, &self.state)).await;
        let ended = ended
            .map_err(|error| error.with_operation(OPERATION).with_context("image", &self.pull.name))
            .map_err(Arc::new);
        self.leave();
        self.state.send_modify(|state| state.ended = Some(ended));
    }

    fn leave(&self) {
        self.shared.pulls.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.pull);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if self.state.borrow().ended.is_none() {
            self.leave();
        }
    }
}

/// What ends the stream: the image's id, and the manifest's digest where the repository is known to have it.
fn done(found: &ImageInspected, pull: Option<&Pull>) -> Result<Progress> {
    let manifest = pull.and_then(|pull| {
        let name = &pull.name;
        let same =
            |other: &ImageRef| (other.registry(), other.repository()) == (name.registry(), name.repository());
        let known = manifests(&found.digests).find(|(other, _)| same(other)).map(|(_, digest)| digest);
        pull.pin.or(known)
    });
    Ok(Progress::Done { image: Some(look::id(&found.id)?), manifest })
}

/// How far a pull is, from now on. Who is slow gets the latest.
fn follow(state: watch::Receiver<State>) -> ProgressStream {
    struct Reader {
        state: watch::Receiver<State>,
        first: bool,
    }
    let reader = Some(Reader { state, first: true });
    Box::pin(futures_util::stream::unfold(reader, |reader| async {
        let mut reader = reader?;
        if !std::mem::replace(&mut reader.first, false) && reader.state.changed().await.is_err() {
            let fault = Error::new(ErrorKind::Cancelled, "the pull was given up midway").with_maybe_applied();
            return Some((Err(fault.with_operation(OPERATION)), None));
        }
        let state = reader.state.borrow_and_update().clone();
        match state.ended {
            Some(Ok(done)) => Some((Ok(done), None)),
            Some(Err(error)) => Some((Err(again(&error)), None)),
            None => Some((Ok(Progress::Transfer { done: state.done, total: state.total }), Some(reader))),
        }
    }))
}

/// The same error once more: all who wait are told.
fn again(error: &Arc<Error>) -> Error {
    let mut copy = Error::new(error.kind(), error.message().to_owned())
        .with_operation(error.operation().to_owned())
        .with_retry(error.retry());
    for (name, value) in error.context() {
        copy = copy.with_context(name, value);
    }
    if let Some(detail) = error.detail() {
        copy = copy.with_detail(detail);
    }
    if error.maybe_applied() { copy.with_maybe_applied() } else { copy }
}

#[cfg(test)]
mod tests {
    use ews_core::Os;

    use super::*;

    #[test]
    fn a_pull_follows_from_what_is_here_the_pin_and_the_policy() {
        use PullPolicy::{Always, IfMissing, Never};
        for (here, pinned, policy, step) in [
            (Some(true), false, IfMissing, Step::There),
            (Some(true), false, Never, Step::There),
            (Some(true), false, Always, Step::Pull),
            (Some(true), true, Always, Step::There),
            (Some(false), false, IfMissing, Step::Pull),
            (Some(false), true, IfMissing, Step::Pull),
            (Some(false), false, Never, Step::Incompatible),
            (None, false, IfMissing, Step::Pull),
            (None, true, Always, Step::Pull),
            (None, true, Never, Step::Missing),
        ] {
            assert_eq!(decide(here, pinned, policy), step, "{here:?} {pinned} {policy:?}");
        }
    }

    #[test]
    fn a_node_runs_what_its_processor_runs_and_what_is_asked_for_is_exact() {
        let of = |arch| Platform::new(Os::Linux, arch);
        assert!(fits(&of(Arch::I386), &of(Arch::Amd64), false));
        assert!(!fits(&of(Arch::I386), &of(Arch::Amd64), true));
        assert!(!fits(&of(Arch::Amd64), &of(Arch::I386), false));
        assert!(!fits(&of(Arch::Arm64), &of(Arch::Amd64), false));
        assert!(!fits(&Platform::new(Os::Windows, Arch::Amd64), &of(Arch::Amd64), false));
    }

    #[test]
    fn an_error_that_is_told_twice_is_the_same() {
        let error = Error::new(ErrorKind::OutOfResources, "full")
            .with_operation("images.ensure")
            .with_context("image", "a")
            .with_detail("no space")
            .with_maybe_applied();
        let error = Arc::new(error);
        assert_eq!(again(&error).to_string(), error.to_string());
        assert_eq!(again(&error).retry(), error.retry());
    }
}
