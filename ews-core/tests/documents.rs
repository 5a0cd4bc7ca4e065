//! The wrong documents with the messages that they get, and good documents that say the same in each format.
//!
//! A newcomer must be able to mend a wrong document from its message alone, so the messages are kept beside the documents
//! (`tests/documents/wrong`) and shown together on one page (`docs/wrong-documents.md`). Both are compared here; set
//! `EWS_BLESS=1` to write them anew, then read what changed.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use ews_core::document::{Format, Problems};
use ews_core::spec::ServiceSpec;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn documents(kind: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder("tests/documents").join(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e != "expected"))
        .collect();
    files.sort();
    files
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn read(path: &Path) -> Result<ServiceSpec, Problems> {
    ServiceSpec::from_document(&fs::read_to_string(path).unwrap(), Format::of_file(path).unwrap())
}

/// Compares, or writes where that was asked for.
fn hold(path: &Path, text: &str) {
    if std::env::var_os("EWS_BLESS").is_some() {
        fs::write(path, text).unwrap();
        return;
    }
    let kept = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(kept, text, "{} is not what it should be; EWS_BLESS=1 writes it anew", path.display());
}

#[test]
fn wrong_documents_get_their_messages() {
    let files = documents("wrong");
    assert!(files.len() >= 30, "only {} wrong documents", files.len());
    let mut page = String::from(
        "# Wrong documents and their messages\n\nEach document below is wrong in one or several ways, and each message is \
         what its author sees. This page is written\nby `tests/documents.rs` from `tests/documents/wrong` and compared by \
         it.\n",
    );
    for path in files {
        let name = name_of(&path);
        let message = read(&path).err().unwrap_or_else(|| panic!("{name} is accepted")).to_string();
        assert!(!message.contains("hunter2"), "{name}: a secret is in\n{message}");
        for line in message.lines().skip(1) {
            assert!(line.len() < 1200, "{name}: too long to read: {line}");
        }
        hold(&path.with_extension(format!("{}.expected", extension(&path))), &format!("{message}\n"));
        let title = name.split_once('-').unwrap().1.rsplit_once('.').unwrap().0.replace('-', " ");
        let text = fs::read_to_string(&path).unwrap();
        write!(
            page,
            "\n## {title}\n\n```{}\n{}\n```\n\n```text\n{message}\n```\n",
            extension(&path),
            text.trim_end()
        )
        .unwrap();
    }
    hold(&folder("docs/wrong-documents.md"), &page);
}

fn extension(path: &Path) -> String {
    path.extension().unwrap().to_string_lossy().into_owned()
}

#[test]
fn good_documents_say_the_same_in_each_format() {
    let mut fields = std::collections::BTreeSet::new();
    for name in ["full", "windows", "job"] {
        let file = |format: &str| folder("tests/documents/good").join(format!("{name}.{format}"));
        let [toml, json, yaml] = ["toml", "json", "yaml"]
            .map(|format| read(&file(format)).unwrap_or_else(|e| panic!("{name}.{format}: {e}")));
        assert_eq!(toml, json, "{name}: TOML and JSON differ");
        assert_eq!(toml, yaml, "{name}: TOML and YAML differ");
        toml.check().unwrap();
        let text = serde_json::to_string(&toml).unwrap();
        assert_eq!(serde_json::from_str::<ServiceSpec>(&text).unwrap(), toml, "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        paths(&value, "", &mut fields);
    }
    // Each field that a walk knows stands in one of the documents: what is accepted is taken from the messages.
    for table in [
        "",
        "image",
        "resources",
        "stop",
        "log",
        "security",
        "restart",
        "placement",
        "job",
        "platform",
        "artifact",
    ] {
        for field in accepted(table) {
            let path = if table.is_empty() { field } else { format!("{table}.{field}") };
            let bare = ["security.privileged", "image.pin"].contains(&path.as_str());
            assert!(bare || fields.contains(&path), "no good document holds `{path}`");
        }
    }
}

fn paths(value: &serde_json::Value, path: &str, found: &mut std::collections::BTreeSet<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        paths(value, &path, found);
        found.insert(path);
    }
}

/// The fields of a table, asked for by a field that it can't know.
fn accepted(table: &str) -> Vec<String> {
    let text = match table {
        "" => r#"{"qqqqqqqq":1}"#.to_owned(),
        table => format!(r#"{{"{table}":{{"qqqqqqqq":1}}}}"#),
    };
    let problems = ServiceSpec::from_json(&text).unwrap_err();
    let unknown = problems.iter().find(|p| p.message.contains("unknown field")).unwrap();
    unknown.accepted.as_ref().unwrap().split(", ").map(str::to_owned).collect()
}

#[test]
fn no_secret_is_shown_by_debug_or_by_a_message() {
    let good = "name: web\nimage: x\nports: { http: 80 }\nenv: { A: hunter2 }\nfiles: [{ path: /x, content: hunter2 }]\n\
                probes: { readiness: { http: { headers: { Authorization: hunter2 } } } }\n";
    let spec = ServiceSpec::from_yaml(good).unwrap();
    assert!(!format!("{spec:?}").contains("hunter2"), "{spec:?}");
    for wrong in [
        "env: [A=hunter2]",
        "env: A=hunter2",
        "env: { A: [hunter2] }",
        "env: { A: { secret: [hunter2] } }",
        "env: { A: { secret: 'hunter2 !' } }",
        "env: { 'A=hunter2': x }",
        "env: { A: { value: hunter2 } }",
        "env: { A: 2026.10, A=hunter2 }",
        "files: [{ path: /x, secret: 'hunter2 !' }]",
        "files: [{ path: /x, content: [hunter2], data: hunter2 }]",
        "command: run --password hunter2",
        "args: [[hunter2], \"hunter2\\0\"]",
        "probes: { readiness: { http: { headers: { A: \"hunter2\\n\" } } } }",
        "environment: { A: hunter2 }",
        "environment: [A=hunter2]",
        "entrypoint: run --password hunter2",
        "cmd: [[hunter2]]",
        "probes: { liveness: { httpGet: { headers: { A: \"hunter2\\n\" } } } }",
        "env: { A: !vault hunter2 }",
        "env: { A: { secret: hunter2! } }",
        "artifact: https://x.example/a?token=hunter2",
        "security: { credential_spec: 'raw://hunter2' }",
    ] {
        let text = format!("name: web\nimage: x\nports: {{ http: 80 }}\n{wrong}\n");
        let problems = ServiceSpec::from_yaml(&text).expect_err(wrong);
        assert!(!format!("{problems} {problems:?}").contains("hunter2"), "{wrong}: {problems:?}");
    }
    for wrong in [
        "image: https://me:hunter2@x.example/a",
        "image: { reference: 'https://me:hunter2@x.example/a' }",
        "artifact: https://x.example/a?token=hunter2",
        "artifact: 'https://x.example/a b?token=hunter2'",
        "artifact: https://me:hunter2@x.example/a",
    ] {
        let problems = ServiceSpec::from_yaml(&format!("name: web\n{wrong}\n")).expect_err(wrong);
        assert!(!format!("{problems} {problems:?}").contains("hunter2"), "{wrong}: {problems:?}");
    }
}
