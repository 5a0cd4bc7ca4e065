//! What a name in a work directory may be, and where a symbolic link may lead. Nothing here touches a file.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use super::Limits;
use crate::archive::ShownBytes;
#[cfg(not(unix))]
use crate::archive::windows_fault;
use crate::error::{Error, Result};
use crate::time::Shown;

/// The longest single name that the usual file systems take (Linux's `NAME_MAX`).
const LONGEST_COMPONENT: usize = 255;

/// A place below a directory: names without `..`, without a root, within the limits. No name is the directory itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Inside {
    parts: Vec<OsString>,
}

impl Inside {
    /// From an entry's name as it stands in an archive.
    ///
    /// # Errors
    /// `Invalid`, naming the entry, for what is not such a place.
    pub(super) fn from_entry(name: &[u8], limits: &Limits) -> Result<Self> {
        if name.first() == Some(&b'/') {
            return Err(refused(name, "it is absolute"));
        }
        Self::parse(name, limits)
    }

    /// From a path of an instance, which is always taken relative to the work directory: `/data` and `data` are the same.
    ///
    /// # Errors
    /// `Invalid`, naming the path.
    pub(super) fn from_path(path: &str, limits: &Limits) -> Result<Self> {
        let relative = path.trim_start_matches('/');
        if relative.is_empty() { Ok(Self::default()) } else { Self::parse(relative.as_bytes(), limits) }
    }

    fn parse(name: &[u8], limits: &Limits) -> Result<Self> {
        if name.is_empty() {
            return Err(refused(name, "it is empty"));
        }
        if name.len() > limits.path {
            let fault = format!("it has {} bytes, and at most {} are accepted", name.len(), limits.path);
            return Err(refused(name, &fault));
        }
        if name.contains(&0) {
            return Err(refused(name, "it holds a NUL byte"));
        }
        let mut parts = Vec::new();
        for part in name.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return Err(refused(name, "`..` leads out of the directory")),
                _ if part.len() > LONGEST_COMPONENT => {
                    let fault = format!("a part of it has more than {LONGEST_COMPONENT} bytes");
                    return Err(refused(name, &fault));
                }
                _ => parts.push(os_name(part).map_err(|fault| refused(name, fault))?),
            }
        }
        if parts.len() > limits.depth {
            let fault = format!("it has {} parts, and at most {} are accepted", parts.len(), limits.depth);
            return Err(refused(name, &fault));
        }
        Ok(Self { parts })
    }

    /// The place one name further down. The name comes from a directory's listing.
    ///
    /// # Errors
    /// `Invalid` beyond the limits of depth and length, which bound how far a walk goes down.
    pub(super) fn join(&self, name: OsString, limits: &Limits) -> Result<Self> {
        let mut parts = self.parts.clone();
        parts.push(name);
        let joined = Self { parts };
        if joined.parts.len() > limits.depth || joined.len() > limits.path {
            return Err(Error::invalid(format!(
                "`{joined}` lies too deep; accepted: at most {} directories and {} bytes",
                limits.depth, limits.path
            )));
        }
        Ok(joined)
    }

    /// The names on the way to it, and its own; `None` for the directory itself.
    pub(super) fn split(&self) -> Option<(&OsString, &[OsString])> {
        self.parts.split_last()
    }

    /// As a relative path of this system.
    pub(super) fn path(&self) -> PathBuf {
        self.parts.iter().collect()
    }

    /// Whether it is the directory itself.
    pub(super) fn is_root(&self) -> bool {
        self.parts.is_empty()
    }

    /// How many names deep it lies.
    pub(super) fn depth(&self) -> usize {
        self.parts.len()
    }

    /// The first `count` names of it.
    pub(super) fn prefix(&self, count: usize) -> Self {
        Self { parts: self.parts.iter().take(count).cloned().collect() }
    }

    /// How many bytes it has when written with `/` between its names.
    fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len() + 1).sum::<usize>().saturating_sub(1)
    }
}

impl fmt::Display for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        let parts: Vec<_> = self.parts.iter().map(|part| part.to_string_lossy()).collect();
        Shown(&parts.join("/")).fmt(f)
    }
}

fn refused(name: &[u8], fault: &str) -> Error {
    Error::invalid(format!(
        "the name `{}` is refused: {fault}; accepted: a relative path that stays within its directory",
        ShownBytes(name)
    ))
}

#[cfg(unix)]
fn os_name(part: &[u8]) -> Result<OsString, &'static str> {
    use std::os::unix::ffi::OsStringExt as _;
    Ok(OsString::from_vec(part.to_vec()))
}

