//! What a container has written.
//!
//! The engine gives one frame for each record of its log, the moment in front, and cuts long lines at 16 KiB: a record without a line's end
//! is a piece of one.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use ews_core::runtime::{ByteStream, LogLine, LogOptions, LogStream, OutputStream};
use ews_core::{Error, ErrorKind, InstanceId, Result, Timestamp};
use futures_util::{StreamExt as _, stream};

use super::{Inner, observe};
use crate::client::frames::Frames;
use crate::client::{Call, Subject};

/// The longest piece that the contract gives.
const MAX_PIECE: usize = 64 * 1024;
/// The longest record that is put together; a longer one is given in pieces as it comes.
const MAX_RECORD: usize = 256 * 1024;

impl Inner {
    pub(super) async fn logs(&self, id: &InstanceId, options: &LogOptions) -> Result<LogStream> {
        const OPERATION: &str = "runtime.logs";
        let (seen, inspected) = self.find(id, OPERATION).await?;
        if !options.stdout && !options.stderr || options.tail == Some(0) && !options.follow {
            return Ok(stream::empty().boxed());
        }
        // An engine follows what was never started for ever, and a followed log ends with its program.
        let follow = options.follow && !seen.instance.state.is_ended();
        let mut call = Call::get(OPERATION, Subject::Container, &["containers", &seen.container, "logs"])
            .flag("follow", follow)
            .flag("stdout", options.stdout)
            .flag("stderr", options.stderr)
            .flag("timestamps", true);
        drop(inspected);
        if let Some(tail) = options.tail.filter(|tail| u64::try_from(*tail).is_ok_and(|tail| tail < 1 << 31))
        {
            call = call.query("tail", &tail.to_string());
        }
        if let Some(since) = options.since {
            let micros = since.as_micros();
            call = call.query("since", &format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000));
        }
        let idle = (!follow).then_some(self.engine.config().idle_limit);
        let (_, bytes) =
            self.engine.flow(call, idle).await.map_err(|error| error.with_context("instance", id))?;
        let since = options.since;
        let lines = lines(bytes).filter(move |line| {
            // An engine of podman's kind takes whole seconds.
            let wanted = line.as_ref().map_or(true, |line| since.is_none_or(|since| line.at >= since));
            std::future::ready(wanted)
        });
        Ok(lines.boxed())
    }
}

fn lines(bytes: ByteStream) -> LogStream {
    let state = Some(Reader {
        bytes,
        frames: Frames::default(),
        open: [Open::default(), Open::default()],
        ready: VecDeque::new(),
    });
    stream::unfold(state, |state| async move {
        let mut reader = state?;
        loop {
            if let Some(line) = reader.ready.pop_front() {
                return Some((Ok(line), Some(reader)));
            }
            match reader.bytes.next().await {
                Some(Ok(piece)) => {
                    reader.frames.push(&piece);
                    if let Err(error) = reader.take() {
                        return Some((Err(error.with_operation("runtime.logs")), None));
                    }
                }
                Some(Err(error)) => return Some((Err(error), None)),
                None if reader.frames.is_between_frames() => return None,
                None => {
                    let cut =
                        Error::new(ErrorKind::Unavailable, "the engine broke off in the middle of a line");
                    return Some((Err(cut.with_operation("runtime.logs")), None));
                }
            }
        }
    })
    .boxed()
}

struct Reader {
    bytes: ByteStream,
    frames: Frames,
    open: [Open; 2],
    ready: VecDeque<LogLine>,
}

/// A record that is being put together.
#[derive(Default)]
struct Open {
    record: BytesMut,
    /// The moment, where it was read already.
    at: Option<Timestamp>,
}

impl Reader {
    fn take(&mut self) -> Result<()> {
        while let Some(piece) = self.frames.next()? {
            let [out, err] = &mut self.open;
            let open = if piece.stream == OutputStream::Stdout { out } else { err };
            open.record.extend_from_slice(&piece.bytes);
            if open.at.is_none() && (piece.ends || open.record.len() > 64) {
                open.at = Some(moment_of(&mut open.record)?);
            }
            if piece.ends || open.record.len() > MAX_RECORD {
                let at = open.at.unwrap_or_default();
                let record = open.record.split().freeze();
                split(record, at, piece.stream, &mut self.ready);
                if piece.ends {
                    open.at = None;
                }
            }
        }
        Ok(())
    }
}

