//! Choices by hash: equal requests go to the same endpoint, and a change of the pool moves few of them.
//!
//! The hashes have no secret, so that all gateways of one routing centre choose alike.

use ews_core::endpoint::EndpointKey;

/// Prime sizes of tables: the first that is a hundred times the pool's size; the largest is Maglev's own.
const SIZES: [usize; 6] = [251, 1_021, 4_093, 16_381, 32_749, 65_537];

/// FNV-1a with a last stir, since its high bits are weak.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let mixed = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    stir(mixed)
}

/// What an endpoint is called in hashes and cookies.
pub(crate) fn tag(key: &EndpointKey) -> u64 {
    hash(key.to_string().as_bytes())
}

/// Splitmix64's finaliser.
const fn stir(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A member's score for a key: the highest of all gets it, each in proportion to its weight.
#[expect(clippy::cast_precision_loss, reason = "53 bits are enough to tell members apart")]
pub(crate) fn score(key: u64, tag: u64, weight: u32) -> f64 {
    let uniform = ((stir(key ^ tag) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -f64::from(weight) / uniform.ln()
}

/// Maglev's table: for each slot, whose it is.
#[derive(Debug)]
pub(crate) struct Maglev(Vec<u32>);

/// Where a member looks for slots.
struct Walk {
    next: usize,
    stride: usize,
    /// What it is owed, in parts of the heaviest one's turn.
    owed: u64,
}

impl Maglev {
    /// A table for members with these tags and weights; those without a weight get no slot.
    pub(crate) fn new(members: &[(u64, u32)]) -> Self {
        let wanted = members.len().saturating_mul(100);
        let size = SIZES.into_iter().find(|size| *size >= wanted).unwrap_or(65_537);
        let heaviest = u64::from(members.iter().map(|(_, weight)| *weight).max().unwrap_or(0));
        if heaviest == 0 {
            return Self(Vec::new());
        }
        let place = |value: u64, range: usize| usize::try_from(value % range as u64).unwrap_or(0);
        let walk = |(tag, _): &(u64, u32)| Walk {
            next: place(*tag, size),
            stride: 1 + place(stir(tag.wrapping_add(1)), size - 1),
            owed: 0,
        };
        let mut walks: Vec<Walk> = members.iter().map(walk).collect();
        let mut slots: Vec<Option<u32>> = vec![None; size];
        let mut left = size;
        while left > 0 {
            for (index, (walk, (_, weight))) in walks.iter_mut().zip(members).enumerate() {
                walk.owed += u64::from(*weight);
                if walk.owed < heaviest || left == 0 {
                    continue;
                }
                walk.owed -= heaviest;
                take(&mut slots, walk, u32::try_from(index).unwrap_or(u32::MAX));
                left -= 1;
            }
        }
        Self(slots.into_iter().flatten().collect())
    }

    /// Whose key this is.
    pub(crate) fn of(&self, key: u64) -> Option<usize> {
        let size = self.0.len() as u64;
        let slot = usize::try_from(key.checked_rem(size)?).ok()?;
        usize::try_from(*self.0.get(slot)?).ok()
    }
}

/// Takes the next free slot. The size is prime, so each walk visits every slot.
fn take(slots: &mut [Option<u32>], walk: &mut Walk, index: u32) {
    for _ in 0..slots.len() {
        let at = walk.next;
        walk.next = (at + walk.stride) % slots.len();
        if let Some(slot @ None) = slots.get_mut(at) {
            *slot = Some(index);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: u64) -> Vec<(u64, u32)> {
        (0..count).map(|at| (hash(&at.to_le_bytes()), 100)).collect()
    }

    fn keys() -> impl Iterator<Item = u64> {
        (0..20_000_u64).map(|at| hash(format!("client {at}").as_bytes()))
    }

    fn rendezvous(members: &[(u64, u32)], key: u64) -> usize {
        let scores = members.iter().map(|(tag, weight)| score(key, *tag, *weight)).enumerate();
        scores.max_by(|(_, a), (_, b)| a.total_cmp(b)).unwrap().0
    }

    #[test]
    fn shares_follow_the_weights() {
        let mut weighted = members(3);
        (weighted[1].1, weighted[2].1) = (200, 0);
        let maglev = Maglev::new(&weighted);
        let by_table = |key| maglev.of(key).unwrap();
        let by_score = |key| rendezvous(&weighted, key);
        for choose in [&by_table as &dyn Fn(u64) -> usize, &by_score] {
            let mut counts = [0; 3];
            keys().for_each(|key| counts[choose(key)] += 1);
            let [one, two, none] = counts;
            assert!(
                (6_200..7_150).contains(&one) && (12_850..13_800).contains(&two) && none == 0,
                "{counts:?}"
            );
        }
        assert_eq!(Maglev::new(&[(1, 0)]).of(5), None);
        assert_eq!(Maglev::new(&[]).of(5), None);
        assert_eq!(Maglev::new(&[(7, 3)]).of(5), Some(0));
    }

    #[test]
    fn one_that_goes_moves_its_own_keys_and_few_others() {
        let all = members(10);
        let mut fewer = all.clone();
        fewer[4].1 = 0;
        let (before, after) = (Maglev::new(&all), Maglev::new(&fewer));
        let moved =
            keys().filter(|key| before.of(*key) != Some(4) && before.of(*key) != after.of(*key)).count();
        assert!(moved < 1_800, "{moved} of 18,000 moved");
        let moved = keys().filter(|key| {
            let was = rendezvous(&all, *key);
            was != 4 && was != rendezvous(&fewer, *key)
        });
        assert_eq!(moved.count(), 0);
    }
}
