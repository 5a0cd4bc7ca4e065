//! What a real engine can't be made to show: pulls that stall, full disks, engines that hang, answers of other engines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ews_core::image::{
    BuildSpec, EnsureOptions, ImageQuery, ImageStore as _, Progress, ProgressStream, PruneOptions,
};
use ews_core::runtime::ByteStream;
use ews_core::spec::content::EnvValue;
use ews_core::spec::source::{ImageSource, PullPolicy};
use ews_core::{Digest, Error, ErrorKind, Result, Selector};
use ews_docker::{Credential, CredentialSource, Credentials, DockerImages};
use futures_util::{StreamExt as _, stream};

use super::conformance::Only;
use super::rig::standin::{Asked, Piece, Reply, Standin};
use super::rig::until;
use Piece::{Break, Hang, Say};

const IMAGE: &str = r#"{"Id":"sha256:0000000000000000000000000000000000000000000000000000000000000001","Os":"linux","Architecture":"amd64","RepoTags":["r.example/web:1"],"Config":{},"RootFS":{"Layers":["sha256:aa"]}}"#;

fn missing() -> Reply {
    Reply::Whole(404, r#"{"message":"No such image: r.example/web:1"}"#.to_owned())
}

fn source() -> ImageSource {
    ImageSource::new("r.example/web:1".parse().unwrap())
}

/// An engine whose image comes with a pull that is answered so.
fn pulling(pieces: impl Fn() -> Vec<Piece> + Send + Sync + 'static) -> Standin {
    let pulled = AtomicUsize::new(0);
    Standin::start(move |asked| match asked.line.as_str() {
        line if line.starts_with("POST /images/create") => {
            pulled.fetch_add(1, Ordering::SeqCst);
            Reply::Flow(pieces())
        }
        line if line.starts_with("GET /images/") && pulled.load(Ordering::SeqCst) == 0 => missing(),
        line if line.starts_with("GET /images/") => Reply::Whole(200, IMAGE.to_owned()),
        line => panic!("nobody should ask for {line}"),
    })
}

async fn last(stream: Result<ProgressStream>) -> Result<Progress> {
    let all: Vec<Result<Progress>> = stream?.collect().await;
    all.into_iter().last().expect("a stream has an end")
}

async fn ensured(engine: &Standin) -> Result<Progress> {
    let config = engine.config();
    let images = DockerImages::connect(config).await?;
    last(images.ensure(&source(), &EnsureOptions::default()).await).await
}

#[tokio::test]
async fn a_pull_that_goes_wrong_says_how() {
    let full = "{\"status\":\"Extracting\",\"id\":\"a\"}\n{\"errorDetail\":{\"message\":\"failed to register layer: write /x: no space left on device\"},\"error\":\"failed\"}\n";
    let expired = "{\"errorDetail\":{\"message\":\"unauthorized: authentication required\"}}\n";
    let slow = "{\"errorDetail\":{\"message\":\"toomanyrequests: You have reached your pull rate limit\"}}\n";
    for (pieces, kind) in [
        (vec![full], ErrorKind::OutOfResources),
        (vec![expired], ErrorKind::ImageDenied),
        (vec![slow], ErrorKind::Unavailable),
        (vec!["{\"status\":\"Downloa", "ding\"}\n<html>\n"], ErrorKind::Decode),
    ] {
        let engine = pulling(move || pieces.iter().map(|piece| Say(piece)).collect());
        let error = ensured(&engine).await.unwrap_err();
        assert_eq!((error.kind(), error.operation()), (kind, "images.ensure"), "{error}");
        assert!(error.to_string().contains("r.example/web:1"), "{error}");
    }
    let engine = pulling(|| vec![Say("{\"status\":\"Waiting\",\"id\":\"a\"}\n"), Break]);
    let error = ensured(&engine).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.maybe_applied(), "{error:?}");
}

