//! A client that sends what it is given and reads answers byte by byte as HTTP/1.1 frames them.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::PATIENCE;

/// A connection to the gateway.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: String,
    /// Whether the connection broke before the body's end.
    pub(crate) is_cut: bool,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        Self::of(stream)
    }

    pub(crate) fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, read: Vec::new() }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.send_bytes(text.as_bytes()).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Sends as far as the other side takes it.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n")).await;
        self.answer().await
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        self.answer_to("GET").await.expect("an answer")
    }

    /// The next answer; `None` where the connection ended before one.
    pub(crate) async fn answer_to(&mut self, method: &str) -> Option<Answer> {
        tokio::time::timeout(PATIENCE, self.read_answer(method)).await.expect("an answer in time")
    }

    async fn read_answer(&mut self, method: &str) -> Option<Answer> {
        loop {
            let head = self.until(b"\r\n\r\n").await?;
            let head = String::from_utf8_lossy(&head).into_owned();
            let mut lines = head.split("\r\n");
            let status: u16 = lines.next()?.split(' ').nth(1)?.parse().unwrap();
            if status == 100 {
                continue;
            }
            let pair = |line: &str| {
                let (name, value) = line.split_once(": ")?;
                Some((name.to_ascii_lowercase(), value.to_owned()))
            };
            let headers = lines.filter_map(pair).collect();
            let mut answer =
                Answer { status, headers, body: Vec::new(), trailers: String::new(), is_cut: false };
            if method != "HEAD" && status != 204 && status != 304 {
                self.read_body(&mut answer).await;
            }
            return Some(answer);
        }
    }

    async fn read_body(&mut self, answer: &mut Answer) {
        if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let Some(size) = self.until(b"\r\n").await else {
                    answer.is_cut = true;
                    return;
                };
                let size = usize::from_str_radix(String::from_utf8_lossy(&size).trim(), 16).unwrap();
                if size == 0 {
                    break;
                }
                let Some(mut chunk) = self.exactly(size + 2).await else {
                    answer.is_cut = true;
                    return;
                };
                chunk.truncate(size);
                answer.body.extend(chunk);
            }
            while let Some(line) = self.until(b"\r\n").await
                && line != b"\r\n"
            {
                answer.trailers.push_str(&String::from_utf8_lossy(&line));
            }
            return;
        }
        let Some(length) = answer.header("content-length").map(|text| text.parse::<usize>().unwrap()) else {
            while self.more().await {}
            answer.body = std::mem::take(&mut self.read);
            return;
        };
        match self.exactly(length).await {
            Some(body) => answer.body = body,
            None => {
                answer.is_cut = true;
                answer.body = std::mem::take(&mut self.read);
            }
        }
    }

    async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|window| window == end) {
                return Some(self.read.drain(..at + end.len()).collect());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    pub(crate) async fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.read.len() < length {
            if !self.more().await {
                return None;
            }
        }
        Some(self.read.drain(..length).collect())
    }

    async fn more(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.read).await, Ok(1..))
    }

    /// Whether the other side has ended the connection, with nothing more sent.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.read.is_empty() && !tokio::time::timeout(PATIENCE, self.more()).await.expect("an end in time")
    }
}
