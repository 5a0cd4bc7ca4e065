//! What an entry of an upload may be named, and where a link may lead. Nothing here touches a file.

use ews_core::archive::{ShownBytes, windows_fault};
use ews_core::{Error, Result};

use super::UploadLimits;

/// The longest single name that the usual file systems take (Linux's `NAME_MAX`).
const LONGEST_COMPONENT: usize = 255;

/// What the names of an upload must satisfy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) limits: &'a UploadLimits,
    /// Whether it goes onto Windows.
    pub(super) windows: bool,
}

impl Rules<'_> {
    /// The place that a name means, `/` between its parts; empty for the top itself.
    ///
    /// # Errors
    /// `Invalid`, with the name and the fault.
    pub(super) fn place(&self, name: &[u8]) -> Result<String> {
        self.parse(name).map_err(|fault| {
            Error::invalid(format!(
                "the entry `{}` is refused: {fault}; accepted: relative UTF-8 names that stay within the upload",
                ShownBytes(name)
            ))
        })
    }

    fn parse(&self, name: &[u8]) -> Result<String, String> {
        if name.is_empty() {
            return Err("its name is empty".to_owned());
        }
        if name.first() == Some(&b'/') {
            return Err("its name is absolute".to_owned());
        }
        if name.len() > self.limits.name {
            return Err(format!("its name has {} bytes, the limit is {}", name.len(), self.limits.name));
        }
        let text = std::str::from_utf8(name).map_err(|_| {
            "its name is not UTF-8, so that it means another name on each machine: pack it again with UTF-8 names".to_owned()
        })?;
        let mut parts: Vec<&str> = Vec::new();
        for part in text.split('/') {
            match part {
                "" | "." => continue,
                ".." => return Err("`..` leads out of the upload".to_owned()),
                _ => self.part(part)?,
            }
            parts.push(part);
        }
        if parts.len() > self.limits.depth {
            return Err(format!(
                "it lies {} directories deep, the limit is {}",
                parts.len(),
                self.limits.depth
            ));
        }
        Ok(parts.join("/"))
    }

    fn part(&self, part: &str) -> Result<(), String> {
        if part.len() > LONGEST_COMPONENT {
            return Err(format!("a part of its name has more than {LONGEST_COMPONENT} bytes"));
        }
        if part.chars().any(char::is_control) {
            return Err("its name holds a control character".to_owned());
        }
        if part.contains('\\') {
            return Err("its name holds a backslash, which separates directories on Windows and nowhere else: pack it again \
                        with `/`"
                .to_owned());
        }
        // A layer is not only files: by OCI's image specification these names delete what lies below.
        if part.starts_with(".wh.") {
            return Err("in a layer, a name that starts with `.wh.` deletes a file of the base".to_owned());
        }
        let drive =
            part.len() == 2 && part.ends_with(':') && part.starts_with(|c: char| c.is_ascii_alphabetic());
        if drive {
            return Err("its name holds a drive of Windows".to_owned());
        }
        match windows_fault(part).filter(|_| self.windows) {
            Some(fault) => Err(fault.to_owned()),
            None => Ok(()),
        }
    }

    /// Where a symbolic link at `place` leads.
    ///
    /// Each `..` must stand in front. A link lies in a real directory, since nothing goes through a link, so `..` in front climbs real
    /// directories and can be counted; behind a name, which may itself be a link, it can't be.
    ///
    /// # Errors
    /// `Invalid`, with the link and the fault.
    pub(super) fn link(&self, place: &str, target: &[u8]) -> Result<String> {
        let refused = |fault: &str| {
            Err(Error::invalid(format!(
                "the symbolic link `{}` to `{}` is refused: {fault}; accepted: a relative target within the upload, with each `..` in \
                 front",
                ShownBytes(place.as_bytes()),
                ShownBytes(target)
            )))
        };
        if self.windows {
            return refused("it goes onto Windows, where links need rights that services lack");
        }
        let Ok(text) = std::str::from_utf8(target) else { return refused("its target is not UTF-8") };
        if text.is_empty() || text.len() > self.limits.name || text.chars().any(char::is_control) {
            return refused("its target is empty, too long, or holds a control character");
        }
        if text.starts_with('/') {
            return refused("its target is absolute");
        }
        let mut height = place.split('/').count().saturating_sub(1);
        let mut named = false;
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." if named => return refused("`..` stands behind a name"),
                ".." if height == 0 => return refused("it leads out"),
                ".." => height -= 1,
                _ if part.contains('\\') => return refused("its target holds a backslash"),
                _ => named = true,
            }
        }
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use ews_core::ErrorKind;

    use super::*;

    #[test]
    fn names_are_read_and_what_leads_out_or_means_two_things_is_refused() {
        let limits = UploadLimits::default().with_depth(4).with_name(300);
        let rules = Rules { limits: &limits, windows: false };
        for (name, place) in [
            ("a", "a"),
            ("./a//b/./", "a/b"),
            ("...", "..."),
            ("..a/b..", "..a/b.."),
            ("./", ""),
            ("é/ü", "é/ü"),
            ("a:b", "a:b"),
        ] {
            assert_eq!(rules.place(name.as_bytes()).unwrap(), place);
        }
        let (long, deep) = (format!("a/{}", "x".repeat(256)), "a/b/c/d/e".to_owned());
        let longer = "x/".repeat(151);
        for (name, fault) in [
            (&b""[..], "empty"),
            (b"/a", "absolute"),
            (b"//a", "absolute"),
            (b"../a", "leads out"),
            (b"a/../../b", "leads out"),
            (b"a/..", "leads out"),
            (b"a\\b", "backslash"),
            (b"..\\a", "backslash"),
            (b"C:/a", "drive"),
            (b"a\nb", "control"),
            (b"a\0b", "control"),
            (b"caf\xe9", "not UTF-8"),
            (b"x/.wh.passwd", "deletes"),
            (b".wh..wh..opq", "deletes"),
            (long.as_bytes(), "more than 255"),
            (deep.as_bytes(), "5 directories"),
            (longer.as_bytes(), "302 bytes"),
        ] {
            let error = rules.place(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.message().contains(fault), "{error}");
        }
        let windows = Rules { limits: &limits, windows: true };
        assert!(
            windows.place(b"a:b").is_err()
                && windows.place(b"logs/nul.txt").is_err()
                && windows.place(b"a").is_ok()
        );
    }

    #[test]
    fn links_stay_within_the_upload() {
        let limits = UploadLimits::default();
        let rules = Rules { limits: &limits, windows: false };
        for (place, target, good) in [
            ("l", "a/b", true),
            ("l", "..", false),
            ("l", "/etc/passwd", false),
            ("l", "", false),
            ("a/l", "../b", true),
            ("a/l", "../../b", false),
            ("a/b/l", "up/..", false),
            ("l", "a\\b", false),
        ] {
            assert_eq!(rules.link(place, target.as_bytes()).is_ok(), good, "{place} -> {target}");
        }
        assert!(Rules { windows: true, ..rules }.link("a/l", b"b").is_err());
    }
}
