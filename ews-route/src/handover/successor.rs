//! The one after, as its predecessor has it.

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use ews_core::balancer::{Change, GatewayView, ObjectKind, ObserveQuery, Outcome as Prepared};
use ews_core::store::Store;
use ews_core::{Error, ErrorKind, Result, detach};
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

use super::VERSION;
use super::channel::{self, Channel, confused};
use super::message::{Asks, Tells};
use super::relay::Tenure;
use crate::gateway::{Core, Gateway};

/// How long the first word of a successor may take.
const FIRST: Duration = Duration::from_secs(5);
/// How often it is looked whether there is something new to tell a successor that serves.
const LOOK: Duration = Duration::from_millis(50);
/// How much of the table goes into one message.
const DOMAINS: usize = 2_000;
/// The same for larger objects.
const OBJECTS: usize = 8;
/// The pause before a store is tried again that another process has still open.
const PAUSE: Duration = Duration::from_millis(100);

/// Where successors ask.
#[derive(Debug)]
pub struct Successors {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
    /// What is at the path is a successor's.
    is_taken: Arc<AtomicBool>,
}

impl Successors {
    /// Listens at `path`, for this user and root. What is there goes: a predecessor does not offer itself any more, and what a
    /// crash left is nobody's.
    ///
    /// # Errors
    /// `Invalid` for a path that is too long for a socket; `Unavailable` where it can't be made there.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn bind(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let failed = |error: io::Error| {
            let kind = match error.kind() {
                io::ErrorKind::InvalidInput => ErrorKind::Invalid,
                _ => ErrorKind::Unavailable,
            };
            Error::new(kind, "the socket for a successor can't be made")
                .with_operation("handover.bind")
                .with_context("path", path.display())
                .with_source(error)
        };
        // It appears when it is whole: nobody finds one that does not listen yet, or that others may open.
        let mut partial = path.as_os_str().to_owned();
        partial.push(format!(".{}", std::process::id()));
        let partial = PathBuf::from(partial);
        let _ = std::fs::remove_file(&partial);
        let listener = UnixListener::bind(&partial).map_err(failed)?;
        let made = std::fs::set_permissions(&partial, std::fs::Permissions::from_mode(0o600))
            .and_then(|()| std::fs::rename(&partial, &path))
            .and_then(|()| inode(&path));
        match made {
            Ok(inode) => Ok(Self { listener, path, inode, is_taken: Arc::default() }),
            Err(error) => {
                let _ = std::fs::remove_file(&partial);
                Err(failed(error))
            }
        }
    }

    /// Waits for somebody who wants to take over.
    ///
    /// # Errors
    /// `Unavailable` where nobody can come any more.
    pub async fn next(&mut self) -> Result<Successor> {
        loop {
            let (stream, _) = self.listener.accept().await.map_err(|error| {
                Error::new(ErrorKind::Unavailable, "successors can't be heard").with_source(error)
            })?;
            match Channel::new(stream) {
                Ok(channel) => return Ok(Successor { channel, is_taken: self.is_taken.clone() }),
                Err(error) => tracing::warn!(%error, "somebody else asked to take over"),
            }
        }
    }
}

