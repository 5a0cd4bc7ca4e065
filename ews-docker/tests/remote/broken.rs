//! Connections that break, stall or carry garbage: typed errors in bounded time and memory, and no panic.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ews_core::event::{Gap, Notice};
use ews_core::instance::{InstanceKey, InstanceState};
use ews_core::runtime::{ExecSession, ExecSpec, LogOptions, RemoveOptions, StopOptions};
use ews_core::testkit::conformance::runtime::{RuntimeHarness as _, Workload};
use ews_core::{
    Error, ErrorKind, InstanceId, OwnerId, Result, Retry, RevisionId, Runtime, RuntimeExt as _, Selector,
    ServiceName,
};
use ews_docker::{DockerConfig, DockerRuntime, EngineAddress};
use futures_util::{StreamExt as _, TryStreamExt as _};

use crate::engine;
use crate::harness::{Harness, Way};
use crate::relay::Relay;
use crate::rig::garbler::{Garbler, Say};
use crate::rig::standin::{Reply, Standin};
use crate::rig::{unique, until};

fn key(owner: &OwnerId, slot: u32) -> InstanceKey {
    InstanceKey {
        owner: owner.clone(),
        service: ServiceName::new("far").unwrap(),
        revision: RevisionId::new("r1").unwrap(),
        slot,
        generation: 0,
    }
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_middle() {
    let Some(socket) = engine::socket() else { return };
    let relay = Relay::tcp(socket.clone());
    let address = format!("tcp://127.0.0.1:{}", relay.port()).parse().unwrap();
    let runtime = DockerRuntime::connect(DockerConfig::new(address)).await.unwrap();
    let harness = Harness::new(socket, Way::Socket);
    let owner = OwnerId::new(unique()).unwrap();
    let spec = harness.workload(&Workload::Sleep).unwrap();
    let id = runtime.launch(&spec, &key(&owner, 0), &Default::default()).await.unwrap().id;
    let selector = Selector::equal("ews/owner", owner.as_str()).unwrap();
    let events = runtime.events(&selector).await.unwrap();

    // In the head of an answer, and in its body.
    for bytes in [10, 300, 1000] {
        relay.cut_after(bytes);
        for error in [runtime.list(&selector).await.unwrap_err(), runtime.get(&id).await.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "after {bytes} bytes: {error}");
            assert!(!error.maybe_applied(), "a question changes nothing: {error}");
        }
    }
    relay.cut();
    // A session in the middle of a frame.
    let command = harness.command(&Workload::Zeros { bytes: 5_000_000 }).unwrap();
    relay.cut_after(1_000_000);
    // A connection that was kept and has been cut is found so by whoever uses it first, who may try again.
    let session = Mutex::new(None);
    until("a session begins", async || match runtime.exec(&id, &ExecSpec::new(command.clone())).await {
        Ok(begun) => session.lock().unwrap().replace(begun).is_none(),
        Err(error) => {
            assert!(error.kind() == ErrorKind::Unavailable && error.retry() == Retry::Safe, "{error}");
            false
        }
    })
    .await;
    let ExecSession { mut output, control, .. } = session.into_inner().unwrap().unwrap();
    let (mut count, mut broken) = (0, None);
    while let Some(piece) = output.next().await {
        match piece {
            Ok(piece) => count += piece.bytes.len(),
            Err(error) => broken = Some(error),
        }
    }
    let broken = broken.expect("a session that is cut off does not end as if it had said all");
    assert_eq!(broken.kind(), ErrorKind::Unavailable, "{broken}");
    assert!(count > 0 && count < 1_000_000, "{count}");
    relay.cut();
    // As above.
    until("the session is ended", async || match control.terminate().await {
        Ok(()) => true,
        Err(error) => {
            assert!(error.kind() == ErrorKind::Unavailable && error.retry() == Retry::Safe, "{error}");
            false
        }
    })
    .await;

    // Whoever listened was told each time that something may be missing.
    let gaps =
        events.take_while(|notice| std::future::ready(!matches!(notice, Notice::Gap(Gap::Reconnected))));
    tokio::time::timeout(Duration::from_secs(30), gaps.for_each(async |_| {})).await.expect("a gap");
    runtime.remove(&id, &RemoveOptions::force()).await.unwrap();
}

