//! Several providers behind one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::{SecretValue, Secrets};
use crate::error::{Error, Result};
use crate::spec::content::SecretRef;

/// Sends each reference to the provider that it names, and one without a provider to the default.
///
/// ```
/// use std::sync::Arc;
/// use ews_core::Secrets;
/// use ews_core::secrets::{EnvSecrets, SecretsByProvider};
///
/// let env: Arc<dyn Secrets> = Arc::new(EnvSecrets::new(["SHOP_"])?);
/// let secrets = SecretsByProvider::new().with("env", env.clone())?.with_default(env);
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct SecretsByProvider {
    providers: BTreeMap<String, Arc<dyn Secrets>>,
    default: Option<Arc<dyn Secrets>>,
}

impl SecretsByProvider {
    /// No provider yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a provider under a name.
    ///
    /// # Errors
    /// `Invalid` for a name that no reference can hold, or one that is taken.
    pub fn with(mut self, name: &str, provider: Arc<dyn Secrets>) -> Result<Self> {
        let fits = format!("{name}:x").parse::<SecretRef>().is_ok_and(|found| found.provider() == Some(name));
        if !fits {
            return Err(Error::invalid(
                "this is no name of a provider; accepted: 1 to 32 lower-case letters, digits and `-`",
            ));
        }
        if self.providers.insert(name.to_owned(), provider).is_some() {
            return Err(Error::invalid(format!("the provider `{name}` is given twice")));
        }
        Ok(self)
    }

    /// Sends references without a provider here.
    #[must_use]
    pub fn with_default(mut self, provider: Arc<dyn Secrets>) -> Self {
        self.default = Some(provider);
        self
    }
}

impl fmt::Debug for SecretsByProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretsByProvider")
            .field("providers", &self.providers.keys())
            .field("default", &self.default.is_some())
            .finish()
    }
}

#[async_trait]
impl Secrets for SecretsByProvider {
    /// # Errors
    /// `Invalid` for a provider that is not there, naming those that are; those of the provider.
    async fn resolve(&self, reference: &SecretRef) -> Result<SecretValue> {
        let provider = match reference.provider() {
            Some(name) => self.providers.get(name),
            None => self.default.as_ref(),
        };
        let Some(provider) = provider else {
            let known: Vec<_> = self.providers.keys().map(String::as_str).collect();
            let missing = match reference.provider() {
                Some(_) => "there is no such provider of secrets",
                None => "there is no default provider of secrets, so a reference must name one",
            };
            return Err(Error::invalid(format!("{missing}; accepted: `{}`", known.join("`, `")))
                .with_operation("secrets.resolve")
                .with_context("secret", reference));
        };
        provider.resolve(reference).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    struct Says(&'static str);

    #[async_trait]
    impl Secrets for Says {
        async fn resolve(&self, _: &SecretRef) -> Result<SecretValue> {
            SecretValue::new(self.0)
        }
    }

    #[tokio::test]
    async fn each_reference_goes_to_its_provider() {
        let says = |text| Arc::new(Says(text)) as Arc<dyn Secrets>;
        let two =
            SecretsByProvider::new().with("a", says("from a")).unwrap().with("b", says("from b")).unwrap();
        let all = two.clone().with_default(says("from the default"));
        for (reference, from) in [("a:x", "from a"), ("b:x", "from b"), ("x", "from the default")] {
            let value = all.resolve(&reference.parse().unwrap()).await.unwrap();
            assert_eq!(value.expose_str().unwrap(), from);
        }
        let error = all.resolve(&"c:x".parse().unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains("`a`, `b`"), "{error}");
        assert!(two.resolve(&"x".parse().unwrap()).await.unwrap_err().message().contains("no default"));
        assert!(two.clone().with("a", says("again")).is_err());
        assert!(two.with("Not:A Name", says("x")).is_err());
    }
}
