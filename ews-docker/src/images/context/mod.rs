//! A directory as a build context: a tar archive by Docker's own rules.

mod ignore;
mod walk;

use std::path::{Path, PathBuf};

use ews_core::runtime::ByteStream;
use ews_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::pipe;
use ignore::Patterns;

/// The longest ignore file, in bytes.
const MAX_IGNORE: u64 = 1024 * 1024;

/// How much a context may hold. What is excluded does not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ContextLimits {
    /// The most bytes of files. Default 4 GiB: beyond it somebody forgot an ignore file.
    pub bytes: u64,
    /// The most files, directories and links. Default 500,000, some five `node_modules`.
    pub entries: u64,
}

impl Default for ContextLimits {
    fn default() -> Self {
        Self { bytes: 4 * 1024 * 1024 * 1024, entries: 500_000 }
    }
}

impl ContextLimits {
    /// Sets the most bytes of files.
    #[must_use]
    pub fn with_bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }

    /// Sets the most files, directories and links.
    #[must_use]
    pub fn with_entries(mut self, entries: u64) -> Self {
        self.entries = entries;
        self
    }
}

/// A directory as a build context, within the default [`ContextLimits`]. `dockerfile` is its path within the directory.
///
/// What `.dockerignore` (or better `<Dockerfile>.dockerignore`, where there is one) excludes is left out, by Docker's own rules, which
/// are not those of `.gitignore`. The Dockerfile and the ignore file are always sent: a builder needs them, and honours what is said of
/// them itself. Entries come in the order of their names, belong to root, and keep their mode and their time in whole seconds, since
/// `COPY` puts both into the image and programs compare times; so one state of a directory gives one archive, byte by byte.
///
/// Links stay links and nothing is read through one: a file that is another when it is opened than when it was found is an error. Sockets
/// are left out, as Docker does; devices are refused. Hard links become files of their own. Extended attributes are not kept.
///
/// The archive is written while it is read, with bounded memory: pieces of 64 KiB, and the names of the directories on the way down.
///
/// The ignore file is read at once, the rest while the stream is read.
///
/// ```no_run
/// use ews_core::image::{BuildSpec, ImageStore as _, Progress};
/// use ews_docker::{DockerConfig, DockerImages, images};
/// use futures_util::StreamExt as _;
///
/// # async fn build() -> ews_core::Result<()> {
/// let store = DockerImages::connect(DockerConfig::from_env()?).await?;
/// let context = images::context("shop/web".as_ref(), "Dockerfile")?;
/// let mut progress = store.build(&BuildSpec::new("shop/web:1.2".parse()?), context).await?;
/// while let Some(progress) = progress.next().await {
///     match progress? {
///         Progress::Log(line) => println!("{line}"),
///         Progress::Done { image, .. } => println!("built {image:?}"),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `NotFound` where there is no such directory or Dockerfile; `Invalid` for a Dockerfile outside the directory or an ignore file that can't
/// be read, with the line. The stream ends with `OutOfResources` above a limit, `Busy` where a file changed while it was read,
/// `Unauthorized` for what may not be read, `Invalid` for a device.
///
/// # Panics
/// Outside a tokio runtime.
pub fn context(directory: &Path, dockerfile: &str) -> Result<ByteStream> {
    context_within(directory, dockerfile, ContextLimits::default())
}

/// The same, within limits of one's own.
///
/// # Errors
/// Those of [`context`].
///
/// # Panics
/// Outside a tokio runtime.
pub fn context_within(directory: &Path, dockerfile: &str, limits: ContextLimits) -> Result<ByteStream> {
    let named =
        |error: Error| error.with_operation("images.context").with_context("directory", directory.display());
    let plan = plan(directory, dockerfile, limits).map_err(named)?;
    let (writer, stream) = pipe::writer();
    tokio::task::spawn_blocking(move || walk::write(&plan, writer));
    Ok(stream)
}

/// What is to be archived.
struct Plan {
    root: PathBuf,
    patterns: Patterns,
    limits: ContextLimits,
}

fn plan(directory: &Path, dockerfile: &str, limits: ContextLimits) -> Result<Plan> {
    if !directory.is_dir() {
        return Err(Error::new(ErrorKind::NotFound, "there is no such directory"));
    }
    let dockerfile = ignore::clean(&dockerfile.replace('\\', "/"));
    if dockerfile.starts_with('/') || dockerfile.split('/').any(|part| part == "..") || dockerfile == "." {
        return Err(Error::invalid(format!(
            "the Dockerfile `{dockerfile}` is not in the context; accepted: a path within the directory, such as `Dockerfile`"
        )));
    }
    if std::fs::symlink_metadata(directory.join(&dockerfile)).is_err() {
        return Err(Error::new(ErrorKind::NotFound, format!("there is no `{dockerfile}` in the directory")));
    }
    let own = format!("{dockerfile}.dockerignore");
    let mut patterns = match ignore_file(directory, &own)? {
        Some(text) => Patterns::read(&text).map_err(|error| error.with_context("file", &own))?,
        None => {
            let text = ignore_file(directory, ".dockerignore")?.unwrap_or_default();
            Patterns::read(&text).map_err(|error| error.with_context("file", ".dockerignore"))?
        }
    };
    // The builder reads them, and then removes those that are excluded: they go in spite of any pattern.
    patterns.keep(".dockerignore");
    patterns.keep(&dockerfile);
    Ok(Plan { root: directory.to_owned(), patterns, limits })
}

fn ignore_file(directory: &Path, name: &str) -> Result<Option<String>> {
    let path = directory.join(name);
    let about = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => None,
        kind => Some(
            Error::new(
                if kind == std::io::ErrorKind::PermissionDenied {
                    ErrorKind::Unauthorized
                } else {
                    ErrorKind::Invalid
                },
                format!("`{name}` can't be read"),
            )
            .with_source(error),
        ),
    };
    let found = match std::fs::metadata(&path) {
        Ok(found) => found,
        Err(error) => return about(error).map_or(Ok(None), Err),
    };
    if found.len() > MAX_IGNORE {
        return Err(Error::invalid(format!("`{name}` is longer than {MAX_IGNORE} bytes")));
    }
    match std::fs::read(&path) {
        // Bytes that are no text can match no name that is any.
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) => about(error).map_or(Ok(None), Err),
    }
}
