//! The access log: one line for each request, written when its answer has ended.
//!
//! A line is made only where a log is asked for, from what the request holds anyway: nothing is copied before. Each thread
//! collects lines and hands them over ten times a second, or sooner when there are many, to a thread that writes. That one
//! may be slow or stuck, as disks are: then lines are dropped and counted (`ews.route.access.dropped`), and requests go on.

mod file;
mod line;
mod writer;

use std::io::Write;

use serde::{Deserialize, Serialize};

pub use file::AccessFile;
pub(crate) use line::{End, Entry};
pub(crate) use writer::{Lines, Written, open};

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AccessFormat {
    /// An object of JSON: `time`, `client`, `scheme`, `method`, `host`, `target`, `protocol`, `status`, `bytes`, `duration_ms`,
    /// `pool`, `endpoint`, `request_id`, `trace_id`, `user_agent`, `referer`, `failure`, as far as there is one.
    #[default]
    Json,
    /// The combined log format of Apache and nginx, whose time is in whole seconds of UTC.
    Combined,
}

/// Where lines go, and how they look.
///
/// ```
/// use ews_route::{AccessFormat, AccessLog, Gateway, GatewayConfig};
///
/// # async fn logged() -> ews_core::Result<()> {
/// let log = AccessLog::new(AccessFormat::Json, std::io::stdout());
/// let gateway = Gateway::builder(GatewayConfig::default()).with_access_log(log).start().await?;
/// # drop(gateway);
/// # Ok(())
/// # }
/// ```
pub struct AccessLog {
    pub(crate) format: AccessFormat,
    pub(crate) sink: Box<dyn Write + Send>,
}

impl AccessLog {
    /// Lines of this form to this writer, such as an [`AccessFile`]. It is written to and flushed on a thread of its own.
    pub fn new(format: AccessFormat, sink: impl Write + Send + 'static) -> Self {
        Self { format, sink: Box::new(sink) }
    }
}

impl std::fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessLog").field("format", &self.format).finish_non_exhaustive()
    }
}
