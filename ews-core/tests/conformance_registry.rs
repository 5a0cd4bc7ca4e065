//! The registry suite on the fake, and proof that its cases can fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ews_core::registry::{BlobInfo, Descriptor, Manifest, Registry};
use ews_core::runtime::ByteStream;
use ews_core::testkit::CallFault;
use ews_core::testkit::conformance::registry::{RegistryHarness, run};
use ews_core::testkit::conformance::{Stop, Verdict};
use ews_core::testkit::fake_registry::{FakeRegistry, RegistryCall};
use ews_core::{Capability, CapabilitySet, Digest, Error, ErrorKind, ImageRef, Result};
use futures_util::StreamExt as _;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
    None,
    MissingIsUnavailable,
    IgnoresOffset,
    TrustsAnnouncements,
    ReadsAgain,
    IgnoresDigests,
    RewritesManifests,
    TagsStay,
    TakesDangling,
    TakesOtherDigest,
    TagsEverything,
    TakesDanglingIndex,
    TagsUnordered,
    SaysMounted,
    KeepsTags,
    DeletesByTag,
    PushIsSilent,
    DeniedIsMissing,
    HandsOutDamage,
    RateLimitIsFinal,
    OneRepository,
}
use Mutation as M;

const TABLE: &[(Mutation, &str)] = &[
    (M::MissingIsUnavailable, "what_is_not_there_is_missing"),
    (M::IgnoresOffset, "a_blob_comes_back_whole_and_from_an_offset"),
    (M::TrustsAnnouncements, "a_blob_that_is_not_what_it_says_is_refused"),
    (M::ReadsAgain, "a_blob_that_is_there_is_not_read_again"),
    (M::IgnoresDigests, "a_manifest_is_found_by_tag_and_by_digest"),
    (M::RewritesManifests, "a_manifest_keeps_its_bytes"),
    (M::TagsStay, "a_tag_moves"),
    (M::TakesDangling, "a_manifest_needs_what_it_refers_to"),
    (M::TakesOtherDigest, "a_manifest_with_another_digest_is_refused"),
    (M::TagsEverything, "a_manifest_without_a_tag_makes_none"),
    (M::TakesDanglingIndex, "an_index_refers_to_manifests"),
    (M::TagsUnordered, "tags_come_in_pages_and_in_order"),
    (M::SaysMounted, "a_blob_is_mounted_without_its_bytes"),
    (M::KeepsTags, "deleting_a_digest_deletes_all_its_tags"),
    (M::DeletesByTag, "deleting_needs_a_digest"),
    (M::PushIsSilent, "what_it_can_not_do_is_refused"),
    (M::DeniedIsMissing, "a_denied_repository_says_so"),
    (M::HandsOutDamage, "a_damaged_blob_is_never_whole"),
    (M::RateLimitIsFinal, "a_rate_limit_may_be_tried_again"),
    (M::OneRepository, "repositories_are_told_apart"),
];

struct Broken {
    inner: FakeRegistry,
    mutation: Mutation,
}

impl Broken {
    fn at(&self, name: &ImageRef) -> ImageRef {
        if self.mutation != M::OneRepository {
            return name.clone();
        }
        let one: ImageRef = "registry.example/one".parse().unwrap();
        match (name.tag(), name.digest()) {
            (_, Some(digest)) => one.with_digest(digest),
            (Some(tag), None) => one.with_tag(tag).unwrap(),
            (None, None) => one,
        }
    }

    fn error(&self, error: Error) -> Error {
        match (self.mutation, error.kind()) {
            (M::MissingIsUnavailable, ErrorKind::ImageMissing) => Error::new(ErrorKind::Unavailable, "404"),
            (M::DeniedIsMissing, ErrorKind::ImageDenied) => Error::new(ErrorKind::ImageMissing, "404"),
            (M::RateLimitIsFinal, ErrorKind::Unavailable) => Error::new(ErrorKind::ImageDenied, "429"),
            _ => error,
        }
    }
}

#[async_trait]
impl Registry for Broken {
    fn capabilities(&self) -> CapabilitySet {
        self.inner.capabilities()
    }

    async fn resolve(&self, name: &ImageRef) -> Result<Descriptor> {
        if self.mutation == M::IgnoresDigests && name.digest().is_some() {
            let name: ImageRef = format!("{}/{}", name.registry(), name.repository()).parse().unwrap();
            return self.inner.resolve(&name).await;
        }
        self.inner.resolve(&self.at(name)).await.map_err(|error| self.error(error))
    }

    async fn manifest(&self, name: &ImageRef) -> Result<Manifest> {
        let mut manifest = self.inner.manifest(&self.at(name)).await.map_err(|error| self.error(error))?;
        if self.mutation == M::RewritesManifests {
            let document: serde_json::Value = serde_json::from_slice(&manifest.bytes).unwrap();
            manifest.bytes = document.to_string().into();
        }
        Ok(manifest)
    }

    async fn tags(&self, name: &ImageRef, after: Option<String>, limit: usize) -> Result<Vec<String>> {
        let mut tags =
            self.inner.tags(&self.at(name), after, limit).await.map_err(|error| self.error(error))?;
        if self.mutation == M::TagsUnordered {
            tags.reverse();
        }
        if self.mutation == M::KeepsTags && limit == 10 {
            tags.insert(0, "a".to_owned());
        }
        Ok(tags)
    }

