//! What the journal's records are called and hold: JSON, each shape refusing what it does not know.

use std::fmt::Write as _;

use bytes::Bytes;
use ews_core::balancer::{Object, ObjectRef, Remembered, Table};
use ews_core::id::GatewayId;
use ews_core::store::{Key, Prefix, Record};
use ews_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// The format that this version writes.
pub(super) const FORMAT: u32 = 2;

/// The record `current`. The format before has its place, so that a gateway of that time finds an image named here that is
/// not there, and refuses to start instead of starting with nothing.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Current {
    /// The generation that the remembered changes begin after.
    pub(super) generation: u64,
    #[serde(default = "first_format")]
    pub(super) format: u32,
}

const fn first_format() -> u32 {
    1
}

/// An object as it is read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    pub(super) version: u64,
    /// Left out where the object is in parts.
    #[serde(default)]
    pub(super) object: Option<Object>,
    #[serde(default)]
    pub(super) parts: Option<usize>,
}

/// An object as it is written.
#[derive(Debug, Serialize)]
pub(super) struct KeptRef<'a> {
    pub(super) version: u64,
    pub(super) object: &'a Object,
}

/// In place of an object that is in parts.
#[derive(Debug, Serialize)]
pub(super) struct KeptInParts {
    pub(super) version: u64,
    pub(super) parts: usize,
}

/// A change as a whole, as it is read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pending {
    pub(super) change: Remembered,
    puts: Vec<Object>,
    gone: Vec<ObjectRef>,
}

impl Pending {
    pub(super) fn touched(&self) -> impl Iterator<Item = (ObjectRef, Option<&Object>)> {
        let puts = self.puts.iter().map(|object| (object.reference(), Some(object)));
        puts.chain(self.gone.iter().map(|reference| (reference.clone(), None)))
    }
}

/// A change as a whole, as it is written.
#[derive(Debug, Serialize)]
pub(super) struct PendingRef<'a> {
    change: &'a Remembered,
    puts: Vec<&'a Object>,
    gone: Vec<&'a ObjectRef>,
}

impl<'a> PendingRef<'a> {
    pub(super) fn new(
        change: &'a Remembered,
        touched: impl Iterator<Item = (&'a ObjectRef, Option<&'a Object>)>,
    ) -> Self {
        let mut pending = Self { change, puts: Vec::new(), gone: Vec::new() };
        for (reference, object) in touched {
            match object {
                Some(object) => pending.puts.push(object),
                None => pending.gone.push(reference),
            }
        }
        pending
    }
}

/// Where a gateway's records are.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    root: String,
}

impl Keys {
    pub(super) fn new(gateway: &GatewayId) -> Self {
        Self { root: format!("gateway/{gateway}") }
    }

    pub(super) fn key(&self, path: &str) -> Result<Key> {
        Key::new(format!("{}/{path}", self.root))
    }

    pub(super) fn prefix(&self, path: &str) -> Result<Prefix> {
        Prefix::new(format!("{}/{path}/", self.root))
    }

    pub(super) fn current(&self) -> Result<Key> {
        self.key("current")
    }

    pub(super) fn object(&self, reference: &ObjectRef) -> Result<Key> {
        self.key(&format!("object/{reference}"))
    }

    /// Whether this is where the object's record is; `text` is room to write in.
    pub(super) fn is_object(&self, key: &Key, reference: &ObjectRef, text: &mut String) -> bool {
        text.clear();
        // Writing into memory does not fail.
        let _ = write!(text, "{}/object/{reference}", self.root);
        key.as_str() == text
    }

    /// Where an object's parts are.
    pub(super) fn parts(reference: &ObjectRef, version: u64) -> String {
        format!("part/{reference}/{version:020}")
    }

    /// A part of what is kept there, from 0 on.
    pub(super) fn part(&self, path: &str, number: usize) -> Result<Key> {
        self.key(&format!("{path}/{number:05}"))
    }

    /// The slot of what is remembered of a change. As many changes later, another one takes it.
    pub(super) fn change(&self, change: &Remembered) -> Result<Key> {
        let slots = u64::try_from(Table::MEMORY).unwrap_or(1);
        self.key(&format!("change/{:04}", change.generation % slots))
    }

    pub(super) fn pending(&self, generation: u64) -> String {
        format!("pending/{generation:020}")
    }
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Bytes> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| Error::internal("a record can't be written as JSON").with_source(error))
}

pub(super) fn decode<T: for<'de> Deserialize<'de>>(record: &Record) -> Result<T> {
    read(&record.value).map_err(|error| error.with_context("key", &record.key))
}

pub(super) fn read<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| corrupt("the journal can't be read").with_source(error))
}

pub(super) fn corrupt(message: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}
