//! Platform, resources, limits of the operating system, rights and devices.

use super::network::texts;
use super::{content, foreign};
use crate::document::walk::{At, nearest};
use crate::document::{Tree, Value};
use crate::spec::platform::{Arch, Isolation, Os, PlatformSpec};
use crate::spec::resources::{Cpu, Resources, Ulimit};
use crate::spec::rules::PIDS;
use crate::spec::security::{Device, Security};

const SYSTEMS: [(&str, Os); 3] = [("linux", Os::Linux), ("windows", Os::Windows), ("darwin", Os::Darwin)];
const ARCHES: [(&str, Arch); 8] = [
    ("amd64", Arch::Amd64),
    ("arm64", Arch::Arm64),
    ("arm", Arch::Arm),
    ("386", Arch::I386),
    ("ppc64le", Arch::Ppc64le),
    ("s390x", Arch::S390x),
    ("riscv64", Arch::Riscv64),
    ("loong64", Arch::Loong64),
];

pub(super) fn platform(at: &At<'_>) -> PlatformSpec {
    let mut platform = PlatformSpec::default();
    if let Some(text) = at.tree.as_text() {
        let (os, arch) = match text.split_once('/') {
            Some((os, arch)) => (os, Some(arch)),
            None => (text, None),
        };
        platform.os = SYSTEMS.iter().find(|(name, _)| *name == os).map(|(_, os)| *os);
        platform.arch = arch.and_then(|arch| ARCHES.iter().find(|(n, _)| *n == arch).map(|(_, a)| *a));
        if platform.os.is_none() || platform.arch.is_some() != arch.is_some() {
            let advice = arch.and_then(foreign::arch).or_else(|| foreign::os(os));
            let advice = advice.map(|advice| format!(": {advice}")).unwrap_or_default();
            let arches = ARCHES.map(|(name, _)| name).join(", ");
            at.fail(format!(
                "found {}{advice}; accepted: an operating system (linux, windows, darwin), or with `/` and an architecture \
                 ({arches}), such as \"linux/amd64\"",
                at.found()
            ));
        }
        return platform;
    }
    let Some(mut fields) =
        at.table("a text such as \"linux/amd64\", or a table with `os`, `arch` and `isolation`")
    else {
        return platform;
    };
    platform.os = fields.take("os").and_then(|at| at.one_of(&SYSTEMS, foreign::os));
    platform.arch = fields.take("arch").and_then(|at| at.one_of(&ARCHES, foreign::arch));
    platform.isolation = fields.take("isolation").and_then(|at| {
        at.one_of(&[("process", Isolation::Process), ("hyperv", Isolation::Hyperv)], foreign::isolation)
    });
    fields.finish(foreign::platform);
    platform
}

pub(super) fn resources(at: &At<'_>) -> Resources {
    let mut resources = Resources::default();
    let accepted = "a table with `cpu`, `memory`, `pids`, `cpu_reserve` and `memory_reserve`";
    let Some(fields) = at.table(accepted) else { return resources };
    let mut fields = fields.also_called(&foreign::RESOURCES);
    resources.cpu = fields.take("cpu").and_then(|at| cpu(&at));
    resources.memory = fields.take("memory").and_then(|at| content::size(&at));
    resources.pids =
        fields.take("pids").and_then(|at| at.integer(PIDS.0, PIDS.1)).and_then(|n| u32::try_from(n).ok());
    resources.cpu_reserve = fields.take("cpu_reserve").and_then(|at| cpu(&at));
    resources.memory_reserve = fields.take("memory_reserve").and_then(|at| content::size(&at));
    fields.finish(foreign::resources);
    resources
}

fn cpu(at: &At<'_>) -> Option<Cpu> {
    let written = at.tree.written.as_deref();
    match at.tree.value {
        Value::Integer(number) if written.is_none() => at.read(&number.to_string()),
        Value::Float(number) => match written {
            Some(written) => at.read(written),
            None => at.read(&number.to_string()),
        },
        Value::Text(ref text) => at.read(text),
        _ => {
            at.expected("CPUs such as 2 or 0.5, or thousandths such as \"500m\"");
            None
        }
    }
}

pub(super) fn ulimits(at: &At<'_>) -> Vec<Ulimit> {
    const ACCEPTED: &str = "a table of names and limits such as { nofile = 65536 }, or a list of tables with `name`, `soft` and \
                            `hard`";
    if at.tree.as_table().is_some() {
        let entries = at.entries(ACCEPTED);
        return entries.into_iter().map(|(name, at)| ulimit(&at, Some(name))).collect();
    }
    at.list(ACCEPTED).iter().map(|at| ulimit(at, None)).collect()
}

