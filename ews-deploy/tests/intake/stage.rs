//! A deployer on a fake engine with an intake in front of it, which can be dropped and begun anew.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use ews_core::runtime::ByteStream;
use ews_core::testkit::{FakeRegistry, FakeSecrets, VirtualClock};
use ews_core::{Digest, Error, ErrorKind, Registry as _, Result, SecretRef, registry::Manifest};
use ews_deploy::intake::{
    Fetch, Glob, Heard, Intake, IntakeConfig, IntakeParts, MadeBy, Provider, Rule, RuleSource, Status,
    StatusSink, StatusState, TokenScope, Verb,
};
use ews_deploy::source::{Catalogue, Sources, SourcesConfig};
use ews_deploy::{Batch, Strategy};
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::rig::{Controller, World, eventually};

pub(crate) const SECRET: &str = "hook-secret-hunter2";
pub(crate) const TOKEN: &str = "ci-token-of-many-bytes-hunter2";
pub(crate) const OTHER: &str = "other-token-of-many-bytes-hunter2";
pub(crate) const SHA: &str = "6113728f27ae82c7b1a177c8d03f9e96e0adf246";

/// A program that the process runtime would run.
pub(crate) const PROGRAM: &[u8] = b"#!/bin/sh\nexec serve\n";

/// What was told, in order; it can be told to fail first.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) failing: Mutex<u32>,
    pub(crate) statuses: Mutex<Vec<Status>>,
}

#[async_trait]
impl StatusSink for Told {
    async fn tell(&self, status: &Status) -> Result<()> {
        let mut failing = self.failing.lock().unwrap();
        if *failing > 0 {
            *failing -= 1;
            return Err(Error::new(ErrorKind::Unavailable, "not now"));
        }
        self.statuses.lock().unwrap().push(status.clone());
        Ok(())
    }
}

impl Told {
    pub(crate) fn states(&self) -> Vec<(StatusState, Option<u64>)> {
        self.statuses.lock().unwrap().iter().map(|status| (status.state, status.rollout)).collect()
    }
}

/// Gives a program for every commit, after a while.
#[derive(Default)]
pub(crate) struct Commits {
    pub(crate) takes: Mutex<Duration>,
    pub(crate) fetched: Mutex<Vec<String>>,
}

#[async_trait]
impl Fetch for Commits {
    async fn fetch(&self, heard: &Heard) -> Result<ByteStream> {
        let takes = *self.takes.lock().unwrap();
        self.fetched.lock().unwrap().push(heard.sha.clone().unwrap_or_default());
        tokio::time::sleep(takes).await;
        let bytes = [PROGRAM, heard.sha.clone().unwrap_or_default().as_bytes()].concat();
        Ok(futures_util::stream::once(async move { Ok(bytes.into()) }).boxed())
    }
}

pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) controller: Controller,
    pub(crate) secrets: FakeSecrets,
    pub(crate) registry: FakeRegistry,
    pub(crate) told: Arc<Told>,
    pub(crate) commits: Arc<Commits>,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: IntakeConfig,
    pub(crate) intake: Intake,
    router: Router,
    running: Option<tokio::task::JoinHandle<()>>,
}

pub(crate) fn secret(name: &str) -> SecretRef {
    name.parse().unwrap()
}

/// A service without a source.
pub(crate) fn spec() -> Value {
    json!({ "name": "web", "replicas": 2, "command": ["fake", "serve"] })
}

pub(crate) fn strategy() -> Strategy {
    Strategy::default()
        .with_min_healthy(Duration::from_millis(100))
        .with_batches(Batch::Percent(100), Batch::Percent(100))
        .with_monitor(Duration::ZERO)
}

/// A rule about an image by the commit.
pub(crate) fn rule(provider: Provider) -> Rule {
    let source = RuleSource::Image("registry.example/acme/web:{sha}".parse().unwrap());
    let mut rule = Rule::new(provider, secret("hook"), source, spec());
    rule.strategy = strategy();
    rule
}

