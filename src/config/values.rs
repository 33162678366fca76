//! Parsers of option values. They refuse a value that could be misread, and one that would have no effect.

use std::num::NonZeroUsize;
use std::time::Duration;

use bytesize::ByteSize;

use crate::server::Address;

const YEAR: Duration = Duration::from_hours(366 * 24);
/// More threads than any machine can use.
const MAX_WORKERS: usize = 4096;
/// Names are parts of keys in etcd, which people read.
const MAX_NAME_BYTES: usize = 255;

/// A duration of at most a year. `M` is refused: it means a month, but most who write it mean a minute.
fn time_from(least: Duration, text: &str) -> Option<Duration> {
    let is_clear = !text.contains('M');
    let time = humantime::parse_duration(text).ok().filter(|_| is_clear);
    time.filter(|time| (least..=YEAR).contains(time))
}

/// A timeout.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    let least = Duration::from_millis(1);
    time_from(least, text)
        .ok_or_else(|| "expected a time from 1ms to 1year, like 500ms, 10s or 5m".to_owned())
}

/// A horizon: one second to one year.
pub(super) fn horizon(text: &str) -> Result<Duration, String> {
    let least = Duration::from_secs(1);
    time_from(least, text)
        .ok_or_else(|| "expected a time from 1s to 1year, like 10m or 1day".to_owned())
}

/// A size: 64 KiB to 1 TiB.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let size = text.parse::<ByteSize>().ok().map(|size| size.as_u64());
    size.filter(|bytes| (1 << 16..=1 << 40).contains(bytes))
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| "expected a size from 64KiB to 1TiB, like 256MiB".to_owned())
}

pub(super) fn workers(text: &str) -> Result<NonZeroUsize, String> {
    let count = text.parse::<NonZeroUsize>().ok();
    count
        .filter(|count| count.get() <= MAX_WORKERS)
        .ok_or_else(|| format!("expected 1 to {MAX_WORKERS}"))
}

/// A text that is not empty. An empty one usually comes from a variable that was never set.
pub(super) fn non_empty(text: &str) -> Result<String, String> {
    let text = Some(text).filter(|text| !text.is_empty());
    text.map(str::to_owned)
        .ok_or_else(|| "the value is empty".to_owned())
}

/// A part of a key, without slashes, spaces and control characters.
pub(super) fn name(text: &str) -> Result<String, String> {
    let fits = (1..=MAX_NAME_BYTES).contains(&text.len());
    let is_visible = |c: char| !c.is_whitespace() && !c.is_control();
    if fits && text.chars().all(|c| is_visible(c) && c != '/') {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "expected 1 to {MAX_NAME_BYTES} bytes without spaces and slashes"
        ))
    }
}

/// A prefix of keys: names separated by slashes. A slash at the end is refused, because `/a` and `/a/` would be two
/// sets of counters.
pub(super) fn prefix(text: &str) -> Result<String, String> {
    let names = text.strip_prefix('/').unwrap_or(text);
    if text.len() <= MAX_NAME_BYTES && names.split('/').all(|part| name(part).is_ok()) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "expected a path like /sumd, of at most {MAX_NAME_BYTES} bytes, without spaces or a trailing slash"
        ))
    }
}

/// An address that other machines can connect to.
pub(super) fn reachable(text: &str) -> Result<String, String> {
    let problem = || "expected the host:port at which other nodes reach this node".to_owned();
    let Ok(Address::Tcp(address)) = text.parse::<Address>() else {
        return Err(problem());
    };
    match address.rsplit_once(':') {
        Some(("0.0.0.0" | "[::]", _) | (_, "0")) | None => Err(problem()),
        Some(_) => Ok(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_what_they_look_like() {
        assert_eq!(horizon("10m"), Ok(Duration::from_mins(10)));
        assert_eq!(horizon("1day"), Ok(Duration::from_hours(24)));
        for text in [
            "",
            "10",
            "10M",
            "0s",
            "999ms",
            "-1s",
            "2years",
            "99999999999999999999s",
        ] {
            assert!(horizon(text).is_err(), "{text:?}");
        }
        for text in ["", "0", "0s", "1M", "20years"] {
            assert!(timeout(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(size("64KiB"), Ok(1 << 16));
        for text in [
            "",
            "256",
            "many",
            "-1MiB",
            "0",
            "2TiB",
            "99999999999999999999GiB",
            "MiB",
        ] {
            assert!(size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_and_prefixes_have_nothing_that_cannot_be_seen() {
        for text in ["n1", "host.example", "a:8080"] {
            assert_eq!(name(text).as_deref(), Ok(text));
        }
        for text in ["", "a b", "a/b", "a\n", &"a".repeat(256)] {
            assert!(name(text).is_err(), "{text:?}");
        }
        for text in ["/sumd", "sumd", "/a/b"] {
            assert_eq!(prefix(text).as_deref(), Ok(text));
        }
        for text in ["", "/", "/sumd/", "/a//b", "//a", "/a b", &"a".repeat(256)] {
            assert!(prefix(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn nobody_reaches_what_is_everywhere() {
        for text in ["node1.example:8080", "[fd00::1]:8080"] {
            assert_eq!(reachable(text).as_deref(), Ok(text));
        }
        for text in [
            "",
            "node1",
            "0.0.0.0:8080",
            "[::]:8080",
            "node1:0",
            "unix:/run/sumd.sock",
        ] {
            assert!(reachable(text).is_err(), "{text:?}");
        }
    }
}