#[tokio::test]
async fn a_pull_that_stalls_is_given_up_and_the_next_begins_anew() {
    let pulls = AtomicUsize::new(0);
    let engine = Standin::start(move |asked| match asked.line.as_str() {
        line if line.starts_with("POST /images/create") && pulls.fetch_add(1, Ordering::SeqCst) == 0 => {
            Reply::Flow(vec![
                Say(
                    "{\"status\":\"Downloading\",\"id\":\"a\",\"progressDetail\":{\"current\":5,\"total\":10}}\n",
                ),
                Hang,
            ])
        }
        line if line.starts_with("POST /images/create") => {
            Reply::Flow(vec![Say("{\"status\":\"Pull complete\",\"id\":\"a\"}\n")])
        }
        _ if pulls.load(Ordering::SeqCst) < 2 => missing(),
        _ => Reply::Whole(200, IMAGE.to_owned()),
    });
    let images =
        DockerImages::connect(engine.config().with_idle_limit(Duration::from_millis(1500))).await.unwrap();
    let all: Vec<_> = images.ensure(&source(), &EnsureOptions::default()).await.unwrap().collect().await;
    assert!(all.iter().any(|p| matches!(p, Ok(Progress::Transfer { done: 5, total: Some(10) }))), "{all:?}");
    assert_eq!(all.last().unwrap().as_ref().unwrap_err().kind(), ErrorKind::Timeout);
    let end = last(images.ensure(&source(), &EnsureOptions::default()).await).await.unwrap();
    assert!(matches!(end, Progress::Done { image: Some(_), .. }), "{end:?}");
}

#[tokio::test]
async fn an_engine_that_hangs_ends_every_call() {
    let engine = Standin::podman(|_| Reply::Never);
    // Long for the first call, which is answered.
    let short = Duration::from_secs(2);
    let config = engine.config().with_call_limit(short).with_work_limit(short).with_idle_limit(short);
    let images = DockerImages::connect(config).await.unwrap();
    let name: ews_core::ImageRef = "r.example/web:1".parse().unwrap();
    let query = ImageQuery::Name(name.clone());
    let nothing = || -> ByteStream { stream::iter([Ok(Bytes::from_static(b"x"))]).boxed() };
    let options = EnsureOptions::default();
    let spec = BuildSpec::new(name.clone());
    // Side by side: each waits for as long.
    let results: [(&str, Result<()>); 9] = tokio::join!(
        async { ("ensure", last(images.ensure(&source(), &options).await).await.map(drop)) },
        async { ("inspect", images.inspect(&query).await.map(drop)) },
        async { ("list", images.list(&Selector::everything()).await.map(drop)) },
        async { ("prune", images.prune(&PruneOptions::default()).await.map(drop)) },
        async { ("build", last(images.build(&spec, nothing()).await).await.map(drop)) },
        async { ("tag", images.tag(&query, &name).await) },
        async { ("push", last(images.push(&name).await).await.map(drop)) },
        async { ("save", images.save(std::slice::from_ref(&query)).await.map(drop)) },
        async { ("load", images.load(nothing()).await.map(drop)) },
    )
    .into();
    for (call, result) in results {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Timeout, "{call}");
    }
}