/// An engine that does what it is told, and whose answer never comes: nobody may take that for "it did not happen".
#[tokio::test]
async fn an_answer_that_is_lost() {
    let Some(socket) = engine::socket() else { return };
    let harness = Harness::new(socket.clone(), Way::Socket);
    let real = DockerConfig::new(EngineAddress::Unix(socket));
    let lost = Arc::new(Mutex::new("/create"));
    let engine = {
        let lost = Arc::clone(&lost);
        Standin::over(&real, move |asked| {
            let path = asked.line.split('?').next().unwrap();
            let this = path.ends_with(*lost.lock().unwrap())
                || (asked.line.starts_with("DELETE") && *lost.lock().unwrap() == "remove");
            if this && !asked.line.starts_with("GET") { Reply::Lost } else { Reply::Real }
        })
    };
    let runtime = DockerRuntime::connect(engine.config()).await.unwrap();
    let owner = OwnerId::new(unique()).unwrap();
    let (spec, key) = (harness.workload(&Workload::Sleep).unwrap(), key(&owner, 0));
    let id = key.to_id().unwrap();
    let applied = |what: &str, error: Error| {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {error}");
        assert!(error.maybe_applied() && error.retry() == Retry::AfterInspect, "{what}: {error}");
    };
    applied("create", runtime.create(&spec, &key, &Default::default()).await.unwrap_err());
    assert_eq!(runtime.get(&id).await.unwrap().state, InstanceState::Created);
    assert_eq!(runtime.create(&spec, &key, &Default::default()).await.unwrap().id, id);
    *lost.lock().unwrap() = "/start";
    applied("start", runtime.start(&id).await.unwrap_err());
    let started = runtime.get(&id).await.unwrap();
    assert_eq!(started.state, InstanceState::Running);
    assert_eq!(runtime.start(&id).await.unwrap().incarnation, started.incarnation, "it runs already");
    *lost.lock().unwrap() = "/stop";
    let patient = StopOptions::grace(Duration::from_secs(5));
    applied("stop", runtime.stop(&id, &patient).await.unwrap_err());
    assert!(runtime.stop(&id, &patient).await.unwrap().code.is_some());
    *lost.lock().unwrap() = "remove";
    applied("remove", runtime.remove(&id, &RemoveOptions::default()).await.unwrap_err());
    runtime.remove(&id, &RemoveOptions::default()).await.unwrap();
    assert_eq!(runtime.get(&id).await.unwrap_err().kind(), ErrorKind::NotFound);
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").as_bytes(), body].concat()
}

async fn asked(garbler: &Garbler) -> Result<()> {
    let config =
        garbler.config().with_call_limit(Duration::from_secs(20)).with_work_limit(Duration::from_secs(20));
    let runtime = DockerRuntime::connect(config).await?;
    runtime.list(&Selector::everything()).await.map(drop)
}

