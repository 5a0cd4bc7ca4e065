//! One file in place of another in one step.
//!
//! An engine that unpacks over a file takes that away first and writes the new one then: for a moment there is none, and then a part of one. Whoever
//! is asked for it meanwhile says that it doesn't exist. Where the engine runs on this machine and a container's files can be seen through its
//! first process, the new file is unpacked beside the old one and takes its name when it is whole.
//!
//! A container's links lead within it: paths are resolved by the kernel with the container's root as the root of all (`openat2`).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ews_core::Result;
use ews_core::runtime::ByteStream;
use futures_util::{StreamExt as _, stream};

use super::Inner;
use super::exec::mark;
use super::observe::Seen;

/// How long an archive may take to come whole; one that takes longer is unpacked as any other.
const PATIENCE: Duration = Duration::from_millis(250);
/// The largest archive that is looked at for whether it is one file.
const MAX_ARCHIVE: usize = 9 * 1024 * 1024;

/// What came of an archive.
pub(super) enum Outcome {
    /// The file is in its place, or could not be sent.
    Done(Result<()>),
    /// It is to be unpacked as any other.
    Other(ByteStream),
}

/// An archive of one file.
struct One {
    name: String,
    /// The same archive with the file under another name.
    renamed: Bytes,
    other_name: String,
}

impl Inner {
    /// Puts an archive's only file in place of one that is there, where that can be done in one step.
    pub(super) async fn replace(
        &self,
        seen: &Seen,
        path: &str,
        mut archive: ByteStream,
        operation: &'static str,
    ) -> Outcome {
        if !self.engine.config().address.is_local()
            || self.engine.facts().is_windows()
            || !seen.instance.state.is_running()
        {
            return Outcome::Other(archive);
        }
        let (mut pieces, mut bytes) = (Vec::new(), BytesMut::new());
        let until = tokio::time::Instant::now() + PATIENCE;
        let is_whole = loop {
            // A sender that takes its time is heard by the engine as it goes on.
            let Ok(piece) = tokio::time::timeout_at(until, archive.next()).await else { break false };
            let Some(piece) = piece else { break true };
            bytes.extend_from_slice(piece.as_deref().unwrap_or_default());
            let is_broken = piece.is_err();
            pieces.push(piece);
            let is_late = tokio::time::Instant::now() >= until;
            if is_broken || is_late || bytes.len() > MAX_ARCHIVE || !may_be_one(&bytes) {
                break false;
            }
        };
        let again = move || Outcome::Other(stream::iter(pieces).chain(archive).boxed());
        let Some(One { name, renamed, other_name }) = is_whole.then(|| one(&bytes, &mark())).flatten() else {
            return again();
        };
        let (container, pid) = (seen.container.clone(), seen.pid);
        let folder = path.to_owned();
        let look = tokio::task::spawn_blocking(move || {
            place::Folder::open(&container, pid, &folder)?.has_file(name)
        });
        let Ok(Some(place)) = look.await else { return again() };
        let sent = stream::once(async move { Ok(renamed) }).boxed();
        let sent = self.send_archive(&seen.container, path, sent, operation).await;
        let is_sent = sent.is_ok();
        let put = tokio::task::spawn_blocking(move || {
            if is_sent { place.take(&other_name) } else { place.clear(&other_name) }
        });
        match put.await {
            Ok(true) => Outcome::Done(Ok(())),
            // Another way may do what this one can't, such as a file that is a mount of its own.
            _ if is_sent => again(),
            _ => Outcome::Done(sent),
        }
    }
}

/// Whether an archive that begins so may be one ordinary file within the limit.
fn may_be_one(begin: &[u8]) -> bool {
    let Some(head) = begin.first_chunk::<512>() else { return true };
    let header = tar::Header::from_byte_slice(head);
    header.entry_type().is_file() && header.entry_size().is_ok_and(|size| size < MAX_ARCHIVE as u64)
}

/// The file that this archive is, where it is one ordinary file and nothing else; and the same under a name of this kind.
fn one(archive: &[u8], mark: &str) -> Option<One> {
    let mut archive = tar::Archive::new(archive);
    let mut entries = archive.entries().ok()?;
    let mut entry = entries.next()?.ok()?;
    let name = std::str::from_utf8(&entry.path_bytes()).ok()?.to_owned();
    let is_plain = entry.header().entry_type().is_file()
        && !matches!(name.as_str(), "" | "." | "..")
        && !name.contains(['/', '\0'])
        // Attributes that a header can't hold would be lost.
        && entry.pax_extensions().ok()?.is_none();
    if !is_plain {
        return None;
    }
    let other_name = format!(".ews-{mark}");
    let mut header = entry.header().clone();
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut entry, &mut content).ok()?;
    let mut builder = tar::Builder::new(Vec::with_capacity(content.len() + 2048));
    builder.append_data(&mut header, &other_name, &content[..]).ok()?;
    let renamed = builder.into_inner().ok()?.into();
    entries.next().is_none().then_some(One { name, renamed, other_name })
}

