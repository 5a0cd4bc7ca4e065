//! The suite of the [`ImageStore`] contract.
//!
//! The harness names an image that can be pulled; all else that the suite needs it builds, or gets from hooks.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;

use super::expect::{ensure, refused, run_cases, same};
use super::{CaseResult, Report, Stop};
use crate::capability::Capability;
use crate::error::ErrorKind;
use crate::id::{InstanceId, NodeId};
use crate::image::{
    BuildSpec, CommitSpec, EnsureOptions, Image, ImageQuery, ImageStore, Progress, ProgressStream,
    PruneOptions,
};
use crate::selector::Selector;
use crate::spec::source::{Digest, ImagePin, ImageRef, ImageSource, PullPolicy};
use crate::testkit::fake_registry::{in_pieces, read_all};

/// Makes the store under test.
#[async_trait]
pub trait ImagesHarness: Send + Sync {
    /// The store under test, without the image that [`offered`](Self::offered) names.
    async fn images(&self) -> Result<Arc<dyn ImageStore>, Stop>;

    /// An image that can be pulled.
    async fn offered(&self) -> Result<ImageRef, Stop>;

    /// A name under which the suite may make images, such as `registry.example/conformance/made`; it will add tags.
    fn made(&self) -> Result<ImageRef, Stop>;

    /// A name that no registry has.
    fn missing(&self) -> Result<ImageRef, Stop>;

    /// A name that the registry refuses.
    async fn denied(&self) -> Result<ImageRef, Stop> {
        Err(Stop::skip("the harness has no image that is denied"))
    }

    /// An image for another platform than the node's.
    async fn incompatible(&self) -> Result<ImageRef, Stop> {
        Err(Stop::skip("the harness has no image for another platform"))
    }

    /// How often the offered image was pulled so far.
    async fn pulls(&self) -> Result<u64, Stop> {
        Err(Stop::skip("the harness can't count pulls"))
    }

    /// A build context, a tar archive, that makes an image which differs with this text.
    fn context(&self, text: &str) -> Result<Bytes, Stop> {
        let _ = text;
        Err(Stop::skip("the harness has no build context"))
    }

    /// An instance that uses this image, and need not run.
    async fn instance(&self, image: &Image) -> Result<InstanceId, Stop> {
        let _ = image;
        Err(Stop::skip("the harness can't create instances"))
    }

    /// What is under test, for the report.
    fn name(&self) -> String {
        "images".to_owned()
    }

    /// Whether this case is to run; for work on a single one. Default: yes.
    fn wants(&self, case: &str) -> bool {
        let _ = case;
        true
    }
}

/// Runs every case.
pub async fn run(harness: &dyn ImagesHarness) -> Report {
    let mut report = Report::new(format!("images ({})", harness.name()));
    let bench =
        async |_: u16| -> Result<Bench<'_>, Stop> { Ok(Bench { harness, images: harness.images().await? }) };
    run_cases! { report, Duration::from_secs(300), harness, bench;
        1 cases::an_image_is_brought_and_then_there;
        2 cases::an_image_that_is_there_is_not_pulled_again;
        3 cases::concurrent_calls_are_one_pull;
        4 cases::a_dropped_stream_lets_the_pull_go_on;
        5 cases::never_is_never;
        6 cases::a_pin_is_what_must_be_there;
        7 cases::what_no_registry_has_is_missing;
        8 cases::a_refusal_is_denied;
        9 cases::another_platform_is_incompatible;
        10 cases::a_node_that_is_not_there;
        20 cases::a_build_makes_an_image_of_its_name;
        21 cases::what_the_builder_refuses_is_invalid;
        22 cases::labels_select;
        23 cases::a_dry_run_removes_nothing;
        24 cases::pruning_spares_what_is_used_kept_or_not_meant;
        25 cases::a_commit_needs_its_instance;
        26 cases::a_tag_is_another_name;
        27 cases::an_archive_brings_images_back;
        28 cases::what_is_no_archive_is_invalid;
        29 cases::a_push_ends_with_the_manifest;
        30 cases::what_it_can_not_do_is_refused;
    }
    report
}

