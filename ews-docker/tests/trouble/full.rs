//! An engine whose disk is full.

use bytes::Bytes;
use ews_core::ErrorKind;
use ews_core::runtime::{CreateOptions, ExecSpec, RemoveOptions};
use ews_core::testkit::conformance::runtime::Workload;
use ews_core::testkit::tar::{Entry, write};
use ews_core::{OwnerId, Runtime as _, RuntimeExt as _};
use ews_docker::DockerRuntime;
use futures_util::{StreamExt as _, stream};

use super::{config, key_of, spec};
use crate::engine;
use crate::private::PrivateEngine;
use crate::rig::unique;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_to_be_full() {
    if engine::socket().is_none() {
        return;
    }
    let image = engine::busybox();
    let Some(own) = PrivateEngine::start_on(48) else { return };
    own.load(&image);
    let runtime = DockerRuntime::connect(config(&own.socket())).await.unwrap();
    let owner = OwnerId::new(unique()).unwrap();
    let spec = spec(&image, &Workload::Sleep);
    let id = runtime.launch(&spec, &key_of(&owner, 0), &CreateOptions::default()).await.unwrap().id;
    // Its own program fills the disk to the last block.
    let fill = ["sh", "-c", "cat /dev/zero >/fill; sync"];
    let session = runtime.exec(&id, &ExecSpec::new(fill)).await.unwrap();
    session.control.wait().await.unwrap();
    let full = |what: &str, error: ews_core::Error| {
        assert_eq!(error.kind(), ErrorKind::OutOfResources, "{what}: {error} {:?}", error.detail());
        let words = error.detail().unwrap_or_default();
        assert!(
            words.contains("no space left on device"),
            "{what}: the engine's own words travel along: {words}"
        );
        assert!(!error.maybe_applied(), "{what}: {error}");
    };
    let archive = write(&[Entry::file("large", vec![7; 1 << 20])]);
    let pieces = [Ok(Bytes::from(archive))];
    full("an archive", runtime.put_archive(&id, "/tmp", stream::iter(pieces).boxed()).await.unwrap_err());
    let second = key_of(&owner, 1);
    full("a creation", runtime.create(&spec, &second, &CreateOptions::default()).await.unwrap_err());
    assert_eq!(
        runtime.get(&second.to_id().unwrap()).await.unwrap_err().kind(),
        ErrorKind::NotFound,
        "nothing is left of it"
    );
    // What takes no room goes on, and with room again everything does.
    runtime.list(&ews_core::Selector::everything()).await.unwrap();
    runtime.remove(&id, &RemoveOptions::force()).await.unwrap();
    let again = runtime.launch(&spec, &second, &CreateOptions::default()).await.unwrap();
    runtime.remove(&again.id, &RemoveOptions::force()).await.unwrap();
}
