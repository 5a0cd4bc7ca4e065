//! From a container to an image that its run-time environment is not in.
//!
//! The engine's own commit copies the container's environment, labels, command and more into the image, and merges back what a request
//! tries to leave out. So it commits under a quarantine name only, and [`config`] writes a config of our own over the quarantine's layers:
//! the *base image's* config, plus labels that say where the image is from. The engine takes the new config through its load call:
//!
//! - A store by layers (the classic one) looks a layer up before it reads it, so an archive with the config alone is enough, and no
//!   layer moves.
//! - Where the engine refuses that (containerd's store, podman), the quarantine is saved, [`archive`] swaps the config, and the result is
//!   loaded: the layers move through this process once, with bounded memory.
//!
//! The quarantine image is removed in every case. Should this process die before, the next commit removes it once it is a day old.
//!
//! What is *not* in a commit: volumes and tmpfs (their data lies elsewhere), and files that the runtime placed from memory, such as
//! secrets. What *is*: every file that the program wrote into its own file system, a secret that it wrote there too.

mod archive;
mod config;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use ews_core::image::{CommitSpec, Image};
use ews_core::runtime::ByteStream;
use ews_core::{Digest, Error, ErrorKind, ImageRef, InstanceId, Result, detach};
use hyper::Method;

use super::build::tag;
use super::look::{self, image, inspect, manifests};
use super::wire::{Committed, HistoryEntry, ImageInspected};
use super::{OWNER, Shared};
use crate::client::{Call, Subject};
use config::Parts;

const OPERATION: &str = "images.commit";
/// Where commits stand until their config is clean. No registry can have the name (RFC 6761).
const QUARANTINE: &str = "ews.invalid/quarantine";
/// How old a quarantine must be to belong to no commit that is still under way.
const STALE: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

impl Shared {
    pub(super) async fn commit(self: &Arc<Self>, instance: &InstanceId, spec: &CommitSpec) -> Result<Image> {
        let (shared, instance, spec) = (self.clone(), instance.clone(), spec.clone());
        detach(async move {
            let committed = Box::pin(shared.run_commit(&instance, &spec)).await;
            committed.map_err(|error| error.with_operation(OPERATION).with_context("instance", &instance))
        })
        .await
    }

    async fn run_commit(&self, instance: &InstanceId, spec: &CommitSpec) -> Result<Image> {
        let name = tag(&spec.name)?;
        let call = Call::get(OPERATION, Subject::Container, &["containers", instance.as_str(), "json"]);
        let container: Committed = self.engine.json(call).await?;
        if self.ours_only && !container.config.labels.contains_key(OWNER) {
            return Err(Error::not_found("instance", instance));
        }
        let base = inspect(&self.engine, OPERATION, &container.image).await.map_err(|error| {
            error.with_context("fault", "the image that the instance was made from is needed for its config")
        })?;
        self.remove_stale().await;
        let quarantine = format!("{:016x}", RandomState::new().build_hasher().finish());
        let whole = format!("{QUARANTINE}:{quarantine}");
        let committed = async {
            let call = Call::post(OPERATION, Subject::Container, &["commit"])
                .query("container", &container.id)
                .query("repo", QUARANTINE)
                .query("tag", &quarantine)
                .query("pause", if spec.pause { "1" } else { "0" })
                .json(&serde_json::json!({}))?
                // It reads and packs whatever the program wrote.
                .within(self.engine.config().work_limit.max(self.engine.config().idle_limit));
            self.engine.unit(call).await?;
            self.rewrite(&whole, &name, &container, &base, spec).await
        };
        let committed = committed.await;
        // Also after an error: a call that timed out may have been done.
        let removed = self.remove_quarantine(&whole).await;
        let image = committed?;
        removed.map_err(|error| {
            error
                .with_context("left", &whole)
                .with_context("fault", "the image with the run-time environment is still there")
        })?;
        Ok(image)
    }

