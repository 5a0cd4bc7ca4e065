//! What a gateway keeps of a hand-over: whether it may be changed, its listening sockets, and who was before it.

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ews_core::balancer::{BalancerEvent, Change, EndpointView, GatewayView, MemberState, ObserveQuery};
use ews_core::id::GatewayId;
use ews_core::{Error, ErrorKind, Result};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

use super::channel;
use super::message::{Asks, Tells};
use crate::gateway::Core;
use crate::journal::Paused;

/// How long a change waits for the end of a hand-over.
const WAIT: Duration = Duration::from_secs(3);
/// How many changes wait to be passed on. A predecessor that takes them slower does not follow any more.
const CHANGES: usize = 32;

/// Who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tenure {
    /// This gateway.
    Ours,
    /// That is being settled.
    Open,
    /// Its successor.
    Ended,
}

/// One gateway's.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(super) tenure: watch::Sender<Tenure>,
    listeners: Mutex<Vec<TcpListener>>,
    /// The journal, while its store is closed.
    pub(crate) paused: Mutex<Option<Paused>>,
    before: watch::Sender<Option<Before>>,
}

/// The one before, as long as it has something under way.
#[derive(Debug)]
struct Before {
    views: Vec<GatewayView>,
    /// `None` where it has missed a change: what comes later would not be what it is here.
    changes: Option<mpsc::Sender<(u64, Change)>>,
}

impl Relay {
    pub(crate) fn new(listeners: Vec<TcpListener>) -> Self {
        Self {
            tenure: watch::Sender::new(Tenure::Ours),
            listeners: Mutex::new(listeners),
            paused: Mutex::default(),
            before: watch::Sender::new(None),
        }
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<TcpListener>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The listening sockets once more.
    pub(super) fn sockets(&self) -> std::io::Result<Vec<TcpListener>> {
        self.listeners().iter().map(TcpListener::try_clone).collect()
    }

    /// Nobody gets them any more: whoever connects is refused, not left waiting.
    pub(crate) fn close(&self) {
        self.listeners().clear();
    }

    /// Waits until this gateway may be changed.
    pub(crate) async fn changeable(&self) -> Result<()> {
        let mut tenure = self.tenure.subscribe();
        let settled = tokio::time::timeout(WAIT, tenure.wait_for(|tenure| *tenure != Tenure::Open)).await;
        match settled.ok().and_then(|settled| settled.ok().map(|tenure| *tenure)) {
            Some(Tenure::Ours) => Ok(()),
            Some(_) => Err(Error::new(ErrorKind::Unavailable, "a successor has taken over; ask that one")
                .with_operation("balancer.apply")),
            None => {
                Err(Error::new(ErrorKind::Unavailable, "the gateway is being handed over; try again soon")
                    .with_operation("balancer.apply"))
            }
        }
    }

    /// Passes a change on that was just applied, in the order in which they are.
    pub(crate) fn pass_on(&self, generation: u64, change: &Change) {
        self.before.send_if_modified(|before| {
            if let Some(before) = before
                && let Some(changes) = &before.changes
                && changes.try_send((generation, change.clone())).is_err()
            {
                before.changes = None;
            }
            false
        });
    }

    /// A change was applied that can't be passed on.
    pub(crate) fn pass_over(&self) {
        self.before.send_if_modified(|before| {
            if let Some(before) = before {
                before.changes = None;
            }
            false
        });
    }

    /// What is seen here, and what those before see that have something under way.
    pub(crate) fn views(&self, query: &ObserveQuery, here: impl FnOnce() -> GatewayView) -> Vec<GatewayView> {
        let wanted = |view: &EndpointView| {
            query.pool.as_ref().is_none_or(|pool| *pool == view.pool)
                && (query.endpoints.is_empty() || query.endpoints.contains(&view.endpoint))
        };
        // Held until this gateway is looked at: what goes over to it from one that ends is seen once.
        let before = self.before.borrow();
        let mut views = vec![here()];
        for view in before.iter().flat_map(|before| &before.views) {
            let mut view = view.clone();
            view.endpoints.retain(wanted);
            views.push(view);
        }
        views
    }

    /// Nobody knows any more what those before have under way.
    fn doubt(&self) {
        self.before.send_modify(|before| {
            for view in before.iter_mut().flat_map(|before| &mut before.views) {
                (view.generation, view.endpoints) = (None, Vec::new());
            }
        });
    }

    /// Waits until nobody is before this gateway.
    pub(super) async fn alone(&self) {
        let _ = self.before.subscribe().wait_for(Option::is_none).await;
    }
}

/// The one before drains: follows it, until it has ended, with a thread of its own.
pub(super) fn follow(core: &Arc<Core>, stream: UnixStream, first: Vec<GatewayView>) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::OutOfResources, "the predecessor can't be followed").with_source(error)
    };
    let stream = stream.into_std().map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let (sender, changes) = mpsc::channel(CHANGES);
    let before = Before { views: renamed(first), changes: Some(sender) };
    core.relay.before.send_replace(Some(before));
    let weak = Arc::downgrade(core);
    let work = move || {
        runtime.block_on(async {
            let Ok(stream) = UnixStream::from_std(stream) else { return };
            let (mut from, to) = stream.into_split();
            tokio::select! {
                () = forward(to, changes) => {}
                () = listen(&weak, &mut from) => {}
            }
        });
        if let Some(core) = weak.upgrade() {
            core.relay.before.send_modify(|before| {
                // What was cut there is counted here from now on, so that whoever drains hears of it.
                let last = before.take().map(|before| before.views).unwrap_or_default();
                core.adopt(last.iter().flat_map(|view| &view.endpoints));
            });
            // Whoever waits for a drain looks again.
            core.send(BalancerEvent::Serving { gateway: core.id.clone(), generation: core.served() });
        }
    };
    let thread = std::thread::Builder::new().name("ews-route-before".to_owned()).spawn(work);
    thread.map(drop).map_err(|error| {
        core.relay.before.send_replace(None);
        failed(error)
    })
}

