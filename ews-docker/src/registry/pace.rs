//! When a request is made again: how often, after which pause, and until when.
//!
//! What is repeated are passing conditions ([`Fault::is_passing`]) of requests that may be repeated. The registry's own
//! `Retry-After` wins over our back-off where it is within bounds; beyond them there is no point in asking earlier, so the call
//! ends and says how long was asked for.

use std::time::{Duration, SystemTime};

use ews_core::Timestamp;
use ews_core::backoff::{Backoff, SplitMix64};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use tokio::time::Instant;

use super::config::OciRegistryConfig;
use super::fault::Fault;

/// The attempts of one call.
pub(super) struct Pace {
    backoff: Backoff,
    left: u32,
    max_pause: Duration,
    /// When the call ends, whatever comes.
    pub(super) deadline: Instant,
}

impl Pace {
    pub(super) fn new(config: &OciRegistryConfig, now: Instant) -> Result<Self, Fault> {
        let backoff = Backoff::new(config.backoff, SplitMix64::from_entropy()).map_err(Fault::Given)?;
        let deadline = now + config.total_timeout;
        Ok(Self { backoff, left: config.attempts.saturating_sub(1), max_pause: config.max_pause, deadline })
    }

    /// With time for a body beyond what a call without one has: a second for each 64 KiB.
    pub(super) fn for_body(mut self, length: usize) -> Self {
        self.deadline += Duration::from_secs(length as u64 / (64 * 1024));
        self
    }

    /// How long to wait before the next attempt; `None` where there is none.
    pub(super) fn pause(&mut self, fault: &Fault, now: Instant) -> Option<Duration> {
        if !fault.is_passing() {
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        let pause = match fault.retry_after() {
            Some(asked) if asked > self.max_pause => return None,
            Some(asked) => asked,
            None => self.backoff.next_delay(),
        };
        now.checked_add(pause).is_some_and(|then| then < self.deadline).then_some(pause)
    }
}

/// The pause that an answer asks for: seconds, or a date (RFC 9110, 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if text.bytes().all(|b| b.is_ascii_digit()) {
        // A number that is too large is a long time all the same.
        return (!text.is_empty()).then(|| Duration::from_secs(text.parse().unwrap_or(u64::MAX / 4)));
    }
    Some(date(text)?.since(Timestamp::from(now)))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the one form of a date that is still sent.
fn date(text: &str) -> Option<Timestamp> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut parts = text.split_ascii_whitespace().skip(1);
    let (day, month, year, time) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    (parts.next() == Some("GMT")).then_some(())?;
    format!("{year}-{month:02}-{day:0>2}T{time}Z").parse().ok()
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::super::fault::{Party, Refusal};
    use super::*;

    fn refusal(status: u16, retry_after: Option<u64>) -> Fault {
        Fault::Refused(Box::new(Refusal {
            party: Party::Registry,
            status: StatusCode::from_u16(status).unwrap(),
            code: None,
            words: String::new(),
            retry_after: retry_after.map(Duration::from_secs),
            known: false,
            out_of_scope: false,
        }))
    }

    fn pace() -> (Pace, Instant) {
        let now = Instant::now();
        (Pace::new(&OciRegistryConfig::default(), now).unwrap(), now)
    }

    #[tokio::test(start_paused = true)]
    async fn only_passing_conditions_are_tried_again_and_not_for_ever() {
        let (mut pace, now) = pace();
        assert_eq!(pace.pause(&refusal(404, None), now), None);
        assert_eq!(pace.pause(&Fault::Misbehaved("no".into()), now), None);
        let pauses: Vec<_> = std::iter::from_fn(|| pace.pause(&refusal(503, None), now)).collect();
        assert_eq!(pauses.len(), 4, "five attempts have four pauses");
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(2)), "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_registrys_own_pause_wins_within_bounds() {
        let (mut pace, now) = pace();
        assert_eq!(pace.pause(&refusal(429, Some(7)), now), Some(Duration::from_secs(7)));
        assert_eq!(pace.pause(&refusal(429, Some(0)), now), Some(Duration::ZERO));
        let patient = OciRegistryConfig::default().with_total_timeout(Duration::from_secs(24 * 3600));
        let mut patient = Pace::new(&patient, now).unwrap();
        assert_eq!(patient.pause(&refusal(429, Some(3600)), now), None, "longer than we wait");
        let (mut pace, now) = self::pace();
        let late = now + Duration::from_secs(100);
        assert_eq!(pace.pause(&refusal(429, Some(30)), late), None, "beyond the end of the call");
    }

    #[test]
    fn a_pause_is_seconds_or_a_date() {
        let now = SystemTime::from("1994-11-06T08:49:07Z".parse::<Timestamp>().unwrap());
        let read = |text: &str| {
            let headers = [(RETRY_AFTER, text.parse().unwrap())].into_iter().collect();
            retry_after(&headers, now).map(|pause| pause.as_secs())
        };
        assert_eq!(read("120"), Some(120));
        assert_eq!(read(" 5 "), Some(5));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(30));
        assert_eq!(read("Sun, 6 Nov 1994 08:49:37 GMT"), Some(30));
        assert_eq!(read("Sun, 06 Nov 1994 08:40:00 GMT"), Some(0), "past");
        assert!(read("99999999999999999999999").is_some_and(|pause| pause > 1_000_000_000));
        for wrong in [
            "",
            "-1",
            "soon",
            "1.5",
            "Sun, 06 Nov 1994",
            "Sun, 99 Foo 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
        ] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
