//! The walk over a context's directory, on a thread for blocking work.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use ews_core::{Error, ErrorKind, Result};
use tar::{Builder, EntryType, Header};

use super::Plan;
use super::ignore::Above;
use crate::images::pipe::PipeWriter;

/// A directory on the way down.
struct Level {
    /// Its path within the context, as the archive and the patterns have it; empty for the root.
    name: String,
    path: PathBuf,
    above: Above,
    /// What is still to be looked at, the next one last.
    left: Vec<OsString>,
}

struct Walk<'a> {
    plan: &'a Plan,
    archive: Builder<PipeWriter>,
    bytes: u64,
    entries: u64,
}

/// Writes the archive.
pub(super) fn write(plan: &Plan, writer: PipeWriter) {
    let archive = Builder::new(writer);
    let mut walk = Walk { plan, archive, bytes: 0, entries: 0 };
    let walked = walk.all();
    let named =
        |error: Error| error.with_operation("images.context").with_context("directory", plan.root.display());
    // On an error the archive must not look like a whole one: its end is not written.
    match walked {
        Ok(()) => match walk.archive.into_inner() {
            Ok(writer) => writer.finish(),
            Err(error) => tracing::debug!(%error, "nobody reads the context any more"),
        },
        Err(error) => walk.archive.get_mut().fail(named(error)),
    }
}

impl Walk<'_> {
    fn all(&mut self) -> Result<()> {
        let mut levels = vec![self.enter(String::new(), self.plan.root.clone(), Above::default())?];
        while let Some(level) = levels.last_mut() {
            let Some(file) = level.left.pop() else {
                levels.pop();
                continue;
            };
            let path = level.path.join(&file);
            let name = match level.name.as_str() {
                "" => file.to_string_lossy().into_owned(),
                above => format!("{above}/{}", file.to_string_lossy()),
            };
            let found = match fs::symlink_metadata(&path) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(unread(&name, error)),
            };
            let (out, above) = self.plan.patterns.leaves_out(&name, &level.above);
            if out {
                // It is looked into, and left out itself even so: whoever unpacks what lies in it makes it anew, as with Docker's client.
                if found.is_dir() && self.plan.patterns.may_take_in_below(&name) {
                    levels.push(self.enter(name, path, above)?);
                }
                continue;
            }
            if found.is_dir() {
                self.directory(&path, &found)?;
                levels.push(self.enter(name, path, above)?);
            } else {
                self.leaf(&name, &path, &found)?;
            }
        }
        Ok(())
    }

    fn enter(&self, name: String, path: PathBuf, above: Above) -> Result<Level> {
        let mut left = Vec::new();
        for entry in fs::read_dir(&path).map_err(|error| unread(&name, error))? {
            left.push(entry.map_err(|error| unread(&name, error))?.file_name());
            // Names are held in memory, so they are bounded like what they name, what is left out included.
            if left.len() as u64 > self.plan.limits.entries.saturating_mul(4).saturating_add(10_000) {
                return Err(self.too_many().with_context("file", &name));
            }
        }
        left.sort_unstable_by(|one, other| other.cmp(one));
        Ok(Level { name, path, above, left })
    }

    fn too_many(&self) -> Error {
        let most = self.plan.limits.entries;
        Error::new(
            ErrorKind::OutOfResources,
            format!(
                "the context has more than {most} entries: exclude some in `.dockerignore`, or raise `entries` of its limits"
            ),
        )
    }

    fn count(&mut self, name: &str, bytes: u64) -> Result<()> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.entries > self.plan.limits.entries {
            return Err(self.too_many().with_context("file", name));
        }
        let most = self.plan.limits.bytes;
        if self.bytes > most {
            let message = format!(
                "the context is larger than {most} bytes: exclude something in `.dockerignore`, or raise `bytes` of its limits"
            );
            return Err(Error::new(ErrorKind::OutOfResources, message).with_context("file", name));
        }
        Ok(())
    }

    /// The path within the archive: bytes as they are, which a name's text need not keep.
    fn within(&self, path: &Path) -> Result<PathBuf> {
        path.strip_prefix(&self.plan.root)
            .map(Path::to_owned)
            .map_err(|error| Error::internal("the walk left its root").with_source(error))
    }

    fn directory(&mut self, path: &Path, found: &Metadata) -> Result<()> {
        let within = self.within(path)?;
        self.count(&within.to_string_lossy(), 0)?;
        let mut header = header(found, EntryType::Directory, 0);
        self.archive.append_data(&mut header, within, io::empty()).map_err(|error| unwritten(&error))
    }

    fn leaf(&mut self, name: &str, path: &Path, found: &Metadata) -> Result<()> {
        let within = self.within(path)?;
        let kind = found.file_type();
        if kind.is_symlink() {
            self.count(name, 0)?;
            let target = fs::read_link(path).map_err(|error| unread(name, error))?;
            let mut header = header(found, EntryType::Symlink, 0);
            return self.archive.append_link(&mut header, within, target).map_err(|error| unwritten(&error));
        }
        if !kind.is_file() {
            return match special(found) {
                Special::Socket => Ok(()),
                Special::Pipe => {
                    self.count(name, 0)?;
                    let mut header = header(found, EntryType::Fifo, 0);
                    self.archive
                        .append_data(&mut header, within, io::empty())
                        .map_err(|error| unwritten(&error))
                }
                Special::Device => {
                    Err(Error::invalid("a device can't be part of a context: exclude it in `.dockerignore`")
                        .with_context("file", name))
                }
            };
        }
        let file = File::open(path).map_err(|error| unread(name, error))?;
        let opened = file.metadata().map_err(|error| unread(name, error))?;
        if !same_file(found, &opened) {
            return Err(changed(name));
        }
        self.count(name, opened.len())?;
        let mut header = header(&opened, EntryType::Regular, opened.len());
        let mut content = Exactly { file: file.take(opened.len()), left: opened.len() };
        let appended = self.archive.append_data(&mut header, within, &mut content);
        if content.left > 0 && appended.is_ok() {
            return Err(changed(name));
        }
        appended.map_err(|error| unwritten(&error))
    }
}

