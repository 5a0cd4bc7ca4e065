//! The loop around the pure core: asks, evaluates, remembers, tells. What it promises stands at [`Alerts`].

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ews_core::bus::{Bus, Subscription};
use ews_core::store::{Expect, Key, StoreRevision, decode_typed, encode_typed};
use ews_core::{Clock, Error, ErrorKind, Metrics, Result, Store, StoreExt as _, SystemClock};
use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::event::AlertEvent;
use super::machine::{Alert, AlertPhase, AlertState, evaluate};
use super::notifier::{LogNotifier, Notifier};
use super::rule::AlertRule;

/// How many events the bus keeps for readers.
const EVENTS: usize = 1_024;
/// How many notifications one evaluation delivers at most.
const AT_ONCE: usize = 32;
/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Watches rules: asks, evaluates, remembers, tells.
///
/// It spawns nothing: [`run`](Self::run) is one future that the embedder drives and may drop. With a store, a rule's state is written
/// after each evaluation that changed it, before anything of it is told, and only over the state that this evaluation began from: of
/// two controllers that evaluate the same rule one wins, and the other reads anew. So an event is told at least once, whatever dies
/// when. A store that can't be reached does not silence alerts: they go on in memory, and the failure is counted.
///
/// ```
/// use std::sync::Arc;
/// use ews_core::metrics::{MetricInfo, MetricKind, MetricQuery};
/// use ews_core::{Clock, Selector, SystemClock};
/// use ews_monitor::{AlertRule, Alerts, AlertCondition, LiveConfig, LiveStore, Transition};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let store = LiveStore::new(LiveConfig::default())?;
/// let query = MetricQuery::new("queue.depth", Selector::everything());
/// let alerts = Alerts::new(Arc::new(store.clone())).with_rule(AlertRule::new("queue", query, AlertCondition::Above(100.0)))?;
///
/// let depth = MetricInfo::new("queue.depth", MetricKind::Gauge, "{job}");
/// store.record(&depth, [("service", "web")], SystemClock.now(), 250.0)?;
/// // `alerts.run(stop)` does this at each rule's interval.
/// let events = alerts.evaluate("queue").await?;
/// assert_eq!(events[0].transition, Transition::Firing);
/// # Ok::<(), ews_core::Error>(()) }).unwrap();
/// ```
pub struct Alerts {
    metrics: Arc<dyn Metrics>,
    clock: Arc<dyn Clock>,
    store: Option<Arc<dyn Store>>,
    notifier: Arc<dyn Notifier>,
    bus: Bus<AlertEvent>,
    rules: BTreeMap<String, Watched>,
}

struct Watched {
    rule: AlertRule,
    /// Held over a whole evaluation.
    live: tokio::sync::Mutex<Live>,
    seen: Mutex<RuleStatus>,
}

#[derive(Default)]
struct Live {
    state: AlertState,
    /// Of the stored state; `None` where there is none, or none was read yet.
    revision: Option<StoreRevision>,
    loaded: bool,
}

/// How a rule is doing.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct RuleStatus {
    /// Its alerts that are pending or fire.
    pub active: Vec<Alert>,
    /// How often it was evaluated.
    pub evaluations: u64,
    /// How often the query, the store or a notification failed.
    pub failures: u64,
    /// What went wrong last, unless something went well since.
    pub last_error: Option<String>,
    /// How many notifications wait.
    pub untold: usize,
    /// How many groups found no room.
    pub unwatched: u64,
}

impl Alerts {
    /// The most rules of one value.
    pub const MAX_RULES: usize = 10_000;

    /// Watches what this source says and tells the log; no rules yet.
    ///
    /// Without [`with_store`](Self::with_store) what is pending and what fires ends with this value: after a restart each alert that
    /// still holds fires anew.
    pub fn new(metrics: Arc<dyn Metrics>) -> Self {
        let bus =
            Bus::new(EVENTS).unwrap_or_else(|_| unreachable!("the capacity is within the bus's bounds"));
        let (clock, notifier) = (Arc::new(SystemClock), Arc::new(LogNotifier));
        Self { metrics, clock, store: None, notifier, bus, rules: BTreeMap::new() }
    }

