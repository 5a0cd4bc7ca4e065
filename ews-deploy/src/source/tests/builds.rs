//! What is built and committed, on a store that plays a builder.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use ews_core::image::{
    BuildSpec, CommitSpec, EnsureOptions, Image, ImageQuery, Progress, ProgressStream, PruneOptions,
};
use ews_core::spec::content::{ConfigFile, EnvValue, FileContent};
use ews_core::spec::storage::{Mount, MountKind};
use ews_core::{Arch, CapabilitySet, ErrorKind, InstanceId, InstanceSpec, Os, Platform, Selector};
use futures_util::TryStreamExt as _;

use super::super::artifact::tests::made;
use super::super::*;
use super::stage::{Stage, spec, target};

/// Builds what it is told, and keeps what it was asked.
#[derive(Default)]
struct Store {
    built: Mutex<Vec<(BuildSpec, Vec<u8>)>>,
    saved: Mutex<Vec<u8>>,
    pushed: Mutex<Option<Digest>>,
    pruned: Mutex<Vec<String>>,
    labels: BTreeMap<String, String>,
}

fn at_once(progress: Progress) -> ProgressStream {
    Box::pin(futures_util::stream::iter([Ok(progress)]))
}

#[async_trait]
impl ImageStore for Store {
    fn capabilities(&self) -> CapabilitySet {
        CapabilitySet::all()
    }

    async fn ensure(&self, _: &ImageSource, _: &EnsureOptions) -> Result<ProgressStream> {
        Err(Error::internal("not here"))
    }

    async fn inspect(&self, _: &ImageQuery) -> Result<Image> {
        Err(Error::internal("not here"))
    }

    async fn list(&self, _: &Selector) -> Result<Vec<Image>> {
        Ok(Vec::new())
    }

    async fn prune(&self, options: &PruneOptions) -> Result<Vec<Digest>> {
        self.pruned.lock().unwrap().push(options.labels.as_ref().unwrap().to_string());
        Ok(Vec::new())
    }

    async fn build(&self, spec: &BuildSpec, context: ByteStream) -> Result<ProgressStream> {
        let context: Vec<Bytes> = context.try_collect().await?;
        self.built.lock().unwrap().push((spec.clone(), context.concat()));
        Ok(at_once(Progress::Done { image: Some(Digest::of(b"built")), manifest: None }))
    }

    async fn commit(&self, _: &InstanceId, spec: &CommitSpec) -> Result<Image> {
        let mut image = Image::new(Digest::of(b"committed"), Platform::new(Os::Linux, Arch::Amd64));
        image.labels = self.labels.clone();
        image.labels.extend(spec.labels.clone());
        Ok(image)
    }

    async fn push(&self, _: &ImageRef) -> Result<ProgressStream> {
        Ok(at_once(Progress::Done { image: None, manifest: *self.pushed.lock().unwrap() }))
    }

    async fn save(&self, _: &[ImageQuery]) -> Result<ByteStream> {
        let saved = self.saved.lock().unwrap().clone();
        Ok(made::stream(saved))
    }
}

fn on(stage: &Stage, store: &Arc<Store>) -> Sources {
    stage.sources.clone().with_images(store.clone(), "engine-1")
}

/// An archive as engines save images.
fn saved(layers: &[&[u8]]) -> Vec<u8> {
    let names: Vec<String> = (0..layers.len()).map(|number| format!("{number}/layer.tar")).collect();
    let list = serde_json::json!([{"Config": "c.json", "RepoTags": null, "Layers": names}]).to_string();
    let mut files: Vec<_> = names.iter().zip(layers).map(|(name, layer)| made::file(name, layer)).collect();
    files.push(made::file("manifest.json", list.as_bytes()));
    made::tar(&files)
}

