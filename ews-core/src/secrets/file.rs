//! Secrets in files of a directory.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::{SecretValue, Secrets};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::content::SecretRef;

/// Secrets in files of a directory.
///
/// `file:db/password` is the file `db/password` in the directory. It is read anew each time, so a rotated file counts at
/// once. One line break at its end is taken off, since editors and `echo` leave one; a secret that ends with a line break is
/// written with two.
///
/// What is refused: a file or a link that leads out of the directory (links within are fine: Kubernetes' mounts are made of
/// them), anything that is no regular file, a file above [`SecretValue::MAX_LEN`] before it is read, and on Unix a file that
/// others may read or anybody else may write, since a secret that everybody on the machine can read is none.
#[derive(Debug, Clone)]
pub struct FileSecrets {
    /// Without links, so that what a path leads to can be compared with it.
    root: PathBuf,
    readable_by_others: bool,
}

impl FileSecrets {
    /// The files of this directory.
    ///
    /// # Errors
    /// `NotFound` where it does not exist; `Invalid` for what is no directory; `Unauthorized` on Unix where others may write to
    /// it: they could put files in place of ours.
    pub fn new(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref();
        let failed = |error: io::Error| {
            from_io(&error, "the directory of secrets").with_context("path", directory.display())
        };
        let root = directory.canonicalize().map_err(failed)?;
        let metadata = root.metadata().map_err(failed)?;
        if !metadata.is_dir() {
            return Err(
                Error::invalid("the directory of secrets is none").with_context("path", directory.display())
            );
        }
        if let Some(mode) = others_may(&metadata, WRITE) {
            return Err(Error::new(
                ErrorKind::Unauthorized,
                format!("the directory of secrets may be written to by others (mode {mode:04o}); accepted: at most 0755"),
            )
            .with_context("path", directory.display()));
        }
        Ok(Self { root, readable_by_others: false })
    }

    /// Takes files that others may read too, for mounts that only this container sees: Docker places secrets with mode 0444,
    /// Kubernetes with 0644.
    #[must_use]
    pub fn with_readable_by_others(mut self) -> Self {
        self.readable_by_others = true;
        self
    }

    fn read(&self, reference: &SecretRef) -> Result<SecretValue> {
        if reference.version().is_some() {
            return Err(Error::invalid("files have no versions; accepted: a reference without one"));
        }
        let missing = |error: io::Error| from_io(&error, "the secret's file");
        // A reference holds no `..`, no `\` and no leading `/`; what is left is links.
        let path = self.root.join(reference.name()).canonicalize().map_err(missing)?;
        if !path.starts_with(&self.root) {
            return Err(Error::new(
                ErrorKind::Unauthorized,
                "the secret's file is a link that leads out of the directory; accepted: files and links within it",
            ));
        }
        // Looked at before it is opened: opening a pipe would wait for its writer.
        self.check(&path.metadata().map_err(missing)?)?;
        let file = File::open(&path).map_err(missing)?;
        // And once more as opened, in case it was replaced in between.
        self.check(&file.metadata().map_err(missing)?)?;
        let bound = SecretValue::MAX_LEN + 2;
        // Allocated once: a buffer that grows leaves copies behind.
        let mut value = Zeroizing::new(Vec::with_capacity(bound + 1));
        file.take(bound as u64 + 1).read_to_end(&mut value).map_err(missing)?;
        if value.last() == Some(&b'\n') {
            value.pop();
            if value.last() == Some(&b'\r') {
                value.pop();
            }
        }
        SecretValue::new(value.to_vec())
    }

