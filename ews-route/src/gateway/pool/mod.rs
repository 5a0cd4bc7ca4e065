//! A pool as a thread sees it, and the choice of an endpoint.
//!
//! The default takes two endpoints at random, by weight, and the one with fewer requests under way for its weight; of two
//! that are equal the first, so that shares follow the weights exactly while nobody is busy. Endpoints that can't be
//! connected to, or that answer with errors, are passed over; where most are, none is, since the few that are left would only
//! follow (panic threshold, Envoy's 50 %).

pub(crate) mod hash;
pub(crate) mod identity;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ews_core::balancer::{
    Algorithm, HashOn, Hold, MemberState, Outlier, Pool, PoolProtocol, ProxyProtocol, Sticky,
};

use super::affinity::Affinity;
use super::endpoint::EndpointState;
use super::turn::Turn;
use hash::Maglev;
pub(crate) use identity::{Identities, PoolIdentity};

/// A pool and its endpoints at one generation.
#[derive(Debug)]
pub(crate) struct PoolView {
    pub(crate) identity: Arc<PoolIdentity>,
    pub(crate) protocol: PoolProtocol,
    /// What becomes of requests while there is no endpoint for any.
    pub(crate) hold: Option<Hold>,
    algorithm: Algorithm,
    pub(crate) hash_on: HashOn,
    pub(crate) sticky: Option<Sticky>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Arc<super::tls::Upstream>>,
    /// How endpoints are told whom a connection is from.
    pub(crate) announces: Option<ProxyProtocol>,
    /// In milliseconds.
    slow_start: Option<u64>,
    outlier: Option<Outlier>,
    /// What may be under way at one endpoint.
    most: u64,
    maglev: Option<Maglev>,
    members: Vec<MemberView>,
    turn: Turn,
}

/// An endpoint of a pool at one generation.
#[derive(Debug)]
pub(crate) struct MemberView {
    pub(crate) endpoint: Arc<EndpointState>,
    /// 0 where it gets no new traffic, for whatever reason.
    weight: u32,
    tag: u64,
}

