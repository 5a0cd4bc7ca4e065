//! The ways in besides the socket: the API on TCP, TLS, webhooks, the gateway's admin endpoint; and who is let in.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod stage;

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use stage::{Stage, ews, package};

const TOKEN: &str = "a-token-of-the-tests-0123456789";

fn curl(arguments: &[&str]) -> (bool, String) {
    let output = Command::new("curl").args(["-sS", "--max-time", "20"]).args(arguments).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

/// A directory for what a configuration names, removed at the end.
fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("ews-host-files-").tempdir().unwrap()
}

fn secret(folder: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_api_on_tcp_takes_a_token_that_is_known_and_no_other() {
    let files = folder();
    let (right, wrong) =
        (secret(&files, "right", TOKEN), secret(&files, "wrong", "a-token-of-somebody-else-99999"));
    let admin = secret(&files, "admin", "a-token-of-the-gateway-4242424242");
    let stage = Stage::new(&format!(
        "[gateway.admin]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"{admin}\"\n\
         [api.tcp]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"{right}\"\n"
    ));
    let api = format!("http://{}", stage.listening["api"].as_str().unwrap());
    ews(&["--api", &api, "--token-file", &right, "status", "--json"]).ends(0);
    ews(&["--api", &api, "--token-file", &wrong, "status"]).ends(5).says(&["a token is needed"]);
    ews(&["--api", &api, "--token-file", &admin, "status"]).ends(5);
    let refused = curl(&["-w", "%{http_code}", &format!("{api}/v1/host")]).1;
    assert!(refused.ends_with("401"), "{refused}");
    // Nobody learns which paths there are.
    assert!(curl(&["-w", "%{http_code}", &format!("{api}/nowhere")]).1.ends_with("401"));
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let text = curl(&["-H", &bearer, &format!("{api}/v1/metrics")]).1;
    assert!(text.is_empty() || text.contains("# TYPE"), "{text}");
    let deploy = stage.hello("v1", "");
    ews(&["--api", &api, "--token-file", &right, "deploy", &deploy]).ends(0);
    let history = stage.ews(&["history", "hello", "--json"]).json();
    assert_eq!(history["audit"].as_array().unwrap().last().unwrap()["by"], "operator (token)");

    // Bodies are bounded, and what is unknown in them is refused by name.
    let large = files.path().join("large");
    std::fs::write(&large, vec![b' '; 3 << 20]).unwrap();
    let data = format!("@{}", large.display());
    let url = format!("{api}/v1/services/hello/scale");
    let answer = curl(&["-H", &bearer, "-w", "%{http_code}", "--data-binary", &data, &url]).1;
    assert!(answer.ends_with("413"), "{answer}");
    let answer = curl(&["-H", &bearer, "--data", "{\"replicas\": 1, \"resaon\": \"x\"}", &url]).1;
    assert!(answer.contains("unknown field `resaon`") && answer.contains("`reason`"), "{answer}");
    let answer = curl(&["-H", &bearer, &format!("{api}/v1/events?folow=true")]).1;
    assert!(answer.contains("`folow` is unknown; accepted: service, follow"), "{answer}");

    let gateway = format!("http://{}", stage.listening["admin"].as_str().unwrap());
    let text = curl(&[
        "-H",
        "Authorization: Bearer a-token-of-the-gateway-4242424242",
        &format!("{gateway}/metrics"),
    ])
    .1;
    assert!(text.contains("# TYPE"), "{text}");
    let seen = curl(&["-H", &bearer, "-w", "%{http_code}", &format!("{gateway}/metrics")]).1;
    assert!(seen.ends_with("401"), "{seen}");
    // No token is in the log.
    assert!(!stage.log().contains(TOKEN));
    stage.clear();
}

#[test]
fn the_socket_and_the_directory_are_the_owners_alone() {
    let stage = Stage::new("");
    let mode = |name: &str| stage.data().join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("api.sock"), 0o600);
    assert_eq!(
        (mode(""), mode("secrets"), mode("artifacts"), mode("host.json")),
        (0o700, 0o700, 0o700, 0o600)
    );
    stage.clear();
}

