//! A registry with bases in it, and sources that use it.

use std::sync::Arc;

use bytes::Bytes;
use ews_core::document::Format;
use ews_core::registry::{BlobInfo, Manifest};
use ews_core::spec::source::{ImagePin, ImageSource};
use ews_core::testkit::FakeRegistry;
use ews_core::{Digest, ImageRef, Registry, ServiceSpec, Source};
use serde_json::{Value, json};

use super::super::artifact::tests::made;
use super::super::*;

pub(super) const REGISTRY: &str = "registry.example";

/// The catalogue of the tests: one entry of every shape, on bases in the fake registry.
const CATALOGUE: &str = r#"
version = 1
[[entry]]
id = "site"
line = "1"
compatibility = "busybox/1"
owner = "33:33"
user = "33"
workdir = "/www"
command = ["/bin/httpd", "-f", "-h", "/www"]
env = { MODE = "production" }
port = 8080
stop-signal = "SIGQUIT"
serves-files = true
probe = { http = "/healthz" }
base = [{ image = "registry.example/base/httpd:1", platforms = ["linux/amd64", "linux/arm64"] }]
takes = [{ kind = "files", to = "/www" }]
[entry.builder]
image = "registry.example/base/httpd:1"
run = ["make"]
output = "dist"

[[entry]]
id = "site"
line = "2"
channel = "candidate"
compatibility = "busybox/2"
base = [{ image = "registry.example/base/httpd:2", platforms = ["linux/amd64", "linux/arm64"] }]
takes = [{ kind = "files", to = "/www" }]

[[entry]]
id = "program"
line = "1"
compatibility = "static"
command = ["/app/app"]
port = 8080
base = [{ image = "registry.example/base/httpd:1", platforms = ["linux/amd64", "linux/arm64"] }]
takes = [{ kind = "program", to = "/app/app" }]
process = { command = [] }

[[entry]]
id = "jar"
line = "1"
compatibility = "jre"
end-of-life = "2020-01-01"
command = ["java", "-jar", "{main}"]
env = { PORT = "8080" }
port = 8080
base = [{ image = "registry.example/base/httpd:1", platforms = ["linux/amd64"] }]
takes = [{ kind = "jar", to = "/app/app.jar" }]
process = { command = ["java", "-jar", "app.jar"] }

[[entry]]
id = "windows"
line = "1"
compatibility = "nanoserver"
user = "ContainerUser"
base = [{ image = "registry.example/base/windows:1", platforms = ["windows/amd64"] }]
takes = [{ kind = "files", to = "/app" }]
"#;

pub(super) struct Stage {
    pub(super) registry: FakeRegistry,
    pub(super) sources: Sources,
    pub(super) directory: tempfile::TempDir,
}

