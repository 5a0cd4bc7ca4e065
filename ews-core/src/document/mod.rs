//! Documents as people write them: TOML, JSON or YAML, read into one [`Tree`] that says where everything stands.
//!
//! Reading has two steps. A *reader* ([`read`]) knows one format and turns text into a tree; what it refuses is a syntax
//! error, reported singly, with line and column. A *walk* (`walk`, used by [`crate::spec`]) takes the tree apart and reports
//! every [`Problem`] at once, each with its path, its place and what would be accepted. So the three formats get the same
//! rules and the same words.
//!
//! A tree is bounded by [`Limits`]: bytes, depth, nodes. Repeated keys are refused in every format, and a YAML alias counts
//! each time it is used, so that no small document grows large.

mod json;
mod problem;
mod toml;
mod tree;
pub(crate) mod walk;
mod yaml;

use std::fmt;
use std::path::Path as FilePath;
use std::str::FromStr;

pub use problem::{Path, Position, Problem, Problems, Step};
pub use tree::{Entry, Table, Tree, Value};
pub use walk::nearest;

use crate::error::{Error, Result};
use crate::time::Shown;

/// A format in which documents are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// TOML 1.1.
    Toml,
    /// JSON (RFC 8259), without repeated keys.
    Json,
    /// YAML 1.2 with its core schema, one document, without repeated keys, merge keys and tags.
    Yaml,
}

impl Format {
    /// The format that a file's extension names: `.toml`, `.json`, `.yaml` or `.yml`, in either case.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for every other extension, or none.
    pub fn of_file(path: impl AsRef<FilePath>) -> Result<Self> {
        let path = path.as_ref();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(extension) = path.extension().and_then(|e| e.to_str()) else {
            return Err(Error::invalid(format!(
                "the file name `{}` has no extension, so its format is unknown; accepted: {ACCEPTED_EXTENSIONS}, or name \
                 the format",
                Shown(&name)
            )));
        };
        match extension.to_ascii_lowercase().as_str() {
            "toml" => Ok(Self::Toml),
            "json" => Ok(Self::Json),
            "yaml" | "yml" => Ok(Self::Yaml),
            other => {
                let hint = match other {
                    "json5" | "jsonc" => {
                        "; comments and trailing commas are no JSON, write YAML or TOML instead"
                    }
                    "hcl" | "nomad" | "tf" => "; HCL is not read, write TOML instead",
                    "j2" | "tmpl" | "tpl" | "erb" => {
                        "; templates are not expanded, give the finished document"
                    }
                    _ => "",
                };
                Err(Error::invalid(format!(
                    "the extension of `{}` names no format that is read here{hint}; accepted: {ACCEPTED_EXTENSIONS}, or name \
                     the format",
                    Shown(&name)
                )))
            }
        }
    }
}

const ACCEPTED_EXTENSIONS: &str = "`.toml`, `.json`, `.yaml`, `.yml`";

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Toml => "TOML",
            Self::Json => "JSON",
            Self::Yaml => "YAML",
        })
    }
}

impl FromStr for Format {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "toml" => Ok(Self::Toml),
            "json" => Ok(Self::Json),
            "yaml" | "yml" => Ok(Self::Yaml),
            _ => Err(Error::invalid(format!(
                "`{}` is not a format; accepted: `toml`, `json`, `yaml`",
                Shown(text)
            ))),
        }
    }
}

/// How large a document may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The most bytes of text, and the most bytes of text in the tree once YAML aliases are resolved. Default 1 MiB (the
    /// `Store`'s limit for one value).
    pub bytes: usize,
    /// The deepest nesting of lists and tables. Default 64; at most [`Limits::MAX_DEPTH`] counts.
    pub depth: usize,
    /// The most nodes: scalars, lists and tables, not counting keys. Default 100,000.
    pub nodes: usize,
}

impl Limits {
    /// The deepest nesting that can be asked for: the readers recurse, and the TOML and JSON readers stop there themselves.
    pub const MAX_DEPTH: usize = 64;

    /// These limits with another number of bytes.
    #[must_use]
    pub fn with_bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// These limits with another depth.
    #[must_use]
    pub fn with_depth(mut self, depth: usize) -> Self {
        self.depth = depth.min(Self::MAX_DEPTH);
        self
    }

    /// These limits with another number of nodes.
    #[must_use]
    pub fn with_nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 1 << 20, depth: Self::MAX_DEPTH, nodes: 100_000 }
    }
}

