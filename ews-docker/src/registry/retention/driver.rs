//! The shell around the plan: reads a repository, and deletes what a plan says, through any registry.

use std::collections::{BTreeMap, BTreeSet};

use ews_core::registry::Registry;
use ews_core::{Digest, Error, ErrorKind, ImageRef, Result};
use futures_util::StreamExt as _;

use super::plan::{Contents, Item, Plan, Rules, plan};
use crate::registry::document;

/// The most tags and manifests that are read.
const MAX_MANIFESTS: usize = 20_000;
/// How many tags are asked for at once; most registries give all to each question anyhow.
const PAGE: usize = 10_000;
/// How many questions are under way at once.
const AT_ONCE: usize = 8;
/// The largest configuration that is read for its date, in bytes.
const MAX_CONFIG: usize = 1 << 20;

/// What [`apply`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Applied {
    /// What was deleted, in this order.
    pub deleted: Vec<Digest>,
}

/// Reads what a repository holds: every tag, what it stands for, what that needs and what is said about it, and everything that the
/// rules name. The name's own tag and digest do not count.
///
/// # Errors
/// Those of the registry; `OutOfResources` above 20,000 tags or manifests. A tag or a manifest that goes meanwhile is passed
/// over.
pub async fn read(registry: &dyn Registry, repository: &ImageRef, rules: &Rules) -> Result<Contents> {
    let mut contents = Contents { tags: tags(registry, repository).await?, manifests: BTreeMap::new() };
    let mut seen: BTreeSet<Digest> =
        contents.tags.values().copied().chain(rules.keep.iter().copied()).collect();
    seen.extend(contents.tags.keys().filter_map(|tag| super::plan::spoken_of(tag)));
    let mut open: Vec<Digest> = seen.iter().copied().collect();
    while !open.is_empty() {
        if seen.len() > MAX_MANIFESTS {
            return Err(too_many(repository));
        }
        let questions = open.drain(..).map(|digest| item(registry, repository, digest));
        let answers: Vec<Result<(Digest, Option<Item>)>> =
            futures_util::stream::iter(questions).buffer_unordered(AT_ONCE).collect().await;
        for answer in answers {
            let (digest, item) = answer?;
            let Some(item) = item else { continue };
            open.extend(item.children.iter().copied().chain(item.subject).filter(|next| seen.insert(*next)));
            contents.manifests.insert(digest, item);
        }
    }
    // A tag whose manifest went meanwhile stands for nothing.
    contents.tags.retain(|_, digest| contents.manifests.contains_key(digest));
    Ok(contents)
}

fn too_many(repository: &ImageRef) -> Error {
    Error::new(
        ErrorKind::OutOfResources,
        format!("the repository has more than {MAX_MANIFESTS} tags or manifests"),
    )
    .with_context("repository", repository.repository())
}

async fn tags(registry: &dyn Registry, repository: &ImageRef) -> Result<BTreeMap<String, Digest>> {
    let mut names: Vec<String> = Vec::new();
    loop {
        let page = registry.tags(repository, names.last().cloned(), PAGE).await?;
        let is_last = page.len() < PAGE;
        names.extend(page);
        if names.len() > MAX_MANIFESTS {
            return Err(too_many(repository));
        }
        if is_last {
            break;
        }
    }
    let questions = names.into_iter().map(|tag| async move {
        match registry.resolve(&repository.clone().with_tag(&tag)?).await {
            Ok(found) => Ok(Some((tag, found.digest))),
            Err(error) if error.kind() == ErrorKind::ImageMissing => Ok(None),
            Err(error) => Err(error),
        }
    });
    let answers: Vec<Result<Option<(String, Digest)>>> =
        futures_util::stream::iter(questions).buffer_unordered(AT_ONCE).collect().await;
    answers.into_iter().filter_map(Result::transpose).collect()
}

async fn item(
    registry: &dyn Registry,
    repository: &ImageRef,
    digest: Digest,
) -> Result<(Digest, Option<Item>)> {
    let name = repository.clone().with_digest(digest);
    let manifest = match registry.manifest(&name).await {
        Ok(manifest) => manifest,
        Err(error) if error.kind() == ErrorKind::ImageMissing => return Ok((digest, None)),
        Err(error) => return Err(error),
    };
    // What can't be read may refer to anything: then nothing is decided.
    let found = document::references(&manifest).map_err(|error| error.with_context("digest", digest))?;
    let mut item = Item::new().with_children(found.children);
    item.subject = found.subject;
    item.created = found.created.and_then(|created| created.parse().ok());
    if item.created.is_none()
        && let Some(config) = found.config
    {
        item.created = created(registry, repository, &config).await?;
    }
    Ok((digest, Some(item)))
}

