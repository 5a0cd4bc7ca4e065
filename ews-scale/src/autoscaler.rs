//! The live loop around the decision core: reads signals, decides, sets the count.
//!
//! It is one future that the embedder runs and may drop at any moment; it spawns nothing. Each service is evaluated at its own
//! interval, spread so that many services don't ask at once, never twice at the same time. Every call has an end: what does not
//! answer in time is a missing signal, or an evaluation that failed and is made anew at the next tick.
//!
//! | What goes wrong | What happens |
//! |---|---|
//! | a signal's source is unreachable, slow, or answers with several groups | the signal is missing |
//! | the count can't be read | the evaluation fails; nothing is set |
//! | somebody changed the count meanwhile (`Stale`) | nothing is set; the next tick reads again |
//! | the store can't be written, or the lock went to another controller | nothing is set |

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ews_core::metrics::Reading;
use ews_core::policy::PolicyState;
use ews_core::{
    Clock, Error, ErrorKind, Metrics, Policy, Result, ScaleChange, ScaleTarget, ServiceName, Store,
    SystemClock, Unavailable,
};
use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::decide::TargetTracking;
use crate::observation::{ScaleDecision, ScaleObservation, SignalReading};
use crate::policy::{ScalePolicy, Signal};
use crate::record::{Action, Kept, ScaleRecord};
use crate::tenure::{Office, Tenure};

/// A policy of scaling decisions.
pub type DynScalePolicy = Arc<dyn Policy<ScaleObservation, ScaleDecision>>;

/// Scales services. See the [module](self).
///
/// ```no_run
/// use std::sync::Arc;
/// use ews_core::{Metrics, ScaleTarget, ServiceName};
/// use ews_scale::{Autoscaler, ScalePolicy};
///
/// async fn scale(metrics: Arc<dyn Metrics>, target: Arc<dyn ScaleTarget>, policy: ScalePolicy) -> ews_core::Result<()> {
///     let web = ServiceName::new("web")?;
///     let autoscaler = Arc::new(Autoscaler::new(metrics, target).with_service(web.clone(), policy)?);
///     let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
///     let looping = tokio::spawn({
///         let autoscaler = Arc::clone(&autoscaler);
///         async move { autoscaler.run(async { drop(stopped.await) }).await }
///     });
///     // … and whenever somebody wants to know why:
///     for record in autoscaler.records(&web) {
///         println!("{} {:?}", record.decision, record.action);
///     }
///     drop(stop);
///     let _ = looping.await;
///     Ok(())
/// }
/// ```
pub struct Autoscaler {
    metrics: Arc<dyn Metrics>,
    target: Arc<dyn ScaleTarget>,
    clock: Arc<dyn Clock>,
    store: Option<(Arc<dyn Store>, String)>,
    dry_run: bool,
    services: BTreeMap<ServiceName, Service>,
}

struct Service {
    name: ServiceName,
    policy: DynScalePolicy,
    signals: Vec<Signal>,
    interval: Duration,
    /// Held over a whole evaluation.
    live: tokio::sync::Mutex<Live>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Live {
    state: PolicyState,
    office: Option<Office>,
    tenure: Option<Tenure>,
}

#[derive(Default)]
struct Seen {
    records: VecDeque<ScaleRecord>,
    status: ScaleStatus,
}

/// How the loop of a service is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ScaleStatus {
    /// How many evaluations came to a decision since this value was made.
    pub decisions: u64,
    /// How many did not, and how many decisions could not be carried out.
    pub failures: u64,
    /// What went wrong last, unless something went well since.
    pub last_error: Option<String>,
}

impl Autoscaler {
    /// How many records of a service are kept in memory.
    pub const RECORDS: usize = 256;
    /// How many of them survive a restart, where there is a store.
    pub const KEPT_RECORDS: usize = 16;
    /// The most services of one value.
    pub const MAX_SERVICES: usize = 10_000;

    /// Scales by these signals and through this target; no services yet.
    ///
    /// Without [`with_store`](Self::with_store) what it remembers ends with this value, and nothing keeps a second controller from
    /// scaling the same services.
    pub fn new(metrics: Arc<dyn Metrics>, target: Arc<dyn ScaleTarget>) -> Self {
        let clock = Arc::new(SystemClock);
        Self { metrics, target, clock, store: None, dry_run: false, services: BTreeMap::new() }
    }

    /// Takes the time from this clock. It may step: no window gets shorter by it.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Keeps each service's state in this store, so that a restart goes on where it was, and scales a service only while this
    /// controller holds its lock there. `holder` is its name for people. Keys are `scale/<service>/lock` and `…/state`.
    #[must_use]
    pub fn with_store(mut self, store: Arc<dyn Store>, holder: impl Into<String>) -> Self {
        self.store = Some((store, holder.into()));
        self
    }

