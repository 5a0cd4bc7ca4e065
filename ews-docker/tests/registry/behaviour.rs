//! The client on the model: the conformance suite under bad manners, and what each of them is answered with.

use std::sync::Arc;

use async_trait::async_trait;
use ews_core::registry::{BlobInfo, Registry};
use ews_core::testkit::FakeSecrets;
use ews_core::testkit::conformance::Stop;
use ews_core::testkit::conformance::registry::{RegistryHarness, run};
use ews_core::testkit::conformance::runtime::LogCapture;
use ews_core::{Digest, ErrorKind, ImageRef};
use ews_docker::registry::OciRegistry;
use ews_docker::{Credentials, ExplicitCredentials};
use serde_json::json;

use crate::model::{Manners, Model, PASSWORD, USER};
use crate::pieces::{content, drain, image, index, info, stream};

fn credentials(model: &Model) -> Credentials {
    let secrets = FakeSecrets::new();
    let reference = "registry".parse().unwrap();
    secrets.put(&reference, PASSWORD);
    Credentials::anonymous().or(ExplicitCredentials::new(Arc::new(secrets)).with_password(
        model.registry.host(),
        USER,
        reference,
    ))
}

struct Harness {
    model: Model,
    manners: Manners,
}

#[async_trait]
impl RegistryHarness for Harness {
    async fn registry(&self) -> Result<Arc<dyn Registry>, Stop> {
        Ok(Arc::new(OciRegistry::new(self.model.config().with_chunk(64 * 1024), credentials(&self.model))?))
    }

    fn repository(&self, name: &str) -> Result<ImageRef, Stop> {
        Ok(self.model.name(&format!("conformance/{name}")))
    }

    async fn denied(&self) -> Result<ImageRef, Stop> {
        self.model.state.lock().unwrap().denied.insert("private".to_owned());
        Ok(self.model.name("private"))
    }

    async fn corrupt(&self, _name: &ImageRef, blob: &Digest) -> Result<(), Stop> {
        self.model.corrupt(blob, b"other");
        Ok(())
    }

    async fn limit_rate(&self) -> Result<(), Stop> {
        self.model.state.lock().unwrap().limited = 1;
        Ok(())
    }

    fn name(&self) -> String {
        format!("{:?}", self.manners)
    }
}

async fn conforms(manners: Manners) -> Model {
    let harness = Harness { model: Model::start(manners).await, manners };
    run(&harness).await.assert_passed(&[]);
    assert_eq!(harness.model.state.lock().unwrap().uploads(), 0, "no upload is left");
    harness.model
}

#[tokio::test]
async fn conforms_on_the_plain_model() {
    conforms(Manners::default()).await;
}

#[tokio::test]
async fn conforms_with_tokens_that_run_out_after_three_requests() {
    let model = conforms(Manners { tokens: Some(3), ..Manners::default() }).await;
    for request in model.service.requests() {
        assert_eq!(request.query("service"), ["model"]);
        assert!(request.header("authorization").unwrap().starts_with("Basic "));
    }
    for request in model.registry.requests() {
        let shown = request.header("authorization").unwrap_or("Bearer ");
        assert!(shown.starts_with("Bearer "), "a password is for the token service: {}", request.target);
    }
}

#[tokio::test]
async fn conforms_with_blobs_on_another_host() {
    let model = conforms(Manners { tokens: Some(50), store: true, ..Manners::default() }).await;
    let requests = model.store.requests();
    assert!(requests.len() > 10, "{}", requests.len());
    assert!(requests.iter().all(|request| request.header("authorization").is_none()));
}

#[tokio::test]
async fn conforms_without_head_and_without_chunks() {
    conforms(Manners { no_head: true, no_chunks: true, ..Manners::default() }).await;
}

#[tokio::test]
async fn conforms_with_cut_uploads_and_small_pages() {
    conforms(Manners { cut_chunks: true, page: Some(2), ..Manners::default() }).await;
}

#[tokio::test]
async fn conforms_with_blobs_that_are_cut_on_their_way() {
    conforms(Manners { cut_blobs: Some(20_000), ..Manners::default() }).await;
    conforms(Manners { cut_blobs: Some(20_000), no_ranges: true, ..Manners::default() }).await;
}

#[tokio::test]
async fn a_cut_blob_is_taken_up_where_it_was_cut() {
    let model = Model::start(Manners { cut_blobs: Some(3000), ..Manners::default() }).await;
    let registry = OciRegistry::new(model.config(), Credentials::anonymous()).unwrap();
    let (name, bytes) = (model.name("cut"), content(50_000));
    registry.push_blob(&name, &info(&bytes), stream(bytes.clone())).await.unwrap();
    let before = model.registry.requests().len();
    let (read, end) = drain(registry.open_blob(&name, &Digest::of(&bytes), 0).await.unwrap()).await;
    end.unwrap();
    assert!(read == bytes, "{} bytes of {}", read.len(), bytes.len());
    let ranges: Vec<_> = model.registry.requests()[before..]
        .iter()
        .map(|request| request.header("range").map(str::to_owned))
        .collect();
    assert!(ranges.len() > 1 && ranges[0].is_none() && ranges[1..].iter().all(Option::is_some), "{ranges:?}");
}

#[tokio::test]
async fn an_anonymous_user_reads_what_is_public_and_is_told_what_is_not() {
    let model = Model::start(Manners { tokens: Some(100), ..Manners::default() }).await;
    let known = OciRegistry::new(model.config(), credentials(&model)).unwrap();
    let name = model.name("public").with_tag("1").unwrap();
    let manifest = image(&known, &name, "public", json!({})).await.unwrap();
    known.push_manifest(&name, &manifest).await.unwrap();
    let anonymous = OciRegistry::new(model.config(), Credentials::anonymous()).unwrap();
    assert_eq!(anonymous.manifest(&name).await.unwrap(), manifest);
    let error = anonymous.push_manifest(&name, &manifest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ImageDenied, "{error}");
    let bytes = stream(b"x".to_vec());
    let error = anonymous.push_blob(&name, &info(b"x"), bytes).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ImageDenied, "{error}");
}

