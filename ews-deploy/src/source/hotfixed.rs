//! What was mended in place, made part of what new instances are made from.

use std::path::Path;

use ews_core::spec::source::{ArtifactSource, ImagePin, ImageSource};
use ews_core::{Error, ErrorKind, ImageRef, Os, Result, ServiceSpec, Source};

use super::Sources;
use super::artifact::Content;
use super::artifact::layer::{self, Placing};
use super::oci::append::over;
use super::oci::image::read;
use super::oci::push::{Moved, bring_layers, finish, push_layer};
use super::process::pack;
use super::request::OverlaidRequest;
use super::resolved::{Provenance, ProvenanceKind, Resolved};
use super::scratch::blocking;
use crate::hotfix::Overlaid;

impl Sources {
    pub(super) async fn hotfixed(
        &self,
        request: &OverlaidRequest,
        by: &str,
        spec: ServiceSpec,
    ) -> Result<Resolved> {
        match &request.overlaid.spec.instance.source {
            Source::Image(image) => self.layered(request, image, by, spec).await,
            Source::Artifact(artifact) => self.repacked(&request.overlaid, artifact, by, spec).await,
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                "what the revision runs can't be made anew; accepted: an image, or an artifact with its digest",
            )),
        }
    }

    /// One more layer on the image, for each of its platforms.
    async fn layered(
        &self,
        request: &OverlaidRequest,
        image: &ImageSource,
        by: &str,
        mut spec: ServiceSpec,
    ) -> Result<Resolved> {
        let registry = self.registry()?;
        let Some(ImagePin::Manifest(digest)) = image.pin else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the image was built on one engine, and no registry has it; accepted: a submission of the container",
            )
            .with_context("image", &image.reference));
        };
        let name = match &request.name {
            Some(name) if name.digest().is_some() => {
                return Err(Error::invalid(format!(
                    "the result can't be given the digest of `{name}`; accepted: a name with a tag"
                )));
            }
            Some(name) => name.clone(),
            None => named(&image.reference, request.overlaid.revision.as_str())?,
        };
        let app = read(registry, &image.reference.clone().with_digest(digest), &|_| true).await?;
        let (mut moved, mut written, mut layer) = (Moved::default(), Vec::new(), None);
        for one in &app.images {
            bring_layers(registry, one, one.layers(), &name, &mut moved).await?;
            let (files, scratch) = (request.overlaid.files.clone(), self.scratch.clone());
            let placing = placing(one.platform.os);
            let made = blocking(move || layer::write_files(&files, &placing, &scratch)).await?;
            push_layer(registry, &made, &name, &mut moved).await?;
            let made_by = format!("EWS: the hotfix {}", request.overlaid.revision);
            written.push(over(one, &made, &made_by)?);
            layer = Some(made.diff_id);
        }
        let docker = app.images.iter().all(|image| image.is_docker());
        let result = finish(registry, &written, docker, &name, &mut moved).await?;
        let mut fixed = image.clone();
        (fixed.reference, fixed.pin) = (name, Some(ImagePin::Manifest(result)));
        spec.instance.source = Source::Image(fixed);
        let mut provenance = Provenance::new(ProvenanceKind::Hotfix, by, result);
        (provenance.before, provenance.layer) = (Some(app.digest), layer);
        Ok(Resolved { spec, provenance, warnings: Vec::new(), moved })
    }

    /// The artifact with the files in it.
    async fn repacked(
        &self,
        overlaid: &Overlaid,
        artifact: &ArtifactSource,
        by: &str,
        mut spec: ServiceSpec,
    ) -> Result<Resolved> {
        let directory = self.artifacts.clone().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "there is no directory for artifacts: name one in the configuration of sources",
            )
        })?;
        if artifact.location.starts_with("https://") {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the artifact lies at an address; accepted: one of this machine, such as `Sources` makes",
            )
            .with_context("artifact", &artifact.location));
        }
        let was = self.receive_path(Path::new(&artifact.location)).await?;
        if artifact.digest.is_some_and(|digest| digest != was.digest()) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "the artifact is not what the revision was made from; it has the digest {}",
                    was.digest()
                ),
            )
            .with_context("artifact", &artifact.location));
        }
        if matches!(was.content(), Content::Program { .. }) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the artifact is one program, and no file can lie beside it; accepted: an archive, or a directory",
            )
            .with_context("artifact", &artifact.location));
        }
        let (limits, scratch, files) = (self.limits.clone(), self.scratch.clone(), overlaid.files.clone());
        let before = was.digest();
        let (path, digest, layer) = blocking(move || {
            let tree = was.tree(&limits, cfg!(windows), &scratch)?;
            pack(&tree.with_files(&files, &limits, &scratch)?, &directory, &scratch)
        })
        .await?;
        let mut artifact = artifact.clone();
        (artifact.location, artifact.digest) = (path.to_string_lossy().into_owned(), Some(digest));
        spec.instance.source = Source::Artifact(artifact);
        let mut provenance = Provenance::new(ProvenanceKind::Hotfix, by, digest);
        (provenance.before, provenance.layer) = (Some(before), layer);
        Ok(Resolved { spec, provenance, warnings: Vec::new(), moved: Moved::default() })
    }
}

fn placing(os: Os) -> Placing {
    Placing { to: String::new(), os, user: 0, group: 0, modified: layer::TIME, compress: true }
}

/// The image's name with the revision in its tag.
fn named(image: &ImageRef, revision: &str) -> Result<ImageRef> {
    let tag = match image.tag() {
        Some(tag) => format!("{tag}-{revision}"),
        None => revision.to_owned(),
    };
    // A tag has at most 128 characters.
    let tag = tag.get(tag.len().saturating_sub(128)..).unwrap_or_default().trim_start_matches(['.', '-']);
    format!("{}/{}:{tag}", image.registry(), image.repository()).parse()
}