/// A rule about the files of a commit.
pub(crate) fn commits(provider: Provider) -> Rule {
    let mut rule = rule(provider);
    rule.source = RuleSource::Commit(MadeBy::process());
    rule
}

pub(crate) fn scope(name: &str, verbs: &[Verb]) -> TokenScope {
    TokenScope::new(secret(name))
        .with_services(["web".parse::<Glob>().unwrap(), "shop-*".parse().unwrap()])
        .with_verbs(verbs.iter().copied())
}

pub(crate) const ALL: [Verb; 6] =
    [Verb::Read, Verb::Upload, Verb::Deploy, Verb::Control, Verb::Scale, Verb::Hotfix];

impl Stage {
    pub(crate) async fn new(change: impl FnOnce(IntakeConfig) -> IntakeConfig) -> Self {
        let world = World::new();
        let clock = Arc::new(VirtualClock::default());
        let controller = world.controller_with("first", |parts| parts.with_clock(clock)).await;
        let secrets = FakeSecrets::new();
        secrets.put(&secret("hook"), SECRET);
        secrets.put(&secret("ci"), TOKEN);
        secrets.put(&secret("other"), OTHER);
        let registry = FakeRegistry::new();
        let dir = tempfile::tempdir().unwrap();
        let config = IntakeConfig::new(dir.path().join("uploads"))
            .with_token("ci", scope("ci", &ALL))
            .with_token("other", scope("other", &ALL));
        let config = change(config);
        let (told, commits) = (Arc::<Told>::default(), Arc::<Commits>::default());
        let intake = start(&controller, &secrets, &registry, &told, &commits, dir.path(), &config);
        let router = intake.router().unwrap();
        let mut stage = Self {
            world,
            controller,
            secrets,
            registry,
            told,
            commits,
            dir,
            config,
            intake,
            router,
            running: None,
        };
        stage.run();
        stage
    }

    pub(crate) async fn with_rule(name: &str, rule: Rule) -> Self {
        Self::new(|config| config.with_rule(name, rule)).await
    }

    pub(crate) fn run(&mut self) {
        let intake = self.intake.clone();
        self.running = Some(tokio::spawn(async move { intake.run().await }));
    }

