//! What was mended in place becomes part of an image or an artifact.

use std::collections::BTreeMap;
use std::io::Read as _;

use ews_core::ErrorKind;
use ews_core::spec::source::ArtifactSource;
use serde_json::{Value, json};

use super::super::artifact::tests::made;
use super::super::*;
use super::stage::{Stage, spec, target};
use crate::{Overlaid, OverlaidFile};

/// A revision that runs this, with two files over it: one in place of another, one new.
fn overlaid(spec: ServiceSpec) -> Overlaid {
    let file = |content: &'static str, mode, owner| OverlaidFile { content: content.into(), mode, owner };
    let files = BTreeMap::from([
        ("/index.html".to_owned(), file("mended", 0o640, (33, 7))),
        ("/bin/tool".to_owned(), file("#!/bin/sh", 0o755, (0, 0))),
    ]);
    Overlaid { revision: "r7-54a490e57a5a".parse().unwrap(), spec, files, reason: "broken".to_owned() }
}

/// The entries of a packed tar: name, mode, owner, content.
fn entries(bytes: &[u8]) -> Vec<(String, u32, (u64, u64), String)> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes));
    let entry = |entry: std::io::Result<tar::Entry<'_, _>>| {
        let mut entry: tar::Entry<'_, flate2::read::GzDecoder<&[u8]>> = entry.unwrap();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        let header = entry.header();
        let owner = (header.uid().unwrap(), header.gid().unwrap());
        (entry.path().unwrap().to_str().unwrap().to_owned(), header.mode().unwrap(), owner, content)
    };
    archive.entries().unwrap().map(entry).collect()
}

#[tokio::test]
async fn an_image_gets_one_more_layer_and_keeps_its_base() {
    let stage = Stage::new().await;
    let site = stage.site("hello").await;
    let before = stage.resolve(ArtifactRequest::new(site, "site", target("shop/site:1"))).await.unwrap();
    let old = stage.configs(&before).await;
    let wanted = OverlaidRequest::new(overlaid(before.spec.clone()));
    let after = stage.resolve(wanted.clone()).await.unwrap();
    let Source::Image(image) = &after.spec.instance.source else { panic!("no image") };
    assert_eq!(image.reference, target("shop/site:1-r7-54a490e57a5a"));
    assert_eq!(after.provenance.kind, ProvenanceKind::Hotfix);
    assert_eq!(after.provenance.before, Some(before.provenance.result));
    let new = stage.configs(&after).await;
    assert_eq!((old.len(), new.len()), (2, 2));
    for (old, new) in old.iter().zip(&new) {
        let mut run = new["config"].clone();
        assert_eq!(run["Labels"].as_object_mut().unwrap().remove("ews.app.hotfixes"), Some(json!("1")));
        assert_eq!(old["config"], run, "what the image says of itself stays");
        let ids = |config: &Value| config["rootfs"]["diff_ids"].as_array().unwrap().clone();
        let (old_ids, mut new_ids) = (ids(old), ids(new));
        assert_eq!(new_ids.pop(), Some(json!(after.provenance.layer.unwrap())));
        assert_eq!(old_ids, new_ids);
        let made_by = new["history"].as_array().unwrap().last().unwrap()["created_by"].clone();
        assert_eq!(made_by, "EWS: the hotfix r7-54a490e57a5a");
    }
    let name = image.reference.clone().with_digest(after.provenance.result);
    let found = oci::image::read(&stage.registry, &name, &|_| true).await.unwrap();
    let layer = oci::image::digest_of(found.images[0].layers().last().unwrap()).unwrap();
    let bytes = oci::image::blob(&stage.registry, &name, layer, 1 << 20).await.unwrap();
    assert_eq!(
        entries(&bytes),
        [
            ("bin/tool".to_owned(), 0o755, (0, 0), "#!/bin/sh".to_owned()),
            ("index.html".to_owned(), 0o640, (33, 7), "mended".to_owned()),
        ]
    );
    // The same is the same, and nothing moves for it.
    let again = stage.resolve(wanted.clone()).await.unwrap();
    assert_eq!(again.provenance.result, after.provenance.result);
    let named = stage.resolve(wanted.with_name(target("shop/other:2"))).await.unwrap();
    assert_eq!(named.provenance.result, after.provenance.result);
    assert_eq!(stage.tags("shop/other").await, ["2"]);

    // A patched base goes beneath both layers.
    stage.base("base/httpd:1", &[("linux", "amd64"), ("linux", "arm64")], &["one", "patched", "three"]).await;
    let moved = stage.resolve(RebaseRequest::new(image.reference.clone(), "site")).await.unwrap();
    for (new, moved) in new.iter().zip(stage.configs(&moved).await) {
        let ids = moved["rootfs"]["diff_ids"].as_array().unwrap();
        assert_eq!(ids[3..], new["rootfs"]["diff_ids"].as_array().unwrap()[2..]);
    }
}

