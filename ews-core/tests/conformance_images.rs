//! The image store suite on the fake, and proof that its cases can fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

#[macro_use]
mod layered;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ews_core::image::{
    BuildSpec, CommitSpec, EnsureOptions, Image, ImageQuery, ImageStore, Progress, ProgressStream,
    PruneOptions,
};
use ews_core::runtime::ByteStream;
use ews_core::spec::source::{ImageSource, PullPolicy};
use ews_core::testkit::FakeImages;
use ews_core::testkit::conformance::images::{ImagesHarness, run};
use ews_core::testkit::conformance::{Stop, Verdict};
use ews_core::{
    Arch, Capability, CapabilitySet, Digest, Error, ErrorKind, ImageRef, InstanceId, NodeId, Os, Platform,
    Result, Selector,
};
use futures_util::StreamExt as _;
use layered::Over;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
    None,
    NothingComes,
    AlwaysPulls,
    PullsForEach,
    DropStopsPull,
    NeverPulls,
    IgnoresPins,
    MissingIsNotFound,
    DeniedIsMissing,
    AnyPlatform,
    AnyNode,
    ForgetsLabels,
    BuildsAnything,
    ListsAll,
    DryRunRemoves,
    PrunesKept,
    CommitsNobody,
    TagKeepsOld,
    LoadsNothing,
    LoadsJunk,
    PushWithoutDigest,
    UnsupportedIsFine,
}
use Mutation as M;

const TABLE: &[(Mutation, &str)] = &[
    (M::NothingComes, "an_image_is_brought_and_then_there"),
    (M::AlwaysPulls, "an_image_that_is_there_is_not_pulled_again"),
    (M::PullsForEach, "concurrent_calls_are_one_pull"),
    (M::DropStopsPull, "a_dropped_stream_lets_the_pull_go_on"),
    (M::NeverPulls, "never_is_never"),
    (M::IgnoresPins, "a_pin_is_what_must_be_there"),
    (M::MissingIsNotFound, "what_no_registry_has_is_missing"),
    (M::DeniedIsMissing, "a_refusal_is_denied"),
    (M::AnyPlatform, "another_platform_is_incompatible"),
    (M::AnyNode, "a_node_that_is_not_there"),
    (M::ForgetsLabels, "a_build_makes_an_image_of_its_name"),
    (M::BuildsAnything, "what_the_builder_refuses_is_invalid"),
    (M::ListsAll, "labels_select"),
    (M::DryRunRemoves, "a_dry_run_removes_nothing"),
    (M::PrunesKept, "pruning_spares_what_is_used_kept_or_not_meant"),
    (M::CommitsNobody, "a_commit_needs_its_instance"),
    (M::TagKeepsOld, "a_tag_is_another_name"),
    (M::LoadsNothing, "an_archive_brings_images_back"),
    (M::LoadsJunk, "what_is_no_archive_is_invalid"),
    (M::PushWithoutDigest, "a_push_ends_with_the_manifest"),
    (M::UnsupportedIsFine, "what_it_can_not_do_is_refused"),
];

struct Broken {
    inner: FakeImages,
    mutation: Mutation,
}

fn done() -> ProgressStream {
    let progress = Progress::Done { image: Some(Digest::of(b"fine")), manifest: None };
    Box::pin(futures_util::stream::iter([Ok(progress)]))
}

#[async_trait]
impl ImageStore for Broken {
    fn capabilities(&self) -> CapabilitySet {
        self.inner.capabilities()
    }

