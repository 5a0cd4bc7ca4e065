//! What is started, the same on every system.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::process::protocol::{Limit, User};
use crate::runtime::TtySize;

/// What is started. What a system has no way to do its capabilities have said before.
#[cfg_attr(windows, expect(dead_code, reason = "no other users, limits per process or control groups there"))]
pub(in crate::process) struct Program<'a> {
    pub(in crate::process) command: &'a [String],
    pub(in crate::process) env: &'a BTreeMap<String, String>,
    pub(in crate::process) workdir: &'a Path,
    pub(in crate::process) user: Option<&'a User>,
    pub(in crate::process) ulimits: &'a [Limit],
    pub(in crate::process) no_new_privileges: bool,
    /// The files by which it joins its control groups.
    pub(in crate::process) joins: Vec<PathBuf>,
    pub(in crate::process) input: Input,
}

impl Program<'_> {
    /// The program's name and its arguments, where it can be started at all.
    pub(super) fn words(&self) -> Result<(&str, &[String]), NotStarted> {
        let Some((name, args)) = self.command.split_first() else {
            return Err(NotStarted::new(127, "there is no program to start"));
        };
        if !self.workdir.is_dir() {
            let text = format!("the working directory {} does not exist", self.workdir.display());
            return Err(NotStarted::new(126, text));
        }
        Ok((name, args))
    }
}

/// What a program reads from and writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::process) enum Input {
    /// It sees the end of its input at once; its two outputs are apart.
    Closed,
    /// A pipe; its two outputs are apart.
    Pipe,
    /// A terminal of this size, where the system has such.
    Terminal(TtySize),
}

/// Why a program could not be started, in the words of a shell's exit code: 127 it is not there, 126 it can't be run.
#[derive(Debug)]
pub(in crate::process) struct NotStarted {
    pub(in crate::process) code: i32,
    pub(in crate::process) message: String,
}

impl NotStarted {
    pub(in crate::process) fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}