    async fn open_blob(&self, name: &ImageRef, digest: &Digest, offset: u64) -> Result<ByteStream> {
        let offset = if self.mutation == M::IgnoresOffset { 0 } else { offset };
        let stream = self.inner.open_blob(&self.at(name), digest, offset).await?;
        if self.mutation == M::HandsOutDamage {
            return Ok(Box::pin(stream.filter(|piece| {
                let good = piece.is_ok();
                async move { good }
            })));
        }
        Ok(stream)
    }

    async fn blob_size(&self, name: &ImageRef, digest: &Digest) -> Result<Option<u64>> {
        self.inner.blob_size(&self.at(name), digest).await
    }

    async fn push_blob(&self, name: &ImageRef, blob: &BlobInfo, mut bytes: ByteStream) -> Result<()> {
        if self.mutation == M::ReadsAgain
            && let Some(Err(error)) = bytes.next().await
        {
            return Err(error);
        }
        match self.inner.push_blob(&self.at(name), blob, bytes).await {
            Err(error) if self.mutation == M::TrustsAnnouncements && error.kind() == ErrorKind::Invalid => {
                Ok(())
            }
            Err(error) if self.mutation == M::PushIsSilent && error.kind() == ErrorKind::Unsupported => {
                Ok(())
            }
            // The first piece is gone, which is not what this mutation is about.
            Err(error) if self.mutation == M::ReadsAgain && error.kind() == ErrorKind::Invalid => Ok(()),
            other => other,
        }
    }

    async fn mount_blob(&self, name: &ImageRef, digest: &Digest, from: &ImageRef) -> Result<bool> {
        if self.mutation == M::SaysMounted {
            return Ok(true);
        }
        self.inner.mount_blob(&self.at(name), digest, from).await
    }

    async fn push_manifest(&self, name: &ImageRef, manifest: &Manifest) -> Result<Digest> {
        let mut name = self.at(name);
        match self.mutation {
            M::TagsStay if name.tag().is_some() && self.inner.resolve(&name).await.is_ok() => {
                name = name.with_digest(manifest.digest());
                let bare: ImageRef =
                    format!("{}/{}@{}", name.registry(), name.repository(), manifest.digest())
                        .parse()
                        .unwrap();
                return self.inner.push_manifest(&bare, manifest).await;
            }
            M::TagsEverything if name.tag().is_none() => {
                name = name.with_tag("untagged").unwrap().with_digest(manifest.digest());
            }
            _ => {}
        }
        match self.inner.push_manifest(&name, manifest).await {
            Err(error)
                if matches!(
                    self.mutation,
                    M::TakesDangling | M::TakesDanglingIndex | M::TakesOtherDigest
                ) && error.kind() == ErrorKind::Invalid =>
            {
                Ok(manifest.digest())
            }
            other => other,
        }
    }

    async fn delete(&self, name: &ImageRef) -> Result<()> {
        if self.mutation == M::DeletesByTag && name.digest().is_none() {
            let digest = self.inner.resolve(name).await?.digest;
            return self.inner.delete(&name.clone().with_digest(digest)).await;
        }
        self.inner.delete(&self.at(name)).await
    }
}

struct Harness {
    mutation: Mutation,
    without: Option<Capability>,
    only: Option<&'static str>,
    fake: Mutex<FakeRegistry>,
}

impl Harness {
    fn new(mutation: Mutation, without: Option<Capability>, only: Option<&'static str>) -> Self {
        Self { mutation, without, only, fake: Mutex::new(FakeRegistry::new()) }
    }
}

#[async_trait]
impl RegistryHarness for Harness {
    async fn registry(&self) -> Result<Arc<dyn Registry>, Stop> {
        let all = CapabilitySet::all();
        let inner = FakeRegistry::with(self.without.map_or(all.clone(), |missing| all.without(missing)));
        *self.fake.lock().unwrap() = inner.clone();
        Ok(Arc::new(Broken { inner, mutation: self.mutation }))
    }

    fn repository(&self, name: &str) -> Result<ImageRef, Stop> {
        Ok(format!("registry.example/conformance/{name}").parse()?)
    }

    async fn denied(&self) -> Result<ImageRef, Stop> {
        self.fake.lock().unwrap().deny("conformance/denied");
        self.repository("denied")
    }

    async fn corrupt(&self, name: &ImageRef, blob: &Digest) -> Result<(), Stop> {
        self.fake.lock().unwrap().corrupt_blob(name, blob, "rotten");
        Ok(())
    }

    async fn limit_rate(&self) -> Result<(), Stop> {
        self.fake.lock().unwrap().inject(RegistryCall::Manifest, CallFault::Fail(ErrorKind::Unavailable));
        Ok(())
    }

    fn wants(&self, case: &str) -> bool {
        self.only.is_none_or(|only| only == case)
    }
}

#[tokio::test(start_paused = true)]
async fn the_fake_passes() {
    run(&Harness::new(M::None, None, None)).await.assert_passed(&[]);
    let mount = ["a_blob_is_mounted_without_its_bytes"];
    run(&Harness::new(M::None, Some(Capability::RegistryMount), None)).await.assert_passed(&mount);
    let delete = ["deleting_a_digest_deletes_all_its_tags", "deleting_needs_a_digest"];
    run(&Harness::new(M::None, Some(Capability::RegistryDelete), None)).await.assert_passed(&delete);
}

#[tokio::test(start_paused = true)]
async fn every_mutation_is_caught_by_its_case() {
    let (mut survived, mut covered) = (Vec::new(), BTreeSet::new());
    for (mutation, case) in TABLE {
        let without = (*mutation == M::PushIsSilent).then_some(Capability::RegistryPush);
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
