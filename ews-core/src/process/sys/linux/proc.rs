//! What `/proc` tells: which process is which, who descends from whom, what they use.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Read as _;

use crate::process::cgroup::Counted;
use crate::process::record::ProcessId;

/// Which boot this is: after another one no process of before lives.
pub(in crate::process) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// More than a line of `/proc/<pid>/stat` can have, in bytes: 52 numbers of at most 20 digits and a name of at most 64.
const LINE: usize = 2048;

/// A line of `/proc/<pid>/stat`, in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    state: u8,
    parent: u32,
    /// Clock ticks in user and kernel mode, those of children that were waited for included.
    ticks: u64,
    threads: u64,
    start: u64,
    /// Pages.
    resident: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    // Room for the whole line, which the kernel does not tell the length of: else it is read in many pieces.
    let mut line = [0; LINE];
    let count = fs::File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut line).ok()?;
    // A name is cut by bytes, not by letters.
    parse(&String::from_utf8_lossy(line.get(..count)?))
}

fn parse(line: &str) -> Option<Stat> {
    // The name stands in parentheses and may hold anything, parentheses and spaces included.
    let (_, rest) = line.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat {
        state: *fields.first()?.as_bytes().first()?,
        parent: fields.get(1)?.parse().ok()?,
        ticks: number(11)? + number(12)? + number(13)? + number(14)?,
        threads: number(17)?,
        start: number(19)?,
        resident: number(21)?,
    })
}

/// The process of this number, for certain; `None` where there is none, or only its remains.
pub(in crate::process) fn identify(pid: u32) -> Option<ProcessId> {
    let stat = stat(pid)?;
    (!matches!(stat.state, b'Z' | b'X')).then_some(ProcessId { pid, start: stat.start })
}

/// Whether this very process lives: the same number with the same start.
pub(in crate::process) fn is_alive(process: ProcessId) -> bool {
    identify(process.pid) == Some(process)
}

/// All processes at one moment, by who started whom.
pub(in crate::process) struct Table {
    children: HashMap<u32, Vec<u32>>,
    living: HashSet<u32>,
}

impl Table {
    pub(in crate::process) fn read() -> Self {
        let mut table = Self { children: HashMap::new(), living: HashSet::new() };
        for pid in pids() {
            let Some(stat) = stat(pid) else { continue };
            table.children.entry(stat.parent).or_default().push(pid);
            if !matches!(stat.state, b'Z' | b'X') {
                table.living.insert(pid);
            }
        }
        table
    }

    /// Every process that descends from this one, itself left out, remains left out.
    pub(in crate::process) fn below(&self, of: u32) -> Vec<u32> {
        // The lines were read one after the other, so numbers given again meanwhile could make a circle.
        let mut found = HashSet::new();
        let mut waiting = vec![of];
        while let Some(parent) = waiting.pop() {
            for child in self.children.get(&parent).into_iter().flatten() {
                if *child != of && found.insert(*child) {
                    waiting.push(*child);
                }
            }
        }
        found.retain(|pid| self.living.contains(pid));
        found.into_iter().collect()
    }
}

/// Every process that descends from this one now.
///
/// The kernel's own lists of children are looked at where it keeps them, which costs by what is found; else all processes.
pub(in crate::process) fn descendants(of: u32) -> Vec<u32> {
    let mut found = HashSet::new();
    let mut waiting = vec![of];
    while let Some(parent) = waiting.pop() {
        let Ok(tasks) = fs::read_dir(format!("/proc/{parent}/task")) else { continue };
        for task in tasks.flatten() {
            match fs::read_to_string(task.path().join("children")) {
                Ok(text) => {
                    let children = text.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok());
                    waiting.extend(children.filter(|child| *child != of && found.insert(*child)));
                }
                // A task that has just ended has none; a kernel without such lists has none for us either.
                Err(error)
                    if parent == of
                        && error.kind() == std::io::ErrorKind::NotFound
                        && task.path().exists() =>
                {
                    return Table::read().below(of);
                }
                Err(_) => {}
            }
        }
    }
    found.into_iter().filter(|pid| identify(*pid).is_some()).collect()
}

