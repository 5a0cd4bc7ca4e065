//! An image that EWS made of an artifact, moved to the base that the catalogue names now.

use ews_core::spec::source::{ImagePin, ImageSource};
use ews_core::{Error, ErrorKind, ImageRef, Platform, Result, ServiceSpec, Source};

use super::assemble::used;
use super::defaults;
use super::oci::append::{BASE_DIGEST, BASE_NAME};
use super::oci::image::{Image, at, read};
use super::oci::push::{Moved, bring_layers, finish};
use super::oci::rebase::{NewBase, rebase};
use super::request::RebaseRequest;
use super::resolved::{Provenance, ProvenanceKind, Resolved, Warning, WarningAbout};
use super::{Sources, now};

impl Sources {
    pub(super) async fn rebase(
        &self,
        request: &RebaseRequest,
        by: &str,
        mut spec: ServiceSpec,
    ) -> Result<Resolved> {
        let registry = self.registry()?;
        let entry = self.catalogue.find(&request.on)?;
        let app = read(registry, &request.image, &|_| true).await?;
        let new_bases = self.bases(entry, None).await?;
        let name = match &request.name {
            Some(name) if name.digest().is_some() => {
                return Err(Error::invalid(format!(
                    "the result can't be given the digest of `{name}`; accepted: a name with a tag"
                )));
            }
            Some(name) => name.clone(),
            None => tag_of(&request.image)?,
        };
        let (mut moved, mut written, mut bases, mut same) = (Moved::default(), Vec::new(), Vec::new(), 0);
        for image in &app.images {
            let (new_name, new) = counterpart(image, &new_bases).ok_or_else(|| {
                Error::new(
                    ErrorKind::ImageIncompatible,
                    format!(
                        "the image can't be moved to another base: `{}` has none for {}",
                        entry.name(),
                        image.platform
                    ),
                )
            })?;
            let old = self.old_base(image).await?;
            same += usize::from(old.digest == new.digest);
            let new_base =
                NewBase { image: new, name: &new_name.to_string(), compatibility: &entry.compatibility };
            written.push(rebase(image, &old, &new_base)?);
            bases.push((new_name, new, image, old.layers().len()));
        }
        let mut image = ImageSource::new(name.clone());
        let mut warnings = defaults::warnings(entry, true, now());
        let digest = if same == app.images.len() {
            warnings.push(Warning::new(
                WarningAbout::Nothing,
                format!("the image stands on the base of `{}` already", entry.name()),
            ));
            image.reference = request.image.clone();
            app.digest
        } else {
            for (_, new, image, first) in &bases {
                bring_layers(registry, new, new.layers(), &name, &mut moved).await?;
                bring_layers(
                    registry,
                    image,
                    image.layers().get(*first..).unwrap_or_default(),
                    &name,
                    &mut moved,
                )
                .await?;
            }
            let docker = bases.iter().all(|(_, new, _, _)| new.is_docker());
            finish(registry, &written, docker, &name, &mut moved).await?
        };
        image.pin = Some(ImagePin::Manifest(digest));
        spec.instance.source = Source::Image(image);
        defaults::fill(&mut spec, entry)?;
        let mut provenance = Provenance::new(ProvenanceKind::Rebase, by, digest);
        provenance.entry = Some(entry.name());
        provenance.before = Some(app.digest);
        provenance.layer = app.images.first().and_then(|image| image.diff_ids().last()?.parse().ok());
        provenance.bases = bases.iter().map(|(name, base, _, _)| used(name, base)).collect();
        Ok(Resolved { spec, provenance, warnings, moved })
    }

    /// The base that an image says it stands on.
    async fn old_base(&self, image: &Image) -> Result<Image> {
        let told = image.label(BASE_NAME).zip(image.label(BASE_DIGEST));
        let told =
            told.and_then(|(name, digest)| Some((name.parse::<ImageRef>().ok()?, digest.parse().ok()?)));
        let Some((name, digest)) = told else {
            return Err(Error::invalid(format!(
                "the image can't be moved to another base: it does not say which base it stands on (labels `{BASE_NAME}` and \
                 `{BASE_DIGEST}`); build it again"
            ))
            .with_context("image", &image.name));
        };
        // The label is whatever the image's maker wrote, and reading it means calling there, with our credentials.
        if name.registry() != image.name.registry() && !self.policy.allows(&name) {
            return Err(Error::invalid(format!(
                "the image can't be moved to another base: it says that it stands on `{name}`, which is neither in its own registry nor on \
                 the list of bases"
            ))
            .with_context("image", &image.name));
        }
        let found = read(self.registry()?, &at(&name, digest)?, &|_| true).await;
        let found = found.map_err(|error| {
            error
                .with_context("old_base", &name)
                .with_context("fault", "the old base must still be there, to tell what is whose")
        })?;
        found.images.into_iter().next().ok_or_else(|| Error::internal("an image that leads to none was read"))
    }
}

/// The new base for the platform of an image: of several builds of Windows, its own.
fn counterpart<'a>(image: &Image, bases: &'a [(ImageRef, Image)]) -> Option<(&'a ImageRef, &'a Image)> {
    let what = |platform: &Platform| (platform.os, platform.arch);
    let fits = |base: &Image| what(&base.platform) == what(&image.platform) && base.variant == image.variant;
    let build = |image: &Image| image.platform.os_version.map(|version| version.build());
    let all = || bases.iter().filter(|(_, base)| fits(base));
    let found = all()
        .find(|(_, base)| build(base) == build(image))
        .or_else(|| all().next().filter(|_| build(image).is_none()));
    found.map(|(name, base)| (name, base))
}

/// The name without its digest, under which the result goes.
fn tag_of(image: &ImageRef) -> Result<ImageRef> {
    let Some(tag) = image.tag() else {
        return Err(Error::invalid(format!(
            "`{image}` has no tag, and the result needs one; accepted: a name for the result"
        )));
    };
    format!("{}/{}:{tag}", image.registry(), image.repository()).parse()
}
