//! Which hierarchies this machine has, and what may be done below our own place in them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{MAIN, Paths};
use crate::capability::Enforcement;
use crate::id::InstanceId;
use crate::instance::Incarnation;
use crate::process::config::Cgroups;
use crate::spec::resources::Resources;

/// The v1 controllers that hold limits or count. The first that a machine has is joined by every instance, since by it a tree is
/// ended where there is no unified hierarchy.
const CONTROLLERS: [&str; 5] = ["memory", "cpuacct", "blkio", "cpu", "pids"];

/// The groups of one runtime, below which each instance has its own.
#[derive(Debug, Default)]
pub(in crate::process) struct Groups {
    unified: Option<PathBuf>,
    /// The controllers of the unified hierarchy that children have.
    enabled: BTreeSet<String>,
    legacy: Vec<(String, PathBuf)>,
}

impl Groups {
    /// Finds and makes them; `tag` tells this runtime's from another's.
    pub(in crate::process) fn detect(choice: &Cgroups, tag: &str) -> Self {
        if *choice == Cgroups::Off {
            return Self::default();
        }
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self::of(choice, tag, &hierarchies(&own, &mounts))
    }

    fn of(choice: &Cgroups, tag: &str, hierarchies: &[Hierarchy]) -> Self {
        let mut groups = Self::default();
        for hierarchy in hierarchies {
            let parent = match choice {
                Cgroups::Parent(path) => hierarchy.mount.join(path.trim_start_matches('/')),
                _ => hierarchy.mount.join(hierarchy.own.trim_start_matches('/')),
            };
            let base = parent.join(format!("ews-{tag}"));
            match &hierarchy.controllers[..] {
                [] => {
                    // A group that has processes of its own refuses; then what its children have already is all there is.
                    enable(&parent, &["cpu", "memory", "pids", "io"]);
                    if made(&base) && joinable(&base) {
                        enable(&base, &["cpu", "memory", "pids", "io"]);
                        groups.enabled = words(&base.join("cgroup.subtree_control"));
                        groups.unified = Some(base);
                    }
                }
                names => {
                    let wanted = names.iter().filter(|name| CONTROLLERS.contains(&name.as_str()));
                    let wanted: Vec<_> = wanted.collect();
                    if !wanted.is_empty() && made(&base) && joinable(&base) {
                        groups.legacy.extend(wanted.into_iter().map(|name| (name.clone(), base.clone())));
                    }
                }
            }
        }
        let place = |name: &str| CONTROLLERS.iter().position(|known| *known == name);
        groups.legacy.sort_by_key(|(name, _)| place(name));
        groups
    }

    /// Where the group of a start is.
    pub(in crate::process) fn of_start(&self, id: &InstanceId, incarnation: Incarnation) -> Paths {
        let name = format!("{id}.{incarnation}");
        Paths {
            unified: self.unified.as_ref().map(|base| base.join(&name)),
            legacy: self.legacy.iter().map(|(c, base)| (c.clone(), base.join(&name))).collect(),
        }
    }

    /// How limits on CPU, memory and processes are held.
    pub(in crate::process) fn enforcement(&self) -> [Enforcement; 3] {
        ["cpu", "memory", "pids"].map(|controller| {
            let legacy = self.legacy.iter().any(|(name, _)| name == controller);
            if legacy || self.enabled.contains(controller) {
                Enforcement::Hard
            } else {
                Enforcement::BestEffort
            }
        })
    }

    /// Whether memory kills are told apart.
    pub(in crate::process) fn tells_memory_kills(&self) -> bool {
        self.legacy.iter().any(|(name, _)| name == "memory") || self.enabled.contains("memory")
    }

    /// Every start that has a group, by the group's name, for finding what nobody knows of.
    pub(in crate::process) fn starts(&self) -> BTreeSet<String> {
        let bases = self.unified.iter().chain(self.legacy.iter().map(|(_, base)| base));
        let mut names = BTreeSet::new();
        for base in bases {
            let entries = fs::read_dir(base).into_iter().flatten().flatten();
            let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            names.extend(groups.filter_map(|entry| entry.file_name().into_string().ok()));
        }
        names
    }

    /// The group of a name that [`starts`](Self::starts) gave.
    pub(in crate::process) fn named(&self, name: &str) -> Paths {
        Paths {
            unified: self.unified.as_ref().map(|base| base.join(name)),
            legacy: self.legacy.iter().map(|(c, base)| (c.clone(), base.join(name))).collect(),
        }
    }

    /// Removes the runtime's own groups, where nothing is left in them.
    pub(in crate::process) fn remove(&self) {
        for base in self.unified.iter().chain(self.legacy.iter().map(|(_, base)| base)) {
            let _ = fs::remove_dir(base);
        }
    }
}

impl Paths {
    /// Only the hierarchies that an instance of these limits has a use for: joining each takes the kernel a millisecond or more.
    /// What the unified one counts by itself needs no other; a limit needs the one that holds it.
    pub(in crate::process) fn needed(mut self, resources: &Resources) -> Self {
        let unified = self.unified.is_some();
        self.legacy.retain(|(controller, _)| match controller.as_str() {
            "cpuacct" | "blkio" => !unified,
            "cpu" => resources.cpu.is_some(),
            "pids" => resources.pids.is_some(),
            _ => true,
        });
        self
    }

