//! What a command fails with, and the exit code that a script sees.

use ews_core::{Error, ErrorKind};

/// It was tried and failed: a rollout that failed or was rolled back, a defect.
pub(super) const FAILED: u8 = 1;
/// The command line or the document is wrong.
pub(super) const USAGE: u8 = 2;
/// No host answers.
const UNREACHABLE: u8 = 3;
/// What is named is not there.
const NOT_FOUND: u8 = 4;
/// It can't be done now, or may not be.
const REFUSED: u8 = 5;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// The command line is wrong.
    pub(crate) fn usage(message: String) -> Self {
        Self { code: USAGE, message }
    }

    /// No host answers.
    pub(crate) fn unreachable(message: String) -> Self {
        Self { code: UNREACHABLE, message }
    }

    /// What is named is not there.
    pub(crate) fn missing(message: String) -> Self {
        Self { code: NOT_FOUND, message }
    }

    /// Something that should not be.
    pub(crate) fn odd(message: String) -> Self {
        Self { code: FAILED, message }
    }

    /// What the SDK, here or in the host, said.
    pub(crate) fn of(error: &Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Invalid | ErrorKind::Unsupported => USAGE,
            ErrorKind::NotFound => NOT_FOUND,
            ErrorKind::AlreadyExists
            | ErrorKind::Busy
            | ErrorKind::Stale
            | ErrorKind::PortInUse
            | ErrorKind::OutOfResources
            | ErrorKind::Unauthorized => REFUSED,
            _ => FAILED,
        };
        let mut message = error.message().to_owned();
        let context: Vec<_> = error.context().map(|(name, value)| format!("{name}={value}")).collect();
        if !context.is_empty() {
            message.push_str(&format!(" ({})", context.join(", ")));
        }
        if let Some(detail) = error.detail().filter(|detail| !detail.is_empty()) {
            message.push_str(&format!(" ({detail})"));
        }
        if error.maybe_applied() {
            message.push_str("; it may have been done all the same: look at the status");
        }
        Self { code, message }
    }

    pub(crate) const fn code(&self) -> u8 {
        self.code
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(super) const fn is_unreachable(&self) -> bool {
        self.code == UNREACHABLE
    }

    pub(super) const fn is_not_found(&self) -> bool {
        self.code == NOT_FOUND
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::of(&error)
    }
}
