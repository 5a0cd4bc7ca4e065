//! What an instance may use, with units.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::text_serde;
use crate::error::{Error, Result};
use crate::time::Shown;

/// Limits of an instance, and what placement sets aside for it.
///
/// A runtime enforces a limit or refuses it; what it can only do as best effort its capabilities say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Resources {
    /// The most CPU time per time. Default: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// The most memory; beyond it the kernel kills. Default: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// The most processes and threads. Default: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// What placement sets aside of a node's CPU. Default: `cpu`, or nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_reserve: Option<Cpu>,
    /// What placement sets aside of a node's memory. Default: `memory`, or nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_reserve: Option<ByteSize>,
}

impl Resources {
    /// What placement sets aside of a node's CPU.
    pub fn reserved_cpu(&self) -> Cpu {
        self.cpu_reserve.or(self.cpu).unwrap_or_default()
    }

    /// What placement sets aside of a node's memory.
    pub fn reserved_memory(&self) -> ByteSize {
        self.memory_reserve.or(self.memory).unwrap_or_default()
    }

    /// With at most so much CPU time per time.
    #[must_use]
    pub fn with_cpu(mut self, cpu: Cpu) -> Self {
        self.cpu = Some(cpu);
        self
    }

    /// With at most so much memory.
    #[must_use]
    pub fn with_memory(mut self, memory: ByteSize) -> Self {
        self.memory = Some(memory);
        self
    }

    /// With at most so many processes and threads.
    #[must_use]
    pub fn with_pids(mut self, pids: u32) -> Self {
        self.pids = Some(pids);
        self
    }

    /// With so much of a node set aside by placement.
    #[must_use]
    pub fn with_reserved(mut self, cpu: Cpu, memory: ByteSize) -> Self {
        (self.cpu_reserve, self.memory_reserve) = (Some(cpu), Some(memory));
        self
    }
}

/// CPU time per time, in thousandths of one CPU; written `1.5` or `1500m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cpu(u32);

impl Cpu {
    /// From thousandths of one CPU.
    pub const fn from_millis(millis: u32) -> Self {
        Self(millis)
    }

    /// Thousandths of one CPU.
    pub const fn millis(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) { write!(f, "{}", self.0 / 1000) } else { write!(f, "{}m", self.0) }
    }
}

impl FromStr for Cpu {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let parsed = match text.strip_suffix('m') {
            Some(millis) => digits(millis),
            None => decimal(text, 3),
        };
        parsed.and_then(|millis| u32::try_from(millis).ok()).map(Self).ok_or_else(|| {
            if let Some(millis) = finer(text) {
                return Error::invalid(format!(
                    "`{}` has more than three decimals; accepted: thousandths of a CPU at the finest, such as `{}.{:03}` or \
                     `{millis}m`",
                    Shown(text),
                    millis / 1000,
                    millis % 1000
                ));
            }
            Error::invalid(format!(
                "`{}` is not an amount of CPU; accepted: CPUs such as `2` or `0.5`, or thousandths such as `500m`",
                Shown(text)
            ))
        })
    }
}

/// The thousandths above an amount that has more than three decimals.
fn finer(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.')?;
    let rest =
        fraction.get(3..).filter(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))?;
    let millis = decimal(&format!("{whole}.{}", fraction.get(..3)?), 3)?;
    millis.checked_add(u64::from(rest.bytes().any(|b| b != b'0')))
}

/// A number of bytes; written `512MiB`, `10GB` or `4096`.
///
/// `KiB`, `MiB`, `GiB`, `TiB` (also `Ki` …) are powers of 1024; `kB`, `MB`, `GB`, `TB` powers of 1000; no unit, or `B`, is
/// bytes. A single `K`, `M` or `G` is refused, since tools disagree about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(u64);

const SIZES: [(&str, u64); 14] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

