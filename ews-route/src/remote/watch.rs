//! A watch that goes on over lost connections, and hyper's view of a tokio socket.
//!
//! The first stream is open before [`watch`] returns, so that nothing after the call is missed. When it breaks, or is silent
//! for longer than the gateway's heartbeats allow, another is opened, and a gap says that something may be missing between.

use std::io::Result as IoResult;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use ews_core::Result;
use ews_core::balancer::BalancerEvent;
use ews_core::event::{Gap, Notice};
use futures_core::stream::BoxStream;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::client::Client;

/// How many notices wait for a slow consumer here; beyond, the gateway's own queue fills and tells of a gap.
const QUEUE: usize = 256;
/// How long a stream may say nothing: three heartbeats.
const SILENCE: Duration = Duration::from_secs(15);
/// The longest line.
const MAX_LINE: usize = 1024 * 1024;
/// Between two attempts to open a stream: from the first on, doubled up to the second.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];
const PATH: &str = "/v1/balancer/watch";

type Sender = mpsc::Sender<Notice<BalancerEvent>>;

/// Notices from now on.
pub(super) async fn watch(client: Arc<Client>) -> Result<BoxStream<'static, Notice<BalancerEvent>>> {
    let first = client.stream(PATH).await?.into_body();
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(follow(client, first, sender));
    Ok(Box::pin(futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|notice| (notice, receiver))
    })))
}

async fn follow(client: Arc<Client>, first: Incoming, sender: Sender) {
    let mut body = first;
    loop {
        tokio::select! {
            () = sender.closed() => return,
            () = hand_on(body, &sender) => {}
        }
        let mut pause = PAUSES[0];
        body = loop {
            tokio::select! {
                () = sender.closed() => return,
                opened = client.stream(PATH) => if let Ok(opened) = opened {
                    break opened.into_body();
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES[1]);
        };
        if sender.send(Notice::Gap(Gap::Reconnected)).await.is_err() {
            return;
        }
    }
}

/// Hands on what a stream says until it ends.
async fn hand_on(mut body: Incoming, sender: &Sender) {
    let mut buffer = BytesMut::new();
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(SILENCE, body.frame()).await {
        let Ok(data) = frame.into_data() else { continue };
        buffer.extend_from_slice(&data);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(end);
            buffer.advance(1);
            if line.is_empty() {
                continue;
            }
            // An event that a newer gateway has and this client does not know is still a reason to look.
            let notice = serde_json::from_slice(&line).unwrap_or(Notice::Gap(Gap::EngineLost));
            if sender.send(notice).await.is_err() {
                return;
            }
        }
        if buffer.len() > MAX_LINE {
            return;
        }
    }
}

/// A tokio socket as hyper reads and writes it.
pub(super) struct TokioIo {
    stream: TcpStream,
    buffer: Box<[u8]>,
}

impl TokioIo {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: vec![0; 16 * 1024].into_boxed_slice() }
    }
}

impl Read for TokioIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut target: ReadBufCursor<'_>,
    ) -> Poll<IoResult<()>> {
        let this = self.get_mut();
        let length = this.buffer.len().min(target.remaining());
        let mut buffer = ReadBuf::new(this.buffer.get_mut(..length).unwrap_or_default());
        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer))?;
        target.put_slice(buffer.filled());
        Poll::Ready(Ok(()))
    }
}

impl Write for TokioIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<IoResult<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
