//! The rules for one file, each a pure function of its path and text.

use super::rust;

/// A rule of the house.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A Rust file opens with a `//!` header that says what lives there and why.
    Header,
    /// No name is made of a word that says nothing.
    Vocabulary,
    /// `unsafe` only where it is excepted.
    Unsafe,
    /// `lib.rs` is a map: it defines no function.
    Map,
    /// No absolute path of somebody's machine.
    MachinePath,
    /// No file of more than [`MOST_LINES`] lines without its tests.
    Length,
    /// Code never blocks a thread to wait.
    ThreadSleep,
}

/// The longest a file may be without its inline tests.
const MOST_LINES: usize = 700;

/// Words that say nothing about what a thing is.
const EMPTY_WORDS: [&str; 10] =
    ["manager", "managers", "handler", "handlers", "helper", "helpers", "util", "utils", "common", "misc"];

/// Where the files of a developer's machine begin.
const MACHINE_PATHS: [&str; 4] = ["/home/", "/root/", "/work/", "/Users/"];

impl Rule {
    /// Every rule.
    pub(crate) const ALL: &[Self] = &[
        Self::Header,
        Self::Vocabulary,
        Self::Unsafe,
        Self::Map,
        Self::MachinePath,
        Self::Length,
        Self::ThreadSleep,
    ];

    /// What is wrong with a file under this rule; empty when nothing is.
    pub(crate) fn check(self, path: &str, text: &str) -> Vec<String> {
        let is_rust = path.ends_with(".rs");
        match self {
            Self::Vocabulary => {
                let mut wrong = file_name(path);
                if is_rust {
                    wrong.extend(vocabulary(text));
                }
                wrong
            }
            Self::MachinePath => machine_path(text),
            _ if !is_rust => Vec::new(),
            Self::Header => header(text),
            Self::Unsafe => unsafe_code(text),
            Self::Map if path.ends_with("src/lib.rs") => map(text),
            Self::Length => length(text),
            Self::ThreadSleep if !is_test_file(path) => thread_sleep(text),
            Self::Map | Self::ThreadSleep => Vec::new(),
        }
    }
}

fn is_test_file(path: &str) -> bool {
    path.split('/').any(|part| part == "tests" || part == "tests.rs")
}

fn header(text: &str) -> Vec<String> {
    // An attribute on the whole file may stand above its header.
    let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!["));
    match first.and_then(|line| line.strip_prefix("//!")) {
        Some(says) if !says.trim().is_empty() => Vec::new(),
        _ => vec!["opens without a `//!` header".to_owned()],
    }
}

fn file_name(path: &str) -> Vec<String> {
    let words = path.split(['/', '.', '-', ' ']).flat_map(segments);
    let empty = words.filter(|word| EMPTY_WORDS.contains(&word.as_str()));
    empty.map(|word| format!("the path is made of `{word}`, which says nothing")).collect()
}

fn vocabulary(text: &str) -> Vec<String> {
    let code = rust::code(text);
    let mut wrong = Vec::new();
    for (line, name) in rust::defined_names(&code) {
        for word in segments(name).into_iter().filter(|word| EMPTY_WORDS.contains(&word.as_str())) {
            wrong.push(format!("line {line}: `{name}` is made of `{word}`, which says nothing"));
        }
    }
    wrong
}

/// The words that a name in `snake_case` or `CamelCase` is made of, in lower case: `HTTPServerName` is http, server, name.
fn segments(name: &str) -> Vec<String> {
    let mut segments = vec![String::new()];
    let characters: Vec<char> = name.chars().collect();
    for (at, c) in characters.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| characters.get(at));
        let after = characters.get(at + 1);
        let begins = c.is_uppercase()
            && (before.is_some_and(|b| !b.is_uppercase()) || after.is_some_and(|a| a.is_lowercase()));
        if begins || *c == '_' {
            segments.push(String::new());
        }
        if *c != '_'
            && let Some(last) = segments.last_mut()
        {
            last.extend(c.to_lowercase());
        }
    }
    segments.retain(|segment| !segment.is_empty());
    segments
}

fn unsafe_code(text: &str) -> Vec<String> {
    let code = rust::code(text);
    let found = rust::words(&code).into_iter().filter(|(_, word)| *word == "unsafe");
    found.map(|(line, _)| format!("line {line}: `unsafe`, in a file that is not excepted")).collect()
}

fn map(text: &str) -> Vec<String> {
    let code = rust::code(text);
    let functions = rust::words(&code).into_iter().filter(|(_, word)| *word == "fn");
    functions.map(|(line, _)| format!("line {line}: a `fn` in lib.rs, which is a map")).collect()
}

fn machine_path(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for needle in MACHINE_PATHS {
            // `example.com/home/` and `$top/work/` are no absolute paths; `file:///home/` is one.
            let absolute = line.match_indices(needle).any(|(at, _)| {
                let before = line.get(..at).and_then(|before| before.chars().next_back());
                before.is_none_or(|c| !c.is_alphanumeric() && !"_-.~*$})]>".contains(c))
            });
            if absolute {
                wrong.push(format!("line {}: a path of one machine, under {needle}", number + 1));
            }
        }
    }
    wrong
}

