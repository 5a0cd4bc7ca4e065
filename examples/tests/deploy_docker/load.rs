//! Load on the gateway: clients that send the next request when the last is answered, each counted by what answered it.
//!
//! Some keep their connection, some open one for every request, and some take their time over an answer, so that there is always a request
//! under way somewhere. A request has failed when it got no whole answer, or one that is no success; only the 500 that a bad revision says by
//! its own mouth is counted as what it is.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// The clients: so many of each kind.
const KINDS: [(Kind, usize); 3] = [(Kind::Kept, 4), (Kind::Fresh, 3), (Kind::Slow, 2)];
/// So many clients there are, and so many requests are under way at most.
pub(crate) const CLIENTS: u64 = 9;
/// From an answer to the next request: two cores have the engine to run, too.
const PAUSE: Duration = Duration::from_millis(8);
/// After so long without an answer a request has failed.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Keeps its connection.
    Kept,
    /// One connection for each request.
    Fresh,
    /// Keeps its connection, and asks for what is sent slowly.
    Slow,
}

/// What became of the requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    pub(crate) sent: u64,
    pub(crate) failed: u64,
    /// Why the first ones failed.
    pub(crate) why: Vec<String>,
    /// How many got which answer.
    pub(crate) answers: BTreeMap<String, u64>,
}

impl Told {
    /// What came after an earlier moment.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let more = |answer: &str, count: u64| count - before.answers.get(answer).copied().unwrap_or(0);
        Self {
            sent: self.sent - before.sent,
            failed: self.failed - before.failed,
            why: self.why.iter().skip(before.why.len()).cloned().collect(),
            answers: self
                .answers
                .iter()
                .map(|(answer, count)| (answer.clone(), more(answer, *count)))
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }

    /// The share of this answer among all that say a version.
    pub(crate) fn share(&self, answer: &str) -> f64 {
        let of = |name: &str| self.answers.get(name).copied().unwrap_or(0) as f64;
        of(answer) / self.answers.keys().filter(|name| *name != SLOW).map(|name| of(name)).sum::<f64>()
    }

    /// The answers that say a version, all of them.
    pub(crate) fn versions(&self) -> Vec<&str> {
        self.answers.keys().map(String::as_str).filter(|name| *name != SLOW).collect()
    }
}

/// What slow answers are counted as.
pub(crate) const SLOW: &str = "(slow)";
/// What a bad revision says with its 500.
pub(crate) const SICK: &str = "sick";

/// Clients at work until it is dropped.
pub(crate) struct Load {
    shared: Arc<Shared>,
    _clients: JoinSet<()>,
}

struct Shared {
    gateway: SocketAddr,
    told: Mutex<Told>,
    /// How many requests of each client have ended.
    rounds: Vec<AtomicU64>,
}

impl Load {
    pub(crate) fn start(gateway: SocketAddr) -> Self {
        let kinds: Vec<Kind> = KINDS.into_iter().flat_map(|(kind, count)| vec![kind; count]).collect();
        assert_eq!(kinds.len() as u64, CLIENTS);
        let rounds = kinds.iter().map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new(Shared { gateway, told: Mutex::default(), rounds });
        let mut clients = JoinSet::new();
        for (number, kind) in kinds.into_iter().enumerate() {
            clients.spawn(client(Arc::clone(&shared), number, kind));
        }
        Self { shared, _clients: clients }
    }

    /// What is known, once every request that was under way has ended.
    pub(crate) async fn told(&self) -> Told {
        let rounds =
            || self.shared.rounds.iter().map(|round| round.load(Ordering::SeqCst)).collect::<Vec<_>>();
        let before = rounds();
        for _ in 0..6000 {
            if rounds().iter().zip(&before).all(|(now, before)| *now > *before) {
                return self.shared.told.lock().unwrap().clone();
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("a client of the load stands still");
    }

    /// Waits for so many more answers.
    pub(crate) async fn more(&self, answers: u64) {
        let sent = || self.shared.told.lock().unwrap().sent;
        let until = sent() + answers;
        while sent() < until {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn client(shared: Arc<Shared>, number: usize, kind: Kind) {
    let mut kept = None;
    loop {
        let ended = timeout(PATIENCE, request(&mut kept, shared.gateway, kind)).await;
        {
            let mut told = shared.told.lock().unwrap();
            told.sent += 1;
            let ended = ended.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
            match ended {
                Ok(answer) => *told.answers.entry(answer).or_default() += 1,
                Err(error) => {
                    told.failed += 1;
                    if told.why.len() < 20 {
                        told.why.push(format!("{kind:?}: {error}"));
                    }
                    kept = None;
                }
            }
        }
        shared.rounds[number].fetch_add(1, Ordering::SeqCst);
        sleep(PAUSE).await;
    }
}

/// One request: what it was answered.
async fn request(kept: &mut Option<TcpStream>, gateway: SocketAddr, kind: Kind) -> Result<String> {
    let stream = match kept {
        Some(stream) => stream,
        None => kept.insert(TcpStream::connect(gateway).await?),
    };
    let path = if kind == Kind::Slow { "/slow" } else { "/" };
    let connection = if kind == Kind::Fresh { "Connection: close\r\n" } else { "" };
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: web.test\r\n{connection}\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(Error::new(
                ErrorKind::UnexpectedEof,
                format!("it ends after {} bytes", answer.len()),
            ));
        }
        let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok())
            .ok_or_else(|| Error::new(ErrorKind::InvalidData, format!("no length: {head}")))?;
        if answer.len() < end + 4 + length {
            continue;
        }
        if kind == Kind::Fresh || head.contains("connection: close") {
            *kept = None;
        }
        let body = String::from_utf8_lossy(&answer[end + 4..]).trim().to_owned();
        // What a bad revision says itself is its own fault, not that of the way there: counted under a name of its own.
        if head.starts_with("http/1.1 500 ") && body == SICK {
            return Ok(format!("500 {SICK}"));
        }
        if !head.starts_with("http/1.1 200 ") {
            let status = head.lines().next().unwrap_or_default();
            return Err(Error::new(ErrorKind::InvalidData, format!("{status}: {body}")));
        }
        return Ok(if kind == Kind::Slow { SLOW.to_owned() } else { body });
    }
}
