//! The fake engine behind each layer, and behind all, passes every case of the suite of runtimes.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use ews_core::layer::{
    self, Around, CapabilityCheck, ConcurrencyLimit, Deadline, Layered, RetryLayer, Trace,
};
use ews_core::testkit::conformance::runtime::{self, Disturbance, LogCapture, RuntimeHarness, Workload};
use ews_core::testkit::fake::{FakeConfig, FakeHarness};
use ews_core::{InstanceKey, InstanceSpec, OwnerId, Result, Runtime, SecretRef};

type Wrap = fn(Arc<dyn Runtime>) -> Arc<dyn Runtime>;

struct Behind {
    fake: FakeHarness,
    wrap: Wrap,
}

#[async_trait]
impl RuntimeHarness for Behind {
    async fn connect(&self) -> Result<Arc<dyn Runtime>> {
        Ok((self.wrap)(self.fake.connect().await?))
    }
    fn workload(&self, workload: &Workload) -> Option<InstanceSpec> {
        self.fake.workload(workload)
    }
    fn command(&self, workload: &Workload) -> Option<Vec<String>> {
        self.fake.command(workload)
    }
    fn run_id(&self) -> String {
        self.fake.run_id()
    }
    async fn disturb(&self, disturbance: Disturbance) -> bool {
        self.fake.disturb(disturbance).await
    }
    async fn heal(&self) {
        self.fake.heal().await;
    }
    async fn kill_controller(&self) -> bool {
        self.fake.kill_controller().await
    }
    async fn plant_foreign(&self, key: &InstanceKey) -> bool {
        self.fake.plant_foreign(key).await
    }
    async fn foreign_is_intact(&self, key: &InstanceKey) -> bool {
        self.fake.foreign_is_intact(key).await
    }
    async fn leftovers(&self, owner: &OwnerId) -> Option<usize> {
        self.fake.leftovers(owner).await
    }
    async fn marked_processes(&self, mark: &str) -> Option<usize> {
        self.fake.marked_processes(mark).await
    }
    async fn dial(&self, address: SocketAddr) -> Result<()> {
        self.fake.dial(address).await
    }
    fn free_port(&self) -> Option<u16> {
        self.fake.free_port()
    }
    fn secret(&self) -> Option<(SecretRef, String)> {
        self.fake.secret()
    }
    fn captured_log(&self) -> Option<String> {
        self.fake.captured_log()
    }
    fn bind_directory(&self) -> Option<String> {
        self.fake.bind_directory()
    }
}

async fn conforms(wrap: Wrap) {
    let log = LogCapture::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let harness = Behind { fake: FakeHarness::new(FakeConfig::default(), log), wrap };
    runtime::run(&harness).await.assert_passed(&[]);
    assert_eq!(harness.fake.engine().objects(), 0, "the suite left instances behind");
    assert_eq!(harness.fake.engine().processes(), 0, "the suite left processes behind");
}

fn layered<A: Around>(inner: Arc<dyn Runtime>, around: A) -> Arc<dyn Runtime> {
    Arc::new(Layered::new(inner, around))
}

#[tokio::test(start_paused = true)]
async fn behind_the_trace() {
    conforms(|inner| layered(inner, Trace)).await;
}

#[tokio::test(start_paused = true)]
async fn behind_the_capability_check() {
    conforms(|inner| layered(inner, CapabilityCheck)).await;
}

#[tokio::test(start_paused = true)]
async fn behind_retries() {
    conforms(|inner| layered(inner, RetryLayer::default())).await;
}

#[tokio::test(start_paused = true)]
async fn behind_the_limit() {
    conforms(|inner| layered(inner, ConcurrencyLimit::default())).await;
}

#[tokio::test(start_paused = true)]
async fn behind_the_deadline() {
    conforms(|inner| layered(inner, Deadline::default())).await;
}

#[tokio::test(start_paused = true)]
async fn behind_all_layers() {
    conforms(|inner| Arc::new(layer::stack(inner))).await;
}
