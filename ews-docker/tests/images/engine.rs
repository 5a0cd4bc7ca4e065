//! What goes beyond the suite, on a real engine: pins and tags, credentials, platforms, builds, pruning, dropped calls.

use std::collections::BTreeSet;

use ews_core::image::{
    BuildSpec, EnsureOptions, Image, ImageQuery, ImageStore as _, Progress, ProgressStream, PruneOptions,
};
use ews_core::spec::source::{ImagePin, ImageSource, PullPolicy};
use ews_core::{Arch, Digest, ErrorKind, ImageRef, Os, Platform, Result, Selector};
use ews_docker::{Credentials, DockerImages};
use futures_util::{StreamExt as _, stream};
use serde_json::json;

use super::conformance::Only;
use super::rig::standin::Standin;
use super::rig::{self, Raw, Registry, until};

struct Bench {
    raw: Raw,
    images: DockerImages,
    registry: Registry,
    config: ews_docker::DockerConfig,
}

impl Bench {
    async fn new(asks: bool) -> Option<Self> {
        let config = rig::engine().await?;
        let registry = Registry::start(asks).await;
        let credentials = Credentials::anonymous().or(Only(format!("127.0.0.1:{}", registry.port)));
        let images = DockerImages::connect_with(config.clone(), credentials).await.unwrap();
        Some(Self { raw: Raw::new(&config), images, registry, config })
    }

    fn name(&self, name: &str) -> ImageRef {
        self.registry.name(name).parse().unwrap()
    }

    /// An image that is here and, with `push`, in the registry.
    async fn make(&self, name: &str, text: &str, push: bool) -> (Image, Option<Digest>) {
        let name = self.name(name);
        let archive = rig::image(
            &name.to_string(),
            "amd64",
            &["sh"],
            &json!({"Labels": {"text": text, "test": self.registry.port.to_string()}}),
        );
        let image = self.images.load(stream::iter([Ok(archive)]).boxed()).await.unwrap().remove(0);
        if !push {
            return (image, None);
        }
        let Progress::Done { manifest, .. } = last(self.images.push(&name).await).await.unwrap() else {
            panic!()
        };
        (image, manifest)
    }

    async fn ensure(&self, source: &ImageSource) -> Result<Progress> {
        last(self.images.ensure(source, &EnsureOptions::default()).await).await
    }

    async fn id(&self, name: &str) -> Option<Digest> {
        self.images.inspect(&ImageQuery::Name(self.name(name))).await.ok().map(|image| image.id)
    }

    async fn end(self) {
        self.raw.remove_images(&self.registry.name("")).await;
    }
}

fn sorted(ids: impl IntoIterator<Item = Digest>) -> BTreeSet<Digest> {
    ids.into_iter().collect()
}

async fn last(stream: Result<ProgressStream>) -> Result<Progress> {
    let all: Vec<Result<Progress>> = stream?.collect().await;
    all.into_iter().last().expect("a stream has an end")
}

fn pinned(name: ImageRef, digest: Digest) -> ImageSource {
    let mut source = ImageSource::new(name);
    source.pin = Some(ImagePin::Manifest(digest));
    source
}

