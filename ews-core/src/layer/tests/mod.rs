//! The layers in front of a runtime whose every answer is scripted, on paused time.

mod trace;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::Instant;

use super::*;
use crate::backoff::BackoffConfig;
use crate::capability::{Capability, CapabilitySet, RuntimeCapabilities};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::event::EventStream;
use crate::image::{BuildSpec, EnsureOptions, Image, ImageQuery, ImageStore, ProgressStream, PruneOptions};
use crate::instance::{ExitStatus, Instance, InstanceKey};
use crate::node::Node;
use crate::runtime::*;
use crate::selector::Selector;
use crate::spec::InstanceSpec;
use crate::spec::content::{EnvValue, SecretRef};
use crate::spec::lifecycle::Signal;
use crate::spec::source::{ArtifactSource, Digest, ImageSource, Source};
use crate::{InstanceId, NodeId, OwnerId, RevisionId, Runtime, SecretValue, Secrets, ServiceName, Timestamp};

type Script = Box<dyn Fn(&'static str, u32) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// A runtime that asks its script, by method and number of the call, before it answers.
struct Stub {
    capabilities: RuntimeCapabilities,
    script: Script,
    calls: AtomicU32,
    created: Mutex<BTreeMap<String, Instance>>,
}

impl Stub {
    fn new(
        script: impl Fn(&'static str, u32) -> BoxFuture<'static, Result<()>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            capabilities: RuntimeCapabilities::new(CapabilitySet::all()),
            script: Box::new(script),
            calls: AtomicU32::new(0),
            created: Mutex::default(),
        })
    }

    /// It answers everything at once.
    fn willing(capabilities: CapabilitySet) -> Arc<Self> {
        let mut stub = Self::new(|_, _| async { Ok(()) }.boxed());
        Arc::get_mut(&mut stub).unwrap().capabilities = RuntimeCapabilities::new(capabilities);
        stub
    }

    /// It never answers.
    fn hanging() -> Arc<Self> {
        Self::new(|_, _| std::future::pending().boxed())
    }

    /// It fails with the error of this kind each time.
    fn failing(error: impl Fn() -> Error + Send + Sync + 'static) -> Arc<Self> {
        Self::new(move |_, _| std::future::ready(Err(error())).boxed())
    }

    fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }

    async fn step(&self, method: &'static str) -> Result<()> {
        (self.script)(method, self.calls.fetch_add(1, Ordering::SeqCst) + 1).await
    }
}

fn id() -> InstanceId {
    InstanceId::new("i1").unwrap()
}

fn key() -> InstanceKey {
    InstanceKey {
        owner: OwnerId::new("o").unwrap(),
        service: ServiceName::new("web").unwrap(),
        revision: RevisionId::new("r1").unwrap(),
        slot: 0,
        generation: 0,
    }
}

fn spec() -> InstanceSpec {
    InstanceSpec::new(Source::Artifact(ArtifactSource::new("/srv/app")))
}

fn instance(name: &str) -> Instance {
    Instance::new(
        InstanceId::new(name).unwrap(),
        key(),
        NodeId::new("n1").unwrap(),
        Digest::of(b"spec"),
        Timestamp::EPOCH,
    )
}

