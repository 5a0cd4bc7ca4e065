//! The kit as a client sees it.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::*;
use crate::{Error, ErrorKind, Retry, SecretValue};

const TOKEN: &str = "0123456789abcdef-first";
const OTHER: &str = "0123456789abcdef-second";

fn tokens() -> Tokens {
    Tokens::new([TOKEN, OTHER].map(|token| SecretValue::new(token).unwrap())).unwrap()
}

async fn failing() -> Result<(), Problem> {
    Err(Error::new(ErrorKind::Unavailable, "the engine is away")
        .with_operation("runtime.list")
        .with_context("node", "n1")
        .with_detail("PASSWORD=hunter2")
        .with_source(std::io::Error::other("hunter2"))
        .with_maybe_applied())?
}

fn router() -> Router {
    let routes = Router::new()
        .route("/ok", get(|| async { "ok" }))
        .route("/fail", get(failing))
        .route("/size", post(|body: Bytes| async move { body.len().to_string() }))
        .route(
            "/raw",
            post(|body: Body| async move {
                match body.collect().await {
                    Ok(body) => body.to_bytes().len().to_string(),
                    Err(_) => "cut".to_owned(),
                }
            }),
        )
        .route("/hang", get(std::future::pending::<()>).post(std::future::pending::<()>));
    let config = ControlConfig::default().with_max_body(100).with_timeout(Duration::from_secs(5));
    control(routes, Access::Tokens(tokens()), config).unwrap()
}

async fn ask(request: Request<Body>) -> Response {
    router().oneshot(request).await.unwrap()
}

fn request(method: &str, path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
        .body(body.into())
        .unwrap()
}

async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn problem(response: Response) -> Problem {
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    let status = response.status();
    let problem: Problem = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(problem.status, status.as_u16());
    problem
}