#[tokio::test]
async fn a_source_tree_becomes_the_same_layer_as_its_result_by_hand() {
    let stage = Stage::new().await;
    let store = Arc::new(Store::default());
    let sources = on(&stage, &store);
    *store.saved.lock().unwrap() = saved(&[&made::tar(&[made::file("out/index.html", b"built")])]);
    let tree = stage.upload(made::tar(&[made::file("page.txt", b"source")])).await;
    let mut request = CompiledRequest::new(tree.clone(), "site", target("shop/compiled:1"));
    request.secrets.insert("npm".to_owned(), EnvValue::Plain("x".to_owned()));
    let resolved = sources.resolve(&SourceRequest::new(request), spec()).await.unwrap();

    let by_hand = stage.upload(made::tar_of("index.html", b"built")).await;
    let by_hand = stage.resolve(ArtifactRequest::new(by_hand, "site", target("shop/site:1"))).await.unwrap();
    assert_eq!(resolved.provenance.layer, by_hand.provenance.layer);
    assert_eq!(resolved.provenance.result, by_hand.provenance.result);
    assert_eq!(resolved.provenance.kind, ProvenanceKind::Compiled);
    assert_eq!(resolved.provenance.upload, Some(tree.digest()));
    // By the digest that the builder's tag had then.
    assert!(resolved.provenance.builder.as_ref().unwrap().digest().is_some());

    let (build, context) = store.built.lock().unwrap().pop().unwrap();
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(context.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
        files.insert(name, text);
    }
    assert_eq!(files.keys().collect::<Vec<_>>(), ["Dockerfile", "src/", "src/page.txt"]);
    let builder = resolved.provenance.builder.unwrap();
    let expected = format!(
        "FROM {builder} AS build\nWORKDIR /src\nCOPY src/ /src/\nRUN --mount=type=secret,id=npm,required=true make\nFROM scratch\n\
         COPY --from=build /src/dist/ /out/\n"
    );
    assert_eq!(files["Dockerfile"], expected);
    assert_eq!(store.pruned.lock().unwrap().as_slice(), [format!("ews.build={}", build.labels["ews.build"])]);
    assert_eq!(build.secrets.len(), 1);
}

#[tokio::test]
async fn a_result_is_a_strangers_upload_too() {
    let stage = Stage::new().await;
    let store = Arc::new(Store::default());
    let sources = on(&stage, &store);
    let tree = stage.upload(made::tar_of("page.txt", b"source")).await;
    for (archive, fault) in [
        (saved(&[&made::tar(&[made::link("out/l", "/etc/passwd")])]), "absolute"),
        (saved(&[&made::tar(&[made::file("elsewhere/x", b"")])]), "no directory `out`"),
        (saved(&[&made::tar(&[made::file("out/d/../../x", b"")])]), "leads out"),
        (saved(&[&made::tar(&[]), &made::tar(&[])]), "not of one layer"),
        (made::tar(&[]), "has no list"),
    ] {
        *store.saved.lock().unwrap() = archive;
        let request = CompiledRequest::new(tree.clone(), "site", target("shop/compiled:1"));
        let error = sources.resolve(&request.into(), spec()).await.unwrap_err();
        assert!(error.message().contains(fault), "{fault}: {error}");
    }
    // However it went, the engine was asked to forget the result.
    assert_eq!(store.pruned.lock().unwrap().len(), 5);
    for (on, id, fault) in [("program", "npm", "has no builder"), ("site", "a,b", "no id of a build secret")]
    {
        let mut request = CompiledRequest::new(tree.clone(), on, target("shop/compiled:1"));
        request.secrets.insert(id.to_owned(), EnvValue::Plain("x".to_owned()));
        let error = sources.resolve(&request.into(), spec()).await.unwrap_err();
        assert!(error.message().contains(fault), "{fault}: {error}");
    }
    let request = CompiledRequest::new(tree, "site", target("shop/compiled:1"));
    let error = stage.sources.resolve(&request.into(), spec()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.message().contains("no image store"), "{error}");
}