    /// Decides and records, but sets nothing, takes no lock and writes no store: safe beside the one that acts.
    #[must_use]
    pub fn with_dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// Scales this service by this policy; a service that is there already gets the new one.
    ///
    /// # Errors
    /// Those of [`ScalePolicy::check`]; `OutOfResources` for more than [`Self::MAX_SERVICES`].
    pub fn with_service(self, service: ServiceName, policy: ScalePolicy) -> Result<Self> {
        let (signals, interval) = (policy.signals.clone(), policy.interval);
        let policy = TargetTracking::new(policy).map_err(|error| error.with_context("service", &service))?;
        self.with_policy(service, Arc::new(policy), signals, interval)
    }

    /// Scales this service by a policy of the embedder's own, which looks at these signals so often.
    ///
    /// # Errors
    /// `Invalid` for an interval of zero; `OutOfResources` for more than [`Self::MAX_SERVICES`] services or
    /// [`ScalePolicy::MAX_SIGNALS`] signals.
    pub fn with_policy(
        mut self,
        name: ServiceName,
        policy: DynScalePolicy,
        signals: impl IntoIterator<Item = Signal>,
        interval: Duration,
    ) -> Result<Self> {
        let signals: Vec<Signal> = signals.into_iter().collect();
        if interval.is_zero() {
            return Err(
                Error::invalid("`interval` is zero; accepted: above zero").with_context("service", name)
            );
        }
        let full = self.services.len() >= Self::MAX_SERVICES && !self.services.contains_key(&name);
        if full || signals.len() > ScalePolicy::MAX_SIGNALS {
            let message = format!(
                "{} services and {} signals; at most {} and {} are accepted",
                self.services.len() + 1,
                signals.len(),
                Self::MAX_SERVICES,
                ScalePolicy::MAX_SIGNALS
            );
            return Err(Error::new(ErrorKind::OutOfResources, message));
        }
        let (live, seen) = (tokio::sync::Mutex::default(), Mutex::default());
        self.services.insert(name.clone(), Service { name, policy, signals, interval, live, seen });
        Ok(self)
    }

    /// Evaluates every service at its interval until `stop` is ready, and then gives its locks back. Dropping the future stops
    /// it too; its locks then end with their leases.
    pub async fn run(&self, stop: impl Future<Output = ()> + Send) {
        let count = u32::try_from(self.services.len()).unwrap_or(u32::MAX).max(1);
        let loops = (0..).zip(self.services.values()).map(|(index, service)| {
            // Spread over the interval, so that a thousand services don't ask in the same instant.
            Box::pin(self.follow(service, service.interval * index / count))
        });
        let all = async {
            join_all(loops).await;
            // Without services there is nothing to do, and still only `stop` ends it.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = stop => {}
            () = all => {}
        }
        for service in self.services.values() {
            let mut live = service.live.lock().await;
            let Live { office, tenure, .. } = &mut *live;
            if let Some(office) = office {
                let _ = timeout(call_limit(service.interval), office.leave(tenure)).await;
            }
        }
    }

    async fn follow(&self, service: &Service, phase: Duration) {
        let mut ticks = interval_at(Instant::now() + phase, service.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Logged and counted there; there is nobody else to tell.
            let _ = self.evaluate_one(service).await;
        }
    }

    /// Evaluates one service now, as the loop does.
    ///
    /// # Errors
    /// `NotFound` for a service that is not scaled here; `Busy` where another controller scales it; what reading the count or
    /// writing the store gives. A count that could not be set is no error: the record says so.
    pub async fn evaluate(&self, service: &ServiceName) -> Result<ScaleRecord> {
        let found = self.services.get(service).ok_or_else(|| Error::not_found("scaled service", service))?;
        self.evaluate_one(found).await
    }

