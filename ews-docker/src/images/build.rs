//! Building: with BuildKit where this crate was built with the feature `buildkit` and the engine has it, else with the classic builder.
//!
//! The build runs in a task of its own: whoever drops the stream abandons the log, not the build. A build argument is visible to whoever
//! sees the image (it stays in the history) and to whoever reads the log (a step may print it): nothing can be done about either, so a
//! secret is never made an argument. The classic builder can mount no secret, and a spec with secrets is refused there.
//!
//! The classic builder gets credentials for the registry of the image's own name and for Docker Hub: which registries a Dockerfile's bases
//! lie in is not known before it is read. A base from a third registry that wants a credential is brought by `ensure` first. BuildKit asks
//! for what it needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use ews_core::image::{BuildSpec, Progress, ProgressStream};
use ews_core::runtime::ByteStream;
use ews_core::{Digest, Error, ErrorKind, ImageRef, Platform, Result};

use super::feed::{Feed, feed};
use super::lines::{Layers, Line};
use super::look;
use super::upload::upload;
use super::{Shared, credentials};
use crate::client::{Call, Subject};

pub(super) const OPERATION: &str = "images.build";
/// The most bytes of arguments and labels: they go into the request's first line, and Go's servers read at most 1 MiB of a head.
const MAX_WORDS: usize = 512 * 1024;
/// The longest line of the log, in bytes; the rest is cut.
const MAX_LINE: usize = 16 * 1024;

/// What a builder says when a step fails. The step's own words are in it, so they must not be read as the engine's.
const STEP_FAILED: [&str; 4] = [
    "returned a non-zero code",
    "did not complete successfully",
    "failed to solve",
    "executor failed running",
];

impl Shared {
    pub(super) async fn build(
        self: &Arc<Self>,
        spec: &BuildSpec,
        context: ByteStream,
    ) -> Result<ProgressStream> {
        let named = |error: Error| error.with_operation(OPERATION).with_context("image", &spec.name);
        let call = self.building(spec).map_err(named)?;
        let (call, builder) = self.builder(spec, call).await.map_err(named)?;
        let (feed, stream) = feed();
        let (shared, name) = (self.clone(), spec.name.clone());
        tokio::spawn(async move {
            // What the builder asks back through stays open until it is done.
            let _open = builder;
            let built = Box::pin(shared.run_build(call, context, &name, &feed)).await;
            feed.end(
                built.map_err(|error| {
                    of_builder(error).with_operation(OPERATION).with_context("image", &name)
                }),
            );
        });
        Ok(stream)
    }

    /// Which builder it is, and what is kept open while it works.
    #[cfg(not(feature = "buildkit"))]
    async fn builder(&self, spec: &BuildSpec, call: Call) -> Result<(Call, Option<()>)> {
        Ok((self.classic(spec, call).await?, None))
    }