#[test]
fn a_domain_is_served_within_tls_by_the_certificate_that_is_for_it() {
    let certificates = package("../../ews-route/tests/certificates");
    let files = folder();
    let copy = |name: &str| secret(&files, name, &std::fs::read_to_string(certificates.join(name)).unwrap());
    let (chain, key) = (copy("shop.pem"), copy("shop.key"));
    let section = |domains: &str| {
        format!(
            "https = [\"127.0.0.1:0\"]\n[[gateway.certificates]]\ndomains = [{domains}]\nchain = \"{chain}\"\nkey = \"{key}\"\n"
        )
    };
    let mut stage = Stage::new(&section("\"shop.example\""));
    let document =
        std::fs::read_to_string(stage.hello("v1", "")).unwrap().replace("hello.test", "shop.example");
    let document = stage.write("shop.toml", &document);
    stage.ews(&["deploy", &document]).ends(0);
    let ask = |stage: &Stage| {
        let address = stage.listening["https"][0].as_str().unwrap();
        let port = address.rsplit(':').next().unwrap();
        let resolve = format!("shop.example:{port}:127.0.0.1");
        let authority = certificates.join("ca.pem");
        curl(&[
            "--cacert",
            authority.to_str().unwrap(),
            "--resolve",
            &resolve,
            &format!("https://shop.example:{port}/"),
        ])
    };
    let (good, text) = ask(&stage);
    assert!(good && text.contains("version v1"), "{text}");
    // A rollout puts the domain anew; it keeps its certificate.
    let second = std::fs::read_to_string(&document).unwrap().replace("\"v1\"", "\"v2\"");
    std::fs::write(&document, second).unwrap();
    stage.ews(&["deploy", &document]).ends(0);
    let (good, text) = ask(&stage);
    assert!(good && text.contains("version v2"), "{text}");

    // A configuration without a certificate for it takes it away at the next start, and one with it gives it back.
    let config = std::fs::read_to_string(stage.at("ews.toml")).unwrap();
    std::fs::write(stage.at("ews.toml"), config.replace("\"shop.example\"", "\"other.example\"")).unwrap();
    stage.end("TERM");
    stage.start();
    assert!(!ask(&stage).0);
    std::fs::write(stage.at("ews.toml"), config.replace("\"shop.example\"", "\"*\"")).unwrap();
    stage.end("TERM");
    stage.start();
    let (good, text) = ask(&stage);
    assert!(good && text.contains("version v2"), "{text}");

    // A key that everybody may read keeps the host from starting.
    stage.ews(&["rm", "hello"]).ends(0);
    stage.end("TERM");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (config, data) = (stage.at("ews.toml"), stage.data());
    ews(&["serve", "--config", config.to_str().unwrap(), "--data", data.to_str().unwrap()])
        .ends(5)
        .says(&["gateway.certificates[0].key", "chmod 600"]);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    stage.start();
    stage.clear();
}

#[test]
fn the_deploy_api_of_ci_jobs_is_there_where_it_is_configured() {
    let mut stage = Stage::new(
        "[intake]\nlisten = \"127.0.0.1:0\"\n[intake.tokens.ci]\nsecrets = [\"intake/ci\"]\nservices = [\"hello\"]\nverbs = [\"read\"]\n",
    );
    let secrets = stage.data().join("secrets/intake");
    std::fs::create_dir_all(&secrets).unwrap();
    std::fs::write(secrets.join("ci"), TOKEN).unwrap();
    std::fs::set_permissions(secrets.join("ci"), std::fs::Permissions::from_mode(0o600)).unwrap();
    stage.ews(&["deploy", &stage.hello("v1", "")]).ends(0);
    let url = format!("http://{}/v1/services/hello/status", stage.listening["intake"].as_str().unwrap());
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let text = curl(&["-H", &bearer, &url]).1;
    assert!(text.contains("\"desired\":2"), "{text}");
    assert!(curl(&["-w", "%{http_code}", &url]).1.ends_with("401"));
    stage.end("TERM");
    stage.start();
    stage.clear();
}

#[test]
fn what_is_no_request_is_refused_in_words_that_repeat_no_value() {
    let stage = Stage::new("");
    let socket = stage.data().join("api.sock");
    let files = folder();
    let noise = files.path().join("noise");
    std::fs::write(
        &noise,
        (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>(),
    )
    .unwrap();
    let noise = format!("@{}", noise.display());
    let deep = "[".repeat(5_000);
    for (path, body, status, says) in [
        ("services/hello/deploy", "garbage", "400", "expected value"),
        ("services/hello/deploy", "{\"spec\": {\"name\": \"hello\"}}", "400", "the field `image` is missing"),
        (
            "services/hello/deploy",
            "{\"spec\": {\"name\": \"other\", \"artifact\": \"/bin/true\"}}",
            "400",
            "the path names `hello`",
        ),
        (
            "services/hello/deploy",
            "{\"spec\": {\"name\": \"hello\", \"artifact\": \"/bin/true\", \"env\": {\"A\": [\"hunter2\"]}}}",
            "400",
            "env.A",
        ),
        ("services/hello/scale", deep.as_str(), "400", "can't be read"),
        ("services/hello/scale", "{}", "400", "missing field `replicas`"),
        ("services/hello/exec", "{\"command\": []}", "400", "1 to 1024 words"),
        ("services/hello/hotfix", noise.as_str(), "400", "no tar"),
        ("services/hello/hotfix?reload=kick", "", "400", "`none`, `restart`"),
        ("services/%2e%2e/pause", "", "400", "service name `..`"),
        ("services/hello/pause", "{\"now\": true}", "400", "unknown field `now`"),
        ("services/hello/nothing", "", "404", "not_found"),
        ("host", "", "405", "Method Not Allowed"),
    ] {
        let url = format!("http://ews/v1/{path}");
        let socket = socket.to_str().unwrap();
        let answer = curl(&[
            "--unix-socket",
            socket,
            "--path-as-is",
            "-w",
            " %{http_code}",
            "--data-binary",
            body,
            &url,
        ])
        .1;
        assert!(answer.ends_with(status) && answer.contains(says), "{path} {body:.40}: {answer}");
        assert!(!answer.contains("hunter2"), "{answer}");
    }
    stage.ews(&["status"]).ends(0);
    assert!(!stage.log().contains("hunter2") && !stage.log().contains("panicked"));
    stage.clear();
}
