//! How sources are resolved: [`SourcesConfig`].

use std::path::PathBuf;

use ews_core::{Error, Result};

use super::artifact::UploadLimits;

/// How sources are resolved.
///
/// ```
/// use ews_deploy::source::{SourcesConfig, UploadLimits};
///
/// let config = SourcesConfig::new("/var/lib/shop/scratch")
///     .with_scratch_bytes(10 << 30)
///     .with_limits(UploadLimits::default().with_packed(500 << 20))
///     .with_artifacts("/var/lib/shop/artifacts");
/// config.check()?;
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourcesConfig {
    /// A directory for uploads and layers while they are worked on, on a disk. Nothing in it has a name, and nothing stays.
    pub scratch: PathBuf,
    /// The most bytes in it, of everything at once. Default 32 GiB: one upload at every limit takes 18.
    pub scratch_bytes: u64,
    /// The most that one upload may be.
    pub limits: UploadLimits,
    /// A directory for artifacts of the process runtime, which reads them there under the same path. What is in it stays until
    /// [`forget_artifacts`](super::Sources::forget_artifacts). Default none: then artifacts can't run without an image.
    pub artifacts: Option<PathBuf>,
}

impl SourcesConfig {
    /// With this scratch directory, the rest at its default.
    pub fn new(scratch: impl Into<PathBuf>) -> Self {
        Self {
            scratch: scratch.into(),
            scratch_bytes: 32 << 30,
            limits: UploadLimits::default(),
            artifacts: None,
        }
    }

    /// Sets the most bytes of scratch space.
    #[must_use]
    pub fn with_scratch_bytes(mut self, bytes: u64) -> Self {
        self.scratch_bytes = bytes;
        self
    }

    /// Sets the limits of one upload.
    #[must_use]
    pub fn with_limits(mut self, limits: UploadLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Names the directory for artifacts of the process runtime.
    #[must_use]
    pub fn with_artifacts(mut self, directory: impl Into<PathBuf>) -> Self {
        self.artifacts = Some(directory.into());
        self
    }

    /// Refuses what can't work.
    ///
    /// # Errors
    /// `Invalid`, naming the field.
    pub fn check(&self) -> Result<()> {
        let limits = &self.limits;
        for (name, value) in [
            ("scratch_bytes", self.scratch_bytes),
            ("limits.packed", limits.packed),
            ("limits.unpacked", limits.unpacked),
            ("limits.entries", limits.entries),
            ("limits.ratio", limits.ratio),
            ("limits.depth", limits.depth as u64),
            ("limits.name", limits.name as u64),
        ] {
            if value == 0 {
                return Err(Error::invalid(format!("`{name}` is 0; accepted: at least 1")));
            }
        }
        if self.artifacts.as_ref().is_some_and(|directory| !directory.is_absolute()) {
            return Err(Error::invalid(
                "`artifacts` is relative; accepted: an absolute path, which the runtime reads too",
            ));
        }
        Ok(())
    }
}