    async fn ensure(&self, image: &ImageSource, options: &EnsureOptions) -> Result<ProgressStream> {
        let (mut image, mut options) = (image.clone(), options.clone());
        match self.mutation {
            M::NothingComes => return Ok(done()),
            M::AlwaysPulls | M::NeverPulls => image.pull = PullPolicy::Always,
            M::PullsForEach => {
                // Each caller for itself: one after the other.
                static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
                let _turn = ONE.lock().await;
                image.pull = PullPolicy::Always;
                let all: Vec<_> = self.inner.ensure(&image, &options).await?.collect().await;
                return Ok(Box::pin(futures_util::stream::iter(all)));
            }
            M::DropStopsPull => {
                let inner = self.inner.clone();
                let pull = async move { inner.ensure(&image, &options).await.unwrap() };
                return Ok(Box::pin(futures_util::stream::once(pull).flatten()));
            }
            M::IgnoresPins => image.pin = None,
            M::AnyNode => options.nodes.clear(),
            M::AnyPlatform => {
                let all: Vec<_> = self.inner.ensure(&image, &options).await?.collect().await;
                if all.iter().any(|one| one.as_ref().is_err_and(|e| e.kind() == ErrorKind::ImageIncompatible))
                {
                    return Ok(done());
                }
                return Ok(Box::pin(futures_util::stream::iter(all)));
            }
            _ => {}
        }
        let mutation = self.mutation;
        let stream = self.inner.ensure(&image, &options).await?;
        Ok(Box::pin(stream.map(move |progress| {
            progress.map_err(|error| match (mutation, error.kind()) {
                (M::MissingIsNotFound, ErrorKind::ImageMissing) => Error::not_found("image", "x"),
                (M::DeniedIsMissing, ErrorKind::ImageDenied) => Error::new(ErrorKind::ImageMissing, "x"),
                _ => error,
            })
        })))
    }

    async fn inspect(&self, image: &ImageQuery) -> Result<Image> {
        let mut image = self.inner.inspect(image).await?;
        if self.mutation == M::ForgetsLabels {
            image.labels.clear();
        }
        Ok(image)
    }

    async fn list(&self, labels: &Selector) -> Result<Vec<Image>> {
        let everything = Selector::everything();
        self.inner.list(if self.mutation == M::ListsAll { &everything } else { labels }).await
    }

    async fn prune(&self, options: &PruneOptions) -> Result<Vec<Digest>> {
        let mut options = options.clone();
        match self.mutation {
            M::DryRunRemoves => options.dry_run = false,
            M::PrunesKept => options.keep.clear(),
            _ => {}
        }
        self.inner.prune(&options).await
    }

    async fn build(&self, spec: &BuildSpec, context: ByteStream) -> Result<ProgressStream> {
        match self.inner.build(spec, context).await {
            Err(_) if matches!(self.mutation, M::BuildsAnything | M::UnsupportedIsFine) => Ok(done()),
            other => other,
        }
    }

    async fn commit(&self, instance: &InstanceId, spec: &CommitSpec) -> Result<Image> {
        match self.inner.commit(instance, spec).await {
            Err(_) if self.mutation == M::CommitsNobody => {
                Ok(Image::new(Digest::of(b"x"), platform(Arch::Amd64)))
            }
            other => other,
        }
    }

    async fn tag(&self, image: &ImageQuery, name: &ImageRef) -> Result<()> {
        let taken = self.inner.inspect(&ImageQuery::Name(name.clone())).await.is_ok();
        if self.mutation == M::TagKeepsOld && taken {
            return Ok(());
        }
        self.inner.tag(image, name).await
    }

    async fn push(&self, name: &ImageRef) -> Result<ProgressStream> {
        let stream = self.inner.push(name).await?;
        Ok(if self.mutation == M::PushWithoutDigest { done() } else { stream })
    }

    async fn save(&self, images: &[ImageQuery]) -> Result<ByteStream> {
        self.inner.save(images).await
    }

    async fn load(&self, archive: ByteStream) -> Result<Vec<Image>> {
        match self.mutation {
            M::LoadsNothing => Ok(Vec::new()),
            M::LoadsJunk => Ok(self.inner.load(archive).await.unwrap_or_default()),
            _ => self.inner.load(archive).await,
        }
    }
}

fn platform(arch: Arch) -> Platform {
    Platform::new(Os::Linux, arch)
}

fn name(text: &str) -> ImageRef {
    format!("registry.example/conformance/{text}").parse().unwrap()
}

fn image(text: &str, arch: Arch) -> Image {
    let mut image = Image::new(Digest::of(text.as_bytes()), platform(arch));
    image.manifests.push(Digest::of(format!("manifest of {text}").as_bytes()));
    image
}

struct Harness {
    mutation: Mutation,
    over: Over,
    without: Option<Capability>,
    only: Option<&'static str>,
    fake: Mutex<FakeImages>,
}

