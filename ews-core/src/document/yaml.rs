//! YAML 1.2 with its core schema, from the events of `granit-parser`.
//!
//! What makes YAML dangerous is refused with the reason: several documents, tags other than `!!str`, merge keys (`<<`, which
//! YAML 1.2 dropped), keys that are no scalars. An anchor may be used by aliases; each use is a copy that counts against
//! [`Limits`](super::Limits), so that nested aliases can't grow a small text into a large tree.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Tag};

use super::problem::ShownKey;
use super::tree::{Entry, Table};
use super::{Budget, Limits, Refusal, Tree, Value};
use crate::time::Shown;

/// A list or table whose end has not come yet.
struct Open {
    offset: Option<usize>,
    anchor: usize,
    content: Content,
    /// The deepest nesting within it so far, counting itself.
    height: usize,
    nodes: usize,
    bytes: usize,
}

enum Content {
    List(Vec<Tree>),
    Table { entries: Vec<Entry>, key: Option<(String, Option<usize>)> },
}

impl Open {
    fn pending(&self) -> Option<(&str, Option<usize>)> {
        match &self.content {
            Content::Table { key: Some((key, place)), .. } => Some((key, *place)),
            _ => None,
        }
    }
}

/// A finished tree with what a copy of it costs.
#[derive(Clone)]
struct Sized {
    tree: Tree,
    height: usize,
    nodes: usize,
    bytes: usize,
}

pub(super) fn read(text: &str, budget: Budget) -> Result<Tree, Refusal> {
    let mut options = granit_parser::options! {
        flow_nesting_limit: Limits::MAX_DEPTH + 1,
        block_nesting_limit: Limits::MAX_DEPTH + 1,
    };
    options.set_emit_comments(false);
    let mut builder =
        Builder { text, budget, open: Vec::new(), anchors: HashMap::new(), root: None, documents: 0 };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| {
            let at = error.marker().byte_offset();
            let (place, reason) = reason(&error, text, at.unwrap_or_default());
            Refusal::new(at.map(|_| place), reason)
        })?;
        builder.event(event, span.start.byte_offset())?;
    }
    // An empty document is an empty table: what it lacks is then said field by field.
    Ok(builder.root.unwrap_or_else(|| Tree::new(Value::Null, None)))
}