#[cfg(target_os = "linux")]
mod place {
    use std::io::Read as _;
    use std::os::fd::OwnedFd;

    use rustix::fs::{
        AtFlags, FileType, Mode, OFlags, ResolveFlags, open, openat, openat2, renameat, statat, unlinkat,
    };

    use crate::runtime::leftovers::{is_id, is_in};

    /// A directory of a container, seen from this machine.
    pub(super) struct Folder(OwnedFd);

    /// A file in it.
    pub(super) struct Place {
        folder: Folder,
        name: String,
    }

    impl Folder {
        /// `None` where that process is not this container's, or can't be looked into.
        pub(super) fn open(container: &str, pid: u32, path: &str) -> Option<Self> {
            if pid == 0 || !is_id(container) {
                return None;
            }
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
            // All is seen through this: the number may be another process's by the time of the next look.
            let process = open(format!("/proc/{pid}"), flags, Mode::empty()).ok()?;
            let groups = openat(&process, "cgroup", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
            let mut text = String::new();
            std::fs::File::from(groups).take(64 * 1024).read_to_string(&mut text).ok()?;
            if !is_in(&text, container) {
                return None;
            }
            let root = openat(&process, "root", flags | OFlags::PATH, Mode::empty()).ok()?;
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            let folder = openat2(&root, path, flags | OFlags::PATH, Mode::empty(), resolve).ok()?;
            Some(Self(folder))
        }

        /// The place of an ordinary file that is there. All else is the engine's to judge.
        pub(super) fn has_file(self, name: String) -> Option<Place> {
            let found = statat(&self.0, &name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            let is_file = FileType::from_raw_mode(found.st_mode).is_file();
            is_file.then_some(Place { folder: self, name })
        }
    }

    impl Place {
        /// Gives this place to the file of that name beside it; whether that went well. If not, that file is gone.
        pub(super) fn take(&self, other: &str) -> bool {
            let folder = &self.folder.0;
            match renameat(folder, other, folder, &self.name) {
                Ok(()) => true,
                Err(error) => {
                    tracing::debug!(%error, name = self.name, "a file can't be replaced in one step");
                    self.clear(other)
                }
            }
        }

        /// Takes what may have come of that file away. Always `false`.
        pub(super) fn clear(&self, other: &str) -> bool {
            let _ = unlinkat(&self.folder.0, other, AtFlags::empty());
            false
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod place {
    /// Containers' files are not seen from other systems.
    pub(super) enum Folder {}
    pub(super) enum Place {}

    impl Folder {
        pub(super) fn open(_: &str, _: u32, _: &str) -> Option<Self> {
            None
        }

        pub(super) fn has_file(self, _: String) -> Option<Place> {
            match self {}
        }
    }

    impl Place {
        pub(super) fn take(&self, _: &str) -> bool {
            match *self {}
        }

        pub(super) fn clear(&self, _: &str) -> bool {
            match *self {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ews_core::testkit::tar::{Entry, EntryKind, write};

    #[test]
    fn only_an_archive_of_one_ordinary_file_is_one() {
        let found = one(&write(&[Entry::file("index.html", "hello")]), "x").unwrap();
        assert_eq!((found.name.as_str(), found.other_name.as_str()), ("index.html", ".ews-x"));
        let mut archive = tar::Archive::new(&found.renamed[..]);
        let mut entries = archive.entries().unwrap();
        let entry = entries.next().unwrap().unwrap();
        assert_eq!((&*entry.path_bytes(), entry.size()), (&b".ews-x"[..], 5));
        for entries in [
            vec![],
            vec![Entry::file("a", "x"), Entry::file("b", "y")],
            vec![Entry::file("d/a", "x")],
            vec![Entry::file("../a", "x")],
            vec![Entry::special("a", EntryKind::Symlink, "b")],
        ] {
            assert!(one(&write(&entries), "x").is_none());
        }
        assert!(!may_be_one(&write(&[Entry::special("a", EntryKind::Symlink, "b")])));
        assert!(one(b"nonsense", "x").is_none());
        let cut = write(&[Entry::file("a", "x".repeat(2000))]);
        assert!(one(&cut[..1000], "x").is_none());
    }
}
