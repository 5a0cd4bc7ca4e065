//! Archives between async streams and the blocking threads that touch files.
//!
//! Pieces pass through a channel that holds few of them, so a slow disk slows the sender and a slow reader the disk. Either
//! side ends when the other is gone: a thread at the next piece that nobody takes or sends.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use cap_std::fs::Dir;
use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use super::names::Inside;
use super::pack::Target;
use super::unpack::unpack;
use super::{Limits, Owner, fault};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::ByteStream;

/// How many pieces wait between the two sides.
const PIECES: usize = 4;

/// How large a piece of a packed archive is, in bytes.
const PIECE: usize = 64 * 1024;

/// Unpacks a tar archive into a directory of the instance whose work directory is `root`.
///
/// Dropping the future ends the unpacking at the next piece; what was unpacked stays.
///
/// # Errors
/// `NotFound` for the directory; `Invalid` where it is none or leads out; the stream's own error; else as [`unpack`].
pub(crate) async fn put(
    root: PathBuf,
    path: &str,
    mut archive: ByteStream,
    limits: Limits,
    owner: Owner,
) -> Result<()> {
    let place = Inside::from_path(path, &limits)?;
    let (pieces, incoming) = mpsc::channel(PIECES);
    let mut work = spawn_blocking(move || {
        let into = open_directory(&open_root(&root)?, &place)?;
        unpack(&into, Incoming { pieces: incoming, rest: Bytes::new() }, &limits, owner)
    });
    loop {
        tokio::select! {
            biased;
            // A refused archive is answered at once, not when its sender says the next thing.
            done = &mut work => return joined(done),
            piece = archive.next() => {
                let Some(piece) = piece else { break };
                let failed = piece.is_err();
                if pieces.send(piece).await.is_err() || failed {
                    break;
                }
            }
        }
    }
    drop(pieces);
    joined(work.await)
}

/// Packs a file or a directory of the instance whose work directory is `root`. Dropping the stream ends the packing.
///
/// # Errors
/// `NotFound` for the path, from the call itself; `Invalid` for one that leads out. What fails later is the stream's last
/// item.
pub(crate) async fn get(root: PathBuf, path: &str) -> Result<ByteStream> {
    let place = Inside::from_path(path, &Limits::default())?;
    let target = joined(spawn_blocking(move || Target::find(&open_root(&root)?, &place)).await)?;
    let (pieces, work) = start(target);
    let state = Some((pieces, work));
    Ok(stream::unfold(state, |state| async {
        let (mut pieces, work) = state?;
        match pieces.recv().await {
            Some(piece) => Some((Ok(piece), Some((pieces, work)))),
            // The end is an end only if the thread says so.
            None => joined(work.await).err().map(|error| (Err(error), None)),
        }
    })
    .boxed())
}

/// Starts the packing in a thread of its own.
pub(super) fn start(target: Target) -> (mpsc::Receiver<Bytes>, JoinHandle<Result<()>>) {
    let (pieces, outgoing) = mpsc::channel(PIECES);
    let work = spawn_blocking(move || {
        let mut out = Outgoing { pieces, piece: BytesMut::with_capacity(PIECE) };
        target.pack(&mut out)?;
        out.flush().map_err(|error| fault::file("packed", &"the archive", error))
    });
    (outgoing, work)
}

fn open_root(root: &Path) -> Result<Dir> {
    Dir::open_ambient_dir(root, cap_std::ambient_authority()).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Error::new(ErrorKind::NotFound, "the work directory is gone").with_source(error)
        }
        _ => fault::file("opened", &"the work directory", error),
    })
}

/// The directory that a caller names. Links on the way are followed, within the work directory.
fn open_directory(root: &Dir, place: &Inside) -> Result<Dir> {
    let opened = if place.is_root() { root.try_clone() } else { root.open_dir(place.path()) };
    opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::not_found("directory", place),
        io::ErrorKind::NotADirectory => {
            Error::invalid(format!("`{place}` is no directory; accepted: a directory to unpack into"))
        }
        _ => fault::file("opened", place, error),
    })
}

fn joined<T>(done: Result<Result<T>, JoinError>) -> Result<T> {
    match done {
        Ok(result) => result,
        Err(error) if error.is_panic() => {
            Err(Error::internal("a thread with an archive panicked").with_source(error))
        }
        Err(error) => {
            Err(Error::new(ErrorKind::Cancelled, "the async runtime shut down before the archive was done")
                .with_source(error))
        }
    }
}

/// The blocking end of an incoming stream.
struct Incoming {
    pieces: mpsc::Receiver<Result<Bytes>>,
    rest: Bytes,
}

impl Read for Incoming {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.blocking_recv() {
                Some(Ok(piece)) => self.rest = piece,
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => return Ok(0),
            }
        }
        let count = self.rest.len().min(into.len());
        let piece = self.rest.split_to(count);
        if let Some(into) = into.get_mut(..count) {
            into.copy_from_slice(&piece);
        }
        Ok(count)
    }
}

/// The blocking end of an outgoing stream.
struct Outgoing {
    pieces: mpsc::Sender<Bytes>,
    piece: BytesMut,
}

impl Write for Outgoing {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let count = from.len().min(PIECE.saturating_sub(self.piece.len()));
        self.piece.extend_from_slice(from.get(..count).unwrap_or_default());
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        self.pieces.blocking_send(self.piece.split().freeze()).map_err(|_| {
            io::Error::other(Error::new(ErrorKind::Cancelled, "nobody reads the archive any more"))
        })
    }
}
