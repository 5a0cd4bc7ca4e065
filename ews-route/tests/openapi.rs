//! The admin endpoint's description holds what is true: every path, and every field of every document.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on fails"
)]

mod stage;

use std::time::Duration;

use ews_core::balancer::*;
use ews_core::id::{CertificateId, ChangeId, PoolId, TrafficPolicyId};
use ews_core::metrics::{Aggregate, Aggregation, Function, MetricQuery, Window};
use ews_core::{Clock as _, SecretValue, Selector, SystemClock};
use ews_route::server::{Server, ServerConfig};
use serde::Serialize;
use serde_json::Value;
use stage::{config, forward, key, member, pool, put_rules};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn document() -> Value {
    serde_json::from_str(include_str!("../src/admin/openapi.json")).unwrap()
}

/// What of JSON Schema the document uses; why the value is not as described.
fn check(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    for (keyword, wanted) in schema.as_object().expect("a schema is an object") {
        match keyword.as_str() {
            "$ref" => {
                let name = wanted.as_str().unwrap().strip_prefix("#/components/schemas/").unwrap();
                let schema = &document["components"]["schemas"][name];
                assert!(schema.is_object(), "there is no schema {name}");
                check(document, schema, value, at)?;
            }
            "oneOf" => {
                let of = wanted.as_array().unwrap();
                let reasons: Vec<_> =
                    of.iter().filter_map(|schema| check(document, schema, value, at).err()).collect();
                if reasons.len() + 1 != of.len() {
                    return Err(format!(
                        "{at}: {} of {} hold: {reasons:?}",
                        of.len() - reasons.len(),
                        of.len()
                    ));
                }
            }
            "type" => {
                let is_so = match wanted.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "integer" => value.is_u64(),
                    "number" => value.is_number(),
                    "boolean" => value.is_boolean(),
                    "null" => value.is_null(),
                    other => panic!("an unknown type {other}"),
                };
                if !is_so {
                    return Err(format!("{at}: {value} is no {wanted}"));
                }
            }
            "enum" => {
                if !wanted.as_array().unwrap().contains(value) {
                    return Err(format!("{at}: {value} is none of {wanted}"));
                }
            }
            "properties" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    if let Some(schema) = wanted.get(name) {
                        check(document, schema, value, &format!("{at}.{name}"))?;
                    }
                }
            }
            "additionalProperties" => {
                let known = &schema["properties"];
                for (name, value) in value.as_object().into_iter().flatten() {
                    match wanted {
                        Value::Bool(false) if known.get(name).is_none() => {
                            return Err(format!("{at}: nothing is said of `{name}`"));
                        }
                        Value::Object(_) => check(document, wanted, value, &format!("{at}.{name}"))?,
                        _ => {}
                    }
                }
            }
            "required" => {
                let lacks = wanted
                    .as_array()
                    .unwrap()
                    .iter()
                    .find(|name| value.get(name.as_str().unwrap()).is_none());
                if let Some(name) = lacks {
                    return Err(format!("{at}: {name} is missing"));
                }
            }
            "items" => {
                for (index, value) in value.as_array().into_iter().flatten().enumerate() {
                    check(document, wanted, value, &format!("{at}[{index}]"))?;
                }
            }
            "minItems" | "maxItems" | "description" | "format" => {}
            other => panic!("an unknown keyword {other}"),
        }
    }
    Ok(())
}

fn holds(name: &str, value: &impl Serialize) {
    let (document, value) = (document(), serde_json::to_value(value).unwrap());
    let schema = &document["components"]["schemas"][name];
    assert!(schema.is_object(), "{name}");
    if let Err(why) = check(&document, schema, &value, name) {
        panic!("{why}\nin {value}");
    }
}

/// A pool, a policy and rules in which every field says something.
fn everything() -> Vec<Object> {
    let second = Duration::from_secs(1);
    let mut full = Pool::new(pool("p"));
    full.algorithm = Algorithm::Maglev;
    full.hash_on = HashOn::Cookie("user".to_owned());
    full.sticky = Some(Sticky::new("where").with_max_age(second));
    (full.slow_start, full.outlier) = (Some(second), Some(Outlier::default()));
    full.labels = ews_core::Labels::new([("service", "shop")]).unwrap();
    full.hold = Some(Hold::new(1, second));
    full.check = Some(Box::new(HealthCheck::http("/healthz").with_host("a")));
    (full.max_in_flight, full.proxy_protocol) = (Some(1), Some(ProxyProtocol::V2));
    let secret = || "a/b".parse::<ews_core::SecretRef>().unwrap();
    let tls = UpstreamTls::new(secret()).with_server_name("a.example").with_client(secret(), secret());
    full.tls = Some(Box::new(tls));
    let mut policy = TrafficPolicy::new(TrafficPolicyId::new("t").unwrap());
    (policy.request_timeout, policy.retries, policy.max_body) = (Some(second), Some(1), Some(1));
    (policy.rate_per_client, policy.burst_per_client, policy.rate, policy.burst) =
        (Some(1), Some(1), Some(1), Some(1));
    (policy.max_in_flight, policy.queue) = (Some(1), Some(Queue::new(1, second)));
    (policy.allow, policy.deny) = (vec!["10.0.0.0/8".parse().unwrap()], vec!["::1".parse().unwrap()]);
    (policy.maintenance, policy.error_pages) = (Some(Page::html(503, "")), vec![Page::html(502, "")]);
    policy.auth = Some(Box::new(ForwardAuth::new(pool("p"), "/check").with_response_headers(["x-user"])));
    let edits = HeaderEdits::new().with_set("a", "b").with_added("c", "d").with_removed("e");
    let rewrite = Rewrite::default().with_host("a").with_path(PathRewrite::Prefix("/".to_owned()));
    let attribute = AttributeMatch::new(AttributePlace::Cookie, "a").with_value("b");
    let rules = vec![
        forward("/a", "p")
            .methods(["GET"])
            .attribute(attribute)
            .filter(RouteFilter::RequestHeaders(edits.clone()))
            .filter(RouteFilter::ResponseHeaders(edits))
            .filter(RouteFilter::Rewrite(rewrite))
            .policy(policy.id.clone())
            .split_by(HashOn::Header("x-user".to_owned())),
        RouteRule::new(
            PathMatch::Exact("/b".to_owned()),
            RouteAction::Redirect { to: "/".to_owned(), status: 302 },
        ),
        RouteRule::new(PathMatch::Regex("/c".to_owned()), RouteAction::RedirectTo(RedirectTo::https())),
        RouteRule::new(
            PathMatch::Exact("/d".to_owned()),
            RouteAction::Respond { status: 200, body: "here".to_owned() },
        ),
    ];
    let mut certificate = Certificate::new(CertificateId::new("c").unwrap(), secret(), secret());
    certificate.client_ca = Some(secret());
    let Op::Put(set) = put_rules("r", rules) else { unreachable!() };
    let Object::RouteSet(RouteSet { id, .. }) = &set else { unreachable!() };
    let domain = Domain::new(DomainName::new("*.a.example").unwrap(), id.clone())
        .with_certificate(certificate.id.clone())
        .with_policy(policy.id.clone());
    let source = BlackholeTarget::Source { network: "10.0.0.0".parse().unwrap(), bits: 8 };
    vec![
        set,
        Object::Domain(domain),
        Object::Pool(full),
        Object::Endpoint(member("p", "a", "127.0.0.1:80".parse().unwrap())),
        Object::TrafficPolicy(policy),
        Object::Certificate(certificate),
        Object::Blackhole(Blackhole::new(source, SystemClock.now())),
    ]
}

