//! The suite of the [`Registry`] contract. Everything is pushed by the suite itself, so that a registry which takes no pushes
//! is tested only for what it refuses.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::json;

use super::expect::{ensure, refused, run_cases, same};
use super::{CaseResult, Report, Stop};
use crate::capability::Capability;
use crate::error::ErrorKind;
use crate::registry::{BlobInfo, Manifest, Registry};
use crate::spec::source::{Digest, ImageRef};
use crate::testkit::fake_registry::{in_pieces, read_all};

/// Makes the registry under test.
#[async_trait]
pub trait RegistryHarness: Send + Sync {
    /// The registry under test.
    async fn registry(&self) -> Result<Arc<dyn Registry>, Stop>;

    /// A repository of this name that may be written to, without a tag; empty on a first run.
    fn repository(&self, name: &str) -> Result<ImageRef, Stop>;

    /// A repository that these credentials may not read.
    async fn denied(&self) -> Result<ImageRef, Stop> {
        Err(Stop::skip("the harness has no repository that is denied"))
    }

    /// Damages a blob at rest.
    async fn corrupt(&self, name: &ImageRef, blob: &Digest) -> Result<(), Stop> {
        let _ = (name, blob);
        Err(Stop::skip("the harness can't damage a blob"))
    }

    /// Makes the next call fail for a rate limit.
    async fn limit_rate(&self) -> Result<(), Stop> {
        Err(Stop::skip("the harness can't limit the rate"))
    }

    /// What is under test, for the report.
    fn name(&self) -> String {
        "registry".to_owned()
    }

    /// Whether this case is to run; for work on a single one. Default: yes.
    fn wants(&self, case: &str) -> bool {
        let _ = case;
        true
    }
}

/// Runs every case.
pub async fn run(harness: &dyn RegistryHarness) -> Report {
    let mut report = Report::new(format!("registry ({})", harness.name()));
    let bench = async |number: u16| -> Result<Bench<'_>, Stop> {
        let (registry, name) = (harness.registry().await?, harness.repository(&format!("c{number}"))?);
        Ok(Bench { harness, registry, name })
    };
    run_cases! { report, Duration::from_secs(120), harness, bench;
        1 cases::what_is_not_there_is_missing;
        2 cases::a_blob_comes_back_whole_and_from_an_offset;
        3 cases::a_blob_that_is_not_what_it_says_is_refused;
        4 cases::a_blob_that_is_there_is_not_read_again;
        5 cases::a_manifest_is_found_by_tag_and_by_digest;
        6 cases::a_manifest_keeps_its_bytes;
        7 cases::a_tag_moves;
        8 cases::a_manifest_needs_what_it_refers_to;
        9 cases::a_manifest_with_another_digest_is_refused;
        10 cases::a_manifest_without_a_tag_makes_none;
        11 cases::an_index_refers_to_manifests;
        12 cases::tags_come_in_pages_and_in_order;
        13 cases::a_blob_is_mounted_without_its_bytes;
        14 cases::deleting_a_digest_deletes_all_its_tags;
        15 cases::deleting_needs_a_digest;
        16 cases::what_it_can_not_do_is_refused;
        17 cases::a_denied_repository_says_so;
        18 cases::a_damaged_blob_is_never_whole;
        19 cases::a_rate_limit_may_be_tried_again;
        20 cases::repositories_are_told_apart;
    }
    report
}

/// What a case works with.
struct Bench<'a> {
    harness: &'a dyn RegistryHarness,
    registry: Arc<dyn Registry>,
    name: ImageRef,
}

