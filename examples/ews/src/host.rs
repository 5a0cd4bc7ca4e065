//! The host: how the SDK's parts are put together, started, served and ended.
//!
//! What runs, runs on when the host ends: instances are no children of it, and its records say what is wanted. So a start is a
//! take-over in any case, after an orderly end, after a kill and after a reboot: the runtime finds what runs, the gateway serves at
//! once what it served, and the deployer fills what is missing.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ews_core::bus::Bus;
use ews_core::event::Notice;
use ews_core::http::{Access, Tokens};
use ews_core::process::{ProcessConfig, ProcessRuntime};
use ews_core::secrets::{FileSecrets, SecretsByProvider};
use ews_core::store::{RedbConfig, RedbStore};
use ews_core::{
    Balancer, Clock as _, Digest, Error, ErrorKind, Metrics, Result, Runtime, SecretValue, Secrets, Selector,
    Source, SystemClock,
};
use ews_deploy::source::{Catalogue, Sources, SourcesConfig};
use ews_deploy::{DeployConfig, DeployParts, Deployer};
use ews_monitor::{Alerts, Collection, LiveConfig, LiveStore, LogNotifier, Relay, RuntimeCollector};
use ews_route::{AccessFile, AccessLog, Gateway, GatewayBuilder, GatewayConfig};
use ews_scale::Autoscaler;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::api::wire::{Happening, HostEvent, HostView, Listening};
use crate::api::{self, Api, ApiParts, words};
use crate::certificates::{CertificateFiles, Certified};
use crate::config::{EndpointSection, HostConfig, RuntimeKind};
use crate::data::DataDirectory;
use crate::intake;

/// How often is measured.
const EVERY: Duration = Duration::from_secs(5);
/// How many events are kept for those who look later.
const EVENTS: usize = 2_048;
/// How long open answers of the API may take at the end.
const ANSWERS: Duration = Duration::from_secs(2);
/// The file that says where the host listens.
pub(crate) const HOST_FILE: &str = "host.json";
/// The operator's socket.
pub(crate) const SOCKET: &str = "api.sock";

/// Where instances run, and what else is known of that place.
struct Ground {
    runtime: Arc<dyn Runtime>,
    sources: Sources,
}

