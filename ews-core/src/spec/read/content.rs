//! Command, environment, files, mounts and labels.

use std::collections::BTreeMap;

use super::foreign;
use crate::document::walk::At;
use crate::document::{Tree, Value};
use crate::id::VolumeName;
use crate::label::{self, Labels};
use crate::spec::content::{ConfigFile, EnvValue, FileContent, FileMode, SecretRef};
use crate::spec::resources::ByteSize;
use crate::spec::storage::{Mount, MountKind};

const SECRET: &str = "the name of a secret, such as \"file:db/password\"";

/// `command` or `args`. Arguments may hold secrets, so none is shown.
pub(super) fn words(at: &At<'_>, field: &str) -> Vec<String> {
    let at = at.clone().quiet();
    if at.tree.as_text().is_some() {
        at.fail(format!(
            "found a single text, and no shell splits it; accepted: a list with one item for each word, such as {field} = \
             [\"serve\", \"--port\", \"8080\"]; for a shell write [\"/bin/sh\", \"-c\", \"…\"]"
        ));
        return Vec::new();
    }
    let items = at.list("a list of texts, one for each word");
    // An item that could not be read keeps its place, so that the others keep their numbers.
    items.iter().map(|item| item.word("a text").unwrap_or_default()).collect()
}

pub(super) fn env(at: &At<'_>) -> BTreeMap<String, EnvValue> {
    let at = at.clone().quiet();
    if at.tree.as_list().is_some() {
        at.fail(
            "found a list; accepted: a table of names and values, such as { NAME = \"value\" }, not a list of \
             \"NAME=value\"",
        );
        return BTreeMap::new();
    }
    let mut env = BTreeMap::new();
    for (name, at) in at.entries("a table of names and values") {
        let value = match at.tree.value {
            Value::Table(_) => secret_value(&at),
            // `{ NAME=value }` and `{ NAME:value }` are a name without a value to YAML: the rules say what is wrong with it.
            Value::Null if name.contains(['=', ':']) => None,
            _ => at.word("a text, or { secret = \"name\" }").map(EnvValue::Plain),
        };
        env.insert(name.to_owned(), value.unwrap_or_else(|| EnvValue::Plain(String::new())));
    }
    env
}

fn secret_value(at: &At<'_>) -> Option<EnvValue> {
    let mut fields = at.table("a table with `secret`")?;
    let secret = fields.required("secret", SECRET).and_then(|at| at.parsed::<SecretRef>(SECRET));
    fields.finish(foreign::env_value);
    Some(EnvValue::Secret { secret: secret? })
}

pub(super) fn files(at: &At<'_>) -> Vec<ConfigFile> {
    let items = at.list("a list of tables, each with `path` and `content` or `secret`");
    items.iter().map(|item| file(item).unwrap_or_else(|| unread_file(""))).collect()
}

fn unread_file(path: &str) -> ConfigFile {
    ConfigFile::new(path, FileContent::Content(String::new()))
}

fn file(at: &At<'_>) -> Option<ConfigFile> {
    let mut fields = at.table("a table with `path` and `content` or `secret`")?.also_called(&foreign::FILE);
    let path = fields.required("path", "an absolute path").and_then(|at| at.text("an absolute path"));
    let content = fields.take("content");
    let secret = fields.take("secret");
    let content = match (content, secret) {
        (Some(at), None) => {
            at.quiet().text("the text of the file").map(|t| FileContent::Content(t.to_owned()))
        }
        (None, Some(at)) => at.quiet().parsed::<SecretRef>(SECRET).map(FileContent::Secret),
        (Some(_), Some(at)) => {
            at.quiet().fail("both `content` and `secret` are given; accepted: exactly one of the two");
            None
        }
        (None, None) => {
            fields.missing(
                "content",
                "the text of the file, or instead the field `secret` with the name of a secret",
            );
            None
        }
    };
    let mode = fields.take("mode").and_then(|at| file_mode(&at));
    fields.finish(foreign::file);
    let mut file = match content {
        Some(content) => ConfigFile::new(path.unwrap_or_default(), content),
        None => unread_file(path.unwrap_or_default()),
    };
    if let Some(mode) = mode {
        file.mode = mode;
    }
    Some(file)
}

fn file_mode(at: &At<'_>) -> Option<FileMode> {
    const ACCEPTED: &str = "octal text in quotes, from \"0000\" to \"0777\", such as \"0644\"";
    if let Some(written) = at.tree.written.as_deref().filter(|_| at.tree.as_integer().is_some()) {
        let digits = written.trim_start_matches("0o").trim_start_matches('0');
        at.fail(format!(
            "found the number {}, which is read as {} and not as octal; accepted: {ACCEPTED}; write \"0{}\" in quotes",
            crate::time::Shown(written),
            at.tree.as_integer().unwrap_or_default(),
            crate::time::Shown(digits)
        ));
        return None;
    }
    at.parsed(ACCEPTED)
}

