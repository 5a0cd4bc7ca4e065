//! An artifact on an official image: what of it goes where, and the image that comes of it.

use ews_core::spec::source::{ImagePin, ImageSource};
use ews_core::{Error, ErrorKind, ImageRef, Os, Platform, Result, ServiceSpec, Source};

use super::artifact::layer::{self, Layer, Placing};
use super::artifact::{Artifact, Content, Node, Tree};
use super::catalogue::{CatalogueEntry, Takes};
use super::defaults;
use super::oci::append::{CATALOG_ID, CATALOG_LINE, COMPATIBILITY, Settings, append};
use super::oci::image::{Image, read};
use super::oci::push::{Moved, bring_layers, finish, push_layer};
use super::request::ArtifactRequest;
use super::resolved::{BaseUsed, Provenance, ProvenanceKind, Resolved};
use super::scratch::blocking;
use super::{Sources, now};

/// A tree and where it goes.
pub(super) struct Laid {
    pub(super) tree: Tree,
    /// The directory.
    pub(super) to: String,
    /// What a program runs on.
    pub(super) only: Option<(Os, ews_core::Arch)>,
}

impl Sources {
    pub(super) async fn artifact(
        &self,
        request: &ArtifactRequest,
        by: &str,
        spec: ServiceSpec,
    ) -> Result<Resolved> {
        let entry = self.catalogue.find(&request.on)?;
        let takes = taking(entry, &request.artifact)?;
        let laid = self.lay(&request.artifact, takes, request.root.as_deref(), is_windows(entry)).await?;
        let mut resolved = self.assemble(entry, laid, request, by, spec).await?;
        resolved.provenance.upload = Some(request.artifact.digest());
        Ok(resolved)
    }

    /// What of an upload goes where.
    pub(super) async fn lay(
        &self,
        artifact: &Artifact,
        takes: &Takes,
        root: Option<&str>,
        windows: bool,
    ) -> Result<Laid> {
        let only = match artifact.content() {
            Content::Program { platform } => platform,
            _ => None,
        };
        if !takes.unpacks() {
            if let Some(root) = root {
                return Err(Error::invalid(format!(
                    "a directory `{root}` within the upload is named, and {} is taken as one file",
                    artifact.content()
                )));
            }
            let (to, name) = split(&takes.to);
            let program = matches!(artifact.content(), Content::Program { .. });
            let tree = Tree::single(name, program, artifact.file());
            return Ok(Laid { tree, to: to.to_owned(), only });
        }
        let (artifact, limits, scratch) = (artifact.clone(), self.limits.clone(), self.scratch.clone());
        let root = root.map(str::to_owned);
        let tree = blocking(move || {
            let tree = artifact.tree(&limits, windows, &scratch)?;
            let tree = match root {
                Some(root) => tree.below(&root, &limits)?,
                None => tree,
            };
            if tree.nodes().all(|(_, node)| *node == Node::Directory) {
                return Err(Error::invalid(
                    "there is no file in the upload, or in the directory of it that is meant",
                ));
            }
            Ok(tree)
        })
        .await?;
        Ok(Laid { tree, to: takes.to.clone(), only })
    }

