//! How much one upload may be, packed and unpacked.

use serde::{Deserialize, Serialize};

/// The most that one upload may be. What passes a limit is refused with `OutOfResources` or `Invalid`, naming the limit.
///
/// ```
/// use ews_deploy::source::UploadLimits;
///
/// let limits = UploadLimits::default().with_packed(64 << 20).with_entries(10_000);
/// assert_eq!(limits.packed, 64 << 20);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct UploadLimits {
    /// Bytes as they arrive. Default 2 GiB.
    pub packed: u64,
    /// Bytes of all files together once unpacked. Default 8 GiB. Scratch space is needed for up to `packed` + 2 × `unpacked`.
    pub unpacked: u64,
    /// Files, directories and links, directories that no entry names included. Default 200,000: a large `node_modules` has some 100,000.
    pub entries: u64,
    /// How many times larger than packed the unpacked bytes may be, once they are more than 16 MiB. Default 200: text packs to a tenth or
    /// twentieth, and deflate can't do better than 1,032, which only a bomb reaches.
    pub ratio: u64,
    /// Directories of one name. Default 64.
    pub depth: usize,
    /// Bytes of one name or link target. Default 1,024. All names together may have 64 MiB, since they are held in memory.
    pub name: usize,
}

impl Default for UploadLimits {
    fn default() -> Self {
        Self { packed: 2 << 30, unpacked: 8 << 30, entries: 200_000, ratio: 200, depth: 64, name: 1024 }
    }
}

impl UploadLimits {
    /// What may always be unpacked, whatever the ratio: small archives of much the same are common.
    const FREE: u64 = 16 << 20;

    /// Sets the most bytes as they arrive.
    #[must_use]
    pub fn with_packed(mut self, bytes: u64) -> Self {
        self.packed = bytes;
        self
    }

    /// Sets the most bytes once unpacked.
    #[must_use]
    pub fn with_unpacked(mut self, bytes: u64) -> Self {
        self.unpacked = bytes;
        self
    }

    /// Sets the most files, directories and links.
    #[must_use]
    pub fn with_entries(mut self, entries: u64) -> Self {
        self.entries = entries;
        self
    }

    /// Sets how many times larger the unpacked bytes may be.
    #[must_use]
    pub fn with_ratio(mut self, ratio: u64) -> Self {
        self.ratio = ratio;
        self
    }

    /// Sets the most directories of one name.
    #[must_use]
    pub fn with_depth(mut self, depth: usize) -> Self {
        self.depth = depth;
        self
    }

    /// Sets the longest name, in bytes.
    #[must_use]
    pub fn with_name(mut self, bytes: usize) -> Self {
        self.name = bytes;
        self
    }

    /// What an upload of this size may unpack to, and which limit that is.
    pub(in crate::source) fn unpacked_from(&self, packed: u64) -> (u64, &'static str) {
        let by_ratio = packed.saturating_mul(self.ratio).max(Self::FREE);
        if by_ratio < self.unpacked { (by_ratio, "ratio") } else { (self.unpacked, "unpacked") }
    }

    /// As the reader of the tar format wants them.
    pub(in crate::source) fn of_tar(&self) -> ews_core::archive::Limits {
        ews_core::archive::Limits::default()
            .with_bytes(self.unpacked)
            .with_entries(self.entries)
            .with_path(self.name)
            .with_depth(self.depth)
    }
}