#[tokio::test]
async fn a_pin_gets_its_tag_back_where_nobody_has_it() {
    let Some(bench) = Bench::new(false).await else { return };
    let (one, manifest) = bench.make("a:1", "one", true).await;
    let manifest = manifest.unwrap();
    bench.raw.remove_images(&bench.registry.name("a")).await;
    let source = pinned(bench.name("a:1"), manifest);
    let done = Progress::Done { image: Some(one.id), manifest: Some(manifest) };
    assert_eq!(bench.ensure(&source).await.unwrap(), done);
    assert_eq!(bench.id("a:1").await, Some(one.id));

    // The tag means another image by now: it stays with that one.
    bench.raw.remove_images(&bench.registry.name("a")).await;
    let (two, _) = bench.make("a:1", "two", false).await;
    assert_eq!(bench.ensure(&source).await.unwrap(), done);
    assert_eq!(bench.id("a:1").await, Some(two.id));
    // A pin that is here is not pulled again, whatever the policy, and the name's own digest is a pin too.
    let asked = bench.registry.asked(&format!("HEAD /v2/a/manifests/{manifest}"), 200);
    for policy in [PullPolicy::Always, PullPolicy::Never] {
        let mut here = source.clone();
        here.pull = policy;
        assert_eq!(bench.ensure(&here).await.unwrap(), done);
        let mut named = ImageSource::new(bench.name("a:1").with_digest(manifest));
        named.pull = policy;
        assert_eq!(bench.ensure(&named).await.unwrap(), done);
    }
    assert_eq!(bench.registry.asked(&format!("HEAD /v2/a/manifests/{manifest}"), 200), asked);
    bench.end().await;
}

#[tokio::test]
async fn a_local_pin_is_here_or_missing() {
    let Some(bench) = Bench::new(false).await else { return };
    let (image, _) = bench.make("local:1", "local", false).await;
    let mut source = ImageSource::new(bench.name("local:1"));
    source.pull = PullPolicy::Always;
    source.pin = Some(ImagePin::Local { engine: "another".to_owned(), image_id: image.id });
    let done = Progress::Done { image: Some(image.id), manifest: None };
    assert_eq!(bench.ensure(&source).await.unwrap(), done);
    bench.raw.remove_images(&bench.registry.name("local")).await;
    let error = bench.ensure(&source).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::ImageMissing && error.to_string().contains("made_on=another"),
        "{error}"
    );
    bench.end().await;
}

#[tokio::test]
async fn a_registry_that_refuses_is_denied() {
    let Some(bench) = Bench::new(true).await else { return };
    bench.make("a:1", "a", true).await;
    bench.raw.remove_images(&bench.registry.name("a")).await;
    let nobody = DockerImages::connect(bench.config.clone()).await.unwrap();
    let source = ImageSource::new(bench.name("a:1"));
    let error = last(nobody.ensure(&source, &EnsureOptions::default()).await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ImageDenied);
    // With the right ones it comes, and nobody can push it.
    bench.ensure(&source).await.unwrap();
    let error = last(nobody.push(&source.reference).await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ImageDenied, "{error}");
    bench.end().await;
}

#[tokio::test]
async fn another_platform_is_refused_also_where_it_is_here() {
    let Some(bench) = Bench::new(false).await else { return };
    bench.make("a:1", "a", true).await;
    let other = Platform::new(Os::Linux, Arch::S390x);
    let mut options = EnsureOptions::default();
    options.platform = Some(other);
    let mut source = ImageSource::new(bench.name("a:1"));
    for policy in [PullPolicy::Never, PullPolicy::IfMissing] {
        source.pull = policy;
        let error = last(bench.images.ensure(&source, &options).await).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ImageIncompatible, "{policy:?}: {error}");
    }
    options.platform = Some(Platform::new(Os::Linux, Arch::Amd64));
    last(bench.images.ensure(&source, &options).await).await.unwrap();
    bench.end().await;
}

fn context(files: &[(&str, &str)]) -> ews_core::runtime::ByteStream {
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_bytes(), 0o644)).collect();
    stream::iter([Ok(rig::tar(&files))]).boxed()
}