    /// Takes the time from this clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Keeps every rule's state in this store, at `alert/<rule>/state`, so that a restart loses nothing.
    #[must_use]
    pub fn with_store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// Tells this one instead of the log.
    #[must_use]
    pub fn with_notifier(mut self, notifier: Arc<dyn Notifier>) -> Self {
        self.notifier = notifier;
        self
    }

    /// Watches this rule too; one of the same name is replaced.
    ///
    /// # Errors
    /// Those of [`AlertRule::check`]; `OutOfResources` for more than [`Self::MAX_RULES`].
    pub fn with_rule(mut self, rule: AlertRule) -> Result<Self> {
        rule.check()?;
        if self.rules.len() >= Self::MAX_RULES && !self.rules.contains_key(&rule.name) {
            let message = format!("more than {0} alert rules; accepted: at most {0}", Self::MAX_RULES);
            return Err(Error::new(ErrorKind::OutOfResources, message).with_context("rule", &rule.name));
        }
        let (live, seen) = (tokio::sync::Mutex::default(), Mutex::default());
        self.rules.insert(rule.name.clone(), Watched { rule, live, seen });
        Ok(self)
    }

    /// Every change of every alert from now on, pending ones included; a reader that falls 1,024 behind gets a gap.
    pub fn subscribe(&self) -> Subscription<AlertEvent> {
        self.bus.subscribe()
    }

