//! What an engine is: asked once, when a client connects.

use ews_core::spec::platform::{Arch, Isolation, Os, OsVersion, Platform};
use ews_core::{Digest, Error, ErrorKind, NodeId, Result};

use super::models::{InfoAnswer, VersionAnswer};
use super::{Call, Engine, Subject};

/// The oldest API that is spoken: 20.10's. Older engines lack what the runtime stands on.
const OLDEST: ApiVersion = ApiVersion(1, 41);
/// The newest API that was read. A newer engine is asked in this one.
const NEWEST: ApiVersion = ApiVersion(1, 51);

/// A version of the engine's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct ApiVersion(pub(crate) u16, pub(crate) u16);

impl ApiVersion {
    fn read(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }
}

impl std::fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// What an engine says of its version, and the API that is spoken with it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Version {
    pub(crate) engine: String,
    pub(crate) api: ApiVersion,
    pub(crate) podman: bool,
}

impl Version {
    pub(super) async fn of(engine: &Engine) -> Result<Self> {
        let answer: VersionAnswer =
            engine.json(Call::get("engine.version", Subject::Engine, &["version"])).await?;
        Self::read(answer)
    }

    fn read(answer: VersionAnswer) -> Result<Self> {
        let unread = |text: &str| {
            Error::new(ErrorKind::Decode, "this is no Docker Engine: its API version can't be read")
                .with_detail(text.to_owned())
        };
        let newest = ApiVersion::read(&answer.api).ok_or_else(|| unread(&answer.api))?;
        // Engines before 1.12 say no lower bound.
        let oldest = ApiVersion::read(&answer.min_api).unwrap_or_default();
        let api = newest.min(NEWEST);
        if newest < OLDEST || oldest > NEWEST {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("this engine speaks the API {oldest} to {newest}; accepted: what includes a version from {OLDEST} to {NEWEST}"),
            )
            .with_context("version", &answer.version));
        }
        let podman = answer.components.iter().any(|component| component.name.starts_with("Podman"));
        Ok(Self { engine: answer.version, api, podman })
    }

    pub(super) fn prefix(&self) -> Result<String> {
        Ok(format!("/v{}", self.api))
    }
}

/// What an engine is and can do.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) version: Version,
    pub(crate) info: InfoAnswer,
    pub(crate) platform: Platform,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            version: Version::default(),
            info: InfoAnswer::default(),
            platform: Platform::new(Os::Linux, Arch::Amd64),
        }
    }
}

impl Facts {
    pub(super) async fn of(engine: &Engine, version: Version) -> Result<Self> {
        let info: InfoAnswer = engine.json(Call::get("engine.info", Subject::Engine, &["info"])).await?;
        Self::read(version, info)
    }

    fn read(version: Version, info: InfoAnswer) -> Result<Self> {
        let mut platform = platform(&info.os, &info.arch).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "the engine's platform is not known")
                .with_context("os", &info.os)
                .with_context("arch", &info.arch)
        })?;
        if platform.os == Os::Windows {
            platform.os_version = os_version(&info.os_version).or_else(|| os_version(&info.kernel));
        }
        Ok(Self { version, info, platform })
    }

    /// The ways it can isolate, its default first.
    pub(crate) fn isolation(&self) -> Vec<Isolation> {
        match (self.platform.os, self.info.isolation.as_str()) {
            (Os::Windows, "hyperv") => vec![Isolation::Hyperv, Isolation::Process],
            (Os::Windows, _) => vec![Isolation::Process, Isolation::Hyperv],
            _ => vec![Isolation::Process],
        }
    }

    /// The node's id: the engine's host name, made one.
    pub(crate) fn node(&self) -> Result<NodeId> {
        node_of(&self.info.name, &self.info.id)
    }

    pub(crate) fn is_windows(&self) -> bool {
        self.platform.os == Os::Windows
    }
}

