//! Load on the gateway: paced requests over kept connections, each counted.
//!
//! A request has failed when it got no answer or one that is no success. Who wants to
//! know how a part of the tour went compares the counts before and after it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// How many connections are kept.
pub(super) const CONNECTIONS: u32 = 8;
/// How often a connection without anything to send looks whether there is.
const IDLE: Duration = Duration::from_millis(20);
/// The longest that a request may take.
const LONGEST: Duration = Duration::from_secs(5);
/// Of how many failures the words are kept.
const TOLD: usize = 8;
/// The longest head and body that is read.
const ANSWER: usize = 64 * 1024;

/// Requests under way until it is dropped.
pub(super) struct Load {
    shared: Arc<Shared>,
    _connections: JoinSet<()>,
}

struct Shared {
    gateway: SocketAddr,
    /// Requests per second, all connections together.
    rate: AtomicU32,
    sent: AtomicU64,
    failed: AtomicU64,
    /// Whether a request whose connection broke is sent once more: a `GET` may be.
    replays: bool,
    replayed: AtomicU64,
    /// What became of those that failed and that nobody has asked for yet.
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Connections that send nothing until a rate is set.
    pub(super) fn start(gateway: SocketAddr) -> Self {
        Self::begin(gateway, false)
    }

    /// The same, by clients that send a request again when their connection breaks, as a browser does with a `GET`.
    pub(super) fn replaying(gateway: SocketAddr) -> Self {
        Self::begin(gateway, true)
    }

    fn begin(gateway: SocketAddr, replays: bool) -> Self {
        let shared = Arc::new(Shared {
            gateway,
            rate: AtomicU32::new(0),
            sent: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            replays,
            replayed: AtomicU64::new(0),
            failures: Mutex::default(),
        });
        let mut connections = JoinSet::new();
        for _ in 0..CONNECTIONS {
            connections.spawn(connection(Arc::clone(&shared)));
        }
        Self { shared, _connections: connections }
    }

    /// So many requests per second from now on.
    pub(super) fn set_rate(&self, rate: u32) {
        self.shared.rate.store(rate, Ordering::Relaxed);
    }

    /// How often a request was sent again.
    pub(super) fn replayed(&self) -> u64 {
        self.shared.replayed.load(Ordering::Relaxed)
    }

    /// What became of the first requests that failed since this was asked for.
    pub(super) fn failures(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many were sent, and how many of them failed, so far.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.shared.sent.load(Ordering::Relaxed), self.shared.failed.load(Ordering::Relaxed))
    }
}

async fn connection(shared: Arc<Shared>) {
    let mut stream = None;
    let mut next = Instant::now();
    loop {
        let rate = shared.rate.load(Ordering::Relaxed);
        if rate == 0 {
            tokio::time::sleep(IDLE).await;
            continue;
        }
        let pause = Duration::from_secs(1) * CONNECTIONS / rate;
        next += pause;
        // What could not be sent in time is left out, not sent in a burst.
        next = next.max(Instant::now());
        tokio::time::sleep_until(next).await;
        let answered = timeout(LONGEST, answered(&mut stream, &shared)).await;
        shared.sent.fetch_add(1, Ordering::Relaxed);
        let failure = match answered {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {LONGEST:?}"),
        };
        shared.failed.fetch_add(1, Ordering::Relaxed);
        stream = None;
        let mut failures = shared.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() < TOLD {
            failures.push(failure);
        }
    }
}

async fn answered(stream: &mut Option<TcpStream>, shared: &Shared) -> std::io::Result<()> {
    loop {
        match request(stream, shared.gateway).await {
            // What answered with an error has answered.
            Err(error) if shared.replays && error.kind() != std::io::ErrorKind::InvalidData => {
                *stream = None;
                shared.replayed.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(IDLE).await;
            }
            result => return result,
        }
    }
}

/// One request of its own: the status and the text of the answer.
pub(super) async fn fetch(address: SocketAddr, path: &str, host: &str) -> std::io::Result<(u16, String)> {
    let fetched = async {
        let mut stream = TcpStream::connect(address).await?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        while stream.read_buf(&mut answer).await? > 0 {
            if answer.len() > ANSWER {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
        }
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
        match (status, text.split_once("\r\n\r\n")) {
            (Some(status), Some((_, body))) => Ok((status, body.trim().to_owned())),
            _ => Err(std::io::ErrorKind::InvalidData.into()),
        }
    };
    timeout(Duration::from_secs(5), fetched)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// One request over the kept connection, or a new one.
async fn request(kept: &mut Option<TcpStream>, gateway: SocketAddr) -> std::io::Result<()> {
    let stream = match kept {
        Some(stream) => stream,
        None => kept.insert(TcpStream::connect(gateway).await?),
    };
    stream.write_all(b"GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n").await?;
    let mut answer = Vec::new();
    loop {
        if stream.read_buf(&mut answer).await? == 0 || answer.len() > ANSWER {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(answer.get(..end).unwrap_or_default()).to_ascii_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        if answer.len() < end + 4 + length.unwrap_or(0) {
            continue;
        }
        if head.contains("connection: close") {
            *kept = None;
        }
        let fine = head.starts_with("http/1.1 200 ") && length.is_some();
        let line = || head.lines().next().unwrap_or_default().to_owned();
        return if fine { Ok(()) } else { Err(std::io::Error::new(std::io::ErrorKind::InvalidData, line())) };
    }
}
