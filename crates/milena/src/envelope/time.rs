//! A point in time as an envelope carries it: RFC 3339, to the nanosecond, in UTC.

use std::fmt;
use std::time::SystemTime;

use jiff::Timestamp;

/// When an event happened, to the nanosecond.
///
/// Printed and parsed as RFC 3339; another offset than UTC is read, and printed as UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTime(Timestamp);

impl EventTime {
    /// Reads an RFC 3339 time; `None` if the text is not one.
    pub fn parse(text: &str) -> Option<Self> {
        // `2024-05-01` and the like are times to jiff, and not to RFC 3339, which needs a time of day and an offset.
        let has_time_of_day = text.as_bytes().get(10).is_some_and(|byte| matches!(byte, b'T' | b't' | b' '));
        if !has_time_of_day || text.contains('[') {
            return None;
        }
        text.parse().ok().map(Self)
    }

    /// The time of a clock.
    pub(crate) fn at(wall: SystemTime) -> Self {
        Self::try_from(wall).expect("a clock stands between the years -9999 and 9999")
    }

    /// Milliseconds since 1970, as Kafka counts.
    pub fn as_millis(self) -> i64 {
        self.0.as_millisecond()
    }

    /// The time that many milliseconds after 1970; `None` beyond the year 9999.
    pub fn from_millis(millis: i64) -> Option<Self> {
        Timestamp::from_millisecond(millis).ok().map(Self)
    }
}

impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A time that an envelope can't carry: before the year -9999 or after 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the time lies outside the years -9999 to 9999")]
pub struct TimeOutOfRange;

impl TryFrom<SystemTime> for EventTime {
    type Error = TimeOutOfRange;

    fn try_from(time: SystemTime) -> Result<Self, TimeOutOfRange> {
        Timestamp::try_from(time).map(Self).map_err(|_| TimeOutOfRange)
    }
}

impl From<EventTime> for SystemTime {
    fn from(time: EventTime) -> Self {
        time.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_as_rfc_3339_without_trailing_zeros() {
        for (written, printed) in [
            ("2025-10-11T08:09:10.123456789Z", "2025-10-11T08:09:10.123456789Z"),
            ("2025-10-11T08:09:10.120Z", "2025-10-11T08:09:10.12Z"),
            ("2025-10-11T16:09:10+08:00", "2025-10-11T08:09:10Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(EventTime::parse(written).unwrap().to_string(), printed);
        }
    }

    #[test]
    fn what_is_not_rfc_3339_is_refused() {
        for text in ["", "2025-10-11", "yesterday", "2025-10-11T08:09:10", "2025-10-11T25:00:00Z", "1760170150"] {
            assert_eq!(EventTime::parse(text), None, "{text}");
        }
    }
}
