//! The tree that every format is read into.

use std::collections::HashMap;
use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::problem::ShownKey;
use super::{Budget, Limits, Position, Refusal};

/// One value of a document, with the place where it starts.
///
/// `Debug` shows the structure without texts and numbers, since they may be secrets.
#[derive(Clone, PartialEq)]
pub struct Tree {
    /// What it is.
    pub value: Value,
    /// The byte at which it starts, where the tree came from a text.
    pub(crate) offset: Option<usize>,
    /// A number as it was written, where that is not how it would be written back: `0644`, `1.10`, `1_000`.
    pub(crate) written: Option<Box<str>>,
}

/// What a value is.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Nothing: JSON's and YAML's null.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i128),
    /// A number with a fraction or an exponent; not a number and infinities too.
    Float(f64),
    /// A date or a time of TOML, as written.
    Time(String),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Tree>),
    /// A table.
    Table(Table),
}

/// A table that keeps the order of its fields; no key comes twice.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Table {
    entries: Vec<Entry>,
}

/// A field of a table.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Tree,
    /// The byte at which the key starts, where the tree came from a text.
    pub(crate) offset: Option<usize>,
}

impl Entry {
    pub(crate) fn new(key: String, offset: Option<usize>, value: Tree) -> Self {
        Self { key, value, offset }
    }
}

impl Table {
    /// Checks that no key comes twice.
    pub(crate) fn new(entries: Vec<Entry>) -> Result<Self, Refusal> {
        let mut seen = HashMap::with_capacity(entries.len());
        for entry in &entries {
            if let Some(first) = seen.insert(entry.key.as_str(), entry.offset) {
                return Err(Refusal::twice(&entry.key, first, entry.offset));
            }
        }
        Ok(Self { entries })
    }

    /// The value of this key.
    pub fn get(&self, key: &str) -> Option<&Tree> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The field of this key.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The fields in the order in which they were written.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Takes a field out, for whoever reads some fields of a document and leaves the rest to another reader.
    pub fn remove(&mut self, key: &str) -> Option<Tree> {
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(at).value)
    }

    /// Puts a field in, in place of one of this key where there is one. It stands in the text where its value does.
    pub fn insert(&mut self, key: impl Into<String>, value: Tree) {
        let (key, offset) = (key.into(), value.offset);
        match self.entries.iter_mut().find(|entry| entry.key == key) {
            Some(entry) => entry.value = value,
            None => self.entries.push(Entry::new(key, offset, value)),
        }
    }
}

impl Tree {
    pub(crate) fn new(value: Value, offset: Option<usize>) -> Self {
        Self { value, offset, written: None }
    }

    pub(crate) fn number(value: Value, offset: Option<usize>, written: &str) -> Self {
        let plain = match &value {
            Value::Integer(number) => number.to_string() == written,
            _ => false,
        };
        Self { value, offset, written: (!plain).then(|| written.into()) }
    }

    /// The table, if it is one.
    pub fn as_table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The list, if it is one.
    pub fn as_list(&self) -> Option<&[Self]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number, if it is one.
    pub fn as_integer(&self) -> Option<i128> {
        match self.value {
            Value::Integer(number) => Some(number),
            _ => None,
        }
    }

    /// The place in `text`, which must be the text this tree was read from.
    pub fn position(&self, text: &str) -> Option<Position> {
        self.offset.map(|offset| Position::of(text, offset))
    }

    /// What kind of value it is, with an article.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(true) => "true",
            Value::Bool(false) => "false",
            Value::Integer(_) | Value::Float(_) => "a number",
            Value::Time(_) => "a date or time",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }

    /// Moves every place by this many bytes.
    pub(crate) fn shift(&mut self, by: usize) {
        self.offset = self.offset.map(|offset| offset + by);
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.shift(by)),
            Value::Table(table) => table.entries.iter_mut().for_each(|entry| {
                entry.offset = entry.offset.map(|offset| offset + by);
                entry.value.shift(by);
            }),
            _ => {}
        }
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::List(items) => f.debug_list().entries(items).finish(),
            Value::Table(table) => table.fmt(f),
            _ => f.write_str(self.kind()),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(items) => f.debug_list().entries(items).finish(),
            Self::Table(table) => table.fmt(f),
            Self::Null => f.write_str("Null"),
            Self::Bool(_) => f.write_str("Bool"),
            Self::Integer(_) => f.write_str("Integer"),
            Self::Float(_) => f.write_str("Float"),
            Self::Time(_) => f.write_str("Time"),
            Self::Text(_) => f.write_str("Text"),
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", ShownKey(&self.key), self.value)
    }
}

/// Any self-describing format can be read into a tree; places are then unknown. [`Limits::default`] holds.
impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Seed {
            budget: &mut Budget::new(Limits::default()),
            places: &NoPlaces,
            place: Place::Unknown,
            depth: 0,
        }
        .deserialize(deserializer)
    }
}

/// Where a value stands that a serde reader is about to read.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// Nobody knows.
    Unknown,
    /// The reader stands before it.
    Ahead,
    /// The reader has looked at its first character already.
    Begun,
}