impl Bench<'_> {
    fn needs(&self, capability: Capability) -> Result<(), Stop> {
        if self.registry.capabilities().has(capability) {
            return Ok(());
        }
        Err(Stop::skip(format!("the registry lacks the capability `{capability}`")))
    }

    async fn push(&self, name: &ImageRef, bytes: &[u8]) -> crate::Result<BlobInfo> {
        let blob = BlobInfo { digest: Digest::of(bytes), size: bytes.len() as u64 };
        self.registry.push_blob(name, &blob, in_pieces(Bytes::copy_from_slice(bytes), 1000)).await?;
        Ok(blob)
    }

    /// An image of one layer that holds this text, pushed except for its manifest.
    async fn image(&self, text: &str) -> crate::Result<Manifest> {
        let config = self.push(&self.name, format!("{{\"conformance\":\"{text}\"}}").as_bytes()).await?;
        let layer = self.push(&self.name, text.as_bytes()).await?;
        Ok(manifest(&config, &layer))
    }

    async fn read(&self, blob: &Digest, offset: u64) -> crate::Result<Bytes> {
        read_all(self.registry.open_blob(&self.name, blob, offset).await?, 64 * 1024 * 1024).await
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn manifest(config: &BlobInfo, layer: &BlobInfo) -> Manifest {
    let part = |kind: &str, blob: &BlobInfo| json!({ "mediaType": kind, "digest": blob.digest.to_string(), "size": blob.size });
    let document = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": part("application/vnd.oci.image.config.v1+json", config),
        "layers": [part("application/vnd.oci.image.layer.v1.tar", layer)],
    });
    // Spaces and a line end that a registry which writes the document anew would lose.
    Manifest { media_type: MANIFEST.to_owned(), bytes: format!("{document:#}\n  ").into() }
}

mod cases {
    use super::*;

    pub(super) async fn what_is_not_there_is_missing(bench: Bench<'_>) -> CaseResult {
        let nowhere = bench.harness.repository("none")?.with_tag("1")?;
        let (registry, unknown) = (&bench.registry, Digest::of(b"conformance: nobody has this"));
        refused("resolving", registry.resolve(&nowhere).await, &[ErrorKind::ImageMissing])?;
        refused("its manifest", registry.manifest(&nowhere).await, &[ErrorKind::ImageMissing])?;
        refused("its tags", registry.tags(&nowhere, None, 10).await, &[ErrorKind::ImageMissing])?;
        let blob = registry.open_blob(&nowhere, &unknown, 0).await.map(|_| "a stream");
        refused("a blob", blob, &[ErrorKind::NotFound])?;
        same("a blob's size", &registry.blob_size(&nowhere, &unknown).await?, &None)?;
        if registry.capabilities().has(Capability::RegistryPush) {
            let image = bench.image("missing").await?;
            registry.push_manifest(&bench.name.clone().with_tag("1")?, &image).await?;
            let other = bench.name.clone().with_tag("2")?;
            refused("another tag", registry.resolve(&other).await, &[ErrorKind::ImageMissing])?;
            let other = bench.name.clone().with_digest(unknown);
            refused("another digest", registry.manifest(&other).await, &[ErrorKind::ImageMissing])?;
        }
        Ok(())
    }

