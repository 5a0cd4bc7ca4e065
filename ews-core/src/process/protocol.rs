//! What a controller and a shim say to each other, and how it is framed.
//!
//! A frame is a length (4 bytes, little endian, of what follows), a kind (1 byte) and a payload: JSON for words, raw bytes for
//! what a program reads and writes. A controller opens one connection per matter: one that watches for the end, one for each
//! signal, one for each command run inside.
//!
//! # Versions
//! Controllers and shims are replaced at different times: a shim lives as long as its program. Each connection begins with a
//! [`Hello`] that names the versions a controller speaks, and the shim answers with the highest that both do. Unknown fields of
//! a known word are ignored, so a version changes only when a word changes its meaning or a new one is needed. The plan of a
//! launch goes to a shim of the controller's own build; one of another build is asked for its version first.

use std::collections::BTreeMap;
use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::cgroup::Limits;
use super::record::ProcessId;
use crate::instance::{ExitStatus, Failure, Incarnation};
use crate::runtime::{OutputStream, TtySize};
use crate::spec::lifecycle::LogLimits;
use crate::spec::resources::ByteSize;
use crate::time::Timestamp;

/// The lowest and the highest version that this build speaks.
pub(super) const VERSIONS: [u16; 2] = [1, 1];

/// The largest payload of words: a plan holds a whole environment.
const MOST_WORDS: usize = 16 << 20;

/// The largest payload of bytes in one frame.
pub(super) const MOST_BYTES: usize = 64 << 10;

/// How many bytes of input a shim takes before the program has read them.
pub(super) const INPUT_WINDOW: usize = 256 << 10;

/// The first word of a controller.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Hello {
    /// The lowest and the highest version that it speaks.
    pub(super) versions: [u16; 2],
}

/// The version to speak, where there is one that both know.
pub(super) fn shared_version(theirs: [u16; 2]) -> Option<u16> {
    let [low, high] = VERSIONS;
    let version = high.min(theirs[1]);
    (version >= low.max(theirs[0])).then_some(version)
}

/// A controller's words.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    /// Start the program.
    Launch(Box<Plan>),
    /// Watch for the end.
    Watch,
    /// End the program: this signal, then a kill after so many milliseconds. Without a signal it is killed at once.
    Stop { signal: Option<u8>, grace: u64 },
    /// Send the program this signal.
    Signal { number: u8 },
    /// Tell of each change of the log.
    Follow,
    /// Run this inside.
    Exec(Box<ExecPlan>),
    /// The terminal's new size.
    Resize(TtySize),
    /// The input has ended.
    InputEnd,
    /// End the command and all that it started.
    Terminate,
}

/// A shim's words.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Tell {
    /// The answer to [`Hello`].
    Welcome { version: u16, incarnation: Incarnation, stopping: bool },
    /// There is no version that both know.
    Strange { versions: [u16; 2] },
    /// The program runs.
    Started { at: Timestamp, program: ProcessId },
    /// The program could not be started.
    Failed(Failure),
    /// It was done.
    Done,
    /// It can't be done.
    Refused { reason: String },
    /// The program has ended.
    Ended(ExitStatus),
    /// The log has changed.
    Changed,
    /// So many bytes of input went to the command.
    Taken { bytes: usize },
    /// The command has ended.
    ExecEnded(ExitStatus),
}

/// Everything that a shim must know. It holds the values of secrets: it is sent and never written down.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The directory of the instance.
    pub(super) directory: String,
    /// Where to listen.
    pub(super) socket: String,
    pub(super) incarnation: Incarnation,
    pub(super) boot: String,
    pub(super) command: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) workdir: String,
    pub(super) user: Option<User>,
    pub(super) ulimits: Vec<Limit>,
    pub(super) no_new_privileges: bool,
    pub(super) log_size: ByteSize,
    pub(super) log_files: u32,
    /// The directories of its control groups, one for each hierarchy.
    pub(super) cgroups: super::cgroup::Paths,
    pub(super) memory_limit: Option<u64>,
    pub(super) cpu_millis: Option<u32>,
    pub(super) pids_limit: Option<u32>,
}

impl Plan {
    pub(super) fn log(&self) -> LogLimits {
        LogLimits { max_size: self.log_size, max_files: self.log_files }
    }

    pub(super) fn limits(&self) -> Limits {
        Limits { memory: self.memory_limit, cpu_millis: self.cpu_millis, pids: self.pids_limit }
    }
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// A limit of the system per process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Limit {
    pub(super) name: String,
    /// `None` is unlimited.
    pub(super) soft: Option<u64>,
    pub(super) hard: Option<u64>,
}

/// Who a program runs as, by numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

/// A command to run inside.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct ExecPlan {
    pub(super) command: Vec<String>,
    /// Over the instance's own.
    pub(super) env: BTreeMap<String, String>,
    pub(super) workdir: Option<String>,
    pub(super) user: Option<User>,
    pub(super) tty: Option<TtySize>,
    pub(super) stdin: bool,
}

impl std::fmt::Debug for ExecPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecPlan").field("words", &self.command.len()).finish_non_exhaustive()
    }
}

/// What a frame holds.
#[derive(Debug)]
pub(super) enum Frame<W> {
    Words(W),
    Input(Bytes),
    Output(OutputStream, Bytes),
}

const WORDS: u8 = 1;
const INPUT: u8 = 2;
const STDOUT: u8 = 3;
const STDERR: u8 = 4;