#[test]
fn every_field_of_every_object_is_described() {
    for object in everything() {
        holds("Object", &object);
        holds("ObjectRef", &object.reference());
        holds("Op", &Op::Delete(object.reference()));
        holds("Stored", &serde_json::json!({ "version": 1, "object": object }));
    }
    let plain: PoolId = pool("p");
    let (endpoint, shares) = (key("a"), vec![WeightedPool::new(plain.clone(), 1)]);
    let mut change = Change::new(ChangeId::new("c").unwrap(), everything().into_iter().map(Op::Put));
    change.ops.push(Op::Weight { pool: plain.clone(), endpoint: endpoint.clone(), weight: 1 });
    change.ops.push(Op::State { pool: plain.clone(), endpoint, state: MemberState::Draining });
    change.ops.push(Op::Shares { set: "r".parse().unwrap(), weights: shares });
    holds("Change", &change);
    let window = || Window(Duration::from_secs(60));
    for function in [Function::Last, Function::Rate(window()), Function::Quantile(0.99, window())] {
        let mut query = MetricQuery::new("m", Selector::everything());
        (query.function, query.aggregate) = (function, Some(Aggregate::group(Aggregation::Sum, ["a"])));
        holds("InstantRequest", &serde_json::json!({ "query": query, "at": SystemClock.now() }));
    }
    let wrong = serde_json::json!({ "domain": { "name": "a", "routes": "r", "colour": "red" } });
    let document = document();
    assert!(check(&document, &document["components"]["schemas"]["Object"], &wrong, "Object").is_err());
}

/// One call; the status and the body.
async fn call(address: std::net::SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 0123456789abcdef\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    if path == "/v1/balancer/watch" {
        text = vec![0; 12];
        stream.read_exact(&mut text).await.unwrap();
    } else {
        stream.read_to_end(&mut text).await.unwrap();
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_is_there_and_answers_as_described() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, SecretValue::new("0123456789abcdef").unwrap().expose()).unwrap();
    let config =
        ServerConfig::default().with_gateway(config()).with_admin("127.0.0.1:0".parse().unwrap(), tokens);
    let server = Server::start(config).await.unwrap();
    let admin = server.addresses().admin.unwrap();
    let put = [stage::put_pool("p"), stage::put_member("p", "a", "127.0.0.1:9".parse().unwrap())];
    let change = serde_json::to_string(&Change::new(ChangeId::new("c").unwrap(), put)).unwrap();
    let document = document();
    let served: Value = serde_json::from_str(&call(admin, "GET", "/v1/openapi.json", "").await.1).unwrap();
    assert_eq!(served, document);
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let body = match path.as_str() {
                "/v1/balancer/apply" => change.as_str(),
                "/v1/balancer/objects" | "/v1/metrics/describe" => r#"{"limit":100}"#,
                "/v1/balancer/observe" => "{}",
                "/v1/metrics/instant" => r#"{"query":{"metric":"ews.route.connections","matching":"*"}}"#,
                "/v1/metrics/range" => {
                    r#"{"query":{"metric":"ews.route.connections","matching":"*"},
                        "range":{"from":"2026-01-01T00:00:00Z","to":"2026-01-01T00:01:00Z","step":"10s"}}"#
                }
                _ => "",
            };
            let (status, answer) = call(admin, &method.to_uppercase(), path, body).await;
            assert_eq!(status, 200, "{method} {path}: {answer}");
            let described = &operation["responses"]["200"]["content"]["application/json"]["schema"];
            if described.is_object() {
                let answer = serde_json::from_str(&answer).unwrap();
                check(&document, described, &answer, path).unwrap();
            }
        }
    }
    let (status, problem) = call(admin, "POST", "/v1/balancer/apply", "{}").await;
    assert_eq!(status, 400);
    holds("Problem", &serde_json::from_str::<Value>(&problem).unwrap());
    server.stop().await;
}
