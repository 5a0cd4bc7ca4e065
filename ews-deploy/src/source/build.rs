//! A Dockerfile and its context: built by the image store, within a list of bases, and pinned.
//!
//! The list is checked on what the Dockerfile names, before anything runs, and again on the result: its first layers must be those of the
//! base that its last stage names, as the registry has it. So a local image under a base's name is found out. Bases are always asked for
//! anew. What a step of a build does is not checked: builds of strangers belong on engines that run nobody else.

use std::collections::BTreeMap;
use std::io::Read as _;

use ews_core::archive::{Entries, Kind, ShownBytes};
use ews_core::image::{BuildSpec, ImageQuery, Progress, ProgressStream};
use ews_core::spec::source::{ImagePin, ImageSource};
use ews_core::{Digest, Error, ErrorKind, ImageRef, ImageStore, Result, ServiceSpec, Source};
use flate2::read::MultiGzDecoder;
use futures_util::StreamExt as _;

use super::Sources;
use super::artifact::{Artifact, Content};
use super::dockerfile::Dockerfile;
use super::oci::image::{Image, at, read};
use super::request::DockerfileRequest;
use super::resolved::{BaseUsed, Provenance, ProvenanceKind, Resolved, Warning, WarningAbout};
use super::scratch::{self, blocking};

/// The longest Dockerfile, in bytes.
const MAX_DOCKERFILE: u64 = 1 << 20;
/// How many lines of a builder's log come along with its error.
const LOG_LINES: usize = 30;
/// Parts of names that secrets have.
const SECRET_WORDS: [&str; 9] =
    ["PASSWORD", "PASSWD", "SECRET", "TOKEN", "CREDENTIAL", "PRIVATE_KEY", "API_KEY", "APIKEY", "ACCESS_KEY"];

impl Sources {
    pub(super) async fn dockerfile(
        &self,
        request: &DockerfileRequest,
        by: &str,
        mut spec: ServiceSpec,
    ) -> Result<Resolved> {
        let (images, engine) = self.images()?;
        check_args(&request.args)?;
        let text = dockerfile_of(&request.context, &request.dockerfile, &self.limits).await?;
        let read = Dockerfile::parse(&text, &request.args)?;
        let refused: Vec<String> =
            read.images.iter().filter(|image| !self.policy.allows(image)).map(ToString::to_string).collect();
        if !refused.is_empty() {
            return Err(Error::invalid(format!(
                "the Dockerfile builds on images that are not allowed: {}; accepted: those of the list of bases",
                refused.join(", ")
            )));
        }
        let base = read.base(request.target.as_deref())?.cloned();

        let mut build = BuildSpec::new(request.name.clone());
        build.dockerfile.clone_from(&request.dockerfile);
        build.target.clone_from(&request.target);
        build.args.clone_from(&request.args);
        build.secrets.clone_from(&request.secrets);
        build.pull = true;
        build.labels = BTreeMap::from([("ews.image.kind".to_owned(), "dockerfile".to_owned())]);
        let (image_id, _) =
            done(images.build(&build, scratch::stream(request.context.file())).await?).await?;
        let image_id = image_id.ok_or_else(|| Error::internal("the builder does not say what it built"))?;

        let mut warnings = Vec::new();
        let mut image = ImageSource::new(request.name.clone());
        let mut bases = Vec::new();
        let result = if request.push {
            let digest = pushed(images, &request.name).await?;
            match (&self.registry, &base) {
                (Some(_), Some(base)) => match self.stands_on(&request.name, digest, base).await? {
                    Ok(used) => bases.push(used),
                    Err(fault) => warnings.push(Warning::new(WarningAbout::Unchecked, fault)),
                },
                (None, Some(base)) => {
                    warnings.push(unchecked(base, "there is no registry to read the result from"))
                }
                (_, None) => {}
            }
            image.pin = Some(ImagePin::Manifest(digest));
            digest
        } else {
            if let Some(base) = &base {
                warnings.push(unchecked(base, "the image was not pushed"));
            }
            image.pin = Some(ImagePin::Local { engine: engine.to_owned(), image_id });
            image_id
        };
        spec.instance.source = Source::Image(image);
        let mut provenance = Provenance::new(ProvenanceKind::Dockerfile, by, result);
        provenance.upload = Some(request.context.digest());
        provenance.bases = bases;
        Ok(Resolved { spec, provenance, warnings, moved: super::Moved::default() })
    }

    /// Whether an image stands on a base, as the registry has both. The inner error says why that can't be told.
    ///
    /// # Errors
    /// `Invalid` where it does not.
    pub(super) async fn stands_on(
        &self,
        name: &ImageRef,
        digest: Digest,
        base_name: &ImageRef,
    ) -> Result<Result<BaseUsed, String>> {
        let registry = self.registry()?;
        let made = read(registry, &at(name, digest)?, &|_| true).await?;
        let Some(image) = made.images.first() else {
            return Err(Error::internal("an image that leads to none was read"));
        };
        let what = |image: &Image| (image.platform.os, image.platform.arch);
        let base =
            match read(registry, base_name, &|platform| (platform.os, platform.arch) == what(image)).await {
                Ok(base) => base,
                Err(error) => {
                    return Ok(Err(format!(
                        "the base `{base_name}` can't be read, so its layers were not compared: {error}"
                    )));
                }
            };
        let found = base.images.iter().find(|base| image.diff_ids().starts_with(&base.diff_ids()));
        match found {
            Some(base) => Ok(Ok(super::assemble::used(base_name, base))),
            None => Err(Error::invalid(format!(
                "the image does not stand on `{base_name}` as the registry has it, although its Dockerfile says so: the engine has another \
                 image under that name"
            ))
            .with_context("image", name)),
        }
    }