/// Takes the moment off the front of a record.
fn moment_of(record: &mut BytesMut) -> Result<Timestamp> {
    let end = record.iter().take(64).position(|byte| *byte == b' ');
    let read = end.and_then(|end| {
        let text = std::str::from_utf8(record.get(..end)?).ok()?;
        Some((end, observe::moment(text)?))
    });
    match read {
        Some((end, at)) => {
            drop(record.split_to(end + 1));
            Ok(at)
        }
        None => {
            Err(Error::new(ErrorKind::Decode, "a line of the engine's log does not begin with its moment"))
        }
    }
}

/// Cuts a record at its lines, and a long line at what the contract gives at most.
fn split(record: Bytes, at: Timestamp, stream: OutputStream, into: &mut VecDeque<LogLine>) {
    let mut rest = record;
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let (mut line, whole) = match end {
            Some(end) => {
                let line = rest.split_to(end);
                drop(rest.split_to(1));
                (line, true)
            }
            None if rest.is_empty() => return,
            None => (std::mem::take(&mut rest), false),
        };
        while line.len() > MAX_PIECE {
            let bytes = line.split_to(MAX_PIECE);
            into.push_back(LogLine::new(at, stream, bytes).with_partial(true));
        }
        into.push_back(LogLine::new(at, stream, line).with_partial(!whole));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(number: u8, payload: &str) -> Vec<u8> {
        let mut frame = vec![number, 0, 0, 0];
        frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        frame.extend_from_slice(payload.as_bytes());
        frame
    }

    async fn read(wire: Vec<u8>, cut: usize) -> Vec<Result<LogLine>> {
        let pieces: Vec<_> = wire.chunks(cut).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        lines(stream::iter(pieces).boxed()).collect().await
    }

    #[tokio::test]
    async fn records_become_lines_however_they_are_cut() {
        let mut wire = frame(1, "2026-01-01T00:00:00.5Z one\n");
        wire.extend(frame(2, "2026-01-01T00:00:01Z \n"));
        wire.extend(frame(1, "2026-01-01T01:00:02+01:00 part"));
        for cut in [1, 3, 1000] {
            let lines: Vec<_> = read(wire.clone(), cut).await.into_iter().map(Result::unwrap).collect();
            let seen: Vec<_> =
                lines.iter().map(|line| (&line.bytes[..], line.stream, line.partial)).collect();
            assert_eq!(
                seen,
                [
                    (&b"one"[..], OutputStream::Stdout, false),
                    (&b""[..], OutputStream::Stderr, false),
                    (&b"part"[..], OutputStream::Stdout, true),
                ]
            );
            assert_eq!(lines[2].at.since(lines[0].at), std::time::Duration::from_millis(1500));
        }
    }

    #[tokio::test]
    async fn a_giant_record_comes_in_bounded_pieces() {
        let wire = frame(1, &format!("2026-01-01T00:00:00Z {}\n", "x".repeat(1_000_000)));
        let lines: Vec<_> = read(wire, 10_000).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(lines.iter().map(|line| line.bytes.len()).sum::<usize>(), 1_000_000);
        assert!(lines.iter().all(|line| line.bytes.len() <= MAX_PIECE));
        assert_eq!(lines.iter().filter(|line| !line.partial).count(), 1);
    }

    #[tokio::test]
    async fn what_is_cut_off_or_no_log_is_an_error() {
        let mut cut = frame(1, "2026-01-01T00:00:00Z one\n");
        cut.pop();
        assert_eq!(read(cut, 7).await.pop().unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
        let strange = frame(1, "no moment here at all\n");
        assert_eq!(read(strange, 7).await.pop().unwrap().unwrap_err().kind(), ErrorKind::Decode);
    }
}