    /// For the classic builder, with the credentials that it may need.
    pub(super) async fn classic(&self, spec: &BuildSpec, call: Call) -> Result<Call> {
        if !spec.secrets.is_empty() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the classic builder can't mount secrets, and a build argument would keep them in the image's history: build with \
                 BuildKit (the feature `buildkit` of ews-docker, and an engine that has it), or fetch what needs them before",
            ));
        }
        let mut known = BTreeMap::new();
        for registry in [spec.name.registry(), "docker.io"] {
            if known.contains_key(registry) {
                continue;
            }
            let deadline = self.engine.config().call_limit;
            if let Some(credential) = credentials::ask(&self.credentials, registry, deadline).await? {
                known.insert(registry, credential);
            }
        }
        let call = call.query("version", "1");
        if known.is_empty() { Ok(call) } else { call.credentials(&known) }
    }

    /// The call, without its builder and its body. Not through bollard, which would log the arguments.
    fn building(&self, spec: &BuildSpec) -> Result<Call> {
        let words = |texts: &BTreeMap<String, String>| {
            serde_json::to_string(texts)
                .map_err(|error| Error::internal("a map can't be written as JSON").with_source(error))
        };
        let (args, labels) = (words(&spec.args)?, words(&spec.labels)?);
        if args.len() + labels.len() > MAX_WORDS {
            return Err(Error::invalid(format!(
                "build arguments and labels of {} bytes; accepted: {MAX_WORDS} in all",
                args.len() + labels.len()
            )));
        }
        let mut call = Call::post(OPERATION, Subject::Image, &["build"])
            .query("t", &tag(&spec.name)?)
            .query("dockerfile", &spec.dockerfile)
            .query("rm", "1")
            .query("forcerm", "1")
            .flag("pull", spec.pull);
        if !spec.args.is_empty() {
            call = call.query("buildargs", &args);
        }
        if !spec.labels.is_empty() {
            call = call.query("labels", &labels);
        }
        if let Some(target) = &spec.target {
            call = call.query("target", target);
        }
        if let Some(platform) = &spec.platform {
            call = call.query("platform", &Platform::new(platform.os, platform.arch).to_string());
        }
        Ok(call)
    }

    async fn run_build(
        &self,
        call: Call,
        context: ByteStream,
        name: &ImageRef,
        feed: &Feed,
    ) -> Result<Progress> {
        let mut lines = upload(&self.engine, call, context, self.engine.config().idle_limit).await?;
        #[cfg(feature = "buildkit")]
        let mut trace = super::buildkit::Trace::default();
        let (mut log, mut layers, mut id) = (Log::default(), Layers::default(), None);
        while let Some(line) = lines.next().await? {
            if let Some(made) = line.aux.get("ID").and_then(serde_json::Value::as_str) {
                id = Some(look::id(made)?);
            }
            #[cfg(feature = "buildkit")]
            if trace.take(&line, &mut layers, |progress| feed.tell(progress)) {
                continue;
            }
            log.take(&line, &mut layers, |progress| feed.tell(progress));
        }
        log.end(|progress| feed.tell(progress));
        // Podman says the id in words alone.
        let id: Digest = match id {
            Some(id) => id,
            None => look::id(&look::inspect(&self.engine, OPERATION, &name.to_string()).await?.id)?,
        };
        Ok(Progress::Done { image: Some(id), manifest: None })
    }
}

/// The name that a made image gets. A digest can't be given: it follows from the content.
pub(super) fn tag(name: &ImageRef) -> Result<String> {
    let (repository, tag) = repository_and_tag(name)?;
    Ok(format!("{repository}:{tag}"))
}

pub(super) fn repository_and_tag(name: &ImageRef) -> Result<(String, &str)> {
    if let Some(digest) = name.digest() {
        return Err(Error::invalid(format!(
            "an image can't be given the digest {digest}; accepted: a name with a tag, or without for `latest`"
        )));
    }
    Ok((format!("{}/{}", name.registry(), name.repository()), name.tag().unwrap_or("latest")))
}

/// How BuildKit says that a base is nowhere: its kind of "not found" is the same for a file.
const NO_BASE: [&str; 2] = ["failed to create LLB definition", "failed to resolve source metadata"];

/// What failed in a build. What nobody has a better word for is the Dockerfile's or the context's fault.
fn of_builder(error: Error) -> Error {
    let words = error.detail().unwrap_or_default();
    if words.ends_with(": not found") && NO_BASE.iter().any(|said| words.contains(said)) {
        return Error::new(ErrorKind::ImageMissing, "a base of the build is nowhere to be found")
            .with_detail(words);
    }
    let step = STEP_FAILED.iter().any(|said| words.contains(said));
    let unsaid = matches!(
        error.kind(),
        ErrorKind::Internal
            | ErrorKind::NotFound
            | ErrorKind::Busy
            | ErrorKind::AlreadyExists
            | ErrorKind::PortInUse
    );
    if words.is_empty() || !(step || unsaid) {
        return error;
    }
    Error::invalid("the builder refuses the context, or a step of the Dockerfile failed").with_detail(words)
}

