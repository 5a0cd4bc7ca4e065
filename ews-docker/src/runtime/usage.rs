//! What containers use: from the kernel's own files where the engine runs on this machine, else from the engine.
//!
//! An engine takes a second, and a good deal of CPU, for what a few files say at once. Where a container's files are is asked of the kernel
//! (`/proc/<pid>/cgroup`), so that every cgroup driver and version is found. They are kept open as far as this process may open files: opening
//! costs several times what reading does. A file of a start that is over gives an error, and nothing of a later start. What nobody asks for is
//! closed after two minutes, since an open table of interfaces keeps a container's network alive.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ews_core::instance::{Incarnation, InstanceState};
use ews_core::runtime::Usage;
use ews_core::{ErrorKind, InstanceId, Result, Timestamp};
use futures_util::{StreamExt as _, stream};

use super::Inner;
use crate::client::models::StatsAnswer;
use crate::client::{Call, Facts, Subject};
use crate::config::DockerConfig;

const OPERATION: &str = "runtime.usage";
/// How many are asked of the engine at a time.
const AT_ONCE: usize = 16;
/// The most instances whose files are remembered; what is forgotten is found again.
const MAX_KNOWN: usize = 50_000;

/// Finds and reads the kernel's files.
pub(super) struct Meters {
    /// The mount points of the controllers; `None` where usage is asked of the engine.
    mounts: Option<Arc<Mounts>>,
    known: Mutex<Known>,
}

/// The files that were found, and when they were last asked for.
#[derive(Debug)]
struct Known {
    meters: HashMap<InstanceId, (Arc<Meter>, Instant)>,
    swept: Instant,
}

/// What nobody has asked for so long is closed: its container may be gone.
const UNASKED: Duration = Duration::from_secs(120);

/// Where the controllers are mounted.
#[derive(Debug, Default)]
struct Mounts {
    unified: Option<PathBuf>,
    /// By controller, of version 1.
    each: HashMap<String, PathBuf>,
}

/// One instance's files.
#[derive(Debug)]
struct Meter {
    incarnation: Incarnation,
    files: Files,
    net: Source,
    /// Gives its place back when it is dropped.
    _kept: Option<Kept>,
}

#[derive(Debug)]
enum Files {
    Unified { cpu: Source, memory: Source, memory_stat: Source, limit: Source, pids: Source, io: Source },
    Each { cpu: Source, memory: Source, memory_stat: Source, pids: Source, io: Source },
}

/// One file, kept open or opened each time.
#[derive(Debug)]
enum Source {
    Open(std::fs::File),
    Named(PathBuf),
}

/// How many instances' files are kept open.
static KEPT: AtomicUsize = AtomicUsize::new(0);
/// How many files one instance has at most.
const FILES: usize = 7;

/// A place among those whose files are kept open.
#[derive(Debug)]
struct Kept;

impl Kept {
    /// A place, where half of the files that this process may open leave one.
    fn take() -> Option<Self> {
        let taken = KEPT.fetch_add(1, Ordering::Relaxed);
        if taken < most_kept() {
            return Some(Self);
        }
        KEPT.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        KEPT.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(unix)]
fn most_kept() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files).unwrap_or(usize::MAX) / 2 / FILES
}

#[cfg(not(unix))]
fn most_kept() -> usize {
    0
}

impl Source {
    fn new(path: Option<PathBuf>, keep: bool) -> Self {
        let path = path.unwrap_or_default();
        match std::fs::File::open(&path) {
            Ok(file) if keep => Self::Open(file),
            _ => Self::Named(path),
        }
    }

    /// Its text, in this buffer; `None` where it can't be read.
    fn read<'a>(&self, buffer: &'a mut Vec<u8>) -> Option<&'a str> {
        let opened;
        let file = match self {
            Self::Open(file) => file,
            Self::Named(path) if path.as_os_str().is_empty() => return None,
            Self::Named(path) => {
                opened = std::fs::File::open(path).ok()?;
                &opened
            }
        };
        let mut length = 0;
        buffer.resize(buffer.capacity().max(PIECE), 0);
        loop {
            if length == buffer.len() {
                if length >= MAX_TEXT {
                    return None;
                }
                buffer.resize(length * 2, 0);
            }
            match read_at(file, buffer.get_mut(length..)?, length as u64).ok()? {
                0 => break,
                count => length += count,
            }
            // The kernel writes these files in one piece, where the buffer holds it.
            if length < buffer.len() {
                break;
            }
        }
        std::str::from_utf8(buffer.get(..length)?).ok()
    }

    fn number(&self, buffer: &mut Vec<u8>) -> Option<u64> {
        self.read(buffer)?.trim().parse().ok()
    }
}