impl Drop for Successors {
    fn drop(&mut self) {
        // A successor may be putting its own there just now; what somebody else put there stays too.
        if !self.is_taken.load(Ordering::Acquire) && inode(&self.path).is_ok_and(|found| found == self.inode)
        {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

/// A store that has to be closed before a successor can open it, such as one in a file. What is added to this trait later has a default.
#[async_trait]
pub trait KeptStore: Send {
    /// Closes it. The gateway does not hold it any more.
    async fn close(&mut self);

    /// Opens it again: the successor did not take over.
    ///
    /// # Errors
    /// Those of the store. It is tried again.
    async fn open(&mut self) -> Result<Arc<dyn Store>>;
}

/// How a gateway is handed over.
#[non_exhaustive]
pub struct Handover {
    /// How long requests under way may take once the successor serves. Default 30 s (Kubernetes' grace period).
    pub drain: Duration,
    /// How long the successor may take until it serves. Default 2 minutes: a million domains take some 10 s.
    pub patience: Duration,
    /// Further listening sockets that it is given. Default: none.
    pub listeners: Vec<std::net::TcpListener>,
    /// The gateway's store, where one process at a time can have it. Default: none, for stores that several can.
    pub store: Option<Box<dyn KeptStore>>,
    /// Is called when the successor serves, before what is under way is waited for. Default: nothing.
    pub taken: Option<Box<dyn FnOnce() + Send>>,
}

impl std::fmt::Debug for Handover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handover")
            .field("drain", &self.drain)
            .field("patience", &self.patience)
            .field("listeners", &self.listeners)
            .finish_non_exhaustive()
    }
}

impl Default for Handover {
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(30),
            patience: Duration::from_secs(120),
            listeners: Vec::new(),
            store: None,
            taken: None,
        }
    }
}

