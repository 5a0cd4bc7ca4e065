//! A container that somebody got to work, submitted as an image: what it holds is recorded, and another person approves it.
//!
//! [`Sources::submit`] makes the image through the store's `commit`, which leaves the run-time environment out, and records what it can see:
//! who and from what, which files the container changed (where the image was pushed and can be read), and what a reviewer should know.
//! The record is no source yet. [`SubmissionRequest`](super::SubmissionRequest) makes it one, together with an [`Approved`] of somebody else.

use std::io::Read;
use std::sync::Arc;

use ews_core::archive::{Entries, Kind, Limits};
use ews_core::image::CommitSpec;
use ews_core::spec::content::{EnvValue, FileContent};
use ews_core::spec::source::{ImagePin, ImageSource};
use ews_core::spec::storage::MountKind;
use ews_core::{
    Digest, Error, ErrorKind, ImageRef, InstanceId, InstanceSpec, Result, ServiceSpec, Source, Timestamp,
};
use flate2::read::MultiGzDecoder;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use std::io::Write as _;

use super::build::pushed;
use super::oci::append::{BASE_DIGEST, BASE_NAME};
use super::oci::image::{Image, at, digest_of, read};
use super::request::SubmissionRequest;
use super::resolved::{Provenance, ProvenanceKind, Resolved, Warning, WarningAbout};
use super::scratch::{ScratchFile, blocking, of_disk};
use super::{Sources, UploadLimits, now};

/// The most changed files that a record names; beyond, it says that there were more.
const MAX_CHANGES: usize = 10_000;
/// The longest text that stands in a comment, in bytes.
const MAX_COMMENT: usize = 4096;

/// A container that is to become an image, for [`Sources::submit`]. What comes of it is a source by a
/// [`SubmissionRequest`](super::SubmissionRequest), once somebody else has approved it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SubmitRequest {
    /// The instance.
    pub instance: InstanceId,
    /// What it was created from: its mounts, files and environment are not in the image, and are warned about.
    pub spec: InstanceSpec,
    /// The name that the image gets.
    pub name: ImageRef,
    /// Who submits it.
    pub by: String,
    /// What was done and why.
    pub comment: String,
    /// Whether the image is pushed, which also lets its files be recorded, or stays on its engine. Default: pushed.
    pub push: bool,
}

impl SubmitRequest {
    /// This instance, as an image of this name.
    pub fn new(instance: InstanceId, spec: InstanceSpec, name: ImageRef, by: impl Into<String>) -> Self {
        Self { instance, spec, name, by: by.into(), comment: String::new(), push: true }
    }

    /// Says what was done and why.
    #[must_use]
    pub fn with_comment(mut self, comment: impl Into<String>) -> Self {
        self.comment = comment.into();
        self
    }

    /// Leaves the image on its engine.
    #[must_use]
    pub fn local(mut self) -> Self {
        self.push = false;
        self
    }
}

/// What was submitted. It is no source before somebody approved it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Submission {
    /// The image's name.
    pub name: ImageRef,
    /// Its exact content.
    pub pin: ImagePin,
    /// The instance that it was.
    pub instance: InstanceId,
    /// Who submitted it.
    pub by: String,
    /// What was done and why.
    pub comment: String,
    /// When.
    pub at: Timestamp,
    /// What the instance was created from, where the image says it.
    pub base: Option<ImageRef>,
    /// Which files the container changed. `None` where that can't be told; a warning says why.
    pub changes: Option<Changes>,
    /// What a reviewer should know.
    pub warnings: Vec<Warning>,
}

/// Which files a container changed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Changes {
    /// In the order of the layers, at most 10,000.
    pub files: Vec<Change>,
    /// Whether there were more, or they were too large to be looked at ([`UploadLimits`]).
    pub more: bool,
    /// Bytes of all files that were looked at.
    pub bytes: u64,
}

/// One file that a container changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Change {
    /// Its path, absolute.
    pub path: String,
    /// Its size in bytes; 0 for links, and for what was deleted.
    pub size: u64,
    /// Whether it was deleted rather than written.
    pub deleted: bool,
}

/// That somebody looked at a submission and takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Approved {
    /// Who.
    pub by: String,
}

impl Approved {
    /// By this person.
    pub fn new(by: impl Into<String>) -> Self {
        Self { by: by.into() }
    }
}

