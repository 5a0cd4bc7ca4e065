//! A controller in an async runtime of its own, which can be shut down under it: everything it had under way stops where it
//! waits, as after a kill.

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ews_core::event::EventStream;
use ews_core::process::{Cgroups, ProcessConfig, ProcessRuntime, ShimProgram};
use ews_core::runtime::{
    ByteStream, CreateOptions, ExecSession, ExecSpec, LogOptions, LogStream, RemoveOptions, StopOptions,
    Usage, WaitOptions,
};
use ews_core::spec::lifecycle::Signal;
use ews_core::{
    Error, ErrorKind, ExitStatus, Instance, InstanceId, InstanceKey, InstanceSpec, Node, Result, Runtime,
    RuntimeCapabilities, Selector,
};
use tokio::runtime::Handle;

/// The configuration of tests: the shim is the program beside this one.
pub(crate) fn config(root: &Path, cgroups: Cgroups) -> ProcessConfig {
    ProcessConfig::new(root)
        .with_shim(ShimProgram::Path(env!("CARGO_BIN_EXE_ews-shim").into()))
        .with_cgroups(cgroups)
}

/// A controller behind the threads it runs on.
pub(crate) struct Hosted {
    inner: Option<Arc<ProcessRuntime>>,
    handle: Handle,
    threads: Mutex<Option<tokio::runtime::Runtime>>,
}

impl Hosted {
    /// Opens a controller on threads of its own.
    pub(crate) async fn open(config: ProcessConfig) -> Result<Arc<Self>> {
        let threads =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let handle = threads.handle().clone();
        let opened = handle.spawn(ProcessRuntime::open(config)).await.unwrap();
        let hosted = |inner| Self { inner, handle: handle.clone(), threads: Mutex::new(Some(threads)) };
        match opened {
            Ok(inner) => Ok(Arc::new(hosted(Some(Arc::new(inner))))),
            Err(error) => {
                drop(hosted(None));
                Err(error)
            }
        }
    }

    /// Stops everything where it waits.
    pub(crate) fn kill(&self) {
        if let Some(threads) = self.threads.lock().unwrap().take() {
            threads.shutdown_background();
        }
    }

    async fn call<T, F>(&self, call: impl FnOnce(Arc<ProcessRuntime>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let inner = self.inner.clone().unwrap();
        // A call counts as begun from its first poll, and dropping it abandons the wait only.
        let task = self.handle.spawn(call(inner));
        task.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Cancelled, "the controller was killed")))
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        // Watches of the controller end when they next run, on threads that are there for it.
        drop(self.inner.take());
        if let Some(threads) = self.threads.lock().unwrap().take() {
            threads.shutdown_background();
        }
    }
}

#[async_trait]
impl Runtime for Hosted {
    fn capabilities(&self) -> Arc<RuntimeCapabilities> {
        self.inner.as_ref().unwrap().capabilities()
    }

    async fn nodes(&self) -> Result<Vec<Node>> {
        self.call(|r| async move { r.nodes().await }).await
    }

    async fn create(
        &self,
        spec: &InstanceSpec,
        key: &InstanceKey,
        options: &CreateOptions,
    ) -> Result<Instance> {
        let (spec, key, options) = (spec.clone(), key.clone(), options.clone());
        self.call(|r| async move { r.create(&spec, &key, &options).await }).await
    }

    async fn start(&self, id: &InstanceId) -> Result<Instance> {
        let id = id.clone();
        self.call(|r| async move { r.start(&id).await }).await
    }

    async fn stop(&self, id: &InstanceId, options: &StopOptions) -> Result<ExitStatus> {
        let (id, options) = (id.clone(), options.clone());
        self.call(|r| async move { r.stop(&id, &options).await }).await
    }

    async fn wait(&self, id: &InstanceId, options: &WaitOptions) -> Result<ExitStatus> {
        let (id, options) = (id.clone(), options.clone());
        self.call(|r| async move { r.wait(&id, &options).await }).await
    }

    async fn remove(&self, id: &InstanceId, options: &RemoveOptions) -> Result<()> {
        let (id, options) = (id.clone(), options.clone());
        self.call(|r| async move { r.remove(&id, &options).await }).await
    }

    async fn get(&self, id: &InstanceId) -> Result<Instance> {
        let id = id.clone();
        self.call(|r| async move { r.get(&id).await }).await
    }

    async fn list(&self, selector: &Selector) -> Result<Vec<Instance>> {
        let selector = selector.clone();
        self.call(|r| async move { r.list(&selector).await }).await
    }

    async fn events(&self, selector: &Selector) -> Result<EventStream> {
        let selector = selector.clone();
        self.call(|r| async move { r.events(&selector).await }).await
    }

    async fn signal(&self, id: &InstanceId, signal: Signal) -> Result<()> {
        let id = id.clone();
        self.call(move |r| async move { r.signal(&id, signal).await }).await
    }

    async fn logs(&self, id: &InstanceId, options: &LogOptions) -> Result<LogStream> {
        let (id, options) = (id.clone(), options.clone());
        self.call(|r| async move { r.logs(&id, &options).await }).await
    }

    async fn usage(&self, ids: &[InstanceId]) -> Result<Vec<Usage>> {
        let ids = ids.to_vec();
        self.call(|r| async move { r.usage(&ids).await }).await
    }

    async fn exec(&self, id: &InstanceId, spec: &ExecSpec) -> Result<ExecSession> {
        let (id, spec) = (id.clone(), spec.clone());
        self.call(|r| async move { r.exec(&id, &spec).await }).await
    }

    async fn put_archive(&self, id: &InstanceId, path: &str, archive: ByteStream) -> Result<()> {
        let (id, path) = (id.clone(), path.to_owned());
        self.call(|r| async move { r.put_archive(&id, &path, archive).await }).await
    }

    async fn get_archive(&self, id: &InstanceId, path: &str) -> Result<ByteStream> {
        let (id, path) = (id.clone(), path.to_owned());
        self.call(|r| async move { r.get_archive(&id, &path).await }).await
    }
}