/// When a configuration says that its image was made.
async fn created(
    registry: &dyn Registry,
    repository: &ImageRef,
    config: &Digest,
) -> Result<Option<ews_core::Timestamp>> {
    let mut stream = match registry.open_blob(repository, config, 0).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece?);
        if bytes.len() > MAX_CONFIG {
            return Ok(None);
        }
    }
    let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    Ok(document.get("created").and_then(|created| created.as_str()?.parse().ok()))
}

/// Deletes what a plan says, after reading everything again.
///
/// # Errors
/// `Stale` where the repository has changed so that something of the plan would not be deleted now, or another tag would go with it:
/// then nothing is deleted; plan anew. Those of the registry, with what was deleted before as context `deleted`, and
/// `maybe_applied`. What is gone already is no error.
pub async fn apply(
    registry: &dyn Registry,
    repository: &ImageRef,
    rules: &Rules,
    decided: &Plan,
) -> Result<Applied> {
    let now = plan(&read(registry, repository, rules).await?, rules)?;
    let wanted: BTreeMap<Digest, &Vec<String>> =
        decided.delete.iter().map(|deletion| (deletion.digest, &deletion.tags)).collect();
    for (digest, tags) in &wanted {
        let stale = match now.delete.iter().find(|deletion| deletion.digest == *digest) {
            Some(deletion) => deletion.tags.iter().any(|tag| !tags.contains(tag)),
            None => now.keep.contains_key(digest),
        };
        if stale {
            return Err(Error::new(
                ErrorKind::Stale,
                "the repository has changed since the plan was made, and this would no longer be deleted as planned; plan anew",
            )
            .with_operation("retention.apply")
            .with_context("repository", repository.repository())
            .with_context("digest", digest));
        }
    }
    let mut applied = Applied::default();
    // The order is today's: what is left of the plan may hang together in another way.
    for deletion in now.delete.iter().filter(|deletion| wanted.contains_key(&deletion.digest)) {
        if let Err(error) = registry.delete(&repository.clone().with_digest(deletion.digest)).await {
            let error = if applied.deleted.is_empty() { error } else { error.with_maybe_applied() };
            return Err(error.with_context("deleted", applied.deleted.len()));
        }
        tracing::info!(repository = repository.repository(), digest = %deletion.digest, tags = ?deletion.tags, "deleted");
        applied.deleted.push(deletion.digest);
    }
    Ok(applied)
}

#[cfg(test)]
mod tests {
    use ews_core::registry::{BlobInfo, Manifest};
    use ews_core::testkit::FakeRegistry;
    use oci_client::manifest::{OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE};
    use serde_json::json;

    use super::super::plan::KeepReason;
    use super::*;

    struct Bench {
        registry: FakeRegistry,
        name: ImageRef,
    }

    impl Bench {
        fn new() -> Self {
            Self { registry: FakeRegistry::new(), name: "registry.example/shop/web".parse().unwrap() }
        }

        async fn image(&self, tag: Option<&str>, day: u32, subject: Option<Digest>) -> Digest {
            let config = format!(r#"{{"created":"2026-01-{day:02}T00:00:00Z"}}"#);
            let blob = BlobInfo::new(Digest::of(config.as_bytes()), config.len() as u64);
            let bytes = config.clone().into_bytes();
            let stream = Box::pin(futures_util::stream::iter([Ok(bytes.into())]));
            self.registry.push_blob(&self.name, &blob, stream).await.unwrap();
            let part = json!({ "mediaType": "x", "digest": blob.digest.to_string(), "size": blob.size });
            let mut document = json!({ "schemaVersion": 2, "config": part, "layers": [] });
            if let Some(subject) = subject {
                document["subject"] = json!({ "mediaType": "x", "digest": subject.to_string(), "size": 1 });
            }
            self.push(tag, OCI_IMAGE_MEDIA_TYPE, &document).await
        }

        async fn index(&self, tag: &str, children: &[Digest]) -> Digest {
            let entry = |child: &Digest| json!({ "mediaType": OCI_IMAGE_MEDIA_TYPE, "digest": child.to_string(), "size": 1 });
            let children: Vec<_> = children.iter().map(entry).collect();
            let document = json!({ "schemaVersion": 2, "manifests": children });
            self.push(Some(tag), OCI_IMAGE_INDEX_MEDIA_TYPE, &document).await
        }

        async fn push(&self, tag: Option<&str>, media_type: &str, document: &serde_json::Value) -> Digest {
            let manifest = Manifest::new(media_type, document.to_string());
            let name = match tag {
                Some(tag) => self.name.clone().with_tag(tag).unwrap(),
                None => self.name.clone().with_digest(manifest.digest()),
            };
            self.registry.push_manifest(&name, &manifest).await.unwrap()
        }

        async fn plan(&self, rules: &Rules) -> Plan {
            plan(&read(&self.registry, &self.name, rules).await.unwrap(), rules).unwrap()
        }

        async fn tags(&self) -> Vec<String> {
            self.registry.tags(&self.name, None, 100).await.unwrap()
        }
    }

