//! Certificates that are in use, loaded when they are first asked for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ews_core::id::CertificateId;
use ews_core::{Error, ErrorKind, Result, Secrets};
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::{mpsc, oneshot};

use super::load;
use super::upstream::Upstream;
use crate::gateway::snapshot::CertificateView;

/// How long a handshake waits for its certificate.
const WAIT: Duration = Duration::from_secs(10);
/// How soon one that could not be loaded is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// When one is looked up again without having been changed: what the reference stands for may have been.
const REFRESH: Duration = Duration::from_secs(3600);
/// How many wait to be loaded.
const QUEUE: usize = 1_024;

/// All certificates of a gateway.
pub(crate) struct Certificates {
    known: Mutex<HashMap<CertificateId, Arc<Place<ServerConfig>>>>,
    most: usize,
    clock: AtomicU64,
    loads: mpsc::Sender<Load>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} certificates", self.known().len())
    }
}

/// One configuration, whatever is known of it.
pub(super) struct Place<T> {
    used: AtomicU64,
    state: Mutex<State<T>>,
    /// Held by the one who loads it.
    turn: tokio::sync::Mutex<()>,
}

impl<T> Default for Place<T> {
    fn default() -> Self {
        let state = State { good: None, bad: None };
        Self { used: AtomicU64::new(0), state: Mutex::new(state), turn: tokio::sync::Mutex::default() }
    }
}

struct State<T> {
    good: Option<Good<T>>,
    /// Which form of it could not be loaded, when, and why.
    bad: Option<(u64, Instant, Arc<str>)>,
}

struct Good<T> {
    uid: u64,
    at: Instant,
    config: Arc<T>,
}

/// Where what was loaded is told.
type Tell<T> = oneshot::Sender<Result<Arc<T>>>;

/// What is to be loaded.
enum Load {
    /// For handshakes with clients.
    Server(Arc<CertificateView>, Tell<ServerConfig>),
    /// For handshakes with endpoints.
    Client(Arc<Upstream>, Tell<ClientConfig>),
}

/// What is to be loaded, for the control thread.
pub(crate) struct Loads {
    receiver: mpsc::Receiver<Load>,
    secrets: load::Source,
    loader: load::Loader,
}

impl Certificates {
    /// At most so many are kept.
    pub(crate) fn new(most: usize, secrets: Option<Arc<dyn Secrets>>) -> Result<(Self, Loads)> {
        let (loads, receiver) = mpsc::channel(QUEUE);
        let certificates = Self { known: Mutex::default(), most, clock: AtomicU64::new(0), loads };
        Ok((certificates, Loads { receiver, secrets, loader: load::Loader::new()? }))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<CertificateId, Arc<Place<ServerConfig>>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a handshake with this certificate needs.
    pub(crate) async fn get(&self, certificate: &Arc<CertificateView>) -> Result<Arc<ServerConfig>> {
        let place = self.place(&certificate.id);
        let load = |tell| Load::Server(certificate.clone(), tell);
        self.loaded(&place, certificate.uid, certificate.id.as_str(), load).await
    }

    /// What a handshake with an endpoint of this pool needs.
    pub(crate) async fn client(&self, upstream: &Arc<Upstream>) -> Result<Arc<ClientConfig>> {
        let load = |tell| Load::Client(upstream.clone(), tell);
        self.loaded(&upstream.place, upstream.uid, upstream.pool.as_str(), load).await
    }

    async fn loaded<T>(
        &self,
        place: &Place<T>,
        uid: u64,
        name: &str,
        load: impl FnOnce(Tell<T>) -> Load,
    ) -> Result<Arc<T>> {
        if let Some(found) = place.found(uid)? {
            return Ok(found);
        }
        let _turn = place.turn.lock().await;
        // Whoever had the turn before has done it.
        if let Some(found) = place.found(uid)? {
            return Ok(found);
        }
        let (tell, told) = oneshot::channel();
        let load = load(tell);
        let late = || Error::new(ErrorKind::Timeout, "the certificate was not loaded in time");
        let loaded = match self.loads.try_send(load) {
            Ok(()) => match tokio::time::timeout(WAIT, told).await {
                Ok(Ok(loaded)) => loaded,
                _ => Err(late()),
            },
            Err(_) => Err(late()),
        };
        let mut state = place.state();
        match loaded {
            Ok(config) => {
                state.good = Some(Good { uid, at: Instant::now(), config: config.clone() });
                state.bad = None;
                Ok(config)
            }
            Err(error) => {
                // A reference without a value: neither can a log line give one away.
                tracing::warn!(certificate = name, %error, "a certificate could not be loaded");
                state.bad = Some((uid, Instant::now(), error.to_string().into()));
                match &state.good {
                    Some(good) => Ok(good.config.clone()),
                    None => Err(error),
                }
            }
        }
    }

    fn place(&self, id: &CertificateId) -> Arc<Place<ServerConfig>> {
        let mut known = self.known();
        let place = match known.get(id) {
            Some(place) => place.clone(),
            None => {
                if known.len() >= self.most {
                    forget(&mut known, self.most);
                }
                known.entry(id.clone()).or_default().clone()
            }
        };
        place.used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        place
    }
}

/// Forgets those that were not used for longest, a tenth at once, so that it is not done at each handshake.
fn forget(known: &mut HashMap<CertificateId, Arc<Place<ServerConfig>>>, most: usize) {
    let mut times: Vec<u64> = known.values().map(|place| place.used.load(Ordering::Relaxed)).collect();
    times.sort_unstable();
    let Some(limit) = times.get(most / 10).copied() else { return };
    known.retain(|_, place| place.used.load(Ordering::Relaxed) > limit);
}

impl<T> Place<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is there for this form of it; `None` where it is to be loaded.
    fn found(&self, uid: u64) -> Result<Option<Arc<T>>> {
        let state = self.state();
        if let Some(good) = state.good.as_ref().filter(|good| good.uid == uid && good.at.elapsed() < REFRESH)
        {
            return Ok(Some(good.config.clone()));
        }
        match (&state.bad, &state.good) {
            (Some((bad, at, why)), good) if *bad == uid && at.elapsed() < AGAIN => match good {
                Some(good) => Ok(Some(good.config.clone())),
                None => Err(Error::new(
                    ErrorKind::Unavailable,
                    format!("the certificate could not be loaded: {why}"),
                )),
            },
            _ => Ok(None),
        }
    }
}

impl Loads {
    /// Loads what is asked for, each by itself, until nobody can ask any more.
    pub(crate) async fn run(mut self) {
        let loader = Arc::new(self.loader);
        while let Some(load) = self.receiver.recv().await {
            let (secrets, loader) = (self.secrets.clone(), loader.clone());
            // Whoever asked may have gone.
            tokio::task::spawn_local(async move {
                match load {
                    Load::Server(certificate, tell) => {
                        let _ = tell.send(loader.load(&certificate, &secrets).await);
                    }
                    Load::Client(upstream, tell) => {
                        let _ = tell.send(loader.load_client(&upstream, &secrets).await);
                    }
                }
            });
        }
    }
}
