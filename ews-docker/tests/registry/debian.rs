//! Debian's `docker-registry` (distribution 2.8): the conformance suite without credentials, with them, and where nothing may be deleted.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ews_core::registry::Registry;
use ews_core::testkit::FakeSecrets;
use ews_core::testkit::conformance::Stop;
use ews_core::testkit::conformance::registry::{RegistryHarness, run};
use ews_core::{Capability, CapabilitySet, Digest, ErrorKind, ImageRef};
use ews_docker::registry::retention::{self, Rules};
use ews_docker::registry::{OciRegistry, OciRegistryConfig};
use ews_docker::{Credentials, ExplicitCredentials};
use serde_json::json;

use crate::pieces::{content, drain, image, index, info, stream};

const USER: &str = "deploy";
const PASSWORD: &str = "correct-horse-7";
/// bcrypt of the password, with the lowest cost that the registry takes.
const HTPASSWD: &str = "deploy:$2y$05$abcdefghijklmnopqrstuuBYe9o9CGi/BHa4OAlLpruMUDfwV3Rby\n";

/// A registry of the test's own; it ends with the value.
pub(crate) struct Debian {
    child: Child,
    folder: tempfile::TempDir,
    pub(crate) port: u16,
}

/// What a registry is started with.
#[derive(Clone, Copy, Default)]
pub(crate) struct Setup {
    pub(crate) auth: bool,
    pub(crate) keeps_all: bool,
}

impl Debian {
    /// Starts one; `None`, said aloud, where this machine has none.
    pub(crate) async fn start(setup: Setup) -> Option<Self> {
        if Command::new("docker-registry").arg("--version").output().is_err() {
            let required = std::env::var("EWS_TEST_REGISTRY").is_ok_and(|value| value == "required");
            assert!(
                !required,
                "EWS_TEST_REGISTRY=required, and there is no docker-registry (Debian's package of that name)"
            );
            eprintln!("skipped: no docker-registry (Debian's package of that name)");
            return None;
        }
        // A port that was free a moment ago may be taken; then another.
        for _ in 0..5 {
            if let Some(started) = Self::try_start(setup).await {
                return Some(started);
            }
        }
        panic!("docker-registry does not answer");
    }

