//! Which entry of an index runs on a platform: system, architecture, variant, and for Windows the build.

use ews_core::place::windows_fit;
use ews_core::registry::IndexEntry;
use ews_core::{Arch, Error, ErrorKind, Isolation, Os, Platform, Result};

/// What an entry is wanted for.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Wanted<'a> {
    /// The node's platform, for Windows with its build.
    pub platform: &'a Platform,
    /// The node's variant, such as `v6`. Default none: `v7` for ARM and `v8` for ARM64, containerd's, and `v1` for x86, which all machines
    /// run.
    pub variant: Option<&'a str>,
    /// How a Windows container is isolated. Default none: the engine's choice.
    pub isolation: Option<Isolation>,
}

impl<'a> Wanted<'a> {
    /// For this platform, the rest at its default.
    pub const fn new(platform: &'a Platform) -> Self {
        Self { platform, variant: None, isolation: None }
    }

    /// With this variant.
    #[must_use]
    pub const fn with_variant(mut self, variant: &'a str) -> Self {
        self.variant = Some(variant);
        self
    }

    /// With this isolation.
    #[must_use]
    pub const fn with_isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = Some(isolation);
        self
    }
}

/// Chooses the entry of an index.
///
/// System, architecture and variant must fit, and the nearest variant wins: of those a machine runs, the highest. For Windows the build
/// decides among what is left (docker/cli#138 and containerd#7431 are about what happens without):
///
/// - under process isolation, an image of the host's build; else one that hcsshim's rule lets run there
///   ([`windows_fit`]), the highest;
/// - under Hyper-V isolation, or where nothing is said: an image of the host's build, else the highest build not above it;
/// - an entry that does not tell its build comes last, and under process isolation not at all.
///
/// Among equals the first entry wins, as for every other client; a revision counts on Server 2016 only. Entries without a platform, attestations among
/// them, are never chosen.
///
/// ```
/// use ews_core::registry::{Descriptor, IndexEntry};
/// use ews_core::{Arch, Digest, Os, Platform};
/// use ews_docker::registry::{Wanted, select};
///
/// let entry = |arch| {
///     let descriptor = Descriptor::new(Digest::of(b"x"), "", 1);
///     IndexEntry::new(descriptor, Some(Platform::new(Os::Linux, arch)))
/// };
/// let index = [entry(Arch::Arm64), entry(Arch::Amd64)];
/// let node = Platform::new(Os::Linux, Arch::Amd64);
/// assert_eq!(select(&index, Wanted::new(&node))?, &index[1]);
/// # Ok::<(), ews_core::Error>(())
/// ```
///
/// # Errors
/// `ImageIncompatible`, which says what was wanted and what there is.
pub fn select<'a>(index: &'a [IndexEntry], wanted: Wanted<'_>) -> Result<&'a IndexEntry> {
    let mut best: Option<(Rank, &IndexEntry)> = None;
    for entry in index {
        let Some(rank) = rank(entry, wanted) else { continue };
        // Strictly better: the first of equals stays.
        if best.as_ref().is_none_or(|(known, _)| rank > *known) {
            best = Some((rank, entry));
        }
    }
    best.map(|(_, entry)| entry).ok_or_else(|| incompatible(index, wanted))
}

/// How well an entry fits; greater is better.
type Rank = (u32, WindowsRank);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum WindowsRank {
    Unknown,
    Older(u32),
    Same,
}

fn rank(entry: &IndexEntry, wanted: Wanted<'_>) -> Option<Rank> {
    let platform = entry.platform.as_ref()?;
    if (platform.os, platform.arch) != (wanted.platform.os, wanted.platform.arch) {
        return None;
    }
    let level = variant(platform.arch, entry.variant.as_deref())?;
    // A node's variant that we have no word for bounds nothing.
    let most = variant(platform.arch, wanted.variant).unwrap_or(u32::MAX);
    if level > most {
        return None;
    }
    let build = if platform.os == Os::Windows { windows(platform, wanted)? } else { WindowsRank::Same };
    Some((level, build))
}

/// The level of a variant: a machine runs its own and the lower ones.
fn variant(arch: Arch, variant: Option<&str>) -> Option<u32> {
    let default = match arch {
        Arch::Arm => 7,
        Arch::Arm64 => 8,
        _ => 1,
    };
    match variant {
        None | Some("") => Some(default),
        Some(text) => text.strip_prefix('v').unwrap_or(text).parse().ok(),
    }
}

