//! The files of a log: their names, which exist, and how they are opened for reading.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The file of this segment.
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.log"))
}

/// The segments that exist, the oldest first; none where the directory is missing. Whatever else lies there is not ours.
pub(super) fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(number_of);
        // A type that can't be told belongs to a file that was removed meanwhile.
        if let Some(number) = number
            && entry.file_type().is_ok_and(|kind| kind.is_file())
        {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    if digits.len() < 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // One number has one name, or a segment would be met twice.
    digits.parse().ok().filter(|number| *number > 0 && format!("{number:08}") == digits)
}

/// Opens a segment for reading; `None` where the writer has removed it.
pub(super) fn open(dir: &Path, number: u64) -> io::Result<Option<File>> {
    match File::open(path(dir, number)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_gone(error: &io::Error) -> bool {
    // Where somebody still has a removed file open, older systems of Windows keep its name and refuse to open it.
    error.kind() == io::ErrorKind::NotFound
        || (cfg!(windows) && error.kind() == io::ErrorKind::PermissionDenied)
}
