//! [mockall](https://docs.rs/mockall) mocks of every contract, for tests that care about single calls.
//!
//! Every method is mocked, the defaulted ones too: what a test does not expect fails it. For tests of behaviour prefer a fake
//! that behaves.
//!
//! ```
//! use ews_core::testkit::mock::MockRuntime;
//! use ews_core::{ErrorKind, Error, InstanceId, Runtime};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let mut runtime = MockRuntime::new();
//! runtime.expect_get().times(1).returning(|id| Err(Error::not_found("instance", id)));
//! let missing = InstanceId::new("i1")?;
//! assert_eq!(runtime.get(&missing).await.unwrap_err().kind(), ErrorKind::NotFound);
//! # Ok::<(), ews_core::Error>(()) }).unwrap();
//! ```
#![allow(missing_docs, reason = "what mockall generates is documented there")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a mock panics when it is called against its expectations: it is a test tool"
)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use mockall::mock;

use crate::balancer::{
    Applied, Balancer, BalancerEvent, Change, GatewayView, ObjectQuery, ObserveQuery, Stored,
};
use crate::capability::{CapabilitySet, RuntimeCapabilities};
use crate::clock::Clock;
use crate::error::Result;
use crate::event::{EventStream, Notice};
use crate::id::{InstanceId, ServiceName};
use crate::image::{
    BuildSpec, CommitSpec, EnsureOptions, Image, ImageQuery, ImageStore, ProgressStream, PruneOptions,
};
use crate::instance::{ExitStatus, Instance, InstanceKey};
use crate::metrics::{Answer, MetricInfo, MetricQuery, Metrics, Reading, TimeRange};
use crate::node::Node;
use crate::registry::{BlobInfo, Descriptor, Manifest, Registry};
use crate::runtime::{
    ByteStream, CreateOptions, ExecControl, ExecSession, ExecSpec, LogOptions, LogStream, RemoveOptions,
    Runtime, StopOptions, TtySize, Usage, WaitOptions,
};
use crate::scale::{Scale, ScaleChange, ScaleTarget};
use crate::secrets::{SecretValue, Secrets};
use crate::selector::Selector;
use crate::spec::InstanceSpec;
use crate::spec::content::SecretRef;
use crate::spec::lifecycle::Signal;
use crate::spec::source::{Digest, ImageRef, ImageSource};
use crate::store::{
    Key, Lease, LeaseId, ListPage, ListRequest, Prefix, Record, Store, StoreLimits, StoreRevision,
    Transaction, WatchStream,
};
use crate::time::Timestamp;

mock! {
    /// A mock of [`Runtime`].
    pub Runtime {}
    #[async_trait]
    impl Runtime for Runtime {
        fn capabilities(&self) -> Arc<RuntimeCapabilities>;
        async fn nodes(&self) -> Result<Vec<Node>>;
        async fn create(
            &self,
            spec: &InstanceSpec,
            key: &InstanceKey,
            options: &CreateOptions,
        ) -> Result<Instance>;
        async fn start(&self, id: &InstanceId) -> Result<Instance>;
        async fn stop(&self, id: &InstanceId, options: &StopOptions) -> Result<ExitStatus>;
        async fn wait(&self, id: &InstanceId, options: &WaitOptions) -> Result<ExitStatus>;
        async fn remove(&self, id: &InstanceId, options: &RemoveOptions) -> Result<()>;
        async fn get(&self, id: &InstanceId) -> Result<Instance>;
        async fn list(&self, selector: &Selector) -> Result<Vec<Instance>>;
        async fn events(&self, selector: &Selector) -> Result<EventStream>;
        async fn signal(&self, id: &InstanceId, signal: Signal) -> Result<()>;
        async fn logs(&self, id: &InstanceId, options: &LogOptions) -> Result<LogStream>;
        async fn usage(&self, ids: &[InstanceId]) -> Result<Vec<Usage>>;
        async fn exec(&self, id: &InstanceId, spec: &ExecSpec) -> Result<ExecSession>;
        async fn put_archive(&self, id: &InstanceId, path: &str, archive: ByteStream) -> Result<()>;
        async fn get_archive(&self, id: &InstanceId, path: &str) -> Result<ByteStream>;
        fn images(&self) -> Option<Arc<dyn ImageStore>>;
    }
}

mock! {
    /// A mock of [`ExecControl`].
    pub ExecControl {}
    #[async_trait]
    impl ExecControl for ExecControl {
        async fn resize(&self, size: TtySize) -> Result<()>;
        async fn terminate(&self) -> Result<()>;
        async fn wait(&self) -> Result<ExitStatus>;
    }
}

