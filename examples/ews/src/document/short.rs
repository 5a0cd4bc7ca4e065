//! The short words of a service's document, taken out of the tree or turned into fields of the spec.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ews_core::balancer::DomainName;
use ews_core::document::{Entry, Table, Tree, Value, nearest};
use ews_deploy::{Batch, BlueGreen, Bounds, Canary, CanaryStep, RemedyPolicy, Strategy};
use serde::de::DeserializeOwned;

use super::Notes;
use super::tree::{json, like, table, text};

/// The fields that a document has beside those of the spec.
pub(super) const SHORT: [&str; 8] =
    ["port", "probe", "domain", "domains", "path", "strategy", "bounds", "remedy"];

/// What the short words say.
pub(super) struct Short {
    pub(super) strategy: Strategy,
    /// The domains, and where they stand.
    pub(super) domains: Option<(Vec<DomainName>, Tree)>,
    pub(super) path: Option<String>,
    pub(super) bounds: Option<Bounds>,
    pub(super) remedy: Option<RemedyPolicy>,
    /// Where `port` stands.
    pub(super) port: Option<Tree>,
    /// Whether what runs is the author's own and is kept by its digest.
    pub(super) keep: bool,
}

impl Short {
    /// Takes them out of the tree, and puts what they stand for in. `None` where the document is no table.
    pub(super) fn take(tree: &mut Tree, notes: &mut Notes<'_>) -> Option<Self> {
        let whole = tree.clone();
        let Value::Table(fields) = &mut tree.value else { return None };
        let keep = program(fields, &whole, notes);
        let domains = domains(fields, notes);
        let path = fields.remove("path").and_then(|at| path(&at, notes));
        let port = port(fields, domains.as_ref().map(|(_, at)| at), notes);
        probe(fields, notes);
        let strategy = fields.remove("strategy").map(|at| strategy(&at, notes)).unwrap_or_default();
        let bounds = fields.remove("bounds").and_then(|at| of_serde(&at, "bounds", notes));
        let remedy: Option<RemedyPolicy> =
            fields.remove("remedy").and_then(|at| of_serde(&at, "remedy", notes));
        Some(Self { strategy, domains, path, bounds, remedy, port, keep })
    }
}

/// Makes an artifact of a command where nothing else says what runs. Returns whether it is the author's own.
fn program(fields: &mut Table, whole: &Tree, notes: &mut Notes<'_>) -> bool {
    /// In place of what could not be read; its problem is noted.
    const STAND_IN: &str = "/unread";
    if fields.entry("image").is_some() {
        return false;
    }
    if let Some(at) = fields.get("artifact").cloned() {
        let Some(location) = at.as_text() else { return false };
        if location.contains("://") {
            return false;
        }
        let path = notes.directory.join(location);
        if !path.exists() {
            notes.add(
                &at,
                "artifact",
                &format!(
                    "there is nothing at {}; accepted: a directory, an archive or a program",
                    path.display()
                ),
            );
        }
        fields.insert("artifact", text(&at, path.to_string_lossy()));
        return true;
    }
    let Some(at) = fields.remove("command") else {
        let is_near = |entry: &Entry| nearest(&entry.key, ["image", "artifact", "command"]).is_some();
        // A name that is nearly right is reported as that, and another tool's whole file as one mistake.
        let is_foreign = ["services", "apiVersion"].into_iter().any(|key| fields.entry(key).is_some());
        if !is_foreign && !fields.entries().iter().any(is_near) {
            notes.add(
                whole,
                "command",
                "nothing says what runs; accepted: `command` (a program and its arguments), `artifact` (a directory, an \
                 archive or a program), or `image`",
            );
        }
        fields.insert("artifact", text(whole, STAND_IN));
        return false;
    };
    let found = words(&at).and_then(|words| {
        let (first, rest) = words.split_first().ok_or(NOT_WORDS)?;
        let name = first.as_text().unwrap_or_default();
        Ok((first.clone(), name.to_owned(), rest.to_vec()))
    });
    let (first, name, rest) = match found {
        Ok(found) => found,
        Err(message) => {
            notes.add(&at, "command", message);
            fields.insert("artifact", text(&at, STAND_IN));
            return false;
        }
    };
    let is_own = name.contains('/') && !name.starts_with('/');
    let location = match locate(&name, &notes.directory) {
        Ok(path) => path,
        Err(message) => {
            notes.add(&first, "command", &message);
            PathBuf::from(STAND_IN)
        }
    };
    fields.insert("artifact", text(&first, location.to_string_lossy()));
    match fields.get("args").cloned() {
        // What is no list is the spec's to report.
        Some(args) => {
            if let Value::List(more) = &args.value {
                let all = rest.into_iter().chain(more.iter().cloned()).collect();
                fields.insert("args", like(&args, Value::List(all)));
            }
        }
        None if rest.is_empty() => {}
        None => fields.insert("args", like(&at, Value::List(rest))),
    }
    is_own
}

