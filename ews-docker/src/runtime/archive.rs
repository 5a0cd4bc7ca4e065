//! Archives into and out of containers, and the files of a spec.
//!
//! An engine unpacks whatever it is sent. So an archive is read on its way: a header is passed on only once its entry was found harmless,
//! and the first that is not ends the call. Memory holds one header and one piece, whatever the archive's size.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::io::{self, Read};
use std::rc::Rc;

use bytes::{Buf as _, Bytes};
use ews_core::runtime::ByteStream;
use ews_core::spec::content::FileContent;
use ews_core::spec::storage::MountKind;
use ews_core::{Error, ErrorKind, InstanceId, InstanceSpec, Result};
use futures_util::{StreamExt as _, stream};
use hyper::Method;
use tar::EntryType;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::Inner;
use super::replace::Outcome;
use crate::client::{Call, Subject, flowing};

/// How many pieces wait between the sides.
const PIECES: usize = 4;
/// How long the verdict on an archive may take once the engine has answered.
const VERDICT: std::time::Duration = std::time::Duration::from_secs(1);
/// The size of a piece.
const PIECE: usize = 64 * 1024;
/// The most that an entry's head may take, long names included.
const MAX_HEAD: usize = 256 * 1024;
/// The most symbolic links that one archive may hold: each is remembered.
const MAX_LINKS: usize = 100_000;

impl Inner {
    pub(super) async fn put_archive(&self, id: &InstanceId, path: &str, archive: ByteStream) -> Result<()> {
        const OPERATION: &str = "runtime.put_archive";
        let (seen, _) = self.find(id, OPERATION).await?;
        let archive = match self.replace(&seen, path, archive, OPERATION).await {
            Outcome::Other(archive) => archive,
            Outcome::Done(done) => {
                return done.map_err(|error| error.with_context("instance", id).with_context("path", path));
            }
        };
        let (checked, verdict, sender) = check(archive);
        let sent = self.send_archive(&seen.container, path, checked, OPERATION).await;
        // What was wrong with the archive explains why the engine found it cut off. Where the engine ended the call by itself, a sender
        // that says nothing more is not waited for.
        let verdict = match &sent {
            Ok(()) => verdict.await.ok(),
            Err(_) => tokio::time::timeout(VERDICT, verdict).await.ok().and_then(std::result::Result::ok),
        };
        sender.abort();
        let outcome = match verdict {
            Some(Err(error)) if error.kind() != ErrorKind::Cancelled => Err(error),
            _ => sent,
        };
        outcome.map_err(|error| {
            error.with_operation(OPERATION).with_context("instance", id).with_context("path", path)
        })
    }

    pub(super) async fn send_archive(
        &self,
        container: &str,
        path: &str,
        archive: ByteStream,
        operation: &'static str,
    ) -> Result<()> {
        let call = Call::new(Method::PUT, operation, Subject::Path, &["containers", container, "archive"])
            .query("path", path)
            .body("application/x-tar", flowing(archive))
            // It takes as long as the archive flows; a sender that stops is its own caller's affair.
            .within(self.engine.config().idle_limit.max(self.engine.config().work_limit) * 12);
        self.engine.unit(call).await
    }

    pub(super) async fn get_archive(&self, id: &InstanceId, path: &str) -> Result<ByteStream> {
        const OPERATION: &str = "runtime.get_archive";
        let (seen, _) = self.find(id, OPERATION).await?;
        let archive = self.archive_of(&seen.container, path, OPERATION).await;
        archive.map_err(|error| error.with_context("instance", id).with_context("path", path))
    }

    pub(super) async fn archive_of(
        &self,
        container: &str,
        path: &str,
        operation: &'static str,
    ) -> Result<ByteStream> {
        let call =
            Call::get(operation, Subject::Path, &["containers", container, "archive"]).query("path", path);
        self.engine.flow(call, Some(self.engine.config().idle_limit)).await.map(|(_, stream)| stream)
    }

