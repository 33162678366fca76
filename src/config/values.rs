//! Parsers of option values. They refuse a value that could be misread, and one that would have no effect.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::builder::TypedValueParser;

use crate::ranged::{self, Ranged};
use crate::server::Address;

/// Names are parts of keys in etcd, which people read.
const MAX_NAME_BYTES: usize = 255;

/// A timeout.
pub(super) fn timeout() -> Ranged<Duration> {
    ranged::time(Duration::from_millis(1)..=ranged::YEAR)
}

/// A time for which something is remembered.
pub(super) fn horizon() -> Ranged<Duration> {
    ranged::time(Duration::from_secs(1)..=ranged::YEAR)
}

/// A size of memory.
pub(super) fn size() -> impl TypedValueParser<Value = usize> {
    let sizes = ranged::size(1_u64 << 16..=1 << 40);
    sizes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// A number of threads, up to more than any machine can use.
pub(super) fn workers() -> Ranged<NonZeroUsize> {
    const MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("it is not zero");
    ranged::number(NonZeroUsize::MIN..=MAX)
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