#[tokio::test]
async fn garbage_is_an_error_and_nothing_else() {
    let deep = "[".repeat(100_000);
    let cases: Vec<(&str, Say, ErrorKind)> = vec![
        ("no HTTP at all", Say::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), ErrorKind::Decode),
        ("bytes", Say::Bytes(vec![0xff; 5000]), ErrorKind::Decode),
        ("no answer", Say::Bytes(Vec::new()), ErrorKind::Unavailable),
        ("half a head", Say::Bytes(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()), ErrorKind::Unavailable),
        ("half a body", Say::Bytes(answer("content-length: 100", b"[{}")), ErrorKind::Unavailable),
        (
            "a chunk that is none",
            Say::Bytes(answer("transfer-encoding: chunked", b"zz\r\n")),
            ErrorKind::Unavailable,
        ),
        (
            "two lengths",
            Say::Bytes(answer("content-length: 2\r\ncontent-length: 3", b"[]x")),
            ErrorKind::Decode,
        ),
        ("no JSON", Say::json(200, "<html>"), ErrorKind::Decode),
        ("another JSON", Say::json(200, r#"{"Id":[1]}"#), ErrorKind::Decode),
        ("JSON without end", Say::json(200, &deep), ErrorKind::Decode),
        ("numbers out of range", Say::json(200, r#"[{"Id":1e999}]"#), ErrorKind::Decode),
        ("a refusal that is no JSON", Say::json(500, "<html>oops"), ErrorKind::Internal),
        ("a refusal without words", Say::json(503, ""), ErrorKind::Unavailable),
        (
            "a status that is none",
            Say::Bytes(b"HTTP/1.1 999 ?\r\ncontent-length: 0\r\n\r\n".to_vec()),
            ErrorKind::Internal,
        ),
        (
            "elsewhere",
            Say::Bytes(
                b"HTTP/1.1 302 X\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".to_vec(),
            ),
            ErrorKind::Internal,
        ),
    ];
    for (what, say, kind) in cases {
        let garbler = Garbler::start(move |_| say.clone()).await;
        let error = asked(&garbler).await.expect_err(what);
        assert_eq!(error.kind(), kind, "{what}: {error} {:?}", error.detail());
        assert!(!error.maybe_applied(), "{what}: {error}");
    }
    // Before the engine is known, too.
    for say in [Say::json(200, "[]"), Say::json(200, "{}"), Say::json(404, "page not found")] {
        let garbler = Garbler::mute(move |_| say.clone()).await;
        let error = asked(&garbler).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Decode | ErrorKind::NotFound), "{error}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_not_kept() {
    let megabyte = vec![b' '; 1 << 20];
    let chunked = |piece: &[u8]| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
    let cases = [
        // In order: what, the front, what is repeated, the error, and how much may have been taken at most.
        (
            "a body",
            answer("transfer-encoding: chunked", b""),
            chunked(&megabyte),
            ErrorKind::Decode,
            96 << 20,
        ),
        (
            "a length",
            answer("content-length: 99999999999", b""),
            megabyte.clone(),
            ErrorKind::Decode,
            96 << 20,
        ),
        ("a head", b"HTTP/1.1 200 OK\r\n".to_vec(), b"x: y\r\n".repeat(1000), ErrorKind::Decode, 24 << 20),
        (
            "a refusal",
            b"HTTP/1.1 500 X\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(),
            chunked(&megabyte),
            ErrorKind::Internal,
            24 << 20,
        ),
    ];
    for (what, first, again, kind, most) in cases {
        let garbler = Garbler::start(move |_| Say::Endless(first.clone(), again.clone())).await;
        let error = asked(&garbler).await.expect_err(what);
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert!(garbler.said() < most, "{what}: {} bytes were taken", garbler.said());
    }
}

const INSPECTED: &str = r#"{"Id":"0a","Name":"/NAME","Created":"2026-01-01T00:00:00Z",
    "State":{"Status":"running","Running":true,"Pid":4194304,"StartedAt":"2026-01-01T00:00:01Z"},
    "Config":{"Labels":{"ews.owner":"o","ews.service":"far","ews.revision":"r1","ews.slot":"0","ews.generation":"0",
    "ews.labels":"","ews.ports":"","ews.stop-grace-ms":"1000",
    "ews.spec-hash":"sha256:0000000000000000000000000000000000000000000000000000000000000001"}}}"#;

fn named() -> (InstanceId, Say) {
    let id = key(&OwnerId::new("o").unwrap(), 0).to_id().unwrap();
    let text = INSPECTED.replace("NAME", id.as_str());
    (id, Say::json(200, &text))
}

async fn drained(stream: impl futures_util::Stream<Item = Result<Bytes>>) -> Error {
    stream.try_for_each(async |_| Ok(())).await.expect_err("a stream that breaks does not end well")
}

#[tokio::test]
async fn streams_that_stall_or_lie() {
    let (id, seen) = named();
    let frame = |length: u32| [&[1, 0, 0, 0][..], &length.to_be_bytes(), b"2026-01-01T00:00:00Z x"].concat();
    let upgraded = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    let (lying, torn) = ([&upgraded[..], b"no frames here"].concat(), [&upgraded[..], &frame(99)].concat());
    let garbler = Garbler::start(move |line| match line.rsplit('/').next().unwrap() {
        "archive" => Say::Stall(answer("transfer-encoding: chunked", b"3\r\nabc\r\n")),
        "logs" => {
            Say::Bytes(answer("transfer-encoding: chunked", &[b"1e\r\n", &frame(0xffff_ffff)[..]].concat()))
        }
        "exec" => Say::json(201, r#"{"Id":"e"}"#),
        "start" if line.contains("lie") => Say::Bytes(lying.clone()),
        "start" => Say::Bytes(torn.clone()),
        "json" if line.contains("/exec/") => Say::json(200, r#"{"Running":false,"ExitCode":0}"#),
        "json" => seen.clone(),
        other => panic!("nobody asks for {other}"),
    })
    .await;
    let config =
        garbler.config().with_call_limit(Duration::from_secs(20)).with_idle_limit(Duration::from_secs(3));
    let runtime = DockerRuntime::connect(config).await.unwrap();
    let archive = runtime.get_archive(&id, "/x").await.unwrap();
    let error = drained(archive).await;
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    let logs = runtime.logs(&id, &LogOptions::default()).await.unwrap();
    let error = drained(logs.map_ok(|line| line.bytes)).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let session = runtime.exec(&id, &ExecSpec::new(["x"])).await.unwrap();
    let error = drained(session.output.map_ok(|piece| piece.bytes)).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn events_that_can_not_be_read_are_a_gap() {
    let (id, seen) = named();
    let event = format!(
        r#"{{"Action":"start","timeNano":1893456000000000000,"Actor":{{"ID":"0a","Attributes":{{"name":"{id}","ews.owner":"o","ews.service":"far","ews.revision":"r1","ews.slot":"0","ews.generation":"0","ews.labels":""}}}}}}"#
    );
    let lines = format!("{{\"Action\":7}}\n{{\"Action\":\"prune\",\"Actor\":null}}\n\n{event}\n{event}");
    let garbler = Garbler::start(move |line| match line.rsplit('/').next().unwrap() {
        // The last line is cut off, and nothing comes for it.
        "events" => Say::Bytes(answer("connection: close", lines.as_bytes())),
        _ => seen.clone(),
    })
    .await;
    let runtime = DockerRuntime::connect(garbler.config()).await.unwrap();
    let mut events = runtime.events(&Selector::everything()).await.unwrap();
    let (mut lost, mut told, mut again) = (0, 0, false);
    while !again {
        let notice = tokio::time::timeout(Duration::from_secs(30), events.next()).await.unwrap().unwrap();
        match notice {
            Notice::Gap(Gap::Reconnected) => again = true,
            Notice::Gap(_) => lost += 1,
            Notice::Event(ews_core::event::RuntimeEvent::Instance { .. }) => told += 1,
            Notice::Event(_) => {}
        }
    }
    // One line of another form, one that is empty.
    assert_eq!((lost, told), (2, 1));
}
