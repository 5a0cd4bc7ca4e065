//! What can be known of every node before the first change, the registry asked too: [`preflight`].

use ews_core::spec::source::{ImagePin, ImageSource};
use ews_core::{ErrorKind, OwnerId, Registry, Result, Runtime, ServiceSpec, Source};

use super::oci::image::read;
use crate::preflight::{Finding, FindingAbout, ImageThere, Known, OfImage, Preflight, looked_up, nodes};

/// Asks every node of a runtime whether it can run a pinned spec, and the registry for an image that is not there. A
/// [`Deployer`](crate::Deployer) does so by itself for each deployment, but for the registry. `owner` is whose installation it is: its own
/// instances of the service hold no port against it.
///
/// # Errors
/// `Invalid` for a spec whose image is not pinned; those of [`Runtime::nodes`] and [`Runtime::list`]. What the registry and the image store
/// fail with is a finding.
pub async fn preflight(
    spec: &ServiceSpec,
    runtime: &dyn Runtime,
    registry: Option<&dyn Registry>,
    owner: &OwnerId,
) -> Result<Preflight> {
    let asked = async {
        let own = runtime.images();
        let source = match &spec.instance.source {
            Source::Image(image) => Some(match looked_up(image, own.as_deref()).await? {
                Known::As(found) => found,
                Known::Absent => pullable(image, registry).await,
            }),
            _ => None,
        };
        nodes(spec, runtime, owner, source.as_ref()).await
    };
    asked.await.map_err(|error| error.with_operation("sources.preflight"))
}

async fn pullable(image: &ImageSource, registry: Option<&dyn Registry>) -> OfImage {
    let unknown =
        |stops, message: String| OfImage::unknown(Some(Finding::new(FindingAbout::Source, stops, message)));
    let Some(registry) = registry else {
        return unknown(
            false,
            "the image is not there, and nobody says which registry to ask for it".to_owned(),
        );
    };
    let pinned = match &image.pin {
        Some(ImagePin::Manifest(digest)) => image.reference.clone().with_digest(*digest),
        _ => image.reference.clone(),
    };
    match read(registry, &pinned, &|_| true).await {
        Ok(found) => {
            let size = |layer: &serde_json::Value| {
                layer.get("size").and_then(serde_json::Value::as_u64).unwrap_or(0)
            };
            let sizes = found.images.iter().map(|image| image.layers().iter().map(size).sum());
            let platforms = found.images.iter().map(|image| image.platform.clone()).collect();
            let there = ImageThere::Pullable { bytes: sizes.max().unwrap_or(0) };
            OfImage { there, platforms: Some(platforms), finding: None }
        }
        Err(error) => {
            let stops = matches!(
                error.kind(),
                ErrorKind::ImageMissing | ErrorKind::ImageDenied | ErrorKind::Unauthorized
            );
            unknown(stops, format!("the image is not there and can't be pulled: {error}"))
        }
    }
}
