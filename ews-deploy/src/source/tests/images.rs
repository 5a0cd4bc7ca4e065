//! Artifacts on bases, and images by name.

use std::task::Poll;

use ews_core::ErrorKind;
use ews_core::spec::lifecycle::Signal;
use ews_core::spec::probe::Check;
use ews_core::testkit::CallFault;
use ews_core::testkit::fake_registry::RegistryCall;
use serde_json::json;

use super::super::artifact::tests::made;
use super::super::*;
use super::stage::{Stage, spec, target};

#[tokio::test]
async fn an_artifact_becomes_one_layer_on_every_platform_of_its_base() {
    let stage = Stage::new().await;
    let site = stage.site("hello").await;
    let name = target("shop/site:1");
    let resolved = stage.resolve(ArtifactRequest::new(site.clone(), "site", name.clone())).await.unwrap();

    let configs = stage.configs(&resolved).await;
    let arches: Vec<_> = configs.iter().map(|config| config["architecture"].as_str().unwrap()).collect();
    assert_eq!(arches, ["amd64", "arm64"]);
    for config in &configs {
        let run = &config["config"];
        assert_eq!(run["User"], "33");
        assert_eq!(run["Entrypoint"], json!(["/bin/httpd", "-f", "-h", "/www"]));
        assert_eq!(run.get("Cmd"), None);
        assert_eq!(run["Env"], json!(["PATH=/bin", "BASE=two", "MODE=production"]));
        assert_eq!(run["ExposedPorts"], json!({"80/tcp": {}, "8080/tcp": {}}));
        assert_eq!(run["WorkingDir"], "/www");
        assert_eq!(run["StopSignal"], "SIGQUIT");
        let labels = &run["Labels"];
        assert_eq!(labels["ews.catalog.id"], "site");
        assert_eq!(labels["ews.catalog.compatibility"], "busybox/1");
        assert_eq!(labels["ews.app.layer.first"], "2");
        assert_eq!(labels["org.opencontainers.image.base.name"], "registry.example/base/httpd:1");
        assert_eq!(labels["title"], "httpd");
        assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 3);
        assert_eq!(config["history"].as_array().unwrap().len(), 4);
    }
    assert_eq!(configs[0]["rootfs"]["diff_ids"][2], configs[1]["rootfs"]["diff_ids"][2]);

    // The base's layers were taken over within the registry: only our layer and two configs were sent.
    assert_eq!((resolved.moved.mounted, resolved.moved.copied), (4, 0));
    assert_eq!(stage.registry.blobs_sent(&name), 3);
    let spec = &resolved.spec.instance;
    assert_eq!(spec.ports[0].number, Some(8080));
    assert!(
        matches!(&spec.probes.readiness.as_ref().unwrap().check, Check::Http(http) if http.path == "/healthz")
    );
    assert_eq!(spec.stop.signal, Signal::QUIT);
    ews_core::Revision::new(1, Arc::new(resolved.spec.clone()), Timestamp::EPOCH).unwrap();
    let from = &resolved.provenance;
    assert_eq!(
        (from.kind, from.by.as_str(), from.upload),
        (ProvenanceKind::Artifact, "ann", Some(site.digest()))
    );
    assert_eq!((from.entry.as_deref(), from.bases.len()), (Some("site:1"), 2));
    assert!(resolved.warnings.iter().any(|warning| warning.about == WarningAbout::Times));

    // The same content again, packed in another way: the same image, and nothing of it is sent.
    let again = stage.upload(made::gzip(&made::tar_of("./index.html", b"hello"))).await;
    let again = stage.resolve(ArtifactRequest::new(again, "site:1", name.clone())).await.unwrap();
    assert_eq!(again.provenance.result, resolved.provenance.result);
    assert_eq!(stage.registry.blobs_sent(&name), 3);
    // With the commit's time it is another, and nobody is warned.
    let timed =
        ArtifactRequest::new(site, "site", name).with_modified(Timestamp::from_micros(1_700_000_000_000_000));
    let timed = stage.resolve(timed).await.unwrap();
    assert_ne!(timed.provenance.layer, resolved.provenance.layer);
    assert_eq!(timed.warnings, []);
}

#[tokio::test]
async fn what_a_spec_says_stays() {
    let stage = Stage::new().await;
    let mut said = spec();
    said.instance.ports.push(ews_core::spec::network::Port::new("web".parse().unwrap(), Some(9)));
    said.instance.stop.signal = Signal::INT;
    said.replicas = 7;
    let request = ArtifactRequest::new(stage.site("x").await, "site", target("shop/site:1"));
    let resolved = stage.sources.resolve(&request.into(), said).await.unwrap();
    assert_eq!(resolved.spec.instance.ports.len(), 1);
    assert_eq!(resolved.spec.instance.ports[0].number, Some(9));
    assert_eq!((resolved.spec.instance.stop.signal, resolved.spec.replicas), (Signal::INT, 7));
}

