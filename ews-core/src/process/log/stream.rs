//! A log as a stream of lines: the blocking reader behind an async face.

use std::path::PathBuf;

use futures_core::stream::BoxStream;
use futures_util::{StreamExt as _, stream};
use tokio::task::spawn_blocking;

use super::reader::LogReader;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::{LogLine, LogOptions, LogStream};

/// Gives what there is; then, with `follow`, what is written after each item of `wake`.
///
/// An item of `wake` says that something may have been written since; its end says that nothing more will be. The stream
/// then gives what is left and ends. It ends after an error, too.
///
/// One batch is read when the one before was taken, and nothing ahead of that. Dropping the stream ends it: at most the one
/// read that is under way runs to its end.
pub(crate) fn stream(dir: PathBuf, options: LogOptions, wake: BoxStream<'static, ()>) -> LogStream {
    let wake = options.follow.then_some(wake);
    let follower = Follower { source: Some(Source::Closed(dir, options)), wake };
    stream::unfold(follower, async |mut follower| {
        let batch = follower.batch().await?;
        Some((batch, follower))
    })
    .map(stream::iter)
    .flatten()
    .boxed()
}

struct Follower {
    /// `None` while a read is under way, and after an error.
    source: Option<Source>,
    /// `None` where nothing more will be written that is wanted.
    wake: Option<BoxStream<'static, ()>>,
}

enum Source {
    Closed(PathBuf, LogOptions),
    Open(LogReader),
}

impl Follower {
    /// The next lines, at least one; `None` at the end.
    async fn batch(&mut self) -> Option<Vec<Result<LogLine>>> {
        loop {
            let source = self.source.take()?;
            match spawn_blocking(move || source.read()).await.unwrap_or_else(|error| Err(lost(error))) {
                Err(error) => return Some(vec![Err(error)]),
                Ok((source, lines)) => {
                    self.source = Some(source);
                    if !lines.is_empty() {
                        return Some(lines.into_iter().map(Ok).collect());
                    }
                }
            }
            // The end of `wake` is followed by one more look: what was written last may have come without an item.
            if self.wake.as_mut()?.next().await.is_none() {
                self.wake = None;
            }
        }
    }
}

impl Source {
    fn read(self) -> Result<(Self, Vec<LogLine>)> {
        let mut reader = match self {
            Self::Closed(dir, options) => LogReader::open(dir, &options)?,
            Self::Open(reader) => reader,
        };
        let lines = reader.read()?;
        Ok((Self::Open(reader), lines))
    }
}

fn lost(error: tokio::task::JoinError) -> Error {
    let error = if error.is_cancelled() {
        Error::new(ErrorKind::Cancelled, "the async runtime ended while a log was read").with_source(error)
    } else {
        Error::internal("reading a log panicked").with_source(error)
    };
    error.with_operation("runtime.logs")
}
