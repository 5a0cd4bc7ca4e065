//! Secret files, laid in memory of the engine's machine and mounted into containers.
//!
//! Nothing of an engine's API puts a file into memory: archives go to the container's disk, where a commit would find them. So the files
//! lie in a directory on tmpfs that only root may enter, one folder for each container, and are mounted read-only, each at its path. What
//! is written down with the container is which secret belongs where, never its value: after a reboot, when memory is empty, a start lays
//! them anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ews_core::secrets::SecretValue;
use ews_core::spec::content::SecretRef;
use ews_core::{Error, ErrorKind, InstanceId, InstanceSpec, Result, Selector};
use futures_util::StreamExt as _;

use super::labels::{self, MemoryFiles};
use super::observe::Seen;
use super::{Inner, archive};
use crate::client::Facts;
use crate::client::models::Inspected;
use crate::config::DockerConfig;

/// Where they lie by default.
const DEFAULT: &str = "/run/ews-docker";
/// What no container mounts is left alone for this long: somebody may be about to create it.
const GRACE: Duration = Duration::from_secs(600);
/// The longest `/etc/passwd` or `/etc/group` of an image that is read.
const MAX_PASSWD: usize = 1024 * 1024;

/// The driver's directory in memory.
#[derive(Debug, Clone)]
pub(crate) struct MemoryDirectory(PathBuf);

/// Files that were laid for a container that does not exist yet.
#[derive(Debug, Clone)]
pub(crate) struct Laid {
    pub(crate) files: MemoryFiles,
    /// Source on the node, target in the instance.
    pub(crate) mounts: Vec<(String, String)>,
}

impl MemoryDirectory {
    /// The directory that the configuration names, which must be in memory; else the default, where it can be had.
    pub(crate) async fn of(config: &DockerConfig, facts: &Facts) -> Result<Option<Self>> {
        let (directory, named) = match &config.secrets_directory {
            Some(directory) => (directory.clone(), true),
            None if config.address.is_local() && !facts.is_windows() && cfg!(unix) => {
                (PathBuf::from(DEFAULT), false)
            }
            None => return Ok(None),
        };
        let made = {
            let directory = directory.clone();
            tokio::task::spawn_blocking(move || make_private(&directory)).await
        };
        match made.map_err(|error| Error::internal("a thread failed").with_source(error))? {
            Ok(()) => Ok(Some(Self(directory))),
            Err(error) if named => Err(error.with_context("secrets_directory", directory.display())),
            Err(error) => {
                tracing::debug!(%error, "no directory in memory for secret files; specs that have some are refused");
                Ok(None)
            }
        }
    }
}

impl Inner {
    /// What tells this engine's files in memory from those of another on the same machine.
    fn mark(&self) -> String {
        ews_core::Digest::of(self.engine.facts().info.id.as_bytes()).short()
    }