fn length(text: &str) -> Vec<String> {
    let code = rust::code(text);
    // Only the lines of test modules are taken off; comments and blank lines count.
    let (_, of_tests) = rust::without_tests(&code);
    let lines = code.lines().count() - of_tests;
    if lines > MOST_LINES {
        return vec![format!("{lines} lines without tests, more than {MOST_LINES}: split it by idea")];
    }
    Vec::new()
}

fn thread_sleep(text: &str) -> Vec<String> {
    let (kept, _) = rust::without_tests(&rust::code(text));
    let code: String = kept.split_whitespace().collect();
    // `use std::thread::{self, sleep}` names it too.
    let imported = code.split("thread::{").skip(1).any(|group| {
        let group = group.split('}').next().unwrap_or_default();
        group.split(',').any(|name| name == "sleep" || name.starts_with("sleepas"))
    });
    if code.contains("thread::sleep") || imported {
        return vec!["`std::thread::sleep` blocks a thread of the embedder's runtime".to_owned()];
    }
    Vec::new()
}

/// Each rule with a file that it must refuse and one, close to it, that it must pass.
#[test]
fn every_rule_refuses_its_bad_samples_and_passes_their_neighbours() {
    let lines = |n: usize| "let x = 1;\n".repeat(n);
    let tested = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", lines(MOST_LINES), "\n".repeat(100));
    let too_long = lines(MOST_LINES + 1);
    let longest = lines(MOST_LINES);
    let samples: &[(Rule, &str, &str, &str, &str)] = &[
        (Rule::Header, "a.rs", "use x;", "a.rs", "//! What lives here.\nuse x;"),
        (Rule::Header, "a.rs", "//!\n//! Late.", "a.rs", "#![allow(unsafe_code)]\n\n//! Why."),
        (Rule::Header, "a.rs", "/// Of an item.\nstruct A;", "a.sh", "no header"),
        (Rule::Header, "a.rs", "", "a.rs", "//! Empty but for this."),
        (Rule::Vocabulary, "src/utils.rs", "", "src/utility.rs", ""),
        (Rule::Vocabulary, "tests/common/mod.rs", "", "tests/commons/mod.rs", ""),
        (Rule::Vocabulary, "scripts/http-helpers.sh", "", "scripts/http.sh", ""),
        (Rule::Vocabulary, "a.rs", "pub struct HTTPHandler;", "a.rs", "pub struct HandlerlessServer;"),
        (Rule::Vocabulary, "a.rs", "async fn close_manager() {}", "a.rs", "fn f(x: Manager) { manager() }"),
        (Rule::Vocabulary, "a.rs", "mod misc;", "a.rs", "// mod misc;\nmod miscellany;"),
        (Rule::Vocabulary, "a.rs", "trait RequestHandler {}", "a.rs", "let s = \"trait Handler\";"),
        (Rule::Vocabulary, "a.rs", "type Common2Util = u8;", "a.rs", "type Mutual = u8;"),
        (Rule::Unsafe, "a.rs", "unsafe { f() }", "a.rs", "#![deny(unsafe_code)] // unsafe"),
        (Rule::Unsafe, "a.rs", "#[unsafe(no_mangle)] fn f() {}", "a.rs", "let s = \"unsafe\";"),
        (Rule::Map, "x/src/lib.rs", "//! M.\npub fn f() {}", "x/src/lib.rs", "//! fn main() {}\nmod a;"),
        (Rule::Map, "x/src/lib.rs", "impl A { fn f() {} }", "x/src/other.rs", "fn f() {}"),
        (Rule::MachinePath, "a.md", "see /home/ann/x", "a.md", "https://example.com/home/ann"),
        (Rule::MachinePath, "a.toml", "path = \"/work/x\"", "a.toml", "path = \"$top/work/x\""),
        (Rule::MachinePath, "a.rs", "// /root/.cargo", "a.rs", "// target/root/.cargo"),
        (Rule::MachinePath, "a", "file:///Users/ann", "a", "~/Users/ann"),
        (Rule::Length, "a.rs", &too_long, "a.rs", &longest),
        (Rule::Length, "a.rs", &too_long, "a.rs", &tested),
        (Rule::ThreadSleep, "src/a.rs", "std::thread::sleep(d);", "src/a.rs", "tokio::time::sleep(d).await;"),
        (Rule::ThreadSleep, "src/a.rs", "use std::thread::{self, sleep};", "tests/a.rs", "thread::sleep(d)"),
        (
            Rule::ThreadSleep,
            "src/a.rs",
            "fn f() { thread :: sleep(d) }\n#[cfg(test)]\nmod tests {}",
            "src/a.rs",
            "#[cfg(test)]\nmod tests { fn f() { thread::sleep(d) } }",
        ),
    ];
    for (rule, bad_path, bad, good_path, good) in samples {
        assert!(!rule.check(bad_path, bad).is_empty(), "{rule:?} passes {bad_path}: {bad}");
        let wrong = rule.check(good_path, good);
        assert!(wrong.is_empty(), "{rule:?} refuses {good_path}: {good}: {wrong:?}");
    }
    for rule in Rule::ALL {
        assert!(samples.iter().any(|(of, ..)| of == rule), "{rule:?} has no bad sample");
    }
}

#[test]
fn names_are_split_into_their_words() {
    assert_eq!(segments("HTTPServerName"), ["http", "server", "name"]);
    assert_eq!(segments("open_file_"), ["open", "file"]);
    assert_eq!(segments("IoUtil"), ["io", "util"]);
}
