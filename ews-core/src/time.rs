//! Wall time for records and schedules, and durations as people write them.
//!
//! [`Timestamp`] is what goes into records, events and decisions. Waits never use it: they use `tokio::time`, which
//! tests can pause. Durations in documents are written with their unit (`"10s"`, `"1h 30m"`, `"250ms"`).

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};

/// A moment of wall time, in microseconds since 1970-01-01T00:00:00Z; written as RFC 3339.
///
/// Arithmetic saturates. Ages computed across machines, or across a clock step, may come out as zero: never compare this
/// controller's time with an engine's to make a decision.
///
/// ```
/// use ews_core::Timestamp;
/// use std::time::Duration;
///
/// let start: Timestamp = "2026-11-23T08:00:00Z".parse()?;
/// assert_eq!((start + Duration::from_millis(1500)).to_string(), "2026-11-23T08:00:01.500000Z");
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);

    /// The latest moment that RFC 3339's four-digit year can write: the end of the year 9999.
    pub const MAX: Self = Self(253_402_300_799_999_999);

    /// From microseconds since the epoch, at most [`Self::MAX`].
    pub const fn from_micros(micros: u64) -> Self {
        if micros > Self::MAX.0 { Self::MAX } else { Self(micros) }
    }

    /// Microseconds since the epoch.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The time that passed from `earlier` to this; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl From<SystemTime> for Timestamp {
    /// Times before 1970 become [`Timestamp::EPOCH`].
    fn from(time: SystemTime) -> Self {
        let micros = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros());
        Self::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_micros(time.0)
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self::from_micros(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl std::ops::Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_micros(SystemTime::from(*self)).fmt(f)
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    /// Reads RFC 3339, its offset from UTC included.
    fn from_str(text: &str) -> Result<Self> {
        let wrong =
            || Error::invalid(format!("`{}` is not a time; write it as 2026-11-23T08:00:00Z", Shown(text)));
        let (local, offset) = split_offset(text).ok_or_else(wrong)?;
        let local = humantime::parse_rfc3339_weak(local).map(Self::from).map_err(|_| wrong())?;
        Ok(match offset {
            (b'-', offset) => local + offset,
            (_, offset) => local - offset,
        })
    }
}

/// The text without its offset, and the offset: humantime would pass over one in silence.
fn split_offset(text: &str) -> Option<(&str, (u8, Duration))> {
    // The sign comes after the time; a date has the same sign between its parts.
    let Some(at) = text.get(10..)?.find(['+', '-']).map(|at| at + 10) else {
        return Some((text, (b'+', Duration::ZERO)));
    };
    let (local, offset) = (text.get(..at)?, text.get(at + 1..)?);
    let (hours, minutes) = offset.split_once(':')?;
    let number = |text: &str, below: u64| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u64>().ok().filter(|number| digits && *number < below)
    };
    let seconds = number(hours, 24)? * 3600 + number(minutes, 60)? * 60;
    if local.ends_with(['Z', 'z']) {
        return None;
    }
    Some((local, (*text.as_bytes().get(at)?, Duration::from_secs(seconds))))
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error: Error| serde::de::Error::custom(error.message()))
    }
}

/// Text from outside as it may appear in a message: control characters escaped, at most 64 characters.
#[derive(Clone, Copy)]
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        for (index, character) in self.0.chars().enumerate() {
            if index == 64 {
                return f.write_char('…');
            }
            if character.is_control() {
                character.escape_default().try_for_each(|c| f.write_char(c))?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

/// A duration in the units that messages name as accepted (d, h, m, s, ms, and below them us and ns): `30d`, `1h 30m`.
#[derive(Clone, Copy)]
pub(crate) struct ShownDuration(pub(crate) Duration);

impl fmt::Display for ShownDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.0.as_secs(), u64::from(self.0.subsec_nanos()));
        let parts = [
            (seconds / 86_400, "d"),
            (seconds / 3_600 % 24, "h"),
            (seconds / 60 % 60, "m"),
            (seconds % 60, "s"),
            (nanos / 1_000_000, "ms"),
            (nanos / 1_000 % 1_000, "us"),
            (nanos % 1_000, "ns"),
        ];
        let mut space = "";
        for (count, unit) in parts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{space}{count}{unit}")?;
            space = " ";
        }
        if space.is_empty() { f.write_str("0s") } else { Ok(()) }
    }
}

/// Reads a duration as people write it: `10s`, `1h 30m`, `250ms`.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a number without a unit, an unknown unit or an overflow.
pub fn parse_duration(text: &str) -> Result<Duration> {
    humantime::parse_duration(text.trim()).map_err(|_| {
        Error::invalid(format!(
            "`{}` is not a duration; write a number with a unit (ms, s, m, h, d), such as `10s` or `1h 30m`",
            Shown(text)
        ))
    })
}