impl ByteSize {
    /// From a number of bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// From mebibytes.
    pub const fn from_mib(mib: u32) -> Self {
        Self((mib as u64) << 20)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, size) in SIZES.iter().take(4) {
            if self.0 >= *size && self.0.is_multiple_of(*size) {
                return write!(f, "{}{unit}", self.0 / size);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl FromStr for ByteSize {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let (number, unit) = SIZES
            .iter()
            .find_map(|(name, size)| Some((text.strip_suffix(name)?.trim_end(), *size)))
            .unwrap_or((text, 1));
        // Three decimals of a unit are exact for decimal units and floor to a byte for binary ones.
        let parsed = match number.contains('.') {
            false => digits(number).and_then(|n| n.checked_mul(unit)),
            true if unit > 1 => decimal(number, 3).and_then(|n| n.checked_mul(unit)).map(|n| n / 1000),
            true => None,
        };
        parsed.map(Self).ok_or_else(|| {
            let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            let fault = if is_number { "is more than any machine has" } else { "is not a size" };
            Error::invalid(format!(
                "`{}` {fault}; accepted: a number with a unit such as `512MiB`, `10GB` or `4096` bytes",
                Shown(text)
            ))
        })
    }
}

fn digits(text: &str) -> Option<u64> {
    let good = (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if good { text.parse().ok() } else { None }
}

/// A decimal number of at most `places` decimals, times ten to the power of `places`.
fn decimal(text: &str, places: usize) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.len() > places {
        return None;
    }
    let scale = 10_u64.checked_pow(u32::try_from(places).ok()?)?;
    let missing = 10_u64.checked_pow(u32::try_from(places - fraction.len()).ok()?)?;
    digits(whole)?.checked_mul(scale)?.checked_add(digits(fraction)?.checked_mul(missing)?)
}

/// A limit of the operating system on each process, such as `nofile`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Ulimit {
    /// Its name, as in `ulimit` and Docker: `nofile`, `nproc`, `core`, ….
    pub name: String,
    /// What the program starts with; [`Ulimit::UNLIMITED`] for no limit.
    #[serde(serialize_with = "write_limit")]
    pub soft: u64,
    /// How far it may raise it; [`Ulimit::UNLIMITED`] for no limit.
    #[serde(serialize_with = "write_limit")]
    pub hard: u64,
}

/// TOML's whole numbers end at `i64::MAX`, so no limit is a word.
fn write_limit<S: serde::Serializer>(limit: &u64, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    match *limit {
        Ulimit::UNLIMITED => serializer.serialize_str("unlimited"),
        limit => serializer.serialize_u64(limit),
    }
}

impl Ulimit {
    /// No limit; written `"unlimited"`. Every other limit is at most `i64::MAX`.
    pub const UNLIMITED: u64 = u64::MAX;

    /// The names that are accepted: Linux's.
    pub const NAMES: &'static [&'static str] = &[
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];

    /// A limit of this name.
    pub fn new(name: impl Into<String>, soft: u64, hard: u64) -> Self {
        Self { name: name.into(), soft, hard }
    }
}

text_serde!(Cpu, ByteSize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_and_write() {
        for (text, millis) in [("2", 2000), ("0.5", 500), ("1.25", 1250), ("250m", 250), ("0", 0)] {
            let cpu: Cpu = text.parse().unwrap();
            assert_eq!(cpu.millis(), millis, "{text}");
            assert_eq!(cpu.to_string().parse::<Cpu>().unwrap(), cpu);
        }
        for text in ["", "-1", "1.2345", "m", "1e3", "5000000", "99999999999999999999m", ".5", "1."] {
            assert!(text.parse::<Cpu>().is_err(), "{text}");
        }
        for (text, bytes) in
            [("512MiB", 512 << 20), ("1.5GiB", 3 << 29), ("10 kB", 10_000), ("4096", 4096), ("7Ki", 7 << 10)]
        {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(size.bytes(), bytes, "{text}");
            assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
        }
        for text in ["", "512M", "1.5", "-1MiB", "MiB", "99999999999TiB", "1 024"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        let message = |text: &str| text.parse::<ByteSize>().unwrap_err().to_string();
        assert!(message("99999999999TiB").contains("is more than any machine has"));
        assert!(message("99999999999T").contains("is not a size"));
    }
}
