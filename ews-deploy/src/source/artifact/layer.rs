//! One deterministic layer: a tree written in one order with one owner, one time and two modes.
//!
//! What packed the upload leaves traces in it (order, times, owners, umask) that mean nothing to the program and would make every build
//! another image. Here the same content gives the same bytes, so the same digest: a registry that has it is sent nothing, and a revision
//! that changes nothing is seen to. The packed digest depends on the compressor too, and may change with a version of `flate2`; the
//! unpacked one (the diff id) does not.
//!
//! A layer for Windows has its files below `Files/` beside an empty `Hives/`, and each names its owner in a pax record.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use ews_core::{Digest, Error, Os, Result};
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

use super::tree::{Node, Tree};
use crate::hotfix::OverlaidFile;
use crate::source::scratch::{Scratch, ScratchFile, of_disk};

/// What a file's time is where nobody says one: 1980-01-01. Earlier than that the zip format, and so Java's and Python's tools, can't say.
pub(in crate::source) const TIME: u64 = 315_532_800;

/// A self-relative Windows security descriptor with owner and group `BUILTIN\Users` (S-1-5-32-545) and nothing else, in base 64. Without
/// an owner Windows lets nobody run the file.
const USERS: &str = "AQAAgBQAAAAkAAAAAAAAAAAAAAABAgAAAAAABSAAAAAhAgAAAQIAAAAAAAUgAAAAIQIAAA==";

/// Where a tree goes, and as whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::source) struct Placing {
    /// The directory, absolute, `/` between its parts on Windows too and without a drive.
    pub(in crate::source) to: String,
    pub(in crate::source) os: Os,
    pub(in crate::source) user: u32,
    pub(in crate::source) group: u32,
    /// Seconds since 1970.
    pub(in crate::source) modified: u64,
    pub(in crate::source) compress: bool,
}

/// A layer in scratch space.
#[derive(Debug, Clone)]
pub(in crate::source) struct Layer {
    pub(in crate::source) file: Arc<ScratchFile>,
    /// Of its bytes.
    pub(in crate::source) digest: Digest,
    /// Of its bytes without compression.
    pub(in crate::source) diff_id: Digest,
    pub(in crate::source) compressed: bool,
}

/// Writes a layer.
///
/// # Errors
/// `OutOfResources` for the scratch space.
pub(in crate::source) fn write(tree: &Tree, placing: &Placing, scratch: &Scratch) -> Result<Layer> {
    packed(&What::Tree(tree), placing, scratch)
}

/// Writes a layer of files at absolute paths, each with a mode and an owner of its own. The directories are those of the image.
///
/// # Errors
/// `OutOfResources` for the scratch space.
pub(in crate::source) fn write_files(
    files: &BTreeMap<String, OverlaidFile>,
    placing: &Placing,
    scratch: &Scratch,
) -> Result<Layer> {
    packed(&What::Files(files), placing, scratch)
}

/// What a layer holds.
enum What<'a> {
    Tree(&'a Tree),
    Files(&'a BTreeMap<String, OverlaidFile>),
}

fn packed(what: &What<'_>, placing: &Placing, scratch: &Scratch) -> Result<Layer> {
    let failed = |error: io::Error| of_disk("the scratch space", error);
    let out = Hashed::new(BufWriter::with_capacity(256 * 1024, scratch.file()?));
    let (out, diff_id) = if placing.compress {
        let packer = GzBuilder::new().mtime(0).operating_system(255).write(out, Compression::new(6));
        let inner = archive(what, placing, Hashed::new(packer)).map_err(failed)?;
        let (packer, diff_id) = inner.finish();
        (packer.finish().map_err(failed)?, Some(diff_id))
    } else {
        (archive(what, placing, out).map_err(failed)?, None)
    };
    let (out, digest) = out.finish();
    let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
    Ok(Layer {
        file: Arc::new(file),
        digest,
        diff_id: diff_id.unwrap_or(digest),
        compressed: placing.compress,
    })
}

/// Writes a tar archive.
fn archive<W: Write>(what: &What<'_>, placing: &Placing, out: W) -> io::Result<W> {
    let mut archive = Archive { out: Builder::new(out), placing };
    let windows = placing.os == Os::Windows;
    let to = placing.to.trim_matches('/');
    let mut root = String::new();
    if windows {
        archive.directory("Files")?;
        archive.directory("Hives")?;
        root.push_str("Files/");
    }
    let tree = match what {
        What::Tree(tree) => tree,
        What::Files(files) => {
            archive.files(files, &root)?;
            return archive.out.into_inner();
        }
    };
    // The directories above are the base's, with owners of their own. On Windows the layer must name them.
    let mut above = root.clone();
    for part in to.split('/').filter(|part| !part.is_empty()) {
        above.push_str(part);
        if windows || above == format!("{root}{to}") {
            archive.directory(&above)?;
        }
        above.push('/');
    }
    for (name, node) in tree.nodes() {
        let place = format!("{above}{name}");
        match node {
            Node::Directory => archive.directory(&place)?,
            Node::File { offset, size, executable } => {
                let mode = if *executable { 0o755 } else { 0o644 };
                archive.entry(EntryType::Regular, &place, *size, mode, tree.data(*offset, *size))?;
            }
            Node::Link(target) => archive.link(&place, target)?,
        }
    }
    archive.out.into_inner()
}

struct Archive<'a, W: Write> {
    out: Builder<W>,
    placing: &'a Placing,
}