fn ulimit(at: &At<'_>, name: Option<&str>) -> Ulimit {
    let stand_in = || Ulimit::new(name.unwrap_or_default(), 0, 0);
    if name.is_some() && !matches!(at.tree.value, Value::Table(_)) {
        return match limit(at) {
            Some(limit) => Ulimit::new(name.unwrap_or_default(), limit, limit),
            None => stand_in(),
        };
    }
    let Some(mut fields) = at.table("a number, \"unlimited\", or a table with `soft` and `hard`") else {
        return stand_in();
    };
    let name = match name {
        Some(name) => Some(name),
        None => fields
            .required("name", "a name such as \"nofile\"")
            .and_then(|at| at.text("a name such as \"nofile\"")),
    };
    let soft = fields.required("soft", LIMIT).and_then(|at| limit(&at));
    let hard = fields.required("hard", LIMIT).and_then(|at| limit(&at));
    fields.finish(|_| None);
    Ulimit::new(name.unwrap_or_default(), soft.unwrap_or_default(), hard.unwrap_or_default())
}

const LIMIT: &str = "a whole number from 0 to 9223372036854775807, or \"unlimited\"";

fn limit(at: &At<'_>) -> Option<u64> {
    match &at.tree.value {
        Value::Text(text) if text == "unlimited" => return Some(Ulimit::UNLIMITED),
        Value::Integer(-1) => {
            at.fail(format!("found -1, which other tools read as no limit; accepted: {LIMIT}"))
        }
        Value::Integer(number) => match u64::try_from(*number).ok().filter(|n| i64::try_from(*n).is_ok()) {
            Some(number) => return Some(number),
            None => at.expected(LIMIT),
        },
        _ => at.expected(LIMIT),
    }
    None
}

pub(super) fn security(at: &At<'_>) -> Security {
    let mut security = Security::default();
    let accepted = "a table with `read_only_root`, `no_new_privileges`, `add_capabilities`, `drop_capabilities`, `privileged` \
                    and `credential_spec`";
    let Some(fields) = at.table(accepted) else { return security };
    let mut fields = fields.also_called(&foreign::SECURITY);
    let flag = |at: Option<At<'_>>| at.and_then(|at| at.boolean()).unwrap_or_default();
    security.read_only_root = flag(fields.take("read_only_root"));
    security.no_new_privileges = flag(fields.take("no_new_privileges"));
    let capabilities = |at: Option<At<'_>>| at.map(|at| capabilities(&at)).unwrap_or_default();
    security.add_capabilities = capabilities(fields.take("add_capabilities"));
    security.drop_capabilities = capabilities(fields.take("drop_capabilities"));
    security.privileged = flag(fields.take("privileged"));
    security.credential_spec =
        fields.take("credential_spec").and_then(|at| at.text("a credential spec").map(str::to_owned));
    fields.finish(foreign::security);
    security
}

/// `CAP_NET_ADMIN` and `net_admin` are the same capability as `NET_ADMIN`; one spelling is kept.
fn capabilities(at: &At<'_>) -> Vec<String> {
    texts(at, "a list of Linux capabilities")
        .into_iter()
        .map(|name| {
            let upper = name.to_ascii_uppercase();
            upper.strip_prefix("CAP_").map_or(upper.clone(), str::to_owned)
        })
        .collect()
}

pub(super) fn devices(at: &At<'_>) -> Vec<Device> {
    let items =
        at.list("a list of paths such as [\"/dev/fuse\"], or of tables with `path`, `target` and `access`");
    items.iter().map(|at| device(at).unwrap_or_else(|| Device::new(""))).collect()
}

fn device(at: &At<'_>) -> Option<Device> {
    if let Tree { value: Value::Text(path), .. } = at.tree {
        if path.starts_with('/') && path.contains(':') {
            let mut parts = path.split(':').map(crate::time::Shown);
            let (outer, inner) = (parts.next()?, parts.next()?);
            let access = parts.next().map(|a| format!(", access = \"{a}\"")).unwrap_or_default();
            at.fail(format!(
                "found {}; accepted: a path, or a table such as {{ path = \"{outer}\", target = \"{inner}\"{access} }}",
                at.found()
            ));
            return None;
        }
        return Some(Device::new(path));
    }
    let mut fields = at.table("a path, or a table with `path`, `target` and `access`")?;
    let path = fields.required("path", "a path such as \"/dev/fuse\"").and_then(|at| at.text("a path"));
    let mut device = Device::new(path.unwrap_or_default());
    device.target = fields.take("target").and_then(|at| at.text("a path").map(str::to_owned));
    if let Some(access) = fields.take("access").and_then(|at| at.text("letters among \"rwm\"")) {
        access.clone_into(&mut device.access);
    }
    fields.finish(foreign::device);
    Some(device)
}

/// The accepted name nearest to this, as a part of a message.
pub(in crate::spec) fn did_you_mean(found: &str, names: &[&'static str]) -> String {
    nearest(found, names.iter().copied())
        .map(|name| format!(", did you mean \"{name}\"?"))
        .unwrap_or_default()
}
