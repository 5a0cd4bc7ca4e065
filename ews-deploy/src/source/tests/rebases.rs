//! A patched base under an artifact's layer.

use ews_core::ErrorKind;
use ews_core::registry::{BlobInfo, Manifest};
use serde_json::{Value, json};

use super::super::*;
use super::stage::{Stage, target};

async fn made(stage: &Stage) -> Resolved {
    let site = stage.site("hello").await;
    stage.resolve(ArtifactRequest::new(site, "site", target("shop/site:1"))).await.unwrap()
}

const BOTH: [(&str, &str); 2] = [("linux", "amd64"), ("linux", "arm64")];

#[tokio::test]
async fn a_patched_base_takes_the_place_of_the_old_one() {
    let stage = Stage::new().await;
    let before = made(&stage).await;
    let old = stage.configs(&before).await;
    // Three layers where there were two, and other values of its own.
    stage.base("base/httpd:1", &BOTH, &["one", "patched", "three"]).await;
    let after = stage.resolve(RebaseRequest::new(target("shop/site:1"), "site")).await.unwrap();
    let new = stage.configs(&after).await;
    for (old, new) in old.iter().zip(&new) {
        assert_eq!(new["rootfs"]["diff_ids"].as_array().unwrap().len(), 4);
        assert_eq!(new["rootfs"]["diff_ids"][3], old["rootfs"]["diff_ids"][2]);
        let run = &new["config"];
        // Ours stays, the base's is the new base's.
        assert_eq!(run["Entrypoint"], old["config"]["Entrypoint"]);
        assert_eq!(run["User"], "33");
        assert_eq!(run["Env"], json!(["PATH=/bin", "BASE=three", "MODE=production"]));
        assert_eq!(run["Labels"]["version"], "three");
        assert_eq!(run["Labels"]["ews.app.layer.first"], "3");
        assert_eq!(run["Labels"]["ews.catalog.id"], "site");
        assert_eq!(run["ExposedPorts"], json!({"80/tcp": {}, "8080/tcp": {}}));
        let history: Vec<_> =
            new["history"].as_array().unwrap().iter().map(|h| h["created_by"].clone()).collect();
        assert_eq!(
            history,
            [
                json!("one"),
                json!("patched"),
                json!("three"),
                Value::Null,
                json!("EWS: an artifact on site:1")
            ]
        );
    }
    assert_eq!(after.provenance.layer, before.provenance.layer);
    assert_eq!(after.provenance.before, Some(before.provenance.result));
    // Documents only: two configs, two manifests, an index.
    assert!(after.moved.uploaded < 8192, "{:?}", after.moved);
    assert_eq!(after.moved.copied, 0);

    // Once more: there is nothing to do, and the digest stays.
    let again = stage.resolve(RebaseRequest::new(target("shop/site:1"), "site")).await.unwrap();
    assert_eq!(again.provenance.result, after.provenance.result);
    assert_eq!(again.moved, Moved::default());
    assert!(again.warnings.iter().any(|warning| warning.about == WarningAbout::Nothing));
    // And the other way, by digest, under a name of its own.
    stage.base("base/httpd:1", &BOTH, &["one", "two"]).await;
    let image = target("shop/site:1").with_digest(after.provenance.result);
    let back =
        stage.resolve(RebaseRequest::new(image, "site").with_name(target("shop/site:back"))).await.unwrap();
    assert_eq!(back.provenance.result, before.provenance.result);
    assert_eq!(stage.tags("shop/site").await, ["1", "back"]);
}

