//! The same host on containers: an image is pinned, deployed, asked through the gateway, mended and removed.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr, reason = "tests")]

mod stage;

use std::process::{Command, Stdio};

use stage::Stage;

const IMAGE: &str = "ews-host-test/busybox:1";

fn docker(arguments: &[&str]) -> bool {
    let status = Command::new("docker").args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// An image of nothing but busybox, which must be statically linked.
fn import() -> bool {
    let folder = std::path::Path::new("/usr/bin/busybox").canonicalize().unwrap();
    let mut tar = Command::new("tar")
        .arg("-C")
        .arg(folder.parent().unwrap())
        .args(["-c", "busybox"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let imported = Command::new("docker")
        .args(["import", "-", IMAGE])
        .stdin(tar.stdout.take().unwrap())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    tar.wait().unwrap().success() && imported.success()
}

#[test]
fn an_image_is_deployed_pinned_and_its_containers_outlive_the_host() {
    if !docker(&["version"]) {
        let required = std::env::var("EWS_TEST_DOCKER").is_ok_and(|value| value == "required");
        assert!(!required, "no engine answers, and this run needs one");
        eprintln!("not run: no engine answers");
        return;
    }
    assert!(import());
    let mut stage =
        Stage::with(&format!("name = \"host-test-{}\"\nruntime = \"docker\"\n", std::process::id()), "");
    let document = |version: &str| {
        let text = format!(
            "name = \"site\"\nimage = \"{IMAGE}\"\n\
             command = [\"/busybox\", \"httpd\", \"-f\", \"-p\", \"8080\", \"-h\", \"/www\"]\n\
             replicas = 2\nport = 8080\ndomain = \"site.test\"\nstrategy = \"fast\"\nprobe = {{ http = \"/\", interval = \"200ms\" }}\n\
             stop = {{ grace = \"1s\" }}\n\
             files = [{{ path = \"/www/index.html\", content = \"from {version}\" }}]\n"
        );
        stage.write(&format!("{version}.toml"), &text)
    };
    let (v1, v2) = (document("v1"), document("v2"));
    stage.ews(&["deploy", &v1]).ends(0).says(&["succeeded"]);
    assert_eq!(stage.get("site.test").unwrap(), (200, "from v1".to_owned()));
    stage.ews(&["deploy", &v2]).ends(0);
    assert_eq!(stage.get("site.test").unwrap(), (200, "from v2".to_owned()));
    let ran = stage.ews(&["exec", "site", "--", "/busybox", "cat", "/www/index.html"]).ends(0);
    assert_eq!(ran.out, "from v2");
    let before = stage.ews(&["status", "site", "--json"]).json()["instances"].clone();
    stage.end("KILL");
    stage.start();
    assert_eq!(stage.get("site.test").unwrap(), (200, "from v2".to_owned()));
    let after = stage.ews(&["status", "site", "--json"]).json()["instances"].clone();
    let started = |instances: &serde_json::Value| -> Vec<String> {
        instances.as_array().unwrap().iter().map(|one| one["started_at"].to_string()).collect()
    };
    assert_eq!(started(&before), started(&after));
    stage.ews(&["rollback", "site"]).ends(0);
    assert_eq!(stage.get("site.test").unwrap(), (200, "from v1".to_owned()));
    let program = stage.write("program.toml", "name = \"p\"\ncommand = [\"sh\"]\n");
    stage.ews(&["deploy", &program]).ends(2).says(&["this host runs containers", "`image`"]);
    stage.clear();
    assert!(docker(&["rmi", "--force", IMAGE]));
}
