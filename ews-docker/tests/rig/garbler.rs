//! A port that answers with whatever bytes a test likes: what no engine and no honest HTTP server would say.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ews_docker::{DockerConfig, EngineAddress};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What is said in answer to one request.
#[derive(Debug, Clone)]
pub(crate) enum Say {
    /// These bytes, then the connection ends.
    Bytes(Vec<u8>),
    /// These bytes, and the second ones again and again until nobody listens.
    Endless(Vec<u8>, Vec<u8>),
    /// These bytes, and then nothing.
    Stall(Vec<u8>),
    /// These bytes, and the connection is reset, whatever was still to be read.
    Slam(Vec<u8>),
}

impl Say {
    /// An answer with this status and JSON.
    pub(crate) fn json(status: u16, body: &str) -> Self {
        let length = body.len();
        Self::Bytes(
            format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
                .into_bytes(),
        )
    }
}

type Script = dyn Fn(&str) -> Say + Send + Sync;

/// The port. It ends with this value.
pub(crate) struct Garbler {
    port: u16,
    said: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

pub(crate) const VERSION: &str = r#"{"Version":"20.10.24","ApiVersion":"1.41","MinAPIVersion":"1.12"}"#;
pub(crate) const INFO: &str =
    r#"{"ID":"GARB:LER","Name":"garbler","OSType":"linux","Architecture":"x86_64","NCPU":1}"#;

impl Garbler {
    /// Answers each request by its line, such as `GET /v1.41/containers/json`; questions after the version and the engine are answered well.
    pub(crate) async fn start(script: impl Fn(&str) -> Say + Send + Sync + 'static) -> Self {
        Self::mute(move |line| match line {
            line if line.ends_with("/version") => Say::json(200, VERSION),
            line if line.ends_with("/info") => Say::json(200, INFO),
            line => script(line),
        })
        .await
    }

    /// The same without those answers.
    pub(crate) async fn mute(script: impl Fn(&str) -> Say + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let said = Arc::new(AtomicUsize::new(0));
        let (script, counted): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&said));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&script), Arc::clone(&counted)));
            }
        });
        Self { port, said, task }
    }

    pub(crate) fn config(&self) -> DockerConfig {
        DockerConfig::new(EngineAddress::Tcp { host: "127.0.0.1".to_owned(), port: self.port })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How many bytes were taken from it.
    pub(crate) fn said(&self) -> usize {
        self.said.load(Ordering::Relaxed)
    }
}

impl Drop for Garbler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: TcpStream, script: Arc<Script>, said: Arc<AtomicUsize>) {
    let mut request = Vec::new();
    // Whatever is no HTTP is answered too: it has no end that could be waited for.
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.first() != Some(&22) {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let text = String::from_utf8_lossy(&request);
    let line = text.lines().next().unwrap_or_default();
    let line =
        line.rsplit_once(" HTTP/").map_or(line, |(line, _)| line).split('?').next().unwrap_or_default();
    let said_all = script(line);
    let slam = matches!(said_all, Say::Slam(_));
    let (first, again, stall) = match said_all {
        Say::Bytes(bytes) | Say::Slam(bytes) => (bytes, Vec::new(), false),
        Say::Stall(bytes) => (bytes, Vec::new(), true),
        Say::Endless(bytes, again) => (bytes, again, false),
    };
    if stream.write_all(&first).await.is_err() {
        return;
    }
    if slam {
        return;
    }
    while !again.is_empty() && stream.write_all(&again).await.is_ok() {
        said.fetch_add(again.len(), Ordering::Relaxed);
    }
    if stall {
        std::future::pending::<()>().await;
    }
    // A connection that is closed with something unread breaks, and takes along what was said.
    let _ = stream.shutdown().await;
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await.is_ok_and(|count| count > 0) {}
}
