//! Names, pushes and archives.
//!
//! An engine takes some of these for done halfway: it answers a push of what is not there with success and an error in the stream, and
//! begins an archive before it has looked for every image. So what a call is about is looked at first.

use std::sync::Arc;

use ews_core::image::{Image, ImageQuery, Progress, ProgressStream};
use ews_core::runtime::ByteStream;
use ews_core::{Error, ErrorKind, ImageRef, Result, detach};
use serde_json::Value;

use super::build::{repository_and_tag, tag};
use super::feed::{Feed, feed};
use super::lines::{Layers, Lines};
use super::look::{self, image, inspect, words_of};
use super::upload::upload;
use super::{Shared, credentials};
use crate::client::{Call, Subject};

/// The most images that one archive holds, or is asked for.
const MAX_IMAGES: usize = 1000;

impl Shared {
    pub(super) async fn tag(self: &Arc<Self>, query: &ImageQuery, name: &ImageRef) -> Result<()> {
        const OPERATION: &str = "images.tag";
        let (repository, tag) = repository_and_tag(name).map_err(|error| error.with_operation(OPERATION))?;
        let (shared, words, tag) = (self.clone(), words_of(query)?, tag.to_owned());
        detach(async move { shared.name(OPERATION, &words, &repository, &tag).await }).await
    }

    /// Gives an image a name; a name that another had is its from now on.
    pub(super) async fn name(
        &self,
        operation: &'static str,
        words: &str,
        repository: &str,
        tag: &str,
    ) -> Result<()> {
        let call = Call::post(operation, Subject::Image, &["images", words, "tag"])
            .query("repo", repository)
            .query("tag", tag);
        self.engine.unit(call).await.map_err(|error| error.with_context("image", words))
    }

    pub(super) async fn push(self: &Arc<Self>, name: &ImageRef) -> Result<ProgressStream> {
        const OPERATION: &str = "images.push";
        let named = |error: Error| error.with_operation(OPERATION).with_context("image", name);
        let whole = tag(name).map_err(named)?;
        let found = inspect(&self.engine, OPERATION, &whole).await?;
        let registry = name.registry();
        let config = self.engine.config();
        let credential =
            credentials::ask(&self.credentials, registry, config.call_limit).await.map_err(named)?;
        let (repository, tag) = repository_and_tag(name)?;
        // An engine refuses a push without the header, so nobody has one too.
        let call = Call::post(OPERATION, Subject::Image, &["images", &repository, "push"])
            .query("tag", tag)
            .credential(registry, credential.as_ref())
            .map_err(named)?
            .within(config.idle_limit);
        let (feed, stream) = feed();
        let (shared, name, id) = (self.clone(), name.clone(), look::id(&found.id)?);
        tokio::spawn(async move {
            let pushed = shared.run_push(call, &feed).await;
            let done = |manifest| Progress::Done { image: Some(id), manifest: Some(manifest) };
            feed.end(
                pushed
                    .map(done)
                    .map_err(|error| error.with_operation(OPERATION).with_context("image", &name)),
            );
        });
        Ok(stream)
    }

    async fn run_push(&self, call: Call, feed: &Feed) -> Result<ews_core::Digest> {
        let (_, pieces) = self.engine.flow(call, Some(self.engine.config().idle_limit)).await?;
        let (mut lines, mut layers, mut manifest) = (Lines::new(pieces), Layers::default(), None);
        while let Some(line) = lines.next().await? {
            if let Some(digest) = line.aux.get("Digest").and_then(Value::as_str) {
                manifest = Some(digest.parse()?);
            }
            if layers.take(&line) {
                let (done, total) = layers.sum();
                feed.tell(Progress::Transfer { done, total });
            }
        }
        manifest.ok_or_else(|| {
            Error::new(ErrorKind::Decode, "the engine ended a push without the manifest's digest")
                .with_maybe_applied()
        })
    }

    pub(super) async fn save(&self, queries: &[ImageQuery]) -> Result<ByteStream> {
        const OPERATION: &str = "images.save";
        if queries.is_empty() || queries.len() > MAX_IMAGES {
            return Err(Error::invalid(format!(
                "an archive of {} images; accepted: 1 to {MAX_IMAGES}",
                queries.len()
            ))
            .with_operation(OPERATION));
        }
        let idle = self.engine.config().idle_limit;
        // An engine lays the layers out before the first byte comes.
        let mut call = Call::get(OPERATION, Subject::Image, &["images", "get"]).within(idle);
        for query in queries {
            let words = words_of(query)?;
            inspect(&self.engine, OPERATION, &words).await?;
            call = call.query("names", &words);
        }
        Ok(self.engine.flow(call, Some(idle)).await?.1)
    }

    pub(super) async fn load(self: &Arc<Self>, archive: ByteStream) -> Result<Vec<Image>> {
        const OPERATION: &str = "images.load";
        let shared = self.clone();
        detach(async move {
            let loaded = shared.loaded(OPERATION, archive).await?;
            let mut images: Vec<Image> = Vec::new();
            for words in loaded {
                let found = image(&shared.engine, &inspect(&shared.engine, OPERATION, &words).await?)?;
                // An image with several names is told of once for each.
                if !images.iter().any(|image| image.id == found.id) {
                    images.push(found);
                }
            }
            Ok(images)
        })
        .await
    }

    /// Loads an archive; what the engine calls what it brought, at least one.
    pub(super) async fn loaded(&self, operation: &'static str, archive: ByteStream) -> Result<Vec<String>> {
        // Not quiet: with its progress an engine that unpacks large layers is not taken for hung.
        let call = Call::post(operation, Subject::Image, &["images", "load"]).query("quiet", "0");
        let loaded = async {
            let mut lines = upload(&self.engine, call, archive, self.engine.config().idle_limit).await?;
            let mut loaded = Vec::new();
            while let Some(line) = lines.next().await? {
                for text in line.stream.lines() {
                    let name =
                        ["Loaded image ID: ", "Loaded image: "].iter().find_map(|p| text.strip_prefix(p));
                    if let Some(name) = name.filter(|_| loaded.len() < MAX_IMAGES) {
                        loaded.push(name.trim().to_owned());
                    }
                }
            }
            if loaded.is_empty() {
                return Err(Error::invalid("there is no image in the archive"));
            }
            Ok(loaded)
        };
        loaded.await.map_err(|error| of_archive(error).with_operation(operation))
    }
}

/// What failed in loading. Whatever the engine says of an archive and nobody has a better word for is the archive's fault.
fn of_archive(error: Error) -> Error {
    match (error.kind(), error.detail()) {
        (ErrorKind::Internal | ErrorKind::NotFound | ErrorKind::ImageMissing, Some(words)) => {
            Error::invalid("this is no image archive, or a broken one").with_detail(words)
        }
        _ => error,
    }
}
