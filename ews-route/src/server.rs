//! A gateway as a process: its configuration as a document, its state on disk, its admin endpoint, its orderly end.
//!
//! The program `ews-gateway` is this and a signal handler. An embedder that wants the gateway as a process of its own without
//! a second program calls [`run`] from its own `main`, under a subcommand of its own:
//!
//! ```no_run
//! use ews_route::server::{self, ServerConfig};
//!
//! # async fn gateway_process() -> ews_core::Result<()> {
//! let text = std::fs::read_to_string("gateway.toml").expect("a configuration");
//! let config = ServerConfig::from_toml(&text)?;
//! server::run(config, |bound| println!("{bound}"), std::future::pending()).await?;
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ews_core::http::{Access, Tokens};
use ews_core::store::{RedbConfig, RedbStore};
use ews_core::time::duration;
use ews_core::{Error, ErrorKind, Result, SecretValue};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, oneshot};

#[cfg(unix)]
use crate::handover;
use crate::{AccessFile, AccessFormat, AccessLog, Gateway, GatewayBuilder, GatewayConfig, admin};

/// The configuration of a gateway process.
///
/// ```
/// use ews_route::server::ServerConfig;
///
/// let config = ServerConfig::from_toml(
///     r#"
///     admin = "127.0.0.1:7070"
///     token_file = "/etc/ews/tokens"
///     state = "/var/lib/ews/gateway.redb"
///     access_log = "/var/log/ews/access.log"
///     drain = "30s"
///
///     [gateway]
///     listen = ["0.0.0.0:80"]
///     listen_tcp = [{ address = "0.0.0.0:6379", host = "redis.tcp" }]
///
///     [gateway.limits]
///     connections_per_client = 200
///
///     [gateway.timeouts]
///     response = "10s"
///
///     [gateway.forwarding]
///     trusted = ["10.0.0.0/8"]
///     trace_context = true
///     "#,
/// )?;
/// config.gateway.check()?;
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerConfig {
    /// The gateway itself. One that listens nowhere is of no use but to a test.
    pub gateway: GatewayConfig,
    /// Where the admin endpoint listens. Default: nowhere, and then nothing can be changed.
    pub admin: Option<SocketAddr>,
    /// The file that holds the admin endpoint's tokens, one a line, each of at least 16 bytes. Needed where that listens.
    pub token_file: Option<PathBuf>,
    /// The directory whose files hold the chains and keys of certificates, as references name them. Without one no certificate
    /// can be loaded. It takes the feature `tls`. Default: none.
    pub secrets: Option<PathBuf>,
    /// The file of the embedded store that keeps what was applied. Default: none, and a new process knows nothing.
    pub state: Option<PathBuf>,
    /// Where the bound addresses are written as JSON once all listen; the file appears whole, and goes at the end. Default: nowhere.
    pub addresses_file: Option<PathBuf>,
    /// The Unix socket where a successor asks to take over without a refused connection, and where this process asks whoever
    /// is there when it starts; see `handover`. Default: none, and on Unix only.
    pub handover: Option<PathBuf>,
    /// The access log: a file that others may rotate. Default: none.
    pub access_log: Option<PathBuf>,
    /// How its lines look. Default: JSON.
    pub access_format: AccessFormat,
    /// How long requests under way may take at the end. Default 30 s (Kubernetes' grace period).
    #[serde(with = "duration")]
    pub drain: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            gateway: GatewayConfig::default(),
            admin: None,
            token_file: None,
            secrets: None,
            state: None,
            addresses_file: None,
            handover: None,
            access_log: None,
            access_format: AccessFormat::default(),
            drain: Duration::from_secs(30),
        }
    }
}

