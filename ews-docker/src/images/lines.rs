//! The lines of JSON in which an engine tells how a pull, a push, a build or a load goes.
//!
//! They are read as far as they are understood: a line with a field of a new shape is a line without that field. An error in them ends
//! the reading; its words become a kind in [`client::said`](crate::client::said).

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use ews_core::runtime::ByteStream;
use ews_core::{Error, ErrorKind, Result};
use futures_util::StreamExt as _;
use serde_json::Value;

use crate::client::said;

/// The longest line, in bytes.
const MAX_LINE: usize = 1024 * 1024;
/// The most layers that are kept count of. Engines refuse images of more than some 127.
const MAX_LAYERS: usize = 1024;

/// Reads line by line.
pub(super) struct Lines {
    pieces: ByteStream,
    waiting: BytesMut,
    searched: usize,
    ended: bool,
}

/// One line.
#[derive(Debug, Clone, Default)]
pub(super) struct Line {
    /// Of a builder's log.
    pub(super) stream: String,
    pub(super) status: String,
    pub(super) id: String,
    /// How far what has this id is, and how much it is in all.
    pub(super) detail: Option<(u64, u64)>,
    /// What a program is told.
    pub(super) aux: Value,
}

impl Lines {
    pub(super) fn new(pieces: ByteStream) -> Self {
        Self { pieces, waiting: BytesMut::new(), searched: 0, ended: false }
    }

    /// The next line; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Line>> {
        loop {
            let Some(text) = self.text().await? else { return Ok(None) };
            if text.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let value: Value = serde_json::from_slice(&text).map_err(|error| {
                Error::new(ErrorKind::Decode, "the engine's progress is not in lines of JSON")
                    .with_detail(String::from_utf8_lossy(&text).into_owned())
                    .with_source(error)
            })?;
            return Line::read(value).map(Some);
        }
    }

    async fn text(&mut self) -> Result<Option<Bytes>> {
        loop {
            let found =
                self.waiting.get(self.searched..).and_then(|new| new.iter().position(|b| *b == b'\n'));
            if let Some(at) = found {
                let line = self.waiting.split_to(self.searched + at + 1);
                self.searched = 0;
                return Ok(Some(line.freeze()));
            }
            self.searched = self.waiting.len();
            if self.searched > MAX_LINE {
                return Err(Error::new(
                    ErrorKind::Decode,
                    format!("a line of the engine's progress is longer than {MAX_LINE} bytes"),
                ));
            }
            if self.ended {
                self.searched = 0;
                let rest = self.waiting.split().freeze();
                return Ok((!rest.is_empty()).then_some(rest));
            }
            match self.pieces.next().await {
                Some(piece) => self.waiting.extend_from_slice(&piece?),
                None => self.ended = true,
            }
        }
    }
}

impl Line {
    fn read(mut value: Value) -> Result<Self> {
        let text = |value: &Value, name: &str| {
            value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let words = match value.get("errorDetail").map(|detail| text(detail, "message")) {
            Some(words) if !words.is_empty() => words,
            _ => text(&value, "error"),
        };
        if !words.is_empty() {
            return Err(said(&words));
        }
        let detail = value.get("progressDetail");
        let number = |name: &str| detail.and_then(|detail| detail.get(name)).and_then(Value::as_u64);
        Ok(Self {
            stream: text(&value, "stream"),
            status: text(&value, "status"),
            id: text(&value, "id"),
            detail: number("current").map(|current| (current, number("total").unwrap_or(0))),
            aux: value.get_mut("aux").map(Value::take).unwrap_or_default(),
        })
    }
}

/// How much of an image has moved: the sum over its layers.
#[derive(Debug, Default)]
pub(super) struct Layers {
    by_id: BTreeMap<String, Layer>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Layer {
    done: u64,
    total: u64,
    /// Whether nothing more of it will move.
    over: bool,
}

impl Layers {
    /// Takes a line in; whether it was about a layer.
    pub(super) fn take(&mut self, line: &Line) -> bool {
        let moves = match line.status.as_str() {
            "Downloading" | "Pushing" => true,
            // An engine that was quick says no "Downloading" at all, and how large the layer was only while it unpacks it.
            "Extracting"
            | "Download complete"
            | "Verifying Checksum"
            | "Pull complete"
            | "Already exists"
            | "Layer already exists"
            | "Pushed" => false,
            status if status.starts_with("Mounted from") => false,
            "Pulling fs layer" | "Waiting" | "Preparing" => {
                if !line.id.is_empty() && self.by_id.len() < MAX_LAYERS {
                    self.by_id.entry(line.id.clone()).or_default();
                }
                return true;
            }
            _ => return false,
        };
        if line.id.is_empty() || (self.by_id.len() >= MAX_LAYERS && !self.by_id.contains_key(&line.id)) {
            return false;
        }
        let layer = self.by_id.entry(line.id.clone()).or_default();
        if let Some((current, total)) = line.detail {
            layer.total = layer.total.max(total);
            // An attempt that begins anew counts from nothing; what is shown never falls.
            layer.done = layer.done.max(if moves { current } else { layer.total });
        }
        if !moves {
            layer.over = true;
            layer.done = layer.done.max(layer.total);
            layer.total = layer.done;
        }
        true
    }

