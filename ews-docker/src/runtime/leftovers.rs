//! What an engine that died in the midst of a start has left of a container: a first process that waits for ever, in a network of its own whose
//! address the engine gives to another container. The engine doesn't know of it any more, so nobody but whoever sees this machine's
//! processes can end it.

/// Ends the processes that are in this container's control group, once the engine has no such container any more. How many there were; none is
/// found where the engine is on another machine, or in another space of processes.
#[cfg(target_os = "linux")]
pub(super) fn end(container: &str) -> usize {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    if !is_id(container) {
        return 0;
    }
    let is_left = |pid: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| is_in(&groups, container))
    };
    let mut ended = 0;
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|pid| is_left(pid)) else { continue };
        let Some(number) = pid.parse().ok().and_then(Pid::from_raw) else { continue };
        // The number may be another process's by now: what is held is looked at again.
        let Ok(held) = pidfd_open(number, PidfdFlags::empty()) else { continue };
        if !is_left(pid) {
            continue;
        }
        match pidfd_send_signal(&held, Signal::KILL) {
            Ok(()) => ended += 1,
            Err(error) => {
                tracing::warn!(container, pid, %error, "what a dead engine left of a container can't be ended");
            }
        }
    }
    ended
}

/// Engines elsewhere leave nothing that could be seen from here.
#[cfg(not(target_os = "linux"))]
pub(super) fn end(_: &str) -> usize {
    0
}

/// Whole, as engines write it: nothing else could name a group of somebody else's.
#[cfg(target_os = "linux")]
pub(super) fn is_id(container: &str) -> bool {
    container.len() == 64 && container.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether one of a process's groups is this container's: `…/<id>`, or `…/docker-<id>.scope` under systemd.
#[cfg(target_os = "linux")]
pub(super) fn is_in(groups: &str, container: &str) -> bool {
    let last = groups.lines().filter_map(|line| line.rsplit('/').next());
    let named = |name: &str| {
        let name = name.strip_suffix(".scope").map_or(name, |name| name.rsplit('-').next().unwrap_or(name));
        name == container
    };
    last.into_iter().any(named)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_groups_of_every_driver_name_their_container_and_no_other() {
        let id = "1dd9aebc02c217d31174193c245b37e3fb0efb08fc256de333b11c4486ca1168";
        let other = id.replace('1', "2");
        for groups in [
            format!("0::/docker/{id}\n"),
            format!("0::/system.slice/docker-{id}.scope\n"),
            format!("12:pids:/docker/{id}\n11:cpu:/\n0::/\n"),
        ] {
            assert!(is_in(&groups, id), "{groups}");
            assert!(!is_in(&groups, &other), "{groups}");
        }
        for groups in
            [format!("0::/docker/{id}/inner\n"), format!("0::/{id}x\n"), "0::/\n".to_owned(), String::new()]
        {
            assert!(!is_in(&groups, id), "{groups}");
        }
        assert!(is_id(id));
        for wrong in ["", "/", "web", &id[..12]] {
            assert!(!is_id(wrong), "{wrong}");
            assert_eq!(end(wrong), 0);
        }
    }
}
