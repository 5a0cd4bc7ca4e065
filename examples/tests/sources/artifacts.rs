//! An artifact on a base, deployed, and the same on the patched base.

use ews_deploy::ImageThere;
use ews_deploy::source::{ArtifactRequest, RebaseRequest, preflight};

use crate::site::Site;

#[tokio::test(flavor = "multi_thread")]
async fn a_static_site_answers_and_moves_to_a_patched_base_with_the_same_layer() {
    let Some(site) = Site::new().await else { return };
    let name = site.name("shop/site:1");
    // More than one piece of a push, and nothing that packs.
    let mut state = 1_u64;
    let noise: String = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'!' + ((state >> 33) % 94) as u8)
    })
    .take(10 << 20)
    .collect();
    let upload = site.upload(&[("index.html", "hello"), ("docs/a.html", "a"), ("noise", &noise)]).await;
    let made = site.resolve(ArtifactRequest::new(upload, "site", name.clone())).await.unwrap();
    println!("made: {:?}", made.moved);
    assert_eq!((made.moved.copied, made.moved.mounted), (0, 2));
    let asked = async || {
        let owner = site.word.parse().unwrap();
        preflight(&made.spec, &site.runtime, Some(&*site.registry), &owner).await.unwrap()
    };
    let before = asked().await;
    assert!(
        before.can_run()
            && matches!(before.nodes[0].image, ImageThere::Pullable { bytes } if bytes > 8 << 20),
        "{before:?}"
    );
    site.deploy(&made).await;
    let after = asked().await;
    assert!(after.can_run() && after.nodes[0].image == ImageThere::Present, "{after:?}");
    assert_eq!(site.get("/index.html").await, "hello");
    assert_eq!(site.get("/docs/a.html").await, "a");
    assert_eq!(site.get("/base.txt").await, "one");

    // The same content again gives the same image, and nothing of it moves.
    let upload = site.upload(&[("noise", &noise), ("docs/a.html", "a"), ("index.html", "hello")]).await;
    let again = site.resolve(ArtifactRequest::new(upload, "site", name.clone())).await.unwrap();
    assert_eq!(again.provenance.result, made.provenance.result);
    assert_eq!(again.moved.mounted, 0);

    // The base is patched under its tag.
    site.base("base/httpd:1", "two").await;
    let patched = site.resolve(RebaseRequest::new(name, "site")).await.unwrap();
    println!("rebased: {:?}", patched.moved);
    assert_eq!(patched.provenance.layer, made.provenance.layer);
    assert_ne!(patched.provenance.result, made.provenance.result);
    assert!(patched.moved.uploaded < 8192 && patched.moved.copied == 0, "{:?}", patched.moved);
    site.deploy(&patched).await;
    assert_eq!(site.get("/index.html").await, "hello");
    assert_eq!(site.get("/base.txt").await, "two");
    site.end().await;
}
