//! What a program gets: its artifact, environment, files, user, limits and log.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use ews_core::process::{Cgroups, ProcessRuntime};
use ews_core::runtime::{CreateOptions, LogOptions, RemoveOptions, Runtime, StopOptions, WaitOptions};
use ews_core::secrets::EnvSecrets;
use ews_core::spec::content::{ConfigFile, EnvValue, FileContent};
use ews_core::spec::network::Port;
use ews_core::spec::resources::{ByteSize, Ulimit};
use ews_core::spec::source::{ArtifactSource, Source};
use ews_core::{Digest, ErrorKind, InstanceSpec, InstanceState, PortName, Selector};
use futures_util::StreamExt as _;

use super::{Place, fs, key, launch, shell, text, until};

/// An artifact: a directory with a program in `bin/`.
fn artifact(place: &Place) -> std::path::PathBuf {
    let folder = place.folder.path().join("artifact");
    fs::create_dir_all(folder.join("bin")).unwrap();
    fs::write(folder.join("bin/hello"), "#!/bin/sh\necho hello from $(basename $PWD), $(cat data)\n")
        .unwrap();
    fs::set_permissions(folder.join("bin/hello"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.join("data"), "with data").unwrap();
    folder
}

async fn output(runtime: &ProcessRuntime, spec: &InstanceSpec, slot: u32) -> Vec<String> {
    let id = launch(runtime, spec, slot).await.id;
    let status = runtime.wait(&id, &WaitOptions::default()).await.unwrap();
    let lines = text(runtime, &id).await;
    assert!(status.is_success(), "{status}: {lines:?}");
    lines
}

#[tokio::test]
async fn it_runs_from_a_directory_and_from_an_archive_with_its_digest() {
    let place = Place::new(Cgroups::Off);
    let runtime = place.open().await;
    let folder = artifact(&place);
    let archive = place.folder.path().join("hello.tar.gz");
    let tar = Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(&folder).arg(".").status().unwrap();
    assert!(tar.success());
    let spec = |location: &std::path::Path, digest: Option<Digest>| {
        let mut artifact = ArtifactSource::new(location.to_str().unwrap());
        artifact.digest = digest;
        let mut spec = InstanceSpec::new(Source::Artifact(artifact));
        spec.command = vec!["bin/hello".to_owned()];
        spec
    };
    let wanted = ["hello from work, with data"];
    assert_eq!(output(&runtime, &spec(&folder, None), 0).await, wanted);
    let digest = Digest::of(&fs::read(&archive).unwrap());
    assert_eq!(output(&runtime, &spec(&archive, Some(digest)), 1).await, wanted);

    // Each refusal says what it is about and leaves nothing.
    let mut missing = spec(&place.folder.path().join("nothing"), None);
    let mut no_command = spec(&folder, None);
    no_command.command.clear();
    for (slot, spec, kind, said) in [
        (2, spec(&archive, Some(Digest::of(b"other"))), ErrorKind::Invalid, "sha256:"),
        (3, missing.clone(), ErrorKind::NotFound, "nothing"),
        (4, no_command, ErrorKind::Invalid, "which program"),
    ] {
        let error = runtime.create(&spec, &key(slot), &CreateOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
    let mut far = ArtifactSource::new("https://example.com/a.tar.gz");
    far.digest = Some(digest);
    missing.source = Source::Artifact(far);
    let error = runtime.create(&missing, &key(5), &CreateOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(runtime.list(&Selector::everything()).await.unwrap().len(), 2);
    assert_eq!(place.hidden(), Vec::<String>::new());
}

#[tokio::test]
async fn its_environment_holds_its_ports_and_nothing_of_ours() {
    let place = Place::new(Cgroups::Off);
    let runtime = place.open().await;
    let mut spec = shell("env; pwd");
    spec.ports = ["http", "grpc-admin"].map(|name| Port::new(PortName::new(name).unwrap(), None)).to_vec();
    spec.env.insert("HOME".to_owned(), EnvValue::Plain("/elsewhere".to_owned()));
    let lines = output(&runtime, &spec, 0).await;
    let get = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    assert_eq!(get("CARGO_MANIFEST_DIR"), None, "a variable of the controller's own");
    assert_eq!(get("PORT"), get("PORT_HTTP"));
    let ports: Vec<u16> =
        ["PORT", "PORT_GRPC_ADMIN"].map(|name| get(name).unwrap().parse().unwrap()).to_vec();
    assert!(ports[0] != ports[1] && ports.iter().all(|port| (place.ports..place.ports + 100).contains(port)));
    assert_eq!(get("HOME"), Some("/elsewhere"), "the spec has the last word");
    assert!(get("PATH").is_some());
    assert_eq!(get("EWS_WORKDIR"), lines.last().map(String::as_str));
    // The ports are the instance's until it is removed, and told as endpoints while it runs.
    let id = key(0).to_id().unwrap();
    assert!(runtime.get(&id).await.unwrap().endpoints.is_empty(), "it has ended");
    let second = launch(
        &runtime,
        &{
            let mut s = shell("sleep 60");
            s.ports = spec.ports.clone();
            s
        },
        1,
    )
    .await;
    assert!(second.endpoints.iter().all(|endpoint| !ports.contains(&endpoint.address.port())));
    runtime.remove(&second.id, &RemoveOptions::force()).await.unwrap();
}

#[tokio::test]
async fn files_and_secrets_are_placed_with_their_modes_and_secrets_are_kept_nowhere_else() {
    let place = Place::new(Cgroups::Off);
    let secrets = Arc::new(EnvSecrets::new(["EWS_T_UNSET_"]).unwrap());
    let runtime = ProcessRuntime::open(place.config().with_secrets(secrets)).await.unwrap();
    let mut spec = shell("cat conf/app.toml");
    let content = FileContent::Content("port = 1\n".to_owned());
    spec.files.push(ConfigFile::new("/conf/app.toml", content));
    assert_eq!(output(&runtime, &spec, 0).await, ["port = 1"]);
    let work = runtime.work_directory(&key(0).to_id().unwrap()).unwrap();
    let mode = |path: &str| fs::metadata(work.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("conf/app.toml"), mode(".")), (0o644, 0o700));

    spec.files
        .push(ConfigFile::new("/conf/token", FileContent::Secret("EWS_T_UNSET_TOKEN".parse().unwrap())));
    let error = runtime.create(&spec, &key(1), &CreateOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert_eq!(place.hidden(), Vec::<String>::new());

    drop(runtime);
    let runtime = place.open().await;
    let error = runtime.create(&spec, &key(1), &CreateOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "no secrets were configured: {error}");
}

#[tokio::test]
async fn a_secret_reaches_the_program_and_no_file_but_its_own() {
    let place = Place::new(Cgroups::Off);
    let folder = place.folder.path().join("secrets");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("token"), "s3cret-value").unwrap();
    fs::set_permissions(folder.join("token"), fs::Permissions::from_mode(0o600)).unwrap();
    let secrets = Arc::new(ews_core::secrets::FileSecrets::new(&folder).unwrap());
    let runtime = ProcessRuntime::open(place.config().with_secrets(secrets)).await.unwrap();
    let mut spec = shell("[ \"$TOKEN\" = \"$(cat token)\" ] && echo same; stat -c %a token; sleep 60");
    spec.env.insert("TOKEN".to_owned(), EnvValue::Secret { secret: "token".parse().unwrap() });
    spec.files.push(ConfigFile::new("/token", FileContent::Secret("token".parse().unwrap())));
    let id = launch(&runtime, &spec, 0).await.id;
    until("its output", async || text(&runtime, &id).await.len() == 2).await;
    assert_eq!(text(&runtime, &id).await, ["same", "400"]);
    // While it runs, nothing on disk but the file that was asked for holds the value.
    let grep = Command::new("grep").args(["-rl", "s3cret-value"]).arg(place.root()).output().unwrap();
    let found = String::from_utf8(grep.stdout).unwrap();
    let own = runtime.work_directory(&id).unwrap().join("token");
    assert_eq!(found.lines().collect::<Vec<_>>(), [own.to_str().unwrap()]);
    runtime.remove(&id, &RemoveOptions::force()).await.unwrap();
}

#[tokio::test]
async fn another_user_owns_its_directory_and_reaches_nothing_else() {
    if !rustix_is_root() {
        println!("skipped: only root can run programs as others");
        return;
    }
    let place = Place::new(Cgroups::Auto);
    let runtime = place.open().await;
    let folder = artifact(&place);
    let mut spec = InstanceSpec::new(Source::Artifact(ArtifactSource::new(folder.to_str().unwrap())));
    spec.user = Some("65534".to_owned());
    spec.security.no_new_privileges = true;
    spec.ulimits = vec![Ulimit::new("nofile", 77, 88)];
    let script = "id -u; touch mine tmp/mine && echo wrote; cat ../instance.json 2>/dev/null || echo hidden; \
                  ls ../log 2>/dev/null || echo hidden; grep NoNewPrivs /proc/self/status | cut -f 2; ulimit -n";
    spec.command = ["sh", "-c", script].map(str::to_owned).to_vec();
    let lines = output(&runtime, &spec, 0).await;
    assert_eq!(lines, ["65534", "wrote", "hidden", "hidden", "1", "77"]);
    let work = runtime.work_directory(&key(0).to_id().unwrap()).unwrap();
    assert_eq!(fs::metadata(work.join("data")).unwrap().uid(), 65534);
    spec.user = Some("nobody-of-that-name".to_owned());
    let error = runtime.create(&spec, &key(1), &CreateOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

fn rustix_is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A program that writes without end is not held up, and its log stays within its limits.
#[tokio::test]
async fn a_flood_neither_blocks_the_program_nor_fills_the_disk() {
    let place = Place::new(Cgroups::Auto);
    let runtime = place.open().await;
    let mut spec = shell(
        "yes 'a line of a flood' & sleep 0.2; i=0; while [ $i -lt 30 ]; do i=$((i+1)); sleep 0.02; done; echo done >&2",
    );
    spec.log.max_size = ByteSize::from_bytes(200_000);
    spec.log.max_files = 2;
    let id = launch(&runtime, &spec, 0).await.id;
    let status = runtime.wait(&id, &WaitOptions::default()).await.unwrap();
    assert!(status.is_success(), "{status}");
    let folder = place.root().join("instances").join(id.as_str()).join("log");
    let sizes: Vec<u64> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
    assert!(sizes.len() <= 2 && sizes.iter().sum::<u64>() <= 400_000, "{sizes:?}");
    let tail = runtime.logs(&id, &LogOptions::tail(3)).await.unwrap().collect::<Vec<_>>().await;
    assert_eq!(tail.len(), 3);
}

#[tokio::test]
async fn a_job_runs_once_to_its_end() {
    use ews_core::RuntimeExt as _;
    use ews_core::spec::lifecycle::Job;
    let place = Place::new(Cgroups::Auto);
    let runtime = place.open().await;
    let job = ews_core::ServiceSpec::job(
        ews_core::ServiceName::new("migrate").unwrap(),
        shell("true").source.clone(),
        Job::default(),
    );
    let mut spec = job.instance.clone();
    spec.command = ["sh", "-c", "echo migrated; exit 4"].map(str::to_owned).to_vec();
    let done = runtime
        .run_to_completion(&spec, &key(0), &CreateOptions::default(), Duration::from_secs(60))
        .await
        .unwrap();
    assert_eq!(done.status.unwrap().code, Some(4));
    assert_eq!(done.tail.len(), 1);
}

#[tokio::test]
async fn a_log_goes_on_over_restarts_and_is_removed_with_its_instance() {
    let place = Place::new(Cgroups::Off);
    let runtime = place.open().await;
    let id = launch(&runtime, &shell("echo a start; while :; do sleep 1; done"), 0).await.id;
    until("the first line", async || text(&runtime, &id).await.len() == 1).await;
    runtime.stop(&id, &StopOptions::default()).await.unwrap();
    let again = runtime.start(&id).await.unwrap();
    assert_eq!(again.state, InstanceState::Running);
    until("the second line", async || text(&runtime, &id).await.len() == 2).await;
    let directory = place.root().join("instances").join(id.as_str());
    assert!(directory.exists());
    runtime.remove(&id, &RemoveOptions::force()).await.unwrap();
    assert!(!directory.exists());
}
