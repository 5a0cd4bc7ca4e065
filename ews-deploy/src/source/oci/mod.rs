//! Images made by manifest alone, through the `Registry` contract and without an engine.
//!
//! | Module | What it is |
//! |---|---|
//! | [`image`] | reading and writing the documents |
//! | [`append`] | a layer on a base: pure |
//! | [`rebase`](mod@rebase) | another base under the layers: pure |
//! | [`push`] | bringing it to its repository |

pub(super) mod append;
pub(super) mod image;
pub(super) mod push;
pub(super) mod rebase;

pub use push::Moved;
