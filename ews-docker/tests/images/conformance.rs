//! The suite of the contract, on a real engine with two registries of Debian's beside it: one that takes the credentials that the store is
//! given, and one that does not.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use ews_core::image::{Image, ImageStore, Progress};
use ews_core::testkit::conformance::Stop;
use ews_core::testkit::conformance::images::{ImagesHarness, run};
use ews_core::{ImageRef, InstanceId, Result, SecretValue};
use ews_docker::{Credential, CredentialSource, Credentials, DockerImages};
use futures_util::{StreamExt as _, stream};
use serde_json::json;

use crate::rig::{self, Raw, Registry, USER};

/// Knows one registry.
pub(crate) struct Only(pub(crate) String);

#[async_trait]
impl CredentialSource for Only {
    async fn find(&self, registry: &str) -> Result<Option<Credential>> {
        if registry != self.0 {
            return Ok(None);
        }
        Ok(Some(Credential::password(USER.0, SecretValue::new(USER.1)?)))
    }
}

struct Harness {
    images: DockerImages,
    raw: Raw,
    ours: Registry,
    theirs: Registry,
    label: String,
    containers: Mutex<Vec<String>>,
}

const OFFERED: &str = "conformance/offered:1";

impl Harness {
    fn named(&self, name: &str) -> Result<ImageRef, Stop> {
        Ok(self.ours.name(name).parse()?)
    }

    /// Brings an image for this architecture into the registry, and not into the engine.
    async fn offer(&self, name: &str, arch: &str) {
        let name = self.ours.name(name);
        let archive = rig::image(&name, arch, &["sh"], &json!({"Labels": {"for": self.label}}));
        let loaded = self.images.load(stream::iter([Ok(archive)]).boxed()).await.unwrap();
        assert_eq!(loaded.len(), 1);
        let pushed: Vec<_> = self.images.push(&name.parse().unwrap()).await.unwrap().collect().await;
        assert!(matches!(pushed.last(), Some(Ok(Progress::Done { manifest: Some(_), .. }))), "{pushed:?}");
        self.raw.remove_image(&name).await;
    }
}

#[async_trait]
impl ImagesHarness for Harness {
    async fn images(&self) -> Result<Arc<dyn ImageStore>, Stop> {
        // Also by digest: a pin brings it without its tag.
        self.raw.remove_images(&self.ours.name("conformance/offered")).await;
        Ok(Arc::new(self.images.clone()))
    }

    async fn offered(&self) -> Result<ImageRef, Stop> {
        self.named(OFFERED)
    }

    fn made(&self) -> Result<ImageRef, Stop> {
        self.named("conformance/made")
    }

    fn missing(&self) -> Result<ImageRef, Stop> {
        self.named("conformance/nothing:1")
    }

    async fn denied(&self) -> Result<ImageRef, Stop> {
        Ok(self.theirs.name("conformance/secret:1").parse()?)
    }

    async fn incompatible(&self) -> Result<ImageRef, Stop> {
        self.named("conformance/other:1")
    }

    async fn pulls(&self) -> Result<u64, Stop> {
        // An engine asks for the tag once for each pull.
        Ok(self.ours.asked("HEAD /v2/conformance/offered/manifests/1", 200) as u64)
    }

    fn context(&self, text: &str) -> Result<Bytes, Stop> {
        let dockerfile = "FROM scratch\nCOPY text /text\nCMD [\"/text\"]\n";
        Ok(rig::tar(&[("Dockerfile", dockerfile.as_bytes(), 0o644), ("text", text.as_bytes(), 0o644)]))
    }

    async fn instance(&self, image: &Image) -> Result<InstanceId, Stop> {
        let spec = json!({"Image": image.id.to_string(), "Labels": {"for": self.label}});
        let id = self.raw.create(&spec).await;
        self.containers.lock().unwrap().push(id.clone());
        Ok(InstanceId::new(id)?)
    }

    fn name(&self) -> String {
        "Docker Engine".to_owned()
    }
}

#[tokio::test]
async fn the_image_store_suite_passes_on_an_engine() {
    let Some(config) = rig::engine().await else { return };
    let (ours, theirs) = (Registry::start(true).await, Registry::start(true).await);
    let credentials = Credentials::anonymous().or(Only(format!("127.0.0.1:{}", ours.port)));
    let raw = Raw::new(&config);
    let images = DockerImages::connect_with(config, credentials).await.unwrap();
    let (label, containers) = (rig::unique(), Mutex::default());
    let harness = Harness { images, raw, ours, theirs, label, containers };
    harness.offer(OFFERED, "amd64").await;
    harness.offer("conformance/other:1", "s390x").await;

    let report = run(&harness).await;
    println!("{report}");
    let containers = std::mem::take(&mut *harness.containers.lock().unwrap());
    for container in containers {
        harness.raw.remove_container(&container).await;
    }
    harness.raw.remove_images(&harness.ours.name("")).await;
    report.assert_passed(&[]);
}