/// What a case works with.
struct Bench<'a> {
    harness: &'a dyn ImagesHarness,
    images: Arc<dyn ImageStore>,
}

impl Bench<'_> {
    fn needs(&self, capability: Capability) -> Result<(), Stop> {
        if self.images.capabilities().has(capability) {
            return Ok(());
        }
        Err(Stop::skip(format!("the store lacks the capability `{capability}`")))
    }

    async fn ensure(&self, image: &ImageSource) -> crate::Result<Option<Digest>> {
        finished(self.images.ensure(image, &EnsureOptions::default()).await?).await
    }

    /// An image with the label `conformance` of this text, named after it.
    async fn build(&self, text: &str) -> Result<Image, Stop> {
        self.needs(Capability::ImageBuild)?;
        let mut spec = BuildSpec::new(self.harness.made()?.with_tag(text)?);
        spec.labels.insert("conformance".to_owned(), text.to_owned());
        let context = in_pieces(self.harness.context(text)?, 1_000);
        let id = finished(self.images.build(&spec, context).await?).await?;
        let id = id.ok_or_else(|| Stop::fail("a build must end with the image's id"))?;
        Ok(self.images.inspect(&ImageQuery::Id(id)).await?)
    }
}

/// Reads a stream to its end: the image's id, or the error that ended it. What follows the end is an error too.
async fn finished(mut stream: ProgressStream) -> crate::Result<Option<Digest>> {
    while let Some(progress) = stream.next().await {
        if let Progress::Done { image, .. } = progress? {
            return match stream.next().await {
                None => Ok(image),
                Some(more) => Err(crate::Error::internal(format!("{more:?} follows the end"))),
            };
        }
    }
    Err(crate::Error::internal("the stream ended without `Done` and without an error"))
}

mod cases {
    use super::*;

    pub(super) async fn an_image_is_brought_and_then_there(bench: Bench<'_>) -> CaseResult {
        let name = bench.harness.offered().await?;
        let before = bench.images.inspect(&ImageQuery::Name(name.clone())).await;
        refused("the image before it is pulled", before, &[ErrorKind::ImageMissing])?;
        let id = bench.ensure(&ImageSource::new(name.clone())).await?;
        let image = bench.images.inspect(&ImageQuery::Name(name.clone())).await?;
        same("the id at the stream's end", &id, &Some(image.id))?;
        ensure!(image.names.contains(&name), "the image has other names: {:?}", image.names);
        same("the image by its id", &bench.images.inspect(&ImageQuery::Id(image.id)).await?, &image)?;
        ensure!(
            bench.images.list(&Selector::everything()).await?.contains(&image),
            "the image is not listed"
        );
        Ok(())
    }

    pub(super) async fn an_image_that_is_there_is_not_pulled_again(bench: Bench<'_>) -> CaseResult {
        let mut source = ImageSource::new(bench.harness.offered().await?);
        bench.ensure(&source).await?;
        let pulls = bench.harness.pulls().await?;
        bench.ensure(&source).await?;
        source.pull = PullPolicy::Never;
        bench.ensure(&source).await?;
        same("pulls of what is there", &bench.harness.pulls().await?, &pulls)?;
        source.pull = PullPolicy::Always;
        bench.ensure(&source).await?;
        same("pulls when always", &bench.harness.pulls().await?, &(pulls + 1))
    }

    pub(super) async fn concurrent_calls_are_one_pull(bench: Bench<'_>) -> CaseResult {
        let source = ImageSource::new(bench.harness.offered().await?);
        let pulls = bench.harness.pulls().await?;
        let ids = futures_util::future::try_join_all((0..20).map(|_| bench.ensure(&source))).await?;
        ensure!(
            ids.array_windows::<2>().all(|[one, other]| one == other),
            "callers got several images: {ids:?}"
        );
        same("pulls", &bench.harness.pulls().await?, &(pulls + 1))
    }