#[tokio::test]
async fn a_program_goes_onto_its_own_platform_only() {
    let stage = Stage::new().await;
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(18, 0);
    elf.extend([183, 0, 1, 2]);
    let program = stage.upload(elf.clone()).await;
    let name = target("shop/program:1");
    let resolved = stage.resolve(ArtifactRequest::new(program, "program", name.clone())).await.unwrap();
    let configs = stage.configs(&resolved).await;
    assert_eq!((configs.len(), &configs[0]["architecture"]), (1, &json!("arm64")));
    elf[18] = 22;
    (elf[4], elf[5]) = (2, 2);
    elf.swap(18, 19);
    let program = stage.upload(elf).await;
    let error = stage.resolve(ArtifactRequest::new(program, "program", name)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ImageIncompatible, "{error}");
    assert!(error.message().contains("linux/s390x"), "{error}");
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_what_would() {
    let stage = Stage::new().await;
    let name = target("shop/site:1");
    let site = stage.site("x").await;
    let jar = stage.upload(made::jar()).await;
    let script = stage.upload(b"#!/bin/sh\n".to_vec()).await;
    let empty = stage.upload(made::tar(&[])).await;
    let link = stage.upload(made::tar(&[made::link("l", "/etc")])).await;
    let named = name.clone().with_digest(Digest::of(b"x"));
    for (request, kind, fault) in [
        (
            ArtifactRequest::new(site.clone(), "nope", name.clone()),
            ErrorKind::NotFound,
            "catalogue entry: nope",
        ),
        (
            ArtifactRequest::new(site.clone(), "jar", name.clone()),
            ErrorKind::Invalid,
            "does not take a tar archive; accepted: jar",
        ),
        (
            ArtifactRequest::new(jar.clone(), "jar", name.clone()),
            ErrorKind::Invalid,
            "nobody says what `{main}` is",
        ),
        (ArtifactRequest::new(script, "site", name.clone()), ErrorKind::Invalid, "does not take a program"),
        (ArtifactRequest::new(empty, "site", name.clone()), ErrorKind::Invalid, "no file in the upload"),
        (ArtifactRequest::new(link, "site", name.clone()), ErrorKind::Invalid, "absolute"),
        (
            ArtifactRequest::new(site.clone(), "site", name.clone()).with_root("dist"),
            ErrorKind::Invalid,
            "no directory `dist`",
        ),
        (
            ArtifactRequest::new(site.clone(), "site", named),
            ErrorKind::Invalid,
            "digest follows from its content",
        ),
        (ArtifactRequest::new(site.clone(), "windows", name.clone()), ErrorKind::ImageMissing, ""),
    ] {
        let error = stage.resolve(request).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(fault), "{fault}: {error}");
        assert_eq!(error.operation().split('.').count(), 2, "{error}");
    }
    let jar = ArtifactRequest::new(jar, "jar", name.clone()).with_main("app.jar");
    let resolved = stage.resolve(jar).await.unwrap();
    assert_eq!(stage.configs(&resolved).await[0]["config"]["Entrypoint"], json!(["java", "-jar", "app.jar"]));
    assert!(
        resolved.warnings.iter().any(|warning| warning.about == WarningAbout::EndOfLife),
        "{:?}",
        resolved.warnings
    );
    // Where none of the base's platforms is wanted.
    stage.base("base/windows:1", &[("linux", "amd64")], &["w"]).await;
    let error = stage.resolve(ArtifactRequest::new(site, "windows", name)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ImageIncompatible, "{error}");
}

#[tokio::test]
async fn names_are_checked_by_the_rules_of_windows_where_it_goes_there() {
    let stage = Stage::new().await;
    stage.base("base/windows:1", &[("windows", "amd64")], &["w"]).await;
    let two = stage.upload(made::tar(&[made::file("a", b""), made::file("A", b"")])).await;
    let error = stage.resolve(ArtifactRequest::new(two, "windows", target("shop/w:1"))).await.unwrap_err();
    assert!(error.message().contains("one name on Windows"), "{error}");
    let site = stage.site("x").await;
    let resolved = stage.resolve(ArtifactRequest::new(site, "windows", target("shop/w:1"))).await.unwrap();
    assert_eq!(resolved.spec.instance.platform.os, Some(ews_core::Os::Windows));
}

#[tokio::test]
async fn a_base_of_another_registry_is_copied_layer_by_layer() {
    let stage = Stage::new().await;
    let site = stage.site("x").await;
    // The fake serves every registry's names from one set of repositories, and mounts within one registry only.
    let name: ImageRef = "elsewhere.example/shop/site:1".parse().unwrap();
    let resolved = stage.resolve(ArtifactRequest::new(site, "site", name)).await.unwrap();
    let bytes = ["one", "two"]
        .iter()
        .flat_map(|l| ["amd64", "arm64"].map(|a| format!("{l} for {a}").len() as u64))
        .sum::<u64>();
    assert_eq!((resolved.moved.mounted, resolved.moved.copied), (0, bytes));
}

