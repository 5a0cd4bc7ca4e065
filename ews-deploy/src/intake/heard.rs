//! What a webhook says, whoever sent it: a few short facts, each checked by what it is.

use ews_core::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum HeardKind {
    /// Commits were pushed, or a tag.
    Push,
    /// A release was published.
    Release,
    /// An image was pushed, or a package published.
    Image,
}

impl std::fmt::Display for HeardKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Push => "push",
            Self::Release => "release",
            Self::Image => "image",
        })
    }
}

/// What a webhook says. Everything in it is a stranger's word, within bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Heard {
    /// What happened.
    pub kind: HeardKind,
    /// The full name of the repository, or of the image's; at most 255 bytes.
    pub repository: String,
    /// The branch.
    pub branch: Option<String>,
    /// The tag, of a commit or an image.
    pub tag: Option<String>,
    /// The commit, 7 to 64 hexadecimal digits.
    pub sha: Option<String>,
    /// The image's name.
    pub image: Option<String>,
    /// A digest, of the image or an upload.
    pub digest: Option<Digest>,
    /// Who did it; empty where nobody says.
    pub by: String,
    /// Which files changed, where the sender says so. Not kept.
    #[serde(skip)]
    pub(super) paths: Option<Vec<String>>,
}

impl Heard {
    /// The most files that are looked at.
    pub(super) const PATHS: usize = 10_000;

    pub(super) fn new(kind: HeardKind, repository: Option<String>) -> Self {
        Self {
            kind,
            repository: repository.unwrap_or_default(),
            branch: None,
            tag: None,
            sha: None,
            image: None,
            digest: None,
            by: String::new(),
            paths: None,
        }
    }

    /// Something in each place.
    pub(super) fn sample() -> Self {
        Self {
            branch: Some("main".to_owned()),
            tag: Some("v1".to_owned()),
            sha: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
            image: Some("registry.invalid/acme/web".to_owned()),
            digest: Some(Digest::of(b"")),
            ..Self::new(HeardKind::Push, Some("acme/web".to_owned()))
        }
    }

    /// Takes `refs/heads/…` and `refs/tags/…` apart.
    pub(super) fn at_ref(mut self, reference: Option<&str>) -> Self {
        let reference = reference.unwrap_or_default();
        self.branch = reference.strip_prefix("refs/heads/").map(str::to_owned);
        self.tag = reference.strip_prefix("refs/tags/").map(str::to_owned);
        self
    }
}

/// The short text there: at most 255 bytes, without control characters.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    let text = value.pointer(pointer)?.as_str()?;
    (text.len() <= 255 && !text.is_empty() && !text.chars().any(char::is_control)).then_some(text)
}

pub(super) fn owned(value: &Value, pointer: &str) -> Option<String> {
    text(value, pointer).map(str::to_owned)
}

/// The commit there. All zeros stand for none.
pub(super) fn sha(value: &Value, pointer: &str) -> Option<String> {
    let text = text(value, pointer)?;
    let good = (7..=64).contains(&text.len())
        && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        && text.bytes().any(|b| b != b'0');
    good.then(|| text.to_owned())
}

pub(super) fn digest(value: &Value, pointer: &str) -> Option<Digest> {
    text(value, pointer)?.parse().ok()
}

/// The files that these commits add, change and remove.
pub(super) fn changed(commits: Option<&Value>) -> Option<Vec<String>> {
    let commits = commits?.as_array()?;
    let mut paths = Vec::new();
    for commit in commits {
        for kind in ["added", "modified", "removed"] {
            for path in commit.get(kind)?.as_array()? {
                if paths.len() >= Heard::PATHS {
                    // More than are looked at: it can't be said that a path did not change.
                    return None;
                }
                paths.push(path.as_str()?.chars().take(4_096).collect());
            }
        }
    }
    (!paths.is_empty()).then_some(paths)
}

/// How deep what is between brackets may lie.
const DEPTH: usize = 64;

/// Reads JSON of bounded depth. What is wrong is said without a byte of it.
pub(super) fn read(bytes: &[u8]) -> Result<Value, &'static str> {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => depth += 1,
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH {
            return Err("the body is nested too deeply; at most 64 levels are accepted");
        }
    }
    serde_json::from_slice(bytes).map_err(|_| "the body is not JSON")
}