    async fn evaluate_one(&self, service: &Service) -> Result<ScaleRecord> {
        let result = Box::pin(self.step(service)).await;
        let mut seen = service.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = match &result {
            Ok(record) => {
                seen.status.decisions += 1;
                if seen.records.len() == Self::RECORDS {
                    seen.records.pop_front();
                }
                seen.records.push_back(record.clone());
                match &record.action {
                    Action::Failed { message, .. } => Some(message.clone()),
                    _ => None,
                }
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(message) = &failure {
            seen.status.failures += 1;
            tracing::warn!(service = service.name.as_str(), error = message.as_str(), "scaling failed");
        }
        seen.status.last_error = failure;
        result.map_err(|error| error.with_operation("scale.evaluate").with_context("service", &service.name))
    }

    async fn step(&self, service: &Service) -> Result<ScaleRecord> {
        let limit = call_limit(service.interval);
        let mut live = service.live.lock().await;
        let Live { state, office, tenure } = &mut *live;
        if let (Some((store, holder)), None, false) = (&self.store, &office, self.dry_run) {
            // Several calls fit into one lease, and so do missed ticks.
            let ttl = (limit * 8).max(service.interval * 3);
            *office = Some(Office::new(Arc::clone(store), holder.clone(), &service.name, ttl)?);
        }
        if let Some(office) = office {
            let left = within(limit * 3, "taking the service's lock", office.hold(tenure)).await?;
            if let Some(left) = left {
                self.take_over(service, state, left);
            }
        }

        let scale = within(limit, "reading the count", self.target.current(&service.name)).await?;
        let readings = join_all(service.signals.iter().map(|signal| self.read(signal, limit))).await;
        let observation = ScaleObservation::new(scale, readings);
        let (decided, next) = service.policy.decide(&observation, state, self.clock.now());
        let ScaleDecision { desired, from, .. } = decided.decision;
        let mut record = ScaleRecord::new(&service.name, decided);
        if desired != from {
            record.action = if self.dry_run { Action::DryRun } else { Action::Intended };
            tracing::info!(
                service = service.name.as_str(),
                from,
                desired,
                dry_run = self.dry_run,
                "scaling: {}",
                record.decision.outcome
            );
        }
        if let Some(office) = office {
            let kept = Kept {
                policy: service.policy.name().to_owned(),
                state: next.clone(),
                records: self.last_records(service, &record),
            };
            within(limit, "writing the service's record", office.write(tenure, &kept)).await?;
        }
        *state = next;
        if record.action == Action::Intended {
            let held = office.as_ref().is_none_or(|office| office.outlasts(tenure.as_ref(), limit));
            record.action = if held {
                let mut reason = record.decision.to_string();
                reason.truncate(reason.floor_char_boundary(Error::MAX_DETAIL));
                let change = ScaleChange::to(desired, reason).if_version(observation.scale.version);
                match within(limit, "setting the count", self.target.set(&service.name, &change)).await {
                    Ok(scale) => Action::Applied { version: scale.version },
                    Err(error) => Action::failed(&error),
                }
            } else {
                let late =
                    Error::new(ErrorKind::Timeout, "the evaluation took so long that the lock might be lost");
                Action::failed(&late)
            };
        }
        Ok(record)
    }

    /// Goes on from what the controller before has left.
    fn take_over(&self, service: &Service, state: &mut PolicyState, left: Kept) {
        if left.policy == service.policy.name() {
            *state = left.state;
        }
        let mut seen = service.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.records.is_empty() {
            seen.records.extend(left.records);
        }
    }

    fn last_records(&self, service: &Service, new: &ScaleRecord) -> Vec<ScaleRecord> {
        let seen = service.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.records.len().saturating_sub(Self::KEPT_RECORDS - 1);
        seen.records.iter().skip(before).chain([new]).cloned().collect()
    }

    /// What a signal says. Nothing that goes wrong here is a value.
    async fn read(&self, signal: &Signal, limit: Duration) -> SignalReading {
        let missing = |reason| SignalReading::unavailable(&signal.name, reason);
        let answer =
            match within(limit, "asking for a signal", self.metrics.instant(&signal.query, None)).await {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::warn!(signal = signal.name.as_str(), %error, "a signal can't be read");
                    return missing(Unavailable::Missing);
                }
            };
        let reporting = answer.coverage.matched.saturating_sub(answer.coverage.unavailable);
        let mut groups = answer.series.into_iter();
        let reading = match (groups.next(), groups.next()) {
            (None, _) => missing(Unavailable::Missing),
            (Some(only), None) => match only.value {
                Reading::Number(number) => SignalReading::measured(&signal.name, number.value, number.at),
                Reading::Unavailable(reason) => missing(reason),
                _ => {
                    tracing::warn!(
                        signal = signal.name.as_str(),
                        "a signal is a distribution; ask for a quantile"
                    );
                    missing(Unavailable::Missing)
                }
            },
            (Some(_), Some(_)) => {
                tracing::warn!(signal = signal.name.as_str(), "a signal has several groups; aggregate it");
                missing(Unavailable::Missing)
            }
        };
        match u32::try_from(reporting) {
            Ok(reporting) if signal.series_are_instances => reading.with_reporting(reporting),
            _ => reading,
        }
    }

    /// The last records of a service, the oldest first; at most [`Self::RECORDS`].
    pub fn records(&self, service: &ServiceName) -> Vec<ScaleRecord> {
        let seen = |found: &Service| {
            found.seen.lock().unwrap_or_else(PoisonError::into_inner).records.iter().cloned().collect()
        };
        self.services.get(service).map(seen).unwrap_or_default()
    }

    /// How the loop of a service is doing; `None` for one that is not scaled here.
    pub fn status(&self, service: &ServiceName) -> Option<ScaleStatus> {
        let found = self.services.get(service)?;
        Some(found.seen.lock().unwrap_or_else(PoisonError::into_inner).status.clone())
    }
}

impl std::fmt::Debug for Autoscaler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let services: Vec<_> = self.services.keys().collect();
        f.debug_struct("Autoscaler")
            .field("services", &services)
            .field("dry_run", &self.dry_run)
            .finish_non_exhaustive()
    }
}

/// How long one call may take: half an interval, so that an evaluation is over before the next but one; at most 10 s.
fn call_limit(interval: Duration) -> Duration {
    (interval / 2).min(Duration::from_secs(10))
}

/// The call's result, or `Timeout`.
async fn within<T>(limit: Duration, what: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(limit, call).await {
        Ok(result) => result,
        Err(_) => {
            Err(Error::new(ErrorKind::Timeout, format!("{what} took longer than {limit:?}"))
                .with_maybe_applied())
        }
    }
}