#[tokio::test]
async fn whoever_joins_a_pull_sees_its_progress_and_its_end() {
    let release = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = release.clone();
    let pulls = Arc::new(AtomicUsize::new(0));
    let counted = pulls.clone();
    let engine = Standin::start(move |asked| match asked.line.as_str() {
        line if line.starts_with("POST /images/create") => {
            counted.fetch_add(1, Ordering::SeqCst);
            Reply::Flow(vec![
                Say(
                    "{\"status\":\"Downloading\",\"id\":\"a\",\"progressDetail\":{\"current\":7,\"total\":10}}\n",
                ),
                Piece::Gate(gate.clone()),
                Say("{\"errorDetail\":{\"message\":\"write /x: no space left on device\"}}\n"),
            ])
        }
        _ => missing(),
    });
    let images = DockerImages::connect(engine.config()).await.unwrap();
    let options = EnsureOptions::default();
    let mut first = images.ensure(&source(), &options).await.unwrap();
    let seven =
        |progress: Option<Result<Progress>>| matches!(progress, Some(Ok(Progress::Transfer { done: 7, .. })));
    while !seven(first.next().await) {}
    // It comes late, and sees where the pull is.
    let mut late = images.ensure(&source(), &options).await.unwrap();
    assert!(seven(late.next().await));
    // Whoever leaves stops nothing.
    drop(first);
    release.add_permits(1);
    let error = late.collect::<Vec<_>>().await.pop().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfResources);
    assert_eq!(pulls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn credentials_go_into_one_header_and_nowhere_else() {
    let headers = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = headers.clone();
    let engine = Standin::podman(move |asked: &Asked| {
        let header =
            |name: &str| asked.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let word = asked.line.split(['?', ' ']).nth(1).unwrap_or_default().to_owned();
        seen.lock().unwrap().push((word, header("x-registry-auth").or_else(|| header("x-registry-config"))));
        match asked.line.as_str() {
            line if line.contains("/push?")
                || line.starts_with("POST /images/create")
                || line.starts_with("POST /build") =>
            {
                Reply::Flow(vec![Say("{\"errorDetail\":{\"message\":\"denied: not you\"}}\n")])
            }
            _ => Reply::Whole(200, IMAGE.to_owned()),
        }
    });
    let images = DockerImages::connect_with(
        engine.config(),
        Credentials::anonymous().or(Only("r.example".to_owned())),
    )
    .await
    .unwrap();
    let mut always = source();
    always.pull = PullPolicy::Always;
    let pulled = last(images.ensure(&always, &EnsureOptions::default()).await).await.unwrap_err();
    let pushed = last(images.push(&always.reference).await).await.unwrap_err();
    let spec = BuildSpec::new(always.reference.clone());
    let built = last(images.build(&spec, stream::empty().boxed()).await).await.unwrap_err();
    for error in [pulled, pushed, built] {
        assert_eq!(error.kind(), ErrorKind::ImageDenied, "{error}");
        assert!(!format!("{error:?} {error}").contains("horse"), "{error:?}");
    }
    let other = ImageSource::new("other.example/web:1".parse().unwrap());
    let mut other_always = other.clone();
    other_always.pull = PullPolicy::Always;
    last(images.ensure(&other_always, &EnsureOptions::default()).await).await.unwrap_err();
    last(images.push(&other.reference).await).await.unwrap_err();

    let headers = headers.lock().unwrap();
    let of =
        |path: &str| headers.iter().filter(|(p, _)| p == path).map(|(_, h)| h.clone()).collect::<Vec<_>>();
    // {"password":"correct horse","serveraddress":"r.example","username":"deployer"}
    let known = "eyJwYXNzd29yZCI6ImNvcnJlY3QgaG9yc2UiLCJzZXJ2ZXJhZGRyZXNzIjoici5leGFtcGxlIiwidXNlcm5hbWUiOiJkZXBsb3llciJ9";
    assert_eq!(of("/images/create"), [Some(known.to_owned()), None]);
    // A push always has the header: `{}` for nobody.
    assert_eq!(of("/images/r.example%2Fweb/push"), [Some(known.to_owned())]);
    assert_eq!(of("/images/other.example%2Fweb/push"), [Some("e30=".to_owned())]);
    assert!(of("/build")[0].is_some());
}

#[tokio::test]
async fn a_credentials_source_that_fails_ends_the_pull() {
    struct Fails;
    #[async_trait::async_trait]
    impl CredentialSource for Fails {
        async fn find(&self, _: &str) -> Result<Option<Credential>> {
            Err(Error::new(ErrorKind::Unauthorized, "the vault is sealed"))
        }
    }
    let engine = pulling(|| panic!("nothing is pulled without credentials"));
    let images =
        DockerImages::connect_with(engine.config(), Credentials::anonymous().or(Fails)).await.unwrap();
    let error = last(images.ensure(&source(), &EnsureOptions::default()).await).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Unauthorized && error.to_string().contains("registry=r.example"),
        "{error}"
    );
}

