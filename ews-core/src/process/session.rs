//! A command run inside an instance, seen from the controller: its input, its output and its end as the contract has them.
//!
//! Two tasks stand between the connection and the three parts of a session. One takes what the shim sends and waits where nobody
//! reads the output; the other sends input, no more than the shim has room for, and words, which overtake it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use tokio::io::{AsyncReadExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;

use super::client::Session;
use super::protocol::{Ask, ExecPlan, Frame, FrameReader, INPUT_WINDOW, MOST_BYTES, Tell, say, send_input};
use super::sys::ipc::Connection;
use crate::capability::Capability;
use crate::error::{Error, Result};
use crate::id::InstanceId;
use crate::instance::ExitStatus;
use crate::runtime::{ExecControl, ExecOutput, ExecSession, TtySize};

/// How many pieces of output wait for a slow reader; each has at most [`MOST_BYTES`].
const PIECES: usize = 4;

/// How many words wait to be sent.
const WORDS: usize = 8;

/// How a session ended: `None` while it has not; then its status, where the shim has told one.
type Ended = Option<Option<ExitStatus>>;

/// Makes a session of a connection on which a command was asked for.
pub(super) fn session(connection: Session, plan: &ExecPlan, id: InstanceId) -> ExecSession {
    let (tell_end, ended) = watch::channel(None);
    let (give, given) = mpsc::channel(PIECES);
    let (words, asked) = mpsc::channel(WORDS);
    let room = Arc::new(Room { bytes: AtomicUsize::new(INPUT_WINDOW), more: Notify::new() });
    let (ours, stdin) = if plan.stdin {
        let (ours, theirs) = tokio::io::duplex(MOST_BYTES);
        (Some(ours), Some(theirs))
    } else {
        (None, None)
    };
    let reading = tokio::spawn(read(connection.reader, give, tell_end, Arc::clone(&room)));
    let writing = tokio::spawn(write(connection.write, ours, asked, room));
    let control = Control {
        words,
        ended,
        terminal: plan.tty.is_some(),
        id,
        tasks: [reading.abort_handle(), writing.abort_handle()],
    };
    let output =
        stream::unfold(given, |mut given| async move { given.recv().await.map(|piece| (Ok(piece), given)) });
    let stdin = stdin.map(|stdin| Box::pin(stdin) as std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>);
    ExecSession { stdin, output: output.boxed(), control: Box::new(control) }
}

/// How many bytes of input the shim still takes.
struct Room {
    bytes: AtomicUsize,
    more: Notify,
}

async fn read(
    mut from: FrameReader<ReadHalf<Connection>>,
    give: mpsc::Sender<ExecOutput>,
    tell_end: watch::Sender<Ended>,
    room: Arc<Room>,
) {
    let status = loop {
        match from.next::<Tell>().await {
            Ok(Some(Frame::Output(stream, bytes))) => {
                // Nobody wants it: then it is passed over, and the command goes on.
                let _ = give.send(ExecOutput { stream, bytes }).await;
            }
            Ok(Some(Frame::Words(Tell::Taken { bytes }))) => {
                room.bytes.fetch_add(bytes, Ordering::Relaxed);
                room.more.notify_one();
            }
            Ok(Some(Frame::Words(Tell::ExecEnded(status)))) => break Some(status),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break None,
        }
    };
    tell_end.send_replace(Some(status));
}

async fn write(
    mut to: WriteHalf<Connection>,
    mut input: Option<DuplexStream>,
    mut asked: mpsc::Receiver<Ask>,
    room: Arc<Room>,
) {
    let mut buffer = vec![0; MOST_BYTES];
    loop {
        let most = room.bytes.load(Ordering::Relaxed).min(MOST_BYTES);
        let next = async {
            match &mut input {
                Some(input) if most > 0 => input.read(buffer.get_mut(..most).unwrap_or_default()).await,
                _ => std::future::pending().await,
            }
        };
        let sent = tokio::select! {
            biased;
            ask = asked.recv() => match ask {
                Some(ask) => say(&mut to, &ask).await,
                // The session was dropped.
                None => return,
            },
            read = next => match read {
                Ok(count @ 1..) => {
                    room.bytes.fetch_sub(count, Ordering::Relaxed);
                    send_input(&mut to, buffer.get(..count).unwrap_or_default()).await
                }
                _ => {
                    input = None;
                    say(&mut to, &Ask::InputEnd).await
                }
            },
            () = room.more.notified() => Ok(()),
        };
        // The shim has gone, or closed its side: the reading task says how it ended.
        if sent.is_err() {
            return;
        }
    }
}

struct Control {
    words: mpsc::Sender<Ask>,
    ended: watch::Receiver<Ended>,
    terminal: bool,
    id: InstanceId,
    tasks: [AbortHandle; 2],
}

impl Drop for Control {
    fn drop(&mut self) {
        // The connection closes with its two tasks, and the shim ends what it ran there.
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Control {
    async fn say(&self, ask: Ask) -> Result<()> {
        // Where nobody takes it any more, the command has ended.
        let _ = self.words.send(ask).await;
        Ok(())
    }
}

#[async_trait]
impl ExecControl for Control {
    async fn resize(&self, size: TtySize) -> Result<()> {
        if !self.terminal {
            return Err(Error::unsupported(Capability::ExecResize).with_context("instance", &self.id));
        }
        self.say(Ask::Resize(size)).await
    }

    async fn terminate(&self) -> Result<()> {
        self.say(Ask::Terminate).await
    }

    async fn wait(&self) -> Result<ExitStatus> {
        let mut ended = self.ended.clone();
        let status = ended.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone().flatten());
        status.ok_or_else(|| {
            Error::not_found("instance", &self.id)
                .with_detail("it ended while a command ran in it, which ended with it")
        })
    }
}
