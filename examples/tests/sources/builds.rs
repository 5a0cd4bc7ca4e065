//! What an engine builds and commits, as sources.

use ews_deploy::source::{
    Approved, ArtifactRequest, CompiledRequest, DockerfileRequest, RebaseRequest, SubmissionRequest,
    SubmitRequest, WarningAbout,
};
use ews_docker::images;

use ews_core::runtime::ExecSpec;
use ews_core::{ErrorKind, Runtime as _};
use futures_util::StreamExt as _;

use crate::site::Site;

#[tokio::test(flavor = "multi_thread")]
async fn a_source_tree_is_compiled_on_the_engine_and_moves_to_a_patched_base_without_it() {
    let Some(site) = Site::new().await else { return };
    let name = site.name("shop/compiled:1");
    let tree = site.upload(&[("page.txt", "hello"), ("unused/x", "x")]).await;
    let made = site.resolve(CompiledRequest::new(tree, "site", name.clone())).await.unwrap();
    println!("compiled: {:?} by {:?}", made.moved, made.provenance.builder);
    site.deploy(&made).await;
    assert_eq!(site.get("/index.html").await, "HELLO");
    assert_eq!(site.get("/built-on.txt").await, "one");
    site.base("base/httpd:1", "two").await;
    let patched = site.resolve(RebaseRequest::new(name, "site")).await.unwrap();
    assert_eq!(patched.provenance.layer, made.provenance.layer);
    site.deploy(&patched).await;
    assert_eq!(
        (site.get("/index.html").await, site.get("/base.txt").await),
        ("HELLO".to_owned(), "two".to_owned())
    );
    // The engine keeps nothing of the build but its cache.
    assert_eq!(site.docker(&["image", "ls", "-q", "ews.invalid/build"]), "");
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_is_built_pushed_and_checked_against_its_base() {
    let Some(site) = Site::new().await else { return };
    let base = site.name("base/httpd:1");
    let folder = site.folder.path().join("context");
    std::fs::create_dir_all(&folder).unwrap();
    let dockerfile = format!(
        "ARG VERSION=1\nFROM {base}\nCOPY index.html /www/\nRUN echo built >> /www/index.html\n\
         CMD [\"/bin/httpd\", \"-f\", \"-p\", \"8080\", \"-h\", \"/www\"]\n"
    );
    std::fs::write(folder.join("Dockerfile"), dockerfile).unwrap();
    std::fs::write(folder.join("index.html"), "hello\n").unwrap();
    std::fs::write(folder.join(".dockerignore"), "secret*\n").unwrap();
    std::fs::write(folder.join("secret.txt"), "no").unwrap();
    let context =
        async || site.sources.receive(images::context(&folder, "Dockerfile").unwrap(), None).await.unwrap();
    let request = DockerfileRequest::new(context().await, site.name("shop/built:1"));
    let made = site.resolve(request).await.unwrap();
    assert_eq!(made.warnings, []);
    assert_eq!(made.provenance.bases[0].name, base);
    let mut made = made;
    made.spec.instance.ports.push(ews_core::spec::network::Port::new("http".parse().unwrap(), Some(8080)));
    site.deploy(&made).await;
    crate::site::until("it answers", async || site.answers("/index.html").await).await;
    assert_eq!(site.get("/index.html").await, "hello\nbuilt\n");

    // Images that EWS makes of artifacts only can be moved: of this one nobody knows what its layers hold.
    let error = site.resolve(RebaseRequest::new(site.name("shop/built:1"), "site")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let local = DockerfileRequest::new(context().await, site.name("shop/local:1")).local();
    let local = site.resolve(local).await.unwrap();
    assert_eq!(local.warnings[0].about, WarningAbout::Unchecked);
    std::fs::write(folder.join("Dockerfile"), "FROM evil.example/x:1\n").unwrap();
    let error =
        site.resolve(DockerfileRequest::new(context().await, site.name("shop/evil:1"))).await.unwrap_err();
    assert!(error.message().contains("evil.example/x:1"), "{error}");
    // A step that fails says its own words.
    std::fs::write(folder.join("Dockerfile"), format!("FROM {base}\nRUN echo alas; exit 7\n")).unwrap();
    let error =
        site.resolve(DockerfileRequest::new(context().await, site.name("shop/fails:1"))).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Invalid && error.detail().is_some_and(|words| words.contains('7')),
        "{error}"
    );
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_submitted_with_what_it_holds_approved_and_deployed() {
    let Some(site) = Site::new().await else { return };
    let upload = site.upload(&[("index.html", "hello")]).await;
    let made = site.resolve(ArtifactRequest::new(upload, "site", site.name("shop/site:1"))).await.unwrap();
    let mut spec = made.clone();
    // As root, so that it can change what it serves.
    spec.spec.instance.user = Some("0".to_owned());
    site.deploy(&spec).await;
    let instance = site.instance().await.id;
    let script = "echo changed > /www/index.html; mkdir -p /private; echo machine x > /private/.netrc; rm /www/base.txt";
    let session = site.runtime.exec(&instance, &ExecSpec::new(["/bin/sh", "-c", script])).await.unwrap();
    let said: Vec<_> = session.output.collect().await;
    assert!(said.is_empty(), "{said:?}");
    let request =
        SubmitRequest::new(instance, spec.spec.instance.clone(), site.name("shop/submitted:1"), "ann")
            .with_comment("fixed the page by hand");
    let submission = site.sources.submit(&request).await.unwrap();
    println!("{submission:#?}");
    let changes = submission.changes.as_ref().expect("changes");
    let changed =
        |path: &str| changes.files.iter().find(|change| change.path == path).map(|change| change.deleted);
    assert_eq!(changed("/www/index.html"), Some(false));
    assert_eq!(changed("/private/.netrc"), Some(false));
    assert_eq!(changed("/www/base.txt"), Some(true));
    assert!(
        submission
            .warnings
            .iter()
            .any(|warning| warning.about == WarningAbout::Secrets && warning.message.contains(".netrc"))
    );
    assert!(site.resolve(SubmissionRequest::new(submission.clone(), Approved::new("ann"))).await.is_err());
    let approved = site.resolve(SubmissionRequest::new(submission, Approved::new("bob"))).await.unwrap();
    let mut approved = approved;
    approved.spec.instance.ports.clone_from(&spec.spec.instance.ports);
    approved.spec.instance.probes = spec.spec.instance.probes.clone();
    site.deploy(&approved).await;
    assert_eq!(site.get("/index.html").await, "changed\n");
    site.end().await;
}