/// Passes changes on. It never ends before the predecessor does.
async fn forward(mut to: tokio::net::unix::OwnedWriteHalf, mut changes: mpsc::Receiver<(u64, Change)>) {
    while let Some((generation, change)) = changes.recv().await {
        if channel::write(&mut to, &Asks::Change { generation, change }).await.is_err() {
            // What it has under way is still of interest, as long as it says so.
            break;
        }
    }
    changes.close();
    std::future::pending().await
}

/// Hears what is still under way there, until it has ended or this gateway has.
async fn listen(core: &Weak<Core>, from: &mut tokio::net::unix::OwnedReadHalf) {
    loop {
        let views = match channel::read(from).await {
            Ok(Some(Tells::Views(views))) => renamed(views),
            Ok(None) => return,
            Err(error) if error.kind() == ErrorKind::Unavailable => return,
            said => {
                tracing::warn!(
                    ?said,
                    "the predecessor is not understood; until it has ended it counts as busy"
                );
                if let Some(core) = core.upgrade() {
                    core.relay.doubt();
                }
                let _ = tokio::io::copy(from, &mut tokio::io::sink()).await;
                return;
            }
        };
        let Some(core) = core.upgrade() else { return };
        let mut events = Vec::new();
        core.relay.before.send_if_modified(|before| {
            if let Some(before) = before {
                events = differences(&before.views, &views);
                before.views = views;
            }
            false
        });
        events.into_iter().for_each(|event| core.send(event));
    }
}

/// What watchers are told of the difference.
fn differences(old: &[GatewayView], new: &[GatewayView]) -> Vec<BalancerEvent> {
    let mut events = Vec::new();
    for view in new {
        let before = old.iter().find(|before| before.gateway == view.gateway);
        if let Some(generation) =
            view.generation.filter(|_| before.map(|old| old.generation) != Some(view.generation))
        {
            events.push(BalancerEvent::Serving { gateway: view.gateway.clone(), generation });
        }
        let busy = |view: &EndpointView| view.in_flight != Some(0);
        let still: HashSet<_> =
            view.endpoints.iter().filter(|one| busy(one)).map(|one| (&one.pool, &one.endpoint)).collect();
        let ended = before.into_iter().flat_map(|old| &old.endpoints).filter(|one| {
            busy(one) && one.state != MemberState::Active && !still.contains(&(&one.pool, &one.endpoint))
        });
        events.extend(ended.map(|one| BalancerEvent::Idle {
            gateway: view.gateway.clone(),
            pool: one.pool.clone(),
            endpoint: one.endpoint.clone(),
        }));
    }
    events
}

/// They are others than this one.
fn renamed(mut views: Vec<GatewayView>) -> Vec<GatewayView> {
    for view in &mut views {
        if let Ok(name) = GatewayId::new(format!("{}.before", view.gateway)) {
            view.gateway = name;
        }
    }
    views
}