impl<W: Write> Archive<'_, W> {
    fn header(&self, kind: EntryType, size: u64, mode: u32) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(mode);
        header.set_mtime(self.placing.modified);
        header.set_uid(self.placing.user.into());
        header.set_gid(self.placing.group.into());
        header
    }

    fn files(&mut self, files: &BTreeMap<String, OverlaidFile>, root: &str) -> io::Result<()> {
        let mut named = BTreeSet::new();
        for (path, file) in files {
            let place = format!("{root}{}", path.trim_start_matches('/'));
            if self.placing.os == Os::Windows {
                let ends = place.match_indices('/').map(|(end, _)| end).filter(|end| *end >= root.len());
                for above in ends.filter_map(|end| place.get(..end)) {
                    if named.insert(above.to_owned()) {
                        self.directory(above)?;
                    }
                }
                self.out.append_pax_extensions([("MSWINDOWS.rawsd", USERS.as_bytes())])?;
            }
            let mut header = self.header(EntryType::Regular, file.content.len() as u64, file.mode);
            header.set_uid(file.owner.0);
            header.set_gid(file.owner.1);
            self.out.append_data(&mut header, place, &file.content[..])?;
        }
        Ok(())
    }

    fn directory(&mut self, place: &str) -> io::Result<()> {
        self.entry(EntryType::Directory, &format!("{place}/"), 0, 0o755, io::empty())
    }

    fn entry(
        &mut self,
        kind: EntryType,
        place: &str,
        size: u64,
        mode: u32,
        content: impl io::Read,
    ) -> io::Result<()> {
        if self.placing.os == Os::Windows && (place.starts_with("Files/") && place != "Files/") {
            self.out.append_pax_extensions([("MSWINDOWS.rawsd", USERS.as_bytes())])?;
        }
        let mut header = self.header(kind, size, mode);
        self.out.append_data(&mut header, place, content)
    }

    fn link(&mut self, place: &str, target: &str) -> io::Result<()> {
        let mut header = self.header(EntryType::Symlink, 0, 0o777);
        self.out.append_link(&mut header, place, target)
    }
}

/// Hashes what is written through it.
struct Hashed<W> {
    out: W,
    hash: hmac_sha256::Hash,
}

impl<W> Hashed<W> {
    fn new(out: W) -> Self {
        Self { out, hash: hmac_sha256::Hash::new() }
    }

    fn finish(self) -> (W, Digest) {
        (self.out, Digest::from_sha256(self.hash.finalize()))
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let count = self.out.write(from)?;
        self.hash.update(from.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A user and a group by their numbers, as a layer has them: `1000`, or `1000:1000`.
pub(in crate::source) fn owner(text: &str) -> Result<(u32, u32)> {
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    match (user.parse(), group.parse()) {
        (Ok(user), Ok(group)) => Ok((user, group)),
        _ => Err(Error::invalid(format!(
            "`{}` is no owner of a layer's files; accepted: numbers, as `1000` or `1000:1000`, since names are the base's",
            ews_core::archive::ShownBytes(text.as_bytes())
        ))),
    }
}