    /// Makes the clean image from the quarantine's layers.
    async fn rewrite(
        &self,
        quarantine: &str,
        name: &str,
        container: &Committed,
        base: &ImageInspected,
        spec: &CommitSpec,
    ) -> Result<Image> {
        let made = inspect(&self.engine, OPERATION, quarantine).await?;
        let call = Call::get(OPERATION, Subject::Image, &["images", quarantine, "history"]);
        let history: Vec<HistoryEntry> = self.engine.json(call).await?;
        let labels = provenance(container, base, &made, spec);
        let wanted = config::write(&Parts { base, made: &made, history: &history, labels: &labels, spec })?;
        let swapped =
            archive::Swap { config: wanted.clone(), name: name.to_owned(), layers: made.root.layers.len() };
        let id = Digest::of(&wanted);
        let alone = swapped.alone()?;
        let loaded = self.loaded(OPERATION, one(alone)).await;
        // Some engines take the archive and name something else than what it says.
        let loaded = match loaded {
            Ok(_) => self.check(name, id, &wanted).await,
            Err(error) => Err(error),
        };
        if let Err(error) = loaded {
            tracing::debug!(%error, "the engine does not take a config alone: its layers are moved");
            let call = Call::get(OPERATION, Subject::Image, &["images", "get"])
                .query("names", quarantine)
                .within(self.engine.config().idle_limit);
            let saved = self.engine.flow(call, Some(self.engine.config().idle_limit)).await?.1;
            self.loaded(OPERATION, swapped.over(saved)).await?;
            self.check(name, id, &wanted).await?;
        }
        image(&self.engine, &inspect(&self.engine, OPERATION, name).await?)
    }

    /// Whether the name stands for the image of this config. Containerd's store has an id of its own, so what the config says is looked at.
    async fn check(&self, name: &str, id: Digest, wanted: &Bytes) -> Result<()> {
        let found = inspect(&self.engine, OPERATION, name).await?;
        if look::id(&found.id)? == id || config::is_of(&found, wanted) {
            return Ok(());
        }
        Err(Error::internal("the engine loaded another image than the one it was given")
            .with_context("image", name))
    }

    async fn remove_quarantine(&self, name: &str) -> Result<()> {
        // Its parent is the base, which must not go along.
        let call = Call::new(Method::DELETE, OPERATION, Subject::Image, &["images", name])
            .query("force", "1")
            .query("noprune", "1")
            .within(self.engine.config().work_limit);
        match self.engine.unit(call).await {
            Err(error) if error.kind() != ErrorKind::ImageMissing => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes the quarantines of commits that died. What can't be removed now is found again by the next.
    async fn remove_stale(&self) {
        let filter = serde_json::json!({"reference": [format!("{QUARANTINE}:*")]}).to_string();
        let call = Call::get(OPERATION, Subject::Image, &["images", "json"]).query("filters", &filter);
        let Ok(found) = self.engine.json::<Vec<super::wire::ImageListed>>(call).await else { return };
        let now = ews_core::Timestamp::from(std::time::SystemTime::now());
        for image in found {
            let made = u64::try_from(image.created).unwrap_or(0).saturating_mul(1_000_000);
            if now.since(ews_core::Timestamp::from_micros(made)) < STALE {
                continue;
            }
            for name in image.tags.iter().filter(|name| name.starts_with(QUARANTINE)) {
                if let Err(error) = self.remove_quarantine(name).await {
                    tracing::warn!(name, %error, "a commit that died left an image, which can't be removed");
                }
            }
        }
    }
}

/// One piece.
fn one(bytes: Bytes) -> ByteStream {
    Box::pin(futures_util::stream::iter([Ok(bytes)]))
}

/// The labels that say where the image is from. They win over the caller's: a label about its origin that is not true is worse than none.
fn provenance(
    container: &Committed,
    base: &ImageInspected,
    made: &ImageInspected,
    spec: &CommitSpec,
) -> BTreeMap<String, String> {
    const OCI: &str = "org.opencontainers.image";
    // What the container was created by, if that is a name; an id says nothing to people.
    let name = [&container.config.image]
        .into_iter()
        .chain(&base.tags)
        .filter(|name| !name.starts_with("sha256:") && !name.contains("<none>"))
        .find_map(|name| name.parse::<ImageRef>().ok());
    let manifest = manifests(&base.digests).map(|(_, digest)| digest.to_string()).next();
    let mut labels = spec.labels.clone();
    let mut put = |name: String, value: Option<String>| match value {
        Some(value) => {
            labels.insert(name, value);
        }
        // The base's own base is not ours.
        None => {
            labels.insert(name, String::new());
        }
    };
    put(format!("{OCI}.base.name"), name.map(|name| name.to_string()));
    put(format!("{OCI}.base.digest"), manifest);
    put(format!("{OCI}.created"), Some(made.created.clone()));
    put("ews.image.base.id".to_owned(), Some(base.id.clone()));
    put("ews.image.kind".to_owned(), Some("commit".to_owned()));
    put("ews.image.comment".to_owned(), Some(spec.comment.clone()));
    labels
}