fn windows(image: &Platform, wanted: Wanted<'_>) -> Option<WindowsRank> {
    let process = wanted.isolation == Some(Isolation::Process);
    let (Some(host), Some(image)) = (wanted.platform.os_version, image.os_version) else {
        return (!process).then_some(WindowsRank::Unknown);
    };
    let fit = windows_fit(host, image);
    if !(if process { fit.process } else { fit.process || fit.hyperv }) {
        return None;
    }
    Some(if host.build() == image.build() { WindowsRank::Same } else { WindowsRank::Older(image.build()) })
}

fn incompatible(index: &[IndexEntry], wanted: Wanted<'_>) -> Error {
    const SHOWN: usize = 20;
    let shown = |entry: &IndexEntry| {
        let platform = entry.platform.as_ref()?.to_string();
        Some(match &entry.variant {
            Some(variant) => format!("{platform}/{variant}"),
            None => platform,
        })
    };
    let mut there: Vec<String> = index.iter().filter_map(shown).collect();
    there.dedup();
    there.truncate(SHOWN);
    let there = if there.is_empty() { "none that EWS knows".to_owned() } else { there.join(", ") };
    let isolation = match wanted.isolation {
        Some(Isolation::Process) => " under process isolation",
        Some(Isolation::Hyperv) => " under Hyper-V isolation",
        _ => "",
    };
    let variant = wanted.variant.map(|variant| format!("/{variant}")).unwrap_or_default();
    let message = format!(
        "the image has nothing that runs on {}{variant}{isolation}; its platforms: {there}",
        wanted.platform
    );
    Error::new(ErrorKind::ImageIncompatible, message)
}

#[cfg(test)]
mod tests {
    use ews_core::Digest;
    use ews_core::registry::Descriptor;
    use proptest::prelude::*;

    use super::*;

    fn entry(os: Os, arch: Arch, variant: &str, build: &str) -> IndexEntry {
        let digest = Digest::of(format!("{os:?}{arch:?}{variant}{build}").as_bytes());
        let mut platform = Platform::new(os, arch);
        platform.os_version = build.parse().ok();
        let mut entry = IndexEntry::new(Descriptor::new(digest, "", 1), Some(platform));
        entry.variant = (!variant.is_empty()).then(|| variant.to_owned());
        entry
    }

    fn linux(arch: Arch, variant: &str) -> IndexEntry {
        entry(Os::Linux, arch, variant, "")
    }

    fn windows(build: &str) -> IndexEntry {
        entry(Os::Windows, Arch::Amd64, "", build)
    }

