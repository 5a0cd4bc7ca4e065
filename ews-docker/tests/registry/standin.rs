//! A stand-in on the wire: it answers requests as a test says, also in ways that no registry should.
//!
//! It speaks HTTP/1.1 by hand, because an HTTP server would not tell a wrong length or stop within a body.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ews_core::backoff::BackoffConfig;
use ews_docker::registry::OciRegistryConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// How many came before it.
    pub(crate) number: usize,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    /// The decoded values of a field of the query.
    pub(crate) fn query(&self, name: &str) -> Vec<String> {
        let url = reqwest::Url::parse(&format!("http://x{}", self.target)).unwrap();
        url.query_pairs().filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect()
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    length: Option<u64>,
    end: End,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Proper,
    /// Closed after so much of the body.
    Cut(usize),
    /// Nothing more after so much of the body, and the connection stays.
    Hang(usize),
    /// Not even a head, and the connection stays.
    Silence,
    /// Not even a head, and the connection is closed.
    Lost,
    /// The body without a length, in chunks, again and again; after 64 MiB the connection is cut, so that a client without a bound
    /// fails its test and not the machine.
    Endless,
}

impl Reply {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), length: None, end: End::Proper }
    }

    pub(crate) fn silence() -> Self {
        Self { end: End::Silence, ..Self::new(0) }
    }

    pub(crate) fn lost() -> Self {
        Self { end: End::Lost, ..Self::new(0) }
    }

    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Tells this length, whatever the body has.
    pub(crate) fn length(mut self, length: u64) -> Self {
        self.length = Some(length);
        self
    }

    pub(crate) fn cut_after(mut self, bytes: usize) -> Self {
        self.end = End::Cut(bytes);
        self
    }

    pub(crate) fn hang_after(mut self, bytes: usize) -> Self {
        self.end = End::Hang(bytes);
        self
    }

    pub(crate) fn endless(mut self) -> Self {
        self.end = End::Endless;
        self
    }
}

type Answers = dyn Fn(&Request) -> Reply + Send + Sync;

/// A server on a port of loopback. It ends with the value.
pub(crate) struct StandIn {
    pub(crate) port: u16,
    log: Arc<Mutex<Vec<Request>>>,
    task: tokio::task::JoinHandle<()>,
}

impl StandIn {
    pub(crate) async fn start(answers: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, answers)
    }

    pub(crate) fn on(
        listener: TcpListener,
        answers: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let port = listener.local_addr().unwrap().port();
        let (answers, log): (Arc<Answers>, Arc<Mutex<Vec<Request>>>) = (Arc::new(answers), Arc::default());
        let (count, kept) = (Arc::new(AtomicUsize::new(0)), log.clone());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, log, count) = (answers.clone(), kept.clone(), count.clone());
                connections.spawn(async move {
                    let mut stream = stream;
                    while let Some(request) = read(&mut stream, &count).await {
                        let reply = answers(&request);
                        let without_body = request.method == "HEAD";
                        log.lock().unwrap().push(request);
                        if !write(&mut stream, reply, without_body).await {
                            break;
                        }
                    }
                });
            }
        });
        Self { port, log, task }
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What came so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// For a client that tries three times in quick succession.
    pub(crate) fn config(&self) -> OciRegistryConfig {
        let quick =
            BackoffConfig::new(std::time::Duration::from_millis(1), std::time::Duration::from_millis(10))
                .unwrap();
        OciRegistryConfig::default()
            .with_plain_http(self.host())
            .without_proxy()
            .with_attempts(3)
            .with_backoff(quick)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads a request; `None` where the peer has closed.
async fn read(stream: &mut TcpStream, count: &AtomicUsize) -> Option<Request> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let mut lines = text.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let split = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    let headers: Vec<(String, String)> = lines.filter_map(split).collect();
    let number = count.fetch_add(1, Ordering::SeqCst);
    let mut request = Request { method, target, headers, body: Vec::new(), number };
    assert!(request.header("transfer-encoding").is_none(), "every body tells its length");
    let length: usize = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = bytes.split_off(head + 4);
    while body.len() < length {
        // A client that gives an upload up closes within it.
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    request.body = body;
    Some(request)
}

/// Writes an answer; false where the connection is not to be used again.
async fn write(stream: &mut TcpStream, reply: Reply, without_body: bool) -> bool {
    match reply.end {
        End::Silence => return std::future::pending().await,
        End::Lost => return false,
        _ => {}
    }
    let mut head = format!("HTTP/1.1 {} Stand-In\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if matches!(reply.end, End::Endless) {
        head.push_str("transfer-encoding: chunked\r\n\r\n");
        let mut all = head.into_bytes();
        let mut left: usize = 64 << 20;
        while left > 0 {
            if stream.write_all(&all).await.is_err() {
                return false;
            }
            all = format!("{:x}\r\n", reply.body.len()).into_bytes();
            all.extend_from_slice(&reply.body);
            all.extend_from_slice(b"\r\n");
            left = left.saturating_sub(all.len());
        }
        return false;
    }
    if reply.status != 204 {
        head.push_str(&format!("content-length: {}\r\n", reply.length.unwrap_or(reply.body.len() as u64)));
    }
    head.push_str("\r\n");
    let mut all = head.into_bytes();
    let sent = match reply.end {
        End::Cut(bytes) | End::Hang(bytes) => bytes.min(reply.body.len()),
        _ => reply.body.len(),
    };
    if !without_body {
        all.extend_from_slice(&reply.body[..sent]);
    }
    if stream.write_all(&all).await.is_err() || stream.flush().await.is_err() {
        return false;
    }
    match reply.end {
        End::Hang(_) => std::future::pending().await,
        End::Cut(_) => false,
        _ => reply.length.is_none() || without_body,
    }
}
