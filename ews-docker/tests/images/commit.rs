//! Commits on a real engine: what the run-time environment added is nowhere in them.

use std::sync::atomic::{AtomicUsize, Ordering};

use ews_core::image::{CommitSpec, Image, ImageQuery, ImageStore as _};
use ews_core::{ErrorKind, InstanceId};
use ews_docker::{DockerConfig, DockerImages};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hyper::Method;
use serde_json::{Value, json};

use crate::rig::standin::{Reply, Standin};
use crate::rig::{self, Raw, until};

/// A container whose every setting holds the word `hunter2`, which has written a file and still runs.
struct Bench {
    raw: Raw,
    images: DockerImages,
    base: String,
    made: String,
    container: String,
}

impl Bench {
    async fn new(config: &DockerConfig) -> Self {
        let raw = Raw::new(config);
        let images = DockerImages::connect(config.clone()).await.unwrap();
        let word = rig::unique();
        let (base, made) = (format!("{word}.example/base:1"), format!("{word}.example/made:1"));
        let own = json!({
            "Env": ["PATH=/bin", "OWN=kept"], "Cmd": ["/bin/sh"], "WorkingDir": "/tmp", "User": "0",
            "Labels": {"own": "kept"}, "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGUSR1",
        });
        let archive = rig::image(&base, "amd64", &["sh", "sleep"], &own);
        images.load(stream::iter([Ok(archive)]).boxed()).await.unwrap();
        let spec = json!({
            "Image": base, "Env": ["PASSWORD=hunter2"], "Labels": {"hunter2": "hunter2"},
            "Entrypoint": ["/bin/sh", "-c", "echo content >/tmp/file; exec sleep 600; : hunter2"],
            "User": "0:0", "WorkingDir": "/etc", "ExposedPorts": {"81/tcp": {}}, "Hostname": "hunter2", "StopSignal": "SIGKILL",
            "Healthcheck": {"Test": ["CMD", "/bin/sh", "-c", ": hunter2"], "Interval": 60_000_000_000_u64},
            "HostConfig": {"NetworkMode": "none"},
        });
        let container = raw.create(&spec).await;
        raw.json(Method::POST, &format!("/containers/{container}/start"), None).await;
        until("the container has written its file", async || {
            let target = format!("/containers/{container}/archive?path=/tmp/file");
            raw.ask(Method::GET, &target, None).await.is_ok_and(|(status, _)| status == 200)
        })
        .await;
        Self { raw, images, base, made, container }
    }

    fn spec(&self) -> CommitSpec {
        let mut spec = CommitSpec::new(self.made.parse().unwrap());
        spec.comment = "by the tests".to_owned();
        spec.labels.insert("ews.owner".to_owned(), "tests".to_owned());
        spec
    }

    async fn commit(&self, images: &DockerImages) -> ews_core::Result<Image> {
        images.commit(&InstanceId::new(self.container.clone()).unwrap(), &self.spec()).await
    }

    /// What must hold of every committed image.
    async fn is_clean(&self, image: &Image) {
        let text = |value: &Value| value.to_string();
        let inspected = self.raw.json(Method::GET, &format!("/images/{}/json", self.made), None).await;
        let history = self.raw.json(Method::GET, &format!("/images/{}/history", self.made), None).await;
        let saved = self.images.save(&[ImageQuery::Name(self.made.parse().unwrap())]).await.unwrap();
        let saved = saved.try_collect::<Vec<_>>().await.unwrap().concat();
        for words in [text(&inspected), text(&history), String::from_utf8_lossy(&saved).into_owned()] {
            assert!(!words.contains("hunter2"), "the run-time environment is in the image");
            assert!(!words.contains(&self.container[..12]), "the container's id is in the image");
        }
        let config = &inspected["Config"];
        assert_eq!(config["Env"], json!(["PATH=/bin", "OWN=kept"]));
        assert_eq!(config["Cmd"], json!(["/bin/sh"]));
        assert_eq!((config["Entrypoint"].is_null(), &config["User"]), (true, &json!("0")));
        assert_eq!((&config["WorkingDir"], &config["StopSignal"]), (&json!("/tmp"), &json!("SIGUSR1")));
        assert_eq!(config["ExposedPorts"], json!({"80/tcp": {}}));
        assert!(config["Healthcheck"].is_null());
        assert_eq!(history[0]["Comment"], "by the tests");
        assert_eq!(history[1]["CreatedBy"], "the tests' rig");
        for (label, value) in [
            ("own", "kept"),
            ("ews.owner", "tests"),
            ("ews.image.kind", "commit"),
            ("ews.image.comment", "by the tests"),
            ("org.opencontainers.image.base.name", &self.base),
        ] {
            assert_eq!(image.labels.get(label).map(String::as_str), Some(value), "{label}");
        }
        assert!(image.labels.contains_key("org.opencontainers.image.created"));
        // And it is a whole image: what was written is in it, and it runs.
        let again = self
            .raw
            .create(&json!({"Image": self.made, "Cmd": ["/bin/sh", "-c", "read x </tmp/file; [ $x = content ]"], "HostConfig": {"NetworkMode": "none"}}))
            .await;
        self.raw.json(Method::POST, &format!("/containers/{again}/start"), None).await;
        let ended = self.raw.json(Method::POST, &format!("/containers/{again}/wait"), None).await;
        self.raw.remove_container(&again).await;
        assert_eq!(ended["StatusCode"], 0);
    }

