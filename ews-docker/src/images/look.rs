//! Looking at images: one by name or id, all by labels.

use std::borrow::Cow;
use std::collections::BTreeMap;

use ews_core::image::{Image, ImageQuery};
use ews_core::{Digest, Error, ErrorKind, ImageRef, Lookup, Platform, Result, Selector, Timestamp};
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::wire::{ImageInspected, ImageListed};
use crate::client::facts::{os_version, platform};
use crate::client::{Call, Engine, Subject};

/// How many images are looked at at a time for a list.
const AT_A_TIME: usize = 8;

/// Labels as an engine has them.
pub(super) struct ByName<'a>(pub(super) &'a BTreeMap<String, String>);

impl Lookup for ByName<'_> {
    fn lookup(&self, key: &str) -> Option<Cow<'_, str>> {
        self.0.get(key).map(|value| value.as_str().into())
    }
}

/// What an engine calls the image. Where a name has a digest, that alone counts, as it does for Docker.
pub(super) fn words_of(query: &ImageQuery) -> Result<String> {
    match query {
        ImageQuery::Name(name) => Ok(match name.digest() {
            Some(digest) => pinned(name, digest),
            None => name.to_string(),
        }),
        ImageQuery::Id(id) => Ok(id.to_string()),
        _ => Err(Error::internal("a kind of image query that this driver does not know")),
    }
}

/// `registry/repository@digest`.
pub(super) fn pinned(name: &ImageRef, digest: Digest) -> String {
    format!("{}/{}@{digest}", name.registry(), name.repository())
}

/// What the engine says of an image.
pub(super) async fn inspect(engine: &Engine, operation: &'static str, words: &str) -> Result<ImageInspected> {
    let call = Call::get(operation, Subject::Image, &["images", words, "json"]);
    engine.json(call).await.map_err(|error| error.with_context("image", words))
}

/// The same, or `None` where it is not there.
pub(super) async fn find(
    engine: &Engine,
    operation: &'static str,
    words: &str,
) -> Result<Option<ImageInspected>> {
    match inspect(engine, operation, words).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::ImageMissing => Ok(None),
        Err(error) => Err(error),
    }
}

/// The names in an engine's list; what it writes for none (`<none>:<none>`) is none.
fn names(texts: &[String]) -> impl Iterator<Item = ImageRef> + '_ {
    texts.iter().filter_map(|text| text.parse().ok())
}

/// The digests in an engine's list, with their repositories.
pub(super) fn manifests(texts: &[String]) -> impl Iterator<Item = (ImageRef, Digest)> + '_ {
    names(texts).filter_map(|name| name.digest().map(|digest| (name, digest)))
}

/// The platform of an image. Very old images say none and run on whatever made them.
pub(super) fn platform_of(engine: &Engine, found: &ImageInspected) -> Result<Platform> {
    if found.os.is_empty() && found.arch.is_empty() {
        return Ok(engine.facts().platform.clone());
    }
    let mut read = platform(&found.os, &found.arch).ok_or_else(|| {
        Error::new(ErrorKind::ImageIncompatible, "the image is for a platform that EWS has no word for")
            .with_context("platform", format_args!("{}/{}", found.os, found.arch))
    })?;
    read.os_version = os_version(&found.os_version);
    Ok(read)
}

/// An engine's image as EWS has it.
pub(super) fn image(engine: &Engine, found: &ImageInspected) -> Result<Image> {
    let mut image = Image::new(id(&found.id)?, platform_of(engine, found)?);
    image.names = names(&found.tags).filter(|name| name.digest().is_none()).collect();
    image.names.sort();
    image.names.dedup();
    image.manifests = manifests(&found.digests).map(|(_, digest)| digest).collect();
    image.manifests.sort();
    image.manifests.dedup();
    image.size = u64::try_from(found.size).unwrap_or(0);
    image.labels = labels(found);
    // Engines write the year 1 where they don't know.
    image.created_at = found.created.parse::<Timestamp>().ok();
    Ok(image)
}

pub(super) fn labels(found: &ImageInspected) -> BTreeMap<String, String> {
    let labels = found.config.get("Labels").and_then(serde_json::Value::as_object);
    labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// An image's id. Podman leaves out what every id begins with.
pub(super) fn id(text: &str) -> Result<Digest> {
    let whole = if text.contains(':') { Cow::Borrowed(text) } else { Cow::Owned(format!("sha256:{text}")) };
    whole.parse().map_err(|error| {
        Error::new(ErrorKind::Decode, "the engine's image id can't be read")
            .with_context("id", text)
            .with_source(error)
    })
}

/// Every image but those between two steps of a build, or with them.
pub(super) async fn listed(
    engine: &Engine,
    operation: &'static str,
    with_steps: bool,
) -> Result<Vec<ImageListed>> {
    engine.json(Call::get(operation, Subject::Image, &["images", "json"]).flag("all", with_steps)).await
}

/// The images with these labels. The engine's list lacks the platform, so each is looked at; what went away meanwhile, and what is for
/// a platform without a word here, is left out.
pub(super) async fn list(engine: &Engine, selector: &Selector) -> Result<Vec<Image>> {
    const OPERATION: &str = "images.list";
    let listed = listed(engine, OPERATION, false).await?;
    let meant = listed.into_iter().filter(|image| selector.matches(&ByName(&image.labels)));
    let looked = futures_util::stream::iter(meant.map(|listed| async move {
        let Some(found) = find(engine, OPERATION, &listed.id).await? else { return Ok(None) };
        match image(engine, &found) {
            Ok(image) => Ok(Some(image)),
            Err(error) if error.kind() == ErrorKind::ImageIncompatible => Ok(None),
            Err(error) => Err(error),
        }
    }));
    looked.buffered(AT_A_TIME).try_filter_map(|image| async move { Ok(image) }).try_collect().await
}
