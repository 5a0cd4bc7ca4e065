//! The suite over a port of a real engine. What can't be had from afar is done another way by the driver itself: usage comes from the engine's
//! statistics, a session is ended by the container's own shell, and secret files are refused.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ews_core::instance::InstanceKey;
use ews_core::runtime::CreateOptions;
use ews_core::secrets::{SecretValue, Secrets};
use ews_core::spec::content::{ConfigFile, FileContent};
use ews_core::testkit::conformance::runtime::{RuntimeHarness as _, Workload};
use ews_core::{ErrorKind, OwnerId, Result, RevisionId, Runtime, RuntimeExt as _, SecretRef, ServiceName};
use ews_docker::{DockerConfig, DockerRuntime};

use crate::engine::{self, docker};
use crate::harness::{Harness, Way};
use crate::relay::Relay;
use crate::rig::unique;
use crate::suite::{in_lanes, patient};

/// What a connection that is no socket of this machine could change.
const CASES: [&str; 20] = [
    "calls_to_a_hung_engine_end",
    "silence_is_unknown_never_exited",
    "twenty_creates_at_once_are_one",
    "lists_are_exact_for_many",
    "removing_what_runs_needs_force",
    "wait_before_during_and_after",
    "every_transition_is_told",
    "a_broken_event_stream_goes_on_with_a_gap",
    "logs_since_a_moment",
    "followed_logs_end_at_exit",
    "usage_grows_and_knows_a_burner",
    "exec_gives_exit_codes_and_both_outputs",
    "exec_input_ends",
    "terminate_ends_the_sessions_tree",
    "dropping_a_session_ends_it",
    "much_goes_through_exec_in_bounded_memory",
    "a_terminal_carries_every_byte",
    "a_terminal_tells_its_size",
    "archives_round_trip",
    "hostile_archives_are_refused",
];

/// What TLS could change beside: bytes both ways, ends and breaks.
#[cfg(feature = "tls")]
const SEALED: [&str; 8] = [
    "silence_is_unknown_never_exited",
    "a_broken_event_stream_goes_on_with_a_gap",
    "followed_logs_end_at_exit",
    "exec_input_ends",
    "terminate_ends_the_sessions_tree",
    "much_goes_through_exec_in_bounded_memory",
    "a_terminal_carries_every_byte",
    "archives_round_trip",
];

#[test]
fn the_contract_holds_over_tcp() {
    let Some(socket) = engine::socket() else { return };
    in_lanes(&CASES, |case| patient(Harness::new(socket.clone(), Way::Tcp), case)).assert_passed(&[]);
}

#[cfg(feature = "tls")]
#[test]
fn the_contract_holds_over_tls_with_certificates_on_both_sides() {
    use super::certificates::{ours, server};
    let Some(socket) = engine::socket() else { return };
    let way = || Way::Tls(server("server", true), ours(Some("client")));
    in_lanes(&SEALED, |_| Harness::new(socket.clone(), way())).assert_passed(&[]);
}

/// A secret that is always the same.
pub(super) struct Always;

#[async_trait]
impl Secrets for Always {
    async fn resolve(&self, _: &SecretRef) -> Result<SecretValue> {
        SecretValue::new("53cret")
    }
}

fn key() -> InstanceKey {
    InstanceKey {
        owner: OwnerId::new(unique()).unwrap(),
        service: ServiceName::new("far").unwrap(),
        revision: RevisionId::new("r1").unwrap(),
        slot: 0,
        generation: 0,
    }
}

async fn over(socket: PathBuf) -> (Relay, DockerRuntime, Harness) {
    let relay = Relay::tcp(socket.clone());
    let address = format!("tcp://127.0.0.1:{}", relay.port()).parse().unwrap();
    let config = DockerConfig::new(address).with_call_limit(Duration::from_secs(10));
    let runtime = DockerRuntime::builder(config).with_secrets(Arc::new(Always)).connect().await.unwrap();
    (relay, runtime, Harness::new(socket, Way::Socket))
}

#[tokio::test]
async fn secret_files_of_an_engine_elsewhere_are_refused_with_a_remedy() {
    let Some(socket) = engine::socket() else { return };
    let (_relay, runtime, harness) = over(socket).await;
    let mut spec = harness.workload(&Workload::Sleep).unwrap();
    spec.files = vec![ConfigFile::new("/etc/token", FileContent::Secret("token".parse().unwrap()))];
    let key = key();
    let error = runtime.create(&spec, &key, &CreateOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.message().contains("`secrets_directory`"), "{error}");
    assert!(!error.maybe_applied());
    let left = docker(&["ps", "-aq", "--filter", &format!("label=ews.owner={}", key.owner)]);
    assert_eq!(left, "", "a refused creation leaves nothing");
}

/// What the statistics of the engine say of a container that runs here can be held against the files that say it.
#[tokio::test]
async fn usage_from_afar_is_the_engines_own() {
    let Some(socket) = engine::socket() else { return };
    let (relay, far, harness) = over(socket.clone()).await;
    let spec = harness.workload(&Workload::Burn).unwrap();
    let key = key();
    let id = far.launch(&spec, &key, &CreateOptions::default()).await.unwrap().id;
    let near =
        DockerRuntime::connect(DockerConfig::new(ews_docker::EngineAddress::Unix(socket))).await.unwrap();
    // Warm files, so that only the questions are counted from here.
    near.usage(std::slice::from_ref(&id)).await.unwrap();
    let before = near.usage(std::slice::from_ref(&id)).await.unwrap().remove(0);
    let said = far.usage(std::slice::from_ref(&id)).await.unwrap().remove(0);
    let after = near.usage(std::slice::from_ref(&id)).await.unwrap().remove(0);
    assert!(
        before.cpu_nanos <= said.cpu_nanos && said.cpu_nanos <= after.cpu_nanos,
        "{before:?} {said:?} {after:?}"
    );
    assert_eq!((said.instance, said.incarnation), (before.instance, before.incarnation));
    // Only what the engine itself says reaches us: without the connection there is nothing.
    relay.sever();
    assert_eq!(far.usage(std::slice::from_ref(&id)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    near.usage(std::slice::from_ref(&id)).await.unwrap();
    near.remove(&id, &ews_core::runtime::RemoveOptions::force()).await.unwrap();
}
