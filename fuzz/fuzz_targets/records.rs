//! Records in the store that are not what a controller wrote: it says so, and does not panic. They are those of a real rollout, in which
//! single values are others, or bytes are.
#![no_main]

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arbitrary::Arbitrary;
use ews_core::Store as _;
use ews_core::spec::source::{ArtifactSource, Source};
use ews_core::store::{Key, ListRequest, MemoryStore, Prefix, Transaction};
use ews_core::testkit::fake::{FakeConfig, FakeEngine, FakeRuntime};
use ews_core::{ServiceName, ServiceSpec};
use ews_deploy::{Batch, DeployConfig, DeployParts, DeployRequest, Deployer, Strategy};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// What is changed in which record.
#[derive(Debug, Arbitrary)]
struct Edit {
    record: u8,
    kind: Kind,
}

#[derive(Debug, Arbitrary)]
enum Kind {
    /// The so-many-th value in the document.
    Value { at: u16, to: To },
    /// Bytes at a place.
    Bytes { at: u16, removed: u8, put: Vec<u8> },
    /// It is not there.
    Absent,
    /// It has the content of another.
    Other(u8),
}

#[derive(Debug, Arbitrary)]
enum To {
    Null,
    Zero,
    Less,
    More,
    Number(i64),
    Float(f64),
    Text(String),
    None,
    Empty,
}

fn web() -> ServiceName {
    "web".parse().expect("a name")
}

async fn deployer(store: Arc<MemoryStore>) -> Option<Deployer> {
    let engine = FakeEngine::new(FakeConfig::default());
    let parts = DeployParts::new(Arc::new(FakeRuntime::connect(&engine)), store);
    let config = DeployConfig::new("acme".parse().expect("an owner"));
    Deployer::start(parts, config).await.ok()
}

fn within<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(future)
}

fn request(replicas: u32, text: &str) -> DeployRequest {
    let mut spec = ServiceSpec::new(web(), Source::Artifact(ArtifactSource::new("/srv/web")));
    spec.replicas = replicas;
    spec.instance.args = vec![text.to_owned()];
    let strategy = Strategy::default()
        .with_batches(Batch::Count(1), Batch::Count(1))
        .with_min_healthy(Duration::from_millis(100));
    DeployRequest::new(spec).with_strategy(strategy)
}

/// What two rollouts have left, and a third in its midst.
fn rows() -> &'static [(Key, Vec<u8>)] {
    static ROWS: OnceLock<Vec<(Key, Vec<u8>)>> = OnceLock::new();
    ROWS.get_or_init(|| {
        within(async {
            let store = Arc::new(MemoryStore::new());
            let deployer = deployer(Arc::clone(&store)).await.expect("a deployer");
            for (replicas, text) in [(2, "one"), (3, "two")] {
                let id = deployer.deploy(&request(replicas, text)).await.expect("a rollout");
                deployer.wait(&id).await.expect("its end");
            }
            deployer.deploy(&request(3, "three")).await.expect("a rollout");
            tokio::time::sleep(Duration::from_millis(150)).await;
            let all = ListRequest::new(Prefix::new("deploy/").expect("a prefix"));
            let page = store.list(&all).await.expect("a list");
            let rows: Vec<_> = page.records.into_iter().map(|r| (r.key, r.value.to_vec())).collect();
            assert!(rows.len() > 8, "{rows:?}");
            deployer.leave().await;
            rows
        })
    })
}

fn leaf<'a>(value: &'a mut Value, at: &mut u16) -> Option<&'a mut Value> {
    if *at == 0 {
        return Some(value);
    }
    *at -= 1;
    match value {
        Value::Array(all) => all.iter_mut().find_map(|value| leaf(value, at)),
        Value::Object(all) => all.values_mut().find_map(|value| leaf(value, at)),
        _ => None,
    }
}

fn edited(mut bytes: Vec<u8>, kind: &Kind, others: &[(Key, Vec<u8>)]) -> Option<Vec<u8>> {
    match kind {
        Kind::Absent => return None,
        Kind::Other(which) => return Some(others[usize::from(*which) % others.len()].1.clone()),
        Kind::Bytes { at, removed, put } => {
            let from = usize::from(*at) % (bytes.len() + 1);
            let to = (from + usize::from(*removed)).min(bytes.len());
            bytes.splice(from..to, put.iter().copied());
        }
        Kind::Value { at, to } => {
            let Ok(mut document) = serde_json::from_slice::<Value>(&bytes) else { return Some(bytes) };
            if let Some(value) = leaf(&mut document, &mut { *at }) {
                *value = match to {
                    To::Null => Value::Null,
                    To::Zero => 0.into(),
                    To::Less => value.as_i64().unwrap_or(0).wrapping_sub(1).into(),
                    To::More => value.as_u64().unwrap_or(u64::MAX - 1).wrapping_add(1).into(),
                    To::Number(number) => (*number).into(),
                    To::Float(number) => (*number).into(),
                    To::Text(text) => text.as_str().into(),
                    To::None => Value::Array(Vec::new()),
                    To::Empty => Value::Object(serde_json::Map::new()),
                };
            }
            return serde_json::to_vec(&document).ok();
        }
    }
    Some(bytes)
}

fuzz_target!(|edits: Vec<Edit>| {
    let mut changed: Vec<_> = rows().iter().map(|(key, value)| (key, Some(value.clone()))).collect();
    for edit in edits.iter().take(6) {
        let which = usize::from(edit.record) % changed.len();
        let row = &mut changed[which].1;
        *row = row.take().and_then(|bytes| edited(bytes, &edit.kind, rows()));
    }
    within(async {
        let store = Arc::new(MemoryStore::new());
        for (key, value) in changed {
            let Some(value) = value else { continue };
            store.commit(&Transaction::new().put(key, value)).await.expect("a record is written");
        }
        let Some(deployer) = deployer(store).await else { return };
        tokio::time::sleep(Duration::from_secs(5)).await;
        let _ = deployer.status(&web()).await;
        let _ = deployer.history(&web()).await;
        let _ = deployer.audit(&web(), 10).await;
        if let Ok(id) = deployer.deploy(&request(2, "four")).await {
            let _ = tokio::time::timeout(Duration::from_secs(600), deployer.wait(&id)).await;
        }
        deployer.leave().await;
    });
});