struct Builder<'t> {
    text: &'t str,
    budget: Budget,
    open: Vec<Open>,
    anchors: HashMap<usize, Sized>,
    root: Option<Tree>,
    documents: usize,
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, at: Option<usize>) -> Result<(), Refusal> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Refusal::new(
                        at,
                        "a second document starts here; accepted: one document per file, split it at the `---`",
                    ));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                if self.expects_key() {
                    return self.key(text.into_owned(), style, at);
                }
                // The parser's place of a value that is not there is behind its key, or on another line: the key's is meant.
                let absent = text.is_empty() && style == ScalarStyle::Plain && tag.is_none();
                let at = if absent { self.pending().and_then(|(_, place)| place).or(at) } else { at };
                let tree = match tag.as_deref() {
                    Some(tag) => self.tagged(&text, tag, at)?,
                    None if style == ScalarStyle::Plain => plain(&text, at),
                    None => Tree::new(Value::Text(text.into_owned()), at),
                };
                let bytes = tree.as_text().map_or(0, str::len);
                self.spend(1, bytes, 0, at)?;
                self.value(Sized { tree, height: 0, nodes: 1, bytes }, anchor, at)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.start(Content::List(Vec::new()), anchor, tag.as_deref(), at)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.start(Content::Table { entries: Vec::new(), key: None }, anchor, tag.as_deref(), at)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(id) => {
                if self.expects_key() {
                    return Err(Refusal::new(at, "an alias stands as a key; write the key itself"));
                }
                let Some(target) = self.anchors.get(&id).cloned() else {
                    return Err(Refusal::new(
                        at,
                        "this alias stands within its own anchor; write the value itself",
                    ));
                };
                self.spend(target.nodes, target.bytes, target.height, at)?;
                self.value(target, 0, at)
            }
            _ => Ok(()),
        }
    }

    fn spend(&mut self, nodes: usize, bytes: usize, height: usize, at: Option<usize>) -> Result<(), Refusal> {
        let depth = self.open.len() + height;
        self.budget.take(nodes, bytes, depth).map_err(|message| Refusal::new(at, message))
    }

    /// The key whose value comes next, with its place.
    fn pending(&self) -> Option<(&str, Option<usize>)> {
        self.open.last().and_then(Open::pending)
    }

    fn tagged(&self, text: &str, tag: &Tag, at: Option<usize>) -> Result<Tree, Refusal> {
        if tag.is_yaml_core_schema_tag("str") || tag.original() == "!" {
            return Ok(Tree::new(Value::Text(text.to_owned()), at));
        }
        Err(self.refused_tag(tag, at))
    }

    fn refused_tag(&self, tag: &Tag, at: Option<usize>) -> Refusal {
        let original = tag.original();
        let lower = original.to_ascii_lowercase();
        let env = self.open.first().and_then(Open::pending).is_some_and(|(key, _)| key == "env");
        let secret = ["vault", "secret", "sops", "crypt"].iter().any(|word| lower.contains(word));
        let advice = match self.pending() {
            Some((key, _)) if secret || (env && !original.starts_with("!!")) => {
                let key = ShownKey(key);
                format!(
                    "a secret is given by its name, `{key}: {{ secret: \"[provider:]name\" }}`; only a plain text is written \
                     without the tag, in quotes"
                )
            }
            _ => "write the value without a tag, in quotes if it is a text".to_owned(),
        };
        Refusal::new(at, format!("the tag `{}` is not read; {advice}", Shown(&original)))
    }

    fn expects_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { content: Content::Table { key: None, .. }, .. }))
    }

    fn key(&mut self, text: String, style: ScalarStyle, at: Option<usize>) -> Result<(), Refusal> {
        if text == "<<" && style == ScalarStyle::Plain {
            // `<<: *small` in `log`: the whole value would be `log: *small`.
            let table = self.open.iter().rev().nth(1).and_then(Open::pending).map(|(key, _)| key);
            let alias = at.and_then(|at| self.text.get(at..)).and_then(|rest| rest.strip_prefix("<<"));
            let alias = alias.and_then(|rest| rest.trim_start().strip_prefix(':'));
            let alias = alias.and_then(|rest| rest.split_whitespace().next()).filter(|a| a.starts_with('*'));
            return Err(Refusal::new(
                at,
                format!(
                    "`<<` merges tables in YAML 1.1 only; write out the fields of the anchor here, or, where nothing differs, \
                     let the alias be the whole value: `{}: {}`",
                    ShownKey(table.unwrap_or("key")),
                    Shown(alias.unwrap_or("*name"))
                ),
            ));
        }
        self.spend(0, text.len(), 0, at)?;
        if let Some(open) = self.open.last_mut() {
            open.bytes += text.len();
            if let Content::Table { key, .. } = &mut open.content {
                *key = Some((text, at));
            }
        }
        Ok(())
    }

    fn start(
        &mut self,
        content: Content,
        anchor: usize,
        tag: Option<&Tag>,
        at: Option<usize>,
    ) -> Result<(), Refusal> {
        if let Some(tag) = tag {
            return Err(self.refused_tag(tag, at));
        }
        if self.expects_key() {
            return Err(Refusal::new(
                at,
                "a list or table stands as a key; accepted: keys that are one word or text",
            ));
        }
        self.spend(1, 0, 1, at)?;
        self.open.push(Open { offset: at, anchor, content, height: 1, nodes: 1, bytes: 0 });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Refusal> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.content {
            Content::List(items) => Value::List(items),
            Content::Table { entries, .. } => Value::Table(Table::new(entries)?),
        };
        let tree = Tree::new(value, open.offset);
        let sized = Sized { tree, height: open.height, nodes: open.nodes, bytes: open.bytes };
        self.value(sized, open.anchor, open.offset)
    }

    fn value(&mut self, mut sized: Sized, anchor: usize, at: Option<usize>) -> Result<(), Refusal> {
        if anchor != 0 {
            // The kept copy costs memory as a use does.
            self.spend(sized.nodes, sized.bytes, sized.height, at)?;
            self.anchors.insert(anchor, sized.clone());
        }
        sized.tree.offset = at;
        let Some(open) = self.open.last_mut() else {
            self.root = Some(sized.tree);
            return Ok(());
        };
        open.height = open.height.max(sized.height + 1);
        open.nodes += sized.nodes;
        open.bytes += sized.bytes;
        match &mut open.content {
            Content::List(items) => items.push(sized.tree),
            Content::Table { entries, key } => {
                if let Some((key, place)) = key.take() {
                    entries.push(Entry::new(key, place, sized.tree));
                }
            }
        }
        Ok(())
    }
}