mock! {
    /// A mock of [`ImageStore`].
    pub ImageStore {}
    #[async_trait]
    impl ImageStore for ImageStore {
        fn capabilities(&self) -> CapabilitySet;
        async fn ensure(&self, image: &ImageSource, options: &EnsureOptions) -> Result<ProgressStream>;
        async fn inspect(&self, image: &ImageQuery) -> Result<Image>;
        async fn list(&self, labels: &Selector) -> Result<Vec<Image>>;
        async fn prune(&self, options: &PruneOptions) -> Result<Vec<Digest>>;
        async fn build(&self, spec: &BuildSpec, context: ByteStream) -> Result<ProgressStream>;
        async fn commit(&self, instance: &InstanceId, spec: &CommitSpec) -> Result<Image>;
        async fn tag(&self, image: &ImageQuery, name: &ImageRef) -> Result<()>;
        async fn push(&self, name: &ImageRef) -> Result<ProgressStream>;
        async fn save(&self, images: &[ImageQuery]) -> Result<ByteStream>;
        async fn load(&self, archive: ByteStream) -> Result<Vec<Image>>;
    }
}

mock! {
    /// A mock of [`Registry`].
    pub Registry {}
    #[async_trait]
    impl Registry for Registry {
        fn capabilities(&self) -> CapabilitySet;
        async fn resolve(&self, name: &ImageRef) -> Result<Descriptor>;
        async fn manifest(&self, name: &ImageRef) -> Result<Manifest>;
        async fn tags(&self, name: &ImageRef, after: Option<String>, limit: usize) -> Result<Vec<String>>;
        async fn open_blob(&self, name: &ImageRef, digest: &Digest, offset: u64) -> Result<ByteStream>;
        async fn blob_size(&self, name: &ImageRef, digest: &Digest) -> Result<Option<u64>>;
        async fn push_blob(&self, name: &ImageRef, blob: &BlobInfo, bytes: ByteStream) -> Result<()>;
        async fn mount_blob(&self, name: &ImageRef, digest: &Digest, from: &ImageRef) -> Result<bool>;
        async fn push_manifest(&self, name: &ImageRef, manifest: &Manifest) -> Result<Digest>;
        async fn delete(&self, name: &ImageRef) -> Result<()>;
    }
}

mock! {
    /// A mock of [`Balancer`].
    pub Balancer {}
    #[async_trait]
    impl Balancer for Balancer {
        fn capabilities(&self) -> CapabilitySet;
        async fn apply(&self, change: &Change) -> Result<Applied>;
        async fn objects(&self, query: &ObjectQuery) -> Result<Vec<Stored>>;
        async fn observe(&self, query: &ObserveQuery) -> Result<Vec<GatewayView>>;
        async fn watch(&self) -> Result<BoxStream<'static, Notice<BalancerEvent>>>;
    }
}

mock! {
    /// A mock of [`Metrics`].
    pub Metrics {}
    #[async_trait]
    impl Metrics for Metrics {
        fn capabilities(&self) -> CapabilitySet;
        async fn describe(&self, after: Option<String>, limit: usize) -> Result<Vec<MetricInfo>>;
        async fn instant(&self, query: &MetricQuery, at: Option<Timestamp>) -> Result<Answer<Reading>>;
        async fn range(&self, query: &MetricQuery, range: &TimeRange) -> Result<Answer<Vec<Reading>>>;
    }
}

mock! {
    /// A mock of [`Store`].
    pub Store {}
    #[async_trait]
    impl Store for Store {
        fn limits(&self) -> StoreLimits;
        async fn get(&self, key: &Key) -> Result<Option<Record>>;
        async fn list(&self, request: &ListRequest) -> Result<ListPage>;
        async fn commit(&self, transaction: &Transaction) -> Result<StoreRevision>;
        async fn watch(&self, prefix: &Prefix, after: StoreRevision) -> Result<WatchStream>;
        async fn grant(&self, ttl: Duration) -> Result<Lease>;
        async fn renew(&self, lease: LeaseId) -> Result<()>;
        async fn revoke(&self, lease: LeaseId) -> Result<()>;
    }
}

mock! {
    /// A mock of [`Secrets`].
    pub Secrets {}
    #[async_trait]
    impl Secrets for Secrets {
        async fn resolve(&self, reference: &SecretRef) -> Result<SecretValue>;
    }
}

mock! {
    /// A mock of [`ScaleTarget`].
    pub ScaleTarget {}
    #[async_trait]
    impl ScaleTarget for ScaleTarget {
        fn capabilities(&self) -> CapabilitySet;
        async fn current(&self, service: &ServiceName) -> Result<Scale>;
        async fn set(&self, service: &ServiceName, change: &ScaleChange) -> Result<Scale>;
    }
}

mock! {
    /// A mock of [`Clock`].
    pub Clock {}
    impl Clock for Clock {
        fn now(&self) -> Timestamp;
    }
}