    #[test]
    fn the_highest_variant_that_runs_is_chosen() {
        let index =
            [linux(Arch::Arm, "v5"), linux(Arch::Arm, "v7"), linux(Arch::Arm, "v6"), linux(Arch::Arm64, "")];
        let arm = Platform::new(Os::Linux, Arch::Arm);
        let chosen = |variant: Option<&'static str>| {
            let mut wanted = Wanted::new(&arm);
            wanted.variant = variant;
            select(&index, wanted).map(|entry| entry.variant.clone().unwrap_or_default())
        };
        assert_eq!(chosen(None).unwrap(), "v7");
        assert_eq!(chosen(Some("v6")).unwrap(), "v6");
        assert_eq!(chosen(Some("v5")).unwrap(), "v5");
        assert_eq!(chosen(Some("v4")).unwrap_err().kind(), ErrorKind::ImageIncompatible);
        let arm64 = Platform::new(Os::Linux, Arch::Arm64);
        assert_eq!(select(&index, Wanted::new(&arm64).with_variant("v8")).unwrap(), &index[3]);
        // Any x86 machine runs the plain entry, and only some `v3`.
        let index = [linux(Arch::Amd64, "v3"), linux(Arch::Amd64, "")];
        let amd64 = Platform::new(Os::Linux, Arch::Amd64);
        assert_eq!(select(&index, Wanted::new(&amd64)).unwrap(), &index[1]);
        assert_eq!(select(&index, Wanted::new(&amd64).with_variant("v4")).unwrap(), &index[0]);
    }

    #[test]
    fn attestations_and_unknown_platforms_are_never_chosen_and_the_first_of_equals_is() {
        let mut attestation = linux(Arch::Amd64, "");
        attestation.platform = None;
        let mut second = linux(Arch::Amd64, "");
        second.descriptor.size = 2;
        let index = [attestation.clone(), linux(Arch::Amd64, ""), second];
        let amd64 = Platform::new(Os::Linux, Arch::Amd64);
        assert_eq!(select(&index, Wanted::new(&amd64)).unwrap(), &index[1]);
        let error = select(&[attestation], Wanted::new(&amd64)).unwrap_err();
        assert!(
            error.message().contains("linux/amd64") && error.message().contains("none that EWS knows"),
            "{error}"
        );
    }

    /// Rows of Microsoft's table (research: runtime, 3), with an index of all its releases.
    #[test]
    fn windows_images_are_chosen_by_build_and_isolation() {
        let builds = ["10.0.17763.1", "10.0.26100.1", "10.0.20348.900", "10.0.20348.1", "10.0.14393.5"];
        let index: Vec<_> = builds.into_iter().map(windows).collect();
        for (host, isolation, wanted) in [
            ("10.0.20348.2700", Some(Isolation::Process), Some("10.0.20348.900")),
            ("10.0.20348.2700", Some(Isolation::Hyperv), Some("10.0.20348.900")),
            ("10.0.20348.2700", None, Some("10.0.20348.900")),
            ("10.0.26100.1", Some(Isolation::Process), Some("10.0.26100.1")),
            // Windows 11 23H2 runs the newest long-term release below it.
            ("10.0.22631.1", Some(Isolation::Process), Some("10.0.20348.900")),
            ("10.0.17763.9", Some(Isolation::Process), Some("10.0.17763.1")),
            // Windows 10 22H2 is older than 2022 by rule, so only Hyper-V is left.
            ("10.0.19045.1", Some(Isolation::Process), None),
            ("10.0.19045.1", Some(Isolation::Hyperv), Some("10.0.17763.1")),
            ("10.0.14393.5", Some(Isolation::Process), Some("10.0.14393.5")),
            ("10.0.14393.6", Some(Isolation::Process), None),
            ("10.0.10240.1", None, None),
        ] {
            let mut node = Platform::new(Os::Windows, Arch::Amd64);
            node.os_version = Some(host.parse().unwrap());
            let mut asked = Wanted::new(&node);
            asked.isolation = isolation;
            let chosen = select(&index, asked)
                .ok()
                .and_then(|e| e.platform.as_ref()?.os_version)
                .map(|v| v.to_string());
            let wanted =
                wanted.map(|w| w.parse::<ews_core::spec::platform::OsVersion>().unwrap().to_string());
            assert_eq!(chosen, wanted, "{host} {isolation:?}");
        }
    }

    #[test]
    fn an_unknown_build_comes_last_and_not_under_process_isolation() {
        let index = [windows(""), windows("10.0.17763.1")];
        let mut node = Platform::new(Os::Windows, Arch::Amd64);
        node.os_version = Some("10.0.20348.1".parse().unwrap());
        assert_eq!(select(&index, Wanted::new(&node)).unwrap(), &index[1]);
        assert_eq!(select(&index[..1], Wanted::new(&node)).unwrap(), &index[0]);
        let process = Wanted::new(&node).with_isolation(Isolation::Process);
        let error = select(&index, process).unwrap_err();
        assert!(
            error.message().contains("10.0.17763.1") && error.message().contains("process isolation"),
            "{error}"
        );
    }

    proptest! {
        /// Whatever the order, the chosen entry runs on the node, and one is chosen wherever one runs.
        #[test]
        fn the_order_of_entries_chooses_only_among_equals(
            builds in prop::collection::vec(prop::sample::select(vec![14393_u32, 17763, 19045, 20348, 22631, 26100, 26200]), 1..6),
            host in prop::sample::select(vec![14393_u32, 17763, 19045, 20348, 22631, 26100, 26200]),
            process: bool,
        ) {
            let index: Vec<_> = builds.iter().map(|build| windows(&format!("10.0.{build}.1"))).collect();
            let mut node = Platform::new(Os::Windows, Arch::Amd64);
            node.os_version = Some(format!("10.0.{host}.1").parse().unwrap());
            let isolation = if process { Isolation::Process } else { Isolation::Hyperv };
            let wanted = Wanted::new(&node).with_isolation(isolation);
            let build = |index: &[IndexEntry]| {
                select(index, wanted).ok().and_then(|e| e.platform.as_ref()?.os_version).map(|version| version.build())
            };
            let mut reversed = index.clone();
            reversed.reverse();
            prop_assert_eq!(build(&index), build(&reversed));
            let runs = |version: u32| {
                let fit = windows_fit(node.os_version.unwrap(), format!("10.0.{version}.1").parse().unwrap());
                if process { fit.process } else { fit.hyperv || fit.process }
            };
            prop_assert_eq!(build(&index), builds.iter().copied().filter(|version| runs(*version)).max());
        }
    }
}
