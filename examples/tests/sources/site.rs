//! A registry of the test's own with a base in it, an engine, and a deployer on both.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ews_core::document::Format;
use ews_core::registry::{BlobInfo, Manifest};
use ews_core::spec::source::ImageSource;
use ews_core::store::MemoryStore;
use ews_core::{Digest, ImageRef, Instance, Registry, Result, Runtime, Selector, ServiceSpec, Source};
use ews_deploy::source::{Artifact, Catalogue, Resolved, SourceRequest, Sources, SourcesConfig};
use ews_deploy::{DeployConfig, DeployParts, DeployRequest, Deployer, Outcome, Strategy};
use ews_docker::registry::{OciRegistry, OciRegistryConfig};
use ews_docker::{Credentials, DockerConfig, DockerImages, DockerRuntime};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Debian's `docker-registry`; it ends with the value.
struct Debian {
    child: Child,
    port: u16,
}

impl Drop for Debian {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Debian {
    async fn start(folder: &std::path::Path) -> Option<Self> {
        if Command::new("docker-registry").arg("--version").output().is_err() {
            let required = std::env::var("EWS_TEST_REGISTRY").is_ok_and(|value| value == "required");
            assert!(
                !required,
                "EWS_TEST_REGISTRY=required, and there is no docker-registry (Debian's package of that name)"
            );
            println!("skipped: no docker-registry (Debian's package of that name)");
            return None;
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = json!({
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": folder.join("registry")}, "delete": {"enabled": true}},
            "http": {"addr": format!("127.0.0.1:{port}")},
        });
        // Its YAML takes JSON.
        let path = folder.join("config.yml");
        std::fs::write(&path, config.to_string()).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let debian = Self { child, port };
        until("the registry listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        Some(debian)
    }
}

pub(crate) struct Site {
    pub(crate) registry: Arc<OciRegistry>,
    pub(crate) runtime: DockerRuntime,
    pub(crate) sources: Sources,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) deployer: Deployer,
    /// A word that no other test has.
    pub(crate) word: String,
    debian: Debian,
}

impl Site {
    /// With the base `base/httpd:1`, busybox that serves `/www`; `None`, said aloud, where this machine lacks something.
    pub(crate) async fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let debian = Debian::start(folder.path()).await?;
        let config = DockerConfig::from_env().unwrap();
        let required = std::env::var("EWS_TEST_DOCKER").is_ok_and(|value| value == "required");
        let runtime = match DockerRuntime::connect(config.clone()).await {
            Ok(runtime) => runtime,
            Err(error) => {
                assert!(!required, "EWS_TEST_DOCKER=required, and no engine answers: {error}");
                println!("skipped: no Docker Engine answers: {error}");
                return None;
            }
        };
        let host = format!("127.0.0.1:{}", debian.port);
        let plain = OciRegistryConfig::default().with_plain_http(&host);
        let registry = Arc::new(OciRegistry::new(plain, Credentials::anonymous()).unwrap());
        let images = Arc::new(DockerImages::connect(config).await.unwrap());
        let catalogue = Catalogue::read(&CATALOGUE.replace("HOST", &host), Format::Toml).unwrap();
        let scratch = SourcesConfig::new(folder.path().join("scratch")).with_scratch_bytes(1 << 30);
        let sources = Sources::new(scratch, catalogue)
            .unwrap()
            .with_registry(registry.clone())
            .with_images(images, runtime.engine_id());
        let word = format!("src-{}-{}", std::process::id(), debian.port);
        let parts = DeployParts::new(Arc::new(runtime.clone()), Arc::new(MemoryStore::new()));
        let deployer = Deployer::start(parts, DeployConfig::new(word.parse().unwrap())).await.unwrap();
        let site = Self { registry, runtime, sources, folder, deployer, word, debian };
        site.base("base/httpd:1", "one").await;
        Some(site)
    }

    pub(crate) fn name(&self, name: &str) -> ImageRef {
        format!("127.0.0.1:{}/{name}", self.debian.port).parse().unwrap()
    }

