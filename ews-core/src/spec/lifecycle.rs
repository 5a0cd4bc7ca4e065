//! How an instance is stopped, what happens when it ends, how much of its output is kept, and run-once jobs.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::resources::ByteSize;
use super::text_serde;
use crate::error::{Error, Result};
use crate::time::Shown;

/// How an instance is asked to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stop {
    /// The signal that asks. Default SIGTERM (an image's own `STOPSIGNAL` is not consulted).
    pub signal: Signal,
    /// How long it may take before it is killed. Default 10 s (Docker's).
    #[serde(with = "crate::time::duration")]
    pub grace: Duration,
}

impl Stop {
    /// Asking by this signal.
    #[must_use]
    pub fn with_signal(mut self, signal: Signal) -> Self {
        self.signal = signal;
        self
    }

    /// With so much time until it is killed.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self { signal: Signal::TERM, grace: Duration::from_secs(10) }
    }
}

/// A POSIX signal by its Linux number; written `SIGTERM`, `TERM` or `15`.
///
/// Windows knows only a shutdown event and termination: what a driver there does with a signal its capabilities say.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(u8);

const SIGNALS: [(&str, u8); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

impl Signal {
    /// Hang-up: by custom, reload.
    pub const HUP: Self = Self(1);
    /// Interrupt.
    pub const INT: Self = Self(2);
    /// Quit: by custom, stop gracefully.
    pub const QUIT: Self = Self(3);
    /// Kill: can't be refused.
    pub const KILL: Self = Self(9);
    /// The program's first own signal.
    pub const USR1: Self = Self(10);
    /// The program's second own signal.
    pub const USR2: Self = Self(12);
    /// Terminate.
    pub const TERM: Self = Self(15);

    /// From a Linux number.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) outside 1 to 64.
    pub fn from_number(number: i32) -> Result<Self> {
        match u8::try_from(number) {
            Ok(number @ 1..=64) => Ok(Self(number)),
            _ => Err(Error::invalid(format!("{number} is not a signal; accepted: 1 to 64"))),
        }
    }

    /// The Linux number.
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIGNALS.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Signal {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
            return Ok(Self(*number));
        }
        let number = if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None };
        number.and_then(|n| Self::from_number(n).ok()).ok_or_else(|| {
            let near = crate::document::walk::nearest(name, SIGNALS.iter().map(|(known, _)| *known));
            let near = near.map(|near| format!(", did you mean `SIG{near}`?")).unwrap_or_default();
            Error::invalid(format!(
                "`{}` is not a signal{near}; accepted: a name such as `SIGTERM` or a number from 1 to 64",
                Shown(text)
            ))
        })
    }
}

/// What supervision does when an instance ends by itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Restart {
    /// After which ends. Default: always.
    pub condition: RestartCondition,
    /// How many restarts within `window` make it give up. Default 5.
    pub attempts: u32,
    /// The time in which restarts are counted. Default 10 min.
    #[serde(with = "crate::time::duration")]
    pub window: Duration,
    /// The pause before the first restart; it doubles with each. Default 1 s.
    #[serde(with = "crate::time::duration")]
    pub delay: Duration,
    /// The longest pause. Default 5 min (Kubernetes' cap).
    #[serde(with = "crate::time::duration")]
    pub max_delay: Duration,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            condition: RestartCondition::Always,
            attempts: 5,
            window: Duration::from_secs(600),
            delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(300),
        }
    }
}

/// After which ends an instance is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RestartCondition {
    /// After every end.
    #[default]
    Always,
    /// After an exit code other than 0, a signal, or a kill for memory.
    OnFailure,
    /// Never.
    Never,
}

/// What the engine itself does when a program ends, for the time when no controller lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum EngineRestart {
    /// Nothing: supervision alone restarts.
    #[default]
    Never,
    /// Restarts after a failure; each restart raises the incarnation.
    OnFailure,
    /// Restarts after every end that nobody asked for, the engine's own restart included.
    UnlessStopped,
}

/// How much of an instance's output is kept on its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LogLimits {
    /// The size at which a file is rotated. Default 10 MiB.
    pub max_size: ByteSize,
    /// How many files are kept, the current one included. Default 3.
    pub max_files: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { max_size: ByteSize::from_mib(10), max_files: 3 }
    }
}

/// Makes a service a job that runs once to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Job {
    /// How long one attempt may run before it is stopped as failed. Default 1 h.
    #[serde(with = "crate::time::duration")]
    pub deadline: Duration,
    /// How many further attempts follow a failed one. Default 0.
    pub retries: u32,
}

impl Default for Job {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(3600), retries: 0 }
    }
}

text_serde!(Signal);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_read_by_name_and_number() {
        for (text, number) in [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGUSR1", 10), ("34", 34)] {
            let signal: Signal = text.parse().unwrap();
            assert_eq!(signal.number(), number, "{text}");
            assert_eq!(signal.to_string().parse::<Signal>().unwrap(), signal);
        }
        for text in ["", "0", "65", "SIGFOO", "-9", "+9"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }
}