    pub(super) async fn a_dropped_stream_lets_the_pull_go_on(bench: Bench<'_>) -> CaseResult {
        let name = bench.harness.offered().await?;
        drop(bench.images.ensure(&ImageSource::new(name.clone()), &EnsureOptions::default()).await?);
        let ends = tokio::time::Instant::now() + Duration::from_secs(120);
        while bench.images.inspect(&ImageQuery::Name(name.clone())).await.is_err() {
            ensure!(tokio::time::Instant::now() < ends, "nobody waited, and the image did not come");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    pub(super) async fn never_is_never(bench: Bench<'_>) -> CaseResult {
        let mut source = ImageSource::new(bench.harness.offered().await?);
        source.pull = PullPolicy::Never;
        refused("an image that is not there", bench.ensure(&source).await, &[ErrorKind::ImageMissing])
    }

    pub(super) async fn a_pin_is_what_must_be_there(bench: Bench<'_>) -> CaseResult {
        let name = bench.harness.offered().await?;
        let mut source = ImageSource::new(name.clone());
        let id = bench.ensure(&source).await?;
        source.pin = Some(ImagePin::Manifest(Digest::of(b"conformance: nobody has this")));
        refused("the name with another pin", bench.ensure(&source).await, &[ErrorKind::ImageMissing])?;
        let image = bench.images.inspect(&ImageQuery::Name(name)).await?;
        for manifest in image.manifests {
            source.pin = Some(ImagePin::Manifest(manifest));
            same("the image of its own pin", &bench.ensure(&source).await?, &id)?;
        }
        let image_id = Digest::of(b"conformance: nor this");
        source.pin = Some(ImagePin::Local { engine: "conformance".to_owned(), image_id });
        refused("a local image that is not there", bench.ensure(&source).await, &[ErrorKind::ImageMissing])
    }

    pub(super) async fn what_no_registry_has_is_missing(bench: Bench<'_>) -> CaseResult {
        let name = bench.harness.missing()?;
        let source = ImageSource::new(name.clone());
        refused("ensuring it", bench.ensure(&source).await, &[ErrorKind::ImageMissing])?;
        let unknown = Digest::of(b"conformance: nobody has this");
        for query in [ImageQuery::Name(name), ImageQuery::Id(unknown)] {
            refused("inspecting it", bench.images.inspect(&query).await, &[ErrorKind::ImageMissing])?;
        }
        Ok(())
    }

    pub(super) async fn a_refusal_is_denied(bench: Bench<'_>) -> CaseResult {
        let source = ImageSource::new(bench.harness.denied().await?);
        refused("a denied image", bench.ensure(&source).await, &[ErrorKind::ImageDenied])
    }

    pub(super) async fn another_platform_is_incompatible(bench: Bench<'_>) -> CaseResult {
        let source = ImageSource::new(bench.harness.incompatible().await?);
        refused("an image for another platform", bench.ensure(&source).await, &[ErrorKind::ImageIncompatible])
    }

    pub(super) async fn a_node_that_is_not_there(bench: Bench<'_>) -> CaseResult {
        let source = ImageSource::new(bench.harness.offered().await?);
        let options =
            EnsureOptions { nodes: vec![NodeId::new("conformance-none")?], ..EnsureOptions::default() };
        let ensured = match bench.images.ensure(&source, &options).await {
            Ok(stream) => finished(stream).await,
            Err(error) => Err(error),
        };
        refused("an unknown node", ensured, &[ErrorKind::NotFound])
    }

    pub(super) async fn a_build_makes_an_image_of_its_name(bench: Bench<'_>) -> CaseResult {
        let image = bench.build("built").await?;
        let name = bench.harness.made()?.with_tag("built")?;
        same("the image of the name", &bench.images.inspect(&ImageQuery::Name(name)).await?.id, &image.id)?;
        let label = image.labels.get("conformance").map(String::as_str);
        same("its label", &label, &Some("built"))
    }

    pub(super) async fn what_the_builder_refuses_is_invalid(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::ImageBuild)?;
        let spec = BuildSpec::new(bench.harness.made()?.with_tag("refused")?);
        let junk = in_pieces(Bytes::from_static(b"this is no context"), 7);
        let built = match bench.images.build(&spec, junk).await {
            Ok(stream) => finished(stream).await,
            Err(error) => Err(error),
        };
        refused("a context of junk", built, &[ErrorKind::Invalid])
    }

    pub(super) async fn labels_select(bench: Bench<'_>) -> CaseResult {
        let (one, two) = (bench.build("label-one").await?, bench.build("label-two").await?);
        let found = bench.images.list(&Selector::equal("conformance", "label-one")?).await?;
        same(
            "images with the label",
            &found.iter().map(|image| image.id).collect::<Vec<_>>(),
            &vec![one.id],
        )?;
        let all = bench.images.list(&Selector::everything()).await?;
        for image in [one, two] {
            ensure!(all.iter().any(|found| found.id == image.id), "{:?} is not listed", image.names);
        }
        Ok(())
    }

    fn only(text: &str) -> crate::Result<PruneOptions> {
        Ok(PruneOptions { labels: Some(Selector::equal("conformance", text)?), ..PruneOptions::default() })
    }

    pub(super) async fn a_dry_run_removes_nothing(bench: Bench<'_>) -> CaseResult {
        let image = bench.build("dry").await?;
        let dry = PruneOptions { dry_run: true, ..only("dry")? };
        same("what would go", &bench.images.prune(&dry).await?, &vec![image.id])?;
        bench.images.inspect(&ImageQuery::Id(image.id)).await?;
        same("what goes", &bench.images.prune(&only("dry")?).await?, &vec![image.id])?;
        let gone = bench.images.inspect(&ImageQuery::Id(image.id)).await;
        refused("what went", gone, &[ErrorKind::ImageMissing])
    }

    pub(super) async fn pruning_spares_what_is_used_kept_or_not_meant(bench: Bench<'_>) -> CaseResult {
        let (used, kept) = (bench.build("used").await?, bench.build("kept").await?);
        let (other, bare) = (bench.build("other").await?, bench.build("bare").await?);
        bench.harness.instance(&used).await?;
        let mut options = only("used")?;
        same("what goes of what is used", &bench.images.prune(&options).await?, &Vec::new())?;
        options = PruneOptions { keep: vec![kept.id], ..only("kept")? };
        same("what goes of what is kept", &bench.images.prune(&options).await?, &Vec::new())?;
        bench.images.prune(&only("bare")?).await?;
        for image in [used, kept, other] {
            let found = bench.images.inspect(&ImageQuery::Id(image.id)).await;
            ensure!(found.is_ok(), "{:?} was pruned", image.names);
        }
        refused(
            "what was meant",
            bench.images.inspect(&ImageQuery::Id(bare.id)).await,
            &[ErrorKind::ImageMissing],
        )?;
        // Without labels, only what carries an owner label of EWS is meant, and none of these does.
        let other = bench.harness.made()?.with_tag("other")?;
        let dry = PruneOptions { dry_run: true, ..PruneOptions::default() };
        let meant = bench.images.prune(&dry).await?;
        let other = bench.images.inspect(&ImageQuery::Name(other)).await?;
        ensure!(!meant.contains(&other.id), "an image without an owner label would go");
        Ok(())
    }

    pub(super) async fn a_commit_needs_its_instance(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::ImageCommit)?;
        let spec = CommitSpec::new(bench.harness.made()?.with_tag("committed")?);
        let missing = InstanceId::new("conformance-none")?;
        refused("no instance", bench.images.commit(&missing, &spec).await, &[ErrorKind::NotFound])?;
        let base = bench.build("base").await?;
        let instance = bench.harness.instance(&base).await?;
        let image = bench.images.commit(&instance, &spec).await?;
        same(
            "the image of the name",
            &bench.images.inspect(&ImageQuery::Name(spec.name)).await?.id,
            &image.id,
        )?;
        ensure!(image.id != base.id, "the commit is the image that it was made from");
        Ok(())
    }