    fn check(&self, metadata: &Metadata) -> Result<()> {
        if !metadata.is_file() {
            return Err(Error::invalid("the secret is no regular file"));
        }
        let refused = if self.readable_by_others { WRITE } else { READ | WRITE };
        if let Some(mode) = others_may(metadata, refused) {
            return Err(Error::new(
                ErrorKind::Unauthorized,
                format!(
                    "the secret's file may be read or written by others (mode {mode:04o}); accepted: 0600 or 0400, so \
                     `chmod 600` it"
                ),
            ));
        }
        let bound = SecretValue::MAX_LEN as u64 + 2;
        if metadata.len() > bound {
            return Err(Error::new(
                ErrorKind::OutOfResources,
                format!(
                    "a secret's file of {} bytes; at most {} are accepted",
                    metadata.len(),
                    SecretValue::MAX_LEN
                ),
            ));
        }
        Ok(())
    }
}

const READ: u32 = 0o044;
const WRITE: u32 = 0o022;

/// The permission bits, where the group or others have one of these.
#[cfg(unix)]
fn others_may(metadata: &Metadata, bits: u32) -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    let mode = metadata.mode() & 0o7777;
    (mode & bits != 0).then_some(mode)
}

/// Access lists are not looked at here: the directory's inheritance decides.
#[cfg(not(unix))]
fn others_may(_: &Metadata, _: u32) -> Option<u32> {
    None
}

fn from_io(error: &io::Error, what: &'static str) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::Unauthorized,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("{what} can't be read: {}", error.kind()))
}

#[async_trait]
impl Secrets for FileSecrets {
    /// # Errors
    /// `NotFound` for a file that does not exist; `Unauthorized` for one that may not be read, leads out of the directory or is
    /// open to others; `Invalid` for a version or what is no regular file; `OutOfResources` for a file that is too large.
    async fn resolve(&self, reference: &SecretRef) -> Result<SecretValue> {
        let (this, wanted) = (self.clone(), reference.clone());
        let read = tokio::task::spawn_blocking(move || this.read(&wanted)).await;
        read.unwrap_or_else(|error| Err(Error::internal("reading a secret failed").with_source(error)))
            .map_err(|error| error.with_operation("secrets.resolve").with_context("secret", reference))
    }
}

#[cfg(test)]
mod tests {
    #[cfg(unix)]
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn put(directory: &Path, name: &str, mode: u32, content: &[u8]) {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        #[cfg(unix)]
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        #[cfg(not(unix))]
        let _ = mode;
    }

    async fn resolve(secrets: &FileSecrets, name: &str) -> Result<Vec<u8>> {
        secrets.resolve(&name.parse().unwrap()).await.map(|value| value.expose().to_vec())
    }

