//! Hotfixes: files laid over running instances, as a revision of their own.
//!
//! A hotfix is a rollout like any other: in batches, gated, undone when it fails, journalled. Its revision has the spec of the one
//! below it and an [`Overlay`]: which files differ, what they held before, and how the program is told. Instances stay those of
//! the revision below, whose id they carry; which files each of them has stands in the service's state. So an instance that is
//! created later gets the files before it starts, and going back lays the old ones over.
//!
//! Contents are kept in the store by digest, in pieces, as they are: what must stay secret belongs into a secret file, not into a hotfix.
//! `files` reads and writes files of an instance through archives.

pub(crate) mod files;

use std::collections::BTreeMap;

use bytes::Bytes;
use ews_core::spec::lifecycle::Signal;
use ews_core::spec::storage::MountKind;
use ews_core::{Digest, Error, ErrorKind, InstanceId, Result, RevisionId, ServiceName, ServiceSpec};
use serde::{Deserialize, Serialize};

use crate::strategy::{Batch, Strategy};

/// Files that are to be replaced in the running instances of a service.
///
/// ```
/// use ews_deploy::{Hotfix, Reload};
///
/// let fix = Hotfix::new("web".parse()?)
///     .with_file("/srv/www/app.js", "console.log('mended')")
///     .with_reload(Reload::Exec(vec!["nginx".into(), "-s".into(), "reload".into()]))
///     .with_reason("the basket was empty on Thursdays");
/// fix.check()?;
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Hotfix {
    /// Of which service.
    pub service: ServiceName,
    /// What each file shall hold, by its path in the instance; 1 to [`Hotfix::FILES`]. Its directory must be there; what is
    /// there in its place must be a file.
    pub files: BTreeMap<String, HotfixFile>,
    /// How the program is told. Default: not at all.
    pub reload: Reload,
    /// How to proceed; a canary is refused, since new and old files run in instances of one revision. Default: one instance, then
    /// 25 %, watched like a rollout.
    pub strategy: Strategy,
    /// Makes the request repeatable, as [`DeployRequest::key`](crate::DeployRequest::key) does. Default: none.
    pub key: Option<String>,
    /// Why, for people; at most 1 KiB. Default empty.
    pub reason: String,
}

/// What a file shall hold.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct HotfixFile {
    /// Its content; at most [`Hotfix::FILE`] bytes.
    pub content: Bytes,
    /// Its permission bits. Default: as before, 0644 for a new one.
    pub mode: Option<u32>,
}

impl std::fmt::Debug for HotfixFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HotfixFile").field("bytes", &self.content.len()).field("mode", &self.mode).finish()
    }
}

impl Hotfix {
    /// The most files.
    pub const FILES: usize = 100;
    /// The most bytes of one file.
    pub const FILE: usize = 8 << 20;
    /// The most bytes of all files of a service's overlay together.
    pub const TOTAL: u64 = 32 << 20;

    /// No files yet.
    pub fn new(service: ServiceName) -> Self {
        Self {
            service,
            files: BTreeMap::new(),
            reload: Reload::None,
            strategy: Strategy::default().with_batches(Batch::Count(1), Batch::Percent(25)),
            key: None,
            reason: String::new(),
        }
    }

    /// With this file holding this.
    #[must_use]
    pub fn with_file(mut self, path: impl Into<String>, content: impl Into<Bytes>) -> Self {
        self.files.insert(path.into(), HotfixFile { content: content.into(), mode: None });
        self
    }

    /// With this file holding this, with these permission bits.
    #[must_use]
    pub fn with_file_mode(mut self, path: impl Into<String>, content: impl Into<Bytes>, mode: u32) -> Self {
        self.files.insert(path.into(), HotfixFile { content: content.into(), mode: Some(mode) });
        self
    }

    /// The program is told so.
    #[must_use]
    pub fn with_reload(mut self, reload: Reload) -> Self {
        self.reload = reload;
        self
    }

    /// Proceeding like this.
    #[must_use]
    pub fn with_strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Repeatable under this key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// For this reason.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }

