//! The environment of a program: what the spec says, what the runtime adds, and of the controller's own only what is allowed.

use std::collections::BTreeMap;

use crate::id::PortName;
use crate::instance::InstanceKey;

/// What a program needs of the machine's environment; nothing in it is the controller's own business.
pub(super) const INHERITED: &[&str] = if cfg!(windows) {
    &[
        "PATH",
        "PATHEXT",
        "SystemRoot",
        "SystemDrive",
        "windir",
        "COMSPEC",
        "ProgramData",
        "ProgramFiles",
        "NUMBER_OF_PROCESSORS",
        "PROCESSOR_ARCHITECTURE",
        "OS",
        "TZ",
    ]
} else {
    &["PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ"]
};

/// Where programs are looked for where the controller has no `PATH` itself: Debian's default for root.
#[cfg(unix)]
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variable by which processes of an instance are found again where nothing else leads to them.
pub(super) const MARK: &str = "EWS_INSTANCE_MARK";

/// The variables that the runtime sets, under those of the spec.
pub(super) fn base(
    inherited: impl IntoIterator<Item = (String, String)>,
    key: &InstanceKey,
    work: &str,
    ports: &[(PortName, u16)],
) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> = inherited.into_iter().collect();
    #[cfg(unix)]
    {
        env.entry("PATH".to_owned()).or_insert_with(|| PATH.to_owned());
        env.insert("HOME".to_owned(), work.to_owned());
        env.insert("TMPDIR".to_owned(), format!("{work}/tmp"));
    }
    #[cfg(windows)]
    for name in ["TEMP", "TMP"] {
        env.insert(name.to_owned(), format!("{work}\\tmp"));
    }
    #[cfg(windows)]
    env.insert("USERPROFILE".to_owned(), work.to_owned());
    for (name, value) in [
        ("EWS_SERVICE", key.service.to_string()),
        ("EWS_REVISION", key.revision.to_string()),
        ("EWS_SLOT", key.slot.to_string()),
        ("EWS_WORKDIR", work.to_owned()),
    ] {
        env.insert(name.to_owned(), value);
    }
    if let Some((_, first)) = ports.first() {
        env.insert("PORT".to_owned(), first.to_string());
    }
    for (name, number) in ports {
        env.insert(port_variable(name), number.to_string());
    }
    env
}

/// The variable that holds a port: `PORT_` and its name in capitals, `-` and `.` as `_`.
pub(super) fn port_variable(name: &PortName) -> String {
    let upper = name.as_str().to_ascii_uppercase();
    format!("PORT_{}", upper.replace(|c: char| !c.is_ascii_alphanumeric(), "_"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{OwnerId, RevisionId, ServiceName};

    #[test]
    fn ports_are_handed_over_by_name_and_the_first_by_none() {
        let key = InstanceKey {
            owner: OwnerId::new("o").unwrap(),
            service: ServiceName::new("web").unwrap(),
            revision: RevisionId::new("r7").unwrap(),
            slot: 3,
            generation: 0,
        };
        let port = |name: &str, number| (PortName::new(name).unwrap(), number);
        let ports = [port("http", 20_001), port("grpc-admin", 20_002)];
        let env = base([("LANG".to_owned(), "C".to_owned())], &key, "/srv/w", &ports);
        let get = |name: &str| env.get(name).map(String::as_str);
        assert_eq!(get("PORT"), Some("20001"));
        assert_eq!(get("PORT_HTTP"), Some("20001"));
        assert_eq!(get("PORT_GRPC_ADMIN"), Some("20002"));
        assert_eq!(get("EWS_SERVICE"), Some("web"));
        assert_eq!(get("EWS_SLOT"), Some("3"));
        assert_eq!(get("LANG"), Some("C"));
        assert_eq!(get("CARGO_MANIFEST_DIR"), None);
    }
}
