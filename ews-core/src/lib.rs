//! x
pub mod document;
pub mod error;
pub mod id;
pub mod label;
pub mod overlay;
pub mod selector;
pub mod spec;
pub mod store;
pub mod time;
pub use error::*;
pub use label::*;
pub use selector::*;
pub use time::Timestamp;
