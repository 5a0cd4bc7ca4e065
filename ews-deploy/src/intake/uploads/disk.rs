//! The files of uploads. Everything here blocks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ews_core::{Digest, Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedMutexGuard, mpsc};

use super::{Chunk, Turned};

/// What a writer gets.
pub(super) enum Piece {
    /// Some bytes.
    Bytes(Bytes),
    /// That these were all; without it, the connection was cut.
    End,
}

#[derive(Debug, Clone)]
pub(super) struct Disk {
    dir: Arc<PathBuf>,
}

/// The lengths of the files that an upload has.
#[derive(Debug, Default)]
pub(super) struct Has {
    pub(super) part: Option<u64>,
    pub(super) whole: Option<u64>,
}

/// An upload that an earlier intake left, with what is written of it.
pub(super) type Left<M> = (String, Option<(M, Has)>);

fn fault(error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ErrorKind::OutOfResources
        }
        _ => ErrorKind::Unavailable,
    };
    // The path stays out of the message, which a client reads.
    Error::new(kind, "the disk of uploads can't be used").with_source(error)
}

impl Disk {
    pub(super) fn open(dir: PathBuf) -> Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&dir).map_err(fault)?;
        Ok(Self { dir: Arc::new(dir) })
    }

    /// A name that nobody guesses: 128 bits.
    pub(super) fn id() -> String {
        use std::hash::{BuildHasher as _, Hasher as _};
        // Each state has keys of its own from the system's randomness.
        let random = || std::hash::RandomState::new().build_hasher().finish();
        format!("{:016x}{:016x}", random(), random())
    }

    fn path(&self, id: &str, kind: &str) -> PathBuf {
        self.dir.join(format!("{id}.{kind}"))
    }

    pub(super) fn whole(&self, id: &str) -> PathBuf {
        self.path(id, "whole")
    }

    /// The uploads that there are, each with what is written of it; `None` where that is not whole. Other files are left alone.
    pub(super) fn scan<M: DeserializeOwned>(&self) -> Result<Vec<Left<M>>> {
        let mut ids = std::collections::BTreeSet::new();
        for entry in fs::read_dir(&*self.dir).map_err(fault)? {
            let name = entry.map_err(fault)?.file_name();
            let Some((id, kind)) = name.to_str().and_then(|name| name.split_once('.')) else { continue };
            let is_id = id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if is_id && matches!(kind, "meta" | "part" | "whole" | "meta.new") {
                ids.insert(id.to_owned());
            }
        }
        let length =
            |path: &Path| fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|meta| meta.len());
        let mut found = Vec::new();
        for id in ids {
            let _ = fs::remove_file(self.path(&id, "meta.new"));
            let meta = fs::read(self.path(&id, "meta")).ok();
            let meta = meta.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let has = Has { part: length(&self.path(&id, "part")), whole: length(&self.whole(&id)) };
            found.push((id, meta.map(|meta| (meta, has))));
        }
        Ok(found)
    }

    pub(super) fn create<M: Serialize>(&self, id: &str, meta: &M) -> Result<()> {
        // First what says what it is: a part without it would belong to nobody.
        self.write_meta(id, meta)?;
        private().create_new(true).write(true).open(self.path(id, "part")).map_err(fault).map(drop)
    }

    /// Writes what an upload is, whole or not at all.
    pub(super) fn write_meta<M: Serialize>(&self, id: &str, meta: &M) -> Result<()> {
        let bytes = serde_json::to_vec(meta).map_err(|_| Error::internal("an upload can't be described"))?;
        let new = self.path(id, "meta.new");
        let mut file = private().create(true).truncate(true).write(true).open(&new).map_err(fault)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(fault)?;
        fs::rename(new, self.path(id, "meta")).map_err(fault)
    }

    /// How many bytes have arrived.
    pub(super) fn length(&self, id: &str) -> Result<u64> {
        fs::metadata(self.path(id, "part")).map(|meta| meta.len()).map_err(fault)
    }

    /// Takes away what lies beyond.
    pub(super) fn cut(&self, id: &str, length: u64) -> Result<()> {
        let file = OpenOptions::new().write(true).open(self.path(id, "part")).map_err(fault)?;
        file.set_len(length).map_err(fault)
    }

    pub(super) fn digest(&self, id: &str) -> Result<Digest> {
        let mut file = File::open(self.path(id, "part")).map_err(fault)?;
        let (mut hash, mut buffer) = (hmac_sha256::Hash::new(), vec![0; 64 << 10]);
        loop {
            match file.read(&mut buffer).map_err(fault)? {
                0 => return Ok(Digest::from_sha256(hash.finalize())),
                read => hash.update(buffer.get(..read).unwrap_or_default()),
            }
        }
    }

    /// It is whole from now on, also after a crash.
    pub(super) fn finish(&self, id: &str) -> Result<()> {
        let part = self.path(id, "part");
        OpenOptions::new().write(true).open(&part).and_then(|file| file.sync_all()).map_err(fault)?;
        fs::rename(part, self.whole(id)).map_err(fault)
    }

    /// Takes an upload away. What can't be removed is tried again at the next start.
    pub(super) fn remove(&self, id: &str) {
        // Last what says what it is.
        for kind in ["part", "whole", "meta.new", "meta"] {
            match fs::remove_file(self.path(id, kind)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, id, "a file of an upload can't be removed");
                }
                _ => {}
            }
        }
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.append(false);
    options
}

/// Writes the pieces of a chunk until they end, and says how much has arrived. The turn is given back when it has ended.
pub(super) fn append(
    disk: &Disk,
    id: &str,
    size: u64,
    chunk: &Chunk,
    mut pieces: mpsc::Receiver<Piece>,
    mut turned: OwnedMutexGuard<Turned>,
) -> Result<u64> {
    if let Some(from) = turned.unchecked.take() {
        disk.cut(id, from)?;
    }
    let begin = disk.length(id)?;
    if chunk.offset != begin {
        let message =
            format!("the piece begins at {}, and {begin} bytes have arrived; go on from there", chunk.offset);
        return Err(Error::new(ErrorKind::Busy, message).with_context("offset", begin));
    }
    let mut file = OpenOptions::new().append(true).open(disk.path(id, "part")).map_err(fault)?;
    turned.unchecked = chunk.digest.map(|_| begin);
    let (mut hash, mut at, mut ended) = (hmac_sha256::Hash::new(), begin, false);
    while let Some(piece) = pieces.blocking_recv() {
        let Piece::Bytes(bytes) = piece else {
            ended = true;
            break;
        };
        at += bytes.len() as u64;
        let said = chunk.length.map_or(size, |length| begin.saturating_add(length));
        if at > size.min(said) {
            disk.cut(id, begin)?;
            return Err(Error::invalid(format!(
                "more bytes than announced; accepted: {} from here",
                size.min(said) - begin
            ))
            .with_context("offset", begin));
        }
        if chunk.digest.is_some() {
            hash.update(&bytes);
        }
        file.write_all(&bytes).map_err(fault)?;
    }
    if !ended {
        // What was sent is what a sender goes on from.
        return Ok(turned.unchecked.unwrap_or(at));
    }
    if let Some(digest) = chunk.digest
        && Digest::from_sha256(hash.finalize()) != digest
    {
        disk.cut(id, begin)?;
        turned.unchecked = None;
        return Err(Error::invalid("the piece is not what its digest says, and is gone; send it anew")
            .with_context("offset", begin));
    }
    turned.unchecked = None;
    Ok(at)
}
