//! The host: how the SDK's parts are put together, started, served and ended.
//!
//! What runs, runs on when the host ends: instances are no children of it, and its records say what is wanted. So a start is a
//! take-over in any case, after an orderly end, after a kill and after a reboot: the runtime finds what runs, the gateway serves at
//! once what it served, and the deployer fills what is missing.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ews_core::bus::Bus;
use ews_core::event::Notice;
use ews_core::http::{Access, Tokens};
use ews_core::secrets::{FileSecrets, SecretsByProvider};
use ews_core::store::{RedbConfig, RedbStore};
use ews_core::{Balancer, Clock as _, Error, ErrorKind, Metrics, Result, Secrets, Selector, SystemClock};
use ews_deploy::{DeployConfig, DeployParts, Deployer};
use ews_monitor::{Alerts, Collection, LiveConfig, LiveStore, LogNotifier, Relay, RuntimeCollector};
use ews_route::{AccessFile, AccessLog, Gateway, GatewayBuilder, GatewayConfig};
use ews_scale::Autoscaler;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::api::wire::{Happening, HostEvent, HostView, Listening};
use crate::api::{self, Api, ApiParts, words};
use crate::artifacts::Artifacts;
use crate::certificates::{CertificateFiles, Certified};
use crate::config::{EndpointSection, HostConfig};
use crate::data::DataDirectory;
use crate::ground::Ground;
use crate::notify::Starter;
use crate::serving::{self, Door};
use crate::{files, intake};

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

/// A host that serves.
struct Running {
    gateway: Gateway,
    deployer: Deployer,
    work: JoinSet<()>,
    listening: Listening,
    /// Set when the host ends, for those who ask.
    ending: Arc<AtomicBool>,
}

/// Runs a host until `stop` is done, then ends it in order. Where that is done before it serves, it ends at once: nothing that a successor
/// does not find was begun.
///
/// # Errors
/// What keeps it from starting; once it runs, none.
pub(crate) async fn serve(
    config: HostConfig,
    data: DataDirectory,
    ready: impl FnOnce(&Listening),
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let starter = Starter::of_environment();
    tokio::pin!(stop);
    let started = tokio::select! {
        biased;
        () = &mut stop => None,
        started = Box::pin(start(&config, &data)) => Some(started?),
    };
    let Some(Running { gateway, deployer, mut work, listening, ending }) = started else {
        tracing::info!("ending before it has served");
        starter.stopping();
        data.remove(SOCKET);
        return Ok(());
    };
    // It says where the host listens, to people; nothing that runs is left alone for it where the disk is full.
    let text = serde_json::to_vec(&listening).unwrap_or_default();
    if let Err(error) = data.write(HOST_FILE, &text) {
        tracing::warn!(%error, "nobody can read where the host listens");
    }
    ready(&listening);
    starter.ready(&format!("serving {}", listening.traffic()));
    stop.await;

    tracing::info!("ending: instances run on");
    ending.store(true, Ordering::Relaxed);
    starter.stopping();
    // Whoever asks meanwhile is answered; streams have no end of their own.
    let leaving = timeout(config.drain.max(ANSWERS), deployer.leave());
    let (left, _) = tokio::join!(gateway.shutdown(config.drain), leaving);
    data.remove(HOST_FILE);
    data.remove(SOCKET);
    work.shutdown().await;
    if left > 0 {
        tracing::warn!(connections = left, "connections were closed before they had ended");
    }
    Ok(())
}

/// What the host would refuse at its start of the files that its configuration names.
///
/// # Errors
/// The first that can't be used, by the field that names it.
pub(crate) fn check_files(config: &HostConfig) -> Result<()> {
    CertificateFiles::new(&config.gateway.certificates)?;
    tokens_of(config.api.tcp.as_ref(), "api.tcp.token_file")?;
    tokens_of(config.gateway.admin.as_ref(), "gateway.admin.token_file")?;
    Ok(())
}