#[async_trait]
impl Runtime for Stub {
    fn capabilities(&self) -> Arc<RuntimeCapabilities> {
        Arc::new(self.capabilities.clone())
    }
    async fn nodes(&self) -> Result<Vec<Node>> {
        self.step("nodes").await.map(|()| Vec::new())
    }
    async fn create(&self, _: &InstanceSpec, key: &InstanceKey, _: &CreateOptions) -> Result<Instance> {
        // As in an engine: it is there before the answer is on its way.
        let (created, fresh) = {
            let mut all = self.created.lock().unwrap();
            let next = format!("i{}", all.len() + 1);
            let fresh = !all.contains_key(&key.name());
            (all.entry(key.name()).or_insert_with(|| instance(&next)).clone(), fresh)
        };
        self.step(if fresh { "create" } else { "adopt" }).await.map(|()| created)
    }
    async fn start(&self, _: &InstanceId) -> Result<Instance> {
        self.step("start").await.map(|()| instance("i1"))
    }
    async fn stop(&self, _: &InstanceId, _: &StopOptions) -> Result<ExitStatus> {
        self.step("stop").await.map(|()| ExitStatus::code(0, Timestamp::EPOCH))
    }
    async fn wait(&self, _: &InstanceId, _: &WaitOptions) -> Result<ExitStatus> {
        self.step("wait").await.map(|()| ExitStatus::code(0, Timestamp::EPOCH))
    }
    async fn remove(&self, _: &InstanceId, _: &RemoveOptions) -> Result<()> {
        self.step("remove").await
    }
    async fn get(&self, _: &InstanceId) -> Result<Instance> {
        self.step("get").await.map(|()| instance("i1"))
    }
    async fn list(&self, _: &Selector) -> Result<Vec<Instance>> {
        self.step("list").await.map(|()| Vec::new())
    }
    async fn events(&self, _: &Selector) -> Result<EventStream> {
        self.step("events").await.map(|()| futures_util::stream::pending().boxed())
    }
    async fn signal(&self, _: &InstanceId, _: Signal) -> Result<()> {
        self.step("signal").await
    }
    async fn logs(&self, _: &InstanceId, _: &LogOptions) -> Result<LogStream> {
        self.step("logs").await.map(|()| futures_util::stream::empty().boxed())
    }
    async fn exec(&self, _: &InstanceId, _: &ExecSpec) -> Result<ExecSession> {
        self.step("exec").await?;
        let output = futures_util::stream::empty().boxed();
        Ok(ExecSession { stdin: None, output, control: Box::new(StubExec) })
    }
    async fn put_archive(&self, _: &InstanceId, _: &str, mut archive: ByteStream) -> Result<()> {
        while archive.next().await.is_some() {}
        self.step("put_archive").await
    }
    fn images(&self) -> Option<Arc<dyn ImageStore>> {
        Some(Arc::new(StubImages))
    }
}

/// The command that never ends and never answers.
struct StubExec;

#[async_trait]
impl ExecControl for StubExec {
    async fn resize(&self, _: TtySize) -> Result<()> {
        std::future::pending().await
    }
    async fn terminate(&self) -> Result<()> {
        std::future::pending().await
    }
    async fn wait(&self) -> Result<ExitStatus> {
        std::future::pending().await
    }
}

/// Hangs, and can do nothing optional.
struct StubImages;

#[async_trait]
impl ImageStore for StubImages {
    fn capabilities(&self) -> CapabilitySet {
        CapabilitySet::none()
    }
    async fn ensure(&self, _: &ImageSource, _: &EnsureOptions) -> Result<ProgressStream> {
        std::future::pending().await
    }
    async fn inspect(&self, _: &ImageQuery) -> Result<Image> {
        std::future::pending().await
    }
    async fn list(&self, _: &Selector) -> Result<Vec<Image>> {
        std::future::pending().await
    }
    async fn prune(&self, _: &PruneOptions) -> Result<Vec<Digest>> {
        std::future::pending().await
    }
}

fn layered<A: Around>(stub: &Arc<Stub>, around: A) -> Layered<dyn Runtime, A> {
    Layered::new(Arc::clone(stub) as Arc<dyn Runtime>, around)
}

fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "the engine is away")
}

fn archive() -> ByteStream {
    futures_util::stream::iter([Ok(Bytes::from_static(b"tar"))]).boxed()
}

#[tokio::test(start_paused = true)]
async fn a_hang_becomes_a_timeout_after_exactly_the_time_of_its_class() {
    let runtime = layered(&Stub::hanging(), Deadline::default());
    let (id, started) = (id(), Instant::now());
    let error = runtime.get(&id).await.unwrap_err();
    assert_eq!((error.kind(), error.maybe_applied()), (ErrorKind::Timeout, false));
    assert_eq!(error.operation(), "runtime.get");
    assert_eq!(started.elapsed().as_secs(), 30);

    let started = Instant::now();
    let error = runtime.stop(&id, &StopOptions::grace(Duration::from_secs(300))).await.unwrap_err();
    assert!(error.maybe_applied() && error.retry() == Retry::AfterInspect);
    assert_eq!(started.elapsed().as_secs(), 330);

    // Without a grace it is the spec's, which may be long.
    let started = Instant::now();
    runtime.stop(&id, &StopOptions::default()).await.unwrap_err();
    assert_eq!(started.elapsed().as_secs(), 300);
}

