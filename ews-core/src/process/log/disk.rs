//! What a writer asks of the file system, apart, so that tests can put a disk that refuses in its place.

use std::fmt::Debug;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::path::Path;

/// Where segments are made.
pub(crate) trait Disk: Debug {
    type Segment: Segment;

    /// Creates the directory where it is missing, with those above it.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Begins a segment that does not exist yet.
    fn create(&self, path: &Path) -> io::Result<Self::Segment>;

    /// Opens one that exists. It is cut before it is written to, which says where to go on.
    fn open(&self, path: &Path) -> io::Result<Self::Segment>;
}

/// A segment that is written to.
pub(crate) trait Segment: Debug {
    /// Writes behind what was written before, perhaps not all of it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Cuts the segment to this length; what is written next follows.
    fn cut(&mut self, length: u64) -> io::Result<()>;
}

/// The file system. A log is for its owner only: programs print secrets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Files;

impl Disk for Files {
    type Segment = File;

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(dir)
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(path)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        // Not for appending: Windows does not cut a file that is open only for that.
        OpenOptions::new().write(true).open(path)
    }
}

impl Segment for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(self, bytes)
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)?;
        self.seek(SeekFrom::Start(length)).map(drop)
    }
}