    /// Refuses what is wrong in itself.
    ///
    /// # Errors
    /// `Invalid`, naming the field and what is accepted.
    pub fn check(&self) -> Result<()> {
        let wrong =
            |field: &'static str, message: String| Err(Error::invalid(message).with_context("field", field));
        self.strategy.check()?;
        if !self.strategy.steps().is_empty() {
            return wrong(
                "strategy",
                "a hotfix by canary or blue/green; accepted: batches, with `approval`".to_owned(),
            );
        }
        if self.files.is_empty() || self.files.len() > Self::FILES {
            return wrong("files", format!("{} files; accepted: 1 to {}", self.files.len(), Self::FILES));
        }
        for (path, file) in &self.files {
            check_path(path)?;
            if file.content.len() > Self::FILE {
                let size = file.content.len();
                return wrong("files", format!("`{path}` of {size} bytes; accepted: at most {}", Self::FILE));
            }
            if file.mode.is_some_and(|mode| mode > 0o777) {
                return wrong("files", format!("`{path}` with special permission bits; accepted: 0 to 0777"));
            }
        }
        match &self.reload {
            Reload::Exec(command) if command.first().is_none_or(String::is_empty) || command.len() > 256 => {
                wrong("reload", "a command without a program; accepted: 1 to 256 words".to_owned())
            }
            _ if self.key.as_ref().is_some_and(|key| key.is_empty() || key.len() > 255) => {
                wrong("key", "a key of no or more than 255 bytes; accepted: 1 to 255".to_owned())
            }
            _ if self.reason.len() > 1024 => {
                wrong("reason", "a reason of more than 1 KiB; accepted: at most 1,024 bytes".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Refuses files that are not the instance's own: what is mounted or placed there by the spec would hide them, or they would
    /// change what others share.
    pub(crate) fn check_against(&self, spec: &ServiceSpec) -> Result<()> {
        let refused = |path: &str, why: String| {
            Err(Error::invalid(format!(
                "`{path}` {why}; accepted: files of the image or the artifact itself"
            ))
            .with_context("field", "files"))
        };
        let beneath = |path: &str, target: &str| {
            let target = target.trim_end_matches('/');
            path == target || path.strip_prefix(target).is_some_and(|rest| rest.starts_with('/'))
        };
        for path in self.files.keys() {
            if spec.instance.security.read_only_root {
                return refused(path, "can't be written: the root file system is read-only".to_owned());
            }
            for mount in &spec.instance.mounts {
                if beneath(path, &mount.target) {
                    let what = match &mount.kind {
                        MountKind::Volume(name) => {
                            format!("lies in the volume `{name}`, which outlives instances")
                        }
                        _ => format!("lies beneath the mount at `{}`", mount.target),
                    };
                    return refused(path, what);
                }
            }
            if spec.instance.files.iter().any(|file| file.path == *path) {
                return refused(path, "is a file that the spec places: change the spec".to_owned());
            }
        }
        Ok(())
    }
}

fn check_path(path: &str) -> Result<()> {
    let plain = path.len() <= 1024
        && path.starts_with('/')
        && path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."))
        && !path.chars().any(char::is_control);
    if plain {
        return Ok(());
    }
    let shown: String = path.chars().take(100).flat_map(char::escape_default).collect();
    Err(Error::invalid(format!(
        "`{shown}` is not the path of a file; accepted: absolute, without `.`, `..` and control characters, at most 1,024 bytes"
    ))
    .with_context("field", "files"))
}

/// How a program is told that its files have changed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reload {
    /// Not at all: it reads them when it needs them.
    #[default]
    None,
    /// By this signal.
    Signal(Signal),
    /// By a command in the instance, which must end with 0.
    Exec(Vec<String>),
    /// It is drained, stopped and started again: a batch of what is served is missing meanwhile.
    Restart,
}

/// What is laid over the instances of a revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Overlay {
    /// The number of the revision below.
    pub base: u64,
    /// Its id, which its instances carry.
    pub base_id: RevisionId,
    /// Every file that differs from the revision below, those of earlier hotfixes included.
    pub files: BTreeMap<String, OverlayFile>,
    /// How the program is told.
    pub reload: Reload,
    /// Why.
    pub reason: String,
}

/// A file of an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct OverlayFile {
    /// What it holds.
    pub content: FileFact,
    /// What the revision below holds there; `None`: no file.
    pub original: Option<FileFact>,
}

/// What is known of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FileFact {
    /// Of its content.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// Its permission bits.
    pub mode: u32,
    /// Whose it is: the numbers of the user and of the group, in this order.
    pub owner: (u64, u64),
}

/// A file of an instance that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Drift {
    /// In which instance.
    pub instance: InstanceId,
    /// Which file.
    pub path: String,
    /// What it should hold; `None`: it should not be there.
    pub expected: Option<Digest>,
    /// What it holds; `None`: it is not there.
    pub found: Option<Digest>,
}

/// A revision with its hotfixes, as what it runs can be made from: [`Deployer::overlaid`](crate::Deployer::overlaid) gives it, the module
/// `source` makes an image or an artifact of it that needs no hotfix any more.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Overlaid {
    /// The revision.
    pub revision: RevisionId,
    /// What it runs without the hotfixes.
    pub spec: ServiceSpec,
    /// What lies over it, by the path in the instance.
    pub files: BTreeMap<String, OverlaidFile>,
    /// Why, in the words of the last hotfix.
    pub reason: String,
}

/// A file that lies over a revision.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct OverlaidFile {
    /// What it holds.
    pub content: Bytes,
    /// Its permission bits.
    pub mode: u32,
    /// Whose it is: the numbers of the user and of the group, in this order.
    pub owner: (u64, u64),
}

impl std::fmt::Debug for OverlaidFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (bytes, mode, owner) = (self.content.len(), self.mode, self.owner);
        f.debug_struct("OverlaidFile")
            .field("bytes", &bytes)
            .field("mode", &mode)
            .field("owner", &owner)
            .finish()
    }
}

/// What every file that any of these overlays touches shall be under one of them, or under none.
pub(crate) fn targets<'a>(
    overlays: impl Iterator<Item = &'a Overlay>,
    wanted: Option<&Overlay>,
) -> BTreeMap<String, Option<FileFact>> {
    let mut targets = BTreeMap::new();
    for overlay in overlays {
        for (path, file) in &overlay.files {
            targets.insert(path.clone(), file.original);
        }
    }
    for (path, file) in wanted.iter().flat_map(|overlay| &overlay.files) {
        targets.insert(path.clone(), Some(file.content));
    }
    targets
}

/// Refuses an overlay that is too large.
pub(crate) fn check_size(files: &BTreeMap<String, OverlayFile>) -> Result<()> {
    let size = |file: &OverlayFile| file.content.size + file.original.map_or(0, |original| original.size);
    let total: u64 = files.values().map(size).sum();
    if files.len() > Hotfix::FILES || total > Hotfix::TOTAL {
        return Err(Error::new(
            ErrorKind::OutOfResources,
            format!(
                "{} files of {total} bytes, what they held before included; accepted: at most {} of {} together: build them into a \
                 revision",
                files.len(),
                Hotfix::FILES,
                Hotfix::TOTAL
            ),
        ));
    }
    Ok(())
}