    /// SIGKILL for the intake: what is under way ends where it stands.
    pub(crate) async fn kill_intake(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
            let _ = running.await;
        }
    }

    /// A new intake on the same directory and store.
    pub(crate) async fn restart(&mut self) {
        self.kill_intake().await;
        let Self { controller, secrets, registry, told, commits, dir, config, .. } = self;
        self.intake = start(controller, secrets, registry, told, commits, dir.path(), config);
        self.router = self.intake.router().unwrap();
        self.run();
    }

    pub(crate) fn router(&self) -> Router {
        self.router.clone()
    }

    /// Puts an image into the registry.
    pub(crate) async fn push(&self, name: &str) -> Digest {
        let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [], "annotations": { "name": name } });
        let manifest =
            Manifest::new("application/vnd.oci.image.index.v1+json", serde_json::to_vec(&index).unwrap());
        self.registry.push_manifest(&name.parse().unwrap(), &manifest).await.unwrap()
    }

    pub(crate) async fn ask(&self, request: Request<Body>) -> (StatusCode, HeaderMap, Value) {
        let path = request.uri().to_string();
        let response = self.router().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(!text.contains("hunter2"), "a secret in the answer to {path}: {text}");
        assert!(!text.contains(&*self.dir.path().to_string_lossy()), "a path of this machine: {text}");
        let value = serde_json::from_slice(&bytes).unwrap_or(Value::String(text));
        if parts.status.as_u16() >= 400 && !value.is_null() && value != "" {
            assert_eq!(parts.headers["content-type"], "application/problem+json", "{path}");
            assert_eq!(value["status"], parts.status.as_u16(), "{value}");
        }
        (parts.status, parts.headers, value)
    }

    /// A request of the API with the token of `ci`.
    pub(crate) async fn api(&self, method: &str, path: &str, body: impl Into<Body>) -> (StatusCode, Value) {
        self.api_as(TOKEN, method, path, body).await
    }

    pub(crate) async fn api_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: impl Into<Body>,
    ) -> (StatusCode, Value) {
        let request = api_request(token, method, path).body(body.into()).unwrap();
        let (status, _, value) = self.ask(request).await;
        (status, value)
    }

    /// A webhook, and what became of it.
    pub(crate) async fn hook(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (StatusCode, Value) {
        let mut request = Request::post(path).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (status, _, value) = self.ask(request.body(Body::from(body.to_vec())).unwrap()).await;
        (status, value)
    }

    /// The rollouts of the service, by their commits or images as the reason says, the earliest first.
    pub(crate) async fn rollouts(&self) -> Vec<(u64, String, String)> {
        let name = "web".parse().unwrap();
        let mut history = self.controller.deployer.history(&name).await.unwrap();
        history.reverse();
        history.into_iter().map(|report| (report.id.number, report.by, report.reason)).collect()
    }

    /// Waits until this many rollouts have ended.
    pub(crate) async fn ended(&self, count: usize) {
        let name = "web".parse().unwrap();
        eventually("so many rollouts have ended", || async {
            let history = self.controller.deployer.history(&name).await.unwrap();
            history.iter().filter(|report| report.outcome.is_some()).count() >= count
        })
        .await;
    }

    /// Waits until this many statuses are told.
    pub(crate) async fn statuses(&self, count: usize) -> Vec<(StatusState, Option<u64>)> {
        let told = &self.told;
        eventually("so many statuses are told", || async move { told.states().len() >= count }).await;
        self.told.states()
    }

    pub(crate) async fn records(&self, prefix: &str) -> usize {
        self.world.keys(&format!("intake/acme/{prefix}")).await
    }

    /// What is in the directory of uploads.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(&self.config.uploads)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Uploads in one request and gives the id.
    pub(crate) async fn upload(&self, content: &[u8]) -> String {
        let digest = Digest::of(content);
        let path = format!("/v1/artifacts?digest={digest}");
        let request = api_request(TOKEN, "PUT", &path).header("content-length", content.len());
        let (status, _, value) = self.ask(request.body(Body::from(content.to_vec())).unwrap()).await;
        assert!(status.is_success(), "{value}");
        value["id"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn api_request(token: &str, method: &str, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"))
}

fn start(
    controller: &Controller,
    secrets: &FakeSecrets,
    registry: &FakeRegistry,
    told: &Arc<Told>,
    commits: &Arc<Commits>,
    dir: &std::path::Path,
    config: &IntakeConfig,
) -> Intake {
    let sources = SourcesConfig::new(dir.join("scratch")).with_artifacts(dir.join("artifacts"));
    let sources = Sources::new(sources, Catalogue::built_in().unwrap()).unwrap();
    let parts = IntakeParts::new(controller.deployer.clone(), Arc::new(secrets.clone()))
        .with_sources(sources.with_registry(Arc::new(registry.clone())))
        .with_fetch(Arc::clone(commits) as _)
        .with_status(Arc::clone(told) as _)
        .with_link(|service, rollout| Some(format!("https://deploy.example/{service}/{rollout:?}")));
    Intake::start(parts, config.clone()).unwrap()
}

/// `sha256=` and the tag, as GitHub writes it.
pub(crate) fn signed(secret: &str, body: &[u8]) -> String {
    format!("sha256={}", hex(&hmac_sha256::HMAC::mac(body, secret)))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What each delivery's result says.
pub(crate) fn results(value: &Value) -> Vec<String> {
    let results = value["results"].as_array().unwrap_or_else(|| panic!("{value}"));
    results.iter().map(|result| result["result"].as_str().unwrap().to_owned()).collect()
}