#[tokio::test(start_paused = true)]
async fn a_wait_has_no_deadline_and_neither_has_an_open_stream() {
    let stub = Stub::new(|_, _| tokio::time::sleep(Duration::from_secs(7 * 24 * 3600)).map(Ok).boxed());
    let runtime = layered(&stub, Deadline::default());
    assert!(runtime.wait(&id(), &WaitOptions::default()).await.is_ok());
    let runtime = layered(&Stub::willing(CapabilitySet::all()), Deadline::default());
    let mut events = runtime.events(&Selector::everything()).await.unwrap();
    let day = Duration::from_secs(24 * 3600);
    assert!(tokio::time::timeout(day, events.next()).await.is_err(), "it stays open and silent");
}

#[tokio::test(start_paused = true)]
async fn what_hangs_off_a_runtime_is_bounded_too() {
    let runtime = layered(&Stub::willing(CapabilitySet::all()), Deadline::default());
    let session = runtime.exec(&id(), &ExecSpec::new(["true"])).await.unwrap();
    let error = session.control.terminate().await.unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Timeout, "runtime.exec.terminate"));
    let images = runtime.images().unwrap();
    let error = images.list(&Selector::everything()).await.unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Timeout, "image_store.list"));
}

#[test]
fn deadlines_that_bound_nothing_are_refused() {
    let config = DeadlineConfig::default();
    assert!(Deadline::new(config).is_ok());
    assert!(Deadline::new(config.with_short(Duration::ZERO)).is_err());
    assert!(Deadline::new(config.with_transfer(Duration::MAX)).is_err());
    assert!(Deadline::new(config.with_short(Duration::from_secs(600))).is_err());
    assert!(Deadline::new(config.with_long(Duration::from_secs(7200))).is_err());
}

