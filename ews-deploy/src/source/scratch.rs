//! Scratch space: files without a name, within one bound of bytes.
//!
//! An upload, what is unpacked from it and the layer that is made of it lie here for as long as they are needed. The files have no name
//! (`O_TMPFILE`, or deleted when they are closed on Windows): an error, a cancelled call or a killed process leaves none, and there is
//! nothing to sweep. All of one [`Scratch`] together take at most its bound; a write beyond it is `OutOfResources` before the disk is full.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use ews_core::runtime::ByteStream;
use ews_core::{Error, ErrorKind, Result};
use futures_util::{StreamExt as _, stream};

/// How much is read of a file at a time, in bytes.
const PIECE: usize = 256 * 1024;

/// A directory for scratch files and how much they may take. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Scratch {
    directory: Arc<PathBuf>,
    bound: u64,
    used: Arc<AtomicU64>,
}

impl Scratch {
    pub(super) fn new(directory: PathBuf, bound: u64) -> Result<Self> {
        std::fs::create_dir_all(&directory).map_err(|error| of_disk("the scratch directory", error))?;
        Ok(Self { directory: Arc::new(directory), bound, used: Arc::default() })
    }

    /// An empty file.
    pub(super) fn file(&self) -> Result<ScratchFile> {
        let file =
            tempfile::tempfile_in(&*self.directory).map_err(|error| of_disk("a scratch file", error))?;
        Ok(ScratchFile { file, size: 0, scratch: self.clone() })
    }

    /// How many bytes are taken now.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    fn take(&self, bytes: u64) -> io::Result<()> {
        let taken = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            used.checked_add(bytes).filter(|used| *used <= self.bound)
        });
        match taken {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::other(Error::new(
                ErrorKind::OutOfResources,
                format!(
                    "the scratch space of {} bytes is taken: wait for other uploads, or give it more",
                    self.bound
                ),
            ))),
        }
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// A file without a name. Written at its end, read anywhere.
#[derive(Debug)]
pub(super) struct ScratchFile {
    file: File,
    size: u64,
    scratch: Scratch,
}

impl ScratchFile {
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Reads some bytes from an offset, as [`Read::read`] does.
    pub(super) fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        #[cfg(unix)]
        {
            std::os::unix::fs::FileExt::read_at(&self.file, into, offset)
        }
        #[cfg(windows)]
        {
            std::os::windows::fs::FileExt::seek_read(&self.file, into, offset)
        }
    }

    /// A reader of its own from an offset on, of at most so many bytes.
    pub(super) fn part(&self, offset: u64, size: u64) -> Part<'_> {
        Part { file: self, offset, end: offset.saturating_add(size).min(self.size) }
    }

    /// A reader of all of it.
    pub(super) fn whole(&self) -> Part<'_> {
        self.part(0, self.size)
    }
}

impl Write for ScratchFile {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.scratch.take(from.len() as u64)?;
        let written = self.file.seek(SeekFrom::Start(self.size)).and_then(|_| self.file.write_all(from));
        match written {
            Ok(()) => {
                self.size += from.len() as u64;
                Ok(from.len())
            }
            Err(error) => {
                self.scratch.give_back(from.len() as u64);
                Err(error)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for ScratchFile {
    fn drop(&mut self) {
        self.scratch.give_back(self.size);
    }
}

/// A stretch of a scratch file.
#[derive(Debug)]
pub(super) struct Part<'a> {
    file: &'a ScratchFile,
    offset: u64,
    end: u64,
}

impl Part<'_> {
    /// Where it ends in its file.
    pub(super) const fn end(&self) -> u64 {
        self.end
    }
}

impl Read for Part<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_sub(self.offset);
        let most = usize::try_from(left).map_or(into.len(), |left| left.min(into.len()));
        let count = self.file.read_at(self.offset, into.get_mut(..most).unwrap_or_default())?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// The bytes of a scratch file as a stream; the file lives as long as it does.
pub(super) fn stream(file: Arc<ScratchFile>) -> ByteStream {
    let pieces = stream::unfold(Some((file, 0_u64)), |state| async move {
        let (file, offset) = state?;
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; PIECE];
            let count = file.read_at(offset, &mut piece);
            (file, count, piece)
        });
        let (file, count, mut piece) = match read.await {
            Ok(read) => read,
            Err(error) => {
                return Some((Err(Error::internal("a scratch file was not read").with_source(error)), None));
            }
        };
        match count {
            Ok(0) => None,
            Ok(count) => {
                piece.truncate(count);
                Some((Ok(Bytes::from(piece)), Some((file, offset + count as u64))))
            }
            Err(error) => Some((Err(of_disk("a scratch file", error)), None)),
        }
    });
    // Some readers ask once more after the end.
    Box::pin(pieces.fuse())
}

/// Work with files in a thread where it may wait.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => {
            Err(Error::internal("a thread with an upload panicked").with_source(error))
        }
        Err(error) => Err(Error::new(ErrorKind::Cancelled, "the async runtime shut down").with_source(error)),
    }
}

/// What an error of the disk becomes. An error of ours that travelled through `std::io` comes out as it went in.
pub(super) fn of_disk(what: &str, error: io::Error) -> Error {
    if error.get_ref().is_some_and(|inner| inner.is::<Error>()) {
        return ews_core::archive::fault(error);
    }
    let kind = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::Unauthorized,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ErrorKind::OutOfResources
        }
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("{what} can't be used: {error}")).with_source(error)
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;

    use super::*;

    #[tokio::test]
    async fn files_share_one_bound_leave_nothing_and_give_back_what_they_took() {
        let directory = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(directory.path().join("new"), 1_000_000).unwrap();
        let (mut one, mut two) = (scratch.file().unwrap(), scratch.file().unwrap());
        one.write_all(&[1; 600_000]).unwrap();
        let error = of_disk("x", two.write_all(&[2; 400_001]).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::OutOfResources);
        two.write_all(&[2; 400_000]).unwrap();
        assert_eq!(scratch.used(), 1_000_000);
        assert_eq!(std::fs::read_dir(directory.path().join("new")).unwrap().count(), 0);
        drop(two);
        assert_eq!(scratch.used(), 600_000);

        let mut pieces = stream(Arc::new(one));
        let read: Vec<Bytes> = pieces.by_ref().try_collect().await.unwrap();
        assert_eq!(read.concat(), vec![1; 600_000]);
        assert!(pieces.next().await.is_none());
        drop(pieces);
        assert_eq!(scratch.used(), 0);
    }
}