impl ServerConfig {
    /// Reads a TOML document. Unknown fields are refused.
    ///
    /// # Errors
    /// `Invalid`, saying what is wrong and where.
    pub fn from_toml(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let place = error.span().map(|span| place(text, span.start)).unwrap_or_default();
            Error::invalid(format!("the configuration can't be read{place}: {}", error.message().trim_end()))
        })
    }

    /// Refuses what can't work. What is in the files that it names shows when it is started.
    ///
    /// # Errors
    /// `Invalid`, naming the field and what is accepted; `Unsupported` for what this build or this system lacks.
    pub fn check(&self) -> Result<()> {
        self.gateway.check()?;
        if self.admin.is_some() && self.token_file.is_none() {
            return Err(Error::invalid("an admin endpoint without tokens; accepted: one with `token_file`")
                .with_context("field", "token_file"));
        }
        if self.handover.is_some() && !cfg!(unix) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "`handover` gives open sockets away, which this system can't; accepted: none",
            )
            .with_context("field", "handover"));
        }
        if self.secrets.is_some() && !cfg!(feature = "tls") {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "`secrets` hold certificates, and this gateway is built without TLS; accepted: none, or ews-route's feature `tls`",
            )
            .with_context("field", "secrets"));
        }
        Ok(())
    }

    /// With this gateway.
    #[must_use]
    pub fn with_gateway(mut self, gateway: GatewayConfig) -> Self {
        self.gateway = gateway;
        self
    }

    /// With the admin endpoint at this address, for whoever has a token of this file.
    #[must_use]
    pub fn with_admin(mut self, address: SocketAddr, token_file: impl Into<PathBuf>) -> Self {
        (self.admin, self.token_file) = (Some(address), Some(token_file.into()));
        self
    }

    /// With certificates and keys from files of this directory.
    #[must_use]
    pub fn with_secrets(mut self, directory: impl Into<PathBuf>) -> Self {
        self.secrets = Some(directory.into());
        self
    }

    /// Keeping what was applied in this file.
    #[must_use]
    pub fn with_state(mut self, state: impl Into<PathBuf>) -> Self {
        self.state = Some(state.into());
        self
    }

    /// Writing the bound addresses to this file.
    #[must_use]
    pub fn with_addresses_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.addresses_file = Some(file.into());
        self
    }

    /// Taking over from whoever offers itself at this socket, and offering itself there.
    #[must_use]
    pub fn with_handover(mut self, socket: impl Into<PathBuf>) -> Self {
        self.handover = Some(socket.into());
        self
    }

    /// With lines of the access log in this file.
    #[must_use]
    pub fn with_access_log(mut self, file: impl Into<PathBuf>, format: AccessFormat) -> Self {
        (self.access_log, self.access_format) = (Some(file.into()), format);
        self
    }

    /// With so much time for requests under way at the end.
    #[must_use]
    pub fn with_drain(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }
}

/// Where a gateway process listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Addresses {
    /// For traffic.
    pub http: Vec<SocketAddr>,
    /// For traffic within TLS.
    #[serde(default)]
    pub https: Vec<SocketAddr>,
    /// For TCP.
    #[serde(default)]
    pub tcp: Vec<SocketAddr>,
    /// For the admin endpoint.
    pub admin: Option<SocketAddr>,
}

impl Addresses {
    /// Reads what a gateway process wrote; `None` while it is not there.
    ///
    /// # Errors
    /// `Corrupt` for a file that is something else; `Unavailable` where it can't be read.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io("the addresses can't be read", path, error)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            Error::new(ErrorKind::Corrupt, "the file of addresses holds something else")
                .with_context("file", path.display())
                .with_source(error)
        })
    }

    fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec(self)
            .map_err(|error| Error::internal("addresses can't be written as JSON").with_source(error))?;
        let mut partial = path.as_os_str().to_owned();
        partial.push(".new");
        let partial = PathBuf::from(partial);
        std::fs::write(&partial, text)
            .and_then(|()| std::fs::rename(&partial, path))
            .map_err(|error| io("the addresses can't be written", path, error))
    }
}

/// One line per address, such as `http 127.0.0.1:8080`.
impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.http.iter().map(|address| ("http", address));
        let all = all.chain(self.https.iter().map(|address| ("https", address)));
        let all = all.chain(self.tcp.iter().map(|address| ("tcp", address)));
        let all = all.chain(self.admin.iter().map(|address| ("admin", address)));
        for (at, (what, address)) in all.enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{what} {address}")?;
        }
        Ok(())
    }
}

/// A gateway with its admin endpoint, running.
#[derive(Debug)]
pub struct Server {
    gateway: Gateway,
    addresses: Addresses,
    admin: Option<AdminThread>,
    store: Option<StateFile>,
    #[cfg(unix)]
    successors: Option<handover::Successors>,
    addresses_file: Option<PathBuf>,
    drain: Duration,
}