#[tokio::test]
async fn an_artifact_is_packed_again_with_the_files_in_it() {
    let stage = Stage::new().await;
    let two = made::tar_of("index.html", b"hello");
    let before = stage.resolve(ProcessRequest::new(stage.upload(two).await)).await.unwrap();
    let after = stage.resolve(OverlaidRequest::new(overlaid(before.spec.clone()))).await.unwrap();
    let Source::Artifact(artifact) = &after.spec.instance.source else { panic!("no artifact") };
    let bytes = std::fs::read(&artifact.location).unwrap();
    assert_eq!(artifact.digest, Some(Digest::of(&bytes)));
    let files: Vec<_> =
        entries(&bytes).into_iter().map(|(name, mode, _, content)| (name, mode, content)).collect();
    assert_eq!(
        files,
        [
            ("bin/".to_owned(), 0o755, String::new()),
            ("bin/tool".to_owned(), 0o755, "#!/bin/sh".to_owned()),
            ("index.html".to_owned(), 0o644, "mended".to_owned()),
        ]
    );
    ews_core::Revision::new(1, Arc::new(after.spec.clone()), Timestamp::EPOCH).unwrap();
    // What was made is a source like any other.
    let twice = stage.resolve(OverlaidRequest::new(overlaid(after.spec.clone()))).await.unwrap();
    assert_eq!(twice.provenance.result, after.provenance.result);
}

#[tokio::test]
async fn what_can_not_be_made_anew_is_refused_with_a_way_out() {
    let stage = Stage::new().await;
    let refused = async |source: Source| {
        let mut spec = spec();
        spec.instance.source = source;
        stage.resolve(OverlaidRequest::new(overlaid(spec))).await.unwrap_err()
    };
    let mut local = ImageSource::new("shop/site:1".parse().unwrap());
    local.pin = Some(ImagePin::Local { engine: "one".to_owned(), image_id: Digest::of(b"x") });
    let error = refused(Source::Image(local)).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("a submission of the container"), "{error}");
    let error = refused(Source::Artifact(ArtifactSource::new("https://example/site.tar"))).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let script = stage.upload(b"#!/bin/sh\necho hi\n".to_vec()).await;
    let program = stage.resolve(ProcessRequest::new(script)).await.unwrap();
    let error = refused(program.spec.instance.source.clone()).await;
    assert!(error.message().contains("is one program"), "{error}");

    // Somebody changed what the revision was made from.
    let site = stage.resolve(ProcessRequest::new(stage.site("x").await)).await.unwrap();
    let Source::Artifact(artifact) = &site.spec.instance.source else { panic!("no artifact") };
    let other = stage.resolve(ProcessRequest::new(stage.site("y").await)).await.unwrap();
    let Source::Artifact(lie) = &other.spec.instance.source else { panic!("no artifact") };
    std::fs::copy(&lie.location, &artifact.location).unwrap();
    assert_eq!(refused(site.spec.instance.source.clone()).await.kind(), ErrorKind::Corrupt);

    // A directory of the artifact is no file.
    let mut directory = overlaid(other.spec.clone());
    directory.files.insert("/index.html/deeper".to_owned(), directory.files["/index.html"].clone());
    let error = stage.resolve(OverlaidRequest::new(directory)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}
