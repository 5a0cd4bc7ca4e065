//! The other side: HTTP over the engine's socket, written and read by hand.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// One kept connection.
pub(crate) struct Raw {
    write: UnixStream,
    read: BufReader<UnixStream>,
}

impl Raw {
    pub(crate) fn connect(socket: &Path) -> Self {
        let write = UnixStream::connect(socket).unwrap();
        Self { read: BufReader::new(write.try_clone().unwrap()), write }
    }

    /// Sends a request and reads its answer: status and body.
    pub(crate) fn ask(&mut self, method: &str, target: &str, body: &str) -> (u16, Vec<u8>) {
        let head = format!(
            "{method} /v1.41{target} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.write.write_all(head.as_bytes()).unwrap();
        self.write.write_all(body.as_bytes()).unwrap();
        let mut line = String::new();
        self.read.read_line(&mut line).unwrap();
        let status: u16 = line.split(' ').nth(1).unwrap().parse().unwrap();
        let (mut length, mut chunked) = (0, false);
        loop {
            line.clear();
            self.read.read_line(&mut line).unwrap();
            let header = line.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            chunked |= header == "transfer-encoding: chunked";
        }
        let mut answer = vec![0; length];
        self.read.read_exact(&mut answer).unwrap();
        while chunked {
            line.clear();
            self.read.read_line(&mut line).unwrap();
            let size = usize::from_str_radix(line.trim(), 16).unwrap();
            let start = answer.len();
            answer.resize(start + size + 2, 0);
            self.read.read_exact(&mut answer[start..]).unwrap();
            answer.truncate(start + size);
            chunked = size > 0;
        }
        (status, answer)
    }
}
