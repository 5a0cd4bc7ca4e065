//! Files of an instance, read and written through archives.

use std::io::Read as _;

use bytes::{Bytes, BytesMut};
use ews_core::{Digest, Error, ErrorKind, InstanceId, Result, Runtime};
use futures_util::StreamExt as _;

use super::{FileFact, Hotfix};

/// What an archive of one file takes beyond its content.
const OVERHEAD: usize = 64 << 10;

/// A file as it is in an instance.
pub(crate) struct Found {
    pub(crate) fact: FileFact,
    pub(crate) content: Bytes,
}

/// Reads a file; `None` where there is none.
///
/// # Errors
/// `Invalid` for what is no file, `OutOfResources` for one that is too large; those of the runtime.
pub(crate) async fn read(runtime: &dyn Runtime, id: &InstanceId, path: &str) -> Result<Option<Found>> {
    let mut archive = match runtime.get_archive(id, path).await {
        Ok(archive) => archive,
        // The instance itself may be what is not there; whoever writes to it finds that.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.with_context("path", path)),
    };
    let mut bytes = BytesMut::new();
    while let Some(piece) = archive.next().await {
        let piece = match piece {
            Ok(piece) => piece,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.with_context("path", path)),
        };
        if bytes.len() + piece.len() > Hotfix::FILE + OVERHEAD {
            return Err(Error::new(
                ErrorKind::OutOfResources,
                format!("`{path}` is larger than {} bytes", Hotfix::FILE),
            ));
        }
        bytes.extend_from_slice(&piece);
    }
    unpack(&bytes, path).map(Some)
}

fn unpack(archive: &[u8], path: &str) -> Result<Found> {
    let broken = |error: std::io::Error| {
        Error::new(ErrorKind::Decode, format!("the archive of `{path}` can't be read")).with_source(error)
    };
    let mut archive = tar::Archive::new(archive);
    let mut entries = archive.entries().map_err(broken)?;
    let Some(entry) = entries.next() else {
        return Err(Error::new(ErrorKind::Decode, format!("the archive of `{path}` is empty")));
    };
    let mut entry = entry.map_err(broken)?;
    let kind = entry.header().entry_type();
    if !kind.is_file() {
        let what = match entry.link_name().ok().flatten() {
            Some(target) if kind.is_symlink() => {
                format!("a link to `{}`: name that file itself", target.display().to_string().escape_debug())
            }
            _ if kind.is_dir() => "a directory".to_owned(),
            _ => "no ordinary file".to_owned(),
        };
        return Err(Error::invalid(format!("`{path}` is {what}; accepted: a file, or nothing yet"))
            .with_context("field", "files"));
    }
    let header = entry.header();
    let mode = header.mode().map_err(broken)? & 0o777;
    let owner = (header.uid().map_err(broken)?, header.gid().map_err(broken)?);
    let mut content = Vec::new();
    entry.read_to_end(&mut content).map_err(broken)?;
    let fact = FileFact { digest: Digest::of(&content), size: content.len() as u64, mode, owner };
    Ok(Found { fact, content: content.into() })
}

/// Writes a file, in place of what is there.
///
/// # Errors
/// Those of the runtime.
pub(crate) async fn write(
    runtime: &dyn Runtime,
    id: &InstanceId,
    path: &str,
    fact: &FileFact,
    content: &Bytes,
    mtime: u64,
) -> Result<()> {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    let directory = if directory.is_empty() { "/" } else { directory };
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(fact.mode);
    header.set_uid(fact.owner.0);
    header.set_gid(fact.owner.1);
    header.set_mtime(mtime);
    let broken =
        |error: std::io::Error| Error::internal(format!("`{path}` can't be packed")).with_source(error);
    let mut archive = tar::Builder::new(Vec::with_capacity(content.len() + 4096));
    archive.append_data(&mut header, name, &content[..]).map_err(broken)?;
    let archive = Bytes::from(archive.into_inner().map_err(broken)?);
    let pieces = futures_util::stream::once(async move { Ok(archive) }).boxed();
    runtime.put_archive(id, directory, pieces).await.map_err(|error| error.with_context("path", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(kind: tar::EntryType, link: Option<&str>) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o4755);
        header.set_uid(7);
        header.set_gid(8);
        if let Some(link) = link {
            header.set_link_name(link).unwrap();
        }
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_data(&mut header, "a", &[][..]).unwrap();
        archive.into_inner().unwrap()
    }

    #[test]
    fn only_files_are_files() {
        let found = unpack(&archive(tar::EntryType::Regular, None), "/a").unwrap();
        assert_eq!((found.fact.mode, found.fact.owner, found.fact.size), (0o755, (7, 8), 0));
        let refused = |kind, link| unpack(&archive(kind, link), "/a").err().unwrap().to_string();
        assert!(refused(tar::EntryType::Symlink, Some("/b")).contains("a link to `/b`"));
        assert!(refused(tar::EntryType::Directory, None).contains("a directory"));
        assert!(refused(tar::EntryType::Fifo, None).contains("no ordinary file"));
        assert!(unpack(b"nonsense", "/a").is_err());
        assert!(unpack(&[0; 1024], "/a").is_err());
    }
}
