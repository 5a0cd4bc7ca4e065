//! The directory of a host: what is where in it, who may look, and its lock.
//!
//! ```text
//! data/            0700
//!   lock           held by the host that has it; says its process
//!   host.json      where it listens, while it runs
//!   api.sock       0600, the operator's API
//!   store.redb     what was asked for and what came of it
//!   gateway.redb   what the gateway serves
//!   runtime/       the process runtime's own
//!   artifacts/     what services were deployed of, by digest
//!   scratch/       uploads while they are worked on
//!   uploads/       of the intake
//!   secrets/       0700, a file for each secret
//!   logs/          the access log
//! ```

use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ews_core::{Error, ErrorKind, Result};

/// What others may not do to it: look into it, or change it. That they may pass through is for its owner to say.
const OTHERS: u32 = 0o066;

/// The directory, locked for as long as this value lives.
#[derive(Debug)]
pub(crate) struct DataDirectory {
    path: PathBuf,
    _lock: File,
}

impl DataDirectory {
    /// Makes and locks it.
    ///
    /// # Errors
    /// `Busy` where another host has it; `Unauthorized` where others may look into it or write to it; what the disk says.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| at(path, "the data directory can't be made", &error);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        own(&path)?;
        let data = Self { _lock: lock(&path)?, path };
        for name in ["artifacts", "logs", "scratch", "secrets", "uploads"] {
            let below = data.path.join(name);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&below)
                .map_err(|error| at(&below, "a directory below the data directory can't be made", &error))?;
        }
        Ok(data)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Something in it.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file whole, readable by its owner.
    pub(crate) fn write(&self, name: &str, text: &[u8]) -> Result<()> {
        let (whole, partial) = (self.at(name), self.at(&format!("{name}.new")));
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)
            .and_then(|mut file| file.write_all(text))
            .and_then(|()| std::fs::rename(&partial, &whole));
        written.map_err(|error| at(&whole, "a file of the data directory can't be written", &error))
    }

    /// Removes a file; nothing happens where there is none.
    pub(crate) fn remove(&self, name: &str) {
        let _ = std::fs::remove_file(self.at(name));
    }
}

/// Where a command of this user looks for its host: the environment's word, or the user's own place.
pub(crate) fn default_path() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/ews");
    }
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let share = of("XDG_DATA_HOME").or_else(|| of("HOME").map(|home| home.join(".local/share")));
    share.unwrap_or_else(|| PathBuf::from(".")).join("ews")
}

/// Takes only a directory that is ours alone. One that is new is made so.
fn own(path: &Path) -> Result<()> {
    let failed = |error: std::io::Error| at(path, "the data directory can't be read", &error);
    let metadata: Metadata = path.metadata().map_err(failed)?;
    if !metadata.is_dir() {
        return Err(refused(path, "it is no directory".to_owned()));
    }
    let us = rustix::process::geteuid().as_raw();
    if metadata.uid() != us {
        return Err(refused(
            path,
            format!("it belongs to user {}, and the host runs as {us}", metadata.uid()),
        ));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    if path.read_dir().map_err(failed)?.next().is_none() {
        return std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed);
    }
    let shown = path.display();
    Err(refused(
        path,
        format!("others may read or write it (mode {mode:04o}); accepted: 0700, so `chmod 700 {shown}`"),
    ))
}

fn lock(path: &Path) -> Result<File> {
    let file = path.join("lock");
    let failed = |error: std::io::Error| at(&file, "the lock of the data directory can't be opened", &error);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut lock = options.open(&file).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = (&lock).take(32).read_to_string(&mut holder);
            let holder = holder.trim();
            let who = if holder.is_empty() { String::new() } else { format!(" (process {holder})") };
            let message = format!(
                "another host{who} has the data directory {}; end it first, or name another one with `--data`",
                path.display()
            );
            return Err(Error::new(ErrorKind::Busy, message));
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    // Only for the message above: a disk that is full keeps nobody from taking over what runs.
    let _ = lock
        .set_len(0)
        .and_then(|()| lock.rewind())
        .and_then(|()| lock.write_all(std::process::id().to_string().as_bytes()));
    Ok(lock)
}

fn refused(path: &Path, why: String) -> Error {
    Error::new(ErrorKind::Unauthorized, format!("the data directory {} can't be used: {why}", path.display()))
}

fn at(path: &Path, what: &str, error: &std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::PermissionDenied => ErrorKind::Unauthorized,
        std::io::ErrorKind::StorageFull => ErrorKind::OutOfResources,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("{what}: {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_its_owners_alone_and_one_hosts_at_a_time() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("a/b");
        let first = DataDirectory::open(&path).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o7777;
        assert_eq!((mode(&path), mode(&path.join("secrets"))), (0o700, 0o700));
        let second = DataDirectory::open(&path).unwrap_err();
        assert_eq!(second.kind(), ErrorKind::Busy);
        assert!(second.message().contains(&format!("process {}", std::process::id())), "{second}");
        drop(first);
        DataDirectory::open(&path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o750)).unwrap();
        let open = DataDirectory::open(&path).unwrap_err();
        assert!(open.message().contains("chmod 700"), "{open}");
        // An empty one that somebody made in the usual way becomes ours alone.
        let made = top.path().join("made");
        std::fs::create_dir(&made).unwrap();
        DataDirectory::open(&made).unwrap();
        assert_eq!(mode(&made), 0o700);
    }
}