    /// No quarantine is left of this container.
    async fn nothing_is_left(&self) {
        until("the quarantine is gone", async || {
            let images = self.raw.json(Method::GET, "/images/json", None).await;
            !images.to_string().contains("ews.invalid/quarantine")
        })
        .await;
    }

    async fn end(self) {
        self.raw.remove_container(&self.container).await;
        self.raw.remove_image(&self.made).await;
        self.raw.remove_image(&self.base).await;
    }
}

#[tokio::test]
async fn a_commit_holds_nothing_of_the_run_time_environment() {
    let Some(config) = rig::engine().await else { return };
    let bench = Bench::new(&config).await;
    let image = bench.commit(&bench.images).await.unwrap();
    bench.is_clean(&image).await;
    bench.nothing_is_left().await;
    // The program still runs: it was only paused.
    let found = bench.raw.json(Method::GET, &format!("/containers/{}/json", bench.container), None).await;
    assert_eq!((&found["State"]["Running"], &found["State"]["Paused"]), (&json!(true), &json!(false)));
    bench.end().await;
}

#[tokio::test]
async fn an_engine_that_takes_no_config_alone_gets_the_layers_with_it() {
    let Some(config) = rig::engine().await else { return };
    let bench = Bench::new(&config).await;
    let loads = AtomicUsize::new(0);
    let engine = Standin::over(&config, move |asked| {
        if asked.line.starts_with("POST /images/load") && loads.fetch_add(1, Ordering::SeqCst) == 0 {
            return Reply::Whole(
                500,
                r#"{"message":"open 1/layer.tar: no such file or directory"}"#.to_owned(),
            );
        }
        Reply::Real
    });
    let images = DockerImages::connect(engine.config()).await.unwrap();
    let image = bench.commit(&images).await.unwrap();
    assert_eq!((engine.asked("GET /images/get?"), engine.asked("POST /images/load")), (1, 2));
    bench.is_clean(&image).await;
    bench.nothing_is_left().await;
    bench.end().await;
}

#[tokio::test]
async fn a_commit_that_fails_leaves_no_quarantine() {
    let Some(config) = rig::engine().await else { return };
    let bench = Bench::new(&config).await;
    let engine = Standin::over(&config, |asked| {
        if asked.line.starts_with("POST /images/load") {
            return Reply::Whole(500, r#"{"message":"write /x: no space left on device"}"#.to_owned());
        }
        Reply::Real
    });
    let images = DockerImages::connect(engine.config()).await.unwrap();
    let error = bench.commit(&images).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfResources);
    bench.nothing_is_left().await;
    let made = bench.images.inspect(&ImageQuery::Name(bench.made.parse().unwrap())).await;
    assert_eq!(made.unwrap_err().kind(), ErrorKind::ImageMissing);
    bench.end().await;
}

#[tokio::test]
async fn a_dropped_commit_goes_on() {
    let Some(config) = rig::engine().await else { return };
    let bench = Bench::new(&config).await;
    let mut commit = Box::pin(bench.commit(&bench.images));
    assert!(futures_util::poll!(&mut commit).is_pending());
    drop(commit);
    let query = ImageQuery::Name(bench.made.parse().unwrap());
    until("the image is there", async || bench.images.inspect(&query).await.is_ok()).await;
    bench.is_clean(&bench.images.inspect(&query).await.unwrap()).await;
    bench.nothing_is_left().await;
    bench.end().await;
}

#[tokio::test]
async fn a_commit_that_a_process_left_midway_is_removed_by_the_next_once_it_is_old() {
    let Some(config) = rig::engine().await else { return };
    let bench = Bench::new(&config).await;
    // The rig's image is dated to the beginning of 2026: an old quarantine.
    let name = format!("ews.invalid/quarantine:{}", rig::unique());
    let archive = rig::image(&name, "amd64", &[], &json!({}));
    bench.images.load(stream::iter([Ok(archive)]).boxed()).await.unwrap();
    bench.commit(&bench.images).await.unwrap();
    bench.nothing_is_left().await;
    bench.end().await;
}