    #[tokio::test]
    async fn a_repository_is_read_planned_and_thinned_out() {
        let bench = Bench::new();
        let (old, new) = (bench.image(Some("old"), 2, None).await, bench.image(Some("new"), 4, None).await);
        let child = bench.image(None, 3, None).await;
        let index = bench.index("multi", &[child]).await;
        let signature = bench.image(None, 9, Some(new)).await;
        let fallback = bench.index(&new.to_string().replace(':', "-"), &[signature]).await;
        let bare = bench.image(None, 5, None).await;
        // Untagged too, and seen by what is said about it: both stay.
        let signed = bench.image(None, 7, None).await;
        let tag = format!("{}.sig", signed.to_string().replace(':', "-"));
        let said = bench.image(Some(&tag), 8, None).await;
        // Named and untagged: it must be read, or what it needs would go.
        let needed = bench.image(Some("stale"), 1, None).await;
        let running = bench.index("moved", &[needed]).await;
        bench.image(Some("moved"), 6, None).await;

        let rules = Rules::default().with_kept([running]).with_pinned("moved").with_last(2);
        let plan = bench.plan(&rules).await;
        assert!(plan.keep[&new].contains(&KeepReason::Recent(2)), "{plan}");
        assert_eq!(plan.keep[&fallback], BTreeSet::from([KeepReason::About(new)]));
        assert_eq!(plan.keep[&needed], BTreeSet::from([KeepReason::ChildOf(running)]));
        assert!(plan.keep.contains_key(&signature) && !plan.keep.contains_key(&bare));
        assert_eq!(plan.keep[&signed], BTreeSet::from([KeepReason::Untagged]));
        assert_eq!(plan.keep[&said], BTreeSet::from([KeepReason::About(signed)]));
        let gone: BTreeSet<Digest> = plan.delete.iter().map(|deletion| deletion.digest).collect();
        assert_eq!(gone, BTreeSet::from([old, index, child]));

        let applied = apply(&bench.registry, &bench.name, &rules, &plan).await.unwrap();
        assert_eq!(applied.deleted.len(), 3);
        assert!(
            applied.deleted.iter().position(|d| *d == index)
                < applied.deleted.iter().position(|d| *d == child)
        );
        let mut left = ["moved", "new", &new.to_string().replace(':', "-"), &tag, "stale"];
        left.sort_unstable();
        assert_eq!(bench.tags().await, left);
        // Again: nothing is left to do, and that is no error.
        assert_eq!(apply(&bench.registry, &bench.name, &rules, &plan).await.unwrap(), Applied::default());
    }

    #[tokio::test]
    async fn a_plan_that_no_longer_holds_deletes_nothing() {
        let bench = Bench::new();
        let old = bench.image(Some("old"), 1, None).await;
        bench.image(Some("v1"), 2, None).await;
        let rules = Rules::default().with_pinned("v*");
        let plan = bench.plan(&rules).await;
        assert_eq!(plan.delete.len(), 1);
        for tag in ["other", "v2"] {
            let manifest = bench.registry.manifest(&bench.name.clone().with_digest(old)).await.unwrap();
            bench
                .registry
                .push_manifest(&bench.name.clone().with_tag(tag).unwrap(), &manifest)
                .await
                .unwrap();
            let error = apply(&bench.registry, &bench.name, &rules, &plan).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Stale, "{error}");
            assert!(bench.tags().await.contains(&"old".to_owned()));
        }
    }

    #[tokio::test]
    async fn a_manifest_that_can_not_be_read_decides_nothing() {
        let bench = Bench::new();
        bench.image(Some("v1"), 1, None).await;
        bench.push(Some("odd"), OCI_IMAGE_MEDIA_TYPE, &json!({ "manifests": [] })).await;
        let rules = Rules::default().with_pinned("v1");
        let error = read(&bench.registry, &bench.name, &rules).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
    }
}
