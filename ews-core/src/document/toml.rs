//! TOML, through the `toml` crate's spanned tree.

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml_parser::lexer::TokenKind;

use super::tree::{Entry, Table};
use super::{Budget, Limits, Refusal, Tree, Value};

pub(super) fn read(text: &str, mut budget: Budget) -> Result<Tree, Refusal> {
    check_depth(text)?;
    let table = DeTable::parse(text)
        .map_err(|error| Refusal::new(error.span().map(|span| span.start), reason(&error, text)))?;
    let mut root = convert_table(table.get_ref(), None, &mut budget, 1)?;
    root.offset = None;
    Ok(root)
}

/// Dotted keys nest as deep as they have dots, in each inline table anew, and the parser bounds them only singly: a few
/// kilobytes nest so deep that dropping its tree overflows the stack. So the depth is counted before it parses.
fn check_depth(text: &str) -> Result<(), Refusal> {
    // What each open bracket adds, and the header above.
    let mut open: Vec<usize> = Vec::new();
    let (mut header, mut depth, mut dots, mut key) = (0_usize, 0_usize, 0_usize, 0_usize);
    for token in toml_parser::Source::new(text).lex() {
        match token.kind() {
            TokenKind::Dot => dots += 1,
            TokenKind::Equals => {
                key = dots + 1;
                dots = 0;
            }
            TokenKind::LeftCurlyBracket | TokenKind::LeftSquareBracket => {
                let added = key + 1;
                depth += added;
                open.push(added);
                (dots, key) = (0, 0);
            }
            TokenKind::RightCurlyBracket | TokenKind::RightSquareBracket => {
                depth = depth.saturating_sub(open.pop().unwrap_or_default());
                if open.is_empty() {
                    header = header.max(dots);
                }
                (dots, key) = (0, 0);
            }
            TokenKind::Comma => (dots, key) = (0, 0),
            TokenKind::Newline if open.is_empty() => (dots, key) = (0, 0),
            _ => {}
        }
        if header + depth + key.max(dots) > MOST {
            return Err(Refusal::new(
                token.span().start(),
                format!(
                    "keys, lists and tables are nested too deep; accepted: at most {} deep",
                    Limits::MAX_DEPTH
                ),
            ));
        }
    }
    Ok(())
}

/// Far under what overflows a stack of 2 MiB, far over what [`Limits`] then refuses exactly.
const MOST: usize = 300;

/// The parser's reason, and what to do about the usual mistakes.
fn reason(error: &toml::de::Error, text: &str) -> String {
    let message = error.message();
    // A reason of several lines would not stand in one.
    let message = message.split('\n').map(str::trim).collect::<Vec<_>>().join(", ");
    let found = error.span().and_then(|span| text.get(span.start..)).unwrap_or_default();
    let advice = if message.contains("duplicate key") {
        "; keep one of the two"
    } else if message.contains("string values must be quoted") {
        "; write the text in double quotes"
    } else if found.starts_with(':') || message.contains("expected `=`") {
        "; TOML writes `key = value`, not `key: value`"
    } else {
        ""
    };
    format!("{message}{advice}")
}

fn convert(value: &Spanned<DeValue<'_>>, budget: &mut Budget, depth: usize) -> Result<Tree, Refusal> {
    let offset = Some(value.span().start);
    let mut take = |bytes: usize, nested: usize| {
        budget.take(1, bytes, depth + nested).map_err(|message| Refusal::new(offset, message))
    };
    Ok(match value.get_ref() {
        DeValue::String(text) => {
            take(text.len(), 0)?;
            Tree::new(Value::Text(text.to_string()), offset)
        }
        DeValue::Boolean(value) => {
            take(0, 0)?;
            Tree::new(Value::Bool(*value), offset)
        }
        DeValue::Integer(integer) => {
            take(0, 0)?;
            let number = i64::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| {
                Refusal::new(
                    offset,
                    "this whole number does not fit; accepted: -9223372036854775808 to 9223372036854775807",
                )
            })?;
            let written = integer.to_string();
            Tree::number(Value::Integer(number.into()), offset, &written)
        }
        DeValue::Float(float) => {
            take(0, 0)?;
            let number = float.as_str().parse().unwrap_or(f64::NAN);
            Tree::number(Value::Float(number), offset, float.as_str())
        }
        DeValue::Datetime(time) => {
            take(0, 0)?;
            Tree::new(Value::Time(time.to_string()), offset)
        }
        DeValue::Array(items) => {
            take(0, 1)?;
            let items = items.iter().map(|item| convert(item, budget, depth + 1));
            Tree::new(Value::List(items.collect::<Result<_, _>>()?), offset)
        }
        DeValue::Table(table) => convert_table(table, offset, budget, depth + 1)?,
    })
}

fn convert_table(
    table: &DeTable<'_>,
    offset: Option<usize>,
    budget: &mut Budget,
    depth: usize,
) -> Result<Tree, Refusal> {
    budget.take(1, 0, depth).map_err(|message| Refusal::new(offset, message))?;
    let mut entries = Vec::with_capacity(table.len());
    for (key, value) in table {
        let at = Some(key.span().start);
        budget.take(0, key.get_ref().len(), depth).map_err(|message| Refusal::new(at, message))?;
        entries.push(Entry::new(key.get_ref().to_string(), at, convert(value, budget, depth)?));
    }
    // The parser's table is sorted by key; the document's order is that of the places.
    entries.sort_by_key(|entry| entry.offset);
    let table = Table::new(entries).map_err(|(at, message)| Refusal::new(at, message))?;
    Ok(Tree::new(Value::Table(table), offset))
}
