//! What the fuzz targets reach that nobody else shall.

pub use crate::gateway::fuzzing::{answers, heads, proxy};