impl Harness {
    fn new(mutation: Mutation, without: Option<Capability>, only: Option<&'static str>) -> Self {
        Self { mutation, over: Over::Nothing, without, only, fake: Mutex::new(fake(CapabilitySet::all())) }
    }
}

fn fake(capabilities: CapabilitySet) -> FakeImages {
    let fake = FakeImages::with(capabilities, NodeId::new("node-1").unwrap(), platform(Arch::Amd64));
    fake.offer(&name("offered"), image("offered", Arch::Amd64));
    fake.offer(&name("foreign"), image("foreign", Arch::Arm64));
    fake.deny(&name("denied"));
    fake.set_pull_time(Duration::from_secs(1));
    fake
}

#[async_trait]
impl ImagesHarness for Harness {
    async fn images(&self) -> Result<Arc<dyn ImageStore>, Stop> {
        let all = CapabilitySet::all();
        let inner = fake(self.without.map_or(all.clone(), |missing| all.without(missing)));
        *self.fake.lock().unwrap() = inner.clone();
        let driver: Arc<dyn ImageStore> = Arc::new(Broken { inner, mutation: self.mutation });
        Ok(behind!(self.over, driver))
    }

    async fn offered(&self) -> Result<ImageRef, Stop> {
        Ok(name("offered"))
    }

    fn made(&self) -> Result<ImageRef, Stop> {
        Ok(name("made"))
    }

    fn missing(&self) -> Result<ImageRef, Stop> {
        Ok(name("missing"))
    }

    async fn denied(&self) -> Result<ImageRef, Stop> {
        Ok(name("denied"))
    }

    async fn incompatible(&self) -> Result<ImageRef, Stop> {
        Ok(name("foreign"))
    }

    async fn pulls(&self) -> Result<u64, Stop> {
        Ok(self.fake.lock().unwrap().pulls(&name("offered")))
    }

    fn context(&self, text: &str) -> Result<Bytes, Stop> {
        Ok(format!("FROM scratch\nCOPY {text} /\n").into())
    }

    async fn instance(&self, image: &Image) -> Result<InstanceId, Stop> {
        let id = InstanceId::new(format!("i-{}", image.id.short()))?;
        self.fake.lock().unwrap().add_instance(id.clone(), image.id);
        Ok(id)
    }

    fn wants(&self, case: &str) -> bool {
        self.only.is_none_or(|only| only == case)
    }
}

#[tokio::test(start_paused = true)]
async fn the_fake_passes() {
    run(&Harness::new(M::None, None, None)).await.assert_passed(&[]);
    for (missing, skips) in [
        (Capability::ImageCommit, &["a_commit_needs_its_instance"][..]),
        (Capability::ImageTag, &["a_tag_is_another_name"]),
        (Capability::ImagePush, &["a_push_ends_with_the_manifest"]),
        (Capability::ImageArchive, &["an_archive_brings_images_back", "what_is_no_archive_is_invalid"]),
    ] {
        run(&Harness::new(M::None, Some(missing), None)).await.assert_passed(skips);
    }
}

#[tokio::test(start_paused = true)]
async fn every_mutation_is_caught_by_its_case() {
    let (mut survived, mut covered) = (Vec::new(), BTreeSet::new());
    for (mutation, case) in TABLE {
        let without = (*mutation == M::UnsupportedIsFine).then_some(Capability::ImageBuild);
        let report = run(&Harness::new(*mutation, without, Some(case))).await;
        assert_eq!(report.outcomes.len(), 1, "no case `{case}`");
        if !matches!(report.outcomes[0].verdict, Verdict::Failed(_)) {
            survived.push(format!("{mutation:?}: {report}"));
        }
        covered.insert(*case);
    }
    assert_eq!(survived, Vec::<String>::new());
    let all = run(&Harness::new(M::None, None, None)).await;
    assert_eq!(
        all.outcomes.iter().find(|outcome| !covered.contains(&*outcome.name)),
        None,
        "without a mutation"
    );
}

#[tokio::test(start_paused = true)]
async fn the_fake_passes_behind_each_layer() {
    for over in Over::ALL {
        let harness = Harness { over, ..Harness::new(M::None, None, None) };
        let report = run(&harness).await;
        assert_eq!(report.problems(&[]), Vec::<String>::new(), "behind {over:?}");
    }
}