#[tokio::test]
async fn secrets_never_become_arguments() {
    let engine = Standin::podman(|asked| panic!("nobody should ask for {}", asked.line));
    let images = DockerImages::connect(engine.config()).await.unwrap();
    let mut spec = BuildSpec::new("r.example/web:1".parse().unwrap());
    spec.secrets = BTreeMap::from([("token".to_owned(), EnvValue::Plain("hunter2".to_owned()))]);
    let refused = images.build(&spec, stream::empty().boxed()).await.map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_context_that_fails_is_told_as_itself() {
    let engine = Standin::podman(|_| Reply::Whole(500, r#"{"message":"unexpected EOF"}"#.to_owned()));
    let images = DockerImages::connect(engine.config()).await.unwrap();
    let failing = || -> ByteStream {
        stream::iter([
            Ok(Bytes::from_static(b"some")),
            Err(Error::new(ErrorKind::OutOfResources, "the context has more than 5 entries")),
        ])
        .boxed()
    };
    let spec = BuildSpec::new("r.example/web:1".parse().unwrap());
    let built = last(images.build(&spec, failing()).await).await.unwrap_err();
    assert!(built.message().contains("more than 5 entries"), "{built}");
    let loaded = images.load(failing()).await.unwrap_err();
    assert!(loaded.message().contains("more than 5 entries"), "{loaded}");
    // A context that stops midway and never ends.
    let config = engine.config().with_idle_limit(Duration::from_millis(200));
    let images = DockerImages::connect(config).await.unwrap();
    let stuck = stream::iter([Ok(Bytes::from_static(b"some"))]).chain(stream::pending()).boxed();
    assert_eq!(images.load(stuck).await.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn a_slow_context_is_no_silence() {
    let engine = Standin::podman(|_| {
        Reply::Whole(200, "{\"aux\":{\"ID\":\"sha256:0000000000000000000000000000000000000000000000000000000000000001\"}}\n".to_owned())
    });
    let images =
        DockerImages::connect(engine.config().with_idle_limit(Duration::from_millis(1500))).await.unwrap();
    let slow = stream::iter(0..25).then(|_| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(Bytes::from_static(b"piece"))
    });
    let spec = BuildSpec::new("r.example/web:1".parse().unwrap());
    let end = last(images.build(&spec, slow.boxed()).await).await.unwrap();
    assert!(matches!(end, Progress::Done { image: Some(_), .. }), "{end:?}");
}

#[tokio::test]
async fn a_dropped_build_goes_on() {
    let engine = Standin::podman(|asked| match asked.line.as_str() {
        line if line.starts_with("POST /build") => Reply::Flow(vec![Say("{\"stream\":\"Step 1/1\\n\"}\n")]),
        _ => Reply::Whole(200, IMAGE.to_owned()),
    });
    let images = DockerImages::connect(engine.config()).await.unwrap();
    let spec = BuildSpec::new("r.example/web:1".parse().unwrap());
    drop(images.build(&spec, stream::empty().boxed()).await.unwrap());
    // It looks for the id at its end, since this engine says none.
    until("the build ends", async || engine.asked("GET /images/") == 1).await;
}

#[tokio::test]
async fn an_image_for_a_platform_without_a_word_is_left_out() {
    let wasm = IMAGE.replace("linux", "wasi").replace("amd64", "wasm");
    let engine = Standin::start(move |asked| match asked.line.as_str() {
        line if line.starts_with("GET /images/json") => Reply::Whole(
            200,
            format!(r#"[{{"Id":"{}","RepoTags":null,"Labels":null}},{{"Id":"{}"}}]"#, id(1), id(2)),
        ),
        line if line.contains(&id(2).to_string()) => missing(),
        _ => Reply::Whole(200, wasm.clone()),
    });
    let images = DockerImages::connect(engine.config()).await.unwrap();
    assert_eq!(images.list(&Selector::everything()).await.unwrap(), []);
    let error = images.inspect(&ImageQuery::Id(id(1))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ImageIncompatible);
}

fn id(number: u8) -> Digest {
    let mut bytes = [0; 32];
    bytes[31] = number;
    Digest::from_sha256(bytes)
}

#[tokio::test]
async fn an_image_that_came_into_use_meanwhile_keeps_its_names() {
    let engine = Standin::start(|asked| {
        let line = asked.line.as_str();
        let image = IMAGE.replace(r#"["r.example/web:1"]"#, r#"["r.example/web:1","r.example/web:2"]"#);
        let busy = r#"{"message":"conflict: unable to remove repository reference \"r.example/web:2\" - image is being used by stopped container 0a"}"#;
        match line {
            _ if line.starts_with("GET /images/json") => {
                Reply::Whole(200, format!(r#"[{{"Id":"{}","Labels":{{"ews.owner":"me"}}}}]"#, id(1)))
            }
            _ if line.starts_with("GET /containers") => Reply::Whole(200, "[]".to_owned()),
            _ if line.starts_with("DELETE") && line.contains("web:1") => {
                Reply::Whole(200, r#"[{"Untagged":"r.example/web:1"}]"#.to_owned())
            }
            _ if line.starts_with("DELETE") => Reply::Whole(409, busy.to_owned()),
            _ if line.starts_with("POST") => Reply::Whole(201, String::new()),
            _ => Reply::Whole(200, image),
        }
    });
    let images = DockerImages::connect(engine.config()).await.unwrap();
    assert_eq!(images.prune(&PruneOptions::default()).await.unwrap(), []);
    assert_eq!(engine.asked("/tag?repo=r.example%2Fweb&tag=1"), 1);
    assert_eq!(engine.asked("force=1"), 0);
}