    pub(super) fn images(&self) -> Result<(&dyn ImageStore, &str)> {
        let missing = || {
            Error::new(
                ErrorKind::Unsupported,
                "there is no image store: what is built or committed needs one (`with_images`)",
            )
        };
        self.images.as_ref().map(|(images, engine)| (&**images, engine.as_str())).ok_or_else(missing)
    }
}

fn unchecked(base: &ImageRef, why: &str) -> Warning {
    Warning::new(
        WarningAbout::Unchecked,
        format!("the result's layers were not compared with those of `{base}`: {why}"),
    )
}

/// Refuses arguments that sound like secrets.
fn check_args(args: &BTreeMap<String, String>) -> Result<()> {
    let sounds = |name: &&String| SECRET_WORDS.iter().any(|word| name.to_ascii_uppercase().contains(word));
    match args.keys().find(sounds) {
        Some(name) => Err(Error::invalid(format!(
            "the build argument `{}` sounds like a secret, and arguments stay in the image for everybody to see; accepted: a build secret",
            ShownBytes(name.as_bytes())
        ))),
        None => Ok(()),
    }
}

/// Waits for a long operation of an image store.
///
/// # Errors
/// Its own, with the last lines of its log where it brings no words.
pub(super) async fn done(mut progress: ProgressStream) -> Result<(Option<Digest>, Option<Digest>)> {
    let mut log = std::collections::VecDeque::new();
    while let Some(step) = progress.next().await {
        match step {
            Ok(Progress::Done { image, manifest }) => return Ok((image, manifest)),
            Ok(Progress::Log(line)) => {
                tracing::debug!(%line, "building");
                if log.len() == LOG_LINES {
                    log.pop_front();
                }
                log.push_back(line);
            }
            Ok(_) => {}
            Err(error) if error.detail().is_none() && !log.is_empty() => {
                return Err(error.with_detail(Vec::from(log).join("\n")));
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::internal("the image store ended without saying how"))
}

/// Pushes an image.
pub(super) async fn pushed(images: &dyn ImageStore, name: &ImageRef) -> Result<Digest> {
    let (_, manifest) = done(images.push(name).await?).await?;
    match manifest {
        Some(digest) => Ok(digest),
        // Some engines say it of the image only.
        None => {
            let image = images.inspect(&ImageQuery::Name(name.clone())).await?;
            image
                .manifests
                .first()
                .copied()
                .ok_or_else(|| Error::internal("the engine does not say what it pushed"))
        }
    }
}

/// The text of a context's Dockerfile. All of the context is read, so that it is within limits before a builder gets it.
async fn dockerfile_of(context: &Artifact, path: &str, limits: &super::UploadLimits) -> Result<String> {
    let gzip = match context.content() {
        Content::Tar | Content::Directory => false,
        Content::TarGz => true,
        other => {
            return Err(Error::invalid(format!("the build context is {other}; accepted: tar or tar.gz")));
        }
    };
    let (file, limits, wanted) = (context.file(), limits.clone(), path.trim_start_matches("./").to_owned());
    blocking(move || {
        let whole = std::io::BufReader::with_capacity(64 * 1024, file.whole());
        let reader: Box<dyn std::io::Read> =
            if gzip { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) };
        let (bounds, (mut left, limit)) = (limits.of_tar(), limits.unpacked_from(file.size()));
        let mut entries = Entries::new(reader, &bounds);
        let (mut found, mut count, most) = (None, 0_u64, left);
        while let Some(entry) = entries.next()? {
            count += 1;
            let too_much = |limit, most, what| super::artifact::too_much(limit, most, what);
            if count > limits.entries {
                return Err(too_much("entries", limits.entries, "entries"));
            }
            left =
                left.checked_sub(entry.size).ok_or_else(|| too_much(limit, most, "bytes when unpacked"))?;
            let name = entry.name.strip_prefix(b"./").unwrap_or(&entry.name);
            if name != wanted.as_bytes() {
                continue;
            }
            if entry.kind != Kind::File || entry.size > MAX_DOCKERFILE || found.is_some() {
                return Err(Error::invalid(format!(
                    "`{}` must come once in the context, as a file of at most {MAX_DOCKERFILE} bytes",
                    ShownBytes(wanted.as_bytes())
                )));
            }
            let mut text = String::new();
            entries.read_to_string(&mut text).map_err(ews_core::archive::fault)?;
            found = Some(text);
        }
        found.ok_or_else(|| {
            Error::invalid(format!("the build context has no file `{}`", ShownBytes(wanted.as_bytes())))
        })
    })
    .await
}
