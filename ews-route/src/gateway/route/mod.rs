//! Finds the rule of a route set for a request: exact path first, then regular expressions, then the longest prefix.
//!
//! A set is compiled once per change and looked up by hash: once for the exact path, then once per `/` in it from the end,
//! as far as the longest prefix of the set reaches. So a path of ten thousand slashes costs no more than the set's owner
//! has asked for. Expressions are tried one by one, each in time linear in the path.

mod condition;
mod edit;
mod pattern;
mod redirect;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use ews_core::balancer::{HashOn, PathMatch, RouteAction, RouteRule, RouteSet};
use ews_core::id::{PoolId, TrafficPolicyId};
use ews_core::{Error, Result};
use hyper::StatusCode;
use hyper::header::HeaderValue;

use super::turn::Turn;
use condition::Conditions;
use pattern::Pattern;

pub(crate) use condition::{Ask, cookies};
pub(crate) use edit::Edits;
pub(crate) use redirect::Redirect;

/// The most regular expressions of one set: each costs every request that no exact path takes.
const MAX_PATTERNS: usize = 100;

/// A route set in the form in which it is looked up.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    exact: HashMap<Box<str>, Group>,
    prefixes: HashMap<Box<str>, Group>,
    longest: usize,
    patterns: Vec<(Pattern, Group)>,
    rules: Vec<Rule>,
}

/// Rules with the same path, the most demanding first.
type Group = Vec<usize>;

/// A rule but for its path.
#[derive(Debug)]
pub(crate) struct Rule {
    conditions: Option<Box<Conditions>>,
    /// What is changed on the way.
    pub(crate) edits: Option<Arc<Edits>>,
    pub(crate) policy: Option<TrafficPolicyId>,
    pub(crate) action: Action,
}

/// What a rule does.
#[derive(Debug)]
pub(crate) enum Action {
    /// It goes to one of these pools.
    Forward(Shares),
    /// It goes to another address.
    Redirect(StatusCode, HeaderValue),
    /// It goes to what was asked for, changed.
    RedirectTo(Redirect),
    /// It is answered here.
    Respond(StatusCode, Bytes),
}

/// Pools and their shares.
#[derive(Debug)]
pub(crate) struct Shares {
    pools: Vec<PoolId>,
    turn: Turn,
    by: Option<HashOn>,
}

impl Shares {
    /// The pool whose turn it is, or that a request's hash leads to; `None` where all shares are zero.
    pub(crate) fn next(&self, hash: impl FnOnce(&HashOn) -> u64) -> Option<&PoolId> {
        let at = match &self.by {
            // Another number than the one that pools choose their endpoints by.
            Some(by) if self.pools.len() > 1 => self.turn.of(scramble(hash(by))),
            _ => self.turn.next(),
        };
        self.pools.get(at?)
    }
}

