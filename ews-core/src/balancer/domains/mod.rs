//! The domains of a table: from one to a million of them, found by hash, listed in order, changed one by one.
//!
//! ```text
//! host ─▶ hash ─▶ branch of 16 ─▶ … ─▶ leaf: slot ─▶ entry ─▶ Site: routes, certificate, policy
//! ```
//!
//! - [`leaf`] keeps some hundred domains in a few runs of memory, [`tree`] finds the leaf.
//! - [`names`] keeps their names in order.
//! - Domains that point to the same things share one [`Site`].
//!
//! A [`Domains`] is what a data plane reads: a copy is a few pointers and never changes, so readers take no lock. Whoever
//! makes changes holds the only [`DomainTable`].
//!
//! # What it costs
//! Beside its name a domain takes some 110 bytes of resident memory, its name once more for the order included (at a million;
//! `benches`, `table`). A leaf that lost its names stays until the table is read anew: at most some hundred bytes for every 512 names that ever were at once.
//!
//! # Who may choose names
//! Names come from operators, and where they rent domains out, from their tenants; hosts that are looked up come from anybody.
//! So the hash is the standard library's SipHash under keys of this table's own: nobody can choose names that share a place,
//! and a look-up never costs more than the table's own names make it: one for the host, and one for each number of labels
//! that some wildcard has.

mod leaf;
mod names;
mod tree;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use self::names::Names;
use self::tree::Tree;
use crate::balancer::{Domain, DomainName, Object, ObjectRef, Stored};
use crate::id::{CertificateId, RouteSetId, TrafficPolicyId};

/// What a domain points to. Domains that point to the same share one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Site {
    /// Its routes.
    pub routes: RouteSetId,
    /// The certificate that ends TLS for it.
    pub certificate: Option<CertificateId>,
    /// What holds for all its requests.
    pub policy: Option<TrafficPolicyId>,
}

impl Site {
    fn of(domain: &Domain) -> Self {
        let Domain { routes, certificate, policy, .. } = domain;
        Self { routes: routes.clone(), certificate: certificate.clone(), policy: policy.clone() }
    }

    /// What must be there for a domain that points to this.
    pub(super) fn references(&self) -> impl Iterator<Item = ObjectRef> {
        let routes = std::iter::once(ObjectRef::RouteSet(self.routes.clone()));
        let certificate = self.certificate.clone().map(ObjectRef::Certificate);
        routes.chain(certificate).chain(self.policy.clone().map(ObjectRef::TrafficPolicy))
    }

    fn domain(&self, name: DomainName) -> Domain {
        let Self { routes, certificate, policy } = self.clone();
        Domain { name, routes, certificate, policy }
    }
}

/// The domains of a [`Table`](crate::balancer::Table) at one moment, for whoever routes by them. A clone is a few pointers
/// and stays as it is whatever becomes of the table.
///
/// ```
/// use ews_core::balancer::{Change, Domain, DomainName, Limits, Object, Op, RouteSet, Table};
/// use ews_core::{CapabilitySet, ChangeId, RouteSetId};
///
/// let routes = RouteSetId::new("shop")?;
/// let name = DomainName::new("*.shop.example")?;
/// let domain = Domain::new(name, routes.clone());
/// let ops = [Object::RouteSet(RouteSet::new(routes.clone(), [])), Object::Domain(domain)];
/// let mut table = Table::new(CapabilitySet::all(), Limits::default());
/// let before = table.domains().clone();
/// table.apply(&Change::new(ChangeId::new("first")?, ops.map(Op::Put)))?;
/// assert_eq!(table.domains().site("www.shop.example").map(|site| &site.routes), Some(&routes));
/// assert!(before.is_empty());
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Domains {
    hasher: RandomState,
    exact: Tree,
    /// By what follows `*.`.
    wildcards: Tree,
    /// Of how many labels those are, a bit for each number: other parts of a host are not looked up.
    wildcard_labels: u128,
    every_other: Option<(u64, Arc<Site>)>,
    count: usize,
}