    async fn try_start(setup: Setup) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut config = json!({
            "version": "0.1",
            "log": { "accesslog": { "disabled": true }, "level": "error" },
            "storage": {
                "filesystem": { "rootdirectory": folder.path().join("data") },
                "delete": { "enabled": !setup.keeps_all },
                "maintenance": { "uploadpurging": { "enabled": false } },
            },
            "http": { "addr": format!("127.0.0.1:{port}"), "secret": "of the test" },
        });
        if setup.auth {
            let path = folder.path().join("htpasswd");
            std::fs::write(&path, HTPASSWD).unwrap();
            config["auth"] = json!({ "htpasswd": { "realm": "test", "path": path } });
        }
        // Its YAML takes JSON.
        let path = folder.path().join("config.yml");
        std::fs::write(&path, config.to_string()).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut started = Self { child, folder, port };
        for _ in 0..3000 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Some(started);
            }
            if started.child.try_wait().unwrap().is_some() {
                eprintln!(
                    "{}",
                    std::fs::read_to_string(started.folder.path().join("log")).unwrap_or_default()
                );
                return None;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn config(&self) -> OciRegistryConfig {
        OciRegistryConfig::default()
            .with_plain_http(self.host())
            .with_plain_http(format!("localhost:{}", self.port))
            .without_proxy()
    }

    /// Where a blob lies.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        let text = digest.to_string();
        let hex = text.strip_prefix("sha256:").unwrap();
        self.folder.path().join("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }

    /// Uploads whose bytes are kept, neither committed nor taken back. (distribution leaves an empty folder of what was taken back.)
    pub(crate) fn uploads(&self, name: &ImageRef) -> usize {
        let folder = self
            .folder
            .path()
            .join("data/docker/registry/v2/repositories")
            .join(name.repository())
            .join("_uploads");
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        entries.filter(|entry| entry.as_ref().unwrap().path().join("data").exists()).count()
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Credentials for the registry at this host.
pub(crate) fn credentials(host: &str) -> Credentials {
    let secrets = FakeSecrets::new();
    let reference = "registry/password".parse().unwrap();
    secrets.put(&reference, format!("{PASSWORD}\n"));
    Credentials::anonymous()
        .or(ExplicitCredentials::new(Arc::new(secrets)).with_password(host, USER, reference))
}

struct Harness {
    debian: Debian,
    setup: Setup,
}

#[async_trait]
impl RegistryHarness for Harness {
    async fn registry(&self) -> Result<Arc<dyn Registry>, Stop> {
        let mut config = self.debian.config();
        if self.setup.keeps_all {
            config.capabilities = config.capabilities.without(Capability::RegistryDelete);
        }
        // Only the address has credentials, the name has none: that is what is denied.
        let credentials =
            if self.setup.auth { credentials(&self.debian.host()) } else { Credentials::anonymous() };
        Ok(Arc::new(OciRegistry::new(config, credentials)?))
    }

    fn repository(&self, name: &str) -> Result<ImageRef, Stop> {
        Ok(format!("{}/conformance/{name}", self.debian.host()).parse()?)
    }

    async fn denied(&self) -> Result<ImageRef, Stop> {
        if !self.setup.auth {
            return Err(Stop::skip("a registry without credentials denies nothing"));
        }
        Ok(format!("localhost:{}/conformance/c1:1", self.debian.port).parse()?)
    }

    async fn corrupt(&self, _name: &ImageRef, blob: &Digest) -> Result<(), Stop> {
        std::fs::write(self.debian.blob(blob), "other")?;
        Ok(())
    }

    fn name(&self) -> String {
        format!("docker-registry, credentials: {}, deletes: {}", self.setup.auth, !self.setup.keeps_all)
    }
}

async fn conforms(setup: Setup, skips: &[&str]) {
    let Some(debian) = Debian::start(setup).await else { return };
    run(&Harness { debian, setup }).await.assert_passed(skips);
}

/// It limits no rates; the stand-in does.
const RATE: &str = "a_rate_limit_may_be_tried_again";

#[tokio::test]
async fn conforms_without_credentials() {
    conforms(Setup::default(), &[RATE, "a_denied_repository_says_so"]).await;
}

#[tokio::test]
async fn conforms_with_credentials() {
    conforms(Setup { auth: true, keeps_all: false }, &[RATE]).await;
}

#[tokio::test]
async fn conforms_where_nothing_may_be_deleted() {
    let skips = [
        RATE,
        "a_denied_repository_says_so",
        "deleting_a_digest_deletes_all_its_tags",
        "deleting_needs_a_digest",
    ];
    conforms(Setup { auth: false, keeps_all: true }, &skips).await;
}

#[tokio::test]
async fn a_registry_that_does_not_delete_says_so_itself() {
    let Some(debian) = Debian::start(Setup { auth: false, keeps_all: true }).await else { return };
    let registry = OciRegistry::new(debian.config(), Credentials::anonymous()).unwrap();
    let name: ImageRef = format!("{}/keeps", debian.host()).parse().unwrap();
    let manifest = image(&registry, &name, "kept", json!({})).await.unwrap();
    let digest = registry.push_manifest(&name.clone().with_tag("1").unwrap(), &manifest).await.unwrap();
    let error = registry.delete(&name.clone().with_digest(digest)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.context().any(|c| c == ("code", "UNSUPPORTED")), "{error}");
    // A client that was told to ask for less asks for nothing.
    let reader =
        OciRegistry::new(debian.config().with_capabilities(CapabilitySet::none()), Credentials::anonymous())
            .unwrap();
    let error = reader.push_manifest(&name, &manifest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[tokio::test]
async fn credentials_that_are_wrong_or_missing_are_told_apart() {
    let Some(debian) = Debian::start(Setup { auth: true, keeps_all: false }).await else { return };
    let name: ImageRef = format!("{}/private:1", debian.host()).parse().unwrap();
    let secrets = FakeSecrets::new();
    let reference = "wrong".parse().unwrap();
    secrets.put(&reference, "not-the-password");
    let wrong = ExplicitCredentials::new(Arc::new(secrets)).with_password(debian.host(), USER, reference);
    for (credentials, words) in [
        (Credentials::anonymous().or(wrong), "refuses the credentials"),
        (Credentials::anonymous(), "none are configured"),
    ] {
        let registry = OciRegistry::new(debian.config(), credentials).unwrap();
        let error = registry.resolve(&name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
        assert!(error.message().contains(words), "{error}");
        assert!(!format!("{error} {error:?}").contains("not-the-password"), "{error:?}");
    }
}

#[tokio::test]
async fn a_blob_of_many_chunks_is_pushed_and_a_wrong_one_leaves_no_upload() {
    let Some(debian) = Debian::start(Setup::default()).await else { return };
    let registry = OciRegistry::new(debian.config().with_chunk(64 * 1024), Credentials::anonymous()).unwrap();
    let name: ImageRef = format!("{}/chunks", debian.host()).parse().unwrap();
    for length in [64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 1_000_000] {
        let bytes = content(length);
        let blob = info(&bytes);
        registry.push_blob(&name, &blob, stream(bytes.clone())).await.unwrap();
        let (read, end) = drain(registry.open_blob(&name, &blob.digest, 0).await.unwrap()).await;
        end.unwrap();
        assert_eq!(read, bytes, "{length}");
    }
    assert_eq!(debian.uploads(&name), 0);
    let mut wrong = info(&content(300_000));
    wrong.digest = Digest::of(b"other");
    let error = registry.push_blob(&name, &wrong, stream(content(300_000))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert_eq!(debian.uploads(&name), 0, "it was taken back");
    // At the end nothing begins, and beyond it nothing can.
    let blob = info(&content(1_000_000));
    let (read, end) = drain(registry.open_blob(&name, &blob.digest, 1_000_000).await.unwrap()).await;
    assert_eq!((read.len(), end.is_ok()), (0, true));
    let error = registry.open_blob(&name, &blob.digest, 1_000_001).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

#[tokio::test]
async fn a_registry_that_is_gone_is_unavailable() {
    let Some(debian) = Debian::start(Setup::default()).await else { return };
    let config = debian.config().with_attempts(2);
    let name: ImageRef = format!("{}/gone:1", debian.host()).parse().unwrap();
    drop(debian);
    let registry = OciRegistry::new(config, Credentials::anonymous()).unwrap();
    let error = registry.resolve(&name).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, ews_core::Retry::Safe), "{error}");
}

#[tokio::test]
async fn a_repository_is_thinned_out_by_digest() {
    let Some(debian) = Debian::start(Setup::default()).await else { return };
    let registry = OciRegistry::new(debian.config(), Credentials::anonymous()).unwrap();
    let name: ImageRef = format!("{}/retention", debian.host()).parse().unwrap();
    let tag = |tag: &str| name.clone().with_tag(tag).unwrap();
    let mut digests = std::collections::BTreeMap::new();
    for text in ["one", "two", "three"] {
        let manifest = image(&registry, &name, text, json!({})).await.unwrap();
        let by_digest = name.clone().with_digest(manifest.digest());
        registry.push_manifest(&by_digest, &manifest).await.unwrap();
        let digest =
            registry.push_manifest(&tag(&format!("index-{text}")), &index(&[&manifest])).await.unwrap();
        digests.insert(text, (digest, manifest.digest()));
    }
    // The second index's manifest has a tag of its own that nobody keeps, and the third is said something about.
    let (second, child) = digests["two"];
    let manifest = registry.manifest(&name.clone().with_digest(child)).await.unwrap();
    registry.push_manifest(&tag("loose"), &manifest).await.unwrap();
    let (third, third_child) = digests["three"];
    let subject = json!({ "subject": { "mediaType": "application/vnd.oci.image.index.v1+json", "digest": third.to_string(), "size": 1 } });
    let signature = image(&registry, &name, "signature", subject).await.unwrap();
    registry.push_manifest(&tag(&third.to_string().replace(':', "-")), &signature).await.unwrap();

    let rules = Rules::default().with_pinned("index-one").with_kept([second]);
    let plan = retention::plan(&retention::read(&registry, &name, &rules).await.unwrap(), &rules).unwrap();
    let applied = retention::apply(&registry, &name, &rules, &plan).await.unwrap();
    assert_eq!(applied.deleted, [signature.digest(), third, third_child], "{plan}");
    assert_eq!(registry.tags(&name, None, 10).await.unwrap(), ["index-one", "index-two", "loose"]);
    for (digest, child) in [digests["one"], digests["two"]] {
        for digest in [digest, child] {
            registry.manifest(&name.clone().with_digest(digest)).await.unwrap();
        }
    }
    let error = registry.manifest(&name.clone().with_digest(third_child)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ImageMissing, "{error}");
}