/// A node's id from a host name, which may hold what an id may not.
fn node_of(name: &str, engine: &str) -> Result<NodeId> {
    let lower = name.to_ascii_lowercase();
    let mended: String =
        lower.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).take(63).collect();
    let mended = mended.trim_matches(['-', '.']).replace("..", ".");
    NodeId::new(&mended).or_else(|_| NodeId::new(format!("engine-{}", Digest::of(engine.as_bytes()).short())))
}

/// A platform in the words of an engine or an image; machines say `x86_64` and `aarch64`.
pub(crate) fn platform(os: &str, arch: &str) -> Option<Platform> {
    let os = match os.to_ascii_lowercase().as_str() {
        "linux" => Os::Linux,
        "windows" => Os::Windows,
        "darwin" => Os::Darwin,
        _ => return None,
    };
    let arch = match arch.to_ascii_lowercase().as_str() {
        "amd64" | "x86_64" | "x86-64" => Arch::Amd64,
        "arm64" | "aarch64" => Arch::Arm64,
        "arm" | "armv6l" | "armv7l" | "armhf" => Arch::Arm,
        "386" | "i386" | "i686" => Arch::I386,
        "ppc64le" => Arch::Ppc64le,
        "s390x" => Arch::S390x,
        "riscv64" => Arch::Riscv64,
        "loong64" | "loongarch64" => Arch::Loong64,
        _ => return None,
    };
    Some(Platform::new(os, arch))
}

/// The first version in a text: engines on Windows write `10.0 20348 (20348.1.amd64fre…)` as their kernel.
pub(crate) fn os_version(text: &str) -> Option<OsVersion> {
    let word = text.split_whitespace().find_map(|word| word.parse().ok());
    word.or_else(|| {
        let mut words = text.split_whitespace();
        let (first, second) = (words.next()?, words.next()?);
        format!("{first}.{second}").parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(min: &str, max: &str) -> Result<Version> {
        let text =
            format!(r#"{{"Version":"x","ApiVersion":"{max}","MinAPIVersion":"{min}","Components":null}}"#);
        Version::read(serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn the_newest_version_that_both_know_is_spoken() {
        assert_eq!(version("1.12", "1.41").unwrap().api, ApiVersion(1, 41));
        assert_eq!(version("1.44", "1.47").unwrap().api, ApiVersion(1, 47));
        // An engine of the future that still takes what we know.
        assert_eq!(version("1.44", "1.60").unwrap().api, NEWEST);
        for (min, max, kind) in [
            ("1.12", "1.40", ErrorKind::Unsupported),
            ("1.52", "1.60", ErrorKind::Unsupported),
            ("1.12", "nonsense", ErrorKind::Decode),
        ] {
            assert_eq!(version(min, max).unwrap_err().kind(), kind, "{min} {max}");
        }
    }

    #[test]
    fn windows_is_read_from_what_its_engine_writes() {
        let info = r#"{"ID":"x","Name":"WIN","OSType":"windows","Architecture":"x86_64","OSVersion":"1809","KernelVersion":"10.0 17763 (17763.1.amd64fre.rs5_release.180914-1434)","Isolation":"process"}"#;
        let facts = Facts::read(Version::default(), serde_json::from_str(info).unwrap()).unwrap();
        assert_eq!(facts.platform.os_version.unwrap().build(), 17763);
        assert_eq!(facts.isolation(), [Isolation::Process, Isolation::Hyperv]);
    }

    #[test]
    fn host_names_become_nodes() {
        for (name, node) in [("vm", "vm"), ("WIN-ABC_1", "win-abc-1"), ("a..b.", "a.b")] {
            assert_eq!(node_of(name, "id").unwrap().as_str(), node);
        }
        assert!(node_of("…", "id").unwrap().as_str().starts_with("engine-"));
        for odd in [".".repeat(300), "a.".repeat(300), "-".repeat(70), "店".to_owned(), String::new()] {
            node_of(&odd, "id").unwrap();
        }
    }
}
