//! What an instance may do beyond an ordinary process, and less.

use serde::Serialize;

/// Rights of an instance. The default is what an engine gives an ordinary container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Security {
    /// Whether its own file system can't be written. Default false.
    #[serde(skip_serializing_if = "super::is_default")]
    pub read_only_root: bool,
    /// Whether it can't gain rights by set-id programs. Default false.
    #[serde(skip_serializing_if = "super::is_default")]
    pub no_new_privileges: bool,
    /// Linux capabilities that it has on top, such as `NET_BIND_SERVICE`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add_capabilities: Vec<String>,
    /// Linux capabilities that it lacks; `ALL` drops every one that is not added.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drop_capabilities: Vec<String>,
    /// Whether it has every right on the node. Default false.
    #[serde(skip_serializing_if = "super::is_default")]
    pub privileged: bool,
    /// A Windows group-managed service account's credential spec, such as `file://web.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential_spec: Option<String>,
}

impl Security {
    /// The capabilities that Linux has, without their `CAP_`.
    pub const CAPABILITIES: &'static [&'static str] = &[
        "AUDIT_CONTROL",
        "AUDIT_READ",
        "AUDIT_WRITE",
        "BLOCK_SUSPEND",
        "BPF",
        "CHECKPOINT_RESTORE",
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "IPC_LOCK",
        "IPC_OWNER",
        "KILL",
        "LEASE",
        "LINUX_IMMUTABLE",
        "MAC_ADMIN",
        "MAC_OVERRIDE",
        "MKNOD",
        "NET_ADMIN",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_RAW",
        "PERFMON",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_CHROOT",
        "SYS_MODULE",
        "SYS_NICE",
        "SYS_PACCT",
        "SYS_PTRACE",
        "SYS_RAWIO",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "SYSLOG",
        "WAKE_ALARM",
    ];
}

/// A device of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Device {
    /// The node's path, such as `/dev/fuse`.
    pub path: String,
    /// The path that the program sees. Default: the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Which of `r`, `w` and `m` (make) it may do. Default `rwm`.
    pub access: String,
}

impl Device {
    /// This device under the same path, with every access.
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), target: None, access: "rwm".to_owned() }
    }
}