#[tokio::test]
async fn a_missing_and_a_wrong_token_are_the_same_answer_wherever_it_goes() {
    let with = |path: &str, value: Option<&str>| {
        let mut request = Request::builder().uri(path);
        if let Some(value) = value {
            request = request.header(header::AUTHORIZATION, value);
        }
        request.body(Body::empty()).unwrap()
    };
    let missing = ask(with("/ok", None)).await;
    assert_eq!(missing.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(missing.headers()[header::WWW_AUTHENTICATE], "Bearer");
    let (headers, body) = (missing.headers().clone(), text(missing).await);
    let almost = format!("Bearer {}", &TOKEN[..TOKEN.len() - 1]);
    for (path, value) in [
        ("/ok", Some("Bearer wrong")),
        ("/ok", Some(almost.as_str())),
        ("/ok", Some(TOKEN)),
        ("/ok", Some("Bearer ")),
        ("/ok", Some("")),
        ("/ok", Some("Basic MDEyMzQ1Njc4OWFiY2RlZi1maXJzdA==")),
        ("/nowhere", None),
    ] {
        let refused = ask(with(path, value)).await;
        assert_eq!((refused.status(), refused.headers()), (StatusCode::UNAUTHORIZED, &headers), "{value:?}");
        assert_eq!(text(refused).await, body, "{value:?}");
    }
    for value in [format!("Bearer {TOKEN}"), format!("bearer  {OTHER} ")] {
        assert_eq!(ask(with("/ok", Some(&value))).await.status(), StatusCode::OK, "{value}");
    }
    let mut twice = with("/ok", Some("Bearer wrong"));
    twice.headers_mut().append(header::AUTHORIZATION, format!("Bearer {TOKEN}").parse().unwrap());
    assert_eq!(ask(twice).await.status(), StatusCode::UNAUTHORIZED);
}

#[test]
fn tokens_that_protect_nothing_are_refused_and_none_is_shown() {
    assert!(Tokens::new([]).is_err());
    assert!(Tokens::from_sha256([[0; 32]; 65]).is_err());
    let short = Tokens::new([SecretValue::new("hunter2").unwrap()]).unwrap_err();
    assert!(!short.to_string().contains("hunter2"), "{short}");
    assert_eq!(format!("{:?}", tokens()), "Tokens(2)");
    // The hash of nothing must not open for who brings nothing.
    let of_nothing = Tokens::from_sha256([hmac_sha256::Hash::hash(b"")]).unwrap();
    assert!(!of_nothing.open(&axum::http::HeaderMap::new()));
}

#[tokio::test]
async fn an_error_becomes_a_problem_without_a_peers_words_and_comes_back_as_an_error() {
    let response = ask(request("GET", "/fail", Body::empty())).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let problem = problem(response).await;
    let written = serde_json::to_string(&problem).unwrap();
    assert!(!written.contains("hunter2"), "{written}");
    assert!(written.contains(r#""type":"urn:ews:error:unavailable""#), "{written}");
    let error = problem.into_error();
    assert_eq!(
        (error.kind(), error.retry(), error.maybe_applied(), error.operation()),
        (ErrorKind::Unavailable, Retry::AfterInspect, true, "runtime.list")
    );
    assert_eq!((error.message(), error.detail()), ("the engine is away", Some("node=n1")));
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_whether_its_length_is_said_or_not() {
    let fits = ask(request("POST", "/size", vec![b'x'; 100])).await;
    assert_eq!((fits.status(), text(fits).await), (StatusCode::OK, "100".to_owned()));
    let said = ask(request("POST", "/size", vec![b'x'; 101])).await;
    assert_eq!(said.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(problem(said).await.kind, ErrorKind::OutOfResources);

    let stream = || {
        let pieces = (0..11).map(|_| Ok::<_, std::convert::Infallible>(Bytes::from_static(b"0123456789")));
        Body::from_stream(futures_util::stream::iter(pieces))
    };
    let unsaid = ask(request("POST", "/size", stream())).await;
    assert_eq!(unsaid.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(problem(unsaid).await.kind, ErrorKind::OutOfResources);
    assert_eq!(text(ask(request("POST", "/raw", stream())).await).await, "cut");
    let mut lies = request("POST", "/size", Body::empty());
    lies.headers_mut().insert(header::CONTENT_LENGTH, "18446744073709551615".parse().unwrap());
    assert_eq!(ask(lies).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test(start_paused = true)]
async fn who_takes_too_long_is_answered_anyway() {
    let read = problem(ask(request("GET", "/hang", Body::empty())).await).await;
    assert_eq!((read.status, read.retry, read.maybe_applied), (504, Retry::Safe, false));
    let write = problem(ask(request("POST", "/hang", Body::empty())).await).await;
    assert_eq!((write.status, write.retry, write.maybe_applied), (504, Retry::AfterInspect, true));
}

#[tokio::test]
async fn what_axum_refuses_is_a_problem_too() {
    let nowhere = ask(request("GET", "/nowhere", Body::empty())).await;
    assert_eq!(nowhere.status(), StatusCode::NOT_FOUND);
    assert_eq!(problem(nowhere).await.kind, ErrorKind::NotFound);
    let method = ask(request("DELETE", "/ok", Body::empty())).await;
    assert_eq!(method.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(method.headers()[header::ALLOW].to_str().unwrap().contains("GET"));
    assert_eq!(problem(method).await.kind, ErrorKind::Invalid);
}

#[tokio::test]
async fn an_open_endpoint_asks_for_nothing_and_bounds_are_bounds() {
    let routes = || Router::new().route("/ok", get(|| async { "ok" }));
    let open = control(routes(), Access::Open, ControlConfig::default()).unwrap();
    let response = open.oneshot(Request::get("/ok").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    for timeout in [Duration::ZERO, Duration::MAX] {
        assert!(control(routes(), Access::Open, ControlConfig::default().with_timeout(timeout)).is_err());
    }
}
