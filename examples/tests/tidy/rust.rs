//! Just enough reading of Rust text for the rules: what is code, what is an inline tests module, which names are defined.

/// The text with every comment and the inside of every string and character literal made blank. Lines keep their
/// numbers, and byte positions stay.
pub(crate) fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match literal_or_comment(bytes, at) {
            Some(end) => end.min(bytes.len()),
            None => {
                // A word is taken whole, so that the `r` of `var"` or the `b` of `b'` is read in its place.
                let word = bytes.iter().skip(at).take_while(|b| is_word(**b)).count().max(1);
                out.extend(bytes.iter().skip(at).take(word));
                at += word;
                continue;
            }
        };
        out.extend(bytes.iter().take(end).skip(at).map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
        at = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn is_word(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric() || !byte.is_ascii()
}

/// Where the literal or comment that starts at `at` ends, if one does.
fn literal_or_comment(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    if rest.starts_with(b"//") {
        return Some(at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()));
    }
    if rest.starts_with(b"/*") {
        return Some(at + block_comment(rest));
    }
    let prefix = [&b"br"[..], b"cr", b"b", b"c", b"r"].into_iter().find(|p| {
        let after = rest.get(p.len()).copied();
        let hashes = rest.iter().skip(p.len()).take_while(|b| **b == b'#').count();
        rest.starts_with(p)
            && (after == Some(b'"')
                || (p.ends_with(b"r") && hashes > 0 && rest.get(p.len() + hashes) == Some(&b'"'))
                || (*p == b"b" && after == Some(b'\'')))
    });
    let prefix = prefix.unwrap_or_default();
    let body = rest.get(prefix.len()..)?;
    let length = if prefix.ends_with(b"r") {
        let hashes = body.iter().take_while(|b| **b == b'#').count();
        let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
        let inside = body.get(hashes + 1..)?;
        let end = inside.windows(close.len()).position(|w| w == close).unwrap_or(inside.len());
        hashes + 1 + end + close.len()
    } else if body.first() == Some(&b'"') {
        quoted(body, b'"')
    } else if body.first() == Some(&b'\'') && is_character(body) {
        quoted(body, b'\'')
    } else {
        return None;
    };
    Some(at + prefix.len() + length)
}

/// Block comments nest.
fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while let Some(rest) = rest.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// A character literal, and not a lifetime: `'a'`, `'\n'`, `'é'`, against `'a`.
fn is_character(rest: &[u8]) -> bool {
    if rest.get(1) == Some(&b'\\') {
        return true;
    }
    let width = match rest.get(1) {
        Some(byte) if byte.is_ascii() => 1,
        Some(byte) => byte.leading_ones() as usize,
        None => return false,
    };
    rest.get(1 + width) == Some(&b'\'')
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while let Some(byte) = rest.get(at) {
        match byte {
            b'\\' => at += 2,
            byte if *byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The words of a code text, each with the number of its line.
pub(crate) fn words(code: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let split = line.split(|c: char| c != '_' && !c.is_alphanumeric());
        words.extend(split.filter(|word| !word.is_empty()).map(|word| (number + 1, word)));
    }
    words
}

/// The names that a code text defines: modules, functions, types, traits, macros. Each with the number of its line.
pub(crate) fn defined_names(code: &str) -> Vec<(usize, &str)> {
    const BEFORE: [&str; 8] = ["mod", "fn", "struct", "enum", "union", "trait", "type", "macro_rules"];
    let words: Vec<_> = words(code).into_iter().filter(|(_, word)| *word != "r").collect();
    let pairs = words.iter().zip(words.iter().skip(1));
    pairs.filter(|((_, before), _)| BEFORE.contains(before)).map(|(_, name)| *name).collect()
}

/// The code without its inline test modules, which are made blank so that lines keep their numbers, and how many lines
/// those were.
pub(crate) fn without_tests(code: &str) -> (String, usize) {
    let mut kept = String::new();
    let mut left_out = 0;
    let mut rest = code;
    while let Some(start) = rest.find("#[cfg(test)]") {
        let (before, attribute) = rest.split_at(start);
        kept.push_str(before);
        let end = inline_module(attribute);
        let (module, after) = attribute.split_at(end.unwrap_or("#[cfg(test)]".len()));
        let lines = module.matches('\n').count();
        kept.push_str(&"\n".repeat(lines));
        if end.is_some() {
            left_out += lines + 1;
        }
        rest = after;
    }
    (kept + rest, left_out)
}

/// Where the module under the attribute at the start of `text` ends, if it is a module with a body.
fn inline_module(text: &str) -> Option<usize> {
    let open = text.find('{')?;
    let head = text.get(..open)?;
    if head.contains(';') || !words(head).iter().any(|(_, word)| *word == "mod") {
        return None;
    }
    let mut depth = 0;
    for (at, c) in text.char_indices().skip_while(|(at, _)| *at < open) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at + 1);
        }
    }
    None
}

#[test]
fn comments_and_literals_are_no_code() {
    for hidden in [
        "// hidden",
        "/// hidden",
        "/* a /* hidden */ hidden */",
        "\"a \\\" hidden\"",
        "r\"\\\" ; r#\"a \" hidden\"#",
        "br##\"hidden \"# hidden\"##",
        "b\"hidden\"",
        "c\"hidden\"",
        "'\"' ; \"hidden\" ; '\\'' ; '\\u{1f600}' ; 'é' ; \"hidden\"",
    ] {
        let code = code(&format!("before; {hidden}\nafter;"));
        assert!(!code.contains("hidden"), "{hidden} gave {code}");
        assert!(code.starts_with("before;") && code.ends_with("\nafter;"), "{hidden} gave {code}");
    }
    for shown in ["fn a<'a>(x: &'a str) -> &'a str { shown }", "let r = shown; let b = 'x'; shown", "r#shown"]
    {
        assert!(code(shown).contains("shown"), "{shown} gave {}", code(shown));
    }
}

#[test]
fn names_are_found_where_they_are_defined() {
    let text =
        "pub(crate) async fn one<T>() {}\nstruct Two;\nmod three;\nmacro_rules! four {}\nfn r#five() {}";
    assert_eq!(defined_names(text), [(1, "one"), (2, "Two"), (3, "three"), (4, "four"), (5, "five")]);
    assert_eq!(defined_names("let x: Handler = call();"), []);
}

#[test]
fn an_inline_tests_module_is_left_out_and_the_rest_is_not() {
    let text = "a\n#[cfg(test)]\nmod tests {\n fn f() {}\n}\nb\n#[cfg(test)]\nmod more;\nfn c() {}";
    let (kept, left_out) = without_tests(text);
    assert_eq!(left_out, 4);
    assert_eq!(words(&kept), [(1, "a"), (6, "b"), (8, "mod"), (8, "more"), (9, "fn"), (9, "c")]);
}
