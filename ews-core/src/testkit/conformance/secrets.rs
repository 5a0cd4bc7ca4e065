//! The suite of the [`Secrets`] contract.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::expect::{ensure, refused, run_cases, same};
use super::{CaseResult, Report, Stop};
use crate::error::ErrorKind;
use crate::secrets::{SecretValue, Secrets};
use crate::spec::content::SecretRef;

/// Makes the provider under test and puts secrets into it.
#[async_trait]
pub trait SecretsHarness: Send + Sync {
    /// The provider under test.
    async fn secrets(&self) -> Result<Arc<dyn Secrets>, Stop>;

    /// Puts this value under this name as its newest version, and gives the reference that names just this version, or
    /// `None` where the provider has no versions.
    async fn put(&self, reference: &SecretRef, value: &[u8]) -> Result<Option<SecretRef>, Stop>;

    /// Takes the right to read this secret away.
    async fn deny(&self, reference: &SecretRef) -> Result<(), Stop> {
        let _ = reference;
        Err(Stop::skip("the harness can't take rights away"))
    }

    /// The reference of a secret of this name, without a version. Default: the name alone.
    fn reference(&self, name: &str) -> Result<SecretRef, Stop> {
        Ok(name.parse::<SecretRef>()?)
    }

    /// What is under test, for the report.
    fn name(&self) -> String {
        "secrets".to_owned()
    }

    /// Whether this case is to run; for work on a single one. Default: yes.
    fn wants(&self, case: &str) -> bool {
        let _ = case;
        true
    }
}

/// Runs every case.
pub async fn run(harness: &dyn SecretsHarness) -> Report {
    let mut report = Report::new(format!("secrets ({})", harness.name()));
    let bench = async |_: u16| -> Result<Bench<'_>, Stop> {
        Ok(Bench { harness, secrets: harness.secrets().await? })
    };
    run_cases! { report, Duration::from_secs(60), harness, bench;
        1 cases::a_value_comes_back_byte_by_byte;
        2 cases::names_are_told_apart;
        3 cases::the_newest_version_is_the_default;
        4 cases::what_is_not_there_is_not_found;
        5 cases::the_longest_value_passes_and_a_longer_one_is_refused;
        6 cases::a_denied_secret_is_unauthorized;
        7 cases::an_error_names_the_reference_and_no_value;
    }
    report
}

/// What a case works with.
struct Bench<'a> {
    harness: &'a dyn SecretsHarness,
    secrets: Arc<dyn Secrets>,
}

mod cases {
    use super::*;

    /// Compared without showing either.
    fn value(what: &str, found: &SecretValue, wanted: &[u8]) -> CaseResult {
        ensure!(found.expose() == wanted, "{what}: {} bytes came back as other {found:?}", wanted.len());
        Ok(())
    }

    pub(super) async fn a_value_comes_back_byte_by_byte(bench: Bench<'_>) -> CaseResult {
        let all: Vec<u8> = (0..=255).collect();
        let text = "p\u{e4}ss \"w\u{f6}rd'\n\t\\n$HOME%s\r\n".as_bytes();
        for (name, secret) in
            [("bytes", all.as_slice()), ("text", text), ("end", b"line\n"), ("space", b" x "), ("empty", b"")]
        {
            let reference = bench.harness.reference(&format!("conformance-{name}"))?;
            bench.harness.put(&reference, secret).await?;
            value(name, &bench.secrets.resolve(&reference).await?, secret)?;
        }
        Ok(())
    }

    pub(super) async fn names_are_told_apart(bench: Bench<'_>) -> CaseResult {
        let names = [
            "conformance/db/password",
            "conformance/db/passwor",
            "conformance/db_password",
            "conformance/db.password",
        ];
        for name in names {
            bench.harness.put(&bench.harness.reference(name)?, name.as_bytes()).await?;
        }
        for name in names {
            value(name, &bench.secrets.resolve(&bench.harness.reference(name)?).await?, name.as_bytes())?;
        }
        Ok(())
    }

    pub(super) async fn the_newest_version_is_the_default(bench: Bench<'_>) -> CaseResult {
        let reference = bench.harness.reference("conformance-versions")?;
        let first = bench.harness.put(&reference, b"old").await?;
        value("the only version", &bench.secrets.resolve(&reference).await?, b"old")?;
        let second = bench.harness.put(&reference, b"new").await?;
        value("the newest version", &bench.secrets.resolve(&reference).await?, b"new")?;
        let (Some(first), Some(second)) = (first, second) else {
            return Err(Stop::skip("the provider has no versions"));
        };
        value("the first version by name", &bench.secrets.resolve(&first).await?, b"old")?;
        value("the second version by name", &bench.secrets.resolve(&second).await?, b"new")
    }

    pub(super) async fn what_is_not_there_is_not_found(bench: Bench<'_>) -> CaseResult {
        let missing = bench.harness.reference("conformance-none")?;
        refused("a secret that is not there", bench.secrets.resolve(&missing).await, &[ErrorKind::NotFound])?;
        let made = bench.harness.put(&bench.harness.reference("conformance-there")?, b"x").await?;
        let version = format!("{}@none-such", bench.harness.reference("conformance-there")?).parse()?;
        // A provider without versions may say that it can't have one.
        let both = [ErrorKind::NotFound, ErrorKind::Invalid];
        let kinds = if made.is_some() { &both[..1] } else { &both };
        refused("a version that is not there", bench.secrets.resolve(&version).await, kinds)
    }

    pub(super) async fn the_longest_value_passes_and_a_longer_one_is_refused(bench: Bench<'_>) -> CaseResult {
        let reference = bench.harness.reference("conformance-long")?;
        let longest = vec![b'x'; SecretValue::MAX_LEN];
        bench.harness.put(&reference, &longest).await?;
        value("the longest value", &bench.secrets.resolve(&reference).await?, &longest)?;
        let reference = bench.harness.reference("conformance-longer")?;
        bench.harness.put(&reference, &vec![b'x'; SecretValue::MAX_LEN + 1]).await?;
        refused("a longer value", bench.secrets.resolve(&reference).await, &[ErrorKind::OutOfResources])
    }

    pub(super) async fn a_denied_secret_is_unauthorized(bench: Bench<'_>) -> CaseResult {
        let reference = bench.harness.reference("conformance-denied")?;
        bench.harness.put(&reference, b"hidden").await?;
        bench.harness.deny(&reference).await?;
        refused("a denied secret", bench.secrets.resolve(&reference).await, &[ErrorKind::Unauthorized])
    }

    pub(super) async fn an_error_names_the_reference_and_no_value(bench: Bench<'_>) -> CaseResult {
        let reference = bench.harness.reference("conformance-quiet")?;
        bench.harness.put(&reference, b"correct-horse-battery").await?;
        let missing = format!("{reference}@none-such").parse()?;
        let Err(error) = bench.secrets.resolve(&missing).await else {
            return Err(Stop::fail("a version that is not there was found"));
        };
        for text in [error.to_string(), format!("{error:?}")] {
            ensure!(text.contains("conformance-quiet"), "the error does not name the reference: {text}");
            ensure!(!text.contains("correct-horse"), "the error shows a value");
        }
        let shown = format!("{:?}", bench.secrets.resolve(&reference).await?);
        same("whether Debug shows the value", &shown.contains("correct-horse"), &false)
    }
}
