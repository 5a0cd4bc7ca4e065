//! Archives whose sender stops, or whose engine has heard enough.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ews_core::runtime::{ByteStream, CreateOptions, WaitOptions};
use ews_core::{ErrorKind, Runtime as _, RuntimeExt as _};
use ews_docker::{DockerConfig, DockerRuntime, EngineAddress};
use futures_util::{StreamExt as _, stream};

use super::{IDLE, Site, shell};
use crate::rig::until;

/// An archive of one file of this length in small pieces; counts how many are out, and how many of these streams live.
fn large(length: usize, alive: &Arc<AtomicUsize>) -> ByteStream {
    let mut header = tar::Header::new_gnu();
    header.set_size(length as u64);
    header.set_mode(0o644);
    header.set_path("large").unwrap();
    header.set_cksum();
    let pieces = std::iter::once(Bytes::copy_from_slice(header.as_bytes()))
        .chain(std::iter::repeat_n(Bytes::from(vec![7; 64 * 1024]), length / (64 * 1024)))
        .chain([Bytes::from(vec![0; 1024])]);
    let alive = Arc::clone(alive);
    alive.fetch_add(1, Ordering::SeqCst);
    let guard = Guard(alive);
    stream::iter(pieces)
        .map(move |piece| {
            let _ = &guard;
            Ok(piece)
        })
        .boxed()
}

struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_sender_that_stalls_holds_the_call_to_its_deadline_and_no_longer() {
    let Some(site) = Site::new().await else { return };
    let id = site.runtime.launch(&shell(IDLE), &site.key(0), &CreateOptions::default()).await.unwrap().id;
    // The deadline is twelve times the longer of these two.
    let short = DockerConfig::new(EngineAddress::Unix(site.socket.clone()))
        .with_call_limit(Duration::from_secs(20))
        .with_work_limit(Duration::from_millis(150))
        .with_idle_limit(Duration::from_millis(150));
    let short = DockerRuntime::connect(short).await.unwrap();
    let alive = Arc::new(AtomicUsize::new(0));
    // After the head of an entry, within its content, and before anything.
    for pieces in [1, 5, 0] {
        let stalled = large(10 << 20, &alive).take(pieces).chain(stream::pending()).boxed();
        let put = tokio::time::timeout(Duration::from_secs(60), short.put_archive(&id, "/tmp", stalled));
        let error = put.await.expect("the call ends").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "after {pieces} pieces: {error}");
        assert!(error.maybe_applied(), "{error}");
        until("the sender's stream is let go", async || alive.load(Ordering::SeqCst) == 0).await;
    }
    // The engine's word ends it, whatever the sender does. (A server of Go's reads 256 KiB more before it answers.)
    let stalled = large(10 << 20, &alive).take(10).chain(stream::pending()).boxed();
    let put = tokio::time::timeout(
        Duration::from_secs(60),
        site.runtime.put_archive(&id, "/no/such/place", stalled),
    );
    let error = put.await.expect("the call ends").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    until("the sender's stream is let go", async || alive.load(Ordering::SeqCst) == 0).await;
    site.remove(0).await;
}

/// Whoever answers before everything was sent and hangs up has still answered: its words count, and not that the pipe broke.
#[tokio::test]
async fn an_engine_that_has_heard_enough_is_heard() {
    let Some(site) = Site::new().await else { return };
    let id = site.runtime.launch(&shell(IDLE), &site.key(0), &CreateOptions::default()).await.unwrap().id;
    let alive = Arc::new(AtomicUsize::new(0));
    for round in 0..20 {
        let error =
            site.runtime.put_archive(&id, "/no/such/place", large(32 << 20, &alive)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "in round {round}: {error}");
        assert!(error.detail().is_some_and(|words| words.contains("/no/such/place")), "{error}");
    }
    until("no sender's stream is kept", async || alive.load(Ordering::SeqCst) == 0).await;
    site.remove(0).await;
}

mod slammed {
    //! The same on connections that end as hard as they can: with much unread, which resets them.

    use ews_core::instance::InstanceKey;
    use ews_core::{OwnerId, RevisionId, ServiceName};
    use serde_json::json;

    use super::*;
    use crate::rig::garbler::{Garbler, Say};

    #[tokio::test]
    async fn an_answer_before_the_reset_is_heard() {
        let key = InstanceKey {
            owner: OwnerId::new("o").unwrap(),
            service: ServiceName::new("s").unwrap(),
            revision: RevisionId::new("r").unwrap(),
            slot: 0,
            generation: 0,
        };
        let id = key.to_id().unwrap();
        let labels = json!({"ews.owner": "o", "ews.service": "s", "ews.revision": "r", "ews.slot": "0", "ews.generation": "0",
            "ews.labels": "", "ews.ports": "", "ews.spec-hash": format!("sha256:{}", "0".repeat(64))});
        let seen = json!({"Id": "aa", "Name": format!("/{id}"), "Config": {"Labels": labels}}).to_string();
        let garbler = Garbler::start(move |line| {
            if line.starts_with("PUT") {
                let words = r#"{"message":"write /large: no space left on device"}"#;
                let head = format!("HTTP/1.1 500 X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", words.len());
                return Say::Slam(format!("{head}{words}").into_bytes());
            }
            Say::json(200, &seen)
        })
        .await;
        let runtime = DockerRuntime::connect(garbler.config()).await.unwrap();
        let alive = Arc::new(AtomicUsize::new(0));
        for round in 0..60 {
            let error = runtime.put_archive(&id, "/", large(16 << 20, &alive)).await.unwrap_err();
            assert_eq!(
                error.kind(),
                ErrorKind::OutOfResources,
                "in round {round}: {error} {:?}",
                error.detail()
            );
        }
    }
}

/// An engine takes a file away before it writes the next one: who looks at it all the time sees none, or a part of one.
#[tokio::test]
async fn a_file_is_replaced_in_one_step_for_who_looks_at_it_all_the_time() {
    let Some(site) = Site::new().await else { return };
    let watching = "mkdir -p /w /inner; ln -s /inner /w/out; ln -s /w/page /w/link; echo old >/inner/page; echo ready >/w/ready; \
                    until [ -s /w/page ]; do :; done; \
                    while [ ! -e /w/stop ]; do x=; read x 2>/dev/null </w/page; [ ${#x} = 300 ] || echo \"seen: ${#x}\"; done; \
                    cat /inner/page; ls -a /w /inner | grep ews";
    let id = site.runtime.launch(&shell(watching), &site.key(0), &CreateOptions::default()).await.unwrap().id;
    until("it watches", async || site.runtime.get_archive(&id, "/w/ready").await.is_ok()).await;
    let put = async |folder: &str, name: &str, content: &str| {
        let archive = crate::rig::tar(&[(name, content.as_bytes(), 0o640)]);
        site.runtime.put_archive(&id, folder, stream::once(async move { Ok(archive) }).boxed()).await
    };
    for round in 0..300 {
        put("/w", "page", &["a", "b"][round % 2].repeat(300)).await.unwrap();
    }
    // A link's own name is the engine's to judge: it becomes a file, and what it led to stays.
    put("/w", "link", "a file").await.unwrap();
    // A container's links lead within it, whatever there is at that place on this machine.
    put("/w/out", "page", "new within\n").await.unwrap();
    put("/w", "stop", "now").await.unwrap();
    let status = site.runtime.wait(&id, &WaitOptions::default()).await.unwrap();
    assert_eq!(status.code, Some(1), "grep has found a file that was left");
    assert_eq!(site.written(&id).await.trim(), "new within");
    assert!(!std::path::Path::new("/inner/page").exists());
    site.remove(0).await;
}