/// Lines of a log from pieces of text that need not end where a line does.
#[derive(Default)]
pub(super) struct Log {
    open: String,
}

impl Log {
    fn take(&mut self, line: &Line, layers: &mut Layers, mut tell: impl FnMut(Progress)) {
        self.push(&line.stream, &mut tell);
        // A base that is pulled.
        if layers.take(line) {
            let (done, total) = layers.sum();
            tell(Progress::Transfer { done, total });
        } else if !line.status.is_empty() && line.detail.is_none() {
            let id = if line.id.is_empty() { String::new() } else { format!("{}: ", line.id) };
            tell(Progress::Log(format!("{id}{}", line.status)));
        }
    }

    pub(super) fn push(&mut self, text: &str, mut tell: impl FnMut(Progress)) {
        for piece in text.split_inclusive('\n') {
            self.open.push_str(piece);
            if piece.ends_with('\n') || self.open.len() > MAX_LINE {
                self.end(&mut tell);
            }
        }
    }

    pub(super) fn end(&mut self, mut tell: impl FnMut(Progress)) {
        let mut line = std::mem::take(&mut self.open);
        line.truncate(line.trim_end_matches(['\n', '\r']).len());
        if line.len() > MAX_LINE {
            line.truncate(line.floor_char_boundary(MAX_LINE));
            line.push('…');
        }
        if !line.is_empty() {
            tell(Progress::Log(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::said;

    #[test]
    fn a_steps_own_words_are_not_the_engines() {
        for words in [
            "The command '/bin/sh -c echo port is already allocated; exit 1' returned a non-zero code: 1",
            "dockerfile parse error line 1: unknown instruction: FORM",
            "failed to solve: process \"/bin/sh -c curl x: connection refused\" did not complete successfully: exit code: 7",
            "COPY failed: file not found in build context or excluded by .dockerignore: stat x: file does not exist",
        ] {
            let error = of_builder(said(words));
            assert_eq!((error.kind(), error.detail()), (ErrorKind::Invalid, Some(words)), "{words}");
        }
        for (words, kind) in [
            ("write /var/lib/docker/tmp/x: no space left on device", ErrorKind::OutOfResources),
            ("pull access denied for shop/base, repository does not exist", ErrorKind::ImageDenied),
            ("manifest for shop/base:9 not found: manifest unknown", ErrorKind::ImageMissing),
            (
                "failed to solve with frontend dockerfile.v0: failed to create LLB definition: r.example/base:1: not found",
                ErrorKind::ImageMissing,
            ),
            ("failed to solve: failed to compute cache key: \"/x\" not found: not found", ErrorKind::Invalid),
        ] {
            assert_eq!(of_builder(said(words)).kind(), kind, "{words}");
        }
        // Without the engine's words it is not the builder who speaks.
        assert_eq!(of_builder(Error::internal("ours")).kind(), ErrorKind::Internal);
    }

    #[test]
    fn the_log_comes_in_whole_lines() {
        let (mut log, mut layers, mut told) = (Log::default(), Layers::default(), Vec::new());
        let long = "x".repeat(MAX_LINE + 5);
        for piece in
            ["Step 1/2 : FROM ", "scratch\n", " ---> \n\n", "a\r\nb", "", "c\n", long.as_str(), "\n", "last"]
        {
            let line = Line { stream: piece.to_owned(), ..Line::default() };
            log.take(&line, &mut layers, |progress| told.push(progress));
        }
        log.end(|progress| told.push(progress));
        let cut = format!("{}…", "x".repeat(MAX_LINE));
        let lines = ["Step 1/2 : FROM scratch", " ---> ", "a", "bc", &cut, "last"];
        assert_eq!(told, lines.map(|line| Progress::Log(line.to_owned())));
    }

    #[test]
    fn nobody_can_name_a_digest() {
        let name: ImageRef = "shop/web".parse().unwrap();
        assert_eq!(tag(&name).unwrap(), "docker.io/shop/web:latest");
        assert_eq!(tag(&name.with_digest(Digest::of(b"x"))).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