    /// Puts a spec's files that are no secrets into a container that was not started yet, and what its memory is mounted on.
    pub(super) async fn place_files(&self, spec: &InstanceSpec, container: &str) -> Result<()> {
        const OPERATION: &str = "runtime.create";
        let mut parents = BTreeSet::new();
        let mut files = Vec::new();
        for file in &spec.files {
            let FileContent::Content(content) = &file.content else { continue };
            if let Some(mount) = spec.mounts.iter().find(|mount| beneath(&file.path, &mount.target)) {
                // A volume can be written before the start; memory can't, and a path of the node is not ours to write.
                if !matches!(mount.kind, MountKind::Volume(_)) {
                    return Err(Error::invalid("a file can't be placed beneath a mount other than a volume")
                        .with_context("file", &file.path)
                        .with_context("mount", &mount.target));
                }
            } else if spec.security.read_only_root {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "a file can't be placed in a read-only file system; put it into the image, a volume, or a secret",
                )
                .with_context("file", &file.path));
            }
            let name = file.path.trim_start_matches('/').replace('\\', "/");
            let name = name.split_once(":/").map_or(name.clone(), |(_, rest)| rest.to_owned());
            parents
                .extend(name.match_indices('/').map(|(at, _)| name.get(..at).unwrap_or_default().to_owned()));
            files.push((name, content, file.mode.bits()));
        }
        // Memory is mounted with the mode of the directory beneath, which runc makes as root's own where the image has none. So it is made
        // here, for everybody, as the engine was asked to mount it. In a read-only file system that can't be done.
        let memory = spec.mounts.iter().filter(|mount| matches!(mount.kind, MountKind::Tmpfs(_)));
        let memory: BTreeSet<String> = memory
            .map(|mount| mount.target.trim_matches('/').to_owned())
            .filter(|_| !spec.security.read_only_root)
            .collect();
        for name in &memory {
            parents
                .extend(name.match_indices('/').map(|(at, _)| name.get(..at).unwrap_or_default().to_owned()));
        }
        parents.extend(memory.iter().cloned());
        if parents.is_empty() && files.is_empty() {
            return Ok(());
        }
        let root = if self.engine.facts().is_windows() { "C:\\" } else { "/" };
        let mut archive = tar::Builder::new(Vec::new());
        let mut any = false;
        for parent in parents {
            // The engine makes missing directories such that only root can pass; those that exist must stay as they are.
            let call =
                Call::new(Method::HEAD, OPERATION, Subject::Path, &["containers", container, "archive"])
                    .query("path", &format!("{root}{parent}"));
            match self.engine.unit(call).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let mode = if memory.contains(&parent) { 0o1777 } else { 0o755 };
                    append(&mut archive, &format!("{parent}/"), EntryType::Directory, mode, b"")?;
                    any = true;
                }
                Err(error) => return Err(error),
            }
        }
        if !any && files.is_empty() {
            return Ok(());
        }
        for (name, content, mode) in files {
            append(&mut archive, &name, EntryType::Regular, u32::from(mode), content.as_bytes())?;
        }
        let bytes = archive.into_inner().map_err(|error| unwritten(&error))?;
        let stream = stream::once(async move { Ok(Bytes::from(bytes)) }).boxed();
        self.send_archive(container, root, stream, OPERATION).await
    }
}

fn beneath(path: &str, directory: &str) -> bool {
    let rest = path.strip_prefix(directory.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '\\']))
}

fn unwritten(error: &io::Error) -> Error {
    Error::invalid("a file of the spec can't be put into an archive").with_detail(error.to_string())
}

fn append(
    archive: &mut tar::Builder<Vec<u8>>,
    name: &str,
    kind: EntryType,
    mode: u32,
    content: &[u8],
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    let appended = archive.append_data(&mut header, name, content);
    appended.map_err(|error| unwritten(&error).with_context("file", name))
}

/// The content of an archive's first file, where it is text.
pub(super) fn first_file(archive: &[u8]) -> Option<String> {
    let mut archive = tar::Archive::new(archive);
    let mut entry = archive.entries().ok()?.next()?.ok()?;
    let mut text = String::new();
    entry.read_to_string(&mut text).ok()?;
    Some(text)
}

/// Reads an archive on its way: gives the bytes that were found harmless, and in the end what was found.
fn check(mut archive: ByteStream) -> (ByteStream, tokio::task::JoinHandle<Result<()>>, AbortHandle) {
    let (pieces, incoming) = mpsc::channel::<Result<Bytes>>(PIECES);
    let (outgoing, checked) = mpsc::channel::<io::Result<Bytes>>(PIECES);
    let sender = tokio::spawn(async move {
        while let Some(piece) = archive.next().await {
            let failed = piece.is_err();
            if pieces.send(piece).await.is_err() || failed {
                break;
            }
        }
    });
    let verdict = tokio::task::spawn_blocking(move || {
        let tee = Rc::new(RefCell::new(Tee { held: Vec::new(), out: outgoing, sent: false, failed: None }));
        let source = Incoming { pieces: incoming, rest: Bytes::new(), tee: Rc::clone(&tee) };
        let outcome = read(source, &tee);
        let mut tee = tee.borrow_mut();
        let outcome = match tee.failed.take() {
            Some(error) => Err(error),
            None => outcome.and_then(|()| tee.pass()),
        };
        if outcome.is_err() {
            // Breaks the request off, so that the engine does not take what came for the whole.
            let _ = tee.out.blocking_send(Err(io::Error::other("the archive was refused")));
        }
        outcome.map_err(|error| if tee.sent { error.with_maybe_applied() } else { error })
    });
    let stream = stream::unfold(checked, async |mut checked| {
        let piece = checked.recv().await?;
        let piece = piece.map_err(|error| Error::invalid("the archive was refused").with_source(error));
        Some((piece, checked))
    });
    (stream.boxed(), verdict, sender.abort_handle())
}

