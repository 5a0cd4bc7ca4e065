//! Uploads: resumable, checked by digest, bounded, and gone when their time is over.
//!
//! Each has an id that is drawn here, and files of that name: `{id}.meta` says what it is, `{id}.part` holds what has arrived,
//! `{id}.whole` all of it. No word of a client's is ever a part of a file's name. What is said at the begin (its size) counts
//! against the bounds at once, so that no disk fills up before somebody notices. A crash leaves files that the next intake takes
//! up again, or removes when their time is over. One writer at a time: the file is written by a task of its own, which holds the
//! upload until it has ended, whoever gave up waiting for it.
//!
//! `disk` reads and writes the files.

mod disk;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use ews_core::{Clock, Digest, Error, ErrorKind, Result, Timestamp};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex as Turn, OwnedMutexGuard, mpsc};
use tokio::time::timeout;

use super::config::IntakeLimits;
use disk::{Disk, Piece};

/// An upload as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Seen {
    pub(super) id: String,
    pub(super) size: u64,
    pub(super) digest: Digest,
    /// How many bytes have arrived.
    pub(super) offset: u64,
    pub(super) complete: bool,
    pub(super) expires_at: Timestamp,
}

/// What is written down of an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    token: String,
    size: u64,
    digest: Digest,
    expires_at: Timestamp,
}

struct Entry {
    meta: Mutex<Meta>,
    /// Whose turn it is to write.
    turn: Arc<Turn<Turned>>,
    complete: std::sync::atomic::AtomicBool,
}

/// What only the writer knows.
#[derive(Debug, Default)]
struct Turned {
    /// Bytes from here on came with a digest that was not met, or not yet.
    unchecked: Option<u64>,
    gone: bool,
}

impl Entry {
    fn new(meta: Meta, complete: bool) -> Self {
        Self { meta: Mutex::new(meta), turn: Arc::default(), complete: complete.into() }
    }

    fn meta(&self) -> Meta {
        self.meta.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_complete(&self) -> bool {
        self.complete.load(std::sync::atomic::Ordering::SeqCst)
    }
}

pub(super) struct Uploads {
    disk: Disk,
    limits: IntakeLimits,
    clock: Arc<dyn Clock>,
    kept: Mutex<BTreeMap<String, Arc<Entry>>>,
}

/// How a piece is written.
pub(super) struct Chunk {
    /// Where it begins.
    pub(super) offset: u64,
    /// How long it is, where that was said.
    pub(super) length: Option<u64>,
    /// What it holds, where that was said.
    pub(super) digest: Option<Digest>,
}

/// Why an upload was not completed, in terms of its status.
#[derive(Debug)]
pub(super) enum Refused {
    /// What arrived is not what was announced; it is gone.
    Mismatch(Error),
    Other(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Uploads {
    /// Takes up what an earlier one left.
    pub(super) fn open(dir: PathBuf, limits: IntakeLimits, clock: Arc<dyn Clock>) -> Result<Self> {
        let disk = Disk::open(dir)?;
        let mut kept = BTreeMap::new();
        for (id, found) in disk.scan::<Meta>()? {
            let Some((meta, has)) = found else {
                disk.remove(&id);
                continue;
            };
            match (has.part, has.whole) {
                (_, Some(length)) if length == meta.size => {
                    kept.insert(id, Arc::new(Entry::new(meta, true)));
                }
                (Some(length), None) if length <= meta.size => {
                    kept.insert(id, Arc::new(Entry::new(meta, false)));
                }
                _ => disk.remove(&id),
            }
        }
        Ok(Self { disk, limits, clock, kept: Mutex::new(kept) })
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Entry>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token's upload. Another's is not there.
    fn entry(&self, id: &str, token: &str) -> Result<Arc<Entry>> {
        let now = self.clock.now();
        let entry = self.kept().get(id).cloned();
        entry
            .filter(|entry| {
                let meta = entry.meta();
                meta.token == token && meta.expires_at > now
            })
            .ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "there is no such upload of this token, or it has expired")
            })
    }

    /// Begins one. The same token's whole upload of the same content is given again.
    pub(super) async fn begin(&self, token: &str, size: u64, digest: Digest) -> Result<(Seen, bool)> {
        if let Some(id) = self.find(&digest, Some(token)) {
            return Ok((self.see(&id, token).await?, false));
        }
        self.sweep().await;
        let meta =
            Meta { token: token.to_owned(), size, digest, expires_at: self.clock.now() + self.limits.expiry };
        let id = Disk::id();
        let entry = Arc::new(Entry::new(meta.clone(), false));
        // Held until its files are there, so that nobody writes to what is not.
        let turn = Arc::clone(&entry.turn).lock_owned().await;
        {
            let mut kept = self.kept();
            self.admits(&kept, token, size)?;
            kept.insert(id.clone(), entry);
        }
        let (disk, name, first) = (self.disk.clone(), id.clone(), meta.clone());
        let made = blocking(move || {
            let _turn = turn;
            disk.create(&name, &first)
        });
        if let Err(error) = made.await {
            self.forget(&id);
            return Err(error);
        }
        let Meta { expires_at, .. } = meta;
        Ok((Seen { id, size, digest, offset: 0, complete: false, expires_at }, true))
    }

