//! Records in the store that are not what a controller wrote: it says so, and does not panic.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use ews_core::store::{Key, MemoryStore, Transaction};
use ews_core::testkit::fake::{FakeConfig, FakeEngine, FakeRuntime};
use ews_core::Store as _;
use ews_deploy::{DeployConfig, DeployParts, Deployer};
use libfuzzer_sys::fuzz_target;

const KEYS: [&str; 6] = [
    "deploy/acme/web/in/service",
    "deploy/acme/web/in/scale",
    "deploy/acme/web/state",
    "deploy/acme/web/rollout/0000000001",
    "deploy/acme/web/revision/0000000001",
    "deploy/acme/web/unit/000000",
];

fuzz_target!(|input: Vec<(u8, Vec<u8>)>| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let store = Arc::new(MemoryStore::new());
        for (which, value) in input.iter().take(16) {
            let key = Key::new(KEYS[usize::from(*which) % KEYS.len()]).expect("a key");
            let put = Transaction::new().put(&key, value.clone());
            store.commit(&put).await.expect("a record is written");
        }
        let engine = FakeEngine::new(FakeConfig::default());
        let parts = DeployParts::new(Arc::new(FakeRuntime::connect(&engine)), store);
        let config = DeployConfig::new("acme".parse().expect("an owner"));
        let Ok(deployer) = Deployer::start(parts, config).await else { return };
        let web = "web".parse().expect("a name");
        tokio::time::sleep(Duration::from_secs(5)).await;
        let _ = deployer.status(&web).await;
        let _ = deployer.history(&web).await;
        let _ = deployer.audit(&web, 10).await;
        deployer.leave().await;
    });
});