    /// What a reference stands for now.
    pub(super) async fn resolve(&self, secret: &SecretRef) -> Result<SecretValue> {
        let Some(secrets) = &self.secrets else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the spec names a secret, and this runtime was given no way to resolve one; build it with `with_secrets`",
            )
            .with_context("secret", secret));
        };
        secrets.resolve(secret).await.map_err(|error| error.with_context("secret", secret))
    }

    /// Lays a spec's secret files, owned by root so far.
    pub(super) async fn lay_memory(&self, id: &InstanceId, spec: &InstanceSpec) -> Result<Option<Laid>> {
        let secrets = labels::secret_files(spec);
        if secrets.is_empty() {
            return Ok(None);
        }
        let Some(MemoryDirectory(directory)) = &self.memory else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "secret files need a directory in memory that this process shares with the engine's machine; set `secrets_directory`, or \
                 give the secret through the environment",
            )
            .with_context("field", "files"));
        };
        let unique =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let files = MemoryFiles { directory: format!("{id}.{}.{unique:x}", self.mark()), secrets };
        self.write_memory(&files).await?;
        let folder = directory.join(&files.directory);
        let mounts = files.secrets.keys().filter_map(|index| {
            let target = spec.files.get(*index)?.path.clone();
            Some((folder.join(index.to_string()).to_str()?.to_owned(), target))
        });
        let mounts = mounts.collect();
        Ok(Some(Laid { files, mounts }))
    }

    /// Resolves and writes the files that are missing.
    async fn write_memory(&self, files: &MemoryFiles) -> Result<()> {
        let Some(MemoryDirectory(directory)) = &self.memory else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the instance has secret files in memory, and this process does not share that memory with the engine",
            ));
        };
        let mut values = BTreeMap::new();
        for (index, file) in &files.secrets {
            values.insert(*index, (self.resolve(&file.secret).await?, file.mode.bits()));
        }
        let folder = directory.join(checked(&files.directory)?);
        let written = tokio::task::spawn_blocking(move || write_files(&folder, &values)).await;
        written.map_err(|error| Error::internal("a thread failed").with_source(error))?
    }

    /// Gives the files to the user that the container runs as.
    pub(super) async fn give_memory(&self, files: &MemoryFiles, container: &Inspected) -> Result<()> {
        let Some(MemoryDirectory(directory)) = &self.memory else { return Ok(()) };
        let (user, group) = self.user_of(container).await?;
        if (user, group) == (0, 0) {
            return Ok(());
        }
        let folder = directory.join(checked(&files.directory)?);
        let paths: Vec<PathBuf> = files.secrets.keys().map(|index| folder.join(index.to_string())).collect();
        let given =
            tokio::task::spawn_blocking(move || paths.iter().try_for_each(|path| give(path, user, group)))
                .await;
        given.map_err(|error| Error::internal("a thread failed").with_source(error))?
    }

    /// Before a start: memory is empty after a reboot.
    pub(super) async fn restore_memory(&self, seen: &Seen, container: &Inspected) -> Result<()> {
        let Some(files) = &seen.known.files else { return Ok(()) };
        let whole = self.memory.as_ref().is_some_and(|MemoryDirectory(directory)| {
            let folder = directory.join(&files.directory);
            files.secrets.keys().all(|index| folder.join(index.to_string()).exists())
        });
        if whole {
            return Ok(());
        }
        self.write_memory(files).await?;
        self.give_memory(files, container).await
    }

    /// Removes a container's files.
    pub(super) async fn forget_memory(&self, name: &str) {
        let (Some(MemoryDirectory(directory)), Ok(name)) = (&self.memory, checked(name)) else { return };
        let folder = directory.join(name);
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(folder)).await;
        if let Ok(Err(error)) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "secret files in memory could not be removed");
        }
    }

    /// Removes what no container mounts: a controller that was killed between laying files and creating their container left it.
    pub(super) async fn sweep_memory(self: &Arc<Self>) {
        let Some(MemoryDirectory(directory)) = self.memory.clone() else { return };
        let old = tokio::task::spawn_blocking(move || folders_older_than(&directory, GRACE))
            .await
            .unwrap_or_default();
        if old.is_empty() {
            return;
        }
        let Ok(outlines) = self.outlines(&Selector::everything(), "docker.sweep").await else { return };
        for folder in old {
            // Another engine of this machine may lay its files here too, and its containers are not ours to miss.
            let own = folder.rsplit_once('.').and_then(|(front, _)| front.rsplit_once('.'));
            let Some((of, _)) = own.filter(|(_, mark)| *mark == self.mark()) else { continue };
            // Only what has our form, and whose container is not there at all.
            if InstanceId::new(of).is_ok() && !outlines.iter().any(|(_, outline)| outline.id.as_str() == of) {
                self.forget_memory(&folder).await;
            }
        }
    }

    /// The user and group that a container's program runs as, by the image's own lists where they are named.
    async fn user_of(&self, container: &Inspected) -> Result<(u32, u32)> {
        let wanted = container.config.user.as_str();
        let (user, group) =
            wanted.split_once(':').map_or((wanted, None), |(user, group)| (user, Some(group)));
        if matches!(user, "" | "0" | "root") && matches!(group, None | Some("0" | "root")) {
            return Ok((0, 0));
        }
        let passwd = self.read_small(&container.id, "/etc/passwd").await?.unwrap_or_default();
        let groups = self.read_small(&container.id, "/etc/group").await?.unwrap_or_default();
        Ok(resolve_user(user, group, &passwd, &groups))
    }

    /// A small text file of a container, which need not run.
    async fn read_small(&self, container: &str, path: &str) -> Result<Option<String>> {
        let stream = match self.archive_of(container, path, "runtime.create").await {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut stream = stream;
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece?);
            if bytes.len() > MAX_PASSWD {
                return Ok(None);
            }
        }
        Ok(archive::first_file(&bytes))
    }
}

/// A folder's name, which was read from a label: one step, and never upwards.
fn checked(name: &str) -> Result<&str> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > 255 || matches!(name, "." | "..") || !name.chars().all(good) {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "the label that names an instance's files in memory is not what we write",
        ));
    }
    Ok(name)
}

fn resolve_user(user: &str, group: Option<&str>, passwd: &str, groups: &str) -> (u32, u32) {
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let entry = passwd.lines().map(fields).find(|entry| {
        entry.first().is_some_and(|name| name == user) || entry.get(2).is_some_and(|id| id == user)
    });
    let id = |entry: &Vec<String>, field: usize| entry.get(field).and_then(|id| id.parse().ok());
    let uid = user.parse().ok().or_else(|| entry.as_ref().and_then(|entry| id(entry, 2))).unwrap_or(0);
    let gid = match group {
        Some(group) => group.parse().ok().or_else(|| {
            let entry =
                groups.lines().map(fields).find(|entry| entry.first().is_some_and(|name| name == group))?;
            id(&entry, 2)
        }),
        None => entry.as_ref().and_then(|entry| id(entry, 3)),
    };
    (uid, gid.unwrap_or(0))
}

