//! What is a path: absolute, without `..`, in the way of the operating system.

use super::{Os, Rules};
use crate::document::Path;
use crate::time::Shown;

/// The longest path, in bytes (Linux's `PATH_MAX`).
const MAX_PATH: usize = 4096;

/// Names that Windows reserves in every directory, with any extension.
const RESERVED: [&str; 22] = [
    "con", "prn", "aux", "nul", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8", "com9",
    "lpt1", "lpt2", "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9",
];

/// Whether this starts like a path of Windows: `C:\` or `C:/`.
pub(super) fn has_drive(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
        && bytes.next() == Some(b':')
        && bytes.next().is_some_and(|b| matches!(b, b'\\' | b'/'))
}

/// The same for paths that mean the same place.
pub(super) fn canonical(text: &str) -> String {
    if has_drive(text) {
        let lower = text.to_lowercase().replace('/', "\\");
        return lower.trim_end_matches('\\').to_owned();
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
    format!("/{}", parts.join("/"))
}

/// The path that one with `..` comes to; `None` where it is not absolute or leaves the root.
fn outright(text: &str) -> Option<String> {
    if !text.starts_with('/') {
        return None;
    }
    let mut parts = Vec::new();
    for part in text.split('/').filter(|part| !part.is_empty() && *part != ".") {
        match part {
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| format!("/{}", parts.join("/")))
}

impl Rules {
    /// Checks an absolute path in an instance; where no system is said, either form will do.
    pub(super) fn path(&mut self, at: Path, text: &str) -> bool {
        let accepted = match self.os {
            Some(Os::Windows) => "an absolute path of Windows without `..`, such as D:\\data",
            Some(_) if has_drive(text) => {
                "an absolute path without `..`, such as \"/srv/data\", or with this path `platform.os` set to \"windows\""
            }
            Some(_) => "an absolute path without `..`, such as \"/srv/data\"",
            None => "an absolute path without `..`, such as \"/srv/data\", or D:\\data for Windows",
        };
        let fault = self.path_fault(text);
        if let Some(fault) = &fault {
            let platform = [super::field("platform")];
            // What is wrong on every system does not rest on the platform.
            let always = Self::fault_anywhere(text).is_some();
            let needs: &[Path] = if always { &[] } else { &platform };
            let meant = match outright(text) {
                Some(meant) if text.split(['/', '\\']).any(|part| part == "..") => {
                    format!(", did you mean \"{}\"?", Shown(&meant))
                }
                _ => String::new(),
            };
            self.find_with(at, needs, format!("\"{}\" {fault}{meant}; accepted: {accepted}", Shown(text)));
        }
        fault.is_none()
    }

    fn fault_anywhere(text: &str) -> Option<String> {
        if text.is_empty() {
            return Some("is empty".to_owned());
        }
        if text.len() > MAX_PATH {
            return Some(format!("is {} bytes long, more than {MAX_PATH}", text.len()));
        }
        if let Some(found) = text.chars().find(|c| c.is_control()) {
            return Some(format!("contains the control character {}", found.escape_default()));
        }
        if !has_drive(text) && !text.starts_with('/') {
            return Some("is not absolute".to_owned());
        }
        if text.split(['/', '\\']).any(|part| part == "..") {
            return Some("contains `..`".to_owned());
        }
        None
    }

    fn path_fault(&self, text: &str) -> Option<String> {
        let drive = has_drive(text);
        match self.os {
            _ if text.is_empty() => return Self::fault_anywhere(text),
            Some(Os::Windows) if !drive => {
                return Some("is not absolute on Windows, which platform.os asks for".to_owned());
            }
            Some(_) if !self.windows() && drive => {
                return Some("is a path of Windows, but platform.os is not windows".to_owned());
            }
            _ => {}
        }
        if let Some(fault) = Self::fault_anywhere(text) {
            return Some(fault);
        }
        if drive {
            let rest = text.get(3..).unwrap_or_default();
            if let Some(found) = rest.chars().find(|c| matches!(c, '<' | '>' | ':' | '"' | '|' | '?' | '*')) {
                return Some(format!("contains `{found}`, which Windows forbids"));
            }
            let reserved = rest.split(['/', '\\']).find(|part| {
                let stem = part.split('.').next().unwrap_or_default().to_ascii_lowercase();
                RESERVED.contains(&stem.as_str())
            });
            if let Some(reserved) = reserved {
                return Some(format!("contains `{}`, a name that Windows reserves", Shown(reserved)));
            }
        }
        None
    }
}
