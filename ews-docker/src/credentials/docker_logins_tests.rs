//! Docker's configuration and its programs, on files and scripts of the test's own.

use super::*;

fn config(text: &str) -> (tempfile::TempDir, DockerLogins) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, text).unwrap();
    let config = DockerLogins::at(path).with_programs_in(folder.path());
    (folder, config)
}

/// What was found, as text.
fn told(found: Result<Option<Credential>>) -> String {
    match found.unwrap() {
        None => "none".to_owned(),
        Some(Credential::IdentityToken(token)) => format!("token {}", token.expose_str().unwrap()),
        Some(Credential::Password { user, password }) => format!("{user}:{}", password.expose_str().unwrap()),
    }
}

#[tokio::test]
async fn the_file_is_read_as_docker_writes_it() {
    // bWU6YTpi is `me:a:b`, bWU6YQAA is `me:a` with two zero bytes.
    let (_folder, config) = config(
        r#"{
            "auths": {
                "https://index.docker.io/v1/": { "auth": "bWU6YTpi" },
                "a.example:5000": { "auth": "bWU6YQAA" },
                "https://b.example/v2/": { "username": "me", "password": "word" },
                "c.example": { "auth": "", "identitytoken": "idt" },
                "d.example": {},
                "e.example": { "auth": "bWU6YTpi", "identitytoken": "" },
                "broken.example": { "auth": "!!!" },
                "torn.example": { "auth": "bWU6YTpi", "username": "me", "password": "other" }
            },
            "credsStore": "",
            "HttpHeaders": { "User-Agent": "Docker" }
        }"#,
    );
    for (registry, wanted) in [
        ("docker.io", "me:a:b"),
        ("a.example:5000", "me:a"),
        ("a.example", "none"),
        ("b.example", "me:word"),
        ("c.example", "token idt"),
        ("d.example", "none"),
        ("e.example", "me:a:b"),
        ("unknown.example", "none"),
    ] {
        assert_eq!(told(config.find(registry).await), wanted, "{registry}");
    }
    for registry in ["broken.example", "torn.example"] {
        let error = config.find(registry).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.message().contains(registry) && !error.to_string().contains("other"), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_can_not_be_read_is_an_error_that_names_it() {
    let (folder, broken) = config(r#"{"auths": {"a": "secret-text"#);
    let error = broken.find("a.example").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.to_string().contains("config.json") && !error.to_string().contains("secret-text"),
        "{error}"
    );
    let missing = DockerLogins::at(folder.path().join("none.json"));
    assert_eq!(missing.find("a.example").await.unwrap_err().kind(), ErrorKind::Unauthorized);
}

#[tokio::test]
async fn a_program_that_is_missing_is_named_and_one_with_a_path_is_refused() {
    let (_folder, config) =
        config(r#"{"credHelpers": {"a.example": "nowhere", "b.example": "../../bin/sh"}}"#);
    let error = config.find("a.example").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(error.message().contains("`docker-credential-nowhere`"), "{error}");
    assert_eq!(config.find("b.example").await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(told(config.find("c.example").await), "none");
}

#[test]
fn the_file_is_where_docker_would_look() {
    let home = if cfg!(windows) { "USERPROFILE" } else { "HOME" };
    let look = |set: &[(&str, &str)]| {
        let set: Vec<(String, String)> =
            set.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        environment(move |name| set.iter().find(|(known, _)| known == name).map(|(_, value)| value.into()))
    };
    let file = |folder: &str| Some(Path::new(folder).join("config.json"));
    assert_eq!(look(&[(home, "h"), ("DOCKER_CONFIG", "d")]), file("d"));
    assert_eq!(look(&[(home, "h"), ("DOCKER_CONFIG", "")]), file("h/.docker"));
    assert_eq!(look(&[(home, "")]), None);
}

#[test]
fn programs_are_asked_in_order_and_once() {
    let document = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
    let both = document(
        r#"{"credsStore": "all", "credHelpers": {"a.example": "one", "b.example": "all", "c.example": ""}}"#,
    );
    assert_eq!(programs(&both, "a.example"), ["one", "all"]);
    assert_eq!(programs(&both, "b.example"), ["all"]);
    assert_eq!(programs(&both, "c.example"), ["all"]);
    let hub = document(r#"{"credHelpers": {"index.docker.io": "hub"}}"#);
    assert_eq!(programs(&hub, "docker.io"), ["hub"]);
    assert!(programs(&document(r#"{"credsStore": 1, "credHelpers": []}"#), "a.example").is_empty());
}

/// Programs are shell scripts.
#[cfg(unix)]
mod scripts {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn script(folder: &Path, name: &str, text: &str) {
        let path = folder.join(format!("docker-credential-{name}"));
        // Under another name first: a file that some other thread's child still has open for writing can't be run.
        let draft = folder.join(format!("{name}.draft"));
        std::fs::write(&draft, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o755)).unwrap();
        let copied = std::process::Command::new("cp").arg("-p").arg(&draft).arg(&path).status().unwrap();
        assert!(copied.success());
    }

    #[tokio::test]
    async fn a_program_answers_refuses_or_has_none_and_the_file_comes_after_it() {
        let (folder, config) = config(
            r#"{
                "auths": { "b.example": { "auth": "bWU6YTpi" } },
                "credsStore": "all",
                "credHelpers": { "token.example": "token", "broken.example": "broken", "rude.example": "rude" }
            }"#,
        );
        // It answers one server, and says on standard output that it has no other.
        script(
            folder.path(),
            "all",
            r#"read -r server; test "$1" = get || exit 9
            case $server in
            a.example|https://index.docker.io/v1/) printf '{"ServerURL":"%s","Username":"you","Secret":"s-%s"}' "$server" "$server";;
            empty.example) printf '{"Username":"","Secret":""}';;
            *) echo "credentials not found in native keychain"; exit 1;;
            esac"#,
        );
        script(folder.path(), "token", r#"printf '{"Username":"<token>","Secret":"idt"}'"#);
        script(folder.path(), "broken", "echo hunter2; exit 3");
        script(folder.path(), "rude", "echo hunter2");
        for (registry, wanted) in [
            ("a.example", "you:s-a.example"),
            ("docker.io", "you:s-https://index.docker.io/v1/"),
            ("b.example", "me:a:b"),
            ("empty.example", "none"),
            ("token.example", "token idt"),
        ] {
            assert_eq!(told(config.find(registry).await), wanted, "{registry}");
        }
        for (registry, kind) in
            [("broken.example", ErrorKind::Unauthorized), ("rude.example", ErrorKind::Decode)]
        {
            let error = config.find(registry).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(
                error.to_string().contains("docker-credential-") && !error.to_string().contains("hunter2"),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn a_program_that_hangs_or_says_too_much_is_ended() {
        let (folder, config) = config(
            r#"{"credHelpers": {"hung.example": "hung", "loud.example": "loud", "told.example": "told"}}"#,
        );
        let pid = folder.path().join("pid");
        script(folder.path(), "hung", "exec sleep 600");
        script(folder.path(), "loud", "exec yes");
        script(
            folder.path(),
            "told",
            &format!("echo $$ > {0}.draft; mv {0}.draft {0}; exec sleep 600", pid.display()),
        );
        let impatient = config.clone().with_deadline(Duration::from_millis(200));
        let error = impatient.find("hung.example").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        assert_eq!(config.find("loud.example").await.unwrap_err().kind(), ErrorKind::Decode);
        // Whoever loses patience ends it too.
        let asked = tokio::spawn(async move { config.find("told.example").await });
        wait_until(|| pid.exists()).await;
        asked.abort();
        // It is gone, and no zombie.
        let pid = std::fs::read_to_string(pid).unwrap();
        wait_until(|| !Path::new("/proc").join(pid.trim()).exists()).await;
    }

    async fn wait_until(condition: impl Fn() -> bool) {
        let wait = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it became true");
    }
}
