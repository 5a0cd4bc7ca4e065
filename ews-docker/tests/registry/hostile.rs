//! Answers that no registry should give, and registries that give none.

use std::sync::Arc;
use std::time::Duration;

use ews_core::registry::Registry;
use ews_core::testkit::FakeSecrets;
use ews_core::{Digest, Error, ErrorKind, ImageRef, Retry};
use ews_docker::registry::{OciRegistry, OciRegistryConfig};
use ews_docker::{Credentials, ExplicitCredentials};

use crate::pieces::{MANIFEST, content, drain, info, stream};
use crate::standin::{Reply, Request, StandIn};

const PASSWORD: &str = "Xk9-hunter2-swordfish";

fn client(config: OciRegistryConfig) -> OciRegistry {
    OciRegistry::new(config, Credentials::anonymous()).unwrap()
}

/// A client that has a password for this registry.
fn known(standin: &StandIn, config: OciRegistryConfig) -> OciRegistry {
    let secrets = FakeSecrets::new();
    let reference = "registry".parse().unwrap();
    secrets.put(&reference, PASSWORD);
    let explicit =
        ExplicitCredentials::new(Arc::new(secrets)).with_password(standin.host(), "deploy", reference);
    OciRegistry::new(config, Credentials::anonymous().or(explicit)).unwrap()
}

fn name(standin: &StandIn) -> ImageRef {
    format!("{}/a/b:1", standin.host()).parse().unwrap()
}

fn manifest_reply(body: &str) -> Reply {
    Reply::new(200).with("content-type", MANIFEST).body(body)
}

