//! Rules of platform, resources, limits, rights, devices and users, and what Windows containers refuse.
//!
//! What Windows refuses is Docker's own list (moby `daemon_windows.go`, `hostconfig_windows.go`): said here, before anything
//! was pulled or started.

use super::{Os, PIDS, Rules, field, paths};
use crate::document::Path;
use crate::spec::InstanceSpec;
use crate::spec::platform::Isolation;
use crate::spec::read::{Quoted, did_you_mean};
use crate::spec::resources::{ByteSize, Cpu, Ulimit};
use crate::spec::security::Security;
use crate::spec::source::Source;
use crate::time::Shown;

/// The least memory that Docker accepts.
const MIN_MEMORY: ByteSize = ByteSize::from_mib(6);
/// The least CPU that Docker accepts.
const MIN_CPU: Cpu = Cpu::from_millis(10);
const MAX_DEVICES: usize = 64;

impl Rules {
    pub(super) fn platform(&mut self, spec: &InstanceSpec) {
        let at = field("platform");
        match spec.platform.isolation {
            Some(Isolation::None) => {
                let message = "found \"none\", which is no way to isolate a container; accepted: \"process\", \"hyperv\"";
                self.find(at.key("isolation"), message);
            }
            Some(_) if !self.windows() => self.only_windows(at.key("isolation"), "isolation can be chosen"),
            _ => {}
        }
        if self.os == Some(Os::Darwin) && matches!(spec.source, Source::Image(_)) {
            let message = "no container runs on macOS itself; accepted: \"linux\" or \"windows\" for an image, \"darwin\" with \
                           `artifact` only";
            self.find_with(at.key("os"), &[field("image")], message);
        }
        self.resources(spec);
        self.ulimits(spec);
    }

    fn resources(&mut self, spec: &InstanceSpec) {
        let resources = &spec.resources;
        let at = field("resources");
        for (name, cpu) in [("cpu", resources.cpu), ("cpu_reserve", resources.cpu_reserve)] {
            if let Some(cpu) = cpu
                && cpu < MIN_CPU
                && !(name == "cpu_reserve" && cpu.millis() == 0)
            {
                let message =
                    format!("found {cpu}; accepted: at least 0.01 CPU, leave the field out for no limit");
                self.find(at.key(name), message);
            }
        }
        if let Some(memory) = resources.memory
            && memory < MIN_MEMORY
        {
            // A small whole number was most likely meant in MiB.
            let hint = match memory.bytes() {
                bytes @ 6..=1_048_576 => format!("; for {bytes} mebibytes write \"{bytes}MiB\""),
                _ => String::new(),
            };
            let message = format!(
                "found {} bytes; accepted: at least 6MiB, which is Docker's least{hint}",
                memory.bytes()
            );
            self.find(at.key("memory"), message);
        }
        if let (Some(reserve), Some(limit)) = (resources.memory_reserve, resources.memory)
            && reserve > limit
        {
            let message = format!("found {reserve}, more than `memory`; accepted: at most {limit}");
            self.find_with(at.key("memory_reserve"), &[at.key("memory")], message);
        }
        if let (Some(reserve), Some(limit)) = (resources.cpu_reserve, resources.cpu)
            && reserve > limit
        {
            let message = format!("found {reserve}, more than `cpu`; accepted: at most {limit}");
            self.find_with(at.key("cpu_reserve"), &[at.key("cpu")], message);
        }
        if let Some(pids) = resources.pids {
            self.whole(at.key("pids"), pids.into(), PIDS);
            if self.windows() {
                self.not_on_windows(at.key("pids"), "limit of processes");
            }
        }
    }

