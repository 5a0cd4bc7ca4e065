//! Contexts beside those of Docker's own client: what `COPY . /` makes of a directory must be the same, whoever packed it.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use ews_core::image::{BuildSpec, ImageStore as _, Progress};
use ews_docker::{DockerImages, images};
use futures_util::StreamExt as _;
use hyper::Method;
use serde_json::json;

use crate::rig::standin::Standin;
use crate::rig::{self, Raw};

const IGNORES: [&str; 12] = [
    "",
    "# nothing\n\n",
    "*.md\n!README*.md\nREADME-secret.md\n",
    "**/*.go\n*/temp*\ntemp?\n",
    "node_modules\n",
    "**/node_modules\n.git\n",
    "*\n!web\n!docs/guide/a.txt\nweb/*.log\n",
    "/web/\n!web/keep/me\n",
    "Dockerfile\n.dockerignore\n",
    "**\n!docs/**\ndocs/guide\n",
    "[a-w]*\n!web/app.js\n",
    "docs/*\n!docs/guide\n **/deep/ \nlinks/./../links/dir\n",
];

/// A file with a time of its own: a builder takes what it has in its cache for the same whatever its time.
fn write(path: &Path, content: &str) {
    std::fs::write(path, content).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000 + content.len() as u64);
    std::fs::File::options().write(true).open(path).and_then(|file| file.set_modified(time)).unwrap();
}

fn tree(root: &Path) {
    for (name, content) in [
        ("README.md", "r"),
        ("README-secret.md", "s"),
        ("CHANGES.md", "c"),
        ("temp1", "t"),
        ("main.go", "m"),
        ("web/app.js", "a"),
        ("web/app.log", "l"),
        ("web/keep/me", "k"),
        ("web/temp.txt", "t"),
        ("web/node_modules/x/y.js", "y"),
        ("node_modules/z.js", "z"),
        ("docs/guide/a.txt", "a"),
        ("docs/guide/deep/b.txt", "b"),
        ("docs/index.txt", "i"),
        (".git/HEAD", "h"),
        ("ein name mit ümlaut", "u"),
    ] {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        write(&path, content);
    }
    std::fs::create_dir_all(root.join("links/empty")).unwrap();
    symlink("../web/app.js", root.join("links/file")).unwrap();
    symlink("/nowhere", root.join("links/dangling")).unwrap();
    symlink("../web", root.join("links/dir")).unwrap();
    std::fs::set_permissions(root.join("main.go"), std::fs::Permissions::from_mode(0o4750)).unwrap();
    std::fs::set_permissions(root.join("web"), std::fs::Permissions::from_mode(0o2711)).unwrap();
}

/// What an image's files are: name → kind, mode, owner, time, size, target. Directories have the time of the build.
async fn files(raw: &Raw, image: &str) -> BTreeMap<String, String> {
    let container = raw.create(&json!({"Image": image, "Cmd": ["/x"]})).await;
    let (_, archive) = raw.ask(Method::GET, &format!("/containers/{container}/export"), None).await.unwrap();
    raw.remove_container(&container).await;
    let mut archive = tar::Archive::new(&archive[..]);
    let described = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let header = entry.header();
        let time = if header.entry_type().is_file() { header.mtime().unwrap() } else { 0 };
        let target = entry.link_name().unwrap().map(|target| target.display().to_string());
        let words = format!(
            "{:?} {:o} {}:{} {time} {} {target:?}",
            header.entry_type(),
            header.mode().unwrap(),
            header.uid().unwrap(),
            header.gid().unwrap(),
            header.size().unwrap(),
        );
        (entry.path().unwrap().display().to_string(), words)
    });
    // What every container gets is not the image's.
    let own =
        |name: &str| ["dev/", "etc/", "proc/", "sys/", ".dockerenv"].iter().any(|own| name.starts_with(own));
    described.filter(|(name, _)| !own(name)).collect()
}

#[tokio::test]
async fn what_is_copied_is_what_docker_build_copies() {
    let Some(config) = rig::engine().await else { return };
    if Command::new("docker").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("skipped: there is no `docker` to compare with");
        return;
    }
    let raw = Raw::new(&config);
    // With BuildKit too, where it is built in; by Docker's rules what is excluded of a context's own two files stays there.
    let classic = Standin::classic(&config);
    let stores = [
        (true, DockerImages::connect(classic.config()).await.unwrap()),
        (false, DockerImages::connect(config).await.unwrap()),
    ];
    let root = tempfile::tempdir().unwrap();
    tree(root.path());
    let word = rig::unique();
    // Nothing of another run is in the builder's cache, and below nothing of the other build.
    write(&root.path().join("Dockerfile"), &format!("# {word}\nFROM scratch\nCOPY . /\n"));
    let (theirs, ours) = (format!("{word}.example/theirs:1"), format!("{word}.example/ours:1"));
    for ignore in IGNORES {
        write(&root.path().join(".dockerignore"), ignore);
        let built = Command::new("docker")
            .args(["build", "--quiet", "--no-cache", "--tag", &theirs])
            .arg(root.path())
            .env("DOCKER_BUILDKIT", "0")
            .output()
            .unwrap();
        assert!(built.status.success(), "{ignore:?}: {}", String::from_utf8_lossy(&built.stderr));
        let copied = files(&raw, &theirs).await;
        raw.remove_image(&theirs).await;
        for (exactly, store) in &stores {
            let context = images::context(root.path(), "Dockerfile").unwrap();
            let spec = BuildSpec::new(ours.parse().unwrap());
            let progress: Vec<_> = store.build(&spec, context).await.unwrap().collect().await;
            assert!(matches!(progress.last(), Some(Ok(Progress::Done { .. }))), "{ignore:?}: {progress:?}");
            let found = files(&raw, &ours).await;
            if *exactly {
                assert_eq!(found, copied, "{ignore:?}");
            } else {
                let names = |files: &BTreeMap<String, String>| {
                    let own = |name: &String| !matches!(name.as_str(), "Dockerfile" | ".dockerignore");
                    files.keys().filter(|name| own(name)).cloned().collect::<Vec<_>>()
                };
                assert_eq!(names(&found), names(&copied), "{ignore:?}");
            }
            raw.remove_image(&ours).await;
        }
    }
}
