//! Every method of every contract goes through the layer once, under its own name, and reaches the method of the same name
//! with the same arguments.
//!
//! The compiler holds that no method is skipped (`clippy::missing_trait_methods`); that none is crossed with another of the
//! same signature only a test can hold.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test, outside of its `#[test]` functions too")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ews_core::balancer::{Change, ObjectQuery, ObserveQuery};
use ews_core::image::{BuildSpec, CommitSpec, EnsureOptions, ImageQuery, PruneOptions};
use ews_core::layer::{Around, Call, CallKind, Layered};
use ews_core::metrics::{MetricQuery, TimeRange};
use ews_core::registry::{BlobInfo, Manifest};
use ews_core::runtime::*;
use ews_core::scale::ScaleChange;
use ews_core::spec::lifecycle::Signal;
use ews_core::spec::source::{ArtifactSource, ImageSource};
use ews_core::store::{Key, LeaseId, ListRequest, Prefix, StoreLimits, StoreRevision, Transaction};
use ews_core::testkit::mock::*;
use ews_core::*;
use futures_util::StreamExt as _;

/// Writes down what passes.
#[derive(Default)]
struct Recorder(Mutex<Vec<(&'static str, CallKind)>>);

impl Around for Recorder {
    async fn around<T, F, Fut>(&self, call: Call<'_>, operation: F) -> Result<T>
    where
        T: Send,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T>> + Send,
    {
        assert!(call.operation.starts_with(call.contract.as_str()), "{call:?}");
        call.check_capabilities()?;
        self.0.lock().unwrap().push((call.operation, call.kind));
        operation().await
    }
}

fn marker() -> Error {
    Error::new(ErrorKind::Cancelled, "the mock was reached")
}

/// One call through the layer to a mock that expects exactly it.
macro_rules! forwards {
    ($mock:ident as $contract:ident, $prefix:literal, $kind:ident, $method:ident($($arg:expr),*), $expect:ident($($p:pat),*) $(if $cond:expr)?) => {{
        let mut mock = $mock::new();
        ready!(mock $contract);
        mock.$expect()
            .times(1)
            .returning(move |$($p),*| { $(assert!($cond);)? Err(marker()) });
        let recorder = Arc::new(Recorder::default());
        let layered: Arc<dyn $contract> =
            Arc::new(Layered::sharing(Arc::new(mock) as Arc<dyn $contract>, Arc::clone(&recorder)));
        let error = layered.$method($($arg),*).await.err().expect("the mock fails");
        assert_eq!(error.message(), marker().message(), "{error}");
        let recorded = recorder.0.lock().unwrap();
        assert_eq!(*recorded, [(concat!($prefix, ".", stringify!($method)), CallKind::$kind)]);
    }};
}

macro_rules! ready {
    ($mock:ident Runtime) => {
        $mock.expect_capabilities().returning(|| Arc::new(RuntimeCapabilities::new(CapabilitySet::all())));
    };
    ($mock:ident Store) => {
        $mock.expect_limits().returning(StoreLimits::default);
    };
    ($mock:ident Secrets) => {};
    ($mock:ident $other:ident) => {
        $mock.expect_capabilities().returning(CapabilitySet::all);
    };
}

fn bytes() -> ByteStream {
    futures_util::stream::iter([Ok(Bytes::from_static(b"bytes"))]).boxed()
}

#[tokio::test]
async fn the_runtime() {
    let id = InstanceId::new("i1").unwrap();
    let key = InstanceKey {
        owner: OwnerId::new("o").unwrap(),
        service: ServiceName::new("web").unwrap(),
        revision: RevisionId::new("r1").unwrap(),
        slot: 0,
        generation: 0,
    };
    let spec = InstanceSpec::new(Source::Artifact(ArtifactSource::new("/srv")));
    let all = Selector::everything();
    forwards!(MockRuntime as Runtime, "runtime", Read, nodes(), expect_nodes());
    forwards!(
        MockRuntime as Runtime,
        "runtime",
        Idempotent,
        create(&spec, &key, &CreateOptions::default()),
        expect_create(_, _, _)
    );
    forwards!(MockRuntime as Runtime, "runtime", Idempotent, start(&id), expect_start(_));
    forwards!(
        MockRuntime as Runtime,
        "runtime",
        Idempotent,
        stop(&id, &StopOptions::default()),
        expect_stop(_, _)
    );
    forwards!(MockRuntime as Runtime, "runtime", Wait, wait(&id, &WaitOptions::default()), expect_wait(_, _));
    forwards!(MockRuntime as Runtime, "runtime", Idempotent, remove(&id, &RemoveOptions::force()), expect_remove(_, options) if options.force);
    forwards!(MockRuntime as Runtime, "runtime", Read, get(&id), expect_get(_));
    forwards!(MockRuntime as Runtime, "runtime", Read, list(&all), expect_list(_));
    forwards!(MockRuntime as Runtime, "runtime", Read, events(&all), expect_events(_));
    forwards!(MockRuntime as Runtime, "runtime", Once, signal(&id, Signal::HUP), expect_signal(_, signal) if signal == Signal::HUP);
    forwards!(MockRuntime as Runtime, "runtime", Read, logs(&id, &LogOptions::default()), expect_logs(_, _));
    forwards!(MockRuntime as Runtime, "runtime", Read, usage(std::slice::from_ref(&id)), expect_usage(ids) if ids.len() == 1);
    forwards!(MockRuntime as Runtime, "runtime", Once, exec(&id, &ExecSpec::new(["x"])), expect_exec(_, _));
    forwards!(MockRuntime as Runtime, "runtime", Once, put_archive(&id, "/a", bytes()), expect_put_archive(_, path, _) if path == "/a");
    forwards!(MockRuntime as Runtime, "runtime", Read, get_archive(&id, "/b"), expect_get_archive(_, path) if path == "/b");
}

#[tokio::test]
async fn what_a_session_is_steered_with() {
    let recorder = Arc::new(Recorder::default());
    let mut mock = MockRuntime::new();
    ready!(mock Runtime);
    mock.expect_exec().times(1).returning(|_, _| {
        let mut control = MockExecControl::new();
        control.expect_resize().times(1).returning(|_| Ok(()));
        control.expect_terminate().times(1).returning(|| Ok(()));
        control.expect_wait().times(1).returning(|| Err(marker()));
        Ok(ExecSession::new(None, futures_util::stream::empty().boxed(), Box::new(control)))
    });
    let runtime = Layered::sharing(Arc::new(mock) as Arc<dyn Runtime>, Arc::clone(&recorder));
    let session = runtime.exec(&InstanceId::new("i1").unwrap(), &ExecSpec::new(["x"])).await.unwrap();
    session.control.resize(TtySize { columns: 1, rows: 1 }).await.unwrap();
    session.control.terminate().await.unwrap();
    assert_eq!(session.control.wait().await.unwrap_err().message(), marker().message());
    let names: Vec<_> = recorder.0.lock().unwrap().iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["runtime.exec", "runtime.exec.resize", "runtime.exec.terminate", "runtime.exec.wait"]);
}

#[tokio::test]
async fn the_image_store() {
    let id = InstanceId::new("i1").unwrap();
    let name: ImageRef = "shop/web:1".parse().unwrap();
    let query = ImageQuery::Name(name.clone());
    let source = ImageSource::new(name.clone());
    let all = Selector::everything();
    let mut dry = PruneOptions::default();
    dry.dry_run = true;
    forwards!(
        MockImageStore as ImageStore,
        "image_store",
        Idempotent,
        ensure(&source, &EnsureOptions::default()),
        expect_ensure(_, _)
    );
    forwards!(MockImageStore as ImageStore, "image_store", Read, inspect(&query), expect_inspect(_));
    forwards!(MockImageStore as ImageStore, "image_store", Read, list(&all), expect_list(_));
    forwards!(
        MockImageStore as ImageStore,
        "image_store",
        Idempotent,
        prune(&PruneOptions::default()),
        expect_prune(_)
    );
    forwards!(MockImageStore as ImageStore, "image_store", Read, prune(&dry), expect_prune(options) if options.dry_run);
    forwards!(
        MockImageStore as ImageStore,
        "image_store",
        Once,
        build(&BuildSpec::new(name.clone()), bytes()),
        expect_build(_, _)
    );
    forwards!(
        MockImageStore as ImageStore,
        "image_store",
        Once,
        commit(&id, &CommitSpec::new(name.clone())),
        expect_commit(_, _)
    );
    forwards!(MockImageStore as ImageStore, "image_store", Idempotent, tag(&query, &name), expect_tag(_, _));
    forwards!(MockImageStore as ImageStore, "image_store", Idempotent, push(&name), expect_push(_));
    forwards!(
        MockImageStore as ImageStore,
        "image_store",
        Read,
        save(std::slice::from_ref(&query)),
        expect_save(_)
    );
    forwards!(MockImageStore as ImageStore, "image_store", Once, load(bytes()), expect_load(_));
}

#[tokio::test]
async fn the_registry() {
    let name: ImageRef = "shop/web:1".parse().unwrap();
    let from: ImageRef = "shop/base:1".parse().unwrap();
    let digest = Digest::of(b"blob");
    let blob = BlobInfo::new(digest, 4);
    let manifest = Manifest::new("m", Bytes::new());
    forwards!(MockRegistry as Registry, "registry", Read, resolve(&name), expect_resolve(_));
    forwards!(MockRegistry as Registry, "registry", Read, manifest(&name), expect_manifest(_));
    forwards!(MockRegistry as Registry, "registry", Read, tags(&name, Some("a".into()), 7), expect_tags(_, after, limit) if after.as_deref() == Some("a") && limit == 7);
    forwards!(MockRegistry as Registry, "registry", Read, open_blob(&name, &digest, 9), expect_open_blob(_, _, offset) if offset == 9);
    forwards!(MockRegistry as Registry, "registry", Read, blob_size(&name, &digest), expect_blob_size(_, _));
    forwards!(
        MockRegistry as Registry,
        "registry",
        Once,
        push_blob(&name, &blob, bytes()),
        expect_push_blob(_, _, _)
    );
    forwards!(MockRegistry as Registry, "registry", Idempotent, mount_blob(&name, &digest, &from), expect_mount_blob(name, _, from) if name.repository() == "shop/web" && from.repository() == "shop/base");
    forwards!(
        MockRegistry as Registry,
        "registry",
        Idempotent,
        push_manifest(&name, &manifest),
        expect_push_manifest(_, _)
    );
    forwards!(MockRegistry as Registry, "registry", Idempotent, delete(&name), expect_delete(_));
}

#[tokio::test]
async fn the_balancer() {
    let change = Change::new(ChangeId::new("c1").unwrap(), []);
    forwards!(MockBalancer as Balancer, "balancer", Idempotent, apply(&change), expect_apply(_));
    forwards!(
        MockBalancer as Balancer,
        "balancer",
        Read,
        objects(&ObjectQuery::kinds([])),
        expect_objects(_)
    );
    forwards!(
        MockBalancer as Balancer,
        "balancer",
        Read,
        observe(&ObserveQuery::default()),
        expect_observe(_)
    );
    forwards!(MockBalancer as Balancer, "balancer", Read, watch(), expect_watch());
}

#[tokio::test]
async fn the_metrics() {
    let query = MetricQuery::new("m", Selector::everything());
    let range = TimeRange::new(Timestamp::EPOCH, Timestamp::EPOCH, Duration::from_secs(1));
    forwards!(MockMetrics as Metrics, "metrics", Read, describe(None, 3), expect_describe(_, limit) if limit == 3);
    forwards!(MockMetrics as Metrics, "metrics", Read, instant(&query, None), expect_instant(_, _));
    forwards!(MockMetrics as Metrics, "metrics", Read, range(&query, &range), expect_range(_, _));
}

#[tokio::test]
async fn the_store() {
    let key = Key::new("a").unwrap();
    let list = ListRequest::new(Prefix::all());
    let transaction = Transaction::new().delete(&key);
    forwards!(MockStore as Store, "store", Read, get(&key), expect_get(_));
    forwards!(MockStore as Store, "store", Read, list(&list), expect_list(_));
    forwards!(MockStore as Store, "store", Once, commit(&transaction), expect_commit(_));
    forwards!(MockStore as Store, "store", Read, watch(&Prefix::all(), StoreRevision(5)), expect_watch(_, after) if after == StoreRevision(5));
    forwards!(MockStore as Store, "store", Once, grant(Duration::from_secs(9)), expect_grant(ttl) if ttl.as_secs() == 9);
    forwards!(MockStore as Store, "store", Idempotent, renew(LeaseId(1)), expect_renew(lease) if lease == LeaseId(1));
    forwards!(MockStore as Store, "store", Idempotent, revoke(LeaseId(2)), expect_revoke(lease) if lease == LeaseId(2));
}

#[tokio::test]
async fn secrets_and_scale_targets() {
    let reference: SecretRef = "env:A".parse().unwrap();
    forwards!(MockSecrets as Secrets, "secrets", Read, resolve(&reference), expect_resolve(_));
    let web = ServiceName::new("web").unwrap();
    let change = ScaleChange::to(3, "because");
    forwards!(MockScaleTarget as ScaleTarget, "scale_target", Read, current(&web), expect_current(_));
    forwards!(
        MockScaleTarget as ScaleTarget,
        "scale_target",
        Idempotent,
        set(&web, &change),
        expect_set(_, _)
    );
    let change = change.if_version(7);
    forwards!(MockScaleTarget as ScaleTarget, "scale_target", Once, set(&web, &change), expect_set(_, _));
}