impl Sources {
    /// Makes an image of a container, and records what it holds.
    ///
    /// # Errors
    /// `NotFound` for the instance; `Invalid` for a request without a submitter; `Unsupported` without an image store, or where it can't
    /// commit; those of the store and the registry.
    pub async fn submit(&self, request: &SubmitRequest) -> Result<Submission> {
        Box::pin(self.run_submit(request)).await.map_err(|error| error.with_operation("sources.submit"))
    }

    async fn run_submit(&self, request: &SubmitRequest) -> Result<Submission> {
        if request.by.trim().is_empty() {
            return Err(Error::invalid("nobody submits it; accepted: a name").with_context("field", "by"));
        }
        if request.comment.len() > MAX_COMMENT {
            let message =
                format!("a comment of {} bytes; accepted: at most {MAX_COMMENT}", request.comment.len());
            return Err(Error::invalid(message).with_context("field", "comment"));
        }
        let (images, engine) = self.images()?;
        let mut commit = CommitSpec::new(request.name.clone());
        commit.comment = format!("{}: {}", request.by, request.comment);
        for (name, value) in [("ews.image.kind", "submission"), ("ews.image.submitter", request.by.as_str())]
        {
            commit.labels.insert(name.to_owned(), value.to_owned());
        }
        let image = images.commit(&request.instance, &commit).await?;
        let mut warnings = of_spec(&request.spec);
        let base = image.labels.get(BASE_NAME).and_then(|name| name.parse::<ImageRef>().ok());
        match &base {
            Some(base) if self.policy.allows(base) => {}
            Some(base) => warnings.push(Warning::new(
                WarningAbout::Unchecked,
                format!("it stands on `{base}`, which is not on the list of bases"),
            )),
            None => warnings
                .push(Warning::new(WarningAbout::Unchecked, "the engine does not say what it stands on")),
        }
        let (mut pin, mut changes) =
            (ImagePin::Local { engine: engine.to_owned(), image_id: image.id }, None);
        if request.push {
            let digest = pushed(images, &request.name).await?;
            pin = ImagePin::Manifest(digest);
            match self.changes(&request.name, digest).await {
                Ok(found) => changes = Some(found),
                Err(error) => warnings.push(Warning::new(
                    WarningAbout::Unchecked,
                    format!("which files it changed can't be told: {error}"),
                )),
            }
        } else {
            warnings.push(Warning::new(
                WarningAbout::Unchecked,
                "which files it changed can't be told: the image was not pushed",
            ));
        }
        warnings.extend(changes.iter().flat_map(of_files));
        Ok(Submission {
            name: request.name.clone(),
            pin,
            instance: request.instance.clone(),
            by: request.by.clone(),
            comment: request.comment.clone(),
            at: now(),
            base,
            changes,
            warnings,
        })
    }

    /// What the layers above an image's base hold.
    async fn changes(&self, name: &ImageRef, digest: Digest) -> Result<Changes> {
        let registry = self.registry()?;
        let image = first(read(registry, &at(name, digest)?, &|_| true).await?.images)?;
        let base =
            image.label(BASE_NAME).zip(image.label(BASE_DIGEST)).filter(|(_, digest)| !digest.is_empty());
        let (base_name, base_digest) = base.ok_or_else(|| {
            Error::invalid("the image does not say by which digest a registry knows its base")
        })?;
        let base_name = at(&base_name.parse()?, base_digest.parse()?)?;
        let what = (image.platform.os, image.platform.arch);
        let base = read(registry, &base_name, &|platform| (platform.os, platform.arch) == what).await?;
        let base = first(base.images)?;
        if !image.diff_ids().starts_with(&base.diff_ids()) {
            return Err(Error::invalid("the image's first layers are not its base's"));
        }
        let mut changes = Changes::default();
        for layer in image.layers().iter().skip(base.layers().len()) {
            let file = self.fetched(&image, digest_of(layer)?).await?;
            let limits = self.limits.clone();
            changes = blocking(move || listed(&file, changes, &limits)).await?;
        }
        Ok(changes)
    }

