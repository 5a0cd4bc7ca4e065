//! What puts files into an instance's work directory and takes them out: archives, artifacts, config files and secrets.
//!
//! The instance's program runs meanwhile. It may belong to another user than ours, own the work directory, and swap a
//! directory for a symbolic link between any two of our calls. So nothing here names a file by a path that the kernel
//! resolves on its own: each access goes from an open directory ([`cap_std::fs::Dir`]) to one name in it, and a link is not
//! followed ([`beneath`]). Only the path that a caller of [`put`] or [`get`] names may lead over links, and `cap-std` sees to
//! it that they stay within the work directory.
//!
//! | Module | What it is |
//! |---|---|
//! | [`names`] | what a name and a link's target may be: pure |
//! | [`beneath`] | one step from an open directory to a name in it |
//! | [`place`] | making files, directories and links within the limits |
//! | [`entries`] | reading the tar format with bounded memory |
//! | [`unpack`](mod@unpack), [`pack`](mod@pack) | an archive in, an archive out |
//! | [`stream`] | both, between async streams and blocking threads |
//! | [`file`] | a config file or a secret |
//! | [`artifact`], [`copy`], [`digest`] | a directory, an archive or a program of this machine |
//! | [`fault`] | what an error of the system becomes |

mod artifact;
mod beneath;
mod copy;
mod digest;
mod entries;
mod fault;
mod file;
mod names;
mod pack;
mod place;
mod stream;
#[cfg(test)]
mod tests;
mod unpack;

pub(crate) use artifact::{Placed, place_artifact};
pub(crate) use file::place_file;
pub(crate) use stream::{get, put};
#[cfg(test)]
use {pack::pack, unpack::unpack};

/// The most that one archive or artifact may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of all files together. Default 16 GiB.
    pub(crate) bytes: u64,
    /// Entries, and directories that are made because an entry lies in them. Default 1,000,000.
    pub(crate) entries: u64,
    /// Bytes of one name or link target. Default 4096, Linux's `PATH_MAX`.
    pub(crate) path: usize,
    /// Components of one name. Default 128.
    pub(crate) depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 16 << 30, entries: 1_000_000, path: 4096, depth: 128 }
    }
}

/// Who is to own what is made here; by default whoever made it. Links keep their maker: their owner decides nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Owner {
    #[cfg(unix)]
    ids: Option<(u32, u32)>,
}

impl Owner {
    /// This user and group. Only root may give files away.
    #[cfg(unix)]
    pub(crate) const fn of(user: u32, group: u32) -> Self {
        Self { ids: Some((user, group)) }
    }
}
