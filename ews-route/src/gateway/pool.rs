//! A pool as a thread sees it, and the choice of an endpoint.
//!
//! The default takes two endpoints at random, by weight, and the one with fewer requests under way for its weight; of two
//! that are equal the first, so that shares follow the weights exactly while nobody is busy. Endpoints that can't be
//! connected to are passed over, unless all are.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use ews_core::Labels;
use ews_core::balancer::{Algorithm, Hold, MemberState, Pool, PoolProtocol};
use ews_core::id::PoolId;

use super::endpoint::EndpointState;
use super::turn::Turn;

/// A pool and its endpoints at one generation.
#[derive(Debug)]
pub(crate) struct PoolView {
    pub(crate) identity: Arc<PoolIdentity>,
    pub(crate) protocol: PoolProtocol,
    /// What becomes of requests while there is no endpoint for any.
    pub(crate) hold: Option<Hold>,
    algorithm: Algorithm,
    members: Vec<MemberView>,
    turn: Turn,
}

/// What a pool's requests are counted under. A pool that gets other labels is another one.
#[derive(Debug)]
pub(crate) struct PoolIdentity {
    pub(crate) uid: u64,
    pub(crate) id: PoolId,
    pub(crate) labels: Labels,
    /// How many requests wait for an endpoint.
    pub(crate) held: AtomicU32,
}

/// An endpoint of a pool at one generation.
#[derive(Debug)]
pub(crate) struct MemberView {
    pub(crate) endpoint: Arc<EndpointState>,
    /// 0 where it gets no new traffic, for whatever reason.
    weight: u32,
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
                endpoint,
                weight: if state == MemberState::Active { weight } else { 0 },
            })
            .collect();
        let turn = Turn::new(members.iter().map(|member| member.weight));
        let Pool { protocol, algorithm, hold, .. } = *pool;
        Self { identity, protocol, hold, algorithm, members, turn }
    }

    /// Whether an endpoint may get traffic at all.
    pub(crate) fn has_any(&self) -> bool {
        self.members.iter().any(|member| member.weight > 0)
    }

    /// An endpoint for one more request, none of those that were tried; `None` where there is none.
    pub(crate) fn pick(
        &self,
        now: u64,
        random: &mut impl FnMut() -> u64,
        tried: &[u64],
    ) -> Option<&Arc<EndpointState>> {
        let usable = |member: &&MemberView| {
            member.weight > 0
                && !member.endpoint.is_ejected(now)
                && (tried.is_empty() || !tried.contains(&member.endpoint.uid))
        };
        let chosen = match self.algorithm {
            Algorithm::RoundRobin => self.turn.next().and_then(|at| self.from(at).find(usable)),
            Algorithm::LeastRequest => self.least(random(), usable),
            Algorithm::PeakEwma => self.better(random, usable, |member| member.endpoint.cost(now)),
            _ => self.better(random, usable, |member| member.endpoint.in_flight()),
        };
        let chosen = chosen.or_else(|| {
            // All are ejected or tried: one that is ejected may have come back, one that was tried has just failed.
            let start = usize::try_from(random() % (self.members.len().max(1) as u64)).unwrap_or(0);
            self.from(start).find(|member| member.weight > 0 && !tried.contains(&member.endpoint.uid))
        });
        chosen.map(|member| &member.endpoint)
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
        random: &mut impl FnMut() -> u64,
        usable: impl Fn(&&MemberView) -> bool,
        cost: impl Fn(&MemberView) -> u64,
    ) -> Option<&MemberView> {
        let first = self.members.get(self.turn.at(random())?)?;
        if self.members.len() == 1 {
            return Some(first).filter(usable);
        }
        let second = self.members.get(self.turn.at(random())?)?;
        match (usable(&first), usable(&second)) {
            (true, true) => {
                let cheaper = load(second, cost(second), first) < load(first, cost(first), second);
                Some(if cheaper { second } else { first })
            }
            (true, false) => Some(first),
            (false, true) => Some(second),
            (false, false) => self.from(self.turn.at(random())?).find(usable),
        }
    }
}

/// A member's load, to be held against another's: what is under way times the other's weight.
fn load(_: &MemberView, under_way: u64, other: &MemberView) -> u64 {
    under_way.saturating_mul(u64::from(other.weight))
}

#[cfg(test)]
mod tests {
    use ews_core::endpoint::EndpointKey;
    use ews_core::id::{InstanceId, PortName};
    use ews_core::instance::Incarnation;
    use std::time::Duration;

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
            (Arc::new(EndpointState::new(at as u64, id.clone(), key, address)), *state, *weight)
        });
        let identity = Arc::new(PoolIdentity {
            uid: 1,
            id: id.clone(),
            labels: Labels::default(),
            held: AtomicU32::new(0),
        });
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

    const ALL: [Algorithm; 4] =
        [Algorithm::Auto, Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::RoundRobin];

    #[test]
    fn only_active_ones_with_a_weight_get_traffic() {
        use MemberState::{Active, Closed, Draining};
        for algorithm in ALL {
            let pool = pool(algorithm, &[(Draining, 100), (Active, 0), (Closed, 100), (Active, 7)]);
            let mut random = random();
            for _ in 0..100 {
                assert_eq!(pool.pick(0, &mut random, &[]).unwrap().uid, 3, "{algorithm:?}");
            }
            assert!(pool.pick(0, &mut random, &[3]).is_none(), "{algorithm:?}");
        }
    }

    #[test]
    fn the_ejected_are_passed_over_unless_all_are() {
        for algorithm in ALL {
            let pool = pool(algorithm, &[(MemberState::Active, 100); 3]);
            let mut random = random();
            for at in [0, 1] {
                pool.members[at].endpoint.unreachable(0, Duration::from_secs(1));
            }
            for _ in 0..100 {
                assert_eq!(pool.pick(1, &mut random, &[]).unwrap().uid, 2, "{algorithm:?}");
            }
            pool.members[2].endpoint.unreachable(0, Duration::from_secs(1));
            assert!(pool.pick(1, &mut random, &[]).is_some(), "{algorithm:?}");
        }
    }

    #[test]
    fn shares_follow_the_weights_and_the_load() {
        let counts = |pool: &PoolView| {
            let (mut random, mut counts) = (random(), [0_u32; 2]);
            for _ in 0..10_000 {
                counts[usize::try_from(pool.pick(0, &mut random, &[]).unwrap().uid).unwrap()] += 1;
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
}