#[tokio::test]
async fn a_token_is_used_again_and_asked_for_once_per_right() {
    let model = Model::start(Manners { tokens: Some(1000), ..Manners::default() }).await;
    let registry = OciRegistry::new(model.config(), credentials(&model)).unwrap();
    let name = model.name("again").with_tag("1").unwrap();
    let manifest = image(&registry, &name, "again", json!({})).await.unwrap();
    let digest = registry.push_manifest(&name, &manifest).await.unwrap();
    for _ in 0..5 {
        registry.manifest(&name).await.unwrap();
    }
    registry.delete(&name.clone().with_digest(digest)).await.unwrap();
    let scopes: Vec<_> =
        model.service.requests().iter().map(|request| request.query("scope").join(" ")).collect();
    assert_eq!(
        scopes,
        ["repository:again:pull,push", "repository:again:pull", "repository:again:pull,delete"]
    );
    // Mounting names both repositories.
    let to = model.name("other");
    assert!(registry.mount_blob(&to, &Digest::of(b"again"), &name).await.unwrap());
    assert_eq!(
        model.service.requests().last().unwrap().query("scope"),
        ["repository:again:pull", "repository:other:pull,push"]
    );
}

#[tokio::test]
async fn no_secret_of_a_whole_session_is_logged_or_told() {
    let log = LogCapture::default();
    let guard = tracing::subscriber::set_default(log.clone());
    let model =
        Model::start(Manners { tokens: Some(2), store: true, cut_chunks: true, ..Manners::default() }).await;
    let registry = OciRegistry::new(model.config().with_chunk(64 * 1024), credentials(&model)).unwrap();
    let name = model.name("secret").with_tag("1").unwrap();
    let manifest = image(&registry, &name, "secret", json!({})).await.unwrap();
    registry.push_manifest(&name, &manifest).await.unwrap();
    let bytes = content(400_000);
    registry.push_blob(&name, &info(&bytes), stream(bytes.clone())).await.unwrap();
    drain(registry.open_blob(&name, &Digest::of(&bytes), 0).await.unwrap()).await.1.unwrap();
    registry.push_manifest(&name.clone().with_tag("2").unwrap(), &index(&[&manifest])).await.unwrap();
    registry.tags(&name, None, 10).await.unwrap();
    let missing = registry.manifest(&name.clone().with_tag("3").unwrap()).await.unwrap_err();
    model.state.lock().unwrap().denied.insert("secret".to_owned());
    let denied = registry.manifest(&name).await.unwrap_err();
    drop(guard);

    // Something was logged, or the test would see nothing.
    assert!(log.text().contains("ews_docker"), "{}", log.text());
    let text = format!("{}{missing}{missing:?}{denied}{denied:?}{registry:?}", log.text());
    // `ZGVwbG95OlhrOS1odW50ZXIyLXN3b3JkZmlzaA==` is `deploy:` and the password.
    for secret in [PASSWORD, "s3cr3t", "tkn-", "ZGVwbG95", "signature="] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    let shown = model.service.requests()[0].header("authorization").unwrap().to_owned();
    assert!(shown.contains("ZGVwbG95"), "the test looks for what was really shown: {shown}");
}

#[tokio::test]
async fn a_dropped_push_goes_on() {
    let model = Model::start(Manners::default()).await;
    let registry = OciRegistry::new(model.config(), Credentials::anonymous()).unwrap();
    let (name, bytes) = (model.name("dropped"), content(10_000));
    let (release, released) = tokio::sync::oneshot::channel::<()>();
    let (asked_tx, asked) = tokio::sync::oneshot::channel::<()>();
    let whole = bytes.clone();
    let late = futures_util::stream::once(async move {
        let _ = asked_tx.send(());
        let _ = released.await;
        Ok(whole.into())
    });
    let blob = info(&bytes);
    let mut push = Box::pin(registry.push_blob(&name, &blob, Box::pin(late)));
    tokio::select! {
        _ = &mut push => panic!("it can't be done yet"),
        asked = asked => asked.unwrap(),
    }
    drop(push);
    release.send(()).unwrap();
    let wait = async {
        while registry.blob_size(&name, &Digest::of(&bytes)).await.unwrap().is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), wait).await.expect("the push went on");
}

#[tokio::test]
async fn what_is_not_as_announced_is_never_committed() {
    for manners in [Manners::default(), Manners { no_chunks: true, ..Manners::default() }] {
        let model = Model::start(manners).await;
        let registry =
            OciRegistry::new(model.config().with_chunk(64 * 1024), Credentials::anonymous()).unwrap();
        let name = model.name("wrong");
        for length in [10, 300_000] {
            let bytes = content(length);
            let announced = |size: usize, bytes: &[u8]| BlobInfo::new(Digest::of(bytes), size as u64);
            for blob in
                [announced(length, b"other"), announced(length + 1, &bytes), announced(length - 1, &bytes)]
            {
                let error = registry.push_blob(&name, &blob, stream(bytes.clone())).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            }
        }
        // The stand-in logs whole requests only.
        assert!(model.registry.requests().iter().all(|request| request.method != "PUT"), "{manners:?}");
        assert_eq!(model.state.lock().unwrap().uploads(), 0, "{manners:?}");
    }
}
