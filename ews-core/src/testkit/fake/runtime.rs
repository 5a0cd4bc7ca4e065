//! A controller's handle to the fake engine: the driver.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::sleep;

use super::engine::{Call, FakeEngine};
use super::faults::{self, Fault, Operation};
use crate::capability::{Capability, RuntimeCapabilities};
use crate::detach::detach;
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventStream;
use crate::id::InstanceId;
use crate::instance::{ExitStatus, Instance, InstanceKey};
use crate::node::Node;
use crate::runtime::{
    ByteStream, CreateOptions, ExecSession, ExecSpec, LogOptions, LogStream, RemoveOptions, Runtime,
    StopOptions, Usage, WaitOptions,
};
use crate::selector::Selector;
use crate::spec::InstanceSpec;
use crate::spec::lifecycle::Signal;

/// A driver for a [`FakeEngine`], as one controller holds it.
///
/// Dropping it closes its streams; the engine goes on, and what was asked of it happens. Each call passes the engine's
/// [faults](FakeEngine::faults) and ends at the latest after the configured `call_limit` with `Timeout` and
/// `maybe_applied`, except `wait`, which has no limit, and `stop`, whose grace is added.
pub struct FakeRuntime {
    engine: FakeEngine,
    capabilities: Arc<RuntimeCapabilities>,
    /// Set when the handle is dropped or killed.
    closed: watch::Sender<bool>,
    /// Set when the controller is killed.
    killed: watch::Sender<bool>,
}

impl std::fmt::Debug for FakeRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeRuntime").finish_non_exhaustive()
    }
}

impl FakeRuntime {
    /// A new handle, as a controller gets when it starts.
    pub fn connect(engine: &FakeEngine) -> Self {
        Self {
            engine: engine.clone(),
            capabilities: Arc::new(engine.shared.config.capabilities.clone()),
            closed: watch::Sender::new(false),
            killed: watch::Sender::new(false),
        }
    }

    /// The engine behind it.
    pub fn engine(&self) -> &FakeEngine {
        &self.engine
    }

    /// The controller dies here: its tasks end where they stand and every call in flight ends with `Cancelled`. What had
    /// reached the engine happens all the same.
    pub fn kill(&self) {
        self.killed.send_replace(true);
        self.closed.send_replace(true);
    }

    /// One call: in a task of the driver, which sends it to the engine and waits for the answer.
    async fn call<T, F>(
        &self,
        operation: Operation,
        instance: Option<&InstanceId>,
        limit: Option<Duration>,
        work: F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        tracing::debug!(operation = operation.as_str(), instance = instance.map(InstanceId::as_str), "call");
        let engine = self.engine.clone();
        let instance = instance.cloned();
        let mut killed = self.killed.subscribe();
        let mutates = operation.mutates();
        let call = async move {
            let work = serve(engine, operation, instance, work);
            let answer = async move {
                if mutates {
                    // The engine does what it was asked, whatever becomes of the asker.
                    tokio::spawn(work)
                        .await
                        .unwrap_or_else(|_| lost(ErrorKind::Internal, "the fake engine panicked"))
                } else {
                    work.await
                }
            };
            let limit = async move {
                match limit {
                    Some(limit) => sleep(limit).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = killed.wait_for(|killed| *killed) => lost(ErrorKind::Cancelled, "the controller was killed"),
                answer = answer => answer,
                () = limit => lost(ErrorKind::Timeout, "the engine has not answered within the driver's limit"),
            }
        };
        let result = if mutates { detach(call).await } else { call.await };
        result.map_err(|error| error.with_operation(operation.as_str()))
    }

    fn limit(&self) -> Option<Duration> {
        Some(self.engine.shared.config.call_limit)
    }

    fn require(&self, capability: Capability) -> Result<()> {
        self.capabilities.features.require(capability)
    }
}

fn lost<T>(kind: ErrorKind, why: &'static str) -> Result<T> {
    Err(Error::new(kind, why).with_maybe_applied())
}

/// Counts a call while it is in the engine.
struct InFlight(FakeEngine);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.state().in_flight -= 1;
    }
}

/// The engine's side of a call: its journal, its faults, its work.
async fn serve<T>(
    engine: FakeEngine,
    operation: Operation,
    instance: Option<InstanceId>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let at = engine.now();
    {
        let mut state = engine.state();
        if state.severed.is_some() && operation != Operation::Nodes {
            return Err(Error::new(ErrorKind::Unavailable, "the engine can't be reached"));
        }
        *state.counts.entry(operation).or_default() += 1;
        state.calls.push_back(Call { operation, instance: instance.clone(), at });
        if state.calls.len() > FakeEngine::MAX_CALLS {
            state.calls.pop_front();
        }
        state.in_flight += 1;
        state.peak = state.peak.max(state.in_flight);
    }
    let _in_flight = InFlight(engine.clone());
    match engine.faults().next(operation, instance.as_ref()) {
        None => work.await,
        Some(Fault::Fail(kind)) => Err(faults::error(operation, kind, false)),
        Some(Fault::FailApplied(kind)) => work.await.and(Err(faults::error(operation, kind, true))),
        Some(Fault::Hang) => {
            engine.faults().hang().await;
            work.await
        }
        Some(Fault::HangApplied) => {
            let result = work.await;
            engine.faults().hang().await;
            result
        }
        Some(Fault::Slow(by)) => {
            sleep(by).await;
            work.await
        }
    }
}

