//! The documented snippet, run as it stands against a router on a real socket, and the statuses posted over one.

use std::time::Duration;

use ews_core::Digest;
use ews_deploy::intake::{PostStatus, StatusSink as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::payloads::github_push;
use crate::stage::{PROGRAM, SECRET, SHA, Stage, TOKEN, commits, results, signed};

/// Where there is no curl and no shell there is nothing to run.
async fn has_curl() -> bool {
    let curl = tokio::process::Command::new("curl").arg("--version").output().await;
    let tools = tokio::process::Command::new("sh").args(["-c", "command -v sha256sum sed"]).output().await;
    curl.is_ok_and(|output| output.status.success()) && tools.is_ok_and(|output| output.status.success())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_snippet_deploys_an_artifact_with_curl_alone() {
    if !has_curl().await {
        eprintln!("skipped: there is no curl here");
        return;
    }
    let stage = Stage::new(|config| config).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = stage.router();
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("web");
    std::fs::write(&file, PROGRAM).unwrap();
    for _ in 0..2 {
        let run = tokio::process::Command::new("sh")
            .args(["-c", include_str!("../../src/intake/deploy.sh")])
            .current_dir(work.path())
            .env("TOKEN", TOKEN)
            .env("EWS", format!("http://{address}"))
            .env("FILE", &file)
            .env("SERVICE", "web")
            .env("SPEC", r#"{"replicas": 1, "command": ["fake", "serve"]}"#)
            .env("no_proxy", "127.0.0.1")
            .kill_on_drop(true)
            .output();
        let run = tokio::time::timeout(Duration::from_secs(120), run).await.expect("it ends").unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(run.status.success(), "{} {}", text(&run.stdout), text(&run.stderr));
    }
    let rollouts = stage.rollouts().await;
    assert_eq!(rollouts.len(), 1, "a job that is run again changes nothing: {rollouts:?}");
    assert_eq!(stage.files().len(), 2, "the artifact is kept once: {}", Digest::of(PROGRAM));
    serving.abort();
}

#[tokio::test]
async fn a_status_is_posted_as_json() {
    let stage = Stage::with_rule("web", commits(ews_deploy::intake::Provider::Github)).await;
    let body = github_push("refs/heads/main", SHA, &["a"]);
    let signature = signed(SECRET, &body);
    let headers = [("x-github-event", "push"), ("x-hub-signature-256", &*signature)];
    assert_eq!(results(&stage.hook("/hooks/github/web", &headers, &body).await.1), ["accepted"]);
    let status = {
        stage.statuses(1).await;
        stage.told.statuses.lock().unwrap()[0].clone()
    };
    for (answer, is_told) in [("204 No Content", true), ("302 Found", false), ("500 Oh", false)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sink = PostStatus::to(&format!("http://{}/x?y=1", listener.local_addr().unwrap())).unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            while !heard.ends_with(b"}") {
                let mut buffer = [0; 1024];
                let read = stream.read(&mut buffer).await.unwrap();
                heard.extend_from_slice(&buffer[..read]);
            }
            let head = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            String::from_utf8(heard).unwrap()
        };
        let (told, heard) = tokio::join!(sink.tell(&status), serve);
        assert_eq!(told.is_ok(), is_told, "{told:?}");
        assert!(
            heard.starts_with("POST /x?y=1 HTTP/1.1\r\n") && heard.contains("\"state\":\"pending\""),
            "{heard}"
        );
    }
    let nobody = PostStatus::to("http://127.0.0.1:1/").unwrap();
    assert!(nobody.tell(&status).await.is_err());
    for bad in ["https://a/", "http://u:hunter2@a/", "a", "/x", ""] {
        let error = PostStatus::to(bad).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