/// Serde for durations as people write them, for use with `#[serde(with = "ews_core::time::duration")]`.
pub mod duration {
    use super::{Deserialize, Deserializer, Duration, Error, Serializer, parse_duration};

    /// Writes `10s`.
    ///
    /// # Errors
    /// Whatever the serializer says.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*value))
    }

    /// Reads `10s`.
    ///
    /// # Errors
    /// What [`parse_duration`] refuses.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        deserializer.deserialize_str(Written)
    }

    /// Reads the text, and says what is accepted where something else is found, such as a number without a unit.
    struct Written;

    impl serde::de::Visitor<'_> for Written {
        type Value = Duration;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a text with a number and a unit (ms, s, m, h, d), such as \"10s\" or \"1h 30m\"")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
            parse_duration(text).map_err(|error: Error| E::custom(error.message()))
        }
    }

    /// The same for `Option<Duration>`; absent and `null` are `None`. Use with `#[serde(default)]`.
    pub mod option {
        use super::{Deserialize, Deserializer, Duration, Serializer};

        /// Writes `10s` or null.
        ///
        /// # Errors
        /// Whatever the serializer says.
        pub fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
            match value {
                Some(value) => super::serialize(value, serializer),
                None => serializer.serialize_none(),
            }
        }

        /// Reads `10s` or null.
        ///
        /// # Errors
        /// What [`parse_duration`](super::parse_duration) refuses.
        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
            #[derive(Deserialize)]
            struct Text(#[serde(with = "super")] Duration);
            Ok(Option::<Text>::deserialize(deserializer)?.map(|Text(duration)| duration))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_without_a_unit_is_refused_with_the_accepted_form() {
        let error = parse_duration("10").unwrap_err();
        assert!(error.message().contains("`10s`"), "{error}");
        assert_eq!(parse_duration("1h 30m").unwrap(), Duration::from_secs(5400));
    }

    #[test]
    fn a_document_with_a_bare_number_is_told_of_units() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Document {
            #[serde(with = "duration")]
            one: Duration,
            #[serde(default, with = "duration::option")]
            other: Option<Duration>,
        }
        for wrong in [r#"{"one": 10}"#, r#"{"one": "1s", "other": 10}"#, r#"{"one": null}"#] {
            let message = serde_json::from_str::<Document>(wrong).unwrap_err().to_string();
            assert!(message.contains("expected a text with a number and a unit"), "{message}");
        }
        let read = |text| serde_json::from_str::<Document>(text).unwrap();
        let document = read(r#"{"one": "1m", "other": "2ms"}"#);
        assert_eq!((document.one, document.other), (Duration::from_secs(60), Some(Duration::from_millis(2))));
        assert_eq!(read(r#"{"one": "1m", "other": null}"#).other, None);
        assert_eq!(read(r#"{"one": "1m"}"#).other, None);
    }

    #[test]
    fn durations_in_messages_are_read_back_as_they_are() {
        for text in ["0s", "1d", "30d", "1h 30m", "100ms", "1d 1s 1ns", "400d 2us", "24h"] {
            let duration = parse_duration(text).unwrap();
            let shown = ShownDuration(duration).to_string();
            assert_eq!(parse_duration(&shown).unwrap(), duration, "{shown}");
            assert!(shown == text || (text, shown.as_str()) == ("24h", "1d"), "{text}: {shown}");
        }
    }

    #[test]
    fn an_offset_is_reckoned_with_and_never_passed_over() {
        let utc: Timestamp = "2026-11-25T23:22:26.5Z".parse().unwrap();
        for text in
            ["2026-11-26T00:22:26.5+01:00", "2026-11-25T18:52:26.500-04:30", "2026-11-25T23:22:26.5+00:00"]
        {
            assert_eq!(text.parse::<Timestamp>().unwrap(), utc, "{text}");
        }
        for text in [
            "2026-11-25T23:22:26Z+01:00",
            "2026-11-25T23:22:26+1:00",
            "2026-11-25T23:22:26+25:00",
            "2026-11-25T23:22:26+0100",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn extreme_times_neither_panic_nor_wrap() {
        let far = Timestamp::from_micros(u64::MAX);
        assert_eq!(far, Timestamp::MAX);
        assert_eq!(far.to_string(), "9999-12-31T23:59:59.999999Z");
        assert_eq!(far + Duration::MAX, Timestamp::MAX);
        assert_eq!(Timestamp::EPOCH - Duration::MAX, Timestamp::EPOCH);
        assert_eq!(Timestamp::EPOCH.since(far), Duration::ZERO);
        let text = serde_json::to_string(&far).unwrap();
        assert_eq!(serde_json::from_str::<Timestamp>(&text).unwrap(), far);
    }

    #[test]
    fn control_characters_never_reach_a_message() {
        let error = "\u{1b}[31mred".parse::<Timestamp>().unwrap_err();
        assert!(!error.message().contains('\u{1b}'), "{error:?}");
    }
}