impl PoolView {
    pub(crate) fn new(
        identity: Arc<PoolIdentity>,
        pool: &Pool,
        members: impl IntoIterator<Item = (Arc<EndpointState>, MemberState, u32)>,
    ) -> Self {
        let members: Vec<MemberView> = members
            .into_iter()
            .map(|(endpoint, state, weight)| MemberView {
                tag: hash::tag(&endpoint.key),
                endpoint,
                weight: if state == MemberState::Active { weight } else { 0 },
            })
            .collect();
        let turn = Turn::new(members.iter().map(|member| member.weight));
        let Pool { protocol, algorithm, hold, outlier, .. } = *pool;
        let weights = || members.iter().map(|member| (member.tag, member.weight)).collect::<Vec<_>>();
        let maglev = (algorithm == Algorithm::Maglev).then(|| Maglev::new(&weights()));
        let slow_start =
            pool.slow_start.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1));
        let (hash_on, sticky) = (pool.hash_on.clone(), pool.sticky.clone());
        members.iter().for_each(|member| member.endpoint.set_asked(pool.check.is_some()));
        if pool.check.is_some() {
            identity.has_ejected.store(true, Ordering::Relaxed);
        }
        Self {
            identity,
            protocol,
            hold,
            algorithm,
            hash_on,
            sticky,
            #[cfg(feature = "tls")]
            tls: None,
            announces: pool.proxy_protocol,
            slow_start,
            outlier,
            most: pool.max_in_flight.map_or(u64::MAX, u64::from),
            maglev,
            members,
            turn,
        }
    }

    /// Tells connections apart that were made in another way; zero without TLS.
    pub(crate) fn flavour(&self) -> u64 {
        #[cfg(feature = "tls")]
        return self.tls.as_ref().map_or(0, |tls| tls.uid);
        #[cfg(not(feature = "tls"))]
        0
    }

    /// Whether an endpoint may get traffic at all.
    pub(crate) fn has_any(&self) -> bool {
        self.members.iter().any(|member| member.weight > 0 && member.endpoint.is_known())
    }

    /// Whether it is chosen by a hash of the request.
    pub(crate) fn hashes(&self) -> bool {
        matches!(self.algorithm, Algorithm::Rendezvous | Algorithm::Maglev)
    }

    /// An endpoint for one more request, none of those that were tried; `None` where there is none.
    pub(crate) fn pick(
        &self,
        now: u64,
        random: &mut impl FnMut() -> u64,
        wish: Affinity,
        tried: &[u64],
    ) -> Option<&Arc<EndpointState>> {
        let fresh = |member: &&MemberView| {
            member.weight > 0
                && member.endpoint.is_known()
                && (tried.is_empty() || !tried.contains(&member.endpoint.uid))
                && (self.most == u64::MAX || member.endpoint.in_flight() < self.most)
        };
        let usable = |member: &&MemberView| fresh(member) && !member.endpoint.is_out(now);
        let known = wish.tag.and_then(|tag| self.members.iter().find(|member| member.tag == tag));
        if let Some(known) = known.filter(usable) {
            return Some(&known.endpoint);
        }
        let chosen = match self.algorithm {
            Algorithm::RoundRobin => self.turn.next().and_then(|at| self.from(at).find(usable)),
            Algorithm::LeastRequest => self.least(random(), usable),
            Algorithm::PeakEwma => self.better(now, random, usable, |member| member.endpoint.cost(now)),
            Algorithm::Rendezvous => self.highest(wish.key, usable),
            Algorithm::Maglev => {
                let own = self.maglev.as_ref().and_then(|maglev| self.members.get(maglev.of(wish.key)?));
                own.filter(usable).or_else(|| self.highest(wish.key, usable))
            }
            _ => self.better(now, random, usable, |member| member.endpoint.in_flight()),
        };
        if let Some(chosen) = chosen.filter(|_| !self.is_in_panic(now)) {
            return Some(&chosen.endpoint);
        }
        // Most or all are ejected or tried: one that is ejected may have come back, one that was tried has just failed. One
        // that nobody has seen well comes last.
        let seen = |member: &&MemberView| fresh(member) && !member.endpoint.is_waiting();
        let chosen = if self.hashes() {
            self.highest(wish.key, seen).or_else(|| self.highest(wish.key, fresh))
        } else {
            let at = self.turn.at(random()).unwrap_or(0);
            self.from(at).find(seen).or_else(|| self.from(at).find(fresh))
        };
        chosen.map(|member| &member.endpoint)
    }

    /// Whether there is one beside this one that was not tried.
    pub(crate) fn has_another(&self, than: &EndpointState, tried: &[u64]) -> bool {
        let mut with_weight = self.members.iter().filter(|member| member.weight > 0);
        with_weight.any(|member| member.endpoint.uid != than.uid && !tried.contains(&member.endpoint.uid))
    }

    /// Whether an endpoint may get one more request.
    pub(crate) fn has_room(&self) -> bool {
        let mut known = self.members.iter().filter(|member| member.weight > 0 && member.endpoint.is_known());
        known.any(|member| self.most == u64::MAX || member.endpoint.in_flight() < self.most)
    }

    /// Whether so many are ejected that ejection is no help any more.
    fn is_in_panic(&self, now: u64) -> bool {
        if !self.identity.has_ejected.load(Ordering::Relaxed) {
            return false;
        }
        let (ejected, all) = self.ejected(now);
        if ejected == 0 && !self.members.iter().any(|member| member.endpoint.is_waiting()) {
            self.identity.has_ejected.store(false, Ordering::Relaxed);
        }
        ejected * 2 > all
    }

    /// How many are ejected, of how many that would get traffic. Those that wait for their first check, or for somebody to find
    /// out where they are, are in neither number.
    fn ejected(&self, now: u64) -> (usize, usize) {
        let is_seen = |endpoint: &EndpointState| !endpoint.is_waiting() && endpoint.is_known();
        let counted = || self.members.iter().filter(|member| member.weight > 0 && is_seen(&member.endpoint));
        (counted().filter(|member| member.endpoint.is_out(now)).count(), counted().count())
    }

    /// It could not be connected to.
    pub(crate) fn unreachable(&self, endpoint: &EndpointState, now: u64, first: Duration) {
        endpoint.unreachable(now, first);
        self.identity.has_ejected.store(true, Ordering::Relaxed);
    }

    /// How an endpoint did: one that fails too often gets nothing for a while, as far as the pool can spare it.
    pub(crate) fn note(&self, endpoint: &EndpointState, is_good: bool, now: u64) {
        let Some(outlier) = self.outlier else { return };
        if is_good {
            endpoint.did_well(now);
            return;
        }
        if endpoint.did_badly() < outlier.errors || endpoint.is_ejected(now) {
            return;
        }
        let (ejected, all) = self.ejected(now);
        let spared = all * usize::try_from(outlier.max_percent).unwrap_or(0) / 100;
        if ejected < spared.max(1) {
            endpoint.eject(now, outlier.eject);
            self.identity.has_ejected.store(true, Ordering::Relaxed);
        }
    }

    /// What an endpoint is called in a cookie.
    pub(crate) fn tag(&self, endpoint: &EndpointState) -> Option<u64> {
        self.members.iter().find(|member| member.endpoint.uid == endpoint.uid).map(|member| member.tag)
    }

    fn highest(&self, key: u64, usable: impl Fn(&&MemberView) -> bool) -> Option<&MemberView> {
        let score = |member: &&MemberView| hash::score(key, member.tag, member.weight);
        self.members.iter().filter(usable).max_by(|a, b| score(a).total_cmp(&score(b)))
    }

    /// The members from this one on, and around.
    fn from(&self, at: usize) -> impl Iterator<Item = &MemberView> {
        let (before, after) = self.members.split_at_checked(at).unwrap_or_default();
        after.iter().chain(before)
    }

    fn least(&self, random: u64, usable: impl Fn(&&MemberView) -> bool) -> Option<&MemberView> {
        let start = usize::try_from(random % (self.members.len().max(1) as u64)).unwrap_or(0);
        self.from(start).filter(usable).reduce(|best, other| {
            if load(other, other.endpoint.in_flight(), best) < load(best, best.endpoint.in_flight(), other) {
                other
            } else {
                best
            }
        })
    }

    fn better(
        &self,
        now: u64,
        random: &mut impl FnMut() -> u64,
        usable: impl Fn(&&MemberView) -> bool,
        cost: impl Fn(&MemberView) -> u64,
    ) -> Option<&MemberView> {
        let first = self.members.get(self.turn.at(random())?)?;
        if self.members.len() == 1 {
            return Some(first).filter(usable);
        }
        let second = self.members.get(self.turn.at(random())?)?;
        let is_warm = |member: &MemberView, dice: u64| {
            self.slow_start.is_none_or(|window| dice % 1_000 < member.endpoint.warmth(now, window))
        };
        let is_first = usable(&first) && is_warm(first, random());
        let is_second = usable(&second) && is_warm(second, random());
        match (is_first, is_second) {
            (true, true) => {
                let cheaper = load(second, cost(second), first) < load(first, cost(first), second);
                Some(if cheaper { second } else { first })
            }
            (true, false) => Some(first),
            (false, true) => Some(second),
            (false, false) => {
                let at = self.turn.at(random())?;
                let warm = self.from(at).find(|member| usable(member) && is_warm(member, random()));
                warm.or_else(|| self.from(at).find(usable))
            }
        }
    }
}