/// The reading side of a connection.
pub(super) struct FrameReader<R> {
    from: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, buffer: BytesMut::new() }
    }

    /// The next frame; `None` at the end. Dropping the future loses nothing.
    pub(super) async fn next<W: DeserializeOwned>(&mut self) -> io::Result<Option<Frame<W>>> {
        loop {
            if let Some((kind, payload)) = self.take()? {
                return decode(kind, payload).map(Some);
            }
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the connection ended within a frame",
                ));
            }
        }
    }

    /// A whole frame out of what was read.
    fn take(&mut self) -> io::Result<Option<(u8, Bytes)>> {
        let Some((header, _)) = self.buffer.split_first_chunk::<5>() else { return Ok(None) };
        let [a, b, c, d, kind] = *header;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let most = if kind == WORDS { MOST_WORDS } else { MOST_BYTES };
        if length > most {
            return Err(damaged("a frame is longer than its kind may be"));
        }
        if self.buffer.len() < 5 + length {
            self.buffer.reserve(5 + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(5);
        Ok(Some((kind, self.buffer.split_to(length).freeze())))
    }
}

fn decode<W: DeserializeOwned>(kind: u8, payload: Bytes) -> io::Result<Frame<W>> {
    match kind {
        // The words may hold a secret's value, so the error says only where it went wrong.
        WORDS => serde_json::from_slice(&payload).map(Frame::Words).map_err(|error| {
            damaged(format!("unknown words, at column {} of {}", error.column(), payload.len()))
        }),
        INPUT => Ok(Frame::Input(payload)),
        STDOUT => Ok(Frame::Output(OutputStream::Stdout, payload)),
        STDERR => Ok(Frame::Output(OutputStream::Stderr, payload)),
        _ => Err(damaged("a frame of no known kind")),
    }
}

fn damaged(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn frame(kind: u8, payload: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(payload.len()).ok().filter(|length| *length as usize <= MOST_WORDS);
    let length = length.ok_or_else(|| damaged("the words are too long for one frame"))?;
    let mut frame = Vec::with_capacity(5 + payload.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.push(kind);
    frame.extend_from_slice(payload);
    Ok(frame)
}

/// Words as a frame.
pub(super) fn words<W: Serialize>(words: &W) -> io::Result<Vec<u8>> {
    frame(WORDS, &serde_json::to_vec(words)?)
}

/// Sends words.
pub(super) async fn say<T: AsyncWrite + Unpin, W: Serialize>(to: &mut T, say: &W) -> io::Result<()> {
    to.write_all(&words(say)?).await?;
    to.flush().await
}

/// Sends bytes for a program's input, at most [`MOST_BYTES`].
pub(super) async fn send_input<T: AsyncWrite + Unpin>(to: &mut T, bytes: &[u8]) -> io::Result<()> {
    to.write_all(&frame(INPUT, bytes)?).await?;
    to.flush().await
}

/// Sends bytes of a program's output, at most [`MOST_BYTES`].
pub(super) async fn send_output<T: AsyncWrite + Unpin>(
    to: &mut T,
    stream: OutputStream,
    bytes: &[u8],
) -> io::Result<()> {
    let kind = match stream {
        OutputStream::Stdout => STDOUT,
        OutputStream::Stderr => STDERR,
    };
    to.write_all(&frame(kind, bytes)?).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(bytes: &[u8]) -> Vec<Result<String, io::ErrorKind>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut reader = FrameReader::new(bytes);
            let mut seen = Vec::new();
            loop {
                match reader.next::<Ask>().await {
                    Ok(None) => return seen,
                    Ok(Some(frame)) => seen.push(Ok(format!("{frame:?}"))),
                    Err(error) => {
                        seen.push(Err(error.kind()));
                        return seen;
                    }
                }
            }
        })
    }

    #[test]
    fn frames_come_back_and_a_cut_one_is_said() {
        let mut bytes = words(&Ask::Watch).unwrap();
        bytes.extend(frame(INPUT, b"\0\x01\xff").unwrap());
        assert_eq!(read_all(&bytes), [Ok("Words(Watch)".into()), Ok(r#"Input(b"\0\x01\xff")"#.into())]);
        for cut in 1..bytes.len() {
            let seen = read_all(&bytes[..cut]);
            let whole = cut == bytes.len() - 8;
            assert_eq!(seen.last().unwrap().is_ok(), whole, "{cut}: {seen:?}");
        }
    }

    #[test]
    fn a_stranger_costs_nothing() {
        // A length of 4 GiB, an unknown kind, unknown words: an error, and no memory.
        for bytes in [&[0xff, 0xff, 0xff, 0xff, WORDS][..], &[0, 0, 0, 0, 77], b"\x04\0\0\0\x01oops"] {
            assert_eq!(read_all(bytes), [Err(io::ErrorKind::InvalidData)], "{bytes:?}");
        }
        let secret = br#"{"launch":{"env":{"A":"hunter2"}}}"#;
        let error = decode::<Ask>(WORDS, Bytes::from_static(secret)).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn versions_meet_where_they_can() {
        assert_eq!(shared_version([1, 9]), Some(1));
        assert_eq!(shared_version([0, 1]), Some(1));
        assert_eq!(shared_version([2, 9]), None);
        assert_eq!(shared_version([0, 0]), None);
    }

    #[test]
    fn a_newer_peers_extra_fields_are_passed_over() {
        let hello: Hello = serde_json::from_str(r#"{"versions":[1,4],"mood":"good"}"#).unwrap();
        assert_eq!(hello.versions, [1, 4]);
        let stop: Ask = serde_json::from_str(r#"{"stop":{"signal":15,"grace":10,"why":"x"}}"#).unwrap();
        assert!(matches!(stop, Ask::Stop { signal: Some(15), grace: 10 }));
    }
}