impl Handover {
    /// With so much time for requests under way.
    #[must_use]
    pub fn with_drain(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// With so much time for the successor to begin.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Giving this listening socket too.
    #[must_use]
    pub fn with_listener(mut self, listener: std::net::TcpListener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Closing this store before, and opening it again where nothing comes of it.
    #[must_use]
    pub fn with_store(mut self, store: impl KeptStore + 'static) -> Self {
        self.store = Some(Box::new(store));
        self
    }

    /// Calling this when the successor serves.
    #[must_use]
    pub fn with_taken(mut self, taken: impl FnOnce() + Send + 'static) -> Self {
        self.taken = Some(Box::new(taken));
        self
    }
}

/// What came of handing over.
#[derive(Debug)]
#[non_exhaustive]
pub enum HandoverOutcome {
    /// The successor serves, and this gateway has ended.
    Taken {
        /// How many connections were closed at the end of the time for them.
        closed: usize,
    },
    /// This gateway serves as before, for this reason.
    Kept(Error),
}

/// Somebody who wants to take over. Dropping it refuses.
#[derive(Debug)]
pub struct Successor {
    channel: Channel,
    is_taken: Arc<AtomicBool>,
}

impl Successor {
    /// Hands over to it. Returns when this gateway has ended, or goes on. Dropping the future changes nothing: what was begun is
    /// brought to its end.
    ///
    /// # Errors
    /// `Unavailable` where the successor did not come to serve and the store could not be opened again: the gateway goes on
    /// serving what was applied and can't be changed. `Stale` where the gateway was handed over before.
    pub async fn take_over(self, gateway: &Gateway, how: Handover) -> Result<HandoverOutcome> {
        let gateway = gateway.clone();
        detach(async move { self.hand_over(&gateway, how).await }).await
    }

    async fn hand_over(mut self, gateway: &Gateway, mut how: Handover) -> Result<HandoverOutcome> {
        let core = gateway.core();
        let first = tokio::time::timeout(FIRST, self.channel.receive()).await;
        let first =
            first.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "a successor said nothing for 5s")));
        if let Err(refused) = first.and_then(|asks| admitted(core, &asks)) {
            self.refuse(&refused).await;
            return Ok(HandoverOutcome::Kept(refused));
        }
        // No change is under way any more, and the next one waits.
        let mut turn = core.turn.lock().await;
        if *core.relay.tenure.borrow() == Tenure::Ended {
            return Err(Error::new(ErrorKind::Stale, "the gateway was handed over before"));
        }
        let prepared = match core.settle(&mut turn).await {
            Ok(()) => tokio::time::timeout(how.patience, self.prepare(core, &mut how)).await,
            Err(error) => Ok(Err(error)),
        };
        let prepared = prepared.unwrap_or_else(|_| {
            let text = format!("the successor did not serve within {:?}", how.patience);
            Err(Error::new(ErrorKind::Timeout, text))
        });
        if let Err(reason) = prepared {
            self.refuse(&reason).await;
            // It sees the end, and lets go of what it has opened.
            drop(self);
            core.take_back(&mut how).await?;
            return Ok(HandoverOutcome::Kept(reason));
        }
        self.is_taken.store(true, Ordering::Release);
        core.relay.tenure.send_replace(Tenure::Ended);
        drop(turn);
        if let Some(taken) = how.taken.take() {
            taken();
        }
        let drained = async {
            let until = tokio::time::Instant::now() + how.drain;
            let closed = gateway.shutdown(how.drain).await;
            // The one before us is known to nobody but us.
            let _ = tokio::time::timeout_at(until, core.relay.alone()).await;
            closed
        };
        let (mut from, mut to) = self.channel.0.into_split();
        let news = News::default();
        let mut drained = std::pin::pin!(drained);
        let mut relayed = std::pin::pin!(async {
            let first = core.under_way();
            if channel::write(&mut to, &Tells::Draining(first.clone())).await.is_err() {
                return;
            }
            let obeyed = async {
                core.obey(&mut from, &news).await;
                std::future::pending().await
            };
            tokio::select! {
                () = core.tell(&mut to, first, &news) => {}
                () = obeyed => {}
            }
        });
        // What is under way is finished also where the successor is not there to hear of it.
        let mut is_told = false;
        let closed = loop {
            tokio::select! {
                closed = &mut drained => break closed,
                () = &mut relayed, if !is_told => is_told = true,
            }
        };
        news.is_last.store(true, Ordering::Release);
        news.arrived.notify_one();
        if !is_told {
            let _ = tokio::time::timeout(FIRST, relayed).await;
        }
        Ok(HandoverOutcome::Taken { closed })
    }

    /// Says that nothing comes of it. It may be gone.
    async fn refuse(&mut self, why: &Error) {
        let refused = Tells::Refused { kind: why.kind(), reason: why.message().to_owned() };
        let _ = tokio::time::timeout(FIRST, self.channel.send(&refused)).await;
    }

    /// Gives everything, and waits until the successor serves.
    async fn prepare(&mut self, core: &Arc<Core>, how: &mut Handover) -> Result<()> {
        core.relay.tenure.send_replace(Tenure::Open);
        if let Some(store) = &mut how.store {
            core.release();
            store.close().await;
        }
        let failed = |error: io::Error| {
            Error::new(ErrorKind::OutOfResources, "the listening sockets can't be given").with_source(error)
        };
        let mut sockets = core.relay.sockets().map_err(failed)?;
        for listener in &how.listeners {
            sockets.push(listener.try_clone().map_err(failed)?);
        }
        let listeners = sockets.iter().map(std::net::TcpListener::local_addr).collect::<io::Result<Vec<_>>>();
        let (listeners, generation) = (listeners.map_err(failed)?, core.state().table.generation());
        self.channel.send(&Tells::Given { generation, listeners }).await?;
        self.channel.send_sockets(&sockets).await?;
        match self.channel.receive().await? {
            Asks::Tell { everything } => {
                if everything {
                    self.tell_everything(core).await?;
                }
                for some in core.well().chunks(DOMAINS) {
                    self.channel.send(&Tells::Well(some.to_vec())).await?;
                }
                let named = core.state().routing.names_mut().known();
                for some in named.chunks(DOMAINS) {
                    self.channel.send(&Tells::Named(some.to_vec())).await?;
                }
                self.channel.send(&Tells::All).await?;
            }
            _ => return Err(confused("the successor asks for something else")),
        }
        match self.channel.receive().await? {
            Asks::Ready => Ok(()),
            _ => Err(confused("the successor says something else")),
        }
    }

    async fn tell_everything(&mut self, core: &Arc<Core>) -> Result<()> {
        for &kind in ObjectKind::ALL {
            let at_once = if kind == ObjectKind::Domain { DOMAINS } else { OBJECTS };
            let mut after = None;
            loop {
                let some: Vec<_> = {
                    let state = core.state();
                    let stored = state.table.stored(kind, after.as_ref()).take(at_once);
                    stored.map(std::borrow::Cow::into_owned).collect()
                };
                let Some(last) = some.last() else { break };
                after = Some(last.object.reference());
                self.channel.send(&Tells::Objects(some)).await?;
            }
        }
        let changes: Vec<_> = core.state().table.remembered().collect();
        self.channel.send(&Tells::Remembered(changes)).await
    }
}

