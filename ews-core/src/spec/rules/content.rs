//! Rules of what an instance is made from and given: source, command, environment, files, mounts, labels.

use std::collections::HashMap;

use super::{Os, Rules, field, paths};
use crate::document::Path;
use crate::label::RESERVED_PREFIX;
use crate::spec::InstanceSpec;
use crate::spec::content::{EnvValue, FileContent};
use crate::spec::resources::ByteSize;
use crate::spec::source::{ImagePin, Source};
use crate::spec::storage::MountKind;
use crate::time::Shown;

/// The longest single argument or `NAME=value`: Linux's `MAX_ARG_STRLEN` of 128 KiB, less the closing NUL.
const MAX_WORD: usize = 128 * 1024 - 1;
/// The longest command line or environment variable of Windows, in UTF-16 units, less the closing NUL.
const MAX_WINDOWS: usize = 32_766;
/// The most items of `command` and `args` together.
const MAX_WORDS: usize = 4_096;
/// The most environment variables.
const MAX_ENV: usize = 1_000;
/// The longest name of an environment variable, in bytes.
const MAX_ENV_NAME: usize = 256;
/// The most files, and the most mounts.
const MAX_FILES: usize = 128;
/// The largest text of a file, in bytes.
const MAX_CONTENT: usize = 512 * 1024;

impl Rules {
    pub(super) fn source(&mut self, spec: &InstanceSpec) {
        match &spec.source {
            Source::Image(image) => {
                if let Some(ImagePin::Local { engine, .. }) = &image.pin
                    && (engine.is_empty() || engine.len() > 128 || engine.chars().any(char::is_control))
                {
                    let at = field("image").key("pin").key("local").key("engine");
                    self.find(at, "the engine's id is empty, too long or holds a control character; accepted: 1 to 128 bytes");
                }
                if let (Some(ImagePin::Manifest(pin)), Some(digest)) = (&image.pin, image.reference.digest())
                    && *pin != digest
                {
                    let needs = [field("image").key("reference")];
                    let at = field("image").key("pin").key("manifest");
                    self.find_with(
                        at,
                        &needs,
                        "the pin differs from the digest in `reference`; accepted: the same digest",
                    );
                }
            }
            Source::Artifact(artifact) => {
                let at = field("artifact").key("location");
                let location = artifact.location.as_str();
                let scheme = location.split_once("://").map(|(scheme, _)| scheme);
                match scheme {
                    Some("https") => {
                        let rest = location.get("https://".len()..).unwrap_or_default();
                        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
                        if host.contains('@') {
                            // The text before the `@` is a password: it is not repeated.
                            self.find(at, "the address holds a user or password; accepted: an https:// address without them");
                        } else if host.is_empty() || location.chars().any(|c| c.is_control() || c == ' ') {
                            let shown = Shown(location.split(['?', '#']).next().unwrap_or_default());
                            self.find(
                                at,
                                format!("\"{shown}\" is not an address; accepted: https://host/path"),
                            );
                        } else if location.len() > 4096 {
                            self.find(at, "the address is too long; accepted: at most 4096 bytes");
                        }
                        if artifact.digest.is_none() {
                            // What follows a `?` may be a token, and what stands before an `@` a password.
                            let plain = !location.contains(['?', '@', '#']);
                            let own = if plain { location } else { "https://…" };
                            let message = format!(
                                "an address needs the digest of what it should give; accepted: {{ location = \"{}\", digest = \
                                 \"sha256:…\" }}, with the 64 hexadecimal digits that `sha256sum` prints for the file",
                                Shown(own)
                            );
                            self.find(field("artifact").key("digest"), message);
                        }
                    }
                    Some(scheme) => {
                        let message = format!(
                            "the scheme `{}` is not read; accepted: a path of the node, or an https:// address with `digest`",
                            Shown(scheme)
                        );
                        self.find(at, message);
                    }
                    None => {
                        self.path(at, location);
                    }
                }
            }
        }
    }

