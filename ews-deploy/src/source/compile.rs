//! A source tree: compiled in a builder image, its result taken out and put on the catalogue's base.
//!
//! Two ways were open: one Dockerfile of two stages, whose second is the base, or a build of the result alone that is then treated as any
//! upload. It is the second. So the image is made by the same code as of an artifact: one deterministic layer, the base never downloaded by
//! an engine, an index for every platform, checked against the same limits, and it moves to a patched base without the source. The price
//! is that the result passes through this process once.

use std::io::{BufReader, Read as _, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use ews_core::archive::{Entries, Kind as EntryKind};
use ews_core::image::{BuildSpec, ImageQuery, PruneOptions};
use ews_core::runtime::ByteStream;
use ews_core::{Digest, Error, ErrorKind, ImageRef, ImageStore, Os, Result, Selector, ServiceSpec};
use futures_util::StreamExt as _;

use super::artifact::layer::{self, Placing};
use super::artifact::{Artifact, Content, Node, Tree};
use super::assemble::{Laid, is_windows, split};
use super::build::done;
use super::catalogue::{Builder, CatalogueEntry, Kind};
use super::oci::image::at;
use super::request::CompiledRequest;
use super::resolved::{ProvenanceKind, Resolved};
use super::scratch::{self, Scratch, ScratchFile, blocking, of_disk};
use super::{Sources, UploadLimits};

/// The label by which a result's image is found again and removed.
const LABEL: &str = "ews.build";
/// Where results stand until they were taken out. No registry can have the name (RFC 6761).
const RESULTS: &str = "ews.invalid/build";
/// The longest list of an image archive, in bytes.
const MAX_LIST: u64 = 1 << 20;

impl Sources {
    pub(super) async fn compiled(
        &self,
        request: &CompiledRequest,
        by: &str,
        spec: ServiceSpec,
    ) -> Result<Resolved> {
        let entry = self.catalogue.find(&request.tree.on)?;
        let builder = entry.builder.as_ref().ok_or_else(|| {
            Error::invalid(format!(
                "`{}` has no builder: hand over an artifact instead of a source tree",
                entry.name()
            ))
        })?;
        let (images, _) = self.images()?;
        let plain = |id: &String| {
            !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        };
        if let Some(id) = request.secrets.keys().find(|id| !plain(id)) {
            return Err(Error::invalid(format!(
                "`{id}` is no id of a build secret; accepted: letters, digits, `_`, `-` and `.`"
            )));
        }
        // Pinned, so that what it was compiled in can be told later.
        let image = match builder.image.digest() {
            Some(_) => builder.image.clone(),
            None => at(&builder.image, self.registry()?.resolve(&builder.image).await?.digest)?,
        };
        let context = self
            .context(
                &request.tree.artifact,
                request.tree.root.as_deref(),
                &dockerfile(builder, &image, request),
            )
            .await?;
        let result = self.built(images, context, request).await?;
        let laid = self.result(result, entry).await?;
        let mut resolved = self.assemble(entry, laid, &request.tree, by, spec).await?;
        resolved.provenance.kind = ProvenanceKind::Compiled;
        resolved.provenance.upload = Some(request.tree.artifact.digest());
        resolved.provenance.builder = Some(image);
        Ok(resolved)
    }

    /// The tree below `src/`, beside our Dockerfile.
    async fn context(&self, tree: &Artifact, root: Option<&str>, dockerfile: &str) -> Result<ByteStream> {
        let (tree, limits, scratch) = (tree.clone(), self.limits.clone(), self.scratch.clone());
        let root = root.map(str::to_owned);
        let packed = blocking(move || {
            let tree = tree.tree(&limits, false, &scratch)?;
            let tree = match root {
                Some(root) => tree.below(&root, &limits)?,
                None => tree,
            };
            let placing = Placing {
                to: "/src".to_owned(),
                os: Os::Linux,
                user: 0,
                group: 0,
                modified: layer::TIME,
                compress: false,
            };
            layer::write(&tree, &placing, &scratch)
        })
        .await?;
        // An archive is its entries one after the other, so ours goes in front.
        let mut header = tar::Header::new_gnu();
        header.set_size(dockerfile.len() as u64);
        header.set_mode(0o644);
        header.set_path("Dockerfile").map_err(|error| of_disk("a header", error))?;
        header.set_cksum();
        let mut front = header.as_bytes().to_vec();
        front.extend(dockerfile.as_bytes());
        front.resize(front.len().next_multiple_of(512), 0);
        let front = futures_util::stream::iter([Ok(Bytes::from(front))]);
        Ok(front.chain(scratch::stream(packed.file)).boxed())
    }

    /// Builds, and takes the result's archive out. The engine keeps nothing but its cache.
    async fn built(
        &self,
        images: &dyn ImageStore,
        context: ByteStream,
        request: &CompiledRequest,
    ) -> Result<ScratchFile> {
        let word = Digest::of(
            format!("{} {:?}", request.tree.artifact.digest(), std::time::Instant::now()).as_bytes(),
        )
        .short();
        let mut build = BuildSpec::new(format!("{RESULTS}:{word}").parse()?);
        build.labels.insert(LABEL.to_owned(), word.clone());
        build.secrets.clone_from(&request.secrets);
        let (id, _) = done(images.build(&build, context).await?).await?;
        let taken = async {
            let id = id.ok_or_else(|| Error::internal("the builder does not say what it built"))?;
            self.taken(images.save(&[ImageQuery::Id(id)]).await?).await
        };
        let taken = taken.await;
        let mut prune = PruneOptions::default();
        prune.labels = Some(format!("{LABEL}={word}").parse::<Selector>()?);
        if let Err(error) = images.prune(&prune).await {
            tracing::warn!(%error, word, "the image of a build's result stays on the engine");
        }
        taken
    }

    async fn taken(&self, mut archive: ByteStream) -> Result<ScratchFile> {
        let most = self.limits.unpacked.saturating_add(MAX_LIST);
        let mut file = self.scratch.file()?;
        while let Some(piece) = archive.next().await {
            let piece = piece?;
            if file.size() + piece.len() as u64 > most {
                return Err(super::artifact::too_much(
                    "unpacked",
                    self.limits.unpacked,
                    "bytes as a build's result",
                ));
            }
            file = blocking(move || {
                file.write_all(&piece).map_err(|error| of_disk("the scratch space", error))?;
                Ok(file)
            })
            .await?;
        }
        Ok(file)
    }

    /// What of the result goes where.
    async fn result(&self, archive: ScratchFile, entry: &CatalogueEntry) -> Result<Laid> {
        let takes = entry.takes.iter().find(|takes| takes.kind == Kind::Files).or(entry.takes.first());
        let takes = takes.cloned().ok_or_else(|| Error::internal("an entry that takes nothing"))?;
        let (limits, scratch, windows) = (self.limits.clone(), self.scratch.clone(), is_windows(entry));
        blocking(move || {
            let layer = layer_of(&archive, &scratch)?;
            drop(archive);
            let artifact = Artifact::of(layer, &limits)?;
            let tree = artifact.tree(&limits, windows, &scratch)?.below("out", &limits)?;
            if tree.nodes().all(|(_, node)| *node == Node::Directory) {
                return Err(Error::invalid("the build left no file where its result is looked for"));
            }
            if takes.unpacks() {
                return Ok(Laid { tree, to: takes.to, only: None });
            }
            let (to, name) = split(&takes.to);
            let tree = tree.only_file(name)?;
            let only =
                if takes.kind == Kind::Program { platform_of(&tree, name, &limits, &scratch)? } else { None };
            Ok(Laid { tree, to: to.to_owned(), only })
        })
        .await
    }
}

fn platform_of(
    tree: &Tree,
    name: &str,
    limits: &UploadLimits,
    scratch: &Scratch,
) -> Result<Option<(Os, ews_core::Arch)>> {
    let Some((_, Node::File { offset, size, .. })) = tree.nodes().find(|(found, _)| *found == name) else {
        return Ok(None);
    };
    let mut copy = scratch.file()?;
    std::io::copy(&mut tree.data(*offset, *size), &mut copy)
        .map_err(|error| of_disk("the scratch space", error))?;
    match Artifact::of(copy, limits)?.content() {
        Content::Program { platform } => Ok(platform),
        other => Err(Error::invalid(format!("the build's result is {other}, and a program is wanted"))),
    }
}

/// What is run where. Every word of it was checked when the catalogue was read.
fn dockerfile(builder: &Builder, image: &ImageRef, request: &CompiledRequest) -> String {
    let mounts: String =
        request.secrets.keys().map(|id| format!("--mount=type=secret,id={id},required=true ")).collect();
    let mut lines =
        vec![format!("FROM {image} AS build"), "WORKDIR /src".to_owned(), "COPY src/ /src/".to_owned()];
    lines.extend(builder.run.iter().map(|run| format!("RUN {mounts}{run}")));
    let output = builder.output.trim_end_matches('/');
    let output = match output {
        "" | "." => "/src".to_owned(),
        absolute if absolute.starts_with('/') => absolute.to_owned(),
        relative => format!("/src/{}", relative.trim_start_matches("./")),
    };
    lines.extend(["FROM scratch".to_owned(), format!("COPY --from=build {output}/ /out/"), String::new()]);
    lines.join("\n")
}

/// The only layer of an image archive.
fn layer_of(archive: &ScratchFile, scratch: &Scratch) -> Result<ScratchFile> {
    let limits = ews_core::archive::Limits::default();
    let entries = || Entries::new(BufReader::with_capacity(64 * 1024, archive.whole()), &limits);
    let mut list = None;
    let mut read = entries();
    while let Some(entry) = read.next()? {
        if entry.name == b"manifest.json" && entry.size <= MAX_LIST {
            let mut text = Vec::new();
            read.read_to_end(&mut text).map_err(ews_core::archive::fault)?;
            list = serde_json::from_slice::<serde_json::Value>(&text).ok();
        }
    }
    let wrong =
        |what: &str| Error::new(ErrorKind::Decode, format!("the archive of the build's result {what}"));
    let list = list.ok_or_else(|| wrong("has no list"))?;
    let layers = list.get(0).and_then(|image| image.get("Layers")).and_then(serde_json::Value::as_array);
    let Some([only]) = layers.map(Vec::as_slice) else { return Err(wrong("is not of one layer")) };
    let name = only.as_str().ok_or_else(|| wrong("names no layer"))?;
    let mut read = entries();
    while let Some(entry) = read.next()? {
        if entry.name == name.as_bytes() && entry.kind == EntryKind::File {
            let mut layer = scratch.file()?;
            let mut buffer = vec![0; 256 * 1024];
            loop {
                let count = read.read(&mut buffer).map_err(ews_core::archive::fault)?;
                if count == 0 {
                    return Ok(layer);
                }
                let piece = buffer.get(..count).unwrap_or_default();
                layer.write_all(piece).map_err(|error| of_disk("the scratch space", error))?;
            }
        }
    }
    Err(wrong("lacks its layer"))
}

impl Artifact {
    /// What is in scratch space already.
    fn of(file: ScratchFile, limits: &UploadLimits) -> Result<Self> {
        let (mut hash, mut buffer) = (hmac_sha256::Hash::new(), vec![0; 256 * 1024]);
        let mut whole = file.whole();
        loop {
            let count = whole.read(&mut buffer).map_err(|error| of_disk("the scratch space", error))?;
            if count == 0 {
                break;
            }
            hash.update(buffer.get(..count).unwrap_or_default());
        }
        let content = super::artifact::detect(&file, limits)?;
        Ok(Self::made(Arc::new(file), Digest::from_sha256(hash.finalize()), content))
    }
}
