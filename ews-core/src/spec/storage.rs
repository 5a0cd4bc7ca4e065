//! Directories, volumes and memory that an instance sees.

use serde::Serialize;

use super::resources::ByteSize;
use crate::id::VolumeName;

/// Something mounted into an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Mount {
    /// Where the program sees it: an absolute path, `D:\…` on Windows, `\\.\pipe\…` for a named pipe.
    pub target: String,
    /// What is mounted.
    #[serde(flatten)]
    pub kind: MountKind,
    /// Whether the program may not write. Default false.
    #[serde(skip_serializing_if = "super::is_default")]
    pub read_only: bool,
}

impl Mount {
    /// Mounts this there, writable.
    pub fn new(target: impl Into<String>, kind: MountKind) -> Self {
        Self { target: target.into(), kind, read_only: false }
    }

    /// The same, which the program may not write.
    #[must_use]
    pub fn with_read_only(mut self) -> Self {
        self.read_only = true;
        self
    }
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MountKind {
    /// A path of the node. It must exist.
    Bind(String),
    /// A volume, created where it is missing; it outlives the instance.
    Volume(VolumeName),
    /// Memory of at most this size, gone with the instance.
    Tmpfs(ByteSize),
    /// A named pipe of the node (`\\.\pipe\…`), Windows only.
    NamedPipe(String),
}
