//! Operating systems, architectures and isolation: what an instance needs and what a node is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::text_serde;
use crate::error::{Error, Result};
use crate::time::Shown;

/// What an instance needs; what is not said is the image's or does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct PlatformSpec {
    /// The operating system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os: Option<Os>,
    /// The architecture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arch: Option<Arch>,
    /// How a Windows container is isolated. Default: the engine's choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
}

/// An operating system, in OCI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Os {
    /// Linux.
    Linux,
    /// Windows.
    Windows,
    /// macOS: nodes of the process runtime only.
    Darwin,
}

/// An architecture, in OCI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Arch {
    /// x86, 64 bits.
    Amd64,
    /// ARM, 64 bits.
    Arm64,
    /// ARM, 32 bits.
    Arm,
    /// x86, 32 bits.
    #[serde(rename = "386")]
    I386,
    /// POWER, 64 bits, little endian.
    Ppc64le,
    /// IBM Z.
    S390x,
    /// RISC-V, 64 bits.
    Riscv64,
    /// LoongArch, 64 bits.
    Loong64,
}

/// How an instance is kept apart from its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Isolation {
    /// Not at all: an ordinary process.
    None,
    /// It shares the node's kernel.
    Process,
    /// It has a kernel of its own (Hyper-V and the like).
    Hyperv,
}

/// What a node or an image is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Platform {
    /// The operating system.
    pub os: Os,
    /// The architecture.
    pub arch: Arch,
    /// Windows: the build, such as `10.0.20348.2700`. Process isolation compares it with the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<OsVersion>,
}

impl Platform {
    /// This operating system and architecture, the build unknown.
    pub const fn new(os: Os, arch: Arch) -> Self {
        Self { os, arch, os_version: None }
    }

    /// The platform this program was compiled for; `None` where EWS has no word for it.
    pub fn host() -> Option<Self> {
        let os = match std::env::consts::OS {
            "linux" => Os::Linux,
            "windows" => Os::Windows,
            "macos" => Os::Darwin,
            _ => return None,
        };
        let arch = match std::env::consts::ARCH {
            "x86_64" => Arch::Amd64,
            "aarch64" => Arch::Arm64,
            "arm" => Arch::Arm,
            "x86" => Arch::I386,
            "powerpc64" => Arch::Ppc64le,
            "s390x" => Arch::S390x,
            "riscv64" => Arch::Riscv64,
            "loongarch64" => Arch::Loong64,
            _ => return None,
        };
        Some(Self::new(os, arch))
    }

    /// Whether a spec that needs `wanted` may run here, as far as it says.
    pub fn meets(&self, wanted: &PlatformSpec) -> bool {
        wanted.os.is_none_or(|os| os == self.os) && wanted.arch.is_none_or(|arch| arch == self.arch)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let os = match self.os {
            Os::Linux => "linux",
            Os::Windows => "windows",
            Os::Darwin => "darwin",
        };
        let arch = match self.arch {
            Arch::Amd64 => "amd64",
            Arch::Arm64 => "arm64",
            Arch::Arm => "arm",
            Arch::I386 => "386",
            Arch::Ppc64le => "ppc64le",
            Arch::S390x => "s390x",
            Arch::Riscv64 => "riscv64",
            Arch::Loong64 => "loong64",
        };
        write!(f, "{os}/{arch}")?;
        match &self.os_version {
            Some(version) => write!(f, " ({version})"),
            None => Ok(()),
        }
    }
}

/// A Windows version: `major.minor.build[.revision]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OsVersion {
    parts: [u32; 4],
}

impl OsVersion {
    /// The build, such as 20348 for Windows Server 2022.
    pub const fn build(self) -> u32 {
        self.parts[2]
    }

    /// The revision: the patches of the build. 0 where it was not said.
    pub const fn revision(self) -> u32 {
        self.parts[3]
    }
}

impl fmt::Display for OsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, build, revision] = self.parts;
        write!(f, "{major}.{minor}.{build}.{revision}")
    }
}

impl FromStr for OsVersion {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(format!(
                "`{}` is not a Windows version; accepted: `10.0.20348` or `10.0.20348.2700`",
                Shown(text)
            ))
        };
        let mut parts = [0; 4];
        let count = text.split('.').count();
        if !(3..=4).contains(&count) {
            return Err(wrong());
        }
        for (part, text) in parts.iter_mut().zip(text.split('.')) {
            if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
                return Err(wrong());
            }
            *part = text.parse().map_err(|_| wrong())?;
        }
        Ok(Self { parts })
    }
}

text_serde!(OsVersion);