/// A member's load, to be held against another's: what is under way times the other's weight.
fn load(_: &MemberView, under_way: u64, other: &MemberView) -> u64 {
    under_way.saturating_mul(u64::from(other.weight))
}

#[cfg(test)]
mod tests {
    use ews_core::Labels;
    use ews_core::endpoint::EndpointKey;
    use ews_core::id::{InstanceId, PoolId, PortName};
    use ews_core::instance::Incarnation;

    use super::*;

    fn pool(algorithm: Algorithm, members: &[(MemberState, u32)]) -> PoolView {
        let id = PoolId::new("p").unwrap();
        let members = members.iter().enumerate().map(|(at, (state, weight))| {
            let key = EndpointKey {
                instance: InstanceId::new(format!("i{at}")).unwrap(),
                incarnation: Incarnation(1),
                port: PortName::new("http").unwrap(),
            };
            let address = "127.0.0.1:1".parse().unwrap();
            (Arc::new(EndpointState::new(at as u64, id.clone(), key, address, None)), *state, *weight)
        });
        let identity = Arc::new(PoolIdentity::new(1, id.clone(), Labels::default()));
        let mut pool = Pool::new(id.clone());
        pool.algorithm = algorithm;
        PoolView::new(identity, &pool, members)
    }

    fn random() -> impl FnMut() -> u64 {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        }
    }

    const ALL: [Algorithm; 6] = [
        Algorithm::Auto,
        Algorithm::PeakEwma,
        Algorithm::LeastRequest,
        Algorithm::RoundRobin,
        Algorithm::Rendezvous,
        Algorithm::Maglev,
    ];

    #[test]
    fn only_active_ones_with_a_weight_get_traffic() {
        use MemberState::{Active, Closed, Draining};
        for algorithm in ALL {
            let pool = pool(algorithm, &[(Draining, 100), (Active, 0), (Closed, 100), (Active, 7)]);
            let mut random = random();
            for _ in 0..100 {
                assert_eq!(
                    pool.pick(0, &mut random, Affinity::default(), &[]).unwrap().uid,
                    3,
                    "{algorithm:?}"
                );
            }
            assert!(pool.pick(0, &mut random, Affinity::default(), &[3]).is_none(), "{algorithm:?}");
        }
    }

    #[test]
    fn the_ejected_are_passed_over_unless_all_are() {
        for algorithm in ALL {
            let pool = pool(algorithm, &[(MemberState::Active, 100); 4]);
            let (mut random, second) = (random(), Duration::from_secs(1));
            for at in [0, 1] {
                pool.unreachable(&pool.members[at].endpoint, 0, second);
            }
            let mut seen = |now| {
                let seen = (0..200_u64).filter_map(|key| {
                    let wish = Affinity { key: hash::hash(&key.to_le_bytes()), tag: None };
                    Some(pool.pick(now, &mut random, wish, &[])?.uid)
                });
                seen.collect::<std::collections::BTreeSet<_>>()
            };
            assert_eq!(Vec::from_iter(seen(1)), [2, 3], "{algorithm:?}");
            // More than half: they are taken for what they are again.
            pool.unreachable(&pool.members[2].endpoint, 0, second);
            assert_eq!(Vec::from_iter(seen(1)), [0, 1, 2, 3], "{algorithm:?}");
            assert_eq!(Vec::from_iter(seen(1_001)), [0, 1, 2, 3], "{algorithm:?}");
        }
    }

    #[test]
    fn shares_follow_the_weights_and_the_load() {
        let counts = |pool: &PoolView| {
            let (mut random, mut counts) = (random(), [0_u32; 2]);
            for _ in 0..10_000 {
                counts[usize::try_from(pool.pick(0, &mut random, Affinity::default(), &[]).unwrap().uid)
                    .unwrap()] += 1;
            }
            counts
        };
        let weighted = pool(Algorithm::Auto, &[(MemberState::Active, 90), (MemberState::Active, 10)]);
        let [_, light] = counts(&weighted);
        assert!((800..1_200).contains(&light), "{light}");
        let turns = pool(Algorithm::RoundRobin, &[(MemberState::Active, 90), (MemberState::Active, 10)]);
        assert_eq!(counts(&turns), [9_000, 1_000]);
        for algorithm in [Algorithm::Auto, Algorithm::LeastRequest] {
            let busy = pool(algorithm, &[(MemberState::Active, 100), (MemberState::Active, 100)]);
            busy.members[0].endpoint.begin();
            let [on_busy, _] = counts(&busy);
            assert!(on_busy < 2_800, "{algorithm:?}: {on_busy}");
        }
    }

    #[test]
    fn errors_in_a_row_eject_as_many_as_the_pool_can_spare() {
        let outlier =
            Some(Outlier::default().with_errors(3).with_eject(Duration::from_secs(1)).with_max_percent(50));
        let pool = PoolView { outlier, ..pool(Algorithm::Auto, &[(MemberState::Active, 1); 4]) };
        let fail = |at: usize, times: u32, now| {
            (0..times).for_each(|_| pool.note(&pool.members[at].endpoint, false, now));
            pool.members[at].endpoint.is_ejected(now)
        };
        assert!(!fail(0, 2, 0));
        pool.note(&pool.members[0].endpoint, true, 0);
        assert!(!fail(0, 2, 0), "not in a row");
        assert!(fail(0, 1, 0) && fail(1, 3, 0));
        assert!(!fail(2, 10, 0), "half of the pool is out already");
        // The second time is twice as long.
        assert!(!pool.members[0].endpoint.is_ejected(1_000));
        assert!(fail(0, 3, 1_000) && pool.members[0].endpoint.is_ejected(2_999));
        assert!(!pool.members[0].endpoint.is_ejected(3_000));
    }

    #[test]
    fn a_new_endpoint_gets_its_share_little_by_little() {
        let pool =
            PoolView { slow_start: Some(10_000), ..pool(Algorithm::Auto, &[(MemberState::Active, 100); 2]) };
        let mut random = random();
        // The first one is warm already.
        pool.members[0].endpoint.warmth(1, 10_000);
        let mut share = |now| {
            let picked = |_: &i32| pool.pick(now, &mut random, Affinity::default(), &[]).unwrap().uid == 1;
            (0..10_000).filter(picked).count()
        };
        let (cold, half, warm) = (share(20_000), share(25_000), share(30_000));
        assert!(cold < 1_300 && (2_000..4_500).contains(&half) && warm > 4_700, "{cold} {half} {warm}");
    }

    #[test]
    fn who_was_given_an_endpoint_comes_back_to_it_while_it_gets_traffic() {
        let first = pool(Algorithm::Auto, &[(MemberState::Active, 100); 5]);
        let mut random = random();
        let wish = Affinity { key: 0, tag: Some(first.members[3].tag) };
        assert!((0..100).all(|_| first.pick(0, &mut random, wish, &[]).unwrap().uid == 3));
        let mut draining = [(MemberState::Active, 100); 5];
        draining[3].0 = MemberState::Draining;
        let second = pool(Algorithm::Auto, &draining);
        assert!((0..100).all(|_| second.pick(0, &mut random, wish, &[]).unwrap().uid != 3));
    }
}
