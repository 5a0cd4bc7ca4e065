//! What differs between two specs, field by field, without what may be a secret.
//!
//! What is shown follows from the field, not from how a value looks: values of the environment and contents of files are never shown, be
//! they secret or not, and secrets are only known by their names anyway.

use std::collections::BTreeSet;
use std::fmt;

use ews_core::ServiceSpec;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What stands for what is not shown.
const HIDDEN: &str = "(not shown)";
/// The most characters of a value that are shown.
const SHOWN: usize = 120;

/// A field of a spec that changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SpecChange {
    /// Which, as a document names it: `args`, `env.MODE`, `ports.http.number`.
    pub field: String,
    /// What it was; `None`: it was not there, or at its default. Values of the environment and contents of files are `(not shown)`.
    pub from: Option<String>,
    /// What it becomes.
    pub to: Option<String>,
}

impl SpecChange {
    /// The most of one plan; a last one says how many more there are.
    pub const MOST: usize = 200;
}

impl fmt::Display for SpecChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = "(default)";
        let (from, to) = (self.from.as_deref().unwrap_or(none), self.to.as_deref().unwrap_or(none));
        write!(f, "{}: {from} -> {to}", self.field)
    }
}

/// What changes from one spec to another. The count of instances is the plan's own.
pub(super) fn between(from: &ServiceSpec, to: &ServiceSpec) -> Vec<SpecChange> {
    let document = |spec: &ServiceSpec| {
        let Ok(Value::Object(mut document)) = serde_json::to_value(spec) else { return Map::new() };
        document.remove("replicas");
        document
    };
    let mut changes = Vec::new();
    tables("", &document(from), &document(to), &mut changes);
    let more = changes.len().saturating_sub(SpecChange::MOST);
    if more > 0 {
        changes.truncate(SpecChange::MOST);
        changes.push(SpecChange { field: format!("and {more} more"), from: None, to: None });
    }
    changes
}

fn tables(at: &str, from: &Map<String, Value>, to: &Map<String, Value>, changes: &mut Vec<SpecChange>) {
    let fields: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    for field in fields {
        let name = if at.is_empty() { field.clone() } else { format!("{at}.{field}") };
        values(&name, from.get(field), to.get(field), changes);
    }
}

fn values(at: &str, from: Option<&Value>, to: Option<&Value>, changes: &mut Vec<SpecChange>) {
    if from == to {
        return;
    }
    if at.starts_with("env.") {
        let field = at.to_owned();
        changes.push(SpecChange { field, from: from.map(variable), to: to.map(variable) });
        return;
    }
    match (from, to) {
        (Some(Value::Object(from)), Some(Value::Object(to))) => return tables(at, from, to, changes),
        (Some(Value::Array(from)), Some(Value::Array(to))) => {
            if let (Some(from), Some(to)) = (named(from), named(to)) {
                return tables(at, &from, &to, changes);
            }
        }
        _ => {}
    }
    changes.push(SpecChange {
        field: at.to_owned(),
        from: from.map(|value| shown(at, value)),
        to: to.map(|value| shown(at, value)),
    });
}

/// A list whose elements have names, as a table: so that one that is added is not every later one changed.
fn named(list: &[Value]) -> Option<Map<String, Value>> {
    let mut table = Map::new();
    for element in list {
        let name = ["name", "path", "target"].iter().find_map(|key| element.get(*key)?.as_str())?;
        if table.insert(name.to_owned(), element.clone()).is_some() {
            return None;
        }
    }
    Some(table)
}

/// A variable of the environment: the name of a secret, and nothing of a value.
fn variable(value: &Value) -> String {
    let secret = value.get("secret").and_then(Value::as_str);
    secret.map_or_else(|| HIDDEN.to_owned(), |secret| format!("the secret {secret}"))
}

fn shown(at: &str, value: &Value) -> String {
    let hidden = HIDDEN.to_owned();
    match value {
        Value::Object(table) if at == "env" => {
            return table.keys().cloned().collect::<Vec<_>>().join(", ");
        }
        Value::String(_) if at.starts_with("files.") && at.ends_with(".content") => return hidden,
        Value::Object(table) if at.starts_with("files.") && table.contains_key("content") => {
            return hidden;
        }
        Value::Array(list) if at == "files" => {
            let paths = list.iter().filter_map(|file| file.get("path")?.as_str());
            return paths.collect::<Vec<_>>().join(", ");
        }
        _ => {}
    }
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut shown: String = text.chars().take(SHOWN).map(clean).collect();
    if text.chars().count() > SHOWN {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> ServiceSpec {
        let whole = format!("name = \"web\"\nartifact = {{ location = \"/srv/web\" }}\n{text}");
        ServiceSpec::from_toml(&whole).unwrap()
    }

    fn lines(from: &str, to: &str) -> Vec<String> {
        between(&spec(from), &spec(to)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_field_is_named_as_a_document_names_it() {
        assert!(lines("replicas = 2", "replicas = 3").is_empty());
        let from =
            "args = [\"a\"]\nports = [{ name = \"http\", number = 80 }, { name = \"admin\", number = 81 }]";
        let to = "args = [\"a\", \"b\"]\nports = [{ name = \"new\" }, { name = \"http\", number = 8080 }, { name = \"admin\", number = 81 }]";
        assert_eq!(
            lines(from, to),
            [
                "args: [\"a\"] -> [\"a\",\"b\"]",
                "ports.http.number: 80 -> 8080",
                "ports.new: (default) -> {\"name\":\"new\"}",
            ]
        );
    }

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        let from = "[env]\nA = \"hunter2\"\nB = \"old-hunter\"\nD = { secret = \"db\" }\n[[files]]\npath = \"/etc/a\"\ncontent = \"hunter3\"";
        let to = "[env]\nA = \"hunter4\"\nC = \"new-hunter\"\nD = { secret = \"db@2\" }\n[[files]]\npath = \"/etc/a\"\ncontent = \"hunter5\"\n[[files]]\npath = \"/etc/b\"\ncontent = \"hunter6\"";
        for (from, to) in [(from, to), (to, from), ("", to), (from, "")] {
            let all = lines(from, to).join("\n");
            assert!(!all.contains("hunter"), "{all}");
        }
        assert_eq!(
            lines(from, to),
            [
                "env.A: (not shown) -> (not shown)",
                "env.B: (not shown) -> (default)",
                "env.C: (default) -> (not shown)",
                "env.D: the secret db -> the secret db@2",
                "files./etc/a.content: (not shown) -> (not shown)",
                "files./etc/b: (default) -> (not shown)",
            ]
        );
    }

    #[test]
    fn what_is_long_is_cut() {
        let many = |value: &str| {
            let lines: Vec<String> = (0..300).map(|n| format!("V{n} = \"{value}\"")).collect();
            format!("args = [\"{}\"]\n[env]\n{}", value.repeat(500), lines.join("\n"))
        };
        let changes = between(&spec(&many("a")), &spec(&many("b")));
        assert_eq!(changes.len(), SpecChange::MOST + 1);
        assert_eq!(changes.last().unwrap().field, "and 101 more");
        assert!(changes.iter().all(|change| change.to_string().len() < 400));
    }
}
