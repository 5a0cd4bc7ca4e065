//! Takes a tree apart and notes every problem on the way.
//!
//! A reader of a document asks an [`At`] (a value and its path) for what it wants. What is not there is noted, and the
//! reader goes on with a stand-in, so that one pass finds everything. A [`Fields`] remembers which fields it was asked for:
//! what remains at its end is unknown, and the accepted list in the message can't go out of date.

mod at;
mod fields;
mod sink;
mod words;

pub(crate) use at::At;
pub(crate) use fields::Fields;
pub(crate) use sink::{Finding, Sink};
pub use words::nearest;
pub(crate) use words::{Quoted, Whole};