    /// Makes the image.
    pub(super) async fn assemble(
        &self,
        entry: &CatalogueEntry,
        laid: Laid,
        request: &ArtifactRequest,
        by: &str,
        mut spec: ServiceSpec,
    ) -> Result<Resolved> {
        let registry = self.registry()?;
        if request.name.digest().is_some() {
            return Err(Error::invalid(format!(
                "the image can't be given the name `{}`: its digest follows from its content; accepted: a name with a tag",
                request.name
            )));
        }
        let command = defaults::command(&entry.command, request.main.as_deref(), entry)?;
        let bases = self.bases(entry, laid.only).await?;
        let layer = self.write(entry, laid, request).await?;

        let settings = Settings {
            user: entry.user.clone(),
            workdir: entry.workdir.clone(),
            command,
            env: entry.env.clone(),
            port: entry.port,
            stop_signal: entry.stop_signal.map(|signal| signal.to_string()),
            labels: [
                (CATALOG_ID, &entry.id),
                (CATALOG_LINE, &entry.line),
                (COMPATIBILITY, &entry.compatibility),
            ]
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .into(),
            made_by: format!("EWS: an artifact on {}", entry.name()),
        };
        let mut moved = Moved::default();
        for (_, base) in &bases {
            bring_layers(registry, base, base.layers(), &request.name, &mut moved).await?;
        }
        push_layer(registry, &layer, &request.name, &mut moved).await?;
        let images = bases
            .iter()
            .map(|(name, base)| append(base, &name.to_string(), &layer, &settings))
            .collect::<Result<Vec<_>>>()?;
        let docker = bases.iter().all(|(_, base)| base.is_docker());
        let digest = finish(registry, &images, docker, &request.name, &mut moved).await?;

        let mut image = ImageSource::new(request.name.clone());
        image.pin = Some(ImagePin::Manifest(digest));
        spec.instance.source = Source::Image(image);
        defaults::fill(&mut spec, entry)?;
        let mut provenance = Provenance::new(ProvenanceKind::Artifact, by, digest);
        provenance.layer = Some(layer.diff_id);
        provenance.entry = Some(entry.name());
        provenance.bases = bases.iter().map(|(name, base)| used(name, base)).collect();
        Ok(Resolved {
            spec,
            provenance,
            warnings: defaults::warnings(entry, request.modified.is_some(), now()),
            moved,
        })
    }

    /// The bases of an entry, one for each platform that is wanted.
    pub(super) async fn bases(
        &self,
        entry: &CatalogueEntry,
        only: Option<(Os, ews_core::Arch)>,
    ) -> Result<Vec<(ImageRef, Image)>> {
        let mut bases = Vec::new();
        for base in &entry.base {
            let wanted = |platform: &Platform| {
                let (os, arch) = (platform.os, platform.arch);
                let listed = base.platforms.iter().any(|listed| (listed.os, listed.arch) == (os, arch));
                listed && only.is_none_or(|only| only == (os, arch))
            };
            if let Some(only) = only
                && !base.platforms.iter().any(|listed| (listed.os, listed.arch) == only)
            {
                continue;
            }
            let found = read(self.registry()?, &base.image, &wanted)
                .await
                .map_err(|error| error.with_context("base", &base.image))?;
            bases.extend(found.images.into_iter().map(|image| (base.image.clone(), image)));
        }
        if let Some((os, arch)) = only.filter(|_| bases.is_empty()) {
            return Err(Error::new(
                ErrorKind::ImageIncompatible,
                format!(
                    "the program is for {}, and `{}` has no base for that",
                    Platform::new(os, arch),
                    entry.name()
                ),
            ));
        }
        Ok(bases)
    }

    async fn write(&self, entry: &CatalogueEntry, laid: Laid, request: &ArtifactRequest) -> Result<Layer> {
        let (user, group) = entry.owner.as_deref().map_or(Ok((0, 0)), layer::owner)?;
        let placing = Placing {
            to: laid.to,
            os: if is_windows(entry) { Os::Windows } else { Os::Linux },
            user,
            group,
            modified: request.modified.map_or(layer::TIME, |time| time.as_micros() / 1_000_000),
            compress: true,
        };
        let scratch = self.scratch.clone();
        blocking(move || layer::write(&laid.tree, &placing, &scratch)).await
    }
}

/// How an entry takes an upload.
pub(super) fn taking<'a>(entry: &'a CatalogueEntry, artifact: &Artifact) -> Result<&'a Takes> {
    entry.taking(artifact.content()).ok_or_else(|| {
        let takes: Vec<String> =
            entry.takes.iter().map(|takes| format!("{:?}", takes.kind).to_lowercase()).collect();
        Error::invalid(format!(
            "`{}` does not take {}; accepted: {}",
            entry.name(),
            artifact.content(),
            takes.join(", ")
        ))
    })
}

pub(super) fn is_windows(entry: &CatalogueEntry) -> bool {
    entry.base.iter().flat_map(|base| &base.platforms).any(|platform| platform.os == Os::Windows)
}

/// A file's directory and name.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

pub(super) fn used(name: &ImageRef, base: &Image) -> BaseUsed {
    BaseUsed { name: name.clone(), digest: base.digest, platform: base.platform.to_string() }
}