    pub(super) fn content(&mut self, spec: &InstanceSpec) {
        self.words(spec);
        self.env(spec);
        if self.at_most(field("files"), spec.files.len(), MAX_FILES) {
            for (index, file) in spec.files.iter().enumerate() {
                let at = field("files").index(index);
                if self.path(at.key("path"), &file.path) && file.path.ends_with(['/', '\\']) {
                    let message =
                        format!("\"{}\" is a directory; accepted: the path of a file", Shown(&file.path));
                    self.find(at.key("path"), message);
                }
                if let FileContent::Content(text) = &file.content
                    && text.len() > MAX_CONTENT
                {
                    let message = format!(
                        "the file is {} bytes long; accepted: at most {MAX_CONTENT}; put large files into the image",
                        text.len()
                    );
                    self.find(at.key("content"), message);
                }
            }
            let paths = spec.files.iter().enumerate().map(|(index, file)| {
                let at = field("files").index(index).key("path");
                (at, paths::canonical(&file.path), format!("\"{}\"", Shown(&file.path)))
            });
            self.distinct("file path", paths);
        }
        for (key, _) in spec.labels.iter() {
            if key.starts_with(RESERVED_PREFIX) {
                self.find(
                    field("labels").key(key),
                    format!("labels under `{RESERVED_PREFIX}` belong to EWS, which sets them itself; accepted: another prefix"),
                );
            }
        }
    }

    fn words(&mut self, spec: &InstanceSpec) {
        let count = spec.command.len() + spec.args.len();
        if !self.at_most(field("args"), count, MAX_WORDS) {
            return;
        }
        for (name, words) in [("command", &spec.command), ("args", &spec.args)] {
            for (index, word) in words.iter().enumerate() {
                self.word(field(name).index(index), word);
            }
        }
        if spec.command.first().is_some_and(String::is_empty) {
            self.find(
                field("command").index(0),
                "the program's name is empty; accepted: a program such as \"/app/server\"",
            );
        }
        if self.windows() {
            // Each word may be quoted, and one space stands between two.
            let all = spec.command.iter().chain(&spec.args);
            let units: usize = all.map(|word| word.encode_utf16().count() + 3).sum();
            if units > MAX_WINDOWS {
                let message = format!(
                    "the command line is about {units} characters long; accepted: at most {MAX_WINDOWS} on Windows"
                );
                self.find_with(field("args"), &[field("command"), field("platform")], message);
            }
        }
    }

    /// A text that becomes an argument. It may be a secret and is not shown.
    pub(super) fn word(&mut self, at: Path, word: &str) {
        if word.contains('\0') {
            self.find(
                at,
                "the text contains the character NUL, at which programs end it; accepted: text without NUL",
            );
        } else if word.len() > MAX_WORD {
            self.find(at, format!("the text is {} bytes long; accepted: at most {MAX_WORD}", word.len()));
        }
    }

