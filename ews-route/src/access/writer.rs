//! From the threads to the log: batches over a bounded queue.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use super::{AccessFormat, AccessLog};

/// How much a thread collects before it hands it over at once.
const BATCH: usize = 64 * 1024;
/// How many batches wait, at most 16 MiB.
const QUEUE: usize = 256;

/// How threads get at the log.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) format: AccessFormat,
    batches: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

/// What one thread has collected.
#[derive(Debug)]
pub(crate) struct Lines {
    log: Written,
    collected: Vec<u8>,
    count: u64,
}

impl Written {
    /// How many lines were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// The other end of the queue, for a thread of its own.
pub(crate) struct Writer {
    batches: Receiver<Vec<u8>>,
    sink: Box<dyn Write + Send>,
}

/// Opens the queue.
pub(crate) fn open(log: AccessLog) -> (Written, Writer) {
    let (batches, receiver) = sync_channel(QUEUE);
    let written = Written { format: log.format, batches, dropped: Arc::default() };
    (written, Writer { batches: receiver, sink: log.sink })
}

impl Writer {
    /// Writes what comes until nobody can send any more.
    pub(crate) fn run(mut self) {
        let mut is_failing = false;
        while let Ok(batch) = self.batches.recv() {
            match self.sink.write_all(&batch).and_then(|()| self.sink.flush()) {
                Ok(()) => is_failing = false,
                // Once, not for each batch: a full disk lasts.
                Err(error) if !is_failing => {
                    is_failing = true;
                    tracing::warn!(%error, "the access log can't be written; its lines are lost until it can");
                }
                Err(_) => {}
            }
        }
    }
}

impl Lines {
    pub(crate) fn new(log: Written) -> Self {
        Self { log, collected: Vec::new(), count: 0 }
    }

    pub(crate) fn format(&self) -> AccessFormat {
        self.log.format
    }

    /// Takes one line, which `make` writes with its end.
    pub(crate) fn add(&mut self, make: impl FnOnce(&mut Vec<u8>)) {
        make(&mut self.collected);
        self.count += 1;
        if self.collected.len() >= BATCH {
            self.hand_over();
        }
    }

    /// Hands over what was collected.
    pub(crate) fn hand_over(&mut self) {
        if self.collected.is_empty() {
            return;
        }
        let (batch, count) = (std::mem::take(&mut self.collected), std::mem::take(&mut self.count));
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.log.batches.try_send(batch) {
            self.log.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.hand_over();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_stuck_costs_lines_that_are_counted_and_no_more_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let file = super::super::AccessFile::open(&path).unwrap();
        let (written, writer) = open(AccessLog::new(AccessFormat::Json, file));
        let mut lines = Lines::new(written.clone());
        let line = vec![b'x'; BATCH];
        for _ in 0..QUEUE + 10 {
            lines.add(|into| into.extend_from_slice(&line));
        }
        assert_eq!(written.dropped(), 10);
        assert!(lines.collected.is_empty());
        // What was taken comes out whole once it is written again.
        drop((lines, written));
        writer.run();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), (QUEUE * BATCH) as u64);
    }
}
