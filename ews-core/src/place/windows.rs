//! Which Windows images run on which Windows hosts.
//!
//! Under process isolation the image's programs call the host's kernel, so the builds must go together; under Hyper-V
//! isolation the image brings a kernel of its own. The rule for process isolation is hcsshim's (`osversion.CheckHostAndContainerCompat`):
//! a host below build 20348 (Server 2022) runs exactly its own build, a later one everything from the newest long-term
//! release *below* itself up to itself. Server 2016 also compares revisions (Microsoft, *Windows container version
//! compatibility*).
//!
//! Microsoft's table lets a Windows 11 client of build 26200 run Server 2022 images under process isolation, hcsshim's rule does
//! not; the rule is kept, so such a pair is placed under Hyper-V, which both allow.

use crate::spec::platform::OsVersion;

/// Server 2016.
const V2016: u32 = 14393;
/// Long-term releases from which on older images run under process isolation: Server 2022 and 2025.
const LONG_TERM: [u32; 2] = [20348, 26100];

/// How a Windows image runs on a Windows host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WindowsFit {
    /// Under process isolation.
    pub process: bool,
    /// Under Hyper-V isolation.
    pub hyperv: bool,
}

/// How an image of this version runs on a host of this version.
///
/// ```
/// use ews_core::place::windows_fit;
///
/// let (server_2019, server_2022) = ("10.0.17763.6189".parse()?, "10.0.20348.2700".parse()?);
/// let fit = windows_fit(server_2022, server_2019);
/// assert!(!fit.process && fit.hyperv);
/// # Ok::<(), ews_core::Error>(())
/// ```
pub fn windows_fit(host: OsVersion, image: OsVersion) -> WindowsFit {
    let (host_build, image_build) = (host.build(), image.build());
    let first_long_term = LONG_TERM[0];
    let process = if host_build == V2016 {
        host_build == image_build && host.revision() == image.revision()
    } else if host_build < first_long_term {
        host_build == image_build
    } else {
        let oldest =
            LONG_TERM.into_iter().rev().find(|release| *release < host_build).unwrap_or(first_long_term);
        (oldest..=host_build).contains(&image_build)
    };
    WindowsFit { process, hyperv: image_build <= host_build }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(host: u32, image: u32) -> (bool, bool) {
        let version = |build: u32| format!("10.0.{build}.1").parse::<OsVersion>().unwrap();
        let WindowsFit { process, hyperv } = windows_fit(version(host), version(image));
        (process, hyperv)
    }

    /// Microsoft's table as of January 2025, row by row.
    #[test]
    fn microsofts_table_holds() {
        const P_H: (bool, bool) = (true, true);
        const H: (bool, bool) = (false, true);
        const NO: (bool, bool) = (false, false);
        let images = [14393, 17763, 20348, 26100];
        for (host, row) in [
            (14393, [P_H, NO, NO, NO]),
            (17763, [H, P_H, NO, NO]),
            (20348, [H, H, P_H, NO]),
            (26100, [H, H, P_H, P_H]),
            // Windows 10 22H2 and Windows 11 23H2.
            (19045, [H, H, NO, NO]),
            (22631, [H, H, P_H, NO]),
        ] {
            assert_eq!(images.map(|image| fit(host, image)), row, "host {host}");
        }
    }

    #[test]
    fn where_table_and_rule_disagree_only_hyperv_is_left() {
        assert_eq!(fit(26200, 20348), (false, true));
        assert_eq!(fit(26200, 26100), (true, true));
    }

    #[test]
    fn server_2016_compares_revisions_and_later_ones_do_not() {
        let version = |text: &str| text.parse::<OsVersion>().unwrap();
        assert!(!windows_fit(version("10.0.14393.2"), version("10.0.14393.1")).process);
        assert!(windows_fit(version("10.0.17763.2"), version("10.0.17763.1")).process);
    }
}