#[cfg(not(unix))]
fn os_name(part: &[u8]) -> Result<OsString, &'static str> {
    let text = std::str::from_utf8(part).map_err(|_| "it is not UTF-8, which this system's names must be")?;
    match windows_fault(text) {
        Some(fault) => Err(fault),
        None => Ok(text.into()),
    }
}

/// Whether a symbolic link at `place` may lead to `target`: within the directory that `place` is counted from.
///
/// Each `..` must stand in front. The link lies in a real directory, since nothing is placed through a link, so `..` in
/// front climbs real directories and can be counted; behind a name, which may itself be a link, it can't be: with `up`
/// leading to `../..`, `up/..` is further out than it reads.
///
/// # Errors
/// `Invalid`, naming the link.
pub(super) fn link_within(place: &Inside, target: &[u8], limits: &Limits) -> Result<()> {
    let refused = |fault: &str| {
        Err(Error::invalid(format!(
            "the symbolic link `{place}` to `{}` is refused: {fault}; accepted: a relative target within the directory, with \
             each `..` in front",
            ShownBytes(target)
        )))
    };
    if target.is_empty() || target.contains(&0) {
        return refused("its target is empty or holds a NUL byte");
    }
    if target.len() > limits.path {
        return refused("its target is too long");
    }
    if target.first() == Some(&b'/') {
        return refused("its target is absolute");
    }
    let mut height = place.depth().saturating_sub(1);
    let mut named = false;
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if named => return refused("`..` stands behind a name"),
            b".." if height == 0 => return refused("it leads out"),
            b".." => height -= 1,
            _ => {
                named = true;
                if let Err(fault) = os_name(part) {
                    return refused(fault);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str) -> Inside {
        Inside::from_entry(name.as_bytes(), &Limits::default()).unwrap()
    }

    #[test]
    fn names_are_read_and_those_that_lead_out_refused() {
        for (name, shown) in
            [("a", "a"), ("./a//b/./", "a/b"), ("...", "..."), ("..a/b..", "..a/b.."), ("./", ".")]
        {
            if cfg!(windows) && name.contains("..") {
                continue;
            }
            assert_eq!(at(name).to_string(), shown);
        }
        for name in ["", "/", "/a", "//a", "..", "../a", "a/..", "a/../b", "a/b/../../..", "a\0b"] {
            let error = Inside::from_entry(name.as_bytes(), &Limits::default()).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Invalid, "{name:?}");
        }
    }

    #[test]
    fn a_path_of_the_instance_starts_at_the_work_directory() {
        let limits = Limits::default();
        for path in ["data/x", "/data/x", "//data//x/", "./data/x"] {
            assert_eq!(Inside::from_path(path, &limits).unwrap(), at("data/x"), "{path}");
        }
        for path in ["", "/", ".", "/./"] {
            assert!(Inside::from_path(path, &limits).unwrap().is_root(), "{path:?}");
        }
        assert!(Inside::from_path("/../x", &limits).is_err());
    }

    #[test]
    fn lengths_and_depths_are_accepted_up_to_the_limit() {
        let limits = Limits { path: 12, depth: 3, ..Limits::default() };
        for (name, good) in
            [("a/b/c", true), ("a/b/c/d", false), ("abcdefghijkl", true), ("abcdefghijklm", false)]
        {
            assert_eq!(Inside::from_entry(name.as_bytes(), &limits).is_ok(), good, "{name}");
        }
        for (length, good) in [(255, true), (256, false)] {
            let name = "x".repeat(length);
            assert_eq!(Inside::from_entry(name.as_bytes(), &Limits::default()).is_ok(), good);
        }
    }

    #[test]
    fn links_may_lead_anywhere_within_and_nowhere_else() {
        let limits = Limits::default();
        for (place, target, good) in [
            ("l", "a", true),
            ("l", "./a/b", true),
            ("l", "..", false),
            ("l", "../x", false),
            ("l", "/", false),
            ("l", "/etc/passwd", false),
            ("l", "", false),
            ("l", "a\0", false),
            ("a/l", "..", true),
            ("a/l", "../b", true),
            ("a/l", "../../b", false),
            ("a/b/l", "../../c", true),
            // It reads as `a`, but where `up` leads to the top it is the directory's own parent.
            ("a/b/l", "up/..", false),
            ("a/l", ".././..", false),
        ] {
            assert_eq!(
                link_within(&at(place), target.as_bytes(), &limits).is_ok(),
                good,
                "{place} -> {target:?}"
            );
        }
    }
}