    fn ulimits(&mut self, spec: &InstanceSpec) {
        let at = field("ulimits");
        if self.windows() && !spec.ulimits.is_empty() {
            self.not_on_windows(at, "limits of this kind");
            return;
        }
        if !self.at_most(at.clone(), spec.ulimits.len(), Ulimit::NAMES.len() * 2) {
            return;
        }
        for (index, ulimit) in spec.ulimits.iter().enumerate() {
            let at = at.index(index);
            if !Ulimit::NAMES.contains(&ulimit.name.as_str()) {
                let near = did_you_mean(&ulimit.name, Ulimit::NAMES);
                let message = format!(
                    "\"{}\" is no limit that Linux has{near}; accepted: {}",
                    Shown(&ulimit.name),
                    Quoted(Ulimit::NAMES.to_vec())
                );
                self.find(at.key("name"), message);
            }
            for (name, limit) in [("soft", ulimit.soft), ("hard", ulimit.hard)] {
                if limit != Ulimit::UNLIMITED && i64::try_from(limit).is_err() {
                    let message = format!(
                        "found the number {limit}; accepted: a whole number from 0 to 9223372036854775807, or \"unlimited\""
                    );
                    self.find(at.key(name), message);
                }
            }
            if ulimit.soft > ulimit.hard {
                let (soft, hard) = (shown_limit(ulimit.soft), shown_limit(ulimit.hard));
                let message = format!(
                    "the soft limit {soft} is above the hard one; accepted: at most {hard}; perhaps the two are interchanged"
                );
                self.find_with(at.key("soft"), &[at.key("hard")], message);
            }
        }
        let names = spec.ulimits.iter().enumerate();
        let items =
            names.map(|(n, u)| (at.index(n).key("name"), u.name.clone(), format!("\"{}\"", Shown(&u.name))));
        self.distinct("limit", items);
    }

    pub(super) fn rights(&mut self, spec: &InstanceSpec) {
        self.security(&spec.security);
        self.devices(spec);
        if let Some(user) = &spec.user {
            self.user(user);
        }
        if let Some(workdir) = &spec.workdir {
            self.path(field("workdir"), workdir);
        }
        if spec.init && self.windows() {
            self.not_on_windows(field("init"), "init");
        }
    }

    fn security(&mut self, security: &Security) {
        let at = field("security");
        if self.windows() {
            let flags = [
                ("privileged", security.privileged, "privileged mode"),
                ("read_only_root", security.read_only_root, "read-only root"),
                ("no_new_privileges", security.no_new_privileges, "`no_new_privileges`"),
                ("add_capabilities", !security.add_capabilities.is_empty(), "Linux capabilities"),
                ("drop_capabilities", !security.drop_capabilities.is_empty(), "Linux capabilities"),
            ];
            for (name, _, what) in flags.into_iter().filter(|(_, given, _)| *given) {
                self.not_on_windows(at.key(name), what);
            }
        }
        let lists = [
            ("add_capabilities", &security.add_capabilities),
            ("drop_capabilities", &security.drop_capabilities),
        ];
        for (name, capabilities) in lists {
            let at = at.key(name);
            if !self.at_most(at.clone(), capabilities.len(), Security::CAPABILITIES.len() + 1) {
                continue;
            }
            for (index, capability) in capabilities.iter().enumerate() {
                let known = capability == "ALL" || Security::CAPABILITIES.contains(&capability.as_str());
                if !known {
                    let bare = capability.strip_prefix("CAP_").unwrap_or(capability);
                    let near = did_you_mean(bare, Security::CAPABILITIES);
                    let message = format!(
                        "\"{}\" is no capability that Linux has{near}; accepted: \"ALL\", or one of Linux's names, such as \"NET_ADMIN\"",
                        Shown(capability)
                    );
                    self.find(at.index(index), message);
                }
            }
            let items = capabilities.iter().enumerate();
            self.distinct(
                "capability",
                items.map(|(n, c)| (at.index(n), c.clone(), format!("\"{}\"", Shown(c)))),
            );
        }
        for (index, capability) in security.drop_capabilities.iter().enumerate() {
            if security.add_capabilities.contains(capability) {
                let message =
                    format!("\"{}\" is added and dropped; accepted: one of the two", Shown(capability));
                let needs = [at.key("add_capabilities")];
                self.find_with(at.key("drop_capabilities").index(index), &needs, message);
            }
        }
        if security.privileged && !security.add_capabilities.is_empty() {
            let message = "a privileged instance has every capability already; accepted: either `privileged` or \
                           `add_capabilities`";
            self.find_with(at.key("add_capabilities"), &[at.key("privileged")], message);
        }
        if let Some(credential) = &security.credential_spec {
            let at = at.key("credential_spec");
            if !self.windows() {
                self.only_windows(at, "credential specs are");
            } else {
                let good = ["file://", "registry://", "config://"].iter().any(|scheme| {
                    credential.strip_prefix(scheme).is_some_and(|rest| {
                        let safe = rest.split(['/', '\\']).all(|part| !part.is_empty() && part != "..");
                        safe && rest.len() <= 256 && !rest.chars().any(char::is_control)
                    })
                });
                if !good {
                    // What stands there may be the content of a credential spec: it is not repeated.
                    let message = "this is not the name of a credential spec; accepted: file://, registry:// or config:// and a \
                                   relative name without `..`, such as \"file://web.json\"";
                    self.find(at, message);
                }
            }
        }
    }