/// Where a name is kept.
enum Place<'a> {
    Exact(&'a str),
    Wildcard(&'a str),
    EveryOther,
}

impl<'a> Place<'a> {
    fn of(name: &'a DomainName) -> Self {
        match name.as_str().strip_prefix('*') {
            None => Self::Exact(name.as_str()),
            Some(rest) => rest.strip_prefix('.').map_or(Self::EveryOther, Self::Wildcard),
        }
    }
}

impl Domains {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What serves a host, which is given in lower case: the domain of this name, else the longest `*.` that takes it in
    /// (`*.example` takes in `a.example` and `a.b.example`, not `example`), else `*`.
    pub fn site(&self, host: &str) -> Option<&Site> {
        if let Some(entry) = self.exact.get(self.hash(host), host) {
            return Some(&entry.site);
        }
        self.wildcard(host).or(self.every_other.as_ref().map(|(_, site)| &**site))
    }

    fn wildcard(&self, host: &str) -> Option<&Site> {
        if self.wildcard_labels == 0 {
            return None;
        }
        let (mut rest, mut labels) = (host, labels(host));
        while let Some((_, parent)) = rest.split_once('.') {
            labels -= 1;
            if self.wildcard_labels & bit(labels) != 0
                && let Some(entry) = self.wildcards.get(self.hash(parent), parent)
            {
                return Some(&entry.site);
            }
            rest = parent;
        }
        None
    }

    /// The domain of exactly this name: its version, and what it points to.
    pub fn get(&self, name: &DomainName) -> Option<(u64, &Site)> {
        match Place::of(name) {
            Place::Exact(host) => self.exact.get(self.hash(host), host),
            Place::Wildcard(parent) => self.wildcards.get(self.hash(parent), parent),
            Place::EveryOther => return self.every_other.as_ref().map(|(version, site)| (*version, &**site)),
        }
        .map(|entry| (entry.version, &*entry.site))
    }

    fn hash(&self, name: &str) -> u32 {
        hash(&self.hasher, name)
    }

    fn set(&mut self, name: &DomainName, put: Option<(u64, Arc<Site>)>) -> Option<Arc<Site>> {
        let is_put = put.is_some();
        let before = match Place::of(name) {
            Place::Exact(host) => set(&mut self.exact, &self.hasher, host, put),
            Place::Wildcard(parent) => set(&mut self.wildcards, &self.hasher, parent, put),
            Place::EveryOther => std::mem::replace(&mut self.every_other, put).map(|(_, site)| site),
        };
        match (is_put, &before) {
            (true, None) => self.count += 1,
            (false, Some(_)) => self.count = self.count.saturating_sub(1),
            _ => {}
        }
        before
    }
}

/// How many labels a name has.
fn labels(name: &str) -> u32 {
    let dots = name.bytes().filter(|byte| *byte == b'.').count();
    u32::try_from(dots + 1).unwrap_or(u32::MAX)
}

/// The bit of so many labels; none for more than a name can have.
fn bit(labels: u32) -> u128 {
    1_u128.checked_shl(labels).unwrap_or(0)
}

fn hash(hasher: &RandomState, name: &str) -> u32 {
    u32::try_from(hasher.hash_one(name) & u64::from(u32::MAX)).unwrap_or(0)
}

fn set(
    tree: &mut Tree,
    hasher: &RandomState,
    name: &str,
    put: Option<(u64, Arc<Site>)>,
) -> Option<Arc<Site>> {
    match put {
        Some((version, site)) => tree.put(hash(hasher, name), name, version, site),
        None => tree.remove(hash(hasher, name), name),
    }
}

/// The domains as a table keeps them.
#[derive(Debug, Clone, Default)]
pub(super) struct DomainTable {
    domains: Domains,
    names: Names,
    /// How many domains point there.
    sites: HashMap<Arc<Site>, usize>,
    /// How many wildcards there are of so many labels.
    wildcards: BTreeMap<u32, usize>,
}

impl DomainTable {
    pub(super) fn domains(&self) -> &Domains {
        &self.domains
    }

    pub(super) fn stored(&self, name: &DomainName) -> Option<Stored> {
        let (version, site) = self.domains.get(name)?;
        Some(Stored { version, object: Object::Domain(site.domain(name.clone())) })
    }

    /// Everything that some domain points to, once.
    pub(super) fn references(&self) -> impl Iterator<Item = ObjectRef> {
        self.sites.keys().flat_map(|site| site.references())
    }

    /// The domains after this name, in order.
    pub(super) fn after(&self, name: Option<&str>) -> impl Iterator<Item = Stored> {
        self.names.after(name).filter_map(|name| self.stored(&DomainName::new(name).ok()?))
    }

    /// Puts a domain and gives what one of its name pointed to before.
    pub(super) fn put(&mut self, version: u64, domain: &Domain) -> Option<Arc<Site>> {
        let site = Site::of(domain);
        let shared = match self.sites.get_key_value(&site) {
            Some((known, _)) => known.clone(),
            None => Arc::new(site),
        };
        *self.sites.entry(shared.clone()).or_default() += 1;
        let before = self.domains.set(&domain.name, Some((version, shared)));
        match &before {
            Some(before) => self.leave(before),
            None => {
                self.names.insert(domain.name.as_str());
                self.count_wildcard(&domain.name, |count| count + 1);
            }
        }
        before
    }

    /// Removes a domain and gives what it pointed to.
    pub(super) fn remove(&mut self, name: &DomainName) -> Option<Arc<Site>> {
        let before = self.domains.set(name, None)?;
        self.leave(&before);
        self.names.remove(name.as_str());
        self.count_wildcard(name, |count| count.saturating_sub(1));
        Some(before)
    }

    fn count_wildcard(&mut self, name: &DomainName, change: impl Fn(usize) -> usize) {
        let Place::Wildcard(parent) = Place::of(name) else { return };
        let labels = labels(parent);
        let count = self.wildcards.entry(labels).or_default();
        *count = change(*count);
        if *count == 0 {
            self.domains.wildcard_labels &= !bit(labels);
        } else {
            self.domains.wildcard_labels |= bit(labels);
        }
    }

    fn leave(&mut self, site: &Arc<Site>) {
        if let Some(count) = self.sites.get_mut(site) {
            *count -= 1;
            if *count == 0 {
                self.sites.remove(site);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn domain(name: &str, set: u32) -> Domain {
        let routes = RouteSetId::new(format!("s{set}")).unwrap();
        Domain { name: DomainName::new(name).unwrap(), routes, certificate: None, policy: None }
    }

    fn served<'a>(domains: &'a Domains, host: &str) -> Option<&'a str> {
        domains.site(host).map(|site| site.routes.as_str())
    }

    #[test]
    fn the_closest_name_serves() {
        let mut table = DomainTable::default();
        for (name, set) in [("a.example", 1), ("*.example", 2), ("*.b.example", 3), ("*", 4)] {
            table.put(1, &domain(name, set));
        }
        let domains = table.domains().clone();
        for (host, set) in [
            ("a.example", "s1"),
            ("x.example", "s2"),
            ("x.a.example", "s2"),
            ("b.example", "s2"),
            ("x.y.b.example", "s3"),
            ("example", "s4"),
            ("", "s4"),
            ("*", "s4"),
        ] {
            assert_eq!(served(&domains, host), Some(set), "{host}");
        }
        table.remove(&DomainName::new("*.example").unwrap());
        table.remove(&DomainName::new("*").unwrap());
        assert_eq!(served(table.domains(), "x.example"), None);
        assert_eq!(served(&domains, "x.example"), Some("s2"), "a copy stays as it is");
        assert_eq!((table.domains().len(), domains.len()), (2, 4));
    }

    #[test]
    fn domains_that_point_to_the_same_share_it_and_the_last_takes_it_away() {
        let mut table = DomainTable::default();
        for number in 0..5_000 {
            table.put(1, &domain(&format!("d{number}.example"), number % 3));
        }
        assert_eq!(table.sites.len(), 3);
        for number in 0..5_000 {
            table.put(2, &domain(&format!("d{number}.example"), 7));
        }
        assert_eq!(table.sites.values().collect::<Vec<_>>(), [&5_000]);
        for number in 0..5_000 {
            table.remove(&DomainName::new(&format!("d{number}.example")).unwrap());
        }
        assert!(table.sites.is_empty() && table.domains().is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn it_finds_and_lists_what_a_plain_map_holds(
            steps in proptest::collection::vec((0_u32..4, 0_u32..2_500), 0..6_000),
            copied in 0_usize..6_000,
        ) {
            let name = |number: u32| match number % 50 {
                0 => format!("*.d{number}.example"),
                _ => format!("d{number}.{}example", "a.".repeat(number as usize % 5)),
            };
            let (mut table, mut model) = (DomainTable::default(), BTreeMap::new());
            let mut copy = None;
            for (at, (step, number)) in steps.into_iter().enumerate() {
                let name = name(number);
                if step == 0 {
                    table.remove(&DomainName::new(&name).unwrap());
                    model.remove(&name);
                } else {
                    table.put(at as u64, &domain(&name, step));
                    model.insert(name, (at as u64, step));
                }
                if at == copied {
                    copy = Some((table.domains().clone(), model.clone()));
                }
            }
            copy.get_or_insert_with(|| (table.domains().clone(), model.clone()));
            // Both the last state and one that others have changed copies of.
            for (domains, model) in [(table.domains().clone(), model.clone())].iter().chain(&copy) {
                prop_assert_eq!(domains.len(), model.len());
                for number in 0..2_500 {
                    let name = name(number);
                    let found = domains.get(&DomainName::new(&name).unwrap());
                    let found = found.map(|(version, site)| (version, site.routes.as_str().to_owned()));
                    let wanted = model.get(&name).map(|(version, set)| (*version, format!("s{set}")));
                    prop_assert_eq!(found, wanted);
                }
            }
            let listed: Vec<(String, u64)> = table.after(None).map(|stored| match stored.object {
                Object::Domain(domain) => (domain.name.as_str().to_owned(), stored.version),
                other => panic!("{other:?}"),
            }).collect();
            let wanted: Vec<(String, u64)> =
                model.into_iter().map(|(name, (version, _))| (name, version)).collect();
            prop_assert_eq!(listed, wanted);
        }
    }
}
