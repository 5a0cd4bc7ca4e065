//! Archives made by hand, good and bad.

use std::io::Write as _;

use ews_core::Result;
use ews_core::runtime::ByteStream;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use tar::{EntryType, Header};

use super::super::layer::{self, Layer, Placing};
use super::super::{Artifact, Scratch, UploadLimits, receive};

/// Scratch space and limits.
pub(super) struct Yard {
    pub(super) scratch: Scratch,
    pub(super) limits: UploadLimits,
    _directory: tempfile::TempDir,
}

impl Yard {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(directory.path().to_owned(), 1 << 30).unwrap();
        Self { scratch, limits: UploadLimits::default(), _directory: directory }
    }

    pub(super) async fn receive(&self, bytes: Vec<u8>) -> Result<Artifact> {
        receive(stream(bytes), None, &self.limits, &self.scratch).await
    }

    pub(super) fn layer(&self, artifact: &Artifact, windows: bool) -> Result<Layer> {
        let tree = artifact.tree(&self.limits, windows, &self.scratch)?;
        let placing = Placing {
            to: "/app".to_owned(),
            os: if windows { ews_core::Os::Windows } else { ews_core::Os::Linux },
            user: 1000,
            group: 1000,
            modified: layer::TIME,
            compress: false,
        };
        layer::write(&tree, &placing, &self.scratch)
    }

    /// What unpacking says against it.
    pub(super) async fn refusal(&self, bytes: Vec<u8>, windows: bool) -> ews_core::Error {
        match self.receive(bytes).await {
            Ok(received) => received.tree(&self.limits, windows, &self.scratch).unwrap_err(),
            Err(error) => error,
        }
    }
}

pub(in crate::source) fn stream(bytes: Vec<u8>) -> ByteStream {
    let pieces: Vec<_> = bytes.chunks(1000).map(|piece| Ok(bytes::Bytes::copy_from_slice(piece))).collect();
    Box::pin(futures_util::stream::iter(pieces))
}

pub(in crate::source) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

#[derive(Debug, Clone)]
pub(in crate::source) struct Item {
    pub(super) kind: EntryType,
    pub(super) name: Vec<u8>,
    pub(super) target: Vec<u8>,
    pub(super) content: Vec<u8>,
    pub(super) mode: u32,
    pub(super) time: u64,
    pub(super) owner: u64,
}

pub(super) fn item(kind: EntryType, name: &[u8], target: &[u8], content: &[u8]) -> Item {
    let (name, target, content) = (name.to_vec(), target.to_vec(), content.to_vec());
    Item { kind, name, target, content, mode: 0o644, time: 7, owner: 1 }
}

pub(in crate::source) fn file(name: &str, content: &[u8]) -> Item {
    item(EntryType::Regular, name.as_bytes(), b"", content)
}

pub(in crate::source) fn link(name: &str, target: &str) -> Item {
    item(EntryType::Symlink, name.as_bytes(), target.as_bytes(), b"")
}

/// A tar archive of these, names as they are.
pub(in crate::source) fn tar(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        let mut header = Header::new_gnu();
        header.set_entry_type(item.kind);
        header.set_size(item.content.len() as u64);
        header.set_mode(item.mode);
        header.set_mtime(item.time);
        header.set_uid(item.owner);
        header.set_gid(item.owner);
        {
            let fields = header.as_old_mut();
            fields.name[..item.name.len()].copy_from_slice(&item.name);
            fields.linkname[..item.target.len()].copy_from_slice(&item.target);
        }
        header.set_cksum();
        out.extend(header.as_bytes());
        out.extend(&item.content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// One entry of a zip archive; what differs in its own header is said apart.
#[derive(Debug, Clone)]
pub(super) struct Zipped {
    pub(super) name: Vec<u8>,
    pub(super) local_name: Vec<u8>,
    pub(super) packed: Vec<u8>,
    pub(super) size: u32,
    pub(super) local_size: u32,
    pub(super) crc: u32,
    pub(super) method: u16,
    pub(super) flags: u16,
    pub(super) mode: u32,
    pub(super) extra: Vec<u8>,
    /// Shares the bytes of the entry of this number.
    pub(super) shares: Option<usize>,
}

pub(super) fn entry(name: &str, content: &[u8]) -> Zipped {
    raw_entry(name.as_bytes(), content)
}

pub(super) fn raw_entry(name: &[u8], content: &[u8]) -> Zipped {
    let mut packer = DeflateEncoder::new(Vec::new(), Compression::default());
    packer.write_all(content).unwrap();
    let mut crc = flate2::Crc::new();
    crc.update(content);
    let size = u32::try_from(content.len()).unwrap();
    Zipped {
        name: name.to_vec(),
        local_name: name.to_vec(),
        packed: packer.finish().unwrap(),
        size,
        local_size: size,
        crc: crc.sum(),
        method: 8,
        flags: 0,
        mode: 0o100_644,
        extra: Vec::new(),
        shares: None,
    }
}

pub(super) fn zip(entries: &[Zipped]) -> Vec<u8> {
    let (mut out, mut offsets, mut directory) = (Vec::new(), Vec::new(), Vec::new());
    for entry in entries {
        let offset = match entry.shares {
            Some(other) => offsets[other],
            None => {
                let offset = u32::try_from(out.len()).unwrap();
                out.extend(0x0403_4b50_u32.to_le_bytes());
                out.extend([20, 0]);
                out.extend(entry.flags.to_le_bytes());
                out.extend(entry.method.to_le_bytes());
                out.extend([0; 4]);
                out.extend(entry.crc.to_le_bytes());
                out.extend(u32::try_from(entry.packed.len()).unwrap().to_le_bytes());
                out.extend(entry.local_size.to_le_bytes());
                out.extend(u16::try_from(entry.local_name.len()).unwrap().to_le_bytes());
                out.extend([0, 0]);
                out.extend(&entry.local_name);
                out.extend(&entry.packed);
                offset
            }
        };
        offsets.push(offset);
        directory.extend(0x0201_4b50_u32.to_le_bytes());
        directory.extend([20, 3, 20, 0]);
        directory.extend(entry.flags.to_le_bytes());
        directory.extend(entry.method.to_le_bytes());
        directory.extend([0; 4]);
        directory.extend(entry.crc.to_le_bytes());
        directory.extend(u32::try_from(entry.packed.len()).unwrap().to_le_bytes());
        directory.extend(entry.size.to_le_bytes());
        directory.extend(u16::try_from(entry.name.len()).unwrap().to_le_bytes());
        directory.extend(u16::try_from(entry.extra.len()).unwrap().to_le_bytes());
        directory.extend([0; 6]);
        directory.extend((entry.mode << 16).to_le_bytes());
        directory.extend(offset.to_le_bytes());
        directory.extend(&entry.name);
        directory.extend(&entry.extra);
    }
    let start = u32::try_from(out.len()).unwrap();
    out.extend(&directory);
    out.extend(0x0605_4b50_u32.to_le_bytes());
    out.extend([0; 4]);
    let count = u16::try_from(entries.len()).unwrap().to_le_bytes();
    out.extend(count);
    out.extend(count);
    out.extend(u32::try_from(directory.len()).unwrap().to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0, 0]);
    out
}

/// A tar archive of one file.
pub(in crate::source) fn tar_of(name: &str, content: &[u8]) -> Vec<u8> {
    tar(&[file(name, content)])
}

pub(in crate::source) fn jar() -> Vec<u8> {
    zip(&[entry("META-INF/MANIFEST.MF", b"M")])
}
