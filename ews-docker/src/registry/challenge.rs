//! What a registry asks for: the challenges of `WWW-Authenticate`, and the rights that an operation needs.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Url;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

use super::fault::Fault;

/// What a registry asks for. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A name and a password.
    Basic,
    /// A token of this service.
    Bearer {
        /// The token service.
        realm: Url,
        /// What the service knows the registry by.
        service: Option<String>,
    },
}

/// A challenge and what the registry says beside it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) challenge: Challenge,
    /// The scope that it wants.
    pub(super) scope: Option<String>,
    /// Whether the token was good and lacks a right.
    pub(super) out_of_scope: bool,
}

/// Reads what an answer asks for: a token before a password, where both are offered.
pub(super) fn read(headers: &HeaderMap) -> Result<Option<Asked>, Fault> {
    let mut basic = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
        if text.len() > 8 * 1024 {
            return Err(Fault::Misbehaved("a challenge of more than 8 KiB".into()));
        }
        let Ok(challenges) = http_auth::parse_challenges(text) else { continue };
        for challenge in challenges {
            let value = |name: &str| {
                let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Asked { challenge: Challenge::Basic, scope: None, out_of_scope: false });
            } else if challenge.scheme.eq_ignore_ascii_case("bearer") {
                let realm = value("realm")
                    .and_then(|realm| Url::parse(&realm).ok())
                    .filter(is_service)
                    .ok_or_else(|| {
                        Fault::Misbehaved(
                            "the registry names a token service that is no address of http or https".into(),
                        )
                    })?;
                let out_of_scope = value("error").as_deref() == Some("insufficient_scope");
                let challenge = Challenge::Bearer { realm, service: value("service") };
                return Ok(Some(Asked { challenge, scope: value("scope"), out_of_scope }));
            }
        }
    }
    Ok(basic)
}

fn is_service(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
        && url.host_str().is_some()
        && url.username().is_empty()
        && url.password().is_none()
}

/// Rights on repositories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rights(BTreeMap<String, BTreeSet<String>>);

impl Rights {
    /// These actions on one repository.
    pub(super) fn on(repository: &str, actions: &[&str]) -> Self {
        Self::default().and(repository, actions)
    }

    pub(super) fn and(mut self, repository: &str, actions: &[&str]) -> Self {
        self.0
            .entry(repository.to_owned())
            .or_default()
            .extend(actions.iter().map(|action| (*action).to_owned()));
        self
    }

    /// Adds what a registry asks for beyond, on the same repositories only: a registry that is told to delete may call that right
    /// `*`, but none gets us to fetch a token for something else.
    pub(super) fn widen(&mut self, scope: &str) {
        for part in scope.split_ascii_whitespace() {
            let Some((name, actions)) =
                part.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':'))
            else {
                continue;
            };
            if let Some(known) = self.0.get_mut(name) {
                let actions =
                    actions.split(',').filter(|action| matches!(*action, "pull" | "push" | "delete" | "*"));
                known.extend(actions.map(str::to_owned));
            }
        }
    }

    /// In a token service's words, one scope a repository.
    pub(super) fn scopes(&self) -> Vec<String> {
        // By the order of actions everyone writes: some services compare texts.
        let order = |action: &&String| match action.as_str() {
            "pull" => 0,
            "push" => 1,
            "delete" => 2,
            _ => 3,
        };
        let scope = |(name, actions): (&String, &BTreeSet<String>)| {
            let mut actions: Vec<&String> = actions.iter().collect();
            actions.sort_by_key(order);
            let actions: Vec<&str> = actions.into_iter().map(String::as_str).collect();
            format!("repository:{name}:{}", actions.join(","))
        };
        self.0.iter().map(scope).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(values: &[&str]) -> Result<Option<Asked>, Fault> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        read(&headers)
    }

    #[test]
    fn a_token_is_preferred_to_a_password() {
        let bearer = r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a:pull",error="insufficient_scope""#;
        for values in
            [vec![bearer], vec![r#"Basic realm="x""#, bearer], vec![&*format!("Basic realm=\"x\", {bearer}")]]
        {
            let asked = asked(&values).unwrap().unwrap();
            assert_eq!(asked.scope.as_deref(), Some("repository:a:pull"));
            assert!(asked.out_of_scope);
            match asked.challenge {
                Challenge::Bearer { realm, service } => {
                    assert_eq!(
                        (realm.as_str(), service.as_deref()),
                        ("https://auth.example/token", Some("registry.example"))
                    );
                }
                Challenge::Basic => panic!("{values:?}"),
            }
        }
        assert_eq!(asked(&["bAsIc realm=\"x\""]).unwrap().unwrap().challenge, Challenge::Basic);
    }

    #[test]
    fn what_can_not_be_followed_is_refused_and_what_is_unknown_passed_over() {
        for realm in ["", "auth.example", "file:///x", "https://user:word@auth.example/", "javascript:1"] {
            assert!(asked(&[&format!("Bearer realm=\"{realm}\"")]).is_err(), "{realm}");
        }
        assert!(asked(&["Bearer service=\"x\""]).is_err());
        assert!(asked(&[&format!("Bearer realm=\"https://a/{}\"", "x".repeat(9000))]).is_err());
        for nothing in [vec![], vec!["Negotiate"], vec!["\"\"\","], vec!["Digest realm=\"x\", nonce=\"y\""]] {
            assert!(asked(&nothing).unwrap().is_none(), "{nothing:?}");
        }
    }

    #[test]
    fn rights_widen_on_their_own_repository_only() {
        let mut rights = Rights::on("a/b", &["pull", "delete"]).and("c", &["pull"]);
        rights.widen("repository:a/b:*,push,admin repository:other:push registry:catalog:* repository:c");
        assert_eq!(rights.scopes(), ["repository:a/b:pull,push,delete,*", "repository:c:pull"]);
    }
}