    fn admits(&self, kept: &BTreeMap<String, Arc<Entry>>, token: &str, size: u64) -> Result<()> {
        let limits = &self.limits;
        let full = |what: &str, most: u64| {
            Err(Error::new(
                ErrorKind::OutOfResources,
                format!("{what}; accepted: at most {most}, until others expire or are deleted"),
            )
            .with_context("field", "size"))
        };
        if size > limits.upload {
            let message = format!("an upload of {size} bytes; accepted: at most {}", limits.upload);
            return Err(Error::new(ErrorKind::OutOfResources, message).with_context("field", "size"));
        }
        let (mut count, mut bytes, mut own, mut own_bytes) = (0_usize, 0_u64, 0_usize, 0_u64);
        for entry in kept.values() {
            let meta = entry.meta();
            (count, bytes) = (count + 1, bytes.saturating_add(meta.size));
            if meta.token == token {
                (own, own_bytes) = (own + 1, own_bytes.saturating_add(meta.size));
            }
        }
        if count >= limits.uploads {
            return full("too many uploads", limits.uploads as u64);
        }
        if own >= limits.token_uploads {
            return full("too many uploads of this token", limits.token_uploads as u64);
        }
        if bytes.saturating_add(size) > limits.disk {
            return full("the uploads would come to too many bytes", limits.disk);
        }
        if own_bytes.saturating_add(size) > limits.token_disk {
            return full("this token's uploads would come to too many bytes", limits.token_disk);
        }
        Ok(())
    }

    /// How an upload stands.
    pub(super) async fn see(&self, id: &str, token: &str) -> Result<Seen> {
        let entry = self.entry(id, token)?;
        let (meta, complete) = (entry.meta(), entry.is_complete());
        let (disk, name) = (self.disk.clone(), id.to_owned());
        // Where somebody writes, what is on the disk by now has arrived; what is not checked has not.
        let unchecked = entry.turn.try_lock().ok().and_then(|turned| turned.unchecked);
        let offset = if complete {
            meta.size
        } else {
            blocking(move || disk.length(&name)).await?.min(unchecked.unwrap_or(u64::MAX))
        };
        let Meta { size, digest, expires_at, .. } = meta;
        Ok(Seen { id: id.to_owned(), size, digest, offset, complete, expires_at })
    }

    fn turn(entry: &Entry) -> Result<OwnedMutexGuard<Turned>> {
        let busy = || Error::new(ErrorKind::Busy, "somebody else writes to this upload now");
        let turned = Arc::clone(&entry.turn).try_lock_owned().map_err(|_| busy())?;
        if turned.gone {
            return Err(Error::new(ErrorKind::NotFound, "the upload is gone"));
        }
        Ok(turned)
    }

    /// Adds a piece and says how much has arrived. What arrived before a connection was cut stays, unless a digest was said of it.
    pub(super) async fn append(&self, id: &str, token: &str, chunk: Chunk, body: Body) -> Result<u64> {
        let entry = self.entry(id, token)?;
        if entry.is_complete() {
            return Err(Error::new(ErrorKind::Busy, "the upload is complete")
                .with_context("offset", entry.meta().size));
        }
        let turned = Self::turn(&entry)?;
        let (sender, receiver) = mpsc::channel(4);
        let (disk, name, meta) = (self.disk.clone(), id.to_owned(), entry.meta());
        let write = move || disk::append(&disk, &name, meta.size, &chunk, receiver, turned);
        let written = tokio::task::spawn_blocking(write);
        let silence = self.limits.silence;
        let mut body = body.into_data_stream();
        let sent = loop {
            match timeout(silence, body.next()).await {
                Ok(Some(Ok(bytes))) if bytes.is_empty() => {}
                // Where the writer is gone it says why.
                Ok(Some(Ok(bytes))) => {
                    if sender.send(Piece::Bytes(bytes)).await.is_err() {
                        break Ok(());
                    }
                }
                Ok(None) => {
                    let _ = sender.send(Piece::End).await;
                    break Ok(());
                }
                Ok(Some(Err(_))) => {
                    break Err(Error::invalid(
                        "the body was cut, or is larger than is accepted; go on from the offset",
                    ));
                }
                Err(_) => {
                    break Err(Error::new(
                        ErrorKind::Timeout,
                        format!("nothing was sent for {silence:?}; go on from the offset"),
                    ));
                }
            }
        };
        drop(sender);
        let written = written.await.map_err(|_| Error::internal("writing an upload ended early"))?;
        self.touch(id, &entry).await?;
        match (written, sent) {
            (Err(error), Ok(())) => Err(error),
            (_, Err(error)) => Err(error),
            (Ok(offset), Ok(())) => Ok(offset),
        }
    }

