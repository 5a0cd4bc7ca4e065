//! Finds the rule of a route set for a path: exact first, then the longest prefix.
//!
//! A set is compiled once per change and looked up by hash: once for the exact path, then once per `/` in it from the end,
//! as far as the longest prefix of the set reaches. So a path of ten thousand slashes costs no more than the set's owner
//! has asked for.

use std::collections::HashMap;

use bytes::Bytes;
use ews_core::balancer::{PathMatch, RouteAction, RouteSet};
use ews_core::id::PoolId;
use hyper::StatusCode;
use hyper::header::HeaderValue;

use super::turn::Turn;

/// A route set in the form in which it is looked up.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    exact: HashMap<Box<str>, usize>,
    prefixes: HashMap<Box<str>, usize>,
    longest: usize,
    actions: Vec<Action>,
}

/// What a rule does.
#[derive(Debug)]
pub(crate) enum Action {
    /// It goes to one of these pools.
    Forward(Shares),
    /// It goes to another address.
    Redirect(StatusCode, HeaderValue),
    /// It is answered here.
    Respond(StatusCode, Bytes),
}

/// Pools and their shares.
#[derive(Debug)]
pub(crate) struct Shares {
    pools: Vec<PoolId>,
    turn: Turn,
}

impl Shares {
    /// The pool whose turn it is; `None` where all shares are zero.
    pub(crate) fn next(&self) -> Option<&PoolId> {
        self.pools.get(self.turn.next()?)
    }
}

impl Routes {
    pub(crate) fn new(set: &RouteSet) -> Self {
        let mut routes = Self::default();
        for rule in &set.rules {
            let Some(action) = action(&rule.action) else { continue };
            let index = routes.actions.len();
            routes.actions.push(action);
            // Among equals the first one written holds.
            match &rule.path {
                PathMatch::Exact(path) => {
                    routes.exact.entry(path.as_str().into()).or_insert(index);
                }
                PathMatch::Prefix(path) => {
                    routes.longest = routes.longest.max(path.len());
                    routes.prefixes.entry(path.as_str().into()).or_insert(index);
                }
                // The table refuses it, since the capability is not declared.
                _ => {}
            }
        }
        routes
    }

    /// The action for this path, without its query.
    pub(crate) fn find(&self, path: &str) -> Option<&Action> {
        if !self.exact.is_empty()
            && let Some(index) = self.exact.get(path)
        {
            return self.actions.get(*index);
        }
        if self.longest > 1 {
            let found = if path.len() <= self.longest { self.prefixes.get(path) } else { None };
            let found = found.or_else(|| {
                let within = path.as_bytes().get(..path.len().min(self.longest + 1)).unwrap_or_default();
                let slashes = (0..within.len()).rev().filter(|at| within.get(*at) == Some(&b'/'));
                // `/a/` as written takes in what is below it, and so does `/a`.
                slashes
                    .flat_map(|at| [at + 1, at])
                    .filter(|end| *end > 0 && *end <= self.longest)
                    .find_map(|end| self.prefixes.get(path.get(..end)?))
            });
            if let Some(index) = found {
                return self.actions.get(*index);
            }
        }
        if path.starts_with('/') { self.actions.get(*self.prefixes.get("/")?) } else { None }
    }
}

fn action(action: &RouteAction) -> Option<Action> {
    Some(match action {
        RouteAction::Forward(shares) => Action::Forward(Shares {
            pools: shares.iter().map(|share| share.pool.clone()).collect(),
            turn: Turn::new(shares.iter().map(|share| share.weight)),
        }),
        RouteAction::Redirect { to, status } => {
            Action::Redirect(StatusCode::from_u16(*status).ok()?, HeaderValue::from_str(to).ok()?)
        }
        RouteAction::Respond { status, body } => {
            Action::Respond(StatusCode::from_u16(*status).ok()?, Bytes::copy_from_slice(body.as_bytes()))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use ews_core::balancer::RouteRule;
    use ews_core::id::RouteSetId;
    use proptest::prelude::*;

    use super::*;

    fn routes(rules: &[(PathMatch, &str)]) -> Routes {
        let rule = |(path, name): &(PathMatch, &str)| {
            RouteRule::new(path.clone(), RouteAction::Respond { status: 200, body: (*name).to_owned() })
        };
        Routes::new(&RouteSet { id: RouteSetId::new("s").unwrap(), rules: rules.iter().map(rule).collect() })
    }

    fn found(routes: &Routes, path: &str) -> Option<String> {
        match routes.find(path)? {
            Action::Respond(_, body) => Some(String::from_utf8_lossy(body).into_owned()),
            _ => None,
        }
    }

    fn exact(path: &str) -> PathMatch {
        PathMatch::Exact(path.to_owned())
    }

    fn prefix(path: &str) -> PathMatch {
        PathMatch::Prefix(path.to_owned())
    }

    #[test]
    fn the_more_precise_rule_holds_whatever_the_order() {
        let routes = routes(&[
            (prefix("/"), "root"),
            (prefix("/api"), "api"),
            (prefix("/api/v1"), "v1"),
            (prefix("/api"), "second"),
            (prefix("/slash/"), "slash"),
            (exact("/api/v1/x"), "exact"),
        ]);
        for (path, wanted) in [
            ("/", "root"),
            ("/apis", "root"),
            ("/api", "api"),
            ("/api/", "api"),
            ("/api/v", "api"),
            ("/api/v1", "v1"),
            ("/api/v1/", "v1"),
            ("/api/v1/y/z", "v1"),
            ("/api/v1/x", "exact"),
            ("/api/v1/x/", "v1"),
            ("/slash", "root"),
            ("/slash/", "slash"),
            ("/slash/x", "slash"),
        ] {
            assert_eq!(found(&routes, path).as_deref(), Some(wanted), "{path}");
        }
        assert_eq!(found(&routes, "*"), None);
    }

    #[test]
    fn without_a_rule_there_is_no_answer() {
        let routes = routes(&[(prefix("/api"), "api"), (exact("/x"), "x")]);
        for path in ["/", "/apis", "/x/", "/y", ""] {
            assert_eq!(found(&routes, path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn it_finds_what_a_plain_search_finds(
            rules in proptest::collection::vec(("(/[ab]{0,2}){1,4}", any::<bool>()), 0..8),
            path in "(/[ab]{0,2}){1,5}",
        ) {
            let rules: Vec<(PathMatch, String)> = rules
                .into_iter()
                .enumerate()
                .map(|(at, (path, is_exact))| (if is_exact { exact(&path) } else { prefix(&path) }, at.to_string()))
                .collect();
            let borrowed: Vec<(PathMatch, &str)> =
                rules.iter().map(|(path, name)| (path.clone(), name.as_str())).collect();
            let takes_in = |rule: &PathMatch| match rule {
                PathMatch::Exact(text) => (*text == path).then_some(usize::MAX),
                PathMatch::Prefix(text) => {
                    let below = path.strip_prefix(text.as_str())?;
                    (below.is_empty() || text.ends_with('/') || below.starts_with('/')).then_some(text.len())
                }
                _ => None,
            };
            let mut best: Option<(usize, &str)> = None;
            for (rule, name) in &borrowed {
                if let Some(precision) = takes_in(rule)
                    && best.is_none_or(|(found, _)| precision > found)
                {
                    best = Some((precision, name));
                }
            }
            prop_assert_eq!(found(&routes(&borrowed), &path), best.map(|(_, name)| name.to_owned()));
        }
    }
}