#[tokio::test]
async fn a_dockerfile_builds_on_what_is_allowed_and_its_result_must_stand_on_it() {
    let stage = Stage::new().await;
    let store = Arc::new(Store::default());
    let sources = on(&stage, &store);
    let request = async |dockerfile: &str| {
        let context = stage
            .upload(made::tar(&[made::file("x", b"x"), made::file("Dockerfile", dockerfile.as_bytes())]))
            .await;
        DockerfileRequest::new(context, target("shop/built:1"))
    };
    let good = request("FROM registry.example/base/httpd:1\nCOPY x /x").await;
    // What the engine pushes stands on the base.
    let digest = stage.base("shop/built:1", &[("linux", "amd64")], &["one", "two", "own"]).await;
    *store.pushed.lock().unwrap() = Some(digest);
    let resolved = sources.resolve(&good.clone().into(), spec()).await.unwrap();
    assert_eq!((resolved.provenance.result, resolved.provenance.bases.len()), (digest, 1));
    assert_eq!(resolved.warnings, []);
    assert!(store.built.lock().unwrap()[0].0.pull);
    // Or another image than the registry has under the base's name.
    let other = stage.base("shop/built:1", &[("linux", "amd64")], &["evil", "two", "own"]).await;
    *store.pushed.lock().unwrap() = Some(other);
    let error = sources.resolve(&good.clone().into(), spec()).await.unwrap_err();
    assert!(error.message().contains("does not stand on"), "{error}");
    // Not pushed: pinned to its engine, and it is said what was not checked.
    let local = sources.resolve(&good.clone().local().into(), spec()).await.unwrap();
    let Source::Image(image) = &local.spec.instance.source else { panic!("no image") };
    let pin = ImagePin::Local { engine: "engine-1".to_owned(), image_id: Digest::of(b"built") };
    assert_eq!(image.pin, Some(pin));
    assert_eq!(local.warnings[0].about, WarningAbout::Unchecked);

    let built = store.built.lock().unwrap().len();
    for (request, fault) in [
        (request("FROM evil:1").await, "not allowed: docker.io/library/evil:1"),
        (request("FROM registry.example/base/httpd:1\nCOPY --from=evil:1 /x /x").await, "evil:1"),
        (request("").await, "no `FROM`"),
        (good.clone().with_arg("NPM_TOKEN", "x"), "sounds like a secret"),
        (good.clone().with_dockerfile("docker/Dockerfile"), "no file `docker/Dockerfile`"),
        (DockerfileRequest::new(stage.upload(made::jar()).await, target("shop/built:1")), "is a jar"),
    ] {
        let error = sources.resolve(&request.into(), spec()).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.message().contains(fault), "{fault}: {error}");
    }
    assert_eq!(store.built.lock().unwrap().len(), built);
    let open = sources.with_policy(BasePolicy::anything());
    let anything = open.resolve(&request("FROM scratch\nCOPY x /x").await.into(), spec()).await.unwrap();
    assert_eq!(anything.warnings, []);
}

#[tokio::test]
async fn a_submission_says_what_it_holds_and_somebody_else_approves() {
    let stage = Stage::new().await;
    let labels = [("org.opencontainers.image.base.name".to_owned(), "somebody/else:1".to_owned())];
    let store = Arc::new(Store { labels: labels.into(), ..Store::default() });
    let sources = on(&stage, &store);
    let mut given = InstanceSpec::new(spec().instance.source);
    given.mounts.push(Mount::new("/data", MountKind::Volume("orders".parse().unwrap())));
    given.env.insert("DB".to_owned(), EnvValue::Secret { secret: "db-password".parse().unwrap() });
    given.files.push(ConfigFile::new("/etc/key", FileContent::Secret("tls".parse().unwrap())));
    let instance = InstanceId::new("c1").unwrap();
    let request =
        SubmitRequest::new(instance, given, target("shop/submitted:1"), "ann").with_comment("works now");
    let submission = sources.submit(&request.clone().local()).await.unwrap();
    let said: Vec<String> = submission.warnings.iter().map(ToString::to_string).collect();
    let said = said.join("\n");
    for part in [
        "`/data` is not in the image: it is the volume `orders`",
        "secrets (DB, /etc/key)",
        "not on the list of bases",
        "was not pushed",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // A record that is kept and read again.
    let text = serde_json::to_string(&submission).unwrap();
    assert_eq!(serde_json::from_str::<Submission>(&text).unwrap(), submission);

    for approver in ["", "ann", " Ann "] {
        let request = SubmissionRequest::new(submission.clone(), Approved::new(approver));
        let error = sources.resolve(&request.into(), spec()).await.unwrap_err();
        assert!(error.message().contains("not approved by somebody else"), "{error}");
    }
    let approved = SubmissionRequest::new(submission.clone(), Approved::new("bob"));
    let resolved = sources.resolve(&approved.into(), spec()).await.unwrap();
    assert_eq!(
        (resolved.provenance.by.as_str(), resolved.provenance.approved_by.as_deref()),
        ("ann", Some("bob"))
    );
    assert_eq!(resolved.warnings, submission.warnings);
    let nobody =
        SubmitRequest::new(InstanceId::new("c1").unwrap(), request.spec.clone(), request.name.clone(), " ");
    assert_eq!(sources.submit(&nobody).await.unwrap_err().kind(), ErrorKind::Invalid);
}