    /// Begins its time anew.
    async fn touch(&self, id: &str, entry: &Entry) -> Result<()> {
        let meta = {
            let mut meta = entry.meta.lock().unwrap_or_else(PoisonError::into_inner);
            meta.expires_at = self.clock.now() + self.limits.expiry;
            meta.clone()
        };
        let (disk, name) = (self.disk.clone(), id.to_owned());
        blocking(move || disk.write_meta(&name, &meta)).await
    }

    /// Checks all of it against what was announced. Where it is something else, it is gone.
    pub(super) async fn complete(&self, id: &str, token: &str) -> std::result::Result<Seen, Refused> {
        let entry = self.entry(id, token)?;
        if entry.is_complete() {
            return Ok(self.see(id, token).await?);
        }
        let mut turned = Self::turn(&entry)?;
        let (disk, name, meta) = (self.disk.clone(), id.to_owned(), entry.meta());
        let checked = blocking(move || {
            if let Some(from) = turned.unchecked.take() {
                disk.cut(&name, from)?;
            }
            let arrived = disk.length(&name)?;
            if arrived != meta.size {
                let message = format!("{arrived} of {} bytes have arrived", meta.size);
                return Err(Error::new(ErrorKind::Busy, message).with_context("offset", arrived));
            }
            let digest = disk.digest(&name)?;
            if digest == meta.digest {
                disk.finish(&name)?;
                return Ok(None);
            }
            turned.gone = true;
            disk.remove(&name);
            Ok(Some(digest))
        });
        if let Some(digest) = checked.await? {
            self.forget(id);
            let error = Error::invalid("what arrived is not what was announced, and is gone: upload it anew")
                .with_context("field", "digest")
                .with_context("announced", entry.meta().digest)
                .with_context("arrived", digest);
            return Err(Refused::Mismatch(error));
        }
        entry.complete.store(true, std::sync::atomic::Ordering::SeqCst);
        self.touch(id, &entry).await?;
        Ok(self.see(id, token).await?)
    }

    /// Takes one away.
    pub(super) async fn delete(&self, id: &str, token: &str) -> Result<()> {
        let entry = self.entry(id, token)?;
        let mut turned = Self::turn(&entry)?;
        self.forget(id);
        let (disk, name) = (self.disk.clone(), id.to_owned());
        blocking(move || {
            turned.gone = true;
            disk.remove(&name);
            Ok(())
        })
        .await
    }

    fn forget(&self, id: &str) {
        self.kept().remove(id);
    }

    /// Takes away what has expired, except what is written to now.
    pub(super) async fn sweep(&self) {
        let now = self.clock.now();
        let mut old = Vec::new();
        self.kept().retain(|id, entry| {
            if entry.meta().expires_at > now {
                return true;
            }
            let Ok(mut turned) = Arc::clone(&entry.turn).try_lock_owned() else { return true };
            turned.gone = true;
            old.push(id.clone());
            false
        });
        if old.is_empty() {
            return;
        }
        let disk = self.disk.clone();
        let removed = blocking(move || {
            old.iter().for_each(|id| disk.remove(id));
            Ok(())
        });
        // What could not be removed is found at the next start.
        let _ = removed.await;
    }

    /// The id of a whole upload of this content.
    fn find(&self, digest: &Digest, token: Option<&str>) -> Option<String> {
        let now = self.clock.now();
        let kept = self.kept();
        let mut found = kept.iter().filter(|(_, entry)| {
            let meta = entry.meta();
            entry.is_complete()
                && meta.digest == *digest
                && meta.expires_at > now
                && token.is_none_or(|token| meta.token == token)
        });
        found.next().map(|(id, _)| id.clone())
    }

    /// Where the whole upload of this content is.
    pub(super) fn whole(&self, digest: &Digest, token: Option<&str>) -> Result<PathBuf> {
        let found = self.find(digest, token).map(|id| self.disk.whole(&id));
        found.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "no complete upload has this digest, or it has expired")
                .with_context("digest", digest)
        })
    }

    /// The digest of a whole upload.
    pub(super) fn digest_of(&self, id: &str, token: &str) -> Result<Digest> {
        let entry = self.entry(id, token)?;
        if entry.is_complete() {
            return Ok(entry.meta().digest);
        }
        Err(Error::new(ErrorKind::Busy, "the upload is not complete: `PUT` it when all has arrived"))
    }
}

/// Runs work on the disk where it holds nobody up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Error::internal("work on the disk ended early"))?
}

/// A name that nobody guesses.
pub(super) fn id() -> String {
    Disk::id()
}
