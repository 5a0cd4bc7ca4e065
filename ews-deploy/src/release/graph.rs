//! The graph of a release: who waits for whom, in which order all can go, and who has to go back first.

use std::collections::{BTreeMap, BTreeSet};

use ews_core::{Error, Result, ServiceName};

use super::spec::{After, ReleaseSpec};

/// Who waits for whom.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Graph {
    /// Every member after all that it waits for; where that leaves a choice, as written.
    order: Vec<ServiceName>,
    after: BTreeMap<ServiceName, Vec<After>>,
    /// Who waits for a member, directly or by way of others.
    behind: BTreeMap<ServiceName, BTreeSet<ServiceName>>,
}

impl Graph {
    /// # Errors
    /// `Invalid` for a circle, which is printed.
    pub(crate) fn new(spec: &ReleaseSpec) -> Result<Self> {
        let after: BTreeMap<ServiceName, Vec<After>> =
            spec.members.iter().map(|member| (member.name().clone(), member.after.clone())).collect();
        let mut order: Vec<ServiceName> = Vec::new();
        let mut placed: BTreeSet<&ServiceName> = BTreeSet::new();
        while placed.len() < after.len() {
            let ready = |name: &&ServiceName| {
                !placed.contains(name)
                    && after
                        .get(*name)
                        .is_some_and(|edges| edges.iter().all(|edge| placed.contains(&edge.member)))
            };
            let wave: Vec<&ServiceName> =
                spec.members.iter().map(|member| member.name()).filter(ready).collect();
            if wave.is_empty() {
                let circle: Vec<_> = circle(&after, &placed).iter().map(|name| format!("`{name}`")).collect();
                return Err(Error::invalid(format!(
                    "the members wait for each other in a circle: {}; accepted: an order in which each can begin",
                    circle.join(" -> ")
                ))
                .with_context("release", &spec.name)
                .with_context("field", "after"));
            }
            order.extend(wave.iter().map(|name| (*name).clone()));
            placed.extend(wave);
        }
        let mut behind: BTreeMap<ServiceName, BTreeSet<ServiceName>> = BTreeMap::new();
        for name in order.iter().rev() {
            // Those that wait for it are complete: they come later in the order.
            let mine = behind.entry(name.clone()).or_default().clone();
            for edge in after.get(name).into_iter().flatten() {
                let theirs = behind.entry(edge.member.clone()).or_default();
                theirs.insert(name.clone());
                theirs.extend(mine.iter().cloned());
            }
        }
        Ok(Self { order, after, behind })
    }

    /// Every member after all that it waits for.
    pub(crate) fn order(&self) -> &[ServiceName] {
        &self.order
    }

    /// What a member waits for.
    pub(crate) fn after(&self, name: &ServiceName) -> &[After] {
        self.after.get(name).map_or(&[], Vec::as_slice)
    }

    /// Who waits for a member, directly or by way of others.
    pub(crate) fn behind(&self, name: &ServiceName) -> impl Iterator<Item = &ServiceName> {
        self.behind.get(name).into_iter().flatten()
    }

    /// The members by how many others come before them at least: what may go at once.
    pub(crate) fn waves(&self) -> Vec<Vec<ServiceName>> {
        let mut depth: BTreeMap<&ServiceName, usize> = BTreeMap::new();
        let mut waves: Vec<Vec<ServiceName>> = Vec::new();
        for name in &self.order {
            let before = self.after(name).iter().filter_map(|edge| depth.get(&edge.member)).max();
            let mine = before.map_or(0, |before| before + 1);
            depth.insert(name, mine);
            if waves.len() <= mine {
                waves.resize(mine + 1, Vec::new());
            }
            if let Some(wave) = waves.get_mut(mine) {
                wave.push(name.clone());
            }
        }
        waves
    }
}

