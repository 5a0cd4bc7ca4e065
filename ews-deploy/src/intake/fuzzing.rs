//! What the fuzz targets reach that nobody else shall.

use axum::http::{HeaderMap, HeaderValue};
use ews_core::spec::content::SecretRef;
use serde_json::Value;

use super::hooks;
use super::make::Wish;
use super::rule::{Provider, Rule, RuleSource};

/// A webhook's body from its bytes to what is wished for, as if its signature had been right.
pub fn heard(which: u8, event: &str, body: &[u8]) {
    const PROVIDERS: [Provider; 7] = [
        Provider::Github,
        Provider::Gitlab,
        Provider::Gitea,
        Provider::Generic,
        Provider::Registry,
        Provider::Harbor,
        Provider::Dockerhub,
    ];
    let provider = PROVIDERS[usize::from(which) % PROVIDERS.len()];
    let (Ok(secret), Ok(name)) =
        ("hook".parse::<SecretRef>(), "registry.example/shop/{branch}:{sha}".parse())
    else {
        return;
    };
    let rule = Rule::new(provider, secret, RuleSource::Image(name), Value::Null);
    let mut headers = HeaderMap::new();
    if let Ok(event) = HeaderValue::from_str(event) {
        for name in ["x-github-event", "x-gitea-event", "x-github-delivery", "x-ews-delivery"] {
            headers.insert(name, event.clone());
        }
    }
    for heard in hooks::understood(&rule, &headers, body) {
        if rule.refuses(&heard).is_none() {
            let _ = Wish::of(&rule.source, &heard);
        }
    }
}
