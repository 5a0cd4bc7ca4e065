//! Secret files: in memory, whose they are, whom they outlive and whom not, and where they are never found.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ews_core::ErrorKind;
use ews_core::instance::InstanceState;
use ews_core::runtime::{RemoveOptions, StopOptions, WaitOptions};
use ews_core::spec::content::{ConfigFile, FileContent, FileMode};
use ews_core::spec::source::{ImageSource, Source};
use ews_core::{InstanceSpec, Runtime as _};
use ews_docker::{DockerConfig, DockerRuntime, EngineAddress};
use serde_json::json;

use super::{IDLE, Site, WORD, shell};
use crate::engine::{docker, docker_ok};
use crate::rig::standin::{Reply, Standin};
use crate::rig::{self, unique};

fn secret(path: &str) -> ConfigFile {
    ConfigFile::new(path, FileContent::Secret("token".parse().unwrap()))
}

/// Says what the file holds, whose it is, and whether it can be written.
const LOOK: &str = "cat /run/token; echo; stat -c '%u:%g %a' /run/token; (echo x >/run/token) 2>/dev/null || echo unwritable";

#[tokio::test]
async fn they_belong_to_the_user_that_the_program_runs_as() {
    let Some(site) = Site::new().await else { return };
    // The test image's list has `web:x:1234:1235`.
    for (slot, (user, owner)) in (0..).zip([
        (None, "0:0"),
        (Some("root"), "0:0"),
        (Some("web"), "1234:1235"),
        (Some("1234"), "1234:1235"),
        (Some("4321"), "4321:0"),
        (Some("4321:77"), "4321:77"),
        (Some("web:88"), "1234:88"),
    ]) {
        let mut spec = shell(LOOK);
        spec.user = user.map(str::to_owned);
        spec.files = vec![secret("/run/token")];
        let (id, said) = site.output(&spec, slot).await;
        assert_eq!(said, format!("token{WORD}\n{owner} 400\nunwritable"), "{user:?}");
        // On the node nobody else comes near them.
        let [folder] = &site.folders()[..] else { panic!("one folder for each: {:?}", site.folders()) };
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(folder.parent().unwrap()), mode(folder), mode(&folder.join("0"))),
            (0o700, 0o700, 0o400)
        );
        let meta = std::fs::metadata(folder.join("0")).unwrap();
        assert_eq!(format!("{}:{}", meta.uid(), meta.gid()), owner);
        site.runtime.remove(&id, &RemoveOptions::default()).await.unwrap();
        assert!(site.folders().is_empty(), "they go with their instance");
    }
}

/// A user by number needs no list of users; by name it does, and the engine says so at the start.
#[tokio::test]
async fn an_image_without_a_list_of_users() {
    let Some(site) = Site::new().await else { return };
    let name = format!("{}:1", unique());
    let archive =
        rig::image(&name, "amd64", &["sh", "cat", "stat"], &json!({"User": "4321", "Env": ["PATH=/bin"]}));
    let path = site.memory.path().join("image.tar");
    std::fs::write(&path, archive).unwrap();
    assert!(docker_ok(&["load", "-i", path.to_str().unwrap()]));
    let mut spec = InstanceSpec::new(Source::Image(ImageSource::new(name.parse().unwrap())));
    spec.command = vec!["sh".into(), "-c".into(), LOOK.into()];
    spec.files = vec![secret("/run/token")];
    // The image's own user.
    let (id, said) = site.output(&spec, 0).await;
    assert_eq!(said, format!("token{WORD}\n4321:0 400\nunwritable"));
    site.runtime.remove(&id, &RemoveOptions::default()).await.unwrap();
    spec.user = Some("web".to_owned());
    let id = site.create(&spec, 1).await.unwrap().id;
    let started = site.runtime.start(&id).await.unwrap();
    let InstanceState::Failed(failure) = &started.state else { panic!("it is {:?}", started.state) };
    assert!(failure.message.contains("web"), "{failure:?}");
    site.runtime.remove(&id, &RemoveOptions::default()).await.unwrap();
    assert!(site.folders().is_empty());
    docker(&["rmi", "-f", &name]);
}

