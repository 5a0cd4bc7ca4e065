//! What the system tells of processes: which is which, who was started by whom, what they use.

use std::collections::{HashMap, HashSet};
use std::os::windows::io::AsHandle as _;

use super::raw;
use crate::process::cgroup::Counted;
use crate::process::record::ProcessId;

/// Which boot this is: always the same, since there is nothing that says it for certain.
///
/// The time of the boot follows the clock when that is set, and the counters of boots are not on every machine. It is not
/// needed for safety: a shim's lock goes with it, and the moment of a process's creation is absolute, so nothing of another
/// boot is taken for something that runs. What ran when the machine went down is found as ended, nobody knows how.
pub(in crate::process) fn boot_id() -> String {
    "windows".to_owned()
}

/// The process of this number, for certain; `None` where there is none, or only its remains.
pub(in crate::process) fn identify(pid: u32) -> Option<ProcessId> {
    let process = raw::open_process(pid).ok()?;
    if raw::has_ended(process.as_handle()).ok()? {
        return None;
    }
    let (start, _) = raw::process_times(process.as_handle()).ok()?;
    Some(ProcessId { pid, start })
}

/// Whether this very process lives.
pub(in crate::process) fn is_alive(process: ProcessId) -> bool {
    identify(process.pid) == Some(process)
}

/// The console's own process: it is started with a shim's hidden console and is no part of the program.
const CONSOLE: &str = "conhost.exe";

/// All processes at one moment, by who started whom.
pub(in crate::process) struct Table {
    children: HashMap<u32, Vec<u32>>,
}

impl Table {
    pub(in crate::process) fn read() -> Self {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for listed in raw::processes().unwrap_or_default() {
            if !listed.name.eq_ignore_ascii_case(CONSOLE) {
                children.entry(listed.parent).or_default().push(listed.pid);
            }
        }
        Self { children }
    }

    /// Every process that descends from this one, itself left out. One whose parent has ended is not found.
    pub(in crate::process) fn below(&self, of: u32) -> Vec<u32> {
        let started = |pid: u32| identify(pid).map(|process| process.start);
        let mut found = HashSet::new();
        let mut waiting: Vec<_> = started(of).map(|start| (of, start)).into_iter().collect();
        while let Some((parent, parent_start)) = waiting.pop() {
            for child in self.children.get(&parent).into_iter().flatten() {
                // A number is given again, and the child of its last owner is older than its new one.
                let Some(start) = started(*child).filter(|start| *start >= parent_start) else { continue };
                if *child != of && found.insert(*child) {
                    waiting.push((*child, start));
                }
            }
        }
        found.into_iter().collect()
    }
}

/// Nothing: another process's environment can't be read in any documented way, and need not be. What a mark is for on other
/// systems, finding what a dead shim has left, has no use here, since the job ends its whole tree with the shim.
pub(in crate::process) fn marked(_: &str, _: impl Fn(&str) -> bool) -> Vec<(u32, String)> {
    Vec::new()
}

/// What these processes use now. Time that a process has used which has ended is not in it.
pub(in crate::process) fn count(pids: &[u32]) -> Counted {
    let (mut time, mut memory, mut processes) = (0_u64, 0_u64, 0);
    for pid in pids {
        let Ok(process) = raw::open_process(*pid) else { continue };
        let Ok((_, used)) = raw::process_times(process.as_handle()) else { continue };
        time = time.saturating_add(used);
        memory = memory.saturating_add(raw::process_memory(process.as_handle()).unwrap_or(0));
        processes += 1;
    }
    let some = processes > 0;
    Counted {
        cpu_nanos: some.then(|| time.saturating_mul(100)),
        memory: some.then_some(memory),
        memory_limit: None,
        pids: some.then_some(processes),
        // The system counts what goes through pipes and sockets with what goes to disks.
        io_read: None,
        io_written: None,
    }
}

/// The machine's memory, in bytes.
pub(in crate::process) fn memory() -> u64 {
    raw::machine_memory().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_itself_and_no_other() {
        let own = identify(std::process::id()).unwrap();
        assert!(is_alive(own));
        assert!(!is_alive(ProcessId { start: own.start + 1, ..own }), "the same number, another start");
        assert!(own.start > 0);
        assert!(memory() > 0);
        assert!(count(&[own.pid]).memory.unwrap() > 0);
        assert_eq!(count(&[]), Counted::default());
    }

    #[test]
    fn a_child_descends_while_it_lives() {
        let mut child = std::process::Command::new("cmd")
            .args(["/c", "pause"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let (own, pid) = (std::process::id(), child.id());
        assert!(Table::read().below(own).contains(&pid));
        assert!(!Table::read().below(pid).contains(&own));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(identify(pid), None, "remains do not count");
        assert!(!Table::read().below(own).contains(&pid));
    }
}
