//! The house rules that a compiler does not hold, each held by a test.
//!
//! A rule is a pure function from a path and a text to what is wrong with them, so that each is shown here to refuse a
//! bad sample as well as to pass the tree. The tree is walked, not asked of git: the tests run from a source archive.
//! What may break a rule is listed once, in [`EXCEPTIONS`], with the reason; an entry that excepts nothing any more is
//! refused too.
//!
//! `tree` finds the files, `rust` reads Rust text, `rules` holds the rules for one file, `graph` those for manifests.

#[path = "tidy/graph.rs"]
mod graph;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/rust.rs"]
mod rust;
#[path = "tidy/tree.rs"]
mod tree;

use rules::Rule;

/// A file that may break a rule, and why.
struct Exception {
    rule: Rule,
    path: &'static str,
    why: &'static str,
}

const EXCEPTIONS: &[Exception] = &[
    Exception {
        rule: Rule::MachinePath,
        path: "examples/tests/tidy/rules.rs",
        why: "names the paths that the rule looks for, and shows them refused",
    },
    Exception {
        rule: Rule::Unsafe,
        path: "ews-core/src/process/sys/linux/spawn.rs",
        why: "a real-time signal's number, a terminal's descriptor",
    },
    Exception {
        rule: Rule::Unsafe,
        path: "ews-core/src/process/sys/linux/vfork.rs",
        why: "a child that borrows this process's memory until it is another program",
    },
    Exception {
        rule: Rule::Unsafe,
        path: "ews-core/src/process/sys/windows/raw.rs",
        why: "the system's own calls for jobs, processes, consoles and pipes",
    },
    Exception {
        rule: Rule::Unsafe,
        path: "ews-core/tests/process/windows/raw.rs",
        why: "what a program under test does with its console and its times",
    },
    Exception {
        rule: Rule::ThreadSleep,
        path: "ews-core/src/process/root.rs",
        why: "on a thread for blocking work, until Windows lets a folder be renamed",
    },
    Exception {
        rule: Rule::ThreadSleep,
        path: "benches/src/bin/process/mod.rs",
        why: "looks at what processes use while nothing happens",
    },
];

#[test]
fn the_tree_keeps_the_house_rules() {
    let files = tree::files().expect("the tree can be read");
    let mut wrong = Vec::new();
    for rule in Rule::ALL {
        for file in &files {
            let found = rule.check(&file.path, &file.text);
            let exception = EXCEPTIONS.iter().find(|e| e.rule == *rule && e.path == file.path);
            match exception {
                None => wrong.extend(found.into_iter().map(|what| format!("{}: {what}", file.path))),
                Some(_) if found.is_empty() => {
                    wrong.push(format!("{}: excepted from {rule:?}, which it does not break", file.path));
                }
                Some(exception) => assert!(!exception.why.is_empty(), "{}: no reason given", file.path),
            }
        }
    }
    for exception in EXCEPTIONS {
        if !files.iter().any(|file| file.path == exception.path) {
            wrong.push(format!("{}: excepted from {:?}, and is not there", exception.path, exception.rule));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn the_manifests_keep_the_dependency_graph() {
    let manifests: Vec<_> = tree::files()
        .expect("the tree can be read")
        .into_iter()
        // What only fuzzers build is no part of the workspace.
        .filter(|file| file.path.ends_with("Cargo.toml") && file.path != "fuzz/Cargo.toml")
        .collect();
    let root = manifests.iter().find(|file| file.path == "Cargo.toml").expect("a root manifest");
    let mut wrong = Vec::new();
    for file in manifests.iter().filter(|file| file.path != root.path) {
        wrong.extend(
            graph::check(&root.text, &file.path, &file.text)
                .into_iter()
                .map(|what| format!("{}: {what}", file.path)),
        );
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// The walk must see the tree: rules over no files would pass whatever the tree holds.
#[test]
fn the_walk_sees_sources_and_skips_what_is_built() {
    let paths: Vec<_> =
        tree::files().expect("the tree can be read").into_iter().map(|file| file.path).collect();
    for wanted in ["Cargo.toml", "ews-core/src/lib.rs", "examples/tests/tidy/tree.rs", ".ci/run"] {
        assert!(paths.iter().any(|path| path == wanted), "{wanted} is not seen");
    }
    assert!(!paths.iter().any(|path| path.starts_with("target") || path.starts_with(".git/")), "{paths:?}");
}
