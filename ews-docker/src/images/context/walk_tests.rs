//! Directories as archives, read back.

use std::io::Read as _;
use std::path::Path;

use bytes::Bytes;
use ews_core::ErrorKind;
use futures_util::{StreamExt as _, TryStreamExt as _};

use crate::images::context::{ContextLimits, context, context_within};

struct Bench(tempfile::TempDir);

impl Bench {
    fn new(files: &[(&str, &str)]) -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        for (name, content) in files {
            bench.write(name, content);
        }
        bench
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

async fn archive(directory: &Path, dockerfile: &str) -> ews_core::Result<Vec<u8>> {
    let pieces: Vec<Bytes> = context(directory, dockerfile)?.try_collect().await?;
    Ok(pieces.concat())
}

async fn names(directory: &Path, dockerfile: &str) -> Vec<String> {
    let archive = archive(directory, dockerfile).await.unwrap();
    let mut archive = tar::Archive::new(&archive[..]);
    archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
}

#[tokio::test]
async fn what_is_ignored_is_left_out_in_order() {
    let bench = Bench::new(&[
        ("Dockerfile", "FROM scratch"),
        (".dockerignore", "*\n!web\nweb/*.log\n!**/keep.log\nDockerfile\n.dockerignore\n"),
        ("web/b.js", "b"),
        ("web/a.log", "a"),
        ("web/keep.log", "k"),
        ("secret/key", "k"),
        ("deep/down/keep.log", "k"),
    ]);
    let expected = [".dockerignore", "Dockerfile", "deep/down/keep.log", "web/", "web/b.js", "web/keep.log"];
    let found: Vec<String> = names(bench.path(), "Dockerfile").await;
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    let trimmed =
        |names: &[&str]| names.iter().map(|n| n.trim_end_matches('/').to_owned()).collect::<Vec<_>>();
    assert_eq!(trimmed(&found), trimmed(&expected));
}

#[tokio::test]
async fn a_dockerfile_has_an_ignore_file_of_its_own() {
    let bench = Bench::new(&[
        ("build/web.Dockerfile", "FROM scratch"),
        ("build/web.Dockerfile.dockerignore", "a\nbuild"),
        (".dockerignore", "b"),
        ("a", ""),
        ("b", ""),
    ]);
    let found = names(bench.path(), "./build/web.Dockerfile").await;
    assert_eq!(
        found.iter().filter(|name| !name.ends_with("build")).collect::<Vec<_>>(),
        [".dockerignore", "b", "build/web.Dockerfile"]
    );
}

#[cfg(unix)]
#[tokio::test]
async fn links_stay_links_and_one_state_is_one_archive() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let bench = Bench::new(&[("Dockerfile", "FROM scratch"), ("run.sh", "#!"), ("empty/x", "")]);
    std::fs::remove_file(bench.path().join("empty/x")).unwrap();
    std::fs::set_permissions(bench.path().join("run.sh"), std::fs::Permissions::from_mode(0o4751)).unwrap();
    symlink("/etc/passwd", bench.path().join("absolute")).unwrap();
    symlink("..", bench.path().join("empty/up")).unwrap();
    symlink("nowhere", bench.path().join("dangling")).unwrap();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(150));
    bench.write(&long, "long");
    let _listener = std::os::unix::net::UnixListener::bind(bench.path().join("socket")).unwrap();

    let bytes = archive(bench.path(), "Dockerfile").await.unwrap();
    assert_eq!(bytes, archive(bench.path(), "Dockerfile").await.unwrap());
    let mut seen = Vec::new();
    for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let target = entry.link_name().unwrap().map(|target| target.display().to_string());
        assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (0, 0));
        if name == "run.sh" {
            assert_eq!(entry.header().mode().unwrap(), 0o4751);
            let wanted = std::fs::metadata(bench.path().join("run.sh")).unwrap().modified().unwrap();
            let seconds = wanted.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
            assert_eq!(entry.header().mtime().unwrap(), seconds);
        }
        if name == long {
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            assert_eq!(content, "long");
        }
        seen.push((name.trim_end_matches('/').to_owned(), target));
    }
    let link = |name: &str, target: &str| (name.to_owned(), Some(target.to_owned()));
    for wanted in [link("absolute", "/etc/passwd"), link("empty/up", ".."), link("dangling", "nowhere")] {
        assert!(seen.contains(&wanted), "{wanted:?} in {seen:?}");
    }
    assert!(seen.contains(&("empty".to_owned(), None)) && seen.contains(&(long, None)), "{seen:?}");
    assert!(!seen.iter().any(|(name, _)| name == "socket" || name == "."), "{seen:?}");
}

#[tokio::test]
async fn what_is_too_much_is_refused_before_it_is_read_whole() {
    let bench = Bench::new(&[("Dockerfile", "FROM scratch"), (".dockerignore", "left-out")]);
    bench.write("big", &"x".repeat(200_000));
    bench.write("left-out", &"x".repeat(2_000_000));
    let ended = async |limits| {
        let stream = context_within(bench.path(), "Dockerfile", limits).unwrap();
        stream.map_ok(|piece| piece.len() as u64).try_fold(0, |sum, len| async move { Ok(sum + len) }).await
    };
    assert!(ended(ContextLimits::default().with_bytes(250_000)).await.unwrap() < 300_000);
    let error = ended(ContextLimits::default().with_bytes(150_000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfResources);
    assert!(error.to_string().contains("big") && error.to_string().contains("`bytes`"), "{error}");
    let error = ended(ContextLimits::default().with_entries(2)).await.unwrap_err();
    assert!(error.kind() == ErrorKind::OutOfResources && error.message().contains("`entries`"), "{error}");
}

#[tokio::test]
async fn what_can_not_be_a_context_is_refused_at_once() {
    let bench = Bench::new(&[("Dockerfile", "FROM scratch"), ("dir/x", "")]);
    for (dockerfile, kind) in [
        ("Nofile", ErrorKind::NotFound),
        ("../Dockerfile", ErrorKind::Invalid),
        ("/etc/passwd", ErrorKind::Invalid),
        ("", ErrorKind::Invalid),
    ] {
        assert_eq!(context(bench.path(), dockerfile).map(drop).unwrap_err().kind(), kind, "{dockerfile}");
    }
    let nowhere = bench.path().join("nowhere");
    assert_eq!(context(&nowhere, "Dockerfile").map(drop).unwrap_err().kind(), ErrorKind::NotFound);
    bench.write(".dockerignore", "fine\n[");
    let error = context(bench.path(), "Dockerfile").map(drop).unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.message().contains("line 2"), "{error}");
}

#[tokio::test]
async fn a_reader_that_leaves_ends_the_walk() {
    let bench = Bench::new(&[("Dockerfile", "FROM scratch")]);
    bench.write("big", &"x".repeat(5_000_000));
    let mut stream = context(bench.path(), "Dockerfile").unwrap();
    stream.next().await.unwrap().unwrap();
    // The test's runtime waits for its blocking threads when it ends: a walk that went on would hang it.
    drop(stream);
}