/// The size of a first read, and the longest text that is read.
const PIECE: usize = 8 * 1024;
const MAX_TEXT: usize = 1024 * 1024;

#[cfg(unix)]
fn read_at(file: &std::fs::File, buffer: &mut [u8], at: u64) -> std::io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, at)
}

#[cfg(not(unix))]
fn read_at(_: &std::fs::File, _: &mut [u8], _: u64) -> std::io::Result<usize> {
    Err(std::io::ErrorKind::Unsupported.into())
}

impl Meters {
    pub(super) fn of(config: &DockerConfig, facts: &Facts) -> Self {
        let here = config.read_cgroups
            && config.address.is_local()
            && !facts.is_windows()
            && cfg!(target_os = "linux");
        let mounts = here
            .then(|| std::fs::read_to_string("/proc/self/mountinfo").ok().map(|text| Mounts::read(&text)));
        let mounts = mounts
            .flatten()
            .filter(|mounts| mounts.unified.is_some() || !mounts.each.is_empty())
            .map(Arc::new);
        Self { mounts, known: Mutex::new(Known { meters: HashMap::new(), swept: Instant::now() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of these instances whose files are known, and the others.
    fn known(&self, ids: &[InstanceId]) -> (Vec<(InstanceId, Arc<Meter>)>, Vec<InstanceId>) {
        let now = Instant::now();
        let mut known = self.lock();
        if now.duration_since(known.swept) > UNASKED {
            known.swept = now;
            known.meters.retain(|_, (_, asked)| now.duration_since(*asked) <= UNASKED);
        }
        let (mut meters, mut rest) = (Vec::with_capacity(ids.len()), Vec::new());
        for id in ids {
            match known.meters.get_mut(id) {
                Some((meter, asked)) => {
                    *asked = now;
                    meters.push((id.clone(), Arc::clone(meter)));
                }
                None => rest.push(id.clone()),
            }
        }
        (meters, rest)
    }

    fn remember(&self, id: &InstanceId, meter: Meter) {
        let mut known = self.lock();
        if known.meters.len() >= MAX_KNOWN {
            known.meters.clear();
        }
        known.meters.insert(id.clone(), (Arc::new(meter), Instant::now()));
    }

    /// Closes an instance's files.
    pub(super) fn forget(&self, id: &InstanceId) {
        self.lock().meters.remove(id);
    }
}

impl Mounts {
    fn read(mountinfo: &str) -> Self {
        let mut mounts = Self::default();
        for line in mountinfo.lines() {
            let Some((front, back)) = line.split_once(" - ") else { continue };
            let (Some(point), mut back) = (front.split(' ').nth(4), back.split(' ')) else { continue };
            let (kind, options) = (back.next().unwrap_or_default(), back.nth(1).unwrap_or_default());
            match kind {
                "cgroup2" if mounts.unified.is_none() => mounts.unified = Some(point.into()),
                "cgroup" => {
                    for option in options
                        .split(',')
                        .filter(|option| matches!(*option, "cpuacct" | "memory" | "pids" | "blkio"))
                    {
                        mounts.each.entry(option.to_owned()).or_insert_with(|| point.into());
                    }
                }
                _ => {}
            }
        }
        mounts
    }

    /// The directories of the container that this process is in; `None` where the process is in none of that id.
    fn places_of(&self, cgroups: &str, container: &str) -> Option<Places> {
        let inside = |path: &str| path.trim_start_matches('/').to_owned();
        let mut each: HashMap<&str, String> = HashMap::new();
        let mut unified = None;
        for line in cgroups.lines() {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            if !path.contains(container) || path.contains("/..") {
                continue;
            }
            match controllers {
                "" => unified = Some(inside(path)),
                controllers => {
                    each.extend(controllers.split(',').map(|controller| (controller, inside(path))))
                }
            }
        }
        if each.is_empty() {
            return Some(Places::Unified(self.unified.as_ref()?.join(unified?)));
        }
        let of = |controller: &str| Some(self.each.get(controller)?.join(each.get(controller)?));
        Some(Places::Each { cpu: of("cpuacct"), memory: of("memory"), pids: of("pids"), io: of("blkio") })
    }
}

/// Where a container's files are.
#[derive(Debug, PartialEq, Eq)]
enum Places {
    Unified(PathBuf),
    Each { cpu: Option<PathBuf>, memory: Option<PathBuf>, pids: Option<PathBuf>, io: Option<PathBuf> },
}

impl Files {
    fn open(places: Places, keep: bool) -> Self {
        match places {
            Places::Unified(path) => {
                let of = |name: &str| Source::new(Some(path.join(name)), keep);
                Self::Unified {
                    cpu: of("cpu.stat"),
                    memory: of("memory.current"),
                    memory_stat: of("memory.stat"),
                    limit: of("memory.max"),
                    pids: of("pids.current"),
                    io: of("io.stat"),
                }
            }
            Places::Each { cpu, memory, pids, io } => {
                let of = |path: &Option<PathBuf>, name: &str| {
                    Source::new(path.as_ref().map(|path| path.join(name)), keep)
                };
                let recursive =
                    io.as_ref().map(|path| path.join("blkio.throttle.io_service_bytes_recursive"));
                let io = recursive
                    .filter(|path| path.exists())
                    .or(io.map(|path| path.join("blkio.throttle.io_service_bytes")));
                Self::Each {
                    cpu: of(&cpu, "cpuacct.usage"),
                    memory: of(&memory, "memory.usage_in_bytes"),
                    memory_stat: of(&memory, "memory.stat"),
                    pids: of(&pids, "pids.current"),
                    io: Source::new(io, keep),
                }
            }
        }
    }
}

impl Meter {
    fn find(mounts: &Mounts, container: &str, pid: u32, incarnation: Incarnation) -> Option<Self> {
        let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let places = mounts.places_of(&cgroups, container)?;
        let kept = Kept::take();
        let files = Files::open(places, kept.is_some());
        let net = Source::new(Some(format!("/proc/{pid}/net/dev").into()), kept.is_some());
        Some(Self { incarnation, files, net, _kept: kept })
    }

    /// Reads everything; `None` where the start that it was found for is over.
    fn read(&self, id: &InstanceId, at: Timestamp, buffer: &mut Vec<u8>) -> Option<Usage> {
        let mut usage = Usage::new(id.clone(), self.incarnation, at);
        match &self.files {
            Files::Unified { cpu, memory, memory_stat, limit, pids, io } => {
                let micros = field(cpu.read(buffer)?, "usage_usec");
                usage.cpu_nanos = micros.map(|micros| micros.saturating_mul(1000));
                let dropped =
                    memory_stat.read(buffer).and_then(|text| field(text, "inactive_file")).unwrap_or(0);
                usage.memory = memory.number(buffer).map(|used| used.saturating_sub(dropped));
                usage.memory_limit = limit.number(buffer);
                usage.pids = pids.number(buffer);
                let text = io.read(buffer).unwrap_or_default();
                let sum = |word: &str| {
                    text.split_whitespace()
                        .filter_map(|part| part.strip_prefix(word)?.parse::<u64>().ok())
                        .sum()
                };
                (usage.io_read, usage.io_written) = (Some(sum("rbytes=")), Some(sum("wbytes=")));
            }
            Files::Each { cpu, memory, memory_stat, pids, io } => {
                usage.cpu_nanos = cpu.number(buffer);
                if let Some(used) = memory.number(buffer) {
                    let stat = memory_stat.read(buffer).unwrap_or_default();
                    usage.memory = Some(used.saturating_sub(field(stat, "total_inactive_file").unwrap_or(0)));
                    usage.memory_limit =
                        field(stat, "hierarchical_memory_limit").filter(|limit| *limit < 1 << 60);
                }
                if usage.cpu_nanos.is_none() && usage.memory.is_none() {
                    return None;
                }
                usage.pids = pids.number(buffer);
                let text = io.read(buffer).unwrap_or_default();
                let sum = |word: &str| {
                    let of =
                        |line: &str| line.split_once(' ')?.1.strip_prefix(word)?.trim().parse::<u64>().ok();
                    text.lines().filter_map(of).sum()
                };
                (usage.io_read, usage.io_written) = (Some(sum("Read")), Some(sum("Write")));
            }
        }
        let (received, sent) = traffic(self.net.read(buffer)?);
        (usage.net_received, usage.net_sent) = (Some(received), Some(sent));
        Some(usage)
    }
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Bytes received and sent on every interface but loopback, from the kernel's table.
fn traffic(table: &str) -> (u64, u64) {
    let rows = table.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    rows.fold((0, 0), |(received, sent), (_, row)| {
        let number =
            |at: usize| row.split_whitespace().nth(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        (received + number(0), sent + number(8))
    })
}

impl Inner {
    pub(super) async fn usage(self: &Arc<Self>, ids: &[InstanceId]) -> Result<Vec<Usage>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (mut usages, rest) = match &self.meters.mounts {
            Some(_) => self.read_known(ids).await,
            None => (Vec::new(), ids.to_vec()),
        };
        let asked = stream::iter(rest).map(|id| {
            let inner = Arc::clone(self);
            async move { inner.usage_of(&id).await }
        });
        let mut asked: Vec<Result<Option<Usage>>> = asked.buffer_unordered(AT_ONCE).collect().await;
        let failed = asked.iter().filter(|one| one.is_err()).count();
        // One that can't be asked hides no other; only where nobody could be asked it is an error.
        if usages.is_empty() && failed > 0 && failed == asked.len() {
            return asked.pop().unwrap_or(Ok(None)).map(|_| Vec::new());
        }
        usages.extend(asked.into_iter().filter_map(|one| one.ok().flatten()));
        Ok(usages)
    }

    /// What can be read at once, and which can't.
    async fn read_known(self: &Arc<Self>, ids: &[InstanceId]) -> (Vec<Usage>, Vec<InstanceId>) {
        let (meters, mut rest) = self.meters.known(ids);
        if meters.is_empty() {
            return (Vec::new(), rest);
        }
        let at = self.now();
        // The kernel answers from memory; a thread of its own keeps some hundreds of such answers off the tasks.
        let read = tokio::task::spawn_blocking(move || {
            let mut buffer = Vec::new();
            meters.into_iter().map(|(id, meter)| (meter.read(&id, at, &mut buffer), id)).collect::<Vec<_>>()
        });
        let mut usages = Vec::new();
        for (usage, id) in read.await.unwrap_or_default() {
            match usage {
                Some(usage) => usages.push(usage),
                None => {
                    self.meters.forget(&id);
                    rest.push(id);
                }
            }
        }
        (usages, rest)
    }

    /// One instance, with a question to the engine; `None` where it does not run.
    async fn usage_of(self: &Arc<Self>, id: &InstanceId) -> Result<Option<Usage>> {
        let Some((seen, _)) = self.look(id, OPERATION).await? else { return Ok(None) };
        if !matches!(seen.instance.state, InstanceState::Running | InstanceState::Paused) {
            return Ok(None);
        }
        let incarnation = seen.instance.incarnation;
        if let Some(mounts) = &self.meters.mounts {
            let (mounts, container, of, at) =
                (Arc::clone(mounts), seen.container.clone(), id.clone(), self.now());
            let found = tokio::task::spawn_blocking(move || {
                let meter = Meter::find(&mounts, &container, seen.pid, incarnation)?;
                let usage = meter.read(&of, at, &mut Vec::new())?;
                Some((meter, usage))
            });
            if let Some((meter, usage)) = found.await.ok().flatten() {
                self.meters.remember(id, meter);
                return Ok(Some(usage));
            }
        }
        let call = Call::get(OPERATION, Subject::Container, &["containers", &seen.container, "stats"])
            .query("stream", "false")
            .query("one-shot", "true");
        match self.engine.json::<StatsAnswer>(call).await {
            Ok(stats) => {
                Ok(from_stats(id, incarnation, self.now(), &stats, self.engine.facts().is_windows()))
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Busy) => Ok(None),
            Err(error) => Err(error.with_context("instance", id)),
        }
    }
}

/// An engine's own statistics. It answers with zeros for what does not run, which is no measurement.
fn from_stats(
    id: &InstanceId,
    incarnation: Incarnation,
    at: Timestamp,
    stats: &StatsAnswer,
    windows: bool,
) -> Option<Usage> {
    let mut usage = Usage::new(id.clone(), incarnation, at);
    // Windows counts in units of 100 ns.
    let unit = if windows { 100 } else { 1 };
    usage.cpu_nanos = Some(stats.cpu.usage.total.saturating_mul(unit)).filter(|nanos| *nanos > 0);
    let dropped = ["total_inactive_file", "inactive_file"]
        .iter()
        .find_map(|name| stats.memory.stats.get(*name)?.as_u64());
    usage.memory = stats
        .memory
        .usage
        .map(|used| used.saturating_sub(dropped.unwrap_or(0)))
        .or(stats.memory.private_working_set);
    if usage.cpu_nanos.is_none() && usage.memory.is_none() {
        return None;
    }
    usage.memory_limit = stats.memory.limit;
    usage.pids = stats.pids.current;
    let io = |word: &str| {
        let entries = stats.io.bytes.iter().filter(|entry| entry.op.eq_ignore_ascii_case(word));
        entries.map(|entry| entry.value).sum::<u64>()
    };
    usage.io_read = stats.storage.read.or_else(|| (!windows).then(|| io("read")));
    usage.io_written = stats.storage.written.or_else(|| (!windows).then(|| io("write")));
    usage.net_received = Some(stats.networks.values().map(|net| net.received).sum());
    usage.net_sent = Some(stats.networks.values().map(|net| net.sent).sum());
    Some(usage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const MOUNTS: &str = "25 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        26 25 0:23 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
        27 25 0:24 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        28 25 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn files_are_found_under_either_version_and_driver() {
        let mounts = Mounts::read(MOUNTS);
        let one = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n";
        let Some(Places::Each { cpu, memory, pids, .. }) = mounts.places_of(one, "abc") else {
            panic!("version 1")
        };
        assert_eq!(cpu.unwrap(), Path::new("/sys/fs/cgroup/cpu,cpuacct/docker/abc"));
        assert_eq!(memory.unwrap(), Path::new("/sys/fs/cgroup/memory/docker/abc"));
        assert_eq!(pids, None);
        let Some(Places::Unified(path)) = mounts.places_of("0::/system.slice/docker-abc.scope\n", "abc")
        else {
            panic!("version 2")
        };
        assert_eq!(path, Path::new("/sys/fs/cgroup/unified/system.slice/docker-abc.scope"));
        // Another container's process, or a path that a namespace hides.
        assert!(mounts.places_of("0::/docker/other\n", "abc").is_none());
        assert!(mounts.places_of("0::/../docker/abc\n", "abc").is_none());
    }

    #[test]
    fn the_kernels_and_the_engines_words_are_read() {
        assert_eq!(
            traffic("Inter-| x\n face |bytes\n  lo: 5 0 0 0 0 0 0 0 5 0\neth0:  10 1 0 0 0 0 0 0 20 2\n"),
            (10, 20)
        );
        assert_eq!(field("a 1\nusage_usec 7\nusage_usec_x 9\n", "usage_usec"), Some(7));
        let stats: StatsAnswer = serde_json::from_str(
            r#"{"cpu_stats":{"cpu_usage":{"total_usage":7}},"memory_stats":{"privateworkingset":9},"storage_stats":{"read_size_bytes":3},"networks":null}"#,
        )
        .unwrap();
        let id = InstanceId::new("a").unwrap();
        let usage = from_stats(&id, Incarnation(1), Timestamp::EPOCH, &stats, true).unwrap();
        assert_eq!(
            (usage.cpu_nanos, usage.memory, usage.io_read, usage.io_written),
            (Some(700), Some(9), Some(3), None)
        );
        let nothing: StatsAnswer = serde_json::from_str("{}").unwrap();
        assert!(from_stats(&id, Incarnation(1), Timestamp::EPOCH, &nothing, false).is_none());
    }
}