#[tokio::test(start_paused = true)]
async fn only_what_is_safe_is_tried_again() {
    let retry = || RetryLayer::with_seed(RetryConfig::default(), 1).unwrap();
    let lost = || unavailable().with_maybe_applied();
    let (id, everything) = (id(), Selector::everything());

    let stub = Stub::failing(unavailable);
    let error = layered(&stub, retry()).list(&everything).await.unwrap_err();
    assert_eq!(stub.calls(), 4);
    assert!(error.to_string().contains("attempts=4"), "{error}");

    // Idempotent by contract: what may have happened may be asked for again.
    let stub = Stub::failing(lost);
    assert!(layered(&stub, retry()).start(&id).await.unwrap_err().maybe_applied());
    assert_eq!(stub.calls(), 4);

    for (error, calls) in [
        (Error::new(ErrorKind::Busy, "it runs"), 1),
        (Error::invalid("no"), 1),
        (Error::not_found("instance", "i1"), 1),
        (Error::invalid("passing").with_retry(Retry::Safe), 4),
    ] {
        let error = Arc::new(Mutex::new(Some(error)));
        let stub = Stub::failing(move || {
            let error = error.lock().unwrap();
            let error = error.as_ref().unwrap();
            Error::new(error.kind(), "again").with_retry(error.retry())
        });
        layered(&stub, retry()).remove(&id, &RemoveOptions::default()).await.unwrap_err();
        assert_eq!(stub.calls(), calls);
    }

    // Never: what happens each time, what is a stream, what has no bound.
    for method in ["signal", "put_archive", "wait", "exec"] {
        let stub = Stub::failing(unavailable);
        let runtime = layered(&stub, retry());
        let failed = match method {
            "signal" => runtime.signal(&id, Signal::USR1).await.is_err(),
            "put_archive" => runtime.put_archive(&id, "/", archive()).await.is_err(),
            "wait" => runtime.wait(&id, &WaitOptions::default()).await.is_err(),
            _ => runtime.exec(&id, &ExecSpec::new(["x"])).await.is_err(),
        };
        assert!(failed);
        assert_eq!(stub.calls(), 1, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_passing_fault_is_not_seen() {
    let stub =
        Stub::new(|_, call| std::future::ready(if call < 3 { Err(unavailable()) } else { Ok(()) }).boxed());
    layered(&stub, RetryLayer::default()).get(&id()).await.unwrap();
    assert_eq!(stub.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_time_for_all_attempts_is_bounded() {
    let backoff = BackoffConfig::new(Duration::from_secs(4), Duration::from_secs(4))
        .unwrap()
        .with_jitter(crate::backoff::Jitter::None);
    let config =
        RetryConfig::default().with_attempts(100).with_total(Duration::from_secs(10)).with_backoff(backoff);
    let (stub, started) = (Stub::failing(unavailable), Instant::now());
    layered(&stub, RetryLayer::new(config).unwrap()).get(&id()).await.unwrap_err();
    // At 0, 4 and 8 s; the next would begin at 12 s, so the answer comes at once.
    assert_eq!((stub.calls(), started.elapsed().as_secs()), (3, 8));
}

#[test]
fn retries_without_a_bound_are_refused() {
    let config = RetryConfig::default();
    assert!(RetryLayer::new(config.with_attempts(0)).is_err());
    assert!(RetryLayer::new(config.with_attempts(u32::MAX)).is_err());
    assert!(RetryLayer::new(config.with_total(Duration::ZERO)).is_err());
    let endless = BackoffConfig { max: Duration::MAX, ..BackoffConfig::default() };
    assert!(RetryLayer::new(config.with_backoff(endless)).is_err());
}

/// The hardest one: the engine creates, its answer is lost, the deadline passes, the retry finds what is there.
#[tokio::test(start_paused = true)]
async fn a_create_whose_answer_was_lost_is_one_create() {
    let stub = Stub::new(|_, call| {
        if call == 1 { std::future::pending().boxed() } else { std::future::ready(Ok(())).boxed() }
    });
    let deadline =
        DeadlineConfig::default().with_short(Duration::from_secs(5)).with_long(Duration::from_secs(20));
    let config = StackConfig::default().with_deadline(deadline);
    let runtime = stack_with(Arc::clone(&stub) as Arc<dyn Runtime>, config).unwrap();
    let created = runtime.create(&spec(), &key(), &CreateOptions::default()).await.unwrap();
    assert_eq!(created.id, id());
    assert_eq!(stub.calls(), 2);
    assert_eq!(stub.created.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_attempt_may_have_done_is_not_forgotten() {
    let stub = Stub::new(|_, call| {
        std::future::ready(Err(if call == 1 {
            unavailable().with_maybe_applied()
        } else {
            Error::new(ErrorKind::Unauthorized, "no longer")
        }))
        .boxed()
    });
    let error = layered(&stub, RetryLayer::default()).start(&id()).await.unwrap_err();
    assert_eq!((error.kind(), error.maybe_applied()), (ErrorKind::Unauthorized, true));
}

/// An embedder's layer that breaks the rule must not make a driver read half a stream.
#[tokio::test]
async fn a_stream_is_never_given_twice() {
    struct Twice;
    impl Around for Twice {
        async fn around<T, F, Fut>(&self, _: Call<'_>, operation: F) -> Result<T>
        where
            T: Send,
            F: Fn() -> Fut + Send + Sync,
            Fut: Future<Output = Result<T>> + Send,
        {
            drop(operation().await);
            operation().await
        }
    }
    let stub = Stub::willing(CapabilitySet::all());
    let error = layered(&stub, Twice).put_archive(&id(), "/", archive()).await.unwrap_err();
    assert_eq!((error.kind(), stub.calls()), (ErrorKind::Internal, 1));
}

#[tokio::test]
async fn what_is_not_declared_never_reaches_the_driver() {
    let only =
        CapabilitySet::none().with(Capability::ArtifactSource).with(Capability::Logs).with(Capability::Exec);
    let stub = Stub::willing(only);
    let runtime = layered(&stub, CapabilityCheck);
    let id = id();
    let mut limited = spec();
    limited.init = true;
    let since = LogOptions { since: Some(Timestamp::EPOCH), ..LogOptions::default() };
    let one_stream = LogOptions { stderr: false, ..LogOptions::default() };
    let terminal = ExecSpec::new(["sh"]).with_tty(TtySize { columns: 80, rows: 24 });
    let errors = [
        ("init", runtime.create(&limited, &key(), &CreateOptions::default()).await.unwrap_err()),
        (
            "node_choice",
            runtime
                .create(&spec(), &key(), &CreateOptions::on(NodeId::new("n1").unwrap()))
                .await
                .unwrap_err(),
        ),
        ("signals", runtime.signal(&id, Signal::HUP).await.unwrap_err()),
        ("logs_since", runtime.logs(&id, &since).await.err().unwrap()),
        ("logs_split", runtime.logs(&id, &one_stream).await.err().unwrap()),
        ("exec_tty", runtime.exec(&id, &terminal).await.unwrap_err()),
        ("usage", runtime.usage(&[]).await.unwrap_err()),
        ("put_archive", runtime.put_archive(&id, "/", archive()).await.unwrap_err()),
        ("get_archive", runtime.get_archive(&id, "/").await.err().unwrap()),
    ];
    for (capability, error) in errors {
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains(&format!("`{capability}`")), "{capability}: {error}");
        assert!(error.operation().starts_with("runtime."), "{error}");
    }
    assert_eq!(stub.calls(), 0);

    runtime.create(&spec(), &key(), &CreateOptions::default()).await.unwrap();
    drop(runtime.logs(&id, &LogOptions::default()).await.unwrap());
    let session = runtime.exec(&id, &ExecSpec::new(["true"])).await.unwrap();
    assert_eq!(stub.calls(), 3);
    let error = session.control.resize(TtySize { columns: 80, rows: 24 }).await.unwrap_err();
    assert!(error.message().contains("`exec_resize`"), "{error}");
    let spec = BuildSpec::new("shop/web".parse().unwrap());
    let error = runtime.images().unwrap().build(&spec, archive()).await.err().unwrap();
    assert!(error.message().contains("`image_build`"), "{error}");
}

fn limit(concurrent: usize, queue: usize) -> ConcurrencyLimit {
    let config = LimitConfig::default().with_concurrent(concurrent).with_queue(queue).with_waits(2);
    ConcurrencyLimit::new(config.with_patience(Duration::from_secs(10))).unwrap()
}

#[tokio::test(start_paused = true)]
async fn beyond_the_queue_a_call_is_refused_and_beyond_the_patience_too() {
    let stub = Stub::hanging();
    let runtime = layered(&stub, limit(2, 1));
    let id = id();
    let mut under_way: Vec<_> = (0..2).map(|_| runtime.start(&id)).collect();
    for call in &mut under_way {
        assert!(call.now_or_never().is_none());
    }
    let mut queued = runtime.start(&id);
    assert!((&mut queued).now_or_never().is_none());
    let refused = runtime.start(&id).now_or_never().expect("refused at once").unwrap_err();
    assert_eq!((refused.kind(), refused.maybe_applied()), (ErrorKind::Busy, false));
    assert_eq!(stub.calls(), 2);

    let started = Instant::now();
    let tired = queued.await.unwrap_err();
    assert_eq!(
        (tired.kind(), tired.maybe_applied(), started.elapsed().as_secs()),
        (ErrorKind::Busy, false, 10)
    );
    assert_eq!(stub.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn dropped_calls_give_back_their_turn_and_their_place() {
    let stub = Stub::hanging();
    let runtime = layered(&stub, limit(1, 1));
    let id = id();
    for round in 1..=20 {
        let mut first = runtime.start(&id);
        assert!((&mut first).now_or_never().is_none());
        assert_eq!(stub.calls(), round, "the turn of the round before was given back");
        let mut second = runtime.start(&id);
        assert!((&mut second).now_or_never().is_none(), "the place of the round before was given back");
        if round % 2 == 0 {
            drop(first);
            drop(second);
        } else {
            drop(second);
            drop(first);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn waits_neither_starve_nor_are_starved() {
    let stub = Stub::new(|method, _| match method {
        "get" => std::future::ready(Ok(())).boxed(),
        _ => std::future::pending().boxed(),
    });
    let runtime = layered(&stub, limit(1, 0));
    let (id, options) = (id(), WaitOptions::default());
    let mut waits = [runtime.wait(&id, &options), runtime.wait(&id, &options)];
    for wait in &mut waits {
        assert!(wait.now_or_never().is_none());
    }
    let third = runtime.wait(&id, &options).now_or_never().expect("refused at once").unwrap_err();
    assert_eq!(third.kind(), ErrorKind::Busy);
    runtime.get(&id).now_or_never().expect("not behind the waits").unwrap();
}

#[tokio::test(start_paused = true)]
async fn turns_come_in_order_and_an_end_makes_room() {
    let stub = Stub::new(|_, _| tokio::time::sleep(Duration::from_secs(1)).map(Ok).boxed());
    let runtime = Arc::new(layered(&stub, limit(3, 100)));
    let started = Instant::now();
    let ends = futures_util::future::join_all((0..9).map(|_| {
        let runtime = Arc::clone(&runtime);
        async move {
            runtime.start(&id()).await.unwrap();
            started.elapsed().as_secs()
        }
    }))
    .await;
    assert_eq!(ends, [1, 1, 1, 2, 2, 2, 3, 3, 3]);
}

#[test]
fn limits_that_let_nothing_or_everything_pass_are_refused() {
    let config = LimitConfig::default();
    assert!(ConcurrencyLimit::new(config.with_concurrent(0)).is_err());
    assert!(ConcurrencyLimit::new(config.with_waits(0)).is_err());
    assert!(ConcurrencyLimit::new(config.with_queue(usize::MAX)).is_err());
    assert!(ConcurrencyLimit::new(config.with_concurrent(usize::MAX)).is_err());
}

#[tokio::test(start_paused = true)]
async fn the_stack_holds_no_permit_while_it_backs_off_and_bounds_each_attempt() {
    let config = StackConfig::default()
        .with_limit(LimitConfig::default().with_concurrent(1).with_queue(0))
        .with_deadline(DeadlineConfig::default().with_short(Duration::from_secs(2)));
    // The first attempt of the first call hangs; everything after answers.
    let stub = Stub::new(|_, call| match call {
        1 => std::future::pending().boxed(),
        _ => std::future::ready(Ok(())).boxed(),
    });
    let runtime = Arc::new(stack_with(Arc::clone(&stub) as Arc<dyn Runtime>, config).unwrap());
    let first = tokio::spawn({
        let runtime = Arc::clone(&runtime);
        async move { runtime.get(&id()).await }
    });
    tokio::task::yield_now().await;
    // With no queue, this one is refused while the first holds the only permit …
    assert_eq!(runtime.get(&id()).await.unwrap_err().kind(), ErrorKind::Busy);
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::task::yield_now().await;
    // … and gets through once the first has timed out and backs off.
    runtime.get(&id()).await.unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(stub.calls(), 3);
}

#[test]
fn the_settings_of_the_stack_read_from_a_document_and_refuse_what_they_do_not_know() {
    let config: StackConfig =
        serde_json::from_str(r#"{"deadline":{"short":"5s"},"retry":{"attempts":2}}"#).unwrap();
    assert_eq!(config.deadline.short, Duration::from_secs(5));
    assert_eq!(config.deadline.long, DeadlineConfig::default().long);
    assert_eq!(config.retry.attempts, 2);
    assert!(serde_json::from_str::<StackConfig>(r#"{"deadline":{"shrot":"5s"}}"#).is_err());
}
