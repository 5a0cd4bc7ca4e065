//! What tests on a real engine stand on: the engine itself, raw calls to it, a registry beside it, and small images.
//!
//! A test asks [`engine`] first and returns where there is none. Whatever it makes it names after [`unique`] and removes itself: other
//! people's tests use the same engine.
#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

pub(crate) mod garbler;
#[cfg(unix)]
pub(crate) mod standin;

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use ews_docker::{DockerConfig, EngineAddress};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

/// The engine that tests run on: the one that `docker` would use. Where none answers, a line says so and the test is skipped; with
/// `EWS_TEST_DOCKER=required` it fails instead.
pub(crate) async fn engine() -> Option<DockerConfig> {
    let config = DockerConfig::from_env().expect("the engine's address");
    let raw = Raw::new(&config);
    match raw.ask(Method::GET, "/_ping", None).await {
        Ok((200, _)) => Some(config),
        answer => {
            let required = std::env::var("EWS_TEST_DOCKER").is_ok_and(|value| value == "required");
            assert!(!required, "EWS_TEST_DOCKER=required, and no engine answers: {answer:?}");
            println!("skipped: no Docker Engine answers at {}", config.address);
            None
        }
    }
}

/// A word that no other test has.
pub(crate) fn unique() -> String {
    format!("ews-{:016x}", RandomState::new().build_hasher().finish())
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

/// Calls to an engine by hand, past all that is under test.
#[derive(Debug, Clone)]
pub(crate) struct Raw(EngineAddress);

impl Raw {
    pub(crate) fn new(config: &DockerConfig) -> Self {
        Self(config.address.clone())
    }

    /// A call; the answer's status and body.
    pub(crate) async fn ask(
        &self,
        method: Method,
        target: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream: Box<dyn Duplex> = match &self.0 {
            #[cfg(unix)]
            EngineAddress::Unix(path) => Box::new(tokio::net::UnixStream::connect(path).await?),
            EngineAddress::Tcp { host, port } => {
                Box::new(tokio::net::TcpStream::connect((host.as_str(), *port)).await?)
            }
            other => return Err(format!("the tests can't reach {other} by hand").into()),
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "docker")
            .header("content-type", "application/json")
            .body(Full::new(body.map_or_else(Bytes::new, |body| body.to_string().into())))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }

    /// A call that must be answered with success; its JSON, null where there is none.
    pub(crate) async fn json(&self, method: Method, target: &str, body: Option<&Value>) -> Value {
        let (status, text) = self.ask(method, target, body).await.expect("the engine");
        assert!(status < 300, "{target}: {status} {}", String::from_utf8_lossy(&text));
        serde_json::from_slice(&text).unwrap_or(Value::Null)
    }

    /// A container, not started.
    pub(crate) async fn create(&self, spec: &Value) -> String {
        let made = self.json(Method::POST, "/containers/create", Some(spec)).await;
        made["Id"].as_str().expect("an id").to_owned()
    }

    pub(crate) async fn remove_container(&self, id: &str) {
        let _ = self.ask(Method::DELETE, &format!("/containers/{id}?force=1&v=1"), None).await;
    }

    /// Removes an image by name, where it is there.
    pub(crate) async fn remove_image(&self, name: &str) {
        let _ = self.ask(Method::DELETE, &format!("/images/{name}?force=1"), None).await;
    }

    /// Removes every image whose name begins so.
    pub(crate) async fn remove_images(&self, prefix: &str) {
        let images = self.json(Method::GET, "/images/json", None).await;
        for image in images.as_array().into_iter().flatten() {
            for names in [&image["RepoTags"], &image["RepoDigests"]] {
                for name in names.as_array().into_iter().flatten().filter_map(Value::as_str) {
                    if name.starts_with(prefix) {
                        self.remove_image(name).await;
                    }
                }
            }
        }
    }
}

trait Duplex: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Duplex for T {}

/// A tar archive of these files.
pub(crate) fn tar(files: &[(&str, &[u8], u32)]) -> Bytes {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_mtime(1_700_000_000);
        archive.append_data(&mut header, name, *content).expect("an entry");
    }
    archive.into_inner().expect("an archive").into()
}

/// Debian's `busybox-static`, the program of every image here.
pub(crate) fn busybox() -> Vec<u8> {
    std::fs::read("/bin/busybox").expect("/bin/busybox: install busybox-static")
}

/// An archive of one image for this architecture, for `docker load`: busybox with links for these of its programs, nothing else. `config` is
/// the image's own.
pub(crate) fn image(name: &str, arch: &str, programs: &[&str], config: &Value) -> Bytes {
    let program = busybox();
    let mut layer = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        layer.append_data(&mut header, path, content).expect("an entry");
    };
    for directory in ["bin/", "tmp/", "etc/"] {
        add(directory, tar::EntryType::Directory, b"");
    }
    add("bin/busybox", tar::EntryType::Regular, &program);
    for program in programs {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{program}"), "busybox").expect("an entry");
    }
    let layer = layer.into_inner().expect("a layer");
    let config = json!({
        "architecture": arch, "os": "linux", "created": "2026-01-01T00:00:00Z", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [ews_core::Digest::of(&layer).to_string()]},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "the tests' rig"}],
    })
    .to_string();
    let list = json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).to_string();
    tar(&[
        ("config.json", config.as_bytes(), 0o644),
        ("layer.tar", &layer, 0o644),
        ("manifest.json", list.as_bytes(), 0o644),
    ])
}

/// Debian's `docker-registry` on a port of loopback's own, which engines speak plain HTTP to. It ends with this value.
pub(crate) struct Registry {
    child: Child,
    pub(crate) port: u16,
    root: tempfile::TempDir,
}

/// Who may use a registry that asks.
pub(crate) const USER: (&str, &str) = ("deployer", "correct horse");
/// The same, as `htpasswd -B` writes it.
const HTPASSWD: &str = "deployer:$2b$04$P81.K3nNtfIYyRXu5URWOeNMyTSfbT2ZFaTKQfknGOgcNtEv4Va0u\n";

impl Registry {
    /// Starts one, which asks for [`USER`] or for nobody.
    pub(crate) async fn start(asks: bool) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let mut config = json!({
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": root.path().join("data")}, "delete": {"enabled": true}},
            "http": {"addr": format!("127.0.0.1:{port}")},
        });
        if asks {
            let users = root.path().join("htpasswd");
            std::fs::write(&users, HTPASSWD).expect("a file");
            config["auth"] = json!({"htpasswd": {"realm": "tests", "path": users}});
        }
        let path = root.path().join("config.yml");
        std::fs::write(&path, config.to_string()).expect("a file");
        let log = || {
            std::fs::File::options().create(true).append(true).open(root.path().join("log")).expect("a file")
        };
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(log())
            .stderr(log())
            .stdin(Stdio::null())
            .spawn()
            .expect("docker-registry: install Debian's package of that name");
        let registry = Self { child, port, root };
        until("the registry listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        registry
    }

    /// A name in it.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// How many of the requests that it answered begin so, such as `HEAD /v2/a/manifests/1`, with this status.
    pub(crate) fn asked(&self, request: &str, status: u16) -> usize {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let (request, status) = (format!("\"{request} "), format!("\" {status} "));
        log.lines().filter(|line| line.contains(&request) && line.contains(&status)).count()
    }

    fn log(&self) -> PathBuf {
        self.root.path().join("log")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