/// What was read of the archive and not yet passed on.
struct Tee {
    held: Vec<u8>,
    out: mpsc::Sender<io::Result<Bytes>>,
    sent: bool,
    /// The sender's own error.
    failed: Option<Error>,
}

impl Tee {
    fn pass(&mut self) -> Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        self.sent = true;
        let piece = Bytes::from(std::mem::take(&mut self.held));
        // Nobody takes it any more: the engine has answered, and its answer counts.
        self.out
            .blocking_send(Ok(piece))
            .map_err(|_| Error::new(ErrorKind::Cancelled, "the engine stopped taking the archive"))
    }
}

struct Incoming {
    pieces: mpsc::Receiver<Result<Bytes>>,
    rest: Bytes,
    tee: Rc<RefCell<Tee>>,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.blocking_recv() {
                Some(Ok(piece)) => self.rest = piece,
                Some(Err(error)) => {
                    self.tee.borrow_mut().failed = Some(error);
                    return Err(io::Error::other("the sender failed"));
                }
                None => return Ok(0),
            }
        }
        let count = self.rest.len().min(buffer.len());
        let (now, _) = self.rest.split_at(count);
        let (into, _) = buffer.split_at_mut(count);
        into.copy_from_slice(now);
        let mut tee = self.tee.borrow_mut();
        if tee.held.len() + count > MAX_HEAD + PIECE {
            return Err(io::Error::other("an entry's name or attributes are longer than 256 KiB"));
        }
        tee.held.extend_from_slice(now);
        self.rest.advance(count);
        Ok(count)
    }
}

fn read(source: Incoming, tee: &RefCell<Tee>) -> Result<()> {
    let no_archive = |error: io::Error| {
        Error::invalid("what was sent is no tar archive, or one that is damaged")
            .with_detail(error.to_string())
    };
    let mut archive = tar::Archive::new(source);
    let mut links = HashSet::new();
    for entry in archive.entries().map_err(no_archive)? {
        let mut entry = entry.map_err(no_archive)?;
        let name = entry.path_bytes().into_owned();
        let link = entry.link_name_bytes().map(std::borrow::Cow::into_owned);
        harmless(&name, entry.header().entry_type(), link.as_deref(), &mut links)?;
        tee.borrow_mut().pass()?;
        let mut buffer = vec![0; PIECE];
        while entry.read(&mut buffer).map_err(no_archive)? > 0 {
            tee.borrow_mut().pass()?;
        }
    }
    Ok(())
}

/// Refuses an entry that leads out of the directory it is unpacked into, or is no file, directory or link.
fn harmless(
    name: &[u8],
    kind: EntryType,
    link: Option<&[u8]>,
    links: &mut HashSet<Vec<Vec<u8>>>,
) -> Result<()> {
    let refused = |fault: &str| {
        let shown: String = String::from_utf8_lossy(name).chars().take(100).collect();
        Err(Error::invalid(format!("the archive's entry `{}` is refused: {fault}", shown.escape_debug())))
    };
    let Some(parts) = steps(name) else {
        return refused("its name is absolute, or leads out of the directory");
    };
    let through = (1..parts.len()).filter_map(|count| parts.get(..count)).any(|front| links.contains(front));
    if through {
        return refused("its name leads through a symbolic link of the same archive");
    }
    match (kind, link) {
        (EntryType::Regular | EntryType::Continuous | EntryType::Directory | EntryType::GNUSparse, _) => {
            links.remove(&parts);
        }
        (EntryType::Link, Some(link)) => {
            let Some(to) = steps(link) else {
                return refused("it is a hard link that leads out of the directory");
            };
            if (1..=to.len()).filter_map(|count| to.get(..count)).any(|front| links.contains(front)) {
                return refused("it is a hard link to, or through, a symbolic link");
            }
        }
        (EntryType::Symlink, Some(link)) => {
            let up = link
                .split(|byte| *byte == b'/')
                .filter(|part| *part != b".")
                .take_while(|part| *part == b"..")
                .count();
            let later = link
                .split(|byte| *byte == b'/')
                .filter(|part| *part != b".")
                .skip(up)
                .any(|part| part == b"..");
            if link.first() == Some(&b'/') || link.is_empty() || later || up > parts.len().saturating_sub(1) {
                return refused("it is a symbolic link that leads out of the directory, or may");
            }
            if links.len() >= MAX_LINKS {
                return refused("it is one symbolic link more than the 100000 that an archive may hold");
            }
            links.insert(parts);
        }
        (EntryType::XGlobalHeader, _) => {}
        _ => return refused("it is a device, a pipe or something else that is no file, directory or link"),
    }
    Ok(())
}

