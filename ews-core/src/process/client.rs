//! The controller's side of a connection to a shim.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::time::timeout;

use super::protocol::{Ask, Frame, FrameReader, Hello, Tell, VERSIONS, words};
use super::sys::ipc::{self, Connection};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::instance::Incarnation;

/// A connection on which both know the version.
pub(super) struct Session {
    pub(super) reader: FrameReader<ReadHalf<Connection>>,
    pub(super) write: WriteHalf<Connection>,
    pub(super) incarnation: Incarnation,
    /// Whether the program was asked to stop.
    pub(super) stopping: bool,
}

/// Why a shim can't be asked.
#[derive(Debug)]
pub(super) enum Silence {
    /// Nobody listens: it is gone, or not there yet.
    Nobody,
    /// It does not answer in time, breaks off or talks nonsense.
    Broken(io::Error),
    /// It speaks other versions.
    Strange([u16; 2]),
}

impl Silence {
    /// The same for who asked the runtime.
    pub(super) fn error(self) -> Error {
        match self {
            Self::Nobody => Error::new(ErrorKind::Unavailable, "the instance's shim can't be reached"),
            Self::Broken(error) if error.kind() == io::ErrorKind::TimedOut => {
                Error::new(ErrorKind::Timeout, "the instance's shim does not answer")
            }
            Self::Broken(error) => {
                Error::new(ErrorKind::Unavailable, "the connection to the instance's shim broke")
                    .with_detail(error.to_string())
                    .with_source(error)
            }
            Self::Strange([low, high]) => Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the instance's shim speaks versions {low} to {high} and this program {} to {}; stop the instance by the \
                     program that started it, or update this one",
                    VERSIONS[0], VERSIONS[1]
                ),
            ),
        }
    }
}

impl From<io::Error> for Silence {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Self::Nobody,
            _ => Self::Broken(error),
        }
    }
}

/// Says hello on a new connection, and what is wanted in the same breath: a shim of another version reads no further.
pub(super) async fn greet(connection: Connection, ask: &Ask) -> Result<Session, Silence> {
    let (read, mut write) = tokio::io::split(connection);
    let mut reader = FrameReader::new(read);
    let mut first = words(&Hello { versions: VERSIONS })?;
    first.extend(words(ask)?);
    write.write_all(&first).await?;
    write.flush().await?;
    match reader.next::<Tell>().await? {
        Some(Frame::Words(Tell::Welcome { incarnation, stopping, .. })) => {
            Ok(Session { reader, write, incarnation, stopping })
        }
        Some(Frame::Words(Tell::Strange { versions })) => Err(Silence::Strange(versions)),
        Some(_) => {
            Err(Silence::Broken(io::Error::new(io::ErrorKind::InvalidData, "these are no words of welcome")))
        }
        None => Err(Silence::Broken(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// Connects and says what is wanted.
pub(super) async fn ask(socket: &Path, ask: &Ask, limit: Duration) -> Result<Session, Silence> {
    in_time(limit, async { greet(ipc::connect(socket).await?, ask).await }).await
}

/// Asks for something that is done at once.
pub(super) async fn done(socket: &Path, what: &Ask, limit: Duration) -> Result<(), Silence> {
    let answered = async {
        let mut session = ask(socket, what, limit).await?;
        answer(&mut session).await
    };
    in_time(limit, answered).await
}

/// The answer to what is done at once.
pub(super) async fn answer(session: &mut Session) -> Result<(), Silence> {
    match session.reader.next::<Tell>().await? {
        Some(Frame::Words(Tell::Done)) => Ok(()),
        Some(Frame::Words(Tell::Refused { reason })) => Err(Silence::Broken(io::Error::other(reason))),
        Some(_) => Err(Silence::Broken(io::ErrorKind::InvalidData.into())),
        None => Err(Silence::Broken(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// Gives up after so long.
pub(super) async fn in_time<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Silence>>,
) -> Result<T, Silence> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(Silence::Broken(io::ErrorKind::TimedOut.into())))
}

/// For calls that change something: whether it happened is not known.
pub(super) fn unsure(silence: Silence) -> Error {
    silence.error().with_maybe_applied().with_retry(Retry::AfterInspect)
}
