//! What an error of the system becomes: one place that maps `std::io::Error` to the crate's own.

use std::fmt::Display;
use std::io;

pub(super) use crate::archive::fault as read;
use crate::archive::own;
use crate::error::{Error, ErrorKind};

/// An operation on the file at `place` failed. `doing` completes "`place` can't be …".
pub(super) fn file(doing: &str, place: &dyn Display, error: io::Error) -> Error {
    let error = match own(error) {
        Ok(own) => return own,
        Err(error) => error,
    };
    // `cap-std` refuses with an error that has no number of the system's: the message is its own.
    if error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none() {
        return Error::invalid(format!(
            "`{place}` can't be {doing}: a symbolic link leads out of the work directory; accepted: a place within it"
        ))
        .with_source(error);
    }
    use io::ErrorKind as Io;
    let kind = match error.kind() {
        Io::NotFound => ErrorKind::NotFound,
        Io::NotADirectory | Io::IsADirectory | Io::InvalidFilename | Io::InvalidInput | Io::InvalidData => {
            ErrorKind::Invalid
        }
        Io::PermissionDenied => ErrorKind::Unauthorized,
        Io::Unsupported => ErrorKind::Unsupported,
        Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge | Io::OutOfMemory | Io::TooManyLinks => {
            ErrorKind::OutOfResources
        }
        Io::ResourceBusy | Io::ExecutableFileBusy | Io::AlreadyExists | Io::DirectoryNotEmpty => {
            ErrorKind::Busy
        }
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("`{place}` can't be {doing}: {error}")).with_source(error)
}

/// A file was to be made at `place`. What is not found then was there a moment ago: somebody moved it.
pub(super) fn made(place: &dyn Display, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::new(
            ErrorKind::Busy,
            format!("`{place}` can't be made: its directory was moved or removed meanwhile"),
        )
        .with_source(error),
        _ => file("made", place, error),
    }
}