/// A plain scalar by YAML 1.2's core schema (chapter 10.3.2). `yes`, `no`, `on` and `off` are texts there.
fn plain(text: &str, at: Option<usize>) -> Tree {
    let word = match text {
        "" | "~" | "null" | "Null" | "NULL" => Some(Value::Null),
        "true" | "True" | "TRUE" => Some(Value::Bool(true)),
        "false" | "False" | "FALSE" => Some(Value::Bool(false)),
        ".nan" | ".NaN" | ".NAN" => Some(Value::Float(f64::NAN)),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Some(Value::Float(f64::INFINITY)),
        "-.inf" | "-.Inf" | "-.INF" => Some(Value::Float(f64::NEG_INFINITY)),
        _ => None,
    };
    if let Some(value) = word {
        let mut tree = Tree::new(value, at);
        if matches!(tree.value, Value::Bool(_)) && !matches!(text, "true" | "false") {
            tree.written = Some(text.into());
        }
        return tree;
    }
    if let Some(number) = integer(text) {
        return Tree::number(Value::Integer(number), at, text);
    }
    if is_float(text) {
        return Tree::number(Value::Float(text.parse().unwrap_or(f64::NAN)), at, text);
    }
    Tree::new(Value::Text(text.to_owned()), at)
}

fn integer(text: &str) -> Option<i128> {
    if let Some(octal) = text.strip_prefix("0o") {
        let good = octal.bytes().all(|b| matches!(b, b'0'..=b'7'));
        return if good { i128::from_str_radix(octal, 8).ok() } else { None };
    }
    if let Some(hex) = text.strip_prefix("0x") {
        let good = hex.bytes().all(|b| b.is_ascii_hexdigit());
        return if good { i128::from_str_radix(hex, 16).ok() } else { None };
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// `[-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`
fn is_float(text: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let mantissa_good = match mantissa.split_once('.') {
        Some(("", fraction)) => !fraction.is_empty() && digits(fraction),
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => !mantissa.is_empty() && digits(mantissa),
    };
    mantissa_good
        && exponent.is_none_or(|exponent| {
            let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
            !exponent.is_empty() && digits(exponent)
        })
}

/// The parser's reason, and what to do about the usual mistakes, with the place to look at.
fn reason(error: &granit_parser::ScanError, text: &str, at: usize) -> (usize, String) {
    let message = error.info();
    let message = message.split('\n').map(str::trim).collect::<Vec<_>>().join(", ");
    let line = text.get(..at).and_then(|before| before.rsplit('\n').next()).unwrap_or_default();
    let rest = text.get(at..).unwrap_or_default();
    let advice = if message.contains("mapping values are not allowed") {
        "; put a text that holds `: ` in quotes, and check that the line is indented like those beside it"
    } else if line.contains('\t') || rest.starts_with('\t') || message.contains("tab") {
        "; indent with spaces, not with tabs"
    } else if message.contains("recursion limit") {
        "; accepted: lists and tables nested at most 64 deep"
    } else if message.contains("unknown anchor") {
        "; an alias `*name` needs an anchor `&name` before it, and a text that starts with `*` needs quotes"
    } else if message.contains("expected ',' or") || message.contains("unclosed bracket") {
        "; close the bracket, and separate its items by commas"
    } else if message.contains("unclosed quote") {
        "; close the quote"
    } else if message.contains("did not find expected key") || message.contains("simple key") {
        "; write `key: value`, indented like the lines beside it"
    } else if rest.starts_with(char::is_control) {
        "; write such a character as an escape within double quotes, like \"\\u007f\""
    } else if message.contains("unexpected character") {
        "; put a text that starts with this character in quotes"
    } else {
        ""
    };
    // The parser reports a tab where it has passed it.
    let place = match line.find('\t') {
        Some(tab) if advice.contains("tabs") => at - line.len() + tab,
        _ => at,
    };
    (place, format!("{message}{advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        let kind = |text: &str| plain(text, None).value;
        for (text, value) in [
            ("~", Value::Null),
            ("TRUE", Value::Bool(true)),
            ("yes", Value::Text("yes".into())),
            ("off", Value::Text("off".into())),
            ("0644", Value::Integer(644)),
            ("0o644", Value::Integer(0o644)),
            ("0x1F", Value::Integer(31)),
            ("+7", Value::Integer(7)),
            ("0x", Value::Text("0x".into())),
            ("1_000", Value::Text("1_000".into())),
            ("1.10", Value::Float(1.1)),
            ("1.", Value::Float(1.0)),
            (".5", Value::Float(0.5)),
            ("1e3", Value::Float(1000.0)),
            (".", Value::Text(".".into())),
            ("1.2.3", Value::Text("1.2.3".into())),
            ("e5", Value::Text("e5".into())),
            ("2026-11-23", Value::Text("2026-11-23".into())),
            ("12:30", Value::Text("12:30".into())),
        ] {
            assert!(kind(text) == value, "{text}");
        }
        assert_eq!(plain("0644", None).written.as_deref(), Some("0644"));
        assert_eq!(plain("True", None).written.as_deref(), Some("True"));
        assert_eq!(plain("8080", None).written, None);
    }
}