/// Whether somebody who says this may take over.
fn admitted(core: &Core, asks: &Asks) -> Result<()> {
    match asks {
        Asks::Take { version: VERSION, gateway } if *gateway == core.id => Ok(()),
        Asks::Take { version: VERSION, gateway } => Err(Error::new(
            ErrorKind::Invalid,
            format!("this gateway is `{}`, and the successor is `{gateway}`", core.id),
        )),
        Asks::Take { version, .. } => Err(Error::new(
            ErrorKind::Invalid,
            format!("the successor speaks version {version} of the hand-over; accepted: {VERSION}"),
        )),
        _ => Err(confused("the successor begins with something else")),
    }
}

/// Something that the successor should hear of.
#[derive(Debug, Default)]
struct News {
    arrived: Notify,
    /// Nothing comes after it.
    is_last: AtomicBool,
}

impl Core {
    /// Goes on as before. What was closed is opened again; whoever had it may take a moment to let it go.
    async fn take_back(&self, how: &mut Handover) -> Result<()> {
        let until = tokio::time::Instant::now() + how.patience;
        if let Some(store) = how.store.as_mut().filter(|_| self.is_released()) {
            loop {
                let error = match store.open().await {
                    Ok(store) => {
                        self.restore(store);
                        break;
                    }
                    Err(error) => error,
                };
                if tokio::time::Instant::now() >= until {
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        "the gateway's store can't be opened again",
                    )
                    .with_operation("handover.take_over")
                    .with_source(error));
                }
                tracing::warn!(%error, "the gateway's store can't be opened again yet");
                tokio::time::sleep(PAUSE).await;
            }
        }
        self.relay.tenure.send_replace(Tenure::Ours);
        Ok(())
    }

    /// What is still under way here and at those before, and what was cut.
    fn under_way(&self) -> Vec<GatewayView> {
        let mut views = self.views(&ObserveQuery::default());
        for view in &mut views {
            view.endpoints.retain(|endpoint| endpoint.in_flight != Some(0) || endpoint.forced != Some(0));
        }
        views
    }

    /// Tells the successor what is still under way, whenever that has changed, until that is nothing.
    async fn tell(&self, to: &mut OwnedWriteHalf, mut said: Vec<GatewayView>, news: &News) {
        let mut is_last = false;
        while !is_last {
            let _ = tokio::time::timeout(LOOK, news.arrived.notified()).await;
            is_last = news.is_last.load(Ordering::Acquire);
            let views = self.under_way();
            if views != said {
                if channel::write(to, &Tells::Views(views.clone())).await.is_err() {
                    return;
                }
                said = views;
            }
        }
    }

    /// Does what the successor has done, as long as it is the same here.
    async fn obey(self: &Arc<Self>, from: &mut OwnedReadHalf, news: &News) {
        loop {
            let (generation, change) = match channel::read(from).await {
                Ok(Some(Asks::Change { generation, change })) => (generation, change),
                Ok(None) => return,
                Ok(Some(_)) => return tracing::warn!("the successor says what it should not"),
                Err(error) => return tracing::warn!(%error, "the successor is not heard any more"),
            };
            if let Err(error) = self.follow(generation, &change) {
                // Nothing later either: it would count as more than it is. Whoever waits for a drain waits for our end.
                return tracing::warn!(%error, change = %change.id, "a change of the successor can't be followed");
            }
            self.relay.pass_on(generation, &change);
            news.arrived.notify_one();
        }
    }

    fn follow(&self, generation: u64, change: &Change) -> Result<()> {
        let prepared = self.state().table.prepare(change)?;
        match prepared {
            Prepared::New(prepared) if prepared.applied().generation == generation => {
                self.commit(prepared).map(drop)
            }
            _ => Err(Error::new(ErrorKind::Stale, "the successor is elsewhere")),
        }
    }
}