    fn env(&mut self, spec: &InstanceSpec) {
        if !self.at_most(field("env"), spec.env.len(), MAX_ENV) {
            return;
        }
        for (name, value) in &spec.env {
            let at = field("env").key(name);
            let fault = if name.is_empty() {
                Some("the name of a variable is empty")
            } else if name.contains('=') {
                Some(
                    "the name of a variable contains `=`; perhaps `NAME=value` was written where a name and a value belong",
                )
            } else if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
                Some("the name of a variable contains a space or a control character")
            } else if name.contains(':') {
                Some("the name of a variable contains `:`; perhaps the space after the colon is missing")
            } else if name.len() > MAX_ENV_NAME {
                Some("the name of a variable is longer than 256 bytes")
            } else {
                None
            };
            if let Some(fault) = fault {
                let accepted = "a name such as DATABASE_URL, with its value apart";
                self.find(at.clone(), format!("{fault}; accepted: {accepted}"));
            }
            if let EnvValue::Plain(value) = value {
                self.word(at.clone(), value);
                let units = name.len() + 1 + value.encode_utf16().count();
                if self.windows() && units > MAX_WINDOWS {
                    let message = format!(
                        "the value is too long; accepted: at most {MAX_WINDOWS} characters on Windows"
                    );
                    self.find_with(at, &[field("platform")], message);
                }
            }
        }
        if self.windows() {
            let mut seen: HashMap<String, &str> = HashMap::new();
            for name in spec.env.keys() {
                if let Some(first) = seen.insert(name.to_uppercase(), name) {
                    let first = field("env").key(first);
                    let message = format!(
                        "Windows does not tell this name from {first}, which differs in case only; accepted: one of the two"
                    );
                    self.find_with(field("env").key(name), &[field("platform"), first], message);
                }
            }
        }
        for (index, port) in spec.ports.iter().enumerate().filter(|(_, port)| port.number.is_none()) {
            let own = format!("PORT_{}", port.name.as_str().to_ascii_uppercase().replace('-', "_"));
            let names = if index == 0 { vec!["PORT".to_owned(), own] } else { vec![own] };
            for name in names.into_iter().filter(|name| spec.env.contains_key(name)) {
                let message = format!(
                    "the runtime sets this variable, since the port \"{}\" has no number; accepted: another name, or a number \
                     for the port",
                    port.name
                );
                self.find_with(field("env").key(name), &[field("ports").index(index)], message);
            }
        }
    }

    fn pipe(&mut self, at: Path, path: &str) {
        let name = path.strip_prefix(r"\\.\pipe\").unwrap_or_default();
        if name.is_empty() || name.len() > 256 || name.contains(['\\', '/']) {
            let message = format!(
                "\"{}\" is not a named pipe; accepted: \\\\.\\pipe\\ and a name without `\\`",
                Shown(path)
            );
            self.find(at, message);
        }
    }

    pub(super) fn storage(&mut self, spec: &InstanceSpec) {
        if !self.at_most(field("mounts"), spec.mounts.len(), MAX_FILES) {
            return;
        }
        for (index, mount) in spec.mounts.iter().enumerate() {
            let at = field("mounts").index(index);
            let target = at.key("target");
            // A pipe is seen under a pipe's name too: Docker's parser refuses any other target for it.
            if matches!(mount.kind, MountKind::NamedPipe(_)) {
                if self.windows() {
                    self.pipe(target, &mount.target);
                }
            } else if self.path(target.clone(), &mount.target) {
                let canonical = paths::canonical(&mount.target);
                if canonical == "/" || canonical == "c:" {
                    let message = format!(
                        "\"{}\" is the root of the instance's own file system; accepted: a directory below it, or on Windows \
                         another drive",
                        Shown(&mount.target)
                    );
                    self.find(target, message);
                }
            }
            match &mount.kind {
                MountKind::Bind(path) => {
                    self.path(at.key("bind"), path);
                }
                MountKind::Volume(_) => {}
                MountKind::Tmpfs(size) => {
                    if self.windows() {
                        let needs = [field("platform")];
                        self.find_with(
                            at.key("tmpfs"),
                            &needs,
                            "Windows has no tmpfs; accepted: `bind` or `volume`",
                        );
                    }
                    if *size < ByteSize::from_bytes(4096) {
                        let message =
                            format!("found {size} bytes; accepted: at least 4096, such as \"64MiB\"");
                        self.find(at.key("tmpfs"), message);
                    }
                }
                MountKind::NamedPipe(path) => {
                    let at = at.key("named_pipe");
                    if self.windows() {
                        self.pipe(at, path);
                    } else {
                        self.only_windows(at, "named pipes are");
                    }
                }
            }
        }
        let targets = spec.mounts.iter().enumerate().map(|(index, mount)| {
            let at = field("mounts").index(index).key("target");
            (at, paths::canonical(&mount.target), format!("\"{}\"", Shown(&mount.target)))
        });
        self.distinct("mount target", targets);
    }

    /// Something that only Windows has stands in a spec that is not said to be for Windows.
    pub(super) fn only_windows(&mut self, at: Path, what: &str) {
        let found = match self.os {
            None => "platform.os is not given",
            Some(Os::Linux) => "platform.os is linux",
            Some(_) => "platform.os is darwin",
        };
        let message = format!(
            "{what} for Windows only, and {found}; accepted: leave it out, or set `platform.os` to \"windows\""
        );
        self.find_with(at, &[field("platform")], message);
    }
}