    fn devices(&mut self, spec: &InstanceSpec) {
        if !self.at_most(field("devices"), spec.devices.len(), MAX_DEVICES) {
            return;
        }
        for (index, device) in spec.devices.iter().enumerate() {
            let at = field("devices").index(index);
            if self.windows() {
                if !device.path.starts_with("class/") || device.path.chars().any(char::is_control) {
                    let message = format!(
                        "\"{}\" is no device class of Windows; accepted: class/ and the class's GUID",
                        Shown(&device.path)
                    );
                    self.find_with(at.key("path"), &[field("platform")], message);
                }
                if spec.platform.isolation == Some(Isolation::Hyperv) {
                    let message = "devices are given to process-isolated Windows containers only; accepted: isolation = \"process\"";
                    self.find_with(at.key("path"), &[field("platform")], message);
                }
            } else {
                for (name, path) in [("path", Some(&device.path)), ("target", device.target.as_ref())] {
                    let Some(path) = path else { continue };
                    if self.path(at.key(name), path) && !paths::canonical(path).starts_with("/dev/") {
                        let message = format!(
                            "\"{}\" is no device; accepted: a path under /dev; files and directories of the node are `mounts` \
                                 with `bind`",
                            Shown(path)
                        );
                        self.find(at.key(name), message);
                    }
                }
            }
            let letters = device.access.as_str();
            let repeated =
                letters.char_indices().any(|(at, c)| letters.get(..at).is_some_and(|b| b.contains(c)));
            if letters.is_empty() || repeated || letters.chars().any(|c| !matches!(c, 'r' | 'w' | 'm')) {
                let message = format!(
                    "\"{}\" is no access to a device; accepted: one or more of the letters r (read), w (write), m (make), each \
                     once",
                    Shown(letters)
                );
                self.find(at.key("access"), message);
            }
        }
        let targets = spec.devices.iter().enumerate().map(|(index, device)| {
            let path = device.target.as_ref().unwrap_or(&device.path);
            let at =
                field("devices").index(index).key(if device.target.is_some() { "target" } else { "path" });
            (at, paths::canonical(path), format!("\"{}\"", Shown(path)))
        });
        self.distinct("device", targets);
    }

    fn user(&mut self, user: &str) {
        let word = |text: &str| {
            (1..=64).contains(&text.len())
                && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '$'))
        };
        let id = |text: &str| !text.bytes().all(|b| b.is_ascii_digit()) || text.parse::<u32>().is_ok();
        let (name, group) = match user.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (user, None),
        };
        let posix = word(name) && id(name) && group.is_none_or(|group| word(group) && id(group));
        let account = user.rsplit('\\').next().unwrap_or_default();
        let domain = user.rsplit_once('\\').is_none_or(|(domain, _)| word(domain));
        let windows = !user.contains(':')
            && domain
            && (1..=104).contains(&account.len())
            && account.chars().all(|c| !c.is_control() && !"\"/[]:;|=,+*?<>@".contains(c));
        let (good, accepted) = match self.os {
            Some(Os::Windows) => (windows, "an account such as \"ContainerUser\" or \"DOMAIN\\name\""),
            Some(_) => (posix, "a name or number, or both user and group as \"app:app\" or \"1000:1000\""),
            None => (
                posix || (windows && user.contains('\\')),
                "a name or number, or both user and group as \"app:app\" or \"1000:1000\"",
            ),
        };
        if !good {
            let colon = user.replacen(' ', ":", 1);
            let meant = match (self.os, colon.split_once(':')) {
                (None | Some(Os::Linux), Some((name, group)))
                    if colon != user && word(name) && id(name) && word(group) && id(group) =>
                {
                    format!(", did you mean \"{colon}\"?")
                }
                _ => String::new(),
            };
            let message = format!("\"{}\" is not a user{meant}; accepted: {accepted}", Shown(user));
            self.find_with(field("user"), &[field("platform")], message);
        }
    }

    fn not_on_windows(&mut self, at: Path, what: &str) {
        let message =
            format!("Windows containers have no {what}; accepted: leave it out, or another platform");
        self.find_with(at, &[field("platform")], message);
    }
}

fn shown_limit(limit: u64) -> String {
    if limit == Ulimit::UNLIMITED { "unlimited".to_owned() } else { limit.to_string() }
}