impl Drop for FakeRuntime {
    fn drop(&mut self) {
        self.closed.send_replace(true);
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    fn capabilities(&self) -> Arc<RuntimeCapabilities> {
        self.capabilities.clone()
    }

    async fn nodes(&self) -> Result<Vec<Node>> {
        let engine = self.engine.clone();
        self.call(Operation::Nodes, None, self.limit(), async move { Ok(engine.nodes()) }).await
    }

    async fn create(
        &self,
        spec: &InstanceSpec,
        key: &InstanceKey,
        options: &CreateOptions,
    ) -> Result<Instance> {
        let (engine, spec, key, options) = (self.engine.clone(), spec.clone(), key.clone(), options.clone());
        let id = key.to_id()?;
        // Boxed: a spec is large.
        let work = Box::pin(async move { engine.create(spec, key, options).await });
        self.call(Operation::Create, Some(&id), self.limit(), work).await
    }

    async fn start(&self, id: &InstanceId) -> Result<Instance> {
        let (engine, of) = (self.engine.clone(), id.clone());
        self.call(Operation::Start, Some(id), self.limit(), async move { engine.start(of).await }).await
    }

    async fn stop(&self, id: &InstanceId, options: &StopOptions) -> Result<ExitStatus> {
        let (engine, of, options) = (self.engine.clone(), id.clone(), options.clone());
        let grace = options.grace.or_else(|| {
            let state = self.engine.state();
            state.records.get(id).map(|record| record.spec.stop.grace)
        });
        let limit = self.limit().map(|limit| limit.saturating_add(grace.unwrap_or_default()));
        self.call(Operation::Stop, Some(id), limit, async move { engine.stop(of, options).await }).await
    }

    async fn wait(&self, id: &InstanceId, options: &WaitOptions) -> Result<ExitStatus> {
        let (engine, of, options) = (self.engine.clone(), id.clone(), options.clone());
        self.call(Operation::Wait, Some(id), None, async move { engine.wait(of, options).await }).await
    }

    async fn remove(&self, id: &InstanceId, options: &RemoveOptions) -> Result<()> {
        let (engine, of, options) = (self.engine.clone(), id.clone(), options.clone());
        self.call(Operation::Remove, Some(id), self.limit(), async move { engine.remove(of, options).await })
            .await
    }

    async fn get(&self, id: &InstanceId) -> Result<Instance> {
        let (engine, of) = (self.engine.clone(), id.clone());
        self.call(Operation::Get, Some(id), self.limit(), async move { engine.get(&of) }).await
    }

    async fn list(&self, selector: &Selector) -> Result<Vec<Instance>> {
        let (engine, selector) = (self.engine.clone(), selector.clone());
        self.call(Operation::List, None, self.limit(), async move { Ok(engine.list(&selector)) }).await
    }

    async fn events(&self, selector: &Selector) -> Result<EventStream> {
        let (engine, selector, closed) = (self.engine.clone(), selector.clone(), self.closed.subscribe());
        let work = async move { Ok(engine.events(selector, closed)) };
        self.call(Operation::Events, None, self.limit(), work).await
    }

    async fn signal(&self, id: &InstanceId, signal: Signal) -> Result<()> {
        self.require(Capability::Signals)?;
        let (engine, of) = (self.engine.clone(), id.clone());
        self.call(Operation::Signal, Some(id), self.limit(), async move { engine.signal(&of, signal) }).await
    }

    async fn logs(&self, id: &InstanceId, options: &LogOptions) -> Result<LogStream> {
        self.require(Capability::Logs)?;
        if options.since.is_some() {
            self.require(Capability::LogsSince)?;
        }
        let (engine, of, options) = (self.engine.clone(), id.clone(), options.clone());
        self.call(Operation::Logs, Some(id), self.limit(), async move { engine.logs(&of, &options) }).await
    }

    async fn usage(&self, ids: &[InstanceId]) -> Result<Vec<Usage>> {
        self.require(Capability::Usage)?;
        let (engine, ids) = (self.engine.clone(), ids.to_vec());
        self.call(Operation::Usage, None, self.limit(), async move { Ok(engine.usage(&ids)) }).await
    }

    async fn exec(&self, id: &InstanceId, spec: &ExecSpec) -> Result<ExecSession> {
        self.require(Capability::Exec)?;
        let (engine, of, spec) = (self.engine.clone(), id.clone(), spec.clone());
        self.call(Operation::Exec, Some(id), self.limit(), async move { engine.exec(&of, &spec) }).await
    }

    async fn put_archive(&self, id: &InstanceId, path: &str, archive: ByteStream) -> Result<()> {
        self.require(Capability::PutArchive)?;
        let (engine, of, path) = (self.engine.clone(), id.clone(), path.to_owned());
        let work = async move { engine.put_archive(&of, &path, archive).await };
        self.call(Operation::PutArchive, Some(id), self.limit(), work).await
    }

    async fn get_archive(&self, id: &InstanceId, path: &str) -> Result<ByteStream> {
        self.require(Capability::GetArchive)?;
        let (engine, of, path) = (self.engine.clone(), id.clone(), path.to_owned());
        self.call(
            Operation::GetArchive,
            Some(id),
            self.limit(),
            async move { engine.get_archive(&of, &path) },
        )
        .await
    }
}