/// Runs a host until `stop` is done, then ends it in order.
///
/// # Errors
/// What keeps it from starting; once it runs, none.
pub(crate) async fn serve(
    config: HostConfig,
    data: DataDirectory,
    ready: impl FnOnce(&Listening),
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let files: Arc<dyn Secrets> = Arc::new(FileSecrets::new(data.at("secrets"))?);
    let secrets: Arc<dyn Secrets> =
        Arc::new(SecretsByProvider::new().with("file", Arc::clone(&files))?.with_default(files));
    let owner = config.owner()?;
    let Ground { runtime, sources } = ground(&config, &data, &secrets).await?;
    let store = Arc::new(RedbStore::open(data.at("store.redb"), RedbConfig::default()).await?);
    let (gateway, routes) = gateway(&config, &data).await?;
    let balancer: Arc<dyn Balancer> =
        Arc::new(Certified::start(gateway.clone(), &config.gateway.certificates).await?);

    let live = LiveStore::new(LiveConfig::default())?;
    let metrics: Arc<dyn Metrics> = Arc::new(live.clone());
    let mut parts = DeployParts::new(Arc::clone(&runtime), store.clone())
        .with_balancer(balancer)
        .with_metrics(Arc::clone(&metrics));
    if let Some(images) = runtime.images() {
        parts = parts.with_images(images);
    }
    // Only one process has the store at a time, so one name will do, and a restart takes its own leads back at once.
    let deploy = DeployConfig::new(owner.clone()).with_controller("host");
    let bus: Bus<HostEvent> = Bus::new(EVENTS)?;
    let deployer = Deployer::start(parts, deploy).await?;
    let (mut told, mut work) = (deployer.events(), JoinSet::new());
    forget_artifacts(&deployer, &sources).await;

    let signals = ["ews.route.requests", "http.server.request.duration"];
    let collection = Collection::new(live.clone())
        .with(
            RuntimeCollector::new(Arc::clone(&runtime), Selector::equal("ews/owner", owner.as_str())?),
            EVERY,
        )?
        .with(Relay::new("gateway", Arc::new(gateway.clone()), signals)?, EVERY)?;
    let mut autoscaler = Autoscaler::new(Arc::clone(&metrics), Arc::new(deployer.by("autoscaler")))
        .with_store(store.clone(), "host");
    for (service, policy) in &config.scale {
        autoscaler = autoscaler.with_service(service.clone(), policy.clone())?;
    }
    let mut alerts =
        Alerts::new(Arc::clone(&metrics)).with_store(store.clone()).with_notifier(Arc::new(LogNotifier));
    for rule in &config.alerts {
        alerts = alerts.with_rule(rule.clone())?;
    }
    let mut alarms = alerts.subscribe();

    let mut listening = routes;
    let opened = match &config.intake {
        Some(section) => {
            Some(intake::open(section, &data, &deployer, Arc::clone(&secrets), sources.clone()).await?)
        }
        None => None,
    };
    listening.intake = opened.as_ref().and_then(|opened| opened.listener.local_addr().ok());
    let tcp = listener_of(config.api.tcp.as_ref(), "api.tcp.listen").await?;
    listening.api = tcp.as_ref().and_then(|(listener, _)| listener.local_addr().ok());
    let admin = listener_of(config.gateway.admin.as_ref(), "gateway.admin.listen").await?;
    listening.admin = admin.as_ref().and_then(|(listener, _)| listener.local_addr().ok());
    listening.socket = data.at(SOCKET);
    let socket = socket(&data)?;

    let host = HostView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        name: owner.to_string(),
        runtime: config.runtime.as_str().to_owned(),
        pid: std::process::id(),
        data: data.path().to_owned(),
        listening: listening.clone(),
        since: SystemClock.now(),
    };
    let api = Api::new(ApiParts {
        deployer: deployer.clone(),
        runtime: Arc::clone(&runtime),
        sources,
        live,
        bus: bus.clone(),
        host,
        kind: config.runtime,
    });
    let by_socket = api::router(&api, Access::Open, "operator")?;
    work.spawn(async move { served(axum::serve(socket, by_socket).await) });
    if let Some((listener, tokens)) = tcp {
        let router = api::router(&api, Access::Tokens(tokens), "operator (token)")?;
        work.spawn(async move { served(axum::serve(listener, router).await) });
    }
    if let Some((listener, tokens)) = admin {
        let router = ews_route::admin::router(&gateway, Access::Tokens(tokens))?;
        work.spawn(async move { served(axum::serve(listener, router).await) });
    }
    if let Some(opened) = opened {
        work.spawn(async move { served(axum::serve(opened.listener, opened.router).await) });
        work.spawn(async move { opened.intake.run().await });
    }
    let never = std::future::pending::<()>;
    work.spawn(async move { collection.run(never()).await });
    work.spawn(async move { autoscaler.run(never()).await });
    work.spawn(async move { alerts.run(never()).await });
    let telling = bus.clone();
    work.spawn(async move {
        while let Some(notice) = told.next().await {
            if let Notice::Event(event) = notice {
                let event = event.event;
                let (at, service, text) = (event.at, Some(event.service.clone()), words::of(&event));
                telling.publish(HostEvent { at, service, text, what: Happening::Deploy(Box::new(event)) });
            }
        }
    });
    work.spawn(async move {
        while let Some(notice) = alarms.next().await {
            if let Notice::Event(alert) = notice {
                let alert = alert.event;
                let (at, text) = (alert.at, format!("alert {alert}"));
                bus.publish(HostEvent { at, service: None, text, what: Happening::Alert(Box::new(alert)) });
            }
        }
    });

    let text = serde_json::to_vec(&listening)
        .map_err(|error| Error::internal("addresses can't be written as JSON").with_source(error))?;
    data.write(HOST_FILE, &text)?;
    ready(&listening);
    stop.await;

    tracing::info!("ending: instances run on");
    data.remove(HOST_FILE);
    data.remove(SOCKET);
    // Whoever waits for an answer of a moment gets it; streams have no end of their own.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let leaving = timeout(config.drain.max(ANSWERS), deployer.leave());
    let (left, _) = tokio::join!(gateway.shutdown(config.drain), leaving);
    work.shutdown().await;
    if left > 0 {
        tracing::warn!(connections = left, "connections were closed before they had ended");
    }
    Ok(())
}

fn served(result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::error!(%error, "an endpoint of the host has ended");
    }
}

/// Where instances run.
async fn ground(config: &HostConfig, data: &DataDirectory, secrets: &Arc<dyn Secrets>) -> Result<Ground> {
    let made = SourcesConfig::new(data.at("scratch")).with_artifacts(data.at("artifacts"));
    let sources = Sources::new(made, Catalogue::built_in()?)?;
    match config.runtime {
        RuntimeKind::Process => {
            let (first, last) = config.process.ports;
            let mut process = ProcessConfig::new(data.at("runtime"))
                .with_secrets(Arc::clone(secrets))
                .with_ports(first..=last)?;
            for name in &config.process.inherit {
                process = process.with_inherited(name.clone());
            }
            if let Some(address) = config.process.advertise {
                process = process.with_advertise(address);
            }
            Ok(Ground { runtime: Arc::new(ProcessRuntime::open(process).await?), sources })
        }
        RuntimeKind::Docker => docker(sources, secrets).await,
    }
}