async fn start(config: &HostConfig, data: &DataDirectory) -> Result<Running> {
    // What a person has to mend is found before anything is opened.
    let api_tokens = tokens_of(config.api.tcp.as_ref(), "api.tcp.token_file")?;
    let admin_tokens = tokens_of(config.gateway.admin.as_ref(), "gateway.admin.token_file")?;
    let files: Arc<dyn Secrets> = Arc::new(FileSecrets::new(data.at("secrets"))?);
    let secrets: Arc<dyn Secrets> =
        Arc::new(SecretsByProvider::new().with("file", Arc::clone(&files))?.with_default(files));
    let owner = config.owner()?;
    let Ground { runtime, sources } = Ground::open(config, data, &secrets).await?;
    let store = Arc::new(RedbStore::open(data.at("store.redb"), RedbConfig::default()).await?);
    let (gateway, routes) = gateway(config, data).await?;
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
    let (mut told, mut work) = (deployer.events_since_start(), JoinSet::new());
    let artifacts =
        Artifacts { directory: data.at("artifacts"), deployer: deployer.clone(), sources: sources.clone() };
    artifacts.forget().await;

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
            Some(intake::open(section, data, &deployer, Arc::clone(&secrets), sources.clone()).await?)
        }
        None => None,
    };
    listening.intake = opened.as_ref().and_then(|opened| opened.listener.local_addr().ok());
    let tcp = listener_of(config.api.tcp.as_ref(), api_tokens, "api.tcp.listen").await?;
    listening.api = tcp.as_ref().and_then(|(listener, _)| listener.local_addr().ok());
    let admin = listener_of(config.gateway.admin.as_ref(), admin_tokens, "gateway.admin.listen").await?;
    listening.admin = admin.as_ref().and_then(|(listener, _)| listener.local_addr().ok());
    listening.socket = data.at(SOCKET);
    let socket = socket(data)?;

    let host = HostView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        name: owner.to_string(),
        runtime: config.runtime.as_str().to_owned(),
        pid: std::process::id(),
        data: data.path().to_owned(),
        listening: listening.clone(),
        since: SystemClock.now(),
        ending: false,
    };
    let ending = Arc::new(AtomicBool::new(false));
    let api = Api::new(ApiParts {
        deployer: deployer.clone(),
        runtime: Arc::clone(&runtime),
        sources,
        live,
        bus: bus.clone(),
        host,
        ending: Arc::clone(&ending),
        kind: config.runtime,
    });
    let by_socket = api::router(&api, Access::Open, "operator")?;
    work.spawn(serving::serve(Door::Unix(socket), by_socket));
    if let Some((listener, tokens)) = tcp {
        let router = api::router(&api, Access::Tokens(tokens), "operator (token)")?;
        work.spawn(serving::serve(Door::Tcp(listener), router));
    }
    if let Some((listener, tokens)) = admin {
        let router = ews_route::admin::router(&gateway, Access::Tokens(tokens))?;
        work.spawn(serving::serve(Door::Tcp(listener), router));
    }
    if let Some(opened) = opened {
        work.spawn(serving::serve(Door::Tcp(opened.listener), opened.router));
        work.spawn(async move { opened.intake.run().await });
    }
    let never = std::future::pending::<()>;
    work.spawn(async move { collection.run(never()).await });
    work.spawn(async move { autoscaler.run(never()).await });
    work.spawn(async move { alerts.run(never()).await });
    work.spawn(artifacts.keep_small());
    let telling = bus.clone();
    work.spawn(async move {
        while let Some(notice) = told.next().await {
            let Notice::Event(event) = notice else {
                tracing::warn!("more happened at once than is kept: some events are missing");
                continue;
            };
            let event = event.event;
            let (at, service, text) = (event.at, Some(event.service.clone()), words::of(&event));
            telling.publish(HostEvent { at, service, text, what: Happening::Deploy(Box::new(event)) });
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

    Ok(Running { gateway, deployer, work, listening, ending })
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

/// The operator's socket, for its owner alone.
fn socket(data: &DataDirectory) -> Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = data.at(SOCKET);
    // Made where nobody else may look and put in its place when it is its owner's alone; whoever had a socket there is gone, since the
    // directory's lock is ours.
    let made = data.at("scratch").join(SOCKET);
    let _ = std::fs::remove_file(&made);
    UnixListener::bind(&made)
        .and_then(|listener| {
            std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o600))?;
            std::fs::rename(&made, &path)?;
            Ok(listener)
        })
        .map_err(|error| {
            let advice = if error.kind() == std::io::ErrorKind::InvalidInput {
                "; a socket's path has at most 107 bytes, so name a shorter directory with `--data`"
            } else {
                ""
            };
            Error::new(
                ErrorKind::Unavailable,
                format!("the socket {} can't be made: {error}{advice}", path.display()),
            )
        })
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

/// The tokens of an endpoint that is configured; the error names the field of the configuration.
fn tokens_of(section: Option<&EndpointSection>, field: &str) -> Result<Option<Tokens>> {
    let Some(section) = section else { return Ok(None) };
    files::tokens(&section.token_file)
        .map(Some)
        .map_err(|error| Error::new(error.kind(), format!("`{field}`: {}", error.message())))
}

async fn listener_of(
    section: Option<&EndpointSection>,
    tokens: Option<Tokens>,
    field: &str,
) -> Result<Option<(TcpListener, Tokens)>> {
    match section.zip(tokens) {
        Some((section, tokens)) => Ok(Some((bind(section.listen, field).await?, tokens))),
        None => Ok(None),
    }
}