    /// Makes the directories.
    ///
    /// # Errors
    /// The first that could not be made.
    pub(in crate::process) fn make(&self) -> std::io::Result<()> {
        for path in self.unified.iter().chain(self.legacy.iter().map(|(_, path)| path)) {
            fs::create_dir_all(path)?;
        }
        if let Some(unified) = &self.unified {
            let controllers = words(&unified.join("cgroup.controllers"));
            let controllers: Vec<_> = controllers.iter().map(String::as_str).collect();
            enable(unified, &controllers);
            fs::create_dir_all(unified.join(MAIN))?;
        }
        Ok(())
    }

    /// Removes the directories; what has processes stays.
    pub(in crate::process) fn remove(&self) {
        if let Some(unified) = &self.unified {
            let children = fs::read_dir(unified).into_iter().flatten().flatten();
            for child in children.filter(|child| child.file_type().is_ok_and(|kind| kind.is_dir())) {
                let _ = fs::remove_dir(child.path());
            }
            let _ = fs::remove_dir(unified);
        }
        for (_, path) in &self.legacy {
            let _ = fs::remove_dir(path);
        }
    }
}

/// A hierarchy of control groups.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    /// None for the unified one.
    controllers: Vec<String>,
    /// Where it is mounted.
    mount: PathBuf,
    /// Our own group in it, as a path below the mount.
    own: String,
}

/// Matches `/proc/self/cgroup` with `/proc/self/mountinfo`.
fn hierarchies(own: &str, mounts: &str) -> Vec<Hierarchy> {
    let mut found = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(names), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let controllers: Vec<String> =
            names.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect();
        let mount = mounts.lines().filter_map(mount).find(|mount| match controllers.first() {
            None => mount.kind == "cgroup2",
            Some(first) => mount.kind == "cgroup" && mount.options.split(',').any(|option| option == first),
        });
        let Some(mount) = mount else { continue };
        // In a container the mount may begin at our own group.
        let own = path.strip_prefix(mount.root.trim_end_matches('/')).unwrap_or(path);
        found.push(Hierarchy { controllers, mount: mount.point.into(), own: own.to_owned() });
    }
    found
}

struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

fn mount(line: &str) -> Option<Mount<'_>> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, point) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let kind = after.next()?;
    Some(Mount { root, point, kind, options: after.nth(1)? })
}

fn words(file: &Path) -> BTreeSet<String> {
    fs::read_to_string(file).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// Gives a group's children these controllers, each by itself so that one that is missing spoils no other.
fn enable(group: &Path, controllers: &[&str]) {
    for controller in controllers {
        let _ = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

fn made(base: &Path) -> bool {
    fs::create_dir(base).is_ok() || base.is_dir()
}

/// Whether a group below this one can be made and joined: a directory alone may be had where joining is refused.
fn joinable(base: &Path) -> bool {
    let trial = base.join(".trial");
    let made = made(&trial);
    let open = fs::OpenOptions::new().write(true).open(trial.join("cgroup.procs")).is_ok();
    let _ = fs::remove_dir(&trial);
    made && open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_machine_is_read() {
        let own = "6:freezer:/\n4:memory:/box/1\n2:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n";
        let mounts = "\
            30 23 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro\n\
            31 30 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n\
            32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            33 30 0:29 /box /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let found = hierarchies(own, mounts);
        let get = |name: &str| found.iter().find(|h| h.controllers.first().is_none_or(|c| c == name));
        assert_eq!(get("memory").unwrap().own, "/1", "the mount begins at /box");
        assert_eq!(get("cpu").unwrap().mount, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        let unified = found.iter().find(|h| h.controllers.is_empty()).unwrap();
        assert_eq!((unified.mount.to_str(), unified.own.as_str()), (Some("/sys/fs/cgroup/unified"), "/"));
        assert_eq!(found.len(), 3, "what is not mounted does not count: {found:?}");
    }

    #[test]
    fn nonsense_gives_no_hierarchy() {
        for (own, mounts) in [("", ""), ("x", "y - z"), ("0::/", "1 2 3 - cgroup2"), ("::::", " - ")] {
            assert!(hierarchies(own, mounts).is_empty());
        }
    }

    /// A unified machine in a plain directory: what is written where is seen, though no kernel acts on it.
    #[test]
    fn limits_are_hard_only_where_the_controllers_are() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("slice");
        fs::create_dir(&own).unwrap();
        let hierarchy =
            Hierarchy { controllers: Vec::new(), mount: folder.path().to_owned(), own: "/slice".to_owned() };
        // Nothing can be joined in a plain directory.
        let groups = Groups::of(&Cgroups::Auto, "t", &[hierarchy]);
        assert_eq!(groups.enforcement(), [Enforcement::BestEffort; 3]);
        assert!(groups.of_start(&InstanceId::new("a").unwrap(), Incarnation(1)).is_empty());
    }
}
