//! Rates by the generic cell rate algorithm (GCRA), for any number of clients in memory that never grows.
//!
//! A cell holds one number: the time at which it would be empty again. A client's number is the least of two cells, which it
//! shares with whoever has the same hashes. When there are more clients than cells some get less than their rate; nobody
//! ever gets a fresh bucket by crowding others out, as a cache of buckets would give.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many cells each of the two rows has; both together take 2 MiB.
const CELLS: usize = 1 << 17;

/// A rate, with times in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    /// What one request takes.
    interval: u64,
    /// How far ahead of its time a client may be.
    tolerance: u64,
}

impl Rate {
    /// So many requests per second, and so many at once; without that, as many as per second.
    pub(super) fn new(rate: u32, burst: Option<u32>) -> Self {
        let interval = 1_000_000_000 / u64::from(rate.max(1));
        let burst = u64::from(burst.unwrap_or(rate).max(1));
        Self { interval, tolerance: interval * (burst - 1) }
    }
}

/// When one cell would be empty.
#[derive(Debug, Default)]
pub(super) struct RateCell(AtomicU64);

impl RateCell {
    /// Takes one request at this time, or says how long until there is room for one.
    pub(super) fn take(&self, rate: &Rate, now: u64) -> Result<(), u64> {
        take([&self.0, &self.0], rate, now)
    }
}

/// Cells for all clients under all policies. They are made when the first is asked for.
#[derive(Default)]
pub(crate) struct RateTable(OnceLock<Rows>);

struct Rows {
    rows: [Box<[AtomicU64]>; 2],
    /// Nobody outside knows who shares a cell with whom.
    keys: [RandomState; 2],
}

impl std::fmt::Debug for RateTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rate table ({})", if self.0.get().is_some() { "in use" } else { "unused" })
    }
}

impl RateTable {
    /// Takes one request of this client under this policy, or says how long until there is room for one.
    pub(super) fn take(&self, policy: u64, client: IpAddr, rate: &Rate, now: u64) -> Result<(), u64> {
        self.take_of(CELLS, policy, client, rate, now)
    }

    /// Whether this client may begin one more handshake of TLS, of so many per second.
    #[cfg(feature = "tls")]
    pub(crate) fn lets_shake_hands(&self, client: IpAddr, per_second: u32, now: u64) -> bool {
        // Policies are numbered from one on.
        self.take(0, client, &Rate::new(per_second, None), now).is_ok()
    }

    fn take_of(&self, cells: usize, policy: u64, client: IpAddr, rate: &Rate, now: u64) -> Result<(), u64> {
        let Rows { rows, keys } = self.0.get_or_init(|| Rows {
            rows: std::array::from_fn(|_| (0..cells).map(|_| AtomicU64::new(0)).collect()),
            keys: std::array::from_fn(|_| RandomState::new()),
        });
        let client = subject(client);
        let [first, second] = rows;
        let place = |row: &[AtomicU64], key: &RandomState| {
            usize::try_from(key.hash_one((policy, client)) % row.len().max(1) as u64).unwrap_or(0)
        };
        let [one, two] = keys;
        let (Some(one), Some(two)) = (first.get(place(first, one)), second.get(place(second, two))) else {
            return Ok(());
        };
        take([one, two], rate, now)
    }
}

/// Whose rate it is: one IPv4 address, or the first 64 bits of an IPv6 one, since whoever has one of these has all of them.
pub(super) fn subject(client: IpAddr) -> (bool, u64) {
    match client.to_canonical() {
        IpAddr::V4(address) => (false, u64::from(u32::from(address))),
        IpAddr::V6(address) => (true, u64::try_from(u128::from(address) >> 64).unwrap_or(0)),
    }
}

/// Threads that take at once never both take the last place. The greater cell is raised first: so nobody who comes after the
/// lesser one was changed finds the other still as it was, and who finds the lesser one changed looks again.
fn take(cells: [&AtomicU64; 2], rate: &Rate, now: u64) -> Result<(), u64> {
    loop {
        let [one, two] = cells.map(|cell| cell.load(Ordering::Acquire));
        let (least, other, known) =
            if one <= two { (cells[0], cells[1], one) } else { (cells[1], cells[0], two) };
        let full_until = known.max(now);
        let ahead = full_until - now;
        if ahead > rate.tolerance {
            return Err(ahead - rate.tolerance);
        }
        let next = full_until.saturating_add(rate.interval);
        if !std::ptr::eq(least, other) {
            other.fetch_max(next, Ordering::AcqRel);
        }
        if least.compare_exchange(known, next, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn client(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let (table, rate) = (RateTable::default(), Rate::new(10, Some(3)));
        let taken = |now: u64, number: u32| {
            (0..20).filter(|_| table.take(1, client(number), &rate, now).is_ok()).count()
        };
        assert_eq!(taken(0, 1), 3);
        assert_eq!(table.take(1, client(1), &rate, 0), Err(SECOND / 10));
        assert_eq!(taken(SECOND / 10 - 1, 1), 0);
        assert_eq!(taken(SECOND / 10, 1), 1);
        assert_eq!(taken(SECOND, 1), 3);
        assert_eq!(taken(SECOND, 2), 3);
        // Another policy counts by itself.
        assert!(table.take(2, client(1), &rate, SECOND).is_ok());
        let neighbours = ["2001:db8::1", "2001:db8::2", "2001:db8::ffff:1", "2001:db8::4"];
        let neighbours = neighbours.map(|text| text.parse::<IpAddr>().unwrap());
        let taken: Vec<bool> =
            neighbours.iter().map(|client| table.take(1, *client, &rate, 0).is_ok()).collect();
        assert_eq!(taken, [true, true, true, false]);
    }

    #[test]
    fn a_crowd_beyond_the_cells_gives_nobody_a_fresh_bucket() {
        let (table, rate) = (RateTable::default(), Rate::new(1, None));
        let take = |number| table.take_of(64, 1, client(number), &rate, 0).is_ok();
        assert!(take(1));
        // An attacker with as many addresses as it likes.
        let admitted = (2..100_000).filter(|number| take(*number)).count();
        assert!(!take(1), "who had its turn has it again");
        // Each of them has used up a cell at least, and there are two rows of 64.
        assert!(admitted < 128, "{admitted}");
    }

    /// How many four threads together get, each of a thousand tries.
    fn taken(take: impl Fn() -> bool + Sync) -> usize {
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..1_000).filter(|_| take()).count())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        })
    }

    #[test]
    fn threads_never_take_more_than_there_is() {
        let rate = Rate::new(1, Some(1_000));
        for round in 0..50 {
            let table = RateTable::default();
            let all = taken(|| table.take_of(64, round, client(1), &rate, 0).is_ok());
            assert_eq!(all, 1_000, "round {round}");
        }
        let cell = RateCell::default();
        assert_eq!(taken(|| cell.take(&rate, 0).is_ok()), 1_000);
    }
}