#[tokio::test]
async fn a_build_takes_its_arguments_target_and_labels() {
    let Some(bench) = Bench::new(false).await else { return };
    let mut spec = BuildSpec::new(bench.name("built:1"));
    spec.dockerfile = "sub/Dockerfile.web".to_owned();
    spec.target = Some("first".to_owned());
    spec.args = [("WORD".to_owned(), "a b&c=\"d\"ü".to_owned())].into();
    spec.labels = [("l".to_owned(), "1 & 2".to_owned())].into();
    let text =
        "FROM scratch AS first\nARG WORD\nENV WORD=$WORD\nCOPY sub/x /x\nFROM scratch\nCOPY nothing /\n";
    let files = [("sub/Dockerfile.web", text), ("sub/x", "x")];
    let all: Vec<_> =
        bench.images.build(&spec, context(&files)).await.unwrap().map(Result::unwrap).collect().await;
    let Some(Progress::Done { image: Some(id), .. }) = all.last() else { panic!("{all:?}") };
    let step = if cfg!(feature = "buildkit") { "#3 [first 1/1] COPY" } else { "Step 1/" };
    assert!(all.iter().any(|p| matches!(p, Progress::Log(line) if line.starts_with(step))), "{all:?}");
    let image = bench.images.inspect(&ImageQuery::Id(*id)).await.unwrap();
    assert_eq!(image.labels.get("l").map(String::as_str), Some("1 & 2"));
    assert!(image.names.contains(&bench.name("built:1")), "{:?}", image.names);
    let inspected = bench.raw.json(hyper::Method::GET, &format!("/images/{id}/json"), None).await;
    assert!(inspected["Config"]["Env"].to_string().contains("a b&c="), "{inspected}");
    bench.end().await;
}