    pub(super) async fn a_blob_comes_back_whole_and_from_an_offset(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::RegistryPush)?;
        let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        for content in [bytes.as_slice(), b"x", b""] {
            let blob = bench.push(&bench.name, content).await?;
            same("its size", &bench.registry.blob_size(&bench.name, &blob.digest).await?, &Some(blob.size))?;
            for offset in [0, content.len() / 3, content.len().saturating_sub(1)] {
                let wanted = content.get(offset..).unwrap_or_default();
                let found = bench.read(&blob.digest, offset as u64).await?;
                ensure!(
                    found == wanted,
                    "{} bytes from {offset} on came back as {} others",
                    wanted.len(),
                    found.len()
                );
            }
        }
        Ok(())
    }

    pub(super) async fn a_blob_that_is_not_what_it_says_is_refused(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::RegistryPush)?;
        for (announced, size, sent) in [("other", 5, "bytes"), ("bytes", 4, "bytes"), ("bytes", 5, "byte")] {
            let blob = BlobInfo { digest: Digest::of(announced.as_bytes()), size };
            let bytes = in_pieces(Bytes::from_static(sent.as_bytes()), 1000);
            let pushed = bench.registry.push_blob(&bench.name, &blob, bytes).await;
            refused(
                &format!("`{sent}` announced as {size} bytes of `{announced}`"),
                pushed,
                &[ErrorKind::Invalid],
            )?;
            same("the refused blob", &bench.registry.blob_size(&bench.name, &blob.digest).await?, &None)?;
        }
        Ok(())
    }

    pub(super) async fn a_blob_that_is_there_is_not_read_again(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::RegistryPush)?;
        let blob = bench.push(&bench.name, b"once").await?;
        let trap =
            futures_util::stream::iter([Err(crate::Error::internal("the bytes were asked for again"))]);
        bench.registry.push_blob(&bench.name, &blob, Box::pin(trap)).await?;
        Ok(())
    }

    pub(super) async fn a_manifest_is_found_by_tag_and_by_digest(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::RegistryPush)?;
        let image = bench.image("found").await?;
        let tagged = bench.name.clone().with_tag("v1.0_a-b")?;
        let digest = bench.registry.push_manifest(&tagged, &image).await?;
        same("the pushed digest", &digest, &image.digest())?;
        for name in [tagged, bench.name.clone().with_digest(digest)] {
            let found = bench.registry.resolve(&name).await?;
            same("the resolved digest", &found.digest, &digest)?;
            same("its media type", &found.media_type.as_str(), &MANIFEST)?;
            same("its size", &found.size, &(image.bytes.len() as u64))?;
        }
        Ok(())
    }

    pub(super) async fn a_manifest_keeps_its_bytes(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::RegistryPush)?;
        let image = bench.image("bytes").await?;
        let digest = bench.registry.push_manifest(&bench.name.clone().with_tag("1")?, &image).await?;
        for name in [bench.name.clone().with_tag("1")?, bench.name.clone().with_digest(digest)] {
            same("the manifest", &bench.registry.manifest(&name).await?, &image)?;
        }
        Ok(())
    }

    pub(super) async fn a_tag_moves(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::RegistryPush)?;
        let (old, new) = (bench.image("old").await?, bench.image("new").await?);
        let name = bench.name.clone().with_tag("moving")?;
        bench.registry.push_manifest(&name, &old).await?;
        bench.registry.push_manifest(&name, &new).await?;
        same("what the tag stands for", &bench.registry.resolve(&name).await?.digest, &new.digest())?;
        let pinned = bench.name.clone().with_digest(old.digest());
        same("what was there before, by digest", &bench.registry.manifest(&pinned).await?, &old)
    }

    pub(super) async fn a_manifest_needs_what_it_refers_to(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::RegistryPush)?;
        let there = bench.push(&bench.name, b"{\"there\":true}").await?;
        let missing = BlobInfo { digest: Digest::of(b"conformance: nobody pushed this"), size: 31 };
        let name = bench.name.clone().with_tag("dangling")?;
        for (what, image) in
            [("a layer", manifest(&there, &missing)), ("a config", manifest(&missing, &there))]
        {
            let pushed = bench.registry.push_manifest(&name, &image).await;
            refused(&format!("a manifest without {what}"), pushed, &[ErrorKind::Invalid])?;
            refused("its tag", bench.registry.resolve(&name).await, &[ErrorKind::ImageMissing])?;
        }
        Ok(())
    }

    pub(super) async fn a_manifest_with_another_digest_is_refused(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::RegistryPush)?;
        let image = bench.image("digest").await?;
        let other = bench.name.clone().with_digest(Digest::of(b"other"));
        refused("another digest", bench.registry.push_manifest(&other, &image).await, &[ErrorKind::Invalid])
    }

    pub(super) async fn a_manifest_without_a_tag_makes_none(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::RegistryPush)?;
        let (tagged, bare) = (bench.image("tagged").await?, bench.image("bare").await?);
        bench.registry.push_manifest(&bench.name.clone().with_tag("only")?, &tagged).await?;
        bench.registry.push_manifest(&bench.name.clone().with_digest(bare.digest()), &bare).await?;
        same("tags", &bench.registry.tags(&bench.name, None, 10).await?, &vec!["only".to_owned()])
    }

    pub(super) async fn an_index_refers_to_manifests(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::RegistryPush)?;
        let image = bench.image("child").await?;
        let document = json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [{
                "mediaType": MANIFEST,
                "digest": image.digest().to_string(),
                "size": image.bytes.len(),
                "platform": { "os": "linux", "architecture": "amd64" },
            }],
        });
        let index = Manifest { media_type: INDEX.to_owned(), bytes: document.to_string().into() };
        let name = bench.name.clone().with_tag("index")?;
        refused(
            "an index before its manifest",
            bench.registry.push_manifest(&name, &index).await,
            &[ErrorKind::Invalid],
        )?;
        bench.registry.push_manifest(&bench.name.clone().with_digest(image.digest()), &image).await?;
        bench.registry.push_manifest(&name, &index).await?;
        same("the index", &bench.registry.manifest(&name).await?, &index)
    }

    pub(super) async fn tags_come_in_pages_and_in_order(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::RegistryPush)?;
        let image = bench.image("tags").await?;
        let mut wanted: Vec<String> = (1..=11).map(|number| format!("v{number}")).collect();
        for tag in &wanted {
            bench.registry.push_manifest(&bench.name.clone().with_tag(tag)?, &image).await?;
        }
        wanted.sort();
        let (mut after, mut found) = (None, Vec::new());
        for _ in 0..20 {
            let page = bench.registry.tags(&bench.name, after, 4).await?;
            ensure!(page.len() <= 4, "a page of {} where at most 4 were asked for", page.len());
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            found.extend(page);
        }
        same("tags, page by page", &found, &wanted)?;
        refused("a limit of zero", bench.registry.tags(&bench.name, None, 0).await, &[ErrorKind::Invalid])
    }

    pub(super) async fn a_blob_is_mounted_without_its_bytes(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::RegistryPush)?;
        bench.needs(Capability::RegistryMount)?;
        let blob = bench.push(&bench.name, b"mounted").await?;
        let to = bench.harness.repository("mount-target")?;
        let mounted = bench.registry.mount_blob(&to, &blob.digest, &bench.name).await?;
        let size = bench.registry.blob_size(&to, &blob.digest).await?;
        same("the blob is there exactly if the registry says so", &size.is_some(), &mounted)?;
        let unknown = Digest::of(b"conformance: nobody has this");
        let mounted = bench.registry.mount_blob(&to, &unknown, &bench.name).await?;
        same("mounting what is not there", &mounted, &false)
    }

    pub(super) async fn deleting_a_digest_deletes_all_its_tags(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::RegistryPush)?;
        bench.needs(Capability::RegistryDelete)?;
        let (gone, kept) = (bench.image("gone").await?, bench.image("kept").await?);
        for (tag, image) in [("a", &gone), ("b", &gone), ("c", &kept)] {
            bench.registry.push_manifest(&bench.name.clone().with_tag(tag)?, image).await?;
        }
        let name = bench.name.clone().with_digest(gone.digest());
        bench.registry.delete(&name).await?;
        refused("the deleted manifest", bench.registry.manifest(&name).await, &[ErrorKind::ImageMissing])?;
        same("tags", &bench.registry.tags(&bench.name, None, 10).await?, &vec!["c".to_owned()])?;
        same(
            "the other manifest",
            &bench.registry.resolve(&bench.name.clone().with_tag("c")?).await?.digest,
            &kept.digest(),
        )?;
        // Again: it is gone, and nothing happens.
        bench.registry.delete(&name).await?;
        Ok(())
    }

    pub(super) async fn deleting_needs_a_digest(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::RegistryPush)?;
        bench.needs(Capability::RegistryDelete)?;
        let image = bench.image("by tag").await?;
        let name = bench.name.clone().with_tag("a")?;
        bench.registry.push_manifest(&name, &image).await?;
        refused("deleting by tag", bench.registry.delete(&name).await, &[ErrorKind::Invalid])?;
        same("what the tag stands for", &bench.registry.resolve(&name).await?.digest, &image.digest())
    }

    pub(super) async fn what_it_can_not_do_is_refused(bench: Bench<'_>) -> CaseResult {
        let (capabilities, registry) = (bench.registry.capabilities(), &bench.registry);
        let blob = BlobInfo { digest: Digest::of(b"x"), size: 1 };
        if !capabilities.has(Capability::RegistryPush) {
            let bytes = in_pieces(Bytes::from_static(b"x"), 1);
            refused(
                "a blob",
                registry.push_blob(&bench.name, &blob, bytes).await,
                &[ErrorKind::Unsupported],
            )?;
            let image = manifest(&blob, &blob);
            refused(
                "a manifest",
                registry.push_manifest(&bench.name, &image).await,
                &[ErrorKind::Unsupported],
            )?;
        }
        if !capabilities.has(Capability::RegistryMount) {
            let mounted =
                registry.mount_blob(&bench.name, &blob.digest, &bench.harness.repository("other")?).await;
            refused("a mount", mounted, &[ErrorKind::Unsupported])?;
        }
        if !capabilities.has(Capability::RegistryDelete) {
            let name = bench.name.clone().with_digest(blob.digest);
            refused("a deletion", registry.delete(&name).await, &[ErrorKind::Unsupported])?;
        }
        same("capabilities asked for twice", &registry.capabilities(), &capabilities)
    }

    pub(super) async fn a_denied_repository_says_so(bench: Bench<'_>) -> CaseResult {
        let denied = bench.harness.denied().await?;
        let kinds = [ErrorKind::ImageDenied, ErrorKind::Unauthorized];
        let Err(error) = bench.registry.resolve(&denied).await else {
            return Err(Stop::fail("a denied repository was resolved"));
        };
        ensure!(kinds.contains(&error.kind()), "expected one of {kinds:?}, got {error}");
        let context: Vec<(&str, &str)> = error.context().collect();
        ensure!(
            context.contains(&("repository", denied.repository())),
            "the error does not say where: {error}"
        );
        ensure!(context.contains(&("registry", denied.registry())), "the error does not say where: {error}");
        Ok(())
    }

    pub(super) async fn a_damaged_blob_is_never_whole(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::RegistryPush)?;
        let blob = bench.push(&bench.name, b"sound").await?;
        bench.harness.corrupt(&bench.name, &blob.digest).await?;
        refused("reading it whole", bench.read(&blob.digest, 0).await, &[ErrorKind::Decode])
    }

    pub(super) async fn a_rate_limit_may_be_tried_again(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::RegistryPush)?;
        let image = bench.image("limited").await?;
        let name = bench.name.clone().with_tag("1")?;
        bench.registry.push_manifest(&name, &image).await?;
        bench.harness.limit_rate().await?;
        // A driver may wait by itself; if it does not, it must say that a retry is safe.
        if let Err(error) = bench.registry.resolve(&name).await {
            same("the kind of a rate limit", &error.kind(), &ErrorKind::Unavailable)?;
            same("whether to try again", &error.retry(), &crate::Retry::Safe)?;
        }
        same("after it", &bench.registry.resolve(&name).await?.digest, &image.digest())
    }

    pub(super) async fn repositories_are_told_apart(bench: Bench<'_>) -> CaseResult {
        bench.needs(Capability::RegistryPush)?;
        let image = bench.image("apart").await?;
        bench.registry.push_manifest(&bench.name.clone().with_tag("1")?, &image).await?;
        let other = bench.harness.repository("apart")?.with_tag("1")?;
        refused("the tag elsewhere", bench.registry.resolve(&other).await, &[ErrorKind::ImageMissing])?;
        let blob = Digest::of(b"apart");
        same("the blob elsewhere", &bench.registry.blob_size(&other, &blob).await?, &None)
    }
}
