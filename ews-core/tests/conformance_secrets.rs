//! The secrets suite on the fake, and proof that its cases can fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ews_core::testkit::FakeSecrets;
use ews_core::testkit::conformance::secrets::{SecretsHarness, run};
use ews_core::testkit::conformance::{Stop, Verdict};
use ews_core::{Error, ErrorKind, Result, SecretRef, SecretValue, Secrets};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
    None,
    Trims,
    FlattensNames,
    OldestIsDefault,
    MissingIsEmpty,
    Cuts,
    DeniedIsMissing,
    ShowsValue,
}
use Mutation as M;

const TABLE: &[(Mutation, &str)] = &[
    (M::Trims, "a_value_comes_back_byte_by_byte"),
    (M::FlattensNames, "names_are_told_apart"),
    (M::OldestIsDefault, "the_newest_version_is_the_default"),
    (M::MissingIsEmpty, "what_is_not_there_is_not_found"),
    (M::Cuts, "the_longest_value_passes_and_a_longer_one_is_refused"),
    (M::DeniedIsMissing, "a_denied_secret_is_unauthorized"),
    (M::ShowsValue, "an_error_names_the_reference_and_no_value"),
];

struct Broken {
    inner: FakeSecrets,
    mutation: Mutation,
}

fn flat(reference: &SecretRef) -> SecretRef {
    reference.to_string().replace(['/', '.'], "_").parse().unwrap()
}

#[async_trait]
impl Secrets for Broken {
    async fn resolve(&self, reference: &SecretRef) -> Result<SecretValue> {
        let mut reference = reference.clone();
        if self.mutation == M::FlattensNames {
            reference = flat(&reference);
        }
        if self.mutation == M::OldestIsDefault && reference.version().is_none() {
            reference = format!("{reference}@1").parse().unwrap();
        }
        match (self.mutation, self.inner.resolve(&reference).await) {
            (M::Trims, Ok(value)) => SecretValue::new(value.expose().trim_ascii()),
            (M::MissingIsEmpty, Err(_)) => SecretValue::new(""),
            (M::Cuts, Err(error)) if error.kind() == ErrorKind::OutOfResources => SecretValue::new("x"),
            (M::DeniedIsMissing, Err(error)) if error.kind() == ErrorKind::Unauthorized => {
                Err(Error::not_found("secret", reference))
            }
            (M::ShowsValue, Err(error)) => {
                Err(error.with_detail("known versions: 1 = correct-horse-battery"))
            }
            (_, other) => other,
        }
    }
}

struct Harness {
    mutation: Mutation,
    only: Option<&'static str>,
    versions: bool,
    fake: Mutex<(FakeSecrets, u32)>,
}

#[async_trait]
impl SecretsHarness for Harness {
    async fn secrets(&self) -> Result<Arc<dyn Secrets>, Stop> {
        let inner = FakeSecrets::new();
        *self.fake.lock().unwrap() = (inner.clone(), 0);
        Ok(Arc::new(Broken { inner, mutation: self.mutation }))
    }

    async fn put(&self, reference: &SecretRef, value: &[u8]) -> Result<Option<SecretRef>, Stop> {
        let mut fake = self.fake.lock().unwrap();
        let reference = if self.mutation == M::FlattensNames { flat(reference) } else { reference.clone() };
        fake.0.put(&reference, value);
        fake.1 += 1;
        Ok(if self.versions { Some(format!("{reference}@{}", fake.1).parse()?) } else { None })
    }

    async fn deny(&self, reference: &SecretRef) -> Result<(), Stop> {
        self.fake.lock().unwrap().0.deny(reference.name());
        Ok(())
    }

    fn wants(&self, case: &str) -> bool {
        self.only.is_none_or(|only| only == case)
    }
}

fn harness(mutation: Mutation, only: Option<&'static str>, versions: bool) -> Harness {
    Harness { mutation, only, versions, fake: Mutex::default() }
}

#[tokio::test(start_paused = true)]
async fn the_fake_passes() {
    run(&harness(M::None, None, true)).await.assert_passed(&[]);
    run(&harness(M::None, None, false)).await.assert_passed(&["the_newest_version_is_the_default"]);
}

#[tokio::test(start_paused = true)]
async fn every_mutation_is_caught_by_its_case() {
    let (mut survived, mut covered) = (Vec::new(), BTreeSet::new());
    for (mutation, case) in TABLE {
        let report = run(&harness(*mutation, Some(case), true)).await;
        assert_eq!(report.outcomes.len(), 1, "no case `{case}`");
        if !matches!(report.outcomes[0].verdict, Verdict::Failed(_)) {
            survived.push(format!("{mutation:?}: {report}"));
        }
        covered.insert(*case);
    }
    assert_eq!(survived, Vec::<String>::new());
    let all = run(&harness(M::None, None, true)).await;
    assert_eq!(
        all.outcomes.iter().find(|outcome| !covered.contains(&*outcome.name)),
        None,
        "without a mutation"
    );
}
