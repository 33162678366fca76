//! Human-readable times.

use std::time::{Duration, UNIX_EPOCH};

use humantime::FormattedDuration;

/// Milliseconds. A time is since 1970 unless stated otherwise, by the clock that the context names.
pub type Millis = i64;

/// Formats a length of time, to the second; a negative one as `0s`.
#[must_use]
pub fn duration(millis: Millis) -> FormattedDuration {
    let seconds = u64::try_from(millis / 1000).unwrap_or(0);
    humantime::format_duration(Duration::from_secs(seconds))
}

/// Formats a time as an RFC 3339 date and time.
#[must_use]
pub fn date(millis: Millis) -> String {
    let since_1970 = Duration::from_millis(millis.max(0).unsigned_abs());
    let time = UNIX_EPOCH.checked_add(since_1970);
    // RFC 3339 has no years after 9999.
    let time = time.filter(|_| millis < 253_402_300_800_000);
    time.map_or_else(
        || "the end of time".to_owned(),
        |time| humantime::format_rfc3339_millis(time).to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_can_be_read() {
        assert_eq!(date(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(date(Millis::MIN), "1970-01-01T00:00:00.000Z");
        assert_eq!(date(253_402_300_799_999), "9999-12-31T23:59:59.999Z");
        assert_eq!(date(253_402_300_800_000), "the end of time");
        assert_eq!(date(Millis::MAX), "the end of time");
        assert_eq!(duration(61_900).to_string(), "1m 1s");
        assert_eq!(duration(-1).to_string(), "0s");
    }
}
