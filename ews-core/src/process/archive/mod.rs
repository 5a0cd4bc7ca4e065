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
//! | [`unpack`](mod@unpack), [`pack`](mod@pack) | an archive in (its entries are read by [`crate::archive`]), an archive out |
//! | [`stream`] | both, between async streams and blocking threads |
//! | [`file`] | a config file or a secret |
//! | [`artifact`], [`copy`], [`digest`] | a directory, an archive or a program of this machine |
//! | [`fault`] | what an error of the system becomes |

mod artifact;
mod beneath;
mod copy;
mod digest;
mod fault;
mod file;
mod names;
mod pack;
mod place;
mod stream;
#[cfg(test)]
mod tests;
mod unpack;

pub(crate) use crate::archive::Limits;
pub(crate) use artifact::{Placed, place_artifact};
pub(crate) use file::place_file;
pub(crate) use stream::{get, put};
#[cfg(test)]
use {pack::pack, unpack::unpack};

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