fn folders_older_than(directory: &Path, age: Duration) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let old = |entry: &std::fs::DirEntry| {
        let changed = entry.metadata().and_then(|meta| meta.modified()).ok();
        changed.and_then(|at| at.elapsed().ok()).is_some_and(|elapsed| elapsed > age)
    };
    entries.flatten().filter(old).filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(unix)]
fn make_private(directory: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
    let fault = |error: std::io::Error| {
        Error::new(ErrorKind::Unauthorized, "the directory for secret files can't be had").with_source(error)
    };
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(fault(error)),
    }
    let meta = std::fs::symlink_metadata(directory).map_err(fault)?;
    let ours = meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o077 == 0;
    if !ours {
        return Err(Error::invalid(
            "the directory for secret files must be a directory of this user that nobody else may enter (mode 0700)",
        ));
    }
    // The magic numbers of tmpfs and ramfs in Linux's own header.
    let kind = rustix::fs::statfs(directory).map_err(|error| fault(error.into()))?.f_type;
    #[allow(clippy::unnecessary_cast, reason = "its type differs between architectures")]
    let kind = kind as u64 & 0xffff_ffff;
    if !matches!(kind, 0x0102_1994 | 0x8584_58f6) {
        return Err(Error::invalid(
            "the directory for secret files must lie in memory (tmpfs), such as /run or /dev/shm",
        ));
    }
    Ok(())
}

#[cfg(not(unix))]
fn make_private(_: &Path) -> Result<()> {
    Err(Error::new(ErrorKind::Unsupported, "secret files in memory are Linux's"))
}

#[cfg(unix)]
fn write_files(folder: &Path, values: &BTreeMap<usize, (SecretValue, u16)>) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
    let fault = |error: std::io::Error| {
        let kind = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::OutOfResources,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, "secret files can't be laid in memory").with_source(error)
    };
    std::fs::DirBuilder::new().mode(0o700).recursive(true).create(folder).map_err(fault)?;
    for (index, (value, mode)) in values {
        let path = folder.join(index.to_string());
        if path.exists() {
            continue;
        }
        // Under another name first, so that a file which is there is whole.
        let new = folder.join(format!("{index}.new"));
        let _ = std::fs::remove_file(&new);
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(fault)?;
        file.write_all(value.expose()).map_err(fault)?;
        file.set_permissions(std::fs::Permissions::from_mode(u32::from(*mode))).map_err(fault)?;
        std::fs::rename(&new, &path).map_err(fault)?;
    }
    Ok(())
}

#[cfg(not(unix))]
fn write_files(_: &Path, _: &BTreeMap<usize, (SecretValue, u16)>) -> Result<()> {
    Err(Error::new(ErrorKind::Unsupported, "secret files in memory are Linux's"))
}

#[cfg(unix)]
fn give(path: &Path, user: u32, group: u32) -> Result<()> {
    std::os::unix::fs::chown(path, Some(user), Some(group)).map_err(|error| {
        Error::new(
            ErrorKind::Unauthorized,
            "a secret file can't be given to the user that the instance runs as; it takes root",
        )
        .with_source(error)
    })
}

#[cfg(not(unix))]
fn give(_: &Path, _: u32, _: u32) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_as_the_engine_finds_them() {
        let passwd = "root:x:0:0::/:/bin/sh\nweb:x:1000:1001::/:/bin/sh\n";
        let groups = "staff:x:50:\n";
        for (user, group, wanted) in [
            ("web", None, (1000, 1001)),
            ("1000", None, (1000, 1001)),
            ("1234", None, (1234, 0)),
            ("web", Some("staff"), (1000, 50)),
            ("7", Some("8"), (7, 8)),
            ("nobody-knows", None, (0, 0)),
        ] {
            assert_eq!(resolve_user(user, group, passwd, groups), wanted, "{user}");
        }
    }

    #[test]
    fn a_label_leads_nowhere_else() {
        for name in ["", "..", "a/b", "../x", "a\0"] {
            assert!(checked(name).is_err(), "{name:?}");
        }
        assert!(checked("ews_a_b_r1_0_0.17f").is_ok());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn only_a_private_directory_in_memory_will_do() {
        let disk = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let error = make_private(&disk.path().join("x")).unwrap_err();
        assert!(error.message().contains("tmpfs"), "{error}");
        let Ok(memory) = tempfile::tempdir_in("/dev/shm") else { return };
        make_private(&memory.path().join("x")).unwrap();
        let open = memory.path().join("open");
        std::fs::create_dir(&open).unwrap();
        assert!(make_private(&open).unwrap_err().message().contains("0700"));
    }
}