    /// How a rule is doing; `None` where there is none of this name.
    pub fn status(&self, rule: &str) -> Option<RuleStatus> {
        self.rules.get(rule).map(|found| found.seen.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Evaluates every rule at its interval until `stop` is ready. Dropping the future stops it too.
    pub async fn run(&self, stop: impl Future<Output = ()> + Send) {
        let count = u32::try_from(self.rules.len()).unwrap_or(u32::MAX).max(1);
        let loops = (0..).zip(self.rules.values()).map(|(index, watched)| {
            let phase = watched.rule.interval * index / count;
            Box::pin(async move {
                let mut ticks = interval_at(Instant::now() + phase, watched.rule.interval);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    // Logged and counted there; there is nobody else to tell.
                    let _ = self.evaluate_one(watched).await;
                }
            })
        });
        let all = async {
            join_all(loops).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = stop => {}
            () = all => {}
        }
    }

    /// Evaluates one rule now, as the loop does, and says what changed.
    ///
    /// # Errors
    /// `NotFound` for a rule that is not there; what the query gives; `Stale` where another controller evaluated it meanwhile.
    pub async fn evaluate(&self, rule: &str) -> Result<Vec<AlertEvent>> {
        let found = self.rules.get(rule).ok_or_else(|| Error::not_found("alert rule", rule))?;
        self.evaluate_one(found).await
    }

    async fn evaluate_one(&self, watched: &Watched) -> Result<Vec<AlertEvent>> {
        let mut live = watched.live.lock().await;
        let mut troubles = Vec::new();
        let result = Box::pin(self.step(watched, &mut live, &mut troubles)).await;
        let trouble = result.as_ref().err().or(troubles.first()).map(Error::to_string);
        if let Some(error) = &trouble {
            tracing::warn!(
                rule = watched.rule.name.as_str(),
                error = error.as_str(),
                "an alert rule is in trouble"
            );
        }
        let mut seen = watched.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let active = live.state.alerts.iter().filter(|alert| alert.phase != AlertPhase::Inactive);
        *seen = RuleStatus {
            active: active.cloned().collect(),
            evaluations: seen.evaluations + 1,
            failures: seen.failures + u64::from(trouble.is_some()),
            last_error: trouble,
            untold: live.state.untold.len(),
            unwatched: live.state.unwatched,
        };
        result
            .map_err(|error| error.with_operation("alerts.evaluate").with_context("rule", &watched.rule.name))
    }

    async fn step(
        &self,
        watched: &Watched,
        live: &mut Live,
        troubles: &mut Vec<Error>,
    ) -> Result<Vec<AlertEvent>> {
        let rule = &watched.rule;
        if !live.loaded {
            self.load(rule, live).await?;
        }
        let answer = within(self.metrics.instant(&rule.query, None)).await;
        let evaluated = answer.and_then(|answer| evaluate(rule, &live.state, &answer, self.clock.now()));
        let result = match evaluated {
            Ok((next, events)) => {
                self.keep(rule, live, next, troubles).await?;
                for event in &events {
                    self.bus.publish(event.clone());
                }
                Ok(events)
            }
            Err(error) => Err(error),
        };
        // What waits is told even while the query fails.
        let told = self.tell(&live.state.untold, troubles).await;
        if told > 0 {
            let mut next = live.state.clone();
            next.untold.drain(..told);
            self.keep(rule, live, next, troubles).await?;
        }
        result
    }

    /// Tells what waits, in order, up to the first that fails; how many were told.
    async fn tell(&self, untold: &[AlertEvent], troubles: &mut Vec<Error>) -> usize {
        for (told, event) in untold.iter().take(AT_ONCE).enumerate() {
            if let Err(error) = within(self.notifier.notify(event)).await {
                troubles.push(error);
                return told;
            }
        }
        untold.len().min(AT_ONCE)
    }

    async fn load(&self, rule: &AlertRule, live: &mut Live) -> Result<()> {
        let Some(store) = &self.store else {
            live.loaded = true;
            return Ok(());
        };
        match within(store.get(&key(rule)?)).await {
            Ok(found) => {
                live.revision = found.as_ref().map(|record| record.modified);
                live.state = match found.map(decode_typed::<AlertState>).transpose() {
                    Ok(found) => found.map(|typed| typed.value).unwrap_or_default(),
                    Err(error) => {
                        tracing::warn!(rule = rule.name.as_str(), %error, "an alert's state can't be read: it starts anew");
                        AlertState::default()
                    }
                };
                live.loaded = true;
                Ok(())
            }
            // An alert must not wait for the store that it may be about.
            Err(error) => {
                tracing::warn!(rule = rule.name.as_str(), %error, "the store can't be read: an alert goes on in memory");
                Ok(())
            }
        }
    }

    /// Makes this the rule's state, in the store and in memory.
    ///
    /// # Errors
    /// `Stale` where another controller wrote it meanwhile: its state is read next time.
    async fn keep(
        &self,
        rule: &AlertRule,
        live: &mut Live,
        next: AlertState,
        troubles: &mut Vec<Error>,
    ) -> Result<()> {
        if let Some(store) = &self.store
            && live.loaded
            && (next != live.state || live.revision.is_none())
        {
            let expect = live.revision.map_or(Expect::Absent, Expect::Revision);
            match within(store.put(&key(rule)?, encode_typed(&next)?.into(), expect)).await {
                Ok(revision) => live.revision = Some(revision),
                Err(error) if matches!(error.kind(), ErrorKind::Stale | ErrorKind::AlreadyExists) => {
                    *live = Live::default();
                    return Err(Error::new(
                        ErrorKind::Stale,
                        "another controller has evaluated the rule meanwhile",
                    )
                    .with_source(error));
                }
                Err(error) => troubles.push(error),
            }
        }
        live.state = next;
        Ok(())
    }
}

fn key(rule: &AlertRule) -> Result<Key> {
    Key::new(format!("alert/{}/state", rule.name))
}

async fn within<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(PATIENCE, call).await {
        Ok(result) => result,
        Err(_) => {
            Err(Error::new(ErrorKind::Timeout, format!("no answer within {PATIENCE:?}")).with_maybe_applied())
        }
    }
}

impl std::fmt::Debug for Alerts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rules: Vec<_> = self.rules.keys().collect();
        f.debug_struct("Alerts").field("rules", &rules).finish_non_exhaustive()
    }
}