/// The same image with one thing of its documents changed.
async fn changed(stage: &Stage, resolved: &Resolved, change: impl Fn(&mut Value, &mut Value)) -> ImageRef {
    let name = target("shop/changed:1");
    let at = target("shop/site").with_digest(resolved.provenance.result);
    let image = oci::image::read(&stage.registry, &at, &|_| true).await.unwrap().images.remove(0);
    let mut config = Value::Object(image.config.clone());
    let mut layers = Value::Array(image.layers().to_vec());
    change(&mut config, &mut layers);
    let config = config.to_string();
    for layer in layers.as_array().unwrap() {
        let digest = oci::image::digest_of(layer).unwrap();
        stage.registry.mount_blob(&name, &digest, &target("shop/site")).await.unwrap();
    }
    let info = BlobInfo::new(Digest::of(config.as_bytes()), config.len() as u64);
    let bytes = Box::pin(futures_util::stream::iter([Ok(config.clone().into())]));
    stage.registry.push_blob(&name, &info, bytes).await.unwrap();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": kind, "layers": layers,
        "config": {"mediaType": "x", "digest": info.digest, "size": info.size},
    });
    let manifest = Manifest::new(kind, manifest.to_string());
    stage.registry.push_manifest(&name, &manifest).await.unwrap();
    name
}

#[tokio::test]
async fn every_condition_that_does_not_hold_is_named() {
    let stage = Stage::new().await;
    let made = made(&stage).await;
    stage.base("base/httpd:1", &BOTH, &["one", "patched"]).await;
    type Change = fn(&mut Value, &mut Value);
    fn set(config: &mut Value, name: &str, value: Option<&str>) {
        let labels = config["config"]["Labels"].as_object_mut().unwrap();
        match value {
            Some(value) => labels.insert(name.to_owned(), json!(value)),
            None => labels.remove(name),
        };
    }
    let cases: [(Change, &str); 9] = [
        (
            |config, _| set(config, "org.opencontainers.image.base.name", Some("evil.example/base:1")),
            "neither in its own registry nor on the list of bases",
        ),
        (|config, _| set(config, "ews.app.layer.first", None), "only images that EWS made"),
        (
            |config, _| set(config, "ews.app.layer.first", Some("1")),
            "1 layers are its base's, and the old base has 2",
        ),
        (|config, _| set(config, "ews.catalog.compatibility", Some("other")), "relies on `other`"),
        (|config, _| set(config, "ews.catalog.compatibility", None), "relies on `nothing that it says`"),
        (|config, _| set(config, "org.opencontainers.image.base.digest", None), "does not say which base"),
        (|config, _| config["rootfs"]["diff_ids"][1] = config["rootfs"]["diff_ids"][2].clone(), "only 1 are"),
        (
            |config, layers| {
                let last = config["rootfs"]["diff_ids"][2].clone();
                config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(last);
                let last = layers[2].clone();
                layers.as_array_mut().unwrap().push(last);
            },
            "2 layers of its own",
        ),
        (|config, _| config["architecture"] = json!("s390x"), "has none for linux/s390x"),
    ];
    for (change, fault) in cases {
        let image = changed(&stage, &made, change).await;
        let error = stage.resolve(RebaseRequest::new(image, "site")).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::ImageIncompatible), "{error}");
        assert!(error.message().contains(fault), "{fault}: {error}");
    }
    // Another line, of another compatibility key.
    stage.base("base/httpd:2", &BOTH, &["one", "two"]).await;
    let error = stage.resolve(RebaseRequest::new(target("shop/site:1"), "site:2")).await.unwrap_err();
    assert!(error.message().contains("relies on `busybox/1`, and the new base is `busybox/2`"), "{error}");
    // An old base that is gone.
    for base in &made.provenance.bases {
        stage.registry.delete(&target("base/httpd").with_digest(base.digest)).await.unwrap();
    }
    let error = stage.resolve(RebaseRequest::new(target("shop/site:1"), "site")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ImageMissing);
    assert!(error.to_string().contains("the old base must still be there"), "{error}");
    let untagged = target("shop/site").with_digest(made.provenance.result);
    let error = stage.resolve(RebaseRequest::new(untagged, "site")).await.unwrap_err();
    assert!(error.message().contains("has no tag"), "{error}");
}
