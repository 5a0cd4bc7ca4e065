//! Bytes between async code and code that blocks: archives are read and written by the `tar` crate on a thread for blocking work.
//!
//! Both ways hold at most [`PIECES`] pieces of [`PIECE`] bytes; whoever is faster waits. An error of either side reaches the other.

use std::io::{self, Read, Write};

use bytes::{Buf as _, Bytes, BytesMut};
use ews_core::runtime::ByteStream;
use ews_core::{Error, Result};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

/// The size of a piece that is written, in bytes.
const PIECE: usize = 64 * 1024;
/// How many pieces wait.
const PIECES: usize = 8;

/// Writes into a stream. What was not [finished](Self::finish) ends with an error.
pub(super) struct PipeWriter {
    sender: mpsc::Sender<Result<Bytes>>,
    waiting: BytesMut,
    /// Nothing more is sent: it ended, or failed.
    finished: bool,
}

/// A writer for a blocking thread, and the stream that it fills.
pub(super) fn writer() -> (PipeWriter, ByteStream) {
    let (sender, mut receiver) = mpsc::channel(PIECES);
    let stream = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
    (PipeWriter { sender, waiting: BytesMut::with_capacity(PIECE), finished: false }, Box::pin(stream))
}

impl PipeWriter {
    fn send(&self, piece: Result<Bytes>) -> io::Result<()> {
        self.sender.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Ends the stream.
    pub(super) fn finish(mut self) {
        // Nobody who has gone away needs to hear how it ended.
        let _ = self.flush();
        self.finished = true;
    }

    /// Ends the stream with an error; what is written from now on goes nowhere.
    pub(super) fn fail(&mut self, error: Error) {
        let _ = self.send(Err(error));
        self.finished = true;
    }
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.finished {
            return Ok(bytes.len());
        }
        let take = bytes.len().min(PIECE - self.waiting.len());
        self.waiting.extend_from_slice(bytes.get(..take).unwrap_or_default());
        if self.waiting.len() == PIECE {
            self.flush()?;
        }
        Ok(take)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() || self.finished {
            return Ok(());
        }
        let piece = self.waiting.split().freeze();
        self.waiting.reserve(PIECE);
        self.send(Ok(piece))
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        if !self.finished {
            // The thread may be unwinding: don't wait for room.
            let _ = self.sender.try_send(Err(Error::internal("the archive's writer stopped midway")));
        }
    }
}

/// Reads a stream on a blocking thread.
pub(super) struct PipeReader {
    receiver: mpsc::Receiver<Result<Bytes>>,
    piece: Bytes,
}

/// A reader for a blocking thread of what the stream gives.
pub(super) fn reader(mut stream: ByteStream) -> PipeReader {
    let (sender, receiver) = mpsc::channel(PIECES);
    tokio::spawn(async move {
        while let Some(piece) = stream.next().await {
            let last = piece.is_err();
            if sender.send(piece).await.is_err() || last {
                return;
            }
        }
    });
    PipeReader { receiver, piece: Bytes::new() }
}

impl Read for PipeReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let take = into.len().min(self.piece.len());
        self.piece.copy_to_slice(into.get_mut(..take).unwrap_or_default());
        Ok(take)
    }
}

/// The error that came through a pipe, or what `io` says.
pub(super) fn error(error: io::Error, otherwise: impl FnOnce(&io::Error) -> Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => otherwise(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_come_out_as_they_went_in() {
        let (mut writer, stream) = writer();
        let content: Vec<u8> = (0..1_000_003_u32).map(|n| (n % 251) as u8).collect();
        let written = content.clone();
        let wrote = tokio::task::spawn_blocking(move || {
            writer.write_all(&written).unwrap();
            writer.finish();
        });
        let mut reader = reader(stream);
        let read = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        wrote.await.unwrap();
        assert!(read.await.unwrap().unwrap() == content);
    }

    #[tokio::test]
    async fn an_error_goes_through() {
        let (mut writer, stream) = writer();
        tokio::task::spawn_blocking(move || writer.fail(Error::invalid("what it was"))).await.unwrap();
        let mut reader = reader(stream);
        let read = tokio::task::spawn_blocking(move || reader.read_to_end(&mut Vec::new())).await.unwrap();
        let error = error(read.unwrap_err(), |_| Error::internal("lost"));
        assert_eq!(error.message(), "what it was");
    }

    #[tokio::test]
    async fn a_writer_that_is_dropped_midway_is_no_end() {
        let (writer, mut stream) = writer();
        drop(writer);
        assert!(stream.next().await.unwrap().is_err());
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_reader_that_went_away_stops_the_writer() {
        let (mut writer, stream) = writer();
        drop(stream);
        let wrote = tokio::task::spawn_blocking(move || writer.write_all(&[0; 2 * PIECE]));
        assert_eq!(wrote.await.unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