    async fn fetched(&self, image: &Image, layer: Digest) -> Result<Arc<ScratchFile>> {
        let mut bytes = self.registry()?.open_blob(&image.name, &layer, 0).await?;
        let mut file = self.scratch.file()?;
        while let Some(piece) = bytes.next().await {
            let piece = piece?;
            if file.size() + piece.len() as u64 > self.limits.packed {
                return Err(super::artifact::too_much("packed", self.limits.packed, "bytes in one layer"));
            }
            file = blocking(move || {
                file.write_all(&piece).map_err(|error| of_disk("the scratch space", error))?;
                Ok(file)
            })
            .await?;
        }
        Ok(Arc::new(file))
    }
}

/// A submission that somebody else approved, as a source.
pub(super) fn approved(request: &SubmissionRequest, by: &str, mut spec: ServiceSpec) -> Result<Resolved> {
    let (submission, approver) = (&request.submission, request.approved.by.trim());
    if approver.is_empty() || approver.eq_ignore_ascii_case(submission.by.trim()) {
        return Err(Error::invalid(format!(
            "the submission of `{}` by {} is not approved by somebody else; accepted: an approval by another person",
            submission.name, submission.by
        )));
    }
    let mut image = ImageSource::new(submission.name.clone());
    image.pin = Some(submission.pin.clone());
    spec.instance.source = Source::Image(image);
    let result = match &submission.pin {
        ImagePin::Manifest(digest) => *digest,
        ImagePin::Local { image_id, .. } => *image_id,
        _ => return Err(Error::invalid("the submission is pinned by what is not known here")),
    };
    let who = if by.is_empty() { submission.by.as_str() } else { by };
    let mut provenance = Provenance::new(ProvenanceKind::Submission, who, result);
    provenance.approved_by = Some(approver.to_owned());
    Ok(Resolved { spec, provenance, warnings: submission.warnings.clone(), moved: super::Moved::default() })
}

fn first(images: Vec<Image>) -> Result<Image> {
    images
        .into_iter()
        .next()
        .ok_or_else(|| Error::new(ErrorKind::ImageMissing, "there is no image for the platform"))
}

/// Adds what a layer holds.
fn listed(layer: &ScratchFile, mut changes: Changes, most: &UploadLimits) -> Result<Changes> {
    let mut magic = [0; 2];
    let gzip = layer.whole().read(&mut magic).is_ok_and(|count| count == 2) && magic == [0x1f, 0x8b];
    let whole = std::io::BufReader::with_capacity(64 * 1024, layer.whole());
    let reader: Box<dyn Read> = if gzip { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) };
    let limits = Limits::default();
    let mut entries = Entries::new(reader, &limits);
    let mut left = most.entries;
    while let Some(entry) = entries.next()? {
        changes.bytes = changes.bytes.saturating_add(entry.size);
        // A file of holes packs to nothing, and reading on would take hours.
        if changes.bytes > most.unpacked || left == 0 {
            changes.more = true;
            break;
        }
        left -= 1;
        // Directories come along with whatever changed below them.
        if entry.kind == Kind::Directory {
            continue;
        }
        if changes.files.len() == MAX_CHANGES {
            changes.more = true;
            continue;
        }
        let name = String::from_utf8_lossy(&entry.name);
        let name = name.trim_start_matches("./").trim_start_matches('/');
        let (directory, file) =
            name.rsplit_once('/').map_or(("", name), |(directory, file)| (directory, file));
        let stroke = if directory.is_empty() { "" } else { "/" };
        let (file, deleted) = match file.strip_prefix(".wh.") {
            // All that the base had there.
            Some(".wh..opq") => ("*", true),
            Some(gone) => (gone, true),
            None => (file, false),
        };
        changes.files.push(Change { path: format!("/{directory}{stroke}{file}"), size: entry.size, deleted });
    }
    Ok(changes)
}

/// What the instance was given that the image does not have.
fn of_spec(spec: &InstanceSpec) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for mount in &spec.mounts {
        let kind = match &mount.kind {
            MountKind::Bind(path) => format!("the directory `{path}` of its node"),
            MountKind::Volume(name) => format!("the volume `{name}`"),
            MountKind::Tmpfs(_) => "memory".to_owned(),
            MountKind::NamedPipe(path) => format!("the pipe `{path}`"),
            _ => "something of its node".to_owned(),
        };
        warnings.push(Warning::new(
            WarningAbout::Mounts,
            format!("what lies in `{}` is not in the image: it is {kind}", mount.target),
        ));
    }
    let secret =
        |name: &String, value: &EnvValue| matches!(value, EnvValue::Secret { .. }).then(|| name.clone());
    let mut secrets: Vec<String> = spec.env.iter().filter_map(|(name, value)| secret(name, value)).collect();
    secrets.extend(
        spec.files
            .iter()
            .filter(|file| matches!(file.content, FileContent::Secret(_)))
            .map(|file| file.path.clone()),
    );
    if !secrets.is_empty() {
        warnings.push(Warning::new(
            WarningAbout::Secrets,
            format!(
                "the instance was given secrets ({}), which are not in the image unless its program wrote them to a file",
                secrets.join(", ")
            ),
        ));
    }
    warnings
}

