//! An upstream that a test scripts: for each request that it reads, a closure says what it does.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// A request as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// The head, as text.
    pub(crate) head: String,
    /// The body, as it was framed.
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: String,
    /// Which request of its connection, from 1.
    pub(crate) number: usize,
}

impl Received {
    pub(crate) fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    pub(crate) fn method(&self) -> &str {
        self.head.split(' ').next().unwrap_or_default()
    }

    /// The values of this header.
    pub(crate) fn header(&self, name: &str) -> Vec<String> {
        let pairs = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
        pairs
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_owned())
            .collect()
    }
}

/// What an upstream does with a request.
pub(crate) enum Deed {
    /// Sends these bytes and goes on.
    Send(Vec<u8>),
    /// Sends these bytes and closes.
    SendAndClose(Vec<u8>),
    /// Sends these bytes and resets the connection.
    SendAndReset(Vec<u8>),
}

pub(crate) fn ok(body: &str) -> Deed {
    Deed::Send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

type Script = Arc<dyn Fn(Received) -> Pin<Box<dyn Future<Output = Deed> + Send>> + Send + Sync>;

/// A scripted upstream.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    received: Arc<Mutex<Vec<Received>>>,
    accepting: AbortHandle,
    serving: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Upstream {
    pub(crate) async fn new<F: Future<Output = Deed> + Send + 'static>(
        script: impl Fn(Received) -> F + Send + Sync + 'static,
    ) -> Self {
        Self::at(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    /// One that answers every request with its name.
    pub(crate) async fn named(name: &'static str) -> Self {
        Self::new(move |_| async move { ok(name) }).await
    }

    pub(crate) fn at<F: Future<Output = Deed> + Send + 'static>(
        listener: TcpListener,
        script: impl Fn(Received) -> F + Send + Sync + 'static,
    ) -> Self {
        let script: Script = Arc::new(move |received| Box::pin(script(received)));
        let address = listener.local_addr().unwrap();
        let (connections, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let received = Arc::new(Mutex::new(Vec::new()));
        let serving = Arc::new(Mutex::new(Vec::new()));
        let accepting = tokio::spawn({
            let (connections, open, received, serving) =
                (connections.clone(), open.clone(), received.clone(), serving.clone());
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    connections.fetch_add(1, Ordering::Relaxed);
                    open.fetch_add(1, Ordering::Relaxed);
                    let (script, received, open) = (script.clone(), received.clone(), open.clone());
                    let task = tokio::spawn(async move {
                        let _ = serve(stream, script, received).await;
                        open.fetch_sub(1, Ordering::Relaxed);
                    });
                    serving.lock().unwrap().push(task.abort_handle());
                }
            }
        });
        let accepting = accepting.abort_handle();
        Self { address, connections, open, received, accepting, serving }
    }

    /// How many connections it ever had, and how many it has.
    pub(crate) fn connections(&self) -> (usize, usize) {
        (self.connections.load(Ordering::Relaxed), self.open.load(Ordering::Relaxed))
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// Dies as a killed process does: all its sockets are closed.
    pub(crate) fn kill(&self) {
        self.accepting.abort();
        for task in self.serving.lock().unwrap().drain(..) {
            task.abort();
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn serve(mut stream: TcpStream, script: Script, all: Arc<Mutex<Vec<Received>>>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut buffer, mut number) = (Vec::new(), 0);
    loop {
        let Some(head) = take_until(&mut stream, &mut buffer, b"\r\n\r\n").await? else { return Ok(()) };
        number += 1;
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut received = Received { head, body: Vec::new(), trailers: String::new(), number };
        if let Some(length) = received.header("content-length").first() {
            let length = length.parse().unwrap();
            while buffer.len() < length {
                if stream.read_buf(&mut buffer).await? == 0 {
                    return Ok(());
                }
            }
            received.body = buffer.drain(..length).collect();
        } else if !received.header("transfer-encoding").is_empty() {
            loop {
                let Some(size) = take_until(&mut stream, &mut buffer, b"\r\n").await? else { return Ok(()) };
                let size = usize::from_str_radix(String::from_utf8_lossy(&size).trim(), 16).unwrap();
                if size == 0 {
                    break;
                }
                while buffer.len() < size + 2 {
                    if stream.read_buf(&mut buffer).await? == 0 {
                        return Ok(());
                    }
                }
                received.body.extend(buffer.drain(..size + 2).take(size));
            }
            while let Some(line) = take_until(&mut stream, &mut buffer, b"\r\n").await?
                && line != b"\r\n"
            {
                received.trailers.push_str(&String::from_utf8_lossy(&line));
            }
        }
        all.lock().unwrap().push(received.clone());
        // A peer that goes away meanwhile must show, as it does to a real server.
        let deed = tokio::select! {
            deed = script(received) => deed,
            _ = gone(&stream) => return Ok(()),
        };
        match deed {
            Deed::Send(bytes) => stream.write_all(&bytes).await?,
            Deed::SendAndClose(bytes) => return stream.write_all(&bytes).await,
            Deed::SendAndReset(bytes) => {
                stream.write_all(&bytes).await?;
                stream.set_zero_linger()?;
                return Ok(());
            }
        }
    }
}

async fn gone(stream: &TcpStream) {
    let mut byte = [0];
    loop {
        match stream.peek(&mut byte).await {
            Ok(0) | Err(_) => return,
            // A pipelined request waits its turn.
            Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
        }
    }
}

async fn take_until(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    end: &[u8],
) -> std::io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(at) = buffer.windows(end.len()).position(|window| window == end) {
            return Ok(Some(buffer.drain(..at + end.len()).collect()));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}