/// The last step of SplitMix64: every bit of the number moves every bit of the result.
fn scramble(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Routes {
    /// Compiles a set.
    ///
    /// # Errors
    /// `Invalid` for what only this gateway can tell to be wrong: an expression that does not compile, a header value or a
    /// path that can't be sent.
    pub(crate) fn new(set: &RouteSet) -> Result<Self> {
        let mut routes = Self::default();
        let mut patterns: Vec<(&str, Group)> = Vec::new();
        for (index, rule) in set.rules.iter().enumerate() {
            let compiled = compile(rule).map_err(|error| error.with_context("rule", index))?;
            routes.rules.push(compiled);
            match &rule.path {
                PathMatch::Exact(path) => routes.exact.entry(path.as_str().into()).or_default().push(index),
                PathMatch::Prefix(path) => {
                    routes.longest = routes.longest.max(path.len());
                    routes.prefixes.entry(path.as_str().into()).or_default().push(index);
                }
                PathMatch::Regex(text) => match patterns.iter_mut().find(|(known, _)| known == text) {
                    Some((_, group)) => group.push(index),
                    None => patterns.push((text, vec![index])),
                },
                _ => {
                    return Err(Error::invalid("a path is matched in a way that this gateway does not know"));
                }
            }
        }
        if patterns.len() > MAX_PATTERNS {
            return Err(Error::invalid(format!(
                "{} regular expressions in one route set; at most {MAX_PATTERNS} are accepted",
                patterns.len()
            )));
        }
        for (text, group) in patterns {
            routes.patterns.push((Pattern::new(text)?, group));
        }
        let rules = &set.rules;
        // Stable: among equals the first one written holds.
        let demands = |index: &usize| {
            rules.get(*index).map(|rule| std::cmp::Reverse((rule.attributes.len(), !rule.methods.is_empty())))
        };
        let groups = routes.exact.values_mut().chain(routes.prefixes.values_mut());
        groups
            .chain(routes.patterns.iter_mut().map(|(_, group)| group))
            .for_each(|group| group.sort_by_key(demands));
        Ok(routes)
    }

    /// The rule for this request.
    pub(crate) fn find(&self, ask: &Ask<'_>) -> Option<&Rule> {
        let path = ask.path;
        if !self.exact.is_empty()
            && let Some(rule) = self.holds(self.exact.get(path), ask)
        {
            return Some(rule);
        }
        let mut patterns = self.patterns.iter().filter(|(pattern, _)| pattern.takes(path));
        if let Some(rule) = patterns.find_map(|(_, group)| self.holds(Some(group), ask)) {
            return Some(rule);
        }
        if self.longest > 1 {
            let whole =
                if path.len() <= self.longest { self.holds(self.prefixes.get(path), ask) } else { None };
            let found = whole.or_else(|| {
                let within = path.as_bytes().get(..path.len().min(self.longest + 1)).unwrap_or_default();
                let slashes = (0..within.len()).rev().filter(|at| within.get(*at) == Some(&b'/'));
                // `/a/` as written takes in what is below it, and so does `/a`.
                slashes
                    .flat_map(|at| [at + 1, at])
                    .filter(|end| *end > 0 && *end <= self.longest)
                    .find_map(|end| self.holds(self.prefixes.get(path.get(..end)?), ask))
            });
            if found.is_some() {
                return found;
            }
        }
        if path.starts_with('/') { self.holds(self.prefixes.get("/"), ask) } else { None }
    }

    /// The first of these rules whose conditions hold.
    fn holds(&self, group: Option<&Group>, ask: &Ask<'_>) -> Option<&Rule> {
        let mut rules = group?.iter().filter_map(|index| self.rules.get(*index));
        rules.find(|rule| rule.conditions.as_ref().is_none_or(|conditions| conditions.hold(ask)))
    }
}

fn compile(rule: &RouteRule) -> Result<Rule> {
    let status = |status: u16| {
        StatusCode::from_u16(status).map_err(|_| Error::invalid(format!("{status} is no HTTP status")))
    };
    let action = match &rule.action {
        RouteAction::Forward(shares) => Action::Forward(Shares {
            pools: shares.iter().map(|share| share.pool.clone()).collect(),
            turn: Turn::new(shares.iter().map(|share| share.weight)),
            by: rule.split_by.clone(),
        }),
        RouteAction::Redirect { to, status: code } => Action::Redirect(status(*code)?, edit::value(to)?),
        RouteAction::RedirectTo(to) => Action::RedirectTo(Redirect::new(to, status(to.status)?, &rule.path)?),
        RouteAction::Respond { status: code, body } => {
            Action::Respond(status(*code)?, Bytes::copy_from_slice(body.as_bytes()))
        }
        _ => return Err(Error::invalid("an action that this gateway does not know")),
    };
    Ok(Rule {
        conditions: Conditions::new(rule)?.map(Box::new),
        edits: Edits::new(&rule.filters, &rule.path)?.map(Arc::new),
        policy: rule.policy.clone(),
        action,
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
        let rules = rules.iter().map(rule);
        Routes::new(&RouteSet::new(RouteSetId::new("s").unwrap(), rules)).unwrap()
    }

    fn found(routes: &Routes, path: &str) -> Option<String> {
        asked(routes, &hyper::Method::GET, path, &hyper::HeaderMap::new())
    }

    fn asked(
        routes: &Routes,
        method: &hyper::Method,
        target: &str,
        headers: &hyper::HeaderMap,
    ) -> Option<String> {
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        match &routes.find(&Ask { method, path, query, headers })?.action {
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

    #[test]
    fn conditions_choose_among_equals_and_fall_through_to_the_next_rule() {
        use ews_core::balancer::{AttributeMatch, AttributePlace};
        let attribute = |place, name: &str, value: Option<&str>| {
            let any = AttributeMatch::new(place, name);
            value.map_or(any.clone(), |value| any.with_value(value))
        };
        let rule = |path, name: &str| {
            RouteRule::new(path, RouteAction::Respond { status: 200, body: name.to_owned() })
        };
        let (header, cookie, query) = (AttributePlace::Header, AttributePlace::Cookie, AttributePlace::Query);
        let rules = vec![
            rule(prefix("/"), "all"),
            rule(prefix("/api"), "posts").methods(["POST", "PUT"]),
            rule(prefix("/api"), "beta").attribute(attribute(header, "X-Beta", None)),
            rule(prefix("/api"), "beta two")
                .attribute(attribute(header, "x-beta", Some("2")))
                .attribute(attribute(cookie, "user", Some("a=b"))),
            rule(exact("/api/x"), "debug").attribute(attribute(query, "debug", Some("a b"))),
        ];
        let routes = Routes::new(&RouteSet::new(RouteSetId::new("s").unwrap(), rules)).unwrap();
        let headers = |pairs: &[(&'static str, &'static str)]| -> hyper::HeaderMap {
            pairs
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
                .collect()
        };
        let (get, post) = (hyper::Method::GET, hyper::Method::POST);
        for (method, target, pairs, wanted) in [
            (&get, "/api", &[][..], "all"),
            (&post, "/api", &[], "posts"),
            (&post, "/api", &[("x-beta", "1")], "beta"),
            (&get, "/api/x", &[("x-beta", "2")], "beta"),
            (&get, "/api/x", &[("x-beta", "1"), ("x-beta", "2"), ("cookie", "q=1; user=a=b")], "beta two"),
            (&get, "/api/x", &[("x-beta", "2"), ("cookie", "q=1"), ("cookie", "user=\"a=b\"")], "beta two"),
            (&get, "/api/x", &[("x-beta", "2"), ("cookie", "xuser=a=b; USER=a=b")], "beta"),
            (&get, "/api/x?debug=a+b", &[], "debug"),
            (&get, "/api/x?x=1&de%62ug=a%20b", &[("x-beta", "2")], "debug"),
            (&get, "/api/x?debug=a%2", &[], "all"),
        ] {
            let found = asked(&routes, method, target, &headers(pairs));
            assert_eq!(found.as_deref(), Some(wanted), "{method} {target} {pairs:?}");
        }
    }

    #[cfg(feature = "regex")]
    #[test]
    fn expressions_match_whole_paths_after_exact_and_before_prefixes() {
        let regex = |text: &str| PathMatch::Regex(text.to_owned());
        let routes = routes(&[
            (prefix("/"), "all"),
            (prefix("/user/7"), "prefix"),
            (regex("/user/[0-9]+|/u"), "number"),
            (regex("/user/.*"), "any"),
            (exact("/user/1"), "one"),
        ]);
        for (path, wanted) in [
            ("/user/1", "one"),
            ("/user/7", "number"),
            ("/user/7/x", "any"),
            ("/u", "number"),
            ("/x/user/8", "all"),
            ("/ux", "all"),
        ] {
            assert_eq!(found(&routes, path).as_deref(), Some(wanted), "{path}");
        }
        let wrong = |text: &str| {
            let rule = RouteRule::new(regex(text), RouteAction::Respond { status: 200, body: String::new() });
            Routes::new(&RouteSet::new(RouteSetId::new("s").unwrap(), [rule])).unwrap_err()
        };
        for text in ["(", "/a)|(/b", "(?:a{1000}){1000}{1000}", "(?=x)"] {
            let error = wrong(text);
            assert_eq!(error.kind(), ews_core::ErrorKind::Invalid, "{error}");
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