#[tokio::test]
async fn they_are_laid_anew_where_memory_was_lost() {
    let Some(site) = Site::new().await else { return };
    let mut spec = shell(LOOK);
    spec.user = Some("web".to_owned());
    let mut second = secret("/etc/more/second");
    second.mode = FileMode::new(0o440).unwrap();
    spec.files =
        vec![secret("/run/token"), ConfigFile::new("/etc/plain", FileContent::Content("x".into())), second];
    let (id, first) = site.output(&spec, 0).await;
    // The node has restarted: what is in memory is gone, all of it or a part.
    let secrets = site.memory.path().join("secrets");
    for (starts, lost) in (2..).zip([secrets.clone(), site.folders()[0].join("2")]) {
        if lost.is_dir() {
            std::fs::remove_dir_all(&lost).unwrap()
        } else {
            std::fs::remove_file(&lost).unwrap()
        }
        // The controller too, in one of two cases.
        let runtime = if lost == secrets { site.another().await } else { site.runtime.clone() };
        runtime.start(&id).await.unwrap();
        assert_eq!(site.written(&id).await, vec![first.as_str(); starts].join("\n"));
        let folder = site.folders().remove(0);
        let meta = std::fs::metadata(folder.join("2")).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (1234, 1235, 0o440));
    }
    // A runtime that can't resolve secrets, or shares no memory, says so instead of starting it without.
    std::fs::remove_dir_all(site.folders().remove(0)).unwrap();
    let config = DockerConfig::new(EngineAddress::Unix(site.socket.clone())).with_secrets_directory(&secrets);
    let without = DockerRuntime::connect(config).await.unwrap();
    let error = without.start(&id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    site.remove(0).await;
    assert!(site.folders().is_empty());
}

#[tokio::test]
async fn they_are_found_nowhere_else() {
    let Some(site) = Site::new().await else { return };
    let mut spec = shell(IDLE);
    spec.files = vec![secret("/run/token")];
    let id = site.create(&spec, 0).await.unwrap().id;
    site.runtime.start(&id).await.unwrap();
    let seen = docker(&["inspect", id.as_str()]);
    assert!(seen.contains("\"Mounts\"") && !seen.contains(WORD), "{seen}");
    let image = format!("{}:1", unique());
    assert!(docker_ok(&["commit", id.as_str(), &image]));
    let path = site.memory.path().join("image.tar");
    assert!(docker_ok(&["save", "-o", path.to_str().unwrap(), &image]));
    docker(&["rmi", "-f", &image]);
    let holds = |bytes: &[u8]| bytes.windows(WORD.len()).any(|part| part == WORD.as_bytes());
    let saved = std::fs::read(&path).unwrap();
    assert!(saved.len() > 500_000 && !holds(&saved), "an image of it holds the secret");
    // What the engine keeps of the container on disk has the file's place and not the file.
    let exported = site.memory.path().join("fs.tar");
    assert!(docker_ok(&["export", "-o", exported.to_str().unwrap(), id.as_str()]));
    assert!(!holds(&std::fs::read(&exported).unwrap()));
    site.remove(0).await;
}

