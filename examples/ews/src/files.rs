//! Files that a person names: read within a bound, refused in words that name the file and what is accepted.

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use ews_core::http::Tokens;
use ews_core::{Error, ErrorKind, Result, SecretValue};

/// The largest file that a person writes, in bytes: a configuration, a document.
const MOST: u64 = 1 << 20;

/// Reads a text of at most 1 MiB; `what` says what it is, such as "the configuration".
///
/// # Errors
/// `NotFound`, `Unauthorized` and the like for the file; `Invalid` for one that is too large or no UTF-8.
pub(crate) fn text(path: &Path, what: &str) -> Result<String> {
    let mut text = Vec::new();
    let file = File::open(path).map_err(|error| failed(path, what, &error))?;
    // A pipe and a device say no length, so that what is read is counted.
    file.take(MOST + 1).read_to_end(&mut text).map_err(|error| failed(path, what, &error))?;
    if text.len() as u64 > MOST {
        let message = format!("{what} {} is too large; accepted: at most {MOST} bytes", path.display());
        return Err(Error::invalid(message));
    }
    String::from_utf8(text).map_err(|_| Error::invalid(format!("{what} {} is no UTF-8 text", path.display())))
}

/// Reads a secret: a regular file that not everybody may read or change.
///
/// # Errors
/// `NotFound` and the like for the file; `Unauthorized` where everybody may read it or write to it; `Invalid` for what is no regular
/// file; `OutOfResources` for one that is too large. None repeats what is in it.
pub(crate) fn secret(path: &Path, what: &str) -> Result<SecretValue> {
    let mode = regular(path, what)?.mode() & 0o7777;
    if mode & 0o007 != 0 {
        let shown = path.display();
        return Err(Error::new(
            ErrorKind::Unauthorized,
            format!(
                "everybody may use {what} {shown} (mode {mode:04o}); accepted: at most 0640, so `chmod 600 {shown}`"
            ),
        ));
    }
    bytes(path, what)
}

/// Reads a regular file that is no secret, such as a chain of certificates, within the same bound.
///
/// # Errors
/// Those of [`secret`], but for its mode.
pub(crate) fn public(path: &Path, what: &str) -> Result<SecretValue> {
    regular(path, what)?;
    bytes(path, what)
}

/// Looked at before it is opened: opening a pipe would wait for its writer.
fn regular(path: &Path, what: &str) -> Result<Metadata> {
    let metadata = std::fs::metadata(path).map_err(|error| failed(path, what, &error))?;
    if !metadata.is_file() {
        return Err(Error::invalid(format!("{what} {} is no regular file", path.display())));
    }
    Ok(metadata)
}

fn bytes(path: &Path, what: &str) -> Result<SecretValue> {
    let mut value = Vec::new();
    let file = File::open(path).map_err(|error| failed(path, what, &error))?;
    file.take(SecretValue::MAX_LEN as u64 + 1)
        .read_to_end(&mut value)
        .map_err(|error| failed(path, what, &error))?;
    SecretValue::new(value)
}

/// Reads the tokens of an endpoint, one a line.
///
/// # Errors
/// Those of [`secret`]; `Invalid` for none, for too many and for one that could be guessed.
pub(crate) fn tokens(path: &Path) -> Result<Tokens> {
    let file = secret(path, "the file of tokens")?;
    let named = |message: &str| Error::invalid(format!("the file of tokens {}: {message}", path.display()));
    let text = file.expose_str().map_err(|_| named("it is no UTF-8 text; accepted: a token on each line"))?;
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        let least = Tokens::MIN_LEN;
        return Err(named(&format!(
            "there is no token in it; accepted: a token on each line, of at least {least} bytes, such as from `openssl rand -hex 32`"
        )));
    }
    Tokens::new(lines.into_iter().map(SecretValue::new).collect::<Result<Vec<_>>>()?)
        .map_err(|error| named(error.message()))
}

fn failed(path: &Path, what: &str, error: &std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::PermissionDenied => ErrorKind::Unauthorized,
        std::io::ErrorKind::IsADirectory => ErrorKind::Invalid,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("{what} {} can't be read: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(folder: &tempfile::TempDir, text: &str, mode: u32) -> std::path::PathBuf {
        let path = folder.path().join(format!("{mode:o}-{}", text.len()));
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn tokens_are_a_secret_and_an_empty_file_opens_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let token = "hunter2hunter2hunter2";
        for (text, mode, kind, says) in [
            (token, 0o644, ErrorKind::Unauthorized, "chmod 600"),
            (token, 0o602, ErrorKind::Unauthorized, "mode 0602"),
            ("", 0o600, ErrorKind::Invalid, "there is no token in it"),
            (" \n\n\t\n", 0o600, ErrorKind::Invalid, "openssl rand"),
            ("hunter2", 0o600, ErrorKind::Invalid, "too short"),
        ] {
            let error = tokens(&file(&folder, text, mode)).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.message().contains(says) && !error.to_string().contains("hunter2"), "{error}");
        }
        tokens(&file(&folder, token, 0o640)).unwrap();
        let missing = tokens(&folder.path().join("none")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert_eq!(tokens(folder.path()).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn what_has_no_end_is_read_no_further_than_the_bound() {
        let error = text(Path::new("/dev/zero"), "the document").unwrap_err();
        assert!(error.message().contains("too large"), "{error}");
        assert_eq!(secret(Path::new("/dev/zero"), "the key").unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(text(Path::new("/"), "the document").unwrap_err().kind(), ErrorKind::Invalid);
    }
}
