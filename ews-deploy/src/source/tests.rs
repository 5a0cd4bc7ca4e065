//! Sources on the fake registry: images made by manifest, rebase, what is refused, and what stays behind.

mod builds;
mod hotfixes;
mod images;
mod on_process;
mod preflights;
mod rebases;
mod stage;