    /// Pushes a base: busybox and its links in one layer, and what tells this one from another in a second.
    pub(crate) async fn base(&self, name: &str, version: &str) -> Digest {
        let name = self.name(name);
        let busybox = std::fs::read("/bin/busybox").expect("/bin/busybox: install busybox-static");
        let mut first = tar::Builder::new(Vec::new());
        entry(&mut first, "bin/busybox", &busybox, 0o755);
        for program in ["sh", "httpd", "cat", "mkdir", "cp", "sleep", "tr", "rm"] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            first.append_link(&mut header, format!("bin/{program}"), "busybox").unwrap();
        }
        let mut second = tar::Builder::new(Vec::new());
        entry(&mut second, "www/base.txt", version.as_bytes(), 0o644);
        let layers = [first.into_inner().unwrap(), second.into_inner().unwrap()];
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({
            "os": "linux", "architecture": arch, "created": "2026-01-01T00:00:00Z",
            "config": {"Env": ["PATH=/bin", format!("BASE={version}")], "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": layers.each_ref().map(|layer| Digest::of(layer))},
            "history": [{"created_by": "busybox"}, {"created_by": version}],
        })
        .to_string();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": Digest::of(config.as_bytes()), "size": config.len(),
            },
            "layers": layers.each_ref().map(|layer| json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": Digest::of(layer), "size": layer.len(),
            })),
        });
        for blob in layers.into_iter().chain([config.into_bytes()]) {
            let info = BlobInfo::new(Digest::of(&blob), blob.len() as u64);
            let bytes = Box::pin(futures_util::stream::iter([Ok(Bytes::from(blob))]));
            self.registry.push_blob(&name, &info, bytes).await.unwrap();
        }
        let media_type = "application/vnd.oci.image.manifest.v1+json".to_owned();
        let manifest = Manifest::new(media_type, manifest.to_string());
        self.registry.push_manifest(&name, &manifest).await.unwrap()
    }

    /// A directory of these files, received.
    pub(crate) async fn upload(&self, files: &[(&str, &str)]) -> Artifact {
        let top = self.folder.path().join(format!("upload-{}", self.sources.scratch_used()));
        for (name, content) in files {
            let path: PathBuf = top.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let received = self.sources.receive_path(&top).await.unwrap();
        std::fs::remove_dir_all(top).unwrap();
        received
    }

    pub(crate) fn spec(&self) -> ServiceSpec {
        let any = Source::Image(ImageSource::new("nothing/yet".parse().unwrap()));
        ServiceSpec::new("site".parse().unwrap(), any)
    }

    pub(crate) async fn resolve(&self, request: impl Into<SourceRequest>) -> Result<Resolved> {
        Box::pin(self.sources.resolve(&request.into().with_by("ann"), self.spec())).await
    }

    /// Deploys a resolved spec; when it returns, it is ready.
    pub(crate) async fn deploy(&self, resolved: &Resolved) {
        // What is under test is not patience.
        let mut strategy = Strategy::default();
        (strategy.min_healthy, strategy.monitor, strategy.interval) =
            (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        strategy.drain = Duration::ZERO;
        let request = DeployRequest::new(resolved.spec.clone()).with_strategy(strategy);
        let rollout = self.deployer.deploy(&request).await.unwrap();
        let report = self.deployer.wait(&rollout).await.unwrap();
        assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    }

    pub(crate) async fn instance(&self) -> Instance {
        let ours: Selector = format!("ews/owner={}", self.word).parse().unwrap();
        self.runtime.list(&ours).await.unwrap().pop().expect("an instance")
    }

    /// What the service answers to a request for this path.
    pub(crate) async fn get(&self, path: &str) -> String {
        let endpoint = self.instance().await.endpoints.first().expect("an endpoint").address;
        get(&endpoint.to_string(), path).await
    }

    /// Whether the service answers at all.
    pub(crate) async fn answers(&self, path: &str) -> bool {
        let Some(endpoint) =
            self.instance().await.endpoints.first().map(|endpoint| endpoint.address.to_string())
        else {
            return false;
        };
        let Ok(mut stream) = tokio::net::TcpStream::connect(endpoint).await else { return false };
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.is_ok()
    }

    /// What the `docker` command prints, past all that is under test.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        let output = Command::new("docker").args(arguments).stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Removes the service and what was pulled for it.
    pub(crate) async fn end(self) {
        let name = "site".parse().unwrap();
        if self.deployer.remove(&name).await.is_ok() {
            self.deployer.wait_removed(&name).await.unwrap();
        }
        self.deployer.leave().await;
        let host = format!("127.0.0.1:{}", self.debian.port);
        let listed = Command::new("docker")
            .args(["image", "ls", "--digests", "--format", "{{.Repository}} {{.ID}}"])
            .output();
        for line in String::from_utf8_lossy(&listed.unwrap().stdout).lines() {
            if let Some((repository, id)) = line.split_once(' ')
                && repository.starts_with(&host)
            {
                let _ = Command::new("docker").args(["image", "rm", "-f", id]).output();
            }
        }
    }
}

/// What is answered to a request for this path.
pub(crate) async fn get(address: &str, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    assert!(head.starts_with("HTTP/1.0 200") || head.starts_with("HTTP/1.1 200"), "{path}: {head}");
    body.to_owned()
}

fn entry(layer: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8], mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    layer.append_data(&mut header, path, content).unwrap();
}

/// Waits until something holds, for at most a minute.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..1200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it did not come to be within a minute: {what}");
}

/// What runs on the base of the tests.
const CATALOGUE: &str = r#"
version = 1
[[entry]]
id = "site"
line = "1"
compatibility = "busybox/1"
user = "1000"
command = ["/bin/httpd", "-f", "-p", "8080", "-h", "/www"]
port = 8080
probe = { http = "/index.html" }
base = [{ image = "HOST/base/httpd:1", platforms = ["linux/amd64", "linux/arm64"] }]
takes = [{ kind = "files", to = "/www" }]
[entry.builder]
image = "HOST/base/httpd:1"
run = ["mkdir -p /out", "tr a-z A-Z < page.txt > /out/index.html", "cat /www/base.txt > /out/built-on.txt"]
output = "/out"
"#;
