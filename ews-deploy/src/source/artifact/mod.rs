//! An upload: what a team hands over, received within limits, told by its content, and unpacked into a checked tree.
//!
//! | Module | What it is |
//! |---|---|
//! | [`limits`] | how much one upload may be |
//! | [`detect`] | what it is, by its content |
//! | [`names`] | what a name and a link's target may be: pure |
//! | [`tree`] | what it holds, checked as a whole |
//! | [`tar`], [`zip`], [`directory`] | reading one kind into a tree |
//! | [`layer`] | a tree as a layer's bytes |

mod detect;
mod directory;
pub(super) mod layer;
mod limits;
mod names;
mod tar;
#[cfg(test)]
pub(in crate::source) mod tests;
mod tree;
mod zip;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use ews_core::runtime::ByteStream;
use ews_core::{Digest, Error, Result};
use futures_util::StreamExt as _;

pub use detect::Content;
pub(super) use detect::detect;
pub use limits::UploadLimits;
pub(super) use tree::too_much;
pub(super) use tree::{Node, Tree};

use super::scratch::{Scratch, ScratchFile, blocking, of_disk};
use names::Rules;

/// An upload that was received: its bytes lie in scratch space for as long as a clone of this lives.
#[derive(Debug, Clone)]
pub struct Artifact {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: Arc<ScratchFile>,
    digest: Digest,
    content: Content,
}

impl Artifact {
    /// The digest of its bytes as they came; of a directory, of the archive that was made of it.
    pub fn digest(&self) -> Digest {
        self.inner.digest
    }

    /// What it is.
    pub fn content(&self) -> Content {
        self.inner.content
    }

    /// Its size in bytes, as it came.
    pub fn size(&self) -> u64 {
        self.inner.file.size()
    }

    pub(super) fn made(file: Arc<ScratchFile>, digest: Digest, content: Content) -> Self {
        Self { inner: Arc::new(Inner { file, digest, content }) }
    }

    pub(super) fn file(&self) -> Arc<ScratchFile> {
        self.inner.file.clone()
    }

    /// What it holds, by the rules of the system that it goes onto.
    pub(super) fn tree(&self, limits: &UploadLimits, windows: bool, scratch: &Scratch) -> Result<Tree> {
        let rules = Rules { limits, windows };
        let file = &*self.inner.file;
        match self.inner.content {
            Content::Directory | Content::Tar => tar::read(file, false, rules, scratch),
            Content::TarGz => tar::read(file, true, rules, scratch),
            Content::Zip | Content::Jar | Content::War => zip::read(file, rules, scratch),
            Content::Program { .. } => Err(Error::invalid(
                "the upload is a program, and an archive is wanted; accepted: tar, tar.gz, zip",
            )),
        }
    }
}

/// Receives an upload. Where a digest is expected, another is refused.
pub(super) async fn receive(
    mut bytes: ByteStream,
    expected: Option<Digest>,
    limits: &UploadLimits,
    scratch: &Scratch,
) -> Result<Artifact> {
    let mut file = scratch.file()?;
    let mut hash = hmac_sha256::Hash::new();
    while let Some(piece) = bytes.next().await {
        let piece = piece?;
        if file.size() + piece.len() as u64 > limits.packed {
            return Err(too_much("packed", limits.packed, "bytes"));
        }
        hash.update(&piece);
        file = blocking(move || {
            file.write_all(&piece).map_err(|error| of_disk("the scratch space", error))?;
            Ok(file)
        })
        .await?;
    }
    let digest = Digest::from_sha256(hash.finalize());
    if let Some(expected) = expected.filter(|expected| *expected != digest) {
        return Err(Error::invalid(format!("the upload has the digest {digest}; {expected} was announced")));
    }
    told(file, digest, limits.clone()).await
}

/// Receives a file or a directory of this machine.
pub(super) async fn receive_path(path: &Path, limits: &UploadLimits, scratch: &Scratch) -> Result<Artifact> {
    let (path, limits, scratch) = (path.to_owned(), limits.clone(), scratch.clone());
    let (file, digest, directory) = blocking({
        let limits = limits.clone();
        move || {
            let metadata = std::fs::metadata(&path).map_err(|error| of_disk("the upload", error))?;
            let rules = Rules { limits: &limits, windows: false };
            if metadata.is_dir() {
                let tree = directory::read(&path, rules, &scratch)?;
                let placing = layer::Placing {
                    to: String::new(),
                    os: ews_core::Os::Linux,
                    user: 0,
                    group: 0,
                    modified: layer::TIME,
                    compress: false,
                };
                let packed = layer::write(&tree, &placing, &scratch)?;
                return Ok((packed.file, packed.digest, true));
            }
            if !metadata.is_file() {
                return Err(Error::invalid(
                    "the upload is a device, a pipe or a socket; accepted: a file or a directory",
                ));
            }
            let (file, digest) = directory::copy(&path, &limits, &scratch)?;
            Ok((Arc::new(file), digest, false))
        }
    })
    .await?;
    if directory {
        return Ok(Artifact::made(file, digest, Content::Directory));
    }
    let file = Arc::into_inner(file).ok_or_else(|| Error::internal("a new scratch file has two owners"))?;
    told(file, digest, limits).await
}

async fn told(file: ScratchFile, digest: Digest, limits: UploadLimits) -> Result<Artifact> {
    blocking(move || {
        let content = detect(&file, &limits)?;
        Ok(Artifact::made(Arc::new(file), digest, content))
    })
    .await
}
