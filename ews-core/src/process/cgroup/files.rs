//! The files of a group: limits in, counts out, and the end of everything in it.

use std::fs;
use std::io;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use super::{Counted, Limits, Paths};
use crate::process::sys::proc;

/// The time over which a CPU limit is held: the kernel's own default.
const PERIOD_MICROS: u64 = 100_000;

/// The shortest share of a period that the kernel takes.
const LEAST_QUOTA_MICROS: u64 = 1_000;

impl Paths {
    /// Holds the group to these limits. A limit whose controller is not there is passed over: the capabilities have said so.
    ///
    /// # Errors
    /// What the kernel says of a limit that it could hold and does not take.
    pub(in crate::process) fn limit(&self, limits: &Limits) -> io::Result<()> {
        let unified =
            |file: &str| self.unified.as_ref().map(|path| path.join(file)).filter(|path| path.exists());
        if let Some(bytes) = limits.memory {
            if let Some(file) = unified("memory.max") {
                fs::write(file, bytes.to_string())?;
                // Without swap accounting there is no such file. One program of the instance is not killed without the rest.
                let _ = unified("memory.swap.max").map(|file| fs::write(file, "0"));
                let _ = unified("memory.oom.group").map(|file| fs::write(file, "1"));
            } else if let Some(group) = self.legacy("memory") {
                fs::write(group.join("memory.limit_in_bytes"), bytes.to_string())?;
                let _ = fs::write(group.join("memory.memsw.limit_in_bytes"), bytes.to_string());
            }
        }
        if let Some(millis) = limits.cpu_millis {
            let quota = (u64::from(millis) * PERIOD_MICROS / 1000).max(LEAST_QUOTA_MICROS);
            if let Some(file) = unified("cpu.max") {
                fs::write(file, format!("{quota} {PERIOD_MICROS}"))?;
            } else if let Some(group) = self.legacy("cpu") {
                fs::write(group.join("cpu.cfs_period_us"), PERIOD_MICROS.to_string())?;
                fs::write(group.join("cpu.cfs_quota_us"), quota.to_string())?;
            }
        }
        if let Some(pids) = limits.pids {
            let group =
                unified("pids.max").or_else(|| self.legacy("pids").map(|group| group.join("pids.max")));
            if let Some(file) = group {
                fs::write(file, pids.to_string())?;
            }
        }
        Ok(())
    }

    /// What the group has used; what no controller counts is `None`.
    pub(in crate::process) fn count(&self) -> Counted {
        let mut counted = Counted::default();
        if let Some(group) = &self.unified {
            // The time is counted without any controller.
            counted.cpu_nanos = word(&group.join("cpu.stat"), "usage_usec").map(|micros| micros * 1000);
            counted.memory = number(&group.join("memory.current")).map(|all| {
                all.saturating_sub(word(&group.join("memory.stat"), "inactive_file").unwrap_or(0))
            });
            counted.memory_limit = number(&group.join("memory.max"));
            counted.pids = number(&group.join("pids.current"));
            if let Ok(text) = fs::read_to_string(group.join("io.stat")) {
                counted.io_read = Some(sum(&text, "rbytes="));
                counted.io_written = Some(sum(&text, "wbytes="));
            }
        }
        if let Some(group) = self.legacy("cpuacct") {
            counted.cpu_nanos = number(&group.join("cpuacct.usage")).or(counted.cpu_nanos);
        }
        if let Some(group) = self.legacy("memory") {
            counted.memory = number(&group.join("memory.usage_in_bytes")).map(|all| {
                all.saturating_sub(word(&group.join("memory.stat"), "total_inactive_file").unwrap_or(0))
            });
            // Without a limit it says the largest number of pages.
            let limit = number(&group.join("memory.limit_in_bytes"));
            counted.memory_limit = limit.filter(|limit| *limit < 1 << 62);
        }
        if let Some(group) = self.legacy("pids") {
            counted.pids = number(&group.join("pids.current")).or(counted.pids);
        }
        if let Some(group) = self.legacy("blkio")
            && let Ok(text) = fs::read_to_string(group.join("blkio.throttle.io_service_bytes"))
        {
            counted.io_read = Some(labelled(&text, "Read"));
            counted.io_written = Some(labelled(&text, "Write"));
        }
        if let Some(group) = &self.unified
            && (counted.pids.is_none() || counted.io_read.is_none())
        {
            // No controller counts them, so the processes are asked.
            let each = proc::count(&members(group));
            counted.pids = counted.pids.or(each.pids);
            counted.io_read = counted.io_read.or(each.io_read);
            counted.io_written = counted.io_written.or(each.io_written);
        }
        counted
    }
}