impl Stage {
    pub(super) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let registry = FakeRegistry::new();
        let config = SourcesConfig::new(directory.path().join("scratch"))
            .with_artifacts(directory.path().join("artifacts"));
        let catalogue = Catalogue::read(CATALOGUE, Format::Toml).unwrap();
        let sources = Sources::new(config, catalogue).unwrap().with_registry(Arc::new(registry.clone()));
        let stage = Self { registry, sources, directory };
        stage.base("base/httpd:1", &[("linux", "amd64"), ("linux", "arm64")], &["one", "two"]).await;
        stage
    }

    /// Pushes a base: an index where it is for several platforms. What its layers hold does not matter here.
    pub(super) async fn base(&self, name: &str, platforms: &[(&str, &str)], layers: &[&str]) -> Digest {
        let name: ImageRef = format!("{REGISTRY}/{name}").parse().unwrap();
        let mut entries = Vec::new();
        for (os, arch) in platforms {
            let mut descriptors = Vec::new();
            for layer in layers {
                let layer = format!("{layer} for {arch}");
                self.blob(&name, layer.as_bytes()).await;
                descriptors.push(json!({
                    "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                    "digest": Digest::of(layer.as_bytes()), "size": layer.len(),
                }));
            }
            let diff_ids: Vec<_> =
                layers.iter().map(|layer| Digest::of(format!("{layer} unpacked").as_bytes())).collect();
            let last = layers.last().unwrap();
            let config = json!({
                "os": os, "architecture": arch, "created": "2026-01-01T00:00:00Z", "author": "the base's",
                "config": {
                    "Env": ["PATH=/bin", format!("BASE={last}")], "User": "nobody", "Cmd": ["/bin/sh"],
                    "Labels": {"title": "httpd", "version": last}, "ExposedPorts": {"80/tcp": {}},
                },
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
                "history": layers.iter().map(|l| json!({"created_by": l})).chain([json!({"empty_layer": true})]).collect::<Vec<_>>(),
            });
            let config = config.to_string();
            self.blob(&name, config.as_bytes()).await;
            let manifest = json!({
                "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(config.as_bytes()), "size": config.len()},
                "layers": descriptors,
            });
            let manifest = self.manifest("application/vnd.oci.image.manifest.v1+json", &manifest);
            let at =
                format!("{}/{}@{}", name.registry(), name.repository(), manifest.digest()).parse().unwrap();
            self.registry.push_manifest(&at, &manifest).await.unwrap();
            entries.push((manifest, json!({"os": os, "architecture": arch})));
        }
        let top = if let [(only, _)] = entries.as_slice() {
            only.clone()
        } else {
            let list: Vec<Value> = entries.iter().map(|(manifest, platform)| json!({
                "mediaType": manifest.media_type, "digest": manifest.digest(), "size": manifest.bytes.len(), "platform": platform,
            })).chain([json!({
                "mediaType": entries[0].0.media_type, "digest": entries[0].0.digest(), "size": 1,
                "platform": {"os": "unknown", "architecture": "unknown"},
            })]).collect();
            let index = json!({"schemaVersion": 2, "manifests": list});
            self.manifest("application/vnd.oci.image.index.v1+json", &index)
        };
        self.registry.push_manifest(&name, &top).await.unwrap()
    }

    fn manifest(&self, kind: &str, document: &Value) -> Manifest {
        Manifest::new(kind, document.to_string())
    }

    async fn blob(&self, name: &ImageRef, bytes: &[u8]) {
        let info = BlobInfo::new(Digest::of(bytes), bytes.len() as u64);
        let stream = Box::pin(futures_util::stream::iter([Ok(Bytes::copy_from_slice(bytes))]));
        self.registry.push_blob(name, &info, stream).await.unwrap();
    }

    pub(super) async fn upload(&self, bytes: Vec<u8>) -> Artifact {
        self.sources.receive(made::stream(bytes), None).await.unwrap()
    }

    /// A tar of one file.
    pub(super) async fn site(&self, content: &str) -> Artifact {
        self.upload(made::tar_of("index.html", content.as_bytes())).await
    }

    pub(super) async fn resolve(&self, request: impl Into<SourceRequest>) -> Result<Resolved> {
        self.sources.resolve(&request.into().with_by("ann"), spec()).await
    }

    /// The config of the image that a resolved spec is pinned to, for each platform.
    pub(super) async fn configs(&self, resolved: &Resolved) -> Vec<Value> {
        let Source::Image(image) = &resolved.spec.instance.source else { panic!("no image") };
        let Some(ImagePin::Manifest(digest)) = image.pin else { panic!("not pinned") };
        assert_eq!(resolved.provenance.result, digest);
        let name = image.reference.clone().with_digest(digest);
        let found = oci::image::read(&self.registry, &name, &|_| true).await.unwrap();
        found.images.into_iter().map(|image| Value::Object(image.config)).collect()
    }

    /// The tags of a repository; none where there is no repository.
    pub(super) async fn tags(&self, name: &str) -> Vec<String> {
        self.registry.tags(&target(name), None, 100).await.unwrap_or_default()
    }
}

pub(super) fn target(name: &str) -> ImageRef {
    format!("{REGISTRY}/{name}").parse().unwrap()
}

pub(super) fn spec() -> ServiceSpec {
    let any = Source::Image(ImageSource::new("nothing/yet".parse().unwrap()));
    ServiceSpec::new("web".parse().unwrap(), any)
}