    #[tokio::test]
    async fn one_line_break_is_taken_off_and_everything_else_stays() {
        let directory = tempfile::tempdir().unwrap();
        let secrets = FileSecrets::new(directory.path()).unwrap();
        for (content, value) in [
            (&b"hunter2"[..], &b"hunter2"[..]),
            (b"hunter2\n", b"hunter2"),
            (b"hunter2\r\n", b"hunter2"),
            (b"hunter2\n\n", b"hunter2\n"),
            (b" \x00\xff\r", b" \x00\xff\r"),
            (b"", b""),
        ] {
            put(directory.path(), "db/password", 0o600, content);
            assert_eq!(resolve(&secrets, "file:db/password").await.unwrap(), value, "{content:?}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn links_within_are_followed_and_links_out_are_refused() {
        let outside = tempfile::tempdir().unwrap();
        put(outside.path(), "shadow", 0o600, b"hunter2");
        let directory = tempfile::tempdir().unwrap();
        // As Kubernetes lays them out.
        put(directory.path(), "..2026/password", 0o400, b"good");
        symlink("..2026", directory.path().join("..data")).unwrap();
        symlink("..data/password", directory.path().join("password")).unwrap();
        symlink(outside.path().join("shadow"), directory.path().join("file-out")).unwrap();
        symlink(outside.path(), directory.path().join("out")).unwrap();
        symlink("loop", directory.path().join("loop")).unwrap();
        let secrets = FileSecrets::new(directory.path()).unwrap();
        assert_eq!(resolve(&secrets, "password").await.unwrap(), b"good");
        for name in ["file-out", "out/shadow"] {
            let error = resolve(&secrets, name).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
            assert!(error.message().contains("leads out"), "{error}");
        }
        assert!(resolve(&secrets, "loop").await.is_err());
        assert!("file:../shadow".parse::<SecretRef>().is_err());
        // A directory whose name only begins like ours is outside.
        let twin = PathBuf::from(format!("{}-twin", directory.path().display()));
        std::fs::create_dir(&twin).unwrap();
        put(&twin, "password", 0o600, b"hunter2");
        symlink(twin.join("password"), directory.path().join("twin")).unwrap();
        assert_eq!(resolve(&secrets, "twin").await.unwrap_err().kind(), ErrorKind::Unauthorized);
        std::fs::remove_dir_all(twin).unwrap();
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn what_others_may_read_is_no_secret_and_what_they_may_write_never_is() {
        let directory = tempfile::tempdir().unwrap();
        let strict = FileSecrets::new(directory.path()).unwrap();
        let mount = strict.clone().with_readable_by_others();
        for (mode, by_strict, by_mount) in [
            (0o600, true, true),
            (0o400, true, true),
            (0o700, true, true),
            (0o640, false, true),
            (0o604, false, true),
            (0o444, false, true),
            (0o620, false, false),
            (0o602, false, false),
        ] {
            put(directory.path(), &format!("m{mode:o}"), mode, b"x");
            for (secrets, accepted) in [(&strict, by_strict), (&mount, by_mount)] {
                match resolve(secrets, &format!("m{mode:o}")).await {
                    Ok(_) => assert!(accepted, "{mode:o}"),
                    Err(error) => {
                        assert!(!accepted, "{mode:o} {error}");
                        assert_eq!(error.kind(), ErrorKind::Unauthorized);
                        assert!(error.message().contains(&format!("mode 0{mode:o}")), "{error}");
                        assert!(error.message().contains("chmod 600"), "{error}");
                    }
                }
            }
        }
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(FileSecrets::new(directory.path()).unwrap_err().kind(), ErrorKind::Unauthorized);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn what_is_missing_too_large_or_no_file_is_refused_without_reading() {
        let directory = tempfile::tempdir().unwrap();
        let secrets = FileSecrets::new(directory.path()).unwrap();
        put(directory.path(), "just", 0o600, &vec![b'x'; SecretValue::MAX_LEN]);
        put(directory.path(), "line", 0o600, &[&vec![b'x'; SecretValue::MAX_LEN][..], b"\r\n"].concat());
        assert_eq!(resolve(&secrets, "just").await.unwrap().len(), SecretValue::MAX_LEN);
        assert_eq!(resolve(&secrets, "line").await.unwrap().len(), SecretValue::MAX_LEN);
        put(directory.path(), "large", 0o600, &vec![b'x'; SecretValue::MAX_LEN + 1]);
        // A file that claims a terabyte and holds nothing: only a look at the size can refuse it quickly.
        put(directory.path(), "sparse", 0o600, b"");
        File::options().write(true).open(directory.path().join("sparse")).unwrap().set_len(1 << 40).unwrap();
        std::fs::create_dir(directory.path().join("folder")).unwrap();
        symlink("/dev/zero", directory.path().join("zero")).unwrap();
        for (name, kind) in [
            ("none", ErrorKind::NotFound),
            ("just/below", ErrorKind::NotFound),
            ("large", ErrorKind::OutOfResources),
            ("sparse", ErrorKind::OutOfResources),
            ("folder", ErrorKind::Invalid),
            ("zero", ErrorKind::Unauthorized),
            ("just@1", ErrorKind::Invalid),
        ] {
            let error = resolve(&secrets, name).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{name}: {error}");
            assert!(error.to_string().contains(&format!("secret={name}")), "{error}");
        }
        assert_eq!(FileSecrets::new(directory.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(FileSecrets::new(directory.path().join("just")).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
