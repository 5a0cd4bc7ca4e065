//! What was applied, on disk: an image of the table, and the changes since, one a line.
//!
//! A line is written and flushed before its change is acknowledged. A line that a crash cut short was acknowledged to nobody
//! and is dropped; a line that can't be taken back leaves the journal closed and the change in doubt, which the error says.

use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ews_core::balancer::{Change, Limits, Table, TableImage};
use ews_core::{CapabilitySet, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// After so many changes a new image is written, so that neither the file nor the next start grows without end.
const MOST_LINES: usize = 4_096;

/// The journal, open for one process at a time.
pub(super) struct Journal {
    root: PathBuf,
    file: Arc<File>,
    /// How much of the file holds whole lines.
    length: u64,
    lines: usize,
    /// Whether the end of the file is not known any more.
    is_broken: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    generation: u64,
    change: Change,
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::OutOfResources,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("{what} failed")).with_context("path", path.display()).with_source(error)
}

fn corrupt(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Corrupt, "what was applied can't be read; restore the file or remove the directory")
        .with_context("path", path.display())
        .with_source(error)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed("reading", path, error)),
    }
}

impl Journal {
    /// Opens the directory, makes it where it is not there, and reads what was applied.
    pub(super) fn open(root: &Path, capabilities: CapabilitySet, limits: Limits) -> Result<(Self, Table)> {
        std::fs::create_dir_all(root).map_err(|error| failed("making the directory", root, error))?;
        let path = root.join("changes.jsonl");
        let opened = File::options().create(true).read(true).append(true).open(&path);
        let file = opened.map_err(|error| failed("opening", &path, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = "another process has this balancer's directory open";
                return Err(Error::new(ErrorKind::Busy, message).with_context("path", root.display()));
            }
            Err(TryLockError::Error(error)) => return Err(failed("locking", &path, error)),
        }

        let image_path = root.join("table.json");
        let image = read(&image_path)?;
        let mut table = if image.is_empty() {
            Table::new(capabilities, limits)
        } else {
            let image: TableImage =
                serde_json::from_slice(&image).map_err(|error| corrupt(&image_path, error))?;
            Table::restore(image, capabilities, limits)?
        };
        let text = read(&path)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in text.get(..whole).unwrap_or_default().split(|byte| *byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            let Line { generation, change } =
                serde_json::from_slice(line).map_err(|error| corrupt(&path, error))?;
            // An image is written before its lines are removed.
            if generation > table.generation() {
                table.apply(&change).map_err(|error| corrupt(&path, error))?;
            }
        }
        let mut journal =
            Self { root: root.to_owned(), file: Arc::new(file), length: 0, lines: 0, is_broken: false };
        journal.shorten(&table)?;
        Ok((journal, table))
    }

    /// Writes a change down that leads to this generation.
    pub(super) async fn append(&mut self, generation: u64, change: &Change) -> Result<()> {
        if self.is_broken {
            return Err(Error::new(ErrorKind::Unavailable, "the journal is broken; open the directory anew"));
        }
        // Preconditions held; a replay from the journal must not ask for them again.
        let change = Change::new(change.id.clone(), change.ops.iter().cloned());
        let mut line = serde_json::to_vec(&Line { generation, change })
            .map_err(|error| Error::internal("a change can't be written as JSON").with_source(error))?;
        line.push(b'\n');
        let (file, size) = (Arc::clone(&self.file), line.len() as u64);
        let write = move || (&*file).write_all(&line).and_then(|()| file.sync_data());
        let written = tokio::task::spawn_blocking(write).await;
        if let Err(error) = written.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            let error = failed("writing the change down", &self.root, error);
            let undone = self.file.set_len(self.length).and_then(|()| self.file.sync_data());
            self.is_broken = undone.is_err();
            return Err(if self.is_broken { error.with_maybe_applied() } else { error });
        }
        self.length += size;
        self.lines += 1;
        Ok(())
    }

    /// Writes an image where there are many lines. Where that fails they are still there, and it is tried after the next one.
    pub(super) fn shorten_if_long(&mut self, table: &Table) {
        if self.lines >= MOST_LINES {
            let _ = self.shorten(table);
        }
    }

    fn shorten(&mut self, table: &Table) -> Result<()> {
        let (path, next) = (self.root.join("table.json"), self.root.join("table.json.next"));
        let text = serde_json::to_vec(&table.image())
            .map_err(|error| Error::internal("a table can't be written as JSON").with_source(error))?;
        let write = || {
            let mut file = File::create(&next)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&next, &path)?;
            File::open(&self.root)?.sync_all()?;
            self.file.set_len(0)
        };
        write().map_err(|error| failed("writing the table", &path, error))?;
        (self.length, self.lines) = (0, 0);
        Ok(())
    }
}
