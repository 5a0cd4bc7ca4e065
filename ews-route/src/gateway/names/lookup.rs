//! Looks names up, again and again, in the control thread.
//!
//! Each host has a task of its own, which ends when no endpoint has its name any more. They take turns, so that however many
//! names there are, the resolver has few questions at once.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ews_core::endpoint::HostName;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

use super::{MAX_ADDRESSES, Named, Resolver};
use crate::gateway::Core;
use crate::gateway::snapshot::Routing;
use crate::gateway::thread::Shared;

/// How many names are looked up at once.
const AT_ONCE: usize = 16;
/// How soon a name that could not be found out is looked up again, the first time; it doubles up to the usual time.
const AGAIN: Duration = Duration::from_millis(500);

/// All names that are looked up. Nothing is started before there is one.
pub(in crate::gateway) struct Names {
    all: Rc<All>,
    hosts: HashMap<HostName, (Rc<Host>, JoinHandle<()>)>,
    /// Which generation they are of.
    generation: Option<u64>,
}

/// What the tasks have in common.
struct All {
    resolver: Arc<dyn Resolver>,
    turns: Semaphore,
    /// Whether a name stands for something else than before.
    has_changed: Cell<bool>,
}

/// A host's name, and who wants to know.
struct Host {
    name: HostName,
    /// One for each port.
    wanted: RefCell<Vec<Weak<Named>>>,
    found: RefCell<Vec<IpAddr>>,
    /// Somebody else wants to know.
    asked: Notify,
}

impl Names {
    pub(in crate::gateway) fn new(resolver: Arc<dyn Resolver>) -> Self {
        let all = All { resolver, turns: Semaphore::new(AT_ONCE), has_changed: Cell::new(false) };
        Self { all: Rc::new(all), hosts: HashMap::new(), generation: None }
    }

    /// Looks up what is to be looked up by the newest change, and lets the threads know what was found.
    pub(in crate::gateway) fn follow(&mut self, core: &Core) {
        let mut state = core.state();
        let generation = state.table.generation();
        if self.generation != Some(generation) {
            self.generation = Some(generation);
            self.want(&mut state.routing, core);
        }
        if self.all.has_changed.take() {
            // The same snapshot once more: who waits for an endpoint looks again, and connections to addresses that are gone
            // are closed. Within the lock, so that none older than that is handed over.
            core.snapshots.send_modify(|_| {});
        }
    }

    fn want(&mut self, routing: &mut Routing, core: &Core) {
        self.hosts.retain(|_, (_, task)| !task.is_finished());
        for (name, named) in routing.names_mut().all() {
            let (host, _) = self.hosts.entry(name.clone()).or_insert_with(|| {
                let host = Rc::new(Host {
                    name: name.clone(),
                    wanted: RefCell::default(),
                    found: RefCell::default(),
                    asked: Notify::new(),
                });
                let task = watch(self.all.clone(), host.clone(), core.shared.clone());
                (host, tokio::task::spawn_local(task))
            });
            host.want(&named, &self.all);
        }
    }
}

impl Host {
    /// One more wants to know.
    fn want(&self, named: &Arc<Named>, all: &All) {
        let mut wanted = self.wanted.borrow_mut();
        if wanted.iter().any(|one| std::ptr::eq(one.as_ptr(), Arc::as_ptr(named))) {
            return;
        }
        let found = self.found.borrow();
        if !found.is_empty() {
            all.has_changed.set(named.set(&found) || all.has_changed.get());
        } else if !wanted.is_empty() {
            self.asked.notify_one();
        }
        wanted.push(Arc::downgrade(named));
    }

    /// Tells everybody. True where somebody heard something new.
    fn tell(&self, found: Vec<IpAddr>) -> bool {
        let mut has_changed = false;
        self.wanted.borrow_mut().retain(|named| {
            let named = named.upgrade();
            has_changed |= named.as_ref().is_some_and(|named| named.set(&found));
            named.is_some()
        });
        *self.found.borrow_mut() = found;
        has_changed
    }

    fn is_wanted(&self) -> bool {
        self.wanted.borrow().iter().any(|named| named.strong_count() > 0)
    }
}

/// Looks one name up until nobody wants to know any more.
async fn watch(all: Rc<All>, host: Rc<Host>, shared: Arc<Shared>) {
    let config = shared.config.names;
    let mut failures = 0_u32;
    // The one that it is made for stands in the list before this runs for the first time.
    while host.is_wanted() {
        let pause = match look(&all, &host.name, config.timeout).await {
            Ok(found) => {
                if failures > 0 {
                    tracing::info!(host = %host.name, failures, "a name of an endpoint is known again");
                }
                failures = 0;
                if host.tell(found) {
                    all.has_changed.set(true);
                    shared.notice.notify_one();
                }
                config.refresh
            }
            Err(reason) => {
                // Once for a row of failures: the resolver of a name may be away for hours.
                if failures == 0 {
                    tracing::warn!(host = %host.name, reason, "a name of an endpoint could not be found out");
                }
                failures = failures.saturating_add(1);
                AGAIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(config.refresh)
            }
        };
        // A tenth more or less, so that names that came together don't stay together.
        let dice =
            std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), failures);
        let spread = 0.9 + 0.2 * f64::from(u32::try_from(dice >> 32).unwrap_or(0)) / f64::from(u32::MAX);
        tokio::select! {
            () = tokio::time::sleep(pause.mul_f64(spread)) => {}
            () = host.asked.notified() => {}
        }
    }
}

/// Asks once: the addresses in order, each once and no more than are used; else why there are none.
async fn look(all: &All, name: &HostName, limit: Duration) -> Result<Vec<IpAddr>, String> {
    let Ok(_turn) = all.turns.acquire().await else { return Err("the gateway ends".to_owned()) };
    let mut found = match tokio::time::timeout(limit, all.resolver.resolve(name)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("no answer within {limit:?}")),
    };
    found.iter_mut().for_each(|address| *address = address.to_canonical());
    found.retain(|address| !address.is_unspecified() && !address.is_multicast());
    found.sort_unstable();
    found.dedup();
    found.truncate(MAX_ADDRESSES);
    if found.is_empty() { Err("no address".to_owned()) } else { Ok(found) }
}
