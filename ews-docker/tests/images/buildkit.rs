//! Builds with BuildKit on a real engine: secrets that leave no trace, and credentials for a base's registry.

use std::collections::BTreeMap;
use std::sync::Arc;

use ews_core::image::{BuildSpec, ImageQuery, ImageStore as _, Progress};
use ews_core::spec::content::EnvValue;
use ews_core::testkit::FakeSecrets;
use ews_core::{ErrorKind, ImageRef, Result, SecretRef};
use ews_docker::{Credentials, DockerImages};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hyper::Method;
use serde_json::json;

use super::conformance::Only;
use super::rig::{self, Raw, Registry};

fn context(dockerfile: &str) -> ews_core::runtime::ByteStream {
    stream::iter([Ok(rig::tar(&[("Dockerfile", dockerfile.as_bytes(), 0o644)]))]).boxed()
}

async fn built(images: &DockerImages, spec: &BuildSpec, dockerfile: &str) -> Result<Vec<Progress>> {
    images.build(spec, context(dockerfile)).await?.try_collect().await
}

#[tokio::test]
async fn a_secret_reaches_its_step_and_nothing_else() {
    let Some(config) = rig::engine().await else { return };
    let raw = Raw::new(&config);
    let images = DockerImages::connect(config).await.unwrap();
    let word = rig::unique();
    let (base, name) = (format!("{word}.example/base:1"), format!("{word}.example/built:1"));
    let archive = rig::image(&base, "amd64", &["sh", "cat", "wc"], &json!({"Env": ["PATH=/bin"]}));
    images.load(stream::iter([Ok(archive)]).boxed()).await.unwrap();

    let mut spec = BuildSpec::new(name.parse().unwrap());
    let reference: SecretRef = "vault/token".parse().unwrap();
    spec.secrets = BTreeMap::from([
        ("plain".to_owned(), EnvValue::Plain("hunter2".to_owned())),
        ("kept".to_owned(), EnvValue::Secret { secret: reference.clone() }),
    ]);
    let dockerfile = format!(
        "FROM {base}\nRUN --mount=type=secret,id=plain --mount=type=secret,id=kept cat /run/secrets/plain /run/secrets/kept | wc -c >/length && echo seen it\n"
    );
    // Nobody resolves the reference yet.
    assert_eq!(built(&images, &spec, &dockerfile).await.unwrap_err().kind(), ErrorKind::Unsupported);
    let secrets = FakeSecrets::default();
    secrets.put(&reference, "hunter3-hunter3");
    let images = images.with_secrets(Arc::new(secrets));
    let log = built(&images, &spec, &dockerfile).await.unwrap();
    assert!(
        log.iter().any(|line| matches!(line, Progress::Log(line) if line.ends_with(" seen it"))),
        "{log:?}"
    );
    assert!(!format!("{log:?}").contains("hunter"), "{log:?}");

    let container = raw.create(&json!({"Image": name, "Cmd": ["/x"]})).await;
    let (_, length) =
        raw.ask(Method::GET, &format!("/containers/{container}/archive?path=/length"), None).await.unwrap();
    assert_eq!(&length[512..515], b"22\n");
    raw.remove_container(&container).await;
    let history = raw.json(Method::GET, &format!("/images/{name}/history"), None).await.to_string();
    let inspected = raw.json(Method::GET, &format!("/images/{name}/json"), None).await.to_string();
    let saved = images.save(&[ImageQuery::Name(name.parse().unwrap())]).await.unwrap();
    let saved = saved.try_collect::<Vec<_>>().await.unwrap().concat();
    for words in [history, inspected, String::from_utf8_lossy(&saved).into_owned()] {
        assert!(!words.contains("hunter"), "the secret is in the image");
    }

    // A secret that the spec does not have is told to nobody.
    spec.secrets.clear();
    let dockerfile =
        format!("FROM {base}\nRUN --mount=type=secret,id=plain,required cat /run/secrets/plain\n");
    let error = built(&images, &spec, &dockerfile).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.detail().unwrap().contains("plain"), "{error}");
    raw.remove_image(&name).await;
    raw.remove_image(&base).await;
}

#[tokio::test]
async fn a_base_comes_with_the_credential_of_its_registry() {
    let Some(config) = rig::engine().await else { return };
    let registry = Registry::start(true).await;
    let raw = Raw::new(&config);
    let nobody = DockerImages::connect(config.clone()).await.unwrap();
    let credentials = Credentials::anonymous().or(Only(format!("127.0.0.1:{}", registry.port)));
    let images = DockerImages::connect_with(config, credentials).await.unwrap();
    let base: ImageRef = registry.name("base:1").parse().unwrap();
    let archive =
        rig::image(&base.to_string(), "amd64", &["sh"], &json!({"Labels": {"base": rig::unique()}}));
    images.load(stream::iter([Ok(archive)]).boxed()).await.unwrap();
    images.push(&base).await.unwrap().try_collect::<Vec<_>>().await.unwrap();
    raw.remove_images(&registry.name("")).await;

    // The image's own name lies elsewhere: the base's registry is not known from the spec.
    let spec = BuildSpec::new(format!("{}.example/built:1", rig::unique()).parse().unwrap());
    let dockerfile = format!("FROM {base}\nLABEL x=y\n");
    let error = built(&nobody, &spec, &dockerfile).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::ImageDenied | ErrorKind::Invalid), "{error}");
    built(&images, &spec, &dockerfile).await.unwrap();
    raw.remove_image(&spec.name.to_string()).await;
    raw.remove_images(&registry.name("")).await;
}