/// How often the kernel has killed for memory here.
pub(in crate::process) fn oom_killed(paths: &Paths) -> bool {
    let unified = paths.unified.as_ref().and_then(|path| word(&path.join("memory.events"), "oom_kill"));
    let legacy = paths.legacy("memory").and_then(|path| word(&path.join("memory.oom_control"), "oom_kill"));
    unified.or(legacy).is_some_and(|kills| kills > 0)
}

/// Kills everything in a group, or in one child of it; `true` when nothing was there any more. It is called until it says so.
pub(in crate::process) fn kill(paths: &Paths, child: Option<&str>) -> bool {
    let unified = paths.unified.as_ref().map(|path| child.map_or(path.clone(), |child| path.join(child)));
    if let Some(group) = unified {
        if !group.exists() || word(&group.join("cgroup.events"), "populated") == Some(0) {
            return true;
        }
        // Kernels before 5.14 have no such file.
        if fs::write(group.join("cgroup.kill"), "1").is_err() {
            each(&group.join("cgroup.procs"));
            for entry in fs::read_dir(&group).into_iter().flatten().flatten() {
                each(&entry.path().join("cgroup.procs"));
            }
        }
        return false;
    }
    // In v1 a command's processes can't be told from the program's.
    let group = if child.is_none() { paths.legacy.first() } else { None };
    group.is_none_or(|(_, group)| each(&group.join("cgroup.procs")))
}

/// Kills each process that a file lists; `true` when it lists none.
fn each(file: &Path) -> bool {
    let Ok(text) = fs::read_to_string(file) else { return true };
    let mut none = true;
    for pid in text.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)) {
        none = false;
        // Who has ended meanwhile needs no signal.
        let _ = kill_process(pid, Signal::KILL);
    }
    none
}

/// The processes of a unified group: of its program and of the commands run inside.
fn members(group: &Path) -> Vec<u32> {
    let children = fs::read_dir(group).into_iter().flatten().flatten();
    let lists = children.filter_map(|child| fs::read_to_string(child.path().join("cgroup.procs")).ok());
    lists.flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<u32>>()).collect()
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The number after a word in a file of lines of both.
fn word(file: &Path, word: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' ')?.trim().parse().ok())
}

fn sum(text: &str, prefix: &str) -> u64 {
    text.split_whitespace().filter_map(|word| word.strip_prefix(prefix)?.parse::<u64>().ok()).sum()
}

/// The sum of `8:0 Read 4096` over all devices.
fn labelled(text: &str, label: &str) -> u64 {
    let values = text.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        if words.next()? == label { words.next()?.parse::<u64>().ok() } else { None }
    });
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_both_kinds() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        file("cpu.stat", "usage_usec 1500\nuser_usec 1000\n");
        file("memory.current", "10000\n");
        file("memory.stat", "anon 1\ninactive_file 4000\ntotal_inactive_file 3000\n");
        file("memory.max", "max\n");
        file("io.stat", "8:0 rbytes=5 wbytes=6 rios=1\n8:16 rbytes=10 wbytes=20\n");
        let unified = Paths { unified: Some(folder.path().to_owned()), legacy: Vec::new() };
        let counted = unified.count();
        assert_eq!(
            (counted.cpu_nanos, counted.memory, counted.memory_limit),
            (Some(1_500_000), Some(6000), None)
        );
        assert_eq!((counted.io_read, counted.io_written, counted.pids), (Some(15), Some(26), None));

        file("cpuacct.usage", "77\n");
        file("memory.usage_in_bytes", "9000\n");
        file("memory.limit_in_bytes", "9223372036854771712\n");
        file("pids.current", "3\n");
        file("blkio.throttle.io_service_bytes", "8:0 Read 1\n8:0 Write 2\n8:16 Read 30\nTotal 33\n");
        file("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
        let path = || folder.path().to_owned();
        let names = ["cpuacct", "memory", "pids", "blkio"];
        let legacy = Paths { unified: None, legacy: names.map(|name| (name.to_owned(), path())).to_vec() };
        let counted = legacy.count();
        assert_eq!((counted.cpu_nanos, counted.memory, counted.memory_limit), (Some(77), Some(6000), None));
        assert_eq!((counted.io_read, counted.io_written, counted.pids), (Some(31), Some(2), Some(3)));
        assert!(oom_killed(&legacy));
        assert!(!oom_killed(&unified));
    }
}