const NOT_WORDS: &str = "this is no command; accepted: a list of texts, one for each word, such as [\"python3\", \"-m\", \"http.server\"]; \
                         for a shell's line [\"sh\", \"-c\", \"…\"]";

/// The words of a command: a list of texts, or one text without spaces.
fn words(at: &Tree) -> Result<Vec<Tree>, &'static str> {
    match &at.value {
        Value::Text(text) if !text.is_empty() && !text.contains(char::is_whitespace) => Ok(vec![at.clone()]),
        Value::List(items) if !items.is_empty() && items.iter().all(|item| item.as_text().is_some()) => {
            Ok(items.clone())
        }
        _ => Err(NOT_WORDS),
    }
}

/// Where a program is: at its path, or where `PATH` leads.
fn locate(name: &str, directory: &Path) -> Result<PathBuf, String> {
    use std::os::unix::fs::PermissionsExt as _;
    let is_program = |path: &Path| {
        path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        let path = directory.join(name);
        return match path.metadata() {
            Err(error) => Err(format!("the program {} can't be found: {error}", path.display())),
            Ok(_) if is_program(&path) => Ok(path),
            Ok(_) => Err(format!(
                "{} is no program that may be run; accepted: a file with `chmod +x`",
                path.display()
            )),
        };
    }
    let search = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&search).map(|folder| folder.join(name)).find(|path| is_program(path));
    found.ok_or_else(|| {
        let shown: String = name.chars().take(64).flat_map(char::escape_default).collect();
        format!("no program `{shown}` where PATH leads; accepted: one that is there, or a path such as \"./{shown}\"")
    })
}

fn domains(fields: &mut Table, notes: &mut Notes<'_>) -> Option<(Vec<DomainName>, Tree)> {
    let (one, many) = (fields.remove("domain"), fields.remove("domains"));
    let (field, at) = match (one, many) {
        (Some(_), Some(at)) => {
            notes.add(&at, "domains", "both `domain` and `domains` are given; accepted: one of the two");
            return None;
        }
        (Some(at), None) => ("domain", at),
        (None, at) => ("domains", at?),
    };
    let listed = match &at.value {
        Value::Text(_) if field == "domain" => vec![at.clone()],
        Value::List(items) if field == "domains" && !items.is_empty() => items.clone(),
        _ => {
            let message = match field {
                "domain" => format!("found {}; accepted: a host name such as \"shop.example\"", at.kind()),
                _ => {
                    format!("found {}; accepted: a list of host names such as [\"shop.example\"]", at.kind())
                }
            };
            notes.add(&at, field, &message);
            return None;
        }
    };
    let mut names = Vec::new();
    for item in listed {
        match item.as_text().map(DomainName::new) {
            Some(Ok(name)) => names.push(name),
            Some(Err(error)) => notes.add(&item, field, error.message()),
            None => {
                notes.add(&item, field, &format!("found {}; accepted: a host name in quotes", item.kind()))
            }
        }
    }
    Some((names, at))
}

fn path(at: &Tree, notes: &mut Notes<'_>) -> Option<String> {
    match at.as_text() {
        Some(path) if path.starts_with('/') => Some(path.to_owned()),
        _ => {
            notes.add(
                at,
                "path",
                "this is no path of requests; accepted: one that begins with `/`, such as \"/shop\"",
            );
            None
        }
    }
}