/// Exactly as much of a file as its header says; what was appended since is not read, and too little is noticed.
struct Exactly {
    file: io::Take<File>,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(into)?;
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}

fn header(found: &Metadata, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode(found));
    // Docker's client makes every file root's.
    header.set_uid(0);
    header.set_gid(0);
    let modified = found.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    header.set_mtime(modified.map_or(0, |time| time.as_secs()));
    header
}

enum Special {
    Socket,
    Pipe,
    Device,
}

#[cfg(unix)]
fn special(found: &Metadata) -> Special {
    use std::os::unix::fs::FileTypeExt as _;
    let kind = found.file_type();
    if kind.is_socket() {
        Special::Socket
    } else if kind.is_fifo() {
        Special::Pipe
    } else {
        Special::Device
    }
}

#[cfg(not(unix))]
fn special(_: &Metadata) -> Special {
    Special::Device
}

#[cfg(unix)]
fn mode(found: &Metadata) -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    found.mode() & 0o7777
}

/// Windows has no modes; Docker's client makes everything executable there.
#[cfg(not(unix))]
fn mode(_: &Metadata) -> u32 {
    0o755
}

/// Whether what was opened is what was found: a link that was put in its place has another number.
#[cfg(unix)]
fn same_file(found: &Metadata, opened: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (found.dev(), found.ino()) == (opened.dev(), opened.ino()) && opened.is_file()
}

#[cfg(not(unix))]
fn same_file(_: &Metadata, opened: &Metadata) -> bool {
    opened.is_file()
}

fn unread(name: &str, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Unauthorized,
        io::ErrorKind::NotFound => return changed(name).with_source(error),
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, "a file of the context can't be read")
        .with_context("file", name)
        .with_detail(error.to_string())
        .with_source(error)
}

fn changed(name: &str) -> Error {
    Error::new(ErrorKind::Busy, "a file of the context changed while it was read").with_context("file", name)
}

/// Reading the content fails here too, which `tar` does not tell apart.
fn unwritten(error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::BrokenPipe => ErrorKind::Cancelled,
        io::ErrorKind::InvalidInput => ErrorKind::Invalid,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, "the context can't be written as an archive").with_detail(error.to_string())
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