#[tokio::test]
async fn a_fault_or_a_dropped_call_leaves_no_tag_and_no_scratch() {
    let stage = Stage::new().await;
    for call in
        [RegistryCall::Manifest, RegistryCall::Blob, RegistryCall::PushBlob, RegistryCall::PushManifest]
    {
        let request = ArtifactRequest::new(stage.site("x").await, "site", target("shop/faulty:1"));
        stage.registry.inject(call, CallFault::Fail(ErrorKind::Unavailable));
        let error = stage.resolve(request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{call:?}: {error}");
        assert_eq!(stage.tags("shop/faulty").await, Vec::<String>::new(), "{call:?}");
    }
    // Dropped after so many polls, wherever that is.
    for polls in 0..60 {
        let request = ArtifactRequest::new(stage.site("x").await, "site", target("shop/dropped:1")).into();
        let mut resolving = Box::pin(stage.sources.resolve(&request, spec()));
        let mut left = polls;
        let done = std::future::poll_fn(|cx| {
            if left == 0 {
                return Poll::Ready(false);
            }
            left -= 1;
            resolving.as_mut().poll(cx).map(|done| {
                done.unwrap();
                true
            })
        })
        .await;
        drop(resolving);
        for tag in stage.tags("shop/dropped").await {
            // Where the tag is, the whole image is.
            let name = target(&format!("shop/dropped:{tag}"));
            assert_eq!(oci::image::read(&stage.registry, &name, &|_| true).await.unwrap().images.len(), 2);
        }
        if done {
            break;
        }
    }
    // A thread that still writes a layer of a dropped call ends by itself.
    for _ in 0..1000 {
        if stage.sources.scratch_used() == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(stage.sources.scratch_used(), 0);
}

#[tokio::test]
async fn a_tag_is_pinned_to_what_it_stands_for_now() {
    let stage = Stage::new().await;
    let image = target("base/httpd:1");
    let before = stage.registry.resolve(&image).await.unwrap().digest;
    let resolved = stage.resolve(ImageRequest::new(image.clone())).await.unwrap();
    assert_eq!((resolved.provenance.result, resolved.provenance.kind), (before, ProvenanceKind::Image));
    let mut wanted = spec();
    wanted.instance.platform.arch = Some(ews_core::Arch::Arm64);
    let resolved =
        stage.sources.resolve(&ImageRequest::new(image.clone()).into(), wanted.clone()).await.unwrap();
    assert_eq!(resolved.provenance.result, before);
    wanted.instance.platform.arch = Some(ews_core::Arch::S390x);
    let error = stage.sources.resolve(&ImageRequest::new(image).into(), wanted).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ImageIncompatible);
    assert!(error.message().contains("linux/amd64, linux/arm64"), "{error}");
}

#[tokio::test]
async fn without_a_registry_the_image_store_says_what_a_tag_stands_for() {
    use ews_core::image::Image;
    use ews_core::testkit::FakeImages;
    use ews_core::{Arch, Os, Platform};

    let directory = tempfile::tempdir().unwrap();
    let platform = Platform::new(Os::Linux, Arch::Amd64);
    let images = FakeImages::new("n1".parse().unwrap(), platform.clone());
    let mut known = Image::new(Digest::of(b"known"), platform.clone());
    known.manifests.push(Digest::of(b"manifest"));
    images.offer(&"shop/web:1".parse().unwrap(), known);
    images.offer(&"shop/local:1".parse().unwrap(), Image::new(Digest::of(b"local"), platform));
    let sources = Sources::new(SourcesConfig::new(directory.path()), Catalogue::empty()).unwrap();
    let sources = sources.with_images(Arc::new(images), "engine-1");
    let pin = async |name: &str, spec: ServiceSpec| {
        let resolved = sources.resolve(&ImageRequest::new(name.parse().unwrap()).into(), spec).await?;
        let Source::Image(image) = resolved.spec.instance.source else { panic!("no image") };
        Ok::<_, Error>(image.pin.unwrap())
    };
    assert_eq!(pin("shop/web:1", spec()).await.unwrap(), ImagePin::Manifest(Digest::of(b"manifest")));
    let local = ImagePin::Local { engine: "engine-1".to_owned(), image_id: Digest::of(b"local") };
    assert_eq!(pin("shop/local:1", spec()).await.unwrap(), local);
    assert_eq!(pin("shop/none:1", spec()).await.unwrap_err().kind(), ErrorKind::ImageMissing);
    let mut other = spec();
    other.instance.platform.arch = Some(Arch::Arm64);
    assert_eq!(pin("shop/web:1", other).await.unwrap_err().kind(), ErrorKind::ImageIncompatible);
}
