//! Artifacts on the process runtime: an archive that was checked and packed again runs, and so does a program.
#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::time::Duration;

use ews_core::process::{ProcessConfig, ProcessRuntime, ShimProgram};
use ews_core::spec::network::Port;
use ews_core::spec::probe::{Check, Probe, TcpCheck};
use ews_core::spec::source::ImageSource;
use ews_core::store::MemoryStore;
use ews_core::{Runtime as _, Selector, ServiceSpec, Source};
use ews_deploy::source::{Catalogue, ProcessRequest, Sources, SourcesConfig};
use ews_deploy::{DeployConfig, DeployParts, DeployRequest, Deployer, Outcome, Strategy};

use crate::site::get;

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_and_a_program_run_without_an_image() {
    let folder = tempfile::tempdir().unwrap();
    let shim = ShimProgram::Path(env!("CARGO_BIN_EXE_quickstart").into());
    let config = ProcessConfig::new(folder.path().join("runtime")).with_shim(shim);
    let runtime = Arc::new(ProcessRuntime::open(config).await.unwrap());
    let parts = DeployParts::new(runtime.clone(), Arc::new(MemoryStore::new()));
    let deployer = Deployer::start(parts, DeployConfig::new("artifacts".parse().unwrap())).await.unwrap();
    let config =
        SourcesConfig::new(folder.path().join("scratch")).with_artifacts(folder.path().join("artifacts"));
    let sources = Sources::new(config, Catalogue::built_in().unwrap()).unwrap();

    let top = folder.path().join("site");
    std::fs::create_dir_all(top.join("dist/www")).unwrap();
    std::fs::write(top.join("dist/www/index.html"), "of an archive").unwrap();
    let serve = "#!/bin/sh\nexec /bin/busybox httpd -f -p 127.0.0.1:$PORT -h ";
    std::fs::write(top.join("dist/run.sh"), format!("{serve}www\n")).unwrap();
    let archive = sources.receive_path(&top).await.unwrap();
    let pages = folder.path().join("pages");
    std::fs::create_dir(&pages).unwrap();
    std::fs::write(pages.join("index.html"), "of a program").unwrap();
    let script = format!("{serve}{}\n", pages.display());
    let program =
        sources.receive(Box::pin(futures_util::stream::iter([Ok(script.into())])), None).await.unwrap();

    let mut spec = ServiceSpec::new(
        "site".parse().unwrap(),
        Source::Image(ImageSource::new("nothing/yet".parse().unwrap())),
    );
    spec.instance.ports = vec![Port::new("http".parse().unwrap(), None)];
    let mut probe = Probe::new(Check::Tcp(TcpCheck::default()));
    probe.interval = Duration::from_millis(200);
    spec.instance.probes.readiness = Some(probe);
    let mut of_archive = spec.clone();
    of_archive.instance.command = vec!["/bin/sh".to_owned(), "run.sh".to_owned()];
    for (request, spec, answer) in [
        (ProcessRequest::new(archive).with_root("dist"), of_archive, "of an archive"),
        (ProcessRequest::new(program).with_entry("go"), spec, "of a program"),
    ] {
        let resolved = sources.resolve(&request.into(), spec).await.unwrap();
        let mut strategy = Strategy::default();
        (strategy.min_healthy, strategy.monitor, strategy.interval) =
            (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        strategy.drain = Duration::ZERO;
        let rollout =
            deployer.deploy(&DeployRequest::new(resolved.spec).with_strategy(strategy)).await.unwrap();
        let report = deployer.wait(&rollout).await.unwrap();
        assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
        let instances = runtime.list(&Selector::everything()).await.unwrap();
        assert_eq!(instances.len(), 1);
        assert_eq!(get(&instances[0].endpoints[0].address.to_string(), "/index.html").await, answer);
    }
    deployer.remove(&"site".parse().unwrap()).await.unwrap();
    deployer.wait_removed(&"site".parse().unwrap()).await.unwrap();
    deployer.leave().await;
}