/// Turns `port` into `ports`; a service with a domain and no port gets one that is allotted.
fn port(fields: &mut Table, domain: Option<&Tree>, notes: &mut Notes<'_>) -> Option<Tree> {
    let Some(at) = fields.remove("port") else {
        if let Some(domain) = domain
            && fields.entry("ports").is_none()
        {
            let auto = like(domain, Value::Table(Table::default()));
            fields.insert("ports", table(domain, "http", auto));
        }
        return None;
    };
    if fields.entry("ports").is_some() {
        notes.add(&at, "port", "both `port` and `ports` are given; accepted: one of the two");
        return Some(at);
    }
    let number = match &at.value {
        Value::Integer(number) if (1..=65_535).contains(number) => at.clone(),
        Value::Text(text) if text == "auto" => like(&at, Value::Table(Table::default())),
        value => {
            let found = match value {
                Value::Integer(number) => format!("the number {number}"),
                Value::Text(text) => {
                    format!(
                        "the text \"{}\"",
                        text.chars().take(64).flat_map(char::escape_default).collect::<String>()
                    )
                }
                _ => at.kind().to_owned(),
            };
            let message = format!(
                "found {found}; accepted: a whole number from 1 to 65535 without quotes, or \"auto\" for one that the program finds in `PORT`"
            );
            notes.add(&at, "port", &message);
            like(&at, Value::Table(Table::default()))
        }
    };
    fields.insert("ports", table(&at, "http", number));
    Some(at)
}

/// Turns `probe` into a probe of readiness.
fn probe(fields: &mut Table, notes: &mut Notes<'_>) {
    let Some(at) = fields.remove("probe") else { return };
    if fields.entry("probes").is_some() {
        notes.add(&at, "probe", "both `probe` and `probes` are given; accepted: one of the two");
        return;
    }
    let probe = match &at.value {
        Value::Text(path) if path.starts_with('/') => table(&at, "http", at.clone()),
        Value::Text(_) => {
            let message = "this is no path; accepted: one that begins with `/`, such as \"/health\"";
            notes.add(&at, "probe", message);
            return;
        }
        Value::Table(_) => at.clone(),
        _ => {
            let message = format!(
                "found {}; accepted: a path such as \"/health\", or a table with `http`, `tcp` or `exec`, and `interval`, \
                 `timeout`, `success`, `failure`",
                at.kind()
            );
            notes.add(&at, "probe", &message);
            return;
        }
    };
    fields.insert("probes", table(&at, "readiness", probe));
}

fn strategy(at: &Tree, notes: &mut Notes<'_>) -> Strategy {
    let found = match &at.value {
        Value::Text(name) => match preset(name) {
            Some(strategy) => Some(strategy),
            None => {
                let shown: String = name.chars().take(64).flat_map(char::escape_default).collect();
                let message = format!(
                    "`{shown}` is no strategy; accepted: \"rolling\", \"fast\", \"canary\", \"blue-green\", or a table such as \
                     {{ batch = \"25%\", min_healthy = \"10s\", on_failure = \"rollback\" }}"
                );
                notes.add(at, "strategy", &message);
                None
            }
        },
        _ => of_serde(at, "strategy", notes),
    };
    let strategy = found.unwrap_or_default();
    if let Err(error) = strategy.check() {
        notes.add(at, "strategy", error.message());
    }
    strategy
}

/// Strategies by name.
fn preset(name: &str) -> Option<Strategy> {
    let seconds = Duration::from_secs;
    match name {
        "rolling" => Some(Strategy::default()),
        // For a desk, where nobody wants to wait: what is broken at its start is found, what breaks later is not.
        "fast" => Some(
            Strategy::default()
                .with_batches(Batch::Count(1), Batch::Percent(50))
                .with_min_healthy(Duration::from_millis(500))
                .with_deadlines(seconds(30), seconds(120))
                .with_drain(seconds(5))
                .with_monitor(seconds(1)),
        ),
        "canary" => Some(Strategy::default().with_canary(Canary::new([
            CanaryStep::Weight(10),
            CanaryStep::Pause(seconds(60)),
            CanaryStep::Weight(50),
            CanaryStep::Pause(seconds(60)),
        ]))),
        "blue-green" => Some(Strategy::default().with_blue_green(BlueGreen::default())),
        _ => None,
    }
}

/// A part that is a document of serde's. Its words name the field and what is accepted; the place is found by that name.
fn of_serde<T: DeserializeOwned>(at: &Tree, field: &str, notes: &mut Notes<'_>) -> Option<T> {
    match serde_json::from_value(json(at)) {
        Ok(value) => Some(value),
        Err(error) => {
            let message = error.to_string();
            let named = message.split('`').nth(1).and_then(|name| at.as_table()?.get(name));
            notes.add(named.unwrap_or(at), field, &message);
            None
        }
    }
}