/// What a reader refuses, before it is dressed as a [`Problem`].
pub(crate) struct Refusal {
    offset: Option<usize>,
    message: String,
    /// Of what came twice: where it came first.
    first: Option<usize>,
    /// What to do about it, said after the place of the first.
    advice: &'static str,
}

impl Refusal {
    fn new(offset: impl Into<Option<usize>>, message: impl Into<String>) -> Self {
        Self { offset: offset.into(), message: message.into(), first: None, advice: "" }
    }

    /// A key that comes twice in one table, by the places of both.
    fn twice(key: &str, first: Option<usize>, second: Option<usize>) -> Self {
        let message = format!("the key `{}` comes twice in one table", problem::ShownKey(key));
        Self { offset: second, message, first, advice: "; keep one of the two" }
    }

    /// The whole message, with the place of the first in this text.
    fn said(&self, text: Option<&str>) -> String {
        let mut said = self.message.clone();
        if let (Some(first), Some(text)) = (self.first, text) {
            said.push_str(&format!(", first at {}", Position::of(text, first)));
        }
        said + self.advice
    }

    fn shift(&mut self, by: usize) {
        self.offset = self.offset.map(|offset| offset + by);
        self.first = self.first.map(|first| first + by);
    }
}

/// Counts what a reader builds, so that every reader keeps [`Limits`] in the same way.
#[derive(Clone)]
pub(crate) struct Budget {
    limits: Limits,
    nodes: usize,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits: limits.with_depth(limits.depth), nodes: 0, bytes: 0 }
    }

    /// Takes these nodes and bytes of text at this depth, or says which limit is passed.
    pub(crate) fn take(&mut self, nodes: usize, bytes: usize, depth: usize) -> Result<(), String> {
        self.nodes = self.nodes.saturating_add(nodes);
        self.bytes = self.bytes.saturating_add(bytes);
        if depth > self.limits.depth {
            return Err(format!(
                "lists and tables are nested more than {} deep; accepted: at most {}",
                self.limits.depth, self.limits.depth
            ));
        }
        if self.nodes > self.limits.nodes {
            return Err(format!(
                "the document holds more than {} values; accepted: at most {}",
                self.limits.nodes, self.limits.nodes
            ));
        }
        if self.bytes > self.limits.bytes {
            return Err(format!(
                "the texts of the document hold more than {} bytes once aliases are resolved; accepted: at most {}",
                self.limits.bytes, self.limits.bytes
            ));
        }
        Ok(())
    }
}

/// Reads one document into a tree.
///
/// # Errors
/// One [`Problem`] for what is no document of this format or passes a limit, with line and column where the format's
/// reader knows them.
///
/// ```
/// use ews_core::document::{Format, Limits, read};
///
/// let tree = read("replicas: 3\n", Format::Yaml, Limits::default())?;
/// assert_eq!(tree.as_table().and_then(|t| t.get("replicas")).and_then(|n| n.as_integer()), Some(3));
/// let problems = read("replicas: [3\n", Format::Yaml, Limits::default()).unwrap_err();
/// assert_eq!(problems.len(), 1);
/// # Ok::<(), ews_core::document::Problems>(())
/// ```
pub fn read(text: &str, format: Format, limits: Limits) -> Result<Tree, Problems> {
    let single = |refusal: Refusal| {
        let position = refusal.offset.map(|offset| Position::of(text, offset));
        Problems::syntax(format, Problem::new(Path::root(), refusal.said(Some(text))).with_position(position))
    };
    if text.len() > limits.bytes {
        return Err(single(Refusal::new(
            None,
            format!("the document is {} bytes long; accepted: at most {}", text.len(), limits.bytes),
        )));
    }
    // Editors on Windows put a byte-order mark before the text; it is no part of the document.
    let skipped = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let body = text.get(skipped..).unwrap_or(text);
    let budget = Budget::new(limits);
    let read = match format {
        Format::Toml => toml::read(body, budget),
        Format::Json => json::read(body, budget),
        Format::Yaml => yaml::read(body, budget),
    };
    match read {
        Ok(mut tree) => {
            if skipped > 0 {
                tree.shift(skipped);
            }
            Ok(tree)
        }
        Err(mut refusal) => {
            refusal.shift(skipped);
            Err(single(refusal))
        }
    }
}
