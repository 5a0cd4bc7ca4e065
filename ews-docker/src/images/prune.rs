//! Removing images that nobody needs.
//!
//! [`plan`] is pure: from all images, the steps of builds between them, and all containers, it says which go. An image stays that a
//! container uses, running or not; that is kept, by its id or a manifest; that was not meant; and every ancestor of an image that stays.
//! Children of a kept image go like any other.
//!
//! The engine is never forced: should somebody have begun to use an image since, it refuses, the image stays, and the names that it lost on
//! the way are given back. Steps of a build that led to nothing but what is removed go along, unless one of them is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ews_core::image::PruneOptions;
use ews_core::{Digest, Error, ErrorKind, Result, Selector, detach};
use hyper::Method;

use super::look::{self, ByName, find, manifests};
use super::wire::{Deleted, ImageListed, User};
use super::{OWNER, Shared};
use crate::client::{Call, Subject};

const OPERATION: &str = "images.prune";

/// What goes: children before their parents.
#[derive(Debug, PartialEq, Eq)]
struct Doomed {
    id: Digest,
    /// Whether steps of a build that lead to nothing else go along.
    with_steps: bool,
}

impl Shared {
    pub(super) async fn prune(self: &Arc<Self>, options: &PruneOptions) -> Result<Vec<Digest>> {
        let (shared, options) = (self.clone(), options.clone());
        detach(async move {
            let images = look::listed(&shared.engine, OPERATION, true).await?;
            let users: Vec<User> = shared
                .engine
                .json(Call::get(OPERATION, Subject::Engine, &["containers", "json"]).flag("all", true))
                .await?;
            let doomed = plan(&images, &users, &options)?;
            let mut removed = Vec::new();
            for one in doomed {
                let gone = options.dry_run
                    || shared.remove(&one).await.map_err(|error| {
                        let error = error.with_operation(OPERATION).with_context("image", one.id);
                        if removed.is_empty() { error } else { error.with_maybe_applied() }
                    })?;
                if gone {
                    removed.push(one.id);
                }
            }
            Ok(removed)
        })
        .await
    }

    /// Removes an image by its names, then by its digests, then by its id; whether it is gone. Never by force.
    async fn remove(&self, doomed: &Doomed) -> Result<bool> {
        let id = doomed.id.to_string();
        let Some(found) = find(&self.engine, OPERATION, &id).await? else { return Ok(false) };
        let mut lost: Vec<&str> = Vec::new();
        let names = found.tags.iter().chain(&found.digests).filter(|name| !name.contains("<none>"));
        for name in names.map(String::as_str).chain([id.as_str()]) {
            match self.delete(name, doomed.with_steps).await {
                Ok(deleted) => {
                    if deleted.iter().any(|one| one.deleted.as_deref() == Some(&id)) {
                        return Ok(true);
                    }
                    lost.push(name);
                }
                // A digest goes along with the last tag of its repository.
                Err(error) if error.kind() == ErrorKind::ImageMissing => {}
                Err(error) if error.kind() == ErrorKind::Busy => {
                    self.give_back(&id, &lost).await;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        // Podman says what it did in other words.
        Ok(find(&self.engine, OPERATION, &id).await?.is_none())
    }

    async fn delete(&self, name: &str, with_steps: bool) -> Result<Vec<Deleted>> {
        let call = Call::new(Method::DELETE, OPERATION, Subject::Image, &["images", name])
            .flag("noprune", !with_steps)
            .within(self.engine.config().work_limit);
        self.engine.json(call).await
    }

    /// Gives an image that stays the tags back that it lost. Nothing but names was lost, so it may fail.
    async fn give_back(&self, id: &str, names: &[&str]) {
        for name in names.iter().filter(|name| !name.contains('@')) {
            let Some((repository, tag)) = name.rsplit_once(':') else { continue };
            if let Err(error) = self.name(OPERATION, id, repository, tag).await {
                tracing::warn!(image = id, name, %error, "an image that came into use lost a name");
            }
        }
    }
}

fn plan(images: &[ImageListed], users: &[User], options: &PruneOptions) -> Result<Vec<Doomed>> {
    let by_id: BTreeMap<&str, &ImageListed> = images.iter().map(|image| (image.id.as_str(), image)).collect();
    let parents: BTreeSet<&str> = images.iter().map(|image| image.parent.as_str()).collect();
    let kept = |image: &ImageListed| {
        look::id(&image.id).is_ok_and(|id| options.keep.contains(&id))
            || manifests(&image.digests).any(|(_, digest)| options.keep.contains(&digest))
    };
    let used = |image: &ImageListed| {
        users.iter().any(|user| {
            // With containerd's store a container says the platform's manifest where a list says the index, so its words count too.
            let words = [&user.image, &user.image_id];
            words.into_iter().any(|words| {
                *words == image.id
                    || image
                        .id
                        .strip_prefix("sha256:")
                        .is_some_and(|hex| words.len() >= 12 && hex.starts_with(words.as_str()))
                    || image.tags.contains(words)
                    || image.digests.contains(words)
                    || same_name(words, &image.tags)
            })
        })
    };
    let meant = |image: &ImageListed| match &options.labels {
        Some(selector) => is_meant(selector, image),
        None => image.labels.contains_key(OWNER),
    };
    let unnamed =
        |image: &ImageListed| image.tags.iter().chain(&image.digests).all(|name| name.contains("<none>"));
    // A step of a build: nobody can name it, and something was made from it.
    let step = |image: &ImageListed| unnamed(image) && parents.contains(image.id.as_str());

    let mut stays: BTreeSet<&str> = BTreeSet::new();
    for image in images {
        let is_step = step(image) && !meant(image);
        if kept(image) || used(image) || !(meant(image) || is_step) {
            let mut next = Some(image);
            while let Some(image) = next {
                if !stays.insert(&image.id) {
                    break;
                }
                next = by_id.get(image.parent.as_str()).copied();
            }
        }
    }
    let depth = |image: &ImageListed| {
        // A list with a ring in it must not hang us.
        let parent = |image: &&ImageListed| by_id.get(image.parent.as_str()).copied();
        std::iter::successors(Some(image), parent).take(1000).count()
    };
    let with_steps = |image: &ImageListed| {
        let parent = |image: &&ImageListed| by_id.get(image.parent.as_str()).copied();
        !std::iter::successors(parent(&image), parent).take(1000).any(&kept)
    };
    let mut going: Vec<&ImageListed> =
        images.iter().filter(|image| meant(image) && !stays.contains(image.id.as_str())).collect();
    going.sort_by_key(|image| (std::cmp::Reverse(depth(image)), &image.id));
    going
        .into_iter()
        .map(|image| Ok(Doomed { id: look::id(&image.id)?, with_steps: with_steps(image) }))
        .collect::<Result<Vec<_>, Error>>()
}

fn is_meant(selector: &Selector, image: &ImageListed) -> bool {
    selector.matches(&ByName(&image.labels))
}

/// Whether a container's word for its image means one of these tags: `web` is `web:latest`, `docker.io/library/web` as well.
fn same_name(words: &str, tags: &[String]) -> bool {
    let whole = |text: &str| {
        text.parse::<ews_core::ImageRef>().ok().map(|name| match name.tag() {
            Some(_) => name.to_string(),
            None => format!("{name}:latest"),
        })
    };
    let Some(words) = whole(words) else { return false };
    tags.iter().any(|tag| whole(tag).as_ref() == Some(&words))
}

#[cfg(test)]
#[path = "prune_tests.rs"]
mod tests;
