//! One step from an open directory to a name in it, never through a link.
//!
//! A single name without `/` can't be resolved to anything but an entry of the open directory, and none of these calls
//! follows it where it is a symbolic link. So whatever the instance's program swaps meanwhile, we stay beneath the directory
//! that we opened.
//!
//! On Windows `cap-std` builds some calls from the open directory's path. It opens directories so that they can't be renamed
//! or removed while they are open, nor can what they lie in, so that path stays true. A link that leads within the directory
//! may be followed there if it is swapped in between our look and our open; one that leads out is not.

use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;

use cap_std::fs::{Dir, DirBuilder, OpenOptions};

use super::Owner;

/// How many names are tried for what has not got its own yet. A name is random, so that a second try is rare.
const NAME_TRIES: usize = 16;

/// Opens the directory of this name.
///
/// # Errors
/// `NotADirectory` for anything else, a link to a directory included.
#[cfg(unix)]
pub(super) fn open_dir(at: &Dir, name: &OsStr) -> io::Result<Dir> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(at, name, flags, Mode::empty()) {
        Ok(directory) => Ok(directory.into()),
        // Systems differ in what they say of a link here.
        Err(rustix::io::Errno::LOOP) => Err(io::ErrorKind::NotADirectory.into()),
        Err(error) => Err(error.into()),
    }
}

/// See the Unix version.
#[cfg(not(unix))]
pub(super) fn open_dir(at: &Dir, name: &OsStr) -> io::Result<Dir> {
    if !at.symlink_metadata(name)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    at.open_dir(name)
}

/// Opens the regular file of this name for reading; `None` for anything else. It never blocks: a pipe without a writer is
/// opened without waiting, and then seen to be none.
#[cfg(unix)]
pub(super) fn open_file(at: &Dir, name: &OsStr) -> io::Result<Option<File>> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(at, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        // A link, or a socket.
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(file.metadata()?.is_file().then_some(file))
}

/// See the Unix version.
#[cfg(not(unix))]
pub(super) fn open_file(at: &Dir, name: &OsStr) -> io::Result<Option<File>> {
    if !at.symlink_metadata(name)?.is_file() {
        return Ok(None);
    }
    let file = at.open(name)?.into_std();
    Ok(file.metadata()?.is_file().then_some(file))
}

/// Opens the directory of this name, made with this mode if it is missing; says whether it was made. One that is there
/// keeps its mode and owner.
///
/// # Errors
/// `NotADirectory` where something else has the name.
pub(super) fn make_dir(at: &Dir, name: &OsStr, mode: u32, owner: Owner) -> io::Result<(Dir, bool)> {
    match at.create_dir_with(name, &closed_dir()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Ok((open_dir(at, name)?, false));
        }
        Err(error) => return Err(error),
    }
    let directory = open_dir(at, name)?;
    settle_dir(&directory, mode, owner)?;
    Ok((directory, true))
}

/// A new directory is closed to others until it has its mode.
#[cfg(unix)]
fn closed_dir() -> DirBuilder {
    use cap_std::fs::DirBuilderExt as _;
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

/// Access lists are inherited.
#[cfg(not(unix))]
fn closed_dir() -> DirBuilder {
    DirBuilder::new()
}

#[cfg(unix)]
fn settle_dir(directory: &Dir, mode: u32, owner: Owner) -> io::Result<()> {
    if let Some((user, group)) = owner.ids {
        // Between making and opening, the name could be given to another directory of ours that must not be given away.
        // An empty one is no loss.
        if directory.entries()?.next().is_some() {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "it was replaced while it was made"));
        }
        std::os::unix::fs::fchown(directory, Some(user), Some(group))?;
    }
    Ok(rustix::fs::fchmod(directory, permission_bits(mode))?)
}

#[cfg(not(unix))]
fn settle_dir(_: &Dir, _: u32, _: Owner) -> io::Result<()> {
    Ok(())
}

/// Makes a file that was not there, which only its maker may read yet.
///
/// # Errors
/// `AlreadyExists` where anything has the name, a link that leads nowhere included.
pub(super) fn new_file(at: &Dir, name: &OsStr) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use cap_std::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    at.open_with(name, &options).map(cap_std::fs::File::into_std)
}

/// Gives a file its owner, then its mode: in this order, since a change of owner may take bits away, and so that nobody has
/// the mode's rights before the owner is right.
#[cfg(unix)]
pub(super) fn settle_file(file: &File, mode: u32, owner: Owner) -> io::Result<()> {
    if let Some((user, group)) = owner.ids {
        std::os::unix::fs::fchown(file, Some(user), Some(group))?;
    }
    Ok(rustix::fs::fchmod(file, permission_bits(mode))?)
}

/// Windows has neither; access lists are inherited from the work directory.
#[cfg(not(unix))]
pub(super) fn settle_file(_: &File, _: u32, _: Owner) -> io::Result<()> {
    Ok(())
}

/// Set-id and sticky bits never pass.
#[cfg(unix)]
fn permission_bits(mode: u32) -> rustix::fs::Mode {
    // The width of a mode is the system's; nine bits fit every one.
    rustix::fs::Mode::from_raw_mode((mode & 0o777) as rustix::fs::RawMode)
}

/// Something new: at its name where that was free, else under another one until it is whole.
pub(super) struct New<T> {
    pub(super) made: T,
    under: Option<String>,
}