impl Server {
    /// Starts everything, and returns once all listens and what was applied before is served.
    ///
    /// # Errors
    /// Those of [`ServerConfig::check`], of [`GatewayBuilder::start`](crate::GatewayBuilder::start), of the store, and of the files.
    pub async fn start(config: ServerConfig) -> Result<Self> {
        config.check()?;
        let ServerConfig {
            gateway,
            admin,
            token_file,
            secrets,
            state,
            addresses_file,
            handover: socket,
            access_log,
            access_format,
            drain,
        } = config;
        #[cfg(not(unix))]
        let _ = socket;
        let (plain, secured) = (gateway.listen.len(), gateway.listen_tls.len());
        let tokens = token_file.filter(|_| admin.is_some()).map(|file| tokens(&file)).transpose()?;
        // From here on whoever is there waits for us, its store closed.
        #[cfg(unix)]
        let mut predecessor = match &socket {
            Some(path) => handover::Predecessor::ask(path, &gateway.name).await?,
            None => None,
        };
        #[cfg(unix)]
        let inherited = match (admin, &mut predecessor) {
            (Some(address), Some(predecessor)) => predecessor.take(address).pop(),
            _ => None,
        };
        #[cfg(not(unix))]
        let inherited = None;
        let mut builder = Gateway::builder(gateway);
        #[cfg(feature = "tls")]
        if let Some(directory) = secrets {
            builder = builder.with_secrets(Arc::new(ews_core::secrets::FileSecrets::new(directory)?));
        }
        #[cfg(not(feature = "tls"))]
        drop(secrets);
        if let Some(path) = access_log {
            builder = builder.with_access_log(AccessLog::new(access_format, AccessFile::open(path)?));
        }
        let mut store = None;
        if let Some(path) = state {
            let file = StateFile { path, store: Arc::default() };
            builder = builder.with_store(file.open_now().await?);
            store = Some(file);
        }
        #[cfg(unix)]
        if let Some(predecessor) = predecessor {
            builder = builder.with_predecessor(predecessor);
        }
        let gateway = builder.start().await?;
        let (http, others) = gateway.addresses().split_at_checked(plain).unwrap_or_default();
        let (https, tcp) = others.split_at_checked(secured).unwrap_or_default();
        let mut addresses =
            Addresses { http: http.to_vec(), https: https.to_vec(), tcp: tcp.to_vec(), admin: None };
        let mut serving = None;
        if let (Some(address), Some(tokens)) = (admin, tokens) {
            let router = admin::router(&gateway, Access::Tokens(tokens))?;
            let bound = inherited.map_or_else(|| TcpListener::bind(address), Ok);
            let listener = bound.map_err(|error| {
                let kind = match error.kind() {
                    std::io::ErrorKind::AddrInUse => ErrorKind::PortInUse,
                    _ => ErrorKind::Unavailable,
                };
                Error::new(kind, "the admin address can't be listened at")
                    .with_context("address", address)
                    .with_source(error)
            })?;
            addresses.admin = listener.local_addr().ok();
            serving = Some(AdminThread::start(listener, router)?);
        }
        if let Some(file) = &addresses_file {
            addresses.write(file)?;
        }
        Ok(Self {
            gateway,
            addresses,
            admin: serving,
            store,
            #[cfg(unix)]
            successors: socket.map(handover::Successors::bind).transpose()?,
            addresses_file,
            drain,
        })
    }

    /// Serves until `shutdown` is done or a successor has taken over, and ends. Returns how many connections were closed by
    /// force.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> usize {
        #[cfg(unix)]
        let (mut shutdown, mut server) = (std::pin::pin!(shutdown), self);
        #[cfg(not(unix))]
        let server = self;
        #[cfg(unix)]
        while let Some(successors) = &mut server.successors {
            let successor = tokio::select! {
                () = &mut shutdown => return server.stop().await,
                successor = successors.next() => successor,
            };
            let outcome = match successor {
                Ok(successor) => successor.take_over(&server.gateway, server.how()).await,
                Err(error) => {
                    server.successors = None;
                    Err(error)
                }
            };
            match outcome {
                Ok(handover::HandoverOutcome::Taken { closed }) => return server.taken(closed).await,
                Ok(handover::HandoverOutcome::Kept(reason)) => {
                    tracing::warn!(error = %reason, "a successor did not take over");
                }
                Err(error) => tracing::error!(%error, "a hand-over failed"),
            }
        }
        shutdown.await;
        server.stop().await
    }

    /// How it is handed over.
    #[cfg(unix)]
    fn how(&self) -> handover::Handover {
        let mut how = handover::Handover::default().with_drain(self.drain);
        if let Some(store) = &self.store {
            how = how.with_store(store.clone());
        }
        if let Some(admin) = &self.admin {
            match admin.listener.try_clone() {
                Ok(listener) => how = how.with_listener(listener),
                Err(error) => tracing::warn!(%error, "the admin endpoint's socket can't be given away"),
            }
            let retired = admin.retired.clone();
            how = how.with_taken(move || retired.notify_one());
        }
        how
    }

    /// Ends after a successor has taken over. The file of addresses is the successor's.
    #[cfg(unix)]
    async fn taken(self, closed: usize) -> usize {
        if let Some(admin) = self.admin {
            admin.stop().await;
        }
        closed
    }

    /// The gateway.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Ends: what is under way is finished, at most for the configured time. The admin endpoint answers until then, so that a
    /// drain can still be watched. Returns how many connections were closed by force.
    pub async fn stop(self) -> usize {
        if let Some(file) = &self.addresses_file {
            // It says where nobody listens any more.
            let _ = std::fs::remove_file(file);
        }
        let left = self.gateway.shutdown(self.drain).await;
        if let Some(admin) = self.admin {
            admin.stop().await;
        }
        drop(self.gateway);
        if let Some(store) = self.store {
            store.close_now().await;
        }
        left
    }
}