#[tokio::test]
async fn a_build_that_fails_says_why_in_the_builders_words() {
    let Some(bench) = Bench::new(false).await else { return };
    let (base, _) = bench.make("base:1", "base", false).await;
    let spec = BuildSpec::new(bench.name("built:1"));
    let base = format!("FROM {}\n", base.names[0]);
    let missing = format!("FROM {}\n", bench.registry.name("nobody/has:this"));
    for (dockerfile, kind, words) in [
        ("FORM scratch\n".to_owned(), ErrorKind::Invalid, "unknown instruction: FORM"),
        ("FROM scratch\nCOPY nothing /\n".to_owned(), ErrorKind::Invalid, "nothing"),
        (
            format!("{base}RUN [\"/bin/sh\", \"-c\", \"echo no space left on device; exit 3\"]\n"),
            ErrorKind::Invalid,
            if cfg!(feature = "buildkit") { "exit code: 3" } else { "non-zero code: 3" },
        ),
        (missing, ErrorKind::ImageMissing, "not found"),
    ] {
        let error =
            last(bench.images.build(&spec, context(&[("Dockerfile", &dockerfile)])).await).await.unwrap_err();
        assert_eq!((error.kind(), error.operation()), (kind, "images.build"), "{error}");
        assert!(error.detail().unwrap().contains(words), "{error}");
    }
    let mut elsewhere = spec.clone();
    elsewhere.dockerfile = "nowhere/Dockerfile".to_owned();
    let error = last(bench.images.build(&elsewhere, context(&[("x", "")])).await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert_eq!(bench.id("built:1").await, None);
    bench.end().await;
}

#[tokio::test]
async fn pruning_takes_all_names_and_spares_what_a_stopped_container_uses() {
    let Some(bench) = Bench::new(false).await else { return };
    let ours = Selector::equal("test", &bench.registry.port.to_string()).unwrap();
    let mut options = PruneOptions::default();
    options.labels = Some(ours);
    let (free, _) = bench.make("free:1", "free", true).await;
    for name in ["free:2", "elsewhere/free:1"] {
        bench.images.tag(&ImageQuery::Id(free.id), &bench.name(name)).await.unwrap();
    }
    let (used, _) = bench.make("used:1", "used", false).await;
    let (kept, manifest) = bench.make("kept:1", "kept", true).await;
    let container =
        bench.raw.create(&json!({"Image": bench.registry.name("used:1"), "Cmd": ["/bin/sh"]})).await;
    // Its name went to another image since; the container still uses the old one.
    let (newer, _) = bench.make("used:1", "newer", false).await;
    options.keep = vec![manifest.unwrap()];
    assert_eq!(sorted(bench.images.prune(&options).await.unwrap()), sorted([free.id, newer.id]));
    for image in [&used, &kept] {
        assert!(bench.images.inspect(&ImageQuery::Id(image.id)).await.is_ok(), "{image:?}");
    }
    bench.raw.remove_container(&container).await;
    options.keep = Vec::new();
    assert_eq!(sorted(bench.images.prune(&options).await.unwrap()), sorted([used.id, kept.id]));
    bench.end().await;
}

#[tokio::test]
async fn a_build_goes_along_with_its_steps_but_not_with_its_base() {
    let Some(bench) = Bench::new(false).await else { return };
    bench.make("base:1", "base", false).await;
    let word = bench.registry.port.to_string();
    let dockerfile = format!(
        "FROM {}\nLABEL one={word}\nLABEL two={word}\nLABEL three={word}\n",
        bench.registry.name("base:1")
    );
    let mut spec = BuildSpec::new(bench.name("built:1"));
    spec.labels.insert("built".to_owned(), word.clone());
    // Only the classic builder's steps are images.
    let classic = Standin::classic(&bench.config);
    let store = DockerImages::connect(classic.config()).await.unwrap();
    last(store.build(&spec, context(&[("Dockerfile", &dockerfile)])).await).await.unwrap();
    let steps = async || {
        let all = bench.raw.json(hyper::Method::GET, "/images/json?all=1", None).await;
        all.as_array().unwrap().iter().filter(|image| image["Labels"]["one"] == word.as_str()).count()
    };
    assert!(steps().await >= 4, "a classic build leaves its steps");
    let mut options = PruneOptions::default();
    options.labels = Some(Selector::equal("built", &word).unwrap());
    assert_eq!(bench.images.prune(&options).await.unwrap().len(), 1);
    assert_eq!(steps().await, 0);
    assert!(bench.id("base:1").await.is_some());
    bench.end().await;
}

#[tokio::test]
async fn dropped_calls_go_on() {
    let Some(bench) = Bench::new(false).await else { return };
    let (image, _) = bench.make("a:1", "a", false).await;
    let name = bench.name("a:2");
    let query = ImageQuery::Id(image.id);
    let mut call = Box::pin(bench.images.tag(&query, &name));
    assert!(futures_util::poll!(&mut call).is_pending());
    drop(call);
    until("the tag is given", async || bench.id("a:2").await == Some(image.id)).await;

    let archive = rig::image(&bench.registry.name("b:1"), "amd64", &[], &json!({}));
    let mut call = bench.images.load(stream::iter([Ok(archive)]).boxed());
    assert!(futures_util::poll!(&mut call).is_pending());
    drop(call);
    until("the archive is loaded", async || bench.id("b:1").await.is_some()).await;

    drop(bench.images.push(&bench.name("b:1")).await.unwrap());
    until("the image is pushed", async || bench.registry.asked("PUT /v2/b/manifests/1", 201) == 1).await;
    bench.end().await;
}

#[tokio::test]
async fn a_broken_archive_is_invalid_and_names_are_checked() {
    let Some(bench) = Bench::new(false).await else { return };
    let whole = rig::image(&bench.registry.name("b:1"), "amd64", &[], &json!({}));
    for archive in [whole.slice(..whole.len() / 2), rig::tar(&[("x", b"y", 0o644)]), rig::tar(&[])] {
        let error = bench.images.load(stream::iter([Ok(archive)]).boxed()).await.unwrap_err();
        assert_eq!((error.kind(), error.operation()), (ErrorKind::Invalid, "images.load"), "{error}");
    }
    let (image, _) = bench.make("a:1", "a", false).await;
    let digest = bench.name("a").with_digest(Digest::of(b"x"));
    assert_eq!(
        bench.images.tag(&ImageQuery::Id(image.id), &digest).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
    assert_eq!(bench.images.push(&digest).await.map(drop).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(bench.images.save(&[]).await.map(drop).unwrap_err().kind(), ErrorKind::Invalid);
    bench.end().await;
}