#[tokio::test]
async fn a_creation_that_fails_leaves_none() {
    let Some(site) = Site::new().await else { return };
    let mut spec = shell(IDLE);
    spec.files = vec![secret("/run/token")];
    // Somebody else's container has the name.
    let name = site.key(0).to_id().unwrap();
    let Source::Image(source) = &spec.source else { panic!() };
    assert!(docker_ok(&["create", "--name", name.as_str(), &source.reference.to_string(), "true"]));
    assert_eq!(site.create(&spec, 0).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert!(site.folders().is_empty());
    docker(&["rm", "-f", name.as_str()]);
    // The engine refuses it at the last moment.
    spec.security.add_capabilities = vec!["NO_SUCH_THING".to_owned()];
    let error = site.create(&spec, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(site.folders().is_empty(), "{error}");
    // Five at once of one name lay one folder in the end.
    spec.security.add_capabilities.clear();
    let all = futures_util::future::join_all((0..5).map(|_| site.create(&spec, 2))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(site.folders().len(), 1);
    let id = &all[0].as_ref().unwrap().id;
    site.runtime.start(id).await.unwrap();
    site.runtime.stop(id, &StopOptions::grace(Duration::ZERO)).await.unwrap();
    site.runtime.wait(id, &WaitOptions::default()).await.unwrap();
    site.remove(2).await;
}

/// What a controller that was killed has left is swept by the next of the same engine, and by no other's.
#[tokio::test]
async fn two_engines_of_one_machine_keep_theirs_apart() {
    let Some(site) = Site::new().await else { return };
    let mut spec = shell(IDLE);
    spec.files = vec![secret("/run/token")];
    let id = site.create(&spec, 0).await.unwrap().id;
    let [folder] = &site.folders()[..] else { panic!() };
    let mark = folder.file_name().unwrap().to_str().unwrap().strip_prefix(id.as_str()).unwrap();
    let mark = mark.split('.').nth(1).unwrap();
    let orphan = |name: &str, mark: &str| {
        let path = folder.with_file_name(format!("{name}.{mark}.17f"));
        std::fs::create_dir(&path).unwrap();
        path
    };
    let (old, young) = (orphan("ews_gone_web_r1_0_0", mark), orphan("ews_new_web_r1_0_0", mark));
    let (theirs, odd) =
        (orphan("ews_gone_web_r1_0_0", "0a0a0a0a0a0a"), folder.with_file_name("somebodys-own"));
    std::fs::create_dir(&odd).unwrap();
    for path in [&old, &theirs, &odd, folder] {
        let then = SystemTime::now() - Duration::from_secs(3600);
        std::fs::File::open(path).unwrap().set_times(std::fs::FileTimes::new().set_modified(then)).unwrap();
    }
    // Another engine of this machine, without containers.
    let other = Standin::start(|_| Reply::Whole(200, "[]".to_owned()));
    let config = other.config().with_secrets_directory(site.memory.path().join("secrets"));
    DockerRuntime::connect(config).await.unwrap();
    assert!(other.asked("/containers/json") > 0, "it has looked for what it may sweep");
    assert!([&old, &young, &theirs, &odd, folder].iter().all(|path| path.exists()), "{:?}", site.folders());
    site.another().await;
    assert!(!old.exists(), "what was left is swept");
    assert!([&young, &theirs, &odd, folder].iter().all(|path| path.exists()), "{:?}", site.folders());
    site.remove(0).await;
}

/// A socket may lead to another machine; then the engine finds nothing where the files were laid.
#[tokio::test]
async fn an_engine_that_does_not_see_them_is_found_out() {
    let Some(site) = Site::new().await else { return };
    let secrets = site.memory.path().join("secrets");
    let real = DockerConfig::new(EngineAddress::Unix(site.socket.clone()));
    let engine = {
        let secrets = secrets.clone();
        Standin::over(&real, move |asked| {
            if asked.line.starts_with("POST /containers/create") {
                // The engine looks on a machine where nobody laid them.
                for folder in std::fs::read_dir(&secrets).unwrap() {
                    std::fs::remove_dir_all(folder.unwrap().path()).unwrap();
                }
            }
            Reply::Real
        })
    };
    let config = engine.config().with_secrets_directory(&secrets);
    let runtime =
        DockerRuntime::builder(config).with_secrets(Arc::new(super::Named)).connect().await.unwrap();
    let mut spec = shell(IDLE);
    spec.files = vec![secret("/run/token")];
    let error = runtime.create(&spec, &site.key(0), &Default::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.message().contains("forwarded") && error.detail().is_some(), "{error}");
    assert!(site.folders().is_empty());
}