/// Tells a [`Seed`] where its reader stands.
pub(crate) trait Places {
    /// The first byte of the value that stands at this place.
    fn offset(&self, place: Place) -> Option<usize>;
    /// The text between the two, as written.
    fn written(&self, from: Option<usize>) -> Option<&str>;
    /// Remembers what was refused and where, since an error of serde has room for a text only.
    fn fault(&self, refusal: Refusal);
}

pub(crate) struct NoPlaces;

impl Places for NoPlaces {
    fn offset(&self, _: Place) -> Option<usize> {
        None
    }
    fn written(&self, _: Option<usize>) -> Option<&str> {
        None
    }
    fn fault(&self, _: Refusal) {}
}

/// Builds one tree through serde.
pub(crate) struct Seed<'a, P> {
    pub(crate) budget: &'a mut Budget,
    pub(crate) places: &'a P,
    pub(crate) place: Place,
    pub(crate) depth: usize,
}

impl<'de, P: Places> DeserializeSeed<'de> for Seed<'_, P> {
    type Value = Tree;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        let offset = self.places.offset(self.place);
        deserializer.deserialize_any(Build { seed: self, offset })
    }
}

fn refuse<P: Places, E: serde::de::Error>(places: &P, refusal: Refusal) -> E {
    let error = E::custom(refusal.said(None));
    places.fault(refusal);
    error
}

struct Build<'a, P> {
    seed: Seed<'a, P>,
    offset: Option<usize>,
}

impl<P: Places> Build<'_, P> {
    fn take<E: serde::de::Error>(&mut self, bytes: usize, nested: usize) -> Result<(), E> {
        let depth = self.seed.depth + nested;
        let taken = self.seed.budget.take(1, bytes, depth);
        taken.map_err(|message| refuse(self.seed.places, Refusal::new(self.offset, message)))
    }

    fn leaf<E: serde::de::Error>(mut self, value: Value) -> Result<Tree, E> {
        self.take(0, 0)?;
        Ok(Tree::new(value, self.offset))
    }

    fn number<E: serde::de::Error>(mut self, value: Value) -> Result<Tree, E> {
        self.take(0, 0)?;
        Ok(match self.seed.places.written(self.offset) {
            Some(written) => Tree::number(value, self.offset, written),
            None => Tree::new(value, self.offset),
        })
    }
}

impl<'de, P: Places> Visitor<'de> for Build<'_, P> {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a document")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Tree, E> {
        self.leaf(Value::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Tree, E> {
        self.leaf(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        self.seed.deserialize(deserializer)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Tree, E> {
        self.leaf(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Tree, E> {
        self.number(Value::Integer(value.into()))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Tree, E> {
        self.number(Value::Integer(value.into()))
    }

    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Tree, E> {
        self.number(Value::Integer(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Tree, E> {
        self.number(Value::Float(value))
    }

    fn visit_str<E: serde::de::Error>(mut self, text: &str) -> Result<Tree, E> {
        self.take(text.len(), 0)?;
        Ok(Tree::new(Value::Text(text.to_owned()), self.offset))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Tree, A::Error> {
        self.take(0, 1)?;
        let mut list = Vec::new();
        loop {
            let seed = Seed {
                budget: &mut *self.seed.budget,
                places: self.seed.places,
                place: Place::Begun,
                depth: self.seed.depth + 1,
            };
            match items.next_element_seed(seed)? {
                Some(item) => list.push(item),
                None => return Ok(Tree::new(Value::List(list), self.offset)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Tree, A::Error> {
        self.take(0, 1)?;
        let mut entries = Vec::new();
        while let Some((key, offset)) = map.next_key_seed(KeySeed { places: self.seed.places })? {
            let depth = self.seed.depth;
            let taken = self.seed.budget.take(0, key.len(), depth);
            taken
                .map_err(|message| refuse::<_, A::Error>(self.seed.places, Refusal::new(offset, message)))?;
            let value = map.next_value_seed(Seed {
                budget: &mut *self.seed.budget,
                places: self.seed.places,
                place: Place::Ahead,
                depth: self.seed.depth + 1,
            })?;
            entries.push(Entry::new(key, offset, value));
        }
        let table =
            Table::new(entries).map_err(|refusal| refuse::<_, A::Error>(self.seed.places, refusal))?;
        Ok(Tree::new(Value::Table(table), self.offset))
    }
}

struct KeySeed<'a, P> {
    places: &'a P,
}

impl<'de, P: Places> DeserializeSeed<'de> for KeySeed<'_, P> {
    type Value = (String, Option<usize>);
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let offset = self.places.offset(Place::Begun);
        String::deserialize(deserializer).map(|key| (key, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Format, read};

    #[test]
    fn fields_are_taken_out_and_put_in_and_keep_their_places() {
        let text = "port = 80\nname = \"a\"\n";
        let mut tree = read(text, Format::Toml, Limits::default()).unwrap();
        let Value::Table(table) = &mut tree.value else { unreachable!("a document is a table") };
        let port = table.remove("port").unwrap();
        assert!(table.remove("port").is_none());
        table.insert("number", port.clone());
        table.insert("name", port);
        let found: Vec<_> =
            table.entries().iter().map(|entry| (entry.key.as_str(), entry.value.as_integer())).collect();
        assert_eq!(found, [("name", Some(80)), ("number", Some(80))]);
        assert_eq!(table.get("number").and_then(|number| number.position(text)).map(|at| at.line), Some(1));
    }
}