/// The file that keeps what was applied, open or not.
#[derive(Debug, Clone)]
struct StateFile {
    path: PathBuf,
    store: Arc<Mutex<Option<Arc<RedbStore>>>>,
}

impl StateFile {
    fn store(&self) -> MutexGuard<'_, Option<Arc<RedbStore>>> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open_now(&self) -> Result<Arc<RedbStore>> {
        let config = RedbConfig::default().with_embedded(GatewayBuilder::store_config());
        let opened = Arc::new(RedbStore::open(&self.path, config).await?);
        *self.store() = Some(opened.clone());
        Ok(opened)
    }

    async fn close_now(&self) {
        let store = self.store().take();
        if let Some(store) = store {
            close(store).await;
        }
    }
}

#[cfg(unix)]
#[async_trait::async_trait]
impl handover::KeptStore for StateFile {
    async fn close(&mut self) {
        self.close_now().await;
    }

    async fn open(&mut self) -> Result<Arc<dyn ews_core::Store>> {
        let store = self.open_now().await?;
        Ok(store)
    }
}

/// Closes the store once the gateway's threads have let it go, so that a successor in this process can open it.
async fn close(mut store: Arc<RedbStore>) {
    for _ in 0..200 {
        match Arc::try_unwrap(store) {
            Ok(store) => {
                if let Err(error) = store.close().await {
                    tracing::warn!(%error, "the store was not closed as it should be");
                }
                return;
            }
            Err(shared) => store = shared,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The admin endpoint, on a runtime of its own: with it end all its connections, watches among them.
#[derive(Debug)]
struct AdminThread {
    /// Its listening socket once more, for a successor.
    #[cfg(unix)]
    listener: TcpListener,
    /// It accepts nothing more, and finishes what is under way.
    #[cfg(unix)]
    retired: Arc<Notify>,
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl AdminThread {
    fn start(listener: TcpListener, router: axum::Router) -> Result<Self> {
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::OutOfResources, "the admin endpoint could not be started")
                .with_source(error)
        };
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        listener.set_nonblocking(true).map_err(failed)?;
        #[cfg(unix)]
        let kept = listener.try_clone().map_err(failed)?;
        let retired = Arc::new(Notify::new());
        let retires = retired.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let serve = async move {
            let served = async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let retires = async move { retires.notified().await };
                axum::serve(listener, router).with_graceful_shutdown(retires).await
            };
            tokio::select! {
                result = served => if let Err(error) = result {
                    tracing::error!(%error, "the admin endpoint ended");
                },
                // Also where nobody holds the server any more. One that has retired is let go by its connections.
                _ = stopped => {}
            }
        };
        let work = move || {
            runtime.block_on(serve);
            drop(runtime);
            let _ = end.send(());
        };
        std::thread::Builder::new().name("ews-route-admin".to_owned()).spawn(work).map_err(failed)?;
        Ok(Self {
            #[cfg(unix)]
            listener: kept,
            #[cfg(unix)]
            retired,
            stop,
            ended,
        })
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.ended.await;
    }
}

/// Runs a gateway process: starts everything, tells where it listens, serves until `shutdown` is done or a successor has taken
/// over, and ends.
///
/// # Errors
/// Those of [`Server::start`].
pub async fn run(
    config: ServerConfig,
    ready: impl FnOnce(&Addresses),
    shutdown: impl Future<Output = ()>,
) -> Result<usize> {
    let server = Server::start(config).await?;
    ready(server.addresses());
    Ok(server.serve(shutdown).await)
}

fn tokens(file: &Path) -> Result<Tokens> {
    let text = std::fs::read_to_string(file).map_err(|error| io("the tokens can't be read", file, error))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let all = lines.map(SecretValue::new).collect::<Result<Vec<_>>>().and_then(Tokens::new);
    all.map_err(|error| error.with_context("file", file.display()))
}

/// Where in a text a byte is, for people.
fn place(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!(" (line {line}, column {column})")
}

fn io(what: &'static str, path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, what).with_context("file", path.display()).with_source(error)
}