    pub(super) async fn a_tag_is_another_name(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::ImageTag)?;
        let image = bench.build("tagged").await?;
        let name = bench.harness.made()?.with_tag("tag-target")?;
        bench.images.tag(&ImageQuery::Id(image.id), &name).await?;
        let found = bench.images.inspect(&ImageQuery::Name(name.clone())).await?;
        same("the image of the new name", &found.id, &image.id)?;
        ensure!(
            image.names.iter().all(|old| found.names.contains(old)),
            "the old name is gone: {:?}",
            found.names
        );
        // A name means one image: it moves.
        let newer = bench.build("newer").await?;
        bench.images.tag(&ImageQuery::Id(newer.id), &name).await?;
        same("the moved name", &bench.images.inspect(&ImageQuery::Name(name.clone())).await?.id, &newer.id)?;
        let missing = ImageQuery::Name(bench.harness.missing()?);
        refused("a tag on nothing", bench.images.tag(&missing, &name).await, &[ErrorKind::ImageMissing])
    }

    pub(super) async fn an_archive_brings_images_back(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::ImageArchive)?;
        let image = bench.build("archived").await?;
        let query = ImageQuery::Name(bench.harness.made()?.with_tag("archived")?);
        let archive = read_all(bench.images.save(std::slice::from_ref(&query)).await?, 1 << 30).await?;
        bench.images.prune(&only("archived")?).await?;
        refused("the pruned image", bench.images.inspect(&query).await, &[ErrorKind::ImageMissing])?;
        let loaded = bench.images.load(in_pieces(archive, 1_000)).await?;
        same("what was loaded", &loaded.iter().map(|image| image.id).collect::<Vec<_>>(), &vec![image.id])?;
        same("the image of the name", &bench.images.inspect(&query).await?.id, &image.id)?;
        let missing = ImageQuery::Name(bench.harness.missing()?);
        let saved = bench.images.save(&[query, missing]).await.map(|_| "a stream");
        refused("an archive with what is not there", saved, &[ErrorKind::ImageMissing])
    }

    pub(super) async fn what_is_no_archive_is_invalid(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::ImageArchive)?;
        let junk = in_pieces(Bytes::from_static(b"this is no archive"), 7);
        refused("junk", bench.images.load(junk).await, &[ErrorKind::Invalid])
    }

    pub(super) async fn a_push_ends_with_the_manifest(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::ImagePush)?;
        bench.build("pushed").await?;
        let name = bench.harness.made()?.with_tag("pushed")?;
        let mut stream = bench.images.push(&name).await?;
        let mut last = None;
        while let Some(progress) = stream.next().await {
            last = Some(progress?);
        }
        let Some(Progress::Done { manifest: Some(manifest), .. }) = last else {
            return Err(Stop::fail(format!("the push ended with {last:?}, not with the manifest's digest")));
        };
        let image = bench.images.inspect(&ImageQuery::Name(name)).await?;
        ensure!(image.manifests.contains(&manifest), "the image does not know the manifest {manifest}");
        let pushed = bench.images.push(&bench.harness.missing()?).await;
        refused("a push of nothing", pushed.map(|_| "a stream"), &[ErrorKind::ImageMissing])
    }

    pub(super) async fn what_it_can_not_do_is_refused(bench: Bench<'_>) -> CaseResult {
        let (images, capabilities) = (&bench.images, bench.images.capabilities());
        let (name, nothing) = (bench.harness.made()?, || in_pieces(Bytes::new(), 1));
        let unsupported = [ErrorKind::Unsupported];
        if !capabilities.has(Capability::ImageBuild) {
            let built = images.build(&BuildSpec::new(name.clone()), nothing()).await.map(|_| "a stream");
            refused("a build", built, &unsupported)?;
        }
        if !capabilities.has(Capability::ImageCommit) {
            let instance = InstanceId::new("conformance-none")?;
            refused(
                "a commit",
                images.commit(&instance, &CommitSpec::new(name.clone())).await,
                &unsupported,
            )?;
        }
        if !capabilities.has(Capability::ImagePush) {
            refused("a push", images.push(&name).await.map(|_| "a stream"), &unsupported)?;
        }
        if !capabilities.has(Capability::ImageTag) {
            refused("a tag", images.tag(&ImageQuery::Name(name.clone()), &name).await, &unsupported)?;
        }
        if !capabilities.has(Capability::ImageArchive) {
            refused("an archive", images.save(&[]).await.map(|_| "a stream"), &unsupported)?;
            refused("loading", images.load(nothing()).await, &unsupported)?;
        }
        same("capabilities asked for twice", &images.capabilities(), &capabilities)
    }
}