impl<T> New<T> {
    /// Makes it. What has the name already is never written through, since it may be a link, have other names, or be a program
    /// that runs.
    ///
    /// # Errors
    /// `IsADirectory` where a directory has the name.
    pub(super) fn at(
        at: &Dir,
        name: &OsStr,
        mut make: impl FnMut(&OsStr) -> io::Result<T>,
    ) -> io::Result<Self> {
        match make(name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|made| Self { made, under: None }),
        }
        if is_directory(at, name) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Self::aside(make)
    }

    /// Makes it under another name, whether its own is free or not.
    pub(super) fn aside(make: impl FnMut(&OsStr) -> io::Result<T>) -> io::Result<Self> {
        temporary(make).map(|(made, under)| Self { made, under: Some(under) })
    }

    /// Whether it has its name already.
    pub(super) fn is_named(&self) -> bool {
        self.under.is_none()
    }

    /// Gives it its name, in one step: who opens that gets what was there or this, and never finds nothing.
    ///
    /// # Errors
    /// `IsADirectory` where a directory has the name.
    pub(super) fn name(self, at: &Dir, name: &OsStr) -> io::Result<()> {
        let Self { made, under } = self;
        // Some systems rename nothing that is open.
        drop(made);
        let Some(under) = under else { return Ok(()) };
        let renamed = at.rename(&under, at, name);
        // Of two names of one file a rename leaves both.
        let _ = at.remove_file(&under);
        // Systems differ in what they say of a directory here.
        renamed
            .map_err(|error| if is_directory(at, name) { io::ErrorKind::IsADirectory.into() } else { error })
    }

    /// Takes it away, where it has not got its name.
    pub(super) fn forget(self, at: &Dir) {
        drop(self.made);
        if let Some(under) = self.under {
            // It may be gone by the program's hand; then there is nothing to do.
            let _ = at.remove_file(under);
        }
    }
}

fn is_directory(at: &Dir, name: &OsStr) -> bool {
    at.symlink_metadata(name).is_ok_and(|found| found.is_dir())
}

/// Makes something under a name that nobody has. That it is new is what keeps others from it, not that the name is hard to guess.
fn temporary<T>(mut make: impl FnMut(&OsStr) -> io::Result<T>) -> io::Result<(T, String)> {
    for _ in 0..NAME_TRIES {
        let name = format!(".ews-{:016x}", RandomState::new().build_hasher().finish());
        match make(name.as_ref()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|made| (made, name)),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "no name is free for the file while it is written"))
}

/// Makes a symbolic link.
#[cfg(unix)]
pub(super) fn new_link(at: &Dir, target: &[u8], name: &OsStr) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    at.symlink(OsStr::from_bytes(target), name)
}

/// Windows tells links to directories from links to files, so the target must be there already to be told.
#[cfg(not(unix))]
pub(super) fn new_link(at: &Dir, target: &[u8], name: &OsStr) -> io::Result<()> {
    let target = std::str::from_utf8(target).map_err(|_| io::ErrorKind::InvalidFilename)?.replace('/', "\\");
    if at.metadata(&target).is_ok_and(|found| found.is_dir()) {
        at.symlink_dir(&target, name)?;
    } else {
        at.symlink_file(&target, name)?;
    }
    // Wine 8 says that it made a link, and makes none.
    if at.symlink_metadata(name).is_ok_and(|found| found.is_symlink()) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system makes no symbolic links"))
}

/// Where a symbolic link leads, as it would stand in an archive.
#[cfg(unix)]
pub(super) fn link_target(at: &Dir, name: &OsStr) -> io::Result<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt as _;
    at.read_link_contents(name).map(|target| target.into_os_string().into_vec())
}

/// See the Unix version.
#[cfg(not(unix))]
pub(super) fn link_target(at: &Dir, name: &OsStr) -> io::Result<Vec<u8>> {
    let target = at.read_link_contents(name)?;
    let text = target.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
    Ok(text.replace('\\', "/").into_bytes())
}

/// Whether both are the same directory.
#[cfg(unix)]
pub(super) fn same(one: &Dir, other: &Dir) -> io::Result<bool> {
    use cap_std::fs::MetadataExt as _;
    let (one, other) = (one.dir_metadata()?, other.dir_metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// A file's number is not to be had without `unsafe` here, so its times and its names must do: a directory has those of
/// itself, and another that has the same is refused at worst.
#[cfg(not(unix))]
pub(super) fn same(one: &Dir, other: &Dir) -> io::Result<bool> {
    let times = |dir: &Dir| {
        let metadata = dir.dir_metadata()?;
        Ok::<_, io::Error>((metadata.created()?, metadata.modified()?))
    };
    // The first names are enough to tell two directories that were made in one moment.
    let names = |dir: &Dir| {
        dir.entries()?.take(64).map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()
    };
    Ok(times(one)? == times(other)? && names(one)? == names(other)?)
}

/// The permission bits of a file or directory, as an archive holds them.
#[cfg(unix)]
pub(super) fn mode(metadata: &cap_std::fs::Metadata) -> u32 {
    use cap_std::fs::MetadataExt as _;
    metadata.mode() & 0o777
}

/// What others would expect, since Windows has no such bits.
#[cfg(not(unix))]
pub(super) fn mode(metadata: &cap_std::fs::Metadata) -> u32 {
    if metadata.is_dir() { 0o755 } else { 0o644 }
}
