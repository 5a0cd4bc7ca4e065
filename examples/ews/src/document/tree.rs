//! Trees of documents: made from one another, and handed to serde.

use ews_core::document::{Table, Tree, Value};
use serde_json::{Number, Value as Json};

/// The same place with another value.
pub(super) fn like(place: &Tree, value: Value) -> Tree {
    let mut tree = place.clone();
    tree.value = value;
    tree
}

/// A text at this place.
pub(super) fn text(place: &Tree, text: impl Into<String>) -> Tree {
    like(place, Value::Text(text.into()))
}

/// A table of one field at this place.
pub(super) fn table(place: &Tree, key: &str, value: Tree) -> Tree {
    let mut table = Table::default();
    table.insert(key, value);
    like(place, Value::Table(table))
}

/// The same as JSON, for documents of serde's.
pub(super) fn json(tree: &Tree) -> Json {
    match &tree.value {
        Value::Bool(value) => Json::Bool(*value),
        Value::Integer(number) => {
            let whole = i64::try_from(*number)
                .map(Number::from)
                .or_else(|_| u64::try_from(*number).map(Number::from));
            whole.map_or_else(|_| Json::String(number.to_string()), Json::Number)
        }
        Value::Float(number) => Number::from_f64(*number).map_or(Json::Null, Json::Number),
        Value::Time(text) | Value::Text(text) => Json::String(text.clone()),
        Value::List(items) => Json::Array(items.iter().map(json).collect()),
        Value::Table(table) => Json::Object(
            table.entries().iter().map(|entry| (entry.key.clone(), json(&entry.value))).collect(),
        ),
        _ => Json::Null,
    }
}
