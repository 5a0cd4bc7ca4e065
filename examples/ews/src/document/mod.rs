//! A service as its author writes it: a spec of EWS, and a few short words for what most services need.
//!
//! ```toml
//! name = "shop"
//! command = ["./server", "--verbose"]   # or `artifact = "./dist"` with a `command` in it, or `image = "…"`
//! replicas = 3
//! port = "auto"                          # the program finds it in PORT; or a number
//! probe = "/health"
//! domain = "shop.example"
//! strategy = "rolling"                   # or fast, canary, blue-green, or a table
//! env = { GREETING = "hello" }
//! ```
//!
//! Whatever else stands in it is a field of the spec itself. The short words become parts of the tree that the spec is read from, so
//! that every problem of both is reported at once, each with its line.

mod short;
mod tree;

use std::path::{Path, PathBuf};

use ews_core::document::{Format, Limits, Problem, Tree, nearest, read};
use ews_core::{Error, Result, ServiceSpec, Source};
use ews_deploy::{Concurrency, Traffic};

use crate::api::wire::DeployBody;
use crate::files;
use short::{SHORT, Short};

/// Reads a document from a file.
///
/// # Errors
/// `Invalid` with every problem and its line; `NotFound` and the like for the file.
pub(crate) fn of_file(path: &Path) -> Result<DeployBody> {
    let format = Format::of_file(path)?;
    let text = files::text(path, "the document")?;
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let directory = absolute.parent().map(Path::to_owned).unwrap_or_default();
    of_text(&text, format, &directory).map_err(|problems| {
        let count = match problems.len() {
            1 => "1 problem".to_owned(),
            many => format!("{many} problems"),
        };
        let mut message = format!("{} has {count}:", path.display());
        for problem in problems {
            message.push_str("\n  ");
            message.push_str(&problem);
        }
        Error::invalid(message)
    })
}

/// Reads a document; relative paths in it begin at this directory.
pub(crate) fn of_text(text: &str, format: Format, directory: &Path) -> Result<DeployBody, Vec<String>> {
    let mut tree = match read(text, format, Limits::default()) {
        Ok(tree) => tree,
        Err(problems) => return Err(problems.to_string().lines().map(str::to_owned).collect()),
    };
    let mut notes = Notes { text, problems: Vec::new(), directory: directory.to_owned() };
    let short = Short::take(&mut tree, &mut notes);
    let spec = match ServiceSpec::from_tree(&tree, Some((text, format))) {
        Ok(spec) => Some(spec),
        Err(problems) => {
            notes.problems.extend(problems.iter().cloned().map(reworded));
            None
        }
    };
    if let (Some(spec), Some(short)) = (spec, short)
        && let Some(body) = finish(spec, short, &mut notes)
        && notes.problems.is_empty()
    {
        return Ok(body);
    }
    notes.problems.sort_by_key(|problem| problem.position);
    Err(notes.problems.iter().map(Problem::to_string).collect())
}

/// What the spec and the short words come to together.
fn finish(spec: ServiceSpec, short: Short, notes: &mut Notes<'_>) -> Option<DeployBody> {
    let ports = &spec.instance.ports;
    let traffic = match short.domains {
        None => None,
        Some((domains, at)) => {
            let named = ports.iter().find(|port| port.name.as_str() == "http");
            let only = ports.first().filter(|_| ports.len() == 1);
            let Some(port) = named.or(only) else {
                let message = "several ports and none of the name `http`, so that nobody knows which gets the traffic; accepted: \
                               one port, or one that is named `http`";
                notes.add(&at, "domain", message);
                return None;
            };
            let mut traffic = Traffic::new(domains, port.name.clone());
            traffic.path = short.path.unwrap_or(traffic.path);
            Some(traffic)
        }
    };
    let is_process = matches!(spec.instance.source, Source::Artifact(_));
    let fixed = ports.iter().find_map(|port| port.number);
    if let (true, Some(number), true) = (is_process, fixed, spec.replicas > 1)
        && let Some(at) = &short.port
    {
        notes.add(
            at,
            "port",
            &format!(
                "{} instances can't all listen on port {number} of one machine; accepted: `port = \"auto\"`, and a program that \
                 listens where `PORT` says",
                spec.replicas
            ),
        );
        return None;
    }
    Some(DeployBody {
        spec,
        strategy: short.strategy,
        traffic,
        bounds: short.bounds,
        remedy: short.remedy,
        concurrency: Concurrency::default(),
        reason: String::new(),
        key: None,
        keep: short.keep,
    })
}

/// A problem of the spec's in the words of this document: its fields are more than the spec's.
fn reworded(mut problem: Problem) -> Problem {
    if problem.path.steps().len() != 1 || !problem.message.starts_with("unknown field") {
        return problem;
    }
    let Some(ews_core::document::Step::Key(key)) = problem.path.steps().first().cloned() else {
        return problem;
    };
    if let Some(name) = nearest(&key, SHORT)
        && !problem.message.contains("did you mean")
    {
        problem.message = format!("{}, did you mean `{name}`?", problem.message);
    }
    problem.accepted = problem.accepted.map(|accepted| format!("{}, {accepted}", SHORT.join(", ")));
    problem
}

/// What was found on the way.
struct Notes<'t> {
    text: &'t str,
    problems: Vec<Problem>,
    /// Where relative paths begin.
    directory: PathBuf,
}

impl Notes<'_> {
    /// Notes a problem with this value of this field.
    fn add(&mut self, at: &Tree, field: &str, message: &str) {
        let path = ews_core::document::Path::root().key(field);
        let problem = Problem::new(path, message).with_position(at.position(self.text));
        self.problems.push(problem);
    }
}

#[cfg(test)]
mod tests;
