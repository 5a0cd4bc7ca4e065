//! The fake engine under the conformance suite: also an example of a harness with every hook.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;

use super::config::FakeConfig;
use super::engine::FakeEngine;
use super::faults::{Fault, FaultRule};
use super::runtime::FakeRuntime;
use crate::error::{Error, Result};
use crate::id::OwnerId;
use crate::instance::InstanceKey;
use crate::runtime::Runtime;
use crate::secrets::{SecretValue, Secrets};
use crate::spec::InstanceSpec;
use crate::spec::content::SecretRef;
use crate::spec::source::{ImageSource, Source};
use crate::testkit::conformance::runtime::{Disturbance, LogCapture, RuntimeHarness, Workload};

/// The secret that the suite asks for.
const SECRET: &str = "conformance-secret-7c1f";

/// A harness over a [`FakeEngine`].
pub struct FakeHarness {
    engine: FakeEngine,
    last: Mutex<Weak<FakeRuntime>>,
    log: LogCapture,
}

impl std::fmt::Debug for FakeHarness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeHarness").finish_non_exhaustive()
    }
}

impl FakeHarness {
    /// An engine of this kind, with a source of secrets for the suite. Its log is captured while `log`'s subscriber is set.
    pub fn new(config: FakeConfig, log: LogCapture) -> Self {
        let engine = FakeEngine::new(config.with_secrets(Arc::new(OneSecret)));
        Self { engine, last: Mutex::new(Weak::new()), log }
    }

    /// The engine behind it.
    pub fn engine(&self) -> &FakeEngine {
        &self.engine
    }

    /// A new handle; the one that [`RuntimeHarness::kill_controller`] kills.
    pub fn connect_fake(&self) -> Arc<FakeRuntime> {
        let runtime = Arc::new(FakeRuntime::connect(&self.engine));
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&runtime);
        runtime
    }
}

#[async_trait]
impl RuntimeHarness for FakeHarness {
    fn name(&self) -> String {
        "fake".to_owned()
    }

    async fn connect(&self) -> Result<Arc<dyn Runtime>> {
        Ok(self.connect_fake())
    }

    fn workload(&self, workload: &Workload) -> Option<InstanceSpec> {
        let image = ImageSource::new("ews.example/workload:1".parse().ok()?);
        let base = InstanceSpec::new(Source::Image(image));
        match workload.fake_command() {
            Some(command) => Some(InstanceSpec { command, ..base }),
            None => workload.over(base),
        }
    }

    fn command(&self, workload: &Workload) -> Option<Vec<String>> {
        workload.fake_command()
    }

    fn run_id(&self) -> String {
        // Two runs must be alike.
        "fake".to_owned()
    }

    async fn disturb(&self, disturbance: Disturbance) -> bool {
        match disturbance {
            Disturbance::Sever => self.engine.sever(),
            Disturbance::Hang => self.engine.faults().add(FaultRule::new(Fault::Hang)),
            Disturbance::BreakEvents => self.engine.break_events(),
            Disturbance::RestartEngine => self.engine.restart(),
        }
        true
    }

    async fn heal(&self) {
        self.engine.restore();
        self.engine.faults().clear();
    }

    async fn kill_controller(&self) -> bool {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        if let Some(runtime) = last {
            runtime.kill();
        }
        true
    }

    async fn plant_foreign(&self, key: &InstanceKey) -> bool {
        self.engine.plant_foreign(&key.name());
        true
    }

    async fn foreign_is_intact(&self, key: &InstanceKey) -> bool {
        self.engine.has_foreign(&key.name())
    }

    async fn leftovers(&self, _owner: &OwnerId) -> Option<usize> {
        Some(self.engine.orphans())
    }

    async fn marked_processes(&self, mark: &str) -> Option<usize> {
        Some(self.engine.marked(mark))
    }

    async fn dial(&self, address: SocketAddr) -> Result<()> {
        self.engine.dial(address).map(drop)
    }

    fn free_port(&self) -> Option<u16> {
        Some(8080)
    }

    fn secret(&self) -> Option<(SecretRef, String)> {
        Some(("conformance".parse().ok()?, SECRET.to_owned()))
    }

    fn captured_log(&self) -> Option<String> {
        Some(self.log.text())
    }

    fn bind_directory(&self) -> Option<String> {
        Some("/srv/conformance".to_owned())
    }
}

struct OneSecret;

#[async_trait]
impl Secrets for OneSecret {
    async fn resolve(&self, reference: &SecretRef) -> Result<SecretValue> {
        if reference.name() == "conformance" {
            SecretValue::new(SECRET)
        } else {
            Err(Error::not_found("secret", reference))
        }
    }
}