#[cfg(feature = "docker")]
async fn docker(sources: Sources, secrets: &Arc<dyn Secrets>) -> Result<Ground> {
    use ews_docker::{DockerConfig, DockerImages, DockerRuntime};
    let config = DockerConfig::from_env()?;
    let builder = DockerRuntime::builder(config.clone()).with_secrets(Arc::clone(secrets));
    let runtime = builder.connect().await?;
    let images = DockerImages::connect(config).await?;
    let sources = sources.with_images(Arc::new(images), runtime.engine_id());
    Ok(Ground { runtime: Arc::new(runtime), sources })
}

#[cfg(not(feature = "docker"))]
async fn docker(sources: Sources, _: &Arc<dyn Secrets>) -> Result<Ground> {
    // The configuration's check has refused it; it is refused here too, whoever calls.
    std::future::ready(()).await;
    drop(sources);
    Err(Error::new(ErrorKind::Unsupported, "this program was built without Docker"))
}

/// The gateway, serving what it served before.
async fn gateway(config: &HostConfig, data: &DataDirectory) -> Result<(Gateway, Listening)> {
    let section = &config.gateway;
    let mut gateway = GatewayConfig::default()
        .with_listen(section.http.iter().copied())
        .with_listen_tls(section.https.iter().copied());
    gateway.threads = section.threads;
    let state = RedbConfig::default().with_embedded(GatewayBuilder::store_config());
    let state = RedbStore::open(data.at("gateway.redb"), state).await?;
    let files = CertificateFiles::new(&section.certificates)?;
    let mut builder = Gateway::builder(gateway).with_store(Arc::new(state)).with_secrets(Arc::new(files));
    if let Some(format) = section.access_log {
        let file = AccessFile::open(data.at("logs").join("access.log")).map_err(|error| {
            Error::new(ErrorKind::Unavailable, format!("the access log can't be opened: {error}"))
        })?;
        builder = builder.with_access_log(AccessLog::new(format, file));
    }
    let gateway = builder.start().await?;
    let (http, https) = gateway.addresses().split_at_checked(section.http.len()).unwrap_or_default();
    let listening = Listening { http: http.to_vec(), https: https.to_vec(), ..Listening::default() };
    Ok((gateway, listening))
}

/// Removes artifacts that no revision runs any more. What can't be is tried again at the next start.
async fn forget_artifacts(deployer: &Deployer, sources: &Sources) {
    let forget = async {
        let mut keep: Vec<Digest> = Vec::new();
        for service in deployer.services().await? {
            for revision in deployer.revisions(&service).await? {
                if let Source::Artifact(artifact) = &revision.spec.instance.source {
                    keep.extend(artifact.digest);
                }
            }
        }
        sources.forget_artifacts(&keep).await
    };
    match forget.await {
        Ok(removed) if removed.is_empty() => {}
        Ok(removed) => tracing::info!(count = removed.len(), "artifacts that nothing runs were removed"),
        Err(error) => tracing::warn!(%error, "artifacts that nothing runs could not be removed"),
    }
}

/// The operator's socket, for its owner alone.
fn socket(data: &DataDirectory) -> Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = data.at(SOCKET);
    // The directory's lock is ours: whoever had a socket there is gone.
    data.remove(SOCKET);
    let listener = UnixListener::bind(&path)
        .and_then(|listener| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map(|()| listener)
        })
        .map_err(|error| {
            Error::new(
                ErrorKind::Unavailable,
                format!("the socket {} can't be made: {error}", path.display()),
            )
        })?;
    Ok(listener)
}

/// Listens for TCP; the error names the field of the configuration.
pub(crate) async fn bind(address: SocketAddr, field: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::AddrInUse => ErrorKind::PortInUse,
            std::io::ErrorKind::PermissionDenied => ErrorKind::Unauthorized,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, format!("`{field}`: {address} can't be listened at: {error}"))
    })
}

async fn listener_of(
    section: Option<&EndpointSection>,
    field: &str,
) -> Result<Option<(TcpListener, Tokens)>> {
    let Some(section) = section else { return Ok(None) };
    let path = &section.token_file;
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::new(ErrorKind::NotFound, format!("the tokens in {} can't be read: {error}", path.display()))
    })?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let tokens = Tokens::new(lines.map(SecretValue::new).collect::<Result<Vec<_>>>()?)
        .map_err(|error| error.with_context("file", path.display()))?;
    Ok(Some((bind(section.listen, field).await?, tokens)))
}
