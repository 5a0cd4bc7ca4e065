//! JSON, through serde_json.
//!
//! serde_json does not say where a value stands. It reads a byte stream one byte at a time, so the number of bytes taken
//! from that stream tells it: for a value of an object nothing is taken beyond the colon, for an item of an array and for a
//! key exactly its first byte is taken.

use std::cell::{Cell, RefCell};
use std::io::Read;

use serde::de::DeserializeSeed;

use super::tree::{Place, Places, Seed};
use super::{Budget, Refusal, Tree};

struct Taken<'t> {
    text: &'t str,
    count: Cell<usize>,
    fault: RefCell<Option<Refusal>>,
}

impl Places for Taken<'_> {
    fn offset(&self, place: Place) -> Option<usize> {
        let taken = self.count.get();
        match place {
            Place::Unknown => None,
            Place::Begun => taken.checked_sub(1),
            Place::Ahead => {
                let rest = self.text.as_bytes().get(taken..)?;
                let space = rest.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n')).count();
                Some(taken + space)
            }
        }
    }

    fn written(&self, from: Option<usize>) -> Option<&str> {
        let rest = self.text.get(from?..)?;
        let number = |b: u8| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E');
        let end = rest.bytes().position(|b| !number(b)).unwrap_or(rest.len());
        rest.get(..end)
    }

    fn fault(&self, refusal: Refusal) {
        self.fault.replace(Some(refusal));
    }
}

struct Counted<'t, 'p> {
    rest: &'t [u8],
    places: &'p Taken<'t>,
}

impl Read for Counted<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        // One byte at a time whatever is asked, so that the count stays exact.
        match (self.rest.split_first(), buffer.first_mut()) {
            (Some((byte, rest)), Some(slot)) => {
                *slot = *byte;
                self.rest = rest;
                self.places.count.set(self.places.count.get() + 1);
                Ok(1)
            }
            _ => Ok(0),
        }
    }
}

pub(super) fn read(text: &str, mut budget: Budget) -> Result<Tree, Refusal> {
    let places = Taken { text, count: Cell::new(0), fault: RefCell::new(None) };
    let mut reader =
        serde_json::Deserializer::from_reader(Counted { rest: text.as_bytes(), places: &places });
    let refuse = |error: serde_json::Error| {
        // Ours was remembered whole.
        if let Some(refusal) = places.fault.take() {
            return refusal;
        }
        let message = error.to_string();
        let offset = offset_of(text, error.line(), error.column());
        let message = message.split(" at line ").next().unwrap_or_default();
        Refusal::new(offset, reason(message, text, offset))
    };
    let seed = Seed { budget: &mut budget, places: &places, place: Place::Ahead, depth: 0 };
    let tree = seed.deserialize(&mut reader).map_err(refuse)?;
    reader.end().map_err(refuse)?;
    Ok(tree)
}

/// serde_json counts columns in bytes from 1, and gives 0 for the line break before.
fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (start + column.saturating_sub(1)).min(text.len())
}

/// serde_json's reason, and what to do about the usual mistakes.
fn reason(message: &str, text: &str, offset: usize) -> String {
    let advice = match message {
        "trailing comma" => "; remove the comma before the closing bracket",
        "key must be a string" if text.get(offset..).is_some_and(|rest| rest.starts_with(['/', '#'])) => {
            "; JSON has no comments, remove it"
        }
        "key must be a string" => "; write every key in double quotes",
        "expected value" | "expected ident" if text.trim().is_empty() => "; the document is empty",
        "expected value" | "expected ident" => {
            match text.get(offset..).and_then(|rest| rest.chars().next()) {
                Some('\'') => "; write texts in double quotes",
                Some('/' | '#') => "; JSON has no comments, remove it",
                _ => "; write texts in double quotes, and numbers, `true`, `false` and `null` without",
            }
        }
        "EOF while parsing a value" if text.trim().is_empty() => "; the document is empty",
        "trailing characters" => "; one document is one value, remove what follows it",
        _ if message.starts_with("EOF while parsing") => {
            "; the text ends too early, close what is still open"
        }
        _ => "",
    };
    format!("{message}{advice}")
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Limits, Tree, read};

    fn place(text: &str, path: &[&str]) -> String {
        let tree = read(text, Format::Json, Limits::default()).unwrap();
        let mut node: &Tree = &tree;
        for step in path {
            node = match step.parse::<usize>() {
                Ok(index) => &node.as_list().unwrap()[index],
                Err(_) => node.as_table().unwrap().get(step).unwrap(),
            };
        }
        node.position(text).unwrap().to_string()
    }

    #[test]
    fn every_value_knows_its_place() {
        let text = "{\n  \"a\": [ 1,\n 22 , {\"b\" :\n  -0.5}],\n  \"c\":\"x\"}";
        assert_eq!(place(text, &[]), "line 1, column 1");
        assert_eq!(place(text, &["a"]), "line 2, column 8");
        assert_eq!(place(text, &["a", "0"]), "line 2, column 10");
        assert_eq!(place(text, &["a", "1"]), "line 3, column 2");
        assert_eq!(place(text, &["a", "2"]), "line 3, column 7");
        assert_eq!(place(text, &["a", "2", "b"]), "line 4, column 3");
        assert_eq!(place(text, &["c"]), "line 5, column 7");
        let tree = read(text, Format::Json, Limits::default()).unwrap();
        let key = tree.as_table().unwrap().entry("c").unwrap();
        assert_eq!(super::super::Position::of(text, key.offset.unwrap()).to_string(), "line 5, column 3");
    }
}