/// The steps of a relative name; `None` where it is absolute or goes up. The directory itself has none.
fn steps(name: &[u8]) -> Option<Vec<Vec<u8>>> {
    if name.first() == Some(&b'/') || name.contains(&0) || name.is_empty() {
        return None;
    }
    let mut steps = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return None,
            // A drive, to an engine on Windows.
            _ if steps.is_empty() && part.get(1) == Some(&b':') => return None,
            _ => steps.push(part.to_vec()),
        }
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ews_core::testkit::tar::{Entry, EntryKind, write};
    use proptest::prelude::*;

    async fn passes(archive: Vec<u8>, cut: usize) -> Result<Vec<u8>> {
        let pieces: Vec<_> = archive.chunks(cut).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let (mut checked, verdict, _) = check(stream::iter(pieces).boxed());
        let mut out = Vec::new();
        while let Some(Ok(piece)) = checked.next().await {
            out.extend_from_slice(&piece);
        }
        verdict.await.unwrap()?;
        Ok(out)
    }

    #[tokio::test]
    async fn a_good_archive_passes_as_it_is() {
        let long = format!("{}/{}", "d".repeat(90), "f".repeat(120));
        let entries = [
            Entry::file("a/b", vec![7; 200_000]),
            Entry::file(&long, "x"),
            Entry::special("a/link", EntryKind::Symlink, "b"),
            Entry::special("a/up", EntryKind::Symlink, "../a/b"),
            Entry::special("hard", EntryKind::Link, "a/b"),
        ];
        let archive = write(&entries);
        let out = passes(archive.clone(), 300).await.unwrap();
        assert!(archive.starts_with(&out) && archive[out.len()..].iter().all(|byte| *byte == 0));
        assert_eq!(passes(Vec::new(), 1).await.unwrap(), Vec::<u8>::new());
    }

    #[tokio::test]
    async fn what_leads_out_is_refused_and_never_passed_on() {
        let link = |target: &str| Entry::special("d/e/l", EntryKind::Symlink, target);
        for entries in [
            vec![Entry::file("../x", "x")],
            vec![Entry::file("/x", "x")],
            vec![Entry::file("C:/x", "x")],
            vec![link("../../..")],
            vec![link("a/../../../..")],
            vec![link("/etc")],
            // A link that stays inside, and one through it that does not.
            vec![link("../.."), Entry::special("m", EntryKind::Symlink, "d/e/l/..")],
            vec![link("../.."), Entry::file("d/e/l/x", "x")],
            vec![link("../.."), Entry::special("h", EntryKind::Link, "d/e/l/x")],
            vec![Entry::special("fifo", EntryKind::Special, "")],
        ] {
            let bad = entries.last().unwrap().name.clone();
            let pieces = vec![Ok(Bytes::from(write(&entries)))];
            let (mut checked, verdict, _) = check(stream::iter(pieces).boxed());
            let mut passed = Vec::new();
            while let Some(Ok(piece)) = checked.next().await {
                passed.extend_from_slice(&piece);
            }
            assert_eq!(verdict.await.unwrap().unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
            assert_eq!(passed.len(), (entries.len() - 1) * 512, "{bad}: the header was passed on");
        }
    }

    #[tokio::test]
    async fn a_senders_error_is_the_calls() {
        let broken = Error::new(ErrorKind::Unavailable, "the disk is gone");
        let (mut checked, verdict, _) = check(stream::iter([Err(broken)]).boxed());
        while checked.next().await.is_some_and(|piece| piece.is_ok()) {}
        assert!(verdict.await.unwrap().unwrap_err().message().contains("disk"));
    }

    #[tokio::test]
    async fn a_name_without_end_is_refused() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 30);
        header.set_cksum();
        let mut archive = header.as_bytes().to_vec();
        archive.resize(1 << 20, b'a');
        assert_eq!(passes(archive, 1000).await.unwrap_err().kind(), ErrorKind::Invalid);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn nothing_makes_it_panic(mut archive in prop::collection::vec(any::<u8>(), 0..2_000), header in any::<bool>()) {
            if header {
                let mut good = write(&[Entry::file("a", "x")]);
                let at = archive.first().map_or(0, |byte| usize::from(*byte));
                good[at] ^= 1;
                archive = good;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(passes(archive, 333));
        }
    }
}
