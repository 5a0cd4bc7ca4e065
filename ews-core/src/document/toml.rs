//! TOML, through the `toml` crate's spanned tree.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml_parser::lexer::TokenKind;

use super::problem::ShownKey;
use super::tree::{Entry, Table};
use super::{Budget, Limits, Refusal, Tree, Value};

pub(super) fn read(text: &str, mut budget: Budget) -> Result<Tree, Refusal> {
    check_depth(text)?;
    let table = DeTable::parse(text).map_err(|error| {
        let refusal = error.span().and_then(|span| twice(&error, span, text));
        refusal.unwrap_or_else(|| Refusal::new(error.span().map(|span| span.start), reason(&error, text)))
    })?;
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

/// What the parser says of a key that comes twice names neither the key nor the first of the two; what it could read of the
/// document, the first included, tells both.
fn twice(error: &toml::de::Error, span: Range<usize>, text: &str) -> Option<Refusal> {
    if !error.message().contains("duplicate key") {
        return None;
    }
    // The key as written; in a dotted key the span may be that of one part.
    let written = text.get(span.clone())?;
    let key = written.trim_matches(['"', '\'']);
    let start = text.get(..span.start)?.rfind('\n').map_or(0, |at| at + 1);
    // Only what stands before: where the second is a table, the parser puts its place over the first one's.
    let (read, _) = DeTable::parse_recoverable(text.get(..start)?);
    let before = text.get(start..span.start)?.trim_start();
    if before.starts_with('[') {
        // A heading: the place of its table among all.
        let line = text.get(start..)?.lines().next()?.trim();
        let name = line.trim_start_matches('[').split(']').next()?;
        let path: Vec<&str> = name.split('.').map(|part| part.trim().trim_matches(['"', '\''])).collect();
        let first = place(read.get_ref(), &path, span.start);
        let heading = |at: usize| {
            let line = text.get(..at).and_then(|before| before.rsplit('\n').next());
            line.is_some_and(|line| line.trim_start_matches('\u{feff}').trim_start().starts_with('['))
        };
        let mut refusal = Refusal::twice(key, first, Some(span.start));
        // `[[env]]` after `[env]` is no second opening of the same.
        if !line.starts_with("[[") && first.is_some_and(heading) {
            refusal.message = format!("the table `[{}]` is opened twice", ShownKey(name));
            refusal.advice = "; put its fields under one heading";
        } else {
            refusal.advice = "; keep one of the two, or write the fields of both in one place";
        }
        return Some(refusal);
    }
    // Where it stands in several tables, the parser does not say which of them it means: no place is better than a wrong one.
    let mut found = Vec::new();
    places_in(read.get_ref(), key, span.start, &mut found);
    let first = found.first().copied().filter(|_| found.len() == 1);
    Some(Refusal::twice(key, first, Some(span.start)))
}

/// The place of the key at the end of this path; of several tables in a list the last is meant.
fn place(table: &DeTable<'_>, path: &[&str], before: usize) -> Option<usize> {
    let (key, rest) = path.split_first()?;
    let (found, value) = table.iter().find(|(found, _)| found.get_ref() == key)?;
    if rest.is_empty() {
        return Some(found.span().start).filter(|at| *at < before);
    }
    match value.get_ref() {
        DeValue::Table(table) => place(table, rest, before),
        DeValue::Array(items) => match items.iter().next_back()?.get_ref() {
            DeValue::Table(table) => place(table, rest, before),
            _ => None,
        },
        _ => None,
    }
}

/// Every place before this one where the key stands.
fn places(value: &DeValue<'_>, key: &str, before: usize, found: &mut Vec<usize>) {
    match value {
        DeValue::Table(table) => places_in(table, key, before, found),
        DeValue::Array(items) => {
            items.iter().for_each(|item| places(item.get_ref(), key, before, found));
        }
        _ => {}
    }
}

fn places_in(table: &DeTable<'_>, key: &str, before: usize, found: &mut Vec<usize>) {
    for (name, value) in table {
        if name.get_ref() == key && name.span().start < before {
            found.push(name.span().start);
        }
        places(value.get_ref(), key, before, found);
    }
}

/// The parser's reason, and what to do about the usual mistakes.
fn reason(error: &toml::de::Error, text: &str) -> String {
    let message = error.message();
    // A reason of several lines would not stand in one.
    let message = message.split('\n').map(str::trim).collect::<Vec<_>>().join(", ");
    let found = error.span().and_then(|span| text.get(span.start..)).unwrap_or_default();
    let advice = if message.contains("string values must be quoted") {
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
    let table = Table::new(entries)?;
    Ok(Tree::new(Value::Table(table), offset))
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Limits, read};

    #[track_caller]
    fn refused(text: &str) -> String {
        read(text, Format::Toml, Limits::default())
            .unwrap_err()
            .to_string()
            .lines()
            .nth(1)
            .unwrap()
            .to_owned()
    }

    #[test]
    fn of_a_key_that_comes_twice_the_first_is_named_or_no_place_at_all() {
        let twice = refused("[a]\nx = 1\n[b.c]\n[a.d]\n[b.c]\nx = 2\n");
        assert!(
            twice.starts_with("line 5, column 4: the table `[b.c]` is opened twice, first at line 3"),
            "{twice}"
        );
        let inline = refused("b = { c = 1 }\n[b]\nc = 2\n");
        assert!(
            inline.contains("`b` comes twice in one table, first at line 1, column 1; keep one"),
            "{inline}"
        );
        let list = refused("[b]\n[[b]]\n");
        assert!(list.contains("the key `b` comes twice in one table, first at line 1, column 2;"), "{list}");
        let quoted = refused("\"k\" = 1\nk = 2\n");
        assert!(
            quoted.contains("line 2, column 1: the key `k` comes twice in one table, first at line 1"),
            "{quoted}"
        );
        // `x` of `b` is not the first one of `a`, and the parser does not say where it was.
        let elsewhere = refused("[b]\nx = 1\n[a]\nx = 1\nx = 2\n");
        assert!(
            elsewhere.contains("the key `x` comes twice in one table; keep one of the two"),
            "{elsewhere}"
        );
        let secret = refused("'A=hunter2' = 1\n'A=hunter2' = 2\n");
        assert!(secret.contains("twice") && !secret.contains("hunter2"), "{secret}");
    }

    #[test]
    fn places_count_a_byte_order_mark_as_nothing() {
        let twice = refused("\u{feff}k = 1\nk = 2\n");
        assert!(twice.contains("line 2, column 1") && twice.contains("first at line 1, column 1"), "{twice}");
    }
}
