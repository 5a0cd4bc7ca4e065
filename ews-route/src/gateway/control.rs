//! The control thread: samples, and what the threads' progress means for watchers.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use ews_core::balancer::{BalancerEvent, MemberState};
use ews_core::{Clock as _, SystemClock};
use tokio::sync::watch;

use super::Core;
use super::checks::Checks;
use super::listen::Dealer;
use super::names::Resolver;
use super::names::lookup::Names;
use super::thread::Ending;
use crate::metrics::sampler::Sampler;

/// The least time between two looks, so that a storm of endings is no storm of looks.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

/// What was said last of an endpoint, by uid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Said {
    is_idle: bool,
    is_healthy: bool,
}

/// Runs until the gateway is gone.
pub(super) async fn run(
    core: Weak<Core>,
    dealers: Vec<Dealer>,
    resolver: Arc<dyn Resolver>,
    mut ending: watch::Receiver<Ending>,
) {
    let Some(strong) = core.upgrade() else { return };
    for dealer in dealers {
        tokio::task::spawn_local(dealer.run(strong.shared.clone(), ending.clone()));
    }
    let (shared, mut sampler) = (strong.shared.clone(), Sampler::new(&strong));
    let (mut checks, mut names) = (Checks::default(), Names::new(resolver));
    names.follow(&strong);
    checks.follow(&strong);
    drop(strong);
    let mut samples = tokio::time::interval(shared.config.metrics.interval);
    samples.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut served, mut said) = (0, HashMap::new());
    loop {
        let mut takes_sample = false;
        tokio::select! {
            () = shared.notice.notified() => tokio::time::sleep(PAUSE).await,
            () = checks.changed() => {}
            _ = samples.tick() => takes_sample = true,
            changed = ending.changed() => {
                if changed.is_err() || *ending.borrow_and_update() == Ending::Now {
                    return;
                }
            }
        }
        // It must not keep the gateway alive while it waits.
        let Some(core) = core.upgrade() else { return };
        names.follow(&core);
        checks.follow(&core);
        look(&core, &mut served, &mut said);
        if takes_sample {
            core.expire();
            sampler.sample(&core, SystemClock.now());
        }
    }
}

/// Tells watchers what has changed, and forgets endpoints that are removed and idle.
fn look(core: &Arc<Core>, served: &mut u64, said: &mut HashMap<u64, Said>) {
    let now = core.shared.now();
    let reached = core.served();
    if reached > *served {
        *served = reached;
        core.send(BalancerEvent::Serving { gateway: core.id.clone(), generation: reached });
    }
    let mut state = core.state();
    // Before all threads serve what was applied last, an endpoint that is idle may still get a request.
    let is_settled = reached == state.table.generation();
    let mut events = Vec::new();
    state.routing.endpoints_mut().retain(|(pool, key), known| {
        for endpoint in known.iter() {
            let is_idle = is_settled && endpoint.state() != MemberState::Active && endpoint.in_flight() == 0;
            let is_healthy = !endpoint.is_out(now);
            let before = said.insert(endpoint.uid, Said { is_idle, is_healthy });
            let before = before.unwrap_or(Said { is_idle: false, is_healthy: true });
            let (gateway, pool, endpoint) = (core.id.clone(), pool.clone(), key.clone());
            if is_healthy != before.is_healthy {
                let (gateway, pool, endpoint) = (gateway.clone(), pool.clone(), endpoint.clone());
                events.push(BalancerEvent::EndpointHealth { gateway, pool, endpoint, healthy: is_healthy });
            }
            if is_idle && !before.is_idle {
                events.push(BalancerEvent::Idle { gateway, pool, endpoint });
            }
        }
        known.retain(|endpoint| {
            let goes = is_settled && endpoint.is_removed() && endpoint.in_flight() == 0;
            if goes {
                said.remove(&endpoint.uid);
            }
            !goes
        });
        !known.is_empty()
    });
    drop(state);
    events.into_iter().for_each(|event| core.send(event));
}
