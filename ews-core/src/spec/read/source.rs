//! Image or artifact, each short as a text or long as a table.

use super::foreign;
use crate::document::walk::{At, Fields};
use crate::spec::source::{ArtifactSource, Digest, ImagePin, ImageRef, ImageSource, PullPolicy, Source};

const IMAGE: &str = "an image name such as \"registry.example/shop/web:1.2\"";
const ARTIFACT: &str = "a path or address such as \"/srv/app.tar.gz\"";
const DIGEST: &str = "a digest such as \"sha256:…\"";

pub(super) fn source(fields: &mut Fields<'_>) -> Option<Source> {
    let image = fields.take("image");
    let artifact = fields.take("artifact");
    match (image, artifact) {
        (Some(at), None) => image_source(&at).map(Source::Image),
        (None, Some(at)) => artifact_source(&at).map(Source::Artifact),
        (Some(_), Some(artifact)) => {
            // An address may hold a token.
            artifact.quiet().fail("both `image` and `artifact` are given; accepted: exactly one of the two");
            None
        }
        (None, None) => {
            fields.missing("image", &format!("{IMAGE}, or instead the field `artifact` with {ARTIFACT}"));
            None
        }
    }
}

fn image_source(at: &At<'_>) -> Option<ImageSource> {
    if at.tree.as_text().is_some() {
        // An address that was put here may hold a password; what may be shown of it is said by the type itself.
        return at.clone().quiet().parsed::<ImageRef>(IMAGE).map(ImageSource::new);
    }
    let mut fields = at.table(&format!("{IMAGE}, or a table with `reference` and `pull`"))?;
    let reference = fields.required("reference", IMAGE).and_then(|at| at.quiet().parsed::<ImageRef>(IMAGE));
    let pin = fields.take("pin").and_then(|at| image_pin(&at));
    let pull = fields.take("pull").and_then(|at| {
        at.one_of(
            &[
                ("if-missing", PullPolicy::IfMissing),
                ("always", PullPolicy::Always),
                ("never", PullPolicy::Never),
            ],
            foreign::pull,
        )
    });
    fields.finish(foreign::image);
    let mut image = ImageSource::new(reference?);
    image.pin = pin.or(image.pin);
    image.pull = pull.unwrap_or_default();
    Some(image)
}

fn image_pin(at: &At<'_>) -> Option<ImagePin> {
    let mut fields = at.table("a table with `manifest` or `local`")?;
    let manifest = fields.take("manifest");
    let local = fields.take("local");
    let pin = match (&manifest, &local) {
        (Some(at), None) => at.parsed::<Digest>(DIGEST).map(ImagePin::Manifest),
        (None, Some(at)) => at.table("a table with `engine` and `image_id`").and_then(|mut fields| {
            let engine =
                fields.required("engine", "the engine's id").and_then(|at| at.text("the engine's id"));
            let image_id = fields.required("image_id", DIGEST).and_then(|at| at.parsed::<Digest>(DIGEST));
            fields.finish(|_| None);
            Some(ImagePin::Local { engine: engine?.to_owned(), image_id: image_id? })
        }),
        _ => {
            at.fail("the pin says nothing or two things; accepted: exactly one of `manifest` and `local`");
            None
        }
    };
    fields.finish(|_| None);
    pin
}

fn artifact_source(at: &At<'_>) -> Option<ArtifactSource> {
    if let Some(location) = at.tree.as_text() {
        return Some(ArtifactSource::new(location));
    }
    let mut fields = at
        .table(&format!("{ARTIFACT}, or a table with `location` and `digest`"))?
        .also_called(&foreign::ARTIFACT);
    let location = fields.required("location", ARTIFACT).and_then(|at| at.text(ARTIFACT));
    let digest = fields.take("digest").and_then(|at| at.parsed::<Digest>(DIGEST));
    fields.finish(foreign::artifact);
    let mut artifact = ArtifactSource::new(location?);
    artifact.digest = digest;
    Some(artifact)
}