/// Every process whose environment holds one of these variables with a value that `of` knows, by that value.
pub(in crate::process) fn marked(variable: &str, wanted: impl Fn(&str) -> bool) -> Vec<(u32, String)> {
    let prefix = format!("{variable}=");
    let mut found = Vec::new();
    for pid in pids() {
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { continue };
        let values = environment.split(|byte| *byte == 0).filter_map(|v| v.strip_prefix(prefix.as_bytes()));
        if let Some(value) = values.filter_map(|v| std::str::from_utf8(v).ok()).find(|value| wanted(value)) {
            found.push((pid, value.to_owned()));
        }
    }
    found
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// What these processes use now. Time that a process has used which ended unseen is not in it.
pub(in crate::process) fn count(pids: &[u32]) -> Counted {
    let nanos_per_tick = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    let page = rustix::param::page_size() as u64;
    let (mut ticks, mut resident, mut threads, mut read, mut written) = (0, 0, 0, None, None);
    for pid in pids {
        let Some(stat) = stat(*pid) else { continue };
        ticks += stat.ticks;
        resident += stat.resident * page;
        threads += stat.threads;
        if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/io")) {
            let field =
                |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse::<u64>().ok());
            read = field("read_bytes:").map(|n| n + read.unwrap_or(0)).or(read);
            written = field("write_bytes:").map(|n| n + written.unwrap_or(0)).or(written);
        }
    }
    let some = threads > 0;
    Counted {
        cpu_nanos: some.then_some(ticks * nanos_per_tick),
        memory: some.then_some(resident),
        memory_limit: None,
        pids: some.then_some(threads),
        io_read: read,
        io_written: written,
    }
}

/// The machine's memory, in bytes.
pub(in crate::process) fn memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
    });
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_parentheses_and_spaces_is_no_trap() {
        let line = "42 (a) S 1 (x)) S 7 42 42 0 -1 4194304 5 6 7 8 10 20 1 2 20 0 3 0 987654 1000 250 18446744073709551615";
        let stat = parse(line).unwrap();
        assert_eq!((stat.state, stat.parent, stat.ticks, stat.threads), (b'S', 7, 33, 3));
        assert_eq!((stat.start, stat.resident), (987_654, 250));
        for text in ["", "1 (a", "1 (a) S", "1 (a) S x y z"] {
            assert_eq!(parse(text), None);
        }
    }

    #[test]
    fn this_process_is_itself_and_no_other() {
        let own = identify(std::process::id()).unwrap();
        assert!(is_alive(own));
        assert!(!is_alive(ProcessId { start: own.start + 1, ..own }), "the same number, another start");
        assert!(!boot_id().is_empty());
        assert!(memory() > 0);
        assert!(count(&[own.pid]).memory.unwrap() > 0);
    }

    /// A name is what its program's file is called, and that is bytes.
    #[test]
    fn a_name_that_is_no_text_hides_no_process() {
        use std::os::unix::ffi::OsStrExt as _;
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join(std::ffi::OsStr::from_bytes(b"sleep-\xff) x"));
        std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
        let mut child = std::process::Command::new(&program).arg("60").spawn().unwrap();
        let found = identify(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.is_some_and(|found| found.pid > 0 && found.start > 0));
    }

    #[test]
    fn a_child_descends_and_its_mark_is_found() {
        let mark = format!("descends-{}", std::process::id());
        let mut child =
            std::process::Command::new("sleep").arg("60").env("EWS_T_MARK", &mark).spawn().unwrap();
        assert!(descendants(std::process::id()).contains(&child.id()));
        let found = marked("EWS_T_MARK", |value| value == mark);
        // Before it has become the other program it is a copy of this one.
        assert!(found.is_empty() || found == [(child.id(), mark)]);
        child.kill().unwrap();
        // It has ended, and nobody has taken its remains away.
        let pid = rustix::process::Pid::from_child(&child);
        let ended = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), ended).unwrap();
        assert!(!descendants(std::process::id()).contains(&child.id()), "remains do not count");
        child.wait().unwrap();
    }
}