/// Files by whose names secrets and traces of people go.
fn of_files(changes: &Changes) -> Vec<Warning> {
    let written = changes.files.iter().filter(|change| !change.deleted);
    let suspicious: Vec<&str> =
        written.map(|change| change.path.as_str()).filter(|path| is_suspicious(path)).collect();
    let mut warnings = Vec::new();
    if !suspicious.is_empty() {
        let shown: Vec<&str> = suspicious.iter().copied().take(50).collect();
        warnings.push(Warning::new(
            WarningAbout::Secrets,
            format!(
                "the image holds {} files that may be secrets or traces of people: {}",
                suspicious.len(),
                shown.join(", ")
            ),
        ));
    }
    if changes.more {
        warnings.push(Warning::new(
            WarningAbout::Unchecked,
            "it changed more files or more bytes than are looked at: some are not in the record",
        ));
    }
    warnings
}

fn is_suspicious(path: &str) -> bool {
    const NAMES: [&str; 17] = [
        ".netrc",
        ".npmrc",
        ".pypirc",
        ".pgpass",
        ".my.cnf",
        ".git-credentials",
        ".env",
        ".htpasswd",
        "id_rsa",
        "id_dsa",
        "id_ecdsa",
        "id_ed25519",
        "authorized_keys",
        "shadow",
        "machine-id",
        ".dockercfg",
        ".vault-token",
    ];
    const ENDS: [&str; 9] = [
        ".pem",
        ".key",
        ".p12",
        ".pfx",
        ".jks",
        ".kdbx",
        "_history",
        ".docker/config.json",
        ".aws/credentials",
    ];
    let lower = path.to_ascii_lowercase();
    let name = lower.rsplit('/').next().unwrap_or_default();
    NAMES.contains(&name)
        || name.starts_with(".env.")
        || ENDS.iter().any(|end| lower.ends_with(end))
        || lower.ends_with(".kube/config")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_listed_within_limits() {
        use crate::source::artifact::tests::made;
        let directory = tempfile::tempdir().unwrap();
        let scratch = crate::source::scratch::Scratch::new(directory.path().to_owned(), 1 << 20).unwrap();
        let mut layer = scratch.file().unwrap();
        let files = [
            made::file("etc/a", &[1; 600]),
            made::file("etc/.wh.b", b""),
            made::file(".wh..wh..opq", b""),
            made::file("c", &[1; 600]),
        ];
        layer.write_all(&made::gzip(&made::tar(&files))).unwrap();
        let list = |most: UploadLimits| listed(&layer, Changes::default(), &most).unwrap();
        let all = list(UploadLimits::default());
        let shown: Vec<_> =
            all.files.iter().map(|change| (change.path.as_str(), change.size, change.deleted)).collect();
        assert_eq!(shown, [("/etc/a", 600, false), ("/etc/b", 0, true), ("/*", 0, true), ("/c", 600, false)]);
        assert_eq!((all.bytes, all.more), (1200, false));
        let some = list(UploadLimits::default().with_unpacked(1000));
        assert_eq!((some.files.len(), some.more), (3, true));
        let some = list(UploadLimits::default().with_entries(2));
        assert_eq!((some.files.len(), some.more), (2, true));
    }

    #[test]
    fn files_that_may_be_secrets_are_told_by_their_names() {
        for path in [
            "/data/.netrc",
            "/app/.env",
            "/app/.env.production",
            "/a/ID_RSA",
            "/x/server.key",
            "/data/.bash_history",
            "/data/.kube/config",
            "/data/.docker/config.json",
        ] {
            assert!(is_suspicious(path), "{path}");
        }
        for path in ["/app/environment", "/app/keys.js", "/etc/hosts", "/app/config.json", "/usr/lib/monkey"]
        {
            assert!(!is_suspicious(path), "{path}");
        }
    }
}
