//! BuildKit's log: from messages about vertices of its graph to lines as `docker build --progress=plain` prints them.

use std::collections::BTreeMap;

use ews_core::image::Progress;
use serde_json::Value;

use super::message::{Field, base64, field, fields};
use crate::images::build::Log;
use crate::images::lines::{Layers, Line};

/// The id of the engine's lines that hold such messages.
const ID: &str = "moby.buildkit.trace";
/// The most vertices that are told apart. What comes beyond has no number.
const MAX_VERTICES: usize = 10_000;

/// Reads the messages.
#[derive(Default)]
pub(crate) struct Trace {
    vertices: BTreeMap<String, Vertex>,
}

#[derive(Default)]
struct Vertex {
    number: usize,
    started: bool,
    ended: bool,
    log: Log,
}

impl Trace {
    /// Takes a line of the engine in; whether it was one of BuildKit's.
    pub(crate) fn take(&mut self, line: &Line, layers: &mut Layers, mut tell: impl FnMut(Progress)) -> bool {
        if line.id != ID {
            return false;
        }
        let Some(message) = line.aux.as_str().and_then(base64) else { return true };
        for (number, part) in fields(&message) {
            let Some(part) = part.bytes() else { continue };
            match number {
                1 => self.vertex(part, &mut tell),
                2 => status(part, layers, &mut tell),
                3 => self.log(part, &mut tell),
                _ => {}
            }
        }
        true
    }

    fn of(&mut self, digest: &str) -> Option<&mut Vertex> {
        let count = self.vertices.len();
        if !self.vertices.contains_key(digest) {
            if count >= MAX_VERTICES {
                return None;
            }
            let vertex = Vertex { number: count + 1, ..Vertex::default() };
            self.vertices.insert(digest.to_owned(), vertex);
        }
        self.vertices.get_mut(digest)
    }

    /// `Vertex`: 1 digest, 3 name, 4 cached, 5 started, 6 completed, 7 error.
    fn vertex(&mut self, message: &[u8], tell: &mut impl FnMut(Progress)) {
        let text = |number| field(message, number).and_then(Field::text).unwrap_or_default();
        let has = |number| field(message, number).is_some();
        let cached = field(message, 4).and_then(Field::number) == Some(1);
        let Some(vertex) = self.of(&text(1)) else { return };
        let number = vertex.number;
        if (has(5) || cached) && !std::mem::replace(&mut vertex.started, true) {
            tell(Progress::Log(format!("#{number} {}", text(3))));
        }
        if has(6) && !std::mem::replace(&mut vertex.ended, true) {
            vertex.log.end(|progress| tell(prefixed(number, progress)));
            let error = text(7);
            let end = match (error.as_str(), cached) {
                ("", true) => "CACHED".to_owned(),
                ("", false) => "DONE".to_owned(),
                (error, _) => format!("ERROR: {error}"),
            };
            tell(Progress::Log(format!("#{number} {end}")));
        }
    }

    /// `VertexLog`: 1 vertex, 4 msg.
    fn log(&mut self, message: &[u8], tell: &mut impl FnMut(Progress)) {
        let digest = field(message, 1).and_then(Field::text).unwrap_or_default();
        let text = field(message, 4).and_then(Field::text).unwrap_or_default();
        let Some(vertex) = self.of(&digest) else { return };
        let number = vertex.number;
        vertex.log.push(&text, |progress| tell(prefixed(number, progress)));
    }
}

/// `VertexStatus`: 1 id, 3 name, 4 current, 5 total. What is downloaded is a base's layer.
fn status(message: &[u8], layers: &mut Layers, tell: &mut impl FnMut(Progress)) {
    let text = |number| field(message, number).and_then(Field::text).unwrap_or_default();
    let count = |number| field(message, number).and_then(Field::number).unwrap_or(0);
    if text(3) != "downloading" {
        return;
    }
    let line = Line {
        status: "Downloading".to_owned(),
        id: text(1),
        detail: Some((count(4), count(5))),
        stream: String::new(),
        aux: Value::Null,
    };
    if layers.take(&line) {
        let (done, total) = layers.sum();
        tell(Progress::Transfer { done, total });
    }
}

fn prefixed(number: usize, progress: Progress) -> Progress {
    match progress {
        Progress::Log(line) => Progress::Log(format!("#{number} {line}")),
        progress => progress,
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::put;
    use super::*;

    fn vertex(digest: &str, name: &str, cached: bool, started: bool, ended: bool, error: &str) -> Vec<u8> {
        let mut message = Vec::new();
        put(&mut message, 1, digest.as_bytes());
        put(&mut message, 3, name.as_bytes());
        if cached {
            message.extend([4 << 3, 1]);
        }
        for (number, present) in [(5, started), (6, ended)] {
            if present {
                put(&mut message, number, b"");
            }
        }
        if !error.is_empty() {
            put(&mut message, 7, error.as_bytes());
        }
        message
    }

    fn log(digest: &str, text: &str) -> Vec<u8> {
        let mut message = Vec::new();
        put(&mut message, 1, digest.as_bytes());
        put(&mut message, 4, text.as_bytes());
        message
    }

    fn encode(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for group in bytes.chunks(3) {
            let mut bits = 0_u32;
            for index in 0..3 {
                bits = bits << 8 | u32::from(group.get(index).copied().unwrap_or(0));
            }
            for place in 0..=group.len() {
                text.push(char::from(DIGITS[(bits >> (18 - 6 * place)) as usize & 63]));
            }
        }
        text
    }

    #[test]
    fn messages_become_lines() {
        let (mut trace, mut layers, mut told) = (Trace::default(), Layers::default(), Vec::new());
        let mut take = |parts: &[(u8, Vec<u8>)]| {
            let mut message = Vec::new();
            for (number, part) in parts {
                put(&mut message, *number, part);
            }
            let line = Line { id: ID.to_owned(), aux: encode(&message).into(), ..Line::default() };
            assert!(trace.take(&line, &mut layers, |progress| told.push(progress)));
        };
        take(&[
            (1, vertex("a", "[1/2] FROM x", false, false, false, "")),
            (1, vertex("b", "[2/2] RUN y", false, false, false, "")),
        ]);
        take(&[(1, vertex("a", "[1/2] FROM x", true, true, true, ""))]);
        take(&[(1, vertex("b", "[2/2] RUN y", false, true, false, "")), (3, log("b", "one\ntw"))]);
        take(&[
            (3, log("b", "o\nthree")),
            (1, vertex("b", "[2/2] RUN y", false, true, true, "exit code: 3")),
        ]);
        let mut status = Vec::new();
        put(&mut status, 1, b"sha256:1");
        put(&mut status, 3, b"downloading");
        status.extend([4 << 3, 5, 5 << 3, 9]);
        take(&[(2, status)]);
        let log = |line: &str| Progress::Log(line.to_owned());
        assert_eq!(
            told,
            [
                log("#1 [1/2] FROM x"),
                log("#1 CACHED"),
                log("#2 [2/2] RUN y"),
                log("#2 one"),
                log("#2 two"),
                log("#2 three"),
                log("#2 ERROR: exit code: 3"),
                Progress::Transfer { done: 5, total: Some(9) },
            ]
        );
        let other = Line { id: "x".to_owned(), ..Line::default() };
        assert!(!Trace::default().take(&other, &mut Layers::default(), |_| panic!("nothing is told")));
        let junk = Line { id: ID.to_owned(), aux: "///".into(), ..Line::default() };
        assert!(Trace::default().take(&junk, &mut Layers::default(), |_| panic!("nothing is told")));
    }
}