pub(super) fn mounts(at: &At<'_>) -> Option<Vec<Mount>> {
    let items =
        at.list("a list of tables, each with `target` and one of `bind`, `volume`, `tmpfs`, `named_pipe`");
    items.iter().map(|item| mount(item).or_else(unread_mount)).collect()
}

/// A stand-in that no rule objects to, but for its target.
fn unread_mount() -> Option<Mount> {
    Some(Mount::new("", MountKind::Volume(VolumeName::new("unread").ok()?)))
}

fn mount(at: &At<'_>) -> Option<Mount> {
    if at.tree.as_text().is_some() {
        at.fail(format!(
            "found {}; accepted: a table with `target` and one of `bind`, `volume`, `tmpfs`; Compose's \"data:/var/lib/data\" \
             is written {{ volume = \"data\", target = \"/var/lib/data\" }}, and \"/srv:/srv:ro\" is {{ bind = \"/srv\", \
             target = \"/srv\", read_only = true }}",
            at.found()
        ));
        return None;
    }
    let mut fields = at
        .table("a table with `target` and one of `bind`, `volume`, `tmpfs`, `named_pipe`")?
        .also_called(&foreign::MOUNT);
    let target = fields.required("target", "an absolute path").and_then(|at| at.text("an absolute path"));
    let bind = fields.take("bind");
    let volume = fields.take("volume");
    let tmpfs = fields.take("tmpfs");
    let pipe = fields.take("named_pipe");
    let mut given = [("bind", &bind), ("volume", &volume), ("tmpfs", &tmpfs), ("named_pipe", &pipe)]
        .into_iter()
        .filter_map(|(name, at)| at.as_ref().map(|at| (name, at)));
    let kind = if let (Some((first, _)), Some((second, at))) = (given.next(), given.next()) {
        at.fail(format!(
            "both `{first}` and `{second}` are given; accepted: exactly one of `bind`, `volume`, `tmpfs`, `named_pipe`; for two \
             mounts write two items of `mounts` with different targets"
        ));
        None
    } else if let Some(at) = &bind {
        at.text("a path of the node").map(|path| MountKind::Bind(path.to_owned()))
    } else if let Some(at) = &volume {
        at.parsed::<VolumeName>("the name of a volume").map(MountKind::Volume)
    } else if let Some(at) = &tmpfs {
        size(at).map(MountKind::Tmpfs)
    } else if let Some(at) = &pipe {
        at.text("the path of a named pipe").map(|path| MountKind::NamedPipe(path.to_owned()))
    } else {
        fields.none_given(
            "kind of mount",
            &["bind", "volume", "tmpfs", "named_pipe"],
            "`bind` (a path of the node), `volume` (a name), `tmpfs` (a size such as \"64MiB\"), `named_pipe`",
        );
        None
    };
    let read_only = fields.take("read_only").and_then(|at| at.boolean());
    fields.finish(foreign::mount);
    let mut mount = kind.map(|kind| Mount::new("", kind)).or_else(unread_mount)?;
    target.unwrap_or_default().clone_into(&mut mount.target);
    mount.read_only = read_only.unwrap_or_default();
    Some(mount)
}

/// A size: a text with a unit, or a number of bytes.
pub(super) fn size(at: &At<'_>) -> Option<ByteSize> {
    const ACCEPTED: &str = "a size such as \"512MiB\", or a number of bytes";
    match at.tree {
        Tree { value: Value::Integer(bytes), .. } => match u64::try_from(*bytes) {
            Ok(bytes) => Some(ByteSize::from_bytes(bytes)),
            Err(_) => {
                at.expected(ACCEPTED);
                None
            }
        },
        _ => {
            let text = at.tree.as_text();
            let Some(text) = text else {
                at.expected(ACCEPTED);
                return None;
            };
            let short = text.trim_end_matches(['K', 'M', 'G', 'T', 'k', 'm', 'g', 't']);
            if short.len() + 1 == text.len() && !short.is_empty() && short.bytes().all(|b| b.is_ascii_digit())
            {
                let unit = text.get(short.len()..).unwrap_or_default().to_ascii_uppercase();
                at.fail(format!(
                    "found {}, and tools disagree whether {unit} is a power of 1000 or 1024; accepted: {ACCEPTED}; Docker \
                     means \"{short}{unit}iB\" by it",
                    at.found()
                ));
                return None;
            }
            at.read(text)
        }
    }
}

pub(super) fn labels(at: &At<'_>) -> Labels {
    if at.tree.as_list().is_some() {
        at.fail("found a list; accepted: a table of keys and values, such as team = \"shop\"");
        return Labels::default();
    }
    let mut pairs = Vec::new();
    for (key, at) in at.entries("a table of keys and values") {
        let Some(value) = at.word("a text") else { continue };
        let checked = label::check_key(key).and_then(|()| label::check_value(key, &value));
        match checked {
            Ok(()) => pairs.push((key, value)),
            Err(error) => at.fail(error.message()),
        }
    }
    match Labels::new(pairs) {
        Ok(labels) => labels,
        Err(error) => {
            at.fail(error.message());
            Labels::default()
        }
    }
}