    /// What moved, and how much it is in all once every layer said so.
    pub(super) fn sum(&self) -> (u64, Option<u64>) {
        let done = self.by_id.values().map(|layer| layer.done).fold(0, u64::saturating_add);
        let total = self.by_id.values().map(|layer| layer.total).fold(0, u64::saturating_add);
        let known = !self.by_id.is_empty() && self.by_id.values().all(|layer| layer.over || layer.total > 0);
        (done, known.then(|| total.max(done)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(pieces: Vec<&'static [u8]>) -> Lines {
        Lines::new(Box::pin(futures_util::stream::iter(
            pieces.into_iter().map(|piece| Ok(Bytes::from_static(piece))),
        )))
    }

    #[tokio::test]
    async fn lines_are_lines_however_they_come() {
        let mut lines = lines(vec![
            b"{\"status\":\"a\"",
            b"}\r\n\r\n{\"stream\":\"b\\n\",\"aux\":{\"ID\":\"x\"}",
            b"}\n{\"surprise\":{},\"progressDetail\":7,\"status\":[1],\"id\":3}",
        ]);
        assert_eq!(lines.next().await.unwrap().unwrap().status, "a");
        let line = lines.next().await.unwrap().unwrap();
        assert_eq!((line.stream.as_str(), line.aux["ID"].as_str()), ("b\n", Some("x")));
        let line = lines.next().await.unwrap().unwrap();
        assert_eq!((line.status.as_str(), line.detail), ("", None));
        assert!(lines.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_error_has_a_kind_and_the_engines_words() {
        let mut full = lines(vec![
            b"{\"errorDetail\":{\"message\":\"write /x: no space left on device\"},\"error\":\"write\"}\n",
        ]);
        let error = full.next().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfResources);
        assert_eq!(error.detail(), Some("write /x: no space left on device"));
        let mut old = lines(vec![b"{\"error\":\"manifest unknown\"}"]);
        assert_eq!(old.next().await.unwrap_err().kind(), ErrorKind::ImageMissing);
        let mut junk = lines(vec![b"<html>\n"]);
        assert_eq!(junk.next().await.unwrap_err().kind(), ErrorKind::Decode);
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_not_kept() {
        let piece: &'static [u8] = Box::leak(vec![b'x'; 300_000].into_boxed_slice());
        let mut endless =
            Lines::new(Box::pin(futures_util::stream::repeat_with(move || Ok(Bytes::from_static(piece)))));
        assert_eq!(endless.next().await.unwrap_err().kind(), ErrorKind::Decode);
        assert!(endless.waiting.len() < 2 * MAX_LINE);
    }

    fn line(id: &str, status: &str, detail: Option<(u64, u64)>) -> Line {
        Line { id: id.to_owned(), status: status.to_owned(), detail, ..Line::default() }
    }

    #[test]
    fn layers_add_up() {
        let mut layers = Layers::default();
        layers.take(&line("a", "Pulling fs layer", None));
        layers.take(&line("b", "Pulling fs layer", None));
        assert_eq!(layers.sum(), (0, None));
        layers.take(&line("a", "Downloading", Some((10, 100))));
        assert_eq!(layers.sum(), (10, None), "one layer has not said how large it is");
        layers.take(&line("b", "Downloading", Some((5, 50))));
        assert_eq!(layers.sum(), (15, Some(150)));
        // The download began anew.
        layers.take(&line("a", "Downloading", Some((1, 100))));
        assert_eq!(layers.sum(), (15, Some(150)));
        layers.take(&line("b", "Download complete", None));
        layers.take(&line("a", "Extracting", Some((3, 100))));
        assert_eq!(layers.sum(), (150, Some(150)));
        // A tag's line and what nobody has heard of are no layers.
        assert!(!layers.take(&line("latest", "Pulling from shop/web", None)));
        assert!(!layers.take(&line("", "Downloading", Some((1, 1)))));
        assert_eq!(layers.sum(), (150, Some(150)));
    }

    proptest! {
        #[test]
        fn what_moved_never_falls_and_never_passes_the_total(
            steps in prop::collection::vec((0_u8..4, 0_usize..5, prop::option::of((0_u64..200, 0_u64..100))), 0..60),
        ) {
            let words = ["Pulling fs layer", "Downloading", "Download complete", "Extracting", "Already exists"];
            let (mut layers, mut before) = (Layers::default(), 0);
            for (id, word, detail) in steps {
                layers.take(&line(&id.to_string(), words[word], detail));
                let (done, total) = layers.sum();
                prop_assert!(done >= before && total.is_none_or(|total| total >= done));
                before = done;
            }
        }
    }
}
