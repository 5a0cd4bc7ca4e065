//! The smallest embedding that is of use: two instances of a program (this one), then its second version, then nothing is left.

use std::sync::Arc;

use axum::{Router, routing::get};
use ews_core::ServiceSpec;
use ews_core::process::{ProcessConfig, ProcessRuntime, shim_entry};
use ews_core::store::{RedbConfig, RedbStore};
use ews_deploy::{DeployConfig, DeployParts, DeployRequest, Deployer, Strategy};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result {
    shim_entry(); // Beside each instance runs a small process that keeps its log and exit status: this program again.
    let serves = std::env::args().nth(1).is_some_and(|word| word == "serve");
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio.block_on(async { if serves { serve().await } else { embed().await } })
}

async fn embed() -> Result {
    let root = std::env::temp_dir().join(format!("ews-embed-{}", std::process::id()));
    let runtime = ProcessRuntime::open(ProcessConfig::new(root.join("runtime"))).await?;
    let store = RedbStore::open(root.join("store.redb"), RedbConfig::default()).await?;
    let parts = DeployParts::new(Arc::new(runtime), Arc::new(store)); // `.with_balancer(…)` moves traffic, too.
    let deployer = Deployer::start(parts, DeployConfig::new("acme".parse()?)).await?;
    let deployed = match deploy(&deployer, "v1").await {
        Ok(()) => deploy(&deployer, "v2").await,
        failed => failed,
    };
    deployer.remove(&"web".parse()?).await?; // Without this, instances run on for the next controller.
    deployer.wait_removed(&"web".parse()?).await?;
    deployer.leave().await;
    std::fs::remove_dir_all(root)?;
    deployed
}

#[allow(clippy::print_stdout, reason = "it is a program")]
async fn deploy(deployer: &Deployer, version: &str) -> Result {
    let program = std::env::current_exe()?;
    let service =
        "name = 'web'\nreplicas = 2\nargs = ['serve']\nports.http = {}\nprobes.readiness.http = '/'";
    let spec =
        ServiceSpec::from_toml(&format!("{service}\nartifact = {program:?}\nenv.VERSION = '{version}'"))?;
    let second = std::time::Duration::from_secs(1); // Defaults: 10 s until an instance counts, 30 s watched.
    let strategy = Strategy::default().with_min_healthy(second).with_monitor(second);
    let rollout = deployer.deploy(&DeployRequest::new(spec).with_strategy(strategy)).await?;
    let report = deployer.wait(&rollout).await?;
    println!("{version}: {:?} {}", report.outcome, report.cause);
    for instance in deployer.status(&rollout.service).await?.instances {
        println!("  {} of {}: {:?}", instance.id, instance.key.revision, instance.state);
    }
    report.outcome.filter(|outcome| outcome.is_success()).map(drop).ok_or(report.cause.into())
}

async fn serve() -> Result {
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{}", std::env::var("PORT")?)).await?;
    let version = std::env::var("VERSION")?;
    Ok(axum::serve(listener, Router::new().route("/", get(move || std::future::ready(version)))).await?)
}
