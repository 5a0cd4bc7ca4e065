//! Bytes both ways after an upgrade, such as a WebSocket's: whatever they mean, they pass as they are.
//!
//! An idle tunnel holds no buffer: what is read lies in the thread's own until it is written, and only what the other side
//! does not take at once is kept. While something is kept nothing more is read, so a slow reader slows the writer down.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::Connection;
use super::exchange::Exchange;
use super::io::ClientIo;
use super::stream::Stream;

/// An upgraded connection to an endpoint, until the client's side of it is upgraded as well.
pub(crate) struct Tunnel {
    pub(crate) upstream: Stream,
    /// What the endpoint has sent already.
    pub(crate) read: Bytes,
    pub(crate) exchange: Exchange,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a tunnel")
    }
}

impl Tunnel {
    /// Moves bytes until both sides have ended, one breaks, or nothing moves for too long.
    pub(crate) async fn run(self, connection: &Rc<Connection>, client: ClientIo, read: Bytes) {
        let Self { mut upstream, read: answered, mut exchange } = self;
        let (mut client, early) = client.into_stream();
        let mut up = Way::new([read, Bytes::from(early)].concat());
        let mut down = Way::new(answered.to_vec());
        let ended = poll_fn(|cx| {
            connection.register(cx.waker());
            if connection.is_over() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            let up = up.poll(&mut client, &mut upstream, connection, cx)?;
            let down = down.poll(&mut upstream, &mut client, connection, cx)?;
            if up.is_ready() && down.is_ready() { Poll::Ready(Ok::<_, io::Error>(())) } else { Poll::Pending }
        });
        let ended = ended.await;
        exchange.moved(down.moved);
        match ended {
            Ok(()) => exchange.complete(None),
            // Who broke it off is counted as the client, unless it was closed by force; a tunnel has no answer to break off.
            Err(_) => drop(exchange),
        }
    }
}

/// One direction.
#[derive(Debug)]
struct Way {
    kept: Bytes,
    is_ended: bool,
    is_shut: bool,
    /// How many bytes were taken.
    moved: u64,
}

impl Way {
    fn new(kept: Vec<u8>) -> Self {
        Self { kept: kept.into(), is_ended: false, is_shut: false, moved: 0 }
    }

    fn poll<R, W>(
        &mut self,
        from: &mut R,
        to: &mut W,
        connection: &Connection,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while !self.kept.is_empty() {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.kept))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                connection.progress();
                self.moved += written as u64;
                self.kept.advance(written);
            }
            if self.is_ended {
                if !self.is_shut {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.is_shut = true;
                }
                return Poll::Ready(Ok(()));
            }
            let mut scratch = connection.thread.scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer))?;
            let read = buffer.filled();
            if read.is_empty() {
                self.is_ended = true;
                continue;
            }
            connection.progress();
            let written = match Pin::new(&mut *to).poll_write(cx, read) {
                Poll::Ready(written) => written?,
                Poll::Pending => 0,
            };
            self.moved += written as u64;
            self.kept = Bytes::copy_from_slice(read.get(written..).unwrap_or_default());
            // What was not taken is polled once more above, which registers for its turn.
        }
    }
}
