//! From the program's pipes into the log.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Shim, now};
use crate::process::log::{Lines, LogWriter};
use crate::runtime::OutputStream;
use crate::spec::lifecycle::LogLimits;

/// How much is read at a time: a pipe holds no more.
const PIECE: usize = 64 << 10;

/// The log, and who waits for it to grow.
pub(super) struct Log {
    writer: RefCell<LogWriter>,
    changed: RefCell<Option<watch::Sender<()>>>,
    changes: watch::Receiver<()>,
}

impl Log {
    pub(super) fn open(directory: &Path, limits: &LogLimits) -> io::Result<Self> {
        let (changed, changes) = watch::channel(());
        let writer = RefCell::new(LogWriter::open(directory, limits)?);
        Ok(Self { writer, changed: RefCell::new(Some(changed)), changes })
    }

    /// Changes of the log; it ends when no more will be written.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.clone()
    }

    /// Nothing more will be written.
    pub(super) fn end(&self) {
        let mut writer = self.writer.borrow_mut();
        writer.finish(now());
        let lost = writer.dropped();
        if lost.lines > 0 {
            // The log says so too, where it could; this file is the shim's own, beside it.
            use std::io::Write as _;
            let _ = writeln!(io::stderr(), "{} lines ({} bytes) of output were lost", lost.lines, lost.bytes);
        }
        self.changed.borrow_mut().take();
    }

    fn write(&self, stream: OutputStream, bytes: &[u8], partial: bool) {
        self.writer.borrow_mut().write(stream, now(), bytes, partial);
    }

    fn tell(&self) {
        if let Some(changed) = &*self.changed.borrow() {
            changed.send_replace(());
        }
    }
}

/// Reads one of the program's outputs to its end.
pub(super) fn keep(
    shim: &Rc<Shim>,
    mut pipe: impl AsyncRead + Unpin + 'static,
    stream: OutputStream,
) -> JoinHandle<()> {
    let shim = Rc::clone(shim);
    tokio::task::spawn_local(async move {
        let mut lines = Lines::default();
        // Taken when there is something to read and given back then: most programs are silent most of the time.
        let mut buffer = Vec::new();
        loop {
            if buffer.is_empty() {
                buffer.resize(PIECE, 0);
            }
            match pipe.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    let read = buffer.get(..count).unwrap_or_default();
                    lines.feed(read, |line, partial| shim.log.write(stream, line, partial));
                    shim.log.tell();
                }
            }
        }
        lines.finish(|line, partial| shim.log.write(stream, line, partial));
        shim.log.tell();
    })
}
