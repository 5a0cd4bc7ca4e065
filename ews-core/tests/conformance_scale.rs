//! The scale target suite on the fake, and proof that its cases can fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ews_core::testkit::FakeScaleTarget;
use ews_core::testkit::conformance::scale::{ScaleHarness, run};
use ews_core::testkit::conformance::{Stop, Verdict};
use ews_core::{
    Capability, CapabilitySet, Error, ErrorKind, InstanceId, Result, Scale, ScaleChange, ScaleTarget,
    ServiceName,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
    None,
    MissingIsEmpty,
    VersionStays,
    SameCountRaises,
    IgnoresVersion,
    StaleIsBusy,
    Clamps,
    OtherVictim,
    DropsStrangers,
    BusyIsFine,
    DropCancels,
}
use Mutation as M;

const TABLE: &[(Mutation, &str)] = &[
    (M::MissingIsEmpty, "a_service_that_is_not_there"),
    (M::VersionStays, "a_count_is_recorded"),
    (M::SameCountRaises, "the_same_count_changes_nothing"),
    (M::IgnoresVersion, "a_version_that_is_past_is_refused"),
    (M::StaleIsBusy, "of_competing_changes_one_wins"),
    (M::Clamps, "counts_outside_the_bounds_are_refused"),
    (M::OtherVictim, "victims_go_first_or_are_refused"),
    (M::DropsStrangers, "a_stranger_is_no_victim"),
    (M::BusyIsFine, "a_busy_service_says_so"),
    (M::DropCancels, "a_dropped_future_still_sets"),
];

struct Broken {
    inner: FakeScaleTarget,
    mutation: Mutation,
}

#[async_trait]
impl ScaleTarget for Broken {
    fn capabilities(&self) -> CapabilitySet {
        self.inner.capabilities()
    }

    async fn current(&self, service: &ServiceName) -> Result<Scale> {
        match self.inner.current(service).await {
            Err(_) if self.mutation == M::MissingIsEmpty => Ok(Scale::at_rest(0, 0)),
            other => other,
        }
    }

    async fn set(&self, service: &ServiceName, change: &ScaleChange) -> Result<Scale> {
        let mut change = change.clone();
        match self.mutation {
            M::IgnoresVersion => change.version = None,
            M::Clamps => change.desired = change.desired.clamp(1, 10),
            M::OtherVictim => change.victims.clear(),
            M::DropsStrangers => {
                let known = self.inner.instances(service);
                change.victims.retain(|victim| known.contains(victim));
            }
            M::DropCancels => tokio::time::sleep(Duration::from_millis(1)).await,
            M::SameCountRaises => {
                let same = self.inner.current(service).await?.desired == change.desired;
                if same {
                    let other = if change.desired == 1 { 2 } else { change.desired - 1 };
                    self.inner.set(service, &ScaleChange::to(other, "there")).await?;
                    change.version = None;
                }
            }
            _ => {}
        }
        let mut set = match self.inner.set(service, &change).await {
            Err(error) if self.mutation == M::StaleIsBusy && error.kind() == ErrorKind::Stale => {
                return Err(Error::new(ErrorKind::Busy, "stale"));
            }
            Err(error) if self.mutation == M::BusyIsFine && error.kind() == ErrorKind::Busy => {
                return self.inner.current(service).await;
            }
            other => other?,
        };
        if self.mutation == M::VersionStays {
            set.version = 1;
        }
        Ok(set)
    }
}

struct Harness {
    mutation: Mutation,
    without: Option<Capability>,
    only: Option<&'static str>,
    fake: Mutex<FakeScaleTarget>,
}

impl Harness {
    fn new(mutation: Mutation, without: Option<Capability>, only: Option<&'static str>) -> Self {
        Self { mutation, without, only, fake: Mutex::new(FakeScaleTarget::new()) }
    }
}

fn web() -> ServiceName {
    ServiceName::new("web").unwrap()
}

#[async_trait]
impl ScaleHarness for Harness {
    async fn target(&self) -> Result<Arc<dyn ScaleTarget>, Stop> {
        let all = CapabilitySet::all();
        let inner = FakeScaleTarget::with(self.without.map_or(all.clone(), |missing| all.without(missing)));
        inner.add(&web(), 3, 1..=10);
        *self.fake.lock().unwrap() = inner.clone();
        Ok(Arc::new(Broken { inner, mutation: self.mutation }))
    }

    async fn service(&self) -> Result<ServiceName, Stop> {
        Ok(web())
    }

    async fn instances(&self, service: &ServiceName) -> Result<Vec<InstanceId>, Stop> {
        Ok(self.fake.lock().unwrap().instances(service))
    }

    async fn make_busy(&self, service: &ServiceName) -> Result<(), Stop> {
        self.fake.lock().unwrap().set_busy(service, true);
        Ok(())
    }

    fn wants(&self, case: &str) -> bool {
        self.only.is_none_or(|only| only == case)
    }
}

#[tokio::test(start_paused = true)]
async fn the_fake_passes() {
    run(&Harness::new(M::None, None, None)).await.assert_passed(&[]);
    run(&Harness::new(M::None, Some(Capability::ChooseVictims), None)).await.assert_passed(&[]);
}

#[tokio::test(start_paused = true)]
async fn every_mutation_is_caught_by_its_case() {
    let (mut survived, mut covered) = (Vec::new(), BTreeSet::new());
    for (mutation, case) in TABLE {
        let report = run(&Harness::new(*mutation, None, Some(case))).await;
        assert_eq!(report.outcomes.len(), 1, "no case `{case}`");
        if !matches!(report.outcomes[0].verdict, Verdict::Failed(_)) {
            survived.push(format!("{mutation:?}: {report}"));
        }
        covered.insert(*case);
    }
    assert_eq!(survived, Vec::<String>::new());
    let all = run(&Harness::new(M::None, None, None)).await;
    assert_eq!(
        all.outcomes.iter().find(|outcome| !covered.contains(&*outcome.name)),
        None,
        "without a mutation"
    );
}
