//! Uploads: resumed, checked, bounded, and taken up after a crash.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use ews_core::Digest;
use ews_deploy::intake::IntakeLimits;
use serde_json::{Value, json};

use crate::rig::eventually;
use crate::stage::{OTHER, Stage, TOKEN, api_request};

async fn begin(stage: &Stage, content: &[u8]) -> String {
    let body = json!({ "size": content.len(), "digest": Digest::of(content) }).to_string();
    let (status, value) = stage.api("POST", "/v1/uploads", body).await;
    assert_eq!(status, StatusCode::CREATED, "{value}");
    value["id"].as_str().unwrap().to_owned()
}

async fn patch(
    stage: &Stage,
    id: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> (StatusCode, Value) {
    let mut request = api_request(TOKEN, "PATCH", &format!("/v1/uploads/{id}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (status, _, value) = stage.ask(request.body(body.into()).unwrap()).await;
    (status, value)
}

async fn offset(stage: &Stage, id: &str) -> u64 {
    let request = api_request(TOKEN, "HEAD", &format!("/v1/uploads/{id}")).body(Body::empty()).unwrap();
    let (status, headers, _) = stage.ask(request).await;
    assert_eq!(status, StatusCode::OK);
    headers["upload-offset"].to_str().unwrap().parse().unwrap()
}

/// A body that gives this and then breaks.
fn cut(bytes: &'static [u8]) -> Body {
    let pieces = [Ok(Bytes::from_static(bytes)), Err(std::io::Error::other("cut"))];
    Body::from_stream(futures_util::stream::iter(pieces))
}

#[tokio::test(start_paused = true)]
async fn an_upload_is_resumed_where_it_was_cut_also_by_another_intake() {
    let mut stage = Stage::new(|config| config).await;
    let id = begin(&stage, b"0123456789").await;
    assert_eq!(offset(&stage, &id).await, 0);
    let (status, _) = patch(&stage, &id, &[("upload-offset", "0")], cut(b"0123")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(offset(&stage, &id).await, 4);
    let (status, problem) = patch(&stage, &id, &[("upload-offset", "3")], "x").await;
    assert_eq!((status, &problem["context"]["offset"]), (StatusCode::CONFLICT, &json!("4")), "{problem}");
    stage.restart().await;
    let (status, value) = patch(&stage, &id, &[("content-range", "bytes 4-6/10")], "456").await;
    assert_eq!((status, &value["offset"]), (StatusCode::OK, &json!(7)), "{value}");
    let path = format!("/v1/uploads/{id}");
    let (status, problem) = stage.api("PUT", &path, "").await;
    assert_eq!((status, &problem["context"]["offset"]), (StatusCode::CONFLICT, &json!("7")), "{problem}");
    // A piece that is not what its digest says leaves nothing behind.
    let digest = Digest::of(b"789").to_string();
    let (status, _) = patch(&stage, &id, &[("upload-offset", "7"), ("chunk-digest", &digest)], "78x").await;
    assert_eq!((status, offset(&stage, &id).await), (StatusCode::BAD_REQUEST, 7));
    let (status, _) =
        patch(&stage, &id, &[("upload-offset", "7"), ("chunk-digest", &digest)], cut(b"78")).await;
    assert_eq!((status, offset(&stage, &id).await), (StatusCode::BAD_REQUEST, 7));
    let (status, _) = patch(&stage, &id, &[("upload-offset", "7"), ("chunk-digest", &digest)], "789").await;
    assert_eq!(status, StatusCode::OK);
    for _ in 0..2 {
        let (status, value) = stage.api("PUT", &path, "").await;
        assert_eq!((status, &value["complete"]), (StatusCode::OK, &json!(true)), "{value}");
    }
    stage.restart().await;
    let (_, value) = stage.api("GET", &path, "").await;
    assert_eq!(value["complete"], true);
    assert_eq!(stage.files(), [format!("{id}.meta"), format!("{id}.whole")]);
    assert_eq!(stage.api_as(OTHER, "GET", &path, "").await.0, StatusCode::NOT_FOUND);
    assert_eq!(stage.api("DELETE", &path, "").await.0, StatusCode::NO_CONTENT);
    assert_eq!(stage.files(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_what_was_announced_is_gone() {
    let stage = Stage::new(|config| config).await;
    let id = begin(&stage, b"good").await;
    let (status, problem) = patch(&stage, &id, &[("upload-offset", "0")], "good and more").await;
    assert_eq!((status, offset(&stage, &id).await), (StatusCode::BAD_REQUEST, 0), "{problem}");
    patch(&stage, &id, &[("upload-offset", "0")], "evil").await;
    let (status, problem) = stage.api("PUT", &format!("/v1/uploads/{id}"), "").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    assert_eq!(stage.api("GET", &format!("/v1/uploads/{id}"), "").await.0, StatusCode::NOT_FOUND);
    let path = format!("/v1/artifacts?digest={}", Digest::of(b"good"));
    let request = |length: u64, body: Body| {
        api_request(TOKEN, "PUT", &path).header("content-length", length).body(body).unwrap()
    };
    assert_eq!(stage.ask(request(4, "evil".into())).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(stage.ask(request(5, "evils".into())).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(stage.ask(request(4, cut(b"go"))).await.0, StatusCode::BAD_REQUEST);
    let unsaid = api_request(TOKEN, "PUT", &path).body(cut(b"good")).unwrap();
    assert_eq!(stage.ask(unsaid).await.0, StatusCode::LENGTH_REQUIRED);
    assert_eq!(stage.files(), [""; 0]);
    assert_eq!(stage.ask(request(4, "good".into())).await.0, StatusCode::CREATED);
    assert_eq!(stage.ask(request(4, "good".into())).await.0, StatusCode::OK);
    assert_eq!(stage.files().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn two_writers_at_once_are_one_and_a_silent_one_is_not_waited_for() {
    let stage = Stage::new(|config| config).await;
    let id = begin(&stage, b"0123456789").await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async move {
        Some((receiver.recv().await?, receiver))
    });
    let tried = tokio::sync::Notify::new();
    let slow = patch(&stage, &id, &[("upload-offset", "0")], Body::from_stream(pieces));
    let other = async {
        sender.send(Ok(Bytes::from_static(b"0123"))).await.unwrap();
        let mut looks = 0;
        while offset(&stage, &id).await != 4 {
            looks += 1;
            assert!(looks < 100_000, "it never arrived");
            tokio::task::yield_now().await;
        }
        let (status, problem) = patch(&stage, &id, &[("upload-offset", "4")], "4").await;
        assert_eq!(status, StatusCode::CONFLICT, "{problem}");
        assert_eq!(stage.api("DELETE", &format!("/v1/uploads/{id}"), "").await.0, StatusCode::CONFLICT);
        assert_eq!(stage.api("PUT", &format!("/v1/uploads/{id}"), "").await.0, StatusCode::CONFLICT);
        tried.notify_one();
        sender
    };
    // A writer's thread waits for what is sent, so the clock does not go on by itself.
    let silence = async {
        tried.notified().await;
        // Longer than it may be silent, and far from the end of the upload itself.
        for _ in 0..90 {
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        std::future::pending::<()>().await
    };
    let ((status, _), _sender) = tokio::select! {
        done = async { tokio::join!(slow, other) } => done,
        () = silence => unreachable!(),
    };
    assert_eq!((status, offset(&stage, &id).await), (StatusCode::REQUEST_TIMEOUT, 4));
    assert_eq!(patch(&stage, &id, &[("upload-offset", "4")], "456789").await.0, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn quotas_hold_before_a_byte_is_written_and_expiry_gives_back() {
    let limits = IntakeLimits::default()
        .with_upload(100)
        .with_uploads(4)
        .with_token_uploads(3)
        .with_disk(250)
        .with_token_disk(200)
        .with_expiry(Duration::from_secs(3_600));
    let mut stage = Stage::new(|config| config.with_limits(limits)).await;
    let ask = async |stage: &Stage, token: &str, size: u64| {
        let body = json!({ "size": size, "digest": Digest::of(b"x") }).to_string();
        stage.api_as(token, "POST", "/v1/uploads", body).await.0
    };
    let full = StatusCode::PAYLOAD_TOO_LARGE;
    assert_eq!(ask(&stage, TOKEN, 101).await, full, "of one");
    assert_eq!(ask(&stage, TOKEN, 100).await, StatusCode::CREATED);
    assert_eq!(ask(&stage, TOKEN, 100).await, StatusCode::CREATED);
    assert_eq!(ask(&stage, TOKEN, 1).await, full, "bytes of a token");
    assert_eq!(ask(&stage, OTHER, 51).await, full, "bytes in all");
    assert_eq!(ask(&stage, OTHER, 1).await, StatusCode::CREATED);
    assert_eq!(ask(&stage, TOKEN, 0).await, StatusCode::CREATED);
    assert_eq!(ask(&stage, OTHER, 0).await, full, "uploads in all");
    assert_eq!(stage.files().len(), 8);
    // What an earlier intake left expires as well, and so does what belongs to nobody; the rest is left alone.
    let uploads = stage.config.uploads.clone();
    std::fs::write(uploads.join("notes.txt"), "mine").unwrap();
    std::fs::write(uploads.join(format!("{}.part", "a".repeat(32))), "orphan").unwrap();
    std::fs::write(uploads.join(format!("{}.meta", "b".repeat(32))), "{half").unwrap();
    stage.restart().await;
    assert_eq!(stage.files().len(), 9);
    tokio::time::sleep(Duration::from_secs(3_700)).await;
    let left = || async { stage.files() == ["notes.txt"] };
    eventually("they have expired", left).await;
    assert_eq!(ask(&stage, TOKEN, 100).await, StatusCode::CREATED);
}

#[tokio::test(start_paused = true)]
async fn no_word_of_a_client_is_a_path() {
    let stage = Stage::new(|config| config).await;
    for id in ["..%2f..%2fetc%2fpasswd", "%00", "..", "a".repeat(5_000).as_str(), "%2e%2e"] {
        for method in ["GET", "HEAD", "PUT", "DELETE"] {
            let (status, _) = stage.api(method, &format!("/v1/uploads/{id}"), "").await;
            assert!(status.is_client_error(), "{method} {id}: {status}");
        }
    }
    for wrong in ["bytes 5-4/9", "bytes 0-1", "0-1/2", "bytes 0-18446744073709551615/1", "bytes +0-1/2", ""] {
        let (status, _) = patch(&stage, "x", &[("content-range", wrong)], "x").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    assert_eq!(patch(&stage, "x", &[], "x").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(stage.files(), [""; 0]);
}
