//! Artifacts that run without an image.

use ews_core::ErrorKind;
use ews_core::spec::source::ArtifactSource;

use super::super::artifact::tests::made;
use super::super::*;
use super::stage::Stage;

fn artifact(resolved: &Resolved) -> &ArtifactSource {
    let Source::Artifact(artifact) = &resolved.spec.instance.source else { panic!("no artifact") };
    assert_eq!(artifact.digest, Some(resolved.provenance.result));
    artifact
}

#[tokio::test]
async fn archives_are_kept_checked_and_by_their_digest() {
    let stage = Stage::new().await;
    let plain = stage.resolve(ProcessRequest::new(stage.site("x").await)).await.unwrap();
    let kept = artifact(&plain);
    let bytes = std::fs::read(&kept.location).unwrap();
    assert_eq!(Digest::of(&bytes), kept.digest.unwrap());
    assert_eq!(ews_core::archive::Limits::default().path, 4096);
    let mut unpacked = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
    let names: Vec<_> =
        unpacked.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
    assert_eq!(names, [PathBuf::from("index.html")]);
    ews_core::Revision::new(1, Arc::new(plain.spec.clone()), Timestamp::EPOCH).unwrap();
    // The same content is the same file.
    let again = stage.upload(made::gzip(&made::tar_of("./index.html", b"x"))).await;
    let again = stage.resolve(ProcessRequest::new(again)).await.unwrap();
    assert_eq!(artifact(&again), kept);
}

#[tokio::test]
async fn an_entry_says_command_port_and_probe() {
    let stage = Stage::new().await;
    let jar = stage.upload(made::jar()).await;
    let resolved = stage.resolve(ProcessRequest::new(jar.clone()).with_entry("jar")).await.unwrap();
    let instance = &resolved.spec.instance;
    assert_eq!(instance.command, ["java", "-jar", "app.jar"]);
    // It is allotted one, as `PORT`.
    assert_eq!((instance.ports[0].number, instance.env.get("PORT")), (None, None));
    let bytes = std::fs::read(&artifact(&resolved).location).unwrap();
    let mut unpacked = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
    let names: Vec<_> =
        unpacked.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
    assert_eq!(names, [PathBuf::from("app.jar")]);
    let error = stage.resolve(ProcessRequest::new(jar).with_entry("site")).await.unwrap_err();
    assert!(error.message().contains("does not run without an image"), "{error}");
}

#[tokio::test]
async fn a_program_is_kept_as_it_is_and_what_nobody_wants_is_forgotten() {
    let stage = Stage::new().await;
    let script = stage.upload(b"#!/bin/sh\necho hi\n".to_vec()).await;
    let program = stage.resolve(ProcessRequest::new(script).with_entry("program")).await.unwrap();
    let kept = artifact(&program).clone();
    assert_eq!(std::fs::read(&kept.location).unwrap(), b"#!/bin/sh\necho hi\n");
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(&kept.location).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o755);
    }
    let site = stage.resolve(ProcessRequest::new(stage.site("x").await)).await.unwrap();
    let removed = stage.sources.forget_artifacts(&[kept.digest.unwrap()]).await.unwrap();
    assert_eq!(removed, [site.provenance.result]);
    assert_eq!(std::fs::read_dir(stage.directory.path().join("artifacts")).unwrap().count(), 1);
}

#[tokio::test]
async fn without_a_directory_or_a_registry_it_is_said_which_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let sources = Sources::new(SourcesConfig::new(directory.path()), Catalogue::built_in().unwrap()).unwrap();
    let site = sources.receive(made::stream(made::tar_of("a", b"a")), None).await.unwrap();
    let spec = super::stage::spec;
    let error = sources.resolve(&ProcessRequest::new(site.clone()).into(), spec()).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Unsupported && error.message().contains("directory for artifacts"),
        "{error}"
    );
    let request = ArtifactRequest::new(site, "static-site", "shop/site".parse().unwrap()).into();
    let error = sources.resolve(&request, spec()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.message().contains("no registry"), "{error}");
    let relative = SourcesConfig::new(directory.path()).with_artifacts("artifacts");
    assert!(Sources::new(relative, Catalogue::empty()).is_err());
    let zero = SourcesConfig::new(directory.path()).with_limits(UploadLimits::default().with_entries(0));
    assert!(Sources::new(zero, Catalogue::empty()).unwrap_err().message().contains("limits.entries"));
}