/// What reading a manifest from such a server gives.
async fn manifest_error(answers: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> (Error, StandIn) {
    let standin = StandIn::start(answers).await;
    let config = standin.config().with_answer_timeout(Duration::from_secs(20));
    let error = client(config).manifest(&name(&standin)).await.unwrap_err();
    (error, standin)
}

#[tokio::test]
async fn what_is_too_large_is_never_read() {
    let large = 5 * 1024 * 1024;
    for answer in [manifest_reply("{}").length(large), manifest_reply(&"x".repeat(100_000)).endless()] {
        let (error, _) = manifest_error(move |_| answer.clone()).await;
        assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
        assert!(error.message().contains("4194304"), "{error}");
    }
    // An error's body, a list of tags and the size that HEAD tells are bounded too.
    let (error, _) = manifest_error(|_| Reply::new(403).body("y".repeat(100_000)).endless()).await;
    assert_eq!(error.kind(), ErrorKind::ImageDenied, "{error}");
    let standin = StandIn::start(move |request| match request.method.as_str() {
        "HEAD" => manifest_reply("").length(large).with("docker-content-digest", Digest::of(b"x")),
        _ => Reply::new(200).body(" ".repeat(100_000)).endless(),
    })
    .await;
    let registry = client(standin.config());
    assert_eq!(registry.resolve(&name(&standin)).await.unwrap_err().kind(), ErrorKind::Decode);
    assert_eq!(registry.tags(&name(&standin), None, 1).await.unwrap_err().kind(), ErrorKind::Decode);
}

#[tokio::test]
async fn what_is_not_what_was_asked_for_is_refused() {
    let digest = Digest::of(b"{}");
    for (what, reply) in [
        ("other bytes than the registry says", manifest_reply("{ }").with("docker-content-digest", digest)),
        ("no digest", manifest_reply("{}").with("docker-content-digest", "sha256:12")),
        ("another kind", manifest_reply(r#"{"mediaType":"application/vnd.oci.image.index.v1+json"}"#)),
        ("no kind", Reply::new(200).with("content-type", "application/json").body("{}")),
        ("an odd status", Reply::new(299).body("x")),
    ] {
        let (error, standin) = manifest_error(move |_| reply.clone()).await;
        assert_eq!(error.kind(), ErrorKind::Decode, "{what}: {error}");
        assert_eq!(standin.requests().len(), 1, "{what} is not tried again");
    }
    let standin =
        StandIn::start(|_| manifest_reply("{}").with("docker-content-digest", Digest::of(b"other"))).await;
    let pinned = name(&standin).with_digest(Digest::of(b"wanted"));
    for error in [
        client(standin.config()).manifest(&pinned).await.unwrap_err(),
        client(standin.config()).resolve(&pinned).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
        assert!(error.context().any(|c| c == ("digest", &*pinned.digest().unwrap().to_string())), "{error}");
    }
}

#[tokio::test]
async fn a_head_that_tells_too_little_is_followed_by_a_get() {
    let standin = StandIn::start(|request| match request.method.as_str() {
        "HEAD" => Reply::new(200).with("content-type", MANIFEST).length(2),
        _ => manifest_reply("{}"),
    })
    .await;
    let found = client(standin.config()).resolve(&name(&standin)).await.unwrap();
    assert_eq!((found.digest, found.size, found.media_type.as_str()), (Digest::of(b"{}"), 2, MANIFEST));
}

#[tokio::test]
async fn redirects_end_and_lead_nowhere_else() {
    let (error, standin) =
        manifest_error(|request| Reply::new(302).with("location", format!("/loop?n={}", request.number)))
            .await;
    assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
    assert_eq!(standin.requests().len(), 6, "one request and five redirects");
    for location in ["file:///etc/passwd", "ftp://a.example/", "https://user:word@127.0.0.1/", "", "http://"]
    {
        let (error, standin) = manifest_error(move |_| Reply::new(307).with("location", location)).await;
        assert_eq!(error.kind(), ErrorKind::Decode, "{location}: {error}");
        assert!(standin.requests().len() <= 6, "{location}");
    }
}

#[tokio::test]
async fn a_redirect_to_plain_http_must_have_been_asked_for() {
    let other = StandIn::start(|_| manifest_reply("{}")).await;
    let there = format!("http://{}/x", other.host());
    let standin = StandIn::start(move |_| Reply::new(307).with("location", &there)).await;
    let error = client(standin.config()).manifest(&name(&standin)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
    assert!(error.message().contains("plain_http") && error.message().contains(&other.host()), "{error}");
    assert!(other.requests().is_empty(), "nothing was asked there");
    client(standin.config().with_plain_http(other.host())).manifest(&name(&standin)).await.unwrap();
}

#[tokio::test]
async fn no_credential_goes_to_another_host() {
    let other = StandIn::start(|request| match request.method.as_str() {
        // It asks for credentials, too.
        "GET" => Reply::new(401).with("www-authenticate", "Basic realm=\"give\""),
        _ => Reply::new(201),
    })
    .await;
    let there = other.host();
    let standin = StandIn::start(move |request| {
        if request.header("authorization").is_none() {
            return Reply::new(401).with("www-authenticate", "Basic realm=\"x\"");
        }
        let there = format!("http://{there}/upload");
        match request.method.as_str() {
            "HEAD" => Reply::new(404),
            "POST" => Reply::new(202).with("location", there),
            _ => Reply::new(307).with("location", there),
        }
    })
    .await;
    let registry = known(&standin, standin.config().with_plain_http(other.host()));
    let error = registry.manifest(&name(&standin)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    // An upload may lie elsewhere; the password stays.
    registry.push_blob(&name(&standin), &info(b"blob"), stream(b"blob".to_vec())).await.unwrap();
    let requests = other.requests();
    assert!(requests.iter().any(|request| request.method == "PUT" && request.body == b"blob"));
    for request in requests {
        assert_eq!(request.header("authorization"), None, "{} {}", request.method, request.target);
        assert!(!request.headers.iter().any(|(_, value)| value.contains(PASSWORD)));
    }
    let shown = standin.requests().iter().filter(|request| request.header("authorization").is_some()).count();
    assert!(shown > 0, "the registry itself was shown the password");
}

#[tokio::test]
async fn another_hosts_challenge_is_not_answered() {
    let trap = StandIn::start(|_| Reply::new(200).body(r#"{"token":"t"}"#)).await;
    let realm = trap.host();
    let other = StandIn::start(move |_| {
        Reply::new(401)
            .with("www-authenticate", format!("Bearer realm=\"http://{realm}/token\",service=\"s\""))
    })
    .await;
    let there = other.host();
    let standin =
        StandIn::start(move |_| Reply::new(307).with("location", format!("http://{there}/x"))).await;
    let config = standin.config().with_plain_http(other.host()).with_plain_http(trap.host());
    let error = known(&standin, config).manifest(&name(&standin)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(trap.requests().is_empty(), "a password went to whom the store named");
    assert_eq!(other.requests().len(), 3, "each attempt begins at the registry");
}

/// A registry whose token service is another stand-in.
async fn with_service(answers: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> (StandIn, StandIn) {
    let service = StandIn::start(answers).await;
    let realm = service.host();
    let standin = StandIn::start(move |request| match request.header("authorization") {
        Some("Bearer good") => manifest_reply("{}"),
        _ => Reply::new(401)
            .with("www-authenticate", format!("Bearer realm=\"http://{realm}/token\",service=\"s\"")),
    })
    .await;
    (standin, service)
}

#[tokio::test]
async fn a_token_service_without_tls_gets_nothing_unless_it_was_asked_for() {
    let (standin, service) = with_service(|_| Reply::new(200).body(r#"{"token":"good"}"#)).await;
    let error = known(&standin, standin.config()).manifest(&name(&standin)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    assert!(error.message().contains("plain_http"), "{error}");
    assert!(service.requests().is_empty());
    let config = standin.config().with_plain_http(service.host());
    known(&standin, config).manifest(&name(&standin)).await.unwrap();
    assert_eq!(service.requests().len(), 1);
}

#[tokio::test]
async fn a_token_services_bad_answers_are_told_apart() {
    for (what, reply, kind, requests) in [
        ("a giant", Reply::new(200).body("x".repeat(70_000)), ErrorKind::Decode, 1),
        ("an endless one", Reply::new(200).body("x".repeat(70_000)).endless(), ErrorKind::Decode, 1),
        ("no JSON", Reply::new(200).body("<html>"), ErrorKind::Decode, 1),
        ("no token", Reply::new(200).body("{}"), ErrorKind::Decode, 1),
        (
            "one that breaks the line",
            Reply::new(200).body(r#"{"token":"a\r\nHost: b"}"#),
            ErrorKind::Decode,
            1,
        ),
        (
            "a refusal that repeats",
            Reply::new(401).body(format!("bad password {PASSWORD}")),
            ErrorKind::Unauthorized,
            1,
        ),
        ("an outage", Reply::new(503).body("<html>"), ErrorKind::Unavailable, 3),
        (
            "a redirect elsewhere",
            Reply::new(307).with("location", "https://evil.example/"),
            ErrorKind::Decode,
            1,
        ),
        ("one that is not taken", Reply::new(200).body(r#"{"token":"bad"}"#), ErrorKind::ImageDenied, 4),
    ] {
        let (standin, service) = with_service(move |_| reply.clone()).await;
        let config = standin.config().with_plain_http(service.host());
        let error = known(&standin, config).manifest(&name(&standin)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert!(!format!("{error}{error:?}").contains(PASSWORD), "{what}: {error:?}");
        assert!(service.requests().len() <= requests, "{what}: {}", service.requests().len());
    }
}

#[tokio::test]
async fn an_identity_token_is_changed_for_another_by_post() {
    let (standin, service) = with_service(|request| {
        let body = String::from_utf8(request.body.clone()).unwrap();
        let good = request.method == "POST"
            && body.contains("refresh_token=idt")
            && body.contains("grant_type=refresh_token");
        if good {
            Reply::new(200).body(r#"{"access_token":"good","expires_in":60}"#)
        } else {
            Reply::new(400)
        }
    })
    .await;
    let secrets = FakeSecrets::new();
    let reference = "registry".parse().unwrap();
    secrets.put(&reference, "idt");
    let explicit = ExplicitCredentials::new(Arc::new(secrets)).with_identity_token(standin.host(), reference);
    let config = standin.config().with_plain_http(service.host());
    let registry = OciRegistry::new(config, Credentials::anonymous().or(explicit)).unwrap();
    registry.manifest(&name(&standin)).await.unwrap();
    assert!(service.requests().iter().all(|request| !request.target.contains("idt")));
}

#[tokio::test]
async fn a_rate_limit_is_waited_out_within_bounds_and_told_beyond() {
    let standin = StandIn::start(|request| match request.number {
        0 => Reply::new(429).with("retry-after", 0).body("slow down"),
        1 => Reply::new(503).with("retry-after", 1).body("<html>"),
        _ => manifest_reply("{}"),
    })
    .await;
    client(standin.config()).manifest(&name(&standin)).await.unwrap();
    assert_eq!(standin.requests().len(), 3);
    let (error, standin) = manifest_error(|_| Reply::new(429).with("retry-after", 3600)).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
    assert!(error.context().any(|c| c == ("retry_after", "3600s")), "{error}");
    assert_eq!(standin.requests().len(), 1, "there is no point in asking earlier");
}

#[tokio::test]
async fn errors_that_are_no_json_keep_their_status() {
    for (status, kind, requests) in [
        (400, ErrorKind::Invalid, 1),
        (403, ErrorKind::ImageDenied, 1),
        (404, ErrorKind::ImageMissing, 1),
        (418, ErrorKind::Invalid, 1),
        (500, ErrorKind::Unavailable, 3),
        (502, ErrorKind::Unavailable, 3),
        (599, ErrorKind::Unavailable, 1),
    ] {
        for body in ["<html><h1>Bad</h1></html>", "\u{0}\u{1}", "", r#"{"errors":[]}"#, r#"{"errors":7}"#] {
            let (error, standin) = manifest_error(move |_| Reply::new(status).body(body)).await;
            assert_eq!(error.kind(), kind, "{status} {body:?}: {error}");
            assert!(error.context().any(|c| c == ("status", &*status.to_string())), "{error}");
            assert_eq!(standin.requests().len(), requests, "{status}");
        }
    }
}

#[tokio::test]
async fn a_registry_that_hangs_is_left() {
    // Long for a connection, however busy the machine is: those that were made are counted.
    let short = Duration::from_secs(1);
    let standin = StandIn::start(|_| Reply::silence()).await;
    let config = standin.config().with_connect_timeout(short).with_answer_timeout(short);
    let error = client(config).resolve(&name(&standin)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Timeout, Retry::Safe), "{error}");
    assert_eq!(standin.requests().len(), 3, "each attempt has its own limit");
    // Within a body.
    let standin = StandIn::start(|_| manifest_reply("{          }").hang_after(3)).await;
    let config = standin.config().with_idle_timeout(short);
    let error = client(config).manifest(&name(&standin)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    // The end of the whole call counts too.
    let standin = StandIn::start(|_| Reply::silence()).await;
    let config = standin
        .config()
        .with_answer_timeout(short)
        .with_total_timeout(short)
        .with_connect_timeout(Duration::from_secs(60));
    let error = client(config).resolve(&name(&standin)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert_eq!(standin.requests().len(), 1);
}

#[tokio::test]
async fn a_blob_is_never_short_long_or_another_without_an_error() {
    let bytes = content(20_000);
    let digest = Digest::of(&bytes);
    let part = |first: usize, total: usize, bytes: &[u8]| {
        Reply::new(206).with("content-range", format!("bytes {first}-{}/{total}", total - 1)).body(bytes)
    };
    let whole = || Reply::new(200).body(bytes.clone());
    let cases: Vec<(&str, Reply, Reply, ErrorKind)> = vec![
        ("cut for ever", whole().cut_after(5000), Reply::lost(), ErrorKind::Unavailable),
        ("a rest that is empty", whole().cut_after(5000), part(5000, 20_000, b""), ErrorKind::Unavailable),
        ("another rest", whole().cut_after(5000), part(5000, 20_000, &bytes[..15_000]), ErrorKind::Decode),
        (
            "a rest from elsewhere",
            whole().cut_after(5000),
            part(6000, 20_000, &bytes[6000..]),
            ErrorKind::Decode,
        ),
        ("another length", whole().cut_after(5000), part(5000, 30_000, &bytes[5000..]), ErrorKind::Decode),
        (
            "a rest without its place",
            whole().cut_after(5000),
            Reply::new(206).body(&bytes[5000..]),
            ErrorKind::Decode,
        ),
        ("gone meanwhile", whole().cut_after(5000), Reply::new(404), ErrorKind::NotFound),
        ("a shorter length", whole().length(10_000), Reply::lost(), ErrorKind::Decode),
        ("a length beyond all bounds", whole().length(1 << 50), Reply::lost(), ErrorKind::OutOfResources),
        ("a page instead", Reply::new(200).body("<html>"), Reply::lost(), ErrorKind::Decode),
    ];
    for (what, first, then, kind) in cases {
        let standin =
            StandIn::start(
                move |request| if request.header("range").is_some() { then.clone() } else { first.clone() },
            )
            .await;
        let error = match client(standin.config()).open_blob(&name(&standin), &digest, 0).await {
            Ok(stream) => drain(stream).await.1.expect_err(what),
            Err(error) => error,
        };
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert_eq!(error.operation(), "registry.open_blob");
        assert!(
            error.context().any(|c| c == ("blob", &*digest.to_string())) || kind == ErrorKind::OutOfResources,
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_blob_that_stands_still_is_taken_up_again() {
    let bytes = content(20_000);
    let whole = bytes.clone();
    let standin = StandIn::start(move |request| match request.header("range") {
        None => Reply::new(200).body(whole.clone()).hang_after(7000),
        Some(range) => {
            let first: usize = range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
            Reply::new(206).with("content-range", format!("bytes {first}-19999/20000")).body(&whole[first..])
        }
    })
    .await;
    let config = standin.config().with_idle_timeout(Duration::from_secs(3));
    let (read, end) =
        drain(client(config).open_blob(&name(&standin), &Digest::of(&bytes), 0).await.unwrap()).await;
    end.unwrap();
    assert!(read == bytes, "{}", read.len());
}

#[tokio::test]
async fn an_upload_that_leads_nowhere_is_refused() {
    for location in
        [None, Some("file:///x"), Some("https://user:word@127.0.0.1/"), Some("http://other.example/x")]
    {
        let standin = StandIn::start(move |request| match (request.method.as_str(), location) {
            ("HEAD", _) => Reply::new(404),
            ("POST", Some(location)) => Reply::new(202).with("location", location),
            _ => Reply::new(202),
        })
        .await;
        let error = client(standin.config())
            .push_blob(&name(&standin), &info(b"x"), stream(b"x".to_vec()))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode, "{location:?}: {error}");
    }
}

#[tokio::test]
async fn a_registry_that_changes_a_manifest_is_told() {
    let standin =
        StandIn::start(|_| Reply::new(201).with("docker-content-digest", Digest::of(b"other"))).await;
    let manifest = ews_core::registry::Manifest::new(MANIFEST, "{}");
    let error = client(standin.config()).push_manifest(&name(&standin), &manifest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
    assert!(error.maybe_applied());
    // One that tells no digest at all is taken at its word, also where it was pushed by digest.
    let standin = StandIn::start(|_| Reply::new(201)).await;
    let pinned = name(&standin).with_digest(manifest.digest());
    assert_eq!(client(standin.config()).push_manifest(&pinned, &manifest).await.unwrap(), manifest.digest());
}

#[tokio::test]
async fn tags_that_go_round_in_a_circle_or_elsewhere_end() {
    let standin = StandIn::start(|request| match request.number {
        // Enough for a client without an end to be seen.
        10.. => Reply::new(404),
        _ => Reply::new(200)
            .with("link", "</v2/a/b/tags/list?n=1>; rel=\"next\"")
            .body(r#"{"tags":["a","b"]}"#),
    })
    .await;
    assert_eq!(client(standin.config()).tags(&name(&standin), None, 10).await.unwrap(), ["a", "b"]);
    assert_eq!(standin.requests().len(), 2);
    let standin = StandIn::start(|_| {
        Reply::new(200).with("link", "<https://evil.example/>; rel=\"next\"").body(r#"{"tags":["a"]}"#)
    })
    .await;
    assert_eq!(
        client(standin.config()).tags(&name(&standin), None, 10).await.unwrap_err().kind(),
        ErrorKind::Decode
    );
    let standin = StandIn::start(|request| {
        let tags: Vec<String> = (0..1000).map(|tag| format!("t{}-{tag}", request.number)).collect();
        let body = serde_json::json!({ "tags": tags }).to_string();
        Reply::new(200)
            .with("link", format!("</v2/a/b/tags/list?from={}>; rel=\"next\"", request.number))
            .body(body)
    })
    .await;
    assert_eq!(
        client(standin.config()).tags(&name(&standin), None, 10).await.unwrap_err().kind(),
        ErrorKind::OutOfResources
    );
    let standin = StandIn::start(|_| Reply::new(200).body(r#"{"name":"a/b","tags":null}"#)).await;
    assert!(client(standin.config()).tags(&name(&standin), None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_stream_that_is_pushed_and_fails_ends_the_push_with_its_own_error() {
    let standin = StandIn::start(|request| match request.method.as_str() {
        "HEAD" => Reply::new(404),
        "POST" => Reply::new(202).with("location", "/v2/a/b/blobs/uploads/1"),
        "PATCH" => Reply::new(405),
        _ => Reply::new(204),
    })
    .await;
    for chunk in [64 * 1024, 8 << 20] {
        let pieces = vec![Ok(content(100_000).into()), Err(Error::new(ErrorKind::Cancelled, "no more"))];
        let blob = info(&content(200_000));
        let config = standin.config().with_chunk(chunk);
        let pushed = client(config)
            .push_blob(&name(&standin), &blob, Box::pin(futures_util::stream::iter(pieces)))
            .await;
        assert_eq!(pushed.unwrap_err().kind(), ErrorKind::Cancelled);
    }
    // One that stands still is not waited for.
    let config = standin.config().with_idle_timeout(Duration::from_millis(100));
    let hung = Box::pin(futures_util::stream::pending());
    let error = client(config).push_blob(&name(&standin), &info(b"x"), hung).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
}