/// One of the circles among those that could not be placed, from a member back to itself.
fn circle(after: &BTreeMap<ServiceName, Vec<After>>, placed: &BTreeSet<&ServiceName>) -> Vec<ServiceName> {
    let left = |name: &ServiceName| !placed.contains(name);
    let Some(first) = after.keys().find(|name| left(name)) else { return Vec::new() };
    let mut path = vec![first.clone()];
    // Each that is left waits for another that is left, so the path must come back to itself.
    while let Some(next) =
        path.last().and_then(|last| after.get(last)?.iter().map(|edge| &edge.member).find(|name| left(name)))
    {
        if let Some(at) = path.iter().position(|name| name == next) {
            path.drain(..at);
            path.push(next.clone());
            return path;
        }
        path.push(next.clone());
    }
    path
}

#[cfg(test)]
mod tests {
    use ews_core::ServiceSpec;
    use ews_core::spec::source::{ArtifactSource, Source};

    use super::super::spec::{MemberCondition, MemberSpec};
    use super::*;

    fn name(text: &str) -> ServiceName {
        ServiceName::new(text).unwrap()
    }

    fn release(edges: &[(&str, &[&str])]) -> ReleaseSpec {
        let mut release = ReleaseSpec::new("shop".parse().unwrap());
        for (member, after) in edges {
            let source = Source::Artifact(ArtifactSource::new("/srv/x"));
            let mut spec = MemberSpec::new(ServiceSpec::new(name(member), source));
            for other in *after {
                spec = spec.after(name(other), MemberCondition::Healthy);
            }
            release = release.with_member(spec);
        }
        release
    }

    #[test]
    fn the_order_keeps_conditions_and_otherwise_what_was_written() {
        let spec = release(&[
            ("web", &["api"]),
            ("api", &["db", "cache"]),
            ("db", &[]),
            ("cache", &[]),
            ("mail", &[]),
        ]);
        let graph = Graph::new(&spec).unwrap();
        let order: Vec<_> = graph.order().iter().map(ServiceName::as_str).collect();
        assert_eq!(order, ["db", "cache", "mail", "api", "web"]);
        let behind: Vec<_> = graph.behind(&name("db")).map(ServiceName::as_str).collect();
        assert_eq!(behind, ["api", "web"]);
        let waves: Vec<usize> = graph.waves().iter().map(Vec::len).collect();
        assert_eq!(waves, [3, 1, 1]);
    }

    #[test]
    fn a_circle_is_printed() {
        let spec = release(&[("a", &["d"]), ("b", &["a"]), ("c", &["b"]), ("d", &["c"]), ("e", &[])]);
        let error = spec.check().unwrap_err();
        assert!(error.message().contains("`a` -> `d` -> `c` -> `b` -> `a`"), "{error}");
        let error = release(&[("a", &["a"])]).check().unwrap_err();
        assert!(error.message().contains("`a` -> `a`"), "{error}");
    }

    #[test]
    fn what_can_not_work_is_refused_by_name() {
        let twice = release(&[("a", &[]), ("a", &[])]).check().unwrap_err();
        assert!(twice.message().contains("`a` is there twice"), "{twice}");
        let stranger = release(&[("a", &["z"])]).check().unwrap_err();
        assert!(stranger.message().contains("`z`, which is no member"), "{stranger}");
        assert!(release(&[]).check().unwrap_err().message().contains("1 to 100"));
        let names: Vec<String> = (0..101).map(|number| format!("m{number}")).collect();
        let many: Vec<(&str, &[&str])> = names.iter().map(|name| (name.as_str(), &[] as &[&str])).collect();
        assert!(release(&many).check().unwrap_err().message().contains("101 members"));
        let mut completed = release(&[("a", &[]), ("b", &["a"])]);
        completed.members[1].after[0].condition = MemberCondition::Completed;
        assert!(completed.check().unwrap_err().message().contains("only a run-once job"));
        let text = r#"{"name":"shop","members":[],"memburs":1}"#;
        assert!(serde_json::from_str::<ReleaseSpec>(text).unwrap_err().to_string().contains("memburs"));
    }
}
